//! Looks at the system without waiting for it.
//!
//! Asking for a file, a folder or an account may take as long as a server is down, or for
//! ever. So a process aside asks, and notes each question and its
//! answer in a memory file. This process waits for its end, or goes on meanwhile,
//! and then reads the answers. If it takes too long, the last question without an
//! answer shows where it hangs.

use crate::sys::aside::{self, Keeps};
use crate::sys::cause::words;
use crate::sys::descendants::Process;
use crate::sys::pipe::Pipe;
use crate::sys::process;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::Pid;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

/// How long one question may take.
pub const EACH: Duration = Duration::from_secs(10);
/// How long a whole look may take: less than a service manager waits for a start by default
/// (DefaultTimeoutStartSec=, systemd-system.conf(5)).
pub const ALL: Duration = Duration::from_secs(60);

/// A process that waits longer than this for a processor counts as hanging too.
const AT_ALL: Duration = Duration::from_secs(5);

/// A line of the memory file.
#[derive(Debug, Serialize, Deserialize)]
enum Line {
    /// What is being done, as in "looking at /x took longer than 10 s".
    Does {
        what: String,
        /// When it began, counted from the beginning of the look.
        since_ms: u64,
        /// Whether it waits for input, which may take as long as it likes.
        patient: bool,
    },
    Says {
        question: String,
        answer: Value,
    },
    Done,
}

/// Notes the questions and answers, in the process that looks.
#[derive(Debug)]
pub struct Scribe<'a> {
    file: &'a File,
    began: Instant,
}

impl Scribe<'_> {
    /// Notes what is done from now on, such as "looking at /x".
    pub fn does(&self, what: &str) {
        self.note_does(what, false);
    }

    /// As [`Scribe::does`], for something that may take as long as it likes.
    pub fn waits(&self, what: &str) {
        self.note_does(what, true);
    }

    /// Notes the answer to that question.
    pub fn says<T: Serialize>(&self, question: &str, answer: &T) {
        let answer = serde_json::to_value(answer).unwrap_or_default();
        self.note(&Line::Says { question: question.to_owned(), answer });
    }

    /// Asks, and notes the question and the answer.
    pub fn ask<T: Serialize>(&self, question: &str, what: &str, answer: impl FnOnce() -> T) -> T {
        self.does(what);
        let answer = answer();
        self.says(question, &answer);
        answer
    }

    fn note_does(&self, what: &str, patient: bool) {
        let since_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.note(&Line::Does { what: what.to_owned(), since_ms, patient });
    }

    fn note(&self, line: &Line) {
        let mut text = serde_json::to_vec(line).unwrap_or_default();
        text.push(b'\n');
        let mut file = self.file;
        // If memory is short, the last line is missing, which the reader reports.
        let _noted = file.write_all(&text);
    }
}

/// The answers, by question.
#[derive(Debug, Default)]
pub struct Answers(BTreeMap<String, Value>);

impl Answers {
    /// The answer to that question; `None` if it was not asked.
    pub fn get<T: DeserializeOwned>(&self, question: &str) -> Option<T> {
        serde_json::from_value(self.0.get(question)?.clone()).ok()
    }
}

/// A look under way. If it is dropped before its end, its process is killed.
#[derive(Debug)]
pub struct Look {
    pid: Pid,
    /// A pipe whose end is reached once the process is gone.
    end: OwnedFd,
    file: File,
    began: Instant,
    reaped: bool,
}

impl Look {
    /// Begins a look.
    ///
    /// # Errors
    /// EAGAIN, EMFILE, ENFILE, ENOMEM.
    pub fn begin(keeps: Keeps<'_>, work: impl FnOnce(&Scribe<'_>)) -> io::Result<Look> {
        let Pipe { read: end, write } = Pipe::new(0)?;
        let file = File::from(memfd_create(c"plumbd-look", MFdFlags::MFD_CLOEXEC)?);
        let began = Instant::now();
        let mut kept = vec![write.as_fd(), file.as_fd()];
        let keeps = match keeps {
            Keeps::All => Keeps::All,
            Keeps::Only(others) => {
                kept.extend(others);
                Keeps::Only(&kept)
            }
        };
        let pid = aside::start(keeps, || {
            let scribe = Scribe { file: &file, began };
            work(&scribe);
            scribe.note(&Line::Done);
        })?;
        Ok(Look { pid, end, file, began, reaped: false })
    }

    /// The process that looks.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Whether that process was reaped.
    pub fn is_reaped(&self) -> bool {
        self.reaped
    }

    /// Notes that the process was reaped: its number may soon be another's.
    pub fn set_reaped(&mut self) {
        self.reaped = true;
    }

    /// Whether it hangs, or else when to [check](Look::hangs) again.
    ///
    /// # Errors
    /// It hangs: what takes too long, as in "looking at /x took longer than 10 s".
    pub fn hangs(&self, now: Instant) -> Result<Instant, String> {
        let took = |what: &str, limit: Duration| format!("{what} took longer than {} s", limit.as_secs());
        let last = self.lines().0.into_iter().rev().find_map(|line| match line {
            Line::Does { what, since_ms, patient } => Some((what, since_ms, patient)),
            Line::Says { .. } | Line::Done => None,
        });
        let Some((what, since_ms, patient)) = last else {
            let until = self.began + EACH;
            return if now < until { Ok(until) } else { Err(took("starting a process that looks", EACH)) };
        };
        if patient {
            return Ok(now + EACH);
        }
        let (each, all) = (self.began + Duration::from_millis(since_ms) + EACH, self.began + ALL);
        match (now < each, now < all) {
            (true, true) => Ok(each.min(all)),
            (false, _) => Err(took(&what, EACH)),
            (true, false) => Err(took(&format!("looking at the system, and at last {what},"), ALL)),
        }
    }

    /// The answers, once the process has ended.
    ///
    /// # Errors
    /// The process was killed, or could not note everything.
    pub fn answers(&self) -> Result<Answers, String> {
        let (lines, is_done) = self.lines();
        if !is_done {
            return Err(self.why_not_done());
        }
        Ok(answers_in(lines))
    }

    fn why_not_done(&self) -> String {
        let size = self.file.metadata().map_or(0, |file| file.len());
        match getrlimit(Resource::RLIMIT_FSIZE) {
            // A write stops exactly at the limit.
            Ok((limit, _)) if size >= limit => {
                format!("cannot note what was seen of the system: {}", words(Errno::EFBIG))
            }
            _ => "the process that looks at the system died".to_owned(),
        }
    }

    /// Waits until it has ended, or hangs.
    ///
    /// # Errors
    /// As [`Look::hangs`] and [`Look::answers`].
    pub fn wait(mut self) -> Result<Answers, String> {
        loop {
            let now = Instant::now();
            let left = self.hangs(now)?.saturating_duration_since(now) + Duration::from_millis(1);
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(self.end.as_fd(), PollFlags::POLLIN)], timeout) {
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => break,
                Err(error) => return Err(format!("cannot wait for a process that looks: {}", error.desc())),
            }
        }
        // Its descriptors are closed, so it is about to end.
        self.end(Duration::from_secs(1));
        self.answers()
    }

    /// Waits until it has ended, or one question takes longer than `each`. Returns the answers
    /// so far, and where it hangs.
    ///
    /// # Errors
    /// It did not begin.
    pub fn wait_each(mut self, each: Duration) -> io::Result<(Answers, Option<String>)> {
        let mut since = Instant::now();
        let mut before = 0;
        loop {
            let (lines, is_done) = self.lines();
            if lines.len() > before {
                (before, since) = (lines.len(), Instant::now());
            }
            // A process that has not begun, or waits for a processor, does not hang yet.
            let is_slow = since.elapsed() < AT_ALL && self.waits_for_processor(lines.is_empty());
            if is_done || since.elapsed() >= each && !is_slow {
                let last = lines.iter().rev().find_map(|line| match line {
                    Line::Does { what, .. } => Some(what.clone()),
                    Line::Says { .. } | Line::Done => None,
                });
                self.end(if is_done { Duration::from_secs(1) } else { Duration::ZERO });
                return match last {
                    None if !is_done => Err(io::Error::other("the process that looks did not begin in time")),
                    last => Ok((answers_in(lines), last.filter(|_| !is_done))),
                };
            }
            let timeout = PollTimeout::try_from(each.min(Duration::from_millis(5))).unwrap_or(PollTimeout::ZERO);
            // On EINTR too, the loop just checks again.
            let _ended = poll(&mut [PollFd::new(self.end.as_fd(), PollFlags::POLLIN)], timeout);
        }
    }

    /// Whether it is slow only because the machine is busy. A process that has not begun is
    /// copying memory.
    fn waits_for_processor(&self, begins: bool) -> bool {
        let process = Process::look(self.pid).ok().flatten();
        process.is_some_and(|process| process.state == 'R' || begins && !process.is_dead())
    }

    /// Reaps it within that time; after that, others must reap it.
    fn end(&mut self, patience: Duration) {
        let until = Instant::now() + patience;
        loop {
            // If there are no children at all, the kernel has reaped it, because SIGCHLD is ignored.
            self.reaped = matches!(process::reap(self.pid), Ok(Some(_))) || !process::has_children();
            if self.reaped || Instant::now() >= until {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// All whole lines, and whether they include the last one.
    fn lines(&self) -> (Vec<Line>, bool) {
        let length = self.file.metadata().map_or(0, |data| usize::try_from(data.len()).unwrap_or(0));
        let mut text = vec![0; length];
        if self.file.read_exact_at(&mut text, 0).is_err() {
            return (Vec::new(), false);
        }
        let whole = text.split_inclusive(|&byte| byte == b'\n').filter(|line| line.ends_with(b"\n"));
        let lines: Vec<Line> = whole.filter_map(|line| serde_json::from_slice(line).ok()).collect();
        let is_done = matches!(lines.last(), Some(Line::Done));
        (lines, is_done)
    }
}

fn answers_in(lines: Vec<Line>) -> Answers {
    let says = lines.into_iter().filter_map(|line| match line {
        Line::Says { question, answer } => Some((question, answer)),
        Line::Does { .. } | Line::Done => None,
    });
    Answers(says.collect())
}

impl AsFd for Look {
    /// A pipe whose end is reached once the process is gone.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.end.as_fd()
    }
}

impl Drop for Look {
    fn drop(&mut self) {
        if !self.reaped {
            process::force(self.pid);
        }
    }
}

/// The answers that `work` notes, when it is run in this process.
#[cfg(test)]
pub(crate) fn noted(work: impl FnOnce(&Scribe<'_>)) -> Answers {
    let file = File::from(memfd_create(c"plumbd-look", MFdFlags::MFD_CLOEXEC).unwrap());
    let scribe = Scribe { file: &file, began: Instant::now() };
    work(&scribe);
    scribe.note(&Line::Done);
    let end = Pipe::new(0).unwrap().read;
    Look { pid: Pid::from_raw(0), end, file, began: Instant::now(), reaped: true }.answers().unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look_of(text: &str, began: Instant) -> Look {
        let file = File::from(memfd_create(c"plumbd-look", MFdFlags::MFD_CLOEXEC).unwrap());
        (&file).write_all(text.as_bytes()).unwrap();
        let end = Pipe::new(0).unwrap().read;
        Look { pid: Pid::from_raw(0), end, file, began, reaped: true }
    }

    #[test]
    fn the_question_that_takes_too_long_is_named() {
        let began = Instant::now();
        let file = File::from(memfd_create(c"plumbd-look", MFdFlags::MFD_CLOEXEC).unwrap());
        let scribe = Scribe { file: &file, began };
        assert!(scribe.ask("one", "looking at /one", || true));
        scribe.does("looking at /two");
        let look = Look { pid: Pid::from_raw(0), end: Pipe::new(0).unwrap().read, file, began, reaped: true };
        assert!(look.hangs(began).is_ok());
        let later = began + EACH + Duration::from_secs(1);
        assert_eq!(look.hangs(later), Err("looking at /two took longer than 10 s".to_owned()));
        assert!(look.answers().is_err(), "it did not say that it was done");
    }

    #[test]
    fn a_process_that_begins_late_is_waited_for() {
        let after = |pause: u64| {
            let look = Look::begin(Keeps::Only(&[]), |scribe| {
                std::thread::sleep(Duration::from_millis(pause));
                assert!(scribe.ask("one", "looking at /one", || true));
                scribe.does("looking at /two");
                std::thread::sleep(Duration::from_secs(1000));
            });
            look.unwrap().wait_each(Duration::from_millis(50))
        };
        for pause in [0, 200] {
            let (answers, hangs_at) = after(pause).unwrap();
            assert_eq!((answers.get("one"), hangs_at.as_deref()), (Some(true), Some("looking at /two")));
        }
        assert!(after(1_000_000).is_err(), "nobody knows what it would say");
    }

    #[test]
    fn answers_are_found_by_their_questions() {
        let answer: Result<(), String> = Err("No such file".to_owned());
        let answers = noted(|scribe| {
            assert_eq!(scribe.ask("one", "looking at /one", || answer.clone()), answer);
            scribe.says("two", &vec![1, 2]);
        });
        assert_eq!(answers.get::<Result<(), String>>("one"), Some(answer));
        assert_eq!(answers.get::<Vec<u32>>("two"), Some(vec![1, 2]));
        assert_eq!(answers.get::<bool>("three"), None);
    }

    #[test]
    fn a_look_with_many_questions_is_bounded_too_but_waiting_for_input_is_not() {
        let began = Instant::now();
        let since = |ms: u64, patient: bool| {
            format!("{{\"Does\":{{\"what\":\"looking at /x\",\"since_ms\":{ms},\"patient\":{patient}}}}}\n")
        };
        let at = began + ALL + Duration::from_secs(1);
        let soon = u64::try_from(ALL.as_millis()).unwrap();
        assert!(look_of(&since(soon, false), began).hangs(at).unwrap_err().contains("60 s"));
        assert!(look_of(&since(0, true), began).hangs(at).is_ok());
        assert!(look_of("", began).hangs(at).is_err());
        let torn = format!("{}{}", since(0, false), "{\"Does\":");
        assert!(look_of(&torn, began).hangs(began + EACH).unwrap_err().contains("/x"));
    }
}
