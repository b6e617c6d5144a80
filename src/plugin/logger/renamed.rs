//! A batch of an earlier logger whose file has been renamed within its folder. It is
//! completed there, or goes whole to the file that now has the name.

use super::destination::FileDestination;
use super::file::{MessageFile, find, id_at};
use super::orders::Halt;
use super::save::RETRY;
use super::there::{self, There};
use crate::link::batch::Promised;
use crate::link::intent::{FileId, Promise, names};
use crate::sys::beside::{self, Whose};
use nix::fcntl::OFlag;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

impl FileDestination {
    /// Completes a batch in the file that it was promised to. Returns whether it is saved
    /// there. If not, none of its lines is.
    pub(super) fn complete_renamed(&mut self, promise: &mut Promised<'_>) -> Result<bool, Halt> {
        loop {
            let Some(target) = self.look_for(promise.file)? else {
                return Ok(false);
            };
            let path = &target.path;
            // If the file is gone, another file may have its inode number now. Only the
            // beginning of the batch shows that it is the same file.
            match self.look_in(&target, promise)? {
                // This process may no longer have the right to write to it, and need not.
                There::Begun { done, .. } if done == promise.length => {
                    return match target.file.sync_data() {
                        Ok(()) => Ok(true),
                        Err(error) => self.distrust(promise.file, path, &error),
                    };
                }
                There::Begun { done, .. } if done > 0 => {}
                There::Broken { .. } => {}
                There::Begun { .. } | There::Nothing => {
                    log::warn!("{} has nothing of the batch that is under way", path.display());
                    return Ok(false);
                }
            }
            if let Some(renamed) = self.open_renamed(path, promise.file)? {
                let here = std::mem::replace(&mut self.file, renamed);
                let saved = self.complete_in_it(promise);
                self.file = here;
                return saved;
            }
        }
    }

    /// Does that with the file open as `self.file`.
    fn complete_in_it(&mut self, promise: &mut Promised<'_>) -> Result<bool, Halt> {
        match self.look(promise)? {
            // It can't grow any further, so the new file gets the batch. The half line is
            // removed, because it would never be finished.
            There::Begun { at, done }
                if done < promise.length && self.file.has_room_below_limit(at, promise.length).is_err() =>
            {
                self.cut_out(promise)?;
                return Ok(false);
            }
            There::Begun { done, .. } if done > 0 => {}
            There::Broken { at } => {
                self.move_broken(at)?;
                return Ok(false);
            }
            There::Begun { .. } | There::Nothing => return Ok(false),
        }
        let done = self.progress(promise)?;
        self.write_rest_in(promise, done, true)?;
        if let Err(error) = self.file.sync() {
            let path = self.file.path().to_owned();
            return self.distrust(promise.file, &path, &error);
        }
        loop {
            match self.file.is_removed() {
                Ok(false) => return Ok(true),
                Ok(true) => {
                    log::warn!("{} was removed meanwhile", self.file.path().display());
                    return Ok(false);
                }
                Err(error) => {
                    let trouble = format!("cannot look at {}: {error}", self.file.path().display());
                    self.orders.endure(&trouble, RETRY)?;
                }
            }
        }
    }

    /// Puts a renamed file aside that can't be synced to the disk. The batch is saved
    /// whole in another file, so this always returns false: it is not saved here.
    fn distrust(&mut self, file: FileId, path: &Path, error: &io::Error) -> Result<bool, Halt> {
        log::error!("cannot bring {} to the disk: {error}; it is not trusted again", path.display());
        self.write_intent(|intent| intent.set_untrusted(Some(file)))?;
        while names(path, file) {
            let mut aside = path.as_os_str().to_owned();
            aside.push(format!(".untrusted-{}", super::render::name_time(super::file::now())));
            match beside::rename(path, Path::new(&aside)) {
                Ok(()) => {
                    log::error!(
                        "the file that could not be brought to the disk is now {}",
                        Path::new(&aside).display()
                    );
                    break;
                }
                Err(error) => {
                    let trouble = format!("cannot put {} aside: {error}", path.display());
                    self.orders.endure(&trouble, RETRY)?;
                }
            }
        }
        Ok(false)
    }

    /// Finds that file in the folder of the message file, under whatever name. If the folder
    /// can't be read now, the file is not taken for gone.
    fn look_for(&mut self, id: FileId) -> Result<Option<Target>, Halt> {
        loop {
            let error = match Target::find(self.file.path(), id) {
                Ok(found) => return Ok(found),
                Err(error) => error,
            };
            let trouble = format!("cannot look for the rest of a batch beside {}: {error}", self.file.path().display());
            if !super::may_pass(&error) {
                return Err(Halt::Failed(trouble));
            }
            self.orders.endure(&trouble, RETRY)?;
        }
    }

    fn look_in(&mut self, target: &Target, promise: &Promise) -> Result<There, Halt> {
        loop {
            let error = match there::look(&target.file, promise, self.promised(promise)) {
                Ok(there) => return Ok(there),
                Err(error) => error,
            };
            let trouble = format!("cannot look at {}: {error}", target.path.display());
            if !super::may_pass(&error) {
                return Err(Halt::Failed(trouble));
            }
            self.orders.endure(&trouble, RETRY)?;
        }
    }

    /// Opens it for writing, and waits for its lock. `None` if another file has that
    /// name now.
    fn open_renamed(&mut self, path: &Path, id: FileId) -> Result<Option<MessageFile>, Halt> {
        let opened = super::wait_for(&mut self.orders, &self.settings, path, || {
            if id_at(path)? != Some(id) {
                return Ok(Some(None));
            }
            Ok(MessageFile::open(path, &self.settings.rights())?.map(Some))
        })?;
        Ok(opened.filter(|file| file.id() == id))
    }
}

/// The file that a batch was promised to, open for reading, and its present name.
struct Target {
    path: PathBuf,
    file: File,
}

impl Target {
    /// Looks for it in the folder of `path`.
    fn find(path: &Path, id: FileId) -> io::Result<Option<Target>> {
        let Some(path) = find(path, id)? else { return Ok(None) };
        // If something other than a regular file has the inode number now, it is not the file.
        if !std::fs::symlink_metadata(&path).is_ok_and(|data| data.is_file()) {
            return Ok(None);
        }
        let file = beside::open(&path, OFlag::O_RDONLY, Whose::Anybodys)?;
        Ok((FileId::of(&file.metadata()?) == id).then_some(Target { path, file }))
    }
}
