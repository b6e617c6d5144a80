//! Children for the trials, which are modes of this executable: sources that number
//! their lines, filters that lose nothing when they are killed, one-shot jobs,
//! and children that are slow to start or ignore their stop signal.
//!
//! Each adds a line to the file `starts` when it starts, so that a trial knows
//! which processes there were, and when each was forked.

use crate::load::message;
use nix::errno::Errno;
use nix::fcntl::{SpliceFFlags, splice, tee};
use signal_hook::consts::SIGTERM;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// The first argument of such a child.
const MODE: &str = "--as-child";
/// A line of a source, with its newline.
pub(crate) const LENGTH: usize = 64;
/// The number of a source is this plus its pid.
const NUMBERS: u32 = 0x4000_0000;
/// The file in which starts are noted.
const STARTS: &str = "starts";

/// What such a child does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Program {
    /// Writes numbered lines, one every `pace` microseconds, then sleeps.
    Source { lines: u32, pace: u32 },
    /// Passes lines on, one every `pace` microseconds. If `polite`, it exits with status 0 on
    /// SIGTERM. If `swallow` is not 0, it drops each line whose number is a multiple of that.
    Filter { pace: u32, polite: bool, swallow: u32 },
    /// Sleeps for this many milliseconds, then exits with this status.
    Job { lasts: u32, status: u8 },
    /// Ignores SIGTERM.
    Deaf,
    /// Writes its newline to `$PLUMBD_READY_FD` after this many milliseconds.
    Slow { after: u32 },
    /// Never becomes ready.
    NeverReady,
    /// Sleeps; exits with status 0 on SIGTERM.
    Plain,
}

impl Program {
    /// Its `command` in a configuration, as TOML.
    pub(crate) fn command(&self) -> String {
        let own = std::env::current_exe().unwrap();
        let words: Vec<String> = match self {
            Program::Source { lines, pace } => vec!["source".to_owned(), lines.to_string(), pace.to_string()],
            Program::Filter { pace, polite, swallow } => {
                vec!["filter".to_owned(), pace.to_string(), polite.to_string(), swallow.to_string()]
            }
            Program::Job { lasts, status } => vec!["job".to_owned(), lasts.to_string(), status.to_string()],
            Program::Deaf => vec!["deaf".to_owned()],
            Program::Slow { after } => vec!["slow".to_owned(), after.to_string()],
            Program::NeverReady => vec!["never-ready".to_owned()],
            Program::Plain => vec!["plain".to_owned()],
        };
        let quoted: Vec<String> = [own.to_str().unwrap(), MODE]
            .into_iter()
            .map(str::to_owned)
            .chain(words)
            .map(|word| format!("{word:?}"))
            .collect();
        format!("command = [{}]", quoted.join(", "))
    }
}

/// If this process is such a child, this never returns.
pub(crate) fn become_one() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_none_or(|first| first != MODE) {
        return;
    }
    let name = std::env::var("PLUMBD_CHILD").unwrap();
    note_start(&name);
    let number = |place: usize| arguments[place].parse::<u32>().unwrap();
    match &*arguments[1] {
        "source" => source(&name, number(2), number(3)),
        "filter" => filter(number(2), arguments[3] == "true", number(4)),
        "job" => {
            sleep(number(2) * 1000);
            std::process::exit(i32::try_from(number(3)).unwrap());
        }
        "deaf" => {
            // A handler that does nothing.
            signal_hook::flag::register(SIGTERM, Arc::new(AtomicBool::new(false))).unwrap();
            say_ready();
        }
        "slow" => {
            sleep(number(2) * 1000);
            say_ready();
        }
        "plain" => exit_on_stop(),
        "never-ready" => {}
        other => panic!("there is no {other}"),
    }
    loop {
        sleep(1_000_000_000);
    }
}

fn sleep(microseconds: u32) {
    if microseconds > 0 {
        std::thread::sleep(Duration::from_micros(microseconds.into()));
    }
}

/// Makes SIGTERM end this process at once with status 0.
fn exit_on_stop() {
    signal_hook::flag::register_conditional_shutdown(SIGTERM, 0, Arc::new(AtomicBool::new(true))).unwrap();
}

fn say_ready() {
    if let Ok(number) = std::env::var("PLUMBD_READY_FD") {
        File::options().write(true).open(format!("/proc/self/fd/{number}")).unwrap().write_all(b"\n").unwrap();
    }
}

fn note_start(name: &str) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let forked = stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().nth(19).unwrap();
    let line = format!("{name} {} {forked}\n", std::process::id());
    File::options().create(true).append(true).open(STARTS).unwrap().write_all(line.as_bytes()).unwrap();
}

/// A start of a child.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) name: String,
    /// When its process was forked, in clock ticks since boot.
    pub(crate) forked: u64,
}

/// Every start in that folder.
pub(crate) fn starts(dir: &Path) -> Vec<Started> {
    let text = std::fs::read_to_string(dir.join(STARTS)).unwrap_or_default();
    let lines = text.lines().map(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        Started { name: words[0].to_owned(), forked: words[2].parse().unwrap() }
    });
    lines.collect()
}

/// Each line goes into the pipe whole or not at all, and is noted after that.
fn source(name: &str, lines: u32, pace: u32) {
    let pid = std::process::id();
    let note = File::create(format!("told.{name}.{pid}")).unwrap();
    note.write_all_at(&0u32.to_ne_bytes(), 0).unwrap();
    let stdout = std::io::stdout().as_fd().try_clone_to_owned().unwrap();
    let mut line = Vec::new();
    for sequence in 0..lines {
        line.clear();
        message::append(NUMBERS + pid, sequence, LENGTH, &mut line);
        File::from(stdout.try_clone().unwrap()).write_all(&line).unwrap();
        note.write_all_at(&(sequence + 1).to_ne_bytes(), 0).unwrap();
        sleep(pace);
    }
}

/// The lines that one process of a source wrote.
#[derive(Debug, Clone)]
pub(crate) struct Told {
    pub(crate) number: u32,
    /// This many for certain, and maybe one more.
    pub(crate) lines: u32,
}

/// What the sources in that folder noted.
pub(crate) fn told(dir: &Path) -> Vec<Told> {
    let names = dir.read_dir().unwrap().map(|entry| entry.unwrap().file_name());
    let told = names.filter_map(|name| {
        let name = name.to_str()?.to_owned();
        let (_, pid) = name.strip_prefix("told.")?.rsplit_once('.')?;
        // A process that was killed before it noted anything wrote nothing.
        let bytes = std::fs::read(dir.join(&name)).unwrap();
        let lines = bytes.first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes));
        Some(Told { number: NUMBERS + pid.parse::<u32>().unwrap(), lines })
    });
    told.collect()
}

/// A line is looked at while it stays in the pipe, then moved by splice(2). So whenever this
/// is killed, each byte is in one of the two pipes.
fn filter(pace: u32, polite: bool, swallow: u32) -> ! {
    if polite {
        exit_on_stop();
    }
    let stdin = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    let stdout = std::io::stdout().as_fd().try_clone_to_owned().unwrap();
    let (peeked, peek) = nix::unistd::pipe().unwrap();
    let mut bytes = vec![0; 4096];
    loop {
        let Some(seen) = some(|| tee(&stdin, &peek, bytes.len(), SpliceFFlags::empty())) else {
            std::process::exit(0);
        };
        let mut have = 0;
        while have < seen {
            have += nix::unistd::read(&peeked, &mut bytes[have..seen]).unwrap();
        }
        let length = bytes[..seen].iter().position(|&byte| byte == b'\n').map_or(seen, |at| at + 1);
        sleep(pace);
        if swallow > 0 && message::numbers(&bytes[..seen]).is_some_and(|(_, sequence)| sequence % swallow == 0) {
            let _swallowed = nix::unistd::read(&stdin, &mut bytes[..length]).unwrap();
            continue;
        }
        pass_on(&stdin, &stdout, length);
    }
}

fn pass_on(stdin: &OwnedFd, stdout: &OwnedFd, mut length: usize) {
    while length > 0 {
        let Some(moved) = some(|| splice(stdin, None, stdout, None, length, SpliceFFlags::empty())) else { return };
        length -= moved;
    }
}

/// Repeats a call until it is not interrupted. Returns `None` at the end of input.
fn some(mut call: impl FnMut() -> nix::Result<usize>) -> Option<usize> {
    loop {
        match call() {
            Ok(0) => return None,
            Ok(count) => return Some(count),
            Err(Errno::EINTR) => {}
            Err(error) => panic!("{error}"),
        }
    }
}
