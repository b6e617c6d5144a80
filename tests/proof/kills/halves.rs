//! Ordinary programs whose every write ends within a line. What one of them
//! wrote is saved byte for byte, whoever is killed: the half line that a dead
//! one left stays in the pipe, and what the next one writes goes on with it.

use super::count::Count;
use super::doctor::any;
use super::random::with_each;
use super::service::{Load, Setting};
use crate::load::checker::{self, Format};
use crate::load::message;
use crate::trial::{Tried, scaled};
use std::ops::AddAssign;
use std::path::Path;

/// It writes five lines and the half of one, then the other half, five more
/// and the half of one, and so on; each in one write, which it notes.
pub(crate) const PROGRAM: &str = r#"#!/bin/sh
told=told.$PLUMBD_CHILD.$$
: >"$told"
echo $$ >>runs.$PLUMBD_CHILD
exec awk -v n=$((0x40000000 + $$)) -v told="$told" '
function line(j) { return sprintf("%08x.%08x %s\n", n, j, substr(f, (n * 31 + j * 7) % 64 + 1, 45)) }
BEGIN {
    f = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+-"; f = f f
    for (i = 0; ; i += 6) {
        all = rest
        for (j = i; j < i + 5; j++) all = all line(j)
        all = all substr(line(j), 1, 30)
        rest = substr(line(j), 31)
        printf "%s", all; fflush(); printf "." >>told; fflush(told); system("sleep 0.002")
    }
}'
"#;
/// Lines of one write, whose last is a half; bytes of a line, and of a half; as in [`PROGRAM`].
const LINES: usize = 6;
const LENGTH: usize = 64;
const HALF: usize = 30;
/// What a process id is added to.
const NUMBERS: u32 = 0x4000_0000;

/// What was found of one program's bytes.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Halves {
    pub(crate) runs: u64,
    pub(crate) bytes: u64,
    /// Halves behind which the next one's first line stands.
    pub(crate) gone_on: u64,
    /// Halves that are a line, for the end of the link came behind them.
    pub(crate) ended: u64,
}

impl AddAssign for Halves {
    fn add_assign(&mut self, other: Halves) {
        self.runs += other.runs;
        self.bytes += other.bytes;
        self.gone_on += other.gone_on;
        self.ended += other.ended;
    }
}

/// Kills any of them.
pub(crate) fn attempt(times: f64) -> Tried {
    let setting =
        |managed| Setting { echo_after: "saved", load: Load::Halves, managed, pipes_are_lost: false, rotate: false };
    let count: Count = with_each(vec![setting(false), setting(true)], |service| {
        for _ in 0..scaled(60, times) {
            service.wait_any_instant();
            match any(4) {
                0 => service.kill_and_see_replaced(&["logger"]),
                1 => service.kill_and_see_replaced(&["tick"]),
                2 => service.kill_and_see_replaced(&["logger", "tick", "tock"]),
                _ => {
                    // Without a manager the logger is the only one that has the pipes.
                    service.kill_supervisor(service.is_managed() && any(2) == 0);
                    service.start_again();
                }
            }
        }
    });
    count.tried(&super::control::a_sink_that_reads_lines())
}

/// Compares what a program wrote, by its own notes in that folder, with its bytes in the file.
///
/// # Errors
/// The first difference.
pub(crate) fn check(dir: &Path, child: &str, saved: &[u8]) -> Result<Halves, String> {
    let runs = std::fs::read_to_string(dir.join(format!("runs.{child}"))).unwrap();
    let mut found = Halves::default();
    let mut at = 0;
    for pid in runs.lines() {
        let writes = std::fs::read(dir.join(format!("told.{child}.{pid}"))).unwrap().len();
        // Killed behind a write, it could not note it any more.
        let written = written(NUMBERS + pid.parse::<u32>().unwrap(), writes + 1);
        let noted = end_of_write(writes);
        let rest = &saved[at..];
        let length = if rest.starts_with(&written) { written.len() } else { noted };
        if !rest.starts_with(&written[..length]) {
            let same = rest.iter().zip(&written).take_while(|(a, b)| a == b).count();
            return Err(format!("{child} {pid} wrote {noted} bytes and only {same} of them are there, from byte {at}"));
        }
        at += length;
        found.runs += 1;
        found.bytes += length as u64;
        if length > 0 && saved.get(at) == Some(&b'\n') {
            at += 1;
            found.ended += 1;
        } else if length > 0 && at < saved.len() {
            found.gone_on += 1;
        }
    }
    if at < saved.len() {
        return Err(format!("{} bytes of {child} are there that it did not write", saved.len() - at));
    }
    Ok(found)
}

/// The bytes of one child in a file in text, its lines with their ends.
pub(crate) fn bytes_of(child: &str, file: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in file.split_inclusive(|byte| *byte == b'\n') {
        let entry = checker::entry(line, Format::Text).expect("a torn line");
        if entry.peer.as_deref() == Some(child) {
            bytes.extend_from_slice(&entry.message);
            bytes.push(b'\n');
        }
    }
    bytes
}

/// Where in its bytes that many writes end.
fn end_of_write(writes: usize) -> usize {
    if writes == 0 { 0 } else { (writes * LINES - 1) * LENGTH + HALF }
}

/// The bytes of that many writes.
fn written(number: u32, writes: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for sequence in 0..writes * LINES {
        message::append(number, u32::try_from(sequence).unwrap(), LENGTH, &mut bytes);
    }
    bytes.truncate(end_of_write(writes));
    bytes
}
