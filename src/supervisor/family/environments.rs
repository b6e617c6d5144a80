//! The marks in the environments of processes, read by a process aside. An environment
//! is in its process's memory, and reading it blocks while that memory is locked, for
//! example by a thread that waits for a dead file system.

use crate::supervisor::family::mark::{self, Mark};
use crate::sys::aside::Keeps;
use crate::sys::descendants::Process;
use crate::sys::look::Look;
use nix::unistd::Pid;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Duration;

/// An environment that takes longer to read counts as unreadable for now.
const EACH: Duration = Duration::from_millis(50);
/// After this many unreadable environments, all that are left count as unreadable too.
const TRIED: usize = 20;

/// The marks that were seen.
#[derive(Debug, Default)]
pub(crate) struct Environments {
    asked: BTreeSet<Pid>,
    marks: BTreeMap<Pid, Vec<Mark>>,
    /// The processes whose environment can't be read just now.
    unseen: BTreeSet<Pid>,
}

impl Environments {
    /// Reads the environments of these processes.
    ///
    /// # Errors
    /// EAGAIN, EMFILE, ENFILE, ENOMEM; the machine is too busy to read them.
    pub(crate) fn of(processes: &[Process]) -> io::Result<Environments> {
        let asked = processes.iter().map(|process| process.pid).collect();
        let mut seen = Environments { asked, ..Environments::default() };
        let mut rest = processes;
        while let (Some(_), true) = (rest.first(), seen.unseen.len() < TRIED) {
            rest = seen.read(rest)?;
        }
        seen.unseen.extend(rest.iter().map(|process| process.pid));
        Ok(seen)
    }

    /// Reads the environment of a process in this process, if no process aside can be
    /// started. It blocks while that process's memory is locked.
    ///
    /// # Errors
    /// EMFILE, ENFILE, ENOMEM.
    pub(crate) fn here(process: &Process) -> io::Result<Environments> {
        let mut seen = Environments { asked: BTreeSet::from([process.pid]), ..Environments::default() };
        match process.environment()? {
            Some(text) => seen.marks.insert(process.pid, mark::marks(&text)).is_some(),
            None => seen.unseen.insert(process.pid),
        };
        Ok(seen)
    }

    /// Whether that process was asked about.
    pub(crate) fn has(&self, pid: Pid) -> bool {
        self.asked.contains(&pid)
    }

    /// The marks of that process; `None`: they can't be read just now.
    pub(crate) fn marks(&self, pid: Pid) -> Option<&[Mark]> {
        (!self.unseen.contains(&pid)).then(|| self.marks.get(&pid).map_or(&[][..], Vec::as_slice))
    }

    /// Reads until one can't be read. Returns those that are left.
    fn read<'a>(&mut self, processes: &'a [Process]) -> io::Result<&'a [Process]> {
        let look = Look::begin(Keeps::Only(&[]), |scribe| {
            for process in processes {
                let pid = process.pid.to_string();
                scribe.does(&pid);
                let marked = process.environment().map(|environment| environment.map(|text| mark::entries(&text)));
                match marked {
                    Ok(Some(entries)) if entries.is_empty() => {}
                    Ok(entries) => scribe.says(&pid, &entries),
                    Err(error) => return scribe.says("error", &error.raw_os_error().unwrap_or(0)),
                }
            }
        })?;
        let (answers, hangs_at) = look.wait_each(EACH)?;
        if let Some(number) = answers.get("error") {
            return Err(io::Error::from_raw_os_error(number));
        }
        let place = hangs_at.and_then(|pid| processes.iter().position(|process| process.pid.to_string() == pid));
        let (read, rest) = processes.split_at(place.unwrap_or(processes.len()));
        for Process { pid, .. } in read {
            match answers.get::<Option<Vec<u8>>>(&pid.to_string()) {
                Some(Some(entries)) => {
                    self.marks.insert(*pid, mark::marks(&entries));
                }
                Some(None) => {
                    self.unseen.insert(*pid);
                }
                None => {}
            }
        }
        let (hung, rest) = rest.split_at(rest.len().min(1));
        self.unseen.extend(hung.iter().map(|process| process.pid));
        Ok(rest)
    }
}
