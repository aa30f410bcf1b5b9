//! What is counted by route and by instance, for whoever scrapes. The labels are those of what is there: routes of the table, up to a
//! bound, and instances of the order. What goes takes its lines with it.

use std::fmt;
use std::sync::Arc;

use hirsel_role::requests::{TIME_BOUNDS_MS, Traffic};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::cache::Outcome;
use crate::instance::Whom;
use crate::proxy::Proxy;

/// Instances that are counted each for itself. A node that sends to more has other means.
const INSTANCES_MAX: usize = 2_000;

/// What is shown of a proxy.
pub struct Exposition {
    proxy: Arc<Proxy>,
}

impl Exposition {
    /// Of this one.
    pub fn new(proxy: Arc<Proxy>) -> Self {
        Self { proxy }
    }

    /// Makes it readable.
    pub fn register(self, registry: &mut Registry) {
        let log = self.proxy.seer.log.clone();
        registry.register("hirsel_lb_log_lines", "Lines of the log of requests written", log.written.clone());
        registry.register("hirsel_lb_log_dropped", "Lines of the log of requests dropped", log.dropped.clone());
        let syslog = self.proxy.seer.syslog.clone();
        registry.register("hirsel_lb_syslog_sent", "Requests told to a collector", syslog.sent.clone());
        registry.register("hirsel_lb_syslog_dropped", "Requests not told to their collector", syslog.dropped.clone());
        registry.register_collector(Box::new(self));
    }
}

type Labels<const N: usize> = [(&'static str, String); N];

/// A counter for each of some labels.
fn counters<const N: usize>(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help): (&str, &str),
    rows: impl Iterator<Item = (Labels<N>, u64)>,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, count) in rows {
        ConstCounter::new(count).encode(metric.encode_family(&labels)?)?;
    }
    Ok(())
}

/// A gauge for each of some labels.
fn gauges<const N: usize>(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help): (&str, &str),
    rows: impl Iterator<Item = (Labels<N>, u64)>,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, count) in rows {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        ConstGauge::new(count).encode(metric.encode_family(&labels)?)?;
    }
    Ok(())
}

fn labels(of: &Traffic) -> Labels<2> {
    let app = of.app.as_ref().map(ToString::to_string).unwrap_or_default();
    [("app", app), ("route", of.route.clone())]
}

impl Collector for Exposition {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let meters: Vec<_> =
            self.proxy.seer.meters.all().into_iter().map(|meter| (meter.traffic(), meter.sum_ms())).collect();
        let by_class = meters.iter().flat_map(|(of, _)| {
            let [app, route] = labels(of);
            of.answers
                .iter()
                .zip(["1xx", "2xx", "3xx", "4xx", "5xx"])
                .filter(|(count, _)| **count > 0)
                .map(move |(count, class)| ([app.clone(), route.clone(), ("class", class.to_owned())], *count))
        });
        counters(&mut encoder, ("hirsel_lb_route_answers", "Answers by route and class of status"), by_class)?;
        let rows = |read: fn(&Traffic) -> u64| meters.iter().map(move |(of, _)| (labels(of), read(of)));
        counters(
            &mut encoder,
            ("hirsel_lb_route_failed", "Requests that failed, or broke off, by route"),
            rows(|of| of.failed),
        )?;
        counters(
            &mut encoder,
            ("hirsel_lb_route_retries", "Tries after the first one, by route"),
            rows(|of| of.retries),
        )?;
        gauges(&mut encoder, ("hirsel_lb_route_in_flight", "Requests under way, by route"), rows(|of| of.in_flight))?;
        let all = self.proxy.seer.meters.all();
        let cached = all.iter().flat_map(|meter| {
            let [app, route] = labels(&meter.traffic());
            let row = move |(outcome, count): (Outcome, u64)| {
                ([app.clone(), route.clone(), ("outcome", outcome.word().to_owned())], count)
            };
            meter.cached().map(row).collect::<Vec<_>>()
        });
        counters(&mut encoder, ("hirsel_lb_route_cache", "What the cache did for requests, by route"), cached)?;
        let (answers, bytes, evicted) = self.proxy.cache.store.counts();
        for (name, help, count) in [
            ("hirsel_lb_cache_answers", "Answers that are kept", answers),
            ("hirsel_lb_cache_bytes", "Bytes of answers that are kept, or on their way from the cache", bytes),
        ] {
            gauges(&mut encoder, (name, help), [([], count)].into_iter())?;
        }
        if let Some(disk) = self.proxy.cache.on_disk() {
            for (name, help, count) in [
                ("hirsel_lb_cache_disk_answers", "Answers that are kept on disk", disk.answers),
                ("hirsel_lb_cache_disk_bytes", "Bytes of answers that are kept on disk", disk.bytes),
            ] {
                gauges(&mut encoder, (name, help), [([], count)].into_iter())?;
            }
            for (name, help, count) in [
                ("hirsel_lb_cache_disk_evicted", "Answers on disk that made room for others", disk.evicted),
                ("hirsel_lb_cache_disk_refused", "Answers that the disk did not take", disk.refused),
                ("hirsel_lb_cache_disk_damaged", "Answers on disk that were not as they were written", disk.damaged),
            ] {
                counters(&mut encoder, (name, help), [([], count)].into_iter())?;
            }
        }
        let made_room = ("hirsel_lb_cache_evicted", "Answers that made room for others");
        counters(&mut encoder, made_room, [([], evicted)].into_iter())?;
        let name = "hirsel_lb_route_seconds";
        let help = "Time from the head of a request to the end of its answer, by route";
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (of, sum_ms) in &meters {
            let bounds = TIME_BOUNDS_MS.iter().map(|ms| *ms as f64 / 1e3).chain([f64::MAX]);
            let buckets: Vec<(f64, u64)> = bounds.zip(of.times).collect();
            let count = of.times.iter().sum();
            let labels = labels(of);
            let mut family = metric.encode_family(&labels)?;
            family.encode_histogram::<NoLabelSet>(*sum_ms as f64 / 1e3, count, &buckets, None)?;
        }
        let instances = self.proxy.routes.instances();
        let now = self.proxy.now();
        let served: Vec<_> = instances
            .iter()
            .filter(|instance| matches!(instance.whom, Whom::Instance { .. }))
            .take(INSTANCES_MAX)
            .map(|instance| {
                let (answered, failed) = instance.tally.counts();
                let label = [("instance", instance.whom.to_string())];
                (label, answered, failed, u64::from(instance.in_flight()), u64::from(instance.is_ejected(now)))
            })
            .collect();
        let rows = |read: fn(&(Labels<1>, u64, u64, u64, u64)) -> u64| {
            served.iter().map(move |row| (row.0.clone(), read(row)))
        };
        counters(&mut encoder, ("hirsel_lb_instance_answers", "Answers by instance"), rows(|row| row.1))?;
        counters(&mut encoder, ("hirsel_lb_instance_failed", "Tries that failed, by instance"), rows(|row| row.2))?;
        gauges(&mut encoder, ("hirsel_lb_instance_in_flight", "Requests under way, by instance"), rows(|row| row.3))?;
        gauges(
            &mut encoder,
            ("hirsel_lb_instance_ejected", "1 while an instance is left alone after a failure"),
            rows(|row| row.4),
        )
    }
}

impl fmt::Debug for Exposition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exposition").finish_non_exhaustive()
    }
}
