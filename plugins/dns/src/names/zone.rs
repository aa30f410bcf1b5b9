//! One zone and the names in it: hosts of routes, and records that an application says.

use std::collections::BTreeSet;
use std::sync::Arc;

use hickory_proto::rr::rdata::{A, AAAA, CNAME, MX, NS, NULL, SRV, TXT};
use hickory_proto::rr::{Name, RData, RecordType};
use hirsel_model::spec::{Domain, NameSpec, RecordData, ZONE_TTL_S, ZoneSpec, owner_name};

use super::shared::{Keep, Shared};
use super::{name, parents};

/// Bytes of one piece of a text (RFC 1035, section 3.3).
const PIECE_BYTES: usize = 255;

/// A zone that is answered for.
#[derive(Clone, Debug)]
pub struct Zone {
    /// In lower case, without a final dot.
    pub name: String,
    /// Whether it is the cluster's own.
    pub is_internal: bool,
    /// The same on the wire, for records.
    pub apex: Name,
    spec: Arc<ZoneSpec>,
    held: Shared<Held>,
    /// Names from which on others answer. Mostly there are none, and nobody looks for them.
    cuts: usize,
}

/// What there is at a name. Where it holds nothing itself there is something below (RFC 8020).
#[derive(Clone, Debug, Default)]
pub struct Held {
    /// A route is for it.
    pub is_host: bool,
    /// What an application says of it.
    pub own: Option<Arc<Own>>,
    /// Names below it that hold something.
    below: u32,
}

/// Records of a name.
#[derive(Debug)]
pub struct Own {
    /// Seconds that they may be kept.
    pub ttl_s: u32,
    /// The other name that is meant.
    pub alias: Option<Name>,
    /// Others answer for it, and for all below.
    pub is_cut: bool,
    /// The records, those of a kind after each other.
    pub data: Vec<(RecordType, RData)>,
    /// The hosts that these lead to.
    pub hosts: Vec<Name>,
}

impl Held {
    fn keep(&self) -> Keep {
        if self.is_host || self.own.is_some() || self.below > 0 { Keep::Yes } else { Keep::No }
    }

    fn holds(&self) -> bool {
        self.is_host || self.own.is_some()
    }
}

impl Own {
    fn new(spec: &NameSpec, zone: &ZoneSpec) -> Self {
        let mut own = Self {
            ttl_s: spec.ttl_s.or(zone.ttl_s).unwrap_or(ZONE_TTL_S),
            alias: None,
            is_cut: false,
            data: Vec::with_capacity(spec.data.len()),
            hosts: Vec::new(),
        };
        for data in &spec.data {
            match data {
                RecordData::Cname(target) => own.alias = Some(wire(target)),
                RecordData::Ns(_) => own.is_cut = true,
                _ => {}
            }
            let host = data.host().filter(|host| !host.is_root()).map(wire);
            own.hosts.extend(host.filter(|host| !own.hosts.contains(host)));
            own.data.push(record(data));
        }
        own
    }

    /// The records of a kind.
    pub fn of(&self, kind: RecordType) -> impl Iterator<Item = &RData> {
        self.data.iter().filter(move |(of, _)| *of == kind).map(|(_, data)| data)
    }
}

impl Zone {
    pub(super) fn new(name_: &str, is_internal: bool) -> Self {
        let apex = name(format_args!("{name_}"));
        let spec = Arc::default();
        Self { name: name_.into(), is_internal, apex, spec, held: Shared::default(), cuts: 0 }
    }

    /// What is at `name`, which is in it.
    pub fn held(&self, name: &str) -> Option<&Held> {
        self.held.get(name)
    }

    /// The part of `name` below this zone, without the dot between; none when it is not in it.
    pub fn rest<'n>(&self, name: &'n str) -> Option<&'n str> {
        let above = name.strip_suffix(self.name.as_str())?;
        if above.is_empty() { Some(above) } else { above.strip_suffix('.') }
    }

    /// The name, `at` itself or above it, from which on others answer, and its records. The one nearest to the zone counts.
    pub fn cut<'n>(&self, at: &'n str) -> Option<(&'n str, &Own)> {
        if self.cuts == 0 {
            return None;
        }
        let inner = std::iter::once(at).chain(parents(at)).take_while(|name| name.len() > self.name.len());
        let cuts = inner.filter_map(|name| Some((name, self.held.get(name)?.own.as_deref().filter(|own| own.is_cut)?)));
        cuts.last()
    }

    /// Whether it is as an application says.
    pub(super) fn follows(&self, spec: &Arc<ZoneSpec>) -> bool {
        Arc::ptr_eq(&self.spec, spec) || self.spec == *spec
    }

    /// Takes over what an application says, and tells how many names that touches.
    pub(super) fn follow(&mut self, spec: &Arc<ZoneSpec>) -> usize {
        let before = std::mem::replace(&mut self.spec, spec.clone());
        let is_new = |owner: &str| before.ttl_s != spec.ttl_s || before.records.get(owner) != spec.records.get(owner);
        let owners: BTreeSet<&String> = before.records.keys().chain(spec.records.keys()).collect();
        let mut touched = 0;
        for owner in owners.into_iter().filter(|owner| is_new(owner)) {
            let own = spec.records.get(owner).map(|records| Arc::new(Own::new(records, spec)));
            self.alter(&owner_name(owner, &self.name.clone()), |held| held.own = own);
            touched += 1;
        }
        touched
    }

    /// Takes up or forgets the host of a route.
    pub(super) fn set_host(&mut self, host: &str, is_host: bool) {
        self.alter(host, |held| held.is_host = is_host);
    }

    fn alter(&mut self, at: &str, alter: impl FnOnce(&mut Held)) {
        let (mut held_before, mut held_after, mut cuts) = (false, false, self.cuts);
        let is_cut = |held: &Held| usize::from(held.own.as_ref().is_some_and(|own| own.is_cut));
        self.held.alter(at, |held| {
            held_before = held.holds();
            cuts -= is_cut(held);
            alter(held);
            held_after = held.holds();
            cuts += is_cut(held);
            held.keep()
        });
        self.cuts = cuts;
        if held_before == held_after {
            return;
        }
        for above in parents(at).take_while(|above| above.len() >= self.name.len()) {
            self.held.alter(above, |held| {
                held.below = if held_after { held.below + 1 } else { held.below.saturating_sub(1) };
                held.keep()
            });
        }
    }
}

/// A name for the wire, in the case it was written in.
fn wire(domain: &Domain) -> Name {
    if domain.is_root() { Name::root() } else { name(format_args!("{}", domain.as_str().trim_end_matches('.'))) }
}

fn record(data: &RecordData) -> (RecordType, RData) {
    let data = match data {
        RecordData::A(addr) => RData::A(A(*addr)),
        RecordData::Aaaa(addr) => RData::AAAA(AAAA(*addr)),
        RecordData::Cname(target) => RData::CNAME(CNAME(wire(target))),
        RecordData::Ns(server) => RData::NS(NS(wire(server))),
        RecordData::Mx { preference, exchange } => RData::MX(MX::new(*preference, wire(exchange))),
        RecordData::Srv { priority, weight, port, target } => {
            RData::SRV(SRV::new(*priority, *weight, *port, wire(target)))
        }
        RecordData::Txt(text) if text.is_empty() => RData::TXT(TXT::from_bytes(vec![b""])),
        RecordData::Txt(text) => RData::TXT(TXT::from_bytes(text.as_bytes().chunks(PIECE_BYTES).collect())),
        // As its bytes: what tags mean is not known here, and need not be.
        RecordData::Caa { critical, tag, value } => {
            let head = [u8::from(*critical) << 7, u8::try_from(tag.len()).unwrap_or(0)];
            let bytes = [&head[..], tag.as_bytes(), value.as_bytes()].concat();
            RData::Unknown { code: RecordType::CAA, rdata: NULL::with(bytes) }
        }
    };
    (data.record_type(), data)
}
