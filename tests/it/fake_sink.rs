//! A supervisor and a sink in one, for a single echo: it makes the descriptors,
//! starts the plugin, reads its records, and acknowledges them when a test wants
//! that.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use plumbd::link::record::{Ack, Decoded, Flags, Peer, decode};
use plumbd::sys::pipe::{Pipe, set_nonblocking};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long a fact may take to come true, on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until `fact` holds.
pub(crate) fn eventually(what: &str, mut fact: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !fact() {
        assert!(Instant::now() < deadline, "never came true: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// How an echo is started.
pub(crate) struct Setup {
    settings: Value,
    listener: TcpListener,
    capacity: usize,
    descriptors: u32,
    protocol: &'static str,
}

impl Setup {
    /// The default settings with these changes. Besides, a pause ends no message, because on a
    /// busy machine there may be a pause between any two bytes.
    pub(crate) fn new(changes: Value) -> Setup {
        let mut settings = serde_json::to_value(plumbd::plugin::echo::settings::Settings::default()).unwrap();
        settings["partial_after"] = json!(60_000);
        for (key, value) in changes.as_object().unwrap() {
            settings[key] = value.clone();
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Setup { settings, listener, capacity: 1 << 20, descriptors: 4096, protocol: "records" }
    }

    pub(crate) fn listener(self, listener: TcpListener) -> Setup {
        Setup { listener, ..self }
    }

    /// The queue's capacity in bytes.
    pub(crate) fn capacity(self, capacity: usize) -> Setup {
        Setup { capacity, ..self }
    }

    /// How many descriptors it may have.
    pub(crate) fn descriptors(self, descriptors: u32) -> Setup {
        Setup { descriptors, ..self }
    }

    /// Makes the sink an ordinary program.
    pub(crate) fn lines(self) -> Setup {
        Setup { protocol: "lines", ..self }
    }

    /// Starts it, and waits until it is ready.
    pub(crate) fn start(self) -> Echo {
        let echo = self.spawn();
        let mut word = [0; 64];
        let count = echo.notify.recv(&mut word).unwrap_or_else(|e| panic!("not ready: {e}: {}", echo.log()));
        assert_eq!(word[..count].trim_ascii(), b"READY=1");
        echo
    }

    /// Starts it. Its other descriptors are handed over through its first three, so that
    /// children of other tests never inherit them.
    pub(crate) fn spawn(self) -> Echo {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("settings"), self.settings.to_string()).unwrap();
        std::fs::write(dir.path().join("metrics"), [0; 4096]).unwrap();
        let notify = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        notify.set_read_timeout(Some(PATIENCE)).unwrap();
        let (queue, replies) = (Pipe::new(self.capacity).unwrap(), Pipe::new(1 << 16).unwrap());
        let records = self.protocol == "records";
        set_nonblocking(&queue.write, records).unwrap();
        set_nonblocking(&replies.read, true).unwrap();
        set_nonblocking(&replies.write, true).unwrap();
        let address = self.listener.local_addr().unwrap();
        let kept = self.listener.try_clone().unwrap();
        let links = json!({ "out": {
            "to": "sink", "protocol": self.protocol, "replies": if records { json!(4) } else { Value::Null },
        }});
        let script = "exec 3<&0 4<&2 0</dev/null 2>\"$DIR/log\" 5<\"$DIR/settings\" 6<>\"$DIR/metrics\" || exit 99
            ulimit -n $DESCRIPTORS || exit 98
            LISTEN_PID=$$ exec \"$PROGRAM\" plugin echo";
        let child = Command::new("/bin/sh")
            .args(["-c", script])
            .env_clear()
            .env("DIR", dir.path())
            .env("PROGRAM", env!("CARGO_BIN_EXE_plumbd"))
            .env("DESCRIPTORS", self.descriptors.to_string())
            .env("LISTEN_FDS", "1")
            .env("NOTIFY_SOCKET", dir.path().join("notify"))
            .env("PLUMBD_CHILD", "echo")
            .env("PLUMBD_SETTINGS", "5")
            .env("PLUMBD_METRICS", "6")
            .env("PLUMBD_LINKS", links.to_string())
            .stdin(OwnedFd::from(self.listener))
            .stdout(queue.write)
            .stderr(replies.read)
            .spawn()
            .unwrap();
        let sink = Sink { queue: Some(queue.read.into()), replies: Some(replies.write.into()), bytes: Vec::new() };
        Echo { child, address, listener: kept, sink, notify, dir }
    }
}

/// A running echo.
pub(crate) struct Echo {
    child: Child,
    pub(crate) address: SocketAddr,
    /// The listening socket, which outlives it.
    pub(crate) listener: TcpListener,
    pub(crate) sink: Sink,
    notify: UnixDatagram,
    dir: TempDir,
}

impl Echo {
    /// A client whose reads and writes don't wait forever.
    pub(crate) fn client(&self) -> TcpStream {
        connect(self.address)
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    /// Its exit status.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        eventually("the echo exits", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// What it wrote to standard error.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Bytes of memory it has resident.
    pub(crate) fn resident(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
    }

    /// A counter of its metrics page.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let slot = plumbd::plugin::echo::METRICS.iter().position(|metric| metric.name == name).unwrap();
        let page = std::fs::read(self.dir.path().join("metrics")).unwrap();
        u64::from_le_bytes(page[slot * 8..slot * 8 + 8].try_into().unwrap())
    }

    /// Reads and acknowledges everything, on a thread, until the echo ends or
    /// [`Auto::stop`].
    pub(crate) fn acknowledge_all(&mut self) -> Auto {
        let mut sink = std::mem::replace(&mut self.sink, Sink { queue: None, replies: None, bytes: Vec::new() });
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut records = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let from = records.len();
                let more = sink.read(Duration::from_millis(10));
                sink.take(&mut records);
                // A message has arrived once its last record has.
                if let Some(record) = records[from..].iter().rfind(|record| record.flags.has(Flags::LAST)) {
                    sink.acknowledge_epoch(record.epoch, record.sequence);
                }
                if more == Some(0) {
                    break;
                }
            }
            (sink, records)
        });
        Auto { stop, thread }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _gone_already = self.child.kill();
        let _status = self.child.wait();
    }
}

/// A client whose reads and writes don't wait forever.
pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    let client = TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.set_write_timeout(Some(PATIENCE)).unwrap();
    client.set_nodelay(true).unwrap();
    client
}

/// Reads exactly this many bytes.
pub(crate) fn read_exact(client: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    client.read_exact(&mut bytes).unwrap();
    bytes
}

/// Reads to the end.
pub(crate) fn read_to_end(client: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    client.read_to_end(&mut bytes).unwrap();
    bytes
}

/// Whether nothing is there to read now.
pub(crate) fn has_nothing(client: &TcpStream) -> bool {
    client.set_nonblocking(true).unwrap();
    let peeked = client.peek(&mut [0]);
    client.set_nonblocking(false).unwrap();
    peeked.is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock)
}

/// One record, on its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Got {
    pub(crate) payload: Vec<u8>,
    pub(crate) flags: Flags,
    pub(crate) epoch: u64,
    pub(crate) sequence: u64,
    pub(crate) peer: Peer,
    pub(crate) connection: u32,
}

/// The sink's ends of a link.
pub(crate) struct Sink {
    pub(crate) queue: Option<File>,
    pub(crate) replies: Option<File>,
    bytes: Vec<u8>,
}

impl Sink {
    /// Reads what the queue has, up to 64 KiB; `None` if nothing came in time.
    fn read(&mut self, patience: Duration) -> Option<usize> {
        let queue = self.queue.as_mut()?;
        let mut fds = [PollFd::new(queue.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, PollTimeout::try_from(patience).unwrap()).unwrap() == 0 {
            return None;
        }
        let from = self.bytes.len();
        self.bytes.resize(from + 65536, 0);
        let count = queue.read(&mut self.bytes[from..]).unwrap();
        self.bytes.truncate(from + count);
        Some(count)
    }

    fn take(&mut self, records: &mut Vec<Got>) {
        let mut used = 0;
        loop {
            match decode(&self.bytes[used..]) {
                Decoded::Record(record) => {
                    used += record.len;
                    records.push(Got {
                        payload: record.payload.to_vec(),
                        flags: record.head.flags,
                        epoch: record.head.epoch,
                        sequence: record.head.sequence,
                        peer: record.head.peer,
                        connection: record.head.connection,
                    });
                }
                Decoded::Incomplete => break,
                Decoded::Garbage(count) => panic!("{count} bytes that are not a record"),
            }
        }
        self.bytes.drain(..used);
    }

    /// The next `count` records.
    pub(crate) fn records(&mut self, count: usize) -> Vec<Got> {
        let (mut records, deadline) = (Vec::new(), Instant::now() + PATIENCE);
        self.take(&mut records);
        while records.len() < count {
            assert!(Instant::now() < deadline, "only {} of {count} records came", records.len());
            assert_ne!(self.read(Duration::from_millis(100)), Some(0), "the queue ended after {}", records.len());
            self.take(&mut records);
        }
        assert_eq!(records.len(), count, "more came than was sent: {records:?}");
        records
    }

    /// The next `count` lines, as they are.
    pub(crate) fn lines(&mut self, count: usize) -> String {
        let deadline = Instant::now() + PATIENCE;
        while self.bytes.iter().filter(|byte| **byte == b'\n').count() < count {
            assert!(Instant::now() < deadline, "only {} bytes came", self.bytes.len());
            self.read(Duration::from_millis(100));
        }
        String::from_utf8(std::mem::take(&mut self.bytes)).unwrap()
    }

    /// Acknowledges everything up to this record.
    pub(crate) fn acknowledge(&mut self, record: &Got) {
        self.acknowledge_epoch(record.epoch, record.sequence);
    }

    fn acknowledge_epoch(&mut self, epoch: u64, sequence: u64) {
        // If the pipe is full, the echo has acknowledgements to read; if it has ended, it
        // needs none.
        let _full_or_gone = self.replies.as_mut().unwrap().write(&Ack { epoch, sequence }.encode());
    }
}

/// A sink on a thread of its own.
pub(crate) struct Auto {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(Sink, Vec<Got>)>,
}

impl Auto {
    /// Stops, and returns what came.
    pub(crate) fn stop(self) -> Vec<Got> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap().1
    }

    /// Waits for the end of the queue, and returns what came.
    pub(crate) fn end(self) -> Vec<Got> {
        self.thread.join().unwrap().1
    }
}
