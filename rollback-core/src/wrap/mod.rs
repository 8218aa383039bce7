//! Wrappers around a target, named by what they do.
