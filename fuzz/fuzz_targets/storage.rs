#![no_main]
//! What lies on the disks of storage nodes.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hirsel_storage::decoders::all(bytes));
