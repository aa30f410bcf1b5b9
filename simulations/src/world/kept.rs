//! Objects: what clients do with them, what happens to the disks that they are on, and the count of all pieces in the end.

use std::time::Duration;

use anyhow::Result;

use super::World;
use crate::bug::Bug;
use crate::check::Rule;
use crate::node::Deed;
use crate::objects::{Inspection, Look, expected, is_settled};
use crate::plugins::storage::gateway::Gateway;

/// The first bucket founds all of storage: a table, a group, its voters.
const MADE_WITHIN: Duration = Duration::from_secs(60);
/// Between two tries to make one.
const AGAIN: Duration = Duration::from_secs(3);
/// Once nothing is wrong, and with little to copy, everything is where it should be within this: disks that were replaced are audited
/// twenty seconds after their agent has started.
const SETTLED_WITHIN: Duration = Duration::from_secs(180);
/// An audit, or a look at everything on a disk with some dozens of chunks. The plan may move partitions meanwhile.
const LOOKED_WITHIN: Duration = Duration::from_secs(90);
/// Audits of each node after which nothing more may be found: the first finds what nobody names and what is missing.
const AUDITS_MAX: usize = 4;
/// How many bits flip on a disk that rots wholly.
const FLIPS: usize = 200;

impl World {
    /// Has all buckets made.
    pub fn make_buckets(&mut self) -> Result<()> {
        let ends = self.now() + MADE_WITHIN;
        while !self.guests.are_made() && self.now() < ends {
            let node = &self.nodes[0];
            self.guests.make(self.sim.elapsed(), node);
            let _ = self.until(AGAIN, |world| if world.guests.are_made() { Ok(()) } else { Err(String::new()) })?;
        }
        let made = if self.guests.are_made() { Ok(()) } else { Err("no buckets could be made".into()) };
        self.require(Rule::Objects, made);
        Ok(())
    }

    /// Lets clients use objects, each up to `pause` after its last answer.
    pub fn use_objects(&mut self, pause: Duration) {
        self.guests.ask(self.sim.elapsed(), &self.nodes, pause);
    }

    /// Some bits flip on the disk of a node.
    pub fn rot(&mut self, index: usize, flips: usize) {
        let flipped = (0..flips).filter(|_| self.nodes[index].drive.rot(&mut self.drives)).count();
        self.note(format!("{flipped} bits flip on the disk of {}", self.nodes[index].name));
    }

    /// A sync of the disk of a node is about to fail.
    pub fn fail_sync(&mut self, index: usize) {
        self.nodes[index].drive.fail_sync(&mut self.drives);
        self.note(format!("a sync of the disk of {} is about to fail", self.nodes[index].name));
    }

    /// The gateway of the node that leads the metadata group.
    fn leading(&self) -> Option<Gateway> {
        let gateways =
            self.nodes.iter().filter_map(|node| node.look(|eyes| eyes.storage())?.and_then(|it| it.gateway()));
        gateways.into_iter().find(|gateway| gateway.meta().group().leads())
    }

    /// The node that should have most pieces.
    fn fullest(&self) -> Option<usize> {
        let state = self.newest()?;
        let pieces = expected(&self.leading()?, &state.plan.storage).ok()?;
        let has = |index: &usize| {
            let id = state.spec.node_named(&self.nodes[*index].name).map(|(id, _)| id);
            id.and_then(|id| pieces.get(&id)).map_or(0, Vec::len)
        };
        (0..self.nodes.len()).max_by_key(has)
    }

    fn is_settled(&self) -> Result<(), String> {
        let gateway = self.leading().ok_or("nobody leads the metadata group")?;
        is_settled(&gateway, &self.newest().ok_or("no agent runs")?.plan.storage)
    }

    /// Everything comes to be where it should be, and is counted: by the nodes' own audits, and from outside. Then everything is read
    /// through every node, and what clients were told all the time is judged.
    pub fn judge_objects(&mut self) -> Result<()> {
        if let Err(missing) = self.count_pieces()? {
            self.require(Rule::Objects, Err(missing));
        }
        let (mut asked, mut from) = (0, None);
        while !self.guests.read_all(self.sim.elapsed(), &self.nodes, &mut asked) {
            if asked > 0 {
                from.get_or_insert(self.guests.asked() - 1);
            }
            self.step()?;
        }
        self.require(Rule::Objects, self.guests.all_read(from.unwrap_or_default()));
        let (done, failed, unknown) = self.guests.counts();
        let (given, unread) = {
            let journal = crate::lock(&self.common.objects);
            (journal.given, journal.unread.len())
        };
        self.note(format!(
            "objects: {done} operations done, {failed} failed, {unknown} in doubt; {given} bodies given, {unread} not at once"
        ));
        self.require(Rule::Linear, self.guests.judge());
        Ok(())
    }

    fn count_pieces(&mut self) -> Result<Result<(), String>> {
        match self.until(SETTLED_WITHIN, World::is_settled)? {
            Ok(took) => self.note(format!("objects are settled within {:.1} s", took.as_secs_f64())),
            Err(missing) => return Ok(Err(format!("not within {} s: {missing}", SETTLED_WITHIN.as_secs()))),
        }
        let mut damaged = 0;
        for look in self.inspect(|_| Some(Inspection::Scrub))? {
            match look {
                Ok((_, Look::Scrubbed(found))) => damaged += found,
                Ok(_) => {}
                Err(missing) => return Ok(Err(missing)),
            }
        }
        let (wanted, elsewhere) = match self.audit_until_clean()? {
            Ok(found) => found,
            Err(missing) => return Ok(Err(missing)),
        };
        if self.common.bug == Bug::Rots
            && let Some(fullest) = self.fullest()
        {
            self.rot(fullest, FLIPS);
        }
        let counted = self.count()?;
        self.note(format!(
            "{damaged} damaged pieces were found, {wanted} audited, {elsewhere} elsewhere; counted {counted:?}"
        ));
        Ok(match counted {
            Ok(there) if there as u64 == wanted => Ok(()),
            Ok(there) => Err(format!("audits find {wanted} pieces, and {there} are there")),
            Err(missing) => Err(missing),
        })
    }

    /// Audits until nothing is found: how many pieces are where they should be, and how many elsewhere. What follows from what is found is
    /// waited for.
    fn audit_until_clean(&mut self) -> Result<Result<(u64, u64), String>> {
        let mut last = String::new();
        for _ in 0..AUDITS_MAX {
            let (mut sum, mut unclean) = ((0, 0), None);
            for look in self.inspect(|_| Some(Inspection::Audit))? {
                match look {
                    Ok((name, Look::Audited(found))) => {
                        if !found.is_complete() || found.damaged + found.unknown + found.open + found.homeless > 0 {
                            unclean.get_or_insert(format!("{name} audits {found:?}"));
                        }
                        sum = (sum.0 + found.wanted, sum.1 + found.elsewhere);
                    }
                    Ok(_) => {}
                    Err(missing) => return Ok(Err(missing)),
                }
            }
            match unclean {
                None => return Ok(Ok(sum)),
                Some(words) => last = words,
            }
            if let Err(missing) = self.until(SETTLED_WITHIN, World::is_settled)? {
                return Ok(Err(format!("after an audit, not within {} s: {missing}", SETTLED_WITHIN.as_secs())));
            }
        }
        Ok(Err(format!("after {AUDITS_MAX} audits {last}")))
    }

    /// How many pieces are where they should be, each read; an error names some that are not.
    fn count(&mut self) -> Result<Result<usize, String>> {
        let Some(state) = self.newest() else { return Ok(Err("no agent runs".into())) };
        let leading = self.leading().ok_or("nobody leads the metadata group".to_string());
        let pieces = match leading.and_then(|gateway| expected(&gateway, &state.plan.storage)) {
            Ok(pieces) => pieces,
            Err(missing) => return Ok(Err(missing)),
        };
        let of = |name: &str| state.spec.node_named(name).and_then(|(id, _)| pieces.get(&id)).cloned();
        let looks = self.inspect(|name| of(name).map(Inspection::Count))?;
        let mut sum = 0;
        for look in looks {
            match look {
                Ok((name, Look::Counted(missing, there))) => {
                    sum += there;
                    if let Some(first) = missing.first() {
                        return Ok(Err(format!(
                            "{name} lacks {} of {}: {first}",
                            missing.len(),
                            missing.len() + there
                        )));
                    }
                }
                Ok(_) => {}
                Err(missing) => return Ok(Err(missing)),
            }
        }
        Ok(Ok(sum))
    }

    /// Has nodes look at their disks, all at once, and waits for what they find.
    fn inspect(&mut self, what: impl Fn(&str) -> Option<Inspection>) -> Result<Vec<Result<(String, Look), String>>> {
        crate::lock(&self.common.inspections).clear();
        let mut waiting = Vec::new();
        for node in &self.nodes {
            if let Some(inspection) = what(&node.name) {
                node.ask(Deed::Inspect(inspection));
                waiting.push(node.name.clone());
            }
        }
        let missing = |world: &World| {
            let found = crate::lock(&world.common.inspections);
            waiting.iter().find(|name| !found.contains_key(*name)).cloned()
        };
        let looked = self.until(LOOKED_WITHIN, |world| missing(world).map_or(Ok(()), Err))?;
        if let Err(name) = looked {
            return Ok(vec![Err(format!("{name} did not look at its disk within {} s", LOOKED_WITHIN.as_secs()))]);
        }
        Ok(std::mem::take(&mut *crate::lock(&self.common.inspections)).into_iter().map(Ok).collect())
    }
}
