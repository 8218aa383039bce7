//! What the tests of rollback share.
