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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Strings of pieces that end lines, speak to terminals, or turn the writing round.
    fn evil(seed: u64) -> String {
        const PIECES: [&str; 16] = [
            "\n",
            "\r",
            "\r\n",
            "\u{1b}[2J",
            "\u{1b}]0;x\u{7}",
            "\u{202e}",
            "\u{2066}",
            "\u{200f}",
            "\0",
            "\u{85}",
            "\u{2028}",
            "\u{9b}1m",
            "INFO forged",
            "naïve 日本",
            "\"}",
            "\\",
        ];
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut text = String::new();
        for _ in 0..1 + seed % 7 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            text += PIECES[(state >> 32) as usize % PIECES.len()];
        }
        text
    }

    fn record(json: bool, strings: &[String]) -> String {
        let kept = Kept::default();
        let writer = kept.clone();
        let style = Style {
            json,
            ansi: false,
            time: true,
        };
        let (subscriber, _level) =
            subscriber(filter("info").unwrap(), style, move || writer.clone());
        tracing::subscriber::with_default(subscriber, || {
            for text in strings {
                let span = tracing::info_span!("run", id = 1, name = %text);
                let _in = span.enter();
                tracing::warn!(text, shown = %text, debug = ?text, "{text}");
            }
        });
        let bytes = kept.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn one_event_is_one_record_whatever_it_contains() {
        let strings: Vec<String> = (0..10_000).map(evil).collect();
        let text = record(false, &strings);
        assert_eq!(text.lines().count(), strings.len());
        let acts = |c: char| {
            (c.is_control() && c != '\n') || "\u{202e}\u{2066}\u{200f}\u{2028}".contains(c)
        };
        assert_eq!(text.find(acts), None);
        assert!(
            text.lines()
                .all(|line| line.contains(" WARN run{id=1 name=")),
            "{text:.500}"
        );
        let json = record(true, &strings);
        assert_eq!(json.lines().count(), strings.len());
        for (line, text) in json.lines().zip(&strings) {
            let record: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(record["fields"]["message"].as_str(), Some(text.as_str()));
            assert_eq!(record["span"]["id"], 1);
        }
    }

    #[test]
    fn the_level_changes_while_it_is_in_use() {
        let (kept, style) = (
            Kept::default(),
            Style {
                json: false,
                ansi: false,
                time: false,
            },
        );
        let writer = kept.clone();
        let (subscriber, level) =
            subscriber(filter("warn").unwrap(), style, move || writer.clone());
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!("before");
            level.set(filter("info").unwrap());
            tracing::info!("after");
        });
        let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text, " INFO after\n");
        assert_eq!(filter("a=b=c").unwrap_err().code, Code::ConfigInvalid);
    }
}
