//! `ctl metrics`: a run's measures as a picture of characters, or all of them as JSON or CSV.

use super::client::encode;
use super::render::table;
use super::{Session, put};
use crate::domain::{Code, Error, Result};
use crate::protocol::api::RunView;
use crate::protocol::service::{Metrics, Point};
use crate::report::thousands;
use clap::Args;
use comfy_table::CellAlignment;
use std::collections::BTreeMap;
use std::fmt::{Display, Write};

/// Points of a course: more than its width, so that each character stands for several.
const COURSE: u64 = 320;
/// Characters of a course.
const WIDTH: usize = 32;

/// Measures of a run: the last values and their course
#[derive(Args)]
#[command(after_help = "With --json (a line a point) or --csv all points are printed.")]
pub struct MetricsArgs {
    /// The run's number, or its name where it is unique
    run: String,
    /// Only those of this hook point
    #[arg(long, value_name = "HOOK")]
    site: Option<String>,
    /// Only those from this step on
    #[arg(long, value_name = "STEP", default_value_t = 0)]
    from: u64,
    /// Print all points as comma-separated values
    #[arg(long, conflicts_with = "json")]
    csv: bool,
}

/// Prints them.
pub fn metrics(session: &Session, args: &MetricsArgs) -> Result<()> {
    let run = session.find(&args.run)?;
    if session.json {
        return all(session, &run, args, 1, |points| {
            let line = |point: Point| format!("{}\n", serde_json::json!(point));
            put(&points.into_iter().map(line).collect::<String>());
            Ok(())
        });
    }
    if args.csv {
        let mut header = true;
        return all(session, &run, args, 1, |points| {
            let mut out = csv::WriterBuilder::new();
            let mut out = out
                .has_headers(std::mem::take(&mut header))
                .from_writer(Vec::new());
            let internal = |e: &dyn Display| Error::new(Code::Internal, "csv", e);
            for point in points {
                out.serialize(point).map_err(|e| internal(&e))?;
            }
            let lines = out.into_inner().map_err(|e| internal(&e))?;
            put(&String::from_utf8_lossy(&lines));
            Ok(())
        });
    }
    let steps = run.step.saturating_sub(args.from);
    let mut points: BTreeMap<String, Vec<Point>> = BTreeMap::new();
    let mut keep = |page: Vec<Point>| {
        for point in page {
            points.entry(point.site.clone()).or_default().push(point);
        }
        Ok(())
    };
    let every = steps.div_ceil(COURSE).max(1);
    all(session, &run, args, every, &mut keep)?;
    if every > 1 {
        // The last ones, which need not be a multiple.
        let last = MetricsArgs {
            run: args.run.clone(),
            site: args.site.clone(),
            from: (run.step - run.step % every + 1).max(args.from),
            csv: false,
        };
        all(session, &run, &last, 1, &mut keep)?;
    }
    put(&render(&run, &points));
    Ok(())
}

/// The points that are asked for, page by page.
fn all(
    session: &Session,
    run: &RunView,
    args: &MetricsArgs,
    every: u64,
    mut each: impl FnMut(Vec<Point>) -> Result<()>,
) -> Result<()> {
    let mut query = format!("limit=5000&every={every}");
    if let Some(site) = &args.site {
        let _ = write!(query, "&site={}", encode(site));
    }
    let mut place = format!("from={}", args.from);
    loop {
        let path = format!("/v1/runs/{}/metrics?{query}&{place}", run.id);
        let page: Metrics = session.client.get(&path)?;
        each(page.points)?;
        let Some(next) = page.next else {
            return Ok(());
        };
        place = format!("after={}", encode(&next));
    }
}

/// What a row shows: its name, its value, and how that is written.
type Row = (&'static str, fn(&Point) -> Option<f64>, fn(f64) -> String);

const ROWS: [Row; 8] = [
    ("loss", |p| p.loss, short),
    ("L0", |p| p.l0, |v| format!("{v:.1}")),
    ("L1", |p| p.l1, short),
    ("FVU", |p| p.fvu, |v| format!("{v:.4}")),
    ("dead", |p| p.dead, |v| format!("{:.1} %", v * 100.0)),
    ("grad norm", |p| p.grad_norm, short),
    ("lr", |p| p.lr, |v| format!("{v:.2e}")),
    (
        "tokens/s",
        |p| p.tokens_per_second,
        |v| thousands(v.round() as u64),
    ),
];

fn render(run: &RunView, sites: &BTreeMap<String, Vec<Point>>) -> String {
    let mut text = format!(
        "run {} ({}), step {}",
        run.id,
        run.name,
        thousands(run.step)
    );
    if let Some(steps) = run.steps {
        let _ = write!(text, " of {}", thousands(steps));
    }
    text.push('\n');
    if sites.is_empty() {
        text += "no measures yet\n";
    }
    for (site, points) in sites {
        let _ = writeln!(text, "\n{site}");
        let mut rows = table(&["", "LAST", "LEAST", "MOST", "COURSE"]);
        for (name, value, show) in ROWS {
            let values: Vec<f64> = points.iter().filter_map(value).collect();
            let Some(last) = values.last() else {
                continue;
            };
            let least = values.iter().copied().fold(f64::INFINITY, f64::min);
            let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let course = course(&values, least, most);
            rows.add_row([name.into(), show(*last), show(least), show(most), course]);
        }
        for column in [1, 2, 3] {
            if let Some(column) = rows.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let _ = writeln!(text, "{}", rows.trim_fmt());
    }
    text
}

/// The values as bars of eight heights, each the mean of some.
fn course(values: &[f64], least: f64, most: f64) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let width = values.len().min(WIDTH);
    let bar = |i: usize| {
        let part = &values[i * values.len() / width..(i + 1) * values.len() / width];
        let mean = part.iter().sum::<f64>() / part.len() as f64;
        let height = (mean - least) / (most - least) * (BARS.len() - 1) as f64;
        // All the same: neither high nor low.
        BARS[if height.is_finite() {
            height.round() as usize
        } else {
            3
        }]
    };
    (0..width).map(bar).collect()
}

fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        size if (1e-3..1e5).contains(&size) => format!("{value:.4}"),
        _ => format!("{value:.2e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_course_goes_from_the_least_to_the_most() {
        assert_eq!(course(&[0.0, 1.0, 2.0, 3.0, 7.0], 0.0, 7.0), "▁▂▃▄█");
        assert_eq!(course(&[2.0, 2.0], 2.0, 2.0), "▄▄");
        let falling: Vec<f64> = (0..1000).rev().map(f64::from).collect();
        let shown = course(&falling, 0.0, 999.0);
        assert_eq!(shown.chars().count(), WIDTH);
        assert!(shown.starts_with('█') && shown.ends_with('▁'), "{shown}");
    }
}
