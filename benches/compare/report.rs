//! Formats the table for people, and writes it to the file that keeps the last run's.

use crate::Scale;
use crate::table::{Part, render};
use std::fs;
use std::path::Path;
use std::time::Duration;

const HEAD: &str = "\
# plumbd beside others

The results of one run, in which the programs took turns, on the machine named
below. To get those of your machine:

```sh
cargo bench --bench compare -- --write benches/RESULTS.md
```

A ratio is plumbd's figure divided by the figure beside it, from the same round:
the median of all rounds, then the least and the most. For rates, more is
better; for times and sizes, less.

";

/// The machine, the table, and the notes that explain it.
pub(crate) fn render_all(machine: &str, scale: &Scale, took: Duration, parts: &[Part]) -> String {
    let lines = || parts.iter().flat_map(|part| &part.lines);
    let (reached, short) = (lines().filter(|l| l.reaches()).count(), lines().filter(|l| l.falls_short()).count());
    let run =
        format!("{} rounds, loads of {} s, {:.0} s in all", scale.rounds, scale.load.as_secs_f64(), took.as_secs_f64());
    let mut text = format!(
        "Machine: {machine}.\nRun: {run}{}.\n",
        scale.pick("", "; a short one, whose figures are worth little")
    );
    for head in parts.iter().filter_map(|part| part.head.as_ref()) {
        text += &format!("{head}\n");
    }
    text.push('\n');
    text += &render(lines());
    text += &format!("\n{reached} reached, {short} not reached.\n");
    for note in parts.iter().flat_map(|part| &part.notes) {
        text += &format!("\n- {note}");
    }
    text + "\n"
}

/// Writes the table to a file, and charts beside it.
///
/// # Errors
/// They can't be written.
pub(crate) fn write(path: &Path, text: &str, parts: &[Part]) -> Result<(), String> {
    let mut all = format!("{HEAD}{text}");
    for chart in parts.iter().flat_map(|part| &part.charts) {
        let file = path.with_file_name(chart.file);
        fs::write(&file, chart.svg()).map_err(|e| format!("cannot write {}: {e}", file.display()))?;
        all += &format!("\n![{}]({})\n", chart.title, chart.file);
    }
    fs::write(path, all).map_err(|e| format!("cannot write {}: {e}", path.display()))
}
