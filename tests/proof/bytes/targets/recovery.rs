//! A logger finds any ledger and any intent file. Either it refuses and reports why,
//! and the link is unchanged, or it starts, and the result is byte for byte what the
//! documentation says. What was saved before is never lost.
//!
//! This runs the real logger in this process, with a folder and a link of its own.

mod case;
mod expected;

use super::pages::{self, IDLE, LEDGER, PHASE, bytes, carry_len, mend_header, mend_ledger, words};
use super::{Verdict, hold};
use case::{Case, Here};
use expected::Outcome;
use nix::unistd::{dup, getppid};
use plumbd::link::handover::{Inbound, Links, Protocol};
use plumbd::link::intent::FileId;
use plumbd::link::ledger;
use plumbd::plugin::logger::{self, Pace};
use plumbd::plugin::start::{Metrics, Start};
use plumbd::sys::pipe::Pipe;
use plumbd::sys::signals::Signals;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, IntoRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Duration;

/// What the message file has at first.
const SAVED: &[u8] = b"one\ntwo\nthree\n";
/// What is in staging. The current batch, if there is one, takes the first line.
const STAGED: &[u8] = b"s1\ns2\n";
const BATCH: &[u8] = b"s1\n";
/// What is in the queue after that.
const QUEUED: &[u8] = b"q1\n";
/// What the ledger may have as its carry.
const CARRIED: &[u8] = b"carry";
/// How many bytes an intent file's body has. A large one would cost more than all the rest.
const BODY: u64 = 8 << 10;

/// The body: the batch, then zeros.
fn body() -> Vec<u8> {
    let mut body = BATCH.to_vec();
    body.resize(BODY as usize, 0);
    body
}

/// Where it begins, as the first carry does in a ledger.
const PAGE: u64 = 4096;
/// The most that a logger of small lines leaves in the body.
const SMALL: usize = 64;

/// Tries plumbd's own function.
pub fn target(bytes: &[u8]) -> Verdict {
    look(bytes, Kind::Any)
}

/// What is known about ledger and intent file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Anything.
    Any,
    /// A killed logger has left them, so they must not be refused, and no line may be there twice.
    Right,
    /// Anything, but with each checksum made right, as if checksums were ignored.
    Unchecked,
}

/// Starts a logger on them.
pub fn look(bytes: &[u8], kind: Kind) -> Verdict {
    RIG.with_borrow_mut(|rig| rig.look(bytes, kind))
}

thread_local! {
    static RIG: std::cell::RefCell<Rig> = std::cell::RefCell::new(Rig::new());
}

/// The parts that are kept from one case to the next, because making them is expensive.
struct Rig {
    folder: tempfile::TempDir,
    ledger: File,
    boot: [u64; 2],
}

/// The ends of a link that show what a logger leaves in it.
struct Ends {
    queue: File,
    staging: File,
}

impl Rig {
    fn new() -> Rig {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        Rig { folder, ledger: new_ledger(), boot: pages::boot_id() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn look(&mut self, bytes: &[u8], kind: Kind) -> Verdict {
        let path = self.path("m.log");
        let file = File::options().write(true).create(true).truncate(true).open(&path).unwrap();
        let here = Here { file: FileId::of(&file.metadata().unwrap()), boot: self.boot };
        let Some(case) = Case::of(bytes, here) else {
            return Ok(());
        };
        let before = [SAVED, &BATCH[..case.part]].concat();
        file.write_all_at(&before, 0).unwrap();
        drop(file);
        if case.moved {
            fs::rename(&path, self.path("m.log.1")).unwrap();
        }
        self.put(&case, kind == Kind::Unchecked);
        let (start, ends) = self.start();
        let ended = logger::run_at(Pace { body: BODY as usize, gather: Duration::ZERO, watch: false }, start);
        let outcome = self.outcome(ended.is_err(), ends);
        let verdict = judge(&outcome, &Outcome::of(&case, here, &before), kind);
        let settled = verdict.and_then(|()| self.settled(&case, ended.as_ref().err()));
        if outcome.file.len() > SMALL || carry_len(case.ledger[pages::CARRY]) > CARRIED.len() as u64 {
            self.ledger = new_ledger();
            let _none = fs::remove_file(self.path(".m.log.intent"));
        }
        settled.map_err(|why| format!("{why}; {ended:?}; ledger {:x?}, intent {:x?}", case.ledger, case.header))
    }

    /// Puts ledger and intent file in place.
    fn put(&self, case: &Case, mend: bool) {
        let (mut ledger, mut header) = (case.ledger.clone(), case.header.clone());
        if mend {
            mend_ledger(&mut ledger);
            mend_header(&mut header, &body());
        }
        let mut page = [case.rest; PAGE as usize];
        page[..8 * LEDGER].copy_from_slice(&bytes(&ledger));
        self.ledger.write_all_at(&page, 0).unwrap();
        let path = self.path(".m.log.intent");
        if case.no_intent && case.rest % 16 == 0 {
            let _none = fs::remove_file(&path);
            return;
        }
        // Otherwise the file of the case before is used, because making one is expensive. Filled with
        // zeros it counts as none.
        let intent = File::options().write(true).create(true).truncate(false).open(path).unwrap();
        pages::put_header(&intent, &header);
        intent.set_len(PAGE + BODY).unwrap();
        let mut body = [0; SMALL];
        body[..BATCH.len()].copy_from_slice(BATCH);
        intent.write_all_at(&body, PAGE).unwrap();
    }

    /// Starts a logger with one link, which has ended.
    fn start(&self) -> (Start, Ends) {
        let queue = Pipe::new(4096).unwrap();
        File::from(queue.write).write_all(QUEUED).unwrap();
        let staging = Pipe::new(4096).unwrap();
        let mut write = File::from(staging.write);
        write.write_all(STAGED).unwrap();
        let ends = [&queue.read, &staging.read].map(|read| File::from(read.try_clone().unwrap()));
        let [queue_end, staging_end] = ends;
        let give = OwnedFd::into_raw_fd;
        let inbound = Inbound {
            from: "source".to_owned(),
            stream: plumbd::sys::stream::Stream::Stdout,
            protocol: Protocol::Lines,
            queue: give(queue.read),
            staging: [give(staging.read), give(write.into())],
            ledger: give(dup(self.ledger.as_fd()).unwrap()),
            replies: None,
        };
        let settings = serde_json::json!({"file": self.path("m.log"), "mode": 0o640, "format": "raw", "sync": "asked"});
        let start = Start {
            child: "logger".to_owned(),
            settings: settings.to_string(),
            listeners: Vec::new(),
            links: Links { inbound: vec![inbound], outbound: None },
            metrics: Metrics::private(),
            shared: None,
            signals: Signals::catch(&[]).unwrap(),
            supervisor: getppid(),
        };
        (start, Ends { queue: queue_end, staging: staging_end })
    }

    /// What is there afterwards. Restores the folder.
    fn outcome(&self, refused: bool, mut ends: Ends) -> Outcome {
        let mut outcome = Outcome { refused, ..Outcome::default() };
        for end in [&mut ends.staging, &mut ends.queue] {
            end.read_to_end(&mut outcome.left).unwrap();
        }
        for entry in self.folder.path().read_dir().unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            match name {
                ".m.log.intent" => continue,
                "m.log" => outcome.file = fs::read(&path).unwrap(),
                "m.log.1" => outcome.renamed = fs::read(&path).unwrap(),
                _ => outcome.aside.push(fs::read(&path).unwrap()),
            }
            if name != "m.log" {
                fs::remove_file(&path).unwrap();
            }
        }
        outcome.aside.sort();
        outcome
    }

    /// Checks that nothing is under way any more, or if it refused, that it reported why and
    /// that the next logger finds the same ledger.
    fn settled(&self, case: &Case, refused: Option<&String>) -> Verdict {
        let mut page = [0; 8 * LEDGER];
        self.ledger.read_exact_at(&mut page, 0).map_err(|error| error.to_string())?;
        let ledger = words(&page, LEDGER);
        if let Some(why) = refused {
            hold!(why.starts_with("cannot "), "it says {why:?}");
            hold!(ledger == case.ledger, "refused, and the ledger is {ledger:x?}");
            return Ok(());
        }
        hold!(pages::is_right(&ledger) && ledger[PHASE] == IDLE, "the ledger is {ledger:x?}");
        let intent = File::open(self.path(".m.log.intent")).map_err(|error| error.to_string())?;
        let header = pages::header_of(&intent).map_err(|error| error.to_string())?;
        hold!(pages::says(&header, self.boot, &body()) == pages::Says::Idle, "the intent is {header:x?}");
        Ok(())
    }
}

fn new_ledger() -> File {
    let ledger = File::from(ledger::create().unwrap());
    for area in 0..2 {
        ledger.write_all_at(CARRIED, PAGE + area * ledger::CARRY_MAX as u64).unwrap();
    }
    ledger
}

fn judge(outcome: &Outcome, expected: &Outcome, kind: Kind) -> Verdict {
    hold!(outcome == expected, "there is {outcome:?}, not {expected:?}");
    let rest = outcome.file.strip_prefix(SAVED).unwrap_or_default();
    let once = rest.strip_prefix(CARRIED).unwrap_or(rest) == [STAGED, QUEUED].concat();
    hold!(kind != Kind::Right || once && !outcome.refused, "it is not as if nothing had been killed: {outcome:?}");
    Ok(())
}
