//! The guard ends what may act no longer, whoever stands still.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use hirsel_mesh::seam::Clock;
use hirsel_mesh::seam::real::OsClock;
use hirsel_model::{InstanceId, Timestamp};
use hirsel_role::Host;
use hirsel_role::host::{GuardState, ProcessSpec, ProcessState};
use rustix::process::Signal;

use crate::fixture::{Fixture, carriers, eventually, runs, script, state_and_parent};
use crate::life::kill;

/// Longer than any test takes.
const LONG: Duration = Duration::from_secs(3_600);
/// Long enough to start something, on a machine that does other things too.
const SHORT: Duration = Duration::from_secs(3);

pub fn after(length: Duration) -> Timestamp {
    OsClock.now() + length
}

pub fn signal(pid: u32, signal: Signal) {
    rustix::process::kill_process(rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), signal)
        .unwrap();
}

pub async fn shim_of(on: &Fixture, id: &InstanceId) -> u32 {
    state_and_parent(on.pid(id).await).unwrap().1
}

pub fn stays_until(name: &str, deadline: Timestamp, text: &str) -> ProcessSpec {
    ProcessSpec { deadline: Some(deadline), ..script(name, text) }
}

fn is_lapsed(ended: &ProcessState) -> bool {
    matches!(ended, ProcessState::Lost { message } if message.contains("grant"))
}

pub async fn what_has_a_frozen_shim_ends_at_its_deadline_and_the_agent_learns_it(on: Fixture) {
    ends_with_a_frozen_shim(&on, "with-groups").await;
}

pub async fn what_has_a_frozen_shim_ends_whole_without_control_groups_too(mut on: Fixture) {
    on.restart_without_groups();
    ends_with_a_frozen_shim(&on, "without-groups").await;
}

async fn ends_with_a_frozen_shim(on: &Fixture, story: &str) {
    // One child has left the session, one carries no mark, and none wants to end.
    let text = "trap '' TERM; setsid sleep 1000 & env -i STORY=$STORY sleep 1000 & \
                (setsid sh -c 'env -i STORY=$STORY sleep 1000' &); echo up; sleep 1000";
    let deadline = after(SHORT);
    let mut spec = stays_until("shop/one/1", deadline, text);
    let entry = format!("STORY={story}-{}", std::process::id());
    spec.env.insert("STORY".into(), entry["STORY=".len()..].into());
    on.host.start(spec.clone()).await.unwrap();
    on.line(&spec.id, "o up").await;
    eventually("all are there", async || carriers(&entry).len() >= 5).await;
    let shim = shim_of(on, &spec.id).await;
    signal(shim, Signal::STOP);
    // Put off once, which the shim does not hear.
    let later = deadline + Duration::from_millis(500);
    on.host.prolong(&spec.id, later).await.unwrap();
    eventually("all has ended", async || carriers(&entry).is_empty()).await;
    let late = OsClock.now().since(later);
    assert!(OsClock.now() >= later, "it was put off");
    println!("ended {late:?} after the deadline, as far as a look every 5 ms tells");
    let ended = on.end(&spec.id).await;
    assert!(is_lapsed(&ended), "{ended:?}");
    assert!(!runs(shim), "nobody waits for it");
    // And it can be started again.
    on.host.start(stays_until("shop/one/1", after(LONG), "exit 4")).await.unwrap();
    assert_eq!(on.end(&spec.id).await, ProcessState::Exited { code: 4 });
}

/// No agent looks, and what is left is no descendant of anybody any more.
pub async fn a_program_whose_shim_is_gone_ends_at_its_deadline_with_what_it_left_behind(mut on: Fixture) {
    on.restart_without_groups();
    let entry = format!("STORY=gone-{}", std::process::id());
    let mut spec = stays_until("shop/one/1", after(SHORT), "(setsid sleep 1000 &); echo up; sleep 1000");
    spec.env.insert("STORY".into(), entry["STORY=".len()..].into());
    on.host.start(spec.clone()).await.unwrap();
    on.line(&spec.id, "o up").await;
    eventually("all are there", async || carriers(&entry).len() >= 3).await;
    kill(shim_of(&on, &spec.id).await);
    // The kernel ends the program with its shim, and nobody but the guard its child.
    eventually("all has ended", async || carriers(&entry).is_empty()).await;
}

pub async fn a_guard_is_there_only_while_something_has_a_deadline_and_goes_on_without_an_agent(mut on: Fixture) {
    let plain = script("shop/web/1", "sleep 1000");
    on.host.start(plain.clone()).await.unwrap();
    on.host.prolong(&plain.id, after(Duration::ZERO)).await.expect("nothing to move");
    assert_eq!((on.guard(), on.host.guard().await), (None, GuardState::Unneeded));
    assert!(!on.folder.join("guard").exists());

    let spec = stays_until("shop/one/1", after(SHORT), "sleep 1000");
    on.host.start(spec.clone()).await.unwrap();
    let guard = on.guard().expect("there is a guard");
    assert_eq!(on.host.guard().await, GuardState::Watches { guards: 1 });
    // It sleeps between two lines: what it did until now is all it does.
    let shim = shim_of(&on, &spec.id).await;
    on.restart();
    on.host.prolong(&spec.id, after(SHORT)).await.unwrap();
    assert_eq!(on.guard(), Some(guard), "the next agent adopts it");
    drop(std::mem::replace(&mut on.host, Fixture::elsewhere(&on.folder.join("elsewhere"))));
    signal(shim, Signal::STOP);
    eventually("the program has ended with no agent there", async || !runs(shim)).await;
    eventually("the guard has nothing to do and ends", async || on.guard().is_none()).await;
    assert!(!on.folder.join("guard/socket").exists());
}

/// What an agent left a long deadline ends at the sooner one that the next agent told, whichever of the two stands still.
pub async fn a_deadline_that_the_next_agent_makes_sooner_holds_for_the_guard_and_for_the_shim(mut on: Fixture) {
    let specs = ["shop/one/1", "shop/two/2"].map(|name| stays_until(name, after(LONG), "sleep 1000"));
    for spec in &specs {
        on.host.start(spec.clone()).await.unwrap();
    }
    on.restart();
    let [one, two] = specs.map(|spec| spec.id);
    signal(shim_of(&on, &one).await, Signal::STOP);
    on.host.prolong(&one, after(SHORT)).await.unwrap();
    let ended = on.end(&one).await;
    assert!(is_lapsed(&ended), "{ended:?}");
    on.host.prolong(&two, after(SHORT)).await.unwrap();
    let guard = on.guard().expect("there is a guard");
    signal(guard, Signal::STOP);
    let ended = on.end(&two).await;
    assert!(is_lapsed(&ended), "{ended:?}");
    signal(guard, Signal::CONT);
}

pub async fn a_guard_that_is_killed_is_started_again_and_knows_what_it_knew(on: Fixture) {
    let told = stays_until("shop/one/1", after(SHORT * 2), "sleep 1000");
    let spec = stays_until("shop/one/2", after(LONG), "sleep 1000");
    for spec in [&told, &spec] {
        on.host.start(spec.clone()).await.unwrap();
    }
    let (guard, shim) = (on.guard().expect("there is a guard"), shim_of(&on, &told.id).await);
    kill(guard);
    eventually("its end", async || !runs(guard)).await;
    assert!(matches!(on.host.guard().await, GuardState::Silent { .. }));
    // Only the other one is spoken of.
    on.host.prolong(&spec.id, after(LONG)).await.unwrap();
    assert!(on.guard().is_some_and(|another| another != guard));
    assert_eq!(on.host.guard().await, GuardState::Watches { guards: 2 });
    signal(shim, Signal::STOP);
    let ended = on.end(&told.id).await;
    assert!(is_lapsed(&ended), "{ended:?}");
    assert!(matches!(on.state(&spec.id).await, Some(ProcessState::Running { pid: 1.. })));
}

pub async fn a_guard_that_stands_still_is_replaced(on: Fixture) {
    let spec = stays_until("shop/one/1", after(LONG), "sleep 1000");
    on.host.start(spec.clone()).await.unwrap();
    let (guard, shim) = (on.guard().expect("there is a guard"), shim_of(&on, &spec.id).await);
    signal(guard, Signal::STOP);
    let GuardState::Silent { message } = on.host.guard().await else { panic!("it is frozen") };
    assert!(message.contains("does not answer within 300 ms"), "{message}");
    let begun = OsClock.now();
    on.host.prolong(&spec.id, after(SHORT)).await.unwrap();
    println!("a guard that stood still was replaced after {:?}", OsClock.now().since(begun));
    assert!(!runs(guard) && on.guard().is_some());
    assert_eq!(on.host.guard().await, GuardState::Watches { guards: 1 });
    signal(shim, Signal::STOP);
    assert!(is_lapsed(&on.end(&spec.id).await));
}

pub async fn without_a_guard_nothing_with_a_deadline_begins_and_no_deadline_moves(mut on: Fixture) {
    let deadline = after(SHORT * 2);
    let spec = stays_until("shop/one/1", deadline, "sleep 1000");
    on.host.start(spec.clone()).await.unwrap();
    on.restart_without_guards();
    on.host.prolong(&spec.id, deadline).await.expect("the one that is there is as good as another");
    let guard = on.guard().expect("there is a guard");
    kill(guard);
    eventually("its end", async || !runs(guard)).await;
    let error = on.host.prolong(&spec.id, after(LONG)).await.unwrap_err().to_string();
    assert!(error.contains("guard of this host"), "{error}");
    assert!(matches!(on.host.guard().await, GuardState::Silent { .. }));
    let refused = stays_until("shop/one/2", after(LONG), "sleep 1000");
    let error = on.host.start(refused.clone()).await.unwrap_err().to_string();
    assert!(error.contains("guard of this host"), "{error}");
    assert_eq!(on.state(&refused.id).await, Some(ProcessState::Lost { message: error }));
    // Its shim was not told either.
    assert!(is_lapsed(&on.end(&spec.id).await));
    assert!(OsClock.now() >= deadline);
    on.host.start(script("shop/web/1", "exit 3")).await.expect("what has no deadline needs no guard");
}

/// Word by word: agents of later builds find guards of this one, and the other way round. Version 2 has all of version 1.
pub async fn what_the_first_agents_say_is_understood_and_anything_else_harms_nothing(on: Fixture) {
    let folder = on.folder.join("guard");
    std::fs::create_dir(&folder).unwrap();
    let begin =
        || Command::new(std::env::current_exe().unwrap()).arg("guard").arg(&folder).stdout(Stdio::piped()).spawn();
    // It closes its output once it listens, or ends.
    let began = || begin().unwrap().wait_with_output().unwrap();
    began();
    let guard = on.guard().expect("it goes on in the background");
    began();
    assert_eq!(on.guard(), Some(guard), "a second one ends at once");

    let connect = || {
        let stream = UnixStream::connect(folder.join("socket")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    };
    let hear = |stream: &mut UnixStream, length: usize| {
        let mut heard = vec![0; length];
        stream.read_exact(&mut heard).unwrap();
        String::from_utf8(heard).unwrap()
    };
    let mut agent = connect();
    assert_eq!(hear(&mut agent, 15), "hirsel-guard 2\n");
    let (later, nowhere) = (after(LONG).0, on.folder.join("processes/shop.one.1").display().to_string());
    for (line, answer) in [
        (format!("begin {later} {nowhere}\n"), "kept\n"),
        (format!("keep {later} {nowhere}\n"), "kept\n"),
        (format!("dance {later} {nowhere}\n"), "what\n"),
        ("\n".into(), "what\n"),
        (format!("keep soon {nowhere}\nkeep {later} {nowhere}\n"), "what\nkept\n"),
    ] {
        agent.write_all(line.as_bytes()).unwrap();
        assert_eq!(hear(&mut agent, answer.len()), answer, "{line:?}");
    }
    let mut endless = connect();
    hear(&mut endless, 15);
    let _ = endless.write_all(&[b'x'; 64 << 10]);
    let mut rest = Vec::new();
    let closed = endless.read_to_end(&mut rest);
    assert!(closed.is_err() || rest.is_empty(), "{rest:?}");
    // Too many connections cost the oldest.
    let mut more: Vec<UnixStream> = (0..6).map(|_| connect()).collect();
    more.iter_mut().for_each(|stream| assert_eq!(hear(stream, 15), "hirsel-guard 2\n"));
    assert_eq!(agent.read(&mut [0; 1]).unwrap_or(0), 0);
    let newest = more.last_mut().unwrap();
    // Where nothing was started nothing is to be ended.
    newest.write_all(format!("keep {} {nowhere}\n", after(Duration::ZERO).0).as_bytes()).unwrap();
    assert_eq!(hear(newest, 5), "kept\n");
    assert_eq!(on.guard(), Some(guard));
    kill(guard);
}
