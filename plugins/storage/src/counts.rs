//! What a node counts of what it does, for those who draw curves.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use hirsel_role::storage::{Auditing, Scrubbing};

use crate::disk::{Health, Usage};

/// What a request came to. Operations are those of S3 that there are, and statuses those of HTTP that are given: some hundred pairs.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Request {
    operation: &'static str,
    status: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Finding {
    finding: &'static str,
}

/// Reads of chunks and stripes. Copies are the same ones.
#[derive(Clone, Debug, Default)]
pub struct Reads {
    /// All.
    pub all: Counter,
    /// Further sources that were asked since those that were asked before were slow.
    pub hedged: Counter,
}

/// Counters and gauges. Copies are the same ones.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    requests: Family<Request, Counter>,
    /// Reads of chunks and stripes.
    pub reads: Reads,
    /// Bytes of bodies that came in.
    pub bytes_in: Counter,
    /// Bytes of bodies that went out.
    pub bytes_out: Counter,
    /// Pieces that were made anew.
    pub repaired: Counter,
    /// Bytes of pieces that were made anew or copied.
    pub repaired_bytes: Counter,
    /// Pieces that were copied because their partition moved.
    pub moved: Counter,
    /// Pieces that left this node because others have them.
    pub evicted: Counter,
    /// Keys that were made elsewhere what they are here.
    pub replicated: Counter,
    /// Tries of that which failed.
    pub replication_failed: Counter,
    replication_due: Gauge,
    replication_lag: Gauge,
    /// Notices that webhooks took.
    pub told: Counter,
    /// Tries of that which failed.
    pub told_failed: Counter,
    notices: Gauge,
    notices_lost: Gauge,
    audit: Family<Finding, Gauge>,
    audited: Gauge,
    scrub_bytes: Gauge,
    scrub_held: Gauge,
    scrub_damaged: Gauge,
    chunks: Gauge,
    held: Gauge,
    garbage: Gauge,
    total: Gauge,
    free: Gauge,
    is_dead: Gauge,
}

impl Counts {
    /// Makes them readable.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("hirsel_storage_requests", "Requests of S3 that were answered", self.requests.clone());
        for (name, help, counter) in [
            ("hirsel_storage_bytes_in", "Bytes of bodies that came in through this node", &self.bytes_in),
            ("hirsel_storage_bytes_out", "Bytes of bodies that went out through this node", &self.bytes_out),
            ("hirsel_storage_reads", "Chunks and stripes that this node read from disks", &self.reads.all),
            (
                "hirsel_storage_reads_hedged",
                "Further disks that were asked for them since others were slow",
                &self.reads.hedged,
            ),
            ("hirsel_storage_repaired_pieces", "Pieces that this node had made anew", &self.repaired),
            (
                "hirsel_storage_repaired_bytes",
                "Bytes of pieces that this node had made anew or copied for a move",
                &self.repaired_bytes,
            ),
            ("hirsel_storage_moved_pieces", "Pieces that this node had copied for a move", &self.moved),
            ("hirsel_storage_evicted_pieces", "Pieces that this node gave up because others have them", &self.evicted),
            ("hirsel_storage_replicated", "Keys that this node made elsewhere what they are here", &self.replicated),
            ("hirsel_storage_replication_failed", "Tries of that which failed", &self.replication_failed),
            ("hirsel_storage_told_notices", "Notices of buckets that webhooks took from this node", &self.told),
            ("hirsel_storage_told_failed", "Tries of that which failed", &self.told_failed),
        ] {
            registry.register(name, help, counter.clone());
        }
        registry.register("hirsel_storage_audit", "Pieces by what the last audit found of them", self.audit.clone());
        for (name, help, gauge) in [
            (
                "hirsel_storage_audited_seconds",
                "When the last audit ended, since 1970; 0 before the first",
                &self.audited,
            ),
            (
                "hirsel_storage_replication_due",
                "Keys that are to be copied elsewhere; 0 on nodes that do not see to it",
                &self.replication_due,
            ),
            (
                "hirsel_storage_replication_lag_seconds",
                "For how long the first of them has waited",
                &self.replication_lag,
            ),
            (
                "hirsel_storage_notices_waiting",
                "Notices of buckets that wait to be told; 0 on nodes that do not see to it",
                &self.notices,
            ),
            (
                "hirsel_storage_notices_lost",
                "Notices that were never told since there are buckets; 0 on nodes that do not see to it",
                &self.notices_lost,
            ),
            ("hirsel_storage_scrub_bytes", "Bytes that the pass under way has read", &self.scrub_bytes),
            ("hirsel_storage_scrub_held_bytes", "Bytes that a pass has to read", &self.scrub_held),
            ("hirsel_storage_scrub_damaged", "Chunks that the pass under way found damaged", &self.scrub_damaged),
            ("hirsel_storage_chunks", "Chunks on this disk", &self.chunks),
            ("hirsel_storage_chunk_bytes", "Bytes of chunks on this disk", &self.held),
            ("hirsel_storage_garbage_bytes", "Bytes on this disk that no chunk needs any more", &self.garbage),
            ("hirsel_storage_disk_bytes", "Size of the disk", &self.total),
            ("hirsel_storage_disk_free_bytes", "Bytes of the disk that are free", &self.free),
            ("hirsel_storage_disk_dead", "1 where the disk is only read from since a sync failed", &self.is_dead),
        ] {
            registry.register(name, help, gauge.clone());
        }
    }

    /// Counts an answer.
    pub fn answered(&self, operation: &'static str, status: u16) {
        self.requests.get_or_create(&Request { operation, status }).inc();
    }

    /// Takes over how the disk is.
    pub fn disk(&self, usage: &Usage) {
        set(&self.chunks, usage.sum.chunks);
        set(&self.held, usage.sum.held);
        set(&self.garbage, usage.sum.garbage);
        set(&self.total, usage.total);
        set(&self.free, usage.free);
        set(&self.is_dead, u64::from(usage.health != Health::Sound));
    }

    /// Takes over how many keys are to be copied elsewhere, and for how long the first has waited.
    pub fn replication(&self, due: u64, lag_s: u64) {
        set(&self.replication_due, due);
        set(&self.replication_lag, lag_s);
    }

    /// Takes over how many notices wait to be told, and how many never were.
    pub fn notices(&self, waiting: u64, lost: u64) {
        set(&self.notices, waiting);
        set(&self.notices_lost, lost);
    }

    /// Takes over what the last audit found.
    pub fn audit(&self, auditing: &Auditing) {
        let last = &auditing.last;
        for (finding, pieces) in [
            ("wanted", last.wanted),
            ("there", last.there),
            ("damaged", last.damaged),
            ("homeless", last.homeless),
            ("elsewhere", last.elsewhere),
            ("unknown", last.unknown),
            ("open", last.open),
        ] {
            set(&self.audit.get_or_create(&Finding { finding }), pieces);
        }
        set(&self.audited, last.at_ms / 1_000);
    }

    /// Takes over how far scrub is.
    pub fn scrub(&self, scrubbing: &Scrubbing) {
        set(&self.scrub_bytes, scrubbing.bytes);
        set(&self.scrub_held, scrubbing.held);
        set(&self.scrub_damaged, scrubbing.damaged);
    }
}

fn set(gauge: &Gauge, value: u64) {
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_counted_can_be_read() {
        let (counts, mut registry) = (Counts::default(), Registry::default());
        counts.register(&mut registry);
        counts.answered("get_object", 200);
        counts.answered("get_object", 200);
        counts.bytes_out.inc_by(7);
        counts.reads.all.inc_by(6);
        counts.reads.hedged.inc();
        counts.replication(4, 9);
        counts.replication_failed.inc();
        counts.told.inc_by(2);
        counts.notices(4, 5);
        let mut auditing = Auditing::default();
        auditing.last.wanted = 3;
        auditing.last.at_ms = 5_999;
        counts.audit(&auditing);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("a string takes everything");
        for line in [
            "hirsel_storage_requests_total{operation=\"get_object\",status=\"200\"} 2\n",
            "hirsel_storage_bytes_out_total 7\n",
            "hirsel_storage_reads_total 6\n",
            "hirsel_storage_reads_hedged_total 1\n",
            "hirsel_storage_told_notices_total 2\n",
            "hirsel_storage_notices_waiting 4\n",
            "hirsel_storage_notices_lost 5\n",
            "hirsel_storage_audit{finding=\"wanted\"} 3\n",
            "hirsel_storage_audited_seconds 5\n",
            "hirsel_storage_replication_due 4\n",
            "hirsel_storage_replication_lag_seconds 9\n",
            "hirsel_storage_replication_failed_total 1\n",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }
}
