//! Chunks: how they come to be named, are shared, and are condemned; and the writes that make them.

use std::collections::BTreeSet;

use hirsel_model::{Incarnation, NodeId};

use super::scene::{Scene, Stop};
use crate::meta::command::{Answer, Fate};
use crate::meta::key;
use crate::meta::kinds::{Body, Chunk, ChunkRef, Class, Dying, List, Manifest, Missed, Write, Written};
use crate::meta::limits::{
    BODY_BYTES_MAX, CHUNKS_BESIDE, CHUNKS_MAX, INLINE_BYTES_MAX, MISSED_MAX, NAMED_MAX, PARTITIONS_MAX, WORK_MAX,
    WRITES_MAX,
};
use crate::meta::names::{ChunkId, WriteId};
use crate::meta::refusal::Refusal;
use crate::meta::rows::RowsError;

/// Writes that may be open in a group: a thousand gateways with all that a command opens.
const OPEN_MAX: u64 = 1_000 * WRITES_MAX as u64;

pub fn open(scene: &mut Scene, gateway: NodeId, incarnation: Incarnation, writes: &[WriteId]) -> Result<Answer, Stop> {
    few("writes", writes.len(), WRITES_MAX)?;
    for write in writes {
        if scene.has(&key::write(*write))? {
            return Err(Refusal::UsedWrite.into());
        }
        scene.write(key::write(*write), &Write { gateway, incarnation });
        scene.mark(key::write_of(gateway, incarnation, *write));
        scene.head.writes += 1;
    }
    if scene.head.writes > OPEN_MAX {
        return Err(Refusal::Argument(format!("more than {OPEN_MAX} writes are open")).into());
    }
    Ok(Answer::Done)
}

pub fn abort(scene: &mut Scene, writes: &[WriteId]) -> Result<Answer, Stop> {
    few("writes", writes.len(), WRITES_MAX)?;
    let mut done = 0;
    for write in writes {
        done += u64::from(end(scene, *write)?);
    }
    Ok(Answer::Some { done, more: false })
}

pub fn abort_gone(scene: &mut Scene, gateway: NodeId, before: Incarnation) -> Result<Answer, Stop> {
    let none = WriteId([0; 12]);
    let range = (key::write_of(gateway, Incarnation(0), none), key::write_of(gateway, before, none));
    let keys = scene.keys(range, WORK_MAX)?;
    for row in &keys {
        let id = row.get(17..29).and_then(|id| id.try_into().ok());
        end(scene, WriteId(id.ok_or_else(|| RowsError("a row of kind g is short".into()))?))?;
    }
    Ok(Answer::Some { done: keys.len() as u64, more: keys.len() == WORK_MAX })
}

/// Ends a write, and says whether it was open.
fn end(scene: &mut Scene, write: WriteId) -> Result<bool, RowsError> {
    let Some(Write { gateway, incarnation }) = scene.read(&key::write(write))? else { return Ok(false) };
    scene.remove(key::write(write));
    scene.remove(key::write_of(gateway, incarnation, write));
    scene.head.writes -= 1;
    Ok(true)
}

fn few(what: &str, many: usize, max: usize) -> Result<(), Refusal> {
    match many {
        0 => Err(Refusal::Argument(format!("no {what}"))),
        many if many > max => Err(Refusal::Argument(format!("{many} {what} exceed {max}"))),
        _ => Ok(()),
    }
}

/// Names what a gateway has written: from now on its chunks are somebody's.
pub fn take(scene: &mut Scene, written: Written) -> Result<Body, Stop> {
    let (write, class, table, chunks, missed) = match written {
        Written::Inline(bytes) if bytes.len() <= INLINE_BYTES_MAX => return Ok(Body::Inline(bytes)),
        Written::Inline(bytes) => {
            let words = format!("{} bytes in a command exceed {INLINE_BYTES_MAX}", bytes.len());
            return Err(Refusal::Argument(words).into());
        }
        Written::Chunks { write, class, table, chunks, missed } => (write, class, table, chunks, missed),
    };
    check(scene, write, class, table, &chunks)?;
    check_missed(&chunks, &missed)?;
    if !end(scene, write)? {
        return Err(Refusal::NotOpen.into());
    }
    for chunk in &chunks {
        scene.write(key::chunk(chunk.id), &Chunk { shared: 1, bytes: chunk.bytes, class });
    }
    for Missed { chunk, shard, node } in missed {
        scene.mark(key::repair(chunk, shard, node));
    }
    if chunks.len() <= CHUNKS_BESIDE {
        return Ok(Body::Chunks(class, chunks));
    }
    let id = scene.stamp();
    scene.write(key::manifest(id), &Manifest { shared: 1, list: List::Chunks(class, chunks) });
    Ok(Body::Manifest(id))
}

fn check(scene: &Scene, write: WriteId, class: Class, table: u64, chunks: &[ChunkRef]) -> Result<(), Stop> {
    few("chunks", chunks.len(), CHUNKS_MAX)?;
    let sound = match class {
        Class::Copies(copies) => copies >= 1,
        Class::Erasure(data, more) => data >= 1 && more >= 1,
    };
    if !sound {
        return Err(Refusal::Argument(format!("{class:?} keeps nothing safe")).into());
    }
    let bytes: u64 = chunks.iter().map(|chunk| u64::from(chunk.bytes)).sum();
    if bytes > BODY_BYTES_MAX {
        return Err(Refusal::TooLarge(format!("{bytes} bytes exceed {BODY_BYTES_MAX}")).into());
    }
    if !chunks.is_sorted_by_key(|chunk| chunk.id.number())
        || chunks.windows(2).any(|pair| pair[0].id.number() == pair[1].id.number())
    {
        return Err(Refusal::Chunk("the numbers of the chunks do not rise".into()).into());
    }
    let partitions: BTreeSet<u16> = chunks.iter().map(|chunk| chunk.id.partition()).collect();
    for partition in partitions {
        if partition >= PARTITIONS_MAX {
            return Err(Refusal::Argument(format!("partition {partition}, 0 to {PARTITIONS_MAX} are")).into());
        }
        let least: u64 = scene.read(&key::table(partition))?.unwrap_or_default();
        if table < least {
            return Err(Refusal::OldTable { partition, by: table, least }.into());
        }
    }
    for ChunkRef { id, bytes } in chunks {
        if *bytes == 0 {
            return Err(Refusal::Chunk(format!("{id} is empty")).into());
        }
        if id.write() != write {
            return Err(Refusal::Chunk(format!("{id} was made by another write")).into());
        }
        if scene.has(&key::condemned(*id))? {
            return Err(Refusal::Chunk(format!("{id} is condemned")).into());
        }
        if scene.has(&key::chunk(*id))? {
            return Err(Refusal::Chunk(format!("{id} is named already")).into());
        }
    }
    Ok(())
}

fn check_missed(chunks: &[ChunkRef], missed: &[Missed]) -> Result<(), Stop> {
    if missed.len() > MISSED_MAX {
        return Err(Refusal::Argument(format!("{} missed targets exceed {MISSED_MAX}", missed.len())).into());
    }
    let known: BTreeSet<ChunkId> = chunks.iter().map(|chunk| chunk.id).collect();
    match missed.iter().find(|missed| !known.contains(&missed.chunk)) {
        None => Ok(()),
        Some(missed) => Err(Refusal::Chunk(format!("{} missed a target and is not in the body", missed.chunk)).into()),
    }
}

/// One more body is this one.
pub fn share(scene: &mut Scene, body: &Body) -> Result<(), Stop> {
    match body {
        Body::Inline(_) => {}
        Body::Chunks(_, chunks) => {
            for chunk in chunks {
                let mut row = named(scene, chunk.id)?;
                row.shared = row.shared.checked_add(1).ok_or_else(shared_out)?;
                scene.write(key::chunk(chunk.id), &row);
            }
        }
        Body::Manifest(id) => {
            let mut manifest: Manifest = scene.read(&key::manifest(*id))?.ok_or_else(|| lost("list", id))?;
            manifest.shared = manifest.shared.checked_add(1).ok_or_else(shared_out)?;
            scene.write(key::manifest(*id), &manifest);
        }
    }
    Ok(())
}

fn shared_out() -> Stop {
    Refusal::Argument("a body cannot be shared more often".into()).into()
}

fn lost(what: &str, id: &dyn std::fmt::Display) -> RowsError {
    RowsError(format!("{what} {id} is named and not there"))
}

fn named(scene: &Scene, id: ChunkId) -> Result<Chunk, RowsError> {
    scene.read(&key::chunk(id))?.ok_or_else(|| lost("chunk", &id))
}

/// One body less is this one.
pub fn release(scene: &mut Scene, body: &Body) -> Result<(), RowsError> {
    match body {
        Body::Inline(_) => {}
        Body::Chunks(_, chunks) => {
            for chunk in chunks {
                release_chunk(scene, chunk.id)?;
            }
        }
        Body::Manifest(id) => {
            let mut manifest: Manifest = scene.read(&key::manifest(*id))?.ok_or_else(|| lost("list", id))?;
            manifest.shared -= 1;
            scene.write(key::manifest(*id), &manifest);
            if manifest.shared == 0 {
                scene.dies(&Dying::Manifest { id: *id, done: 0 });
            }
        }
    }
    Ok(())
}

/// One name less is of this chunk; without any it is condemned.
pub fn release_chunk(scene: &mut Scene, id: ChunkId) -> Result<(), RowsError> {
    let mut row = named(scene, id)?;
    row.shared -= 1;
    if row.shared > 0 {
        scene.write(key::chunk(id), &row);
        return Ok(());
    }
    scene.remove(key::chunk(id));
    scene.mark(key::condemned(id));
    // Nothing of it is worth mending.
    let first = key::repair(id, 0, NodeId(0));
    let range = key::all_of(first[..17].to_vec());
    for row in scene.keys(range, MISSED_MAX)? {
        scene.remove(row);
    }
    Ok(())
}

pub fn condemn_unknown(scene: &mut Scene, chunks: &[ChunkId]) -> Result<Answer, Stop> {
    few("chunks", chunks.len(), NAMED_MAX)?;
    let mut fates = Vec::with_capacity(chunks.len());
    for id in chunks {
        fates.push(if scene.has(&key::chunk(*id))? {
            Fate::Named
        } else if scene.has(&key::write(id.write()))? {
            Fate::Open
        } else {
            scene.mark(key::condemned(*id));
            Fate::Condemned
        });
    }
    Ok(Answer::Fates(fates))
}

pub fn forget(scene: &mut Scene, chunks: &[ChunkId]) -> Result<Answer, Stop> {
    few("chunks", chunks.len(), NAMED_MAX)?;
    for id in chunks {
        scene.remove(key::condemned(*id));
    }
    Ok(Answer::Done)
}

pub fn add_repairs(scene: &mut Scene, missed: &[Missed]) -> Result<Answer, Stop> {
    few("repairs", missed.len(), NAMED_MAX)?;
    let mut done = 0;
    for Missed { chunk, shard, node } in missed {
        if scene.has(&key::chunk(*chunk))? {
            scene.mark(key::repair(*chunk, *shard, *node));
            done += 1;
        }
    }
    Ok(Answer::Some { done, more: false })
}

pub fn repaired(scene: &mut Scene, missed: &[Missed]) -> Result<Answer, Stop> {
    few("repairs", missed.len(), NAMED_MAX)?;
    for Missed { chunk, shard, node } in missed {
        scene.remove(key::repair(*chunk, *shard, *node));
    }
    Ok(Answer::Done)
}

pub fn move_complete(scene: &mut Scene, partition: u16, table: u64) -> Result<Answer, Stop> {
    if partition >= PARTITIONS_MAX {
        return Err(Refusal::Argument(format!("partition {partition}, 0 to {PARTITIONS_MAX} are")).into());
    }
    let least: u64 = scene.read(&key::table(partition))?.unwrap_or_default();
    scene.write(key::table(partition), &least.max(table));
    Ok(Answer::Done)
}
