//! Targets on this host: a release directory, a directory tree, a feature flag, any command.
