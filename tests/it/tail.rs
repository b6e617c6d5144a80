//! GNU tail follows the file over rotations, and misses and repeats nothing.

use crate::mini::{Rig, wait_until};
use plumbd::link::handover::Protocol::Lines;
use plumbd::plugin::logger::settings::LEAST;
use serde_json::json;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The length of a line in bytes.
const LINE: u64 = 64;

fn line(number: u64) -> String {
    format!("{number:063}\n")
}

/// A running tail, and what it has printed: lines that count up from 0.
struct Tail {
    process: Child,
    reader: JoinHandle<()>,
    printed: Arc<AtomicU64>,
}

impl Tail {
    /// `tail -F` on the file, with more options, from its first line on.
    fn start(rig: &Rig, options: &[&str]) -> Tail {
        let mut process = Command::new("tail")
            .args(["-n", "+1", "-F"])
            .args(options)
            .arg(rig.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let out = BufReader::new(process.stdout.take().unwrap());
        let printed = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&printed);
        let reader = std::thread::spawn(move || {
            for (number, printed) in (0..).zip(out.lines()) {
                assert_eq!(printed.unwrap() + "\n", line(number), "missed or repeated");
                count.store(number + 1, Ordering::Release);
            }
        });
        Tail { process, reader, printed }
    }

    fn printed(&self) -> u64 {
        assert!(!self.reader.is_finished(), "it has missed or repeated something");
        self.printed.load(Ordering::Acquire)
    }

    fn end(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.reader.join().unwrap();
    }
}

/// Rotates a hundred times under load. If tail is half a file behind, the load waits for it,
/// so that no file comes and goes between two of tail's looks at the name. Normally the least
/// time between rotations prevents that.
fn follows_a_hundred_rotations(options: &[&str], compress: Option<&str>) {
    const SIZE: u64 = 64 * 1024;
    let mut rig = Rig::with("raw", Lines);
    rig.settings["rotate"] = json!({"size": SIZE, "compress": compress, "keep": 3, "least_ms": 0});
    let logger = rig.start();
    wait_until("there is a file", || rig.path().exists().then_some(()));
    let tail = Tail::start(&rig, options);
    let mut source = rig.links[0].source();
    let mut written = 0;
    while rig.counter("rotations") < 100 {
        let lines: String = (written..written + 16).map(line).collect();
        source.write_all(lines.as_bytes()).unwrap();
        written += 16;
        wait_until("tail has caught up", || ((written - tail.printed()) * LINE < SIZE / 2).then_some(()));
    }
    drop(source);
    rig.end();
    logger.wait_success();
    wait_until("tail has printed all", || (tail.printed() == written).then_some(()));
    tail.end();
}

#[test]
fn tail_follows_a_hundred_rotations_by_inotify() {
    follows_a_hundred_rotations(&[], None);
}

#[test]
fn tail_follows_a_hundred_rotations_that_are_compressed() {
    follows_a_hundred_rotations(&[], Some("gzip"));
}

#[test]
fn tail_follows_a_hundred_rotations_by_polling() {
    follows_a_hundred_rotations(&["---disable-inotify", "-s", "0.01"], Some("zstd"));
}

#[test]
#[ignore = "needs a minute, run by .ci/run"]
fn the_least_time_between_rotations_is_enough_for_any_tail_whatever_the_load() {
    let mut rig = Rig::with("raw", Lines);
    rig.settings["rotate"] = json!({"size": 4096});
    let logger = rig.start();
    wait_until("there is a file", || rig.path().exists().then_some(()));
    // Both ways in which people run it. The second one looks once a second.
    let tails = [Tail::start(&rig, &[]), Tail::start(&rig, &["---disable-inotify"])];
    let mut source = rig.links[0].source();
    let (mut written, began) = (0, Instant::now());
    while rig.counter("rotations") < 4 {
        assert!(began.elapsed() < LEAST * 6, "only {} rotations", rig.counter("rotations"));
        let lines: String = (written..written + 50).map(line).collect();
        source.write_all(lines.as_bytes()).unwrap();
        written += 50;
        std::thread::sleep(Duration::from_millis(1));
    }
    drop(source);
    rig.end();
    logger.wait_success();
    for tail in tails {
        wait_until("tail has printed all", || (tail.printed() == written).then_some(()));
        tail.end();
    }
}
