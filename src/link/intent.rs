//! The intent file: what a sink is about to save, next to the file it saves to.
//!
//! A header page, then the rendered bytes of the batch under way, mapped into
//! memory: the body is the sink's output buffer. It is in the page cache, so
//! SIGKILL of every process takes nothing of it back; after the machine went
//! down it is worth nothing, and the boot id in the header says so.
//!
//! The header has room for two promises, and its phase says which one counts:
//! so a batch under way can be promised to another file, or another place in
//! it, in one store.

use super::words::Words;
use crate::sys::map::{PAGE, SharedMap};
use nix::fcntl::{Flock, FlockArg};
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

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

/// What will be in the message file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Promise {
    /// The batch.
    pub batch: u64,
    /// The message file.
    pub file: FileId,
    /// Where the batch begins in it.
    pub offset: u64,
    /// How many bytes of the body it is.
    pub length: u64,
}

/// What a sink that comes back finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// A new file, or one of which nothing can be said.
    Nothing,
    /// No batch under way.
    Idle,
    /// A batch was under way when the machine went down: its body is worth nothing.
    OtherBoot,
    /// A batch is under way, and its body is whole.
    Writing(Promise),
}

/// The intent file, locked.
#[derive(Debug)]
pub struct Intent {
    file: Flock<File>,
    map: SharedMap,
    boot: [u64; 2],
}

const MAGIC: u64 = u64::from_le_bytes(*b"plumbdi\x01");
const HEADER: usize = 0;
const PHASE: usize = 1;
const PROMISES: [usize; 2] = [2, 10];
const UNTRUSTED: [usize; 2] = [18, 19];
const BEGAN: [usize; 3] = [20, 21, 22];
const WORDS: usize = 23;

// A phase is one store, so no checksum can go with it: no few wrong bits make
// one of another.
const IDLE: u64 = u64::from_le_bytes(*b"idle    ");
const WRITING: [u64; 2] = [u64::from_le_bytes(*b"promise1"), u64::from_le_bytes(*b"promise2")];

impl Intent {
    /// Opens the intent file, and makes it where there is none. `None` where
    /// another process holds it.
    ///
    /// # Errors
    /// What open(2), flock(2), posix_fallocate(3) or mmap(2) say; ENOSPC where
    /// there is no room for a body of `body` bytes.
    pub fn open(path: &Path, body: usize) -> io::Result<Option<Intent>> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => file,
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => return Ok(None),
            Err((_, errno)) => return Err(errno.into()),
        };
        // Whoever held it may have removed it meanwhile.
        if !names(path, FileId::of(&file.metadata()?)) {
            return Ok(None);
        }
        let map = map(&file, body)?;
        Ok(Some(Intent { file, map, boot: boot_id()? }))
    }

    /// What was under way.
    pub fn found(&self) -> Found {
        if self.get(HEADER) != MAGIC {
            return Found::Nothing;
        }
        let phase = self.get(PHASE);
        if phase == IDLE {
            return Found::Idle;
        }
        let promise = WRITING.iter().position(|&writing| writing == phase).map(|slot| PROMISES[slot]);
        let Some(at) = promise.filter(|&at| self.checks_out(at)) else {
            return Found::Nothing;
        };
        let words: [u64; 7] = std::array::from_fn(|i| self.get(at + i));
        let [batch, device, inode, offset, length, ..] = words;
        if words[5..] != self.boot {
            return Found::OtherBoot;
        }
        if length > self.body().len() as u64 {
            return Found::Nothing;
        }
        Found::Writing(Promise { batch, file: FileId { device, inode }, offset, length })
    }

    /// Makes the header a new one, with nothing under way. When a file began
    /// outlives the machine's end.
    pub fn reset(&self) {
        let kept = if self.get(HEADER) == MAGIC { BEGAN[0] } else { WORDS };
        self.set(PHASE, IDLE);
        (PHASE + 1..kept).for_each(|word| self.set(word, 0));
        self.set(HEADER, MAGIC);
    }

    /// The batch in the body will be in that file: the point of no return.
    ///
    /// While a batch is under way, this is the same one, promised anew.
    pub fn promise(&self, promise: &Promise) {
        let slot = usize::from(self.get(PHASE) == WRITING[0]);
        let at = PROMISES[slot];
        let Promise { batch, file, offset, length } = *promise;
        let words = [batch, file.device, file.inode, offset, length, self.boot[0], self.boot[1]];
        for (i, word) in words.into_iter().enumerate() {
            self.set(at + i, word);
        }
        self.set(at + 7, self.words().crc(at..at + 7));
        // From this store on, the batch will be in the file.
        self.set(PHASE, WRITING[slot]);
    }

    /// The batch is saved and consumed, or withdrawn before a byte of it was saved.
    pub fn close(&self) {
        self.set(PHASE, IDLE);
    }

    /// A file of which fdatasync(2) said that bytes may be missing on the
    /// disk; asked again it would say that all is well.
    pub fn untrusted(&self) -> Option<FileId> {
        let inode = self.get(UNTRUSTED[1]);
        (self.get(HEADER) == MAGIC && inode != 0).then(|| FileId { device: self.get(UNTRUSTED[0]), inode })
    }

    /// Remembers such a file, until it is out of the way (`None`).
    pub fn set_untrusted(&self, file: Option<FileId>) {
        self.set(UNTRUSTED[0], file.map_or(0, |f| f.device));
        self.set(UNTRUSTED[1], file.map_or(0, |f| f.inode));
    }

    /// When the first message of that file came, in microseconds since 1970,
    /// where that is known.
    pub fn began(&self, file: FileId) -> Option<i64> {
        let [device, inode, time] = BEGAN.map(|word| self.get(word));
        (file == FileId { device, inode }).then_some(i64::from_le_bytes(time.to_le_bytes()))
    }

    /// Remembers that.
    pub fn set_began(&self, file: FileId, time: i64) {
        // Number 0 is no file's: killed in between, it is no file's time.
        self.set(BEGAN[1], 0);
        self.set(BEGAN[0], file.device);
        self.set(BEGAN[2], u64::from_le_bytes(time.to_le_bytes()));
        self.set(BEGAN[1], file.inode);
    }

    /// The highest batch id in it.
    pub fn last_batch(&self) -> u64 {
        PROMISES.iter().filter(|&&at| self.checks_out(at)).map(|&at| self.get(at)).max().unwrap_or(0)
    }

    fn checks_out(&self, promise: usize) -> bool {
        self.get(promise + 7) == self.words().crc(promise..promise + 7)
    }

    /// The rendered bytes.
    pub fn body(&self) -> &[u8] {
        self.map.bytes(PAGE)
    }

    /// Room for rendered bytes.
    pub fn body_mut(&mut self) -> &mut [u8] {
        self.map.bytes_mut(PAGE)
    }

    /// Makes room for at least `body` bytes, all of them there on the disk: a
    /// store to a page that the file system has no room for would be SIGBUS.
    ///
    /// # Errors
    /// ENOSPC, EFBIG, ENOMEM: the room is what it was.
    pub fn grow(&mut self, body: usize) -> io::Result<()> {
        if self.body().len() < body {
            self.map = map(&self.file, body)?;
        }
        Ok(())
    }

    /// Whether that path still names this file.
    ///
    /// # Errors
    /// From fstat(2).
    pub fn is_at(&self, path: &Path) -> io::Result<bool> {
        Ok(names(path, FileId::of(&self.file.metadata()?)))
    }

    fn words(&self) -> Words<'_> {
        Words(self.map.words(WORDS))
    }

    fn get(&self, word: usize) -> u64 {
        self.words().get(word)
    }

    fn set(&self, word: usize, value: u64) {
        self.words().set(word, value);
    }
}

/// Whether that path names that file. Where the path can't be looked at, it does not.
pub fn names(path: &Path, file: FileId) -> bool {
    std::fs::metadata(path).is_ok_and(|m| FileId::of(&m) == file)
}

fn map(file: &File, body: usize) -> io::Result<SharedMap> {
    let there = usize::try_from(file.metadata()?.len()).unwrap_or(0);
    let len = (PAGE + body).max(there);
    let length = i64::try_from(len).map_err(io::Error::other)?;
    loop {
        match nix::fcntl::posix_fallocate(file, 0, length) {
            Err(nix::errno::Errno::EINTR) => {}
            other => break other?,
        }
    }
    SharedMap::new(file, len)
}

/// Which boot of which machine this is (random(4)).
fn boot_id() -> io::Result<[u64; 2]> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    let id = u128::from_str_radix(&digits, 16).map_err(io::Error::other)?;
    #[expect(clippy::cast_possible_truncation, reason = "its two halves")]
    Ok([(id >> 64) as u64, id as u64])
}

#[cfg(test)]
mod tests {
    use super::super::words::tests::killed_after;
    use super::*;

    fn promise(batch: u64) -> Promise {
        Promise { batch, file: FileId { device: 1, inode: 2 }, offset: 100, length: 4 }
    }

    fn open(folder: &tempfile::TempDir) -> Intent {
        Intent::open(&folder.path().join("i"), 1 << 16).unwrap().unwrap()
    }

    #[test]
    fn the_next_sink_finds_the_promise_and_the_body() {
        let folder = tempfile::tempdir().unwrap();
        let mut intent = open(&folder);
        assert_eq!(intent.found(), Found::Nothing);
        intent.reset();
        assert_eq!(intent.found(), Found::Idle);
        intent.body_mut()[..4].copy_from_slice(b"abc\n");
        intent.promise(&promise(5));
        drop(intent);
        let intent = open(&folder);
        assert_eq!(intent.found(), Found::Writing(promise(5)));
        assert_eq!(&intent.body()[..4], b"abc\n");
        assert_eq!(intent.last_batch(), 5);
        intent.close();
        assert_eq!(open_after(intent, &folder).found(), Found::Idle);
    }

    fn open_after(intent: Intent, folder: &tempfile::TempDir) -> Intent {
        drop(intent);
        open(folder)
    }

    #[test]
    fn a_batch_under_way_is_promised_anew_in_the_other_place() {
        let folder = tempfile::tempdir().unwrap();
        let intent = open(&folder);
        intent.reset();
        intent.promise(&promise(5));
        let moved = Promise { offset: 7, ..promise(5) };
        intent.promise(&moved);
        assert_eq!(intent.found(), Found::Writing(moved));
        intent.promise(&promise(5));
        assert_eq!(intent.found(), Found::Writing(promise(5)));
    }

    #[test]
    fn whichever_store_was_the_last_one_promise_counts_whole() {
        for stores in 0.. {
            let folder = tempfile::tempdir().unwrap();
            let intent = open(&folder);
            intent.reset();
            let first = killed_after(stores, || intent.promise(&promise(5)));
            assert_eq!(intent.found(), if first { Found::Idle } else { Found::Writing(promise(5)) });
            intent.promise(&promise(5));
            let moved = Promise { offset: 7, ..promise(5) };
            let again = killed_after(stores, || intent.promise(&moved));
            assert_eq!(intent.found(), Found::Writing(if again { promise(5) } else { moved }));
            if !again {
                return;
            }
        }
    }

    #[test]
    fn a_promise_of_another_boot_is_worth_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut intent = open(&folder);
        intent.reset();
        intent.boot[1] ^= 1;
        intent.promise(&promise(5));
        assert_eq!(open_after(intent, &folder).found(), Found::OtherBoot);
    }

    #[test]
    fn when_a_file_began_is_whole_or_unknown_and_outlives_a_reset() {
        let files = [FileId { device: 1, inode: 2 }, FileId { device: 3, inode: 4 }];
        for stores in 0.. {
            let folder = tempfile::tempdir().unwrap();
            let intent = open(&folder);
            // Of a file that is no intent file nothing is believed.
            (0..WORDS).for_each(|word| intent.set(word, 7));
            assert_eq!(intent.untrusted(), None);
            intent.reset();
            assert_eq!(intent.began(FileId { device: 7, inode: 7 }), None);
            intent.set_began(files[0], 50);
            intent.reset();
            assert_eq!(intent.began(files[0]), Some(50));
            let killed = killed_after(stores, || intent.set_began(files[1], -60));
            let [first, second] = files.map(|file| intent.began(file));
            assert!(first.is_none_or(|time| time == 50 && second.is_none()));
            assert!(second.is_none_or(|time| time == -60));
            if !killed {
                assert_eq!(second, Some(-60));
                return;
            }
        }
    }

    #[test]
    fn a_header_that_does_not_check_out_is_as_none() {
        let folder = tempfile::tempdir().unwrap();
        let intent = open(&folder);
        intent.reset();
        intent.promise(&promise(5));
        intent.set(PROMISES[0] + 3, 101);
        assert_eq!(intent.found(), Found::Nothing);
        intent.set(PHASE, 9);
        assert_eq!(intent.found(), Found::Nothing);
        intent.promise(&Promise { length: 1 << 40, ..promise(6) });
        assert_eq!(intent.found(), Found::Nothing);
    }

    #[test]
    fn a_wrong_bit_in_the_phase_or_a_promise_is_as_no_promise() {
        let folder = tempfile::tempdir().unwrap();
        let intent = open(&folder);
        intent.reset();
        intent.promise(&promise(5));
        let moved = Promise { offset: 7, ..promise(6) };
        intent.promise(&moved);
        for word in (HEADER..=PHASE).chain(PROMISES[1]..PROMISES[1] + 8) {
            for bit in 0..64 {
                intent.set(word, intent.get(word) ^ 1 << bit);
                assert_eq!(intent.found(), Found::Nothing, "{word} {bit}");
                // A number that nobody gave must not be gone on from.
                let newest = if PROMISES[1] <= word { 5 } else { 6 };
                assert_eq!(intent.last_batch(), newest, "{word} {bit}");
                intent.set(word, intent.get(word) ^ 1 << bit);
            }
        }
        assert_eq!(intent.found(), Found::Writing(moved));
    }

    #[test]
    fn one_process_has_it_and_it_grows_with_its_body() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("i");
        let mut intent = open(&folder);
        assert!(Intent::open(&path, 1 << 16).unwrap().is_none());
        intent.body_mut()[0] = 7;
        intent.grow(1 << 20).unwrap();
        assert_eq!((intent.body().len(), intent.body()[0]), (1 << 20, 7));
        assert!(intent.is_at(&path).unwrap());
        std::fs::remove_file(&path).unwrap();
        assert!(!intent.is_at(&path).unwrap());
    }
}
