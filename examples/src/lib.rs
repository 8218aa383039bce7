//! The examples of rollback: see the `examples` folder beside. This crate holds README's program to being one that
//! compiles.
#![doc = include_str!("../../README.md")]
