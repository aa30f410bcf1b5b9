use proptest::prelude::*;

use super::*;

fn scheme(text: &str) -> Scheme {
    text.parse().unwrap()
}

fn stripe(bytes: usize) -> Bytes {
    (0..bytes).map(|at| (at * 31 + at / 253) as u8).collect()
}

/// The field, slowly.
fn times(a: u8, b: u8) -> u8 {
    let (mut product, mut a, mut b) = (0, u16::from(a), b);
    while b > 0 {
        product ^= if b & 1 == 1 { a } else { 0 };
        a = if a & 0x80 == 0 { a << 1 } else { (a << 1) ^ 0x11d };
        b >>= 1;
    }
    product as u8
}

fn inverse(a: u8) -> u8 {
    (1..=255).find(|b| times(a, *b) == 1).unwrap()
}

fn power(a: u8, n: usize) -> u8 {
    (0..n).fold(1, |product, _| times(product, a))
}

/// Rows of parity: a Vandermonde matrix times the inverse of its upper part.
fn parity_rows(data: usize, parity: usize) -> Vec<Vec<u8>> {
    let row = |r: usize| (0..data).map(|c| power(r as u8, c)).collect::<Vec<u8>>();
    let mut top: Vec<Vec<u8>> =
        (0..data).map(|r| row(r).into_iter().chain((0..data).map(|c| u8::from(c == r))).collect()).collect();
    for at in 0..data {
        let pivot = (at..data).find(|r| top[*r][at] != 0).unwrap();
        top.swap(at, pivot);
        let factor = inverse(top[at][at]);
        top[at].iter_mut().for_each(|cell| *cell = times(*cell, factor));
        let pivot = top[at].clone();
        for row in (0..data).filter(|row| *row != at) {
            let factor = top[row][at];
            top[row].iter_mut().zip(&pivot).for_each(|(cell, of)| *cell ^= times(factor, *of));
        }
    }
    let product = |r: usize| {
        let row = row(data + r);
        (0..data).map(|c| (0..data).fold(0, |sum, i| sum ^ times(row[i], top[i][data + c]))).collect()
    };
    (0..parity).map(product).collect()
}

#[test]
fn what_is_written_is_what_the_field_says() {
    for text in ["2+1", "4+2", "8+3", "17+3"] {
        let codec = Codec::new(scheme(text));
        let shards = codec.encode(&stripe(3_000)).unwrap();
        let (data, parity) = shards.split_at(codec.scheme().data());
        for (row, parity) in parity_rows(data.len(), parity.len()).iter().zip(parity) {
            for at in 0..parity.len() {
                let sum = row.iter().zip(data).fold(0, |sum, (factor, shard)| sum ^ times(*factor, shard[at]));
                assert_eq!(parity[at], sum, "{text} at {at}");
            }
        }
    }
}

#[test]
fn any_k_of_six_give_the_stripe_back() {
    let codec = Codec::new(scheme("4+2"));
    for bytes in [0, 1, 255, 256, 257, 100_000] {
        let stripe = stripe(bytes);
        let shards: Vec<_> = codec.encode(&stripe).unwrap().into_iter().map(Some).collect();
        for lost in 0u32..64 {
            let some: Vec<_> =
                (0..).zip(&shards).map(|(n, shard)| shard.clone().filter(|_| lost >> n & 1 == 0)).collect();
            let decoded = codec.decode(bytes as u32, &some);
            if lost.count_ones() <= 2 {
                assert_eq!(decoded.as_ref(), Ok(&stripe), "{bytes} without {lost:b}");
                for (n, shard) in shards.iter().enumerate() {
                    assert_eq!(codec.repair(bytes as u32, &some, n).ok(), *shard);
                }
            } else {
                let present = 6 - lost.count_ones() as usize;
                assert_eq!(decoded, Err(CodeError::TooFew { present, needed: 4 }));
            }
        }
    }
}

#[test]
fn any_eight_of_eleven_give_the_stripe_back() {
    let codec = Codec::new(scheme("8+3"));
    let stripe = stripe(10_001);
    let shards: Vec<_> = codec.encode(&stripe).unwrap().into_iter().map(Some).collect();
    assert_eq!(shards.len(), 11);
    for lost in 0u32..1 << 11 {
        let some: Vec<_> = (0..).zip(&shards).map(|(n, shard)| shard.clone().filter(|_| lost >> n & 1 == 0)).collect();
        let decoded = codec.decode(10_001, &some);
        if lost.count_ones() <= 3 {
            assert_eq!(decoded.as_ref(), Ok(&stripe), "without {lost:b}");
            for (n, shard) in shards.iter().enumerate() {
                assert_eq!(codec.repair(10_001, &some, n).ok(), *shard);
            }
        } else {
            let present = 11 - lost.count_ones() as usize;
            assert_eq!(decoded, Err(CodeError::TooFew { present, needed: 8 }));
        }
    }
}

#[test]
fn what_cannot_be_is_refused_in_words() {
    for wrong in ["", "4", "4+", "+2", "1+1", "4+0", "31+2", "4+2+1", "+4+2", "4 + 2", "300+1"] {
        let error = wrong.parse::<Scheme>().unwrap_err();
        assert!(error.to_string().contains("like 4+2"), "{error}");
    }
    assert_eq!(scheme("8+3").to_string(), "8+3");
    let codec = Codec::new(scheme("4+2"));
    let mut shards: Vec<_> = codec.encode(&stripe(1_000)).unwrap().into_iter().map(Some).collect();
    assert!(matches!(codec.decode(5_000, &shards), Err(CodeError::Length { .. })));
    assert!(matches!(codec.decode(1_000, &shards[..5]), Err(CodeError::Wrong(_))));
    assert!(matches!(codec.decode(u32::MAX, &shards), Err(CodeError::Wrong(_))));
    assert!(matches!(codec.repair(1_000, &shards, 6), Err(CodeError::Wrong(_))));
    shards[2] = Some(Bytes::from_static(b"short"));
    assert!(matches!(codec.decode(1_000, &shards), Err(CodeError::Length { shard: 2, .. })));
    assert!(codec.encode(&Bytes::from(vec![0; STRIPE_BYTES_MAX as usize + 1])).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_scheme_bears_the_loss_of_as_many_as_it_says(
        data in 2u8..17,
        parity in 1u8..6,
        bytes in 0usize..20_000,
        lost in proptest::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let codec = Codec::new(Scheme::new(data, parity).unwrap());
        let stripe = stripe(bytes);
        let mut shards: Vec<_> = codec.encode(&stripe).unwrap().into_iter().map(Some).collect();
        prop_assert!(shards.iter().flatten().all(|shard| shard.len() == codec.scheme().shard_bytes(bytes as u32) as usize));
        for index in lost.into_iter().take(parity.into()) {
            let n = index.index(shards.len());
            shards[n] = None;
        }
        prop_assert_eq!(codec.decode(bytes as u32, &shards), Ok(stripe));
    }

    #[test]
    fn a_stream_is_cut_into_stripes_whatever_its_pieces(pieces in proptest::collection::vec(0usize..1_500_000, 0..8)) {
        let mut cutter = Cutter::new(STRIPE_BYTES_MIN);
        let all = stripe(pieces.iter().sum());
        let mut rest = all.clone();
        let mut stripes = Vec::new();
        for bytes in pieces {
            let mut piece = rest.split_to(bytes);
            while !piece.is_empty() {
                stripes.extend(cutter.push(&mut piece));
            }
        }
        prop_assert!(stripes.iter().all(|stripe| stripe.len() == STRIPE_BYTES_MIN as usize));
        stripes.extend(cutter.finish());
        prop_assert_eq!(stripes.concat(), all);
    }
}
