//! One authority follows another, and nobody who knew the one before is turned away.

use super::*;
use crate::identity::{Former, JoinToken, fingerprint};

/// The authority after `old`, and what is remembered of that.
fn succeed(herd: &Herd, old: &Authority) -> (Authority, Former) {
    let (new, successor) = old.succeed(&herd.cluster, &*herd.chance, herd.clock.wall()).unwrap();
    let former = Former { ca: old.certificate().to_vec(), successor, dropped: false };
    (new, former)
}

fn certified_by(herd: &Herd, authority: &Authority, identity: &Identity) -> Vec<u8> {
    let csr = NodeKey::from_pkcs8(&identity.key).unwrap().csr();
    authority.issue(identity.node, &herd.cluster, &csr, herd.clock.wall()).unwrap()
}

#[tokio::test]
async fn nodes_follow_one_after_another_and_all_calls_are_answered() {
    let herd = Herd::new(91);
    let nodes = herd.nodes(2).await;
    nodes.iter().for_each(Node::serve_echo);
    let (new, former) = succeed(&herd, &herd.authority);
    // Between any two of these steps both are reached anew.
    let both = async || {
        for node in &nodes {
            node.transport.shared.endpoint.close(0u32.into(), b"");
        }
        let again = [herd.start(current(&nodes[0]), 0).await, herd.start(current(&nodes[1]), 0).await];
        again.iter().for_each(Node::serve_echo);
        assert_eq!(again[0].echo(NodeId(2), "x").await.unwrap(), "1:x");
        assert_eq!(again[1].echo(NodeId(1), "x").await.unwrap(), "2:x");
    };
    let renewed = |index: usize| certified_by(&herd, &new, &nodes[index].identity);
    assert!(nodes[0].transport.renew(renewed(0)).is_err(), "it is of an authority that is not known yet");
    nodes[0].transport.follow_authority(new.certificate().to_vec(), vec![former.clone()]).unwrap();
    assert!(!nodes[0].transport.is_current());
    both().await;
    // In the same second as the one before it.
    nodes[0].transport.renew(renewed(0)).unwrap();
    assert!(nodes[0].transport.is_current() && nodes[1].transport.is_current(), "each by what it knows");
    both().await;
    nodes[1].transport.follow_authority(new.certificate().to_vec(), vec![former.clone()]).unwrap();
    both().await;
    nodes[1].transport.renew(renewed(1)).unwrap();
    both().await;
    // The former authority signs nothing that counts any more.
    herd.clock.0.fetch_add(86_400_000, Ordering::Relaxed);
    let old = certified_by(&herd, &herd.authority, &nodes[0].identity);
    assert!(nodes[0].transport.renew(old).is_err());
}

/// As whom a node would start again.
fn current(node: &Node) -> Identity {
    node.transport.shared.tls.held()
}

#[tokio::test]
async fn a_node_that_was_away_for_several_authorities_comes_back_with_its_pinned_key() {
    let herd = Herd::new(92);
    let (mut newest, mut former) = (None::<Authority>, Vec::new());
    for _ in 0..3 {
        let (new, was) = succeed(&herd, newest.as_ref().unwrap_or(&herd.authority));
        former.push(Former { dropped: true, ..was });
        newest = Some(new);
    }
    let newest = newest.unwrap();
    let mut here = herd.identity(1);
    (here.ca, here.former) = (newest.certificate().to_vec(), former.clone());
    here.cert = certified_by(&herd, &newest, &here);
    let here = herd.start(here, 0).await;
    let away = herd.start(herd.identity(2), 0).await;
    [&here, &away].into_iter().for_each(Node::serve_echo);
    // Long enough for its certificate to end, too.
    herd.clock.0.fetch_add(365 * 86_400_000, Ordering::Relaxed);
    assert_eq!(away.echo(NodeId(1), "x").await.unwrap(), "2:x");
    assert_eq!(here.echo(NodeId(2), "x").await.unwrap(), "1:x");
    away.transport.follow_authority(newest.certificate().to_vec(), former).unwrap();
    away.transport.renew(certified_by(&herd, &newest, &away.identity)).unwrap();
    assert!(away.transport.is_current());
    // One whose key is not pinned has nothing of that.
    herd.unpin(NodeId(2));
    within(async { while away.echo(NodeId(1), "x").await.is_ok() {} }).await;
}

#[tokio::test]
async fn a_token_or_a_pin_of_a_former_authority_leads_to_the_present_one_and_no_further() {
    let herd = Herd::new(93);
    let (new, former) = succeed(&herd, &herd.authority);
    let mut identity = herd.identity(1);
    (identity.ca, identity.former) = (new.certificate().to_vec(), vec![former]);
    identity.cert = certified_by(&herd, &new, &identity);
    let node = herd.start(identity, 0).await;
    node.transport.serve_join(|_, _| Box::pin(async { Ok(b"welcome".to_vec()) }));
    node.transport.serve_https(|_| Box::pin(std::future::pending()));
    let addr = node.transport.advertise();
    let present = fingerprint(new.certificate());
    for ca in [herd.authority.certificate(), new.certificate()] {
        let token = JoinToken::create(&*herd.chance, ca);
        assert_eq!(join_request(&node.world, addr, &token, vec![]).await.unwrap(), b"welcome");
        let (_, of) = connect_https(&node.world, addr, token.ca_fingerprint).await.unwrap();
        assert_eq!(of, Some(present), "what to pin from now on");
    }
    // Whoever has seen the new one does not go back: a certificate of the former is none, whatever comes with it.
    let mut thief = herd.identity(2);
    thief.former = node.identity.former.clone();
    let thief = herd.start(thief, 0).await;
    thief.transport.serve_https(|_| Box::pin(std::future::pending()));
    assert!(connect_https(&node.world, thief.transport.advertise(), present).await.is_err());
    // And a stranger who shows both, but was certified by neither, is believed by nobody.
    let strangers = Herd::new(94);
    let mut stranger = strangers.identity(3);
    (stranger.ca, stranger.former) = (node.identity.ca.clone(), node.identity.former.clone());
    let stranger = strangers.start(stranger, 0).await;
    stranger.transport.serve_https(|_| Box::pin(std::future::pending()));
    for pin in [present, fingerprint(herd.authority.certificate())] {
        assert!(connect_https(&node.world, stranger.transport.advertise(), pin).await.is_err());
    }
}
