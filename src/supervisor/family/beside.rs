//! Processes that run beside children: those of checks and of hooks. Each begins a session of
//! its own and has a mark of its own ([`mark`](super::mark)), as if it were a start of a child.
//! So what it leaves behind is found, and ends with it.

use crate::supervisor::event_loop::Supervisor;
use crate::supervisor::family::spawn::{self, Around, Beside};
use crate::supervisor::poll::{Id, Token, Watched};
use crate::sys::cause::cause;
use crate::sys::pipe::{self, Pipe};
use crate::sys::process::{self, Exec, Exit};
use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// How much of its output is read at once.
pub(super) const READ: usize = 16 * 1024;
/// How many times in a row, so that everything else gets its turn.
pub(super) const ROUNDS: usize = 4;
/// How much it may write in all.
const OUTPUT_MOST: usize = 1 << 20;
/// How much of its last line is kept.
const LINE_MOST: usize = 500;

/// What such a process is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// It checks that child.
    Check(Id),
    /// It is a hook; the number is that of [`hooks`](crate::supervisor::hooks).
    Hook(Id),
}

/// One that is not reaped yet.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: Pid,
    program: PathBuf,
    /// Reports whether it has executed.
    status: OwnedFd,
    output: Option<Watched<OwnedFd>>,
    said: Said,
}

/// What one has written.
#[derive(Debug, Default)]
struct Said {
    all: usize,
    /// The last whole line that is not blank.
    last: Vec<u8>,
    /// The line that is not whole yet.
    line: Vec<u8>,
}

impl Said {
    fn add(&mut self, bytes: &[u8]) {
        self.all += bytes.len();
        for (place, part) in bytes.split(|&byte| byte == b'\n').enumerate() {
            if place > 0 {
                let line = std::mem::take(&mut self.line);
                if !line.trim_ascii().is_empty() {
                    self.last = line;
                }
            }
            let room = LINE_MOST.saturating_sub(self.line.len());
            self.line.extend(&part[..part.len().min(room)]);
        }
    }

    /// Its last line, in quotes.
    fn last(&self) -> Option<String> {
        let line = if self.line.trim_ascii().is_empty() { &self.last } else { &self.line };
        let text = String::from_utf8_lossy(line).replace(char::is_control, " ");
        Some(text.trim()).filter(|text| !text.is_empty()).map(|text| format!("\"{text}\""))
    }
}

impl Process {
    /// Reads what it has written.
    ///
    /// # Errors
    /// It wrote more than it may.
    pub(crate) fn hear(&mut self) -> Result<(), String> {
        let Some(pipe) = &self.output else { return Ok(()) };
        let mut bytes = [0; READ];
        for _ in 0..ROUNDS {
            match nix::unistd::read(&**pipe, &mut bytes) {
                Ok(0) => {
                    self.output = None;
                    return Ok(());
                }
                Ok(length) => self.said.add(&bytes[..length]),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => break,
                Err(errno) => {
                    log::debug!("cannot read what process {} writes: {}", self.pid, errno.desc());
                    self.output = None;
                    return Ok(());
                }
            }
        }
        match self.said.all <= OUTPUT_MOST {
            true => Ok(()),
            false => Err(format!("it wrote more than {} MiB", OUTPUT_MOST >> 20)),
        }
    }

    /// The last line that it wrote, in quotes.
    pub(crate) fn last_line(&self) -> Option<String> {
        self.said.last()
    }

    /// Kills it and its group. What it still says does not matter.
    pub(crate) fn kill(&mut self) -> io::Result<()> {
        self.output = None;
        process::signal_group(self.pid, Signal::SIGKILL)
    }

    /// What became of it: `Err` says why it failed, with its last line.
    pub(crate) fn result(&mut self, ended: Ended) -> Result<(), String> {
        let _too_much_is_no_failure_any_more = self.hear();
        match (process::outcome(&self.status, &self.program), ended.exit) {
            (Ok(Exec::Failed(why)), _) => Err(format!("cannot start it: {why}")),
            (_, Exit::Code(0)) if ended.executed => Ok(()),
            (_, exit @ Exit::Code(_)) => Err(self.last_line().unwrap_or_else(|| exit.to_string())),
            (_, exit @ Exit::Signal(_)) => {
                Err(self.last_line().map_or_else(|| exit.to_string(), |last| format!("{exit}: {last}")))
            }
        }
    }
}

/// How such a process ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ended {
    pub(crate) exit: Exit,
    /// Whether it had executed its program.
    executed: bool,
}

impl Supervisor {
    /// Starts such a process. `name` is that of its child, or of the daemon.
    pub(crate) fn begin_beside(&mut self, purpose: Purpose, name: &str, program: Beside<'_>) -> io::Result<Process> {
        let Pipe { read, write } = Pipe::new(0)?;
        pipe::set_nonblocking(&read, true)?;
        let token = match purpose {
            Purpose::Check(id) => Token::Check(id),
            Purpose::Hook(id) => Token::Hook(id),
        };
        let output = self.system.poll.watch(read, EpollFlags::EPOLLIN, token)?;
        let (number, mark) = self.strays.own().next(name);
        let around = Around {
            alone: false,
            null: &self.system.null,
            soft_descriptors: self.system.soft_descriptors,
            mark: &mark,
        };
        let path = program.command.first().map(PathBuf::from).unwrap_or_default();
        let spawned = spawn::spawn_beside(&program, &write, &around)?;
        self.children.beside.insert(spawned.pid, (purpose, number));
        let (pid, status) = (spawned.pid, spawned.status);
        Ok(Process { pid, program: path, status, output: Some(output), said: Said::default() })
    }

    /// Reaps such a process, which is dead. `None`: that is not possible.
    pub(crate) fn reap_beside(&mut self, pid: Pid) -> Option<Ended> {
        // What is left in its group ends with it. Its process id can't be reused until it is reaped.
        let _none_left = process::signal_group(pid, Signal::SIGKILL);
        let executed = process::has_executed(pid);
        let exit = match process::reap(pid) {
            Ok(exit) => exit?,
            Err(error) => {
                log::error!("cannot reap process {pid}: {}", cause(&error));
                return None;
            }
        };
        self.strays.reaped(pid);
        Some(Ended { exit, executed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_is_kept_and_no_more() {
        let said = |parts: &[&str]| {
            let mut said = Said::default();
            parts.iter().for_each(|part| said.add(part.as_bytes()));
            said.last()
        };
        assert_eq!(said(&[]), None);
        assert_eq!(said(&["\n \n"]), None);
        assert_eq!(said(&["one\ntw", "o\n\n"]).as_deref(), Some("\"two\""));
        assert_eq!(said(&["one\n", "two\x1b["]).as_deref(), Some("\"two [\""));
        let long = said(&["x".repeat(10_000).as_str(), "\n"]).unwrap();
        assert_eq!(long.len(), LINE_MOST + 2);
    }
}
