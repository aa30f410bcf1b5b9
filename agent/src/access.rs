//! Access keys of the object store on their way: secrets in, sealed by whoever holds the sealing key, and out, to every member, for each
//! answers clients. Master keys go the same way, and are drawn by the leader, as the access keys of applications are.
//!
//! A node keeps them in memory, and on disk sealed with a key of its own, so that it answers after a restart without anybody.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use data_encoding::BASE32_NOPAD;
use futures::FutureExt;
use hirsel_mesh::seam::Chance;
use hirsel_model::access::{
    AccessKeyId, Change, ID_BYTES, ID_PREFIX, KeyStep, MASTER_KEY_BYTES, MASTER_PURPOSE, May, key_step, master_is_due,
    purpose, serves,
};
use hirsel_model::codec::{decode, encode};
use hirsel_model::control::{Command, ControlState};
use hirsel_model::secret::Sealed;
use hirsel_model::{AccountName, AppName, NodeId};
use hirsel_role::access::{AccessKey, AccessKeys, MasterKey};
use hirsel_role::secret::Plain;
use serde::{Deserialize, Serialize};
use tokio::time::sleep;
use tracing::debug;

use crate::acme::propose;
use crate::known::{self, Kept, Kind};
use crate::sealing;
use crate::secrets::{SealedValue, sealed_by_holder};
use crate::shared::Shared;

/// The kind of call by which a secret is sealed.
const SEAL_CALL: &str = "access-seal";
/// Where a node keeps them, in its data folder.
pub const FILE: &str = "access-keys";
/// Between two tries to draw a master key.
const PAUSE: Duration = Duration::from_secs(1);
/// Bytes that are drawn for a secret: 200 bits, which are 40 letters and digits. None of these has a meaning in a URL or to a shell.
const SECRET_DRAWN: usize = 25;

/// A secret to seal.
#[derive(Serialize, Deserialize)]
struct Question {
    id: AccessKeyId,
    secret: String,
}

/// What is kept on disk.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Rows {
    keys: Vec<(AccessKeyId, u64, AccountName, May, String)>,
    master: Vec<(u64, Sealed)>,
    apps: Vec<(AppName, AccessKeyId)>,
}

/// Access keys and master keys, for every member.
#[derive(Debug)]
pub struct Access;

impl Kind for Access {
    type Have = AccessKeys;
    type Rows = Rows;

    const WHAT: &'static str = "access keys";
    const CALL: &'static str = "access-keys";
    const ANSWER_WITHIN: Duration = Duration::from_secs(2);
    const KEPT: Option<Kept> = Some(Kept {
        file: FILE,
        purpose: "access keys of this node",
        otherwise: "this node's object store cannot answer again without a voter",
    });

    fn needed(state: &ControlState, node: NodeId) -> BTreeMap<u64, (String, &Sealed)> {
        let sealed = state.access.sealed().filter(|_| serves(state, node));
        sealed.map(|(version, purpose, sealed)| (version, (purpose, sealed))).collect()
    }

    fn is_settled(state: &ControlState, node: NodeId, have: &AccessKeys) -> bool {
        let serves = serves(state, node);
        // What the key of an application may do follows what is applied.
        let keys = state.access.keys.iter().filter(|_| serves).map(|(id, it)| (id, it.version, &it.may));
        let master = state.access.master.keys().filter(|_| serves);
        keys.eq(have.keys.iter().map(|(id, it)| (id, it.version, &it.may)))
            && master.eq(have.master.keys())
            && state.access.apps.iter().filter(|_| serves).eq(&have.apps)
    }

    fn versions(have: &AccessKeys) -> BTreeSet<u64> {
        have.keys.values().map(|it| it.version).chain(have.master.keys().copied()).collect()
    }

    fn follow(state: &ControlState, node: NodeId, have: &AccessKeys, mut told: BTreeMap<u64, Vec<u8>>) -> AccessKeys {
        let mut next = AccessKeys::default();
        if !serves(state, node) {
            return next;
        }
        for (id, it) in &state.access.keys {
            let had = have.keys.get(id).filter(|had| had.version == it.version);
            let had = had.map(|had| AccessKey { may: it.may.clone(), ..had.clone() });
            let came = || {
                let secret = Plain(String::from_utf8(told.remove(&it.version)?).ok()?);
                Some(AccessKey { version: it.version, account: it.account.clone(), may: it.may.clone(), secret })
            };
            next.keys.extend(had.or_else(came).map(|key| (id.clone(), key)));
        }
        for version in state.access.master.keys() {
            let had = have.master.get(version).cloned();
            let came = || Some(MasterKey(told.remove(version)?.try_into().ok()?));
            next.master.extend(had.or_else(came).map(|key| (*version, key)));
        }
        next.apps.clone_from(&state.access.apps);
        next
    }

    fn rows(have: &AccessKeys) -> Option<Rows> {
        let AccessKeys { keys, master, apps } = have;
        if keys.is_empty() && master.is_empty() {
            return None;
        }
        let key = |(id, it): (&AccessKeyId, &AccessKey)| {
            let AccessKey { version, account, may, secret } = it.clone();
            (id.clone(), version, account, may, secret.0)
        };
        let master = master.iter().map(|(version, key)| (*version, Sealed(key.0.to_vec())));
        let apps = apps.iter().map(|(app, id)| (app.clone(), id.clone()));
        Some(Rows { keys: keys.iter().map(key).collect(), master: master.collect(), apps: apps.collect() })
    }

    fn of_rows(rows: Rows) -> AccessKeys {
        let key = |(id, version, account, may, secret)| {
            let secret = Plain(secret);
            (id, AccessKey { version, account, may, secret })
        };
        let master = |(version, key): (u64, Sealed)| Some((version, MasterKey(key.0.try_into().ok()?)));
        AccessKeys {
            keys: rows.keys.into_iter().map(key).collect(),
            master: rows.master.into_iter().filter_map(master).collect(),
            apps: rows.apps.into_iter().collect(),
        }
    }
}

/// Registers what this agent answers.
pub fn serve(shared: &Arc<Shared>) {
    let agent = shared.clone();
    shared.transport.serve(SEAL_CALL, move |_, body| {
        let answer = seal_here(&agent, &body);
        async move { answer }.boxed()
    });
    known::serve::<Access>(shared);
}

/// An id and a secret that nobody else ever gets.
pub fn draw(chance: &dyn Chance) -> (AccessKeyId, String) {
    // Ten bytes are sixteen letters and digits.
    let mut drawn = [0; (ID_BYTES - ID_PREFIX.len()) / 8 * 5];
    chance.fill(&mut drawn);
    let id = format!("{ID_PREFIX}{}", BASE32_NOPAD.encode(&drawn));
    let mut drawn = [0; SECRET_DRAWN];
    chance.fill(&mut drawn);
    (id.parse().expect("capital letters and digits"), BASE32_NOPAD.encode(&drawn).to_lowercase())
}

/// Has the secret of an access key sealed, here or by another node that holds the sealing key.
///
/// # Errors
/// In words, without the secret.
pub async fn seal(shared: &Shared, id: &AccessKeyId, secret: String) -> Result<SealedValue, String> {
    let question = encode(&Question { id: id.clone(), secret });
    sealed_by_holder(shared, SEAL_CALL, question, seal_here).await
}

fn seal_here(shared: &Shared, body: &[u8]) -> Result<Vec<u8>, String> {
    // An error of decoding might repeat what it stumbled over.
    let Question { id, secret } = decode(body).map_err(|_| "the question cannot be read".to_owned())?;
    let state = shared.control.state().borrow().clone();
    let key = sealing::key(shared, &state)?;
    let sealed = key.seal(&purpose(&id), secret.as_bytes(), shared.world.chance.as_ref());
    Ok(encode(&SealedValue { sealed, key: key.id(), same: false }))
}

/// Draws the first master key and the access keys of applications when they are due, and takes back those that nobody needs, while this node
/// leads.
pub async fn tend(shared: Arc<Shared>) {
    let mut leadership = shared.control.leadership();
    let mut state = shared.control.state();
    loop {
        let mine = leadership.borrow_and_update().mine;
        let now = state.borrow_and_update().clone();
        let (master, step) = (mine && master_is_due(&now), key_step(&now).filter(|_| mine));
        let due = master || step.is_some();
        if master && let Err(words) = draw_master(&shared, &now).await {
            debug!(words, "master key of the object store not drawn yet");
        }
        if let Some(step) = step
            && let Err(words) = take(&shared, step).await
        {
            debug!(words, "access key of an application not seen to yet");
        }
        drop(now);
        tokio::select! {
            () = sleep(PAUSE), if due => {}
            changed = leadership.changed() => if changed.is_err() { return },
            changed = state.changed(), if mine && !due => if changed.is_err() { return },
            () = shared.stop.cancelled() => return,
        }
    }
}

async fn take(shared: &Shared, step: KeyStep) -> Result<(), String> {
    let change = match step {
        KeyStep::Remove(id) => Change::Remove { id },
        KeyStep::Draw(app) => {
            let (id, secret) = draw(shared.world.chance.as_ref());
            let SealedValue { sealed, key, .. } = seal(shared, &id, secret).await?;
            Change::CreateForApp { app, id, sealed: Sealed(sealed), key }
        }
    };
    propose(shared, Command::Access { change }).await
}

async fn draw_master(shared: &Shared, state: &ControlState) -> Result<(), String> {
    let sealing = sealing::key(shared, state)?;
    let mut drawn = [0; MASTER_KEY_BYTES];
    shared.world.chance.fill(&mut drawn);
    let sealed = Sealed(sealing.seal(MASTER_PURPOSE, &drawn, shared.world.chance.as_ref()));
    let change = Change::DrawMaster { base: state.access.newest_master(), sealed, key: sealing.id() };
    propose(shared, Command::Access { change }).await
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU8, Ordering};

    use hirsel_model::access::{AccessKey as Known, MasterKey as KnownMaster, SECRET_BYTES};

    use super::*;
    use crate::api::fixture;
    use crate::known::lacking;

    #[derive(Debug)]
    struct Counting(AtomicU8);

    impl Chance for Counting {
        fn fill(&self, bytes: &mut [u8]) {
            bytes.fill_with(|| self.0.fetch_add(1, Ordering::Relaxed));
        }
    }

    fn id(letter: char) -> AccessKeyId {
        letter.to_string().repeat(ID_BYTES).parse().unwrap()
    }

    /// The fixture's cluster with two access keys, of versions 1 and 3, and a master key of version 2.
    fn state() -> ControlState {
        let mut state = fixture::state();
        for (letter, version) in [('A', 1), ('B', 3)] {
            let key = Known {
                version,
                at: fixture::NOON,
                account: "main".parse().unwrap(),
                may: May::default(),
                about: String::new(),
                secret: Sealed(Vec::new()),
            };
            state.access.keys.insert(id(letter), Arc::new(key));
        }
        state.access.master.insert(2, KnownMaster { at: fixture::NOON, key: Sealed(Vec::new()) });
        state
    }

    fn told() -> BTreeMap<u64, Vec<u8>> {
        [(1, b"first".to_vec()), (2, vec![7; MASTER_KEY_BYTES]), (3, b"second".to_vec()), (9, b"other".to_vec())].into()
    }

    #[test]
    fn every_member_has_all_of_them_as_they_come_and_what_was_removed_is_gone() {
        let (mut state, me) = (state(), NodeId(3));
        let none = AccessKeys::default();
        assert_eq!(lacking::<Access>(&state, me, &none), [1, 2, 3].into());
        let mut some = told();
        some.remove(&3);
        let early = Access::follow(&state, me, &none, some);
        assert_eq!(lacking::<Access>(&state, me, &early), [3].into());
        assert_eq!(early.encrypts().map(|(version, key)| (version, key.0)), Some((2, [7; MASTER_KEY_BYTES])));
        let all = Access::follow(&state, me, &early, told());
        assert!(Access::is_settled(&state, me, &all) && !Access::is_settled(&state, me, &early));
        assert_eq!(all.keys[&id('B')].secret.0, "second");

        state.access.keys.remove(&id('A'));
        assert!(!Access::is_settled(&state, me, &all));
        let next = Access::follow(&state, me, &all, BTreeMap::new());
        assert!(Access::is_settled(&state, me, &next) && !next.keys.contains_key(&id('A')));
        assert_eq!(Access::follow(&state, NodeId(99), &all, told()), none, "it is no member");
    }

    #[test]
    fn they_are_read_from_disk_as_they_were_and_nothing_prints_a_secret() {
        let all = Access::follow(&state(), NodeId(1), &AccessKeys::default(), told());
        let rows = Access::rows(&all).unwrap();
        assert_eq!(Access::of_rows(decode(&encode(&rows)).unwrap()), all);
        assert!(Access::rows(&AccessKeys::default()).is_none());
        let printed = format!("{all:?}");
        assert!(!printed.contains("first") && !printed.contains('7'), "{printed}");
    }

    #[test]
    fn what_is_drawn_has_the_shape_that_clients_expect() {
        let chance = Counting(AtomicU8::new(0));
        let (id, secret) = draw(&chance);
        assert!(id.as_str().starts_with(ID_PREFIX));
        assert_eq!(secret.len(), SECRET_BYTES);
        assert!(secret.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()));
        assert_ne!(draw(&chance), (id, secret));
    }
}
