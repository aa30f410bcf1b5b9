//! Keys of rows: one letter for what it is, then its parts, so that rows that are read together lie together and in order.
//!
//! An object key may hold any byte, and is followed by more; so it is escaped: a zero byte becomes `00 ff`, and the end is `00 01`. That
//! keeps the order of the keys, and the rows of one key together. A bucket is a number, given when it was made: what a deleted bucket
//! left can be swept while another one has its name.

use super::kinds::{DocumentKind, ReplicationId};
use super::names::{BucketName, ChunkId, ObjectKey, Stamp, UploadId, WriteId};
use super::outbox::QueueId;
use hirsel_model::{Incarnation, NodeId};

/// The number of a bucket.
pub type BucketId = u64;

/// What the group itself knows: counters and levels.
pub fn head() -> Vec<u8> {
    b"a".to_vec()
}

/// A bucket, by its name.
pub fn bucket(name: &BucketName) -> Vec<u8> {
    [b"b", name.as_str().as_bytes()].concat()
}

/// Where the buckets begin.
pub fn buckets() -> (Vec<u8>, Vec<u8>) {
    (b"b".to_vec(), b"c".to_vec())
}

/// The newest version of a key, if it is an object.
pub fn current(bucket: BucketId, key: &ObjectKey) -> Vec<u8> {
    object(b'c', bucket, key)
}

/// A document of a bucket.
pub fn document(bucket: BucketId, kind: DocumentKind) -> Vec<u8> {
    let mut row = in_bucket(b'd', bucket);
    row.push(kind as u8);
    row
}

/// A chunk that is condemned.
pub fn condemned(chunk: ChunkId) -> Vec<u8> {
    placed(b'e', chunk)
}

/// A write of a gateway.
pub fn write_of(gateway: NodeId, incarnation: Incarnation, write: WriteId) -> Vec<u8> {
    [b"g".as_slice(), &gateway.0.to_be_bytes(), &incarnation.0.to_be_bytes(), &write.0].concat()
}

/// Where the writes of all gateways are.
pub fn writes() -> (Vec<u8>, Vec<u8>) {
    all_of(b"g".to_vec())
}

/// Where the writes of the gateways after this one begin.
pub fn after_writes_of(gateway: NodeId) -> Vec<u8> {
    after(&[b"g".as_slice(), &gateway.0.to_be_bytes()].concat())
}

/// Which start of which gateway a write is of.
pub fn writer_in(row: &[u8]) -> Option<(NodeId, Incarnation)> {
    Some((NodeId(number_in(row, 1)?), Incarnation(number_in(row, 9)?)))
}

/// A write that is open.
pub fn write(write: WriteId) -> Vec<u8> {
    [b"i".as_slice(), &write.0].concat()
}

/// How far a replication is.
pub fn replicating(id: ReplicationId) -> Vec<u8> {
    in_bucket(b'h', id)
}

/// A key that is due.
pub fn due(id: ReplicationId, key: &ObjectKey) -> Vec<u8> {
    object(b'l', id, key)
}

/// The place of a key among those that are due.
pub fn due_at(id: ReplicationId, place: u64) -> Vec<u8> {
    let mut row = in_bucket(b'o', id);
    row.extend(place.to_be_bytes());
    row
}

/// All that is due of a replication, by key and by place.
pub fn all_due(id: ReplicationId) -> [(Vec<u8>, Vec<u8>); 2] {
    [b'l', b'o'].map(|kind| all_of(in_bucket(kind, id)))
}

/// A chunk that is named.
pub fn chunk(chunk: ChunkId) -> Vec<u8> {
    placed(b'k', chunk)
}

/// A list of chunks or parts that bodies share.
pub fn manifest(id: Stamp) -> Vec<u8> {
    [b"m".as_slice(), &id.bytes()].concat()
}

/// Which version of a key is the null one, if it is not the current one.
pub fn null(bucket: BucketId, key: &ObjectKey) -> Vec<u8> {
    object(b'n', bucket, key)
}

/// A part of an upload.
pub fn part(upload: UploadId, number: u16) -> Vec<u8> {
    [b"p".as_slice(), &upload.bytes(), &number.to_be_bytes()].concat()
}

/// A notice that waits, by its number in the order of its queue.
pub fn notice(queue: QueueId, number: u64) -> Vec<u8> {
    [b"q".as_slice(), &queue.0, &number.to_be_bytes()].concat()
}

/// All notices of a queue.
pub fn notices(queue: QueueId) -> (Vec<u8>, Vec<u8>) {
    all_of([b"q".as_slice(), &queue.0].concat())
}

/// A chunk that lacks something on a node.
pub fn repair(chunk: ChunkId, shard: u8, node: NodeId) -> Vec<u8> {
    let mut row = placed(b'r', chunk);
    row.push(shard);
    row.extend(node.0.to_be_bytes());
    row
}

/// What is counted of a bucket.
pub fn usage(bucket: BucketId) -> Vec<u8> {
    in_bucket(b's', bucket)
}

/// The least version of the placement table that a commit in this partition may be made by.
pub fn table(partition: u16) -> Vec<u8> {
    [b"t".as_slice(), &partition.to_be_bytes()].concat()
}

/// An upload.
pub fn upload(bucket: BucketId, key: &ObjectKey, id: UploadId) -> Vec<u8> {
    let mut row = object(b'u', bucket, key);
    row.extend(id.bytes());
    row
}

/// A version that is not the current one, or a delete marker; the newest first.
pub fn version(bucket: BucketId, key: &ObjectKey, number: u64) -> Vec<u8> {
    let mut row = object(b'v', bucket, key);
    row.extend((!number).to_be_bytes());
    row
}

/// Something that dies: `number` only keeps the queue in order.
pub fn dying(number: u64) -> Vec<u8> {
    [b"x".as_slice(), &number.to_be_bytes()].concat()
}

/// A queue of notices in which something waits.
pub fn queue(queue: QueueId) -> Vec<u8> {
    [b"y".as_slice(), &queue.0].concat()
}

/// All queues of notices.
pub fn queues() -> (Vec<u8>, Vec<u8>) {
    all_of(b"y".to_vec())
}

/// Rows of one partition lie together.
fn placed(kind: u8, chunk: ChunkId) -> Vec<u8> {
    [[kind].as_slice(), &chunk.0].concat()
}

fn in_bucket(kind: u8, bucket: BucketId) -> Vec<u8> {
    [[kind].as_slice(), &bucket.to_be_bytes()].concat()
}

fn object(kind: u8, bucket: BucketId, key: &ObjectKey) -> Vec<u8> {
    let mut row = keys_from(kind, bucket, key.as_str());
    row.extend([0, 1]);
    row
}

/// Rows of `kind` in a bucket whose keys begin with `prefix` lie at or after this, and before its [`after`].
pub fn keys_from(kind: u8, bucket: BucketId, prefix: &str) -> Vec<u8> {
    let mut row = in_bucket(kind, bucket);
    for byte in prefix.bytes() {
        row.push(byte);
        if byte == 0 {
            row.push(0xff);
        }
    }
    row
}

/// The object key in a row of `c`, `l`, `n`, `u` or `v`, and what follows it.
pub fn key_in(row: &[u8]) -> Option<(String, &[u8])> {
    let mut rest = row.get(9..)?;
    let mut key = Vec::new();
    loop {
        match rest {
            [0, 1, more @ ..] => return Some((String::from_utf8(key).ok()?, more)),
            [0, 0xff, more @ ..] => {
                key.push(0);
                rest = more;
            }
            [0, ..] | [] => return None,
            [byte, more @ ..] => {
                key.push(*byte);
                rest = more;
            }
        }
    }
}

/// The first key after all that begin with `prefix`, which is not empty and has a byte other than `ff`: a row's first is a letter.
pub fn after(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while end.last() == Some(&0xff) {
        end.pop();
    }
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

/// From the first to after the last of all that begin with `prefix`.
pub fn all_of(prefix: Vec<u8>) -> (Vec<u8>, Vec<u8>) {
    let end = after(&prefix);
    (prefix, end)
}

/// The chunk in a row of `e`, `k` or `r`.
pub fn chunk_in(row: &[u8]) -> Option<ChunkId> {
    Some(ChunkId(row.get(1..17)?.try_into().ok()?))
}

/// The bytes of `row` behind the first `from`, as a number.
pub fn number_in(row: &[u8], from: usize) -> Option<u64> {
    let bytes = row.get(from..from + 8)?.try_into().ok()?;
    Some(u64::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keys() -> impl Strategy<Value = String> {
        prop::collection::vec(
            prop::sample::select(vec!['\0', '\u{1}', 'a', 'b', '/', '\u{7f}', 'ÿ', '\u{10ffff}']),
            1..6,
        )
        .prop_map(|chars| chars.into_iter().collect())
    }

    proptest! {
        #[test]
        fn rows_are_in_the_order_of_keys_and_those_of_one_key_together(a in keys(), b in keys()) {
            let [key_a, key_b] = [&a, &b].map(|key| ObjectKey::new(key.as_str()).expect("short"));
            prop_assert_eq!(current(7, &key_a).cmp(&current(7, &key_b)), a.cmp(&b));
            if a < b {
                prop_assert!(version(7, &key_a, 0) < version(7, &key_b, u64::MAX));
                prop_assert!(current(7, &key_b) < current(8, &key_a));
            }
            let (key, rest) = (version(7, &key_a, 5), 5_u64);
            let (found, number) = key_in(&key).expect("it was made");
            prop_assert_eq!((found, u64::from_be_bytes(number.try_into().expect("eight"))), (a.clone(), !rest));
            let within = keys_from(b'c', 7, &b);
            let row = current(7, &key_a);
            prop_assert_eq!(row >= within && row < after(&within), a.starts_with(&b));
        }
    }

    #[test]
    fn what_is_no_row_has_no_key() {
        for row in [
            b"".as_slice(),
            b"c1234567",
            b"c12345678",
            b"c12345678a",
            b"c12345678a\0",
            b"c12345678\0\x02",
            b"c12345678\xff\0\x01",
        ] {
            assert_eq!(key_in(row), None, "{row:?}");
        }
        assert_eq!(chunk_in(b"k12"), None);
        assert_eq!(number_in(b"x123", 1), None);
    }
}
