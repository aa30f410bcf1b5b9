//! Processes on a simulated machine.

use hirsel_model::{Revision, Timestamp};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::clock::{SimClock, elapsed};
use crate::disk::Platter;
use crate::net::Links;
use crate::trace::Trace;

fn spec(number: u64, port: u16, command: &[&str]) -> ProcessSpec {
    ProcessSpec {
        id: format!("shop/web/{number}").parse().unwrap(),
        revision: Revision(1),
        command: command.iter().map(|word| word.to_string()).collect(),
        env: BTreeMap::new(),
        secret_env: BTreeMap::new(),
        workdir: None,
        user: None,
        stop_signal: 15,
        port,
        deadline: None,
        note: b"note".to_vec(),
    }
}

async fn get(host: &SimHost, port: u16, path: &str) -> io::Result<String> {
    let mut stream = host.connect(([127, 0, 0, 1], port).into()).await?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await?;
    let mut buffer = vec![0; 4096];
    let len = stream.read(&mut buffer).await?;
    Ok(String::from_utf8_lossy(&buffer[..len]).into_owned())
}

/// Runs `story` on a simulated host, twice in a row on the same machine when it asks for `lives` 2.
fn on_a_host<F: Future<Output = ()> + 'static>(story: impl FnOnce(Arc<Machine>, SimHost) -> F + 'static) {
    let mut sim = turmoil::Builder::new().rng_seed(1).build();
    let machine = Machine::new("n1", SimClock::default());
    let net = SimNet {
        ip: sim.lookup("n1"),
        links: Links::default(),
        machine: machine.clone(),
        rng: Arc::new(Mutex::new(crate::chance::stream(1, "net"))),
        trace: Trace::default(),
        open: crate::net::Open::default(),
    };
    let host = SimHost::new(net, Arc::new(Platter::default()).mount(), Arc::default(), "compute");
    sim.client("n1", async move {
        story(machine, host).await;
        Ok(())
    });
    sim.run().unwrap();
}

#[test]
fn a_program_listens_after_its_start_up_delay_and_answers() {
    on_a_host(|_, host| async move {
        host.start(spec(1, 20_001, &["sim-web", "start=500"])).await.unwrap();
        assert_eq!(get(&host, 20_001, "/").await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(get(&host, 20_001, "/healthz").await.unwrap().starts_with("HTTP/1.1 200 OK"));
        assert!(get(&host, 20_001, "/cart").await.unwrap().ends_with("GET /cart n1 shop/web/1"));
    });
}

#[test]
fn a_running_id_is_not_started_again_and_a_running_process_is_not_forgotten() {
    on_a_host(|_, host| async move {
        let spec = spec(1, 20_001, &["sim-web"]);
        host.start(spec.clone()).await.unwrap();
        assert_eq!(host.start(spec.clone()).await.unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert!(host.forget(&spec.id).await.is_err());
        assert!(!host.port_is_free(([127, 0, 0, 1], 20_001).into()));
        host.signal(&spec.id, 9).await.unwrap();
        assert_eq!(host.processes().await.unwrap()[&spec.id].state, ProcessState::Killed { signal: 9 });
        host.forget(&spec.id).await.unwrap();
        assert!(host.processes().await.unwrap().is_empty() && host.port_is_free(([127, 0, 0, 1], 20_001).into()));
    });
}

#[test]
fn the_stop_signal_ends_a_program_after_a_while_and_is_announced() {
    on_a_host(|_, host| async move {
        let spec = spec(1, 20_001, &["sim-web", "stop=300"]);
        host.start(spec.clone()).await.unwrap();
        tokio::time::timeout(Duration::from_secs(1), host.changed()).await.unwrap();
        host.signal(&spec.id, 15).await.unwrap();
        let began = elapsed();
        while host.processes().await.unwrap()[&spec.id].state == (ProcessState::Running { pid: 1001 }) {
            tokio::time::timeout(Duration::from_secs(1), host.changed()).await.unwrap();
        }
        assert_eq!(host.processes().await.unwrap()[&spec.id].state, ProcessState::Exited { code: 0 });
        assert!(elapsed() - began >= Duration::from_millis(300));
    });
}

#[test]
fn a_crash_breaks_the_connections_under_way() {
    on_a_host(|_, host| async move {
        host.start(spec(1, 20_001, &["sim-web", "start=0", "exit=3"])).await.unwrap();
        assert_eq!(get(&host, 20_001, "/crash").await.unwrap(), "");
        let state = host.processes().await.unwrap().into_values().next().unwrap().state;
        assert_eq!(state, ProcessState::Exited { code: 3 });
        assert!(get(&host, 20_001, "/").await.is_err());
    });
}

#[test]
fn a_program_told_to_be_mortal_ends_by_itself() {
    on_a_host(|machine, host| async move {
        host.start(spec(1, 20_001, &["sim-web", "crash-after=700"])).await.unwrap();
        tokio::time::sleep(Duration::from_millis(600)).await;
        assert_eq!(machine.running(elapsed()).len(), 1);
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(machine.running(elapsed()).is_empty());
    });
}

#[test]
fn two_programs_on_one_port_are_one_too_many() {
    on_a_host(|_, host| async move {
        host.start(spec(1, 20_001, &["sim-web", "start=0"])).await.unwrap();
        host.start(spec(2, 20_001, &["sim-web", "start=0"])).await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
        let states: Vec<_> = host.processes().await.unwrap().into_values().map(|process| process.state).collect();
        assert_eq!(states, [ProcessState::Running { pid: 1001 }, ProcessState::Exited { code: 98 }]);
    });
}

#[test]
fn what_no_program_is_cannot_be_started() {
    on_a_host(|_, host| async move {
        assert_eq!(host.start(spec(1, 20_001, &["nginx"])).await.unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(host.start(spec(1, 20_001, &["sim-web", "colour=red"])).await.is_err());
        assert!(host.processes().await.unwrap().is_empty());
    });
}

#[test]
fn processes_outlive_the_agent_and_end_with_the_power() {
    let mut sim = turmoil::Builder::new().rng_seed(1).build();
    let (machine, platter) = (Machine::new("n1", SimClock::default()), Arc::new(Platter::default()));
    let net = SimNet {
        ip: sim.lookup("n1"),
        links: Links::default(),
        machine: machine.clone(),
        rng: Arc::new(Mutex::new(crate::chance::stream(1, "net"))),
        trace: Trace::default(),
        open: crate::net::Open::default(),
    };
    sim.host("n1", move || {
        let host = SimHost::new(net.clone(), platter.mount(), Arc::default(), "compute");
        async move {
            let _ = host.start(spec(1, 20_001, &["sim-web"])).await;
            std::future::pending().await
        }
    });
    let step = |sim: &mut turmoil::Sim<'_>| (0..100).for_each(|_| assert!(sim.step().is_ok()));
    step(&mut sim);
    sim.crash("n1");
    step(&mut sim);
    assert_eq!(machine.running(sim.elapsed()).len(), 1, "the agent alone died");
    sim.bounce("n1");
    step(&mut sim);
    assert_eq!(machine.running(sim.elapsed()).len(), 1, "found again, not started twice");
    machine.lose_power();
    assert!(machine.running(sim.elapsed()).is_empty());
}

#[test]
fn a_process_with_a_deadline_ends_at_it_on_the_clock_of_its_host() {
    on_a_host(|machine, host| async move {
        let granted = |number, at| ProcessSpec {
            deadline: Some(Timestamp(at)),
            ..spec(number, 20_000 + number as u16, &["sim-web"])
        };
        let (one, two) = (granted(1, 1_000), granted(2, 1_000));
        host.start(one.clone()).await.unwrap();
        host.start(two.clone()).await.unwrap();
        host.prolong(&two.id, Timestamp(2_500)).await.unwrap();
        host.changed().await;
        tokio::time::sleep(Duration::from_millis(1_001).saturating_sub(elapsed())).await;
        assert!(machine.running(elapsed()).into_keys().eq([two.id.clone()]));
        assert!(matches!(host.processes().await.unwrap()[&one.id].state, ProcessState::Lost { .. }));
        tokio::time::sleep(Duration::from_millis(2_490).saturating_sub(elapsed())).await;
        assert!(machine.running(elapsed()).contains_key(&two.id));
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(machine.running(elapsed()).is_empty());
    });
}

#[test]
fn without_the_word_of_its_guard_a_host_prolongs_nothing_and_starts_nothing_that_is_granted() {
    on_a_host(|machine, host| async move {
        let granted = |number, at| ProcessSpec {
            deadline: Some(Timestamp(at)),
            ..spec(number, 20_000 + number as u16, &["sim-web"])
        };
        assert_eq!(host.guard().await, GuardState::Unneeded);
        let (one, two) = (granted(1, 1_000), granted(2, 1_000));
        host.start(one.clone()).await.unwrap();
        assert_eq!(host.guard().await, GuardState::Watches { guards: 1 });
        machine.silence_guard(true);
        assert!(matches!(host.guard().await, GuardState::Silent { .. }));
        assert!(host.prolong(&one.id, Timestamp(9_000)).await.unwrap_err().to_string().contains("guard"));
        assert!(host.start(two).await.unwrap_err().to_string().contains("guard"));
        host.start(spec(3, 20_003, &["sim-web"])).await.expect("it is granted by nobody");
        tokio::time::sleep(Duration::from_millis(1_001).saturating_sub(elapsed())).await;
        assert_eq!(machine.running(elapsed()).into_keys().next(), Some("shop/web/3".parse().unwrap()));
        machine.silence_guard(false);
        host.start(granted(1, 9_000)).await.unwrap();
        host.prolong(&one.id, Timestamp(10_000)).await.unwrap();
        assert_eq!(host.guard().await, GuardState::Watches { guards: 1 });
    });
}
