//! Lines from a pipe to a file: plumbd's logger, beside `cat >file` and beside
//! loggers that put the time before each line.
//!
//! All get the same lines from the same program, through a pipe of the same
//! capacity. The clock runs from just before the first byte is written until the last
//! one is in the file.

use crate::load::checker::Format;
use crate::load::generator::Connection;
use crate::loggers::{CAPACITY, LINE, Logger, STAMPERS, took};
use crate::rig::{self, Rig};
use crate::roles;
use crate::table::{Line, Part, Wanted, mebibytes_a_second};
use crate::{Row, Scale};
use std::fs;
use std::time::Duration;

/// The source's name, which the file shows as the peer.
const SOURCE: &str = "source";

pub(crate) const ROWS: &[Row] = &[
    Row { name: "logger/raw", about: "lines of 100 B from a pipe to a file, as they are", measure: raw },
    Row { name: "logger/stamped", about: "lines of 100 B from a pipe to a file, time-stamped", measure: stamped },
];

fn raw(scale: &Scale) -> Result<Part, String> {
    let lines = lines(scale.pick(256, 32))?;
    let (mut cat, mut raw, mut text) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..scale.rounds {
        raw.push(rate(lines, plumbd(lines, Format::Raw)?));
        cat.push(rate(lines, took(Logger::Cat, lines)?));
        text.push(rate(lines, plumbd(lines, Format::Text)?));
    }
    let unit = mebibytes_a_second;
    let lines = vec![
        Line::compare("logger, raw", &raw, "cat >file", &cat, unit, Wanted::AtLeast(0.8)),
        Line::compare("logger, text (time-stamped)", &text, "cat >file", &cat, unit, Wanted::Nothing),
    ];
    Ok(Part { lines, ..Part::default() })
}

fn stamped(scale: &Scale) -> Result<Part, String> {
    let lines = lines(scale.pick(64, 16))?;
    let mut plumbd_rates = Vec::new();
    let mut others = STAMPERS.map(|_| Ok(Vec::new()));
    for _ in 0..scale.rounds {
        plumbd_rates.push(rate(lines, plumbd(lines, Format::Text)?));
        for ((logger, _), rates) in STAMPERS.iter().zip(&mut others) {
            if let Ok(all) = rates {
                match took(*logger, lines) {
                    Ok(took) => all.push(rate(lines, took)),
                    Err(why) => *rates = Err(why),
                }
            }
        }
    }
    let what = "logger, text (time-stamped)";
    let mut part = Part::default();
    for ((logger, name), rates) in STAMPERS.iter().zip(&others) {
        let wanted = if matches!(logger, Logger::Rsyslog) { Wanted::Nothing } else { Wanted::AtLeast(5.0) };
        part.lines.push(match rates {
            Ok(rates) => Line::compare(what, &plumbd_rates, name, rates, mebibytes_a_second, wanted),
            Err(why) => Line::left_out(what, name, why),
        });
    }
    part.notes.push(
        "Of the loggers, plumbd's alone is safe from crashes: what others have read and not yet written is gone \
         when they are killed. rsyslogd reads no pipe: it was given the same lines as a file to follow, and its \
         time has its start in it."
            .to_owned(),
    );
    Ok(part)
}

fn lines(mebibytes: usize) -> Result<u32, String> {
    u32::try_from((mebibytes << 20) / LINE).map_err(|e| format!("cannot number lines: {e}"))
}

/// Bytes of input per second.
fn rate(lines: u32, took: Duration) -> f64 {
    f64::from(lines) * LINE as f64 / took.as_secs_f64()
}

fn plumbd(lines: u32, format: Format) -> Result<Duration, String> {
    let folder = rig::folder()?;
    let (stamp, file) = (folder.path().join("began"), folder.path().join("messages"));
    let command = roles::lines_command(lines, LINE, &stamp)?;
    let mut rig = Rig::start(folder, &configuration(&command, format))?;
    let wanted = u64::from(lines) * length(format) as u64;
    let filled = || fs::metadata(&file).is_ok_and(|file| file.len() >= wanted).then(|| roles::since(&stamp));
    let took = rig.wait_for(filled)?;
    rig.stop()?;
    let sent = Connection { sent: lines, echoed: lines, ..Connection::new(0, SOURCE.to_owned(), LINE) };
    rig.check(&file, 0, format, &[sent])?;
    Ok(took)
}

/// Bytes that a line takes in the file.
fn length(format: Format) -> usize {
    match format {
        Format::Text => "2026-11-22T15:04:05.123456Z".len() + 1 + SOURCE.len() + 1 + LINE,
        Format::Raw | Format::Json => LINE,
    }
}

fn configuration(command: &[String], format: Format) -> String {
    format!(
        r#"[children.{SOURCE}]
command = {command:?}
restart = "never"

[children.logger]
plugin = "logger"
settings = {{ file = "messages", format = "{}" }}

[[links]]
from = "{SOURCE}"
to = "logger"
capacity = "{}KiB"
"#,
        format.name(),
        CAPACITY / 1024
    )
}
