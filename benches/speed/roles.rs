//! Programs that the benchmark is besides: it runs itself as one of them.

use crate::load::{message, yardstick};
use nix::time::{ClockId, clock_gettime};
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Echoes on a port of its own until its standard input ends.
const YARDSTICK: &str = "role:yardstick";
/// Writes numbered lines to its standard output.
const LINES: &str = "role:lines";
/// Says when it began, then waits to be killed.
const PROBE: &str = "role:probe";

/// Plays the role that the arguments ask for; `None` where they ask for none.
pub(crate) fn play(arguments: &[String]) -> Option<Result<(), String>> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words[..] {
        [PROBE, fifo] => probe(fifo),
        [YARDSTICK] => echo(),
        [LINES, count, length, stamp] => lines(count, length, stamp),
        _ => return None,
    };
    Some(outcome.map_err(|e| format!("cannot play {}: {e}", words[0])))
}

/// The yardstick as a command.
pub(crate) fn yardstick_command() -> Result<Command, String> {
    let mut command = Command::new(myself()?);
    command.arg(YARDSTICK);
    Ok(command)
}

/// A program that writes `count` lines of `length` bytes, and to the file `stamp` when it began.
pub(crate) fn lines_command(count: u32, length: usize, stamp: &Path) -> Result<Vec<String>, String> {
    Ok(vec![myself()?, LINES.into(), count.to_string(), length.to_string(), stamp.display().to_string()])
}

/// A program that writes to the FIFO when it began, and waits.
pub(crate) fn probe_command(fifo: &Path) -> Result<Vec<String>, String> {
    Ok(vec![myself()?, PROBE.into(), fifo.display().to_string()])
}

/// The time on CLOCK_MONOTONIC, which all processes share.
pub(crate) fn clock() -> io::Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_MONOTONIC)?.into())
}

fn myself() -> Result<String, String> {
    let path = std::env::current_exe().map_err(|e| format!("cannot find this program: {e}"))?;
    path.into_os_string().into_string().map_err(|path| format!("cannot name {path:?}: it is not UTF-8"))
}

fn echo() -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?);
    yardstick::serve(&listener, io::stdin())
}

fn lines(count: &str, length: &str, stamp: &str) -> io::Result<()> {
    let count: u32 = count.parse().map_err(io::Error::other)?;
    let length: usize = length.parse().map_err(io::Error::other)?;
    let mut out = Vec::with_capacity(128 * 1024);
    let mut stdout = io::stdout().lock();
    fs::write(stamp, clock()?.as_nanos().to_string())?;
    for sequence in 0..count {
        message::append(0, sequence, length, &mut out);
        if out.len() >= 64 * 1024 {
            stdout.write_all(&out)?;
            out.clear();
        }
    }
    stdout.write_all(&out)?;
    stdout.flush()
}

fn probe(fifo: &str) -> io::Result<()> {
    let began = clock()?;
    let line = format!("{} {}\n", std::process::id(), began.as_nanos());
    // In one write, which is atomic at this length (pipe(7)).
    OpenOptions::new().write(true).open(fifo)?.write_all(line.as_bytes())?;
    loop {
        std::thread::park();
    }
}
