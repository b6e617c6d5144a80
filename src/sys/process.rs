//! Starts programs and reaps them.

use super::executable::{self, Flaw};
use crate::sys::cause::words;
use nix::errno::Errno;
use nix::libc;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::unistd::{ForkResult, Gid, Pid, Uid, fork, getpid, getppid};
use std::cell::RefCell;
use std::convert::Infallible;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;

/// Everything that a program starts with.
#[derive(Debug)]
pub struct Program<'a> {
    /// Path of the executable.
    pub path: &'a CStr,
    /// Its arguments, from its own name on.
    pub arguments: &'a [CString],
    /// Its whole environment, each entry as `NAME=value`.
    pub environment: &'a [CString],
    /// Its descriptors: the n-th becomes descriptor n.
    pub descriptors: &'a [BorrowedFd<'a>],
    /// User and groups; `None`: as this process.
    pub identity: Option<Identity<'a>>,
    /// Working directory; `None`: as this process.
    pub directory: Option<&'a CStr>,
    /// File mode creation mask.
    pub umask: u32,
    /// The soft limit on descriptors, if it differs from this process's: many
    /// programs can't handle a high one (select(2), or closing each one).
    pub soft_descriptors: Option<u64>,
    /// Limits; each is set both as the soft and as the hard one.
    pub limits: &'a [(Resource, u64)],
    /// The signal that it gets when this process dies (PR_SET_PDEATHSIG).
    pub death_signal: Signal,
    /// Whether its executable is at hand, such as on a disk of this machine, and
    /// not behind a network that may be down ([`super::at_hand`]).
    pub at_hand: bool,
}

/// Who a program runs as.
#[derive(Debug)]
pub struct Identity<'a> {
    /// For initgroups(3).
    pub user: &'a CStr,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// A program that was started. [`outcome`] returns whether exec succeeded.
#[derive(Debug)]
pub struct Spawned {
    /// Its process id, which is its process group and session too.
    pub pid: Pid,
    /// Readable once exec succeeded or failed; non-blocking.
    pub status: OwnedFd,
}

/// The environment variable that only the child can fill in: the program's
/// own process id, which sd_listen_fds(3) requires.
pub const LISTEN_PID: &CStr = c"LISTEN_PID=";
/// The same for sd_watchdog_enabled(3).
pub const WATCHDOG_PID: &CStr = c"WATCHDOG_PID=";
/// The environment variable to which the child adds its process id, if the
/// entry ends with a colon.
const START: &[u8] = b"PLUMBD_START=";

fn wants_own_pid(entry: &CStr) -> bool {
    entry == LISTEN_PID
        || entry == WATCHDOG_PID
        || (entry.to_bytes().starts_with(START) && entry.to_bytes().ends_with(b":"))
}

/// The step at which the child failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Stage {
    Session,
    Descriptors,
    Limits,
    Groups,
    Group,
    User,
    Directory,
    Exec,
}

impl Stage {
    const ALL: [Stage; 8] = [
        Stage::Session,
        Stage::Descriptors,
        Stage::Limits,
        Stage::Groups,
        Stage::Group,
        Stage::User,
        Stage::Directory,
        Stage::Exec,
    ];

    fn words(self) -> &'static str {
        match self {
            Stage::Session => "making a session",
            Stage::Descriptors => "placing descriptors",
            Stage::Limits => "setting limits",
            Stage::Groups => "setting supplementary groups",
            Stage::Group => "setting the group",
            Stage::User => "setting the user",
            Stage::Directory => "changing the directory",
            Stage::Exec => "executing",
        }
    }
}

/// The outcome of an exec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exec {
    /// Not known yet.
    Pending,
    /// The program runs.
    Done,
    /// The program does not run, and why: "executing: No such file or directory".
    Failed(String),
}

/// Starts a process that executes the program: in a session of its own, with
/// default signal dispositions, an empty mask, and no descriptors but those
/// given.
///
/// The process shares this one's memory until it executes, and this one waits
/// for that, as with vfork(2): otherwise copying page tables, and each page that either
/// then touches, would dominate the cost of a start. If the process gets another user or
/// a directory of its own, or if its executable is not at hand, it is forked instead:
/// looking up a user's groups, changing the directory or looking up a file may have to
/// wait for a network, and this process never does.
///
/// This process must have one thread: not everything that the child does before exec is
/// async-signal-safe (fork(2)).
///
/// # Errors
/// EAGAIN, ENOMEM from clone(2) or fork(2); EMFILE, ENFILE from pipe2(2).
pub fn spawn(program: &Program<'_>) -> io::Result<Spawned> {
    let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC | nix::fcntl::OFlag::O_NONBLOCK)?;
    let mut launch = Launch::new(program, &write);
    let may_wait = program.identity.is_some() || program.directory.is_some() || !program.at_hand;
    // A signal that arrived before the dispositions are reset would run this
    // process's handlers in the child.
    let mut before = SigSet::empty();
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut before))?;
    let started = if may_wait { forked(&mut launch) } else { shared(&mut launch) };
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&before), None)?;
    Ok(Spawned { pid: started?, status: read })
}

fn forked(launch: &mut Launch<'_>) -> nix::Result<Pid> {
    #[allow(unsafe_code)]
    // SAFETY: one thread, so the child's copy of the heap and of every lock is consistent.
    match unsafe { fork() }? {
        ForkResult::Child => launch.run(),
        ForkResult::Parent { child } => Ok(child),
    }
}

/// The size of the child's stack while it shares this process's memory. Only pages that
/// were used take memory.
const STACK: usize = 256 * 1024;

thread_local! {
    // Kept from start to start, so that its pages need not be allocated again.
    static CHILD_STACK: RefCell<Vec<u8>> = RefCell::new(vec![0; STACK]);
}

fn shared(launch: &mut Launch<'_>) -> nix::Result<Pid> {
    extern "C" fn run(launch: *mut c_void) -> c_int {
        #[allow(unsafe_code)]
        // SAFETY: `shared` passes its `launch`, and does not continue before
        // this process has executed or is gone (CLONE_VFORK).
        let launch = unsafe { &mut *launch.cast::<Launch<'_>>() };
        launch.run()
    }
    CHILD_STACK.with_borrow_mut(|stack| {
        let top = stack.as_mut_ptr_range().end;
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        #[allow(unsafe_code)]
        // SAFETY: the stack is the child's alone, the C library rounds its top down as
        // the ABI requires, and it is many times larger than needed.
        // The one thread of this process waits until the child has executed
        // or is gone, so nothing is used by both at a time. Until then the child leaves
        // all that it shares as it was: it allocates nothing,
        // and its descriptors and dispositions are copies.
        let pid = unsafe { libc::clone(run, top.cast(), flags, std::ptr::from_mut(launch).cast()) };
        Errno::result(pid).map(Pid::from_raw)
    })
}

/// Reads the outcome of the exec of that program.
///
/// # Errors
/// From read(2); EINTR is retried.
pub fn outcome(status: impl AsFd, program: &Path) -> io::Result<Exec> {
    let mut report = [0u8; REPORT];
    match nix::unistd::read(status, &mut report) {
        Ok(0) => Ok(Exec::Done),
        Ok(length) => {
            let stage = Stage::ALL.get(usize::from(report[0])).map_or("starting", |s| s.words());
            let errno = Errno::from_raw(i32::from_le_bytes([report[1], report[2], report[3], report[4]]));
            let flaw = Flaw::from_bytes(report.get(5..length).unwrap_or_default());
            let why = match flaw.map(|flaw| (flaw.to_string(), flaw.help(program))) {
                Some((why, help)) if !help.is_empty() => format!("{why}; {help}"),
                Some((why, _)) => why,
                None => words(errno),
            };
            Ok(Exec::Failed(format!("{stage}: {why}")))
        }
        Err(Errno::EAGAIN | Errno::EINTR) => Ok(Exec::Pending),
        Err(e) => Err(e.into()),
    }
}

/// Whether a child that is not reaped yet has executed a program. Its status pipe does not
/// show that, because it is also closed if the child was killed before. True if /proc does
/// not show it.
pub fn has_executed(pid: Pid) -> bool {
    /// The flag of a process that was forked but has not executed (the kernel's linux/sched.h).
    const PF_FORKNOEXEC: u64 = 0x40;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // `1 (a name) S ppid pgrp session tty tpgid flags` (proc_pid_stat(5))
    let flags = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_ascii_whitespace().nth(6)?.parse::<u64>().ok());
    flags.is_none_or(|flags| flags & PF_FORKNOEXEC == 0)
}

/// The longest report of a start that failed: stage, errno, and the flaw of the
/// program. It is far smaller than PIPE_BUF, so it arrives whole (pipe(7)).
const REPORT: usize = 5 + executable::BYTES;

/// Fills in such a report; returns its length.
fn report(stage: Stage, errno: Errno, path: &CStr, to: &mut [u8; REPORT]) -> usize {
    to[0] = stage as u8;
    to[1..5].copy_from_slice(&(errno as i32).to_le_bytes());
    match executable::explain(path, errno).filter(|_| stage == Stage::Exec) {
        Some(flaw) => {
            to[5..].copy_from_slice(&flaw.bytes());
            REPORT
        }
        None => 5,
    }
}

/// A process id has at most this many digits.
const PID_DIGITS: usize = 10;

/// All that the child needs, made before the child exists: it may share this
/// process's memory, and so must not allocate.
struct Launch<'a> {
    program: &'a Program<'a>,
    /// execve(2)'s lists, each with a null pointer at its end.
    arguments: Vec<*const c_char>,
    environment: Vec<*const c_char>,
    /// Entries of the environment that the child adds its process id to: the index, the
    /// length without the id, and the entry with room for it.
    own_pid: Vec<(usize, usize, Vec<u8>)>,
    /// The current numbers of descriptors that are being moved to their places.
    moved: Vec<RawFd>,
    status: BorrowedFd<'a>,
    parent: Pid,
}

impl<'a> Launch<'a> {
    fn new(program: &'a Program<'a>, status: &'a OwnedFd) -> Launch<'a> {
        let pointers = |list: &[CString]| {
            let entries = list.iter().map(|entry| entry.as_ptr());
            entries.chain([std::ptr::null()]).collect()
        };
        let own_pid = program.environment.iter().enumerate().filter(|(_, entry)| wants_own_pid(entry));
        let own_pid = own_pid.map(|(place, entry)| {
            let length = entry.to_bytes().len();
            let mut room = vec![0; length + PID_DIGITS + 1];
            room[..length].copy_from_slice(entry.to_bytes());
            (place, length, room)
        });
        Launch {
            program,
            own_pid: own_pid.collect(),
            arguments: pointers(program.arguments),
            environment: pointers(program.environment),
            moved: vec![0; program.descriptors.len()],
            status: status.as_fd(),
            parent: getpid(),
        }
    }

    /// Runs in the child.
    fn run(&mut self) -> ! {
        // The program's own descriptors may need this one's number.
        let status = above(self.status, self.moved.len()).unwrap_or(self.status.as_raw_fd());
        let Err((stage, errno)) = self.become_program(status);
        #[allow(unsafe_code)]
        // SAFETY: open until exec, see `above`.
        let status = unsafe { BorrowedFd::borrow_raw(status) };
        let mut told = [0; REPORT];
        let length = report(stage, errno, self.program.path, &mut told);
        let _told = nix::unistd::write(status, &told[..length]);
        #[allow(unsafe_code)]
        // SAFETY: ends this process without running the parent's exit handlers.
        unsafe {
            libc::_exit(127)
        }
    }

    /// Returns only if it failed.
    fn become_program(&mut self, status: RawFd) -> Result<Infallible, (Stage, Errno)> {
        let at = |stage: Stage| move |errno: Errno| (stage, errno);
        let program = self.program;

        nix::unistd::setsid().map_err(at(Stage::Session))?;
        default_dispositions();
        // What comes next may take for ever, so a stop must be able to end it.
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None).map_err(at(Stage::Session))?;
        place(program.descriptors, &mut self.moved).map_err(at(Stage::Descriptors))?;
        close_from(program.descriptors.len(), status);
        nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(program.umask));
        if let Some(soft) = program.soft_descriptors {
            let hard = getrlimit(Resource::RLIMIT_NOFILE).map_err(at(Stage::Limits))?.1;
            setrlimit(Resource::RLIMIT_NOFILE, soft.min(hard), hard).map_err(at(Stage::Limits))?;
        }
        for &(resource, value) in program.limits {
            setrlimit(resource, value, value).map_err(at(Stage::Limits))?;
        }
        if let Some(who) = &program.identity {
            nix::unistd::initgroups(who.user, Gid::from_raw(who.gid)).map_err(at(Stage::Groups))?;
            nix::unistd::setgid(Gid::from_raw(who.gid)).map_err(at(Stage::Group))?;
            nix::unistd::setuid(Uid::from_raw(who.uid)).map_err(at(Stage::User))?;
        }
        if let Some(directory) = program.directory {
            nix::unistd::chdir(directory).map_err(at(Stage::Directory))?;
        }
        // A change of identity clears it (prctl(2)), so it is set here. If the parent died
        // before it was set, this process now has another parent.
        nix::sys::prctl::set_pdeathsig(program.death_signal).map_err(at(Stage::Session))?;
        if getppid() != self.parent {
            return Err((Stage::Session, Errno::ESRCH));
        }

        self.tell_own_pid();
        #[allow(unsafe_code)]
        // SAFETY: both lists end with a null pointer. They point to the
        // program's strings and `own_pid`, which exist until this returns.
        unsafe {
            libc::execve(program.path.as_ptr(), self.arguments.as_ptr(), self.environment.as_ptr())
        };
        Err((Stage::Exec, Errno::last()))
    }

    fn tell_own_pid(&mut self) {
        let mut digits = itoa::Buffer::new();
        let digits = digits.format(getpid().as_raw()).as_bytes();
        for (place, length, room) in &mut self.own_pid {
            room[*length..*length + digits.len()].copy_from_slice(digits);
            self.environment[*place] = room.as_ptr().cast();
        }
    }
}

/// Resets every signal to its default: ignored ones, such as SIGPIPE, would stay ignored
/// across exec (signal(7)).
pub(super) fn default_dispositions() {
    // The kernel's struct sigaction, at most 32 bytes; zeros mean SIG_DFL, no
    // flags, and an empty mask. The system call is used directly, because nix knows no
    // real-time signals, and the C library refuses two that it keeps for itself.
    let default = [0u64; 4];
    for number in 1..=libc::SIGRTMAX() {
        #[allow(unsafe_code)]
        // SAFETY: reads `default`, which outlives the call; the default
        // disposition runs no code of this process. For SIGKILL and SIGSTOP the call
        // fails, because they have no other.
        let _set = unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                number,
                default.as_ptr(),
                std::ptr::null_mut::<u64>(),
                size_of::<u64>(), // of the mask
            )
        };
    }
}

/// Makes the n-th descriptor descriptor n. One may be listed more than once.
///
/// At any time, at most one more is open than before, because a program may be given
/// almost as many descriptors as the limit allows.
fn place(descriptors: &[BorrowedFd<'_>], moved: &mut [RawFd]) -> nix::Result<()> {
    let count = descriptors.len();
    for (from, fd) in moved.iter_mut().zip(descriptors) {
        *from = fd.as_raw_fd();
    }
    for (place, number) in (0..).zip(0..count) {
        let (done, later) = moved.split_at_mut(number + 1);
        let from = done[number];
        // A descriptor that has this number, but belongs at another, is moved out of the way.
        if from != place && later.contains(&place) {
            #[allow(unsafe_code)]
            // SAFETY: open, as it is one of `descriptors`, and closed only once it is placed.
            let away = above(unsafe { BorrowedFd::borrow_raw(place) }, count)?;
            later.iter_mut().filter(|later| **later == place).for_each(|later| *later = away);
        }
        #[allow(unsafe_code)]
        // SAFETY: in the child, whose descriptors are replaced and closed on purpose;
        // their owners in the parent have a table of descriptors of their own.
        unsafe {
            if from == place {
                // dup2 would leave it close-on-exec.
                Errno::result(libc::fcntl(place, libc::F_SETFD, 0))?;
                continue;
            }
            Errno::result(libc::dup2(from, place))?;
            if !later.contains(&from) {
                libc::close(from);
            }
        }
    }
    Ok(())
}

/// Closes every descriptor from `first` on except `but`. Marking them close-on-exec
/// would not be enough: the steps before exec, and exec itself, may take for ever, and
/// the reader of a pipe would wait for its end as long as a copy of the write
/// end is open here. Needs Linux 5.9 (close_range(2)).
fn close_from(first: usize, but: RawFd) {
    let (first, but) = (libc::c_uint::try_from(first).unwrap_or(0), libc::c_uint::try_from(but).unwrap_or(0));
    let ranges = if but < first {
        [Some((first, libc::c_uint::MAX)), None]
    } else {
        [(but > first).then(|| (first, but - 1)), Some((but + 1, libc::c_uint::MAX))]
    };
    for (first, last) in ranges.into_iter().flatten() {
        #[allow(unsafe_code)]
        // SAFETY: in the child, as in `place`, and none of them is used here any more.
        unsafe {
            libc::syscall(libc::SYS_close_range, first, last, 0)
        };
    }
}

/// A copy of the descriptor with the number `lowest` or above, close-on-exec. Nothing
/// owns it: it lasts until exec.
fn above(fd: BorrowedFd<'_>, lowest: usize) -> nix::Result<RawFd> {
    let lowest = RawFd::try_from(lowest).map_err(|_| Errno::EMFILE)?;
    nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(lowest))
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It exited with this status.
    Code(i32),
    /// A signal of this number killed it.
    Signal(i32),
}

impl Exit {
    /// Whether it exited with status 0. For a child, its `success` in the configuration says
    /// what counts as a success.
    pub fn success(self) -> bool {
        self == Exit::Code(0)
    }
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Exit::Code(code) => write!(f, "exited with status {code}"),
            Exit::Signal(number) => write!(f, "was killed by {}", signal_name(*number)),
        }
    }
}

/// The name of a signal as kill(1) writes it: `SIGKILL`, `SIGRTMIN+3`.
pub fn signal_name(number: i32) -> String {
    match Signal::try_from(number) {
        Ok(signal) => signal.as_str().to_owned(),
        Err(_) => format!("SIGRTMIN+{}", number - libc::SIGRTMIN()),
    }
}

/// A dead child that is not reaped yet, so its number is still its own.
///
/// # Errors
/// From waitid(2); no children at all (ECHILD) is `Ok(None)`.
pub fn next_dead() -> io::Result<Option<Pid>> {
    match look_for_dead() {
        Err(Errno::ECHILD) => Ok(None),
        other => Ok(other?),
    }
}

/// Whether this process has any children, dead ones included.
pub fn has_children() -> bool {
    look_for_dead() != Err(Errno::ECHILD)
}

fn look_for_dead() -> nix::Result<Option<Pid>> {
    #[allow(unsafe_code)]
    // SAFETY: a siginfo_t of zeros is a value of its type; waitid fills it.
    let (result, pid) = unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        // By libc, because nix's waitid treats death by a real-time signal as an error.
        let result = libc::waitid(libc::P_ALL, 0, &raw mut info, libc::WEXITED | libc::WNOHANG | libc::WNOWAIT);
        (result, info.si_pid())
    };
    match Errno::result(result) {
        Ok(_) if pid == 0 => Ok(None),
        Ok(_) => Ok(Some(Pid::from_raw(pid))),
        Err(Errno::EINTR) => look_for_dead(),
        Err(e) => Err(e),
    }
}

/// Reaps one dead child (waitpid(2)); `None` if it is not dead, or not a child.
///
/// # Errors
/// From waitpid(2), except ECHILD.
pub fn reap(pid: Pid) -> io::Result<Option<Exit>> {
    let mut status = 0;
    #[allow(unsafe_code)]
    // SAFETY: waitpid stores one int through the pointer, which outlives the call.
    let result = unsafe { libc::waitpid(pid.as_raw(), &raw mut status, libc::WNOHANG) };
    match Errno::result(result) {
        Ok(0) | Err(Errno::ECHILD) => Ok(None),
        Ok(_) if libc::WIFSIGNALED(status) => Ok(Some(Exit::Signal(libc::WTERMSIG(status)))),
        Ok(_) => Ok(Some(Exit::Code(libc::WEXITSTATUS(status)))),
        Err(Errno::EINTR) => reap(pid),
        Err(e) => Err(e.into()),
    }
}

/// Sends a signal to the process group of a child that is not reaped yet.
///
/// # Errors
/// EPERM if every process in it belongs to other users.
pub fn signal_group(leader: Pid, signal: Signal) -> io::Result<()> {
    let sent = match nix::sys::signal::killpg(leader, signal) {
        // It was just forked and has not made its group yet, so it is alone.
        Err(Errno::ESRCH) => kill(leader, signal),
        other => other,
    };
    match sent {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Sends a signal to a child that is not reaped yet, and to no other process in its group.
///
/// # Errors
/// EPERM if it now belongs to another user.
pub fn signal_leader(leader: Pid, signal: Signal) -> io::Result<()> {
    match kill(leader, signal) {
        // A zombie takes any signal, so it is there until it is reaped.
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// The signals to send, in this order, so that a process takes that signal even if it is
/// stopped: the signal and SIGCONT. If SIGCONT and a signal that stops a process are both
/// pending, the later one cancels the earlier one (`prepare_signal` in the kernel's
/// kernel/signal.c).
pub fn with_continue(signal: Signal) -> [Signal; 2] {
    match signal {
        Signal::SIGTSTP | Signal::SIGTTIN | Signal::SIGTTOU => [Signal::SIGCONT, signal],
        _ => [signal, Signal::SIGCONT],
    }
}

/// Whether any process is in that process group, zombies included.
pub fn group_exists(group: Pid) -> bool {
    nix::sys::signal::killpg(group, None) != Err(Errno::ESRCH)
}

/// Sends a signal to one process if it catches that signal
/// (`SigCgt` in proc_pid_status(5)): the default action of SIGUSR1 is death.
///
/// # Errors
/// EPERM; or /proc is not mounted, or shows another pid namespace, in which the number would
/// be another process's.
pub fn signal_if_caught(pid: Pid, signal: Signal) -> io::Result<bool> {
    if std::fs::read_link("/proc/self").ok() != Some(getpid().to_string().into()) {
        return Err(io::Error::other("/proc is not mounted in this pid namespace"));
    }
    let status = match std::fs::read_to_string(format!("/proc/{pid}/status")) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(e),
    };
    let caught = status
        .lines()
        .find_map(|line| line.strip_prefix("SigCgt:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & (1 << (signal as i32 - 1)) != 0);
    if caught {
        match kill(pid, signal) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(caught)
}

/// Lets this process open as many descriptors as it may: raises the soft limit
/// to the hard one (setrlimit(2)), and returns the soft limit from before.
///
/// # Errors
/// None for a process's own limit.
pub fn raise_descriptor_limit() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(soft)
}

/// Whether /proc shows the executable of this process, which is needed to run it again.
pub fn shows_itself() -> bool {
    std::fs::symlink_metadata("/proc/self/exe").is_ok()
}

/// Makes this process the parent of every orphan among its descendants
/// (PR_SET_CHILD_SUBREAPER, prctl(2)).
///
/// # Errors
/// None on Linux 3.4 and later.
pub fn become_subreaper() -> io::Result<()> {
    Ok(nix::sys::prctl::set_child_subreaper(true)?)
}

/// Kills one process. It is no error if it is dead.
pub fn force(pid: Pid) {
    // ESRCH: it is gone, as it should be. EPERM: it changed its identity, and nothing more can be done.
    let _sent = kill(pid, Signal::SIGKILL);
}
