//! The words of a ledger and of an intent file's header, according to the documentation
//! alone: doc/law-of-a-link.md, "Ledger" and "Intent file".

use plumbd::link::ledger::CARRY_MAX;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// How many words of the ledger mean something.
pub(super) const LEDGER: usize = 18;
/// How many words of the intent file's header mean something: those at its beginning, and the
/// slot at its end.
pub(super) const INTENT: usize = FRONT + SLOT;
/// How many words are at the beginning of the header, and in a slot.
const FRONT: usize = 34;
const SLOT: usize = 11;

// Words of the ledger.
pub(super) const VERSION: usize = 0;
pub(super) const PHASE: usize = 1;
pub(super) const BATCH: usize = 2;
pub(super) const TAKE: usize = 3;
pub(super) const HELD: usize = 4;
pub(super) const LAST_EPOCH: usize = 5;
pub(super) const OFFSET: usize = 9;
pub(super) const FILE: usize = 10;
pub(super) const LEAVES: usize = 12;
pub(super) const DONE_BATCH: usize = 14;
pub(super) const CARRY: usize = 15;

/// The first word of an intent file.
pub(super) const MAGIC: u64 = u64::from_le_bytes(*b"plumbdi\x02");
/// Where the slots begin: the first is the one at the end of the page.
pub(super) const SLOTS: [usize; 2] = [FRONT, 2];
/// The words of a slot: its serial number, its state, what it promises, and the body's checksum.
pub(super) const STATE: usize = 1;
pub(super) const PROMISE: usize = 2;
const BODY_SUM: usize = 9;
/// The file that is not trusted; the batches that were settled.
pub(super) const UNTRUSTED: Sum = Sum { at: 20, of: &[18, 19] };
const BEGAN: Sum = Sum { at: 24, of: &[21, 22, 23] };
const SETTLED: Sum = Sum { at: 33, of: &[25, 26, 27, 28, 29, 30, 31, 32] };

pub(super) const IDLE: u64 = u64::from_le_bytes(*b"idle    ");
pub(super) const PREPARED: u64 = u64::from_le_bytes(*b"prepared");
pub(super) const CONSUMING: u64 = u64::from_le_bytes(*b"consumes");
pub(super) const PROMISED: u64 = u64::from_le_bytes(*b"promised");

/// The bit that is set if a carry is in the second area.
pub(super) const SECOND: u64 = 1 << 63;

/// A word that has the checksum of other words.
pub(super) struct Sum {
    pub(super) at: usize,
    pub(super) of: &'static [usize],
}

pub(super) const TAKES: Sum = Sum { at: 13, of: &[2, 3, 5, 6, 9, 10, 11, 12] };
pub(super) const DONE: Sum = Sum { at: 16, of: &[7, 8] };
pub(super) const STANDS: Sum = Sum { at: 17, of: &[14, 15] };
pub(super) const PROMISES: [Sum; 2] = [
    Sum { at: 44, of: &[34, 35, 36, 37, 38, 39, 40, 41, 42, 43] },
    Sum { at: 12, of: &[2, 3, 4, 5, 6, 7, 8, 9, 10, 11] },
];

impl Sum {
    pub(super) fn of(&self, words: &[u64]) -> u64 {
        let mut crc = crc32fast::Hasher::new();
        self.of.iter().for_each(|&at| crc.update(&words[at].to_le_bytes()));
        u64::from(crc.finalize())
    }

    pub(super) fn is_right(&self, words: &[u64]) -> bool {
        words[self.at] == self.of(words)
    }

    pub(super) fn put(&self, words: &mut [u64]) {
        words[self.at] = self.of(words);
    }
}

/// What must be in the upper half of the word with what staging held.
fn held_sum(words: &[u64]) -> u64 {
    let pair = [words[BATCH], words[HELD] & 0xffff_ffff];
    Sum { at: 0, of: &[0, 1] }.of(&pair)
}

/// Makes every checksum of a ledger right.
pub(super) fn mend_ledger(words: &mut [u64]) {
    [TAKES, DONE, STANDS].iter().for_each(|sum| sum.put(words));
    words[HELD] = words[HELD] & 0xffff_ffff | held_sum(words) << 32;
}

/// Makes every checksum of a header right, in front of that body.
pub(super) fn mend_header(words: &mut [u64], body: &[u8]) {
    for at in SLOTS {
        if let Some(sum) = body_sum(words, at, body) {
            words[at + BODY_SUM] = sum;
        }
    }
    PROMISES.iter().chain([&UNTRUSTED, &BEGAN, &SETTLED]).for_each(|sum| sum.put(words));
}

/// The checksum of the bytes that a slot promises; `None` if it promises more than there is.
fn body_sum(words: &[u64], slot: usize, body: &[u8]) -> Option<u64> {
    let length = usize::try_from(words[slot + PROMISE + 4]).ok()?;
    body.get(..length).map(|promised| u64::from(crc32fast::hash(promised)))
}

/// Writes the words of a header where they belong.
pub(super) fn put_header(file: &File, words: &[u64]) {
    file.write_all_at(&bytes(&words[..FRONT]), 0).unwrap();
    file.write_all_at(&bytes(&words[FRONT..]), 4096 - 8 * SLOT as u64).unwrap();
}

/// Reads them.
pub(super) fn header_of(file: &File) -> std::io::Result<Vec<u64>> {
    let mut page = [0; 4096];
    file.read_exact_at(&mut page, 0)?;
    Ok([words(&page, FRONT), words(&page[4096 - 8 * SLOT..], SLOT)].concat())
}

/// Whether that batch was settled.
pub(super) fn is_settled(words: &[u64], batch: u64) -> bool {
    words[0] == MAGIC && batch != 0 && SETTLED.is_right(words) && SETTLED.of.iter().any(|&at| words[at] == batch)
}

/// The length of a carry.
pub(super) fn carry_len(word: u64) -> u64 {
    word & !SECOND
}

/// Whether a logger believes this ledger.
pub(super) fn is_right(words: &[u64]) -> bool {
    if words[VERSION] == 0 {
        let zeros = DONE.of(&[0; LEDGER]);
        let begun = |(at, &word): (usize, &u64)| word == 0 || at == PHASE && word == IDLE || at >= 16 && word == zeros;
        return words.iter().enumerate().all(begun);
    }
    let fits = |at: usize| carry_len(words[at]) <= CARRY_MAX as u64;
    let batch = TAKES.is_right(words) && fits(LEAVES);
    let (done, stands) = (DONE.is_right(words), STANDS.is_right(words));
    let held = words[HELD] >> 32 == held_sum(words);
    let right = match words[PHASE] {
        IDLE => done && stands,
        PREPARED => batch && done && stands,
        CONSUMING => batch && held && (done || words[LAST_EPOCH] != 0),
        _ => false,
    };
    words[VERSION] == 1 && right && fits(CARRY)
}

/// What a header says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Says {
    /// It is not a header, or nothing can be said about it.
    Nothing,
    /// No batch is under way.
    Idle,
    /// A batch was under way before the machine went down.
    OtherBoot,
    /// The promise in the words from this one on counts.
    Writing(usize),
}

/// Whether a slot is valid.
pub(super) fn is_slot(words: &[u64], slot: usize) -> bool {
    let at = SLOTS[slot];
    words[0] == MAGIC && [IDLE, PROMISED].contains(&words[at + STATE]) && PROMISES[slot].is_right(words)
}

/// The last batch that a header knows about.
pub(super) fn last_batch(words: &[u64]) -> u64 {
    (0..2).filter(|&slot| is_slot(words, slot)).map(|slot| words[SLOTS[slot] + PROMISE]).max().unwrap_or(0)
}

/// What a header says in this boot, in front of that body.
pub(super) fn says(words: &[u64], boot: [u64; 2], body: &[u8]) -> Says {
    // If a serial number is ahead by less than half of all numbers, it was given later.
    let ahead = words[SLOTS[1]].wrapping_sub(words[SLOTS[0]]);
    let at = match [0, 1].map(|slot| is_slot(words, slot)) {
        [true, true] => SLOTS[usize::from((1..1 << 63).contains(&ahead))],
        [true, false] => SLOTS[0],
        [false, true] => SLOTS[1],
        [false, false] => return Says::Nothing,
    };
    if words[at + STATE] == IDLE {
        return if (0..2).all(|slot| is_slot(words, slot)) { Says::Idle } else { Says::Nothing };
    }
    let at = at + PROMISE;
    match words[at + 5..at + 7] == boot {
        false => Says::OtherBoot,
        true if body_sum(words, at - PROMISE, body) == Some(words[at - PROMISE + BODY_SUM]) => Says::Writing(at),
        true => Says::Nothing,
    }
}

/// The id of this boot (random(4)), in two halves.
pub(super) fn boot_id() -> [u64; 2] {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let id = u128::from_str_radix(&text.trim().replace('-', ""), 16).unwrap();
    #[expect(clippy::cast_possible_truncation, reason = "its two halves")]
    let halves = [(id >> 64) as u64, id as u64];
    halves
}

pub(super) fn bytes(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// This many words. Missing ones are zero.
pub(super) fn words(bytes: &[u8], len: usize) -> Vec<u64> {
    let mut whole = bytes.to_vec();
    whole.resize(8 * len, 0);
    whole.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect()
}
