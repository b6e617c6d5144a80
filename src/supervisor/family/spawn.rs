//! Starts a child's process with its descriptors and its environment.

use crate::config::model::{Child, Link as Config, Program, Ready};
use crate::journal;
use crate::link::handover::{self, Inbound, Outbound, Protocol};
use crate::supervisor::family::mark;
use crate::supervisor::family::notify;
use crate::supervisor::kept::access;
use crate::supervisor::kept::links::{Held, Links};
use crate::supervisor::kept::shared_memory::Region;
use crate::supervisor::kept::sockets::Sockets;
use crate::supervisor::poll::Watched;
use crate::sys::anew;
use crate::sys::cause::cause;
use crate::sys::map;
use crate::sys::pipe::{self, Pipe};
use crate::sys::process::{self, Spawned};
use crate::sys::stream::Stream;
use nix::fcntl::OFlag;
use nix::sys::signal::Signal;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

/// What the supervisor holds for one child, from start to start.
#[derive(Debug)]
pub struct Holdings {
    /// The pipe for its standard output and its standard error, unless they are linked.
    pub log: Watched<Pipe>,
    /// The socket on which it may say that it is ready.
    pub notify: Option<Watched<notify::Socket>>,
    /// Its settings as JSON.
    pub settings: OwnedFd,
    /// Its counters.
    pub metrics: Option<OwnedFd>,
    /// The memory that it shares with other instances.
    pub shared: Option<Region>,
    /// Whether its executable can be opened without waiting ([`crate::sys::at_hand`]).
    pub at_hand: bool,
}

/// A child that was started.
#[derive(Debug)]
pub struct Started {
    /// Its process, and the pipe that reports its exec.
    pub spawned: Spawned,
    /// The pipe to which it writes a newline when it is ready ([`Ready::Fd`]).
    pub ready: Option<OwnedFd>,
}

/// How much a log pipe can hold.
pub const LOG_CAPACITY: usize = 64 * 1024;

/// A description of the links that is longer than this is passed as a file: a string of
/// the environment has at most 128 KiB (MAX_ARG_STRLEN, execve(2)).
const LINKS_IN_ENVIRONMENT: usize = 64 * 1024;

/// The file mode creation mask of what runs as the daemon.
const DAEMON_UMASK: u32 = 0o022;

/// What else is needed to start a child.
#[derive(Debug)]
pub struct Around<'a> {
    /// Whether no other process has the child's listening sockets.
    pub alone: bool,
    /// /dev/null.
    pub null: &'a OwnedFd,
    /// The soft limit on descriptors for programs that are not plugins.
    pub soft_descriptors: u64,
    /// The mark by which its processes are recognized later.
    pub mark: &'a str,
}

/// Starts a child.
///
/// # Errors
/// A step before the fork failed; later failures are reported by [`Spawned::status`].
pub fn spawn(
    child: &Child,
    holdings: &Holdings,
    links: &mut Links,
    sockets: &mut Sockets,
    around: &Around<'_>,
) -> io::Result<Started> {
    let Around { alone, null, soft_descriptors, mark } = *around;
    links.put_right(&child.name).map_err(|e| cannot("prepare its links", &e))?;
    let mut fds = Descriptors::standard(child, holdings, links, null)?;
    let mut environment = Environment::new(child);
    environment.set(mark::VARIABLE, mark);

    let plugin = matches!(child.program, Program::Plugin(_));
    for address in &child.listen {
        fds.share(sockets.put_right(address, plugin, alone)?)?;
    }
    if !child.listen.is_empty() {
        let names: Vec<&str> = child.listen.iter().map(|address| address.scheme()).collect();
        environment.set("LISTEN_FDS", &child.listen.len().to_string());
        environment.set("LISTEN_FDNAMES", &names.join(":"));
        environment.entries.push(process::LISTEN_PID.to_owned());
    }
    environment.set("PLUMBD_SETTINGS", &fds.open("its settings", &holdings.settings, OFlag::O_RDONLY)?.to_string());
    if let Some(metrics) = &holdings.metrics {
        environment.set("PLUMBD_METRICS", &fds.open("its counters", metrics, OFlag::O_RDWR)?.to_string());
    }
    if let Some(shared) = &holdings.shared {
        let fd = fds.open("what it shares with other instances", &shared.file, OFlag::O_RDWR)?;
        environment.set("PLUMBD_SHARED", &fd.to_string());
        environment.set("PLUMBD_INSTANCE", &shared.instance.to_string());
    }
    if let Some(told) = hand_over(child, links, &mut fds)? {
        let json = serde_json::to_string(&told).map_err(io::Error::other)?;
        if json.len() <= LINKS_IN_ENVIRONMENT {
            environment.set(handover::VARIABLE, &json);
        } else {
            let file =
                map::sealed_file(c"plumbd-links", json.as_bytes()).map_err(|e| cannot("describe its links", &e))?;
            environment.set(handover::FILE_VARIABLE, &fds.add(file).to_string());
        }
    }
    if let Some(socket) = &holdings.notify {
        environment.set("NOTIFY_SOCKET", socket.name());
        if let Some(watchdog) = child.health.watchdog {
            environment.set("WATCHDOG_USEC", &watchdog.as_micros().to_string());
            environment.entries.push(process::WATCHDOG_PID.to_owned());
        }
    }
    let ready = match child.policy.ready {
        Ready::Fd => Some(Pipe::new(0).map_err(|e| cannot("make a pipe for $PLUMBD_READY_FD", &e))?),
        Ready::Exec | Ready::Notify | Ready::Health => None,
    };
    if let Some(ready) = &ready {
        pipe::set_nonblocking(&ready.read, true)?;
        environment.set("PLUMBD_READY_FD", &fds.share(&ready.write)?.to_string());
    }

    let (path, arguments) = command(child)?;
    let descriptors: Vec<BorrowedFd<'_>> = fds.list.iter().map(AsFd::as_fd).collect();
    let own = process::Program {
        path: &path,
        arguments: &arguments,
        environment: &environment.entries,
        descriptors: &descriptors,
        identity: None,
        directory: None,
        umask: child.umask,
        soft_descriptors: match child.program {
            Program::Plugin(_) => None,
            Program::Command(_) => Some(soft_descriptors),
        },
        limits: &child.limits,
        death_signal: child.policy.stop_signal,
        at_hand: holdings.at_hand,
    };
    Ok(Started { spawned: spawn_as(child, own)?, ready: ready.map(|pipe| pipe.read) })
}

/// Starts a process as the child's user, in its directory.
fn spawn_as(child: &Child, program: process::Program<'_>) -> io::Result<Spawned> {
    let user;
    let identity = match &child.user {
        Some(who) => {
            user = c_string(who.user.as_bytes())?;
            Some(process::Identity { user: &user, uid: who.uid, gid: who.gid })
        }
        None => None,
    };
    let directory = child.directory.as_ref().map(|d| c_string(d.as_os_str().as_bytes())).transpose()?;
    let program = process::Program { identity, directory: directory.as_deref(), ..program };
    process::spawn(&program).map_err(|e| cannot("fork", &e))
}

/// Whom a process beside the children runs as.
#[derive(Debug, Clone, Copy)]
pub enum As<'a> {
    /// As that child: its user, directory, environment and limits.
    Child(&'a Child),
    /// As the daemon, with this environment.
    Daemon(&'a [(String, String)]),
}

/// A program that runs beside the children: a check or a hook.
#[derive(Debug, Clone, Copy)]
pub struct Beside<'a> {
    /// Whom it runs as.
    pub runs_as: As<'a>,
    /// The program and its arguments.
    pub command: &'a [String],
    /// For a hook: its variables, and its standard input. Otherwise that is /dev/null.
    pub event: Option<(&'a [(&'static str, String)], &'a OwnedFd)>,
}

/// Starts such a program, with no more descriptors than its standard input and `output`. It is
/// always forked, so that this process never waits for its executable.
///
/// # Errors
/// As [`spawn`].
pub fn spawn_beside(program: &Beside<'_>, output: &OwnedFd, around: &Around<'_>) -> io::Result<Spawned> {
    let mut environment = match program.runs_as {
        As::Child(child) => Environment::new(child),
        As::Daemon(variables) => Environment::of(variables),
    };
    environment.set(mark::VARIABLE, around.mark);
    for (name, value) in program.event.iter().flat_map(|(variables, _)| variables.iter()) {
        environment.set(name, value);
    }
    let input = program.event.map_or(around.null, |(_, input)| input);
    let arguments = program.command.iter().map(|w| c_string(w.as_bytes())).collect::<io::Result<Vec<CString>>>()?;
    let path = arguments.first().cloned().ok_or_else(|| io::Error::other("its command is empty"))?;
    let input = anew::description(input, OFlag::O_RDONLY).map_err(|e| cannot("open its standard input", &e.into()))?;
    let own = process::Program {
        path: &path,
        arguments: &arguments,
        environment: &environment.entries,
        descriptors: &[input.as_fd(), output.as_fd(), output.as_fd()],
        identity: None,
        directory: None,
        umask: DAEMON_UMASK,
        soft_descriptors: Some(around.soft_descriptors),
        limits: &[],
        death_signal: Signal::SIGKILL,
        at_hand: false,
    };
    match program.runs_as {
        As::Child(child) => spawn_as(child, process::Program { umask: child.umask, limits: &child.limits, ..own }),
        As::Daemon(_) => process::spawn(&own).map_err(|e| cannot("fork", &e)),
    }
}

/// The descriptors of a child, in the order of the numbers they will have.
///
/// All but sockets are open file descriptions that no other process has, not even
/// this one: whatever the child does to their flags and offsets ends with it.
struct Descriptors {
    list: Vec<OwnedFd>,
}

impl Descriptors {
    /// stdin, stdout, stderr.
    fn standard(child: &Child, holdings: &Holdings, links: &Links, null: &OwnedFd) -> io::Result<Descriptors> {
        let mut fds = Descriptors { list: Vec::new() };
        match input_of(links, &child.name) {
            Some(held) => fds.open("its standard input", &links.queue(held).read, OFlag::O_RDONLY)?,
            None => fds.open("its standard input", null, OFlag::O_RDONLY)?,
        };
        let log = &holdings.log;
        let _granted = pipe::restore_capacity(&log.read, LOG_CAPACITY)?;
        if let Err(error) = anew::permit(&log.read, nix::unistd::geteuid().as_raw(), access::TO_LOG) {
            log::warn!("{}: it may not open its log pipe by the name /dev/stderr: {}", child.name, error.desc());
        }
        let mut logs_output = false;
        for stream in [Stream::Stdout, Stream::Stderr] {
            match links.out_of(&child.name, stream) {
                Some(held) => {
                    // Never fall back to the log: a source's output belongs to its sink.
                    let write = links.queue(held).write.as_ref().ok_or_else(|| {
                        io::Error::other(format!("its link to {} takes no more: its input has ended", held.config.to))
                    })?;
                    let what = match stream {
                        Stream::Stdout => "its standard output",
                        Stream::Stderr => "its standard error",
                    };
                    fds.open(what, write, OFlag::O_WRONLY | writes(held))?;
                }
                // Both outputs then share one description, as after `2>&1`.
                None if logs_output => {
                    fds.share(&fds.list[1].try_clone()?)?;
                }
                None => {
                    fds.open("its log pipe", &log.write, OFlag::O_WRONLY)?;
                    logs_output = true;
                }
            }
        }
        Ok(fds)
    }

    /// Opens what `fd` refers to anew, with a description of its own. Returns the number
    /// that it will have.
    fn open(&mut self, what: &str, fd: &OwnedFd, flags: OFlag) -> io::Result<i32> {
        let own = anew::description(fd, flags).map_err(|e| cannot(&format!("open {what}"), &e.into()))?;
        Ok(self.add(own))
    }

    /// Adds a descriptor that shares `fd`'s description. Returns the number that it will have.
    fn share(&mut self, fd: &OwnedFd) -> io::Result<i32> {
        let copy = fd.try_clone().map_err(|e| cannot("copy a descriptor", &e))?;
        Ok(self.add(copy))
    }

    fn add(&mut self, fd: OwnedFd) -> i32 {
        self.list.push(fd);
        i32::try_from(self.list.len() - 1).unwrap_or(i32::MAX)
    }
}

/// The link whose queue is that child's standard input: links of lines into an ordinary
/// program, which learns of no other way to read them, or else the first one.
fn input_of<'a>(links: &'a Links, child: &str) -> Option<&'a Held> {
    let mut into = links.flowing_into(child);
    links.flowing_into(child).find(|held| held.intake.is_none()).or_else(|| into.next())
}

/// The flags with which a source gets the write end of its queue.
fn writes(held: &Held) -> OFlag {
    match held.config.protocol {
        Protocol::Lines => OFlag::empty(),
        Protocol::Records => OFlag::O_NONBLOCK,
    }
}

/// "cannot open its standard input: Too many open files", which follows "cannot start: ".
fn cannot(what: &str, error: &io::Error) -> io::Error {
    io::Error::other(format!("cannot {what}: {}", cause(error)))
}

/// What $PLUMBD_LINKS says, if a link has more than stdin and stdout.
fn hand_over(child: &Child, links: &Links, fds: &mut Descriptors) -> io::Result<Option<handover::Links>> {
    let mut told = handover::Links::default();
    let input = input_of(links, &child.name).map(|held| &held.queue);
    for held in links.flowing_into(&child.name) {
        let Some(intake) = held.intake.as_ref().map(|i| &i.intake) else { continue };
        let queue = match input == Some(&held.queue) {
            true => 0,
            false => fds.open("a queue", &links.queue(held).read, OFlag::O_RDONLY)?,
        };
        let staging = [
            fds.open("staging", &intake.staging.read, OFlag::O_RDONLY)?,
            fds.open("staging", &intake.staging.write, OFlag::O_WRONLY)?,
        ];
        let ledger = fds.open("a ledger", &intake.ledger, OFlag::O_RDWR)?;
        let replies = match &held.replies {
            Some(replies) => {
                Some(fds.open("the replies of a link", &replies.write, OFlag::O_WRONLY | OFlag::O_NONBLOCK)?)
            }
            None => None,
        };
        let Config { from, stream, protocol, .. } = &held.config;
        let (from, stream, protocol) = (from.clone(), *stream, *protocol);
        told.inbound.push(Inbound { from, stream, protocol, queue, staging, ledger, replies });
    }
    if let Some(held) = links.out_of(&child.name, Stream::Stdout) {
        let Config { to, protocol, .. } = &held.config;
        if *protocol == Protocol::Records || matches!(child.program, Program::Plugin(_)) {
            let replies = match &held.replies {
                Some(replies) => {
                    Some(fds.open("the replies of a link", &replies.read, OFlag::O_RDONLY | OFlag::O_NONBLOCK)?)
                }
                None => None,
            };
            told.outbound = Some(Outbound { to: to.clone(), protocol: *protocol, replies });
        }
    }
    Ok((!told.inbound.is_empty() || told.outbound.is_some()).then_some(told))
}

struct Environment {
    entries: Vec<CString>,
}

impl Environment {
    fn new(child: &Child) -> Environment {
        let mut environment = Environment { entries: Vec::new() };
        if matches!(child.program, Program::Plugin(_)) {
            // First, so that the configuration may override it.
            environment.set(journal::plugin::LEVEL, &log::max_level().as_str().to_ascii_lowercase());
        }
        for name in &child.pass_environment {
            if let Some(value) = std::env::var_os(name) {
                environment.set_bytes(name, value.as_bytes());
            }
        }
        for (name, value) in &child.environment {
            environment.set(name, value);
        }
        environment.set("PLUMBD_CHILD", &child.name);
        environment
    }

    fn of(variables: &[(String, String)]) -> Environment {
        let mut environment = Environment { entries: Vec::new() };
        for (name, value) in variables {
            environment.set(name, value);
        }
        environment
    }

    fn set(&mut self, name: &str, value: &str) {
        self.set_bytes(name, value.as_bytes());
    }

    /// A later entry replaces an earlier one. An environment can't contain a NUL; the
    /// configuration's check refuses it.
    fn set_bytes(&mut self, name: &str, value: &[u8]) {
        let mut entry = format!("{name}=").into_bytes();
        self.entries.retain(|e| !e.as_bytes().starts_with(&entry));
        entry.extend_from_slice(value);
        self.entries.extend(CString::new(entry));
    }
}

/// The executable and its arguments.
fn command(child: &Child) -> io::Result<(CString, Vec<CString>)> {
    match &child.program {
        // This process's own executable, even if its file was replaced or removed
        // since, so supervisor and plugins are always the same version.
        Program::Plugin(name) => {
            if !process::shows_itself() {
                return Err(io::Error::other("built-in plugins need /proc, which is not mounted"));
            }
            let arguments = [c"plumbd".to_owned(), c"plugin".to_owned(), c_string(name.as_bytes())?];
            Ok((c"/proc/self/exe".to_owned(), arguments.to_vec()))
        }
        Program::Command(words) => {
            let arguments = words.iter().map(|w| c_string(w.as_bytes())).collect::<io::Result<Vec<CString>>>()?;
            let path = arguments.first().cloned().ok_or_else(|| io::Error::other("its command is empty"))?;
            Ok((path, arguments))
        }
    }
}

fn c_string(bytes: &[u8]) -> io::Result<CString> {
    Ok(CString::new(bytes)?)
}
