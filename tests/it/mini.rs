//! A minimal supervisor for one logger: it makes the links, holds them, and starts one
//! logger after the other.

use crate::daemon::keep_if_failed;
use crate::load::rotated;
use nix::unistd::dup;
use plumbd::link::handover::{Inbound, Links, Protocol};
use plumbd::link::record::{ACK_LEN, Ack, Flags, Head, Peer};
use plumbd::link::{Intake, Link};
use plumbd::sys::map::{PAGE, SharedMap, memory_file};
use plumbd::sys::pipe::Pipe;
use serde_json::json;
use std::cell::RefCell;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How long a fact may take to come true.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// Polls in short steps until `look` returns something.
///
/// # Panics
/// At the deadline, with what it waited for.
pub(crate) fn wait_until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "waited too long until {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A link that the rig holds. Its write end can be closed separately.
pub(crate) struct Held {
    from: &'static str,
    protocol: Protocol,
    read: OwnedFd,
    write: Option<OwnedFd>,
    pub(crate) intake: Intake,
    pub(crate) replies: Option<Pipe>,
}

impl Held {
    /// A fresh link.
    pub(crate) fn new(from: &'static str, protocol: Protocol, capacity: usize) -> Held {
        let Link { queue, intake, replies } = Link::to_intake(capacity, protocol).unwrap();
        let Pipe { read, write } = queue;
        Held { from, protocol, read, write: Some(write), intake: intake.unwrap(), replies }
    }

    /// Another descriptor of the queue's write end.
    pub(crate) fn source(&self) -> File {
        self.write.as_ref().expect("its write end is open").try_clone().unwrap().into()
    }

    /// The acknowledgements that are there now.
    pub(crate) fn acks(&self) -> Vec<Ack> {
        let mut bytes = Vec::new();
        let mut replies = File::from(self.replies.as_ref().expect("it has replies").read.try_clone().unwrap());
        match replies.read_to_end(&mut bytes) {
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            other => panic!("replies ended: {other:?}"),
        }
        assert_eq!(bytes.len() % ACK_LEN, 0);
        bytes.chunks(ACK_LEN).map(|c| Ack::decode(c.try_into().unwrap()).unwrap()).collect()
    }

    /// Makes the replies pipe as small as possible.
    pub(crate) fn shrink_replies(&self) {
        plumbd::sys::pipe::set_capacity(&self.replies.as_ref().expect("it has replies").write, 4096).unwrap();
    }

    /// How many bytes are in queue and staging.
    pub(crate) fn queued(&self) -> usize {
        let bytes = |fd: &OwnedFd| plumbd::sys::pipe::bytes_in(fd).unwrap();
        bytes(&self.read) + bytes(&self.intake.staging.read)
    }
}

/// All that a logger needs: a folder, links, settings, a notification socket and counters.
pub(crate) struct Rig {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) links: Vec<Held>,
    pub(crate) settings: serde_json::Value,
    notifications: UnixDatagram,
    notified: RefCell<Vec<String>>,
    counters: OwnedFd,
}

impl Rig {
    /// A rig with a file `m.log` in a folder of its own, and no links.
    pub(crate) fn new(format: &str) -> Rig {
        let folder = tempfile::tempdir().unwrap();
        let notifications = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        notifications.set_nonblocking(true).unwrap();
        let counters = memory_file(c"counters", PAGE).unwrap();
        let settings = json!({"file": folder.path().join("m.log"), "mode": 0o640, "format": format, "sync": "asked"});
        Rig { folder, links: Vec::new(), settings, notifications, notified: RefCell::default(), counters }
    }

    /// A rig with one link.
    pub(crate) fn with(format: &str, protocol: Protocol) -> Rig {
        let mut rig = Rig::new(format);
        rig.links.push(Held::new("tick", protocol, 1 << 20));
        rig
    }

    /// The message file.
    pub(crate) fn path(&self) -> PathBuf {
        self.settings["file"].as_str().unwrap().into()
    }

    /// The content of the message file; empty if it does not exist.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        std::fs::read(self.path()).unwrap_or_default()
    }

    /// The content of all that was rotated from the message file, then of the file itself.
    pub(crate) fn all_bytes(&self) -> Vec<u8> {
        let mut all = Vec::new();
        rotated::open(&self.path()).unwrap().read_to_end(&mut all).unwrap();
        all
    }

    /// That content as text.
    pub(crate) fn all_text(&self) -> String {
        String::from_utf8(self.all_bytes()).unwrap()
    }

    /// The archives of the message file, the oldest first, compressed or not.
    pub(crate) fn archives(&self) -> Vec<PathBuf> {
        let mut all = self.files("m.log.2");
        all.sort();
        all
    }

    /// The message file as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.bytes()).unwrap()
    }

    /// Where a wrapper may leave a process id.
    pub(crate) fn pid_file(&self) -> String {
        self.folder.path().join("pid").to_str().unwrap().to_owned()
    }

    /// What its loggers log.
    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// What its loggers logged so far.
    pub(crate) fn logged(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }

    /// Files in the folder whose names begin with this.
    pub(crate) fn files(&self, begin: &str) -> Vec<PathBuf> {
        let all = std::fs::read_dir(self.path().parent().unwrap()).unwrap().map(|entry| entry.unwrap().path());
        all.filter(|p| p.file_name().unwrap().to_str().unwrap().starts_with(begin)).collect()
    }

    /// Closes the write ends: the links end.
    pub(crate) fn end(&mut self) {
        for link in &mut self.links {
            link.write = None;
        }
    }

    /// Replaces the links by new ones of the same names, as if all processes had died and the
    /// links with them.
    pub(crate) fn links_anew(&mut self) {
        let made = self.links.iter().map(|l| Held::new(l.from, l.protocol, 1 << 20)).collect();
        self.links = made;
    }

    /// Starts a logger.
    pub(crate) fn start(&self) -> Logger {
        self.start_under(&[])
    }

    /// Starts a logger under another program, say strace and its arguments.
    pub(crate) fn start_under(&self, wrapper: &[&str]) -> Logger {
        self.start_plugin("logger", wrapper)
    }

    /// Starts a logger's archivist, under another program.
    pub(crate) fn start_archivist(&self, wrapper: &[&str]) -> Logger {
        self.start_plugin("logger-archivist", wrapper)
    }

    fn start_plugin(&self, name: &str, wrapper: &[&str]) -> Logger {
        // A socket holds few notifications, and a logger would wait if nothing read them.
        self.receive();
        let plumbd = env!("CARGO_BIN_EXE_plumbd");
        let words: Vec<&str> = wrapper.iter().copied().chain([plumbd, "plugin", name]).collect();
        let mut given = Vec::new();
        let inbound = self.links.iter().map(|link| link.hand_over(&mut given)).collect();
        let settings = memory_file(c"settings", 0).unwrap();
        File::from(settings.try_clone().unwrap()).write_all(self.settings.to_string().as_bytes()).unwrap();
        let settings = give(&settings, &mut given);
        let counters = give(&self.counters, &mut given);
        let links = serde_json::to_string(&Links { inbound, outbound: None }).unwrap();
        let mut command = Command::new(words[0]);
        command
            .args(&words[1..])
            .env("PLUMBD_CHILD", "logger")
            .env("PLUMBD_LINKS", links)
            .env("PLUMBD_SETTINGS", settings.to_string())
            .env("PLUMBD_METRICS", counters.to_string())
            .env("NOTIFY_SOCKET", self.folder.path().join("notify"))
            .env("RUST_BACKTRACE", "0")
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::options().create(true).append(true).open(self.log()).unwrap());
        let child = command.spawn().unwrap();
        drop(given);
        Logger { child }
    }

    /// Waits until some notification has that text.
    pub(crate) fn wait_notified(&self, text: &str) {
        wait_until(text, || {
            self.receive();
            let mut notified = self.notified.borrow_mut();
            let at = notified.iter().position(|n| n.contains(text))?;
            notified.drain(..=at);
            Some(())
        });
    }

    /// Whether some notification so far has that text.
    pub(crate) fn was_notified(&self, text: &str) -> bool {
        self.receive();
        self.notified.borrow().iter().any(|n| n.contains(text))
    }

    fn receive(&self) {
        let mut buffer = [0; 4096];
        while let Ok(len) = self.notifications.recv(&mut buffer) {
            self.notified.borrow_mut().push(String::from_utf8(buffer[..len].to_vec()).unwrap());
        }
    }

    /// One of the logger's counters, by its name.
    pub(crate) fn counter(&self, name: &str) -> u64 {
        let slot = plumbd::plugin::logger::METRICS.iter().position(|metric| metric.name == name).unwrap();
        let page = SharedMap::new(&self.counters, PAGE).unwrap();
        page.words(slot + 1)[slot].load(Ordering::Relaxed)
    }

    /// Ends the links and lets a logger save what is left.
    pub(crate) fn drain(&mut self) {
        self.end();
        self.start().wait_success();
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the loggers' log:\n{}", std::fs::read_to_string(self.log()).unwrap_or_default());
        }
        keep_if_failed(&mut self.folder);
    }
}

impl Held {
    fn hand_over(&self, given: &mut Vec<OwnedFd>) -> Inbound {
        Inbound {
            from: self.from.to_owned(),
            stream: plumbd::sys::stream::Stream::Stdout,
            protocol: self.protocol,
            queue: give(&self.read, given),
            staging: [give(&self.intake.staging.read, given), give(&self.intake.staging.write, given)],
            ledger: give(&self.intake.ledger, given),
            replies: self.replies.as_ref().map(|pipe| give(&pipe.write, given)),
        }
    }
}

/// A descriptor that a child inherits by its number. (Children that other tests start at that
/// moment inherit it too, so it is never the write end of a queue.)
fn give(fd: impl AsFd, given: &mut Vec<OwnedFd>) -> i32 {
    let copy = dup(fd).unwrap();
    let number = copy.as_raw_fd();
    given.push(copy);
    number
}

/// A running logger. It is killed if a test fails to end it.
pub(crate) struct Logger {
    child: Child,
}

impl Logger {
    /// Sends a signal.
    pub(crate) fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(self.pid(), signal).unwrap();
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> nix::unistd::Pid {
        nix::unistd::Pid::from_raw(self.child.id().try_into().unwrap())
    }

    /// Kills it, and waits until it is gone.
    pub(crate) fn kill(mut self) {
        self.kill_and_reap();
    }

    /// Kills it, and waits until it is gone. Its pid is still known.
    pub(crate) fn kill_and_reap(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Its exit status, if it has ended.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits until it has ended.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        wait_until("the logger has ended", || self.ended())
    }

    /// Waits until it has ended, with success.
    pub(crate) fn wait_success(mut self) {
        let status = self.wait();
        assert!(status.success(), "{status:?}");
    }

    /// Waits until it has ended. Returns whether it was killed; otherwise it must have succeeded.
    pub(crate) fn wait_killed(mut self) -> bool {
        let status = self.wait();
        assert!(status.success() || status.signal() == Some(9), "{status:?}");
        !status.success()
    }
}

impl Drop for Logger {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// A message as records, each for a write of its own.
pub(crate) fn records(sequence: u64, epoch: u64, message: &[u8], sync: bool) -> Vec<Vec<u8>> {
    let flags = if sync { Flags::SYNC } else { Flags::default() };
    let peer = Peer::Net("127.0.0.1:40312".parse().unwrap());
    let head = Head { flags, peer, connection: 1, epoch, sequence, time: 1_795_359_845_123_456 };
    let mut bytes = Vec::new();
    let mut cuts = vec![0];
    head.encode_message(message, &mut bytes, |at| cuts.push(at));
    cuts.windows(2).map(|pair| bytes[pair[0]..pair[1]].to_vec()).collect()
}

/// Writes to an O_NONBLOCK pipe, waiting for room.
pub(crate) fn write_record(mut queue: &File, record: &[u8]) {
    wait_until("the queue has room", || match queue.write(record) {
        Ok(n) => {
            assert_eq!(n, record.len(), "a record is whole or absent");
            Some(())
        }
        Err(e) if e.kind() == ErrorKind::WouldBlock => None,
        Err(e) => panic!("{e}"),
    });
}
