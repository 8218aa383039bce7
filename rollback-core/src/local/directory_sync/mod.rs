//! A live tree brought back to a release tree.
