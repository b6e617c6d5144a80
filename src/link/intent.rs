//! The intent file, in which a sink notes what it is about to save. It is next to the
//! message file.
//!
//! It has a header page, then the rendered bytes of the current batch. Everything in
//! it is written with pwrite(2), never through a mapping: a file system that is
//! full, copies on write or fails answers a write with an error, after which the sink can
//! wait, but answers a store to a mapping with SIGBUS. What was written is
//! in the page cache, so it survives even if every process is killed. After
//! the machine went down it is worthless, and the boot id shows that.
//!
//! The header has two slots. A slot says that a batch is promised, or that none
//! is. Of the slots whose checksums are right, the later one counts. A write never
//! goes to the slot that counts, with a single exception: if slot 1 says that nothing
//! is promised, a promise goes to slot 0 together with the body behind it, in one
//! write. doc/law-of-a-link.md, "Intent file", has every state, and what is left by a kill
//! in the middle of each of these writes.

use super::cell::{Cell, Value};
use crate::sys::beside::{self, Whose};
use crate::sys::map::PAGE;
use nix::fcntl::{Flock, FlockArg, OFlag};
use std::fs::{File, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// A file, whatever its name is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileId {
    /// The file system's device number.
    pub device: u64,
    /// The file's number there.
    pub inode: u64,
}

impl FileId {
    /// Which file that is.
    pub fn of(metadata: &Metadata) -> FileId {
        FileId { device: metadata.dev(), inode: metadata.ino() }
    }
}

/// The promise that a batch will be in the message file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Promise {
    /// The batch's id.
    pub batch: u64,
    /// The message file.
    pub file: FileId,
    /// Where the batch begins in it.
    pub offset: u64,
    /// How many bytes of the body belong to it.
    pub length: u64,
}

/// What a new sink finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// A new file, or one whose slots do not check out. That may be a promise that
    /// was cut short; if so, not a byte of the batch was saved.
    Nothing,
    /// No batch is under way.
    Idle,
    /// A batch was under way when the machine went down. Its body is worthless.
    OtherBoot,
    /// A batch is under way, and its body is whole.
    Writing(Promise),
}

const MAGIC: u64 = u64::from_le_bytes(*b"plumbdi\x02");

// Words of the header page.
const HEADER: usize = 0;
/// The first slot ends where the body begins, so one write can write both.
const SLOTS: [usize; 2] = [WORDS - SLOT, 2];
const NOTES: usize = 18;
const WORDS: usize = PAGE / 8;

/// How many words a slot has, its checksum last.
const SLOT: usize = 11;
/// A slot, wherever it begins.
const SLOT_CELL: Cell<Slot, 10> = Cell::new([0, 1, 2, 3, 4, 5, 6, 7, 8, 9], 10);

const IDLE: u64 = u64::from_le_bytes(*b"idle    ");
const PROMISED: u64 = u64::from_le_bytes(*b"promised");

/// One of the header's two slots. A slot that says "idle" has only the id of the last batch.
#[derive(Debug, Clone, Copy)]
struct Slot {
    serial: u64,
    state: u64,
    promise: Promise,
    boot: [u64; 2],
    body_crc: u64,
}

impl Value<10> for Slot {
    fn words(&self) -> [u64; 10] {
        let Promise { batch, file, offset, length } = self.promise;
        let [high, low] = self.boot;
        [self.serial, self.state, batch, file.device, file.inode, offset, length, high, low, self.body_crc]
    }

    fn of([serial, state, batch, device, inode, offset, length, high, low, body_crc]: [u64; 10]) -> Slot {
        let promise = Promise { batch, file: FileId { device, inode }, offset, length };
        Slot { serial, state, promise, boot: [high, low], body_crc }
    }
}

impl Slot {
    /// Its words, the checksum last.
    fn sealed(&self) -> [u64; SLOT] {
        let mut words = [0; SLOT];
        SLOT_CELL.write(self, |at, word| words[at] = word);
        words
    }
}

/// What is noted besides the current batch, in three cells.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Notes {
    untrusted: Option<FileId>,
    began: Option<Began>,
    settled: [u64; SETTLED],
}

/// A file, and when its first message was received, in microseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Began {
    file: FileId,
    time: i64,
}

/// Zeros: none.
impl Value<2> for Option<FileId> {
    fn words(&self) -> [u64; 2] {
        self.map_or([0; 2], |file| [file.device, file.inode])
    }

    fn of([device, inode]: [u64; 2]) -> Option<FileId> {
        (inode != 0).then_some(FileId { device, inode })
    }
}

/// Zeros: none.
impl Value<3> for Option<Began> {
    fn words(&self) -> [u64; 3] {
        self.map_or([0; 3], |Began { file, time }| [file.device, file.inode, u64::from_le_bytes(time.to_le_bytes())])
    }

    fn of([device, inode, time]: [u64; 3]) -> Option<Began> {
        let time = i64::from_le_bytes(time.to_le_bytes());
        (inode != 0).then_some(Began { file: FileId { device, inode }, time })
    }
}

/// How many of the batches that a recovery completed are remembered. More sinks than this
/// can't have left a batch for the same file.
const SETTLED: usize = 8;
const NOTES_WORDS: usize = 2 + 3 + SETTLED + 3;

// The notes' cells, counted from their first word.
const UNTRUSTED: Cell<Option<FileId>, 2> = Cell::new([0, 1], 2);
const BEGAN: Cell<Option<Began>, 3> = Cell::new([3, 4, 5], 6);
const SETTLED_CELL: Cell<[u64; SETTLED], SETTLED> = Cell::new([7, 8, 9, 10, 11, 12, 13, 14], 15);

impl Notes {
    fn words(&self) -> [u64; NOTES_WORDS] {
        let mut words = [0; NOTES_WORDS];
        let mut set = |at: usize, word| words[at] = word;
        UNTRUSTED.write(&self.untrusted, &mut set);
        BEGAN.write(&self.began, &mut set);
        SETTLED_CELL.write(&self.settled, &mut set);
        words
    }

    /// Reads the notes. A note whose checksum is wrong counts as absent.
    fn of(words: &[u64]) -> Notes {
        let word = |at: usize| words[at];
        Notes {
            untrusted: UNTRUSTED.read(word).flatten(),
            began: BEGAN.read(word).flatten(),
            settled: SETTLED_CELL.read(word).unwrap_or_default(),
        }
    }
}

/// What the header of an intent file says.
#[derive(Debug, Clone)]
pub struct Header {
    known: bool,
    slots: [Option<Slot>; 2],
    notes: Notes,
}

impl Header {
    /// Reads the header. What is missing from the file counts as zeros.
    ///
    /// # Errors
    /// From pread(2).
    fn read(file: &File) -> io::Result<Header> {
        let mut page = [0; PAGE];
        read_at(file, &mut page, 0)?;
        let words: Vec<u64> =
            page.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap_or_default())).collect();
        let known = words[HEADER] == MAGIC;
        let slots = SLOTS.map(|at| {
            let slot = SLOT_CELL.read(|i| words[at + i])?;
            (known && [IDLE, PROMISED].contains(&slot.state)).then_some(slot)
        });
        let notes = if known { Notes::of(&words[NOTES..NOTES + NOTES_WORDS]) } else { Notes::default() };
        Ok(Header { known, slots, notes })
    }

    /// Looks at the header of an intent file that another process may hold.
    ///
    /// # Errors
    /// From open(2) and pread(2), or the file does not belong to this user.
    pub fn at(path: &Path) -> io::Result<Header> {
        Header::read(&beside::open(path, OFlag::O_RDONLY, Whose::Own)?)
    }

    /// The slot that counts.
    fn top(&self) -> Option<usize> {
        match self.slots {
            [Some(first), Some(second)] => Some(usize::from(is_after(second.serial, first.serial))),
            [Some(_), None] => Some(0),
            [None, Some(_)] => Some(1),
            [None, None] => None,
        }
    }

    /// The slot that counts, if it has a promise.
    fn promised(&self) -> Option<(usize, Slot)> {
        let at = self.top()?;
        self.slots[at].filter(|slot| slot.state == PROMISED).map(|slot| (at, slot))
    }

    /// The batch that is promised, if any.
    pub fn batch(&self) -> Option<u64> {
        self.promised().map(|(_, slot)| slot.promise.batch)
    }

    /// Whether that batch was completed, on behalf of whichever sink it was.
    pub fn is_settled(&self, batch: u64) -> bool {
        batch != 0 && self.notes.settled.contains(&batch)
    }

    /// What a sink finds, if the file has a body of this many bytes.
    fn found(&self, boot: [u64; 2], body: u64) -> Found {
        let Some((_, slot)) = self.promised() else {
            // If one slot says "idle" and the other does not check out, that one may have had
            // a promise.
            return if self.slots.iter().all(Option::is_some) { Found::Idle } else { Found::Nothing };
        };
        match slot.promise {
            _ if slot.boot != boot => Found::OtherBoot,
            promise if promise.length > body => Found::Nothing,
            promise => Found::Writing(promise),
        }
    }
}

/// The intent file, locked.
#[derive(Debug)]
pub struct Intent {
    path: PathBuf,
    file: Flock<File>,
    boot: [u64; 2],
    /// A slot, and behind it the body. A promise writes both in one write.
    buffer: Vec<u8>,
    found: Found,
    /// The last serial number that was used.
    serial: u64,
    state: State,
    notes: Notes,
    /// Whether the file has these notes.
    noted: bool,
    last_batch: u64,
    /// Whether it had a header when it was looked at.
    known: bool,
}

/// The state in which this process has left the slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Unknown, or a close that is not finished.
    Unclear,
    /// Slot 1 says "idle", and counts.
    Closed,
    /// Writing a promise to slot 0 was begun, and may have failed half-way.
    Begun,
    /// The promise in that slot counts.
    Promised(usize),
}

/// The file is never smaller than this.
const LEAST: usize = 2 * PAGE;
/// How many bytes a slot takes.
const SLOT_BYTES: usize = 8 * SLOT;

impl Intent {
    /// Opens the intent file, and makes it if there is none. `None`: another process
    /// holds it. Only this user can open the file, so no other user can
    /// hold it or change it.
    ///
    /// # Errors
    /// From open(2), flock(2) and pread(2); ENOMEM if there is no memory for a body
    /// of `body` bytes; [`ErrorKind::PermissionDenied`], in words, if the file does not
    /// belong to this user.
    pub fn open(path: &Path, body: usize) -> io::Result<Option<Intent>> {
        let (file, _is_new) = beside::open_or_make(path, OFlag::O_RDWR, 0o600, Whose::Own)?;
        Intent::of(path, body, file)
    }

    /// Opens the intent file, which must exist.
    ///
    /// # Errors
    /// As [`Intent::open`]; ENOENT.
    pub fn open_existing(path: &Path, body: usize) -> io::Result<Option<Intent>> {
        Intent::of(path, body, beside::open(path, OFlag::O_RDWR, Whose::Own)?)
    }

    fn of(path: &Path, body: usize, file: File) -> io::Result<Option<Intent>> {
        let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => file,
            Err((_, nix::errno::Errno::EWOULDBLOCK | nix::errno::Errno::EINTR)) => return Ok(None),
            Err((_, errno)) => return Err(errno.into()),
        };
        // The process that held it may have removed it meanwhile.
        if !names(path, FileId::of(&file.metadata()?)) {
            return Ok(None);
        }
        let mut intent = Intent {
            path: path.to_owned(),
            file,
            boot: boot_id()?,
            buffer: Vec::new(),
            found: Found::Nothing,
            serial: 0,
            state: State::Unclear,
            notes: Notes::default(),
            noted: false,
            last_batch: 0,
            known: false,
        };
        intent.grow(body)?;
        intent.look()?;
        Ok(Some(intent))
    }

    /// Reads the whole file.
    ///
    /// # Errors
    /// From pread(2); ENOMEM.
    pub fn look(&mut self) -> io::Result<Found> {
        let header = Header::read(&self.file)?;
        self.notes = header.notes;
        self.noted = header.known;
        self.known = header.known;
        self.serial = header.top().and_then(|at| header.slots[at]).map_or(0, |slot| slot.serial);
        self.last_batch = header.slots.iter().flatten().map(|slot| slot.promise.batch).max().unwrap_or(0);
        let room = self.file.metadata()?.len().saturating_sub(PAGE as u64);
        self.found = header.found(self.boot, room);
        let closed = self.found == Found::Idle && header.top() == Some(1);
        self.state = if closed { State::Closed } else { State::Unclear };
        if let (Found::Writing(promise), Some((at, slot))) = (self.found, header.promised()) {
            let length = usize::try_from(promise.length).map_err(io::Error::other)?;
            self.grow(length)?;
            let body = &mut self.buffer[SLOT_BYTES..SLOT_BYTES + length];
            let whole = read_at(&self.file, body, PAGE as u64)? == length;
            if whole && u64::from(crc32fast::hash(body)) == slot.body_crc {
                self.state = State::Promised(at);
            } else {
                // The message file is written to only once body and promise
                // are whole, so no part of the batch was saved.
                self.found = Found::Nothing;
            }
        }
        Ok(self.found)
    }

    /// What was under way when it was opened.
    pub fn found(&self) -> Found {
        self.found
    }

    /// Whether it had a header when it was looked at. If so, a promise that does not
    /// check out was cut short, and not a byte of its batch was saved.
    /// Without a header, this may not be the file that had the promise.
    pub fn is_known(&self) -> bool {
        self.known
    }

    /// Writes a new header, with nothing under way. The notes on when a file began and which
    /// batches were settled are kept, because they stay valid after a reboot.
    ///
    /// # Errors
    /// From pwrite(2): try again.
    pub fn reset(&mut self) -> io::Result<()> {
        self.notes.untrusted = None;
        let mut page = [0; WORDS];
        page[HEADER] = MAGIC;
        page[NOTES..NOTES + NOTES_WORDS].copy_from_slice(&self.notes.words());
        for slot in SLOTS {
            self.serial = self.serial.wrapping_add(1);
            page[slot..slot + SLOT].copy_from_slice(&self.idle());
        }
        // There is also a page for the body, so that a small batch has room even if the
        // disk becomes full.
        let mut bytes = bytes(&page);
        bytes.resize(LEAST, 0);
        self.put(&bytes, 0)?;
        (self.state, self.noted) = (State::Closed, true);
        Ok(())
    }

    fn idle(&self) -> [u64; SLOT] {
        let promise = Promise { batch: self.last_batch, file: FileId { device: 0, inode: 0 }, offset: 0, length: 0 };
        Slot { serial: self.serial, state: IDLE, promise, boot: [0; 2], body_crc: 0 }.sealed()
    }

    /// Promises that the batch in the body will be in that file. This is the point of no
    /// return.
    ///
    /// While a batch is promised, this promises the same batch anew.
    ///
    /// # Errors
    /// From pwrite(2). Nothing more is promised than before. To go on, try again, or
    /// [close](Intent::close) it.
    pub fn promise(&mut self, promise: &Promise) -> io::Result<()> {
        let length = usize::try_from(promise.length).map_err(io::Error::other)?;
        self.serial = self.serial.wrapping_add(1);
        let body_crc = u64::from(crc32fast::hash(&self.body()[..length]));
        let slot = Slot { serial: self.serial, state: PROMISED, promise: *promise, boot: self.boot, body_crc };
        let slot = bytes(&slot.sealed());
        let at = match self.state {
            State::Promised(before) => {
                let other = 1 - before;
                self.put(&slot, slot_offset(other))?;
                other
            }
            State::Unclear | State::Closed | State::Begun => {
                self.state = State::Begun;
                self.buffer[..SLOT_BYTES].copy_from_slice(&slot);
                self.put(&self.buffer[..SLOT_BYTES + length], slot_offset(0))?;
                0
            }
        };
        (self.state, self.last_batch) = (State::Promised(at), promise.batch);
        Ok(())
    }

    /// Ends the promise: the batch is saved and consumed, or is withdrawn before a byte of it
    /// was saved.
    ///
    /// # Errors
    /// From pwrite(2). The batch may still be promised, so closing it must be tried again before
    /// anything else.
    pub fn close(&mut self) -> io::Result<()> {
        if !self.noted {
            self.note()?;
        }
        // When the next promise is written to slot 0, slot 1 must not have an old one. If
        // that write were cut short, the old promise would count again.
        let slots: &[usize] = if let State::Promised(1) | State::Begun = self.state { &[0, 1] } else { &[1] };
        for &slot in slots {
            self.serial = self.serial.wrapping_add(1);
            self.put(&bytes(&self.idle()), slot_offset(slot))?;
            if let State::Promised(_) = self.state {
                self.state = State::Unclear;
            }
        }
        self.state = State::Closed;
        Ok(())
    }

    /// Whether nothing is promised, and all notes are written. If not, it must be
    /// [closed](Intent::close) before the next promise.
    pub fn is_closed(&self) -> bool {
        self.state == State::Closed && self.noted
    }

    /// Takes over the notes of another intent file for the same message file, which
    /// [`Intent::reset`] then writes, and the bytes of the current batch.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn take_over(&mut self, other: &Intent) -> io::Result<()> {
        self.grow(other.body().len())?;
        self.body_mut()[..other.body().len()].copy_from_slice(other.body());
        (self.notes, self.last_batch) = (other.notes, other.last_batch);
        Ok(())
    }

    /// A file for which fdatasync(2) failed, so that bytes may be missing on the
    /// disk. If called again, it would report success.
    pub fn untrusted(&self) -> Option<FileId> {
        self.notes.untrusted
    }

    /// Remembers such a file. `None`: it has been put aside.
    ///
    /// # Errors
    /// From pwrite(2): it is not known to the next sink yet.
    pub fn set_untrusted(&mut self, file: Option<FileId>) -> io::Result<()> {
        if file == self.notes.untrusted && self.noted {
            return Ok(());
        }
        self.notes.untrusted = file;
        self.note()
    }

    /// When the first message of that file was received, in microseconds since 1970,
    /// if that is known.
    pub fn began(&self, file: FileId) -> Option<i64> {
        self.notes.began.filter(|began| began.file == file).map(|began| began.time)
    }

    /// The file for which that is known.
    pub fn begun(&self) -> Option<FileId> {
        self.notes.began.map(|began| began.file)
    }

    /// Remembers when a file began.
    ///
    /// # Errors
    /// From pwrite(2): it is not known to the next sink yet.
    pub fn set_began(&mut self, file: FileId, time: i64) -> io::Result<()> {
        self.notes.began = Some(Began { file, time });
        self.note()
    }

    /// Remembers that a batch was completed, and closes it. A sink whose ledger still has the
    /// batch, but which has another file now, learns from this note that it is done.
    ///
    /// # Errors
    /// From pwrite(2): try again.
    pub fn settle(&mut self, batch: u64) -> io::Result<()> {
        if !self.notes.settled.contains(&batch) {
            self.notes.settled.rotate_right(1);
            self.notes.settled[0] = batch;
            self.noted = false;
        }
        self.close()
    }

    /// Whether that batch was completed, on behalf of whichever sink it was.
    pub fn is_settled(&self, batch: u64) -> bool {
        batch != 0 && self.notes.settled.contains(&batch)
    }

    fn note(&mut self) -> io::Result<()> {
        self.noted = false;
        let words = self.notes.words();
        self.put(&bytes(&words), 8 * NOTES as u64)?;
        self.noted = true;
        Ok(())
    }

    /// The highest batch id in the file.
    pub fn last_batch(&self) -> u64 {
        self.last_batch
    }

    /// The rendered bytes.
    pub fn body(&self) -> &[u8] {
        &self.buffer[SLOT_BYTES..]
    }

    /// Where rendered bytes are put.
    pub fn body_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[SLOT_BYTES..]
    }

    /// Makes room in memory for at least `body` bytes. It takes room on the disk only when
    /// a batch needs it.
    ///
    /// # Errors
    /// ENOMEM. The room has not changed.
    pub fn grow(&mut self, body: usize) -> io::Result<()> {
        let needed = SLOT_BYTES.saturating_add(body);
        let no_memory = |_| io::Error::from_raw_os_error(nix::libc::ENOMEM);
        if self.buffer.is_empty() {
            // vec! gets pages that the kernel zeroes only as they are used, but it aborts if
            // there is not enough memory. So this asks for the memory in another way first.
            let mut trial: Vec<u8> = Vec::new();
            trial.try_reserve_exact(needed).map_err(no_memory)?;
            drop(std::hint::black_box(trial));
            self.buffer = vec![0; needed];
        } else if self.buffer.len() < needed {
            let more = needed - self.buffer.len();
            self.buffer.try_reserve_exact(more).map_err(no_memory)?;
            self.buffer.resize(needed, 0);
        }
        Ok(())
    }

    /// Between two batches, gives the room that past batches took back to the disk. Returns
    /// whether there was any.
    ///
    /// # Errors
    /// From fstat(2) and ftruncate(2).
    pub fn shrink(&self) -> io::Result<bool> {
        let takes_room = !matches!(self.state, State::Promised(_)) && self.file.metadata()?.len() > LEAST as u64;
        if takes_room {
            self.file.set_len(LEAST as u64)?;
        }
        Ok(takes_room)
    }

    /// Its name, as it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Notes that the file has another name now.
    pub fn is_renamed(&mut self, path: &Path) {
        path.clone_into(&mut self.path);
    }

    /// Whether its path still names this file.
    ///
    /// # Errors
    /// From fstat(2).
    pub fn is_named(&self) -> io::Result<bool> {
        Ok(names(&self.path, FileId::of(&self.file.metadata()?)))
    }

    /// Writes all of these bytes.
    fn put(&self, bytes: &[u8], mut at: u64) -> io::Result<()> {
        #[cfg(not(test))]
        let mut bytes = bytes;
        #[cfg(test)]
        let mut bytes = super::words::tests::as_far_as_it_lives(bytes);
        while !bytes.is_empty() {
            match self.file.write_at(bytes, at) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(n) if n >= bytes.len() => return Ok(()),
                Ok(n) => {
                    at += n as u64;
                    bytes = &bytes[n..];
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Whether a serial number was given after another. They wrap around, so none is the highest.
fn is_after(serial: u64, other: u64) -> bool {
    (1..1 << 63).contains(&serial.wrapping_sub(other))
}

fn slot_offset(slot: usize) -> u64 {
    8 * SLOTS[slot] as u64
}

fn bytes(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Reads as much as there is, and returns how much that was.
fn read_at(file: &File, mut to: &mut [u8], mut at: u64) -> io::Result<usize> {
    let mut read = 0;
    while !to.is_empty() {
        match file.read_at(to, at) {
            Ok(0) => break,
            Ok(n) => {
                read += n;
                at += n as u64;
                to = &mut to[n..];
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}

/// Whether that path names that file. If it can't be looked at, it does not.
pub fn names(path: &Path, file: FileId) -> bool {
    std::fs::metadata(path).is_ok_and(|m| FileId::of(&m) == file)
}

/// An id of the current boot of this machine (random(4)).
fn boot_id() -> io::Result<[u64; 2]> {
    boot_id_at(Path::new("/proc/sys/kernel/random/boot_id"))
}

fn boot_id_at(path: &Path) -> io::Result<[u64; 2]> {
    let wrong = |why: &dyn std::fmt::Display| io::Error::other(format!("cannot read {}: {why}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| match error.kind() {
        // Waiting would not help if there is no /proc.
        ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::PermissionDenied => wrong(&error),
        _ => error,
    })?;
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    let id = u128::from_str_radix(&digits, 16).map_err(|error| wrong(&error))?;
    #[expect(clippy::cast_possible_truncation, reason = "its two halves")]
    Ok([(id >> 64) as u64, id as u64])
}

#[cfg(test)]
mod tests;
