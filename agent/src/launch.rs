//! The verbs that start agents: `up`, `join`, and `dev` with its power switch.

use std::fs;
use std::io::{Read, Seek, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use hirsel_mesh::identity::{Identity, JoinToken};
use hirsel_mesh::seam::World;
use hirsel_mesh::seam::real;
use hirsel_role::host::Host;
use hirsel_role::host::real::{Groups, GuardConfig, RealHost, RealHostConfig};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::args::{JoinArgs, NodeArgs, UpArgs};
use crate::birth::Start;
use crate::config::{Config, data_folder, parse_addr};
use crate::roles::Runtimes;
use crate::run::{End, Setup, run};
use crate::shared::Shared;
use crate::{interface, plugins, rejoin};

pub mod dev;
pub mod host;
mod load;
pub mod power;
pub mod reserve;
pub mod restore;

/// The agent's socket in its data folder.
pub const SOCKET: &str = "agent.sock";
/// Held, with the process id inside, as long as an agent uses the folder.
const LOCK_FILE: &str = "agent.lock";
/// What an agent in the background prints.
const LOG_FILE: &str = "agent.log";
/// Set when an agent starts itself anew: its words may say `join`, and it is a member by now.
const ANEW: &str = "HIRSEL_STARTED_ANEW";
/// An agent that goes into the background is ready within this, or what it printed is shown.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// `hirsel up`
pub async fn up(args: UpArgs) -> Result<()> {
    if args.node.detach {
        return detach(&args.node);
    }
    let config = Config::load(&args.node, None)?;
    start(config, Start::Found).await
}

/// `hirsel join`
pub async fn join(args: JoinArgs) -> Result<()> {
    let token = token_of(&args)?;
    let seeds = args.seeds.iter().map(|seed| parse_addr(seed)).collect::<Result<Vec<_>>>()?;
    if args.node.detach {
        return detach(&args.node);
    }
    let config = Config::load(&args.node, seeds.first().copied())?;
    start(config, Start::Join { seeds, token }).await
}

fn token_of(args: &JoinArgs) -> Result<JoinToken> {
    let text = match (&args.token, &args.token_file) {
        (Some(text), _) => text.clone(),
        (None, Some(path)) => {
            fs::read_to_string(path).with_context(|| format!("cannot read the token in {}", path.display()))?
        }
        (None, None) => bail!("no join token; get one on a member with: hirsel token new"),
    };
    Ok(text.trim().parse::<JoinToken>()?)
}

/// What an agent says to others all the time is a few hundred small things a second. One thread does them for half of what two cost that
/// wake each other for each; what clients send is served elsewhere, by as many as there are processors.
fn own_runtime() -> Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(1).thread_name("agent").enable_all().build().context("cannot start a runtime")
}

/// Runs an agent in the foreground until a signal, or until it left.
async fn start(mut config: Config, start: Start) -> Result<()> {
    let start = if std::env::var_os(ANEW).is_some() { Start::Resume } else { start };
    make_folder(&config.data)?;
    // Programs run in other folders than this process: a relative path would mislead them.
    let folder = fs::canonicalize(&config.data).context("cannot find the data folder")?;
    config.data.clone_from(&folder);
    let lock = lock(&folder)?;
    let world = real::world(&folder)?;
    let start = match start {
        Start::Join { seeds, token } => join_again(&world, &config, seeds, token).await,
        other => other,
    };
    put_aside(&world, &folder)?;
    let founded = matches!(start, Start::Found) && Identity::load(world.disk.as_ref())?.is_none();
    let stop = CancellationToken::new();
    let (ready, is_ready) = oneshot::channel();
    let facts = host::facts(&config);
    let setup = Setup {
        host: hosts(&world, &folder)?,
        load: load::meter(),
        world,
        start,
        runtimes: Runtimes::Own,
        streams: tokio::runtime::Handle::current(),
        ready: Some(ready),
        stop: stop.clone(),
        config,
    };
    end_on_signal(stop.clone())?;
    tokio::spawn(reserve::keep(folder.clone(), stop.clone()));
    let own = own_runtime()?;
    let agent = own.spawn(run(setup, plugins::all()));
    if let Ok(shared) = is_ready.await {
        let socket = folder.join(SOCKET);
        interface::serve(&shared, Some(socket), facts);
        announce(&shared, founded);
    }
    let end = agent.await.context("the agent panicked");
    own.shutdown_background();
    let end = end?;
    // A socket nobody listens on would only confuse.
    let _ = fs::remove_file(folder.join(SOCKET));
    drop(lock);
    match end? {
        End::Stopped => Ok(()),
        End::Again | End::Rejoined => {
            // The same process, so that whoever supervises it sees none end.
            let me = std::env::current_exe().context("cannot find this executable")?;
            let error = Command::new(me).args(std::env::args_os().skip(1)).env(ANEW, "1").exec();
            Err(error).context("cannot start the agent anew")
        }
        End::Left => {
            let kept = folder.with_extension("left");
            let _ = fs::remove_dir_all(&kept);
            fs::rename(&folder, &kept).with_context(|| format!("cannot put {} aside", folder.display()))?;
            eprintln!("left the cluster; its data was put aside in {}", kept.display());
            Ok(())
        }
    }
}

/// On the folder of a node that the cluster behind the seeds does not know any more, the token lets a new one in.
async fn join_again(world: &World, config: &Config, seeds: Vec<SocketAddr>, token: JoinToken) -> Start {
    let built = plugins::roles(&plugins::all());
    match rejoin::by_token(world, config, &built, &seeds, &token).await {
        Ok(true) => Start::Resume,
        Ok(false) => Start::Join { seeds, token },
        Err(error) => {
            // A unit says `join` for years, and its token has long run out. What runs here goes on.
            warn!("it does not join as a new node, and goes on as it was: {error:#}");
            Start::Join { seeds, token }
        }
    }
}

/// Where this is another node from now on, keeps what there is of the old one beside the data folder, for whoever finds out that it
/// was the right one.
fn put_aside(world: &World, folder: &Path) -> Result<()> {
    if !rejoin::is_granted(world) {
        return Ok(());
    }
    let beside = |number: u32| {
        let mut name = folder.as_os_str().to_owned();
        name.push(format!(".aside-{number}"));
        PathBuf::from(name)
    };
    let aside = (1..).map(beside).find(|path| !path.exists()).context("no name is left to put the data aside")?;
    fs::DirBuilder::new().mode(0o700).create(&aside).with_context(|| format!("cannot make {}", aside.display()))?;
    for file in rejoin::OLD_FILES {
        let from = folder.join(file);
        if from.exists() {
            fs::rename(&from, aside.join(file)).with_context(|| format!("cannot put {} aside", from.display()))?;
        }
    }
    warn!(
        "this is a new node now; all that made the former one was put aside in {} (keys too: remove it once it is not needed)",
        aside.display()
    );
    Ok(())
}

/// The one line that says the agent is ready.
fn announce(shared: &Shared, founded: bool) {
    let what = if founded { "founded" } else { "member of" };
    let (name, addr, cluster) = (&shared.me.name, shared.config.advertise, &shared.cluster);
    let mut out = std::io::stdout();
    // Nobody may be reading.
    let _ = writeln!(out, "hirsel {name} ready on {addr} ({what} cluster {cluster}); try: hirsel status");
    let _ = out.flush();
}

fn end_on_signal(stop: CancellationToken) -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for signals")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for signals")?;
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        stop.cancel();
        // Who asks twice does not want to wait.
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        std::process::exit(130);
    });
    Ok(())
}

fn hosts(world: &World, folder: &Path) -> Result<crate::run::HostFor> {
    let me = std::env::current_exe().context("cannot find this executable")?;
    let becomes = |verb: &str| vec![me.to_string_lossy().into_owned(), verb.into()];
    let (shim, guard) = (becomes("shim"), becomes("guard"));
    let (net, folder) = (world.net.clone(), folder.to_owned());
    Ok(Arc::new(move |role| {
        let config = RealHostConfig {
            folder: folder.join("roles").join(role.as_str()),
            shim: shim.clone(),
            guard: GuardConfig { folder: folder.join("guard"), command: guard.clone() },
            groups: Groups::IfPossible,
            net: net.clone(),
        };
        let host = RealHost::new(config).with_context(|| format!("cannot prepare the host for {role}"))?;
        Ok(Arc::new(host) as Arc<dyn Host>)
    }))
}

fn make_folder(folder: &Path) -> Result<()> {
    // Others may pass, for programs run as another user have their folders inside, but nothing is theirs to read.
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(folder)
        .with_context(|| format!("cannot make the data folder {}; choose another with --data DIR", folder.display()))
}

/// Two agents in one folder would be two nodes with one identity.
fn lock(folder: &Path) -> Result<fs::File> {
    let path = folder.join(LOCK_FILE);
    let mut file = fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    if rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
        let mut pid = String::new();
        let _ = file.read_to_string(&mut pid);
        let folder = folder.display();
        bail!("{folder} is in use by the agent with process id {}; try: hirsel status --data {folder}", pid.trim());
    }
    file.set_len(0)?;
    file.rewind()?;
    write!(file, "{}", std::process::id())?;
    Ok(file)
}

/// Starts the same command in the background, and returns when its agent is ready.
fn detach(node: &NodeArgs) -> Result<()> {
    let folder = data_folder(node.data.clone());
    make_folder(&folder)?;
    let mut command = Command::new(std::env::current_exe().context("cannot find this executable")?);
    command.args(std::env::args_os().skip(1).filter(|arg| arg != "--detach"));
    spawn_in_background(command, &folder)
}

/// Starts `command`, an agent on `folder`, in a session of its own with its words in the folder's log, and waits until its socket
/// answers.
pub(crate) fn spawn_in_background(mut command: Command, folder: &Path) -> Result<()> {
    let log = folder.join(LOG_FILE);
    let open = || fs::OpenOptions::new().create(true).append(true).mode(0o600).open(&log);
    let out = open().with_context(|| format!("cannot write {}", log.display()))?;
    let said_before = out.metadata().map_or(0, |meta| meta.len());
    let error = out.try_clone()?;
    command.stdin(Stdio::null()).stdout(out).stderr(error);
    power::in_own_session(&mut command);
    let mut child = command.spawn().context("cannot start the agent")?;
    let deadline = std::time::Duration::from_secs(READY_WITHIN.as_secs());
    let began = std::time::Instant::now();
    let socket: PathBuf = folder.join(SOCKET);
    while began.elapsed() < deadline {
        if let Some(status) = child.try_wait()? {
            let said = fs::read(&log).unwrap_or_default();
            let said = String::from_utf8_lossy(said.get(said_before as usize..).unwrap_or_default()).into_owned();
            bail!("the agent ended ({status}) and said:\n{}", said.trim());
        }
        if std::os::unix::net::UnixStream::connect(&socket).is_ok() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    bail!("the agent is not ready after {} s; what it says: {}", READY_WITHIN.as_secs(), log.display())
}
