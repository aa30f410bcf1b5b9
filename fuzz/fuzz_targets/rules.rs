#![no_main]
//! What clients of the object store give: policies, grants, patterns, sealed bytes.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hirsel_storage::rules::decoders::all(bytes));
