//! Why instances start and go, as the plan records it.

use super::{Fate, Shift};
use crate::id::*;
use crate::plan::Because;
use crate::spec::{AppSpec, ServiceSpec, UpdateOrder};

impl Shift<'_, '_> {
    /// One too many, because a better placed one was started for balance, or because fewer are wanted.
    pub(super) fn because_excess(&self, at: usize, app: &AppSpec) -> (Because, String) {
        let service = format!("{}/{}", self.group.app, self.group.service);
        let others = self.group.members.iter().enumerate().filter(|(other, member)| *other != at && member.is_active());
        let newest = others.map(|(_, member)| &member.assigned).max_by_key(|assigned| assigned.since);
        match newest.map(|assigned| (assigned.node, &assigned.reason.because)) {
            Some((node, because @ Because::Joined { .. })) => {
                (because.clone(), format!("{} runs {service} in its place", self.ground.name(node)))
            }
            Some(_) | None => {
                let (name, revision) = (self.group.app.clone(), app.revision);
                (Because::Applied { app: name, revision }, format!("{service} runs on {} elsewhere", self.group.want()))
            }
        }
    }

    /// It may not stay where it is, or as it is, or is not wanted at all.
    pub(super) fn because_going(&self, at: usize) -> (Because, String) {
        let member = &self.group.members[at];
        let (app, service) = (&self.group.app, &self.group.service);
        let node = member.assigned.node;
        match self.fate(at) {
            Some(Fate::Displaced) => {
                (Because::Drained { node }, format!("{} may not keep {app}/{service}", self.ground.name(node)))
            }
            Some(Fate::Outdated) => self.because_updated(),
            Some(Fate::Unwanted | Fate::Good) | None => {
                let revision = self.group.spec.map_or(member.assigned.revision, |(app, _)| app.revision);
                (Because::Applied { app: app.clone(), revision }, format!("{app}/{service} is not wanted any more"))
            }
        }
    }

    /// Another revision takes its place.
    pub(super) fn because_updated(&self) -> (Because, String) {
        let (app, revision) = (self.group.app.clone(), self.target);
        if self.is_reverted() {
            let failed = self.group.spec.map(|(_, service)| service.revision).unwrap_or_default();
            let text = format!("revision {failed} did not become healthy; back to revision {revision}");
            (Because::Reverted { app, revision: failed }, text)
        } else {
            (Because::Updated { app, revision }, format!("update to revision {revision}"))
        }
    }

    /// Why instances are missing that nothing stands in for: lost with their node, replaced after a stop, or never started.
    pub(super) fn because_missing(
        &self,
        app: &AppSpec,
        service: &ServiceSpec,
        missing: usize,
    ) -> Vec<(Because, String)> {
        let lost = self.group.lost.iter();
        let mut becauses: Vec<_> =
            lost.map(|node| (Because::Lost { node: *node }, format!("{} is lost", self.ground.name(*node)))).collect();
        becauses.truncate(missing);
        let (name, revision) = (self.group.app.clone(), self.target);
        let updated = service.update.order == UpdateOrder::StopFirst
            && self.group.members.iter().any(|member| {
                let because = &member.assigned.reason.because;
                member.assigned.revision != revision
                    || matches!(because, Because::Updated { revision: to, .. } if *to == revision)
            });
        let let_go = self.draft.let_go.get(&(name.clone(), self.group.service.clone()));
        let of_this = |id: &InstanceId| id.app == self.group.app && id.service == self.group.service;
        let letting_go = self.draft.plan.letting_go.iter().rfind(|(id, _)| service.exclusive && of_this(id));
        let letting_go = letting_go.map(|(_, letting)| &letting.reason);
        let rest = if let Some(why) = let_go.or(letting_go) {
            (why.because.clone(), why.text.clone())
        } else if self.is_reverted() || updated {
            self.because_updated()
        } else {
            let text = format!("{}/{} runs on {}", self.group.app, self.group.service, self.group.want());
            (Because::Applied { app: name, revision: app.revision }, text)
        };
        becauses.resize(missing, rest);
        becauses
    }
}
