//! The ledger of a link and the intent file, as they are read: nothing is
//! believed that was not written so, and all that was is. What a logger does
//! with it is [`super::recovery`]'s.

use super::recovery::{
    BOOT, CARRY, DONE, HELD, INTENT, LEDGER, PROMISES, STANDS, TAKES, bytes, held_word, set_right, words,
};
use super::{Verdict, hold};
use plumbd::link::intent::{Found, Intent};
use plumbd::link::ledger::{self, CARRY_MAX, Ledger, Phase};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

/// Takes up a ledger.
pub type Open = fn(OwnedFd) -> Result<Ledger, String>;

/// plumbd's own.
pub fn target(bytes: &[u8]) -> Verdict {
    look(bytes, Ledger::open)
}

/// A switch, the ledger's words, the intent file's words; what is missing is
/// zero, and the rest of the ledger's page is the last byte.
pub fn look(input: &[u8], open: Open) -> Verdict {
    let Some((&switch, rest)) = input.split_first() else {
        return Ok(());
    };
    let (ledger, header) = rest.split_at(rest.len().min(LEDGER));
    let [mut ledger, mut header] = [words(ledger, LEDGER), words(&header[..header.len().min(INTENT)], INTENT)];
    // Else few would get any further.
    if switch & 0x80 != 0 {
        let mut page: [u8; LEDGER] = bytes(&ledger).try_into().unwrap();
        set_right(&mut page);
        ledger = words(&page, LEDGER);
        PROMISES.iter().for_each(|sum| header[sum.at] = sum.of(&header));
    }
    PAGES.with(|pages| {
        pages.ledger(&ledger, rest.last().copied().unwrap_or(0), open)?;
        pages.intent(&header)
    })
}

thread_local! {
    static PAGES: Pages = Pages::new();
}

/// What stays from one case to the next.
struct Pages {
    ledger: File,
    intent: Intent,
    header: File,
    _folder: tempfile::TempDir,
}

const VERSION: usize = 0;
const PHASE: usize = 1;

impl Pages {
    fn new() -> Pages {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = folder.path().join("i");
        let intent = Intent::open(&path, 4096).unwrap().unwrap();
        let header = File::options().write(true).open(path).unwrap();
        Pages { ledger: ledger::create().unwrap().into(), intent, header, _folder: folder }
    }

    fn ledger(&self, words: &[u64], last: u8, open: Open) -> Verdict {
        let mut page = vec![last; 4096];
        page[..LEDGER].copy_from_slice(&bytes(words));
        self.ledger.write_all_at(&page, 0).unwrap();
        let ledger = match open(self.ledger.try_clone().unwrap().into()) {
            Ok(ledger) => ledger,
            Err(why) => {
                hold!(why.starts_with("cannot use a ledger: "), "refused with {why:?}");
                hold!(!is_right(words), "refused, though right: {why}");
                return Ok(());
            }
        };
        hold!(is_right(words), "believed: {words:x?}");
        let phase = match ledger.phase() {
            Phase::Idle => "idle    ",
            Phase::Prepared(_) => "prepared",
            Phase::Consuming { .. } => "consumes",
        };
        let fresh = words[VERSION] == 0 && ledger.phase() == Phase::Idle;
        hold!(fresh || phase.as_bytes() == words[PHASE].to_le_bytes(), "its phase is {phase}");
        if let Phase::Prepared(batch) | Phase::Consuming { batch, .. } = ledger.phase() {
            let taken = [batch.id, batch.take, batch.last.epoch, batch.last.sequence, batch.offset];
            hold!(taken == [2, 3, 5, 6, 9].map(|at| words[at]), "its batch is {batch:?}");
        }
        let mut carry = Vec::new();
        ledger.read_carry(&mut carry).map_err(|error| error.to_string())?;
        hold!(carry.len() as u64 == words[CARRY] & !(1 << 63), "it carries {} bytes", carry.len());
        Ok(())
    }

    fn intent(&self, words: &[u64]) -> Verdict {
        self.header.write_all_at(&bytes(words), 0).unwrap();
        let right: Vec<_> = PROMISES.iter().filter(|sum| sum.is_right(words)).map(|sum| sum.of[0]).collect();
        let newest = right.iter().map(|&at| words[at]).max().unwrap_or(0);
        hold!(self.intent.last_batch() == newest, "its newest batch is {}", self.intent.last_batch());
        let named = |name: &[u8; 8]| words[PHASE].to_le_bytes() == *name;
        let begun = words[0].to_le_bytes() == *b"plumbdi\x01";
        let expected = match (named(b"promise1"), named(b"promise2")) {
            _ if !begun => None,
            (true, _) => right.iter().find(|&&at| at == 2),
            (_, true) => right.iter().find(|&&at| at == 10),
            _ => None,
        };
        let found = self.intent.found();
        let as_written = match (expected, found) {
            (_, Found::Idle) => begun && named(b"idle    "),
            (Some(&at), Found::OtherBoot) => BOOT.with(|boot| words[at + 5..at + 7] != *boot),
            (Some(&at), Found::Writing(promise)) => {
                let said = [promise.batch, promise.file.device, promise.file.inode, promise.offset, promise.length];
                said == words[at..at + 5] && promise.length <= self.intent.body().len() as u64
            }
            (Some(&at), Found::Nothing) => words[at + 4] > self.intent.body().len() as u64,
            (None, found) => found == Found::Nothing && !(begun && named(b"idle    ")),
        };
        hold!(as_written, "it is read as {found:?}: {words:x?}");
        Ok(())
    }
}

/// By the words of the manual: ARCHITECTURE.md, "Ledger".
fn is_right(words: &[u64]) -> bool {
    let zeros = DONE.of(&[0; 18]);
    let idle = u64::from_le_bytes(*b"idle    ");
    if words[VERSION] == 0 {
        let begun = |(at, &word): (usize, &u64)| word == 0 || at == PHASE && word == idle || at >= 16 && word == zeros;
        return words.iter().enumerate().all(begun);
    }
    let fits = |at: usize| words[at] & !(1 << 63) <= CARRY_MAX as u64;
    let batch = TAKES.is_right(words) && fits(12);
    let (done, stands) = (DONE.is_right(words), STANDS.is_right(words));
    let held = words[HELD] == held_word(words, words[HELD]);
    let right = match &words[PHASE].to_le_bytes() {
        b"idle    " => done && stands,
        b"prepared" => batch && done && stands,
        b"consumes" => batch && held && (done || words[5] != 0),
        _ => false,
    };
    words[VERSION] == 1 && right && fits(CARRY)
}
