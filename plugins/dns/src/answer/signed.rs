//! What is said besides to who wants it signed: signatures, and proof of what is not there (RFC 9824).
//!
//! Invariants: to who does not want signatures nothing is different but the keys, which all may ask for. What is not ours to say (the
//! servers of a delegation, and their addresses) is not signed. No set of records is signed that is not whole.

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, Record, RecordType};
use hirsel_model::dnssec::DNSKEY_TTL_S;

use super::{Answer, Knowledge, Question, ZONE_TTL_S, ttl};
use crate::dnssec::wire::{NXNAME, Next, nsec};
use crate::dnssec::{Signer, Window};
use crate::metrics::Class;
use crate::names::{Held, Place, Zone, text};

const ADDRESSES: [RecordType; 2] = [RecordType::A, RecordType::AAAA];

impl Knowledge<'_> {
    /// Who signs for `zone` what is said to this question; none where nobody does, or nobody wants it.
    pub(super) fn signer(&self, question: Question<'_>, zone: &Zone) -> Option<&Signer> {
        self.window.filter(|_| question.wants_signatures).and_then(|_| self.names.signers.of(&zone.name))
    }

    /// Says that there is nothing: no such name where `place` is none, else nothing of the kind that was asked for.
    pub(super) fn nothing(&self, answer: &mut Answer, question: Question<'_>, zone: &Zone, place: Option<Place<'_>>) {
        if self.signer(question, zone).is_some() {
            let proof = self.proof(answer, question, zone, place);
            if proof.is_empty() {
                return;
            }
            if place.is_none() && !question.takes_nxdomain {
                answer.code = ResponseCode::NoError;
            }
            answer.authorities.extend(proof);
        }
        answer.authorities.push(self.soa(zone, zone.apex.clone()));
    }

    /// Proof of what there is at the name asked for, with its signature. None, and the answer that we cannot say, of a name that is as
    /// long as any can be: somebody tries something.
    pub(super) fn proof(
        &self,
        answer: &mut Answer,
        question: Question<'_>,
        zone: &Zone,
        place: Option<Place<'_>>,
    ) -> Vec<Record> {
        let kinds = match place {
            None => vec![NXNAME],
            Some(place) => kinds(place).into_iter().filter(|kind| *kind != question.kind).collect(),
        };
        // Whoever asks a delegation for its keys.
        let is_cut = matches!(place, Some(Place::Held(held)) if held.own.as_ref().is_some_and(|own| own.is_cut));
        let next = if is_cut { Next::Beside } else { Next::Below };
        let proof = self.proven(question, zone, question.name, next, kinds);
        if proof.is_empty() {
            (answer.code, answer.class) = (ResponseCode::ServFail, Class::ServFail);
        }
        proof
    }

    /// Proof that others answer for `cut`, who sign nothing as far as we know.
    pub(super) fn unsigned(&self, question: Question<'_>, zone: &Zone, cut: &Name) -> Vec<Record> {
        self.proven(question, zone, cut, Next::Beside, vec![RecordType::NS])
    }

    fn proven(
        &self,
        question: Question<'_>,
        zone: &Zone,
        owner: &Name,
        next: Next,
        kinds: Vec<RecordType>,
    ) -> Vec<Record> {
        let (Some(signer), Some(window)) = (self.signer(question, zone), self.window) else { return Vec::new() };
        let Some(data) = nsec(owner, next, kinds) else { return Vec::new() };
        let mut proof = vec![Record::from_rdata(owner.clone(), ttl(zone), data)];
        proof.extend(self.names.signers.sign(signer, &proof, window));
        proof
    }

    /// The keys of a zone, and what the zone above shall say of them.
    pub(super) fn keys(&self, answer: &mut Answer, question: Question<'_>, zone: &Zone) {
        let Some(signer) = self.names.signers.of(&zone.name) else { return };
        let say = |data: &_| Record::from_rdata(question.name.clone(), DNSKEY_TTL_S, Clone::clone(data));
        answer.answers.extend(signer.told(question.kind).map(say));
    }

    /// What the zone `above` says of the keys of `zone`, both of which are ours.
    pub(super) fn below(&self, answer: &mut Answer, question: Question<'_>, above: &Zone, zone: &Zone) {
        answer.is_authoritative |= answer.answers.is_empty();
        answer.is_kept |= answer.answers.is_empty();
        (answer.code, answer.class) = (ResponseCode::NoError, Class::Answered);
        if self.signer(question, above).is_some_and(|signer| !signer.is_ready()) {
            (answer.code, answer.class, answer.is_kept) = (ResponseCode::ServFail, Class::ServFail, false);
            return;
        }
        let keys = self.names.signers.of(&zone.name).map(Signer::above).unwrap_or_default();
        let say = |data: &_| Record::from_rdata(question.name.clone(), ZONE_TTL_S, Clone::clone(data));
        answer.answers.extend(keys.iter().map(say));
        if keys.is_empty() {
            answer.class = Class::NoData;
            answer.authorities.extend(self.unsigned(question, above, question.name));
            answer.authorities.push(self.soa(above, above.apex.clone()));
        }
    }

    /// Signs what is ours in an answer about `kind`.
    pub(super) fn sign(&self, answer: &mut Answer, kind: RecordType, window: Window) {
        if !answer.is_cut {
            answer.answers = self.with_signatures(std::mem::take(&mut answer.answers), window);
        }
        if kind == RecordType::RRSIG {
            answer.answers.retain(|record| record.record_type() == kind);
        }
        answer.authorities = self.with_signatures(std::mem::take(&mut answer.authorities), window);
        answer.additionals = self.with_signatures(std::mem::take(&mut answer.additionals), window);
    }

    fn with_signatures(&self, records: Vec<Record>, window: Window) -> Vec<Record> {
        let mut all = Vec::with_capacity(records.len() * 2);
        let is_set = |one: &Record, other: &Record| one.record_type() == other.record_type() && one.name == other.name;
        for set in records.chunk_by(is_set) {
            all.extend_from_slice(set);
            if let Some(signer) = set.first().and_then(|record| self.signer_of(record)) {
                all.extend(self.names.signers.sign(signer, set, window));
            }
        }
        all
    }

    /// Who signs a set of records that this one is of; none where it is not ours, or is signed already.
    fn signer_of(&self, record: &Record) -> Option<&Signer> {
        let (kind, owner) = (record.record_type(), text(&record.name));
        let zone = match kind {
            RecordType::NSEC | RecordType::RRSIG => return None,
            // Of those of a zone of ours it is said below that zone.
            RecordType::DS => self.names.above(&owner)?,
            _ => self.names.zone(&owner)?.0,
        };
        zone.cut(&owner).is_none().then(|| self.names.signers.of(&zone.name)).flatten()
    }
}

/// The kinds of records that there may be at a place. One that is listed and not there harms nothing; one that is there and not listed
/// would be denied.
fn kinds(place: Place<'_>) -> Vec<RecordType> {
    match place {
        Place::Apex(at) => {
            let own = [RecordType::SOA, RecordType::NS, RecordType::DNSKEY, RecordType::CDNSKEY, RecordType::CDS];
            own.into_iter().chain(at.into_iter().flat_map(held)).collect()
        }
        Place::Between => Vec::new(),
        Place::Held(at) | Place::Wild(at) => held(at).collect(),
        Place::Server(_) | Place::App(_) => ADDRESSES.into(),
        Place::ByProtocol(_) => vec![RecordType::SRV],
        Place::Service(_) | Place::Instance(_) | Place::Node(_) | Place::Objects | Place::Bucket => {
            ADDRESSES.into_iter().chain([RecordType::SRV, RecordType::TXT]).collect()
        }
    }
}

fn held(held: &Held) -> impl Iterator<Item = RecordType> {
    let addresses = ADDRESSES.into_iter().filter(|_| held.is_host);
    addresses.chain(held.own.iter().flat_map(|own| own.data.iter().map(|(kind, _)| *kind)))
}
