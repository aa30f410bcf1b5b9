//! Carrying out one entry over the rows: what changes, and what is answered.

mod bucket;
mod chunk;
mod delete;
mod notify;
mod object;
mod replicate;
mod scene;
mod sweep;
mod upload;

use std::collections::BTreeMap;

use hirsel_model::{codec, feature};

use super::command::{Answer, Command, Entry, needed};
use super::refusal::Refusal;
use super::rows::{Rows, RowsError};
use scene::{Scene, Stop};

/// Rows to write, and none for those to remove.
pub type Changes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// Why an entry cannot be carried out at all. The replica stops over it.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// It was written by a newer hirsel, or is no entry.
    #[error("{0}")]
    Entry(#[from] codec::DecodeError),
    /// The group is at a level that this build does not know.
    #[error("{0}")]
    Outdated(String),
    /// The disk, or what is on it.
    #[error("{0}")]
    Rows(#[from] RowsError),
}

/// What `entry` changes of `rows`, and its answer. A refused one changes nothing.
///
/// # Errors
/// When the replica must stop: the entry is newer than this build, or the rows cannot be read.
pub fn apply(rows: &dyn Rows, entry: Entry) -> Result<(Changes, Result<Answer, Refusal>), ApplyError> {
    let mut scene = Scene::new(rows, entry.at, entry.salt)?;
    match carry_out(&mut scene, entry.command) {
        Ok(answer) => Ok((scene.finish(), Ok(answer))),
        Err(Stop::Refused(refusal)) => Ok((Changes::new(), Err(refusal))),
        Err(Stop::Broken(error)) => Err(error),
    }
}

fn carry_out(scene: &mut Scene, command: Command) -> Result<Answer, Stop> {
    let need = needed(&command);
    let level = scene.head.level;
    if need.level > level {
        return Err(Refusal::Level { what: need.what.into(), needs: need.level, level }.into());
    }
    match command {
        Command::CreateBucket { name, owner, region, lockable, acl, class } => {
            bucket::create(scene, &name, (owner, region), lockable, (acl, class))
        }
        Command::DeleteBucket { name } => bucket::delete(scene, &name),
        Command::SetBucket { name, change } => bucket::change(scene, &name, change),
        Command::Open { gateway, incarnation, writes } => chunk::open(scene, gateway, incarnation, &writes),
        Command::Abort { writes } => chunk::abort(scene, &writes),
        Command::AbortGone { gateway, before } => chunk::abort_gone(scene, gateway, before),
        Command::Put(put) => object::put(scene, *put),
        Command::Copy(copy) => object::copy(scene, *copy),
        Command::Delete { bucket, deletions, bypass, expired } => {
            let how = if expired { delete::How::Expired } else { delete::How::Asked };
            delete::delete(scene, &bucket, deletions, (bypass, how))
        }
        Command::SetObject { bucket, key, version, change } => object::change(scene, &bucket, &key, version, change),
        Command::CreateUpload(create) => upload::create(scene, *create),
        Command::PutPart(part) => upload::put_part(scene, *part),
        Command::CompleteUpload(complete) => upload::complete(scene, *complete),
        Command::AbortUpload { bucket, key, upload } => upload::abort(scene, &bucket, &key, upload),
        Command::Sweep => sweep::sweep(scene),
        Command::CondemnUnknown { chunks } => chunk::condemn_unknown(scene, &chunks),
        Command::Forget { chunks } => chunk::forget(scene, &chunks),
        Command::AddRepairs { missed } => chunk::add_repairs(scene, &missed),
        Command::Repaired { missed } => chunk::repaired(scene, &missed),
        Command::MoveComplete { partition, table } => chunk::move_complete(scene, partition, table),
        Command::FindDue { replication } => replicate::find(scene, replication),
        Command::Replicated { replication, keys } => replicate::copied(scene, replication, &keys),
        Command::ReplicationFails { replication, words } => replicate::fails(scene, replication, words),
        Command::EndNotices { queue, up_to, ending } => notify::ended(scene, queue, up_to, ending),
        Command::RaiseLevel { to } => {
            if let Some(words) = feature::outdated(to) {
                return Err(Stop::Broken(ApplyError::Outdated(words)));
            }
            scene.head.level = level.max(to);
            Ok(Answer::Done)
        }
    }
}
