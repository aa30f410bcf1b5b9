#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hirsel_mesh::decoders::named("front")(bytes));
