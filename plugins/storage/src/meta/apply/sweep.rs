//! Going on with what dies, a limited piece at a time: lists that no body is any more, parts that no list names, deleted buckets.

use super::chunk;
use super::scene::{Scene, Stop, decode};
use crate::meta::command::Answer;
use crate::meta::key;
use crate::meta::kinds::{Dying, List, Manifest, Part};
use crate::meta::limits::{CHUNKS_BESIDE, WORK_MAX};
use crate::meta::names::{Stamp, UploadId};
use crate::meta::rows::RowsError;

pub fn sweep(scene: &mut Scene) -> Result<Answer, Stop> {
    let mut left = WORK_MAX;
    let all = key::all_of(b"x".to_vec());
    while left > 0 {
        let Some((row, value)) = scene.rows().first(&all.0, &all.1)? else { break };
        let rest = match decode(&row, &value)? {
            Dying::Manifest { id, done } => manifest(scene, id, done as usize, &mut left)?,
            Dying::Parts { upload, numbers: None } => {
                let range = (key::part(upload, 0), key::after(&key::part(upload, u16::MAX)));
                let most = left / (CHUNKS_BESIDE + 1) + 1;
                let rows = scene.keys(range, most)?;
                let more = rows.len() == most;
                for row in rows {
                    part(scene, row, &mut left)?;
                }
                more.then_some(Dying::Parts { upload, numbers: None })
            }
            Dying::Parts { upload, numbers: Some(mut numbers) } => {
                while left > 0
                    && let Some(number) = numbers.pop_first()
                {
                    part(scene, key::part(upload, number), &mut left)?;
                }
                (!numbers.is_empty()).then_some(Dying::Parts { upload, numbers: Some(numbers) })
            }
            Dying::Bucket(id) => {
                let uploads = scene.keys(key::all_of(key::keys_from(b'u', id, "")), left)?;
                let more = uploads.len() == left;
                left -= uploads.len();
                for row in uploads {
                    if let Some(upload) = upload_in(&row) {
                        scene.dies(&Dying::Parts { upload, numbers: None });
                    }
                    scene.remove(row);
                }
                for row in scene.keys(key::all_of(key::keys_from(b'd', id, "")), WORK_MAX)? {
                    scene.remove(row);
                }
                more.then_some(Dying::Bucket(id))
            }
            Dying::Replication(id) => {
                let mut more = false;
                for range in key::all_due(id) {
                    let rows = scene.keys(range, left)?;
                    more |= rows.len() == left;
                    left -= rows.len();
                    for row in rows {
                        scene.remove(row);
                    }
                }
                more.then_some(Dying::Replication(id))
            }
        };
        left = left.saturating_sub(1);
        match rest {
            Some(rest) => scene.write(row, &rest),
            None => scene.remove(row),
        }
    }
    let more = scene.rows().first(&all.0, &all.1)?.is_some();
    Ok(Answer::Some { done: (WORK_MAX - left) as u64, more })
}

fn upload_in(row: &[u8]) -> Option<UploadId> {
    row.last_chunk().map(|id| Stamp::from_bytes(*id))
}

fn manifest(scene: &mut Scene, id: Stamp, done: usize, left: &mut usize) -> Result<Option<Dying>, RowsError> {
    let Some(manifest) = scene.read::<Manifest>(&key::manifest(id))? else { return Ok(None) };
    let (many, next) = match &manifest.list {
        List::Chunks(_, chunks) => {
            let next = chunks.len().min(done + *left);
            for chunk in &chunks[done..next] {
                chunk::release_chunk(scene, chunk.id)?;
            }
            *left -= next - done;
            (chunks.len(), next)
        }
        List::Parts { upload, parts, .. } => {
            let mut next = done;
            while *left > 0 && next < parts.len() {
                part(scene, key::part(*upload, parts[next].number), left)?;
                next += 1;
            }
            (parts.len(), next)
        }
    };
    if next < many {
        return Ok(Some(Dying::Manifest { id, done: next as u32 }));
    }
    scene.remove(key::manifest(id));
    Ok(None)
}

fn part(scene: &mut Scene, row: Vec<u8>, left: &mut usize) -> Result<(), RowsError> {
    if let Some(Part { body, .. }) = scene.read(&row)? {
        scene.remove(row);
        chunk::release(scene, &body)?;
        *left = left.saturating_sub(1 + CHUNKS_BESIDE);
    }
    Ok(())
}
