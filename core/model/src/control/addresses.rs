//! Floating addresses that the cluster shall hold.

use std::net::IpAddr;

use super::{Context, ControlState, Outcome, Refusal, not_found};
use crate::spec::{ADDRESSES_MAX, AddressSpec, Network};

/// Holds `address` from here on, or holds it in another way.
pub(super) fn set(
    state: &mut ControlState,
    context: &Context,
    address: IpAddr,
    spec: AddressSpec,
) -> Result<Outcome, Refusal> {
    spec.check(address).map_err(|error| Refusal::Invalid(error.to_string()))?;
    let known = state.spec.addresses.get(&address);
    if known == Some(&spec) {
        return Ok(context.done());
    }
    if let Some((_, node)) = state.spec.nodes.iter().find(|(_, node)| node.addr.ip() == address) {
        return Err(Refusal::Invalid(format!("{address} is the own address of node {}", node.name)));
    }
    if known.is_none() && state.spec.addresses.len() >= ADDRESSES_MAX {
        let value = state.spec.addresses.len() as u64 + 1;
        return Err(Refusal::Limit { what: "number of floating addresses".into(), value, limit: ADDRESSES_MAX as u64 });
    }
    let shown = Network { address, prefix: spec.prefix };
    let on = spec.interface.as_ref().map_or_else(String::new, |name| format!(" on {name}"));
    state.spec.addresses.insert(address, spec);
    state.spec_index = context.index;
    context.happened(state, address, &format!("the cluster shall hold {shown}{on}"));
    Ok(context.done())
}

/// Holds `address` no more.
pub(super) fn remove(state: &mut ControlState, context: &Context, address: IpAddr) -> Result<Outcome, Refusal> {
    state.spec.addresses.remove(&address).ok_or_else(|| not_found("address", address))?;
    state.spec_index = context.index;
    context.happened(state, address, &format!("the cluster shall not hold {address} any more"));
    Ok(context.done())
}

#[cfg(test)]
mod tests {
    use crate::control::samples::cluster;
    use crate::control::{Command, ControlState, Entry, Outcome, Refusal};
    use crate::spec::{ADDRESSES_MAX, AddressSpec};
    use crate::time::WallTime;

    fn run(state: &mut ControlState, command: Command) -> Outcome {
        let entry = Entry { at: WallTime(0), by: String::new(), if_index: None, command };
        state.apply(state.applied.next(), entry)
    }

    fn set(address: [u8; 4], prefix: u8) -> Command {
        Command::SetAddress { address: address.into(), spec: AddressSpec { prefix, interface: None } }
    }

    #[test]
    fn an_address_is_held_from_its_command_on_until_another_one() {
        let mut state = cluster(1);
        assert!(matches!(run(&mut state, set([192, 0, 2, 10], 24)), Outcome::Done { .. }));
        let since = state.spec_index;
        assert_eq!(since, state.applied);
        // Said again it is no change.
        assert!(matches!(run(&mut state, set([192, 0, 2, 10], 24)), Outcome::Done { .. }));
        assert_eq!(state.spec_index, since);
        assert!(matches!(run(&mut state, set([192, 0, 2, 10], 28)), Outcome::Done { .. }));
        assert_eq!(state.spec.addresses[&[192, 0, 2, 10].into()].prefix, 28);
        let remove = || Command::RemoveAddress { address: [192, 0, 2, 10].into() };
        assert!(matches!(run(&mut state, remove()), Outcome::Done { .. }));
        assert!(matches!(run(&mut state, remove()), Outcome::Refused(Refusal::NotFound { .. })));
    }

    #[test]
    fn what_no_node_could_hold_and_what_a_node_has_is_refused() {
        let mut state = cluster(1);
        assert!(matches!(run(&mut state, set([127, 0, 0, 1], 8)), Outcome::Refused(Refusal::Invalid(_))));
        let Outcome::Refused(refusal) = run(&mut state, set([10, 0, 0, 1], 24)) else { panic!("it is taken") };
        assert_eq!(refusal.to_string(), "10.0.0.1 is the own address of node n1");
        for last in 1..=ADDRESSES_MAX as u8 {
            assert!(matches!(run(&mut state, set([192, 0, 2, last], 24)), Outcome::Done { .. }));
        }
        assert!(matches!(run(&mut state, set([192, 0, 2, 200], 24)), Outcome::Refused(Refusal::Limit { .. })));
    }
}
