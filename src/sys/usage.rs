//! What processes use: processor time, memory, descriptors, bytes read and written, from
//! /proc. It takes some microseconds a process, so only a short command looks, never the
//! supervisor.

use nix::libc;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{SysconfVar, sysconf};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

/// A process and what it uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    /// Its parent.
    pub parent: i32,
    /// R, S, D, Z and so on.
    pub state: char,
    group: i32,
    session: i32,
    /// The time that it, and the processes that it has reaped, spent on a processor; in clock
    /// ticks.
    ticks: u64,
    /// When it was started, in clock ticks since boot.
    pub start: u64,
    /// Resident memory, in pages.
    pages: u64,
}

/// All processes that can be seen.
#[derive(Debug)]
pub struct Processes {
    all: Vec<Process>,
    ticks_a_second: u64,
    page: u64,
}

impl Process {
    /// Whether a signal has stopped it (SIGSTOP, SIGTSTP).
    pub fn is_stopped(&self) -> bool {
        self.state == 'T'
    }

    /// From proc_pid_stat(5).
    fn parse(pid: i32, stat: &[u8]) -> Option<Process> {
        // A name may contain anything, even parentheses and newlines.
        let end = stat.iter().rposition(|&byte| byte == b')')?;
        let text = std::str::from_utf8(&stat[end + 1..]).ok()?;
        let mut fields = [0_i64; 22];
        let mut words = text.split_ascii_whitespace();
        let state = words.next()?.chars().next()?;
        for field in &mut fields[1..] {
            // Those that may be larger than an i64 are of no interest.
            *field = words.next()?.parse().unwrap_or(0);
        }
        let number = |place: usize| i32::try_from(fields[place]).ok();
        let count = |place: usize| u64::try_from(fields[place]).unwrap_or(0);
        Some(Process {
            pid,
            parent: number(1)?,
            state,
            group: number(2)?,
            session: number(3)?,
            ticks: (11..=14).map(count).sum(),
            start: count(19),
            pages: count(21),
        })
    }
}

impl Processes {
    /// Looks at every process.
    ///
    /// # Errors
    /// /proc is not mounted; EMFILE, ENFILE, ENOMEM.
    pub fn look() -> io::Result<Processes> {
        let mut all = Vec::new();
        let mut text = [0; 1024];
        for entry in std::fs::read_dir("/proc")? {
            let name = entry?.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
            // A process that has ended meanwhile uses nothing.
            if let Ok(length) = File::open(format!("/proc/{pid}/stat")).and_then(|mut file| file.read(&mut text)) {
                all.extend(Process::parse(pid, &text[..length]));
            }
        }
        let of = |variable, otherwise| {
            let value = sysconf(variable).ok().flatten();
            value.and_then(|value| u64::try_from(value).ok()).filter(|&value| value > 0).unwrap_or(otherwise)
        };
        Ok(Processes { all, ticks_a_second: of(SysconfVar::CLK_TCK, 100), page: of(SysconfVar::PAGE_SIZE, 4096) })
    }

    /// The processes of each of these children of `supervisor`, which comes first: it and
    /// its descendants, also those whose parent has died, if they are still in its session or
    /// process group. A number that is not such a child has none.
    pub fn of_children(&self, supervisor: i32, children: &[i32]) -> HashMap<i32, Vec<&Process>> {
        let places: HashMap<i32, &Process> = self.all.iter().map(|process| (process.pid, process)).collect();
        let is_child = |pid: &i32| places.get(pid).is_some_and(|process| process.parent == supervisor);
        let mut found: HashMap<i32, Vec<&Process>> =
            children.iter().filter(|pid| is_child(pid)).map(|&pid| (pid, vec![places[&pid]])).collect();
        // Whose descendant each process is; `None`: nobody's.
        let mut owners: HashMap<i32, Option<i32>> = found.keys().map(|&pid| (pid, Some(pid))).collect();
        let mut way = Vec::new();
        for process in &self.all {
            let mut at = process;
            way.clear();
            let owner = loop {
                if let Some(&owner) = owners.get(&at.pid) {
                    break owner;
                }
                way.push(at.pid);
                if at.parent == supervisor {
                    break [at.session, at.group].into_iter().find(|leader| found.contains_key(leader));
                }
                match places.get(&at.parent) {
                    // Numbers that were reused between two reads could make a circle.
                    Some(parent) if way.len() <= self.all.len() => at = parent,
                    _ => break None,
                }
            };
            owners.extend(way.drain(..).map(|pid| (pid, owner)));
            if let Some(list) = owner.filter(|&owner| owner != process.pid).and_then(|owner| found.get_mut(&owner)) {
                list.push(process);
            }
        }
        found
    }

    /// The processor time of these.
    pub fn time(&self, processes: &[&Process]) -> Duration {
        let ticks: u64 = processes.iter().map(|process| process.ticks).sum();
        Duration::from_millis(ticks.saturating_mul(1000) / self.ticks_a_second)
    }

    /// How long ago that process was started.
    pub fn age(&self, process: &Process) -> Duration {
        let since_boot = clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from);
        since_boot.saturating_sub(Duration::from_millis(process.start.saturating_mul(1000) / self.ticks_a_second))
    }

    /// Resident memory of these, in bytes.
    pub fn memory(&self, processes: &[&Process]) -> u64 {
        processes.iter().map(|process| process.pages).sum::<u64>().saturating_mul(self.page)
    }
}

/// How many descriptors a process has open; 0 if it is gone. `None`: that can't be seen.
pub fn descriptors(pid: i32) -> Option<u64> {
    let path = format!("/proc/{pid}/fd");
    // Since Linux 6.2, the size of this folder is the number (proc_pid_fd(5)).
    let count = || match std::fs::metadata(&path)?.size() {
        0 => Ok(std::fs::read_dir(&path)?.count() as u64),
        size => Ok(size),
    };
    unless_gone(count())
}

/// How many bytes a process has read and written, from and to whatever (proc_pid_io(5)); none
/// if it is gone. `None`: that can't be seen.
pub fn read_and_written(pid: i32) -> Option<[u64; 2]> {
    let mut text = [0; 512];
    let read = File::open(format!("/proc/{pid}/io")).and_then(|mut file| file.read(&mut text));
    match unless_gone(read)? {
        0 => Some([0, 0]),
        length => parse_io(std::str::from_utf8(&text[..length]).ok()?),
    }
}

/// What was seen of a process. It may have ended since it was found, and then uses nothing.
fn unless_gone<T: Default>(seen: io::Result<T>) -> Option<T> {
    match seen {
        Err(error) if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH) => {
            Some(T::default())
        }
        seen => seen.ok(),
    }
}

fn parse_io(text: &str) -> Option<[u64; 2]> {
    let of = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    Some([of("rchar:")?, of("wchar:")?])
}

/// The length of a file, and how many bytes a program without privileges can still write to
/// its file system. It may wait for that file system for ever, so a process aside asks.
///
/// # Errors
/// From stat(2) or statvfs(3).
pub fn file(path: &std::path::Path) -> io::Result<[u64; 2]> {
    let size = std::fs::metadata(path)?.size();
    let system = nix::sys::statvfs::statvfs(path)?;
    let free: libc::fsblkcnt_t = system.blocks_available();
    Ok([size, free.saturating_mul(system.fragment_size())])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: i32, parent: i32, session: i32) -> Process {
        Process { pid, parent, state: 'S', group: session, session, ticks: 7, start: 0, pages: 3 }
    }

    #[test]
    fn a_line_of_proc_is_parsed_whatever_the_name_is() {
        let line = b"42 (a) R 1 (b\n) S 40 41 39 0 -1 4194560 1 2 3 4 500 60 7 8 20 0 1 0 12345 104857600 777 \
                     18446744073709551615 1 2";
        let (pid, parent, group, session) = (42, 40, 41, 39);
        let expected = Process { pid, parent, state: 'S', group, session, ticks: 575, start: 12345, pages: 777 };
        assert_eq!(Process::parse(42, line), Some(expected));
        for cut in [0, 10, 20, 40] {
            assert_eq!(Process::parse(42, &line[..cut]), None, "{cut}");
        }
    }

    #[test]
    fn a_child_has_its_descendants_and_the_orphans_of_its_session() {
        // 10 is the supervisor; 20 and 30 are children, 40 is an orphan of 20, 41 one of nobody.
        let all = vec![
            process(22, 21, 20),
            process(1, 0, 1),
            process(10, 1, 10),
            process(20, 10, 20),
            process(21, 20, 21),
            process(30, 10, 30),
            process(40, 10, 20),
            process(42, 40, 42),
            process(41, 10, 41),
            process(50, 1, 50),
        ];
        let processes = Processes { all, ticks_a_second: 100, page: 4096 };
        let found = processes.of_children(10, &[20, 30, 50, 99]);
        let pids = |child: i32| {
            let mut pids: Vec<i32> = found[&child].iter().map(|process| process.pid).collect();
            assert_eq!(pids[0], child);
            pids.sort_unstable();
            pids
        };
        assert_eq!((pids(20), pids(30)), (vec![20, 21, 22, 40, 42], vec![30]));
        assert!(!found.contains_key(&50) && !found.contains_key(&99));
        assert_eq!(processes.time(&found[&20]), Duration::from_millis(350));
        assert_eq!(processes.memory(&found[&20]), 5 * 3 * 4096);
    }

    #[test]
    fn processes_that_seem_to_be_their_own_ancestors_end_the_search() {
        let processes = Processes { all: vec![process(2, 3, 2), process(3, 2, 3)], ticks_a_second: 100, page: 4096 };
        assert!(processes.of_children(10, &[2]).is_empty());
    }

    #[test]
    fn this_process_is_seen() {
        let (own, parent) = (i32::try_from(std::process::id()).unwrap(), nix::unistd::getppid().as_raw());
        let spent = std::time::Instant::now();
        while spent.elapsed() < Duration::from_millis(50) {}
        let processes = Processes::look().unwrap();
        let found = processes.of_children(parent, &[own]);
        let process = found[&own][0];
        assert!(processes.memory(&[process]) > 1 << 20, "{process:?}");
        assert!(processes.time(&[process]) > Duration::ZERO, "{process:?}");
        assert!(processes.age(process) < Duration::from_secs(3600), "{process:?}");
        let before = descriptors(own).unwrap();
        let _open: Vec<File> = (0..20).map(|_| File::open("/dev/null").unwrap()).collect();
        // Other tests open and close some at the same time.
        assert!(before >= 3 && descriptors(own).unwrap() >= 20, "{before}");
        let [read, _] = read_and_written(own).unwrap();
        assert!(read > 0);
        // A process that is gone uses nothing.
        assert_eq!((descriptors(-1), read_and_written(-1)), (Some(0), Some([0, 0])));
    }

    #[test]
    fn what_may_not_be_seen_is_unknown() {
        let refused = io::Error::from_raw_os_error(libc::EACCES);
        assert_eq!(unless_gone::<u64>(Err(refused)), None);
        assert_eq!(unless_gone::<u64>(Err(io::Error::from_raw_os_error(libc::ESRCH))), Some(0));
        assert_eq!(unless_gone(Ok(7_u64)), Some(7));
    }

    #[test]
    fn bytes_that_are_not_shown_are_unknown() {
        assert_eq!(parse_io("rchar: 12\nwchar: 345\nsyscr: 6\n"), Some([12, 345]));
        assert_eq!(parse_io("rchar: 12\n"), None);
        assert_eq!(parse_io(""), None);
    }

    #[test]
    fn a_file_and_its_file_system_are_seen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "12345").unwrap();
        let [size, free] = file(&path).unwrap();
        assert!(size == 5 && free > 0, "{free}");
        file(&folder.path().join("none")).unwrap_err();
    }
}
