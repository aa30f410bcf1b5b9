//! What a program finds around itself, and what it may not do to its host.

use std::collections::BTreeMap;
use std::fs::File;
use std::time::{Duration, Instant};

use hirsel_role::Host;
use hirsel_role::host::{OutputFrom, ProcessSpec, ProcessState};

use crate::fixture::{Fixture, command, eventually, pids, script, state_and_parent};

pub async fn the_environment_is_exactly_the_given_one(on: Fixture) {
    let mut spec = command("shop/web/1", &["env"]);
    spec.env = BTreeMap::from([
        ("PATH".into(), "/usr/bin:/bin".into()),
        ("PORT".into(), "20001".into()),
        ("ODD".into(), " a=b c ".into()),
    ]);
    let text = on.output_of(spec).await;
    let mut lines: Vec<&str> = text.lines().filter(|line| !line.starts_with("o HIRSEL_RUN=")).collect();
    lines.sort_unstable();
    assert_eq!(lines, ["o ODD= a=b c ", "o PATH=/usr/bin:/bin", "o PORT=20001"]);
    assert_eq!(text.lines().count(), 4);
}

pub async fn nothing_the_agent_has_open_reaches_a_program(on: Fixture) {
    let inherited = File::open("/dev/zero").unwrap();
    rustix::io::fcntl_setfd(&inherited, rustix::io::FdFlags::empty()).unwrap();
    let text = on.output_of(script("shop/web/1", "ls -l /proc/$$/fd")).await;
    let mut open: Vec<&str> =
        text.lines().filter_map(|line| line.split_once(" -> ")?.0.rsplit_once(' ')).map(|(_, fd)| fd).collect();
    open.sort_unstable();
    assert_eq!(open, ["0", "1", "2"], "{text}");
}

pub async fn what_an_operator_has_run_is_waited_for_and_ends_with_all_it_began(on: Fixture) {
    let host = &on.host;
    let run = |script: &str, limit: u64| {
        let command = ["/bin/sh", "-c", script].map(String::from);
        async move { host.run(&command, &[("WHAT", "a b".into())], Duration::from_secs(limit)).await }
    };
    assert_eq!(run("test \"$WHAT\" = 'a b' && test -z \"$HOME\" && test $(pwd) = /", 30).await, Ok(()));
    let told = run("echo much; echo 'no such address' >&2; exit 3", 30).await;
    assert_eq!(told, Err("/bin/sh ended with status 3: no such address".into()));
    assert_eq!(run("kill -9 $$", 30).await, Err("/bin/sh was ended by signal 9".into()));
    let absent = host.run(&["/no/such/hook".into()], &[], Duration::from_secs(1)).await.unwrap_err();
    assert!(absent.starts_with("/no/such/hook cannot be started: "), "{absent}");
    // More than a pipe holds, and somebody who keeps it open.
    assert_eq!(run("sleep 1000 & head -c 200000 /dev/zero", 30).await, Ok(()));
    let began = Instant::now();
    let told = run("echo still here; sleep 1000 & sleep 1000", 1).await;
    assert_eq!(told, Err("/bin/sh did not end within 1 s and was killed: still here".into()));
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    // Whoever does not wait for it any longer leaves nothing behind.
    let mark = format!("{}.5", 1_000_000 + std::process::id());
    let sleeps = || procs(&mark);
    tokio::select! {
        ended = run(&format!("sleep {mark} & sleep {mark}"), 1_000) => panic!("it ended: {ended:?}"),
        () = eventually("both to run", async || sleeps() == 2) => {}
    }
    eventually("both to end", async || sleeps() == 0).await;
}

/// How many processes of this machine that have not ended have `word` among their words.
fn procs(word: &str) -> usize {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let has = |path: std::path::PathBuf| {
        let words = std::fs::read(path.join("cmdline")).unwrap_or_default();
        words.split(|byte| *byte == 0).any(|it| it == word.as_bytes())
    };
    all.filter(|entry| has(entry.path())).count()
}

pub async fn what_cannot_be_started_says_why_and_is_listed_as_lost(on: Fixture) {
    let absent = command("bad/program/1", &["/no/such/program"]);
    let mut workdir = script("bad/workdir/1", "true");
    workdir.workdir = Some("/no/such/folder".into());
    let mut user = script("bad/user/1", "true");
    user.user = Some("no-such-user".into());
    let empty = command("bad/empty/1", &[]);
    let zero = command("bad/zero/1", &["/bin/echo", "a\0b"]);
    let not_executable = command("bad/file/1", &["/etc/passwd"]);
    let cases: [(ProcessSpec, &str); 6] = [
        (absent, "could not start \"/no/such/program\": No such file"),
        (workdir, "could not enter the working folder /no/such/folder: No such file"),
        (user, "cannot run as user \"no-such-user\": no such user on this host"),
        (empty, "the command is empty"),
        (zero, "nul byte"),
        (not_executable, "could not start \"/etc/passwd\": Permission denied"),
    ];
    for (spec, reason) in cases {
        let error = on.host.start(spec.clone()).await.unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
        assert_eq!(on.state(&spec.id).await, Some(ProcessState::Lost { message: error }));
        on.host.forget(&spec.id).await.unwrap();
    }
}

pub async fn a_program_runs_as_the_user_it_was_given(on: Fixture) {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let nobody = passwd.lines().find(|line| line.starts_with("nobody:")).and_then(|line| line.split(':').nth(2));
    let (true, Some(uid)) = (rustix::process::geteuid().is_root(), nobody) else {
        let required = std::env::var("HIRSEL_REQUIRE").is_ok_and(|value| value == "all");
        assert!(!required, "needs root and a user nobody");
        println!("skipped: needs root and a user nobody");
        return;
    };
    let mut spec =
        script("shop/web/1", "id -u; id -G; echo mine > file && cat file; kill -9 1 2>/dev/null || echo harmless");
    spec.user = Some("nobody".into());
    let text = on.output_of(spec).await;
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], format!("o {uid}"));
    assert!(!lines[1].split(' ').any(|group| group == "0"), "{text}");
    assert_eq!(lines[2..], ["o mine", "o harmless"]);
}

pub async fn much_output_is_rotated_and_its_end_is_kept(on: Fixture) {
    let line = "x".repeat(99);
    let spec = script("shop/web/1", &format!("yes {line} | head -c 20000000; echo the end"));
    on.host.start(spec.clone()).await.unwrap();
    on.end(&spec.id).await;
    let sizes: Vec<u64> = std::fs::read_dir(on.folder_of(&spec.id))
        .unwrap()
        .flatten()
        .filter(|entry| entry.file_name().to_str().unwrap().starts_with("output."))
        .map(|entry| entry.metadata().unwrap().len())
        .collect();
    assert!(sizes.len() == 2 && sizes.iter().all(|size| *size <= 4 << 20), "{sizes:?}");
    let tail = on.host.output(&spec.id, OutputFrom::Tail(100)).await.unwrap();
    assert!(tail.bytes.ends_with(b"o the end\n"));
    // 200,000 lines with 27 bytes before each, and the last.
    assert_eq!(tail.next, 200_000 * (100 + 27) + 27 + 8);
}

pub async fn signals_and_limits_are_those_of_a_fresh_process(on: Fixture) {
    let text =
        on.output_of(script("shop/web/1", "grep -E '^Sig(Blk|Ign)' /proc/self/status; ulimit -c; umask; pwd")).await;
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "o SigBlk:\t0000000000000000");
    // 32 and 33 belong to the C library, and are as they were inherited.
    let ignored = u64::from_str_radix(lines[1].rsplit_once('\t').unwrap().1, 16).unwrap();
    assert_eq!(ignored & !0x1_8000_0000, 0, "{text}");
    assert_eq!(lines[2..4], ["o 0", "o 0022"]);
    assert!(lines[4].ends_with("/processes/output.of.1/work"), "{text}");
}

pub async fn a_shim_is_small(on: Fixture) {
    let spec = script("shop/web/1", "yes 0123456789 | head -c 1000000; echo; echo up; sleep 1000");
    on.host.start(spec.clone()).await.unwrap();
    on.line(&spec.id, "o up").await;
    let (_, shim) = state_and_parent(on.pid(&spec.id).await).unwrap();
    let rollup = std::fs::read_to_string(format!("/proc/{shim}/smaps_rollup")).unwrap();
    let kib = |name: &str| -> u64 {
        let line = rollup.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let private = kib("Private_Dirty:") + kib("Private_Clean:");
    println!("a shim keeps {private} KiB to itself, {} KiB of them written", kib("Private_Dirty:"));
    assert!(kib("Private_Dirty:") < 2048, "{rollup}");
    let threads = std::fs::read_dir(format!("/proc/{shim}/task")).unwrap().count();
    let open = std::fs::read_dir(format!("/proc/{shim}/fd")).unwrap().count();
    assert_eq!((threads, open), (1, 8), "lock, null, complaints, signals, control, two streams, output");
}

pub async fn no_zombie_is_left(on: Fixture) {
    for number in 0..10 {
        let spec = script(&format!("shop/web/{number}"), "(sleep 0.01 &) ; (true &) ; exit 0");
        on.host.start(spec.clone()).await.unwrap();
        on.end(&spec.id).await;
    }
    let me = std::process::id();
    let zombies: Vec<u32> = pids().filter(|pid| state_and_parent(*pid) == Some(('Z', me))).collect();
    assert_eq!(zombies, []);
    let open = std::fs::read_dir("/proc/self/fd").unwrap().count();
    assert!(open < 30, "{open} descriptors are open");
}
