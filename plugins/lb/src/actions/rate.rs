//! How many requests a client, or all of them, may send.
//!
//! A token bucket, kept as the time at which it would be full again ("generic cell rate algorithm", ITU-T I.371): one number for each
//! client. There is one table for the clients of all routes, of a fixed size, made when it is first needed; where too many meet in one
//! place the one that is nearest to a full bucket makes room, so that strangers cannot drive out whoever is being held back.

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use hirsel_model::Timestamp;
use hirsel_model::spec::RateLimit;

use among::Among;

pub mod among;

/// Places of the table: this many times [`WAYS`] clients, in two megabytes.
const SETS: usize = 16 * 1024;
/// Clients of one place.
const WAYS: usize = 8;

const NS_PER_MS: u64 = 1_000_000;

/// A bucket lacks so many bursts at most, whatever others say that they took: as many as so many load balancers give at once.
const BURSTS_MAX: u64 = 16;

/// The bucket of one client: when it will be full again, in nanoseconds of the clock; zero for a place that is free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Slot {
    /// Stands for a client of a route.
    key: u64,
    full_at: u64,
}

/// The clients of all routes that limit them.
pub struct Clients {
    /// By chance: nobody outside knows which clients meet.
    seed: u64,
    sets: OnceLock<Box<[Mutex<[Slot; WAYS]>]>>,
}

impl Clients {
    /// Nobody yet.
    pub fn new(seed: u64) -> Self {
        Self { seed, sets: OnceLock::new() }
    }

    /// Takes a request from the bucket of `key`.
    fn take(&self, rate: Rate, key: u64, now: u64) -> Result<(), Duration> {
        let sets = self.sets.get_or_init(|| (0..SETS).map(|_| Mutex::default()).collect());
        let at = (mix(key ^ self.seed) % sets.len() as u64) as usize;
        let mut set = sets[at].lock().unwrap_or_else(PoisonError::into_inner);
        let known = set.iter().position(|slot| slot.key == key && slot.full_at != 0);
        let place = known.or_else(|| (0..WAYS).min_by_key(|at| set[*at].full_at)).unwrap_or_default();
        let full_at = if known.is_some() { set[place].full_at } else { 0 };
        set[place] = Slot { key, full_at: rate.take(full_at, now)? };
        Ok(())
    }

    /// Takes requests from the bucket of `key` that were taken elsewhere.
    fn took_elsewhere(&self, rate: Rate, key: u64, number: u32, now: u64) {
        let sets = self.sets.get_or_init(|| (0..SETS).map(|_| Mutex::default()).collect());
        let at = (mix(key ^ self.seed) % sets.len() as u64) as usize;
        let mut set = sets[at].lock().unwrap_or_else(PoisonError::into_inner);
        let known = set.iter().position(|slot| slot.key == key && slot.full_at != 0);
        let place = known.or_else(|| (0..WAYS).min_by_key(|at| set[*at].full_at)).unwrap_or_default();
        let full_at = if known.is_some() { set[place].full_at } else { 0 };
        let full_at = rate.took_elsewhere(full_at, number, now);
        // One that is nearer to full makes no room for itself.
        if known.is_some() || full_at >= set[place].full_at {
            set[place] = Slot { key, full_at };
        }
    }
}

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clients").finish_non_exhaustive()
    }
}

/// The limit of one route.
#[derive(Debug)]
pub struct Limiter {
    rate: Rate,
    buckets: Buckets,
    /// With whom it is shared, and by what number others know it.
    among: Option<(Arc<Among>, u64)>,
}

#[derive(Debug)]
enum Buckets {
    /// One for all.
    Together(Mutex<u64>),
    Each {
        /// Stands for the route: its clients are others than those of the next one.
        route: u64,
        clients: Arc<Clients>,
    },
}

/// How fast a bucket fills, and how much it holds.
#[derive(Clone, Copy, Debug)]
struct Rate {
    /// Nanoseconds in which one request is given back.
    interval: u64,
    /// How far a bucket may be from full for one more request.
    tolerance: u64,
}

impl Limiter {
    /// Full buckets of the route that `route` stands for, kept among `clients` if each client has its own.
    pub fn new(limit: &RateLimit, route: &[u8], clients: &Arc<Clients>) -> Self {
        let interval = (limit.per_ms.saturating_mul(NS_PER_MS) / u64::from(limit.requests.max(1))).max(1);
        let tolerance = interval.saturating_mul(u64::from(limit.burst.max(1)) - 1);
        let buckets = match limit.together {
            true => Buckets::Together(Mutex::new(0)),
            false => Buckets::Each { route: number_of_route(route, clients.seed), clients: clients.clone() },
        };
        Self { rate: Rate { interval, tolerance }, buckets, among: None }
    }

    /// The same, shared with other load balancers if the limit is the cluster's.
    pub fn shared(limit: &RateLimit, route: &[u8], clients: &Arc<Clients>, among: &Arc<Among>) -> Arc<Self> {
        let alone = Self::new(limit, route, clients);
        if !limit.cluster {
            return Arc::new(alone);
        }
        // The same on every node.
        let number = number_of_route(route, 0);
        let shared = Arc::new(Self { among: Some((among.clone(), number)), ..alone });
        among.share(number, &shared);
        shared
    }

    /// Takes a request of `client`.
    ///
    /// # Errors
    /// After how long it may ask again.
    pub fn take(&self, client: IpAddr, now: Timestamp) -> Result<(), Duration> {
        let now = now.0.saturating_mul(NS_PER_MS);
        let client = match &self.buckets {
            Buckets::Together(bucket) => {
                let mut full_at = bucket.lock().unwrap_or_else(PoisonError::into_inner);
                *full_at = self.rate.take(*full_at, now)?;
                0
            }
            Buckets::Each { route, clients } => {
                let client = number_of(client);
                clients.take(self.rate, mix(client ^ route), now)?;
                client
            }
        };
        if let Some((among, route)) = &self.among {
            among.took(*route, client);
        }
        Ok(())
    }

    /// Takes requests of a client, known by its number, that another node took.
    fn took_elsewhere(&self, client: u64, number: u32, now: Timestamp) {
        let now = now.0.saturating_mul(NS_PER_MS);
        match &self.buckets {
            Buckets::Together(bucket) => {
                let mut full_at = bucket.lock().unwrap_or_else(PoisonError::into_inner);
                *full_at = self.rate.took_elsewhere(*full_at, number, now);
            }
            Buckets::Each { route, clients } => clients.took_elsewhere(self.rate, mix(client ^ route), number, now),
        }
    }
}

/// A route as a number that nobody outside knows.
fn number_of_route(route: &[u8], seed: u64) -> u64 {
    let pieces = route.chunks(8).map(|piece| piece.iter().fold(0, |all, byte| (all << 8) | u64::from(*byte)));
    pieces.fold(mix(seed ^ route.len() as u64), |all, piece| mix(all ^ piece))
}

impl Rate {
    /// When a bucket is full again after one more request at `now`.
    fn take(self, full_at: u64, now: u64) -> Result<u64, Duration> {
        let missing = full_at.saturating_sub(now);
        match missing.checked_sub(self.tolerance) {
            None | Some(0) => Ok(full_at.max(now).saturating_add(self.interval)),
            Some(early) => Err(Duration::from_nanos(early)),
        }
    }

    /// When a bucket is full again after `number` requests that nobody could refuse here. All of them count, or a client that comes to
    /// several nodes at once would get more for ever; but not more than nodes could have taken.
    fn took_elsewhere(self, full_at: u64, number: u32, now: u64) -> u64 {
        let after = full_at.max(now).saturating_add(self.interval.saturating_mul(number.into()));
        let burst = self.tolerance.saturating_add(self.interval);
        after.min(now.saturating_add(burst.saturating_mul(BURSTS_MAX)))
    }
}

/// A client as a number: an IPv4 address, or the network of an IPv6 address, of which one client has 2^64.
fn number_of(client: IpAddr) -> u64 {
    match client.to_canonical() {
        IpAddr::V4(addr) => u64::from(addr.to_bits()),
        IpAddr::V6(addr) => (addr.to_bits() >> 64) as u64,
    }
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood).
fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn limit(requests: u32, per_ms: u64, burst: u32, together: bool) -> Limiter {
        let limit = RateLimit { requests, per_ms, burst, together, cluster: false };
        Limiter::new(&limit, b"route", &Arc::new(Clients::new(7)))
    }

    fn addr(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_burst_passes_and_then_as_many_as_are_given_back() {
        let limiter = limit(10, 1_000, 3, false);
        let take = |ms| limiter.take(addr("10.0.0.1"), Timestamp(ms));
        assert_eq!([take(5_000), take(5_000), take(5_000)], [Ok(()); 3]);
        assert_eq!(take(5_000), Err(Duration::from_millis(100)));
        assert_eq!(take(5_050), Err(Duration::from_millis(50)), "what was refused costs nothing");
        assert_eq!((take(5_100), take(5_100)), (Ok(()), Err(Duration::from_millis(100))));
        assert_eq!([take(9_000), take(9_000), take(9_000)], [Ok(()); 3]);
        assert!(take(9_000).is_err(), "a bucket holds no more than its burst");
    }

    #[test]
    fn clients_have_a_bucket_each_or_all_have_one() {
        let each = limit(1, 1_000, 1, false);
        assert!(each.take(addr("10.0.0.1"), Timestamp(1)).is_ok() && each.take(addr("10.0.0.2"), Timestamp(1)).is_ok());
        assert!(each.take(addr("::ffff:10.0.0.1"), Timestamp(1)).is_err(), "the same client");
        assert!(each.take(addr("fd00::1"), Timestamp(1)).is_ok());
        assert!(each.take(addr("fd00::2"), Timestamp(1)).is_err(), "one network is one client");
        let together = limit(1, 1_000, 1, true);
        assert!(together.take(addr("10.0.0.1"), Timestamp(1)).is_ok());
        assert!(together.take(addr("10.0.0.2"), Timestamp(1)).is_err());
    }

    #[test]
    fn routes_share_a_table_and_no_bucket_and_a_route_made_anew_finds_its_own() {
        let clients = Arc::new(Clients::new(7));
        let of = |route: &str| {
            let limit = RateLimit { requests: 1, per_ms: 1_000, burst: 1, together: false, cluster: false };
            Limiter::new(&limit, route.as_bytes(), &clients)
        };
        let take = |limiter: &Limiter| limiter.take(addr("10.0.0.1"), Timestamp(1));
        assert!(take(&of("a long name, 1")).is_ok() && take(&of("a long name, 2")).is_ok());
        assert!(take(&of("a long name, 1")).is_err() && take(&of("a long name, 2")).is_err());
    }

    #[test]
    fn strangers_do_not_drive_out_whoever_is_held_back() {
        let limiter = limit(100, 100_000, 100, false);
        let loud = addr("10.0.0.1");
        while limiter.take(loud, Timestamp(1)).is_ok() {}
        for stranger in 0..400_000u32 {
            let _ = limiter.take(IpAddr::V4((0x0B00_0000 + stranger).into()), Timestamp(1));
        }
        assert!(limiter.take(loud, Timestamp(1)).is_err());
    }

    proptest! {
        #[test]
        fn never_more_than_burst_and_rate_together(
            requests in 1..50u32,
            per_ms in 1..10_000u64,
            burst in 1..20u32,
            pauses in prop::collection::vec(0..500u64, 1..200),
        ) {
            let limiter = limit(requests, per_ms, burst, true);
            let (mut now, mut taken) = (1_000, 0u64);
            for pause in &pauses {
                now += pause;
                taken += u64::from(limiter.take(addr("10.0.0.1"), Timestamp(now)).is_ok());
            }
            let most = u64::from(burst) + (now - 1_000) * u64::from(requests) / per_ms + 1;
            prop_assert!(taken <= most, "{} of at most {}", taken, most);
            prop_assert!(taken >= 1);
        }
    }
}
