//! `backup`: the control state in one sealed file, and a look into one. What opens it is asked for on the terminal, or read from a file
//! or a variable; never from an argument, which anybody on the host could see.

use std::fs::{File, OpenOptions};
use std::io::{IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::Args;
use hirsel_mesh::archive::{By, FILE_BYTES_MAX, Lock, RecoveryKey, check_passphrase};
use hirsel_mesh::seam::{Chance, real};
use serde_json::{Value, json};

use super::act::confirm;
use super::client::Client;
use super::output::{Colour, line, note, paint, since};
use super::secret::{ask, without_line_end};
use super::{Done, wall};
use crate::api::backup::{Inside, to_hex};
use crate::api::error::{ApiError, Code};
use crate::args::RestoreArgs;
use crate::backup::{Contents, look, open, wrong};
use crate::launch::restore::{self, Plan};

/// The variable that may hold what opens a backup.
pub const VARIABLE: &str = "HIRSEL_PASSPHRASE";
/// A passphrase is a line, not a book.
const PASSPHRASE_BYTES_MAX: usize = 4 << 10;

/// `backup`
#[derive(Args, Clone, Debug)]
pub struct BackupArgs {
    /// The backup
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Say what is in the file, and whether it is whole; no agent is asked and nothing is changed
    #[arg(long)]
    pub verify: bool,
    /// What opens it.
    #[command(flatten)]
    pub opens: OpensArgs,
    /// Draw a recovery key to seal it with, and show it this once
    #[arg(long, conflicts_with_all = ["passphrase_file", "verify"])]
    pub recovery_key: bool,
    /// Replace the file if there is one
    #[arg(long, short)]
    pub yes: bool,
}

/// What opens a backup.
#[derive(Args, Clone, Debug, Default)]
pub struct OpensArgs {
    /// File that holds the passphrase, or the recovery key [default: the variable HIRSEL_PASSPHRASE, or the terminal]
    #[arg(long, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
}

impl OpensArgs {
    /// What a person keeps. `again` asks twice on a terminal, for what is new.
    ///
    /// # Errors
    /// When there is nothing to read it from.
    pub fn secret(&self, what: By, again: bool) -> Result<String, ApiError> {
        let text = match (&self.passphrase_file, std::env::var(VARIABLE)) {
            (Some(file), _) => super::read_file(file)?,
            (None, Ok(text)) => text.into_bytes(),
            (None, Err(_)) if std::io::stdin().is_terminal() => {
                let first = ask(&format!("{what} of the backup"), "hirsel backup FILE --passphrase-file FILE")?;
                if again && ask("the same again", "hirsel backup FILE --passphrase-file FILE")? != first {
                    return Err(ApiError::new(Code::Usage, "these are not the same; nothing was done"));
                }
                first
            }
            (None, Err(_)) => {
                let message = format!("the backup needs its {what}, and there is nobody to ask");
                let error = ApiError::new(Code::Usage, message).next("repeat with --passphrase-file FILE");
                let error = error.next(format!("{VARIABLE}=... in the environment"));
                return Err(if again { error.next("hirsel backup FILE --recovery-key") } else { error });
            }
        };
        if text.len() > PASSPHRASE_BYTES_MAX {
            let message = format!("a passphrase of {} bytes exceeds {PASSPHRASE_BYTES_MAX}", text.len());
            return Err(ApiError::new(Code::Usage, message));
        }
        String::from_utf8(without_line_end(text))
            .map_err(|_| ApiError::new(Code::Usage, "a passphrase is UTF-8 text, and this is not"))
    }
}

/// `backup --verify`
pub fn verify(json: bool, args: &BackupArgs) -> Result<Done, ApiError> {
    let file = read(&args.file)?;
    let contents = opened(&file, &args.opens)?;
    let inside = contents.inside(file.len() as u64);
    if json {
        line(envelope(&inside, json!(inside)).to_string());
        return Ok(Done::Well);
    }
    line(format!("{} is whole, and opens", args.file.display()));
    print(&inside);
    Ok(Done::Well)
}

/// A backup that was opened with what a person keeps.
///
/// # Errors
/// When it is not whole, or opens with something else.
pub fn opened(file: &[u8], opens: &OpensArgs) -> Result<Contents, ApiError> {
    let archive = look(file)?;
    let secret = opens.secret(archive.lock().by, false)?;
    open(&archive, &archive.lock().key(&secret).map_err(wrong)?)
}

/// Reads a backup.
///
/// # Errors
/// When it cannot be read, or is larger than one can be.
pub fn read(path: &Path) -> Result<Vec<u8>, ApiError> {
    use std::io::Read;
    let cannot = |error: std::io::Error| {
        ApiError::new(Code::Usage, format!("cannot read the backup {}: {error}", path.display()))
    };
    let mut bytes = Vec::new();
    File::open(path).map_err(cannot)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        let message = format!("{} exceeds {FILE_BYTES_MAX} bytes, so it is no backup", path.display());
        return Err(ApiError::new(Code::TooLarge, message));
    }
    Ok(bytes)
}

/// `backup`
pub async fn backup(client: &Client, json: bool, args: &BackupArgs) -> Result<Done, ApiError> {
    let path = &args.file;
    if path.exists() && !args.yes {
        confirm(&format!("Replace {}?", path.display()))?;
    }
    // A client keeps nothing on disk; the folder that comes with a world is not needed.
    let chance = real::chance();
    let drawn = args.recovery_key.then(|| RecoveryKey::draw(chance.as_ref()).to_string());
    let (by, secret) = match &drawn {
        Some(word) => (By::RecoveryKey, word.clone()),
        None => (By::Passphrase, args.opens.secret(By::Passphrase, true)?),
    };
    if by == By::Passphrase {
        check_passphrase(&secret).map_err(wrong)?;
    }
    let lock = Lock::new(by, chance.as_ref());
    let key = lock.key(&secret).map_err(wrong)?;
    let name = match by {
        By::Passphrase => "passphrase",
        By::RecoveryKey => "recovery_key",
    };
    let fields =
        json!({ "by": name, "rounds": lock.rounds, "salt": to_hex(&lock.salt), "key": to_hex(key.as_bytes()) });
    let mut unfinished = Unfinished::beside(path, chance.as_ref())?;
    let mut file = Vec::new();
    let download = client.download("/v1/backup", fields.to_string().into_bytes(), |piece| {
        if file.len() + piece.len() > FILE_BYTES_MAX as usize {
            return Err(ApiError::new(Code::TooLarge, format!("what comes exceeds {FILE_BYTES_MAX} bytes")));
        }
        file.extend_from_slice(piece);
        unfinished.write(piece)
    });
    download.await?;
    // What does not open is not kept.
    let inside = open(&look(&file)?, &key)?.inside(file.len() as u64);
    unfinished.finish(path)?;
    tell(json, path, &inside, drawn.as_deref());
    Ok(if inside.confirmed { Done::Well } else { Done::Degraded })
}

fn tell(json: bool, path: &Path, inside: &Inside, drawn: Option<&str>) {
    if json {
        let told = json!({ "file": path.display().to_string(), "recovery_key": drawn, "inside": inside });
        line(envelope(inside, told).to_string());
        return;
    }
    if let Some(word) = drawn {
        // Alone on standard output, so that a script may catch it.
        line(word);
        note("this recovery key is shown this once, and without it the backup opens to nobody: keep it elsewhere");
    }
    note(format!("backed up cluster {} into {} ({} bytes)", inside.cluster, path.display(), inside.bytes));
    if !inside.confirmed {
        note("no leader confirmed that it holds all: changes of the last moments may be missing");
    }
    note(format!("look into it: hirsel backup --verify {0}    restore it: hirsel restore {0}", path.display()));
}

/// What is in a backup, for people.
pub fn print(inside: &Inside) {
    let list = |names: &[String]| if names.is_empty() { "none".to_string() } else { names.join(", ") };
    let told = [
        ("cluster", inside.cluster.clone()),
        ("tag", inside.tag.clone()),
        ("index", inside.index.to_string()),
        ("made", format!("{} ({}) by {}", inside.made_at, since(&inside.made_at, wall()), inside.made_by)),
        ("through", format!("{}, hirsel {}, feature level {}", inside.node, inside.version, inside.level)),
        ("authority", inside.authority.clone()),
        ("nodes", list(&inside.nodes)),
        ("apps", list(&inside.apps)),
        ("secrets", list(&inside.secrets)),
        ("front", list(&inside.certificates)),
        ("events", inside.events.to_string()),
    ];
    for (what, words) in told {
        line(format!("{what:<10} {words}"));
    }
    if !inside.confirmed {
        line("! no leader confirmed that it holds all that was confirmed to anybody when it was made");
    }
}

/// An answer of a verb that knows the cluster from a file.
pub fn envelope(inside: &Inside, data: Value) -> Value {
    let warnings: &[&str] = match inside.confirmed {
        true => &[],
        false => &["no leader confirmed that the backup holds all that was confirmed when it was made"],
    };
    json!({
        "api": 1, "cluster": inside.cluster, "node": inside.node, "index": inside.index, "stale_ms": 0,
        "data": data, "warnings": warnings,
    })
}

/// A file that is not whole yet, beside where it shall be. It goes away unless it is finished.
struct Unfinished {
    path: PathBuf,
    file: File,
    finished: bool,
}

impl Unfinished {
    fn beside(path: &Path, chance: &dyn Chance) -> Result<Self, ApiError> {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{:08x}.new", chance.number() as u32));
        let unfinished = PathBuf::from(name);
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished);
        let file = made.map_err(|error| cannot_write(path, &error))?;
        Ok(Self { path: unfinished, file, finished: false })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), ApiError> {
        self.file.write_all(bytes).map_err(|error| cannot_write(&self.path, &error))
    }

    /// There is the old file or the new one, whatever happens.
    fn finish(mut self, path: &Path) -> Result<(), ApiError> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let done = self.file.sync_all().and_then(|()| std::fs::rename(&self.path, path));
        done.and_then(|()| File::open(folder)?.sync_all()).map_err(|error| cannot_write(path, &error))?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.finished {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn cannot_write(path: &Path, error: &std::io::Error) -> ApiError {
    ApiError::new(Code::Failed, format!("cannot write {}: {error}", path.display())).next("hirsel backup ANOTHER-FILE")
}

/// `restore --plan`
pub async fn plan_restore(json: bool, args: &RestoreArgs) -> Result<Done, ApiError> {
    let Plan { inside, living, words } = restore::plan(args).await?;
    if json {
        line(envelope(&inside, json!({ "inside": inside, "living": living, "would": words })).to_string());
        return Ok(Done::WouldChange);
    }
    print(&inside);
    line(words);
    living.iter().for_each(|words| line(paint(&format!("! {words}: the cluster lives"), Colour::Yellow)));
    Ok(Done::WouldChange)
}
