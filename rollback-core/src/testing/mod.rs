//! For tests: an in-memory platform, the conformance laws, the simulator.
