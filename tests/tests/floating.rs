//! Floating addresses on hosts with a network of their own: who holds one when its holder loses power, is cut off, stands still or drains,
//! and while nobody leads.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use hirsel_tests::cluster::{Cluster, HTTP_PORT, array, sample};
use hirsel_tests::netns::{self, Network};
use hirsel_tests::power;
use hirsel_tests::visitor::Visitor;
use hirsel_tests::{lacks, wait_for};
use rustix::process::Signal;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(60);
/// What is promised is about one second; builds of tests are slow and their machines shared.
const GAP_MAX: Duration = Duration::from_secs(8);
/// A connection begun while an address moves is tried again by its host after 1, 3 and 7 s. A client that has less patience than two of
/// these counts a host that was slow to move it as a failure.
const PATIENCE: Duration = Duration::from_secs(10);

/// Who holds the address, as the cluster knows it and as it is on hosts 1 to 3; waits until it is one node in both.
fn holder(cluster: &Cluster, network: &Network, address: IpAddr) -> String {
    let (holder, _) = wait_for("one node holds the address", SOON, || {
        let listed = cluster.any().ask(["address", "list"]).try_data()?;
        let holders: Vec<&str> =
            listed[0]["holders"].as_array().into_iter().flatten().filter_map(|it| it.as_str()).collect();
        let on: Vec<String> =
            (1..=3).filter(|host| network.has(*host, address)).map(|host| format!("n{host}")).collect();
        if on.len() == 1 && holders == [on[0].as_str()] { Ok(on[0].clone()) } else { Err(format!("{on:?} {listed}")) }
    });
    holder
}

/// Waits until one of the hosts has the address.
fn on(network: &Network, hosts: &[u8], address: IpAddr) -> u8 {
    let (host, _) = wait_for("one host has the address", SOON, || {
        let on: Vec<u8> = hosts.iter().copied().filter(|host| network.has(*host, address)).collect();
        if let [one] = on.as_slice() { Ok(*one) } else { Err(format!("on {on:?}")) }
    });
    host
}

/// Waits until requests are answered again, and says how long nothing was.
fn serves_again(visitor: &Visitor, since: Instant) -> Duration {
    wait_for("somebody answers", SOON, || {
        let answered = visitor.answered(since + Duration::from_millis(700));
        if answered >= 20 { Ok(()) } else { Err(format!("{answered} answered; {:?}", visitor.failed(since).last())) }
    });
    visitor.gap(since)
}

#[test]
fn an_address_is_held_whatever_befalls_its_holder_and_in_the_end_by_one_node() {
    if lacks("root with ip and nft", netns::is_possible()) {
        return;
    }
    let network = Network::new(4);
    let mut cluster = Cluster::new();
    for host in 1..=3 {
        cluster.add_at(network.address(host), network.prefix(host));
    }
    cluster.whole();
    cluster.apply(&sample(3));
    let address = IpAddr::from(network.address(200));
    let began = Instant::now();
    let ran = cluster.any().ask(["address", "add", &format!("{address}/24"), "--wait", "--timeout", "30s"]);
    assert_eq!(ran.code, Some(0), "{}", ran.words());
    let first = holder(&cluster, &network, address);
    eprintln!("held by {first} {:?} after it was wished for", began.elapsed());
    let why = cluster.any().ask(["why", &address.to_string()]).data().to_string();
    assert!(why.contains(&format!("{first} holds {address}/24 now")), "{why}");
    assert!(cluster.any().ask(["members"]).data().to_string().contains(&format!("holds {address}")));

    let visitor = Visitor::start(network.name_space(4), SocketAddr::new(address, HTTP_PORT), None);
    let since = Instant::now();
    serves_again(&visitor, since);
    assert!(visitor.failed(since).is_empty(), "{:?}", visitor.failed(since));

    // Power is lost: the host with all that it sends. What it had is still there when it is switched on, and is found.
    let index = cluster.index(&first);
    let since = Instant::now();
    network.cut(index as u8 + 1);
    cluster.nodes[index].off();
    let gap = serves_again(&visitor, since);
    eprintln!("{first} switched off: nothing was answered for {gap:?}");
    assert!(gap < GAP_MAX, "{gap:?}");
    assert!(network.has(index as u8 + 1, address), "it is on the dead host");
    network.heal();
    cluster.nodes[index].start(None);
    cluster.whole();
    let now = holder(&cluster, &network, address);

    // Its agent stands still: the guard takes the address off.
    let index = cluster.index(&now);
    let (agent, since) = (cluster.nodes[index].agent_pid(), Instant::now());
    power::signal(agent, Signal::STOP);
    cluster.away.insert(now.clone());
    let gap = serves_again(&visitor, since);
    eprintln!("the agent of {now} frozen: nothing was answered for {gap:?}");
    assert!(gap < GAP_MAX, "{gap:?}");
    let other = holder(&cluster, &network, address);
    assert_ne!(other, now);
    power::signal(agent, Signal::CONT);
    cluster.away.clear();
    cluster.whole();
    let now = holder(&cluster, &network, address);

    // Its cable is pulled.
    let index = cluster.index(&now);
    let since = Instant::now();
    network.cut(index as u8 + 1);
    cluster.away.insert(now.clone());
    let gap = serves_again(&visitor, since);
    eprintln!("{now} cut off: nothing was answered for {gap:?}");
    assert!(gap < GAP_MAX, "{gap:?}");
    network.heal();
    cluster.away.clear();
    cluster.whole();
    let now = holder(&cluster, &network, address);

    // Nobody leads, for all other nodes are frozen: it stays where it is, and whoever comes is answered.
    wait_for("three vote", SOON, || {
        let status = cluster.any().ask(["status"]).try_data()?;
        if array(&status["voters"]).len() == 3 { Ok(()) } else { Err(status.to_string()) }
    });
    let others: Vec<String> = cluster.nodes.iter().map(|node| node.name.clone()).filter(|name| *name != now).collect();
    let freeze = |cluster: &Cluster, on| others.iter().for_each(|name| power::freeze(&cluster.node(name).data, on));
    freeze(&cluster, true);
    cluster.away.extend(others.iter().cloned());
    wait_for("nobody leads", SOON, || {
        let status = cluster.node(&now).ask(["status"]).try_data()?;
        if status["leader"].is_null() { Ok(()) } else { Err(status.to_string()) }
    });
    let since = Instant::now();
    serves_again(&visitor, since);
    eprintln!("nobody leads: nothing was answered for {:?}, failed: {:?}", visitor.gap(since), visitor.failed(since));
    assert!(visitor.failed(since).is_empty(), "{:?}", visitor.failed(since));
    assert_eq!(on(&network, &[1, 2, 3], address), cluster.index(&now) as u8 + 1, "it stays");
    freeze(&cluster, false);
    cluster.away.clear();
    cluster.whole();
    let now = holder(&cluster, &network, address);

    // It gives away what it has. Whoever comes while the address moves is let in by the next one, at its second try or third.
    drop(visitor);
    let visitor = Visitor::start(network.name_space(4), SocketAddr::new(address, HTTP_PORT), Some(PATIENCE));
    let since = Instant::now();
    let ran = cluster.any().ask(["drain", &now, "--wait"]);
    assert_eq!(ran.code, Some(0), "{}", ran.words());
    let other = holder(&cluster, &network, address);
    assert_ne!(other, now, "it waits until the address has moved");
    serves_again(&visitor, since);
    let (answered, gap, failed) = (visitor.answered(since), visitor.gap(since), visitor.failed(since));
    eprintln!("{now} drained: {answered} answered, none for {gap:?}, failed: {failed:?}");
    assert!(failed.is_empty(), "{failed:?}");
    assert_eq!(cluster.any().ask(["uncordon", &now]).code, Some(0));
    cluster.whole();
    holder(&cluster, &network, address);

    let events = cluster.any().ask(["events", "-n", "200"]).data().to_string();
    assert!(events.contains(&format!("{address} is held by {other}")), "{events}");
    // Nobody holds what nobody shall hold.
    let ran = cluster.any().ask(["address", "rm", &address.to_string(), "--yes"]);
    assert_eq!(ran.code, Some(0), "{}", ran.words());
    wait_for("it is on no host", SOON, || {
        let on: Vec<u8> = (1..=3).filter(|host| network.has(*host, address)).collect();
        if on.is_empty() { Ok(()) } else { Err(format!("on {on:?}")) }
    });
}

#[test]
fn addresses_of_both_kinds_are_spread_over_two_nodes_and_an_agent_that_is_stopped_hands_over_first() {
    if lacks("root with ip and nft", netns::is_possible()) {
        return;
    }
    let network = Network::new(3);
    (1..=3).for_each(|host| network.give(host, &format!("fd00:7::{host}/64")));
    let mut cluster = Cluster::new();
    for host in 1..=2 {
        cluster.add_at(network.address(host), network.prefix(host));
    }
    cluster.whole();
    cluster.apply(&sample(2));
    let (old, new) = (IpAddr::from(network.address(200)), "fd00:7::200".parse::<IpAddr>().unwrap());
    for address in [format!("{old}/24"), format!("{new}/64")] {
        let ran = cluster.any().ask(["address", "add", &address, "--wait", "--timeout", "30s"]);
        assert_eq!(ran.code, Some(0), "{}", ran.words());
    }
    // Two may hold one for a moment, until the better one of them is heard.
    wait_for("each is held by the first of its list", SOON, || {
        let ran = cluster.any().ask(["address", "list"]);
        let is_first = |it: &Value| it["holders"] == json!([it["candidates"][0]["node"]]);
        if ran.code == Some(0) && array(&ran.data()).iter().all(is_first) { Ok(()) } else { Err(ran.words()) }
    });
    let (four, six) = (on(&network, &[1, 2], old), on(&network, &[1, 2], new));
    assert_ne!(four, six, "each has one");
    for (address, refused) in
        [("127.0.0.1/8", "the host itself"), ("fd00:7::/64", "of a network"), ("10.0.0.1/99", "/99")]
    {
        let ran = cluster.any().ask(["address", "add", address]);
        assert!(ran.code == Some(2) && ran.words().contains(refused), "{}", ran.words());
    }
    assert_eq!(cluster.any().ask(["address", "rm", "192.0.2.1", "--yes"]).code, Some(9));

    let visitor = Visitor::start(network.name_space(3), SocketAddr::new(new, HTTP_PORT), Some(PATIENCE));
    let since = Instant::now();
    serves_again(&visitor, since);
    // Stopped on purpose: the other one takes the address first, and no request fails.
    let index = usize::from(six) - 1;
    let since = Instant::now();
    cluster.nodes[index].stop_agent();
    serves_again(&visitor, since);
    eprintln!("n{six} stopped: {:?} without an answer, failed: {:?}", visitor.gap(since), visitor.failed(since));
    assert!(visitor.failed(since).is_empty(), "{:?}", visitor.failed(since));
    assert_eq!(on(&network, &[1, 2], new), four, "the only one left has both");
    assert!(network.has(four, old));
    cluster.nodes[index].start(None);
    cluster.whole();
    wait_for("each has one again", SOON, || {
        let has = |address| [1, 2].into_iter().filter(|host| network.has(*host, address)).collect::<Vec<u8>>();
        if (has(old), has(new)) == (vec![four], vec![six]) {
            Ok(())
        } else {
            Err(format!("{:?} {:?}", has(old), has(new)))
        }
    });
    // The other kind of end: power is lost.
    drop(visitor);
    let visitor = Visitor::start(network.name_space(3), SocketAddr::new(new, HTTP_PORT), None);
    let since = Instant::now();
    network.cut(six);
    cluster.nodes[index].off();
    let gap = serves_again(&visitor, since);
    eprintln!("n{six} switched off: nothing was answered for {gap:?}");
    assert!(gap < GAP_MAX, "{gap:?}");
}

#[test]
fn an_address_follows_whoever_has_both_networks_and_a_hook_follows_the_address() {
    if lacks("root with ip and nft", netns::is_possible()) {
        return;
    }
    let network = Network::new(4);
    network.add_second();
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (hook, calls, broken) = (at("hook"), at("calls"), at("broken"));
    let script = format!(
        "#!/bin/sh\ntest ! -e {} || {{ echo 'try again' >&2; exit 7; }}\necho $HIRSEL_NODE \"$@\" >> {}\n",
        broken.display(),
        calls.display()
    );
    fs::write(&broken, "").unwrap();
    fs::write(&hook, script).unwrap();
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
    let mut cluster = Cluster::new();
    let config = at("hirsel.toml");
    fs::write(&config, format!("[address]\nhook = {hook:?}\n")).unwrap();
    cluster.config = Some(config);
    for host in 1..=3 {
        cluster.add_at(network.address(host), network.prefix(host));
    }
    cluster.whole();
    cluster.apply(&sample(3));
    let address = IpAddr::from(network.second_address(200));
    let ran = cluster.any().ask(["address", "add", &format!("{address}/24"), "--wait", "--timeout", "30s"]);
    assert_eq!(ran.code, Some(0), "{}", ran.words());
    let called = |by: &str| {
        wait_for("the hook of the holder was run last", SOON, || {
            let calls = fs::read_to_string(&calls).unwrap_or_default();
            let wanted = format!("{by} take {address}/24 eth1");
            if calls.lines().next_back() == Some(&wanted) { Ok(()) } else { Err(format!("{wanted}, but {calls}")) }
        });
    };
    let first = holder(&cluster, &network, address);
    let why = || cluster.any().ask(["why", &address.to_string()]).data().to_string();
    wait_for("it is said that the hook failed", SOON, || {
        let (said, status) = (why(), cluster.any().ask(["status"]).try_data()?);
        let because = status["because"].to_string();
        let is_said = |words: &str| words.contains("its hook failed") && words.contains("status 7: try again");
        if is_said(&said) && is_said(&because) { Ok(()) } else { Err(format!("{said} {because}")) }
    });
    fs::remove_file(&broken).unwrap();
    called(&first);
    wait_for("nothing is wrong any more", SOON, || {
        let why = why();
        if why.contains("its hook failed") { Err(why) } else { Ok(()) }
    });

    // The holder's mesh is cut, and its public side goes on: nobody else takes the address before the cluster has given the node up.
    let visitor = Visitor::start(network.name_space(4), SocketAddr::new(address, HTTP_PORT), None);
    let since = Instant::now();
    serves_again(&visitor, since);
    let host = cluster.index(&first) as u8 + 1;
    let others: Vec<u8> = (1..=3).filter(|it| *it != host).collect();
    let since = Instant::now();
    network.cut(host);
    cluster.away.insert(first.clone());
    let next = on(&network, &others, address);
    wait_for("the node that is cut off has let go", SOON, || {
        if network.has(host, address) { Err("it has the address".into()) } else { Ok(()) }
    });
    let gap = serves_again(&visitor, since);
    eprintln!("the mesh of {first} cut: no answer for {gap:?}, failed: {:?}", visitor.failed(since));
    assert!(gap < GAP_MAX, "{gap:?}");
    called(&format!("n{next}"));
    network.heal();
    cluster.away.clear();
    cluster.whole();

    // Its public side is cut, and the mesh goes on.
    let now = holder(&cluster, &network, address);
    called(&now);
    let host = cluster.index(&now) as u8 + 1;
    let others: Vec<u8> = (1..=3).filter(|it| *it != host).collect();
    let since = Instant::now();
    network.cut_second(host);
    on(&network, &others, address);
    let gap = serves_again(&visitor, since);
    eprintln!("the public side of {now} cut: no answer for {gap:?}");
    assert!(gap < GAP_MAX, "{gap:?}");
    network.heal();
    // It may go back and forth until all agree on who sees what: whoever has it then ran its hook last.
    wait_for("the hook of whoever holds it was run last", SOON, || {
        let (now, calls) = (holder(&cluster, &network, address), fs::read_to_string(&calls).unwrap_or_default());
        let wanted = format!("{now} take {address}/24 eth1");
        if calls.lines().next_back() == Some(&wanted) { Ok(()) } else { Err(format!("{wanted}, but {calls}")) }
    });
}
