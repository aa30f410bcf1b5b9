//! Which sealed bytes hold which bytes of an object (pure).

use std::ops::Range;

use super::{BLOCK_BYTES, SALT_BYTES, SEALED_BLOCK_BYTES, blocks, sealed_bytes};

/// A stretch of one stream: what is read, and what of it is wanted once it is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// The part whose stream it is; 0 of a body that was put whole.
    pub part: u16,
    /// How long the body of the stream is.
    pub plain: u64,
    /// Where its salt is, in the object as it lies on disks.
    pub salt: Range<u64>,
    /// Where its blocks are.
    pub sealed: Range<u64>,
    /// The number of the first block.
    pub first: u64,
    /// Open bytes before what is wanted.
    pub skip: u64,
    /// Open bytes that are wanted.
    pub take: u64,
}

/// What has to be read for the bytes `wanted` of an object, whose streams are so long, in order.
pub fn stretches(streams: &[(u16, u64)], wanted: Range<u64>) -> Vec<Stretch> {
    let (mut plain_at, mut sealed_at) = (0_u64, 0_u64);
    let mut stretches = Vec::new();
    for (part, plain) in streams {
        let from = wanted.start.max(plain_at) - plain_at;
        let to = wanted.end.min(plain_at + plain).saturating_sub(plain_at);
        if from < to {
            stretches.push(stretch(*part, *plain, sealed_at, from..to));
        }
        plain_at += plain;
        sealed_at += sealed_bytes(*plain);
    }
    stretches
}

fn stretch(part: u16, plain: u64, at: u64, wanted: Range<u64>) -> Stretch {
    let (first, behind) = (wanted.start / BLOCK_BYTES, wanted.end.div_ceil(BLOCK_BYTES));
    let begins = at + SALT_BYTES;
    let end = if behind == blocks(plain) { at + sealed_bytes(plain) } else { begins + behind * SEALED_BLOCK_BYTES };
    Stretch {
        part,
        plain,
        salt: at..begins,
        sealed: begins + first * SEALED_BLOCK_BYTES..end,
        first,
        skip: wanted.start - first * BLOCK_BYTES,
        take: wanted.end - wanted.start,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{DataKey, Opening, Sealing};
    use super::*;

    const KEY: DataKey = DataKey([1; 32]);

    /// An object of these parts, open and sealed.
    fn object(parts: &[(u16, u64)]) -> (Vec<u8>, Vec<u8>) {
        let (mut plain, mut sealed) = (Vec::new(), Vec::new());
        for (part, bytes) in parts {
            let body: Vec<u8> = (0..*bytes).map(|n| (n * 3 + u64::from(*part)) as u8).collect();
            let mut sealing = Sealing::new(&KEY, *part, [*part as u8; 32]).expect("a key");
            sealed.extend(sealing.push(&body).expect("short"));
            sealed.extend(sealing.finish().expect("short"));
            plain.extend(body);
        }
        (plain, sealed)
    }

    fn read(sealed: &[u8], stretch: &Stretch) -> Vec<u8> {
        let at = |range: &Range<u64>| &sealed[range.start as usize..range.end as usize];
        let salt = at(&stretch.salt).try_into().expect("32 bytes");
        let mut opening = Opening::new(&KEY, stretch.part, salt, stretch.plain, stretch.first).expect("a key");
        let open = opening.push(at(&stretch.sealed)).expect("it opens");
        opening.finish().expect("whole blocks");
        open[stretch.skip as usize..(stretch.skip + stretch.take) as usize].to_vec()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn any_range_of_any_parts_is_what_it_was(
            lengths in prop::collection::vec(prop_oneof![0_u64..10, 65_530_u64..65_545, 0_u64..150_000], 1..4),
            from in any::<prop::sample::Index>(),
            to in any::<prop::sample::Index>(),
        ) {
            let parts: Vec<(u16, u64)> = lengths.iter().enumerate().map(|(n, bytes)| (n as u16 + 1, *bytes)).collect();
            let (plain, sealed) = object(&parts);
            let (a, b) = (from.index(plain.len() + 1), to.index(plain.len() + 1));
            let (from, to) = (a.min(b), a.max(b));
            let stretches = stretches(&parts, from as u64..to as u64);
            let got: Vec<u8> = stretches.iter().flat_map(|stretch| read(&sealed, stretch)).collect();
            prop_assert_eq!(got, plain[from..to].to_vec());
        }
    }

    #[test]
    fn no_more_is_read_than_the_blocks_that_hold_it() {
        let one = stretches(&[(0, 300_000)], 70_000..70_001);
        let first = SALT_BYTES + SEALED_BLOCK_BYTES;
        assert_eq!(one.len(), 1);
        assert_eq!(one[0].sealed, first..first + SEALED_BLOCK_BYTES);
        assert_eq!((one[0].salt.clone(), one[0].first, one[0].skip, one[0].take), (0..32, 1, 4_464, 1));
        assert!(stretches(&[(0, 10)], 3..3).is_empty());
        assert!(stretches(&[(0, 0)], 0..0).is_empty());
    }
}
