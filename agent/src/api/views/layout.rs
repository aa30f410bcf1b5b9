//! `why BUCKET/KEY`: where the pieces of an object are, which are missing, and what is done about it.

use std::collections::BTreeMap;

use hirsel_role::storage::{ChunkLayout, Layout, PieceLayout, PieceState};

use super::buckets::safety;
use super::why::{Chosen, Link, RejectedNode, Why};
use crate::api::sight::{Sight, rfc3339};

/// Chunks that are told one by one; of more a person reads none.
const CHUNKS_MAX: usize = 16;

/// The answer about one object.
pub fn why(sight: &Sight, bucket: &str, key: &str, layout: &Layout) -> Why {
    let subject = format!("object/{bucket}/{key}");
    let at = Some(rfc3339(layout.written));
    let link = |text: String| Link { event_index: None, text, subject: subject.clone(), at: None };
    let wanting: Vec<&ChunkLayout> = layout.chunks.iter().filter(|chunk| lacks(chunk) > 0).collect();
    let mut because = vec![link(verdict(layout)), link(kept(layout))];
    because.extend(wanting.iter().take(CHUNKS_MAX).map(|chunk| link(of_chunk(sight, chunk))));
    if wanting.len() > CHUNKS_MAX {
        because.push(link(format!("{} more chunks lack pieces", wanting.len() - CHUNKS_MAX)));
    }
    let mut lacking: BTreeMap<String, (usize, String)> = BTreeMap::new();
    for piece in layout.chunks.iter().flat_map(|chunk| &chunk.pieces) {
        let why = match &piece.state {
            PieceState::There | PieceState::Homeless => continue,
            PieceState::Missing(why) | PieceState::Silent(why) => why.clone(),
        };
        let node = piece.node.map_or_else(|| "-".into(), |node| sight.name(node));
        lacking.entry(node).or_insert((0, why)).0 += 1;
    }
    let rejected = lacking.into_iter().map(|(node, (pieces, why))| {
        let s = if pieces == 1 { "" } else { "s" };
        RejectedNode { node, reason: format!("{pieces} piece{s} not to be had there: {why}") }
    });
    Why {
        since: at,
        because,
        chosen: Chosen { node: None, text: verdict(layout), generation: None },
        rejected: rejected.collect(),
        undo: None,
        afterwards: Vec::new(),
        subject: subject.clone(),
    }
}

/// In one sentence: whether it can be read, and what it bears besides.
fn verdict(layout: &Layout) -> String {
    if layout.inline {
        return "it is in the metadata, and as safe as these".into();
    }
    let spare = |chunk: &ChunkLayout| there(chunk).checked_sub(usize::from(chunk.enough));
    let lost = layout.chunks.iter().filter(|chunk| spare(chunk).is_none()).count();
    if lost > 0 {
        let s = if lost == 1 { "" } else { "s" };
        return format!("it cannot be read now: {lost} chunk{s} of {} with too few pieces", layout.chunks.len());
    }
    let bears = layout.chunks.iter().filter_map(spare).min().unwrap_or_default();
    let part = match layout.looked_at < layout.bytes {
        true => format!("its first {} bytes", layout.looked_at),
        false => "it".into(),
    };
    let lacking = layout.chunks.iter().filter(|chunk| lacks(chunk) > 0).count();
    match lacking {
        0 => format!("{part} can be read, all pieces are there, and any {bears} more nodes may be lost"),
        _ => format!(
            "{part} can be read, {lacking} of {} chunks lack pieces, and any {bears} more nodes may be lost",
            layout.chunks.len()
        ),
    }
}

fn kept(layout: &Layout) -> String {
    if layout.inline {
        return format!("{} bytes, which are in the metadata themselves", layout.bytes);
    }
    let mut ways: Vec<String> = layout.chunks.iter().map(|chunk| safety(chunk.safety)).collect();
    ways.dedup();
    let s = if layout.chunks.len() == 1 { "" } else { "s" };
    let all = layout.looked_at >= layout.bytes;
    let of = if all { String::new() } else { format!(", of which {} bytes were looked at", layout.looked_at) };
    format!("{} bytes in {} chunk{s}{of}, kept as {}", layout.bytes, layout.chunks.len(), ways.join(", "))
}

fn of_chunk(sight: &Sight, chunk: &ChunkLayout) -> String {
    let place = |piece: &PieceLayout| {
        let node = piece.node.map_or_else(|| "no node".into(), |node| sight.name(node));
        let state = match &piece.state {
            PieceState::There => "there".to_owned(),
            PieceState::Missing(_) => "missing".to_owned(),
            PieceState::Silent(_) => "not heard".to_owned(),
            PieceState::Homeless => "fewer keep data than its class asks for".to_owned(),
        };
        let plan = if piece.waits { ", to be made anew" } else { "" };
        format!("{} on {node} ({state}{plan})", piece.number)
    };
    let places: Vec<String> = chunk.pieces.iter().map(place).collect();
    let moves = match chunk.moves_to.is_empty() {
        true => String::new(),
        false => format!("; it moves to {}", sight.names(&chunk.moves_to).join(", ")),
    };
    format!("chunk {} from byte {}: {}{moves}", chunk.chunk, chunk.from, places.join(", "))
}

fn there(chunk: &ChunkLayout) -> usize {
    chunk.pieces.iter().filter(|piece| piece.state == PieceState::There).count()
}

fn lacks(chunk: &ChunkLayout) -> usize {
    chunk.pieces.len() - there(chunk)
}

#[cfg(test)]
mod tests {
    use hirsel_model::{NodeId, WallTime};
    use hirsel_role::storage::Safety;

    use super::*;

    fn layout(states: [PieceState; 3]) -> Layout {
        let pieces = (0..).zip(states).map(|(number, state)| PieceLayout {
            number,
            node: (state != PieceState::Homeless).then_some(NodeId(u64::from(number) + 1)),
            waits: matches!(state, PieceState::Missing(_)),
            state,
        });
        let chunk = ChunkLayout {
            chunk: "0a".into(),
            from: 0,
            bytes: 9,
            safety: Safety::Copies(3),
            enough: 1,
            pieces: pieces.collect(),
            moves_to: Vec::new(),
        };
        Layout { written: WallTime(1_000), bytes: 9, inline: false, chunks: vec![chunk], looked_at: 9 }
    }

    #[test]
    fn what_is_whole_what_lacks_something_and_what_is_lost_is_told_apart() {
        use PieceState::*;
        let told = |states| why(&Sight::default(), "media", "a/b", &layout(states));
        let whole = told([There, There, There]);
        assert_eq!(whole.chosen.text, "it can be read, all pieces are there, and any 2 more nodes may be lost");
        assert_eq!((whole.subject.as_str(), whole.because.len()), ("object/media/a/b", 2));
        let lacking = told([There, Missing("no such chunk".into()), Homeless]);
        assert_eq!(lacking.chosen.text, "it can be read, 1 of 1 chunks lack pieces, and any 0 more nodes may be lost");
        assert!(lacking.because[2].text.contains("(missing, to be made anew)"), "{lacking:?}");
        assert_eq!(lacking.rejected.len(), 1);
        let lost = told([Silent("no answer".into()), Missing("gone".into()), Homeless]);
        assert!(lost.chosen.text.starts_with("it cannot be read now"), "{lost:?}");
    }
}
