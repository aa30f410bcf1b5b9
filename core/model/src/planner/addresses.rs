//! Who may hold each floating address, and in which order.
//!
//! Candidates are the nodes with a slot of lb that have an interface with the address's network (or the one that was named). A list is
//! left as it is for as long as its members are fit: the first one that lives holds the address, so whoever comes new is added at the
//! end. The first places are spread over nodes, and so are the second ones, so that what a lost node held goes to several.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use super::ground::{Ground, Row};
use super::{Draft, reason};
use crate::feature;
use crate::id::*;
use crate::plan::{AddressCandidate, AddressPlan, Because, Plan, Reason};
use crate::report::{AddressFacts, RoleFacts};
use crate::spec::{AddressSpec, Availability, Network};

/// A node that came and went is not put first for the sake of balance before it was steady this long.
const BALANCE_STEADY: Duration = Duration::from_secs(60);

/// Lists the candidates of every address. The slots of the draft are given already.
pub(super) fn list(ground: &Ground, draft: &mut Draft) {
    let spec = &ground.view.spec;
    if ground.view.level < feature::ADDRESS.level || (spec.addresses.is_empty() && draft.plan.addresses.is_empty()) {
        return;
    }
    let before = std::mem::take(&mut draft.plan.addresses);
    let mut lists = Lists::default();
    for (address, wish) in &spec.addresses {
        let known: Vec<AddressCandidate> = before.get(address).map_or_else(Vec::new, |list| list.candidates.clone());
        let fit = fit(ground, &draft.plan, *address, wish, &known);
        // A host is asked for its interfaces from the first address on, so that for a moment nobody has said anything.
        let unknown = ground.rows.iter().all(|row| !balances(&draft.plan, row.id) || facts(row).is_none());
        if fit.is_empty() && !unknown {
            draft.unmet(format!("address/{address}"), nobody(ground, &draft.plan, *address, wish));
        }
        lists.keep(*address, &known, fit);
    }
    lists.fill();
    if !draft.plan.brake {
        lists.balance(ground);
    }
    for (address, candidates) in lists.ordered {
        if candidates.is_empty() {
            continue;
        }
        let list = match before.get(&address) {
            Some(list) if list.candidates == candidates => list.clone(),
            known => {
                let known = known.map_or(&[][..], |list| &list.candidates);
                AddressPlan { reason: why(ground, known, &candidates), candidates, since: draft.generation }
            }
        };
        draft.plan.addresses.insert(address, list);
    }
}

/// Why a node that holds no place in the list of `address` cannot; for the log.
pub(super) fn objection(row: &Row, plan: &Plan, address: IpAddr, wish: &AddressSpec) -> Option<String> {
    if !balances(plan, row.id) {
        return Some("holds no slot of lb".into());
    }
    match facts(row) {
        None => Some("has not said which interfaces it has".into()),
        Some(facts) => place(row.id, facts, address, wish).err(),
    }
}

fn balances(plan: &Plan, node: NodeId) -> bool {
    plan.roles.get(&RoleName::lb()).is_some_and(|slots| slots.values().any(|slot| slot.node == node))
}

fn facts<'a>(row: &Row<'a>) -> Option<&'a AddressFacts> {
    match &row.facts?.report.as_deref()?.roles.get(&RoleName::address())?.facts {
        RoleFacts::Address(facts) => Some(facts).filter(|facts| facts.unable.is_some() || !facts.interfaces.is_empty()),
        RoleFacts::None | RoleFacts::Compute(_) | RoleFacts::Lb(_) | RoleFacts::Storage(_) | RoleFacts::Unknown => None,
    }
}

/// The nodes that may hold `address`. One that has not spoken yet stays where it was.
fn fit(
    ground: &Ground,
    plan: &Plan,
    address: IpAddr,
    wish: &AddressSpec,
    known: &[AddressCandidate],
) -> BTreeMap<NodeId, AddressCandidate> {
    let rows = ground.rows.iter().filter(|row| balances(plan, row.id));
    let candidate = |row: &Row| match facts(row) {
        None => known.iter().find(|candidate| candidate.node == row.id).cloned(),
        Some(facts) => place(row.id, facts, address, wish).ok(),
    };
    rows.filter_map(|row| Some((row.id, candidate(row)?))).collect()
}

/// Where a host would carry `address`; or why nowhere.
fn place(node: NodeId, facts: &AddressFacts, address: IpAddr, wish: &AddressSpec) -> Result<AddressCandidate, String> {
    if let Some(unable) = &facts.unable {
        return Err(unable.clone());
    }
    let candidate = |interface: &str, at| AddressCandidate { node, interface: interface.to_owned(), at };
    let named = |name: &&String| wish.interface.as_ref().is_none_or(|wanted| wanted == *name);
    let interfaces = || facts.interfaces.iter().filter(|(name, _)| named(name));
    let near = interfaces().find_map(|(name, has)| {
        let own = has.iter().find(|own| own.address != address && own.contains(address))?;
        Some(candidate(name, own.address))
    });
    if let Some(near) = near {
        return Ok(near);
    }
    let Some(wanted) = &wish.interface else {
        let network = Network { address, prefix: wish.prefix }.base();
        return Err(format!("has no interface with an address in {network}"));
    };
    let Some(has) = facts.interfaces.get(wanted) else { return Err(format!("has no interface {wanted} that is up")) };
    let own = |kind: bool| has.iter().find(|own| own.address != address && own.address.is_ipv4() == kind);
    match own(address.is_ipv4()).or_else(|| own(!address.is_ipv4())) {
        Some(own) => Ok(candidate(wanted, own.address)),
        None => Err(format!("has no address of its own on {wanted}")),
    }
}

/// How many nodes are named that cannot hold an address: three are enough to see what is wrong.
const NAMED_MAX: usize = 3;

fn nobody(ground: &Ground, plan: &Plan, address: IpAddr, wish: &AddressSpec) -> String {
    let rows = ground.rows.iter().filter(|row| balances(plan, row.id));
    let words = rows.filter_map(|row| Some(format!("{} {}", row.spec.name, objection(row, plan, address, wish)?)));
    let words: Vec<String> = words.take(NAMED_MAX).collect();
    match words.is_empty() {
        true => "no node balances load".into(),
        false => format!("no node that balances load can hold it: {}", words.join("; ")),
    }
}

/// All lists while they are made.
#[derive(Default)]
struct Lists {
    ordered: BTreeMap<IpAddr, Vec<AddressCandidate>>,
    /// Those that are fit and in no place yet.
    rest: BTreeMap<IpAddr, BTreeMap<NodeId, AddressCandidate>>,
    /// How often each node has each place.
    places: BTreeMap<(usize, NodeId), usize>,
}

impl Lists {
    /// Whoever is fit stays in its order.
    fn keep(&mut self, address: IpAddr, known: &[AddressCandidate], mut fit: BTreeMap<NodeId, AddressCandidate>) {
        let kept: Vec<AddressCandidate> = known.iter().filter_map(|one| fit.remove(&one.node)).collect();
        for (place, candidate) in kept.iter().enumerate() {
            *self.places.entry((place, candidate.node)).or_default() += 1;
        }
        self.ordered.insert(address, kept);
        self.rest.insert(address, fit);
    }

    /// Everybody else is added at the end, where they have that place least often.
    fn fill(&mut self) {
        for (address, list) in &mut self.ordered {
            let rest = self.rest.entry(*address).or_default();
            while !rest.is_empty() {
                let place = list.len();
                let often = |node: NodeId| self.places.get(&(place, node)).copied().unwrap_or(0);
                let Some(best) = rest.keys().copied().min_by_key(|node| (often(*node), *node)) else { break };
                list.extend(rest.remove(&best));
                *self.places.entry((place, best)).or_default() += 1;
            }
        }
    }

    /// Nobody is first for two more addresses than somebody else could be.
    fn balance(&mut self, ground: &Ground) {
        let steady = |node: NodeId| {
            let row = ground.row(node).map(|row| &ground.rows[row]);
            row.is_some_and(|row| {
                let settled = row.facts.is_some_and(|facts| facts.steady_for >= BALANCE_STEADY);
                row.open && (!row.flapped || settled)
            })
        };
        // Each step makes the difference smaller, so that there are no more than there are addresses.
        for _ in 0..self.ordered.len() {
            let mut firsts: BTreeMap<NodeId, usize> = BTreeMap::new();
            for list in self.ordered.values() {
                for (place, candidate) in list.iter().enumerate() {
                    *firsts.entry(candidate.node).or_default() += usize::from(place == 0);
                }
            }
            let count = |node: NodeId| firsts.get(&node).copied().unwrap_or(0);
            let moved = self.ordered.values_mut().find_map(|list| {
                let first = count(list.first()?.node);
                let idle = (1..list.len()).filter(|place| steady(list[*place].node));
                let to = idle.min_by_key(|place| count(list[*place].node))?;
                (count(list[to].node) + 2 <= first).then(|| list[..=to].rotate_right(1))
            });
            if moved.is_none() {
                return;
            }
        }
    }
}

fn why(ground: &Ground, before: &[AddressCandidate], now: &[AddressCandidate]) -> Reason {
    let nodes = |list: &[AddressCandidate]| list.iter().map(|one| one.node).collect::<BTreeSet<NodeId>>();
    let (were, are) = (nodes(before), nodes(now));
    let names: Vec<String> = now.iter().map(|one| ground.name(one.node)).collect();
    let order = match names.split_first() {
        Some((first, [])) => format!("{first}, and nobody else"),
        Some((first, others)) => format!("{first}, or the first that lives of {}", others.join(", ")),
        None => "nobody".into(),
    };
    let gone = were.difference(&are).next().copied();
    let new = are.difference(&were).next().copied();
    let (because, what) = match (gone, new) {
        _ if before.is_empty() => (Because::Wanted, "the cluster shall hold it".into()),
        (Some(node), _) => {
            let name = ground.name(node);
            let row = ground.row(node).map(|row| &ground.rows[row]);
            match row.map(|row| (row.lost, row.spec.availability)) {
                None | Some((true, _)) => (Because::Lost { node }, format!("{name} is lost")),
                Some((false, Availability::Draining | Availability::Leaving)) => {
                    (Because::Drained { node }, format!("{name} gives away what it has"))
                }
                Some((false, Availability::Open | Availability::Cordoned)) => {
                    (Because::Wanted, format!("{name} is not fit for it any more"))
                }
            }
        }
        (None, Some(node)) => (Because::Joined { node }, format!("{} may hold it too", ground.name(node))),
        (None, None) if before.iter().map(|one| one.node).eq(now.iter().map(|one| one.node)) => {
            (Because::Wanted, "an interface or an own address changed".into())
        }
        (None, None) => (Because::Wanted, "addresses are spread over nodes".into()),
    };
    reason(because, format!("{what}: {order}"))
}
