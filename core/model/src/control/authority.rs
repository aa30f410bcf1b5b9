//! Commands about the authority of the cluster, which certifies nodes.
//!
//! A new one is signed by the one before it, so that whoever knows only that one can follow. The former key is forgotten at once: from
//! then on nobody can certify with it. The former certificate is remembered, for nodes that were away and for people who pinned it.

use super::{Context, ControlState, Outcome, Refusal, secrets};
use crate::secret::Sealed;
use crate::time::WallTime;

/// Former authorities that are remembered. Each adds two certificates to every handshake; whoever was away for longer joins anew.
pub const FORMER_AUTHORITIES_MAX: usize = 3;

/// An authority that certifies no more.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FormerAuthority {
    /// Its certificate, DER.
    pub ca: Sealed,
    /// The key of the next one, certified by it, DER.
    pub successor: Sealed,
    /// When it was replaced.
    pub replaced_at: WallTime,
    /// Every node that was alive has a certificate of its successor.
    pub dropped: bool,
}

/// The authority that follows.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewAuthority {
    /// Certificate of the one it follows.
    pub base: Sealed,
    /// Its own certificate.
    pub ca: Sealed,
    /// Its key, certified by the one it follows.
    pub successor: Sealed,
    /// Its private key, sealed.
    pub ca_key: Sealed,
    /// With which key.
    pub key: String,
}

pub(super) fn want(state: &mut ControlState, context: &Context) -> Result<Outcome, Refusal> {
    if state.cluster.authority_wanted {
        return Ok(context.done());
    }
    secrets::check_ready(state)?;
    if state.cluster.former.iter().any(|former| !former.dropped) {
        let message = "the last authority was replaced a moment ago, and not every live node has a new certificate";
        return Err(Refusal::Unsafe(format!("{message}; see: hirsel cert list")));
    }
    state.cluster.authority_wanted = true;
    context.happened(state, "authority", "the authority that certifies nodes shall be replaced");
    Ok(context.done())
}

pub(super) fn replace(state: &mut ControlState, context: &Context, new: NewAuthority) -> Result<Outcome, Refusal> {
    secrets::check_key(state, &new.key)?;
    if state.cluster.ca != new.base.0 {
        return Err(Refusal::Invalid("the authority was replaced meanwhile".into()));
    }
    let former = FormerAuthority {
        ca: Sealed(std::mem::replace(&mut state.cluster.ca, new.ca.0)),
        successor: new.successor,
        replaced_at: context.at,
        dropped: false,
    };
    state.cluster.former.push(former);
    if state.cluster.former.len() > FORMER_AUTHORITIES_MAX {
        state.cluster.former.remove(0);
    }
    state.cluster.sealed_ca_key = new.ca_key.0;
    state.cluster.authority_wanted = false;
    context.happened(state, "authority", "a new authority certifies nodes; every node gets a new certificate");
    Ok(context.done())
}

pub(super) fn drop_former(state: &mut ControlState, context: &Context, ca: &Sealed) -> Result<Outcome, Refusal> {
    let Some(former) = state.cluster.former.iter_mut().find(|former| former.ca == *ca && !former.dropped) else {
        return Ok(context.done());
    };
    former.dropped = true;
    let message =
        "every live node has a certificate of the new authority; the former one is believed only with a pinned key";
    context.happened(state, "authority", message);
    Ok(context.done())
}

#[cfg(test)]
mod tests {
    use super::super::samples::cluster;
    use super::super::{Command, Entry};
    use super::*;

    fn run(state: &mut ControlState, command: Command) -> Result<(), String> {
        let entry = Entry { at: WallTime(1_000), by: "admin@n1".into(), if_index: None, command };
        match state.apply(state.applied.next(), entry) {
            Outcome::Refused(refusal) => Err(refusal.to_string()),
            Outcome::Done { .. } | Outcome::Admitted { .. } | Outcome::Lengthened { .. } => Ok(()),
        }
    }

    fn new(base: u8) -> Command {
        let bytes = |byte| Sealed(vec![byte]);
        let new = NewAuthority {
            base: bytes(base),
            ca: bytes(base + 1),
            successor: bytes(100 + base),
            ca_key: bytes(200),
            key: "00000000000000aa".into(),
        };
        Command::ReplaceAuthority { new }
    }

    #[test]
    fn one_authority_follows_another_and_the_last_ones_are_remembered() {
        let mut state = cluster(3);
        assert!(run(&mut state, Command::RotateAuthority).unwrap_err().contains("not ready"));
        state.cluster.sealing.key = "00000000000000aa".into();
        state.cluster.ca = vec![1];
        for number in 1..6 {
            run(&mut state, Command::RotateAuthority).unwrap();
            assert!(state.cluster.authority_wanted);
            run(&mut state, new(number)).unwrap();
            assert_eq!((state.cluster.ca.as_slice(), state.cluster.authority_wanted), (&[number + 1][..], false));
            assert!(run(&mut state, new(number)).unwrap_err().contains("replaced meanwhile"));
            let early = run(&mut state, Command::RotateAuthority).unwrap_err();
            assert!(early.contains("not every live node"), "{early}");
            run(&mut state, Command::DropAuthority { ca: Sealed(vec![number]) }).unwrap();
        }
        let known: Vec<_> = state.cluster.former.iter().map(|former| former.ca.0[0]).collect();
        assert_eq!(known, [3, 4, 5]);
        assert_eq!(state.cluster.sealed_ca_key, [200]);
    }
}
