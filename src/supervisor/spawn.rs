//! What a child is given when it starts: descriptors and environment.

use super::links::Links;
use super::mark;
use super::notify;
use super::poll::Watched;
use super::sockets::Sockets;
use crate::config::model::{Child, Program, Ready};
use crate::journal;
use crate::link::handover::{self, Inbound, Outbound, Protocol};
use crate::sys::pipe::{self, Pipe};
use crate::sys::process::{self, Spawned};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

/// What the supervisor holds for one child, from start to start.
#[derive(Debug)]
pub struct Holdings {
    /// Where its standard error, and an unlinked standard output, go.
    pub log: Watched<Pipe>,
    /// Where it may say that it is ready.
    pub notify: Option<Watched<notify::Socket>>,
    /// Its settings as JSON.
    pub settings: OwnedFd,
    /// Its counters.
    pub metrics: Option<OwnedFd>,
    /// Whether its executable is at hand ([`process::is_at_hand`]).
    pub at_hand: bool,
}

/// A child that was started.
#[derive(Debug)]
pub struct Started {
    /// Its process, and how its exec goes.
    pub spawned: Spawned,
    /// Where it writes a newline when it is ready ([`Ready::Fd`]).
    pub ready: Option<OwnedFd>,
}

/// Starts a child.
///
/// # Errors
/// What could not be done before exec; later failures come through
/// [`Spawned::status`].
pub fn spawn(
    child: &Child,
    holdings: &Holdings,
    links: &Links,
    sockets: &Sockets,
    null: &OwnedFd,
    soft_descriptors: u64,
    mark: &str,
) -> io::Result<Started> {
    let mut fds = Descriptors::new(child, holdings, links, null);
    let mut environment = Environment::new(child);
    environment.set(mark::VARIABLE, mark);

    for address in &child.listen {
        let socket = sockets.get(address).ok_or_else(|| io::Error::other("its socket is not held"))?;
        pipe::set_nonblocking(socket, matches!(child.program, Program::Plugin(_)))?;
        fds.add(socket.as_fd());
    }
    if !child.listen.is_empty() {
        let names: Vec<&str> = child.listen.iter().map(|address| address.scheme()).collect();
        environment.set("LISTEN_FDS", &child.listen.len().to_string());
        environment.set("LISTEN_FDNAMES", &names.join(":"));
        environment.entries.push(process::LISTEN_PID.to_owned());
    }
    // The offset is shared with whoever read it before.
    nix::unistd::lseek(&holdings.settings, 0, nix::unistd::Whence::SeekSet)?;
    environment.set("PLUMBD_SETTINGS", &fds.add(holdings.settings.as_fd()).to_string());
    if let Some(metrics) = &holdings.metrics {
        environment.set("PLUMBD_METRICS", &fds.add(metrics.as_fd()).to_string());
    }
    if let Some(told) = tell_links(child, links, &mut fds) {
        let json = serde_json::to_string(&told).map_err(io::Error::other)?;
        environment.set(handover::VARIABLE, &json);
    }
    if let Some(socket) = &holdings.notify {
        environment.set("NOTIFY_SOCKET", socket.name());
    }
    let ready = match child.ready {
        Ready::Fd => Some(Pipe::new(0)?),
        Ready::Exec | Ready::Notify => None,
    };
    if let Some(ready) = &ready {
        pipe::set_nonblocking(&ready.read, true)?;
        environment.set("PLUMBD_READY_FD", &fds.add(ready.write.as_fd()).to_string());
    }

    let (path, arguments) = command(child)?;
    let user;
    let identity = match &child.user {
        Some(who) => {
            user = c_string(who.user.as_bytes())?;
            Some(process::Identity { user: &user, uid: who.uid, gid: who.gid })
        }
        None => None,
    };
    let directory = child.directory.as_ref().map(|d| c_string(d.as_os_str().as_bytes())).transpose()?;
    let spawned = process::spawn(&process::Program {
        path: &path,
        arguments: &arguments,
        environment: &environment.entries,
        descriptors: &fds.list,
        identity,
        directory: directory.as_deref(),
        umask: child.umask,
        soft_descriptors: match child.program {
            Program::Plugin(_) => None,
            Program::Command(_) => Some(soft_descriptors),
        },
        limits: &child.limits,
        death_signal: child.stop_signal,
        at_hand: holdings.at_hand,
    })?;
    Ok(Started { spawned, ready: ready.map(|pipe| pipe.read) })
}

/// The descriptors of a child, by the number each will have.
struct Descriptors<'a> {
    list: Vec<BorrowedFd<'a>>,
}

impl<'a> Descriptors<'a> {
    /// stdin, stdout, stderr.
    fn new(child: &Child, holdings: &'a Holdings, links: &'a Links, null: &'a OwnedFd) -> Descriptors<'a> {
        let log = holdings.log.write.as_fd();
        let stdin = links.flowing_into(&child.name).next().map_or(null.as_fd(), |held| links.queue(held).read.as_fd());
        let stdout = links.out_of(&child.name).and_then(|held| links.queue(held).write.as_ref());
        Descriptors { list: vec![stdin, stdout.map_or(log, AsFd::as_fd), log] }
    }

    /// The number that it will have.
    fn add(&mut self, fd: BorrowedFd<'a>) -> i32 {
        self.list.push(fd);
        i32::try_from(self.list.len() - 1).unwrap_or(i32::MAX)
    }
}

/// What $PLUMBD_LINKS says, where there is more to a link than stdin and stdout.
fn tell_links<'a>(child: &Child, links: &'a Links, fds: &mut Descriptors<'a>) -> Option<handover::Links> {
    let mut told = handover::Links::default();
    for (place, held) in links.flowing_into(&child.name).enumerate() {
        let Some(intake) = held.intake.as_ref().map(|i| &i.intake) else { continue };
        // The first one's queue is stdin.
        let queue = if place == 0 { 0 } else { fds.add(links.queue(held).read.as_fd()) };
        told.inbound.push(Inbound {
            from: held.config.from.clone(),
            protocol: held.config.protocol,
            queue,
            staging: [fds.add(intake.staging.read.as_fd()), fds.add(intake.staging.write.as_fd())],
            ledger: fds.add(intake.ledger.as_fd()),
            replies: held.replies.as_ref().map(|replies| fds.add(replies.write.as_fd())),
        });
    }
    told.outbound = links
        .out_of(&child.name)
        .filter(|held| held.config.protocol == Protocol::Records || matches!(child.program, Program::Plugin(_)))
        .map(|held| Outbound {
            to: held.config.to.clone(),
            protocol: held.config.protocol,
            replies: held.replies.as_ref().map(|replies| fds.add(replies.read.as_fd())),
        });
    (!told.inbound.is_empty() || told.outbound.is_some()).then_some(told)
}

struct Environment {
    entries: Vec<CString>,
}

impl Environment {
    fn new(child: &Child) -> Environment {
        let mut environment = Environment { entries: Vec::new() };
        if matches!(child.program, Program::Plugin(_)) {
            // First, so that the configuration may say otherwise.
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

    fn set(&mut self, name: &str, value: &str) {
        self.set_bytes(name, value.as_bytes());
    }

    /// Later ones take the place of earlier ones. A NUL can't be in an
    /// environment; the configuration's check refuses it.
    fn set_bytes(&mut self, name: &str, value: &[u8]) {
        let mut entry = format!("{name}=").into_bytes();
        self.entries.retain(|e| !e.as_bytes().starts_with(&entry));
        entry.extend_from_slice(value);
        self.entries.extend(CString::new(entry));
    }
}

/// What is executed, and its arguments.
fn command(child: &Child) -> io::Result<(CString, Vec<CString>)> {
    match &child.program {
        // This process's own executable, also where its file was replaced or
        // removed since: supervisor and plugins are of one version.
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
