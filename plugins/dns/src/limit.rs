//! Whom to answer less over UDP: response rate limiting, as authoritative servers do it (Vixie and Schryver, "DNS Response Rate
//! Limiting", 2012). Whoever writes another one's address into its questions shall not be able to flood that one through us.
//!
//! Answers are counted by network, not by address, for a flood may be spread over neighbours. Who is beyond the rate gets every second
//! answer cut down to the word that it shall ask over TCP, which shows that it is who it says, and no answer for the others. Pure: it is
//! told the time.

use std::hash::{DefaultHasher, Hasher};
use std::net::IpAddr;

use hirsel_model::Timestamp;

/// Answers per second to one network: a /24 of IPv4, a /56 of IPv6. A public resolver that serves a city asks less of one zone; a host
/// of the cluster itself is not counted.
pub const ANSWERS_PER_SECOND: u32 = 200;
/// So much may come at once after a pause: programs that start together ask together.
pub const BURST_SECONDS: u32 = 2;
/// Networks that are told apart; those that fall on one place share a rate. 16 bytes each.
const PLACES: usize = 8_192;

/// What one network may get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The answer.
    Answer,
    /// The word to ask over TCP.
    Slip,
    /// Nothing.
    Drop,
}

/// The counters.
#[derive(Debug)]
pub struct Limiter {
    /// Drawn, so that nobody can choose to share a place with somebody.
    key: u64,
    places: Vec<Place>,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    /// Thousandths of an answer that may go out now.
    credit: u32,
    /// Every second one beyond the rate slips.
    beyond: bool,
    at: Timestamp,
}

const CREDIT_MAX: u32 = ANSWERS_PER_SECOND * BURST_SECONDS * 1_000;

impl Limiter {
    /// Nobody has been answered yet. `key` is a random number.
    pub fn new(key: u64) -> Self {
        let place = Place { credit: CREDIT_MAX, beyond: false, at: Timestamp(0) };
        Self { key, places: vec![place; PLACES] }
    }

    /// What `to` may get now.
    pub fn take(&mut self, to: IpAddr, now: Timestamp) -> Verdict {
        let index = self.index(to);
        let place = &mut self.places[index];
        // Thousandths per millisecond are answers per second.
        let gained =
            u32::try_from(now.since(place.at).as_millis()).unwrap_or(u32::MAX).saturating_mul(ANSWERS_PER_SECOND);
        place.credit = place.credit.saturating_add(gained).min(CREDIT_MAX);
        place.at = place.at.max(now);
        if let Some(left) = place.credit.checked_sub(1_000) {
            place.credit = left;
            return Verdict::Answer;
        }
        place.beyond = !place.beyond;
        if place.beyond { Verdict::Slip } else { Verdict::Drop }
    }

    fn index(&self, to: IpAddr) -> usize {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.key);
        match to.to_canonical() {
            IpAddr::V4(addr) => hasher.write(&addr.octets()[..3]),
            IpAddr::V6(addr) => hasher.write(&addr.octets()[..7]),
        }
        // Less than the number of places.
        (hasher.finish() % PLACES as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn count(limiter: &mut Limiter, to: &str, times: u32, now: Timestamp) -> [u32; 3] {
        let mut counts = [0; 3];
        for _ in 0..times {
            counts[limiter.take(to.parse().unwrap(), now) as usize] += 1;
        }
        counts
    }

    #[test]
    fn a_network_gets_its_rate_and_beyond_it_every_second_one_slips() {
        let mut limiter = Limiter::new(7);
        let now = Timestamp(1_000_000);
        let burst = ANSWERS_PER_SECOND * BURST_SECONDS;
        assert_eq!(count(&mut limiter, "192.0.2.1", burst, now), [burst, 0, 0]);
        assert_eq!(count(&mut limiter, "192.0.2.200", 100, now), [0, 50, 50], "its neighbours are of the same network");
        assert_eq!(count(&mut limiter, "192.0.3.1", 100, now), [100, 0, 0], "others are not concerned");
        let later = now + Duration::from_millis(500);
        assert_eq!(count(&mut limiter, "192.0.2.1", burst, later)[0], ANSWERS_PER_SECOND / 2);
        assert_eq!(count(&mut limiter, "192.0.2.1", burst, now)[0], 0, "a clock that goes back gives nothing");
    }

    #[test]
    fn ipv6_is_counted_by_site_and_mapped_addresses_as_what_they_are() {
        let mut limiter = Limiter::new(7);
        let now = Timestamp(5);
        let burst = ANSWERS_PER_SECOND * BURST_SECONDS;
        assert_eq!(count(&mut limiter, "2001:db8:0:1::1", burst, now)[0], burst);
        assert_eq!(count(&mut limiter, "2001:db8:0:2::9", 2, now)[0], 0);
        assert_eq!(count(&mut limiter, "::ffff:192.0.2.1", burst, now)[0], burst);
        assert_eq!(count(&mut limiter, "192.0.2.2", 2, now)[0], 0);
    }
}
