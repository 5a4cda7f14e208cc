//! `backpropd daemon`: the service.

use crate::actors::datasets::Datasets;
use crate::actors::gpus::Gpus;
use crate::actors::handlers::{self, Drain, Handlers, OverControl};
use crate::actors::models::Models;
use crate::actors::reporter::{self, Reporter, report};
use crate::actors::runs::{Leave, Runs};
use crate::actors::store::{self, StoreActor, StoreRef};
use crate::actors::worker::Limits;
use crate::config::daemon::DaemonConfig;
use crate::control::{self, Daemon};
use crate::domain::{Code, Error, Result};
use crate::handlers::{Host, Kinds};
use crate::protocol::DaemonFact;
use crate::store::Store;
use crate::supervise::{Child, ChildRef, Notice, Supervisor};
use crate::system::clock::now_millis;
use crate::system::{files, log};
use actix::System;
use clap::Args;
use sd_notify::NotifyState;
use std::collections::BTreeMap;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

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
    let config = DaemonConfig::read(args.config.as_deref())?;
    log::start(
        &config.log.level,
        config.log.format == crate::config::daemon::LogFormat::Json,
    )?;
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
    let socket = config.socket()?;
    let mode = config.control.mode().unwrap_or(0o660);
    let listener = control::bind(&socket, mode)?;
    let system = System::new();
    let served = system.block_on(serve(
        config, kinds, state_dir, store, listener, since, &socket,
    ));
    let _ = std::fs::remove_file(&socket);
    served.map(|()| ExitCode::SUCCESS)
}

async fn serve(
    config: DaemonConfig,
    kinds: Kinds,
    state_dir: PathBuf,
    store: Store,
    listener: UnixListener,
    since: Instant,
    socket: &std::path::Path,
) -> Result<()> {
    let internal = |what: &str, e: std::io::Error| Error::new(Code::Internal, what, e);
    let live = store::live();
    let (limit, patience) = (
        config.workers.limit,
        config.workers.stop() + Duration::from_secs(10),
    );
    let gpus = config.gpus.clone();
    let mut tree = Supervisor::new("daemon");
    // The first generation takes the store that was opened to check it.
    let (folder, open, told) = (state_dir.clone(), Mutex::new(Some(store)), live.clone());
    let store = move || {
        let open = open.lock().unwrap_or_else(PoisonError::into_inner).take();
        StoreActor::new(folder.clone(), open, told.clone())
    };
    let store = tree.add(
        Child::new("store", store)
            .own_thread()
            .mailbox(store::MAILBOX),
    );
    let reporter = reporter(&store, &mut tree);
    tree = tree.on_notice(note(reporter.clone()));
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
    let parts = (store.clone(), config, state_dir.clone());
    let runs = move || {
        let (store, config, state_dir) = parts.clone();
        Runs::new(store, config, state_dir)
    };
    let runs = tree.add(Child::new("runs", runs));
    let parts = handlers::Parts {
        store: store.clone(),
        live: live.clone(),
        reporter,
        kinds,
        host: Host {
            folder: state_dir.clone(),
            socket: std::path::absolute(socket).map_err(|e| internal("socket", e))?,
            orders: handlers::orders(runs.clone()),
        },
        configured,
        over_control,
    };
    parts.check()?;
    let handlers = move || Handlers::new(parts.clone());
    let handlers = tree.add(Child::new("handlers", handlers).own_thread());
    let parts = (gpus, store.clone(), live.clone(), runs.clone());
    let gpus = move || {
        let (settings, store, live, runs) = parts.clone();
        Gpus::new(settings, store, live, runs)
    };
    let gpus = tree.add(Child::new("gpus", gpus));
    let down = |e| Error::new(Code::Internal, "supervisor", e);
    let tree = tree.start().await.map_err(down)?;
    let (leave, mut left) = mpsc::channel(1);
    let app = control::router(Daemon {
        runs: runs.clone(),
        handlers: handlers.clone(),
        models,
        datasets,
        store,
        gpus,
        tree: tree.clone(),
        live,
        limit,
        since,
        leave,
    });
    let listener =
        tokio::net::UnixListener::from_std(listener).map_err(|e| internal("socket", e))?;
    let server = actix::spawn(control::serve(listener, app));
    let mut terminate = signal(SignalKind::terminate()).map_err(|e| internal("signals", e))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|e| internal("signals", e))?;
    let version = env!("CARGO_PKG_VERSION");
    tracing::info!(
        "backpropd {version}: control at {}, state in {}",
        socket.display(),
        state_dir.display()
    );
    tell_service_manager(&[NotifyState::Ready, NotifyState::Status("ready")]);
    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM: saving all runs"),
        _ = interrupt.recv() => tracing::info!("SIGINT: saving all runs"),
        _ = left.recv() => tracing::info!("told to shut down: saving all runs"),
    }
    tell_service_manager(&[
        NotifyState::Stopping,
        NotifyState::Status("saving all runs"),
    ]);
    tokio::select! {
        _ = tokio::time::timeout(patience, runs.send(Leave)) => {}
        _ = terminate.recv() => tracing::warn!("SIGTERM again: not waiting for workers"),
        _ = interrupt.recv() => tracing::warn!("SIGINT again: not waiting for workers"),
    }
    server.abort();
    if let Err(error) = handlers.send(Drain).await {
        tracing::warn!("{error}");
    }
    if let Err(error) = tree.shut_down().await {
        tracing::warn!("{error}");
    }
    tracing::info!("ended");
    Ok(())
}

fn reporter(store: &StoreRef, tree: &mut Supervisor) -> ChildRef<Reporter> {
    let store = store.clone();
    let child = Child::new("reporter", move || Reporter::new(store.clone()));
    tree.add(child.mailbox(reporter::MAILBOX))
}

/// Logs what happens to the parts of the daemon, and has it stored.
fn note(reporter: ChildRef<Reporter>) -> impl Fn(Notice) + Send {
    let causes = Mutex::new(BTreeMap::new());
    move |notice| match notice {
        Notice::Failed { child, cause, .. } => {
            tracing::error!("{child} failed: {cause}");
            let mut causes = causes.lock().unwrap_or_else(PoisonError::into_inner);
            causes.insert(child, cause.to_string());
        }
        Notice::Restarted {
            child, restarts, ..
        } => {
            tracing::warn!("{child} was restarted, {restarts} times so far");
            let mut causes = causes.lock().unwrap_or_else(PoisonError::into_inner);
            let cause = causes.remove(&child).unwrap_or_default();
            let fact = DaemonFact::ActorRestarted {
                actor: child,
                restarts,
                cause,
            };
            report(&reporter, fact);
        }
        Notice::Quarantined { child, first, .. } => {
            tracing::error!("{child} failed too often and stays down; it began with: {first}");
        }
    }
}

/// Without a service manager there is nobody to tell.
fn tell_service_manager(states: &[NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(states) {
        tracing::warn!("the service manager cannot be told: {e}");
    }
}
