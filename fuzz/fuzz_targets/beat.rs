#![no_main]
//! What a member tells the others about floating addresses: signed by it, so that what is in it is reached, and said twice.
use std::sync::LazyLock;

use hirsel_address::wire;
use hirsel_mesh::identity::NodeKey;
use hirsel_mesh::seam::real;
use hirsel_model::floating::Ledger;
use hirsel_model::order::{AddressOrder, BeatMember};
use hirsel_model::{ClusterId, Incarnation, NodeId};
use hirsel_role::Voice;

static MEMBER: LazyLock<(Voice, AddressOrder)> = LazyLock::new(|| {
    let key = NodeKey::generate(real::chance().as_ref());
    let member = BeatMember { name: "n1".parse().unwrap(), key: key.public(), incarnation: Incarnation(2) };
    let order = AddressOrder { members: [(NodeId(1), member)].into(), ..AddressOrder::default() };
    (Voice::new(ClusterId("c".into()), Incarnation(2), key), order)
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let (voice, order) = &*MEMBER;
    let mut ledger = Ledger::default();
    assert!(wire::read(voice, order, &mut ledger, bytes).is_none(), "unsigned");
    if let Some(signed) = voice.sign(wire::PURPOSE, bytes) {
        let first = wire::read(voice, order, &mut ledger, &signed);
        assert!(first.is_none_or(|_| wire::read(voice, order, &mut ledger, &signed).is_none()), "taken twice");
    }
});
