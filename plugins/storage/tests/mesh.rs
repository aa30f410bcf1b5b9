//! Copies and shards that one node writes are read by others, over a real mesh.

mod common;

use std::time::{Duration, Instant};

use common::{content, nodes};
use hirsel_storage::chunk::ChunkId;
use hirsel_storage::codec::Codec;
use hirsel_storage::spread::Goal;
use hirsel_storage::store::Piece;
use hirsel_storage::wire::Target;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_node_writes_another_reads_while_a_third_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let nodes = nodes(folder.path(), 73, 7, 1).await;
    let targets: Vec<Target> = nodes.iter().map(|node| node.target).collect();
    let copies = Goal { needed: 3, least: 2 };
    let mut written = Vec::new();
    for (n, bytes) in [(1, 100), (2, 4_096), (3, 200_000), (4, 1 << 20), (5, 4 << 20)] {
        let piece = Piece::new(ChunkId([n; 16]), &content(n, bytes));
        let outcome = nodes[0].store.write_copies(&piece, 3, &targets, copies).await;
        assert!(outcome.is_written && outcome.missed.is_empty(), "{outcome:?}");
        written.push((n, bytes, outcome.places));
    }
    let codec = Codec::new("4+2".parse().unwrap());
    let stripe = content(9, 3_000_000);
    let shards = codec.encode(&stripe).unwrap();
    let pieces: Vec<Piece> = (50..).zip(&shards).map(|(n, shard)| Piece::new(ChunkId([n; 16]), shard)).collect();
    let outcome = nodes[1].store.write_pieces(&pieces, &targets, Goal { needed: 6, least: 5 }).await;
    assert!(outcome.is_written && outcome.safe() == 6, "{outcome:?}");

    // One is gone without a word, and what is read and written goes around it.
    nodes[0].transport.close().await;
    let reader = &nodes[6].store;
    for (n, bytes, places) in written {
        let sources: Vec<Target> = places.iter().flatten().map(|place| targets[*place]).collect();
        let read = reader.read_copy(ChunkId([n; 16]), 0..u32::MAX, &sources).await.unwrap();
        assert_eq!(read, content(n, bytes));
    }
    let places: Vec<_> = pieces.iter().zip(&targets).map(|(piece, target)| (piece.chunk, Some(*target))).collect();
    assert_eq!(reader.read_stripe(&codec, 3_000_000, &places).await.unwrap(), stripe);
    assert_eq!(reader.repair_shard(&codec, 3_000_000, &places, 0).await.unwrap(), shards[0]);
    let begun = Instant::now();
    let piece = Piece::new(ChunkId([77; 16]), &content(77, 2 << 20));
    let outcome = reader.write_copies(&piece, 3, &targets, copies).await;
    assert!(outcome.is_written && outcome.safe() == 3, "{outcome:?}");
    assert_eq!(outcome.missed.iter().map(|missed| missed.target).collect::<Vec<_>>(), [0]);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}
