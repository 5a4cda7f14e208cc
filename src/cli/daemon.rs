//! `backpropd daemon`: the service.

use crate::actors::datasets::Datasets;
use crate::actors::gpus::Gpus;
use crate::actors::handlers::{self, Drain, Handlers, OverControl};
use crate::actors::models::Models;
use crate::actors::reporter::{self, Reporter};
use crate::actors::runs::{Leave, Runs};
use crate::actors::store::{self, StoreActor, StoreRef};
use crate::actors::worker::Limits;
use crate::config::daemon::LogFormat;
use crate::config::settings::Settings;
use crate::control::{self, Access, Daemon, Rules, Server, Socket};
use crate::domain::{Code, Error, Result};
use crate::handlers::{Ending, Host, Kinds, Metrics};
use crate::service::reload::Reloader;
use crate::service::{Manager, status, watchdog};
use crate::store::Store;
use crate::supervise::{Child, ChildRef, Supervisor};
use crate::system::clock::now_millis;
use crate::system::log::Level;
use crate::system::{files, limits, log};
use actix::System;
use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// Parts that the daemon cannot do without: unless they get on, the service manager gets no
/// sign of life.
const CORE: [&str; 2] = ["store", "runs"];
/// For how many times as long as the store the supervisor of the runs, which waits for it, may
/// have work and do none of it.
const RUNS_STALL: f64 = 2.5;

/// Run the service: a queue of runs, each trained by a worker process
#[derive(Args)]
#[command(
    after_help = "SIGTERM and Ctrl-C save all runs and end the daemon; they go on when it is \
                        started again."
)]
pub struct DaemonArgs {
    /// Settings; by default /etc/backpropd/daemon.toml, where it is there
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Runs the command.
pub fn daemon(args: DaemonArgs, kinds: Kinds) -> Result<ExitCode> {
    let since = Instant::now();
    let settings = Settings::read(args.config)?;
    let config = settings.now();
    let level = log::start(&config.log.level, config.log.format == LogFormat::Json)?;
    let files_limit = limits::raise_open_files();
    let state_dir = std::path::absolute(config.state_dir()?)
        .map_err(|e| Error::read("the state folder", &e))?;
    files::create_dir(&state_dir)?;
    let (store, opened) = Store::open(&state_dir, now_millis())?;
    if let Some(quarantined) = &opened.quarantined {
        tracing::error!(
            "the database was damaged ({}) and lies at {} now; this daemon begins with a new one",
            quarantined.why,
            quarantined.moved_to.display()
        );
    }
    let rules = Rules::new(&config.control)?;
    let mode = config.control.mode().unwrap_or(0o660);
    let socket = Socket::open(&config.socket()?, mode)?;
    let own = rustix::process::geteuid().as_raw();
    let access = Arc::new(Access::new(own, socket.group, rules));
    let start = Start {
        settings,
        kinds,
        level,
        state_dir,
        socket,
        access,
        files_limit,
        since,
    };
    System::new().block_on(serve(start, store))?;
    Ok(ExitCode::SUCCESS)
}

/// What there is before the first actor.
struct Start {
    settings: Settings,
    kinds: Kinds,
    level: Level,
    state_dir: PathBuf,
    socket: Socket,
    access: Arc<Access>,
    /// Files that can be open.
    files_limit: u64,
    since: Instant,
}

async fn serve(start: Start, store: Store) -> Result<()> {
    let Start {
        settings,
        kinds,
        level,
        state_dir,
        socket,
        access,
        files_limit,
        since,
    } = start;
    let internal = |what: &str, e: std::io::Error| Error::new(Code::Internal, what, e);
    let live = store::live();
    let mut tree = Supervisor::new("daemon");
    // The first generation takes the store that was opened to check it.
    let (folder, open, told) = (state_dir.clone(), Mutex::new(Some(store)), live.clone());
    let store = move || {
        let open = open.lock().unwrap_or_else(PoisonError::into_inner).take();
        StoreActor::new(folder.clone(), open, told.clone())
    };
    let config = settings.now();
    let stall = config.daemon.stall();
    let store = tree.add(
        Child::new("store", store)
            .own_thread()
            .progress_within(stall)
            .mailbox(store::MAILBOX),
    );
    let reporter = reporter(&store, &mut tree);
    tree = tree.on_notice(reporter::notices(reporter.clone()));
    let configured = config.handlers.clone();
    let over_control = OverControl::from(&config.events);
    let limits = Limits {
        hang: config.workers.hang(),
        stop: config.workers.stop(),
    };
    let parts = (store.clone(), state_dir.clone());
    let models = move || Models::new(parts.0.clone(), &parts.1, limits);
    let models = tree.add(Child::new("models", models));
    let parts = (store.clone(), state_dir.clone());
    let datasets = move || Datasets::new(parts.0.clone(), &parts.1, limits);
    let datasets = tree.add(Child::new("datasets", datasets));
    let parts = (store.clone(), settings.clone(), state_dir.clone());
    let runs = move || {
        let (store, settings, state_dir) = parts.clone();
        Runs::new(store, &settings, state_dir)
    };
    let runs = tree.add(Child::new("runs", runs).progress_within(stall.mul_f64(RUNS_STALL)));
    let metrics = Metrics::default();
    let parts = handlers::Parts {
        store: store.clone(),
        live: live.clone(),
        reporter,
        kinds,
        host: Host {
            folder: state_dir.clone(),
            socket: std::path::absolute(&socket.path).map_err(|e| internal("socket", e))?,
            orders: handlers::orders(runs.clone()),
            metrics: metrics.clone(),
            ending: Ending::default(),
            program: crate::cli::THIS_PROGRAM.into(),
        },
        configured,
        over_control,
    };
    parts.check(&parts.configured)?;
    let handler_parts = parts.clone();
    let handlers = move || Handlers::new(parts.clone());
    let handlers = tree.add(Child::new("handlers", handlers).own_thread());
    let parts = (settings.clone(), store.clone(), live.clone(), runs.clone());
    let gpus = move || {
        let (settings, store, live, runs) = parts.clone();
        Gpus::new(settings.now().gpus.clone(), store, live, runs)
    };
    let gpus = tree.add(Child::new("gpus", gpus));
    let down = |e| Error::new(Code::Internal, "supervisor", e);
    let tree = tree.start().await.map_err(down)?;
    let (leave, mut left) = mpsc::channel(1);
    let reloader = Arc::new(Reloader {
        settings: settings.clone(),
        level,
        access: access.clone(),
        handlers: (handlers.clone(), handler_parts),
        gpus: gpus.clone(),
    });
    let again = reloader.clone();
    let app = control::router(Daemon {
        runs: runs.clone(),
        handlers: handlers.clone(),
        models,
        datasets,
        metrics,
        store: store.clone(),
        gpus,
        tree: tree.clone(),
        live,
        settings: settings.clone(),
        reload: Arc::new(move || again.reload()),
        since,
        leave,
    });
    let server = Server::new(app, access, files_limit, config.control.unread());
    let mut servers = vec![actix::spawn(server.clone().serve(socket.listen()?))];
    if let Some(address) = settings.now().control.address() {
        let listener = control::listen_tcp(address).await?;
        servers.push(actix::spawn(server.serve(listener)));
        tracing::info!("control at {address} too, with the token");
    }
    let signal = |kind| signal(kind).map_err(|e| internal("signals", e));
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let version = env!("CARGO_PKG_VERSION");
    tracing::info!(
        "backpropd {version}: control at {}, state in {}",
        socket.path.display(),
        state_dir.display()
    );
    Manager.ready("ready");
    if let Some(period) = Manager.watchdog() {
        let alive = || Manager.alive();
        let tree = tree.clone();
        actix::spawn(async move { watchdog::watch(tree, &CORE, period / 2, alive).await });
    }
    if Manager::is_there() {
        actix::spawn(status::tell(store));
    }
    loop {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("SIGTERM: saving all runs"),
            _ = interrupt.recv() => tracing::info!("SIGINT: saving all runs"),
            _ = left.recv() => tracing::info!("told to shut down: saving all runs"),
            _ = hang_up.recv() => {
                // It was logged.
                let _ = reloader.reload();
                continue;
            }
        }
        break;
    }
    let patience = settings.now().workers.stop() + Duration::from_secs(10);
    Manager.stopping(patience);
    tokio::select! {
        _ = tokio::time::timeout(patience, runs.send(Leave)) => {}
        _ = terminate.recv() => tracing::warn!("SIGTERM again: not waiting for workers"),
        _ = interrupt.recv() => tracing::warn!("SIGINT again: not waiting for workers"),
    }
    if let Err(error) = handlers.send(Drain).await {
        tracing::warn!("{error}");
    }
    if let Err(error) = tree.shut_down().await {
        tracing::warn!("{error}");
    }
    servers.iter().for_each(|server| server.abort());
    tracing::info!("ended");
    Ok(())
}

fn reporter(store: &StoreRef, tree: &mut Supervisor) -> ChildRef<Reporter> {
    let store = store.clone();
    let child = Child::new("reporter", move || Reporter::new(store.clone()));
    tree.add(child.mailbox(reporter::MAILBOX))
}
