//! How the ledger of a link and the intent file are read: only what was written is believed,
//! and all of that is. What a logger does with it is tried in [`super::recovery`].

use super::pages::{
    self, CARRY, INTENT, LEDGER, PHASE, PROMISE, SLOTS, Says, VERSION, bytes, carry_len, is_right, is_slot,
    mend_header, mend_ledger, says, words,
};
use super::{Verdict, hold};
use plumbd::link::intent::{Found, Intent};
use plumbd::link::ledger::{self, Ledger, Phase};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

/// Takes up a ledger.
pub type Open = fn(OwnedFd) -> Result<Ledger, String>;

/// The bytes behind the header.
const BODY: &[u8] = &[0; 4096];

/// Tries plumbd's own function.
pub fn target(bytes: &[u8]) -> Verdict {
    look(bytes, Ledger::open)
}

/// Tries bytes: a switch, the ledger's words, then the intent file's words. Missing bytes are
/// zero, and the rest of the ledger's page is filled with the last byte.
pub fn look(input: &[u8], open: Open) -> Verdict {
    let Some((&switch, rest)) = input.split_first() else {
        return Ok(());
    };
    let (ledger, header) = rest.split_at(rest.len().min(8 * LEDGER));
    let [mut ledger, mut header] = [words(ledger, LEDGER), words(&header[..header.len().min(8 * INTENT)], INTENT)];
    // Otherwise few would get any further.
    if switch & 0x80 != 0 {
        mend_ledger(&mut ledger);
        mend_header(&mut header, BODY);
    }
    PAGES.with(|pages| {
        pages.borrow().ledger(&ledger, rest.last().copied().unwrap_or(0), open)?;
        pages.borrow_mut().intent(&header)
    })
}

thread_local! {
    static PAGES: std::cell::RefCell<Pages> = std::cell::RefCell::new(Pages::new());
}

/// The parts that are kept from one case to the next.
struct Pages {
    ledger: File,
    intent: Intent,
    header: File,
    boot: [u64; 2],
    _folder: tempfile::TempDir,
}

impl Pages {
    fn new() -> Pages {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = folder.path().join("i");
        let intent = Intent::open(&path, 4096).unwrap().unwrap();
        let header = File::options().write(true).open(path).unwrap();
        header.set_len(2 * 4096).unwrap();
        Pages { ledger: ledger::create().unwrap().into(), intent, header, boot: pages::boot_id(), _folder: folder }
    }

    fn ledger(&self, words: &[u64], last: u8, open: Open) -> Verdict {
        let mut page = [last; 4096];
        page[..8 * LEDGER].copy_from_slice(&bytes(words));
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
        hold!(carry.len() as u64 == carry_len(words[CARRY]), "it carries {} bytes", carry.len());
        Ok(())
    }

    fn intent(&mut self, words: &[u64]) -> Verdict {
        pages::put_header(&self.header, words);
        let found = self.intent.look().map_err(|error| error.to_string())?;
        let newest = (0..2).filter(|&slot| is_slot(words, slot)).map(|slot| words[SLOTS[slot] + PROMISE]).max();
        let last = self.intent.last_batch();
        hold!(last == newest.unwrap_or(0), "its newest batch is {last}");
        let as_written = match (says(words, self.boot, BODY), found) {
            (Says::Nothing, Found::Nothing) | (Says::Idle, Found::Idle) | (Says::OtherBoot, Found::OtherBoot) => true,
            (Says::Writing(at), Found::Writing(promise)) => {
                let said = [promise.batch, promise.file.device, promise.file.inode, promise.offset, promise.length];
                said == words[at..at + 5]
            }
            _ => false,
        };
        hold!(as_written, "it is read as {found:?}: {words:x?}");
        Ok(())
    }
}

/// How many bytes of a ledger mean something.
pub const BYTES: usize = 8 * LEDGER;

/// Makes every checksum of a ledger right.
pub fn set_right(ledger: &mut [u8; BYTES]) {
    let mut words = words(ledger, LEDGER);
    mend_ledger(&mut words);
    ledger.copy_from_slice(&bytes(&words));
}
