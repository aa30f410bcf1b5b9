//! Writes and reads through many nodes of which some fail.

use super::*;

const COPIES: Goal = Goal { needed: 3, least: 2 };
const SHARDS: Goal = Goal { needed: 6, least: 5 };

#[tokio::test(start_paused = true)]
async fn a_write_goes_around_nodes_that_are_gone_frozen_hung_or_full() {
    for bytes in [4_096, 2 << 20] {
        let town = Town::of(7).await;
        town.cut(&[0]);
        town.freeze(&[1]);
        town.platters[2].set_hung(true);
        town.platters[3].set_capacity(1 << 20);
        let piece = Piece::new(id(1), &content(1, bytes));
        let begun = Instant::now();
        let outcome = town.store.write_copies(&piece, 3, &town.targets(), COPIES).await;
        let took = begun.elapsed();
        assert!(outcome.is_written, "{outcome:?}");
        let mut places: Vec<usize> = outcome.places.iter().flatten().copied().collect();
        places.sort_unstable();
        assert_eq!(places, [4, 5, 6]);
        let mut missed: Vec<usize> = outcome.missed.iter().map(|missed| missed.target).collect();
        missed.sort_unstable();
        assert_eq!(missed, [0, 1, 2, 3], "{outcome:?}");
        assert!(took < Duration::from_millis(1_000), "{took:?} for {bytes} bytes");
        for place in places {
            let read = town.store.read_copy(id(1), 0..u32::MAX, &town.targets()[place..=place]).await;
            assert_eq!(read.unwrap(), content(1, bytes));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn with_too_few_nodes_a_write_is_less_or_refused_as_was_said() {
    let town = Town::of(3).await;
    town.freeze(&[2]);
    let piece = Piece::new(id(1), &content(1, 10_000));
    let begun = Instant::now();
    let outcome = town.store.write_copies(&piece, 3, &town.targets(), COPIES).await;
    assert!(outcome.is_written && outcome.safe() == 2 && outcome.missed.len() == 1);
    assert!(begun.elapsed() < Duration::from_millis(700), "{:?}", begun.elapsed());
    let piece = Piece::new(id(2), &content(2, 10_000));
    let outcome = town.store.write_copies(&piece, 3, &town.targets(), Goal { needed: 3, least: 3 }).await;
    assert!(!outcome.is_written);
    town.cut(&[1]);
    let piece = Piece::new(id(3), &content(3, 10_000));
    assert!(!town.store.write_copies(&piece, 3, &town.targets(), COPIES).await.is_written, "never on one node alone");
}

#[tokio::test(start_paused = true)]
async fn a_read_takes_another_copy_when_one_is_slow_damaged_or_gone() {
    let town = Town::of(3).await;
    for bytes in [4_096u32, 3 << 20] {
        let n = u8::try_from(bytes.ilog2()).unwrap();
        let piece = Piece::new(id(n), &content(n, bytes as usize));
        assert!(town.store.write_copies(&piece, 3, &town.targets(), COPIES).await.is_written);
        town.freeze(&[0]);
        let begun = Instant::now();
        let read = town.store.read_copy(id(n), 0..bytes, &town.targets()).await.unwrap();
        assert_eq!(read, content(n, bytes as usize));
        assert!(begun.elapsed() < Duration::from_millis(100), "{:?}", begun.elapsed());
        town.freeze(&[]);
        let damage = |of: &Platter| {
            let large =
                |(path, length): &(String, u64)| *length > 4_000 && !path.ends_with(".index") && path != "deaths";
            let newest =
                of.files().into_iter().filter(large).max_by_key(|(path, _)| path.starts_with("chunks")).unwrap();
            of.flip(&newest.0, 2_000, 1);
        };
        damage(&town.platters[0]);
        town.cut(&[1]);
        assert_eq!(town.store.read_copy(id(n), 0..bytes, &town.targets()).await.unwrap(), content(n, bytes as usize));
        damage(&town.platters[2]);
        let failed = town.store.read_copy(id(n), 0..bytes, &town.targets()).await.unwrap_err();
        assert!(matches!(&failed, ReadError::TooFew { why, .. } if why.len() == 3), "{failed}");
        town.cut(&[]);
        assert_eq!(town.store.read_copy(id(n), 0..bytes, &town.targets()).await.unwrap(), content(n, bytes as usize));
    }
}

#[tokio::test(start_paused = true)]
async fn where_all_disks_are_slow_reads_are_not_made_twice_and_a_frozen_one_is_still_replaced() {
    let town = Town::of(3).await;
    let reads = Reads::default();
    let store = town.store.clone().counted(reads.clone());
    let (bytes, targets) = (3 << 20, town.targets());
    let piece = Piece::new(id(1), &content(1, bytes as usize));
    assert!(store.write_copies(&piece, 3, &targets, COPIES).await.is_written);
    town.platters.iter().for_each(|platter| platter.set_slow(Duration::from_millis(30)));
    // Whoever is asked first, all become known.
    let read = async |turn: usize| {
        let (mut targets, begun) = (targets.clone(), Instant::now());
        targets.rotate_left(turn % 3);
        let read = store.read_copy(id(1), 0..bytes, &targets).await.unwrap();
        assert_eq!(read, content(1, bytes as usize));
        begun.elapsed()
    };
    for turn in 0..12 {
        let took = read(turn).await;
        assert!(took > HEDGE_AFTER_MIN, "{took:?}");
    }
    let (all, hedged) = (reads.all.get(), reads.hedged.get());
    for turn in 12..42 {
        read(turn).await;
    }
    assert_eq!((reads.all.get() - all, reads.hedged.get() - hedged), (30, 0));
    town.freeze(&[0]);
    let took = read(0).await;
    assert!(took < HEDGE_AFTER_MAX + Duration::from_millis(200), "{took:?}");
    assert_eq!(reads.hedged.get() - hedged, 1);
}

#[tokio::test(start_paused = true)]
async fn a_stripe_bears_the_loss_of_any_two_shards_and_each_is_made_anew() {
    let town = Town::of(7).await;
    let codec = Codec::new("4+2".parse().unwrap());
    let stripe = content(1, 2_000_000);
    let shards = codec.encode(&stripe).unwrap();
    let pieces: Vec<Piece> = (10..).zip(&shards).map(|(n, shard)| Piece::new(id(n), shard)).collect();
    // One of the first six is frozen while it is written.
    town.freeze(&[2]);
    let outcome = town.store.write_pieces(&pieces, &town.targets(), SHARDS).await;
    town.freeze(&[]);
    assert!(outcome.is_written && outcome.safe() == 6, "{outcome:?}");
    assert_eq!(outcome.places[2], Some(6));
    let places: Vec<_> = pieces
        .iter()
        .zip(&outcome.places)
        .map(|(piece, place)| (piece.chunk, place.map(|place| town.targets()[place])))
        .collect();
    for (a, b) in (0..6).flat_map(|a| (a + 1..6).map(move |b| (a, b))) {
        let lost = |n: usize| outcome.places[n].unwrap();
        town.cut(&[lost(a)]);
        town.freeze(&[lost(b)]);
        let read = town.store.read_stripe(&codec, 2_000_000, &places).await;
        assert_eq!(read.as_ref(), Ok(&stripe), "without {a} and {b}");
        let made = town.store.repair_shard(&codec, 2_000_000, &places, a).await;
        assert_eq!(made.as_ref(), Ok(&shards[a]));
    }
    town.cut(&[0, 1, 3]);
    town.freeze(&[]);
    let failed = town.store.read_stripe(&codec, 2_000_000, &places).await.unwrap_err();
    assert!(matches!(failed, ReadError::TooFew { needed: 4, .. }), "{failed}");
}

#[tokio::test(start_paused = true)]
async fn who_stops_waiting_for_a_write_leaves_nothing_half_written() {
    let town = Town::of(3).await;
    for platter in &town.platters {
        platter.set_slow(Duration::from_millis(30));
    }
    for n in 0..40u8 {
        let piece = Piece::new(id(n), &content(n, 1_500_000));
        let targets = town.targets();
        let writing = town.store.write_copies(&piece, 3, &targets, COPIES);
        let _ = timeout(Duration::from_millis(u64::from(n) * 6), writing).await;
    }
    tokio::time::sleep(Duration::from_secs(30)).await;
    for (target, platter) in town.targets().into_iter().zip(&town.platters) {
        for listed in town.store.remote().list(target, None).await.unwrap() {
            let n = listed.chunk.0[0];
            let read = town.store.read_copy(listed.chunk, 0..u32::MAX, &[target]).await.unwrap();
            assert_eq!(read, content(n, 1_500_000));
        }
        assert!(!platter.files().keys().any(|name| name.starts_with("incoming")), "{:?}", platter.files());
    }
}
