//! chitchat's parser panics on some messages; the mesh catches that, and so must this, whose harness would abort at the first word.
#![no_main]

use std::sync::Once;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| std::panic::set_hook(Box::new(|_| {})));
    hirsel_mesh::decoders::named("gossip")(bytes);
});
