//! Ordinary programs that are killed within a line. Whatever process is killed, what a
//! program wrote is saved byte for byte: the half line of a dead program stays in the pipe,
//! and what the next program writes continues it.

use super::doctor::any;
use super::random::with_each;
use super::service::{Load, Setting};
use crate::load::checker::{self, Format};
use crate::load::message;
use crate::trial::{Tried, scaled};
use memchr::memmem;
use std::ops::AddAssign;
use std::path::Path;

/// As `tick`, it writes five lines and half of one, then the other half, five more and half of
/// one, and so on, each in one write that goes into the pipe as a whole or not at all. As
/// `tock`, it writes lines that are saved in two parts, each in one write that may be cut
/// anywhere. It notes each write.
pub(crate) const PROGRAM: &str = r#"#!/bin/sh
told=told.$PLUMBD_CHILD.$$
: >"$told"
echo $$ >>runs.$PLUMBD_CHILD
exec awk -v n=$((0x40000000 + $$)) -v told="$told" -v long="$PLUMBD_CHILD" '
function head(j) { return sprintf("%08x.%08x ", n, j) }
function line(j) { return head(j) substr(f, (n * 31 + j * 7) % 64 + 1, 45) "\n" }
function write(text, pause) { printf "%s", text; fflush(); printf "." >>told; fflush(told); system(pause) }
BEGIN {
    f = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+-"; f = f f
    if (long == "tock") {
        for (k = 0; k < 1562; k++) body = body sprintf("%064d", k)
        for (i = 0; ; i++) write(head(i) body "\n", "sleep 0.03")
    }
    for (i = 0; ; i += 6) {
        all = rest
        for (j = i; j < i + 5; j++) all = all line(j)
        rest = substr(line(j), 31)
        write(all substr(line(j), 1, 30), "sleep 0.002")
    }
}'
"#;
/// How many lines one write of `tick` has, of which the last is a half, and the length of a line
/// and of a half; as in [`PROGRAM`].
const LINES: usize = 6;
const LENGTH: usize = 64;
const HALF: usize = 30;
/// How many rows of 64 digits a line of `tock` has, and how many bytes.
const ROWS: usize = 1562;
const LONG: usize = 18 + 64 * ROWS + 1;
/// The number of a program is this plus its pid.
const NUMBERS: u32 = 0x4000_0000;

/// What was found about one program's bytes.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Halves {
    pub(crate) runs: u64,
    pub(crate) bytes: u64,
    /// Halves that are followed by the first line of the next program.
    pub(crate) gone_on: u64,
    /// Halves that became a line, because the link ended after them.
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

/// Kills any of the processes.
pub(crate) fn attempt(times: f64) -> Tried {
    let setting =
        |managed| Setting { echo_after: "saved", load: Load::Halves, managed, pipes_are_lost: false, rotate: false };
    let count = with_each(vec![setting(false), setting(true)], |service| {
        for _ in 0..scaled(60, times) {
            service.wait_any_instant();
            match any(4) {
                0 => service.kill_and_see_replaced(&["logger"]),
                1 => service.kill_and_see_replaced(&["tick"]),
                2 => service.kill_and_see_replaced(&["logger", "tick", "tock"]),
                _ => {
                    // Without a manager, only the logger keeps the pipes then, so there must be one.
                    service.daemon.child_pid_when_up("logger");
                    service.kill_supervisor(service.is_managed() && any(2) == 0);
                    service.start_again();
                }
            }
        }
    });
    count.tried(&super::control::a_sink_that_reads_lines())
}

/// Compares what a program wrote, according to its notes in that folder, with its bytes in the
/// file.
///
/// # Errors
/// The first difference.
pub(crate) fn check(dir: &Path, child: &str, saved: &[u8]) -> Result<Halves, String> {
    let runs = std::fs::read_to_string(dir.join(format!("runs.{child}"))).unwrap();
    let mut found = Halves::default();
    let mut at = 0;
    let mut runs = runs.lines().map(|pid| Run::of(dir, child, pid)).filter(|run| run.is_in(saved)).peekable();
    while let Some(run) = runs.next() {
        let next = runs.peek().map_or(saved.len(), |next| next.begins(saved, at));
        let is = &saved[at..next];
        // The end of the link turns a half into a line.
        let is_ended = is.ends_with(b"\n") && !run.written.starts_with(is);
        let is = if is_ended { &is[..is.len() - 1] } else { is };
        if is.len() < run.noted || !run.written.starts_with(is) {
            let same = is.iter().zip(&run.written).take_while(|(a, b)| a == b).count();
            let (pid, noted, all) = (run.pid, run.noted, is.len());
            return Err(format!(
                "{child} {pid} wrote {noted} bytes, {all} are there, of which the first {same} are right"
            ));
        }
        found.runs += 1;
        found.bytes += is.len() as u64;
        found.ended += u64::from(is_ended);
        found.gone_on += u64::from(!is_ended && !is.ends_with(b"\n"));
        at = next;
    }
    if at < saved.len() {
        return Err(format!("{} bytes of {child} are there that it did not write", saved.len() - at));
    }
    Ok(found)
}

/// One process of a program.
struct Run {
    pid: String,
    /// What it may have written. If it was killed in or after a write, it could not note that.
    written: Vec<u8>,
    /// How many bytes it has certainly written.
    noted: usize,
}

impl Run {
    fn of(dir: &Path, child: &str, pid: &str) -> Run {
        let writes = std::fs::read(dir.join(format!("told.{child}.{pid}"))).unwrap().len();
        let number = NUMBERS + pid.parse::<u32>().unwrap();
        let long = child == "tock";
        Run {
            pid: pid.to_owned(),
            written: if long { long_lines(number, writes + 1) } else { halved_lines(number, writes + 1) },
            noted: if long { writes * LONG } else { end_of_write(writes) },
        }
    }

    /// Its first 18 bytes, which no other process has.
    fn head(&self) -> &[u8] {
        &self.written[..18]
    }

    /// Whether it wrote anything, as far as can be told.
    fn is_in(&self, saved: &[u8]) -> bool {
        self.noted > 0 || memmem::find(saved, self.head()).is_some()
    }

    /// Where its bytes begin; at the end if they are missing.
    fn begins(&self, saved: &[u8], from: usize) -> usize {
        memmem::find(&saved[from..], self.head()).map_or(saved.len(), |at| from + at)
    }
}

/// The bytes of one child in a file in the json format, with line ends.
pub(crate) fn bytes_of(child: &str, file: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in file.split_inclusive(|byte| *byte == b'\n') {
        let entry = checker::entry(line, Format::Json).expect("a torn line");
        if entry.peer.as_deref() == Some(child) {
            bytes.extend_from_slice(&entry.message);
            if entry.more != Some(true) {
                bytes.push(b'\n');
            }
        }
    }
    bytes
}

/// Where in its bytes that many writes of `tick` end.
fn end_of_write(writes: usize) -> usize {
    if writes == 0 { 0 } else { (writes * LINES - 1) * LENGTH + HALF }
}

/// The bytes of that many writes of `tick`.
fn halved_lines(number: u32, writes: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for sequence in 0..writes * LINES {
        message::append(number, u32::try_from(sequence).unwrap(), LENGTH, &mut bytes);
    }
    bytes.truncate(end_of_write(writes));
    bytes
}

/// The bytes of that many writes of `tock`.
fn long_lines(number: u32, writes: usize) -> Vec<u8> {
    let body: String = (0..ROWS).map(|row| format!("{row:064}")).collect();
    (0..writes).flat_map(|sequence| format!("{number:08x}.{sequence:08x} {body}\n").into_bytes()).collect()
}
