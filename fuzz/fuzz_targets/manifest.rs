#![no_main]
use hirsel_model::{RoleName, manifest};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let built = [RoleName::lb(), RoleName::compute(), RoleName::mgmt()];
    if let Ok((_, spec)) = manifest::parse(text, &built) {
        // What was read survives the log.
        let encoded = hirsel_model::codec::encode(&spec);
        assert_eq!(hirsel_model::codec::decode::<hirsel_model::spec::AppSpec>(&encoded).ok(), Some(spec));
    }
});
