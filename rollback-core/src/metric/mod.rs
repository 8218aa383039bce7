//! Numbers over time, and where they come from.
