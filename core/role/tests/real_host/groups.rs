//! Control groups, where this host has them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hirsel_model::InstanceId;
use hirsel_role::Host;
use hirsel_role::host::ProcessState;
use rustix::process::Signal;

use crate::fixture::{Fixture, eventually, runs, script};
use crate::guard::{after, shim_of, signal, stays_until};
use crate::life::kill;

const LONG: Duration = Duration::from_secs(3_600);

/// Whether the test is to be left out, which is said, or must not be.
fn lacks_groups(group: Option<&PathBuf>) -> bool {
    if group.is_some() {
        return false;
    }
    let required = std::env::var("HIRSEL_REQUIRE").is_ok_and(|value| value == "all");
    assert!(!required, "needs control groups (version 2) that may be written to");
    println!("skipped: needs control groups (version 2) that may be written to");
    true
}

/// The folder of the group a process is in, if that is one of ours.
fn group_of(pid: u32) -> Option<PathBuf> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?.to_owned();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mount = mounts.lines().find(|line| line.contains(" - cgroup2 "))?.split(' ').nth(4)?;
    path.contains("hirsel-").then(|| Path::new(mount).join(path))
}

/// What a program wrote after `word`.
async fn told(on: &Fixture, id: &InstanceId, word: &str) -> u32 {
    let find = |text: String| text.lines().find_map(|line| line.strip_prefix(word)?.trim().parse().ok());
    eventually(word, async || find(on.text(id).await).is_some()).await;
    find(on.text(id).await).unwrap()
}

pub async fn a_program_in_a_group_ends_whole_whatever_it_does_to_hide(mut on: Fixture) {
    // No mark, a session of its own, and no parent that anybody knows once the shim is gone.
    let text = "(env -i setsid sh -c 'echo stray $$; exec sleep 1000' &); exec sleep 1000";
    let spec = stays_until("shop/one/1", after(LONG), text);
    on.host.start(spec.clone()).await.unwrap();
    let group = group_of(on.pid(&spec.id).await);
    if lacks_groups(group.as_ref()) {
        return;
    }
    let group = group.unwrap();
    let stray = told(&on, &spec.id, "o stray").await;
    assert_eq!(group_of(stray).as_ref(), Some(&group));
    assert_eq!(group_of(shim_of(&on, &spec.id).await), None, "the shim lives to tell");
    kill(shim_of(&on, &spec.id).await);
    assert!(matches!(on.end(&spec.id).await, ProcessState::Lost { .. }));
    assert!(!runs(stray) && !group.exists());

    // The same by the guard, at the deadline, with nobody there.
    let spec = stays_until("shop/one/2", after(Duration::from_secs(4)), text);
    on.host.start(spec.clone()).await.unwrap();
    let (group, stray) = (group_of(on.pid(&spec.id).await).unwrap(), told(&on, &spec.id, "o stray").await);
    let shim = shim_of(&on, &spec.id).await;
    signal(shim, Signal::STOP);
    eventually("the group is gone", async || !group.exists()).await;
    assert!(!runs(stray));
    eventually("the shim that stands still is gone too", async || !runs(shim)).await;

    // And by its shim, when the program ends by itself: nothing is left of the groups.
    let spec = stays_until("shop/one/3", after(LONG), "mkdir -p work; exit 7");
    on.host.start(spec.clone()).await.unwrap();
    assert_eq!(on.end(&spec.id).await, ProcessState::Exited { code: 7 });
    eventually("the folder of the groups is gone", async || !group.parent().unwrap().exists()).await;
    let plain = script("shop/web/1", "sleep 1000");
    on.host.start(plain.clone()).await.unwrap();
    assert_eq!(group_of(on.pid(&plain.id).await), None, "what has no deadline needs none");
    on.restart();
    on.pid(&plain.id).await;
}

/// The data folder was tampered with, or the disk lost it: what runs is known to nobody.
pub async fn a_group_that_nobody_knows_is_ended_by_the_next_agent(mut on: Fixture) {
    let specs = [1, 2].map(|number| stays_until(&format!("shop/one/{number}"), after(LONG), "exec sleep 1000"));
    let mut pids = Vec::new();
    for spec in &specs {
        on.host.start(spec.clone()).await.unwrap();
        pids.push(on.pid(&spec.id).await);
    }
    if lacks_groups(group_of(pids[0]).as_ref()) {
        return;
    }
    let (group, shim) = (group_of(pids[0]).unwrap(), shim_of(&on, &specs[0].id).await);
    signal(shim, Signal::STOP);
    std::fs::remove_dir_all(on.folder_of(&specs[0].id)).unwrap();
    on.restart();
    assert!(!runs(pids[0]) && !group.exists());
    assert_eq!(on.pid(&specs[1].id).await, pids[1], "one that is known goes on");
    kill(shim);
}

/// A shim that stood still between its last look at the clock and the start finds its group gone.
pub async fn nothing_begins_in_a_group_that_was_removed(on: Fixture) {
    let probe = stays_until("shop/probe/1", after(LONG), "sleep 1000");
    on.host.start(probe.clone()).await.unwrap();
    let group = group_of(on.pid(&probe.id).await);
    if lacks_groups(group.as_ref()) {
        return;
    }
    let door = group.unwrap().with_file_name("shop.late.1");
    std::fs::create_dir(&door).unwrap();
    let joins = std::fs::File::options().write(true).open(door.join("cgroup.procs")).unwrap();
    std::fs::remove_dir(&door).unwrap();
    // What a shim holds open of a group that was removed meanwhile lets nobody in.
    let error = std::io::Write::write(&mut &joins, b"0").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::NODEV.raw_os_error()));
}
