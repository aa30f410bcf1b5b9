//! A question off the wire, and its answer onto it.
//!
//! Whatever arrives: nothing panics, what is no question gets no answer (two servers would talk for ever), and no answer over UDP is
//! longer than [`UDP_BYTES_MAX`] or than its asker can take. What does not fit is cut after a whole record and marked (TC), so that it
//! is asked for again over TCP.

use std::fmt;

use hickory_proto::ProtoError;
use hickory_proto::op::{
    Edns, EdnsFlags, EmitAndCount, Message, Metadata, OpCode, Query, ResponseCode, emit_message_parts,
};
use hickory_proto::rr::{DNSClass, Record, RecordType};
use hickory_proto::serialize::binary::BinEncoder;
use hirsel_model::Timestamp;

use crate::answer::{Answer, Knowledge, Order, Question, answer};
use crate::forward::{Asked, Found};
use crate::metrics::Class;

/// Longest answer over UDP. It passes every path unfragmented that carries IPv6 (1,280 bytes less headers), as the operators of the
/// world's servers agreed on in 2020 ("DNS flag day"): fragments get lost, and can be forged.
pub const UDP_BYTES_MAX: u16 = 1_232;
/// What everybody can take over UDP who does not say more (RFC 1035).
pub const PLAIN_BYTES_MAX: u16 = 512;
/// Longest question that is read. A name takes 255 bytes at most; what else may be there is small.
pub const QUESTION_BYTES_MAX: usize = 4_096;
/// Most records in an answer. Over UDP 72 addresses fit; over TCP so many services with their addresses fit into 64 KiB.
const UDP_RECORDS_MAX: usize = 80;
const TCP_RECORDS_MAX: usize = 800;
const HEADER_BYTES: usize = 12;
/// Whoever says so takes NXDOMAIN with a compact proof (RFC 9824, section 5.1): the second flag of EDNS.
pub const COMPACT_OK: u16 = 0x4000;
/// An OPT record without options.
const OPT_BYTES: u16 = 11;

/// How a question came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// In a datagram.
    Udp,
    /// On a connection.
    Tcp,
}

/// What comes of a question.
#[derive(Clone, PartialEq, Eq)]
pub struct Reply {
    /// What to send; none for nothing.
    pub bytes: Option<Vec<u8>>,
    /// How it ended.
    pub class: Class,
    /// Not everything fitted.
    pub is_cut: bool,
    /// In which order the answers may be told.
    pub order: Order,
    /// Whether the same question has the same answer as long as nothing changes.
    pub is_kept: bool,
}

/// Whoever asks.
#[derive(Clone, Copy, Debug)]
pub struct Asker {
    /// How.
    pub transport: Transport,
    /// Whether it is on this host.
    pub is_local: bool,
}

/// Answers the message `bytes`. `draw` is any number, a new one each time.
pub fn reply(bytes: &[u8], asker: Asker, known: Knowledge<'_>, draw: u64) -> Reply {
    let read = match read(bytes) {
        Ok(read) => read,
        Err(reply) => return reply,
    };
    let (Read { message, query }, edns) = (&read, read.edns());
    let limit = read.limit(asker.transport);
    if message.edns.as_ref().is_some_and(|edns| edns.version() != 0) {
        return read.emit(&Answer::of(ResponseCode::BADVERS, Class::BadVers), edns.as_ref(), limit);
    }
    let records_max = match asker.transport {
        Transport::Udp => UDP_RECORDS_MAX,
        Transport::Tcp => TCP_RECORDS_MAX,
    };
    let question = Question {
        name: &query.name,
        kind: query.query_type,
        class: query.query_class,
        is_local: asker.is_local,
        records_max,
        draw,
        wants_signatures: read.flags().dnssec_ok,
        takes_nxdomain: read.flags().z & COMPACT_OK != 0,
    };
    read.emit(&answer(question, known), edns.as_ref(), limit)
}

/// What a question asks of others, if it is one that can be passed on: it wants that, and is no transfer.
pub fn abroad(bytes: &[u8]) -> Option<Asked> {
    let Read { message, query } = read(bytes).ok()?;
    let (edns, metadata) = (message.edns.as_ref(), message.metadata);
    let is_odd = matches!(query.query_type, RecordType::AXFR | RecordType::IXFR | RecordType::ANY | RecordType::OPT);
    let is_plain = query.query_class == DNSClass::IN && !is_odd && edns.is_none_or(|edns| edns.version() == 0);
    (metadata.recursion_desired && is_plain).then(|| Asked {
        name: query.name.to_lowercase(),
        kind: query.query_type,
        wants_signatures: edns.is_some_and(|edns| edns.flags().dnssec_ok),
        is_unchecked: metadata.checking_disabled,
    })
}

/// What others said to a question, or, where nobody did, that.
pub fn relay(bytes: &[u8], transport: Transport, found: Option<&Found>, now: Timestamp) -> Reply {
    let read = match read(bytes) {
        Ok(read) => read,
        Err(reply) => return reply,
    };
    let mut answer = Answer::of(ResponseCode::ServFail, Class::ServFail);
    answer.is_recursive = true;
    if let Some(found) = found
        && let Ok(said) = Message::from_vec(&found.bytes)
    {
        let age = u32::try_from(now.since(found.at).as_secs()).unwrap_or(u32::MAX);
        let fresh = |mut records: Vec<Record>| {
            for record in &mut records {
                record.ttl = record.ttl.saturating_sub(age);
                // In the case in which it was asked for, not in the one that was drawn.
                if record.name == read.query.name {
                    record.name = read.query.name.clone();
                }
            }
            records
        };
        answer.code = said.metadata.response_code;
        answer.class = match answer.code {
            ResponseCode::NXDomain => Class::NxDomain,
            _ if said.answers.is_empty() => Class::NoData,
            _ => Class::Answered,
        };
        answer.answers = fresh(said.answers);
        answer.authorities = fresh(said.authorities);
        answer.additionals = fresh(said.additionals);
    }
    read.emit(&answer, read.edns().as_ref(), read.limit(transport))
}

/// The word to ask again over TCP, and nothing else.
pub fn slip(bytes: &[u8]) -> Reply {
    match read(bytes) {
        Ok(read) => {
            let mut answer = Answer::of(ResponseCode::NoError, Class::Slipped);
            answer.is_cut = true;
            read.emit(&answer, read.edns().as_ref(), PLAIN_BYTES_MAX)
        }
        // An error is not longer than the question.
        Err(reply) => reply,
    }
}

struct Read {
    message: Message,
    query: Query,
}

/// The question, or what is to be said when there is none.
fn read(bytes: &[u8]) -> Result<Read, Reply> {
    let Some(header) = bytes.first_chunk::<HEADER_BYTES>().filter(|_| bytes.len() <= QUESTION_BYTES_MAX) else {
        return Err(Reply::nothing());
    };
    let is_answer = header[2] & 0x80 != 0;
    if is_answer {
        return Err(Reply::nothing());
    }
    let op_code = OpCode::from_u8(header[2] >> 3 & 0x0f);
    if op_code != OpCode::Query {
        return Err(Reply::bare(header, ResponseCode::NotImp, Class::NotImp));
    }
    let wrong = || Reply::bare(header, ResponseCode::FormErr, Class::FormErr);
    // One question, and no answers in it.
    if header[4..10] != [0, 1, 0, 0, 0, 0] {
        return Err(wrong());
    }
    let mut message = Message::from_vec(bytes).map_err(|_| wrong())?;
    let query = message.queries.pop().ok_or_else(wrong)?;
    Ok(Read { message, query })
}

impl Read {
    /// What an answer says of EDNS: our own size, and that we saw the wishes about DNSSEC (RFC 3225, RFC 9824). None to who does not speak it.
    fn edns(&self) -> Option<Edns> {
        let asked = self.message.edns.as_ref()?;
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_BYTES_MAX).set_dnssec_ok(asked.flags().dnssec_ok);
        edns.flags_mut().z = asked.flags().z & COMPACT_OK;
        Some(edns)
    }

    fn flags(&self) -> EdnsFlags {
        self.message.edns.as_ref().map(|edns| *edns.flags()).unwrap_or_default()
    }

    fn limit(&self, transport: Transport) -> u16 {
        match transport {
            Transport::Tcp => u16::MAX,
            Transport::Udp => {
                let said = self.message.edns.as_ref().map_or(PLAIN_BYTES_MAX, Edns::max_payload);
                said.clamp(PLAIN_BYTES_MAX, UDP_BYTES_MAX)
            }
        }
    }

    fn emit(&self, answer: &Answer, edns: Option<&Edns>, limit: u16) -> Reply {
        let mut metadata = Metadata::response_from_request(&self.message.metadata);
        metadata.authoritative = answer.is_authoritative;
        metadata.response_code = answer.code;
        metadata.truncation = answer.is_cut;
        metadata.recursion_available = answer.is_recursive;
        // Nothing here is checked.
        metadata.checking_disabled &= answer.is_recursive;
        let mut bytes = Vec::with_capacity(usize::from(PLAIN_BYTES_MAX));
        match self.write(&mut bytes, &metadata, answer, edns, limit) {
            Ok(is_cut) => {
                Reply { bytes: Some(bytes), class: answer.class, is_cut, order: answer.order, is_kept: answer.is_kept }
            }
            // The question alone always fits; it is not known how this could come.
            Err(_) => Reply::bare_of(&metadata, ResponseCode::ServFail, Class::ServFail),
        }
    }

    fn write(
        &self,
        bytes: &mut Vec<u8>,
        metadata: &Metadata,
        answer: &Answer,
        edns: Option<&Edns>,
        limit: u16,
    ) -> Result<bool, ProtoError> {
        let mut encoder = BinEncoder::new(bytes);
        // The last record, which says how to talk, must have room whatever comes before it.
        encoder.set_max_size(limit - edns.map_or(0, |_| OPT_BYTES));
        let header = emit_message_parts(
            metadata,
            &mut std::iter::once(&self.query),
            &mut answer.answers.iter(),
            &mut answer.authorities.iter(),
            &mut Extra { records: &answer.additionals, limit },
            edns,
            None,
            &mut encoder,
        )?;
        // Part of a record that did not fit is still there.
        encoder.trim();
        Ok(header.metadata.truncation)
    }
}

/// Records that only spare a question: as many as fit, and no word about the others (RFC 2181, section 9). They are the last but one.
struct Extra<'a> {
    records: &'a [Record],
    limit: u16,
}

impl EmitAndCount for Extra<'_> {
    fn emit(&mut self, encoder: &mut BinEncoder<'_>) -> Result<usize, ProtoError> {
        let count = match encoder.emit_all(self.records.iter()) {
            Err(ProtoError::NotAllRecordsWritten { count, .. }) => Ok(count),
            written => written,
        };
        encoder.set_max_size(self.limit);
        count
    }
}

impl Answer {
    fn of(code: ResponseCode, class: Class) -> Self {
        let (answers, authorities, additionals) = (Vec::new(), Vec::new(), Vec::new());
        let order = Order::Fixed;
        Self {
            code,
            is_authoritative: false,
            answers,
            authorities,
            additionals,
            is_cut: false,
            is_recursive: false,
            class,
            order,
            is_kept: false,
        }
    }
}

impl Reply {
    /// No answer at all.
    pub fn nothing() -> Self {
        Self { bytes: None, class: Class::Dropped, is_cut: false, order: Order::Fixed, is_kept: false }
    }

    /// A header alone, for a question that was not understood: its number, its kind, whether it wanted recursion.
    fn bare(header: &[u8; HEADER_BYTES], code: ResponseCode, class: Class) -> Self {
        let mut bytes = vec![header[0], header[1], 0x80 | header[2] & 0x79, code.low()];
        bytes.resize(HEADER_BYTES, 0);
        Self { bytes: Some(bytes), class, is_cut: false, order: Order::Fixed, is_kept: false }
    }

    fn bare_of(metadata: &Metadata, code: ResponseCode, class: Class) -> Self {
        let [high, low] = metadata.id.to_be_bytes();
        let mut header = [0; HEADER_BYTES];
        header[..3].copy_from_slice(&[high, low, u8::from(metadata.recursion_desired)]);
        Self::bare(&header, code, class)
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let message = self.bytes.as_ref().map(|bytes| Message::from_vec(bytes));
        f.debug_struct("Reply").field("class", &self.class).field("is_cut", &self.is_cut).field("is", &message).finish()
    }
}

#[cfg(test)]
mod tests;
