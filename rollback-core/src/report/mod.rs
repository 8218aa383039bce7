//! What happened in a run, for machines and for people.
