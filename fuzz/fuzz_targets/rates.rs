#![no_main]
//! What another load balancer says that it took of limits that are shared.
use hirsel_lb::actions::rate::among::Taken;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Some(taken) = Taken::read(bytes) {
        let again = hirsel_model::codec::encode(&taken);
        assert_eq!(Taken::read(&again), Some(taken));
    }
});
