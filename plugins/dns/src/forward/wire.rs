//! Questions to resolvers, and what they say. Pure. Whatever comes, nothing panics, and what is no answer to the question is none.

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use hickory_proto::serialize::binary::BinEncodable;

use crate::message::UDP_BYTES_MAX;

const HEADER_BYTES: usize = 12;
/// Longest time that the absence of something is remembered (RFC 2308 allows hours): five minutes.
const ABSENT_MAX_S: u32 = 300;

/// What is asked of others.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Asked {
    /// In lower case.
    pub name: Name,
    /// What about it.
    pub kind: RecordType,
    /// With signatures (DO).
    pub wants_signatures: bool,
    /// Also what a resolver that verifies takes for forged (CD).
    pub is_unchecked: bool,
}

/// What a datagram or a message is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// The answer: something, or that there is nothing.
    Answer(Vec<u8>),
    /// That it cannot say.
    Failed(ResponseCode),
    /// It is too long for a datagram.
    Cut,
    /// An answer that does not repeat the name as it was written.
    OtherCase,
    /// No answer to this question.
    Stray,
}

/// The question as it is sent. `case` says which letters are large.
pub fn question(asked: &Asked, id: u16, case: &[u8; 32]) -> Vec<u8> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.metadata.checking_disabled = asked.is_unchecked;
    message.add_query(Query::query(asked.name.clone(), asked.kind));
    let mut edns = Edns::new();
    edns.set_max_payload(UDP_BYTES_MAX).set_dnssec_ok(asked.wants_signatures);
    message.set_edns(edns);
    let mut bytes = message.to_bytes().unwrap_or_default();
    let name = name_end(&bytes).map_or(0..0, |end| HEADER_BYTES..end);
    for (index, byte) in bytes[name].iter_mut().enumerate() {
        // A length is below 64, so it is no letter.
        if byte.is_ascii_lowercase() && case[index / 8 % case.len()] >> (index % 8) & 1 == 1 {
            byte.make_ascii_uppercase();
        }
    }
    bytes
}

/// Where the name of the question ends.
fn name_end(bytes: &[u8]) -> Option<usize> {
    let mut at = HEADER_BYTES;
    loop {
        let length = usize::from(*bytes.get(at)?);
        if length > 63 {
            return None;
        }
        at += 1 + length;
        if length == 0 {
            return Some(at);
        }
    }
}

/// What `bytes` is to who asked `question`.
pub fn read(bytes: &[u8], question: &[u8]) -> Told {
    let Some(end) = name_end(question).map(|end| end + 4) else { return Told::Stray };
    let (Some(header), Some(asked)) = (bytes.first_chunk::<HEADER_BYTES>(), question.get(..end)) else {
        return Told::Stray;
    };
    let is_answer = header[2] & 0xf8 == 0x80;
    let repeats =
        bytes.get(HEADER_BYTES..end).filter(|_| header[..2] == asked[..2] && header[4..6] == [0, 1] && is_answer);
    let Some(repeats) = repeats else { return Told::Stray };
    if repeats != &asked[HEADER_BYTES..] {
        return if repeats.eq_ignore_ascii_case(&asked[HEADER_BYTES..]) { Told::OtherCase } else { Told::Stray };
    }
    if header[2] & 2 != 0 {
        return Told::Cut;
    }
    match ResponseCode::from(0, header[3] & 0x0f) {
        ResponseCode::NoError | ResponseCode::NXDomain if Message::from_vec(bytes).is_ok() => {
            Told::Answer(bytes.to_vec())
        }
        ResponseCode::NoError | ResponseCode::NXDomain => Told::Failed(ResponseCode::FormErr),
        code => Told::Failed(code),
    }
}

/// Writes the name of the question into an answer that repeats it in another case.
pub fn restore(bytes: &mut [u8], question: &[u8]) {
    if let Some(end) = name_end(question)
        && let Some(name) = bytes.get_mut(HEADER_BYTES..end)
    {
        name.copy_from_slice(&question[HEADER_BYTES..end]);
    }
}

/// Seconds that an answer holds: as long as the first of its records (RFC 2181, section 5.2), or as the absence of what was asked for
/// (RFC 2308, section 5); zero where it must not be remembered.
pub fn lifetime(bytes: &[u8]) -> u32 {
    let Ok(message) = Message::from_vec(bytes) else { return 0 };
    let least = message.answers.iter().map(|record| record.ttl).min();
    let absent = message.authorities.iter().find_map(|record| match &record.data {
        RData::SOA(soa) => Some(record.ttl.min(soa.minimum).min(ABSENT_MAX_S)),
        _ => None,
    });
    let is_absent = message.metadata.response_code == ResponseCode::NXDomain || message.answers.is_empty();
    match (least, absent) {
        (Some(least), Some(absent)) if is_absent => least.min(absent),
        (Some(_), None) if is_absent => 0,
        (Some(least), _) => least,
        (None, absent) => absent.unwrap_or(0),
    }
}

#[cfg(test)]
mod tests;
