//! A logger that finds any ledger and any intent file: whatever is in them, it
//! refuses and says why, or starts clean. What was saved before stays
//! as it is, and what waits in the link is saved once, in order.
//!
//! The logger is the real one, in this process, with a folder and a link of its own.

use super::{Verdict, hold};
use nix::unistd::{dup, getppid};
use plumbd::link::handover::{Inbound, Links, Protocol};
use plumbd::link::intent::FileId;
use plumbd::link::{Link, ledger};
use plumbd::plugin::logger;
use plumbd::plugin::start::{Metrics, Start};
use plumbd::sys::pipe::Pipe;
use plumbd::sys::signals::Signals;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, IntoRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// What the message file has already.
const SAVED: &[u8] = b"one\ntwo\nthree\n";
/// What is in staging; the batch under way, if any, takes the first line.
const STAGED: &[u8] = b"s1\ns2\n";
const BATCH: &[u8] = b"s1\n";
/// What is in the queue behind it.
const QUEUED: &[u8] = b"q1\n";
/// What the ledger may have set aside.
const CARRIED: &[u8] = b"carry";

/// The word that says what staging held, and the one with the carry that stands.
pub(super) const HELD: usize = 4;
pub(super) const CARRY: usize = 15;
/// Words of the ledger that mean something, in bytes.
pub(super) const LEDGER: usize = 18 * 8;
/// The same of the intent file.
pub(super) const INTENT: usize = 23 * 8;

/// plumbd's own.
pub fn target(bytes: &[u8]) -> Verdict {
    look(bytes, Kind::Any)
}

/// What ledger and intent file are known to be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Anything.
    Any,
    /// As a logger that was killed leaves them: nothing is refused, no line is there twice.
    Right,
    /// Anything, but each checksum is put right, as if nobody looked at it.
    Unchecked,
}

/// Starts a logger on them.
pub fn look(bytes: &[u8], kind: Kind) -> Verdict {
    RIG.with_borrow_mut(|rig| rig.look(bytes, kind))
}

/// This boot, as random(4) names it, in two halves.
fn boot_id() -> [u64; 2] {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let id = u128::from_str_radix(&text.trim().replace('-', ""), 16).unwrap();
    #[expect(clippy::cast_possible_truncation, reason = "its two halves")]
    let halves = [(id >> 64) as u64, id as u64];
    halves
}

thread_local! {
    pub(super) static BOOT: [u64; 2] = boot_id();
    static RIG: std::cell::RefCell<Rig> = std::cell::RefCell::new(Rig::new());
}

/// Two bytes of switches, the ledger's words, the intent file's words. What is
/// missing is zero; the rest of the ledger's page is its last byte.
struct Case<'a> {
    /// How much of the batch is in the file.
    part: usize,
    /// Whether there is an intent file.
    intent: bool,
    /// Whether the numbers of file, boot and batch are put in where they belong.
    placed: bool,
    /// Whether checksums are put right.
    forged: bool,
    ledger: &'a [u8],
    header: &'a [u8],
}

impl Case<'_> {
    fn of(bytes: &[u8]) -> Option<Case<'_>> {
        let (&switches, rest) = bytes.split_first()?;
        let (ledger, header) = rest.split_at(rest.len().min(LEDGER));
        Some(Case {
            part: usize::from(switches & 3),
            intent: switches & 4 != 0,
            placed: switches & 8 != 0,
            forged: switches & 0x70 == 0x70,
            ledger,
            header: &header[..header.len().min(INTENT)],
        })
    }
}

/// What stays from one case to the next.
struct Rig {
    folder: tempfile::TempDir,
    ledger: File,
    boot: [u64; 2],
}

impl Rig {
    fn new() -> Rig {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let ledger = File::from(ledger::create().unwrap());
        for area in 0..2 {
            ledger.write_all_at(CARRIED, (4096 + area * ledger::CARRY_MAX) as u64).unwrap();
        }
        Rig { folder, ledger, boot: BOOT.with(|boot| *boot) }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("m.log")
    }

    fn look(&mut self, bytes: &[u8], kind: Kind) -> Verdict {
        let Some(case) = Case::of(bytes) else {
            return Ok(());
        };
        let _none_yet = std::fs::remove_file(self.path());
        let before = [SAVED, &BATCH[..case.part]].concat();
        std::fs::write(self.path(), &before).unwrap();
        let words = self.write(&case, case.forged || kind == Kind::Unchecked);
        let outcome = logger::run(self.start());
        let after = std::fs::read(self.path()).map_err(|error| error.to_string())?;
        let verdict = match kind {
            Kind::Right if outcome.is_ok() && is_right(&after) => Ok(()),
            Kind::Right => Err(format!("the file is {:?}", String::from_utf8_lossy(&after))),
            Kind::Any if case.forged || lies(&words) => judge_forged(&words, &before, &after, outcome.is_ok()),
            _ => judge(&words, &before, &after, &outcome),
        };
        // What was torn, or not trusted, was moved aside.
        let mut aside = Vec::new();
        for entry in self.folder.path().read_dir().unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if name.starts_with("m.log.") {
                aside.extend(std::fs::read(&path).unwrap());
                std::fs::remove_file(&path).unwrap();
            }
        }
        verdict.map_err(|why| format!("{why}; aside: {:?}; {outcome:?}", String::from_utf8_lossy(&aside)))
    }

    /// Puts ledger and intent file there; their words, as they are then.
    fn write(&self, case: &Case<'_>, mend: bool) -> Vec<u64> {
        let file = FileId::of(&std::fs::metadata(self.path()).unwrap());
        let mut words = words(case.ledger, LEDGER);
        put(&mut words, &[TAKES, DONE, STANDS], mend, |words| {
            if case.placed && words[0] != 0 {
                (words[10], words[11]) = (file.device, file.inode);
            }
        });
        if mend {
            words[4] = held_word(&words, words[4]);
        }
        let mut page = vec![case.ledger.last().copied().unwrap_or(0); 4096];
        page[..LEDGER].copy_from_slice(&bytes(&words));
        self.ledger.write_all_at(&page, 0).unwrap();
        let path = self.folder.path().join(".m.log.intent");
        if !case.intent {
            let _none = std::fs::remove_file(path);
            return words;
        }
        let mut header = self::words(case.header, INTENT);
        put(&mut header, &PROMISES, mend, |header| {
            for at in [2, 10].into_iter().filter(|_| case.placed) {
                (header[at + 1], header[at + 2]) = (file.device, file.inode);
                header[at + 5..at + 7].copy_from_slice(&self.boot);
            }
        });
        // The file of the case before, for making one costs.
        let intent = File::options().write(true).create(true).truncate(false).open(path).unwrap();
        intent.write_all_at(&bytes(&header), 0).unwrap();
        intent.write_all_at(BATCH, 4096).unwrap();
        words.extend(header);
        words
    }

    /// A logger with one link, whose end has come.
    fn start(&self) -> Start {
        let link = Link::to_intake(4096, Protocol::Lines).unwrap();
        let Pipe { read, write } = link.queue;
        File::from(write).write_all(QUEUED).unwrap();
        let staging = link.intake.unwrap().staging;
        File::from(staging.write.try_clone().unwrap()).write_all(STAGED).unwrap();
        let give = OwnedFd::into_raw_fd;
        let inbound = Inbound {
            from: "source".to_owned(),
            protocol: Protocol::Lines,
            queue: give(read),
            staging: [give(staging.read), give(staging.write)],
            ledger: give(dup(self.ledger.as_fd()).unwrap()),
            replies: None,
        };
        Start {
            child: "logger".to_owned(),
            settings: serde_json::json!({"file": self.path(), "mode": 0o640, "format": "raw", "sync": "asked"})
                .to_string(),
            listeners: Vec::new(),
            links: Links { inbound: vec![inbound], outbound: None },
            metrics: Metrics::private(),
            signals: Signals::catch(&[]).unwrap(),
            supervisor: getppid(),
        }
    }
}

/// The file as it is when nothing is lost, and nothing saved twice.
fn is_right(after: &[u8]) -> bool {
    let rest = after.strip_prefix(SAVED).unwrap_or_default();
    rest.strip_prefix(CARRIED).unwrap_or(rest) == [STAGED, QUEUED].concat()
}

const PREPARED: u64 = u64::from_le_bytes(*b"prepared");
const CONSUMING: u64 = u64::from_le_bytes(*b"consumes");

/// Nothing that was saved changes; and a logger that starts saves what waits.
fn judge(words: &[u64], before: &[u8], after: &[u8], outcome: &Result<(), String>) -> Verdict {
    let text = String::from_utf8_lossy(after);
    let Some(mut rest) = after.strip_prefix(SAVED) else {
        return Err(format!("of {:?} it makes {text:?}", String::from_utf8_lossy(before)));
    };
    if let Err(why) = outcome {
        hold!(!why.is_empty(), "refused for no reason");
        hold!(after == before || rest == BATCH, "refused, and the file is {text:?}");
        return Ok(());
    }
    // The batch under way may be there already, and be saved again where
    // nothing is known of that any more.
    let mut batches = 0;
    while let Some(next) = rest.strip_prefix(BATCH) {
        (rest, batches) = (next, batches + 1);
    }
    if let Some(next) = rest.strip_prefix(CARRIED).and_then(|next| next.strip_prefix(BATCH)) {
        (rest, batches) = (next, batches + 1);
    }
    let whole = rest == [&STAGED[BATCH.len()..], QUEUED].concat();
    let known = batches > 0 || words[1] == CONSUMING;
    hold!(whole && known && batches < 4, "the file is {text:?}");
    Ok(())
}

/// A ledger that says with every checksum right that a batch began there, and
/// that is in staging whole, is believed: the rest of the file is taken again.
fn judge_forged(words: &[u64], before: &[u8], after: &[u8], started: bool) -> Verdict {
    let began = usize::try_from(words[9]).unwrap_or(usize::MAX);
    let stays = if words[1] == PREPARED { SAVED.len().min(began) } else { SAVED.len() };
    // What it leaves of a line is moved aside.
    let stays = before[..stays].iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    hold!(after.starts_with(&before[..stays]), "it makes {:?}", String::from_utf8_lossy(after));
    hold!(
        !started || after.is_empty() || after.ends_with(b"\n"),
        "a line is torn: {:?}",
        String::from_utf8_lossy(after)
    );
    Ok(())
}

/// A word that has the checksum of others.
pub(super) struct Sum {
    pub(super) at: usize,
    pub(super) of: &'static [usize],
}

/// Changes words, and then the checksums of those that had a right one; or of all (`mend`).
fn put(words: &mut [u64], sums: &[Sum], mend: bool, change: impl FnOnce(&mut [u64])) {
    let right: Vec<&Sum> = sums.iter().filter(|sum| mend || sum.is_right(words)).collect();
    change(words);
    for sum in right {
        words[sum.at] = sum.of(words);
    }
}

pub(super) const TAKES: Sum = Sum { at: 13, of: &[2, 3, 5, 6, 9, 10, 11, 12] };
pub(super) const DONE: Sum = Sum { at: 16, of: &[7, 8] };
pub(super) const STANDS: Sum = Sum { at: 17, of: &[14, 15] };
pub(super) const PROMISES: [Sum; 2] =
    [Sum { at: 9, of: &[2, 3, 4, 5, 6, 7, 8] }, Sum { at: 17, of: &[10, 11, 12, 13, 14, 15, 16] }];

impl Sum {
    pub(super) fn of(&self, words: &[u64]) -> u64 {
        crc(&self.of.iter().map(|&at| words[at]).collect::<Vec<_>>())
    }

    pub(super) fn is_right(&self, words: &[u64]) -> bool {
        words[self.at] == self.of(words)
    }
}

/// Whether a checksum is right, and what it is for is not what happened here:
/// nobody could know better.
fn lies(words: &[u64]) -> bool {
    let (ledger, header) = words.split_at(LEDGER / 8);
    let is_carry = |word: u64| [0, CARRIED.len() as u64].contains(&(word & !(1 << 63)));
    let [saved, batch, staged] = [SAVED, BATCH, STAGED].map(|bytes| bytes.len() as u64);
    let takes = TAKES.is_right(ledger) && ((ledger[3], ledger[9]) != (batch, saved) || !is_carry(ledger[12]));
    let held = ledger[4] == held_word(ledger, ledger[4]) && ledger[4] & 0xffff_ffff != staged;
    let stands = STANDS.is_right(ledger) && !is_carry(ledger[15]);
    let promises = PROMISES.iter().filter(|sum| header.len() > sum.at && sum.is_right(header));
    let promised = promises.map(|sum| sum.of[0]).any(|at| (header[at + 3], header[at + 4]) != (saved, batch));
    takes || held || stands || promised
}

/// A word that says so much, with its checksum behind it.
pub(super) fn held_word(words: &[u64], held: u64) -> u64 {
    let held = held & 0xffff_ffff;
    held | crc(&[words[2], held]) << 32
}

fn crc(words: &[u64]) -> u64 {
    u64::from(crc32fast::hash(&bytes(words)))
}

pub(super) fn bytes(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// So many bytes as words; what is missing is zero.
pub(super) fn words(bytes: &[u8], len: usize) -> Vec<u64> {
    let mut whole = bytes.to_vec();
    whole.resize(len, 0);
    whole.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect()
}

/// Puts every checksum of a ledger right.
pub fn set_right(ledger: &mut [u8; LEDGER]) {
    let mut words = words(ledger, LEDGER);
    [TAKES, DONE, STANDS].iter().for_each(|sum| words[sum.at] = sum.of(&words));
    words[HELD] = held_word(&words, words[HELD]);
    ledger.copy_from_slice(&bytes(&words));
}
