//! What a logger finds, made from any bytes.

use super::super::pages::{
    BATCH as ID_AT, CARRY, CONSUMING, DONE, DONE_BATCH, FILE, HELD, IDLE, INTENT, LEAVES, LEDGER, MAGIC, OFFSET, PHASE,
    PREPARED, PROMISE, PROMISED, PROMISES, SECOND, SLOTS, STANDS, STATE, Sum, TAKE, TAKES, VERSION, mend_header,
    mend_ledger, words,
};
use super::{BATCH, BODY, SAVED, STAGED, body};
use plumbd::link::intent::FileId;
use plumbd::link::ledger::CARRY_MAX;

/// What is there before a logger starts.
pub(super) struct Case {
    /// How much of the batch is in the file.
    pub(super) part: usize,
    /// Whether the file was renamed.
    pub(super) moved: bool,
    /// Whether there is no intent file at all.
    pub(super) no_intent: bool,
    /// The words of the ledger, and the byte that fills the rest of its page.
    pub(super) ledger: Vec<u64>,
    pub(super) rest: u8,
    /// The words of the intent file. If all are zero, it counts as absent.
    pub(super) header: Vec<u64>,
}

/// The original message file, and this boot.
#[derive(Clone, Copy)]
pub(super) struct Here {
    pub(super) file: FileId,
    pub(super) boot: [u64; 2],
}

/// How much of a batch is in the file.
const PART: u8 = 3;
const HAS_INTENT: u8 = 4;
/// The identity of the file and of the boot are put in where they belong.
const PLACED: u8 = 8;
/// With all three, checksums are made right.
const MENDED: u8 = 0x70;
/// The bytes that follow are [`Choices`], not words.
const CHOSEN: u8 = 0x80;

impl Case {
    /// Reads a byte of switches, then choices, or the words of ledger and intent file. Missing
    /// bytes are zero. The rest of the ledger's page is filled with the last byte.
    pub(super) fn of(bytes: &[u8], here: Here) -> Option<Case> {
        let (&switches, rest) = bytes.split_first()?;
        let part = usize::from(switches & PART).min(BATCH.len());
        if switches & CHOSEN != 0 {
            return Some(Choices { bytes: rest, here }.case(part, switches));
        }
        let (ledger, header) = rest.split_at(rest.len().min(8 * LEDGER));
        let last = ledger.last().copied().unwrap_or(0);
        let mut ledger = words(ledger, LEDGER);
        let mut header = words(&header[..header.len().min(8 * INTENT)], INTENT);
        if switches & PLACED != 0 {
            place(&mut ledger, &mut header, here);
        }
        if switches & MENDED == MENDED {
            mend_ledger(&mut ledger);
            mend_header(&mut header, &body());
        }
        let no_intent = switches & HAS_INTENT == 0;
        Some(Case { part, moved: false, no_intent, ledger, rest: last, header }.settled())
    }

    /// If there is no intent file, it has no words.
    fn settled(mut self) -> Case {
        if self.no_intent {
            self.header.fill(0);
        }
        self
    }
}

/// Puts in what no seed can know. Checksums that were right stay right.
fn place(ledger: &mut [u64], header: &mut [u64], here: Here) {
    let keep = |words: &mut [u64], sum: &Sum, change: &dyn Fn(&mut [u64])| {
        let was_right = sum.is_right(words);
        change(words);
        if was_right {
            sum.put(words);
        }
    };
    if ledger[VERSION] != 0 {
        keep(ledger, &TAKES, &|words| (words[FILE], words[FILE + 1]) = (here.file.device, here.file.inode));
    }
    for (slot, sum) in SLOTS.into_iter().zip(&PROMISES) {
        keep(header, sum, &|words| {
            let at = slot + PROMISE;
            (words[at + 1], words[at + 2]) = (here.file.device, here.file.inode);
            words[at + 5..at + 7].copy_from_slice(&here.boot);
        });
    }
}

/// Bytes, each of which chooses the value of a word. Without any, the words are what a killed
/// logger leaves. Checksums are right, except those for which a bit is set.
struct Choices<'a> {
    bytes: &'a [u8],
    here: Here,
}

/// The batch under way.
const ID: u64 = 77;

impl Choices<'_> {
    fn case(mut self, part: usize, switches: u8) -> Case {
        let Here { file, boot } = self.here;
        let (offset, length) = (SAVED.len() as u64, BATCH.len() as u64);
        let slot = [0, PROMISED, ID, file.device, file.inode, offset, length, boot[0], boot[1], 0, 0];
        let mut header = vec![0; INTENT];
        header[0] = MAGIC;
        SLOTS.iter().for_each(|&at| header[at..at + slot.len()].copy_from_slice(&slot));
        let mut ledger = vec![1, PREPARED, ID, length, STAGED.len() as u64, 0, 0, 0, 0];
        ledger.extend([offset, file.device, file.inode, 0, 0, ID - 1, 0, 0, 0]);
        ledger[PHASE] = [PREPARED, CONSUMING, IDLE, 0][usize::from(self.next() & 3)];
        // The first promise counts, or the second, or none, or that is unknown.
        let (serials, state) =
            [([2, 1], IDLE), ([2, 3], PROMISED), ([2, 3], IDLE), ([2, 3], 0)][usize::from(self.next() & 3)];
        SLOTS.iter().zip(serials).for_each(|(&at, serial)| header[at] = serial);
        header[SLOTS[1] + STATE] = state;
        let wrong = self.next();
        // Carries and offsets come first, so that short inputs reach them.
        for word in [TAKE, HELD, OFFSET, LEAVES, CARRY, ID_AT, DONE_BATCH, FILE + 1, FILE, 5, 6, 7, 8, PHASE, VERSION] {
            self.change(&mut ledger[word]);
        }
        (0..INTENT).for_each(|word| self.change(&mut header[word]));
        mend_ledger(&mut ledger);
        mend_header(&mut header, &body());
        let sums = [TAKES.at, DONE.at, STANDS.at, HELD].into_iter().enumerate();
        sums.for_each(|(bit, at)| ledger[at] ^= u64::from(wrong >> bit & 1) << 40);
        PROMISES.iter().enumerate().for_each(|(i, sum)| header[sum.at] ^= u64::from(wrong >> (4 + i) & 1) << 20);
        let (moved, no_intent) = (switches & PLACED != 0, switches & HAS_INTENT != 0);
        Case { part, moved, no_intent, ledger, rest: wrong, header }.settled()
    }

    fn next(&mut self) -> u8 {
        let (first, rest) = self.bytes.split_first().unwrap_or((&0, &[]));
        self.bytes = rest;
        *first
    }

    /// Leaves a word as it is, changes it by a little, or replaces it by some other value.
    fn change(&mut self, word: &mut u64) {
        let Here { file, boot } = self.here;
        let numbers = [0, 5, 4096, BODY, BODY + 1, u64::from(u32::MAX), i64::MAX as u64, u64::MAX];
        let carries = [CARRY_MAX as u64, CARRY_MAX as u64 + 1, SECOND, SECOND | 5];
        let phases = [IDLE, PREPARED, CONSUMING, PROMISED, 3, MAGIC];
        let known = [file.device, file.inode, boot[0], boot[1], ID, ID - 1];
        let choice = self.next();
        *word = match choice {
            0..8 => word.wrapping_add(u64::from(choice)),
            8..16 => word.wrapping_sub(u64::from(choice - 7)),
            _ => {
                let all = numbers.iter().chain(&carries).chain(&phases).chain(&known);
                *all.cycle().nth(usize::from(choice - 16)).unwrap()
            }
        };
    }
}
