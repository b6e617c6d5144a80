//! Clients that connect, send, wait for their echoes and leave, all the time. None may be
//! refused while a daemon should listen.

use super::saved::Expected;
use crate::load::message;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// How many clients there are at a time.
const CLIENTS: u32 = 3;
/// The most messages of a connection.
const MESSAGES: u32 = 40;
const LENGTH: usize = 64;
/// How often a client looks whether it should end.
const LOOK: Duration = Duration::from_millis(20);

/// What clients and the trial share.
#[derive(Debug, Default)]
struct Shared {
    over: AtomicBool,
    /// No daemon need listen at the moment.
    nobody_listens: AtomicBool,
    next: AtomicU32,
    echoed: AtomicU64,
    connected: AtomicU64,
    connections: Mutex<Vec<Expected>>,
    /// Things that must not happen, and did.
    wrong: Mutex<Vec<String>>,
}

/// Some clients of a port.
#[derive(Debug)]
pub(crate) struct Clients {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Clients {
    /// Starts clients whose connections are numbered from `before` on.
    pub(crate) fn start(port: u16, before: u32) -> Clients {
        Clients::of(port, Shared { next: before.into(), ..Shared::default() })
    }

    /// Starts clients while no daemon need listen.
    pub(crate) fn start_idle(port: u16, before: u32) -> Clients {
        Clients::of(port, Shared { next: before.into(), nobody_listens: true.into(), ..Shared::default() })
    }

    fn of(port: u16, shared: Shared) -> Clients {
        let shared = Arc::new(shared);
        let threads = (0..CLIENTS).map(|_| {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || {
                while !shared.over.load(Ordering::Relaxed) {
                    one(&shared, port);
                }
            })
        });
        let threads = threads.collect();
        Clients { shared, threads }
    }

    /// Sets whether a daemon should listen.
    pub(crate) fn expect_listener(&self, listens: bool) {
        self.shared.nobody_listens.store(!listens, Ordering::SeqCst);
    }

    /// How many connections there were, and messages that came back.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.shared.connected.load(Ordering::Relaxed), self.shared.echoed.load(Ordering::Relaxed))
    }

    /// A number that is higher than that of any connection so far.
    pub(crate) fn next_number(&self) -> u32 {
        self.shared.next.load(Ordering::Relaxed) + 1000
    }

    /// What has gone wrong so far.
    pub(crate) fn wrong(&self) -> Vec<String> {
        self.shared.wrong.lock().unwrap().clone()
    }

    /// Ends them. Returns what each connection sent and got back.
    pub(crate) fn go(mut self) -> Vec<Expected> {
        self.end();
        self.shared.connections.lock().unwrap().clone()
    }

    fn end(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| thread.join().unwrap());
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
    }
}

fn one(shared: &Shared, port: u16) {
    // This is looked at before and after the attempt. A refusal is a fault only if a daemon should
    // have been listening both times.
    let nobody_before = shared.nobody_listens.load(Ordering::SeqCst);
    let mut stream = match TcpStream::connect_timeout(&SocketAddr::from(([127, 0, 0, 1], port)), Duration::from_secs(5))
    {
        Ok(stream) => stream,
        Err(error) => {
            if !nobody_before && !shared.nobody_listens.load(Ordering::SeqCst) {
                shared.wrong.lock().unwrap().push(format!("a client was not let in: {error}"));
            }
            return std::thread::sleep(Duration::from_millis(2));
        }
    };
    shared.connected.fetch_add(1, Ordering::Relaxed);
    stream.set_read_timeout(Some(LOOK)).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(30))).unwrap();
    let number = shared.next.fetch_add(1, Ordering::Relaxed) + 1;
    let mut this = Expected { number, length: LENGTH, certain: 0, possible: 0 };
    let (mut line, mut echo) = (Vec::new(), vec![0; LENGTH]);
    'messages: for sequence in 0..1 + number % MESSAGES {
        line.clear();
        message::append(number, sequence, LENGTH, &mut line);
        // It may have arrived even if the write fails later.
        this.possible = sequence + 1;
        if stream.write_all(&line).is_err() {
            break;
        }
        let mut have = 0;
        while have < LENGTH {
            match stream.read(&mut echo[have..]) {
                Ok(0) => break 'messages,
                Ok(count) => have += count,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    if shared.over.load(Ordering::Relaxed) {
                        break 'messages;
                    }
                }
                Err(_reset) => break 'messages,
            }
        }
        if echo != line {
            shared.wrong.lock().unwrap().push(format!("an echo differs: {:?}", String::from_utf8_lossy(&echo)));
        }
        this.certain = sequence + 1;
        shared.echoed.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_micros(u64::from(number * 37 % 900)));
    }
    shared.connections.lock().unwrap().push(this);
}
