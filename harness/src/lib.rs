//! The race harness.
