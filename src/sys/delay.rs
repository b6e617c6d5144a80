//! What processes get done: how long they ran, how long they waited for a processor while
//! they could have run (/proc/PID/schedstat: Documentation/scheduler/sched-stats.rst of the
//! kernel), and how much they read (proc_pid_io(5)).

use super::usage::read_and_written;
use nix::unistd::Pid;
use std::path::PathBuf;
use std::time::Duration;

/// At most this many processes below one are looked at.
const MOST: usize = 64;

/// What the first thread of a process has got of the processors since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Share {
    /// How long it ran.
    pub ran: Duration,
    /// How long it could have run, and got no processor.
    pub waited: Duration,
}

impl Share {
    /// Of that process, dead or alive, until it is reaped. Nothing if /proc does not show it, or
    /// the kernel does not count (CONFIG_SCHED_INFO).
    pub(crate) fn of(pid: Pid) -> Share {
        let text = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap_or_default();
        parse(&text).unwrap_or_default()
    }

    /// What came after `before`.
    pub(crate) fn since(self, before: Share) -> Share {
        Share { ran: self.ran.saturating_sub(before.ran), waited: self.waited.saturating_sub(before.waited) }
    }

    /// Of a process and those below it, together.
    pub(crate) fn of_tree(process: Pid) -> Share {
        let add = |all: Share, one: Share| Share { ran: all.ran + one.ran, waited: all.waited + one.waited };
        tree(process).into_iter().map(Share::of).fold(Share::default(), add)
    }

    /// How long it waited, if it got next to nothing of what it could have used; else nothing. A
    /// program that hangs in an endless loop on a busy machine waits too, but gets its share.
    pub(crate) fn in_vain(self) -> Duration {
        if self.ran * 10 <= self.waited { self.waited } else { Duration::ZERO }
    }
}

/// `RAN WAITED SLICES`, both in nanoseconds.
fn parse(text: &str) -> Option<Share> {
    let mut numbers = text.split_ascii_whitespace().map(|word| word.parse().map(Duration::from_nanos));
    Some(Share { ran: numbers.next()?.ok()?, waited: numbers.next()?.ok()? })
}

/// The longest time that a process, or one below it, waited for a processor. What can't be
/// looked at does not count.
pub(crate) fn longest_wait(process: Pid) -> Duration {
    tree(process).into_iter().map(|pid| Share::of(pid).waited).max().unwrap_or_default()
}

/// A number that changes if a process, or one below it, reads bytes from anything, or if others
/// are below it now. `None`: that can't be seen of one of them, because it belongs to another
/// user or is not dumpable (proc_pid_io(5), prctl(2)).
pub(crate) fn reading(process: Pid) -> Option<u64> {
    let number = |pid: Pid| u64::from(pid.as_raw().unsigned_abs());
    tree(process).into_iter().try_fold(0_u64, |all, pid| {
        let [read, _] = read_and_written(pid.as_raw())?;
        Some(all.wrapping_mul(31).wrapping_add((number(pid) << 32) ^ read))
    })
}

/// A number that changes if a process, or one below it, has waited for something and gone on. A
/// process that is halted in one long write(2) to a full pipe does that for each page that
/// becomes free, although it counts as written only at the end. `None`: the process can't be
/// looked at. What ends meanwhile does not count.
pub(crate) fn tries(process: Pid) -> Option<u64> {
    let of_thread = |path: PathBuf| {
        let text = std::fs::read_to_string(path.join("status")).ok()?;
        let count = text.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        count?.trim().parse::<u64>().ok()
    };
    let of_one = |pid: Pid| {
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?.take(MOST).flatten();
        Some(threads.filter_map(|thread| of_thread(thread.path())).fold(0, u64::wrapping_add))
    };
    let own = of_one(process)?;
    let below = tree(process).into_iter().skip(1).filter_map(of_one);
    Some(below.fold(own, u64::wrapping_add))
}

/// A process and those below it. On a kernel without CONFIG_PROC_CHILDREN, only itself.
fn tree(process: Pid) -> Vec<Pid> {
    let (mut all, mut at) = (vec![process], 0);
    while let Some(pid) = all.get(at).copied().filter(|_| all.len() < MOST) {
        at += 1;
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        all.extend(children.split_ascii_whitespace().filter_map(|word| word.parse().ok()).map(Pid::from_raw));
    }
    all.truncate(MOST);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_read_from_nanoseconds() {
        let share = Share { ran: Duration::from_millis(5), waited: Duration::from_micros(70) };
        assert_eq!(parse("5000000 70000 12\n"), Some(share));
        assert_eq!(parse(""), None);
        assert_eq!(parse("5 x 1"), None);
        let ms = Duration::from_millis;
        assert_eq!(Share { ran: ms(1), waited: ms(10) }.in_vain(), ms(10));
        assert_eq!(Share { ran: ms(2), waited: ms(10) }.in_vain(), ms(0));
    }

    #[test]
    fn this_process_has_run_for_some_time() {
        let own = nix::unistd::getpid();
        let _waited = longest_wait(own);
        let before = reading(own);
        let _read = std::fs::read("/proc/self/stat");
        assert_ne!(reading(own), before);
        let before = tries(own);
        std::thread::sleep(Duration::from_millis(1));
        assert_ne!(tries(own), before);
        assert_eq!(tree(own)[0], own);
        assert_eq!(Share::of(Pid::from_raw(i32::MAX)), Share::default());
    }
}
