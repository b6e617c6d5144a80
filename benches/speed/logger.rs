//! Lines from a pipe to a file: plumbd's logger, against `cat >file`.
//!
//! Both get the same lines from the same program through a pipe of the same
//! capacity, and the clock runs from just before its first byte until the file
//! has the length that it will have.

use crate::load::checker::Format;
use crate::load::generator::Connection;
use crate::rig::{self, Rig};
use crate::table::{Table, at_least, median, spread};
use crate::{Options, roles};
use plumbd::sys::pipe::Pipe;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Bytes of a line, with its newline.
const LINE: usize = 100;
/// The source's name, which is its peer in the file.
const SOURCE: &str = "source";
/// A link's capacity, by default.
const CAPACITY: usize = 1 << 20;
/// Formats, and the share of cat's rate that each shall reach.
const FORMATS: [(Format, f64); 2] = [(Format::Raw, 0.6), (Format::Text, 0.35)];

/// Runs all rounds and prints the table.
pub(crate) fn measure(options: &Options) -> Result<(), String> {
    let lines = u32::try_from((options.mebibytes << 20) / LINE).map_err(|e| format!("cannot number lines: {e}"))?;
    let mut cat = Vec::new();
    let mut plumbd = FORMATS.map(|_| Vec::new());
    for round in 1..=options.rounds {
        cat.push(rate(lines, measure_cat(lines)?));
        for ((format, _), rates) in FORMATS.iter().zip(&mut plumbd) {
            let (took, file) = measure_plumbd(lines, *format)?;
            rates.push(rate(lines, took));
            println!("round {round}, {}: message file: {file}", format.name());
        }
    }
    println!();
    let mut table = Table::new(&["logger", "MiB/s of input", "of cat", "wanted"]);
    table.row(["cat >file".to_owned(), format!("{:.0}", median(&cat)), String::new(), String::new()]);
    for ((format, wanted), rates) in FORMATS.iter().zip(&plumbd) {
        let ratios: Vec<f64> = rates.iter().zip(&cat).map(|(rate, cat)| rate / cat).collect();
        let wanted = at_least(*wanted, median(&ratios));
        table.row([format.name().to_owned(), format!("{:.0}", median(rates)), spread(&ratios), wanted]);
    }
    table.print(&format!("{lines} lines of {LINE} bytes from a pipe, {} rounds", options.rounds));
    Ok(())
}

/// MiB of input a second.
fn rate(lines: u32, took: Duration) -> f64 {
    f64::from(lines) * LINE as f64 / f64::from(1 << 20) / took.as_secs_f64()
}

fn measure_cat(lines: u32) -> Result<Duration, String> {
    let cannot = |e: std::io::Error| format!("cannot measure cat: {e}");
    let folder = rig::folder()?;
    let (stamp, file) = (folder.path().join("began"), folder.path().join("messages"));
    let pipe = Pipe::new(CAPACITY).map_err(cannot)?;
    let out = File::create(&file).map_err(cannot)?;
    let mut cat = Command::new("cat").stdin(pipe.read).stdout(out).spawn().map_err(cannot)?;
    let source = roles::lines_command(lines, LINE, &stamp)?;
    let mut source =
        Command::new(&source[0]).args(&source[1..]).stdin(Stdio::null()).stdout(pipe.write).spawn().map_err(cannot)?;
    let wanted = u64::from(lines) * LINE as u64;
    let took = loop {
        let ended = cat.try_wait().map_err(cannot)?.is_some();
        if let Some(took) = filled(&file, wanted, &stamp) {
            break took;
        }
        if ended {
            return Err("cannot measure cat: it ended before the file was whole".to_owned());
        }
        std::thread::sleep(rig::LOOK);
    };
    source.wait().and_then(|_| cat.wait()).map_err(cannot)?;
    took
}

fn measure_plumbd(lines: u32, format: Format) -> Result<(Duration, String), String> {
    let folder = rig::folder()?;
    let (stamp, file) = (folder.path().join("began"), folder.path().join("messages"));
    let command = roles::lines_command(lines, LINE, &stamp)?;
    let mut rig = Rig::start(folder, &configuration(&command, format))?;
    let wanted = u64::from(lines) * length(format) as u64;
    let took = rig.wait_for(|| filled(&file, wanted, &stamp))?;
    rig.stop()?;
    let sent = Connection {
        number: 0,
        peer: SOURCE.to_owned(),
        length: LINE,
        sent: lines,
        part: 0,
        echoed: lines,
        echoed_part: 0,
    };
    Ok((took, rig.check(&file, format, &[sent])?))
}

/// Bytes that a line takes in the file.
fn length(format: Format) -> usize {
    match format {
        Format::Text => "2026-11-22T15:04:05.123456Z".len() + 1 + SOURCE.len() + 1 + LINE,
        Format::Raw | Format::Json => LINE,
    }
}

fn configuration(command: &[String], format: Format) -> String {
    // A list of strings is written alike in Rust and in TOML.
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

/// How long it took, once the file has its length.
fn filled(file: &Path, wanted: u64, stamp: &Path) -> Option<Result<Duration, String>> {
    let length = fs::metadata(file).map_or(0, |file| file.len());
    if length < wanted {
        return None;
    }
    let took = || {
        let now = roles::clock().map_err(|e| format!("cannot read the clock: {e}"))?;
        let began = fs::read_to_string(stamp).map_err(|e| format!("cannot read when the source began: {e}"))?;
        let began: u64 = began.parse().map_err(|e| format!("cannot read when the source began, {began:?}: {e}"))?;
        Ok(now.saturating_sub(Duration::from_nanos(began)))
    };
    Some(took())
}
