//! The table of the trials of a run: `tests/GUARANTEE.md`.

use crate::trial::{Ended, Outcome, Trial};
use std::fmt::Write;
use std::io;
use std::path::Path;

const HEAD: &str = "\
# The guarantee, tried

> An echoed message is a saved message. Kill any process at any instant:
> nothing echoed is lost, nothing is saved twice, order holds.

Each row is a fault that was made again and again, with what must hold, what
was tried and what came of it, in numbers that were counted in that run. Where
there are clients, they number their messages and remember what was echoed;
afterwards that is compared with the message file and its rotated parts, by the
words of the manual alone and with none of plumbd's own code. The control shows
that the trial would have seen the fault: what it is stands in the row, and
where it is not found out, the trial is broken.

This table was written by this command, as root; run it again:

```sh
";

/// Writes the table.
pub(crate) fn write(path: &Path, outcomes: &[(&Trial, Outcome)]) -> io::Result<()> {
    let mut text = HEAD.to_owned();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    text += &format!("cargo test --profile proof --test proof -- {}\n```\n\n", arguments.join(" "));
    text += &format!("Machine: {}.\n\n", machine());
    text += "| trial | fault | promise | tried | outcome | control | time |\n|---|---|---|---|---|---|---|\n";
    for (trial, outcome) in outcomes {
        let (tried, came, control) = match &outcome.what {
            Ok(tried) => (&*tried.count, &*tried.outcome, &*tried.control),
            Err(Ended::LeftOut(why)) => ("left out", &**why, ""),
            Err(Ended::Broken(why)) => ("", &**why, ""),
        };
        let cells = [trial.fault, trial.promise, tried, came, control].map(cell).join(" | ");
        let _never_fails = writeln!(text, "| `{}` | {cells} | {:.0} s |", trial.name, outcome.took.as_secs_f64());
    }
    std::fs::write(path, text)
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{cores} cores, Linux {}", kernel.trim())
}
