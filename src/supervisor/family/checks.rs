//! Checks of children: the processes and the connections of `health`, and looks at what waits
//! for a child. What follows from them is decided in [`health`](super::health).
//!
//! A child has at most one check at a time.

use crate::config::model::{Probe, Ready};
use crate::control::event::What;
use crate::supervisor::event_loop::Supervisor;
use crate::supervisor::family::beside::{Process, Purpose, READ, ROUNDS};
use crate::supervisor::family::child;
use crate::supervisor::family::health::{Action, Event, Seen};
use crate::supervisor::family::spawn::{As, Beside};
use crate::supervisor::family::supervised::Supervised;
use crate::supervisor::kept::links::Links;
use crate::supervisor::poll::{Id, Poll, Token, Watched};
use crate::sys::cause::cause;
use crate::sys::delay::{self, Share};
use crate::sys::socket;
use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;
use nix::sys::socket::{MsgFlags, send};
use nix::unistd::Pid;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// How long the status line of an answer may be, with what comes before it.
const ANSWER_MOST: usize = 16 * 1024;

/// A check that is under way, or whose process is not gone yet.
#[derive(Debug)]
pub(crate) struct Check {
    kind: Kind,
    /// What the child's own process had got of the processors when it began.
    before: Share,
    /// When it was ended. Its process may not be gone yet, but says nothing more.
    ended: Option<Instant>,
}

#[derive(Debug)]
enum Kind {
    Process(Process),
    Connection {
        socket: Watched<OwnedFd>,
        /// The request, if the connection is not enough, and what came back.
        http: Option<Http>,
    },
}

#[derive(Debug)]
struct Http {
    request: Vec<u8>,
    answer: Vec<u8>,
}

impl Supervised {
    /// How long the child's own process, or one of the check's, waited for a processor in vain
    /// since the check began.
    fn waited(&self, of_check: Duration) -> Duration {
        let (Some(check), Some(pid)) = (&self.check, self.machine.pid()) else { return of_check };
        Share::of(pid).since(check.before).in_vain().max(of_check)
    }

    /// A number that changes when the child takes something of what waits for it, and whether it
    /// changes for no other reason. `None`: that can't be seen.
    pub(crate) fn taking(&self, links: &Links) -> (Option<u64>, bool) {
        let (waits, batches) = links.waits_for(&self.config.name);
        let taken = self.taken_of(waits, batches).map(|[first, second]| first.wrapping_mul(31).wrapping_add(second));
        (taken, batches.is_some())
    }

    /// If this changes, the child has taken something of what waits for it. `None`: that can't
    /// be seen.
    fn taken_of(&self, waits: u64, batches: Option<u64>) -> Option<[u64; 2]> {
        match batches {
            Some(batches) => Some([batches, 0]),
            // Without a ledger, a source that fills a queue again at once hides what was taken.
            None => Some([waits, self.machine.pid().map_or(Some(0), delay::reading)?]),
        }
    }
}

impl Supervisor {
    /// Tells the checks of a child how far its process has got.
    pub(crate) fn follow_health(&mut self, id: Id) {
        let Some(child) = self.children.get(id) else { return };
        let phase = child.phase();
        if phase != child.health.phase() {
            self.health_step(id, Event::Phase(phase));
        }
    }

    /// Whether a check says when that child is ready.
    pub(crate) fn is_ready_by_health(&self, id: Id) -> bool {
        self.children.get(id).is_some_and(|child| child.config.policy.ready == Ready::Health)
    }

    /// Passes an event to what decides about a child's health, and does what it says.
    pub(crate) fn health_step(&mut self, id: Id, event: Event) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            let Some(child) = self.children.get_mut(id) else { return };
            let actions = child.health.step(event, &child.config.health, Instant::now());
            for action in actions {
                events.extend(self.act_on_health(id, action));
            }
        }
        self.children.set_timer(id);
    }

    fn act_on_health(&mut self, id: Id, action: Action) -> Option<Event> {
        let is_verdict = !matches!(action, Action::Cancel | Action::Say(..));
        // Its process is dead. That is the next thing that it is told.
        if is_verdict && self.children.is_leaving(id) {
            return None;
        }
        match action {
            Action::Begin => return self.begin_check(id),
            Action::TimeOut(why) => return self.time_out(id, &why),
            Action::Cancel => self.end_check(id),
            Action::Look => return Some(Event::Looked(self.waits_for(id))),
            Action::Await => self.await_bytes(id),
            Action::Ready => self.step(id, child::Event::Ready),
            Action::NotReady(why) => {
                let child = self.children.get_mut(id)?;
                log::debug!(target: &child.config.name, "a check says that it is not ready yet: {why}");
                child.machine.last_check = Some(why);
            }
            Action::Unhealthy(why) => {
                self.tell_unwell(id, What::Unhealthy, &why);
                self.step(id, child::Event::Unhealthy(why));
            }
            Action::Stalled(why) => {
                self.tell_unwell(id, What::Stalled, &why);
                self.step(id, child::Event::Unhealthy(why));
            }
            Action::Hung(why) => {
                self.tell_unwell(id, What::Watchdog, &why);
                self.step(id, child::Event::Hung(why));
            }
            Action::Say(level, text) => {
                if let Some(child) = self.children.get(id) {
                    log::log!(target: &child.config.name, level, "{text}");
                }
            }
        }
        None
    }

    fn tell_unwell(&mut self, id: Id, what: What, why: &str) {
        if let Some(child) = self.children.get(id).filter(|child| child.machine.is_up()) {
            child.note_unwell(&mut self.events, what, why);
        }
    }

    fn begin_check(&mut self, id: Id) -> Option<Event> {
        let child = self.children.get(id)?;
        let probe = child.config.health.check.as_ref()?.probe.clone();
        if let Some(check) = &child.check {
            let lingers = check.ended.is_some_and(|at| at.elapsed() >= child::UNKILLABLE);
            return Some(match &check.kind {
                Kind::Process(process) if lingers => Event::Ended(
                    Err(format!("process {} of an earlier check does not die of SIGKILL", process.pid)),
                    Duration::ZERO,
                ),
                _ => Event::NotYet,
            });
        }
        let begun = match probe {
            Probe::Command(command) => self.begin_process(id, &command).map_err(|e| Event::NotBegun(cause(&e))),
            Probe::Tcp(at) => connect(id, at, None, &self.system.poll),
            Probe::Http { at, url } => connect(id, at, Some(&url), &self.system.poll),
        };
        match begun {
            Ok(kind) => {
                let child = self.children.get_mut(id)?;
                let before = child.machine.pid().map(Share::of).unwrap_or_default();
                child.check = Some(Check { kind, before, ended: None });
                None
            }
            Err(event) => Some(event),
        }
    }

    fn begin_process(&mut self, id: Id, command: &[String]) -> io::Result<Kind> {
        let child = self.children.get(id).ok_or_else(|| io::Error::other("the child is gone"))?;
        let config = Rc::clone(&child.config);
        let program = Beside { runs_as: As::Child(&config), command, event: None };
        self.begin_beside(Purpose::Check(id), &config.name, program).map(Kind::Process)
    }

    /// Something comes from a check.
    pub(crate) fn on_check(&mut self, id: Id) {
        let Some(child) = self.children.get_mut(id) else { return };
        let Some(check) = child.check.as_mut().filter(|check| check.ended.is_none()) else { return };
        let result = match &mut check.kind {
            Kind::Process(process) => process.hear().err().map(Err),
            Kind::Connection { socket, http } => go_on(socket, http.as_mut()).transpose(),
        };
        let Some(result) = result else { return };
        let ended = Event::Ended(result, child.waited(Duration::ZERO));
        self.end_check(id);
        self.health_step(id, ended);
    }

    /// A check has taken too long.
    fn time_out(&mut self, id: Id, why: &str) -> Option<Event> {
        let child = self.children.get_mut(id)?;
        let mut why = why.to_owned();
        let mut of_check = Duration::ZERO;
        if let Some(Check { kind: Kind::Process(process), .. }) = &mut child.check {
            let _too_late = process.hear();
            of_check = delay::longest_wait(process.pid);
            if let Some(last) = process.last_line() {
                why = format!("{why}: {last}");
            }
        }
        let waited = child.waited(of_check);
        self.end_check(id);
        Some(Event::Ended(Err(why), waited))
    }

    /// Ends the check that is under way, if there is one. Its process is reaped later.
    pub(crate) fn end_check(&mut self, id: Id) {
        let Some(child) = self.children.get_mut(id) else { return };
        let Some(check) = child.check.as_mut().filter(|check| check.ended.is_none()) else { return };
        check.ended = Some(Instant::now());
        match &mut check.kind {
            Kind::Connection { .. } => child.check = None,
            Kind::Process(process) => {
                if let Err(error) = process.kill() {
                    let pid = process.pid;
                    log::error!(target: &child.config.name, "cannot kill process {pid} of a check: {}", cause(&error));
                }
            }
        }
    }

    /// Reaps the process of a check of that child, which is dead.
    pub(super) fn reap_check(&mut self, pid: Pid, id: Id) {
        let of_check = Share::of(pid).waited;
        let Some(ended) = self.reap_beside(pid) else { return };
        let Some(child) = self.children.get_mut(id) else { return };
        let waited = child.waited(of_check);
        let Some(Check { kind: Kind::Process(mut process), ended: was_ended, .. }) = child.check.take() else { return };
        if was_ended.is_none() {
            let result = process.result(ended);
            self.health_step(id, Event::Ended(result, waited));
        }
    }

    /// Has the loop report when bytes wait for that child.
    fn await_bytes(&mut self, id: Id) {
        let Some(child) = self.children.get(id) else { return };
        let name = &child.config.name;
        if let Err(error) = self.kept.links.await_bytes(name, &self.system.poll) {
            log::warn!(target: name, "cannot see whether bytes wait for it: {}", cause(&error));
        }
    }

    /// Bytes wait for that child, or did.
    pub(crate) fn on_waits(&mut self, id: Id) {
        if self.children.get(id).is_some_and(|child| child.config.health.stalled.is_some()) {
            let seen = self.waits_for(id).unwrap_or_default();
            self.health_step(id, Event::Wait(seen));
        }
    }

    fn waits_for(&self, id: Id) -> Option<Seen> {
        let child = self.children.get(id)?;
        let links = &self.kept.links;
        let (waits, batches) = links.waits_for(&child.config.name);
        let share = || child.machine.pid().map(Share::of_tree).unwrap_or_default();
        (waits > 0).then(|| Seen { taken: child.taken_of(waits, batches), share: share() })
    }
}

/// Begins to connect; a failure at once is the check's result.
fn connect(id: Id, at: SocketAddr, url: Option<&str>, poll: &Poll) -> Result<Kind, Event> {
    let socket =
        socket::begin_to_connect(at).map_err(|error| match Errno::from_raw(error.raw_os_error().unwrap_or(0)) {
            Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::ENOBUFS | Errno::EAGAIN => {
                Event::NotBegun(cause(&error))
            }
            _ => Event::Ended(Err(format!("cannot connect to {at}: {}", cause(&error))), Duration::ZERO),
        })?;
    let socket =
        poll.watch(socket, EpollFlags::EPOLLOUT, Token::Check(id)).map_err(|error| Event::NotBegun(cause(&error)))?;
    let http = url.map(|url| Http { request: request(url), answer: Vec::new() });
    Ok(Kind::Connection { socket, http })
}

fn request(url: &str) -> Vec<u8> {
    let rest = url.strip_prefix("http://").unwrap_or(url);
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    // `Connection: close`, because this is the only request (RFC 9112, 9.6).
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: plumbd\r\nAccept: */*\r\nConnection: close\r\n\r\n")
        .into_bytes()
}

/// Goes on with a connection. `None`: its result is not known yet.
fn go_on(socket: &Watched<OwnedFd>, http: Option<&mut Http>) -> Result<Option<()>, String> {
    let failed = |doing: &str, error: &io::Error| format!("cannot {doing}: {}", cause(error));
    if http.as_ref().is_none_or(|http| !http.request.is_empty()) {
        socket::is_connected(&**socket).map_err(|error| failed("connect", &error))?;
    }
    let Some(http) = http else { return Ok(Some(())) };
    while !http.request.is_empty() {
        match send(socket.as_raw_fd(), &http.request, MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT) {
            Ok(sent) => drop(http.request.drain(..sent)),
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => return Ok(None),
            Err(errno) => return Err(failed("send the request", &errno.into())),
        }
        if http.request.is_empty() {
            socket.watch_for(EpollFlags::EPOLLIN).map_err(|error| failed("wait for an answer", &error))?;
        }
    }
    let mut bytes = [0; READ];
    for _ in 0..ROUNDS {
        match nix::unistd::read(&**socket, &mut bytes) {
            Ok(0) => return Err("the connection ended before there was an answer".to_owned()),
            Ok(length) => http.answer.extend(&bytes[..length]),
            Err(Errno::EINTR) => continue,
            Err(Errno::EAGAIN) => return Ok(None),
            Err(errno) => return Err(failed("read the answer", &errno.into())),
        }
        if status(&http.answer)?.is_some() {
            return Ok(Some(()));
        }
        if http.answer.len() > ANSWER_MOST {
            return Err("it answered with no status line of HTTP/1".to_owned());
        }
    }
    Ok(None)
}

/// Whether an answer says that all is well. `Ok(None)`: not known yet.
fn status(mut answer: &[u8]) -> Result<Option<()>, String> {
    loop {
        let Some(end) = answer.iter().position(|&byte| byte == b'\n') else { return Ok(None) };
        let line = String::from_utf8_lossy(&answer[..end]);
        let shown: String = line.trim_end().replace(char::is_control, " ").chars().take(100).collect();
        // `HTTP/1.1 200 OK` (RFC 9112, 4)
        let code = line.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1)?.trim_end().parse::<u16>().ok());
        match code {
            Some(200..=399) => return Ok(Some(())),
            // Another answer follows (RFC 9110, 15.2).
            Some(100..=199) => {
                let head_end = answer.windows(4).position(|four| four == b"\r\n\r\n");
                let Some(head_end) = head_end else { return Ok(None) };
                answer = &answer[head_end + 4..];
            }
            _ => return Err(format!("it answered \"{shown}\"")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_names_host_and_path() {
        let text = String::from_utf8(request("http://[::1]:81/a?b")).unwrap();
        assert!(text.starts_with("GET /a?b HTTP/1.1\r\nHost: [::1]:81\r\n"), "{text}");
        assert!(text.ends_with("\r\n\r\n"), "{text}");
    }

    #[test]
    fn an_answer_is_judged_by_its_status_however_it_is_cut() {
        let whole = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.0 204 No Content\r\n\r\n";
        let known = whole.windows(2).rposition(|two| two == b"t\r").unwrap() + 3;
        for end in 0..=whole.len() {
            assert_eq!(status(&whole[..end]), Ok((end >= known).then_some(())), "{end}");
        }
        for well in ["HTTP/1.1 200 OK\r\n", "HTTP/1.1 302\r\n", "HTTP/1.1 399 x\n"] {
            assert_eq!(status(well.as_bytes()), Ok(Some(())), "{well}");
        }
        let bad = |text: &str| status(text.as_bytes()).unwrap_err();
        assert_eq!(bad("HTTP/1.1 503 Service Unavailable\r\n"), "it answered \"HTTP/1.1 503 Service Unavailable\"");
        assert_eq!(bad("SSH-2.0-x\x1b\r\n"), "it answered \"SSH-2.0-x \"");
        assert_eq!(bad("HTTP/1.1 2000 x\r\n"), "it answered \"HTTP/1.1 2000 x\"");
    }

    proptest::proptest! {
        #[test]
        fn no_answer_panics(bytes: Vec<u8>) {
            let _any = status(&bytes);
        }
    }
}
