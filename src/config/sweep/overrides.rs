//! What a sweep replaces in each of its runs: a list, a grid, or random draws.

use crate::domain::random::Stream;
use serde::Deserialize;
use std::collections::BTreeMap;
use toml::{Table, Value};

/// For each run, keys and their values in TOML.
pub type Overrides = Vec<BTreeMap<String, String>>;

/// The key that is wrong, and why.
type Wrong = (String, String);

/// The values of a table by dotted keys: `[a] b = 1` and `"a.b" = 1` are the same.
pub fn flat(table: &Table) -> Vec<(String, Value)> {
    leaves(table, &|value| !value.is_table())
}

fn leaves(table: &Table, is_leaf: &dyn Fn(&Value) -> bool) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    for (key, value) in table {
        match value {
            Value::Table(inner) if !is_leaf(value) => {
                let inner = leaves(inner, is_leaf).into_iter();
                found.extend(inner.map(|(rest, value)| (format!("{key}.{rest}"), value)));
            }
            value => found.push((key.clone(), value.clone())),
        }
    }
    found
}

/// The runs of a list.
pub fn list(runs: &[Table], most: u64) -> Result<Overrides, Wrong> {
    count(String::new(), Some(runs.len() as u64), most)?;
    let text = |(key, value): (String, Value)| (key, value.to_string());
    let run = |table: &Table| flat(table).into_iter().map(text).collect();
    Ok(runs.iter().map(run).collect())
}

/// Every combination of the values, the last key's changing fastest.
pub fn grid(grid: &Table, most: u64) -> Result<Overrides, Wrong> {
    let mut axes = Vec::new();
    for (key, value) in flat(grid) {
        match value {
            Value::Array(values) if !values.is_empty() => axes.push((key, values)),
            Value::Array(_) => return Err((key, "is empty: give at least one value".into())),
            _ => return Err((key, "is no list of values".into())),
        }
    }
    if axes.is_empty() {
        return Err((String::new(), "names no key".into()));
    }
    let product = axes
        .iter()
        .try_fold(1u64, |n, (_, values)| n.checked_mul(values.len() as u64));
    count(String::new(), product, most)?;
    let mut runs = vec![BTreeMap::new()];
    for (key, values) in axes {
        let with = |run: &BTreeMap<String, String>| {
            let run = run.clone();
            let key = key.clone();
            values.iter().map(move |value| {
                let mut run = run.clone();
                run.insert(key.clone(), value.to_string());
                run
            })
        };
        runs = runs.iter().flat_map(with).collect();
    }
    Ok(runs)
}

/// From where a value is drawn.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
enum Draw {
    /// One of these.
    Choice(Vec<Value>),
    /// A number from the first to the second.
    Uniform(f64, f64),
    /// The same, each order of magnitude as likely as the next.
    LogUniform(f64, f64),
    /// A whole number, both ends included.
    Int(i64, i64),
}

const DRAWS: [&str; 4] = ["choice", "uniform", "log_uniform", "int"];

impl Draw {
    fn new(value: Value) -> Result<Self, String> {
        let draw = match value {
            Value::Array(values) => Draw::Choice(values),
            Value::Table(_) => value.try_into().map_err(|e: toml::de::Error| {
                e.message()
                    .lines()
                    .next()
                    .unwrap_or("is no draw")
                    .to_owned()
            })?,
            _ => return Err(format!("is none of {}", DRAWS.join(", "))),
        };
        let range = |low: f64, high: f64, least: f64| {
            let sound = low.is_finite() && high.is_finite() && low < high && low > least;
            sound
                .then_some(())
                .ok_or_else(|| format!("{low} to {high} is no range"))
        };
        match &draw {
            Draw::Choice(values) if values.is_empty() => Err("is empty".to_owned()),
            Draw::Choice(_) => Ok(()),
            Draw::Uniform(low, high) => range(*low, *high, f64::NEG_INFINITY),
            Draw::LogUniform(low, high) => range(*low, *high, 0.0),
            Draw::Int(low, high) if low < high && high.checked_sub(*low).is_some() => Ok(()),
            Draw::Int(low, high) => Err(format!("{low} to {high} is no range")),
        }?;
        Ok(draw)
    }

    /// The value at `u`, 0 ≤ u < 1.
    fn at(&self, u: f64) -> Value {
        match self {
            Draw::Choice(values) => values[(u * values.len() as f64) as usize].clone(),
            Draw::Uniform(low, high) => Value::Float(short(low + u * (high - low))),
            Draw::LogUniform(low, high) => {
                let (low, high) = (low.ln(), high.ln());
                Value::Float(short((low + u * (high - low)).exp()))
            }
            Draw::Int(low, high) => {
                let span = (high - low) as f64 + 1.0;
                Value::Integer((low + (u * span) as i64).min(*high))
            }
        }
    }
}

/// Four digits: as many as a person wants to read in a table.
fn short(value: f64) -> f64 {
    format!("{value:.3e}").parse().unwrap_or(value)
}

/// `samples` runs with values drawn for each key. The draws of a key depend on the seed and
/// its name alone, so a key more leaves the others as they were.
pub fn random(table: &Table, samples: u64, seed: u64, most: u64) -> Result<Overrides, Wrong> {
    count("samples".into(), Some(samples), most)?;
    if samples == 0 {
        return Err(("samples".into(), "0 draws are no sweep".into()));
    }
    let is_draw = |value: &Value| {
        let names = value
            .as_table()
            .map(|table| table.keys().map(String::as_str));
        names.is_none_or(|mut names| names.any(|name| DRAWS.contains(&name)))
    };
    let mut draws = Vec::new();
    for (key, value) in leaves(table, &is_draw) {
        let draw = Draw::new(value).map_err(|why| (key.clone(), why))?;
        draws.push((Stream::new(seed, &key), key, draw));
    }
    if draws.is_empty() {
        return Err((String::new(), "names no key".into()));
    }
    let run = |index| {
        let value = |(stream, key, draw): &(Stream, String, Draw)| {
            (key.clone(), draw.at(stream.uniform(index)).to_string())
        };
        draws.iter().map(value).collect()
    };
    Ok((0..samples).map(run).collect())
}

fn count(key: String, runs: Option<u64>, most: u64) -> Result<(), Wrong> {
    match runs {
        Some(runs) if runs <= most => Ok(()),
        Some(runs) => Err((key, format!("makes {runs} runs; {most} is the most"))),
        None => Err((
            key,
            format!("makes too many runs to count; {most} is the most"),
        )),
    }
}
