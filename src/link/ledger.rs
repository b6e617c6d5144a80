//! The ledger of a link, in which its sink notes what it is doing. It is in memory that
//! outlives the sink.
//!
//! It has a page of 8-byte words, and behind it two areas for a **carry**: bytes of a
//! message that is not whole yet, which are taken out of staging and kept here. (If they
//! stayed in staging, a source that writes one byte at a time would fill every slot of
//! that pipe with the beginning of a message, and the message could never end.)

use super::cell::{Cell, Value};
use super::intent::FileId;
use super::record::Ack;
use super::words::{Words, crc_of};
use crate::sys::map::{self, SharedMap};
use crate::sys::rate::Rates;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The most bytes of an unfinished message that a sink may set aside. This is more than
/// the longest message takes as records.
pub const CARRY_MAX: usize = super::record::MESSAGE_MAX + super::record::MESSAGE_MAX / 16;

const LAYOUT: u64 = 1;

// Words that are not part of a cell.
const VERSION: usize = 0;
const PHASE: usize = 1;
const BATCH: usize = 2;
const HELD: usize = 4;
const CARRY: usize = 15;
/// The words of layout 1 end here. Those that follow were zero when the ledger was made, and
/// are believed only if they check out.
const CORE: usize = 18;
const PLACE: usize = 18;
const PATH_LEN: usize = 19;
#[cfg(test)]
const WORDS: usize = 24;

// The cells. The batch's id is part of two of them.
const PREPARATION: Cell<Preparation, 8> = Cell::new([BATCH, 3, 5, 6, 9, 10, 11, 12], 13);
const DONE_CRC: usize = 16;
const DONE: Cell<Ack, 2> = Cell::new([7, 8], DONE_CRC);
const STANDS_CRC: usize = 17;
const STANDS: Cell<Stands, 2> = Cell::new([14, CARRY], STANDS_CRC);
const MOVED: Cell<Moved, 4> = Cell::new([BATCH, 20, 21, 22], 23);

// What flowed, which no sink needs to go on: it is shown, and has no checksum.
const FLOW: usize = 24;
const FLOW_WORDS: usize = 7;

/// Where the message file's path begins in the page, and how long it may be.
const PATH: u64 = 256;
const _: () = assert!(8 * (FLOW + FLOW_WORDS) <= PATH as usize, "the path comes behind all words");
const PATH_MAX: usize = map::PAGE - PATH as usize;

/// What a batch will do: what it takes, and the carry that it leaves.
#[derive(Debug, Clone, Copy)]
struct Preparation {
    batch: Batch,
    leaves: u64,
}

impl Value<8> for Preparation {
    fn words(&self) -> [u64; 8] {
        let Batch { id, take, last, offset, file } = self.batch;
        [id, take, last.epoch, last.sequence, offset, file.device, file.inode, self.leaves]
    }

    fn of([id, take, epoch, sequence, offset, device, inode, leaves]: [u64; 8]) -> Preparation {
        let (last, file) = (Ack { epoch, sequence }, FileId { device, inode });
        Preparation { batch: Batch { id, take, last, offset, file }, leaves }
    }
}

impl Value<2> for Ack {
    fn words(&self) -> [u64; 2] {
        [self.epoch, self.sequence]
    }

    fn of([epoch, sequence]: [u64; 2]) -> Ack {
        Ack { epoch, sequence }
    }
}

/// The last batch that is done, and the carry that it left.
#[derive(Debug, Clone, Copy)]
struct Stands {
    batch: u64,
    carry: u64,
}

impl Value<2> for Stands {
    fn words(&self) -> [u64; 2] {
        [self.batch, self.carry]
    }

    fn of([batch, carry]: [u64; 2]) -> Stands {
        Stands { batch, carry }
    }
}

/// Where a batch begins after it was promised anew, to another place.
#[derive(Debug, Clone, Copy)]
struct Moved {
    batch: u64,
    offset: u64,
    file: FileId,
}

impl Value<4> for Moved {
    fn words(&self) -> [u64; 4] {
        [self.batch, self.offset, self.file.device, self.file.inode]
    }

    fn of([batch, offset, device, inode]: [u64; 4]) -> Moved {
        Moved { batch, offset, file: FileId { device, inode } }
    }
}

// A phase is set by one store, so it can't have a checksum. Instead, the words are such that
// a few wrong bits can't turn one phase into another.
const IDLE: u64 = u64::from_le_bytes(*b"idle    ");
const PREPARED: u64 = u64::from_le_bytes(*b"prepared");
const CONSUMING: u64 = u64::from_le_bytes(*b"consumes");

/// The length of a ledger.
const LENGTH: usize = map::PAGE + 2 * CARRY_MAX;

/// Makes a fresh ledger, a memory file of zeros, which takes no memory yet. The sink can't
/// change its length.
///
/// # Errors
/// EMFILE, ENFILE, ENOMEM.
pub fn create() -> io::Result<OwnedFd> {
    let file = map::memory_file(c"plumbd-ledger", LENGTH)?;
    map::seal_size(&file)?;
    Ok(file)
}

/// Checks that a descriptor that was kept can be a ledger and stay one: it is a file of the
/// right length, which is sealed. A file that an earlier version made can't be sealed, and
/// is accepted anyway.
///
/// # Errors
/// Why it can't, in words.
pub fn adopt(file: impl AsFd) -> Result<(), String> {
    let _unsealable = map::seal_size(file.as_fd());
    match nix::sys::stat::fstat(file.as_fd()) {
        Ok(stat) if usize::try_from(stat.st_size) == Ok(LENGTH) => Ok(()),
        Ok(stat) => Err(format!("its ledger has {} bytes, not {LENGTH}", stat.st_size)),
        Err(errno) => Err(format!("cannot look at its ledger: {}", errno.desc())),
    }
}

/// What a sink has taken out of a link since the link was made.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Flow {
    /// Messages.
    pub messages: u64,
    /// Messages per second.
    pub message_rates: Rates,
    /// Bytes of messages.
    pub bytes: u64,
    /// Bytes of messages per second.
    pub byte_rates: Rates,
    /// When this was noted, as [`now`](crate::sys::rate::now) has it; 0: the sink has noted nothing.
    pub at: u64,
}

impl Flow {
    /// The same at a later time, until which nothing came.
    fn at(self, now: u64) -> Flow {
        let elapsed = now.saturating_sub(self.at);
        let (message_rates, byte_rates) = (self.message_rates.decayed(elapsed), self.byte_rates.decayed(elapsed));
        Flow { message_rates, byte_rates, at: now, ..self }
    }

    fn words(&self) -> [u64; FLOW_WORDS] {
        let ([m1, m60], [b1, b60]) = (self.message_rates.words(), self.byte_rates.words());
        [self.messages, m1, m60, self.bytes, b1, b60, self.at]
    }

    fn of([messages, m1, m60, bytes, b1, b60, at]: [u64; FLOW_WORDS]) -> Flow {
        let (message_rates, byte_rates) = (Rates::of([m1, m60]), Rates::of([b1, b60]));
        Flow { messages, message_rates, bytes, byte_rates, at }
    }
}

/// A ledger, as its sink uses it.
#[derive(Debug)]
pub struct Ledger {
    page: SharedMap,
    file: File,
    /// The checksum of the path that it has for the batches to come; 0: it has none.
    path_crc: u64,
}

/// A batch as one link sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch {
    /// The batch's id. Other links may be part of the batch too.
    pub id: u64,
    /// How many bytes of staging it takes.
    pub take: u64,
    /// Its last message that is to be acknowledged; zeros: none.
    pub last: Ack,
    /// Where it begins in the message file.
    pub offset: u64,
    /// The message file.
    pub file: FileId,
}

/// What a new sink finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Nothing is under way.
    Idle,
    /// A batch that may or may not have been promised.
    Prepared(Batch),
    /// A batch that is saved, and may be consumed in part.
    Consuming {
        /// The batch.
        batch: Batch,
        /// How many bytes staging held before.
        held: u64,
    },
}

impl Ledger {
    /// Takes up a ledger, whether fresh or used.
    ///
    /// # Errors
    /// The ledger can't be mapped, or makes no sense, so that no byte of its link may be
    /// touched.
    pub fn open(fd: OwnedFd) -> Result<Ledger, String> {
        let file = File::from(fd);
        let page = SharedMap::new(&file, map::PAGE).map_err(|e| format!("cannot map a ledger: {e}"))?;
        let ledger = Ledger { page, file, path_crc: 0 };
        match ledger.get(VERSION) {
            LAYOUT => ledger.check()?,
            0 => ledger.begin()?,
            other => return Err(format!("cannot use a ledger: it has layout {other}, not {LAYOUT}")),
        }
        Ok(ledger)
    }

    /// Makes a ledger of a page of zeros. An earlier sink may have been killed while it did
    /// this.
    fn begin(&self) -> Result<(), String> {
        let zeros = crc_of([0, 0]);
        let fresh = [(PHASE, IDLE), (DONE_CRC, zeros), (STANDS_CRC, zeros)];
        let is_fresh = |word: usize| {
            let value = self.get(word);
            value == 0 || fresh.contains(&(word, value))
        };
        if !(PHASE..CORE).all(is_fresh) {
            return Err("cannot use a ledger: it has no layout, and is not empty".to_owned());
        }
        for (word, value) in fresh {
            self.set(word, value);
        }
        self.set(VERSION, LAYOUT);
        Ok(())
    }

    fn check(&self) -> Result<(), String> {
        let phase = self.get(PHASE);
        if ![IDLE, PREPARED, CONSUMING].contains(&phase) {
            return Err(format!("cannot use a ledger: it has phase {phase:#x}"));
        }
        let is_carry = |carry: u64| carry_len(carry) <= CARRY_MAX;
        let prepared = self.read(&PREPARATION).filter(|prepared| is_carry(prepared.leaves));
        let held = self.get(HELD) == self.held_word(self.get(HELD) & HELD_MAX);
        let done = self.read(&DONE).is_some();
        let stands = self.read(&STANDS).is_some();
        // While a batch is being consumed, the values that it replaces need not check out.
        let right = is_carry(self.get(CARRY))
            && match (phase, prepared) {
                (IDLE, _) => done && stands,
                (PREPARED, Some(_)) => done && stands,
                (CONSUMING, Some(prepared)) => held && (done || prepared.batch.last.epoch != 0),
                _ => false,
            };
        if right { Ok(()) } else { Err("cannot use a ledger: it does not check out".to_owned()) }
    }

    /// What was under way.
    pub fn phase(&self) -> Phase {
        let mut batch = self.preparation().batch;
        if let Some(moved) = self.read(&MOVED) {
            (batch.offset, batch.file) = (moved.offset, moved.file);
        }
        match self.get(PHASE) {
            PREPARED => Phase::Prepared(batch),
            CONSUMING => Phase::Consuming { batch, held: self.get(HELD) & HELD_MAX },
            _ => Phase::Idle,
        }
    }

    /// The path of the message file that the last batch is for, whether the batch is
    /// under way or done; `None`: that is not known.
    ///
    /// # Errors
    /// From pread(2).
    pub fn path(&self) -> io::Result<Option<PathBuf>> {
        let length = usize::try_from(self.get(PATH_LEN)).unwrap_or(usize::MAX);
        if !(1..=PATH_MAX).contains(&length) {
            return Ok(None);
        }
        let mut path = vec![0; length];
        self.file.read_exact_at(&mut path, PATH)?;
        let right = self.get(PLACE) == crc_of([self.get(BATCH), u64::from(crc32fast::hash(&path))]);
        Ok(right.then(|| OsString::from_vec(path).into()))
    }

    /// Sets the message file of the batches to come, while none is under way. A path that is
    /// too long is not noted, so the next sink does not know it.
    ///
    /// # Errors
    /// From pwrite(2).
    pub fn set_path(&mut self, path: &Path) -> io::Result<()> {
        let path = path.as_os_str().as_bytes();
        self.path_crc = 0;
        if path.len() <= PATH_MAX {
            self.file.write_all_at(path, PATH)?;
            self.set(PATH_LEN, path.len() as u64);
            self.path_crc = u64::from(crc32fast::hash(path));
        }
        Ok(())
    }

    /// The last message that is saved and consumed; `None`: none yet.
    pub fn done(&self) -> Option<Ack> {
        Some(DONE.read_unchecked(|word| self.get(word))).filter(|done| done.epoch != 0)
    }

    /// The last batch that is saved and consumed; 0: none yet.
    pub fn done_batch(&self) -> u64 {
        STANDS.read_unchecked(|word| self.get(word)).batch
    }

    /// Appends the current carry to `to`.
    ///
    /// # Errors
    /// From pread(2).
    pub fn read_carry(&self, to: &mut Vec<u8>) -> io::Result<()> {
        let carry = self.get(CARRY);
        let old = to.len();
        to.resize(old + carry_len(carry), 0);
        self.file.read_exact_at(&mut to[old..], area(carry))
    }

    /// Step 4: notes what the batch will do, and the carry that it leaves. The first `same`
    /// bytes of that are the current carry.
    ///
    /// The current carry is not touched. The new one counts only once the batch is consumed.
    ///
    /// # Errors
    /// The carry can't be written (ENOMEM, ENOSPC). Then nothing happened.
    ///
    /// # Panics
    /// If the carry is longer than [`CARRY_MAX`].
    pub fn prepare(&self, batch: &Batch, carry: &[u8], same: usize) -> io::Result<()> {
        assert!(carry.len() <= CARRY_MAX, "a carry is at most {CARRY_MAX} bytes");
        let stands = self.get(CARRY);
        let grows = same == carry_len(stands);
        let leaves = (if grows { stands } else { stands ^ SECOND_AREA }) & SECOND_AREA | carry.len() as u64;
        let from = if grows { same } else { 0 };
        self.file.write_all_at(&carry[from..], area(leaves) + from as u64)?;
        self.write(&PREPARATION, &Preparation { batch: *batch, leaves });
        self.set(PLACE, crc_of([batch.id, self.path_crc]));
        self.set(PHASE, PREPARED);
        Ok(())
    }

    /// Notes that the prepared batch now begins elsewhere. If this is cut short, the
    /// place for which it was prepared counts.
    pub fn moved(&self, offset: u64, file: FileId) {
        // A place that counts must not be half of one place and half of another.
        MOVED.clear(|word, value| self.set(word, value));
        self.write(&MOVED, &Moved { batch: self.get(BATCH), offset, file });
    }

    /// Forgets the prepared batch, which was never promised, or is withdrawn.
    pub fn forget(&self) {
        self.set(PHASE, IDLE);
    }

    /// Step 9 begins: the batch is saved, and staging holds this many bytes.
    pub fn consuming(&self, held: u64) {
        self.set(HELD, self.held_word(held));
        self.set(PHASE, CONSUMING);
    }

    /// Step 9 ends: staging holds nothing of the batch any more.
    pub fn consumed(&self) {
        let Preparation { batch, leaves } = self.preparation();
        if batch.last.epoch != 0 {
            self.write(&DONE, &batch.last);
        }
        self.write(&STANDS, &Stands { batch: batch.id, carry: leaves });
        self.set(PHASE, IDLE);
    }

    /// Notes that this much more has flowed, at that time of [`now`](crate::sys::rate::now).
    pub fn count(&self, messages: u64, bytes: u64, now: u64) {
        let before = Flow::of(std::array::from_fn(|word| self.get(FLOW + word))).at(now);
        let flow = Flow {
            messages: before.messages.wrapping_add(messages),
            message_rates: before.message_rates.with(messages),
            bytes: before.bytes.wrapping_add(bytes),
            byte_rates: before.byte_rates.with(bytes),
            at: now,
        };
        for (word, value) in flow.words().into_iter().enumerate() {
            self.set(FLOW + word, value);
        }
    }

    /// The batch that was prepared last.
    fn preparation(&self) -> Preparation {
        PREPARATION.read_unchecked(|word| self.get(word))
    }

    fn read<T: Value<N>, const N: usize>(&self, cell: &Cell<T, N>) -> Option<T> {
        cell.read(|word| self.get(word))
    }

    fn write<T: Value<N>, const N: usize>(&self, cell: &Cell<T, N>, value: &T) {
        cell.write(value, |word, value| self.set(word, value));
    }

    /// The number of bytes that staging held, and above it, the checksum of that and the
    /// batch's id.
    fn held_word(&self, held: u64) -> u64 {
        let held = held & HELD_MAX;
        held | crc_of([self.get(BATCH), held]) << 32
    }

    fn words(&self) -> Words<'_> {
        Words(self.page.words(FLOW + FLOW_WORDS))
    }

    fn get(&self, word: usize) -> u64 {
        self.words().get(word)
    }

    fn set(&self, word: usize, value: u64) {
        self.words().set(word, value);
    }
}

/// A ledger as the supervisor sees it, which holds it but does not use it.
///
/// It is read, not mapped, because its sink may write to it at any time, and whatever a sink
/// does to its ledger must cause no more than a wrong number here.
#[derive(Debug, Clone, Copy)]
pub struct View<'a>(BorrowedFd<'a>);

impl<'a> View<'a> {
    /// Looks at a ledger.
    pub fn of(ledger: &'a OwnedFd) -> View<'a> {
        View(ledger.as_fd())
    }

    /// The id of the batch that the sink took last. It changes with each batch.
    pub fn batch(self) -> u64 {
        self.word(BATCH)
    }

    /// How many bytes the sink has taken out of the link and not saved. They are the
    /// beginning of a message.
    pub fn carried(self) -> usize {
        let length = carry_len(self.word(CARRY));
        // A length that makes no sense is for the sink to refuse.
        if length <= CARRY_MAX { length } else { 0 }
    }

    /// What has flowed through the link, with its rates now. `None`: its sink notes that
    /// nowhere, or has taken nothing yet.
    pub fn flow(self, now: u64) -> Option<Flow> {
        let flow = Flow::of(self.words(FLOW).unwrap_or_default());
        (flow.at != 0).then(|| flow.at(now))
    }

    fn word(self, word: usize) -> u64 {
        self.words(word).map_or(0, |[word]| word)
    }

    /// These words, read at once. If the file is too short, it has none.
    fn words<const N: usize>(self, first: usize) -> Option<[u64; N]> {
        let mut bytes = [[0; 8]; N];
        let at = nix::libc::off_t::try_from(8 * first).unwrap_or(nix::libc::off_t::MAX);
        match nix::sys::uio::pread(self.0, bytes.as_flattened_mut(), at) {
            Ok(read) if read == 8 * N => Some(bytes.map(u64::from_ne_bytes)),
            Ok(_) | Err(_) => None,
        }
    }
}

/// More than a pipe can hold.
const HELD_MAX: u64 = u32::MAX as u64;

/// A carry is described by one word: its length, and the top bit for the second area.
const SECOND_AREA: u64 = 1 << 63;

fn carry_len(word: u64) -> usize {
    usize::try_from(word & !SECOND_AREA).unwrap_or(usize::MAX)
}

fn area(word: u64) -> u64 {
    let second = if word & SECOND_AREA == 0 { 0 } else { CARRY_MAX };
    (map::PAGE + second) as u64
}

#[cfg(test)]
mod tests {
    use super::super::words::tests::killed_after;
    use super::*;
    use proptest::prelude::*;

    fn batch(id: u64) -> Batch {
        let file = FileId { device: 1, inode: 2 };
        Batch { id, take: 10, last: Ack { epoch: 7, sequence: id }, offset: 100, file }
    }

    fn ledger() -> (Ledger, File) {
        let fd = create().unwrap();
        let other = File::from(fd.try_clone().unwrap());
        (Ledger::open(fd).unwrap(), other)
    }

    fn again(file: &File) -> Result<Ledger, String> {
        Ledger::open(file.try_clone().unwrap().into())
    }

    fn carry(ledger: &Ledger) -> Vec<u8> {
        let mut bytes = Vec::new();
        ledger.read_carry(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn no_sink_can_change_how_long_its_ledger_is() {
        let file = File::from(create().unwrap());
        for length in [0, 4096, LENGTH as u64 + 1] {
            assert!(file.set_len(length).is_err());
        }
        assert_eq!(adopt(&file), Ok(()));
    }

    #[test]
    fn a_kept_descriptor_is_a_ledger_only_if_it_has_a_ledgers_length() {
        for length in [0, 8, map::PAGE, LENGTH - 1, LENGTH + 1] {
            let kept = map::memory_file(c"cut", length).unwrap();
            let why = adopt(&kept).unwrap_err();
            assert_eq!(why, format!("its ledger has {length} bytes, not {LENGTH}"));
            // Looking at it is harmless nevertheless.
            assert_eq!((View::of(&kept).batch(), View::of(&kept).carried()), (0, 0));
        }
        // A ledger of a version that did not seal them can be truncated after it is accepted.
        let unsealed =
            File::from(nix::sys::memfd::memfd_create(c"old", nix::sys::memfd::MFdFlags::MFD_CLOEXEC).unwrap());
        unsealed.set_len(LENGTH as u64).unwrap();
        let kept = OwnedFd::from(unsealed.try_clone().unwrap());
        assert_eq!(adopt(&kept), Ok(()));
        unsealed.set_len(0).unwrap();
        assert_eq!(View::of(&kept).carried(), 0);
    }

    #[test]
    fn the_next_sink_finds_what_was_under_way() {
        let (ledger, file) = ledger();
        assert_eq!((ledger.phase(), ledger.done(), ledger.done_batch()), (Phase::Idle, None, 0));
        ledger.prepare(&batch(3), b"", 0).unwrap();
        assert_eq!(again(&file).unwrap().phase(), Phase::Prepared(batch(3)));
        ledger.consuming(12);
        assert_eq!(again(&file).unwrap().phase(), Phase::Consuming { batch: batch(3), held: 12 });
        ledger.consumed();
        let next = again(&file).unwrap();
        assert_eq!((next.phase(), next.done_batch()), (Phase::Idle, 3));
        assert_eq!(next.done(), Some(Ack { epoch: 7, sequence: 3 }));
    }

    /// Earlier versions write these words, and later ones must too, because after an upgrade
    /// the new version takes up the ledgers of the old one.
    #[test]
    fn the_words_are_those_of_the_manual() {
        #[rustfmt::skip]
        let consuming: [u64; WORDS] = [
            1, 0x73656d75736e6f63, 3, 10, 0x92dceae80000000c, 7, 3, 0, 0, 100, 1, 2, 4, 0xce1aaea0, 0, 0, 0xecbb4b55,
            0xecbb4b55, 0x86cb42f6, 14, 200, 1, 9, 0xd85ae4c9,
        ];
        let (mut ledger, file) = ledger();
        ledger.set_path(Path::new("/var/log/m.log")).unwrap();
        ledger.prepare(&batch(3), b"half", 0).unwrap();
        ledger.moved(200, FileId { device: 1, inode: 9 });
        ledger.consuming(12);
        let words = || std::array::from_fn::<u64, WORDS, _>(|word| ledger.get(word));
        assert_eq!(words(), consuming);
        ledger.consumed();
        let mut done = consuming;
        done[PHASE] = u64::from_le_bytes(*b"idle    ");
        done[7..9].copy_from_slice(&[7, 3]);
        done[14..18].copy_from_slice(&[3, 4, 0x9fcdb4c3, 0x4139f15d]);
        assert_eq!(words(), done);
        let mut carry = [0; 4];
        file.read_exact_at(&mut carry, map::PAGE as u64).unwrap();
        assert_eq!(&carry, b"half");
    }

    #[test]
    fn what_flowed_is_counted_over_all_sinks_and_its_rates_decay() {
        let (first, file) = ledger();
        let kept = OwnedFd::from(file.try_clone().unwrap());
        let second = 1_000_000_000;
        assert_eq!(View::of(&kept).flow(second), None);
        first.count(10, 1000, second);
        again(&file).unwrap().count(2, 200, 2 * second);
        let shown = View::of(&kept).flow(2 * second).unwrap();
        assert_eq!((shown.messages, shown.bytes), (12, 1200));
        assert!(shown.message_rates.second > 5.0 && shown.byte_rates.minute > 19.0, "{shown:?}");
        let hour = View::of(&kept).flow(3600 * second).unwrap();
        assert_eq!((hour.messages, hour.bytes), (12, 1200));
        assert!(hour.byte_rates.minute < 0.001, "{hour:?}");
        // It is no part of what a sink relies on, or of the path behind it.
        let mut first = first;
        first.set_path(Path::new("/x")).unwrap();
        first.prepare(&batch(1), b"", 0).unwrap();
        file.write_all_at(&[0xff; 8 * FLOW_WORDS], 8 * FLOW as u64).unwrap();
        assert_eq!(again(&file).unwrap().path().unwrap().as_deref(), Some(Path::new("/x")));
        let wrong = View::of(&kept).flow(u64::MAX).unwrap();
        assert_eq!((wrong.byte_rates, wrong.message_rates), (Rates::default(), Rates::default()));
    }

    #[test]
    fn the_next_sink_finds_which_file_the_last_batch_was_for() {
        let (mut ledger, file) = ledger();
        let path = |file| again(file).unwrap().path().unwrap();
        ledger.prepare(&batch(1), b"", 0).unwrap();
        assert_eq!(path(&file), None);
        ledger.forget();
        for (id, name) in [(2, "/var/log/a-long-name"), (3, "/b")] {
            ledger.set_path(Path::new(name)).unwrap();
            ledger.prepare(&batch(id), b"", 0).unwrap();
            assert_eq!(path(&file).as_deref(), Some(Path::new(name)));
            ledger.consumed();
            assert_eq!(path(&file).as_deref(), Some(Path::new(name)));
        }
        // After a batch of a version that knows nothing about paths, none is known.
        ledger.path_crc = 0;
        ledger.prepare(&batch(4), b"", 0).unwrap();
        assert_eq!(path(&file), None);
        // A new path counts from its first batch on, wherever setting it is cut short.
        ledger.consumed();
        for stores in 0..3 {
            killed_after(stores, || ledger.set_path(Path::new("/another")).unwrap());
            assert_eq!(path(&file), None, "{stores}");
        }
        ledger.set_path(Path::new(&"x".repeat(PATH_MAX + 1))).unwrap();
        ledger.prepare(&batch(5), b"", 0).unwrap();
        assert_eq!(path(&file), None);
    }

    #[test]
    fn the_old_carry_counts_until_the_batch_is_consumed() {
        let (ledger, file) = ledger();
        ledger.prepare(&batch(1), b"half", 0).unwrap();
        assert_eq!(carry(&again(&file).unwrap()), b"");
        ledger.forget();
        assert_eq!(carry(&again(&file).unwrap()), b"");
        ledger.prepare(&batch(2), b"half", 0).unwrap();
        ledger.consuming(10);
        assert_eq!(carry(&again(&file).unwrap()), b"");
        ledger.consumed();
        assert_eq!(carry(&again(&file).unwrap()), b"half");

        ledger.prepare(&batch(3), b"half a line", 4).unwrap();
        assert_eq!(carry(&again(&file).unwrap()), b"half");
        ledger.consumed();
        assert_eq!(carry(&again(&file).unwrap()), b"half a line");

        ledger.prepare(&batch(4), b"other", 0).unwrap();
        assert_eq!(carry(&again(&file).unwrap()), b"half a line");
        ledger.consumed();
        assert_eq!(carry(&again(&file).unwrap()), b"other");
    }

    #[test]
    fn a_batch_without_messages_does_not_change_the_last_acknowledged_one() {
        let (ledger, _file) = ledger();
        ledger.prepare(&batch(1), b"", 0).unwrap();
        ledger.consumed();
        ledger.prepare(&Batch { last: Ack { epoch: 0, sequence: 0 }, ..batch(2) }, b"", 0).unwrap();
        ledger.consumed();
        assert_eq!(ledger.done(), Some(Ack { epoch: 7, sequence: 1 }));
    }

    /// Does everything that a batch does to the ledger, from the start or from where another
    /// sink stopped.
    fn go_on(ledger: &Ledger) {
        match ledger.phase() {
            Phase::Idle if ledger.done_batch() == 2 => return,
            Phase::Idle => ledger.prepare(&batch(2), b"new carry", 0).unwrap(),
            Phase::Prepared(found) | Phase::Consuming { batch: found, .. } => assert_eq!(found, batch(2)),
        }
        ledger.consuming(12);
        ledger.consumed();
    }

    #[test]
    fn after_a_kill_at_any_store_the_next_sink_can_go_on() {
        for stores in 0.. {
            let (ledger, file) = ledger();
            ledger.prepare(&batch(1), b"old", 0).unwrap();
            ledger.consumed();
            let killed = killed_after(stores, || go_on(&ledger));
            let next = again(&file).unwrap();
            let is_done = next.phase() == Phase::Idle && next.done_batch() == 2;
            if !is_done {
                // While it is consuming, the batch's new carry may count already.
                assert!(carry(&next) == b"old" || matches!(next.phase(), Phase::Consuming { .. }), "{stores}");
                go_on(&next);
            }
            assert_eq!((next.phase(), next.done_batch()), (Phase::Idle, 2), "{stores}");
            assert_eq!((carry(&next).as_slice(), next.done()), (&b"new carry"[..], Some(batch(2).last)), "{stores}");
            if !killed {
                assert!(stores > 10);
                return;
            }
        }
    }

    /// All that the next sink takes from a ledger.
    fn taken_up(ledger: &Ledger) -> (Phase, Option<Ack>, u64, Vec<u8>) {
        (ledger.phase(), ledger.done(), ledger.done_batch(), carry(ledger))
    }

    proptest! {
        #[test]
        fn a_wrong_word_is_refused_or_makes_no_difference(
            steps in 0usize..5,
            no_message: bool,
            word in 0..CORE,
            value in prop_oneof![any::<u64>(), 0u64..20, (0u32..64).prop_map(|bit| 1 << bit)],
            flip: bool,
        ) {
            let (ledger, file) = ledger();
            let last = if no_message { Ack { epoch: 0, sequence: 0 } } else { batch(2).last };
            let first = || ledger.prepare(&batch(1), b"old", 0).unwrap();
            let second = || ledger.prepare(&Batch { last, ..batch(2) }, b"a longer carry", 0).unwrap();
            let all: [&dyn Fn(); 5] =
                [&first, &|| ledger.consumed(), &second, &|| ledger.consuming(12), &|| ledger.consumed()];
            all[..steps].iter().for_each(|step| step());
            let before = taken_up(&ledger);
            let value = if flip { ledger.get(word) ^ value } else { value };
            ledger.set(word, value);
            if let Ok(next) = again(&file) {
                // While it is consuming, the current carry is about to be replaced.
                let (phase, done, done_batch, carry) = taken_up(&next);
                prop_assert_eq!(phase, before.0);
                if !matches!(phase, Phase::Consuming { .. }) {
                    prop_assert_eq!((done_batch, carry), (before.2, before.3));
                }
                if no_message || !matches!(phase, Phase::Consuming { .. }) {
                    prop_assert_eq!(done, before.1);
                }
            }
        }

        #[test]
        fn any_page_is_refused(bytes in proptest::collection::vec(any::<u8>(), map::PAGE), version in 0u8..3) {
            let fd = create().unwrap();
            let file = File::from(fd.try_clone().unwrap());
            file.write_all_at(&bytes, 0).unwrap();
            file.write_all_at(&[version, 0, 0, 0, 0, 0, 0, 0], 0).unwrap();
            prop_assert!(Ledger::open(fd).is_err());
        }
    }
}
