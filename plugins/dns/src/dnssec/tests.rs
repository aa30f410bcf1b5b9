use std::collections::BTreeSet;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::DNSClass;
use hickory_proto::serialize::binary::BinEncodable;
use proptest::prelude::*;

use super::*;
use crate::kept;
use crate::message::{Asker, COMPACT_OK, Transport, reply};
use crate::testing::validator::{Proven, Validator};
use crate::testing::{Town, market};

const NOON: WallTime = WallTime(1_795_780_800_000);

/// [`market`] with two signed zones, one above the other, and records of all kinds.
fn signed() -> (Town, Validator) {
    let mut town = market();
    for (owner, data) in [
        ("@", "MX 10 Mail.Example.com."),
        ("@", "TXT v=spf1 mx -all"),
        ("@", "CAA 0 issue \"letsencrypt.org\""),
        ("mail", "A 192.0.2.7"),
        ("mail", "AAAA 2001:db8::7"),
        ("docs", "CNAME Mail.example.com."),
        ("gone", "CNAME nowhere.example.com."),
        ("away", "CNAME www.example.net."),
        ("*.dev", "A 192.0.2.8"),
        ("_sip._tcp", "SRV 0 5 5060 Mail.example.com."),
        ("child", "NS ns1.child.example.com."),
        ("ns1.child", "A 192.0.2.53"),
        ("deep.between", "TXT x"),
    ] {
        town.record("example.com", owner, data);
    }
    let spec = Arc::make_mut(town.order.zones.get_mut("example.com").unwrap());
    spec.records.get_mut("mail").unwrap().data.insert("A 192.0.2.10".parse().unwrap());
    town.sign("example.com", &[1], 1);
    let validator = town.validator("example.com");
    (town, validator)
}

fn question(name: &str, kind: RecordType, flags: u16) -> Vec<u8> {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(crate::names::name(format_args!("{}", name.trim_end_matches('.'))), kind));
    let mut edns = Edns::new();
    edns.set_max_payload(1_232).set_dnssec_ok(true);
    edns.flags_mut().z = flags;
    message.set_edns(edns);
    message.to_bytes().unwrap()
}

fn ask_at(town: &Town, name: &str, kind: RecordType, flags: u16, wall: WallTime) -> Message {
    let bytes = question(name, kind, flags);
    let asker = Asker { transport: Transport::Tcp, is_local: false };
    let told = town.with_signatures(Window::at(wall), |known| reply(&bytes, asker, known, 3));
    Message::from_vec(&told.bytes.unwrap()).unwrap()
}

fn ask(town: &Town, name: &str, kind: RecordType) -> Message {
    ask_at(town, name, kind, 0, NOON)
}

#[test]
fn whoever_verifies_finds_everything_that_is_ours_signed() {
    let (town, validator) = signed();
    for (name, kind, expected) in [
        ("example.com.", RecordType::SOA, Proven::Answer(1)),
        ("example.com.", RecordType::NS, Proven::Answer(4)),
        ("example.com.", RecordType::MX, Proven::Answer(1)),
        ("example.com.", RecordType::TXT, Proven::Answer(1)),
        ("example.com.", RecordType::CAA, Proven::Answer(1)),
        ("example.com.", RecordType::DNSKEY, Proven::Answer(1)),
        ("example.com.", RecordType::CDS, Proven::Answer(1)),
        ("example.com.", RecordType::CDNSKEY, Proven::Answer(1)),
        ("example.com.", RecordType::ANY, Proven::Answer(1)),
        ("example.com.", RecordType::NSEC, Proven::Answer(1)),
        ("eXample.COM.", RecordType::A, Proven::NoData),
        ("example.com.", RecordType::DS, Proven::NoData),
        ("mail.example.com.", RecordType::A, Proven::Answer(2)),
        ("MAIL.example.com.", RecordType::AAAA, Proven::Answer(1)),
        ("mail.example.com.", RecordType::TXT, Proven::NoData),
        ("mail.example.com.", RecordType::NSEC, Proven::Answer(1)),
        ("shop.example.com.", RecordType::A, Proven::Answer(2)),
        ("shop.example.com.", RecordType::AAAA, Proven::NoData),
        ("any.wild.example.com.", RecordType::A, Proven::Answer(2)),
        ("*.wild.example.com.", RecordType::A, Proven::Answer(2)),
        ("any.dev.example.com.", RecordType::A, Proven::Answer(1)),
        ("any.deeper.dev.example.com.", RecordType::A, Proven::Answer(1)),
        ("any.dev.example.com.", RecordType::MX, Proven::NoData),
        ("docs.example.com.", RecordType::A, Proven::Answer(3)),
        ("docs.example.com.", RecordType::MX, Proven::NoData),
        ("docs.example.com.", RecordType::CNAME, Proven::Answer(1)),
        ("gone.example.com.", RecordType::A, Proven::NxDomain),
        ("away.example.com.", RecordType::A, Proven::Answer(1)),
        ("_sip._tcp.example.com.", RecordType::SRV, Proven::Answer(1)),
        ("_tcp.example.com.", RecordType::SRV, Proven::NoData),
        ("between.example.com.", RecordType::TXT, Proven::NoData),
        ("n1.ns.example.com.", RecordType::A, Proven::Answer(1)),
        ("ns.example.com.", RecordType::A, Proven::NoData),
        ("none.example.com.", RecordType::A, Proven::NxDomain),
        ("none.example.com.", RecordType::DS, Proven::NxDomain),
        ("none.mail.example.com.", RecordType::A, Proven::NxDomain),
        ("child.example.com.", RecordType::DS, Proven::NoData),
        ("child.example.com.", RecordType::A, Proven::Unsigned),
        ("www.child.example.com.", RecordType::A, Proven::Unsigned),
        ("sub.example.com.", RecordType::DS, Proven::NoData),
    ] {
        let told = ask(&town, name, kind);
        assert_eq!(validator.validate(&told, NOON), Ok(expected), "{name} {kind}: {told:#?}");
        assert!(told.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok));
        assert!(!told.authentic_data, "nobody believes us because we say so");
    }
    // Of zones that are not signed nothing is.
    for (name, kind) in [("www.sub.example.com.", RecordType::A), ("web.shop.hirsel.", RecordType::A)] {
        let told = ask(&town, name, kind);
        assert!(told.answers.iter().all(|record| record.record_type() == kind) && !told.answers.is_empty());
    }
    let none = ask(&town, "none.hirsel.", RecordType::A);
    assert_eq!((none.response_code, none.authorities.len()), (ResponseCode::NXDomain, 1));
}

#[test]
fn who_does_not_ask_for_signatures_is_told_what_was_told_before() {
    let (town, _) = signed();
    let mut plain = town.with_signatures(Window::at(NOON), |known| {
        let ask = |name: &str, kind| {
            let mut message = Message::new(7, MessageType::Query, OpCode::Query);
            message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
            let asker = Asker { transport: Transport::Tcp, is_local: false };
            Message::from_vec(&reply(&message.to_bytes().unwrap(), asker, known, 3).bytes.unwrap()).unwrap()
        };
        let names = ["mail.example.com.", "none.example.com.", "child.example.com.", "example.com."];
        let kinds = [RecordType::A, RecordType::DNSKEY];
        names.map(|name| kinds.map(|kind| ask(name, kind)))
    });
    let [_, none, _, apex] = &mut plain;
    assert_eq!(none[0].response_code, ResponseCode::NXDomain);
    assert_eq!(apex[1].answers.len(), 1, "keys are for all");
    for told in plain.iter().flatten() {
        let all = told.answers.iter().chain(&told.authorities).chain(&told.additionals);
        let kinds: BTreeSet<RecordType> = all.map(Record::record_type).collect();
        assert!(!kinds.contains(&RecordType::RRSIG) && !kinds.contains(&RecordType::NSEC), "{told:?}");
    }
}

#[test]
fn the_code_of_a_name_that_does_not_exist_is_told_to_who_takes_it() {
    let (town, validator) = signed();
    let told = ask(&town, "none.example.com.", RecordType::A);
    assert_eq!(told.response_code, ResponseCode::NoError);
    let told = ask_at(&town, "none.example.com.", RecordType::A, COMPACT_OK, NOON);
    assert_eq!(told.response_code, ResponseCode::NXDomain);
    assert_eq!(told.edns.as_ref().map(|edns| edns.flags().z), Some(COMPACT_OK));
    assert_eq!(validator.validate(&told, NOON), Ok(Proven::NxDomain));
    let told = ask(&town, "none.example.com.", wire::NXNAME);
    assert_eq!(told.response_code, ResponseCode::FormErr);
}

#[test]
fn a_zone_below_one_of_ours_is_named_by_it() {
    let (mut town, validator) = signed();
    town.sign("sub.example.com", &[5], 5);
    let told = ask(&town, "sub.example.com.", RecordType::DS);
    assert_eq!(validator.validate(&told, NOON), Ok(Proven::Answer(1)));
    let key = ask(&town, "sub.example.com.", RecordType::DNSKEY);
    assert_eq!(town.validator("sub.example.com").validate(&key, NOON), Ok(Proven::Answer(1)));
    let bytes = |message: &Message, kind| {
        let record = message.answers.iter().find(|record| record.record_type() == kind).unwrap().clone();
        record.data.to_bytes().unwrap()
    };
    let cds = ask(&town, "sub.example.com.", RecordType::CDS);
    assert_eq!(bytes(&told, RecordType::DS), bytes(&cds, RecordType::CDS));
}

#[test]
fn a_key_is_replaced_without_a_moment_in_which_anybody_would_not_believe() {
    let (mut town, former) = signed();
    let mut steps = Vec::new();
    // Listed, then named above, then in force, then alone.
    for (listed, signs) in [(&[1][..], 1), (&[1, 2], 1), (&[1, 2], 2), (&[2], 2)] {
        town.sign("example.com", listed, signs);
        let keys = ask(&town, "example.com.", RecordType::DNSKEY);
        let mail = ask(&town, "mail.example.com.", RecordType::A);
        steps.push((keys, mail, town.validator("example.com")));
    }
    let next = steps[3].2.clone();
    let believes = |anchor: &Validator, told: &Message| anchor.validate(told, NOON).is_ok();
    // Which of the two keys is believed for the list of keys, at each step.
    let keys: Vec<_> = steps.iter().map(|(keys, ..)| (believes(&former, keys), believes(&next, keys))).collect();
    assert_eq!(keys, [(true, false), (true, true), (true, true), (false, true)]);
    // Whoever remembers the list of one step verifies what was signed in the one before and the one after.
    for (now, (_, _, listed)) in steps.iter().enumerate() {
        for (then, (_, mail, _)) in steps.iter().enumerate().filter(|(then, _)| then.abs_diff(now) <= 1) {
            assert!(believes(listed, mail), "list of step {now}, signature of step {then}");
        }
    }
}

#[test]
fn without_the_key_in_force_nothing_is_said_to_who_wants_it_signed() {
    let (mut town, _) = signed();
    town.keyring = ZoneKeyring::default();
    let told = ask(&town, "mail.example.com.", RecordType::A);
    assert_eq!((told.response_code, told.answers.len()), (ResponseCode::ServFail, 0));
    let (_, plain) = town.ask("mail.example.com.", RecordType::A);
    assert_eq!(plain.len(), 2, "and all others are answered");
    // A key that is another one than it should be is worse than none.
    let (mut wrong, _) = signed();
    wrong.keyring.0.insert(1, crate::testing::validator::draw().0);
    assert_eq!(ask(&wrong, "mail.example.com.", RecordType::A).response_code, ResponseCode::ServFail);
}

#[test]
fn a_signature_is_good_from_before_its_window_until_long_after_and_the_same_all_the_time() {
    let hour = 3_600_000;
    let window = Window::at(NOON);
    assert_eq!(NOON.0 / 1_000 % WINDOW_S, 0, "a window begins at noon");
    assert_eq!(window, Window::at(WallTime(NOON.0 + 12 * hour - 1)));
    assert_ne!(window, Window::at(WallTime(NOON.0 + 12 * hour)));
    assert_eq!(u64::from(window.from), NOON.0 / 1_000 - 12 * 3_600);
    assert_eq!(u64::from(window.until), NOON.0 / 1_000 + 72 * 3_600);
    let (town, validator) = signed();
    let told = ask(&town, "mail.example.com.", RecordType::A);
    let again = ask_at(&town, "mail.example.com.", RecordType::A, 0, WallTime(NOON.0 + hour));
    let rrsig = |message: &Message| {
        message
            .answers
            .iter()
            .find(|record| record.record_type() == RecordType::RRSIG)
            .unwrap()
            .data
            .to_bytes()
            .unwrap()
    };
    assert_eq!(rrsig(&told), rrsig(&again), "remembered");
    assert!(validator.validate(&told, WallTime(NOON.0 - 13 * hour)).is_err());
    assert!(validator.validate(&told, WallTime(NOON.0 - 11 * hour)).is_ok());
    assert!(validator.validate(&told, WallTime(NOON.0 + 71 * hour)).is_ok());
    assert!(validator.validate(&told, WallTime(NOON.0 + 73 * hour)).is_err());
}

#[test]
fn signed_answers_are_kept_until_they_are_signed_for_another_time() {
    let (town, validator) = signed();
    let names = Arc::new(town.names().with_keys(&town.keyring));
    let live = Arc::new(town.live.clone());
    let bytes = question("shop.example.com.", RecordType::A, 0);
    let mut kept = kept::Kept::new(names.clone(), live.clone());
    let window = Window::at(NOON);
    kept.follow(&names, &live, Some(window));
    let known = crate::answer::Knowledge { names: &names, live: &live, me: &town.me, window: Some(window) };
    let asker = Asker { transport: Transport::Udp, is_local: false };
    let key = kept::Key::of(&bytes, false).unwrap();
    kept.keep(&key, &reply(&bytes, asker, known, 0));
    let mut seen = BTreeSet::new();
    for draw in 0..8 {
        let mut out = Vec::new();
        assert!(kept.answer(&key, &bytes, draw, &mut out).is_some());
        let told = Message::from_vec(&out).unwrap();
        assert_eq!(validator.validate(&told, NOON), Ok(Proven::Answer(2)), "in whatever order");
        seen.insert(out);
    }
    assert!(seen.len() <= 2);
    let plain = {
        let mut bytes = question("shop.example.com.", RecordType::A, 0);
        let at = bytes.len() - 4;
        bytes[at] = 0;
        bytes
    };
    let plain = kept::Key::of(&plain, false).unwrap();
    assert!(kept.answer(&plain, &bytes, 0, &mut Vec::new()).is_none(), "another question");
    kept.follow(&names, &live, Some(Window::at(WallTime(NOON.0 + 13 * 3_600_000))));
    assert!(kept.is_empty());
}

#[test]
fn what_is_remembered_has_an_end_and_what_is_asked_for_again_stays() {
    let mut halves = Halves::default();
    let at = |number: usize| {
        let mut at = [0; DIGEST_BYTES];
        at[..8].copy_from_slice(&number.to_be_bytes());
        at
    };
    halves.put(at(0), [1; SIGNATURE_BYTES]);
    for number in 1..5 * REMEMBERED_MAX {
        halves.put(at(number), [0; SIGNATURE_BYTES]);
        assert!(halves.young.len() <= REMEMBERED_MAX && halves.old.len() <= REMEMBERED_MAX);
        if number % 1_000 == 0 {
            assert_eq!(halves.find(&at(0)), Some([1; SIGNATURE_BYTES]));
        }
    }
    assert_eq!(halves.find(&at(1)), None);
}

#[test]
fn the_examples_of_the_documents_come_out() {
    // RFC 6605, section 6.1: a key of P-256, its tag, and the record of the zone above.
    let public = data_of("GojIhhXUN/u4v54ZQqGSnyhWJwaubCvTmeexv7bR6edbkrSqQpF64cYbcB7wNcP+e+MAnLr+Wi9xMWyQLc8NAA==");
    assert_eq!(wire::tag(&public), 55_648);
    let name = Name::from_ascii("example.net.").unwrap();
    let RData::Unknown { rdata, .. } = wire::ds(RecordType::DS, &name, &public) else { panic!("bytes") };
    let hex: String = rdata.anything.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, "d9600d02b4c8c1fe2e7477127b27115656ad6256f424625bf5c1e2770ce6d6e37df61d17");
    // RFC 9824, sections 3.1 and 3.4.
    let RData::Unknown { rdata, .. } = wire::nsec(&name, wire::Next::Below, [wire::NXNAME]).unwrap() else { panic!() };
    assert_eq!(rdata.anything, *b"\x01\0\x07example\x03net\0\0\x11\0\0\0\0\0\x03\0\0\0\0\0\0\0\0\0\0\x80");
    let RData::Unknown { rdata, .. } = wire::nsec(&name, wire::Next::Beside, [RecordType::NS]).unwrap() else {
        panic!()
    };
    assert_eq!(rdata.anything, *b"\x08example\0\x03net\0\0\x06\x20\0\0\0\0\x03");
}

fn data_of(base64: &str) -> Vec<u8> {
    let digits = |byte: u8| match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let bits = base64.bytes().filter(|byte| *byte != b'=').flat_map(|byte| {
        let digit = digits(byte);
        (0..6).rev().map(move |bit| digit >> bit & 1)
    });
    let bits: Vec<u8> = bits.collect();
    bits.chunks_exact(8).map(|bits| bits.iter().fold(0, |byte, bit| byte << 1 | bit)).collect()
}

proptest! {
    // Each draws a key.
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_is_asked_for_is_proven_or_refused(
        labels in prop::collection::vec("[a-zA-Z0-9_-]{1,20}|\\*", 0..6),
        kind in any::<u16>(),
        flags in any::<u16>(),
    ) {
        prop_assume!(kind != 128);
        let kind = RecordType::from(kind);
        prop_assume!(kind != RecordType::RRSIG && kind != RecordType::OPT);
        let (town, validator) = signed();
        let name = labels.iter().fold("example.com.".to_owned(), |name, label| format!("{label}.{name}"));
        let told = ask_at(&town, &name, kind, flags & 0x7fff, NOON);
        if matches!(kind, RecordType::AXFR | RecordType::IXFR) {
            prop_assert_eq!(told.response_code, ResponseCode::Refused);
        } else {
            prop_assert!(validator.validate(&told, NOON).is_ok(), "{:?}: {:?}", validator.validate(&told, NOON), told);
        }
    }

    #[test]
    fn the_longest_names_do_no_harm(length in 180_usize..245, kind in any::<u16>()) {
        let (town, validator) = signed();
        let mut name = "x".repeat(length).chars().collect::<Vec<_>>().chunks(60).map(String::from_iter).collect::<Vec<_>>().join(".");
        name.push_str(".example.com.");
        prop_assume!(name.len() <= 254 && kind != 128 && kind != 46 && kind != 41 && kind != 251 && kind != 252);
        let told = ask(&town, &name, kind.into());
        prop_assert!(told.response_code == ResponseCode::ServFail || validator.validate(&told, NOON).is_ok(), "{told:?}");
    }

    #[test]
    fn a_set_is_signed_the_same_in_whatever_order_and_case(
        mut addrs in prop::collection::vec(any::<[u8; 4]>(), 1..9),
        turn in any::<usize>(),
    ) {
        let set = |addrs: &[[u8; 4]], name: &str| -> Vec<Record> {
            let record = |addr: &[u8; 4]| RData::from(std::net::IpAddr::from(*addr));
            addrs.iter().map(|addr| Record::from_rdata(Name::from_ascii(name).unwrap(), 60, record(addr))).collect()
        };
        let zone = Name::from_ascii("Example.com.").unwrap();
        let window = Window::at(NOON);
        let first = set(&addrs, "www.example.com.");
        let signed = wire::Covered { set: &first, zone: &zone, window }.signed(7);
        let turn = turn % addrs.len();
        addrs.rotate_left(turn);
        addrs.push(addrs[0]);
        let second = set(&addrs, "WWW.Example.COM.");
        prop_assert_eq!(signed, wire::Covered { set: &second, zone: &zone, window }.signed(7));
        prop_assert_eq!(first[0].dns_class, DNSClass::IN);
    }
}
