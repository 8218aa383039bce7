//! Several rollbacks, in the order of what depends on what.
