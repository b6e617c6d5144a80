//! Writes the promised batch to the message file, whatever goes wrong.

use super::destination::FileDestination;
use super::file::{self, MessageFile};
use super::orders::{Flaw, Halt};
use super::promises::wants_room;
use super::settings::Sync;
use super::there::{self, There};
use super::torn::{Step, Watcher};
use crate::link::batch::Promised;
use crate::link::intent::Promise;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Duration;

/// How long to wait for a trouble to pass before trying again.
pub(super) const RETRY: Duration = Duration::from_millis(200);
/// How long to wait for a lock before trying again.
const RETRY_LOCK: Duration = Duration::from_millis(100);
/// A torn end that is longer than this takes a while to find and to move, which is reported.
const WORTH_A_WORD: u64 = 16 << 20;

impl FileDestination {
    /// Makes sure that there is room for this many bytes at the end of the file, and
    /// returns the offset of the end. This happens before anything is promised: if a promised
    /// batch stopped half-way because there is no room, only this file could take the rest.
    ///
    /// `None` if there is no room for this much, but maybe for less.
    pub(super) fn reserve_at_end(&mut self, length: u64) -> Result<Option<u64>, Halt> {
        loop {
            let mut offset = self.file_len()?;
            if self.file.is_changed(offset) {
                self.mend_tail()?;
                offset = self.file_len()?;
            }
            let Err(error) = self.file.reserve(offset, length) else {
                self.orders.endured();
                return Ok(Some(offset));
            };
            if self.rotate_if_too_large(&error)? {
                continue;
            }
            if wants_room(&error) {
                if self.shrink_intent() {
                    continue;
                }
                if self.rendering.take_less(length) {
                    return Ok(None);
                }
            }
            if self.make_room(&error) {
                continue;
            }
            let trouble = format!("cannot write to {}: {error}", self.file.path().display());
            self.orders.endure(&trouble, RETRY)?;
            // An administrator may have removed it to make room.
            self.replace_if_removed()?;
            if self.orders.reopen() {
                self.reopen()?;
            }
        }
    }

    /// Step 6: writes the rest of the promised batch. `done` bytes are already in the file.
    pub(super) fn write_rest(&mut self, promise: &mut Promised<'_>, done: u64) -> Result<(), Halt> {
        self.write_rest_in(promise, done, false)
    }

    /// Does that in a file that may be `renamed`. If so, no other file takes its place when
    /// it can't be written to.
    pub(super) fn write_rest_in(
        &mut self,
        promise: &mut Promised<'_>,
        mut done: u64,
        renamed: bool,
    ) -> Result<(), Halt> {
        loop {
            let rest = self.promised(promise).get(usize::try_from(done).unwrap_or(usize::MAX)..).unwrap_or_default();
            let written = if rest.is_empty() { Ok(0) } else { self.file.file().write_at(rest, promise.offset + done) };
            let left = rest.len();
            let error = match written {
                Ok(n) if n >= left => {
                    self.orders.endured();
                    return Ok(());
                }
                Ok(0) => ErrorKind::WriteZero.into(),
                Ok(_) => {
                    // The rest must not follow something that another process wrote meanwhile.
                    done = self.progress(promise)?;
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => error,
            };
            if self.make_room(&error) {
                // Making room takes a while, so another process may have written meanwhile.
                done = self.progress(promise)?;
                continue;
            }
            if !renamed && file::is_too_large(&error) {
                self.wait_for_larger(promise, error, left)?;
                done = self.progress(promise)?;
                continue;
            }
            let trouble = format!("cannot write to {}: {error}", self.file.path().display());
            self.orders.endure(&trouble, RETRY)?;
            if !renamed && self.move_if_removed(promise)? {
                done = 0;
            } else {
                done = self.progress(promise)?;
            }
        }
    }

    pub(super) fn promised(&self, promise: &Promise) -> &[u8] {
        &self.intent.body()[..usize::try_from(promise.length).unwrap_or(usize::MAX)]
    }

    /// How much of the promised batch is in the file. If that can't be continued,
    /// because another process truncated the file or wrote to it, all of it is promised
    /// anew, at the end of the file.
    pub(super) fn progress(&mut self, promise: &mut Promised<'_>) -> Result<u64, Halt> {
        match self.look(promise)? {
            There::Begun { at, done } => {
                if at != promise.offset {
                    promise.offset = at;
                    self.promise_anew(promise)?;
                }
                return Ok(done);
            }
            There::Broken { at } => {
                self.move_broken(at)?;
                self.promise_here(promise)?;
            }
            There::Nothing => self.promise_here(promise)?,
        }
        Ok(0)
    }

    /// Which part of the promised batch the message file has.
    pub(super) fn look(&mut self, promise: &Promise) -> Result<There, Halt> {
        loop {
            let error = match there::look(self.file.file(), promise, self.promised(promise)) {
                Ok(there) => return Ok(there),
                Err(error) => error,
            };
            let trouble = format!("cannot look at {}: {error}", self.file.path().display());
            if !super::may_pass(&error) {
                return Err(Halt::Failed(trouble));
            }
            self.orders.endure(&trouble, RETRY)?;
        }
    }

    /// Another process wrote after the first lines of a batch. Those lines are moved
    /// away, because the batch is saved again, and what the other process wrote is moved
    /// with them.
    pub(super) fn move_broken(&mut self, at: u64) -> Result<(), Halt> {
        if let Some(moved) = self.move_tail(|file, watcher| file.move_tail(at, watcher))? {
            log::warn!(
                "another process wrote to {} while a batch was half in it; both are now in {}, and the batch is saved again",
                self.file.path().display(),
                moved.display()
            );
        }
        Ok(())
    }

    /// Promises the batch under way anew, at the end of the file that is open now.
    pub(super) fn promise_here(&mut self, promise: &mut Promised<'_>) -> Result<(), Halt> {
        self.mend_tail()?;
        promise.file = self.file.id();
        promise.offset = self.file_len()?;
        self.promise_anew(promise)?;
        // The batch must not be looked for in a file that is not trusted.
        match self.intent.untrusted() {
            Some(file) if file != promise.file => self.write_intent(|intent| intent.set_untrusted(None)),
            _ => Ok(()),
        }
    }

    /// Step 7: syncs the file, including the batch under way, to the disk.
    pub(super) fn sync(&mut self, promise: Option<&mut Promised<'_>>) -> Result<(), Halt> {
        self.sync_bytes(promise)?;
        while let Err(error) = self.file.sync_name() {
            let trouble = format!("cannot bring the name of {} to the disk: {error}", self.file.path().display());
            self.orders.endure(&trouble, RETRY)?;
        }
        self.orders.endured();
        self.metrics.add(super::SYNCS, 1);
        Ok(())
    }

    /// Syncs the file, but not its name. A file that can't be synced is no longer trusted.
    fn sync_bytes(&mut self, mut promise: Option<&mut Promised<'_>>) -> Result<(), Halt> {
        let mut attempts = 0;
        while let Err(error) = self.file.sync() {
            let trouble = format!("cannot bring {} to the disk: {error}", self.file.path().display());
            let untrusted = self.file.id();
            self.write_intent(|intent| intent.set_untrusted(Some(untrusted)))?;
            if attempts > 0 {
                self.orders.set_lasting(true);
                self.orders.endure(&trouble, RETRY)?;
            } else {
                log::error!("{trouble}; it is not trusted again");
            }
            self.replace_untrusted(promise.as_deref(), attempts > 0)?;
            if let Some(promise) = promise.as_deref_mut() {
                self.promise_here(promise)?;
                self.write_rest(promise, 0)?;
            } else if self.intent.is_closed() {
                self.write_intent(|intent| intent.set_untrusted(None))?;
            }
            attempts += 1;
        }
        self.orders.set_lasting(false);
        self.sync_at = None;
        Ok(())
    }

    /// Replaces a file that is not trusted with a new one. `own` means that the file was made
    /// during this trouble. If it has nothing but the batch under way, it is not needed.
    ///
    /// Its path may name it again at any time, for example if its folder was away. So
    /// it is put aside before each attempt, because otherwise its own lock is in the way.
    fn replace_untrusted(&mut self, promise: Option<&Promised<'_>>, own: bool) -> Result<(), Halt> {
        let of_no_use = own && self.file_len()? == promise.map_or(0, |p| p.length);
        let mut aside = None;
        let mut file = loop {
            let trouble = match self.put_aside(of_no_use) {
                Err(error) => format!("cannot put {} aside: {error}", self.file.path().display()),
                Ok(path) => {
                    aside = path.or(aside);
                    match self.attempt_file()? {
                        Ok(file) => break file,
                        Err(trouble) => trouble,
                    }
                }
            };
            self.orders.endure(&trouble, RETRY)?;
        };
        match aside {
            Some(path) => log::error!("the file that could not be brought to the disk is now {}", path.display()),
            None if of_no_use => {}
            None => log::error!("the file that could not be brought to the disk had already lost its name"),
        }
        file.take_rights(&self.file);
        self.take_file(file);
        self.mend_tail()
    }

    fn put_aside(&self, of_no_use: bool) -> io::Result<Option<PathBuf>> {
        if of_no_use { self.file.remove().map(|()| None) } else { self.file.set_aside("untrusted") }
    }

    /// Puts a file aside that an earlier logger did not trust.
    pub(super) fn put_untrusted_aside(&mut self) -> Result<(), Halt> {
        if self.intent.untrusted() == Some(self.file.id()) {
            self.replace_untrusted(None, false)?;
        }
        Ok(())
    }

    /// Opens the file by its name, and waits for its lock and for room.
    pub(super) fn open_file(&mut self) -> Result<MessageFile, Halt> {
        super::wait_for(&mut self.orders, &self.settings, &self.settings.file, || {
            MessageFile::open(&self.settings.file, &self.settings.rights())
        })
    }

    /// Continues with that file.
    pub(super) fn take_file(&mut self, file: MessageFile) {
        self.orders.set_flaw(Flaw::Access, file.lacks());
        self.watch.leave();
        self.file = file;
    }

    fn attempt_file(&self) -> Result<Result<MessageFile, String>, Halt> {
        super::attempt(&self.settings, &self.settings.file, || {
            MessageFile::open(&self.settings.file, &self.settings.rights())
        })
    }

    /// Opens the file anew by its name, between two batches or while a batch
    /// can't be written.
    pub(super) fn reopen(&mut self) -> Result<(), Halt> {
        self.orders.reopened();
        if self.sync_at.is_some() && !self.file.is_named() {
            self.sync_bytes(None)?;
        }
        loop {
            // If it has its name back, its own lock would be in the way.
            if self.file.is_named() {
                self.orders.endured();
                self.orders.set_flaw(Flaw::Name, "");
                return Ok(());
            }
            match MessageFile::open(&self.settings.file, &self.settings.rights()) {
                Ok(Some(file)) => {
                    self.take_file(file);
                    break;
                }
                Ok(None) => self.orders.endure(&super::locked(&self.settings.file), RETRY_LOCK)?,
                Err(error) => {
                    let flaw =
                        format!("cannot reopen {}: {error}; going on with the old file", self.settings.file.display());
                    self.orders.set_flaw(Flaw::Name, &flaw);
                    return Ok(());
                }
            }
        }
        self.orders.endured();
        self.orders.set_flaw(Flaw::Name, "");
        log::info!("reopened {}", self.settings.file.display());
        self.mend_tail()
    }

    /// Moves an end that is not a whole line out of the file.
    pub(super) fn mend_tail(&mut self) -> Result<(), Halt> {
        if let Some(torn) = self.move_tail(MessageFile::mend_tail)? {
            let path = self.file.path().display();
            log::warn!("{path} did not end with a whole line; what was torn is now in {}", torn.display());
        }
        Ok(())
    }

    /// Moves the end of the file out of it, and returns the path of the copy.
    pub(super) fn move_tail(
        &mut self,
        attempt: impl Fn(&mut MessageFile, &mut Watcher<'_>) -> io::Result<Option<PathBuf>>,
    ) -> Result<Option<PathBuf>, Halt> {
        let mut troubled = false;
        loop {
            let (path, mut halt) = (self.file.path().to_owned(), None);
            let mut first = None;
            let mut watcher = |step| {
                let left = match step {
                    Step::Looking(left) | Step::Moving(left) => left,
                };
                // A short one is not worth reporting.
                if *first.get_or_insert(left) <= WORTH_A_WORD {
                    return Ok(());
                }
                troubled = true;
                let path = path.display();
                let what = match step {
                    Step::Looking(_) => format!("{path} does not end with a whole line: looking for the last one"),
                    Step::Moving(_) => format!("{path} does not end with a whole line: moving what is torn out of it"),
                };
                self.orders.at_work(&what).map_err(|why| {
                    halt = Some(why);
                    io::Error::from(ErrorKind::Interrupted)
                })
            };
            let moved = attempt(&mut self.file, &mut watcher);
            if let Some(halt) = halt {
                return Err(halt);
            }
            match moved {
                Ok(moved) => {
                    if troubled {
                        self.orders.endured();
                    }
                    return Ok(moved);
                }
                Err(error) => {
                    troubled = true;
                    let trouble = format!("cannot mend the end of {}: {error}", self.file.path().display());
                    if !super::may_pass(&error) {
                        return Err(Halt::Failed(trouble));
                    }
                    self.orders.endure(&trouble, RETRY)?;
                }
            }
        }
    }

    /// How long the file is. Waits until that can be found out.
    pub(super) fn file_len(&mut self) -> Result<u64, Halt> {
        let mut troubled = false;
        loop {
            match self.file.size() {
                Ok(len) => {
                    if troubled {
                        self.orders.endured();
                    }
                    return Ok(len);
                }
                Err(error) => {
                    troubled = true;
                    let trouble = format!("cannot look at {}: {error}", self.file.path().display());
                    self.orders.endure(&trouble, RETRY)?;
                }
            }
        }
    }

    /// Checks that both files still have their names and that the message file is locked, at
    /// most once a second.
    pub(super) fn check_names(&mut self) {
        if self.names_checked.elapsed() < Duration::from_secs(1) {
            return;
        }
        self.names_checked = std::time::Instant::now();
        self.file.lock_again();
        if self.file.is_named() {
            self.orders.set_flaw(Flaw::Name, "");
        } else {
            let path = self.file.path().display();
            let flaw = format!("message file {path} has lost its name: run plumbd reopen");
            self.orders.set_flaw(Flaw::Name, &flaw);
        }
        self.restore_intent();
    }

    /// When a batch that is saved now must be synced at the latest.
    pub(super) fn due(&self) -> Option<std::time::Instant> {
        match self.settings.sync {
            Sync::EveryMs(ms) => Some(std::time::Instant::now() + Duration::from_millis(ms)),
            Sync::Asked | Sync::Always => None,
        }
    }
}
