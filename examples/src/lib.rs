//! The examples of rollback: see the `examples` folder.
