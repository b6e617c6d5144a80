//! Other programs that the benchmark contains: it runs itself as one of them.

use crate::load::{message, yardstick};
use crate::peer;
use nix::sys::socket::{Backlog, listen};
use nix::time::{ClockId, clock_gettime};
use std::fs;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Echoes at an address until its standard input ends.
const YARDSTICK: &str = "role:yardstick";
/// Kills what is left of a run that could not clean up itself.
const JANITOR: &str = "role:janitor";
/// Writes numbered lines to its standard output.
const LINES: &str = "role:lines";

/// Plays the role that the arguments ask for; `None` if they ask for none.
pub(crate) fn play(arguments: &[String]) -> Option<Result<(), String>> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words[..] {
        [YARDSTICK, address] => echo(address),
        [JANITOR, run] => io::copy(&mut io::stdin(), &mut io::sink()).map(|_| peer::end_all(run)),
        [LINES, count, length, stamp] => lines(count, length, stamp),
        _ => return None,
    };
    Some(outcome.map_err(|e| format!("cannot play {}: {e}", words[0])))
}

/// The yardstick as a command.
pub(crate) fn yardstick_command(address: SocketAddr) -> Result<Command, String> {
    let mut command = Command::new(myself()?);
    command.args([YARDSTICK, &address.to_string()]);
    Ok(command)
}

/// The janitor of this run as a command; it acts when its standard input ends.
pub(crate) fn janitor_command() -> Result<Command, String> {
    let mut command = Command::new(myself()?);
    command.args([JANITOR, &peer::run()]);
    Ok(command)
}

/// A program that writes `count` lines of `length` bytes, and to the file `stamp` when it began.
pub(crate) fn lines_command(count: u32, length: usize, stamp: &Path) -> Result<Vec<String>, String> {
    Ok(vec![myself()?, LINES.into(), count.to_string(), length.to_string(), stamp.display().to_string()])
}

/// How long ago a source of lines wrote its stamp.
pub(crate) fn since(stamp: &Path) -> Result<Duration, String> {
    let began = fs::read_to_string(stamp).map_err(|e| format!("cannot read when the source began: {e}"))?;
    let began: u64 = began.parse().map_err(|e| format!("cannot read when the source began, {began:?}: {e}"))?;
    Ok(now()?.saturating_sub(Duration::from_nanos(began)))
}

/// [`clock`], with an error in words.
pub(crate) fn now() -> Result<Duration, String> {
    clock().map_err(|e| format!("cannot read the clock: {e}"))
}

/// The time on CLOCK_MONOTONIC, which all processes share.
fn clock() -> io::Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_MONOTONIC)?.into())
}

fn myself() -> Result<String, String> {
    let path = std::env::current_exe().map_err(|e| format!("cannot find this program: {e}"))?;
    path.into_os_string().into_string().map_err(|path| format!("cannot name {path:?}: it is not UTF-8"))
}

fn echo(address: &str) -> io::Result<()> {
    let listener = TcpListener::bind(address)?;
    // The same backlog as plumbd's sockets have.
    listen(&listener, Backlog::MAXCONN)?;
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
