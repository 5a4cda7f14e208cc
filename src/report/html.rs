//! The page itself. Everything that came from outside is escaped.

use super::charts::{LineChart, density_histogram};
use super::curves::{Curve, Curves};
use crate::protocol::{Ending, SiteValidation, Validation};
use std::fmt::Write;

/// What the page shows.
pub struct Page<'a> {
    /// The run's name.
    pub name: &'a str,
    /// `completed` or `stopped`.
    pub state: &'a str,
    /// How the run ended.
    pub ending: &'a Ending,
    /// Its curves.
    pub curves: &'a Curves,
    /// Its measures on held-out text, oldest first.
    pub validations: &'a [Validation],
    /// The resolved run.toml.
    pub config: &'a str,
}

pub(super) const STYLE: &str = "
body{font:15px/1.5 system-ui,sans-serif;color:#333a44;background:#f5f6f8;margin:0}
main{max-width:1180px;margin:0 auto;padding:24px}
h1{font-size:24px;margin:0}h2{font-size:18px;margin:32px 0 8px}
.sub{color:#6b7280;margin:2px 0 20px}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px}
.card,figure,pre,table{background:#fff;border:1px solid #e3e6eb;border-radius:8px}
.card{padding:10px 14px}.card b{display:block;font-size:20px}.card span{color:#6b7280;font-size:13px}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(440px,1fr));gap:12px}
figure{margin:0;padding:6px}figure svg{width:100%;height:auto;display:block}
table{border-collapse:separate;border-spacing:0;width:100%}
td,th{padding:6px 12px;text-align:right;border-top:1px solid #eef0f3}
td:first-child,th:first-child{text-align:left}tr:first-child th{border:0}
pre{padding:14px;overflow:auto;font-size:13px}code{font-size:13px}
";

/// The page as HTML.
pub fn render(page: &Page<'_>) -> String {
    let mut out = String::new();
    let end = page.ending;
    let _ = write!(
        out,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{name}</title>\
         <style>{STYLE}</style></head><body><main><h1>{name}</h1>\
         <p class=\"sub\">{state} · {step} of {steps} steps · {tokens} tokens · {time}</p>",
        name = escape(page.name),
        state = escape(page.state),
        step = end.step,
        steps = end.steps,
        tokens = thousands(end.tokens),
        time = duration(end.seconds),
    );
    for hook in page.curves.hooks() {
        site(&mut out, page, &hook);
    }
    let _ = write!(
        out,
        "<h2>run.toml</h2><pre>{}</pre></main></body></html>",
        escape(page.config)
    );
    out
}

fn site(out: &mut String, page: &Page<'_>, hook: &str) {
    let _ = write!(out, "<h2><code>{}</code></h2>", escape(hook));
    let measured: Vec<(u64, &SiteValidation)> = page
        .validations
        .iter()
        .flat_map(|v| v.sites.iter().map(move |s| (v.step, s)))
        .filter(|(_, s)| s.hook == hook)
        .collect();
    if let Some((_, last)) = measured.last() {
        cards(out, last);
    }
    out.push_str("<div class=\"charts\">");
    for svg in charts(page.curves, hook, &measured).into_iter().flatten() {
        let _ = write!(out, "<figure>{svg}</figure>");
    }
    out.push_str("</div>");
    if !measured.is_empty() {
        table(out, &measured);
    }
}

fn cards(out: &mut String, s: &SiteValidation) {
    let recovered = s
        .ce_recovered
        .map_or("–".to_owned(), |v| format!("{:.1} %", v * 100.0));
    let cards = [
        ("cross-entropy recovered", recovered),
        ("explained variance", format!("{:.3}", s.explained_variance)),
        ("L0, active latents a token", format!("{:.1}", s.l0)),
        ("cosine", format!("{:.3}", s.cosine)),
        (
            "latents that never fired",
            format!("{} of {}", s.dead, s.d_sae),
        ),
    ];
    out.push_str("<div class=\"cards\">");
    for (what, value) in cards {
        let _ = write!(
            out,
            "<div class=\"card\"><b>{value}</b><span>{what}, held out</span></div>"
        );
    }
    out.push_str("</div><p></p>");
}

fn charts(curves: &Curves, hook: &str, measured: &[(u64, &SiteValidation)]) -> Vec<Option<String>> {
    let held = |value: fn(&SiteValidation) -> Option<f64>| -> Curve {
        measured
            .iter()
            .filter_map(|(step, s)| Some((*step as f64, value(s)?)))
            .collect()
    };
    let line = |title: &str, series: Vec<(&str, Curve)>, log, at_least| {
        let series: Vec<(String, Curve)> = series
            .into_iter()
            .filter(|(_, points)| !points.is_empty())
            .map(|(name, points)| (name.to_owned(), points))
            .collect();
        LineChart {
            title,
            series,
            log,
            at_least,
        }
        .svg()
    };
    let train = |name| curves.get(hook, name);
    let variance = vec![
        ("training batch", train("explained_variance")),
        ("held out", held(|s| Some(s.explained_variance))),
    ];
    let entropy = vec![
        ("clean", held(|s| Some(s.ce_clean))),
        ("with the SAE", held(|s| Some(s.ce_sae))),
        ("mean-ablated", held(|s| Some(s.ce_mean))),
        ("zero-ablated", held(|s| Some(s.ce_zero))),
    ];
    let l0 = vec![
        ("training batch", train("l0")),
        ("held out", held(|s| Some(s.l0))),
    ];
    let density = measured.last().and_then(|(_, s)| {
        density_histogram("Feature density", &s.density_edges, &s.density_counts)
    });
    vec![
        line("Loss", vec![("loss", train("loss"))], true, None),
        line("Explained variance", variance, false, Some((0.0, 1.0))),
        line(
            "Cross-entropy recovered",
            vec![("", held(|s| s.ce_recovered))],
            false,
            None,
        ),
        line("Cross-entropy, nats a token", entropy, false, None),
        line("L0", l0, true, None),
        line(
            "Share of dead latents",
            vec![("", train("dead"))],
            false,
            Some((0.0, 0.1)),
        ),
        density,
        line("Gradient norm", vec![("", train("grad_norm"))], true, None),
        line(
            "Learning rate",
            vec![("", train("lr"))],
            false,
            Some((0.0, 0.0)),
        ),
        line(
            "Tokens a second",
            vec![("", train("tokens_per_second"))],
            false,
            Some((0.0, 0.0)),
        ),
    ]
}

fn table(out: &mut String, measured: &[(u64, &SiteValidation)]) {
    out.push_str(
        "<h2>Held-out text</h2><table><tr><th>step</th><th>CE recovered</th><th>CE clean</th>\
         <th>CE with SAE</th><th>CE mean-ablated</th><th>CE zero-ablated</th>\
         <th>explained variance</th><th>cosine</th><th>L0</th><th>never fired</th></tr>",
    );
    for (step, s) in measured {
        let recovered = s.ce_recovered.map_or("–".into(), |v| format!("{v:.4}"));
        let _ = write!(
            out,
            "<tr><td>{step}</td><td>{recovered}</td><td>{:.4}</td><td>{:.4}</td><td>{:.4}</td>\
             <td>{:.4}</td><td>{:.4}</td><td>{:.4}</td><td>{:.2}</td><td>{}</td></tr>",
            s.ce_clean,
            s.ce_sae,
            s.ce_mean,
            s.ce_zero,
            s.explained_variance,
            s.cosine,
            s.l0,
            s.dead
        );
    }
    out.push_str("</table>");
}

pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() && c != '\n' && c != '\t' => {}
            c => out.push(c),
        }
    }
    out
}

/// `12,345`
pub(crate) fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// `3 s`, `2 min 5 s`, `4 h 12 min`
pub(crate) fn duration(seconds: f64) -> String {
    let s = seconds.round() as u64;
    match s {
        0..60 => format!("{seconds:.1} s"),
        60..3600 => format!("{} min {} s", s / 60, s % 60),
        _ => format!("{} h {} min", s / 3600, s % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    #[test]
    fn what_came_from_outside_is_escaped() {
        let ending = Ending {
            step: 1,
            steps: 2,
            tokens: 12_345,
            skipped: 0,
            loss: None,
            seconds: 125.0,
            folder: PathBuf::new(),
            checkpoint: None,
            peak_memory: None,
            peak_gpu_memory: None,
            validation: None,
        };
        let html = render(&Page {
            name: "<script>alert(1)</script>",
            state: "stopped",
            ending: &ending,
            curves: &Curves::new(1),
            validations: &[],
            config: "a = \"</pre>\"",
        });
        assert!(!html.contains("<script>") && !html.contains("\"</pre>"));
        assert!(html.contains("12,345 tokens") && html.contains("2 min 5 s"));
    }
}
