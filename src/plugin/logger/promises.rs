//! What the logger writes to its intent file. If the disk fails, it waits, because nothing
//! counts as written until it is.

use super::destination::FileDestination;
use super::file::is_gone;
use super::orders::Halt;
use crate::link::batch::Promised;
use crate::link::intent::{Intent, Promise};
use crate::sys::beside::{self, rename_to_free};
use nix::errno::Errno;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::time::Duration;

/// How long to wait for a trouble to pass before trying again.
const RETRY: Duration = Duration::from_millis(200);

/// Whether an error says that there is no room. There may still be room for less.
pub(super) fn wants_room(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::ENOSPC | Errno::EDQUOT | Errno::EFBIG))
}

impl FileDestination {
    /// Step 5. Returns whether the batch is promised. If not, there is no room for
    /// one this large, and the caller must try a smaller one.
    pub(super) fn promise(&mut self, promise: &Promise) -> Result<bool, Halt> {
        while let Err(error) = self.intent.promise(promise) {
            if wants_room(&error) && self.rendering.take_less(promise.length) {
                self.shrink_intent();
                return Ok(false);
            }
            self.endure_intent(&error)?;
        }
        self.orders.endured();
        Ok(true)
    }

    /// Promises the batch under way to another place. The message file must
    /// not be written to before that is done.
    pub(super) fn promise_anew(&mut self, promise: &Promised<'_>) -> Result<(), Halt> {
        while !self.has_named_intent()? {
            match self.promise_in_new(promise) {
                Ok(()) => log::warn!("{} was removed; made it again", self.intent.path().display()),
                Err(error) => {
                    let trouble = format!("cannot make {} again: {error}", self.intent.path().display());
                    if !self.make_room(&error) {
                        self.orders.endure(&trouble, RETRY)?;
                    }
                }
            }
        }
        self.write_intent(|intent| intent.promise(promise))?;
        promise.note_place();
        Ok(())
    }

    fn has_named_intent(&mut self) -> Result<bool, Halt> {
        loop {
            match self.intent.is_named() {
                Ok(is_named) => return Ok(is_named),
                Err(error) => {
                    let trouble = format!("cannot look at {}: {error}", self.intent.path().display());
                    self.orders.endure(&trouble, RETRY)?;
                }
            }
        }
    }

    /// Writes the promise to a new intent file, because the old one has lost its name, for
    /// example because its folder was emptied, and no later logger would find a promise in it.
    /// The new file gets the name only when it has the promise. Until then there is no intent
    /// file, and the ledgers say where the batch began.
    fn promise_in_new(&mut self, promise: &Promise) -> io::Result<()> {
        let at = self.intent.path().to_owned();
        let mut next = at.clone().into_os_string();
        next.push(".new");
        let next = PathBuf::from(next);
        let locked = || io::Error::new(ErrorKind::ResourceBusy, "another process has locked it");
        let mut made = Intent::open(&next, self.intent.body().len())?.ok_or_else(locked)?;
        made.take_over(&self.intent)?;
        let outcome = made.reset().and_then(|()| made.promise(promise)).and_then(|()| {
            match Intent::open_existing(&at, 0) {
                // There is another one, which no process uses. It stays locked until it is
                // replaced.
                Ok(theirs) => theirs.ok_or_else(locked).and_then(|_held| beside::rename(&next, &at)),
                Err(error) if is_gone(&error) => rename_to_free(&next, &at),
                Err(error) => Err(error),
            }
        });
        if let Err(error) = outcome {
            // It takes room, and the next attempt makes it anew.
            let _gone = beside::remove(&next);
            return Err(error);
        }
        made.is_renamed(&at);
        self.intent = made;
        Ok(())
    }

    /// Step 10. Also called whenever nothing is to be promised.
    pub(super) fn close_intent(&mut self) -> Result<(), Halt> {
        self.write_intent(Intent::close)
    }

    /// Writes something to the intent file, and tries again until that succeeds.
    pub(super) fn write_intent(&mut self, mut write: impl FnMut(&mut Intent) -> io::Result<()>) -> Result<(), Halt> {
        while let Err(error) = write(&mut self.intent) {
            self.endure_intent(&error)?;
        }
        self.orders.endured();
        Ok(())
    }

    fn endure_intent(&mut self, error: &io::Error) -> Result<(), Halt> {
        if self.make_room(error) {
            return Ok(());
        }
        let trouble = format!("cannot write to {}: {error}", self.intent.path().display());
        self.orders.endure(&trouble, RETRY)
    }

    /// Releases the room that past batches took in the intent file. Returns whether
    /// there was any.
    pub(super) fn shrink_intent(&self) -> bool {
        // If this fails, the next write tries again and reports it.
        self.intent.shrink().unwrap_or(false)
    }

    /// Makes the intent file again if it was removed. That is possible between two batches.
    pub(super) fn restore_intent(&mut self) {
        let at = self.intent.path().to_owned();
        let there = match self.intent.is_named() {
            Ok(there) => there,
            Err(error) => {
                // A later batch checks again.
                log::warn!("cannot look at {}: {error}", at.display());
                return;
            }
        };
        if !there {
            let made = Intent::open(&at, self.intent.body().len()).and_then(|made| {
                let again = |mut intent: Intent| {
                    intent.take_over(&self.intent)?;
                    intent.reset().map(|()| intent)
                };
                made.map(again).transpose()
            });
            match made {
                Ok(Some(intent)) => {
                    self.intent = intent;
                    log::warn!("{} was removed; made it again", at.display());
                }
                Ok(None) => log::warn!("{} now belongs to another process", at.display()),
                Err(error) => log::warn!("cannot make {} again: {error}", at.display()),
            }
        }
    }
}
