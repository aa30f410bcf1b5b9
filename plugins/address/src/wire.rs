//! A beat on the wire: a signature, and behind it the beat in MessagePack. One datagram holds the signs of life for a few addresses, so
//! that it fits into a packet of any network.

use std::net::IpAddr;

use hirsel_model::floating::{Beat, Ledger, Say};
use hirsel_model::order::AddressOrder;
use hirsel_model::{NodeId, codec};
use hirsel_role::Voice;
use hirsel_role::voice::SIGNATURE_BYTES;

/// What a member signs beats for.
pub const PURPOSE: &str = "beat";
/// Addresses in one datagram. With three candidates each takes about 150 bytes.
pub const SAYS_MAX: usize = 4;
/// Longer datagrams are none of ours: a beat about [`SAYS_MAX`] addresses with ten candidates each.
pub const BEAT_BYTES_MAX: usize = 4096;

/// The datagrams that tell `says`, numbered from `counter` on. Returns the next number with them.
pub fn write(voice: &Voice, me: NodeId, mut counter: u64, says: &[(IpAddr, Say)]) -> (Vec<Vec<u8>>, u64) {
    let mut datagrams = Vec::new();
    for says in says.chunks(SAYS_MAX) {
        counter += 1;
        let beat = Beat { node: me, incarnation: voice.incarnation(), counter, says: says.to_vec() };
        datagrams.extend(voice.sign(PURPOSE, &codec::encode(&beat)));
    }
    (datagrams, counter)
}

/// The beat in a datagram, if a member sent it and it is new. What costs little is looked at before the signature.
pub fn read(voice: &Voice, order: &AddressOrder, ledger: &mut Ledger, datagram: &[u8]) -> Option<Beat> {
    if datagram.len() > BEAT_BYTES_MAX {
        return None;
    }
    let beat: Beat = codec::decode(datagram.get(SIGNATURE_BYTES..)?).ok()?;
    let member = order.members.get(&beat.node)?;
    voice.verify(PURPOSE, &member.key, datagram)?;
    ledger.admits(&beat, member.incarnation).then_some(beat)
}

#[cfg(test)]
mod tests {
    use hirsel_mesh::identity::NodeKey;
    use hirsel_mesh::seam::real;
    use hirsel_model::order::BeatMember;
    use hirsel_model::{ClusterId, Incarnation};
    use proptest::prelude::*;

    use super::*;

    fn voice() -> ([u8; 32], Voice) {
        let key = NodeKey::generate(real::chance().as_ref());
        (key.public(), Voice::new(ClusterId("c".into()), Incarnation(2), key))
    }

    fn order(key: [u8; 32]) -> AddressOrder {
        let member = BeatMember { name: "n1".parse().unwrap(), key, incarnation: Incarnation(2) };
        AddressOrder { members: [(NodeId(1), member)].into(), ..AddressOrder::default() }
    }

    fn says(count: u8) -> Vec<(IpAddr, Say)> {
        let hears = (1..=10).map(|node| (NodeId(node), Default::default())).collect();
        let say = Say { hears, ..Say::default() };
        (1..=count).map(|last| (IpAddr::from([192, 0, 2, last]), say.clone())).collect()
    }

    #[test]
    fn a_beat_is_read_once_and_only_from_a_member() {
        let (key, voice) = voice();
        let (datagrams, counter) = write(&voice, NodeId(1), 7, &says(6));
        assert_eq!((datagrams.len(), counter), (2, 9));
        assert!(datagrams.iter().all(|it| it.len() <= BEAT_BYTES_MAX), "{:?}", datagrams.iter().map(Vec::len));
        let mut ledger = Ledger::default();
        let first = read(&voice, &order(key), &mut ledger, &datagrams[0]).expect("a beat");
        assert_eq!((first.counter, first.says), (8, says(6)[..SAYS_MAX].to_vec()));
        assert_eq!(read(&voice, &order(key), &mut ledger, &datagrams[0]), None, "the second time");
        assert_eq!(read(&voice, &AddressOrder::default(), &mut Ledger::default(), &datagrams[0]), None);
        assert_eq!(read(&voice, &order([1; 32]), &mut Ledger::default(), &datagrams[0]), None);
    }

    #[test]
    fn the_beat_of_three_candidates_fits_into_the_smallest_packet_of_ipv6() {
        let hears = (1..=2).map(|node| (NodeId(node), Default::default())).collect();
        let say = Say { hears, ..Say::default() };
        let says: Vec<(IpAddr, Say)> =
            (1..=4).map(|last| (IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, last]), say.clone())).collect();
        let (datagrams, _) = write(&voice().1, NodeId(1), 1 << 40, &says);
        assert!(datagrams[0].len() <= 1232, "{}", datagrams[0].len());
    }

    proptest! {
        #[test]
        fn whatever_else_comes_is_no_beat(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let (key, voice) = voice();
            prop_assert_eq!(read(&voice, &order(key), &mut Ledger::default(), &bytes), None);
        }
    }
}
