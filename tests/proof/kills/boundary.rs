//! A traced process is killed before and after its N-th system call, for
//! every N until it ends without a kill, and also inside long system calls.

use super::control;
use super::count::Count;
use super::doctor::{any, damage};
use super::echo::{Running, start, started_under_strace};
use super::random::side_by_side;
use super::rig;
use crate::load::checker::{self, Format, Verdict};
use crate::load::generator::{self, Connection, Plan};
use crate::mini::{Logger, Rig};
use crate::trace::{self, Place};
use crate::trial::{Evidence, Tried, scaled};
use nix::libc::SYS_epoll_create1;
use nix::sys::ptrace;
use nix::sys::signal::Signal::{SIGKILL, SIGTERM};
use plumbd::link::handover::Protocol::Records;
use plumbd::sys::map::{PAGE, SharedMap};
use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// The logger.
pub(crate) fn logger(times: f64) -> Tried {
    logger_calls(false, times).tried(&without_ledger())
}

/// The logger, while it rotates after each batch.
pub(crate) fn rotating_logger(times: f64) -> Tried {
    logger_calls(true, times).tried(&control::renames_left_out())
}

fn logger_calls(rotating: bool, times: f64) -> Count {
    let rounds = (0..scaled(1, times)).map(|_| {
        let (next, last) = (AtomicUsize::new(0), AtomicUsize::new(usize::MAX));
        side_by_side(&[(); 2], |()| logger_calls_from(&next, &last, rotating))
    });
    rounds.fold(Count::default(), |a, b| a.and(&b))
}

/// Kills at one place after the other, until a run ends without a kill.
fn logger_calls_from(next: &AtomicUsize, last: &AtomicUsize, rotating: bool) -> Count {
    let mut count = Count::default();
    loop {
        let stop = next.fetch_add(1, Ordering::Relaxed);
        if stop > last.load(Ordering::Relaxed) {
            return count;
        }
        let (mut rig, sent) = rig::full();
        if rotating {
            rig.settings["rotate"] = serde_json::json!({"size": 4096, "compress": "gzip", "least_ms": 0});
        }
        let place = Place { stop, steps: 0 };
        let killed = trace::kill_at(&rig, place);
        if killed {
            count.kills += 1;
            count.within_a_line += u64::from(rig::is_within_a_line(&rig));
            rig.drain();
        }
        rig::check(&rig, &sent, &mut count, &format!("after a kill at {place:?}"));
        if !killed {
            assert!(stop > 80, "only {stop} places");
            last.fetch_min(stop, Ordering::Relaxed);
        }
    }
}

/// The control: the same kills, but the logger's notes are wiped.
fn without_ledger() -> String {
    let mut found = 0;
    let places = 10;
    for stop in 1..=places {
        let (mut rig, sent) = rig::full();
        let logger = begin_to_save(&rig, stop);
        logger.signal(SIGKILL);
        assert!(logger.wait_killed());
        let _none_yet = std::fs::remove_file(rig.folder.path().join(".m.log.intent"));
        for link in &rig.links {
            let ledger = SharedMap::new(&link.intake.ledger, PAGE).unwrap();
            ledger.words(PAGE / 8).iter().for_each(|word| word.store(0, Ordering::Relaxed));
        }
        rig.drain();
        let verdict = checker::check(&*rig.all_bytes(), Format::Text, &sent).unwrap();
        found += u32::from(!verdict.is_clean());
    }
    assert!(found > 0, "a logger without its ledger was not found out");
    format!("ledger wiped after the kill: found out at {found} of {places} places")
}

/// A logger that is held this many stops after it began to save its first batch.
fn begin_to_save(rig: &Rig, stop: usize) -> Logger {
    let logger = trace::held_before_a_write(rig);
    trace::go_on(&logger, stop);
    logger
}

/// The logger, some microseconds after it began to write a batch.
pub(crate) fn inside_writes(times: f64) -> Tried {
    let mut count = Count::default();
    let (mut inside, mut torn) = (0, 0);
    // In this file system, a write goes page by page, and can be killed after each.
    let memory = Evidence(tempfile::tempdir_in("/dev/shm").unwrap());
    // Even if only few kills are asked for, one of them must have cut a write.
    let (least, until) = (scaled(100, times), Instant::now() + Duration::from_secs(120));
    for round in 1.. {
        let (mut rig, sent) = rig::full();
        rig.settings["file"] = memory.0.path().join(format!("m{round}.log")).to_str().unwrap().into();
        let logger = begin_to_save(&rig, 0);
        let file = File::open(rig.path()).unwrap();
        ptrace::syscall(logger.pid(), None).unwrap();
        // Wait for the first page.
        while file.metadata().unwrap().len() == 0 && Instant::now() < until {}
        let (began, wait) = (Instant::now(), Duration::from_micros(any(60)));
        while began.elapsed() < wait {
            std::hint::spin_loop();
        }
        logger.signal(SIGKILL);
        assert!(logger.wait_killed());
        count.kills += 1;
        let saved = rig.bytes();
        let within = rig::is_within_a_line(&rig);
        count.within_a_line += u64::from(within);
        inside += u32::from(within);
        // The control: what the file would be without the next logger.
        torn += u32::from(checker::check(&*saved, Format::Text, &sent).unwrap().torn > 0);
        rig.drain();
        rig::check(&rig, &sent, &mut count, &format!("after a kill {wait:?} into a write"));
        std::fs::remove_file(rig.path()).unwrap();
        if round >= least && inside > 0 {
            break;
        }
        assert!(Instant::now() < until, "none of {round} kills cut a write");
    }
    count.tried(&format!("the same files before the next logger completed them: {torn} torn, found"))
}

/// The echo, in each `echo_after`.
pub(crate) fn echo(times: f64) -> Tried {
    let rounds = (0..scaled(1, times)).map(|_| side_by_side(&["queued", "saved", "synced"], |after| echo_calls(after)));
    rounds.fold(Count::default(), |a, b| a.and(&b)).tried(&a_write_left_out())
}

fn echo_calls(echo_after: &str) -> Count {
    let mut count = Count::default();
    let mut rig = Rig::with("text", Records);
    let logger = rig.start();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut connections = Vec::new();
    let address = listener.local_addr().unwrap();
    for stop in 0.. {
        let traced = start(&rig, &listener, echo_after, true);
        let killed = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let clients = scope.spawn(|| {
                let all = talk(address, u32::try_from(stop).unwrap() * 16);
                // It is not reaped before this is over, so its pid can't be reused.
                traced.signal(SIGTERM);
                all
            });
            trace::seize(traced.pid());
            if trace::run_to(traced.pid(), SYS_epoll_create1, Place { stop, steps: 0 }) {
                traced.signal(SIGKILL);
                killed.store(true, Ordering::Relaxed);
                // It serves the clients that its predecessor had not accepted.
                let next = start(&rig, &listener, echo_after, false);
                connections.extend(clients.join().unwrap());
                next.stop();
            } else {
                connections.extend(clients.join().unwrap());
            }
        });
        let killed = killed.into_inner();
        assert_eq!(traced.wait_killed(), killed);
        count.kills += u64::from(killed);
        if !killed {
            assert!(stop > 80, "only {stop} places");
            break;
        }
    }
    rig.end();
    logger.wait_success();
    rig::check(&rig, &connections, &mut count, &format!("{echo_after}, after a kill at every place"));
    count.doctored += damage(&rig.all_bytes(), Format::Text, &connections);
    count
}

/// Sends short messages and long ones, until each is echoed or its connection has ended.
fn talk(address: SocketAddr, first: u32) -> Vec<Connection> {
    std::thread::scope(|scope| {
        let short = scope.spawn(|| send(address, 3, 4, 128, first));
        let long = send(address, 1, 2, 64 * 1024, first + 8);
        [short.join().unwrap(), long].concat()
    })
}

/// Sends `depth` messages of one length on each of `connections` connections, all at once.
fn send(address: SocketAddr, connections: u32, depth: u32, length: usize, first: u32) -> Vec<Connection> {
    let lasts = Duration::ZERO;
    let plan = Plan { address, connections, depth, length, first, reconnect: false, lasts, ..Plan::usual(0) };
    let outcome = generator::run(&plan, &AtomicBool::new(false)).unwrap();
    assert!(outcome.wrong.is_empty(), "echoes differ: {:?}", outcome.wrong);
    outcome.connections
}

/// The control: an echo that answers although a write to its queue did not happen.
fn a_write_left_out() -> String {
    let mut rig = Rig::with("text", Records);
    let logger = rig.start();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let echo: Running = started_under_strace(&rig, &listener);
    let connections = send(listener.local_addr().unwrap(), 1, 1, 64 * 1024, 0);
    echo.stop();
    rig.end();
    logger.wait_success();
    let verdict: Verdict = checker::check(&*rig.all_bytes(), Format::Text, &connections).unwrap();
    assert!(verdict.lost > 0, "an echo that left out a write was not found out: {verdict}");
    format!("a write to the queue left out (strace): {} lost, found", verdict.lost)
}
