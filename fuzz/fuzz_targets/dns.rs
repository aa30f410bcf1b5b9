#![no_main]
//! What anybody may send to the port of names, over UDP and TCP.
use std::sync::{Arc, LazyLock};

use hirsel_dns::answer::Knowledge;
use hirsel_dns::message::{Asker, Transport, reply, slip};
use hirsel_dns::names::Names;
use hirsel_model::order::DnsOrder;
use hirsel_model::{Generation, NodeId};
use hirsel_role::{Live, Me};

static KNOWN: LazyLock<(Names, Live, Me)> = LazyLock::new(|| {
    let host = std::net::Ipv4Addr::LOCALHOST.into();
    let (name, zone) = ("n1".parse().unwrap(), "a".parse().unwrap());
    let me = Me { id: NodeId(1), name, zone, instance_host: host, bind: host };
    (Names::new(Generation(1), Arc::new(DnsOrder::default()), &["example.com".to_owned()]), Live::default(), me)
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let (names, live, me) = &*KNOWN;
    for transport in [Transport::Udp, Transport::Tcp] {
        reply(bytes, Asker { transport, is_local: true }, Knowledge { names, live, me }, 7);
    }
    slip(bytes);
});
