//! Splice-read without a pipe-backed iterator.
