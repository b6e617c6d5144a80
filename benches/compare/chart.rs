//! Draws line charts as SVG: to the right, what grows, on a logarithmic scale; upwards, the
//! cost, from zero.

use crate::table::short;
use std::fmt::Write;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 260.0;
/// The margins: left and right, above and below.
const SIDE: f64 = 70.0;
const EDGE: f64 = 45.0;

/// A cost as something grows.
pub(crate) struct Chart {
    pub(crate) file: &'static str,
    pub(crate) title: String,
    /// What grows.
    pub(crate) x: &'static str,
    /// Each value of `x`, with the cost there.
    pub(crate) points: Vec<(f64, f64)>,
}

impl Chart {
    pub(crate) fn svg(&self) -> String {
        let place = |x: f64| x.max(1.0).log10();
        let ends = |pick: fn(f64, f64) -> f64, start: f64| self.points.iter().map(|(x, _)| place(*x)).fold(start, pick);
        let (first, last) = (ends(f64::min, f64::INFINITY), ends(f64::max, f64::NEG_INFINITY));
        let most = self.points.iter().map(|(_, y)| *y).fold(0.0, f64::max).max(f64::MIN_POSITIVE) * 1.25;
        let right = |x: f64| SIDE + (place(x) - first) / (last - first).max(0.1) * (WIDTH - 2.0 * SIDE);
        let down = |y: f64| HEIGHT - EDGE - y / most * (HEIGHT - 2.0 * EDGE);
        let (floor, ceiling) = (down(0.0), down(most));
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
             font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n\
             <text x=\"{SIDE}\" y=\"24\" font-size=\"15\">{}</text>\n\
             <path d=\"M{SIDE} {ceiling} V{floor} H{}\" fill=\"none\" stroke=\"gray\"/>\n\
             <text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n",
            self.title,
            WIDTH - SIDE,
            WIDTH / 2.0,
            HEIGHT - 8.0,
            self.x
        );
        let mut line = String::new();
        for &(x, y) in &self.points {
            let (right, down) = (right(x), down(y));
            // Writing to a String can't fail.
            let _infallible = writeln!(
                svg,
                "<circle cx=\"{right:.1}\" cy=\"{down:.1}\" r=\"3\"/>\n\
                 <text x=\"{right:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\n\
                 <text x=\"{right:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                down - 9.0,
                short(y),
                floor + 16.0,
                count(x)
            );
            line += &format!("{}{right:.1} {down:.1} ", if line.is_empty() { "M" } else { "L" });
        }
        svg + &format!("<path d=\"{line}\" fill=\"none\" stroke=\"black\"/>\n</svg>\n")
    }
}

/// `10`, `2 k`, `3 M`, `4 G`.
pub(crate) fn count(number: f64) -> String {
    let (value, unit) = match number {
        ..1e3 => (number, ""),
        ..1e6 => (number / 1e3, " k"),
        ..1e9 => (number / 1e6, " M"),
        _ => (number / 1e9, " G"),
    };
    format!("{value:.0}{unit}")
}
