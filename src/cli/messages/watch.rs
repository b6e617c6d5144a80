//! Waits until a file may have more, or its name may be another file's.

use crate::plugin::logger::file::folder;
use crate::sys::cause::words;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use nix::sys::statfs::fstatfs;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

/// How soon it is looked again where the kernel reports no changes, in milliseconds.
const AGAIN: u16 = 1000;

/// A watch on a file's name, and on the file that is read (inotify(7)).
#[derive(Debug)]
pub(super) struct Watch {
    inotify: Option<Inotify>,
    file: Option<WatchDescriptor>,
    /// Whether every change is reported.
    is_sure: bool,
    is_sure_of_file: bool,
}

impl Watch {
    /// On names in the folder of a file.
    pub(super) fn new(path: &Path) -> Watch {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).ok();
        let names = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF;
        let watched = inotify.as_ref().is_some_and(|inotify| inotify.add_watch(folder(path), names).is_ok());
        // What a symbolic link leads to may change in another folder.
        let is_link = path.symlink_metadata().is_ok_and(|found| found.is_symlink());
        Watch { inotify, file: None, is_sure: watched && !is_link, is_sure_of_file: true }
    }

    /// On that file, and no other.
    pub(super) fn follow(&mut self, file: &File) {
        let Some(inotify) = &self.inotify else { return };
        if let Some(before) = self.file.take() {
            // EINVAL if the kernel has removed it, with its file.
            let _gone = inotify.rm_watch(before);
        }
        // By its descriptor, because its name may be another file's already.
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        self.file = inotify.add_watch(path.as_str(), AddWatchFlags::IN_MODIFY).ok();
        self.is_sure_of_file = self.file.is_some() && is_local(file);
    }

    /// Waits for a change. `false`: nobody reads `out` any more.
    ///
    /// # Errors
    /// From poll(2).
    pub(super) fn wait(&self, out: &File) -> Result<bool, String> {
        let is_sure = self.is_sure && self.is_sure_of_file;
        let timeout = if is_sure { PollTimeout::NONE } else { PollTimeout::from(AGAIN) };
        let mut fds = vec![PollFd::new(out.as_fd(), PollFlags::empty())];
        fds.extend(self.inotify.as_ref().map(|inotify| PollFd::new(inotify.as_fd(), PollFlags::POLLIN)));
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(format!("cannot wait: {}", words(errno))),
        }
        // POLLHUP alone: a terminal that is gone.
        let is_read =
            !fds[0].revents().is_some_and(|events| events.intersects(PollFlags::POLLERR | PollFlags::POLLHUP));
        if let Some(inotify) = &self.inotify {
            while matches!(inotify.read_events(), Ok(_) | Err(Errno::EINTR)) {}
        }
        Ok(is_read)
    }
}

/// Whether all who write to a file do so through this kernel (statfs(2)).
fn is_local(file: &File) -> bool {
    /// NFS, SMB, CIFS, SMB2, FUSE, 9P, Ceph, AFS (include/uapi/linux/magic.h).
    const FAR: [u64; 8] =
        [0x6969, 0x517b, 0xff53_4d42, 0xfe53_4d42, 0x6573_5546, 0x0102_1997, 0x00c3_6400, 0x5346_414f];
    fstatfs(file).is_ok_and(|system| {
        // Of some machines it is a signed number.
        let kind = system.filesystem_type().0 as u64 & 0xffff_ffff;
        !FAR.contains(&kind)
    })
}
