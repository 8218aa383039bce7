//! The mockall types, gathered.
