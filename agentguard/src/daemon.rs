//! The daemon: brings enforcement into force, proves it, and then serves requests and writes events
//! until it is told to stop. Enforcement doesn't stop with it.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    os::{
        fd::{AsFd as _, FromRawFd as _, OwnedFd},
        unix::{ffi::OsStrExt as _, fs::DirBuilderExt as _},
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use agentguard_common::counter::Hook;
use anyhow::Context as _;
use nix::sys::inotify::AddWatchFlags;
use rustix::fs::FlockOperation;
use sd_notify::NotifyState;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, oneshot},
};

use crate::{
    agents::{self, Agents},
    api::server,
    causes, cgroup,
    config::{self, Config},
    event::{Clock, Event, Lifecycle},
    exit::Code,
    loader::{self, requirements},
    names::Names,
    pins::Pins,
    ring::Rings,
    sink::{Log, Sinks, journal},
    tables::{self, InHand, Tables, install::Installer},
};

pub mod approvals;
pub mod canary;
mod core;
mod denied;
mod events;
mod first;
mod hosts;
mod kernel_log;
mod losses;
mod notify;
mod slices;
mod watch;

pub use self::{
    core::Core,
    denied::{Denied, KEPT as KEPT_DENIALS},
};
use self::{events::Message, losses::Losses, watch::Watch};

/// How often the daemon gives its sign of life and looks after what no event tells.
const BEAT: Duration = Duration::from_secs(1);
/// File in the state directory that the running daemon holds locked.
const LOCK: &str = "daemon.lock";
/// File in the state directory with the losses that were told.
const TOLD: &str = "losses.json";

/// Arguments of `agentguard daemon`.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Configuration file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Log of the kernel programs themselves, for finding faults in them
    #[arg(long, value_name = "LEVEL")]
    kernel_log: Option<kernel_log::Level>,

    /// Folder of the event log
    #[arg(long, value_name = "DIR")]
    log_dir: Option<PathBuf>,

    /// Folder of the policies
    #[arg(long, value_name = "DIR")]
    policies: Option<PathBuf>,
}

/// A daemon that could not start, or go on.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Config(#[from] config::Error),
    #[error("the daemon needs root; run it as root")]
    NotRoot,
    #[error("another daemon runs (it holds {} locked)", .0.display())]
    SecondDaemon(PathBuf),
    #[error(transparent)]
    Log(#[from] crate::sink::log::Error),
    #[error(transparent)]
    Loader(#[from] loader::Error),
    #[error(transparent)]
    Install(#[from] tables::install::Error),
    #[error(transparent)]
    Tables(#[from] tables::Error),
    #[error(transparent)]
    Canary(#[from] canary::Error),
    #[error(transparent)]
    Socket(#[from] server::Error),
    #[error("{message}{}", diagnostics.as_deref().map(|text| format!("\n{text}")).unwrap_or_default())]
    Policy {
        message: String,
        diagnostics: Option<String>,
    },
}

impl Error {
    fn code(&self) -> Code {
        match self {
            Self::Config(_) => Code::ConfigInvalid,
            Self::NotRoot => Code::NotRoot,
            Self::SecondDaemon(_) | Self::Socket(server::Error::InUse(_)) => Code::AlreadyRunning,
            Self::Socket(_) => Code::Failure,
            Self::Log(_) => Code::LogUnwritable,
            Self::Loader(error) => error.code(),
            Self::Install(tables::install::Error::Broken { .. }) => Code::PinsIncompatible,
            Self::Install(_) | Self::Tables(_) => Code::Failure,
            Self::Canary(_) => Code::CanaryFailed,
            Self::Policy { .. } => Code::PolicyRefused,
        }
    }
}

/// Runs the daemon. A `socket` overrides the configuration's.
pub fn main(arguments: &Arguments, socket: Option<&Path>) -> Code {
    start_tracing(arguments.kernel_log);
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!("cannot start the runtime: {error}");
            return Code::Failure;
        }
    };
    match runtime.block_on(run(arguments, socket)) {
        Ok(()) => Code::Success,
        Err(error) => {
            let code = error
                .downcast_ref::<Error>()
                .map_or(Code::Failure, Error::code);
            let text = causes::text(error.as_ref());
            tracing::error!("{text}");
            let _ = sd_notify::notify(&[NotifyState::Status(&text)]);
            code
        }
    }
}

/// Messages go to standard error, which systemd carries to the journal with times of its own; where the log ends goes
/// straight to the journal, if there is one.
fn start_tracing(kernel_log: Option<kernel_log::Level>) {
    // What the kernel programs were asked to say must get through here as well. Their crate has the name
    // of this one, and so have the targets of their messages.
    let levels = match kernel_log {
        Some(kernel_log::Level::Trace) => "info,agentguard=trace",
        Some(kernel_log::Level::Debug) => "info,agentguard=debug",
        _ => "info",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("AGENTGUARD_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(levels));
    use tracing_subscriber::{
        Layer as _,
        filter::{FilterExt as _, filter_fn},
        layer::SubscriberExt as _,
        util::SubscriberInitExt as _,
    };
    let journal = journal::layer();
    let in_journal = journal.is_some();
    let filter = filter.and(filter_fn(move |of| {
        !(in_journal && of.target() == journal::TARGET)
    }));
    let shown = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_target(false)
        .with_ansi(io::IsTerminal::is_terminal(&io::stderr()));
    let shown = if std::env::var_os("JOURNAL_STREAM").is_some() {
        shown.without_time().with_filter(filter).boxed()
    } else {
        shown.with_filter(filter).boxed()
    };
    // A second subscriber in one process is a test's.
    let _ = tracing_subscriber::registry()
        .with(shown)
        .with(journal)
        .try_init();
}

/// The file, and what the command line says instead.
fn configure(arguments: &Arguments, socket: Option<&Path>) -> Result<Config, Error> {
    let path = arguments
        .config
        .as_deref()
        .unwrap_or(Path::new(config::PATH));
    let mut config = Config::read(path, arguments.config.is_some())?;
    if let Some(directory) = &arguments.log_dir {
        config.log.dir.clone_from(directory);
    }
    if let Some(directory) = &arguments.policies {
        config.policies.clone_from(directory);
    }
    if let Some(socket) = socket {
        config.socket = socket.to_owned();
    }
    Ok(config)
}

/// Lets the daemon have a descriptor of each process that is held.
fn allow_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!("cannot raise the limit of open files: {error}");
    }
}

/// Makes the state directory and locks it for as long as the file is open.
fn lock(state: &Path) -> anyhow::Result<File> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(state)
        .with_context(|| format!("cannot make the state directory {}", state.display()))?;
    let path = state.join(LOCK);
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("cannot open the lock {}", path.display()))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::SecondDaemon(path).into()),
        Err(error) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}

async fn run(arguments: &Arguments, socket: Option<&Path>) -> anyhow::Result<()> {
    let config = configure(arguments, socket)?;
    if !rustix::process::geteuid().is_root() {
        return Err(Error::NotRoot.into());
    }
    allow_descriptors();
    let _lock = lock(&config.state)?;
    let (log, gap) = Log::open(&config.log.dir, config.log.backlog).map_err(Error::Log)?;
    let pins = Pins::new(&config.pins);
    let options = loader::Options {
        arena_cells: config.arena_cells,
        kernel_log: arguments.kernel_log.map_or(0, kernel_log::Level::number),
    };
    let programs = loader::start(&pins, &options).map_err(Error::Loader)?;
    if options.kernel_log > 0 {
        kernel_log::follow(programs.file_open)?;
    }
    let adopted = programs.adopted;
    let absent = programs.absent;

    let names = Names::default();
    let clock = Arc::new(Clock::new());
    let mut tables = Tables::open(&pins).map_err(Error::Tables)?;
    let installer =
        Installer::adopt(&mut tables, &config.state, names.clone()).map_err(Error::Install)?;
    let agents = Agents::adopt(
        &mut tables,
        pins.clone(),
        programs.of_cgroups,
        &config.state,
        names.clone(),
        !adopted,
    )
    .context("cannot take over the agents of an earlier daemon")?;

    let rings = Rings::new(tables::rings(&pins).map_err(Error::Tables)?)
        .context("cannot wait for the rings")?;
    let (messages, received) = mpsc::unbounded_channel();
    let shared = Arc::new(events::Shared::default());
    let sinks = Sinks::new(log, Arc::clone(&clock), config.log.rotation());
    let denied = Arc::new(Denied::default());
    if let Err(error) = denied.recall(sinks.log_path()) {
        tracing::warn!("cannot read what agents were refused before: {error}");
    }
    let followers = sinks.followers();
    let log_path = sinks.log_path().to_owned();
    let (notices, asked) = mpsc::unbounded_channel();
    let files = approvals::Files::new(&config.state)
        .context("cannot make the folder for requests in the state directory")?;
    let worker = events::Worker {
        rings,
        in_hand: InHand::open(&pins).map_err(Error::Tables)?,
        messages: received,
        writer: events::Writer::new(
            sinks,
            names.clone(),
            Arc::clone(&clock),
            Losses::new(config.state.join(TOLD)),
            Arc::clone(&shared),
            Arc::clone(&denied),
            approvals::Asking::new(files.clone(), notices.clone()),
        ),
    };
    let runtime = tokio::runtime::Handle::current();
    std::thread::Builder::new()
        .name("events".to_owned())
        .spawn(move || worker.run(&runtime))
        .context("cannot start the thread for events")?;

    let hosts = hosts::Hosts::recall(
        &pins,
        &config.state,
        config.hosts.clone(),
        names.clone(),
        Arc::clone(&clock),
        messages.clone(),
    )
    .context("cannot take over what agents know of hosts")?;
    let mut core = Core {
        config,
        pins,
        tables,
        installer,
        agents,
        clock,
        messages,
        shared,
        started: Instant::now(),
        proven: false,
        absent,
        warnings: Vec::new(),
        refused: None,
        approvals: approvals::Approvals::new(files, notices),
        hosts,
    };
    if let Some(gap) = gap {
        core.emit(Event::lifecycle(
            core.clock.now(),
            "daemon.gap",
            Lifecycle::Gap {
                cut_bytes: gap.cut_bytes,
                after_seq: gap.after_seq,
            },
        ));
    }
    core.beat();
    if let Err(error) = canary::prove(&mut core).await {
        // Pins that don't enforce must not be taken for ones that do. Where agents rest on them, they stay.
        if let Err(kept) = loader::unload(&core.pins, false) {
            tracing::warn!("the kernel programs stay loaded: {kept}");
        }
        return Err(Error::Canary(error).into());
    }
    core.proven = true;
    core.emit(Event::lifecycle(
        core.clock.now(),
        "daemon.started",
        Lifecycle::Started {
            version: env!("CARGO_PKG_VERSION"),
            pid: std::process::id(),
            kernel: requirements::kernel_release(),
            adopted,
        },
    ));
    if let Err(refusal) = core.reload() {
        if core.policy().profiles.is_empty() {
            let _ = flush(&core).await;
            return Err(Error::Policy {
                message: refusal.message,
                diagnostics: refusal.diagnostics,
            }
            .into());
        }
        if let Some(diagnostics) = refusal.diagnostics {
            tracing::error!("{diagnostics}");
        }
    }
    slices::start(&core).await;
    slices::tag(&mut core);
    store_links(&core);

    let group = group_of(&core.config.group);
    let listener = server::bind(&core.config.socket, group).map_err(Error::Socket)?;
    let socket = core.config.socket.clone();
    let own_socket = crate::api::own_socket(&socket);
    let own_listener = server::own::bind(&own_socket).map_err(Error::Socket)?;
    core.tables
        .open_to_agents(own_listener.as_fd())
        .map_err(Error::Tables)?;
    // The last that can fail: from here on somebody is asked.
    core.adopt_requests()
        .context("cannot take over what waits for an answer")?;
    let core = Arc::new(Mutex::new(core));
    let asking = tokio::spawn(approvals::serve(Arc::clone(&core), asked));
    tokio::spawn(notify::serve(Arc::clone(&core)));
    let api = server::Api {
        core: Arc::clone(&core),
        followers,
        log: log_path,
        group,
        denied,
    };
    // Before anybody is told that it is ready, and may tell it to stop.
    let signals = Signals::new()?;
    let telling = tokio::spawn(server::own::serve(own_listener, api.clone()));
    let serving = tokio::spawn(server::serve(listener, api));
    tracing::info!("enforcing; listening on {}", socket.display());
    let _ = sd_notify::notify(&[NotifyState::Ready, NotifyState::Status("enforcing")]);

    let result = attend(&core, serving, signals).await;
    // From here on nobody is asked. What waits is left to the next daemon.
    asking.abort();
    let _ = asking.await;
    core.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .tables
        .set_heartbeat(0);
    // Requests that come now find nobody; enforcement goes on.
    telling.abort();
    let _ = fs::remove_file(&own_socket);
    let _ = fs::remove_file(&socket);
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
    // What happened before comes before.
    let flushed = flush(&core.lock().unwrap_or_else(PoisonError::into_inner));
    let _ = flushed.await;
    let flushed = {
        let core = core.lock().unwrap_or_else(PoisonError::into_inner);
        core.emit(Event::lifecycle(
            core.clock.now(),
            "daemon.stopped",
            Lifecycle::Stopped { enforcing: true },
        ));
        flush(&core)
    };
    let _ = flushed.await;
    result
}

/// What the daemon can be told by signals.
struct Signals {
    reload: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let wait = |kind| signal(kind).context("cannot wait for signals");
        Ok(Self {
            reload: wait(SignalKind::hangup())?,
            terminate: wait(SignalKind::terminate())?,
            interrupt: wait(SignalKind::interrupt())?,
        })
    }
}

/// Asks for everything emitted so far to be written, and to be told.
fn flush(core: &Core) -> oneshot::Receiver<()> {
    let (done, flushed) = oneshot::channel();
    // When the thread is gone, so is `done`, and nobody waits.
    let _ = core.messages.send(Message::Flush(done));
    flushed
}

/// Does something with the core, away from the threads that serve.
async fn with(core: &Arc<Mutex<Core>>, work: impl FnOnce(&mut Core) + Send + 'static) {
    let core = Arc::clone(core);
    let done = tokio::task::spawn_blocking(move || {
        work(&mut core.lock().unwrap_or_else(PoisonError::into_inner));
    })
    .await;
    if let Err(error) = done {
        tracing::error!("an inner failure: {error}");
    }
}

/// Looks after everything until a signal says to stop.
async fn attend(
    core: &Arc<Mutex<Core>>,
    mut serving: tokio::task::JoinHandle<io::Result<()>>,
    signals: Signals,
) -> anyhow::Result<()> {
    let Signals {
        mut reload,
        mut terminate,
        mut interrupt,
    } = signals;
    let mut cgroups = Watch::new(
        AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE_SELF,
    )
    .context("cannot watch cgroups")?;
    let mut files = Watch::new(
        AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR,
    )
    .context("cannot watch files")?;
    let mut beat = tokio::time::interval(BEAT);
    let mut folders = Folders::default();
    let watchdog = sd_notify::watchdog_enabled().is_some();
    loop {
        {
            let core = core.lock().unwrap_or_else(PoisonError::into_inner);
            cgroups.set(cgroup_paths(&core));
            if folders.is_due(core.installer.install_number()) {
                files.set(literal_folders(&core));
            }
        }
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = reload.recv() => {
                let mut notice = vec![NotifyState::Reloading];
                notice.extend(NotifyState::monotonic_usec_now());
                let _ = sd_notify::notify(&notice);
                // Refused or not, it is in the log and in the status.
                with(core, |core| drop(core.reload())).await;
                let _ = sd_notify::notify(&[NotifyState::Ready]);
            }
            changed = cgroups.changed() => {
                changed.context("cannot watch cgroups")?;
                with(core, look_after).await;
            }
            changed = files.changed(), if folders.is_quiet() => {
                changed.context("cannot watch files")?;
                folders.changed();
                with(core, Core::refresh).await;
            }
            _ = beat.tick() => {
                with(core, |core| {
                    core.beat();
                    look_after(core);
                })
                .await;
                if watchdog {
                    let _ = sd_notify::notify(&[NotifyState::Watchdog]);
                }
            }
            ended = &mut serving => {
                ended.context("the API failed")?.context("the API failed")?;
                anyhow::bail!("the API ended");
            }
        }
    }
}

/// When to look at the folders of literally named files again: after a change in them (but a folder
/// such as /tmp may change all the time), after an installation, and now and then.
#[derive(Debug, Default)]
struct Folders {
    install: u32,
    looked: Option<Instant>,
    refreshed: Option<Instant>,
}

impl Folders {
    const REFRESH: Duration = Duration::from_millis(200);
    const LOOK: Duration = Duration::from_secs(30);

    /// Whether the set of folders is to be made anew.
    fn is_due(&mut self, install: u32) -> bool {
        let old = self.looked.is_none_or(|at| at.elapsed() > Self::LOOK);
        if !old && self.install == install {
            return false;
        }
        self.looked = Some(Instant::now());
        self.install = install;
        true
    }

    /// Whether the latest refresh was long enough ago for another. If not, the next beat sees to it.
    fn is_quiet(&self) -> bool {
        self.refreshed.is_none_or(|at| at.elapsed() > Self::REFRESH)
    }

    fn changed(&mut self) {
        self.refreshed = Some(Instant::now());
        self.looked = None;
    }
}

fn look_after(core: &mut Core) {
    core.reap();
    slices::tag(core);
    core.hosts.attend(core.agents.iter());
}

/// What tells that an agent's cgroup is empty, or that a slice appears.
fn cgroup_paths(core: &Core) -> BTreeSet<PathBuf> {
    core.agents
        .iter()
        .filter_map(|agent| Some(agent.cgroup.as_ref()?.join("cgroup.events")))
        .chain(slices::parents(core))
        .collect()
}

/// The folders in which files that rules name literally can be replaced, or appear: the parent of
/// each, or the nearest folder above it that is there.
fn literal_folders(core: &Core) -> BTreeSet<PathBuf> {
    let paths: BTreeSet<&[u8]> = core.installer.literal_paths().collect();
    paths
        .into_iter()
        .filter_map(|path| {
            let path = Path::new(std::ffi::OsStr::from_bytes(path));
            path.ancestors().skip(1).find(|folder| folder.is_dir())
        })
        .filter(|folder| {
            !folder.starts_with("/proc") && !folder.starts_with(requirements::CGROUP_ROOT)
        })
        .map(Path::to_owned)
        .collect()
}

/// The number of a group; `None` when there is no such group, and root alone may read.
fn group_of(name: &str) -> Option<u32> {
    match nix::unistd::Group::from_name(name) {
        Ok(Some(group)) => Some(group.gid.as_raw()),
        Ok(None) => None,
        Err(error) => {
            tracing::warn!("cannot look the group {name} up: {error}; only root may read");
            None
        }
    }
}

/// Gives the service manager descriptors of the links to keep, so that enforcement survives the loss
/// of the pins as well as that of the daemon.
fn store_links(core: &Core) {
    if std::env::var_os("NOTIFY_SOCKET").is_none_or(|socket| socket.is_empty()) {
        return;
    }
    let links = match core.pins.links() {
        Ok(links) => links,
        Err(error) => {
            tracing::warn!("{error}");
            return;
        }
    };
    // What it kept from an earlier start came along as open descriptors; they would keep programs of
    // then in force.
    match sd_notify::listen_fds() {
        Ok(kept) => {
            for fd in kept {
                // SAFETY: the service manager gave this descriptor to us, and nobody else took it.
                drop(unsafe { OwnedFd::from_raw_fd(fd) });
            }
        }
        Err(error) => tracing::warn!("cannot take back what the service manager kept: {error}"),
    }
    let hooks = links
        .iter()
        .filter(|name| Hook::ALL.iter().any(|hook| hook.name() == name.as_str()));
    for name in hooks {
        let _ = sd_notify::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)]);
        let stored = crate::bpf::open_pin(&core.pins.link(name)).and_then(|link| {
            sd_notify::notify_with_fds(
                &[NotifyState::FdStore, NotifyState::FdName(name)],
                &[link.as_fd()],
            )
        });
        if let Err(error) = stored {
            tracing::warn!("cannot have the link {name} kept: {error}");
        }
    }
}

/// Takes enforcement away. Refuses while agents are active, unless forced.
pub fn unload(config: &Config, force: bool) -> Result<(), loader::Error> {
    let pins = Pins::new(&config.pins);
    loader::unload(&pins, force)?;
    cgroup::thaw_left(&config.state.join(agents::FROZEN));
    // Agents are numbered from the beginning again.
    for path in [
        config.state.join(TOLD),
        config.state.join("next-agent"),
        config.state.join(hosts::JOURNAL),
    ] {
        let _ = fs::remove_file(path);
    }
    let _ = fs::remove_dir_all(config.state.join("rules"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_overrides_the_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("agentguard.toml");
        fs::write(&file, "socket = \"/a\"\npolicies = \"/p\"\n").expect("written");
        let arguments = Arguments {
            config: Some(file),
            kernel_log: None,
            log_dir: Some("/l".into()),
            policies: None,
        };
        let config = configure(&arguments, None).expect("read");
        assert_eq!(config.socket, Path::new("/a"));
        assert_eq!(config.policies, Path::new("/p"));
        assert_eq!(config.log.dir, Path::new("/l"));
        let config = configure(&arguments, Some(Path::new("/s"))).expect("read");
        assert_eq!(config.socket, Path::new("/s"));
    }

    #[test]
    fn folders_are_looked_at_after_a_change_and_an_installation() {
        let mut folders = Folders::default();
        assert!(folders.is_due(1));
        assert!(!folders.is_due(1));
        assert!(folders.is_due(2));
        assert!(folders.is_quiet());
        folders.changed();
        assert!(!folders.is_quiet());
        assert!(folders.is_due(2));
    }

    #[test]
    fn a_second_daemon_is_refused_while_the_first_lives() {
        let directory = tempfile::tempdir().expect("a directory");
        let first = lock(directory.path()).expect("locked");
        let error = lock(directory.path()).expect_err("refused");
        let code = error.downcast_ref::<Error>().map(Error::code);
        assert_eq!(code, Some(Code::AlreadyRunning));
        drop(first);
        lock(directory.path()).expect("free again");
    }
}
