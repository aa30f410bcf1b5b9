//! Rates that hold for all load balancers together, about.
//!
//! Each takes requests from buckets of its own, at once and without asking anybody, and tells the others four times a second what it took;
//! they take the same from theirs. So a client gets at most what the limit says, and besides what it gets from several nodes within the
//! same quarter of a second, which it has to wait for afterwards; and while nodes do not hear each other, each counts alone.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures::FutureExt;
use futures::future::join_all;
use hirsel_mesh::seam::Clock;
use hirsel_model::codec;
use hirsel_model::view::Liveness;
use hirsel_model::{NodeId, RoleName, Timestamp};
use hirsel_role::peers::Peers;
use hirsel_role::{Context, Live};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};

use super::Limiter;

/// How often others are told. A limit is about seconds.
const EVERY: Duration = Duration::from_millis(250);
/// What is not there by then is of no use: the next one is on its way.
const WITHIN: Duration = Duration::from_secs(1);
/// Clients that are told of at once, each in 30 bytes at most; what others took goes untold.
const TOLD_MAX: usize = 4096;
/// By what others are told.
const KIND: &str = "lb.rates";

/// What was taken by whom, since others were told.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// A number for the route, one for the client, and how many requests.
    #[serde(default)]
    pub of: Vec<(u64, u64, u32)>,
}

impl Taken {
    /// What another node told; none for what is nothing of the kind, or too much.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        codec::decode::<Self>(bytes).ok().filter(|taken| taken.of.len() <= TOLD_MAX)
    }
}

/// The limits that this load balancer shares with others.
#[derive(Default)]
pub struct Among {
    taken: Mutex<BTreeMap<(u64, u64), u32>>,
    /// Told with the first that is taken: where nothing is, nobody wakes.
    some: Notify,
    limiters: Mutex<BTreeMap<u64, Weak<Limiter>>>,
}

impl Among {
    /// Shares what `limiter` does, which all know by this number.
    pub fn share(&self, route: u64, limiter: &Arc<Limiter>) {
        let mut limiters = lock(&self.limiters);
        // Those of routes that are gone.
        limiters.retain(|_, limiter| limiter.strong_count() > 0);
        limiters.insert(route, Arc::downgrade(limiter));
    }

    /// A request of this client was taken here.
    pub fn took(&self, route: u64, client: u64) {
        let mut taken = lock(&self.taken);
        let is_full = taken.len() >= TOLD_MAX;
        match taken.get_mut(&(route, client)) {
            Some(number) => *number = number.saturating_add(1),
            None if is_full => {}
            None => {
                taken.insert((route, client), 1);
                if taken.len() == 1 {
                    self.some.notify_one();
                }
            }
        }
    }

    /// What was taken here since the last time.
    pub fn drain(&self) -> Taken {
        let taken = std::mem::take(&mut *lock(&self.taken));
        Taken { of: taken.into_iter().map(|((route, client), number)| (route, client, number)).collect() }
    }

    /// Takes what was taken elsewhere.
    pub fn hears(&self, taken: &Taken, now: Timestamp) {
        for (route, client, number) in &taken.of {
            let limiter = lock(&self.limiters).get(route).and_then(Weak::upgrade);
            if let Some(limiter) = limiter {
                limiter.took_elsewhere(*client, *number, now);
            }
        }
    }

    /// Hears what others take from now on.
    pub fn listen(self: &Arc<Self>, peers: &dyn Peers, clock: Arc<dyn Clock>) {
        let among = self.clone();
        let hear = move |_: NodeId, bytes: Vec<u8>| {
            let answer = match Taken::read(&bytes) {
                Some(taken) => {
                    among.hears(&taken, clock.now());
                    Ok(Vec::new())
                }
                None => Err("this is no list of what was taken".to_owned()),
            };
            futures::future::ready(answer).boxed()
        };
        peers.serve(KIND, Arc::new(hear));
    }

    /// Tells others what is taken here, until it is dropped.
    pub async fn tell(self: Arc<Self>, context: Context) {
        loop {
            self.some.notified().await;
            tokio::time::sleep(EVERY).await;
            let bytes = codec::encode(&self.drain());
            let others = others(&context.live, context.me.id);
            // Whoever does not hear it counts alone.
            drop(join_all(others.into_iter().map(|to| context.peers.call(to, KIND, bytes.clone(), WITHIN))).await);
        }
    }
}

/// Who else balances load, as far as is heard.
fn others(live: &watch::Receiver<Arc<Live>>, me: NodeId) -> Vec<NodeId> {
    let live = live.borrow();
    let balances = |id: &NodeId| {
        let node = &live.nodes[id];
        *id != me && node.liveness == Liveness::Alive && node.roles.contains_key(&RoleName::lb())
    };
    live.nodes.keys().filter(|id| balances(id)).copied().collect()
}

fn lock<T>(it: &Mutex<T>) -> MutexGuard<'_, T> {
    it.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Among {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Among").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use hirsel_model::spec::RateLimit;
    use proptest::prelude::*;

    use super::super::Clients;
    use super::*;

    /// Load balancers with one limit.
    fn herd(nodes: u64, limit: &RateLimit) -> Vec<(Arc<Among>, Arc<Limiter>)> {
        let node = |seed| {
            let among = Arc::<Among>::default();
            (among.clone(), Limiter::shared(limit, b"route", &Arc::new(Clients::new(seed)), &among))
        };
        (1..=nodes).map(node).collect()
    }

    fn exchange(herd: &[(Arc<Among>, Arc<Limiter>)], now: Timestamp) {
        let told: Vec<Taken> = herd.iter().map(|(among, _)| among.drain()).collect();
        for (from, taken) in told.iter().enumerate() {
            let read = Taken::read(&codec::encode(taken)).unwrap();
            herd.iter().enumerate().filter(|(to, _)| *to != from).for_each(|(_, (among, _))| among.hears(&read, now));
        }
    }

    #[test]
    fn what_one_took_is_gone_at_the_others_too() {
        for together in [false, true] {
            let limit = RateLimit { requests: 10, per_ms: 10_000, burst: 10, together, cluster: true };
            let herd = herd(3, &limit);
            let client: IpAddr = "10.0.0.1".parse().unwrap();
            let take = |at: usize, ms| herd[at].1.take(client, Timestamp(ms)).is_ok();
            assert!((0..6).all(|_| take(0, 1_000)) && (0..4).all(|_| take(1, 1_000)));
            exchange(&herd, Timestamp(1_250));
            assert_eq!([take(0, 1_250), take(1, 1_250), take(2, 1_250)], [false; 3]);
            assert!(take(2, 2_250), "one a second is given back");
            exchange(&herd, Timestamp(2_500));
            assert_eq!([take(0, 2_500), take(1, 2_500)], [false; 2]);
        }
    }

    #[test]
    fn who_got_too_much_waits_for_it_and_a_wrong_word_holds_nobody_for_ever() {
        let limit = RateLimit { requests: 10, per_ms: 10_000, burst: 10, together: false, cluster: true };
        let herd = herd(4, &limit);
        let client: IpAddr = "10.0.0.1".parse().unwrap();
        for (_, limiter) in &herd {
            while limiter.take(client, Timestamp(1_000)).is_ok() {}
        }
        exchange(&herd, Timestamp(1_000));
        let waits = || herd[0].1.take(client, Timestamp(1_000)).unwrap_err();
        assert_eq!(waits(), Duration::from_secs(31), "it got 40, and 10 are given back in 10 s");
        herd[0].1.take("10.0.0.2".parse().unwrap(), Timestamp(1_000)).unwrap();
        let (route, ..) = herd[0].0.drain().of[0];
        herd[0].0.hears(&Taken { of: vec![(route, super::super::number_of(client), u32::MAX)] }, Timestamp(1_000));
        assert_eq!(waits(), Duration::from_secs(151));
    }

    #[test]
    fn what_too_many_took_goes_untold_and_what_is_too_much_is_not_heard() {
        let among = Among::default();
        (0..2 * TOLD_MAX as u64).for_each(|client| among.took(1, client));
        among.took(1, 0);
        let taken = among.drain();
        assert_eq!((taken.of.len(), taken.of[0]), (TOLD_MAX, (1, 0, 2)));
        assert!(codec::encode(&taken).len() < hirsel_mesh::transport::BODY_BYTES_MAX);
        assert!(Taken::read(&codec::encode(&Taken { of: vec![(1, 1, 1); TOLD_MAX + 1] })).is_none());
        assert_eq!(among.drain(), Taken::default());
    }

    proptest! {
        /// Whatever the order in which clients come to nodes: they get what the limit says, and besides only what they got elsewhere
        /// since nodes told each other for the last time.
        #[test]
        fn together_they_take_no_more_than_one_would_and_what_was_not_told_yet(
            requests in 1..50u32, per_ms in 500..10_000u64, burst in 1..20u32,
            asked in prop::collection::vec((0..3usize, 0..200u64), 1..300),
        ) {
            let limit = RateLimit { requests, per_ms, burst, together: false, cluster: true };
            let herd = herd(3, &limit);
            let client: IpAddr = "10.0.0.1".parse().unwrap();
            let (begun, mut now, mut told) = (1_000, 1_000, 1_000);
            let (mut taken, mut untold, mut untold_most) = (0u64, 0u64, 0u64);
            for (node, pause) in asked {
                now += pause;
                if now >= told + 250 {
                    told = now;
                    exchange(&herd, Timestamp(now));
                    (untold_most, untold) = (untold_most.max(untold), 0);
                }
                if herd[node].1.take(client, Timestamp(now)).is_ok() {
                    (taken, untold) = (taken + 1, untold + 1);
                }
            }
            let most = u64::from(burst) + (now - begun) * u64::from(requests) / per_ms + 1;
            let more = 2 * untold_most.max(untold);
            prop_assert!(taken <= most + more, "{taken} of at most {most} and {more}");
        }

        #[test]
        fn nothing_that_is_said_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), number in any::<u32>()) {
            let limit = RateLimit { requests: 1_000_000, per_ms: 86_400_000, burst: 1_000_000, together: false, cluster: true };
            let herd = herd(1, &limit);
            let _ = Taken::read(&bytes).map(|taken| herd[0].0.hears(&taken, Timestamp(u64::MAX)));
            herd[0].1.take("10.0.0.1".parse().unwrap(), Timestamp(1)).unwrap();
            let (route, client, _) = herd[0].0.drain().of[0];
            herd[0].0.hears(&Taken { of: vec![(route, client, number); 3] }, Timestamp(5));
        }
    }
}
