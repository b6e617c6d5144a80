//! `PLUMBD_START`: a variable in a child's environment, inherited by everything that it
//! starts, that says which start of which child of which supervisor it was.
//!
//! It has an entry for each plumbd above the child, the outermost first, separated by
//! `;`. Each entry is `ORIGIN:PID.START:CHILD:NUMBER:LEADER`: where that supervisor's
//! control socket is, its process and when that started, the child's name, the number of
//! the start among all of that supervisor's, and the child's own process.

use crate::sys::descendants::Process;
use nix::unistd::{Pid, getpid};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The name of the variable.
pub const VARIABLE: &str = "PLUMBD_START";
/// The marks of at most this many plumbds above this one are passed on.
const OUTER_MOST: usize = 8;

/// One start of a child.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    /// Where its supervisor's control socket is.
    pub origin: String,
    /// Its supervisor's process, and when that started.
    pub supervisor: (Pid, u64),
    /// The child's name.
    pub child: String,
    /// The number of the start, different for each start by that supervisor.
    pub number: u64,
    /// The child's own process.
    pub leader: Pid,
}

impl Mark {
    fn parse(entry: &str) -> Option<Mark> {
        let mut parts = entry.split(':');
        let origin = parts.next()?.to_owned();
        let (pid, start) = parts.next()?.split_once('.')?;
        let supervisor = (Pid::from_raw(pid.parse().ok()?), start.parse().ok()?);
        let child = parts.next()?.to_owned();
        let number = parts.next()?.parse().ok()?;
        let leader = Pid::from_raw(parts.next()?.parse().ok()?);
        parts.next().is_none().then_some(Mark { origin, supervisor, child, number, leader })
    }

    /// Whether its supervisor is still running.
    ///
    /// # Errors
    /// As [`Process::look`].
    pub fn is_supervised(&self) -> io::Result<bool> {
        let (pid, start) = self.supervisor;
        Ok(Process::look(pid)?.is_some_and(|process| process.start == start && !process.is_dead()))
    }
}

/// The entries of an environment that have marks, unchanged.
pub fn entries(environment: &[u8]) -> Vec<u8> {
    let is_ours = |entry: &&[u8]| entry.strip_prefix(VARIABLE.as_bytes()).is_some_and(|rest| rest.starts_with(b"="));
    let entries: Vec<&[u8]> = environment.split(|&byte| byte == 0).filter(is_ours).collect();
    entries.join(&0)
}

/// The marks in an environment, the outermost first. Anything that is not a mark is ignored.
pub fn marks(environment: &[u8]) -> Vec<Mark> {
    let entries = environment.split(|&byte| byte == 0);
    let values = entries.filter_map(|entry| entry.strip_prefix(VARIABLE.as_bytes())?.strip_prefix(b"="));
    let texts = values.filter_map(|value| std::str::from_utf8(value).ok());
    texts.flat_map(|text| text.split(';')).filter_map(Mark::parse).collect()
}

/// What this supervisor's marks are made from.
#[derive(Debug)]
pub struct Own {
    /// Where its control socket is now.
    pub origin: String,
    /// Where it was before reloads moved it: children from that time still run.
    earlier: BTreeSet<String>,
    /// Its process, and when that started; 0 without /proc.
    pub process: (Pid, u64),
    /// The marks of the plumbds above this one.
    outer: String,
    starts: u64,
}

impl Own {
    /// For the supervisor whose control socket is at that [`origin`].
    ///
    /// # Errors
    /// This process can't be looked at.
    pub fn new(origin: String) -> Result<Own, String> {
        let environment = std::env::var_os(VARIABLE).unwrap_or_default();
        let entries = [VARIABLE.as_bytes(), b"=", environment.as_bytes()].concat();
        // A mark with this origin is from an earlier daemon. If it were passed on, this one's
        // children would look like that one's strays.
        let outer: Vec<Mark> = marks(&entries).into_iter().filter(|mark| mark.origin != origin).collect();
        let mut text = String::new();
        for mark in &outer[outer.len().saturating_sub(OUTER_MOST)..] {
            let Mark { origin, supervisor: (pid, start), child, number, leader } = mark;
            let _never_fails = write!(text, "{origin}:{pid}.{start}:{child}:{number}:{leader};");
        }
        let own = Process::look(getpid()).map_err(|e| format!("cannot look at this process: {e}"))?;
        let start = own.map_or(0, |own| own.start);
        Ok(Own { origin, earlier: BTreeSet::new(), process: (getpid(), start), outer: text, starts: 0 })
    }

    /// The control socket is at that origin from now on, so that the next supervisor with
    /// that control socket can find what is started from here on.
    pub fn move_to(&mut self, origin: String) {
        self.earlier.insert(std::mem::replace(&mut self.origin, origin));
    }

    /// The next start's number, and its mark; the child itself adds its process id.
    pub fn next(&mut self, child: &str) -> (u64, String) {
        self.starts += 1;
        let Own { origin, process: (pid, start), outer, starts, .. } = self;
        (*starts, format!("{outer}{origin}:{pid}.{start}:{}:{starts}:", escaped(child.as_bytes())))
    }

    /// The start's number, if one of these marks is this supervisor's.
    pub fn number(&self, marks: &[Mark]) -> Option<u64> {
        let is_own = |mark: &&Mark| mark.origin == self.origin || self.earlier.contains(&mark.origin);
        let own = marks.iter().filter(is_own).rfind(|mark| mark.supervisor == self.process);
        own.map(|mark| mark.number)
    }
}

/// The origin of a control socket: pid namespace, device and inode of its folder, and its
/// name. Two daemons with one origin can't run at the same time, and process ids mean the
/// same to both.
///
/// # Errors
/// The folder can't be looked at.
pub fn origin(control: &Path) -> io::Result<String> {
    let folder = control.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = std::fs::metadata(folder)?;
    let namespace = std::fs::metadata("/proc/self/ns/pid").map_or(0, |namespace| namespace.ino());
    let name = control.file_name().unwrap_or_default();
    Ok(format!("{namespace}.{:x}.{:x}.{}", folder.dev(), folder.ino(), escaped(name.as_bytes())))
}

/// The name with the separator characters escaped.
fn escaped(name: &[u8]) -> String {
    let mut text = String::new();
    for &byte in name {
        if byte.is_ascii_alphanumeric() || b"._-".contains(&byte) {
            text.push(char::from(byte));
        } else {
            let _never_fails = write!(text, "%{byte:02x}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(outer: &str) -> Own {
        let process = (Pid::from_raw(12), 345);
        let origin = "1.2.3.plumbd.sock".to_owned();
        Own { origin, earlier: BTreeSet::new(), process, outer: outer.to_owned(), starts: 0 }
    }

    #[test]
    fn a_mark_is_read_as_it_was_written() {
        let mut own = own("");
        let (number, text) = own.next("echo.0");
        let environment = format!("A=b\0{VARIABLE}={text}678\0C=d\0");
        let found = marks(environment.as_bytes());
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].child.as_str(), found[0].number, found[0].leader), ("echo.0", number, Pid::from_raw(678)));
        assert_eq!(own.number(&found), Some(number));
        let (next, _) = own.next("echo.0");
        assert_ne!(next, number);
    }

    #[test]
    fn an_outer_plumbds_mark_comes_first_and_is_found_too() {
        let mut outer = own("");
        outer.process = (Pid::from_raw(1), 2);
        let (number, text) = outer.next("inner");
        let mut inner = own(&format!("{text}9;"));
        inner.origin = "1.2.3.other.sock".to_owned();
        let (inner_number, text) = inner.next("a child");
        let found = marks(format!("{VARIABLE}={text}10").as_bytes());
        assert_eq!(found.iter().map(|mark| mark.child.as_str()).collect::<Vec<_>>(), ["inner", "a%20child"]);
        assert_eq!((outer.number(&found), inner.number(&found)), (Some(number), Some(inner_number)));
    }

    #[test]
    fn marks_from_before_and_after_a_move_of_the_control_socket_are_both_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (folder.path().join("first.sock"), folder.path().join("second.sock"));
        let own_of = |path: &Path| Own::new(origin(path).unwrap()).unwrap();
        let mut own = own_of(&first);
        let read = |text: &str| marks(format!("{VARIABLE}={text}7").as_bytes());
        for path in [&first, &second, &second, &first] {
            own.move_to(origin(path).unwrap());
            let (number, text) = own.next("child");
            assert_eq!(read(&text)[0].origin, own_of(path).origin);
            assert_eq!(own.number(&read(&text)), Some(number));
        }
        let (_, others) = own_of(&folder.path().join("third.sock")).next("child");
        assert_eq!(own.number(&read(&others)), None);
    }

    #[test]
    fn what_is_not_a_mark_is_ignored() {
        for text in ["", "x", "a:1.2:b:3", "a:1.2:b:3:4:5", "a:1:b:3:4", "a:x.2:b:3:4", "a:1.2:b:-3:4", ";;;", "\u{e9}"]
        {
            assert_eq!(marks(format!("{VARIABLE}={text}\0").as_bytes()), [], "{text}");
        }
        assert_eq!(marks(b"PLUMBD_START=\xff\0PLUMBD_STARTED=a:1.2:b:3:4"), []);
        assert_eq!(marks(b"PLUMBD_START=broken;a:1.2:b:3:4").len(), 1);
    }
}
