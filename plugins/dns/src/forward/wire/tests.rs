use hickory_proto::rr::Record;
use hickory_proto::rr::rdata::{A, SOA};
use proptest::prelude::*;

use super::*;

fn asked() -> Asked {
    let name = Name::from_ascii("www.example.net.").unwrap();
    Asked { name, kind: RecordType::A, wants_signatures: false, is_unchecked: false }
}

/// An answer to `question` with these records in two of its sections.
fn answer(question: &[u8], code: ResponseCode, answers: &[u32], soa: Option<(u32, u32)>) -> Vec<u8> {
    let mut message = Message::from_vec(question).unwrap();
    message.metadata.message_type = MessageType::Response;
    message.metadata.response_code = code;
    let name = message.queries[0].name.clone();
    for ttl in answers {
        message.add_answer(Record::from_rdata(name.clone(), *ttl, RData::A(A::new(192, 0, 2, 1))));
    }
    if let Some((ttl, minimum)) = soa {
        let soa = SOA::new(name.clone(), name.clone(), 1, 1, 1, 1, minimum);
        message.add_authority(Record::from_rdata(name, ttl, RData::SOA(soa)));
    }
    message.to_bytes().unwrap()
}

#[test]
fn the_case_of_a_question_is_drawn_and_has_to_come_back() {
    let small = question(&asked(), 7, &[0; 32]);
    let large = question(&asked(), 7, &[0xff; 32]);
    assert!(small.windows(3).any(|it| it == b"www") && large.windows(3).any(|it| it == b"WWW"));
    assert!(small.eq_ignore_ascii_case(&large));
    let drawn: Vec<u8> = (0..32_u8).map(|n| n.wrapping_mul(37).wrapping_add(5)).collect();
    let drawn = question(&asked(), 7, drawn.as_slice().try_into().unwrap());
    let good = answer(&drawn, ResponseCode::NoError, &[60], None);
    assert_eq!(read(&good, &drawn), Told::Answer(good.clone()));
    let mut other = answer(&small, ResponseCode::NoError, &[60], None);
    assert_eq!(read(&other, &drawn), Told::OtherCase);
    restore(&mut other, &drawn);
    assert!(matches!(read(&other, &drawn), Told::Answer(_)));
}

#[test]
fn what_is_no_answer_to_the_question_is_none() {
    let asks = question(&asked(), 7, &[0; 32]);
    let good = answer(&asks, ResponseCode::NoError, &[60], None);
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        read(&bytes, &asks)
    };
    assert_eq!(read(&asks, &asks), Told::Stray, "a question");
    assert_eq!(with(1, 8), Told::Stray, "another number");
    assert_eq!(with(13, b'x'), Told::Stray, "another name");
    assert_eq!(with(30, 28), Told::Stray, "another kind");
    assert_eq!(with(5, 0), Told::Stray, "no name");
    assert_eq!(with(2, good[2] | 2), Told::Cut);
    assert_eq!(with(3, 2), Told::Failed(ResponseCode::ServFail));
    assert_eq!(with(3, 5), Told::Failed(ResponseCode::Refused));
    assert_eq!(read(&good[..good.len() - 1], &asks), Told::Failed(ResponseCode::FormErr), "it cannot be read");
}

#[test]
fn an_answer_holds_as_long_as_its_first_record_and_nothing_as_long_as_the_zone_says() {
    let asks = question(&asked(), 7, &[0; 32]);
    let of = |code, answers: &[u32], soa| lifetime(&answer(&asks, code, answers, soa));
    assert_eq!(of(ResponseCode::NoError, &[60, 30, 90], None), 30);
    assert_eq!(of(ResponseCode::NoError, &[], Some((60, 20))), 20);
    assert_eq!(of(ResponseCode::NXDomain, &[], Some((90_000, 90_000))), ABSENT_MAX_S);
    assert_eq!(of(ResponseCode::NXDomain, &[10], Some((60, 20))), 10, "another name that leads to none");
    assert_eq!(of(ResponseCode::NXDomain, &[], None), 0, "it does not say how long");
    assert_eq!(lifetime(b"nothing"), 0);
}

proptest! {
    #[test]
    fn nothing_that_comes_brings_it_down(bytes in prop::collection::vec(any::<u8>(), 0..200), at in 0..60usize, byte in any::<u8>()) {
        let asks = question(&asked(), 7, &[3; 32]);
        read(&bytes, &asks);
        lifetime(&bytes);
        let mut good = answer(&asks, ResponseCode::NoError, &[60], Some((1, 1)));
        let at = at % good.len();
        good[at] = byte;
        read(&good, &asks);
        read(&good, &bytes);
        lifetime(&good);
        restore(&mut good, &asks);
    }
}
