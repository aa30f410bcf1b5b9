//! `cp`: one object in or out, through an agent, piece by piece.

use std::ffi::OsStr;
use std::io::{IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use super::Done;
use super::args::CpArgs;
use super::bucket::size;
use super::client::Client;
use super::look::escape;
use super::output::{self, line};
use crate::api::error::{ApiError, Code};
use crate::api::views::buckets::Stored;

/// What is read of a file at once.
const PIECE_BYTES: usize = 256 << 10;
/// The bar is drawn so often.
const DRAWN_EVERY: Duration = Duration::from_millis(100);
/// Its width in characters.
const BAR_CHARS: u64 = 30;
/// What an object may be called by beside `BUCKET/KEY`, where a file is called so too.
const SCHEME: &str = "s3://";

/// One end of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    /// Standard input or output.
    Standard,
    /// A file, or a folder to put one into.
    File(PathBuf),
    /// An object; the key may be empty, or end with a slash, where the name of the file is to follow.
    Object(String, String),
}

/// `cp`
pub async fn copy(client: &Client, json: bool, args: &CpArgs) -> Result<Done, ApiError> {
    let exists = |path: &Path| path.exists();
    match ends(&args.from, &args.to, &exists)? {
        (End::Object(bucket, key), to) => {
            if args.content_type.is_some() {
                return Err(ApiError::new(Code::Usage, "--content-type is for an object that is written"));
            }
            get(client, json, (&bucket, &key), to).await
        }
        (from, End::Object(bucket, key)) => put(client, json, from, (&bucket, &key), args.content_type.clone()).await,
        (_, _) => Err(ApiError::new(Code::Usage, "neither end is an object; one of them is BUCKET/KEY")),
    }
}

/// What both ends are. What is there as a file is one; everything else that can be an object is one.
fn ends(from: &str, to: &str, exists: &dyn Fn(&Path) -> bool) -> Result<(End, End), ApiError> {
    let is_file = |text: &str| text.starts_with(['/', '.', '~']) || !text.contains('/') || exists(Path::new(text));
    let file = |text: &str| match text {
        "-" => End::Standard,
        _ => End::File(text.into()),
    };
    let object = |text: &str| {
        let text = text.strip_prefix(SCHEME).unwrap_or(text);
        let (bucket, key) = text.split_once('/').unwrap_or((text, ""));
        End::Object(bucket.to_owned(), key.to_owned())
    };
    let from_object = from.starts_with(SCHEME) || (from != "-" && !is_file(from));
    if from_object {
        if to.starts_with(SCHEME) {
            let message = "both ends are objects; cp copies between a file and an object";
            return Err(ApiError::new(Code::Usage, message).next("hirsel cp BUCKET/KEY - | hirsel cp - BUCKET/KEY"));
        }
        return match object(from) {
            End::Object(_, key) if key.is_empty() => {
                Err(ApiError::new(Code::Usage, format!("{from:?} names no object; expected BUCKET/KEY")))
            }
            object => Ok((object, file(to))),
        };
    }
    let End::File(path) = file(from) else { return target(from, to, object(to), None) };
    if !exists(&path) {
        let message = format!("there is no file {from:?}");
        return Err(ApiError::new(Code::NotFound, message).next("hirsel cp BUCKET/KEY FILE"));
    }
    target(from, to, object(to), path.file_name())
}

/// The object that is written; one whose key is a folder gets the name of the file.
fn target(from: &str, to: &str, object: End, name: Option<&OsStr>) -> Result<(End, End), ApiError> {
    let wrong = |why: &str| Err(ApiError::new(Code::Usage, format!("{to:?} {why}; expected BUCKET/KEY")));
    let End::Object(bucket, mut key) = object else { return wrong("is no object") };
    if to == "-" || bucket.is_empty() || to.starts_with('.') || (!to.contains('/')) {
        return wrong("is no object");
    }
    if key.is_empty() || key.ends_with('/') {
        let Some(name) = name.and_then(OsStr::to_str) else { return wrong("names no object") };
        key += name;
    }
    let from = if from == "-" { End::Standard } else { End::File(from.into()) };
    Ok((from, End::Object(bucket, key)))
}

fn path(bucket: &str, key: &str) -> String {
    // A key may begin with a slash, or have two in a row, which a path would lose.
    format!("/v1/objects/{}/{}", escape(bucket).replace('/', "%2F"), escape(key).replace('/', "%2F"))
}

fn broken(what: String) -> impl Fn(std::io::Error) -> ApiError {
    move |error| ApiError::new(Code::Failed, format!("cannot {what}: {error}"))
}

/// A standard stream as a file, which another thread waits for.
fn standard(stream: &impl AsFd, what: &str) -> Result<File, ApiError> {
    let file = stream.as_fd().try_clone_to_owned().map_err(broken(what.into()))?;
    Ok(File::from_std(file.into()))
}

async fn put(
    client: &Client,
    json: bool,
    from: End,
    (bucket, key): (&str, &str),
    content_type: Option<String>,
) -> Result<Done, ApiError> {
    let (mut source, length) = match &from {
        End::File(file) => {
            let read = broken(format!("read {}", file.display()));
            let opened = File::open(file).await.map_err(&read)?;
            let about = opened.metadata().await.map_err(&read)?;
            if about.is_dir() {
                let message = format!("{} is a folder; cp copies one file at a time", file.display());
                return Err(ApiError::new(Code::Usage, message));
            }
            // A pipe or a device does not know how much comes.
            (opened, about.is_file().then_some(about.len()))
        }
        End::Standard | End::Object(..) => (standard(&std::io::stdin(), "read standard input")?, None),
    };
    let mut bar = Bar::new(json, length);
    let (pieces, body) = mpsc::channel::<std::io::Result<Bytes>>(2);
    let path = path(bucket, key);
    let sent = client.upload::<Stored>(&path, content_type.as_deref(), length, body);
    let feed = async {
        feed(&mut source, pieces, &mut bar).await;
        std::future::pending().await
    };
    // Who takes them may say no before all have come.
    let answer = tokio::select! { answer = sent => answer?, answer = feed => answer };
    bar.end();
    if json {
        output::raw(&answer.text);
    } else {
        let stored = &answer.envelope.data;
        let version = stored.version.as_ref().map(|version| format!(", version {version}")).unwrap_or_default();
        line(format!("wrote {}/{}: {}{version}", stored.bucket, stored.key, size(stored.bytes)));
    }
    Ok(Done::Well)
}

/// Gives `source` away piece by piece, and ends when it does or nobody takes them any more.
async fn feed(source: &mut File, pieces: mpsc::Sender<std::io::Result<Bytes>>, bar: &mut Bar) {
    loop {
        let mut piece = vec![0; PIECE_BYTES];
        let read = source.read(&mut piece).await;
        let is_last = match read {
            Ok(0) => return,
            Ok(count) => {
                piece.truncate(count);
                bar.step(count as u64);
                false
            }
            Err(_) => true,
        };
        if pieces.send(read.map(|_| Bytes::from(piece))).await.is_err() || is_last {
            return;
        }
    }
}

async fn get(client: &Client, json: bool, (bucket, key): (&str, &str), to: End) -> Result<Done, ApiError> {
    let mut coming = client.fetch(&path(bucket, key)).await?;
    let mut bar = Bar::new(json, coming.length);
    let file = match to {
        End::File(file) if file.is_dir() => {
            let name = key.rsplit('/').find(|part| !part.is_empty()).unwrap_or(key);
            Some(file.join(name))
        }
        End::File(file) => Some(file),
        End::Standard | End::Object(..) => None,
    };
    // What is cut off shall not be taken for the whole.
    let beside = file.as_ref().map(|file| {
        let mut beside = file.clone().into_os_string();
        beside.push(".part");
        PathBuf::from(beside)
    });
    let place = beside.as_ref().map_or("standard output".into(), |beside| beside.display().to_string());
    let write = broken(format!("write {place}"));
    let mut sink = match &beside {
        Some(beside) => File::create(beside).await.map_err(&write)?,
        None => standard(&std::io::stdout(), "write standard output")?,
    };
    let mut bytes = 0;
    let copied = async {
        while let Some(piece) = coming.next().await? {
            bytes += piece.len() as u64;
            sink.write_all(&piece).await.map_err(&write)?;
            bar.step(piece.len() as u64);
        }
        sink.flush().await.map_err(&write)
    };
    let copied = copied.await;
    if let (Some(beside), Some(file)) = (&beside, &file) {
        if copied.is_err() {
            let _ = std::fs::remove_file(beside);
        } else {
            std::fs::rename(beside, file).map_err(broken(format!("write {}", file.display())))?;
        }
    }
    copied?;
    bar.end();
    let Some(file) = file else { return Ok(Done::Well) };
    if json {
        let mut envelope = client.get::<Value>(&super::bucket::path(bucket)).await?.envelope;
        envelope.data = json!({ "bucket": bucket, "key": key, "file": file, "bytes": bytes });
        output::raw(&json!(envelope).to_string());
    } else {
        line(format!("wrote {}: {}", file.display(), size(bytes)));
    }
    Ok(Done::Well)
}

/// How far a copy is, on a terminal; elsewhere nothing.
struct Bar {
    of: Option<u64>,
    done: u64,
    began: Instant,
    drawn: Option<Instant>,
    shows: bool,
}

impl Bar {
    fn new(json: bool, of: Option<u64>) -> Self {
        let shows = !json && std::io::stderr().is_terminal();
        Self { of, done: 0, began: Instant::now(), drawn: None, shows }
    }

    fn step(&mut self, bytes: u64) {
        self.done += bytes;
        if self.shows && self.drawn.is_none_or(|drawn| drawn.elapsed() >= DRAWN_EVERY) {
            self.drawn = Some(Instant::now());
            let _ = write!(anstream::stderr(), "\r\x1b[K{}", drawn(self.done, self.of, self.began.elapsed()));
        }
    }

    fn end(&mut self) {
        if self.drawn.take().is_some() {
            let _ = write!(anstream::stderr(), "\r\x1b[K");
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.end();
    }
}

fn drawn(done: u64, of: Option<u64>, took: Duration) -> String {
    let rate = size((done as f64 / took.as_secs_f64().max(0.001)) as u64);
    let Some(of) = of.filter(|of| *of > 0) else { return format!("{}, {rate}/s", size(done)) };
    let share = done.min(of) as f64 / of as f64;
    let full = (share * BAR_CHARS as f64) as usize;
    let bar: String = (0..BAR_CHARS as usize).map(|at| if at < full { '=' } else { ' ' }).collect();
    format!("[{bar}] {:3.0}% of {}, {rate}/s", share * 100.0, size(of))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parted(from: &str, to: &str) -> Result<(End, End), String> {
        let there = |path: &Path| ["photo.jpg", "media/cat.jpg", "/srv/a"].contains(&path.to_str().unwrap());
        ends(from, to, &there).map_err(|error| error.message)
    }

    fn object(bucket: &str, key: &str) -> End {
        End::Object(bucket.into(), key.into())
    }

    #[test]
    fn what_is_there_as_a_file_is_one_and_the_rest_are_objects() {
        let file = |text: &str| End::File(text.into());
        assert_eq!(parted("photo.jpg", "media/a/cat.jpg"), Ok((file("photo.jpg"), object("media", "a/cat.jpg"))));
        assert_eq!(parted("/srv/a", "media/x/"), Ok((file("/srv/a"), object("media", "x/a"))));
        assert_eq!(parted("-", "media/log"), Ok((End::Standard, object("media", "log"))));
        assert_eq!(parted("media/dog.jpg", "."), Ok((object("media", "dog.jpg"), file("."))));
        assert_eq!(parted("media/dog.jpg", "-"), Ok((object("media", "dog.jpg"), End::Standard)));
        assert_eq!(parted("media/dog.jpg", "here/dog.jpg"), Ok((object("media", "dog.jpg"), file("here/dog.jpg"))));
        assert_eq!(parted("media/cat.jpg", "b/k"), Ok((file("media/cat.jpg"), object("b", "k"))), "it is a file here");
        assert_eq!(parted("s3://media/cat.jpg", "k"), Ok((object("media", "cat.jpg"), file("k"))));
    }

    #[test]
    fn what_names_no_object_or_no_file_is_said() {
        for (from, to, says) in [
            ("photo.jpg", "-", "is no object"),
            ("photo.jpg", "media", "is no object"),
            ("photo.jpg", "./media/x", "is no object"),
            ("-", "media/", "names no object"),
            ("media/", "x", "names no object"),
            ("none.jpg", "media/x", "there is no file"),
            ("s3://a/b", "s3://c/d", "both ends"),
        ] {
            let told = parted(from, to).unwrap_err();
            assert!(told.contains(says), "{from} {to}: {told}");
        }
    }

    #[test]
    fn a_key_is_one_part_of_a_path_and_a_bar_is_as_long_as_its_share() {
        assert_eq!(path("media", "a//b c"), "/v1/objects/media/a%2F%2Fb%20c");
        let half = drawn(512, Some(1024), Duration::from_secs(1));
        assert_eq!(half, format!("[{}{}]  50% of 1.0 KiB, 512 B/s", "=".repeat(15), " ".repeat(15)));
        assert_eq!(drawn(512, None, Duration::from_secs(1)), "512 B, 512 B/s");
    }
}
