//! Nobody is lost and every core is busy: who is judged all the same?

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hirsel_tests::cluster::{Cluster, array, sample};

const NODES: usize = 5;
const MINUTE: Duration = Duration::from_secs(60);
/// The log of the cluster is read so often; it keeps far more than is written meanwhile.
const LOOK_EVERY: Duration = Duration::from_secs(5);

pub fn report(minutes: usize) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    // As many as cores would leave half of each to the agents; twice that is a host that is too small.
    let burners = 2 * cores;
    println!(
        "\ncalm: {NODES} nodes with the sample application, nothing is lost; {burners} threads that never rest on {cores} cores, for \
         {minutes} min; verdicts and terms of the log and the status"
    );
    let cluster = Cluster::start(NODES);
    cluster.apply(&sample(3));
    let term = || cluster.any().ask(["status"]).data()["term"].as_u64().unwrap_or(0);
    let (first_term, since) = (term(), last_event(&cluster));
    let stop = Arc::new(AtomicBool::new(false));
    let burn = |stop: Arc<AtomicBool>| while !stop.load(Ordering::Relaxed) {};
    let threads: Vec<_> = (0..burners)
        .map(|_| {
            std::thread::spawn({
                let stop = stop.clone();
                move || burn(stop)
            })
        })
        .collect();
    let began = Instant::now();
    let (mut suspects, mut looks) = (0, 0);
    while began.elapsed() < MINUTE * u32::try_from(minutes).unwrap_or(u32::MAX) {
        std::thread::sleep(LOOK_EVERY);
        let members = cluster.any().ask(["members"]).data();
        suspects += array(&members).iter().filter(|member| member["liveness"] == "suspect").count();
        looks += array(&members).len();
    }
    let hours = began.elapsed().as_secs_f64() / 3_600.0;
    let elections = term() - first_term;
    stop.store(true, Ordering::Relaxed);
    threads.into_iter().for_each(|thread| thread.join().expect("it only spins"));
    let judged = |word: &str| {
        let events = cluster.any().ask(["events", "--after", &since.to_string()]).data();
        let is = |message: &str| message.contains(word);
        array(&events).iter().filter(|event| event["message"].as_str().is_some_and(is)).count()
    };
    let (unfit, down) = (judged(" is unfit: "), judged(" is down: "));
    println!(
        "  in {hours:.2} h: down {down} ({:.1} per hour), unfit {unfit} ({:.1} per hour), elections {elections}; suspect at {suspects} of {looks} looks",
        down as f64 / hours,
        unfit as f64 / hours
    );
}

fn last_event(cluster: &Cluster) -> u64 {
    let events = cluster.any().ask(["events"]).data();
    array(&events).iter().filter_map(|event| event["index"].as_u64()).max().unwrap_or(0)
}
