//! A disk for a single trial: an image in memory on a loop device, with a file
//! system. What the file system has written to the device is in the image; what it
//! still has in its caches is not.

use crate::daemon::wait_for;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Which file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// As it is by default.
    Ext4,
    /// With files made of blocks, as in ext3. It can't reserve room, so a write may stop
    /// in the middle of a line.
    Ext3,
    /// Ext4 without a journal. It goes on after a failed write.
    NoJournal,
    /// As it is by default.
    Xfs,
    /// As it is by default.
    Btrfs,
}

impl Kind {
    /// The program that makes such a file system.
    pub(crate) fn maker(self) -> &'static str {
        match self {
            Kind::Ext4 | Kind::Ext3 | Kind::NoJournal => "mkfs.ext4",
            Kind::Xfs => "mkfs.xfs",
            Kind::Btrfs => "mkfs.btrfs",
        }
    }

    /// Whether the kernel supports it, perhaps as a module.
    fn is_known(self) -> bool {
        let name = match self {
            Kind::Ext4 | Kind::Ext3 | Kind::NoJournal => "ext4",
            Kind::Xfs => "xfs",
            Kind::Btrfs => "btrfs",
        };
        let known = || std::fs::read_to_string("/proc/filesystems").unwrap().lines().any(|line| line.ends_with(name));
        let _is_no_module = known() || Command::new("modprobe").args(["-q", name]).status().is_ok();
        known()
    }

    fn options(self) -> &'static [&'static str] {
        match self {
            // No block is kept for root.
            Kind::Ext4 => &["-q", "-F", "-m", "0"],
            Kind::Ext3 => &["-q", "-F", "-m", "0", "-O", "^extent,^64bit"],
            Kind::NoJournal => &["-q", "-F", "-m", "0", "-O", "^has_journal"],
            Kind::Xfs | Kind::Btrfs => &["-q", "-f"],
        }
    }
}

/// A disk with a file system. When this is dropped, it is gone even if it is in use.
#[derive(Debug)]
pub(crate) struct Image {
    kind: Kind,
    folder: tempfile::TempDir,
}

impl Image {
    /// A new file system of this many MiB, mounted.
    pub(crate) fn new(kind: Kind, mebibytes: u64) -> Image {
        Image::thin(kind, mebibytes, 1024)
    }

    /// A new file system with no more than this much memory for its image.
    pub(crate) fn thin(kind: Kind, mebibytes: u64, memory: u64) -> Image {
        let image = Image { kind, folder: tempfile::tempdir().unwrap() };
        for folder in [image.memory(), image.disk()] {
            std::fs::create_dir(folder).unwrap();
        }
        run("mount", &["-t", "tmpfs", "-o", &format!("size={memory}m"), "tmpfs"], &[&image.memory()]);
        File::create(image.image()).unwrap().set_len(mebibytes << 20).unwrap();
        run(kind.maker(), kind.options(), &[&image.image()]);
        image.mount();
        image
    }

    /// Where it is mounted.
    pub(crate) fn disk(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    fn memory(&self) -> PathBuf {
        self.folder.path().join("memory")
    }

    fn image(&self) -> PathBuf {
        self.memory().join("image")
    }

    /// Mounts it, which recovers its journal.
    pub(crate) fn mount(&self) {
        // Without extents, ext4 accepts writes that it has no room for, and loses them
        // later ("This should not happen!!", says the kernel). ext3 finds room first.
        let options = if self.kind == Kind::Ext3 { "loop,nodelalloc" } else { "loop" };
        run("mount", &["-o", options], &[&self.image(), &self.disk()]);
    }

    /// Unmounts it, and waits until the loop device is gone too. If the image were mounted again
    /// while another mount namespace is still being torn down, it would be on two devices.
    pub(crate) fn unmount(&self) {
        run("umount", &[], &[&self.disk()]);
        let image = self.image();
        wait_for("the loop device is gone", || (!is_on_a_device(&image)).then_some(()));
    }

    /// Mounts it anew with these options.
    pub(crate) fn remount(&self, options: &str) {
        run("mount", &["-o", &format!("remount,{options}")], &[&self.disk()]);
    }

    /// Takes all the memory that is left for the image, so that a write to a new block is an I/O
    /// error until that file is removed.
    pub(crate) fn starve(&self) -> PathBuf {
        let filler = self.memory().join("filler");
        fill(&filler);
        filler
    }

    /// Makes a subvolume, whose quota can be limited (btrfs-qgroup(8)).
    pub(crate) fn subvolume(&self) -> PathBuf {
        let path = self.disk().join("subvolume");
        run("btrfs", &["-q", "subvolume", "create"], &[&path]);
        run("btrfs", &["quota", "enable"], &[&self.disk()]);
        path
    }

    /// Limits the quota of the first subvolume: `1M`, `none`.
    pub(crate) fn limit(&self, quota: &str) {
        run("btrfs", &["qgroup", "limit", quota, "0/256"], &[&self.disk()]);
    }

    /// Makes ext4 find an error.
    pub(crate) fn fail(&self) {
        let device = std::fs::metadata(self.disk()).unwrap().dev();
        let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
        let name = std::fs::read_link(format!("/sys/dev/block/{major}:{minor}")).unwrap();
        let trigger = Path::new("/sys/fs/ext4").join(name.file_name().unwrap()).join("trigger_fs_error");
        std::fs::write(trigger, "made by a trial").unwrap();
    }

    /// Cuts its power: from now on, nothing reaches the device, not even what waits in the
    /// journal.
    pub(crate) fn cut(&self) {
        use std::os::fd::AsRawFd;
        nix::ioctl_read!(shut_down, b'X', 125, u32);
        /// `EXT4_GOING_FLAGS_NOLOGFLUSH`, which has the same value for XFS.
        const NO_LOG_FLUSH: u32 = 2;
        let folder = File::open(self.disk()).unwrap();
        let mut how = NO_LOG_FLUSH;
        // SAFETY: the kernel reads the four bytes of `how`.
        #[allow(unsafe_code)]
        unsafe { shut_down(folder.as_raw_fd(), &raw mut how) }.unwrap();
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        for mounted in [self.disk(), self.memory()] {
            // It may be in any state.
            let _was_not_mounted = nix::mount::umount2(&mounted, nix::mount::MntFlags::MNT_DETACH);
        }
    }
}

/// A file that no process may write to, not even one that has it open (chattr(1)). When this is
/// dropped, the file is as before.
#[derive(Debug)]
pub(crate) struct Immutable {
    file: PathBuf,
}

impl Immutable {
    pub(crate) fn make(file: &Path) -> Immutable {
        run("chattr", &["+i"], &[file]);
        Immutable { file: file.to_owned() }
    }
}

impl Drop for Immutable {
    fn drop(&mut self) {
        run("chattr", &["-i"], &[&self.file]);
    }
}

/// Writes to a file until there is no room left on its file system.
pub(crate) fn fill(filler: &Path) {
    let mut file = File::options().create(true).append(true).open(filler).unwrap();
    for size in [1 << 20, 64 * 1024, 4096, 1024] {
        let block = vec![0; size];
        while file.write(&block).is_ok() {}
    }
}

fn is_on_a_device(image: &Path) -> bool {
    let devices = std::fs::read_dir("/sys/block").unwrap();
    devices.flatten().any(|device| {
        let backing = std::fs::read_to_string(device.path().join("loop/backing_file"));
        backing.is_ok_and(|path| Path::new(path.trim_end()) == image)
    })
}

fn run(program: &str, options: &[&str], paths: &[&Path]) {
    let done = Command::new(program).args(options).args(paths).output().unwrap();
    assert!(done.status.success(), "{program} {paths:?}: {}", String::from_utf8_lossy(&done.stderr));
}

/// Why no such disk can be made on this machine, if it can't, or which of these programs is missing.
pub(crate) fn missing(kind: Kind, more: &[&str]) -> Option<String> {
    let programs = crate::trial::needs_root().or_else(|| {
        let needed = ["mount", "umount", "unshare", kind.maker()];
        let absent = needed.iter().chain(more).find(|program| !is_installed(program));
        absent.map(|program| format!("needs {program}"))
    });
    programs.or_else(|| {
        (!kind.is_known() || !Path::new("/dev/loop-control").exists())
            .then(|| format!("needs {kind:?} on a loop device"))
    })
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).exists())
}
