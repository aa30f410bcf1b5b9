//! One desk with others that are played: what it has done, and what it tells.

use hirsel_model::floating::{BEAT_EVERY, Claim};
use hirsel_model::plan::AddressCandidate;
use hirsel_model::{Generation, Incarnation};

use super::*;

const ADDRESS: [u8; 4] = [192, 0, 2, 10];

fn order(nodes: &[u64], since: u64) -> Arc<AddressOrder> {
    let candidate = |node: &u64| AddressCandidate {
        node: NodeId(*node),
        interface: "eth0".into(),
        at: IpAddr::from([192, 0, 2, *node as u8]),
    };
    let list =
        FloatingAddress { prefix: 24, candidates: nodes.iter().map(candidate).collect(), since: Generation(since) };
    Arc::new(AddressOrder {
        wanted: [IpAddr::from(ADDRESS)].into(),
        addresses: [(IpAddr::from(ADDRESS), list)].into(),
        members: BTreeMap::new(),
    })
}

/// A desk whose host does all that it is asked for at once, unless it refuses.
struct Host {
    desk: Desk,
    now: Timestamp,
    on: BTreeSet<Floating>,
    announced: usize,
    /// When the hook was run, and what becomes of it.
    hooked: Vec<u64>,
    hook: Result<(), String>,
    refuses: bool,
    lb: bool,
    mail: BTreeMap<Link, Mail>,
    counter: u64,
}

impl Host {
    fn new(me: u64) -> Self {
        let (now, on) = (Timestamp(10_000), BTreeSet::new());
        let desk = Desk::new(NodeId(me), true);
        let (hooked, hook, mail) = (Vec::new(), Ok(()), BTreeMap::new());
        Self { desk, now, on, announced: 0, hooked, hook, refuses: false, lb: true, mail, counter: 0 }
    }

    fn run(&mut self, ms: u64) {
        let end = self.now + Duration::from_millis(ms);
        while self.now < end {
            self.now = self.now + BEAT_EVERY;
            if self.lb {
                self.desk.lb_answers(self.now);
            }
            let pulse = self.desk.beat(self.now);
            self.mail = pulse.mail;
            for deed in pulse.deeds {
                let result = match &deed {
                    Deed::Hold(..) if self.refuses => Err("no room".to_owned()),
                    Deed::Hold(floating, _) => {
                        self.on.insert(floating.clone());
                        Ok(())
                    }
                    Deed::LetGo(floating) => {
                        self.on.remove(floating);
                        Ok(())
                    }
                    Deed::Announce(floating) => {
                        assert!(self.on.contains(floating), "what is not here is not announced");
                        self.announced += 1;
                        Ok(())
                    }
                    Deed::Hook(floating) => {
                        assert!(self.on.contains(floating), "it is there before the hook is told");
                        self.hooked.push(self.now.0);
                        self.hook.clone()
                    }
                };
                self.desk.done(self.now, &deed, result);
            }
        }
    }

    /// Another one says, on this link, that it would hold the address, and whether it does.
    fn hear(&mut self, node: u64, since: u64, holds: bool, at: [u8; 4]) {
        self.counter += 1;
        let claim = Claim { since: Generation(since), holds, wants: true, busy: false };
        let say = Say { claim, hears: [(NodeId(1), Claim::default())].into(), fresh: false };
        let says = vec![(IpAddr::from(ADDRESS), say)];
        let beat = Beat { node: NodeId(node), incarnation: Incarnation(1), counter: self.counter, says };
        let link = Link { interface: "eth0".into(), at: at.into() };
        self.desk.hear(self.now, &link, [192, 0, 2, node as u8].into(), |_, _| Some(beat));
    }

    fn words(&self) -> String {
        self.desk.words().remove(&ADDRESS.into()).unwrap_or_default()
    }

    fn tells(&self) -> Vec<IpAddr> {
        self.mail.values().flat_map(|mail| mail.to.iter().copied()).collect()
    }
}

#[test]
fn an_address_is_put_there_announced_and_kept_while_the_load_balancer_answers() {
    let mut host = Host::new(1);
    host.desk.adopt(host.now, &order(&[1, 2], 1));
    host.run(300);
    assert!(host.on.is_empty() && host.words().contains("begun to listen"), "{}", host.words());
    host.run(400);
    assert_eq!(host.on.iter().map(ToString::to_string).collect::<Vec<_>>(), ["192.0.2.10/24 eth0"]);
    assert_eq!(host.tells(), [IpAddr::from([192, 0, 2, 2])]);
    host.run(2_000);
    assert_eq!(host.announced, 3, "and no more while nobody is heard");
    // Nobody else is there, so it stays though the load balancer is silent; but nothing is told.
    host.lb = false;
    host.run(2_000);
    assert!(host.on.len() == 1 && host.tells().is_empty() && host.words() == "nobody else holds it yet");
    host.hear(2, 1, true, [192, 0, 2, 1]);
    host.run(100);
    assert!(host.on.is_empty() && host.words().contains("load balancer does not answer"), "{}", host.words());
}

#[test]
fn what_is_heard_on_another_link_is_not_about_this_address() {
    let mut host = Host::new(1);
    host.desk.adopt(host.now, &order(&[2, 1], 1));
    for _ in 0..10 {
        host.hear(2, 1, true, [10, 0, 0, 1]);
        host.run(100);
    }
    assert_eq!(host.on.len(), 1, "{}", host.words());
    host.hear(2, 1, true, [192, 0, 2, 1]);
    host.run(100);
    assert!(host.on.is_empty(), "{}", host.words());
}

#[test]
fn whoever_is_in_no_list_any_more_holds_on_until_another_one_does_and_hears_of_it() {
    let mut host = Host::new(1);
    host.desk.adopt(host.now, &order(&[1, 2], 1));
    host.run(1_000);
    host.desk.adopt(host.now, &order(&[2, 3], 2));
    host.run(1_000);
    assert_eq!((host.on.len(), host.tells().len()), (1, 2), "{}", host.words());
    host.hear(2, 2, true, [192, 0, 2, 1]);
    host.run(300);
    assert!(host.on.is_empty() && host.desk.is_idle());
    // The other way round: a holder that is in no list is told, for it has to hear who takes over.
    let mut host = Host::new(2);
    host.desk.adopt(host.now, &order(&[2], 2));
    host.hear(1, 1, true, [192, 0, 2, 2]);
    host.run(100);
    assert_eq!(host.tells(), [IpAddr::from([192, 0, 2, 1])]);
}

#[test]
fn a_host_that_takes_no_address_leaves_it_to_others_for_a_while() {
    let mut host = Host::new(1);
    host.refuses = true;
    host.desk.adopt(host.now, &order(&[1, 2], 1));
    host.run(1_000);
    assert!(host.on.is_empty() && host.tells().is_empty() && host.words() == "no room", "{}", host.words());
    assert_eq!(host.desk.trouble().as_deref(), Some("192.0.2.10: no room"));
    host.refuses = false;
    host.run(2_500);
    assert_eq!(host.on.len(), 1, "{}", host.words());
    host.desk.set_barred(Some("its agent lacks CAP_NET_ADMIN".into()));
    host.run(100);
    assert_eq!(host.on.len(), 1, "nobody else holds it");
    assert!(host.tells().is_empty());
}

#[test]
fn leftovers_go_first_and_an_address_that_is_held_in_another_way_is_taken_off_before() {
    let mut host = Host::new(1);
    let left: Floating = "192.0.2.10/28 eth1".parse().unwrap();
    host.on.insert(left.clone());
    host.desk.leftover([left]);
    host.desk.adopt(host.now, &order(&[1], 1));
    host.run(100);
    assert!(host.on.is_empty());
    host.run(1_000);
    assert_eq!(host.on.iter().map(ToString::to_string).collect::<Vec<_>>(), ["192.0.2.10/24 eth0"]);
    let mut other = (*order(&[1], 2)).clone();
    other.addresses.values_mut().for_each(|list| list.prefix = 26);
    assert_eq!(host.desk.names(&other).len(), 2, "both are written down");
    host.desk.adopt(host.now, &Arc::new(other));
    host.run(1_000);
    assert_eq!(host.on.iter().map(ToString::to_string).collect::<Vec<_>>(), ["192.0.2.10/26 eth0"]);
    host.desk.adopt(host.now, &Arc::default());
    host.run(200);
    assert!(host.on.is_empty() && host.desk.is_idle());
}

#[test]
fn an_address_that_was_not_renewed_in_time_is_gone_and_is_not_counted_on() {
    let mut host = Host::new(1);
    host.desk.adopt(host.now, &order(&[1, 2], 1));
    host.run(1_000);
    assert_eq!(host.desk.held().len(), 1);
    // The agent stands still, and its guard takes the address off.
    host.now = host.now + Duration::from_secs(5);
    host.on.clear();
    host.lb = true;
    host.run(100);
    assert!(host.desk.held().is_empty() && host.on.is_empty(), "{}", host.words());
    host.run(700);
    assert_eq!(host.desk.held().len(), 1, "{}", host.words());
}

#[test]
fn an_agent_that_is_stopped_hands_over() {
    let mut host = Host::new(1);
    host.desk.adopt(host.now, &order(&[1, 2], 1));
    host.run(1_000);
    host.desk.part();
    host.run(300);
    assert_eq!(host.on.len(), 1, "until another one holds it");
    host.hear(2, 1, true, [192, 0, 2, 1]);
    host.run(200);
    assert!(host.on.is_empty() && host.words().contains("being stopped"), "{}", host.words());
}

#[test]
fn a_hook_is_run_whenever_an_address_is_taken_and_now_and_then_and_until_it_ends_well() {
    let mut host = Host::new(1);
    host.desk.adopt(host.now, &order(&[1], 1));
    host.run(1_000);
    let first = host.hooked.clone();
    assert_eq!(first.len(), 1);
    host.run(320_000);
    let gaps: Vec<u64> = host.hooked.windows(2).map(|two| two[1] - two[0]).collect();
    assert_eq!(gaps, [10_000, 300_000], "once more, and then seldom");
    assert_eq!(host.desk.trouble(), None);

    // It is taken again: the hook fails, and is tried again with longer and longer pauses, while the address stays.
    host.hook = Err("/hook ended with status 3".into());
    host.desk.adopt(host.now, &Arc::default());
    host.run(200);
    host.hooked.clear();
    host.desk.adopt(host.now, &order(&[1], 2));
    host.run(100_000);
    let gaps: Vec<u64> = host.hooked.windows(2).map(|two| two[1] - two[0]).collect();
    assert_eq!(gaps, [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]);
    let trouble = host.desk.trouble().unwrap();
    assert_eq!(trouble, "192.0.2.10: its hook failed, and is run again: /hook ended with status 3");
    assert_eq!(host.on.len(), 1);
    host.hook = Ok(());
    host.run(30_000);
    assert_eq!(host.desk.trouble(), None);
    // What another holder's failure was is nobody's concern.
    host.hook = Err("late".into());
    host.run(300_000);
    host.desk.adopt(host.now, &Arc::default());
    host.run(300);
    assert_eq!(host.desk.trouble(), None);
}
