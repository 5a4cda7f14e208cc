//! The page that compares the runs of a sweep.

use super::charts::{Point, ScatterChart};
use super::html::{STYLE, duration, escape, thousands};
use crate::protocol::sweep::{SweepRunView, SweepView, seconds};
use std::collections::BTreeSet;
use std::fmt::Write;

/// The keys in which the runs differ, in the order of the alphabet.
pub fn keys_of(sweep: &SweepView) -> Vec<String> {
    let keys = sweep.runs.iter().flat_map(|run| run.overrides.keys());
    let keys: BTreeSet<&String> = keys.collect();
    keys.into_iter().cloned().collect()
}

/// The page as HTML.
pub fn render(sweep: &SweepView) -> String {
    let mut out = String::new();
    let complete = sweep.runs.iter().filter(|run| run.complete).count();
    let mut about = format!(
        "sweep {} · {} · {complete} of {} runs complete",
        sweep.id,
        sweep.state,
        thousands(sweep.runs_planned)
    );
    if let Some(reason) = &sweep.reason {
        let _ = write!(about, " · {reason}");
    }
    let _ = write!(
        out,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{name}</title>\
         <style>{STYLE}{MORE_STYLE}</style></head><body><main><h1>{name}</h1>\
         <p class=\"sub\">{about}</p>",
        name = escape(&sweep.name),
        about = escape(&about),
    );
    cards(&mut out, sweep);
    charts(&mut out, sweep);
    table(&mut out, sweep);
    out.push_str("</main></body></html>");
    out
}

const MORE_STYLE: &str = "
.wide{overflow-x:auto}.wide table{white-space:nowrap}
tr.best td{background:#eef4ff}td.bad{color:#b42318}
";

fn cards(out: &mut String, sweep: &SweepView) {
    let Some(best) = &sweep.best else {
        return;
    };
    let run = sweep.runs.iter().find(|run| run.run_idx == best.run_idx);
    let Some(run) = run else {
        return;
    };
    let mut cards = vec![
        (
            format!("best {}, held out", best.metric),
            format!("{:.4}", best.value),
        ),
        ("of run".to_owned(), best.run_idx.to_string()),
    ];
    let own = run.overrides.iter();
    cards.extend(own.map(|(key, value)| (key.clone(), value.clone())));
    out.push_str("<div class=\"cards\">");
    for (what, value) in cards {
        let (what, value) = (escape(&what), escape(&value));
        let _ = write!(
            out,
            "<div class=\"card\"><b>{value}</b><span>{what}</span></div>"
        );
    }
    out.push_str("</div><p></p>");
}

fn charts(out: &mut String, sweep: &SweepView) {
    let best = sweep.best.as_ref().map(|best| best.run_idx);
    let points = |x: &dyn Fn(&SweepRunView) -> Option<f64>, y: &str| -> Vec<Point> {
        let point = |run: &SweepRunView| {
            Some(Point {
                at: (x(run)?, *run.measures.get(y)?),
                label: run.run_idx.to_string(),
                strong: best == Some(run.run_idx),
            })
        };
        sweep.runs.iter().filter_map(point).collect()
    };
    let l0 = |run: &SweepRunView| run.measures.get("l0").copied();
    let mut drawn = vec![
        ScatterChart {
            title: "L0 against cross-entropy recovered, a point for each run",
            x: "L0, active latents a token (held out)",
            y: "cross-entropy recovered",
            points: points(&l0, "ce_recovered"),
            front: true,
        }
        .svg(),
        ScatterChart {
            title: "L0 against explained variance",
            x: "L0, active latents a token (held out)",
            y: "explained variance",
            points: points(&l0, "explained_variance"),
            front: true,
        }
        .svg(),
    ];
    let metric = sweep.metric.as_str();
    for key in keys_of(sweep) {
        let value = |run: &SweepRunView| run.overrides.get(&key)?.parse().ok();
        let points = points(&value, metric);
        let different: BTreeSet<u64> = points.iter().map(|p| p.at.0.to_bits()).collect();
        if different.len() > 1 {
            let chart = ScatterChart {
                title: &format!("{metric} by {key}"),
                x: &key,
                y: metric,
                points,
                front: false,
            };
            drawn.push(chart.svg());
        }
    }
    out.push_str("<div class=\"charts\">");
    for svg in drawn.into_iter().flatten() {
        let _ = write!(out, "<figure>{svg}</figure>");
    }
    out.push_str("</div>");
}

/// (name in the table, measure, digits)
const COLUMNS: [(&str, &str, usize); 6] = [
    ("CE recovered", "ce_recovered", 4),
    ("CE with SAE", "ce_sae", 4),
    ("explained variance", "explained_variance", 4),
    ("cosine", "cosine", 4),
    ("L0", "l0", 1),
    ("last loss", "loss", 4),
];

fn table(out: &mut String, sweep: &SweepView) {
    let keys = keys_of(sweep);
    out.push_str("<h2>Runs</h2><div class=\"wide\"><table><tr><th>run</th>");
    let names = keys.iter().map(String::as_str);
    let measures = COLUMNS.iter().map(|(name, ..)| *name);
    for name in names.chain(measures).chain(["steps", "time", "state"]) {
        let _ = write!(out, "<th>{}</th>", escape(name));
    }
    out.push_str("</tr>");
    for one in &sweep.runs {
        let run = &one.run;
        let best = sweep
            .best
            .as_ref()
            .is_some_and(|b| b.run_idx == one.run_idx);
        out.push_str(if best { "<tr class=\"best\">" } else { "<tr>" });
        let mut cell = |text: &str| {
            let _ = write!(out, "<td>{}</td>", escape(text));
        };
        cell(&format!("{} · {}", one.run_idx, run.name));
        for key in &keys {
            cell(one.overrides.get(key).map_or("–", String::as_str));
        }
        for (_, measure, digits) in COLUMNS {
            let value = one.measures.get(measure);
            cell(&value.map_or("–".into(), |value| format!("{value:.digits$}")));
        }
        cell(&match run.steps {
            Some(steps) => format!("{} / {}", thousands(run.step), thousands(steps)),
            None => "–".into(),
        });
        let seconds = seconds(run.started_at, run.ended_at);
        cell(&seconds.map_or("–".into(), duration));
        let state = run.state.as_str().replace('_', " ");
        let (class, state) = match &run.error {
            Some(error) => (" class=\"bad\"", format!("{state}: {}", error.line())),
            None => ("", state),
        };
        let _ = write!(out, "<td{class}>{}</td></tr>", escape(&state));
    }
    out.push_str("</table></div>");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::SweepId;
    use crate::domain::measure::{Measure, Mode};
    use crate::domain::sweep::Phase;
    use crate::protocol::api::Problem;
    use crate::protocol::sweep::BestRun;
    use serde_json::json;
    use std::collections::BTreeMap;

    fn run(index: u64, k: &str, measured: bool) -> SweepRunView {
        let measures = [
            ("l0", 8.0 * index as f64),
            ("ce_recovered", 0.5),
            ("explained_variance", 0.4),
        ];
        let measures = measures.map(|(name, value)| (name.to_owned(), value));
        SweepRunView {
            run_idx: index,
            overrides: BTreeMap::from([("sae.k".to_owned(), k.to_owned())]),
            complete: measured,
            measures: measures.into_iter().filter(|_| measured).collect(),
            run: serde_json::from_value(json!({
                "id": index, "name": "<b>", "priority": 0, "step": 5, "workers": 1,
                "state": if measured { "completed" } else { "failed" },
                "queued_at": 0,
                "error": (!measured).then(|| Problem {
                    code: "disk-full".into(),
                    ..Problem::default()
                }),
            }))
            .unwrap(),
        }
    }

    #[test]
    fn the_page_has_the_picture_the_settings_and_the_measures_and_escapes() {
        let sweep = SweepView {
            id: SweepId(3),
            name: "<script>".into(),
            state: Phase::Completed,
            reason: None,
            runs_planned: 3,
            runs_begun: 3,
            parallel: 1,
            metric: Measure::CeRecovered,
            mode: Mode::Max,
            folder: "/s".into(),
            best: Some(BestRun {
                run_idx: 1,
                metric: Measure::CeRecovered,
                value: 0.5,
            }),
            created_at: 0,
            updated_at: 0,
            runs: vec![
                run(1, "8", true),
                run(2, "16", true),
                run(3, "\"<i>\"", false),
            ],
        };
        let page = render(&sweep);
        assert!(!page.contains("<script>") && !page.contains("<i>") && !page.contains("<b><"));
        assert!(page.contains("L0 against cross-entropy recovered"));
        assert!(page.contains("ce_recovered by sae.k") && page.contains("disk-full"));
        assert_eq!(page.matches("<svg").count(), 3);
        assert_eq!(page.matches("class=\"best\"").count(), 1);
        assert!(!page.contains("src=\"http"));
    }
}
