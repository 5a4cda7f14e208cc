//! Log records to standard error: a line each, for people and journald, or JSON. One event
//! is one record, whatever it contains.

use crate::domain::{Code, Error, Printable, Result};
use std::io::IsTerminal;
use tracing::Subscriber;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::{MakeWriter, format};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

/// How records look.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// An object of JSON for each.
    pub json: bool,
    /// Colours.
    pub ansi: bool,
    /// The time of day.
    pub time: bool,
}

/// What is logged, to be changed while it is.
pub struct Level(reload::Handle<EnvFilter, Registry>);

impl Level {
    /// Logs what `filter` lets through from now on.
    pub fn set(&self, filter: EnvFilter) {
        if let Err(e) = self.0.reload(filter) {
            tracing::error!("the log level stays: {e}");
        }
    }
}

/// A filter of `tracing-subscriber`.
///
/// # Errors
/// `config-invalid` for one that cannot be understood.
pub fn filter(level: &str) -> Result<EnvFilter> {
    EnvFilter::try_new(level).map_err(|e| {
        Error::new(Code::ConfigInvalid, "log.level", e).hint("e.g. info, or backpropd=debug,warn")
    })
}

/// Begins to log what `level` lets through.
///
/// # Errors
/// As [`filter`].
pub fn start(level: &str, json: bool) -> Result<Level> {
    let style = Style {
        json,
        ansi: std::io::stderr().is_terminal(),
        // journald notes the time itself.
        time: json || std::env::var_os("JOURNAL_STREAM").is_none(),
    };
    let (subscriber, level) = subscriber(filter(level)?, style, std::io::stderr);
    subscriber.init();
    Ok(level)
}

/// What writes records to `writer`.
pub fn subscriber<W>(
    filter: EnvFilter,
    style: Style,
    writer: W,
) -> (impl Subscriber + Send + Sync, Level)
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let (filter, level) = reload::Layer::new(filter);
    let records = fmt::layer()
        .with_writer(writer)
        .with_ansi(style.ansi)
        .with_target(false);
    // Whatever comes from outside comes in a field; the message is one of them.
    let fields = format::debug_fn(|out, field, value| {
        let value = format!("{value:?}");
        match field.name() {
            "message" => write!(out, "{}", Printable(&value)),
            name => write!(out, "{name}={}", Printable(&value)),
        }
    });
    let records = match style {
        Style { json: true, .. } => records.json().boxed(),
        Style { time: true, .. } => records.fmt_fields(fields.delimited(" ")).boxed(),
        _ => records
            .fmt_fields(fields.delimited(" "))
            .without_time()
            .boxed(),
    };
    let subscriber = tracing_subscriber::registry().with(filter).with(records);
    (subscriber, Level(level))
}
