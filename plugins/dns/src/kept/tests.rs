use std::collections::BTreeSet;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RecordType};
use hickory_proto::serialize::binary::BinEncodable;
use proptest::prelude::*;

use super::*;
use crate::answer::Knowledge;
use crate::message::{Asker, Transport, reply};
use crate::testing::market;

fn question(name: &str, kind: RecordType, edns: Option<u16>, id: u16) -> Vec<u8> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = id.is_multiple_of(2);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    if let Some(size) = edns {
        let mut edns = Edns::new();
        edns.set_max_payload(size).set_dnssec_ok(id.is_multiple_of(3));
        message.set_edns(edns);
    }
    message.to_bytes().unwrap()
}

/// Records of the answer without their order, and all else.
fn sorted(bytes: &[u8]) -> (BTreeSet<String>, Message) {
    let mut message = Message::from_vec(bytes).unwrap();
    (message.answers.drain(..).map(|record| record.to_string()).collect(), message)
}

const NAMES: [&str; 12] = [
    "web.shop.hirsel.",
    "WEB.shop.Hirsel.",
    "2.web.shop.hirsel.",
    "n1.node.hirsel.",
    "shop.hirsel.",
    "hirsel.",
    "shop.example.com.",
    "mail.example.com.",
    "alias.example.com.",
    "q.wild.example.com.",
    "none.example.com.",
    "example.net.",
];

#[test]
fn what_is_kept_says_what_was_said_to_whoever_asks_again() {
    let mut town = market();
    for addr in 0..5 {
        let spec = Arc::make_mut(town.order.zones.entry("example.com".into()).or_default());
        spec.records.entry("mail".into()).or_default().data.insert(format!("A 192.0.2.{addr}").parse().unwrap());
    }
    town.record("example.com", "alias", "CNAME mail.example.com.");
    let (names, live) = (Arc::new(town.names()), Arc::new(town.live.clone()));
    let mut kept = Kept::new(names.clone(), live.clone());
    let known = Knowledge { names: &names, live: &live, me: &town.me, window: None };
    let (mut hits, mut out, mut id) = (0, Vec::new(), 0);
    for _ in 0..3 {
        for (name, kind) in NAMES.iter().flat_map(|name| {
            [RecordType::A, RecordType::AAAA, RecordType::SRV, RecordType::SOA, RecordType::NS].map(|kind| (name, kind))
        }) {
            for edns in [None, Some(512), Some(4_096)] {
                id += 1;
                let bytes = question(name, kind, edns, id);
                let asker = Asker { transport: Transport::Udp, is_local: id.is_multiple_of(5) };
                let key = Key::of(&bytes, asker.is_local).unwrap();
                let anew = reply(&bytes, asker, known, 0);
                if let Some(class) = kept.answer(&key, &bytes, u64::from(id), &mut out) {
                    hits += 1;
                    assert_eq!(class, anew.class);
                    let (told, expected) = (sorted(&out), sorted(anew.bytes.as_deref().unwrap()));
                    assert_eq!(told, expected, "{name} {kind} {edns:?}");
                    let name_end = HEADER_BYTES + key.name;
                    assert_eq!(out[HEADER_BYTES..name_end], bytes[HEADER_BYTES..name_end], "as it was written");
                } else {
                    kept.keep(&key, &anew);
                }
            }
        }
    }
    assert!(hits > 100, "{hits}");
    let none = [
        ("none.example.com.", false),
        ("example.net.", false),
        ("q.wild.example.com.", false),
        ("mail.example.com.", true),
    ];
    for (name, is_kept) in none {
        let bytes = question(name, RecordType::A, None, 1);
        let found = kept.answer(&Key::of(&bytes, false).unwrap(), &bytes, 0, &mut out);
        assert_eq!(found.is_some(), is_kept, "{name}: of names without end none is kept");
    }
    // News, and all is forgotten.
    kept.follow(&names, &live, None);
    assert!(!kept.is_empty());
    kept.follow(&names, &Arc::new(town.live.clone()), None);
    assert!(kept.is_empty());
}

#[test]
fn addresses_are_turned_near_ones_before_others() {
    let mut town = market();
    town.run("shop", "web", 4, 4);
    let (names, live) = (Arc::new(town.names()), Arc::new(town.live.clone()));
    let known = Knowledge { names: &names, live: &live, me: &town.me, window: None };
    let mut kept = Kept::new(names.clone(), live.clone());
    let bytes = question("web.shop.hirsel.", RecordType::A, None, 1);
    let key = Key::of(&bytes, false).unwrap();
    kept.keep(&key, &reply(&bytes, Asker { transport: Transport::Udp, is_local: false }, known, 0));
    let mut seen = BTreeSet::new();
    for draw in 0..12 {
        let mut out = Vec::new();
        kept.answer(&key, &bytes, draw, &mut out).unwrap();
        let told = Message::from_vec(&out).unwrap();
        seen.insert(told.answers.iter().map(|record| record.data.to_string()).collect::<Vec<_>>());
    }
    let orders: Vec<String> = seen.iter().map(|order| order.join(" ")).collect();
    // n1 and n4 are in our zone.
    let expected = ["10.0.0.1 10.0.0.4 10.0.0.2 10.0.0.3", "10.0.0.4 10.0.0.1 10.0.0.3 10.0.0.2"];
    assert_eq!(orders, expected, "each group begins with any of its own");
}

#[test]
fn memory_has_an_end() {
    let town = market();
    let (names, live) = (Arc::new(town.names()), Arc::new(town.live.clone()));
    let known = Knowledge { names: &names, live: &live, me: &town.me, window: None };
    let mut kept = Kept::new(names.clone(), live.clone());
    for kind in 0..=u16::MAX {
        let bytes = question("web.shop.hirsel.", kind.into(), None, 1);
        let key = Key::of(&bytes, false).unwrap();
        kept.keep(&key, &reply(&bytes, Asker { transport: Transport::Udp, is_local: false }, known, 0));
        assert!(kept.bytes < BYTES_MAX + 2_000);
    }
    assert!(kept.len() > 1_000);
}

proptest! {
    #[test]
    fn whatever_comes_is_looked_up_or_not_and_nothing_else(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut like = vec![1, 2, 1, 0, 0, 1, 0, 0, 0, 0, 0, bytes.first().copied().unwrap_or(0) & 1];
        let _ = Key::of(&bytes, true);
        like.extend_from_slice(&bytes);
        let _ = Key::of(&like, false);
    }

    #[test]
    fn a_question_that_is_looked_up_is_one_that_can_be_read(cut in 0..60usize, at in 0..60usize, byte in any::<u8>()) {
        let mut bytes = question("web.shop.hirsel.", RecordType::A, Some(1_232), 7);
        let at = at % bytes.len();
        bytes[at] = byte;
        bytes.truncate(bytes.len().saturating_sub(cut % 3));
        if Key::of(&bytes, false).is_some() {
            let town = market();
            let answer = town.with(|known| reply(&bytes, Asker { transport: Transport::Udp, is_local: false }, known, 0));
            prop_assert!(!matches!(answer.class, Class::FormErr | Class::NotImp | Class::BadVers | Class::Dropped), "{answer:?}");
        }
    }
}
