//! Any bytes, in one piece and in two: a request that comes back from its own bytes, or an error.
//!
//! `cargo +nightly fuzz run decode` in this folder's parent; the corpus is `corpus/decode`.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/codec/total.rs"]
mod total;

fuzz_target!(|bytes: &[u8]| {
    total::check(bytes);
});
