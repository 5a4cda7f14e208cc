//! `daemon.toml` and `BACKPROPD_…` variables to validated types.

use super::file::ConfigFile;
use crate::domain::gpu::GpuSettings;
use crate::domain::{Code, DeviceName, Error, Result};
use crate::protocol::handlers::HandlerSpec;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where a system-wide installation keeps its settings.
pub const SYSTEM_FILE: &str = "/etc/backpropd/daemon.toml";

/// The whole file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DaemonConfig {
    /// `[daemon]`
    pub daemon: DaemonTable,
    /// `[control]`
    pub control: ControlTable,
    /// `[workers]`
    pub workers: WorkersTable,
    /// `[gpus]`
    pub gpus: GpuSettings,
    /// `[events]`
    pub events: EventsTable,
    /// `[[handlers]]`
    pub handlers: Vec<HandlerSpec>,
    /// `[log]`
    pub log: LogTable,
}

/// `[daemon]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DaemonTable {
    /// The folder of the database and of runs that name no other; empty for the service's
    /// state folder, or the user's.
    pub state_dir: PathBuf,
    /// Seconds for which the store may have work and get nothing done, before it is replaced
    /// and the service manager gets no sign of life.
    pub stall_seconds: u64,
}

impl Default for DaemonTable {
    fn default() -> Self {
        Self {
            state_dir: PathBuf::new(),
            stall_seconds: 60,
        }
    }
}

/// `[control]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ControlTable {
    /// The Unix socket; empty for the service's runtime folder, or the user's.
    pub socket: PathBuf,
    /// The socket's permissions, octal.
    #[serde(deserialize_with = "super::control::mode")]
    pub mode: String,
    /// Users (`alice`, `1000`) and groups (`@ml`) that may change things, besides root, the
    /// daemon's own user and the socket's group.
    pub writers: Vec<String>,
    /// Users and groups that may look; empty for whoever can open the socket.
    pub readers: Vec<String>,
    /// An address to listen at besides the socket; empty for none.
    pub tcp: String,
    /// A file with the token that every request over TCP must carry.
    pub token_file: PathBuf,
    /// Names by which clients reach `tcp` from elsewhere; without any it must be a loopback
    /// address.
    pub tcp_hosts: Vec<String>,
    /// Seconds after which a client is cut that reads nothing of what it is sent.
    pub unread_seconds: u64,
}

impl Default for ControlTable {
    fn default() -> Self {
        Self {
            socket: PathBuf::new(),
            mode: "0660".into(),
            writers: Vec::new(),
            readers: Vec::new(),
            tcp: String::new(),
            token_file: PathBuf::new(),
            tcp_hosts: Vec::new(),
            unread_seconds: 30,
        }
    }
}

/// `[workers]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WorkersTable {
    /// Runs that train at once.
    pub limit: usize,
    /// Where runs compute that do not say.
    pub device: DeviceName,
    /// Threads of a run on the CPU; 0 for one a core.
    pub threads: usize,
    /// MiB of address space that a run's worker may take; 0 for no limit.
    pub memory_mib: u64,
    /// Seconds without a sign of work after which a worker counts as hung.
    pub hang_seconds: u64,
    /// Unexpected ends of one run's worker within `restart_period_seconds` that are
    /// answered by a restart from the newest checkpoint.
    pub restarts: u32,
    /// See `restarts`.
    pub restart_period_seconds: u64,
    /// Seconds that a worker has to save and end before it is killed.
    pub stop_seconds: u64,
}

impl Default for WorkersTable {
    fn default() -> Self {
        Self {
            limit: 1,
            device: DeviceName::Auto,
            threads: 0,
            memory_mib: 0,
            hang_seconds: 600,
            restarts: 5,
            restart_period_seconds: 3600,
            stop_seconds: 60,
        }
    }
}

/// `[events]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EventsTable {
    /// Events that are kept for `events?since=`; older ones are forgotten.
    pub keep: u64,
    /// Whether handlers of kind `exec` may be added over the control socket.
    pub exec_over_control: bool,
    /// Whether webhooks that are added over the control socket may reach private addresses.
    pub private_over_control: bool,
}

impl Default for EventsTable {
    fn default() -> Self {
        Self {
            keep: 1_000_000,
            exec_over_control: false,
            private_over_control: false,
        }
    }
}

/// `[log]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogTable {
    /// What is logged, as `tracing-subscriber`'s filters say it: `info`, `debug`, or
    /// `backpropd=debug,warn`.
    pub level: String,
    /// `text` or `json`.
    pub format: LogFormat,
}

impl Default for LogTable {
    fn default() -> Self {
        Self {
            level: "info".into(),
            format: LogFormat::Text,
        }
    }
}

/// How log records look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// A line for people and journald.
    Text,
    /// A JSON object.
    Json,
}

impl DaemonConfig {
    /// Reads `path`, or where none is given the system's file if it is there. A variable
    /// `BACKPROPD_TABLE__KEY` replaces `table.key`.
    ///
    /// # Errors
    /// `config-missing`, `config-invalid`.
    pub fn read(path: Option<&Path>) -> Result<Self> {
        let system = Path::new(SYSTEM_FILE);
        let path = path.or_else(|| system.exists().then_some(system));
        let variables = std::env::vars_os().filter_map(|(name, value)| {
            let name = name.into_string().ok()?;
            // One underscore: a variable with a meaning of its own, as BACKPROPD_CACHE.
            let key = name
                .strip_prefix("BACKPROPD_")?
                .contains("__")
                .then_some(name)?;
            Some((key, value.into_string().ok()?))
        });
        let file = ConfigFile::layered(path, "BACKPROPD", variables.collect())?;
        let mut config: Self = file.decode()?;
        config.validate(&file)?;
        for (n, handler) in config.handlers.iter_mut().enumerate() {
            handler.origin = file.place(&format!("handlers[{n}]"));
        }
        Ok(config)
    }

    fn validate(&self, file: &ConfigFile) -> Result<()> {
        if self.workers.limit == 0 {
            return Err(file.invalid("workers.limit", "must be at least 1"));
        }
        for (key, value) in [
            ("daemon.stall_seconds", self.daemon.stall_seconds),
            ("control.unread_seconds", self.control.unread_seconds),
            ("workers.hang_seconds", self.workers.hang_seconds),
            ("workers.stop_seconds", self.workers.stop_seconds),
            ("events.keep", self.events.keep),
        ] {
            if value == 0 {
                return Err(file.invalid(key, "must be at least 1"));
            }
        }
        for (n, handler) in self.handlers.iter().enumerate() {
            handler
                .check()
                .map_err(|(key, message)| file.invalid(&format!("handlers[{n}].{key}"), message))?;
            let earlier = &self.handlers[..n];
            if earlier.iter().any(|other| other.name == handler.name) {
                let message = format!("{:?} is the name of another handler", handler.name);
                return Err(file.invalid(&format!("handlers[{n}].name"), message));
            }
        }
        if let Err(error) = self.gpus.validate() {
            return Err(file.invalid(&format!("gpus.{}", error.about), error.message));
        }
        self.control
            .validate()
            .map_err(|(key, message)| file.invalid(key, message))?;
        Ok(())
    }

    /// The folder of the database and of runs.
    ///
    /// # Errors
    /// `config-invalid` where nothing says which.
    pub fn state_dir(&self) -> Result<PathBuf> {
        first([
            set(&self.daemon.state_dir),
            variable("STATE_DIRECTORY", ""),
            variable("XDG_STATE_HOME", "backpropd"),
            variable("HOME", ".local/state/backpropd"),
        ])
        .ok_or_else(|| nowhere("daemon.state_dir"))
    }

    /// The control socket.
    ///
    /// # Errors
    /// `config-invalid` where nothing says which.
    pub fn socket(&self) -> Result<PathBuf> {
        match first([
            set(&self.control.socket),
            variable("BACKPROPD_SOCKET", ""),
            variable("RUNTIME_DIRECTORY", "control.sock"),
            variable("XDG_RUNTIME_DIR", "backpropd.sock"),
        ]) {
            Some(path) => Ok(path),
            None => Ok(self.state_dir()?.join("control.sock")),
        }
    }
}

impl DaemonTable {
    /// See `stall_seconds`.
    pub fn stall(&self) -> Duration {
        Duration::from_secs(self.stall_seconds)
    }
}

impl ControlTable {
    /// See `unread_seconds`.
    pub fn unread(&self) -> Duration {
        Duration::from_secs(self.unread_seconds)
    }
}

impl WorkersTable {
    /// See `hang_seconds`.
    pub fn hang(&self) -> Duration {
        Duration::from_secs(self.hang_seconds)
    }

    /// See `stop_seconds`.
    pub fn stop(&self) -> Duration {
        Duration::from_secs(self.stop_seconds)
    }
}

fn set(path: &Path) -> Option<PathBuf> {
    (!path.as_os_str().is_empty()).then(|| path.to_owned())
}

fn variable(name: &str, below: &str) -> Option<PathBuf> {
    let value = std::env::var_os(name).filter(|value| !value.is_empty())?;
    let path = PathBuf::from(value);
    Some(if below.is_empty() {
        path
    } else {
        path.join(below)
    })
}

fn first<const N: usize>(paths: [Option<PathBuf>; N]) -> Option<PathBuf> {
    paths.into_iter().flatten().next()
}

fn nowhere(key: &str) -> Error {
    Error::new(Code::ConfigInvalid, key, "is not set, and neither is $HOME")
        .hint(format_args!("set {key} in daemon.toml"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, variables: &[(&str, &str)]) -> Result<DaemonConfig> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let variables = variables.iter().map(owned).collect();
        let file = ConfigFile::layered(Some(file.path()), "BACKPROPD", variables)?;
        let config: DaemonConfig = file.decode()?;
        config.validate(&file)?;
        Ok(config)
    }

    #[test]
    fn the_file_in_the_project_spells_out_every_default() {
        let text = include_str!("../../daemon.toml");
        assert_eq!(read(text, &[]).unwrap(), DaemonConfig::default());
        let written: toml::Table = toml::from_str(text).unwrap();
        let all = toml::Table::try_from(DaemonConfig::default()).unwrap();
        let keys = |table: &toml::Table| -> Vec<String> {
            table
                .iter()
                // There is no handler by default: a list without a place in the file.
                .filter_map(|(name, value)| Some((name, value.as_table()?)))
                .flat_map(|(name, table)| table.keys().map(move |key| format!("{name}.{key}")))
                .collect()
        };
        assert_eq!(keys(&written), keys(&all));
    }

    #[test]
    fn variables_replace_what_the_file_says() {
        let config = read(
            "[workers]\nlimit = 2\nthreads = 3\n",
            &[
                ("BACKPROPD_WORKERS__LIMIT", "4"),
                ("BACKPROPD_LOG__FORMAT", "json"),
                ("BACKPROPD_CONTROL__MODE", "0600"),
            ],
        )
        .unwrap();
        assert_eq!((config.workers.limit, config.workers.threads), (4, 3));
        assert_eq!(config.log.format, LogFormat::Json);
        assert_eq!(config.control.mode(), Some(0o600));
        let config = read("", &[("BACKPROPD_GPUS__DEVICES", "1")]).unwrap();
        assert_eq!(config.gpus.devices, "1");
        let variables = [("BACKPROPD_GPUS__LIMITS__TEMPERATURE_WARNING", "70.5")];
        let config = read("", &variables).unwrap();
        assert_eq!(config.gpus.limits.temperature_warning, 70.5);
    }

    #[test]
    fn what_cannot_be_is_named() {
        for (text, variables, about) in [
            ("[workers]\nlimit = 0\n", &[][..], ":2: workers.limit"),
            ("[workers]\nlimits = 1\n", &[], ":2: workers.limits"),
            ("[control]\nmode = \"rw\"\n", &[], ":2: control.mode"),
            ("[gpus]\nhistory = 0\n", &[], ":2: gpus.history"),
            (
                "[gpus.limits]\ntemperature_critical = 96\n",
                &[],
                ":2: gpus.limits.temperature_critical",
            ),
            (
                "[gpus.override.0]\npower_limit = 9\n",
                &[],
                ":1: gpus.override.0.power_warning",
            ),
            (
                "[gpus.override.0]\ntemprature = 9\n",
                &[],
                ":2: gpus.override.0.temprature",
            ),
            (
                "",
                &[("BACKPROPD_GPUS__INTERVAL_SECONDS", "0")],
                "gpus.interval_seconds",
            ),
            ("[control]\ntcp = \"x\"\n", &[], ":2: control.tcp"),
            ("[control]\ntcp = \"127.0.0.1:1\"\n", &[], ":2: control.tcp"),
            (
                "[control]\ntcp = \"0.0.0.0:1\"\ntoken_file = \"t\"\n",
                &[],
                ":2: control.tcp",
            ),
            ("[worker]\n", &[], ":1: worker"),
            ("", &[("BACKPROPD_WORKERS__LIMIT", "many")], "workers.limit"),
            ("", &[("BACKPROPD_WORKERS__LIMITS", "1")], "workers.limits"),
            ("[[handlers]]\nname = \"a\"\n", &[], ":1: handlers[0]"),
            (
                "[[handlers]]\nname = \"a\"\nkind = \"log\"\n\n[[handlers]]\nkind = \"log\"\n\
                 name = \"a\"\n",
                &[],
                ":7: handlers[1].name",
            ),
            (
                "[[handlers]]\nname = \"a\"\nkind = \"log\"\nevents = [\"run_finished\"]\n",
                &[],
                ":4: handlers[0].events",
            ),
        ] {
            let error = read(text, variables).unwrap_err();
            assert_eq!(error.code, Code::ConfigInvalid);
            assert!(error.about.ends_with(about), "{error}");
        }
    }
}
