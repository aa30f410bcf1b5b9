//! Start, signal, end, forget.

use std::collections::BTreeMap;
use std::time::Duration;

use hirsel_mesh::seam::Clock;
use hirsel_mesh::seam::real::OsClock;
use hirsel_role::Host;
use hirsel_role::host::{OutputFrom, ProcessSpec, ProcessState};
use hirsel_role::secret::Plain;

use crate::fixture::{Fixture, carriers, eventually, id, runs, script};

pub async fn a_program_runs_and_its_exit_status_and_output_are_learned(on: Fixture) {
    let spec = script("shop/web/1", "echo one; echo two >&2; printf unended; exit 7");
    on.host.start(spec.clone()).await.unwrap();
    assert_eq!(on.end(&spec.id).await, ProcessState::Exited { code: 7 });
    let found = on.host.processes().await.unwrap().remove(&spec.id).unwrap();
    assert_eq!(found.spec, spec);
    let text = on.text(&spec.id).await;
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["e two", "o one", "o unended"]);
    let all = on.host.output(&spec.id, OutputFrom::Offset(0)).await.unwrap();
    let tail = on.host.output(&spec.id, OutputFrom::Tail(40)).await.unwrap();
    assert!(all.bytes.ends_with(&tail.bytes) && !tail.bytes.is_empty() && tail.next == all.next);
}

pub async fn what_is_not_to_be_seen_reaches_the_program_and_no_file(on: Fixture) {
    let mut spec = script("shop/web/1", "echo $((${#KEY} + 30)) $(env | grep -c HIDES); exec sleep 60");
    spec.secret_env = [("KEY".to_owned(), Plain("only-in-memory".into()))].into();
    on.host.start(spec.clone()).await.unwrap();
    on.line(&spec.id, "o 44 0").await;
    let grep = std::process::Command::new("grep").args(["-r", "only-in-memory"]).arg(&on.folder).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&grep.stdout), "");
    let found = on.host.processes().await.unwrap().remove(&spec.id).unwrap();
    assert_eq!(found.spec, ProcessSpec { secret_env: BTreeMap::new(), ..spec.clone() });
    on.host.signal(&spec.id, 9).await.unwrap();
    on.end(&spec.id).await;
}

pub async fn a_signal_reaches_the_program_and_its_answer_is_learned(on: Fixture) {
    let asked = script("shop/web/1", "trap 'echo asked; exit 3' TERM; echo ready; while :; do sleep 0.01; done");
    let deaf = script("shop/web/2", "trap '' TERM; echo ready; while :; do sleep 0.01; done");
    for spec in [&asked, &deaf] {
        on.host.start(spec.clone()).await.unwrap();
        on.line(&spec.id, "o ready").await;
        on.host.signal(&spec.id, 15).await.unwrap();
    }
    assert_eq!(on.end(&asked.id).await, ProcessState::Exited { code: 3 });
    assert!(on.text(&asked.id).await.contains("o asked"));
    on.pid(&deaf.id).await;
    on.host.signal(&deaf.id, 9).await.unwrap();
    assert_eq!(on.end(&deaf.id).await, ProcessState::Killed { signal: 9 });
    on.host.signal(&deaf.id, 15).await.expect("no error after the end");
    on.host.signal(&id("no/such/1"), 15).await.expect("nor for what is not there");
    assert!(on.host.signal(&asked.id, 0).await.is_err() && on.host.signal(&asked.id, 65).await.is_err());
}

pub async fn every_descendant_ends_with_its_program(on: Fixture) {
    let mut spec = script(
        "shop/web/1",
        "sleep 1000 & setsid sleep 1000 & (setsid sh -c 'trap \"\" TERM HUP INT; sleep 1000' &) ; sleep 0.1; echo up; read never </dev/zero",
    );
    spec.command[2] = spec.command[2].replace("read never </dev/zero", "sleep 1000");
    let entry = format!("STORY=every-{}", std::process::id());
    spec.env.insert("STORY".into(), entry["STORY=".len()..].into());
    on.host.start(spec.clone()).await.unwrap();
    on.line(&spec.id, "o up").await;
    assert!(carriers(&entry).len() >= 5, "{:?}", carriers(&entry));
    // Only the program itself.
    kill(on.pid(&spec.id).await);
    assert_eq!(on.end(&spec.id).await, ProcessState::Killed { signal: 9 });
    assert_eq!(carriers(&entry), []);
}

pub async fn a_kill_reaches_descendants_that_left_the_session(on: Fixture) {
    let spec = script("shop/web/1", "setsid sh -c 'echo pid $$; exec sleep 1000' & sleep 1000");
    on.host.start(spec.clone()).await.unwrap();
    eventually("the descendant", async || on.text(&spec.id).await.contains("pid")).await;
    let text = on.text(&spec.id).await;
    let stray: u32 = text.trim().rsplit_once(' ').unwrap().1.parse().unwrap();
    assert!(runs(stray));
    on.host.signal(&spec.id, 9).await.unwrap();
    on.end(&spec.id).await;
    assert!(!runs(stray));
}

pub async fn an_id_runs_once_and_again_after_its_end_with_its_output_going_on(on: Fixture) {
    let spec = script("shop/web/1", "echo hello; sleep 1000");
    on.host.start(spec.clone()).await.unwrap();
    let error = on.host.start(spec.clone()).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AlreadyExists);
    assert!(on.host.forget(&spec.id).await.is_err(), "it runs");
    eventually("its first words", async || on.text(&spec.id).await == "o hello\n").await;
    on.host.signal(&spec.id, 9).await.unwrap();
    on.end(&spec.id).await;
    for code in 0..20 {
        let next = script("shop/web/1", &format!("echo run {code}; exit {code}"));
        on.host.start(next).await.unwrap();
        assert_eq!(on.end(&spec.id).await, ProcessState::Exited { code });
    }
    let text = on.text(&spec.id).await;
    assert!(text.starts_with("o hello\no run 0\n") && text.ends_with("o run 19\n"), "{text}");
}

pub async fn a_start_that_nobody_waits_for_goes_on(on: Fixture) {
    let spec = script("shop/web/1", "sleep 1000");
    {
        let start = on.host.start(spec.clone());
        // Once around, which is enough to begin it.
        assert!(tokio::time::timeout(std::time::Duration::ZERO, start).await.is_err());
    }
    let running = async || matches!(on.state(&spec.id).await, Some(ProcessState::Running { pid: 1.. }));
    eventually("the program", running).await;
}

pub async fn what_is_forgotten_leaves_nothing_behind(on: Fixture) {
    let spec = script("shop/web/1", "mkdir -p deep/er; echo x > deep/er/file; exit 1");
    on.host.start(spec.clone()).await.unwrap();
    on.end(&spec.id).await;
    assert!(on.folder_of(&spec.id).join("work/deep/er/file").exists());
    on.host.forget(&spec.id).await.unwrap();
    assert!(on.host.processes().await.unwrap().is_empty());
    assert_eq!(std::fs::read_dir(on.folder.join("processes")).unwrap().count(), 0);
    on.host.forget(&spec.id).await.expect("again is no error");
    assert!(on.host.output(&spec.id, OutputFrom::Tail(10)).await.is_err());
}

/// The agent need not run for it: here nothing asks the host while the time passes.
pub async fn at_its_deadline_a_program_ends_with_all_its_descendants_unless_it_is_put_off(on: Fixture) {
    let after = |ms| OsClock.now() + Duration::from_millis(ms);
    // One child has left the session, and none wants to end.
    let text = "trap '' TERM; MARKED=yes setsid sleep 1000 & MARKED=yes sleep 1000";
    let begun = after(0);
    let short = ProcessSpec { deadline: Some(after(700)), ..script("shop/one/1", text) };
    let put_off = ProcessSpec { deadline: Some(after(700)), ..script("shop/one/2", "sleep 1000") };
    on.host.start(short.clone()).await.unwrap();
    on.host.start(put_off.clone()).await.unwrap();
    on.host.prolong(&put_off.id, after(3_600_000)).await.unwrap();
    let ended = on.end(&short.id).await;
    assert!(matches!(&ended, ProcessState::Lost { message } if message.contains("grant")), "{ended:?}");
    let took = OsClock.now().since(begun);
    assert!(took >= Duration::from_millis(700), "{took:?}");
    assert!(carriers("MARKED=yes").is_empty());
    assert!(matches!(on.state(&put_off.id).await, Some(ProcessState::Running { pid: 1.. })));
    // A deadline can also be moved nearer.
    on.host.prolong(&put_off.id, after(0)).await.unwrap();
    assert!(matches!(on.end(&put_off.id).await, ProcessState::Lost { .. }));

    let late = ProcessSpec { deadline: Some(after(0)), ..script("shop/one/3", "sleep 1000") };
    let error = on.host.start(late.clone()).await.unwrap_err().to_string();
    assert!(error.contains("grant"), "{error}");
    on.host.prolong(&late.id, after(1_000)).await.expect("what has ended needs no deadline");
}

pub fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}
