//! Which kinds of handlers there are, and what each is made from.

use super::{EventHandler, Metrics, Orders};
use super::{exec, jsonl, log, prometheus, tensorboard, webhook};
use crate::domain::{Code, Error, Result};
use crate::protocol::handlers::HandlerSpec;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// Makes instances of a handler, one for each of its starts. Runs on the handler's thread.
pub type Make = Arc<dyn Fn() -> Result<Box<dyn EventHandler>> + Send + Sync>;

type Prepare = Arc<dyn Fn(&Settings) -> Result<Make> + Send + Sync>;

/// The kinds of handlers that a daemon knows.
#[derive(Clone)]
pub struct Kinds(BTreeMap<String, Prepare>);

/// What a daemon offers to its handlers.
#[derive(Clone)]
pub struct Host {
    /// Where relative paths start.
    pub folder: PathBuf,
    /// The control socket.
    pub socket: PathBuf,
    /// Commands to runs.
    pub orders: Orders,
    /// What `/metrics` shows.
    pub metrics: Metrics,
    /// Whether the handler ends, or the daemon.
    pub ending: Ending,
    /// This program, which starts those of handlers within limits.
    pub program: PathBuf,
}

/// Whether a handler, or the daemon, ends: what the handler has started then ends too. Clones
/// share it.
#[derive(Clone, Debug, Default)]
pub struct Ending {
    own: Arc<AtomicBool>,
    of: Option<Arc<Ending>>,
}

impl Ending {
    /// The end of something that ends with this at the latest.
    #[must_use]
    pub fn within(&self) -> Self {
        Self {
            own: Arc::default(),
            of: Some(Arc::new(self.clone())),
        }
    }

    /// The end has come.
    pub fn set(&self) {
        self.own.store(true, Relaxed);
    }

    /// Whether it has.
    pub fn is_set(&self) -> bool {
        self.own.load(Relaxed) || self.of.as_ref().is_some_and(|of| of.is_set())
    }
}

/// What a handler is made from.
pub struct Settings {
    /// The handler's name.
    pub name: String,
    /// How long it may work on one event.
    pub deadline: Duration,
    /// The daemon.
    pub host: Host,
    keys: Map<String, Value>,
    origin: String,
}

impl Kinds {
    /// Those that come with the program.
    pub fn builtin() -> Self {
        Self(BTreeMap::new())
            .with("exec", exec::prepare)
            .with("jsonl", jsonl::prepare)
            .with("log", log::prepare)
            .with("prometheus", prometheus::prepare)
            .with("tensorboard", tensorboard::prepare)
            .with("webhook", webhook::prepare)
    }

    /// Adds a kind. `prepare` checks its settings, without touching anything outside, and
    /// says how an instance is made.
    #[must_use]
    pub fn with<F, H>(
        mut self,
        kind: &str,
        prepare: impl Fn(&Settings) -> Result<F> + Send + Sync + 'static,
    ) -> Self
    where
        F: Fn() -> Result<H> + Send + Sync + 'static,
        H: EventHandler + 'static,
    {
        let prepare = move |settings: &Settings| -> Result<Make> {
            let make = prepare(settings)?;
            Ok(Arc::new(move || Ok(Box::new(make()?))))
        };
        self.0.insert(kind.to_owned(), Arc::new(prepare));
        self
    }

    /// Checks all of `spec` and says how an instance is made.
    ///
    /// # Errors
    /// `config-invalid`, by the key that cannot be used.
    pub fn prepare(&self, spec: &HandlerSpec, host: &Host) -> Result<Make> {
        let settings = Settings {
            name: spec.name.clone(),
            deadline: Duration::try_from_secs_f64(spec.deadline_seconds).unwrap_or_default(),
            host: host.clone(),
            keys: spec.settings.clone(),
            origin: match spec.origin.is_empty() {
                true => format!("handler {}", spec.name),
                false => spec.origin.clone(),
            },
        };
        spec.check()
            .map_err(|(key, message)| settings.invalid(key, message))?;
        let Some(prepare) = self.0.get(&spec.kind) else {
            let known: Vec<_> = self.0.keys().map(String::as_str).collect();
            let message = format!("{:?} is none of {}", spec.kind, known.join(", "));
            return Err(settings.invalid("kind", message));
        };
        prepare(&settings)
    }
}

impl Settings {
    /// The kind's own keys.
    ///
    /// # Errors
    /// `config-invalid`, by the key that cannot be used.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T> {
        serde_path_to_error::deserialize(Value::Object(self.keys.clone())).map_err(|e| {
            let (key, message) = (e.path().to_string(), e.inner().to_string());
            match key.as_str() {
                "." | "?" => Error::new(Code::ConfigInvalid, &self.origin, message),
                key => self.invalid(key, message),
            }
        })
    }

    /// An error about one of the keys.
    pub fn invalid(&self, key: &str, message: impl fmt::Display) -> Error {
        Error::new(
            Code::ConfigInvalid,
            format_args!("{}.{key}", self.origin),
            message,
        )
    }

    /// Where `path` lies, which may be relative to the daemon's state folder.
    pub fn path(&self, path: &Path) -> PathBuf {
        self.host.folder.join(path)
    }
}
