#![no_main]
//! What anybody may send to the port of names, over UDP and TCP.
use std::sync::{Arc, LazyLock};

use hirsel_dns::answer::Knowledge;
use hirsel_dns::forward::{Found, wire};
use hirsel_dns::kept::Key;
use hirsel_dns::message::{Asker, Transport, abroad, relay, reply, slip};
use hirsel_dns::names::Names;
use hirsel_model::order::DnsOrder;
use hirsel_model::{Generation, NodeId, Timestamp};
use hirsel_role::{Live, Me};

static KNOWN: LazyLock<(Names, Live, Me)> = LazyLock::new(|| {
    let host = std::net::Ipv4Addr::LOCALHOST.into();
    let (name, zone) = ("n1".parse().unwrap(), "a".parse().unwrap());
    let me = Me { id: NodeId(1), name, zone, instance_host: host, bind: host };
    (Names::new(Generation(1), Arc::new(DnsOrder::default()), &["example.com".to_owned()]), Live::default(), me)
});

/// For the address of `a.test`.
const QUESTION: &[u8] = b"\0\x07\x01\0\0\x01\0\0\0\0\0\0\x01a\x04test\0\0\x01\0\x01";

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let (names, live, me) = &*KNOWN;
    for transport in [Transport::Udp, Transport::Tcp] {
        reply(bytes, Asker { transport, is_local: true }, Knowledge { names, live, me, window: None }, 7);
    }
    slip(bytes);
    // What resolvers say, to a question of ours; and whatever would be passed on.
    let _ = Key::of(bytes, true);
    let Some(asked) = abroad(bytes).or_else(|| abroad(QUESTION)) else { return };
    let question = wire::question(&asked, 7, &[0x55; 32]);
    wire::read(bytes, &question);
    wire::lifetime(bytes);
    relay(&question, Transport::Udp, Some(&Found { bytes: bytes.to_vec(), at: Timestamp(0) }), Timestamp(9));
});
