//! Agents that end, shims that are killed, files that are damaged.

use hirsel_mesh::seam::Clock;
use hirsel_mesh::seam::real::OsClock;
use hirsel_role::Host;
use hirsel_role::host::{ProcessSpec, ProcessState};

use crate::fixture::{Fixture, carriers, eventually, runs, script, state_and_parent};
use crate::life::kill;

pub async fn an_agent_that_starts_anew_adopts_what_runs_and_learns_how_it_ends(mut on: Fixture) {
    let spec = script("shop/web/1", "trap 'exit 9' TERM; echo ready; while :; do sleep 0.01; done");
    on.host.start(spec.clone()).await.unwrap();
    on.line(&spec.id, "o ready").await;
    let pid = on.pid(&spec.id).await;
    on.restart();
    let found = on.host.processes().await.unwrap().remove(&spec.id).unwrap();
    assert_eq!((found.spec, found.state), (spec.clone(), ProcessState::Running { pid }));
    assert!(on.host.start(spec.clone()).await.is_err(), "never two of one id");
    on.host.signal(&spec.id, 15).await.unwrap();
    assert_eq!(on.end(&spec.id).await, ProcessState::Exited { code: 9 });
}

pub async fn an_end_while_no_agent_runs_is_learned_by_the_next(mut on: Fixture) {
    let spec = script("shop/web/1", "sleep 1000");
    on.host.start(spec.clone()).await.unwrap();
    let pid = on.pid(&spec.id).await;
    kill(pid);
    eventually("the end", async || !runs(pid)).await;
    on.restart();
    assert_eq!(on.end(&spec.id).await, ProcessState::Killed { signal: 9 });
}

pub async fn a_program_whose_shim_is_killed_is_ended_and_lost(on: Fixture) {
    let spec = script("shop/web/1", "setsid sleep 1000 & echo up; sleep 1000");
    on.host.start(spec.clone()).await.unwrap();
    on.line(&spec.id, "o up").await;
    let pid = on.pid(&spec.id).await;
    let (_, shim) = state_and_parent(pid).unwrap();
    kill(shim);
    eventually("the shim's end", async || !runs(shim)).await;
    let ProcessState::Lost { message } = on.end(&spec.id).await else { panic!("not lost") };
    assert!(message.contains("shim was killed"), "{message}");
    assert!(!runs(pid));
    on.host.start(script("shop/web/1", "exit 4")).await.unwrap();
    assert_eq!(on.end(&spec.id).await, ProcessState::Exited { code: 4 });
}

pub async fn a_program_with_a_deadline_ends_with_its_shim_though_no_agent_looks(on: Fixture) {
    let deadline = Some(OsClock.now() + std::time::Duration::from_secs(3_600));
    let spec = ProcessSpec { deadline, ..script("shop/one/1", "exec sleep 1000") };
    on.host.start(spec.clone()).await.unwrap();
    let pid = on.pid(&spec.id).await;
    let (_, shim) = state_and_parent(pid).unwrap();
    kill(shim);
    eventually("the program has ended", async || !runs(pid)).await;
}

pub async fn descendants_are_ended_too_when_shim_and_program_are_killed(mut on: Fixture) {
    let mut spec = script("shop/web/1", "(setsid sleep 1000 &); echo up; sleep 1000");
    let entry = format!("STORY=killed-{}", std::process::id());
    spec.env.insert("STORY".into(), entry["STORY=".len()..].into());
    on.host.start(spec.clone()).await.unwrap();
    on.line(&spec.id, "o up").await;
    let pid = on.pid(&spec.id).await;
    let (_, shim) = state_and_parent(pid).unwrap();
    kill(shim);
    kill(pid);
    eventually("both ends", async || !runs(shim) && !runs(pid)).await;
    assert!(!carriers(&entry).is_empty());
    on.restart();
    assert!(matches!(on.state(&spec.id).await, Some(ProcessState::Lost { .. })));
    assert_eq!(carriers(&entry), []);
}

pub async fn a_shim_told_to_end_asks_its_program_to_stop(on: Fixture) {
    let mut spec = script("shop/web/1", "trap 'exit 5' USR1; echo ready; while :; do sleep 0.01; done");
    spec.stop_signal = 10;
    on.host.start(spec.clone()).await.unwrap();
    on.line(&spec.id, "o ready").await;
    let (_, shim) = state_and_parent(on.pid(&spec.id).await).unwrap();
    let shim = rustix::process::Pid::from_raw(i32::try_from(shim).unwrap()).unwrap();
    for signal in [rustix::process::Signal::HUP, rustix::process::Signal::INT, rustix::process::Signal::TERM] {
        rustix::process::kill_process(shim, signal).unwrap();
    }
    assert_eq!(on.end(&spec.id).await, ProcessState::Exited { code: 5 });
}

pub async fn what_cannot_be_read_is_removed_and_ended(mut on: Fixture) {
    let spec = script("shop/web/1", "sleep 1000");
    on.host.start(spec.clone()).await.unwrap();
    let pid = on.pid(&spec.id).await;
    std::fs::write(on.folder_of(&spec.id).join("launch"), b"\xc1 garbage").unwrap();
    std::fs::create_dir(on.folder.join("processes/not.an.instance")).unwrap();
    on.restart();
    assert!(on.host.processes().await.unwrap().is_empty());
    eventually("its end", async || !runs(pid)).await;
    let folder = on.folder_of(&spec.id);
    eventually("its removal", async || on.host.processes().await.unwrap().is_empty() && !folder.exists()).await;
}

pub async fn a_node_can_be_switched_off_from_outside(mut on: Fixture) {
    let entry = format!("STORY=off-{}", std::process::id());
    let specs = [1, 2].map(|number| {
        let mut spec = script(&format!("shop/web/{number}"), "(setsid sleep 1000 &); echo up; sleep 1000");
        spec.env.insert("STORY".into(), entry["STORY=".len()..].into());
        spec
    });
    for spec in &specs {
        on.host.start(spec.clone()).await.unwrap();
        on.line(&spec.id, "o up").await;
    }
    let running = hirsel_role::host::real::running_under(&on.folder).unwrap();
    assert_eq!(running.len(), 2 * 4, "shim, shell and two sleepers each");
    running.into_iter().for_each(kill);
    let left = || hirsel_role::host::real::running_under(&on.folder).unwrap();
    eventually("nothing is left", async || left().is_empty() && carriers(&entry).is_empty()).await;
    on.restart();
    for spec in &specs {
        assert!(matches!(on.state(&spec.id).await, Some(ProcessState::Lost { .. })));
    }
}

pub async fn a_full_disk_neither_stops_a_program_nor_hides_its_end(on: Fixture) {
    let disk = on.folder.join("processes");
    let mounted =
        std::process::Command::new("mount").args(["-t", "tmpfs", "-o", "size=256k", "none"]).arg(&disk).status();
    if !mounted.is_ok_and(|status| status.success()) {
        assert_ne!(std::env::var("HIRSEL_REQUIRE").as_deref(), Ok("all"), "needs to mount a file system");
        println!("skipped: needs to mount a file system");
        return;
    }
    let spec = script("shop/web/1", "yes 0123456789 | head -c 3000000; echo wrote all >&2; exit 6");
    let result = on.host.start(spec.clone()).await;
    let end = if result.is_ok() { Some(on.end(&spec.id).await) } else { None };
    let freed = std::process::Command::new("umount").arg("-l").arg(&disk).status();
    assert!(freed.is_ok_and(|status| status.success()));
    // The status may not fit either; what counts is that the end is seen, and that the program came to it.
    assert!(matches!(end, Some(ProcessState::Exited { code: 6 } | ProcessState::Lost { .. })), "{result:?} {end:?}");
}
