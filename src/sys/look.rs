//! Looking at the system without waiting for it.
//!
//! Files, folders, accounts: whoever asks for one may wait for as long as a dead
//! server, or for ever. So a process aside asks, and notes each question and its
//! answer in a memory file. This process waits for its end, or goes on meanwhile,
//! and reads the answers then. If it takes too long, the last question without an
//! answer says what it hangs at.

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

/// One question may take this long.
pub const EACH: Duration = Duration::from_secs(10);
/// All of one look together: less than a service manager waits for a start by default
/// (DefaultTimeoutStartSec=, systemd-system.conf(5)).
pub const ALL: Duration = Duration::from_secs(60);

/// A process that waits for a processor for longer than this hangs too.
const AT_ALL: Duration = Duration::from_secs(5);

/// A line of the memory file.
#[derive(Debug, Serialize, Deserialize)]
enum Line {
    /// What is being done, as it follows "took too long": "looking at /x".
    Does {
        what: String,
        /// Since the look began.
        since_ms: u64,
        /// It waits for somebody's input, which may take as long as it likes.
        patient: bool,
    },
    Says {
        question: String,
        answer: Value,
    },
    Done,
}

/// Notes what is asked and answered, in the process that looks.
#[derive(Debug)]
pub struct Scribe<'a> {
    file: &'a File,
    began: Instant,
}

impl Scribe<'_> {
    /// Notes what is done from here on, as in "looking at /x".
    pub fn does(&self, what: &str) {
        self.note_does(what, false);
    }

    /// The same of what may take as long as it likes.
    pub fn waits(&self, what: &str) {
        self.note_does(what, true);
    }

    /// Notes what answers that question.
    pub fn says<T: Serialize>(&self, question: &str, answer: &T) {
        let answer = serde_json::to_value(answer).unwrap_or_default();
        self.note(&Line::Says { question: question.to_owned(), answer });
    }

    /// Asks, and notes it.
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
        // Out of memory: the answers end without their last line, which is told.
        let _noted = file.write_all(&text);
    }
}

/// What was answered, by question.
#[derive(Debug, Default)]
pub struct Answers(BTreeMap<String, Value>);

impl Answers {
    /// The answer to that question; `None` where nobody asked it.
    pub fn get<T: DeserializeOwned>(&self, question: &str) -> Option<T> {
        serde_json::from_value(self.0.get(question)?.clone()).ok()
    }
}

/// A look under way. Dropped before its end, it is given up.
#[derive(Debug)]
pub struct Look {
    pid: Pid,
    /// At its end once the process is gone.
    end: OwnedFd,
    file: File,
    began: Instant,
    reaped: bool,
}

impl Look {
    /// Begins one.
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

    /// That process was reaped: its number may be another's soon.
    pub fn set_reaped(&mut self) {
        self.reaped = true;
    }

    /// When it is to be [asked](Look::hangs) again.
    ///
    /// # Errors
    /// What takes too long, as in "looking at /x took longer than 10 s".
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

    /// What was answered, once the process has ended.
    ///
    /// # Errors
    /// It was killed, or short of memory.
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
            // A write stops exactly there.
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
        // Its descriptors are closed, so its end is at hand.
        self.end(Duration::from_secs(1));
        self.answers()
    }

    /// Waits until it has ended, or one question takes longer than `each`: what was answered
    /// by then, and what it hangs at.
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
            // Until it has begun, and while it waits for a processor, nothing hangs.
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
            // EINTR: looked at again all the same.
            let _ended = poll(&mut [PollFd::new(self.end.as_fd(), PollFlags::POLLIN)], timeout);
        }
    }

    /// Whether it is only that the machine is busy. One that has not begun copies memory.
    fn waits_for_processor(&self, begins: bool) -> bool {
        let process = Process::look(self.pid).ok().flatten();
        process.is_some_and(|process| process.state == 'R' || begins && !process.is_dead())
    }

    /// Reaps it within that time; later it is another's to do so.
    fn end(&mut self, patience: Duration) {
        let until = Instant::now() + patience;
        loop {
            // Without any children it was reaped by the kernel: SIGCHLD is ignored.
            self.reaped = matches!(process::reap(self.pid), Ok(Some(_))) || !process::has_children();
            if self.reaped || Instant::now() >= until {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Each line that is whole, and whether the last one is there.
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
    /// At its end once the process is gone.
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

/// What `work` notes, in this process.
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
    fn what_takes_too_long_is_named() {
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
    fn one_that_begins_late_has_answered_nothing_before() {
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
    fn answers_are_had_by_their_questions() {
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
    fn one_that_goes_on_from_question_to_question_is_bounded_too_and_one_that_reads_an_input_is_not() {
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
