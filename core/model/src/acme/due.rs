//! What is due, and when.

use std::collections::BTreeSet;

use super::*;
use crate::control::Command;

/// A third of its lifetime before its end a certificate is renewed: of ninety days thirty, which leaves a month for whatever is wrong.
const LEFT_PART: u64 = 3;
/// By up to this part of its lifetime it is renewed earlier, so that a thousand hosts that came on one day do not all renew on one.
const SPREAD_PART: u64 = 30;
/// A window of a directory that ends so late that less than this part of the lifetime is left is not waited for.
const LAST_PART: u64 = 10;

/// How things stand with a host that asks for a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing<'a> {
    /// Nobody said where certificates come from.
    Unset,
    /// One that people brought is good for it.
    Covered {
        /// Which.
        name: &'a CertificateName,
        /// When it ends.
        until: WallTime,
    },
    /// One that people brought and that is not good for it has its name.
    Taken,
    /// Its certificate is good.
    Good {
        /// When it will be renewed.
        renew_at: WallTime,
    },
    /// It is to get one now.
    Due(Why),
    /// It failed, and is tried again later.
    Waiting {
        /// What it is to get one for.
        why: Why,
        /// What failed, and when it is tried again.
        trouble: &'a Trouble,
    },
}

/// Why a host is to get a certificate, the most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// It has none, or one that expired.
    Lacking,
    /// An operator wants it.
    Wished,
    /// What it has ends before long, or its directory wants it to be replaced.
    Renewal,
}

impl Why {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Why::Lacking => "it has no certificate that is good",
            Why::Wished => "an operator wants another one",
            Why::Renewal => "it is time to renew",
        }
    }
}

/// How things stand with `host`, which asks for a certificate. `brought` is of the same state.
pub fn standing<'a>(state: &'a ControlState, brought: &Brought<'a>, host: &str, wall: WallTime) -> Standing<'a> {
    if let Some((name, until)) = brought.covering(host, wall) {
        return Standing::Covered { name, until };
    }
    let acme = &state.acme;
    let Ok(name) = host.parse::<CertificateName>() else { return Standing::Taken };
    let certificate = state.certificates.named.get(&name);
    if certificate.is_some_and(|it| it.automatic.is_none()) {
        return Standing::Taken;
    }
    let renew_at = certificate.map(|it| renew_at(host, it));
    let why = match (certificate, renew_at) {
        (Some(it), _) if it.facts.not_after <= wall => Why::Lacking,
        (Some(_), _) if acme.wishes.contains(host) => Why::Wished,
        (Some(_), Some(renew_at)) if wall < renew_at => return Standing::Good { renew_at },
        (Some(_), _) => Why::Renewal,
        (None, _) => Why::Lacking,
    };
    match acme.troubles.get(host) {
        _ if acme.settings.is_none() => Standing::Unset,
        Some(trouble) if wall < trouble.again_at => Standing::Waiting { why, trouble },
        _ => Standing::Due(why),
    }
}

/// When `certificate` of `host` is to be renewed. The same on every node at every time, until the certificate or its window changes.
pub fn renew_at(host: &str, certificate: &Certificate) -> WallTime {
    let facts = &certificate.facts;
    let (start, end) = (facts.not_before.0, facts.not_after.0);
    let life = end.saturating_sub(start);
    let part = part_of(host, certificate.version);
    let spread = |length: u64| ((u128::from(length) * u128::from(part)) >> 32) as u64;
    let usual = end.saturating_sub(life / LEFT_PART).saturating_sub(spread(life / SPREAD_PART));
    let window = certificate.automatic.as_ref().and_then(|it| it.window.as_ref());
    let Some(Window { start, end: until, url: _ }) = window else { return WallTime(usual) };
    let chosen = start.0.saturating_add(spread(until.0.saturating_sub(start.0)));
    WallTime(chosen.min(end.saturating_sub(life / LAST_PART)))
}

/// A draw from 0 to 2^32 that belongs to a host and a version: FNV-1a, mixed.
fn part_of(host: &str, version: u64) -> u32 {
    let bytes = host.bytes().chain(version.to_le_bytes());
    let hash =
        bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    (hash.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
}

/// Whether the cluster should make itself an account now: some host is due, and there is none at the directory.
pub fn account_is_due(state: &ControlState, wall: WallTime) -> bool {
    let Acme { settings, account, account_trouble, .. } = &state.acme;
    let Some(settings) = settings else { return false };
    let known = account.as_ref().is_some_and(|account| account.directory == settings.directory);
    let waits = account_trouble.as_ref().is_some_and(|trouble| wall < trouble.again_at);
    if known || waits {
        return false;
    }
    let brought = Brought::of(state);
    hosts(state).into_iter().any(|host| matches!(standing(state, &brought, host, wall), Standing::Due(_)))
}

/// The hosts that are to be ordered for now, besides those of `busy`, which are: the most urgent first, and no more than may be.
pub fn due(state: &ControlState, wall: WallTime, busy: &BTreeSet<String>) -> Vec<String> {
    let Acme { settings: Some(settings), account: Some(account), .. } = &state.acme else { return Vec::new() };
    if account.directory != settings.directory {
        return Vec::new();
    }
    let brought = Brought::of(state);
    let ends = |host: &str| certificate(state, host).map_or(WallTime(0), |it| it.facts.not_after);
    let mut all: Vec<(Why, WallTime, &str)> = hosts(state)
        .into_iter()
        .filter(|host| !busy.contains(*host))
        .filter_map(|host| match standing(state, &brought, host, wall) {
            Standing::Due(why) => Some((why, ends(host), host)),
            _ => None,
        })
        .collect();
    all.sort();
    let room =
        ORDERS_MAX.saturating_sub(busy.len()).min(ORDERS_WITHIN_MAX.saturating_sub(lately(state, wall) + busy.len()));
    all.into_iter().take(room).map(|(_, _, host)| host.to_owned()).collect()
}

/// How many orders ended lately, as far as that is still known: the last one of each host.
fn lately(state: &ControlState, wall: WallTime) -> usize {
    let is_late = |at: WallTime| wall.0.saturating_sub(at.0) < ORDERS_WITHIN_MS;
    let issued = state.certificates.named.values().filter(|it| it.automatic.is_some() && is_late(it.set_at)).count();
    issued + state.acme.troubles.values().filter(|it| is_late(it.at)).count()
}

/// When something may become due by time alone; none when nothing will.
pub fn next_look(state: &ControlState, wall: WallTime) -> Option<WallTime> {
    state.acme.settings.as_ref()?;
    let brought = Brought::of(state);
    let at = |host: &str| match standing(state, &brought, host, wall) {
        Standing::Good { renew_at } => Some(renew_at),
        Standing::Waiting { trouble, .. } => Some(trouble.again_at),
        Standing::Covered { until, .. } => Some(until),
        Standing::Due(_) | Standing::Taken | Standing::Unset => None,
    };
    let account = state.acme.account_trouble.as_ref().map(|trouble| trouble.again_at);
    let asked = hosts(state);
    // Those that nobody asks for are forgotten when they end.
    let strangers =
        state.certificates.named.iter().filter(|(name, it)| it.automatic.is_some() && !asked.contains(name.as_str()));
    let ends = strangers.map(|(_, it)| it.facts.not_after);
    asked.iter().filter_map(|host| at(host)).chain(account).chain(ends).filter(|at| *at > wall).min()
}

/// What is left of what nobody wants any more, as a change; none when there is nothing: challenges of no order under way, what is noted of
/// hosts that ask for nothing, and their certificates once they ended.
pub fn tidy(state: &ControlState, wall: WallTime, busy: &BTreeSet<String>) -> Option<Command> {
    let acme = &state.acme;
    let asked = hosts(state);
    let idle = acme.challenges.keys().filter(|host| !busy.contains(*host));
    let strangers = acme.troubles.keys().chain(&acme.wishes).filter(|host| !asked.contains(host.as_str()));
    let hosts: BTreeSet<String> = idle.chain(strangers).cloned().collect();
    if !hosts.is_empty() {
        return Some(Command::Acme { change: Change::Withdraw { hosts } });
    }
    let ended = state
        .certificates
        .named
        .iter()
        .find(|(name, it)| it.automatic.is_some() && it.facts.not_after <= wall && !asked.contains(name.as_str()));
    ended.map(|(name, _)| Command::RemoveCertificate { name: name.clone() })
}

/// What is known after another failure. `asked` is how long the directory wants to be left alone; `chance` spreads what failed at once.
pub fn after_failure(before: Option<&Trouble>, at: WallTime, words: &str, asked: Option<u64>, chance: u64) -> Trouble {
    let failures = before.map_or(0, |before| before.failures).saturating_add(1);
    let doubled = WAIT_FIRST_MS.saturating_mul(1_u64 << (failures - 1).min(20)).min(WAIT_MAX_MS);
    // By up to a fourth longer.
    let wait = doubled + chance % (doubled / 4);
    let wait = wait.max(asked.unwrap_or(0).min(ASKED_WAIT_MAX_MS));
    let words = crate::control::limits::cut(words, WORDS_BYTES_MAX);
    Trouble { failures, at, again_at: WallTime(at.0.saturating_add(wait)), words }
}
