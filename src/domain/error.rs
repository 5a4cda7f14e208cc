//! The one error type of the project: a stable code, what it is about, what
//! happened, and what to do next.

use std::fmt;

/// Shorthand used through the whole crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $exit:literal;)*) => {
        /// Stable error codes. Scripts may match on [`Code::as_str`] and on the exit
        /// status; neither changes between releases.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code { $($(#[$doc])* $name,)* }

        impl Code {
            /// Every code, in the order of the README's table.
            pub const ALL: &'static [Code] = &[$(Code::$name,)*];

            /// The code as users and scripts see it.
            pub const fn as_str(self) -> &'static str {
                match self { $(Code::$name => $text,)* }
            }

            /// The exit status of a command that fails with this code.
            pub const fn exit_status(self) -> u8 {
                match self { $(Code::$name => $exit,)* }
            }
        }
    };
}

codes! {
    /// Arguments or a value on the command line that cannot be used.
    Usage = "usage", 2;
    /// A key, type or value in a configuration file that cannot be used.
    ConfigInvalid = "config-invalid", 10;
    /// A configuration file that cannot be read.
    ConfigMissing = "config-missing", 11;
    /// A model folder or one of its files is not there.
    ModelMissing = "model-missing", 20;
    /// `config.json` is malformed.
    ModelConfigInvalid = "model-config-invalid", 21;
    /// `config.json` asks for something this program does not compute.
    ModelUnsupported = "model-unsupported", 22;
    /// A weight file is truncated, malformed, or its header is too large.
    ModelFileCorrupt = "model-file-corrupt", 23;
    /// A tensor is missing or has another shape or dtype than the config says.
    ModelTensorMismatch = "model-tensor-mismatch", 24;
    /// A weight is NaN or infinite.
    ModelNonFinite = "model-non-finite", 25;
    /// A hook point that the model does not have.
    HookUnknown = "hook-unknown", 26;
    /// A model or dataset that is not ready to be used.
    AssetNotReady = "asset-not-ready", 27;
    /// A model or dataset that a run or a worker uses.
    AssetInUse = "asset-in-use", 28;
    /// Another model or dataset has the name.
    AssetExists = "asset-exists", 29;
    /// A tokenizer that cannot be loaded or does not fit the model.
    TokenizerInvalid = "tokenizer-invalid", 30;
    /// A text file or folder is not there.
    DataMissing = "data-missing", 31;
    /// A text without usable content.
    DataEmpty = "data-empty", 32;
    /// The text column is not in the file.
    DataColumnMissing = "data-column-missing", 33;
    /// A row that cannot be read; the message names file and row.
    DataRowInvalid = "data-row-invalid", 34;
    /// A cached token set or activation shard fails its checksum.
    CacheCorrupt = "cache-corrupt", 35;
    /// A path that must not be removed: it lies outside of the daemon's own folders.
    PathRefused = "path-refused", 36;
    /// Work on a model or dataset that somebody ended.
    Cancelled = "cancelled", 37;
    /// A checkpoint is incomplete or fails its checksum.
    CheckpointCorrupt = "checkpoint-corrupt", 40;
    /// There is no checkpoint to resume from.
    CheckpointMissing = "checkpoint-missing", 41;
    /// A checkpoint belongs to a run with other settings.
    CheckpointMismatch = "checkpoint-mismatch", 42;
    /// Another process works in the run folder.
    RunBusy = "run-busy", 43;
    /// The run folder already holds a run.
    RunExists = "run-exists", 44;
    /// A file or folder cannot be written.
    IoWrite = "io-write", 50;
    /// A file or folder cannot be read.
    IoRead = "io-read", 51;
    /// No space is left on the disk.
    DiskFull = "disk-full", 52;
    /// A loss or gradient that is NaN or infinite, under the policy `fail`.
    NonFinite = "non-finite", 60;
    /// Memory ran out at the smallest micro-batch, three times.
    OutOfMemory = "out-of-memory", 61;
    /// The estimate says that the run cannot fit in memory, or in that of its GPU.
    MemoryEstimate = "memory-estimate", 62;
    /// A compute device that is not available.
    DeviceUnavailable = "device-unavailable", 63;
    /// An error of a GPU that no later work of the same process survives.
    DevicePoisoned = "device-poisoned", 64;
    /// A GPU that is gone: off the bus, or in need of a reset.
    DeviceLost = "device-lost", 65;
    /// A GPU that was too hot for its runs to go on.
    GpuEmergency = "gpu-emergency", 66;
    /// A frame between worker and parent that cannot be understood.
    ProtocolInvalid = "protocol-invalid", 70;
    /// A request over TCP without the token, or with a wrong one.
    Unauthorized = "unauthorized", 71;
    /// Too many requests without the right token came from one address.
    TooManyAttempts = "too-many-attempts", 72;
    /// Another process works with the daemon's state folder.
    StoreBusy = "store-busy", 80;
    /// The daemon's database is of a newer release, or of another program.
    StoreVersion = "store-version", 81;
    /// The daemon's database is damaged.
    StoreCorrupt = "store-corrupt", 82;
    /// No run, sweep, model or dataset of that name or number.
    NotFound = "not-found", 83;
    /// A command that the state of its run does not allow.
    NotPossible = "not-possible", 84;
    /// No daemon answers at the control socket, or a part of it is being restarted.
    DaemonUnavailable = "daemon-unavailable", 85;
    /// Another daemon listens at the control socket.
    DaemonRunning = "daemon-running", 86;
    /// Whoever asks has no right to.
    Forbidden = "forbidden", 87;
    /// A request that is longer than the daemon takes.
    RequestTooLarge = "request-too-large", 90;
    /// A worker process ended without a last word, more often than it is restarted.
    WorkerLost = "worker-lost", 88;
    /// A worker process showed no sign of work and was killed.
    WorkerHung = "worker-hung", 89;
    /// An event handler that could not handle an event.
    HandlerFailed = "handler-failed", 91;
    /// An event handler of that name exists already.
    HandlerExists = "handler-exists", 92;
    /// A webhook leads to an address that it must not reach.
    AddressRefused = "address-refused", 93;
    /// A defect of this program.
    Internal = "internal", 99;
}

impl Code {
    /// Whether another process may do what this one cannot any more.
    pub const fn is_of_the_process(self) -> bool {
        matches!(self, Self::DevicePoisoned | Self::DeviceLost)
    }

    /// The code with this text.
    pub fn of(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.as_str() == text)
    }

    /// Whether the same may succeed once the disk is in order again.
    pub const fn is_of_the_disk(self) -> bool {
        matches!(
            self,
            Self::DiskFull | Self::IoRead | Self::IoWrite | Self::StoreCorrupt
        )
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What went wrong, in one line: `code: about: message (hint)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// The stable code.
    pub code: Code,
    /// What it is about: a path, `file:line`, a key, a tensor's name. May be empty.
    pub about: String,
    /// What happened, with the value that was found and the one that was expected.
    pub message: String,
    /// What to do next. May be empty.
    pub hint: String,
}

impl Error {
    /// An error without a hint.
    pub fn new(code: Code, about: impl fmt::Display, message: impl fmt::Display) -> Self {
        Self {
            code,
            about: about.to_string(),
            message: message.to_string(),
            hint: String::new(),
        }
    }

    /// Adds what the reader can do next.
    #[must_use]
    pub fn hint(mut self, hint: impl fmt::Display) -> Self {
        self.hint = hint.to_string();
        self
    }

    /// A failed read of `path`; a missing file keeps its own message.
    pub fn read(path: impl AsRef<std::path::Path>, source: &std::io::Error) -> Self {
        Self::new(
            Code::IoRead,
            path.as_ref().display(),
            format_args!("cannot be read: {source}"),
        )
    }

    /// A failed write of `path`; a full disk gets a code of its own.
    pub fn write(path: impl AsRef<std::path::Path>, source: &std::io::Error) -> Self {
        let about = path.as_ref().display();
        match source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                Self::new(Code::DiskFull, about, "no space is left to write it")
                    .hint("free some space and resume; what was saved before is intact")
            }
            _ => Self::new(
                Code::IoWrite,
                about,
                format_args!("cannot be written: {source}"),
            ),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        if !self.about.is_empty() {
            write!(f, ": {}", self.about)?;
        }
        write!(f, ": {}", self.message)?;
        if !self.hint.is_empty() {
            write!(f, " ({})", self.hint)?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn codes_and_exit_statuses_are_unique() {
        let texts: HashSet<_> = Code::ALL.iter().map(|c| c.as_str()).collect();
        let exits: HashSet<_> = Code::ALL.iter().map(|c| c.exit_status()).collect();
        assert_eq!(texts.len(), Code::ALL.len());
        assert_eq!(exits.len(), Code::ALL.len());
    }

    #[test]
    fn a_message_is_one_line_with_code_subject_and_hint() {
        let error = Error::new(
            Code::ConfigInvalid,
            "run.toml:3: sae.k",
            "32 exceeds d_sae 16",
        )
        .hint("choose k below d_sae");
        assert_eq!(
            error.to_string(),
            "config-invalid: run.toml:3: sae.k: 32 exceeds d_sae 16 (choose k below d_sae)"
        );
    }
}
