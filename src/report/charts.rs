//! Charts as SVG.

use plotters::chart::MeshStyle;
use plotters::coord::Shift;
use plotters::coord::ranged1d::{AsRangedCoord, Ranged, ValueFormatter};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

const SIZE: (u32, u32) = (560, 300);
/// Height of a row of a legend.
const ROW: i32 = 16;
const INK: RGBColor = RGBColor(0x33, 0x3a, 0x44);
const GRID: RGBColor = RGBColor(0xe6, 0xe9, 0xee);
const COLOURS: [RGBColor; 6] = [
    RGBColor(0x25, 0x63, 0xeb),
    RGBColor(0xd9, 0x48, 0x0f),
    RGBColor(0x0f, 0x8a, 0x5f),
    RGBColor(0x8e, 0x44, 0xad),
    RGBColor(0xb4, 0x83, 0x09),
    RGBColor(0xc0, 0x26, 0x5d),
];

/// A chart of one measure, a line for each series.
pub struct LineChart<'a> {
    /// What stands above it.
    pub title: &'a str,
    /// (name, points); the name is shown where there are several.
    pub series: Vec<(String, Vec<(f64, f64)>)>,
    /// Whether the vertical axis is logarithmic; used where all values are positive.
    pub log: bool,
    /// A range that the vertical axis covers at least, e.g. 0 … 1 for shares.
    pub at_least: Option<(f64, f64)>,
}

impl LineChart<'_> {
    /// The chart as SVG, or nothing where no series has a point.
    pub fn svg(&self) -> Option<String> {
        let points = || self.series.iter().flat_map(|(_, points)| points);
        let (mut low, mut high) = bounds(points().map(|p| p.1))?;
        let (first, last) = bounds(points().map(|p| p.0))?;
        if let Some((a, b)) = self.at_least {
            (low, high) = (low.min(a), high.max(b));
        }
        let x = first..last.max(first + 1.0);
        let spread = high / low.max(f64::MIN_POSITIVE);
        if self.log && low > 0.0 && spread > 50.0 {
            self.draw(x, (low / 1.1..high * 1.1).log_scale())
        } else {
            let margin = ((high - low) * 0.05).max(high.abs() * 0.02).max(1e-9);
            let below = if low >= 0.0 {
                (low - margin).max(0.0)
            } else {
                low - margin
            };
            self.draw(x, below..high + margin)
        }
    }

    fn draw<Y>(&self, x: std::ops::Range<f64>, y: Y) -> Option<String>
    where
        Y: AsRangedCoord<Value = f64>,
        Y::CoordDescType: ValueFormatter<f64>,
    {
        picture(self.title, |mut area| {
            if self.series.len() > 1 {
                area = self.legend(&area)?;
            }
            let mut chart = frame(&area, 32, 58).build_cartesian_2d(x, y).ok()?;
            let mut mesh = chart.configure_mesh();
            dress(&mut mesh, "step", "");
            mesh.x_labels(6).y_labels(6).x_label_formatter(&short);
            mesh.draw().ok()?;
            for (index, (_, points)) in self.series.iter().enumerate() {
                let style = COLOURS[index % COLOURS.len()].stroke_width(2);
                let line = LineSeries::new(points.iter().copied(), style);
                chart.draw_series(line).ok()?;
                if points.len() <= 40 {
                    let dots = points.iter().map(|p| Circle::new(*p, 3, style.filled()));
                    chart.draw_series(dots).ok()?;
                }
            }
            Some(())
        })
    }

    /// The names of the series in rows above the plot, where no line runs; returns what is
    /// left of `area`.
    fn legend<'a>(&self, area: &Area<'a>) -> Option<Area<'a>> {
        let (left, right) = (58, SIZE.0 as i32 - 18);
        let (mut x, mut y, mut places) = (left, 2, Vec::new());
        for (name, _) in &self.series {
            // There are no fonts to ask: this is wide enough for most letters.
            let width = 32 + 6 * name.chars().count() as i32;
            if x > left && x + width > right {
                (x, y) = (left, y + ROW);
            }
            places.push((x, y));
            x += width;
        }
        let (row, rest) = area.split_vertically(y + ROW);
        for (index, ((name, _), (x, y))) in self.series.iter().zip(places).enumerate() {
            let style = COLOURS[index % COLOURS.len()].stroke_width(2);
            let middle = y + ROW / 2;
            row.draw(&PathElement::new([(x, middle), (x + 14, middle)], style))
                .ok()?;
            let ink = TextStyle::from(("sans-serif", 11).into_font()).color(&INK);
            let ink = ink.pos(Pos::new(HPos::Left, VPos::Center));
            row.draw(&Text::new(name.as_str(), (x + 19, middle), ink))
                .ok()?;
        }
        Some(rest)
    }
}

/// A chart of points, each with a label.
pub struct ScatterChart<'a> {
    /// What stands above it.
    pub title: &'a str,
    /// What stands beside the axes.
    pub x: &'a str,
    /// As `x`.
    pub y: &'a str,
    /// The points.
    pub points: Vec<Point>,
    /// Whether a line joins the points that none beats in both directions: to the left and
    /// above.
    pub front: bool,
}

/// A point of a [`ScatterChart`].
pub struct Point {
    /// Where it is.
    pub at: (f64, f64),
    /// What stands beside it.
    pub label: String,
    /// Whether it stands out.
    pub strong: bool,
}

impl ScatterChart<'_> {
    /// The chart as SVG, or nothing where there is no point.
    pub fn svg(&self) -> Option<String> {
        let (low, high) = bounds(self.points.iter().map(|p| p.at.0))?;
        let wide = |low: f64, high: f64, share: f64| {
            let margin = ((high - low) * share).max(high.abs() * 0.02).max(1e-9);
            low - margin..high + margin
        };
        if low > 0.0 && high / low > 10.0 {
            let margin = (high / low).powf(0.06);
            self.draw((low / margin..high * margin).log_scale())
        } else {
            self.draw(wide(low, high, 0.06))
        }
    }

    fn draw<X>(&self, x: X) -> Option<String>
    where
        X: AsRangedCoord<Value = f64>,
        X::CoordDescType: ValueFormatter<f64>,
    {
        let (low, high) = bounds(self.points.iter().map(|p| p.at.1))?;
        let margin = ((high - low) * 0.1).max(high.abs() * 0.01).max(1e-9);
        picture(self.title, |area| {
            let mut chart = frame(&area, 36, 64)
                .build_cartesian_2d(x, low - margin..high + margin)
                .ok()?;
            let mut mesh = chart.configure_mesh();
            dress(&mut mesh, self.x, self.y);
            mesh.x_labels(6).y_labels(6).x_label_formatter(&short);
            mesh.draw().ok()?;
            if self.front {
                let line = LineSeries::new(self.front_line(), COLOURS[0].mix(0.35).stroke_width(2));
                chart.draw_series(line).ok()?;
            }
            let points = self.points.iter().map(|point| {
                let (colour, size) = match point.strong {
                    true => (COLOURS[1], 6),
                    false => (COLOURS[0], 4),
                };
                EmptyElement::at(point.at)
                    + Circle::new((0, 0), size, colour.filled())
                    + Text::new(
                        point.label.clone(),
                        (7, -12),
                        ("sans-serif", 11).into_font().color(&INK),
                    )
            });
            chart.draw_series(points).ok()?;
            Some(())
        })
    }

    fn front_line(&self) -> Vec<(f64, f64)> {
        let mut points: Vec<(f64, f64)> = self.points.iter().map(|p| p.at).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0).then(b.1.total_cmp(&a.1)));
        let mut highest = f64::NEG_INFINITY;
        points.retain(|(_, y)| {
            let keep = *y > highest;
            highest = highest.max(*y);
            keep
        });
        points
    }
}

/// A histogram over log10 bins: `edges` are the bins' lower edges, equally spaced.
pub fn density_histogram(title: &str, edges: &[f64], counts: &[u64]) -> Option<String> {
    let (low, high) = (*edges.first()?, *edges.last()?);
    let width = if edges.len() > 1 {
        edges[1] - edges[0]
    } else {
        1.0
    };
    let top = counts.iter().copied().max()?.max(1) as f64 * 1.08;
    picture(title, |area| {
        let mut chart = frame(&area, 32, 58)
            .build_cartesian_2d(low..high + width, 0.0..top)
            .ok()?;
        let mut mesh = chart.configure_mesh();
        let share = "log10 of the share of tokens on which a latent is active";
        dress(&mut mesh, share, "latents");
        mesh.disable_x_mesh()
            .x_label_formatter(&|v| format!("{v:.1}"));
        mesh.draw().ok()?;
        let bars = edges.iter().zip(counts).map(|(edge, count)| {
            let corners = [
                (edge + width * 0.06, 0.0),
                (edge + width * 0.94, *count as f64),
            ];
            Rectangle::new(corners, COLOURS[0].mix(0.8).filled())
        });
        chart.draw_series(bars).ok()?;
        Some(())
    })
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// An SVG with `title` above what `draw` draws.
fn picture(title: &str, draw: impl FnOnce(Area<'_>) -> Option<()>) -> Option<String> {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let style = ("sans-serif", 15, &INK).into_text_style(&root);
        draw(root.margin(8, 0, 0, 0).titled(title, style).ok()?)?;
        root.present().ok()?;
    }
    Some(svg)
}

/// A plot in `area` with room for its labels.
fn frame<'a, 'b>(
    area: &'a Area<'b>,
    below: u32,
    beside: u32,
) -> ChartBuilder<'a, 'b, SVGBackend<'b>> {
    let mut builder = ChartBuilder::on(area);
    builder
        .margin(8)
        .margin_top(2)
        .margin_right(18)
        .x_label_area_size(below)
        .y_label_area_size(beside);
    builder
}

/// What all meshes have in common.
fn dress<X, Y, DB>(mesh: &mut MeshStyle<'_, '_, X, Y, DB>, x: &str, y: &str)
where
    X: Ranged<ValueType = f64> + ValueFormatter<f64>,
    Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
    DB: DrawingBackend,
{
    mesh.light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(GRID)
        .label_style(("sans-serif", 11, &INK))
        .x_desc(x)
        .y_desc(y)
        .y_label_formatter(&short);
}

fn short(v: &f64) -> String {
    number(*v)
}

fn bounds(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values
        .filter(|v| v.is_finite())
        .fold(None, |range, v| match range {
            None => Some((v, v)),
            Some((low, high)) => Some((v.min(low), v.max(high))),
        })
}

/// Three significant digits, without noise: `12k`, `0.05`, `1e-4`.
fn number(v: f64) -> String {
    let size = v.abs();
    if v == 0.0 {
        "0".into()
    } else if size >= 1e6 {
        trim(format!("{:.2}", v / 1e6)) + "M"
    } else if size >= 1e4 {
        trim(format!("{:.1}", v / 1e3)) + "k"
    } else if size >= 100.0 {
        format!("{v:.0}")
    } else if size >= 0.01 {
        trim(format!("{v:.3}"))
    } else {
        format!("{v:.1e}")
    }
}

fn trim(text: String) -> String {
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(values: &[f64], log: bool) -> Option<String> {
        let points = values
            .iter()
            .enumerate()
            .map(|(i, v)| (i as f64, *v))
            .collect();
        LineChart {
            title: "loss",
            series: vec![("a".into(), points)],
            log,
            at_least: None,
        }
        .svg()
    }

    #[test]
    fn a_chart_needs_a_point_and_stands_constant_and_zero_values() {
        assert!(chart(&[], true).is_none());
        assert!(chart(&[f64::NAN], true).is_none());
        for values in [&[0.0][..], &[2.0, 2.0], &[1e-9, 1e9], &[-1.0, 1.0]] {
            let svg = chart(values, true).unwrap();
            assert!(svg.starts_with("<svg") && svg.contains("loss"));
        }
    }

    #[test]
    fn the_names_of_series_stand_above_every_line() {
        let names = [
            "training batch",
            "held out",
            "a rather long name of a third one",
            "d",
        ];
        let all = names.iter().map(|name| {
            let points = (0..9).map(|x| (f64::from(x), f64::from(x % 3))).collect();
            ((*name).to_owned(), points)
        });
        let svg = LineChart {
            title: "EV",
            series: all.collect(),
            log: false,
            at_least: None,
        }
        .svg()
        .unwrap();
        let tag = |text: &str| {
            let at = svg.find(&format!(">\n{text}\n")).unwrap();
            svg[..at].rfind("<text").map(|from| &svg[from..at]).unwrap()
        };
        let number = |tag: &str, name: &str| -> f64 {
            let from = tag.find(&format!(" {name}=\"")).unwrap() + name.len() + 3;
            let text = &tag[from..];
            text[..text.find('"').unwrap()].parse().unwrap()
        };
        let lowest = names.map(|name| number(tag(name), "y") + 6.0);
        let lowest = lowest.into_iter().fold(0.0, f64::max);
        let dots = svg.split("<circle").skip(1);
        let highest = dots
            .map(|dot| number(dot, "cy") - 3.0)
            .fold(f64::MAX, f64::min);
        assert!(lowest < highest, "{lowest} {highest}");
        // And none beyond the right edge.
        let right = names.map(|name| number(tag(name), "x") + 5.5 * name.len() as f64);
        assert!(
            right.into_iter().all(|x| x < f64::from(SIZE.0)),
            "{right:?}"
        );
    }

    #[test]
    fn the_front_is_what_no_other_point_beats() {
        let point = |x, y| Point {
            at: (x, y),
            label: String::new(),
            strong: false,
        };
        let at = [(8.0, 0.7), (4.0, 0.5), (4.0, 0.6), (16.0, 0.7), (32.0, 0.9)];
        let chart = ScatterChart {
            title: "",
            x: "",
            y: "",
            points: at.iter().map(|(x, y)| point(*x, *y)).collect(),
            front: true,
        };
        assert_eq!(chart.front_line(), [(4.0, 0.6), (8.0, 0.7), (32.0, 0.9)]);
        assert!(chart.svg().unwrap().starts_with("<svg"));
    }

    #[test]
    fn numbers_are_short() {
        let texts = [0.0, 0.05, 1e-4, 12_000.0, 2_500_000.0, 3.25].map(number);
        assert_eq!(texts, ["0", "0.05", "1.0e-4", "12k", "2.5M", "3.25"]);
    }
}
