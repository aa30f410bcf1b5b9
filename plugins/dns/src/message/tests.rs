use hickory_proto::rr::{DNSClass, RecordType};
use hickory_proto::serialize::binary::BinEncodable;
use proptest::prelude::*;

use super::*;
use crate::dnssec::wire::NXNAME;
use crate::testing::{Town, market, town};

const UDP: Asker = Asker { transport: Transport::Udp, is_local: false };
const TCP: Asker = Asker { transport: Transport::Tcp, is_local: false };

/// A question as `dig` asks it. `size` is what EDNS says, none without EDNS.
fn question(name: &str, kind: RecordType, size: Option<u16>) -> Vec<u8> {
    let mut message = Message::new(0x1234, hickory_proto::op::MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(crate::names::name(format_args!("{}", name.trim_end_matches('.'))), kind));
    if let Some(size) = size {
        let mut edns = Edns::new();
        edns.set_max_payload(size).set_dnssec_ok(true);
        message.set_edns(edns);
    }
    message.to_bytes().unwrap()
}

fn ask(town: &Town, bytes: &[u8], asker: Asker) -> (Reply, Option<Message>) {
    let reply = town.with(|known| reply(bytes, asker, known, 5));
    let message = reply.bytes.as_ref().map(|bytes| Message::from_vec(bytes).expect("our own words can be read"));
    (reply, message)
}

#[test]
fn an_answer_repeats_the_question_as_it_was_written() {
    let (_, message) = ask(&market(), &question("wEb.ShOp.hirsel.", RecordType::A, Some(1_232)), UDP);
    let message = message.unwrap();
    assert_eq!((message.id, message.response_code, message.answers.len()), (0x1234, ResponseCode::NoError, 3));
    assert!(message.authoritative && message.recursion_desired && !message.recursion_available && !message.truncation);
    assert_eq!(message.queries[0].name.to_string(), "wEb.ShOp.hirsel.");
    assert!(message.answers.iter().all(|record| record.name.to_string() == "wEb.ShOp.hirsel."));
    let edns = message.edns.as_ref().unwrap();
    assert_eq!((edns.max_payload(), edns.version(), edns.flags().dnssec_ok), (UDP_BYTES_MAX, 0, true));
    let (_, plain) = ask(&market(), &question("web.shop.hirsel.", RecordType::A, None), UDP);
    assert!(plain.unwrap().edns.is_none(), "who does not speak EDNS hears none");
}

#[test]
fn what_is_no_question_of_ours_is_told_so_in_a_header() {
    let town = market();
    let good = question("web.shop.hirsel.", RecordType::A, None);
    let with = |alter: fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        alter(&mut bytes);
        let (reply, message) = ask(&town, &bytes, UDP);
        (reply.class, message.map(|message| (message.id, message.response_code)))
    };
    let told = |code| Some((0x1234, code));
    assert_eq!(with(|bytes| bytes[2] |= 0x80), (Class::Dropped, None), "answers are not answered");
    assert_eq!(with(|bytes| bytes.truncate(11)), (Class::Dropped, None));
    for op_code in [1_u8, 2, 4, 5, 6, 15] {
        let mut bytes = good.clone();
        bytes[2] |= op_code << 3;
        let (reply, message) = ask(&town, &bytes, UDP);
        assert_eq!(reply.class, Class::NotImp);
        let message = message.unwrap();
        assert_eq!((message.response_code, u8::from(message.op_code)), (ResponseCode::NotImp, op_code));
    }
    assert_eq!(with(|bytes| bytes[5] = 0), (Class::FormErr, told(ResponseCode::FormErr)));
    assert_eq!(with(|bytes| bytes[5] = 2), (Class::FormErr, told(ResponseCode::FormErr)));
    assert_eq!(with(|bytes| bytes[7] = 1), (Class::FormErr, told(ResponseCode::FormErr)));
    assert_eq!(with(|bytes| bytes.truncate(20)), (Class::FormErr, told(ResponseCode::FormErr)));
    assert_eq!(with(|bytes| bytes[12] = 0xc0), (Class::FormErr, told(ResponseCode::FormErr)), "a pointer to itself");
    let last = good.len() - 1;
    let mut chaos = good.clone();
    chaos[last] = 3;
    assert_eq!(ask(&town, &chaos, UDP).0.class, Class::Refused, "only the class IN is ours");
    let long = [good.clone(), vec![0; QUESTION_BYTES_MAX]].concat();
    assert_eq!(ask(&town, &long, TCP).0.class, Class::Dropped);
}

#[test]
fn a_version_of_edns_that_is_not_known_is_named() {
    let mut message = Message::from_vec(&question("web.shop.hirsel.", RecordType::A, Some(4_096))).unwrap();
    message.edns.as_mut().unwrap().set_version(1);
    let (reply, message) = ask(&market(), &message.to_bytes().unwrap(), UDP);
    let message = message.unwrap();
    assert_eq!((reply.class, message.answers.len()), (Class::BadVers, 0));
    let edns = message.edns.as_ref().unwrap();
    assert_eq!((message.response_code.low() | edns.rcode_high() << 4, edns.version()), (16, 0));
}

/// A service with so many instances, each on a node of its own.
fn crowd(count: u64) -> Town {
    let mut town = town(count);
    for number in 1..=count {
        town.run("shop", "web", number, number);
    }
    town
}

#[test]
fn what_does_not_fit_is_cut_after_a_whole_record_and_comes_over_tcp() {
    let town = crowd(300);
    for (size, limit, least) in [(None, 512, 28), (Some(512), 512, 28), (Some(900), 900, 50), (Some(65_000), 1_232, 70)]
    {
        let (reply, message) = ask(&town, &question("web.shop.hirsel.", RecordType::A, size), UDP);
        let (length, message) = (reply.bytes.unwrap().len(), message.unwrap());
        assert!(message.truncation && reply.is_cut && length <= limit, "{length} bytes of {limit}");
        assert!(message.answers.len() >= least, "{} records in {limit}", message.answers.len());
        assert_eq!(message.edns.is_some(), size.is_some());
    }
    for kind in [RecordType::A, RecordType::SRV] {
        let (reply, message) = ask(&town, &question("web.shop.hirsel.", kind, Some(1_232)), TCP);
        let message = message.unwrap();
        assert!(!message.truncation && !reply.is_cut);
        assert_eq!(message.answers.len(), 300);
    }
    let (_, message) = ask(&town, &question("web.shop.hirsel.", RecordType::SRV, Some(1_232)), UDP);
    let message = message.unwrap();
    assert!(message.truncation && message.answers.len() > 15, "{}", message.answers.len());
    // Addresses that only spare a question are left out without a word.
    let (_, message) = ask(&crowd(26), &question("web.shop.hirsel.", RecordType::SRV, Some(1_232)), UDP);
    let message = message.unwrap();
    assert!(!message.truncation && message.answers.len() == 26 && message.additionals.len() < 26, "{message:?}");
}

#[test]
fn who_asks_too_often_is_told_to_ask_over_tcp_in_no_more_bytes_than_it_sent() {
    for size in [None, Some(1_232)] {
        let bytes = question("web.shop.hirsel.", RecordType::A, size);
        let reply = slip(&bytes);
        let told = reply.bytes.unwrap();
        assert!(told.len() <= bytes.len());
        let message = Message::from_vec(&told).unwrap();
        assert!(message.truncation && message.answers.is_empty() && message.queries.len() == 1);
        assert_eq!(reply.class, Class::Slipped);
    }
    assert_eq!(slip(b"x").bytes, None);
}

/// The longest answer that may be given, as the asker says.
fn limit_of(bytes: &[u8]) -> usize {
    let said = Message::from_vec(bytes).ok().and_then(|message| message.edns.map(|edns| edns.max_payload()));
    usize::from(said.unwrap_or(512).clamp(512, UDP_BYTES_MAX))
}

fn kinds() -> impl Strategy<Value = RecordType> {
    any::<u16>().prop_map(RecordType::from)
}

/// Names that exist, that do not, and all other text that can be a name.
fn any_name() -> impl Strategy<Value = String> {
    let known =
        ["web.shop.hirsel.", "_web._tcp.shop.hirsel.", "hirsel.", "example.com.", "n1.ns.example.com.", "x.hirsel."];
    prop_oneof![
        prop::sample::select(known.to_vec()).prop_map(str::to_owned),
        "[a-zA-Z0-9_*-]{1,20}(\\.[a-z]{1,10}){0,4}\\.hirsel\\.",
    ]
}

proptest! {
    #[test]
    fn no_bytes_do_harm(bytes in prop::collection::vec(any::<u8>(), 0..600), head in any::<bool>()) {
        let mut bytes = bytes;
        // Half of them look like a question from afar.
        if head && bytes.len() >= 12 {
            bytes[2] &= 0x07;
            bytes[4..10].copy_from_slice(&[0, 1, 0, 0, 0, 0]);
            bytes[10] = 0;
        }
        let town = market();
        for asker in [UDP, TCP] {
            let (reply, _) = ask(&town, &bytes, asker);
            let length = reply.bytes.map_or(0, |bytes| bytes.len());
            prop_assert!(asker.transport == Transport::Tcp || length <= limit_of(&bytes));
        }
        prop_assert!(slip(&bytes).bytes.is_none_or(|told| told.len() <= bytes.len().max(12)));
    }

    #[test]
    fn no_answer_is_longer_than_its_asker_can_take_and_all_can_be_read(
        name in any_name(),
        kind in kinds(),
        size in prop::option::of(any::<u16>()),
        count in 1..120_u64,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
    ) {
        let mut bytes = question(&name, kind, size);
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let town = crowd(count);
        let (reply, message) = ask(&town, &bytes, UDP);
        prop_assert!(reply.bytes.map_or(0, |told| told.len()) <= limit_of(&bytes));
        if let Some(message) = message {
            prop_assert_eq!(&message.id.to_be_bytes()[..], &bytes[..2]);
        }
        let (reply, message) = ask(&town, &bytes, TCP);
        prop_assert_eq!(reply.bytes.is_some(), message.is_some());
        let read = Message::from_vec(&bytes);
        if let (Ok(asked), Some(message)) = (read, message)
            && let [query] = &asked.queries[..]
            && message.queries.len() == 1
        {
            prop_assert!(query.name.eq_case(&message.queries[0].name));
            // Whoever asks for the type of which proofs are made asks wrongly (RFC 9824, section 3.5).
            let is_sound = query.query_class == DNSClass::IN && query.query_type != NXNAME;
            prop_assert!(!is_sound || message.response_code != ResponseCode::FormErr);
        }
    }
}
