//! A message file that was removed. What is saved to it could never be read, so a
//! new one is made at once.

use super::destination::FileDestination;
use super::file::MessageFile;
use super::orders::{Flaw, Halt};
use crate::link::batch::Promised;
use crate::link::intent::FileId;
use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

impl FileDestination {
    /// Replaces the file with a new one if it has lost its last name, and
    /// returns whether it had. If there is trouble, this waits until it passes, because the
    /// folder may be gone too.
    pub(super) fn replace_if_removed(&mut self) -> Result<bool, Halt> {
        let mut troubled = false;
        loop {
            match self.file.is_removed() {
                Ok(is_removed) => {
                    if troubled {
                        self.orders.endured();
                    }
                    if is_removed {
                        break;
                    }
                    return Ok(false);
                }
                Err(error) => {
                    troubled = true;
                    let trouble = format!("cannot look at {}: {error}", self.file.path().display());
                    self.orders.endure(&trouble, super::save::RETRY)?;
                }
            }
        }
        // Its contents are gone with its last name, so there is nothing left to sync.
        self.sync_at = None;
        let file = self.open_file()?;
        self.take_file(file);
        self.orders.set_flaw(Flaw::Name, "");
        log::warn!("{} was removed; continuing in a new file", self.file.path().display());
        self.mend_tail()?;
        Ok(true)
    }

    /// Does that for a batch under way, and promises all of it to the new file. This is the
    /// last check before it is acknowledged.
    pub(super) fn move_if_removed(&mut self, promise: &mut Promised<'_>) -> Result<bool, Halt> {
        let moved = self.replace_if_removed()?;
        if moved {
            self.promise_here(promise)?;
            if promise.offset == 0 {
                let (file, began) = (promise.file, super::file::now());
                self.write_intent(|intent| intent.set_began(file, began))?;
            }
        }
        Ok(moved)
    }

    /// Called before it waits for messages, and when the kernel reported a change of the file.
    pub(super) fn look_at_file(&mut self) -> Result<(), Halt> {
        // A removal before the watch began is not reported, so the file is checked after each
        // new watch too.
        while self.watch.follow(&self.file) | std::mem::take(&mut self.watch.has_changed) {
            if self.replace_if_removed()? {
                self.restore_intent();
            }
        }
        Ok(())
    }
}

/// A watch on the open message file, so that its removal is noticed at once
/// even if no message comes (inotify(7)).
#[derive(Debug)]
pub(super) struct Watch {
    inotify: Option<Inotify>,
    watched: Option<(FileId, Option<WatchDescriptor>)>,
    /// Whether a change was reported since the file was last checked.
    has_changed: bool,
}

impl Watch {
    /// Without inotify, a removal is noticed with the next batch.
    pub(super) fn new(wanted: bool) -> Watch {
        let inotify = wanted.then(|| Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK));
        if let Some(Err(errno)) = inotify {
            cannot_watch(errno);
        }
        Watch { inotify: inotify.and_then(Result::ok), watched: None, has_changed: false }
    }

    /// Readable after a change.
    pub(super) fn readable(&self) -> Option<BorrowedFd<'_>> {
        self.inotify.as_ref().map(AsFd::as_fd)
    }

    /// From now on watches only that file, whatever its name is.
    /// Returns true if it was not watched before.
    fn follow(&mut self, file: &MessageFile) -> bool {
        let Some(inotify) = &self.inotify else { return false };
        if self.watched.is_some_and(|(id, _)| id == file.id()) {
            return false;
        }
        // It is watched through its descriptor, because another file may already have its
        // name. IN_ATTRIB also reports a change of its number of links.
        let path = format!("/proc/self/fd/{}", file.file().as_raw_fd());
        let watch = inotify.add_watch(path.as_str(), AddWatchFlags::IN_ATTRIB);
        if let Err(errno) = watch {
            cannot_watch(errno);
        }
        self.watched = Some((file.id(), watch.ok()));
        true
    }

    /// Stops watching the file, because another is to be opened, which may get the
    /// same inode number.
    pub(super) fn leave(&mut self) {
        if let (Some(inotify), Some((_, Some(watch)))) = (&self.inotify, self.watched.take()) {
            // EINVAL if the kernel has already removed it together with its file.
            let _gone = inotify.rm_watch(watch);
        }
    }

    /// Takes the events that the kernel has reported.
    pub(super) fn take_events(&mut self) {
        let Some(inotify) = &self.inotify else { return };
        loop {
            match inotify.read_events() {
                Ok(_) => self.has_changed = true,
                Err(Errno::EINTR) => {}
                Err(_) => return,
            }
        }
    }
}

fn cannot_watch(errno: Errno) {
    let cause = errno.desc();
    log::warn!("cannot watch the message file: {cause}; a removal is noticed only with the next message");
}
