//! The Inflight filesystem.
