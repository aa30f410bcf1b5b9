//! The guard: whoever stands still or is killed, agent, shim or guard, there are never two of an exclusive program, and where one of them
//! alone is missing for a moment, the program goes on. For how long nobody acted is printed.

use std::time::Duration;

use hirsel_tests::cluster::{Cluster, Node, array};
use hirsel_tests::journal::{Journal, PROGRAM};
use hirsel_tests::{power, wait_for};
use rustix::process::Signal;

/// Whatever is waited for takes some seconds; a debug build on a shared machine gets ten times that.
const WITHIN: Duration = Duration::from_secs(40);
/// A node whose fall was not its first is trusted again after up to twice ten seconds, and votes half a minute later.
const MAY_LOSE_WITHIN: Duration = Duration::from_secs(150);
/// On a machine that others use too a grant may run out for want of a processor, and nothing was wrong.
const TRIES: usize = 3;
/// Longer than a grant: who acts for so long has been granted anew.
const LONGER_THAN_A_GRANT: Duration = Duration::from_secs(4);

struct Story {
    cluster: Cluster,
    journal: Journal,
}

/// A part of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Agent,
    Shim,
    Guard,
}

impl Part {
    fn pid(self, node: &Node) -> Option<u32> {
        let named = |what: &str| {
            let all = power::processes(&node.data);
            all.into_iter().find(|process| process.command.contains(what)).map(|process| process.pid)
        };
        match self {
            Part::Agent => Some(node.agent_pid()),
            // The process that begins a shim or guard is gone in a moment, and has no children.
            Part::Shim => named(" shim "),
            Part::Guard => named(" guard "),
        }
    }
}

impl Story {
    fn begin() -> Self {
        let cluster = Cluster::start(3);
        let journal = Journal::at(cluster.folder.path().join("journal"));
        cluster.apply(&journal.manifest());
        Self { cluster, journal }
    }

    /// Waits until all is well, and tells who holds the duty, with which fence, and since when (ms) nothing has been done to it.
    fn holder(&self) -> (usize, u64, u64) {
        self.cluster.whole();
        let ((holder, fence, at), _) = wait_for("somebody holds it", WITHIN, || {
            let rows = self.cluster.any().ask(["ps", "sole"]).try_data()?;
            let row = array(&rows).iter().find(|row| row["healthy"] == true).ok_or(rows.to_string())?;
            let holder = self.cluster.index(row["node"].as_str().unwrap_or_default());
            let runs = self.cluster.nodes[holder].programs(PROGRAM).len();
            let (fence, at) = self.journal.newest().ok_or("nobody acts")?;
            if runs == 1 { Ok((holder, fence, at)) } else { Err(format!("{runs} on {holder}")) }
        });
        if self.journal.goes_on(fence, at, Duration::from_millis(500), WITHIN) {
            (holder, fence, at)
        } else {
            self.holder()
        }
    }

    /// Waits until a node may be lost: one that was judged down votes again half a minute after it is back, and not before.
    fn may_lose_one(&self) {
        wait_for("a node may be lost", MAY_LOSE_WITHIN, || {
            let can_lose = self.cluster.any().ask(["status"]).try_data()?["can_lose"].clone();
            if can_lose["nodes"].as_u64() >= Some(1) { Ok(()) } else { Err(can_lose.to_string()) }
        });
    }

    fn do_to(&self, holder: usize, parts: &[Part], signal: Signal) {
        let pid = |part: &Part| part.pid(&self.cluster.nodes[holder]).unwrap_or_else(|| panic!("no {part:?}"));
        let pids: Vec<u32> = parts.iter().map(pid).collect();
        pids.into_iter().for_each(|pid| power::signal(pid, signal));
    }

    fn say(&self, what: &str, since: u64) {
        self.journal.assert_never_two();
        eprintln!("{what}: nobody acted for {:?}", self.journal.longest_pause(since));
    }

    /// Something is done to parts of the holder, and the program acts on as if nothing had happened.
    fn goes_on(&self, what: &str, parts: &[Part], signal: Signal) {
        for _ in 0..TRIES {
            let (holder, fence, since) = self.holder();
            self.do_to(holder, parts, signal);
            let goes_on = self.journal.goes_on(fence, since, LONGER_THAN_A_GRANT, WITHIN);
            self.say(what, since);
            if goes_on {
                return;
            }
            eprintln!("{what}: it was replaced; once more");
            power::freeze(&self.cluster.nodes[holder].data, false);
        }
        panic!("{what}: it was replaced {TRIES} times");
    }

    /// Parts of the holder stand still: the program ends all the same, and another node takes over.
    fn is_replaced(&self, what: &str, parts: &[Part]) {
        self.may_lose_one();
        let (holder, fence, since) = self.holder();
        self.do_to(holder, parts, Signal::STOP);
        let node = &self.cluster.nodes[holder];
        let pause_begins = || self.journal.acts()[&fence].1;
        wait_for("the program has ended", WITHIN, || {
            let left = node.programs(PROGRAM).len();
            if left == 0 { Ok(()) } else { Err(format!("{left} of it are there, the last act was {}", pause_begins())) }
        });
        self.journal.taken_over(fence, WITHIN);
        self.say(what, since);
        power::freeze(&node.data, false);
    }
}

#[test]
fn whoever_stands_still_or_is_killed_there_are_never_two() {
    let mut story = Story::begin();
    let (holder, ..) = story.holder();
    for (index, node) in story.cluster.nodes.iter().enumerate() {
        assert_eq!(Part::Guard.pid(node).is_some(), index == holder, "a guard is where something exclusive is");
    }
    let told = story.cluster.nodes[holder].ask(["doctor"]).try_data().unwrap();
    let guard = array(&told["checks"]).iter().find(|check| check["check"] == "guard").expect("the guard is looked at");
    assert_eq!((guard["state"].as_str(), guard["value"].as_str()), (Some("ok"), Some("keeps the end of 1 grant")));

    // One of them alone, and nobody notices.
    story.goes_on("the guard killed", &[Part::Guard], Signal::KILL);
    story.goes_on("the guard frozen", &[Part::Guard], Signal::STOP);
    let guards = |node: &Node| power::processes(&node.data).iter().filter(|it| it.command.contains(" guard ")).count();
    assert_eq!(story.cluster.nodes.iter().map(guards).sum::<usize>(), 1, "another one each time, and one at a time");
    story.goes_on("the shim frozen", &[Part::Shim], Signal::STOP);

    // A frozen shim hears nothing of a hand-over: the guard ends its program.
    let (holder, fence, since) = story.holder();
    story.do_to(holder, &[Part::Shim], Signal::STOP);
    let name = story.cluster.nodes[holder].name.clone();
    assert_eq!(story.cluster.any().ask(["drain", &name, "--yes"]).code, Some(0));
    story.journal.taken_over(fence, WITHIN);
    story.say("handed over by a node whose shim is frozen", since);
    assert_eq!(story.cluster.any().ask(["uncordon", &name]).code, Some(0));

    // Two of them, and the third acts.
    story.is_replaced("the agent frozen", &[Part::Agent]);
    story.is_replaced("agent and shim frozen", &[Part::Shim, Part::Agent]);
    story.is_replaced("agent and guard frozen", &[Part::Guard, Part::Agent]);

    let (holder, fence, since) = story.holder();
    story.do_to(holder, &[Part::Shim], Signal::KILL);
    story.journal.taken_over(fence, WITHIN);
    story.say("the shim killed", since);

    // An agent that is back in time finds everything as it was, or starts it with a higher fence.
    let (holder, fence, since) = story.holder();
    story.cluster.nodes[holder].kill_agent();
    story.cluster.nodes[holder].start(None);
    let (_, later, _) = story.holder();
    assert!(later >= fence);
    story.say("the agent killed, and started again", since);

    story.may_lose_one();
    let (holder, fence, since) = story.holder();
    // So that it does not start another one in between.
    story.do_to(holder, &[Part::Agent], Signal::STOP);
    story.do_to(holder, &[Part::Guard], Signal::KILL);
    story.cluster.nodes[holder].kill_agent();
    story.journal.taken_over(fence, WITHIN);
    story.say("agent and guard killed at once", since);
    story.cluster.nodes[holder].start(None);

    let (holder, ..) = story.holder();
    assert_eq!(story.cluster.any().ask(["rm", "sole", "--yes"]).code, Some(0));
    wait_for("the guard ends with its work", WITHIN, || {
        let left: Vec<String> =
            story.cluster.nodes.iter().filter_map(|node| Some(Part::Guard.pid(node)?.to_string())).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}, the last holder was {holder}")) }
    });
    story.journal.assert_never_two();
}
