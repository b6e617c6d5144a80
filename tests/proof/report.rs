//! The table of what was tried: `tests/GUARANTEE.md`.

use crate::trial::{Ended, Outcome, Trial};
use std::fmt::Write;
use std::io;
use std::path::Path;

const HEAD: &str = "\
# The guarantee, tried

> An echoed message is a saved message. Kill any process at any instant:
> nothing echoed is lost, nothing is saved twice, order holds.

Each row is a fault that was made again and again while clients that number
their messages were under way. Afterwards their record of what was echoed was
compared with the message file and its rotated parts, by the words of the
manual alone and with none of plumbd's own code: every echoed message exactly
once, whole, each connection's in order, and nothing that nobody sent. The
control is the same trial with the protection taken away: it must be found out.

This table was written by the command that made it; run it again, as root:

```sh
cargo test --profile proof --test proof -- --write tests/GUARANTEE.md
```

";

/// Writes the table.
pub(crate) fn write(path: &Path, outcomes: &[(&Trial, Outcome)]) -> io::Result<()> {
    let mut text = HEAD.to_owned();
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
