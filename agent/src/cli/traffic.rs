//! What goes through routes now: the difference of two looks at counts that only rise. Pure: when a look was is an argument.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::Serialize;

use super::output::{line, table};
use crate::api::requests::{RouteTraffic, Took};

/// Looks that are kept: what is shown is of the last ten seconds at one look a second.
const LOOKS: usize = 11;
/// Routes that are shown to people: a screen has no more room. They are the busiest.
const SHOWN_MAX: usize = 15;

/// The last looks, each with when it was.
#[derive(Debug, Default)]
pub struct Looks(VecDeque<(Duration, Vec<RouteTraffic>)>);

/// One route over all nodes.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RouteRate {
    /// Its application; none for what no route takes, and for what is counted together.
    pub app: Option<String>,
    /// Host and path.
    pub route: String,
    /// Requests that ended in a second; none at the first look.
    pub per_s: Option<f64>,
    /// Those that failed or broke off.
    pub failed_per_s: Option<f64>,
    /// Half of the requests took at most so long; none where there were none, or where they took longer than is told apart.
    pub p50_ms: Option<u64>,
    /// Nineteen of twenty took at most so long.
    pub p95_ms: Option<u64>,
    /// Requests under way now.
    pub in_flight: u64,
}

/// What is summed up of a route.
#[derive(Default)]
struct Sum {
    ended: u64,
    failed: u64,
    in_flight: u64,
    took: Vec<Took>,
}

impl Looks {
    /// Another look, at `now`.
    pub fn see(&mut self, now: Duration, traffic: Vec<RouteTraffic>) {
        if self.0.len() == LOOKS {
            self.0.pop_front();
        }
        self.0.push_back((now, traffic));
    }

    /// All routes, the busiest first.
    pub fn rates(&self) -> Vec<RouteRate> {
        let Some((now, newest)) = self.0.back() else { return Vec::new() };
        let (then, oldest) = self.0.front().map_or((*now, &[][..]), |(then, oldest)| (*then, &oldest[..]));
        let key = |of: &RouteTraffic| (of.node.clone(), of.app.clone(), of.route.clone());
        let before: BTreeMap<_, &RouteTraffic> = oldest.iter().map(|of| (key(of), of)).collect();
        let mut sums: BTreeMap<(Option<String>, String), Sum> = BTreeMap::new();
        for of in newest {
            let before = before.get(&key(of)).copied();
            sums.entry((of.app.clone(), of.route.clone())).or_default().add(of, before);
        }
        let seconds = now.saturating_sub(then).as_secs_f64();
        let rate = |count: u64| (seconds > 0.0).then(|| (count as f64 / seconds * 10.0).round() / 10.0);
        let mut rates: Vec<RouteRate> = sums
            .into_iter()
            .map(|((app, route), sum)| RouteRate {
                app,
                route,
                per_s: rate(sum.ended),
                failed_per_s: rate(sum.failed),
                p50_ms: at_most(&sum.took, 0.50),
                p95_ms: at_most(&sum.took, 0.95),
                in_flight: sum.in_flight,
            })
            .collect();
        rates.sort_by(|one, other| other.per_s.partial_cmp(&one.per_s).unwrap_or(std::cmp::Ordering::Equal));
        rates
    }
}

impl Sum {
    /// Adds what one node counted since `before`. One whose load balancer began anew has counted less than before: then all of it.
    fn add(&mut self, of: &RouteTraffic, before: Option<&RouteTraffic>) {
        let total = |of: &RouteTraffic| of.answers.iter().sum::<u64>();
        let before = before.filter(|before| total(before) <= total(of));
        let since = |now: u64, read: fn(&RouteTraffic) -> u64| now.saturating_sub(before.map_or(0, read));
        self.ended += since(total(of), |of| of.answers.iter().sum());
        self.failed += since(of.failed, |of| of.failed);
        self.in_flight += of.in_flight;
        for (at, took) in of.took.iter().enumerate() {
            let known = before.and_then(|before| before.took.get(at)).map_or(0, |took| took.requests);
            let requests = took.requests.saturating_sub(known);
            match self.took.get_mut(at) {
                Some(sum) => sum.requests += requests,
                None => self.took.push(Took { requests, ..*took }),
            }
        }
    }
}

/// The bound below which `share` of the requests lie.
fn at_most(took: &[Took], share: f64) -> Option<u64> {
    let all: u64 = took.iter().map(|took| took.requests).sum();
    let wanted = (all as f64 * share).ceil().max(1.0) as u64;
    let mut so_far = 0;
    let found = took.iter().find(|took| {
        so_far += took.requests;
        so_far >= wanted
    });
    found?.at_most_ms
}

/// For people.
pub fn print(rates: &[RouteRate]) {
    if rates.is_empty() {
        return;
    }
    let number = |value: Option<f64>| value.map_or("-".into(), |value| format!("{value:.1}"));
    let ms = |value: Option<u64>| value.map_or("-".into(), |ms| format!("{ms} ms"));
    let row = |rate: &RouteRate| {
        vec![
            rate.route.clone(),
            rate.app.clone().unwrap_or_else(|| "-".into()),
            number(rate.per_s),
            number(rate.failed_per_s),
            ms(rate.p50_ms),
            ms(rate.p95_ms),
            rate.in_flight.to_string(),
        ]
    };
    let rows: Vec<_> = rates.iter().take(SHOWN_MAX).map(row).collect();
    line(table(&["ROUTE", "APP", "REQ/S", "FAIL/S", "P50", "P95", "UNDER WAY"], &rows));
    if let Some(more) = rates.len().checked_sub(SHOWN_MAX).filter(|more| *more > 0) {
        line(format!("and {more} more"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traffic(node: &str, ended: u64, failed: u64, took: [u64; 3]) -> RouteTraffic {
        let bounds = [Some(10), Some(100), None];
        RouteTraffic {
            node: node.into(),
            app: Some("shop".into()),
            route: "shop.test/".into(),
            answers: vec![0, ended - failed, 0, 0, failed],
            failed,
            retries: 0,
            in_flight: 1,
            took: bounds.into_iter().zip(took).map(|(at_most_ms, requests)| Took { at_most_ms, requests }).collect(),
        }
    }

    #[test]
    fn a_rate_is_the_difference_of_two_looks_over_all_nodes() {
        let mut looks = Looks::default();
        let at = Duration::from_secs;
        looks.see(at(100), vec![traffic("n1", 1_000, 0, [1_000, 0, 0]), traffic("n2", 10, 10, [0, 0, 10])]);
        let first = &looks.rates()[0];
        assert_eq!((first.per_s, first.in_flight), (None, 2), "one look is no difference");
        looks.see(at(104), vec![traffic("n1", 1_060, 2, [1_020, 40, 0]), traffic("n2", 50, 12, [30, 10, 10])]);
        let rate = &looks.rates()[0];
        assert_eq!((rate.per_s, rate.failed_per_s), (Some(25.0), Some(1.0)));
        assert_eq!((rate.p50_ms, rate.p95_ms), (Some(10), Some(100)));
    }

    #[test]
    fn a_load_balancer_that_began_anew_takes_nothing_away_and_one_that_is_gone_is_not_counted() {
        let mut looks = Looks::default();
        looks.see(Duration::ZERO, vec![traffic("n1", 1_000, 500, [1_000, 0, 0]), traffic("n2", 10, 0, [10, 0, 0])]);
        looks.see(Duration::from_secs(1), vec![traffic("n1", 4, 0, [0, 0, 4])]);
        let rate = &looks.rates()[0];
        assert_eq!((rate.per_s, rate.failed_per_s, rate.in_flight), (Some(4.0), Some(0.0), 1));
        assert_eq!((rate.p50_ms, rate.p95_ms), (None, None), "longer than is told apart");
    }

    #[test]
    fn what_is_shown_is_of_the_last_looks() {
        let mut looks = Looks::default();
        for second in 0..60 {
            let ended = if second < 40 { 100 * second } else { 4_000 };
            looks.see(Duration::from_secs(second), vec![traffic("n1", ended, 0, [ended, 0, 0])]);
        }
        assert_eq!(looks.rates()[0].per_s, Some(0.0));
    }
}
