#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hirsel_storage::meta::decoders::named("meta-entry")(bytes));
