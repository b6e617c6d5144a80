//! Moves a torn end out of the message file, to `FILE.torn-TIME`.
//!
//! It may be gigabytes long, and the disk nearly full. So it is moved piece by piece, the
//! last one first: each is copied to `.NAME.torn-INODE-OFFSET`, synced to the disk, and
//! then cut off. If the logger is killed, the next one finds the rest at the
//! end of the file and goes on with the same copy. So there is at most one copy, and
//! the disk holds only one piece twice. When everything is moved, the copy gets its name.

use super::file::{BLOCK, MessageFile, beside_hidden, folder, sync_folder};
use crate::sys::beside::{self, Whose};
use nix::fcntl::OFlag;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// How many bytes a piece has.
const PIECE: u64 = 16 << 20;

/// What is being done, reported between two pieces.
#[derive(Debug, Clone, Copy)]
pub enum Step {
    /// Looking for the last newline. This many bytes have none.
    Looking(u64),
    /// Moving the end. This many bytes are left.
    Moving(u64),
}

/// Called for each step of work that takes long. An error ends the work.
pub type Watcher<'a> = dyn FnMut(Step) -> io::Result<()> + 'a;

impl MessageFile {
    /// Moves everything after the last newline to `FILE.torn-TIME`, and
    /// returns that name if there was something.
    ///
    /// # Errors
    /// It can't be read, copied or truncated. The bytes that were not moved are still
    /// there, with no second copy. [`ErrorKind::ResourceBusy`] if another
    /// process wrote to it meanwhile.
    pub fn mend_tail(&mut self, watcher: &mut Watcher<'_>) -> io::Result<Option<PathBuf>> {
        let len = self.size()?;
        let whole = self.whole_lines(len, watcher)?;
        self.finish_others(if whole < len { Some(whole) } else { None })?;
        self.move_out(whole, len, watcher)
    }

    /// Moves everything after the first `whole` bytes to `FILE.torn-TIME`,
    /// and returns that name if there was something.
    ///
    /// # Errors
    /// As [`MessageFile::mend_tail`].
    pub fn move_tail(&mut self, whole: u64, watcher: &mut Watcher<'_>) -> io::Result<Option<PathBuf>> {
        let len = self.size()?;
        self.move_out(whole, len, watcher)
    }

    fn move_out(&mut self, whole: u64, mut len: u64, watcher: &mut Watcher<'_>) -> io::Result<Option<PathBuf>> {
        if whole >= len {
            return Ok(None);
        }
        let path = self.copy_path(whole);
        let mut copy = open_copy(&path)?;
        let mut has_some = copy.metadata()?.len() > 0;
        while len > whole {
            let from = whole.max(len.saturating_sub(PIECE));
            let moved = self.move_piece(&copy, whole, from, len, has_some, watcher);
            if matches!(&moved, Err(error) if error.kind() == ErrorKind::AlreadyExists) {
                // After pieces were cut off, another process wrote more there.
                self.finish(&path)?;
                (copy, has_some) = (open_copy(&path)?, false);
                continue;
            }
            if let (Err(_), false) = (&moved, has_some) {
                // All of it is still in the file.
                let _left = beside::remove(&path);
            }
            moved?;
            (len, has_some) = (from, true);
        }
        self.finish(&path).map(Some)
    }

    /// Moves the bytes from `from` to `len`, the end of the file.
    fn move_piece(
        &mut self,
        copy: &File,
        whole: u64,
        from: u64,
        len: u64,
        has_some: bool,
        watcher: &mut Watcher<'_>,
    ) -> io::Result<()> {
        watcher(Step::Moving(len - whole))?;
        if has_some && !self.fits(copy, whole, from, len)? {
            return Err(ErrorKind::AlreadyExists.into());
        }
        if !has_some {
            // From now on, its length shows how long the end was.
            copy.set_len(len - whole)?;
        }
        self.blocks(from, len, |at, bytes| copy.write_all_at(bytes, at - whole).map(|()| true))?;
        copy.sync_all()?;
        if !has_some {
            sync_folder(self.path())?;
        }
        self.cut(from, len)
    }

    /// Whether the piece fits into its place in a copy that was begun: that place has the
    /// same bytes, or none yet.
    fn fits(&self, copy: &File, whole: u64, from: u64, len: u64) -> io::Result<bool> {
        if copy.metadata()?.len() < len - whole {
            return Ok(false);
        }
        let mut there = vec![0; BLOCK];
        self.blocks(from, len, |at, bytes| {
            let there = &mut there[..bytes.len()];
            copy.read_exact_at(there, at - whole)?;
            // A kill may have come in the middle of a write.
            Ok(there.iter().zip(bytes).all(|(there, byte)| there == byte || *there == 0))
        })
    }

    /// Reads the bytes from `from` to `to` until `take` returns false, and
    /// returns whether it took all.
    fn blocks(&self, from: u64, to: u64, mut take: impl FnMut(u64, &[u8]) -> io::Result<bool>) -> io::Result<bool> {
        let mut block = vec![0; BLOCK];
        let mut at = from;
        while at < to {
            let size = usize::try_from((to - at).min(BLOCK as u64)).map_err(io::Error::other)?;
            self.file().read_exact_at(&mut block[..size], at)?;
            if !take(at, &block[..size])? {
                return Ok(false);
            }
            at += size as u64;
        }
        Ok(true)
    }

    /// How many bytes its whole lines take.
    fn whole_lines(&self, len: u64, watcher: &mut Watcher<'_>) -> io::Result<u64> {
        let mut block = vec![0; BLOCK];
        let mut end = len;
        while end > 0 {
            // The last byte is nearly always a newline, so it is checked alone first.
            let size = if end == len { 1 } else { end.min(BLOCK as u64) };
            let start = end - size;
            let size = usize::try_from(size).map_err(io::Error::other)?;
            self.file().read_exact_at(&mut block[..size], start)?;
            if let Some(at) = memchr::memrchr(b'\n', &block[..size]) {
                return Ok(start + at as u64 + 1);
            }
            if (len - start) / PIECE > (len - end) / PIECE {
                watcher(Step::Looking(len - start))?;
            }
            end = start;
        }
        Ok(0)
    }

    /// The path of the copy of the end after `whole` bytes.
    fn copy_path(&self, whole: u64) -> PathBuf {
        beside_hidden(self.path(), &format!("torn-{}-{whole}", self.id().inode))
    }

    /// Gives a copy its final name.
    fn finish(&self, copy: &Path) -> io::Result<PathBuf> {
        let path = self.beside("torn");
        beside::rename(copy, &path)?;
        sync_folder(&path)?;
        Ok(path)
    }

    /// Gives the copies that a killed logger left their final names, except the copy of the
    /// end after `whole` bytes, which will be continued.
    fn finish_others(&self, whole: Option<u64>) -> io::Result<()> {
        let ours = whole.map(|whole| self.copy_path(whole));
        let begin = beside_hidden(self.path(), "torn-");
        let begin = begin.file_name().unwrap_or_default().as_bytes();
        let all = match folder(self.path()).read_dir() {
            Ok(all) => all,
            Err(error) => {
                if error.kind() != ErrorKind::NotFound {
                    log::warn!("cannot look for what an earlier logger left beside {}: {error}", self.path().display());
                }
                return Ok(());
            }
        };
        let left = all.flatten().filter(|entry| {
            let name = entry.file_name();
            name.as_bytes().strip_prefix(begin).is_some_and(is_inode_and_offset)
        });
        // Files of other users are left alone.
        let is_own = |path: &PathBuf| beside::open(path, OFlag::O_RDONLY, Whose::Own).is_ok();
        for path in left.map(|entry| entry.path()).filter(|path| Some(path) != ours.as_ref() && is_own(path)) {
            let named = self.finish(&path)?;
            log::warn!("a logger was killed while it moved a torn end: what it moved is now in {}", named.display());
        }
        Ok(())
    }
}

/// Whether a name ends as a copy's name does. Another message file may be called
/// `NAME.torn-ANYTHING`, and have its own hidden files.
fn is_inode_and_offset(end: &[u8]) -> bool {
    let is_number = |text: &[u8]| !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let mut parts = end.split(|&byte| byte == b'-');
    matches!((parts.next(), parts.next(), parts.next()), (Some(inode), Some(offset), None) if is_number(inode) && is_number(offset))
}

fn open_copy(path: &Path) -> io::Result<File> {
    beside::open_or_make(path, OFlag::O_RDWR, 0o600, Whose::Own).map(|(file, _is_new)| file)
}

#[cfg(test)]
mod tests {
    use super::super::settings::Rights;
    use super::*;

    const RIGHTS: Rights<'_> = Rights { mode: 0o640, group: None };

    fn file(content: &[u8]) -> (tempfile::TempDir, MessageFile) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.log");
        std::fs::write(&path, content).unwrap();
        let file = MessageFile::open(&path, &RIGHTS).unwrap().unwrap();
        (folder, file)
    }

    /// Two and a half pieces without a newline.
    fn tail() -> Vec<u8> {
        (0..PIECE * 5 / 2).map(|i| b'a' + u8::try_from(i * 7 % 25).unwrap()).collect()
    }

    fn copies(folder: &tempfile::TempDir) -> Vec<PathBuf> {
        let all = folder.path().read_dir().unwrap().map(|entry| entry.unwrap().path());
        all.filter(|path| path.to_str().unwrap().contains("m.log.torn-")).collect()
    }

    #[test]
    fn a_torn_tail_is_moved_and_whole_lines_stay() {
        let long = [&b"one\n"[..], &[b'x'; 3 * BLOCK]].concat();
        for (content, whole) in
            [(&b""[..], 0), (b"one\n", 4), (b"one\ntw", 4), (b"tw", 0), (&long, 4), (b"\n", 1), (b"one\n\n", 5)]
        {
            let (_folder, mut file) = file(content);
            let torn = file.mend_tail(&mut |_| Ok(())).unwrap();
            assert_eq!(std::fs::read(file.path()).unwrap(), &content[..whole]);
            let rest = torn.map(|path| std::fs::read(path).unwrap()).unwrap_or_default();
            assert_eq!(rest, &content[whole..]);
        }
    }

    #[test]
    fn an_interrupted_move_is_continued_in_the_same_copy() {
        let tail = tail();
        for ended_at in 1..4 {
            let (folder, mut file) = file(&[b"one\n", &tail[..]].concat());
            let mut moves = 0;
            let interrupted = file.mend_tail(&mut |step| {
                moves += u32::from(matches!(step, Step::Moving(_)));
                if moves == ended_at { Err(ErrorKind::Interrupted.into()) } else { Ok(()) }
            });
            assert_eq!(interrupted.unwrap_err().kind(), ErrorKind::Interrupted);
            assert_eq!(copies(&folder).len(), usize::from(ended_at > 1), "ended at {ended_at}");
            let torn = file.mend_tail(&mut |_| Ok(())).unwrap().unwrap();
            assert!(std::fs::read(&torn).unwrap() == tail, "ended at {ended_at}");
            assert_eq!(copies(&folder), [torn]);
            assert_eq!(std::fs::read(file.path()).unwrap(), b"one\n");
        }
    }

    #[test]
    fn bytes_that_another_process_writes_after_the_rest_are_kept_apart() {
        let tail = tail();
        let (folder, mut file) = file(&tail);
        let mut moves = 0;
        let path = file.path().to_owned();
        let mut theirs = |step| {
            moves += usize::from(matches!(step, Step::Moving(_)));
            if moves == 2 {
                moves += 1;
                let mut other = File::options().append(true).open(&path)?;
                io::Write::write_all(&mut other, b"THEIRS")?;
            }
            Ok(())
        };
        assert_eq!(file.mend_tail(&mut theirs).unwrap_err().kind(), ErrorKind::ResourceBusy);
        file.mend_tail(&mut |_| Ok(())).unwrap().unwrap();
        let mut all: Vec<Vec<u8>> = copies(&folder).iter().map(|path| std::fs::read(path).unwrap()).collect();
        all.sort_by_key(|bytes| !bytes.ends_with(b"THEIRS"));
        assert_eq!(all.len(), 2);
        let first = tail.len() - usize::try_from(PIECE).unwrap();
        assert!(all[0][..first] == tail[..first] && all[0][first..] == *b"THEIRS");
        assert!(all[1].ends_with(&tail[first..]));
    }

    #[test]
    fn hidden_files_of_another_message_file_are_left_alone() {
        let (folder, mut file) = file(b"one\n");
        let names =
            [".m.log.torn-5.intent", ".m.log.torn-5-4.new", ".m.log.torn-", ".m.log.torn--", ".m.log.torn-5-4-3"];
        for name in names {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        file.mend_tail(&mut |_| Ok(())).unwrap();
        for name in names {
            assert!(folder.path().join(name).exists(), "{name}");
        }
    }

    #[test]
    fn a_finished_copy_that_lacks_only_its_name_gets_it() {
        let (folder, mut file) = file(b"one\n");
        std::fs::write(folder.path().join(".m.log.torn-5-4"), "torn").unwrap();
        assert_eq!(file.mend_tail(&mut |_| Ok(())).unwrap(), None);
        let copies = copies(&folder);
        assert_eq!((copies.len(), std::fs::read(&copies[0]).unwrap()), (1, b"torn".to_vec()));
        assert!(copies[0].file_name().unwrap().to_str().unwrap().starts_with("m.log.torn-"));
    }
}
