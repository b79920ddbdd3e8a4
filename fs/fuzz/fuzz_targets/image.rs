#![no_main]

#[path = "../../tests/images/fuzzed.rs"]
mod fuzzed;

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzzed::image(data));
