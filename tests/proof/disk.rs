//! A disk that is full, read-only or failing. Clients wait, status and log report it, and
//! everything goes on by itself afterwards.

use crate::daemon::wait_for;
use crate::disk_image::{self, Image, Immutable, Kind, fill};
use crate::disk_site::{Kept, Site, UNDER_WAY, forgetful, heedless, tried};
use crate::trial::{Trial, Tried, scaled};
use std::fs::File;
use std::os::unix::fs::FileExt;

const WAIT: &str = "clients wait, nobody is disconnected, status and log say why, it goes on by itself; \
                    every message is there exactly once, whole, in order";

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        Trial {
            name: "disk/full",
            fault: "another file fills the disk, also in the middle of a line; then it is removed",
            promise: WAIT,
            missing: needs_strace,
            attempt: full,
        },
        Trial {
            name: "disk/xfs",
            fault: "on XFS: another file fills the disk under load, also at the first start, and while there are archives",
            promise: WAIT,
            missing: || disk_image::missing(Kind::Xfs, &["strace"]),
            attempt: |times| all_of(Kind::Xfs, 320, times),
        },
        Trial {
            name: "disk/btrfs",
            fault: "on Btrfs: another file fills the disk under load, also at the first start, and while there are archives",
            promise: WAIT,
            missing: || disk_image::missing(Kind::Btrfs, &["strace"]),
            attempt: |times| all_of(Kind::Btrfs, 256, times),
        },
        Trial {
            name: "disk/full-at-start",
            fault: "the disk is full when plumbd starts for the first time; then there is room",
            promise: WAIT,
            missing: needs_strace,
            attempt: full_at_start,
        },
        Trial {
            name: "disk/drop-archives",
            fault: "with when_full = \"drop-archives\", another file fills the disk again and again; at last it is removed",
            promise: "the oldest archives are removed, one after the other, and clients go on; when none is left, they wait, \
                      status and log say why; nothing else is lost: every message is there exactly once, whole, in order",
            missing: needs_strace,
            attempt: drop_archives,
        },
        Trial {
            name: "disk/quota",
            fault: "a quota (btrfs: a qgroup's limit) is used up; then it is raised",
            promise: WAIT,
            missing: || disk_image::missing(Kind::Btrfs, &["btrfs", "strace"]),
            attempt: quota,
        },
        Trial {
            name: "disk/read-only",
            fault: "the file system is read-only when plumbd starts, or made so before a killed logger is back; later it \
                    is not",
            promise: WAIT,
            missing: needs_strace,
            attempt: read_only,
        },
        Trial {
            name: "disk/read-only-by-error",
            fault: "ext4 finds an error under load and makes itself read-only (errors=remount-ro); the logger is killed, \
                    the disk unmounted and mounted again",
            promise: "synced: clients wait, nobody is disconnected, status and log say why, it goes on by itself once it is \
                      mounted again; every message is there exactly once, whole, in order",
            missing: needs_strace,
            attempt: read_only_by_error,
        },
        Trial {
            name: "disk/immutable",
            fault: "under load the file is made immutable (chattr +i); later it is not",
            promise: WAIT,
            missing: || disk_image::missing(Kind::Ext4, &["chattr", "strace"]),
            attempt: immutable,
        },
        Trial {
            name: "disk/eio-write",
            fault: "each write to the file fails with an I/O error, for a while",
            promise: WAIT,
            missing: needs_strace,
            attempt: eio_write,
        },
        Trial {
            name: "disk/eio-fdatasync",
            fault: "fdatasync reports an I/O error, once or several times",
            promise: "synced: the file is put aside as it is, and never synced again; what was not echoed goes to a new \
                      file; both together, except for the one batch that may be in both, have every message exactly \
                      once, whole, in order",
            missing: || disk_image::missing(Kind::NoJournal, &["strace"]),
            attempt: eio_fdatasync,
        },
    ]
}

pub(crate) fn needs_strace() -> Option<String> {
    disk_image::missing(Kind::Ext4, &["strace"])
}

fn full(times: f64) -> Tried {
    let rounds = scaled(10, times);
    full_on(&[(Kind::Ext4, 64), (Kind::Ext3, 64)], rounds)
}

/// All trials of a full disk, on another file system.
fn all_of(kind: Kind, mebibytes: u64, times: f64) -> Tried {
    let full = full_on(&[(kind, mebibytes)], scaled(6, times));
    let at_start = full_at_start_on(kind, mebibytes, scaled(2, times));
    let dropped = drop_archives_on(kind, mebibytes, scaled(2, times));
    let all = [full, at_start, dropped];
    let each = |of: fn(&Tried) -> &str| all.iter().map(of).collect::<Vec<_>>().join("; ");
    Tried { count: each(|t| &t.count), outcome: each(|t| &t.outcome), control: each(|t| &t.control) }
}

fn full_on(disks: &[(Kind, u64)], rounds: u32) -> Tried {
    let (mut kept, mut kills, mut torn) = (Vec::new(), 0, 0);
    for &(kind, mebibytes) in disks {
        let image = Image::new(kind, mebibytes);
        let site = Site::new(&image.disk(), "saved", "");
        let filler = image.disk().join("filler");
        for round in 0..rounds {
            fill(&filler);
            let taken = site.wait_told("No space left on device");
            let end = std::fs::read(&site.file).unwrap();
            torn += u32::from(end.last() != Some(&b'\n'));
            if round % 2 == 1 {
                let pid = site.logger();
                site.kill_logger();
                kills += 1;
                wait_for("another logger", || site.daemon.child("logger").pid.filter(|&other| other != pid));
                site.wait_told("No space left on device");
            }
            site.assert_waiting(taken);
            std::fs::remove_file(&filler).unwrap();
            site.wait_passed();
        }
        kept.push(site.end(&[], |live| live));
    }
    let what = format!(
        "{} times full, {torn} of them in the middle of a line; the logger killed meanwhile {kills} times",
        disks.len() * rounds as usize
    );
    tried(&what, &kept, "", &format!("{}; {}", heedless(), forgetful()))
}

fn full_at_start(times: f64) -> Tried {
    full_at_start_on(Kind::Ext4, 64, scaled(3, times))
}

fn full_at_start_on(kind: Kind, mebibytes: u64, rounds: u32) -> Tried {
    let kept: Vec<Kept> = (0..rounds)
        .map(|_| {
            let image = Image::new(kind, mebibytes);
            let filler = image.disk().join("filler");
            fill(&filler);
            let (site, port) = Site::without_load(&image.disk(), "saved", "");
            wait_for("it listens", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
            let site = site.under_load(port);
            let taken = site.wait_told("No space left on device");
            site.assert_waiting(taken);
            std::fs::remove_file(&filler).unwrap();
            site.wait_passed();
            site.end(&[], |live| live)
        })
        .collect();
    tried(&format!("{rounds} starts"), &kept, "", &heedless())
}

fn drop_archives(times: f64) -> Tried {
    drop_archives_on(Kind::Ext4, 64, scaled(3, times))
}

/// There are archives from earlier days, whose content does not matter to the checker.
fn drop_archives_on(kind: Kind, mebibytes: u64, rounds: u32) -> Tried {
    const ARCHIVES: usize = 3;
    const DROP: &str = "when_full = \"drop-archives\"\nrotate = { size = \"1GiB\" }";
    let (mut dropped, mut times_full) = (0, 0);
    let kept: Vec<Kept> = (0..rounds)
        .map(|_| {
            let image = Image::new(kind, mebibytes);
            let site = Site::with_settings(&image.disk(), "saved", DROP);
            let (filler, archives) = (image.disk().join("filler"), || site.beside("messages.log.2020"));
            for day in 1..=ARCHIVES {
                let name = format!("messages.log.2020010{day}T000000.000000Z.gz");
                std::fs::write(image.disk().join(name), vec![0; 4 << 20]).unwrap();
            }
            let all = archives();
            let mut left = all.len();
            while left > 0 {
                let before = left;
                // The filler may take the room of a removed archive too. Then the next one is removed.
                fill(&filler);
                times_full += 1;
                left = wait_for("an archive goes", || Some(archives().len()).filter(|left| *left < before));
                assert!(all.ends_with(&archives()), "{:?} are left, log:\n{}", archives(), site.daemon.log());
                if left > 0 {
                    // No client has to wait now.
                    site.wait_passed();
                    left = archives().len();
                }
            }
            dropped += all.len();
            fill(&filler);
            let taken = site.wait_told("No space left on device");
            site.assert_waiting(taken);
            std::fs::remove_file(&filler).unwrap();
            site.wait_passed();
            site.end(&[], |live| live)
        })
        .collect();
    let what = format!("{rounds} disks, filled {times_full} times while there were archives, and once more each");
    tried(&what, &kept, &format!("{dropped} archives dropped, always the oldest"), &nothing_dropped())
}

/// The control: if archives may not be dropped, clients wait.
fn nothing_dropped() -> String {
    let image = Image::new(Kind::Ext4, 64);
    let site = Site::new(&image.disk(), "saved", "");
    let archive = image.disk().join("messages.log.20200101T000000.000000Z.gz");
    std::fs::write(&archive, vec![0; 4 << 20]).unwrap();
    let filler = image.disk().join("filler");
    fill(&filler);
    let taken = site.wait_told("No space left on device");
    site.assert_waiting(taken);
    assert!(archive.exists());
    std::fs::remove_file(archive).unwrap();
    std::fs::remove_file(filler).unwrap();
    site.wait_passed();
    site.end(&[], |live| live);
    "with when_full = \"wait\" they wait beside an archive that is there".to_owned()
}

fn quota(times: f64) -> Tried {
    let rounds = scaled(10, times);
    let image = Image::new(Kind::Btrfs, 256);
    let site = Site::new(&image.subvolume(), "saved", "");
    for _ in 0..rounds {
        image.limit("1M");
        let taken = site.wait_told("Disk quota exceeded");
        site.assert_waiting(taken);
        image.limit("none");
        site.wait_passed();
    }
    let kept = [site.end(&[], |live| live)];
    tried(&format!("{rounds} times used up"), &kept, "", &heedless())
}

fn read_only(times: f64) -> Tried {
    let rounds = scaled(3, times);
    let kept: Vec<Kept> = (0..rounds)
        .map(|_| {
            let image = Image::new(Kind::Ext4, 64);
            image.remount("ro");
            let (site, port) = Site::without_load(&image.disk(), "saved", "");
            // Clients wait in the backlog.
            wait_for("it listens", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
            let site = site.under_load(port);
            site.wait_told("Read-only file system");
            image.remount("rw");
            site.wait_passed();
            // It can't be made read-only while a file is open for writing. At this moment, none is.
            site.kill_logger_and(|| image.remount("ro"));
            let taken = site.wait_told("Read-only file system");
            site.assert_waiting(taken);
            image.remount("rw");
            site.wait_passed();
            site.end(&[], |live| live)
        })
        .collect();
    let what = format!("{rounds} starts of plumbd, {rounds} of a logger that was killed");
    tried(&what, &kept, "", &format!("{}; {}", heedless(), forgetful()))
}

fn read_only_by_error(times: f64) -> Tried {
    let rounds = scaled(3, times);
    let kept: Vec<Kept> = (0..rounds)
        .map(|_| {
            let image = Image::new(Kind::Ext4, 64);
            // If the disk is not mounted, this folder does not exist.
            let folder = image.disk().join("folder");
            std::fs::create_dir(&folder).unwrap();
            let site = Site::new(&folder, "synced", "");
            image.remount("errors=remount-ro");
            image.fail();
            let taken = site.wait_told("Read-only file system");
            site.assert_waiting(taken);
            // ext4 is not writable again until it is mounted again, and the logger's open
            // files are in the way of that.
            site.kill_logger();
            site.daemon.wait_log("cannot open");
            image.unmount();
            site.wait_told("No such file or directory");
            site.assert_waiting(taken);
            image.mount();
            site.wait_passed();
            site.end(&[], |live| live)
        })
        .collect();
    let what = format!("{rounds} times read-only, then unmounted, then mounted again");
    tried(&what, &kept, "", &format!("{}; {}", heedless(), forgetful()))
}

fn immutable(times: f64) -> Tried {
    let rounds = scaled(10, times);
    let image = Image::new(Kind::Ext4, 64);
    let site = Site::new(&image.disk(), "saved", "");
    for _ in 0..rounds {
        let held = Immutable::make(&site.file);
        let taken = site.wait_told("Operation not permitted");
        site.assert_waiting(taken);
        drop(held);
        site.wait_passed();
    }
    let kept = [site.end(&[], |live| live)];
    tried(&format!("{rounds} times"), &kept, "", &heedless())
}

fn eio_write(times: f64) -> Tried {
    let rounds = scaled(10, times);
    let folder = tempfile::tempdir().unwrap();
    let site = Site::new(folder.path(), "saved", "");
    let mut kills = 0;
    for round in 0..rounds {
        let injection = site.inject("pwrite64", "error=EIO");
        let taken = site.wait_told("Input/output error");
        site.assert_waiting(taken);
        if round % 3 == 2 {
            // The next logger's writes succeed.
            site.kill_logger();
            kills += 1;
        }
        drop(injection);
        site.wait_passed();
    }
    let kept = [site.end(&[], |live| live)];
    let what = format!("{rounds} times, the logger killed meanwhile {kills} times");
    tried(&what, &kept, "", &format!("{}; {}", heedless(), forgetful()))
}

fn eio_fdatasync(times: f64) -> Tried {
    let rounds = scaled(20, times);
    let folder = tempfile::tempdir().unwrap();
    let site = Site::new(folder.path(), "synced", "");
    let untrusted = |site: &Site| site.beside("messages.log.untrusted-");
    for round in 0..rounds {
        let before = untrusted(&site).len();
        // Every other time, the new file fails at first too.
        let injection = site.inject("fdatasync", ["error=EIO:when=1", "error=EIO:when=1..3"][round as usize % 2]);
        wait_for("a file is put aside", || (untrusted(&site).len() > before).then_some(()));
        site.wait_passed();
        drop(injection);
    }
    let aside: Vec<Vec<u8>> = untrusted(&site).iter().map(|path| std::fs::read(path).unwrap()).collect();
    assert_eq!(aside.len(), rounds as usize, "files put aside");
    let (mut before, mut both) = (Vec::new(), 0);
    let kept = [site.end(&[], |live| {
        for file in aside.iter().chain([&live]) {
            both += u32::from(append_but_what_is_in_both(&mut before, file));
        }
        before
    })];
    let (what, more) = (format!("{rounds} files put aside"), format!("{both} batches in both files"));
    tried(&what, &kept, &more, &asked_again())
}

/// Appends the content of a file, except for a batch at its beginning that is also at the end of
/// the file before. That is at most what can be under way. Returns whether there was one.
pub(crate) fn append_but_what_is_in_both(all: &mut Vec<u8>, file: &[u8]) -> bool {
    let first = &file[..memchr::memchr(b'\n', file).map_or(0, |at| at + 1)];
    let same = (!first.is_empty()).then(|| memchr::memmem::rfind(all, first)).flatten();
    let both = same.map_or(0, |at| all.len() - at);
    let lines = memchr::memchr_iter(b'\n', &all[all.len() - both..]).count();
    assert!(lines <= UNDER_WAY as usize, "{lines} lines are in both, but only {UNDER_WAY} can be under way");
    assert!(file.starts_with(&all[all.len() - both..]), "the end of one is not the beginning of the other");
    all.extend_from_slice(&file[both..]);
    both > 0
}

/// Shows what would be wrong with a second fdatasync of the same file, on a disk that really
/// fails for a while, without any of plumbd's code.
fn asked_again() -> String {
    const LENGTH: usize = 1 << 20;
    let image = Image::thin(Kind::NoJournal, 64, 16);
    let path = image.disk().join("file");
    let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    file.sync_all().unwrap();
    let filler = image.starve();
    file.write_all_at(&[b'x'; LENGTH], 0).unwrap();
    let first = file.sync_data();
    let second = file.sync_data();
    std::fs::remove_file(filler).unwrap();
    file.sync_all().unwrap();
    drop(file);
    image.unmount();
    image.mount();
    let there = std::fs::read(&path).unwrap().iter().filter(|&&byte| byte == b'x').count();
    assert!(first.is_err() && second.is_ok() && there < LENGTH, "{first:?}, {second:?}, {there} bytes are there");
    format!(
        "had the file been asked again: on a disk that failed, the first fdatasync said {:?}, the second that all is \
         well, and {} of {LENGTH} bytes were lost",
        first.unwrap_err().to_string(),
        LENGTH - there
    )
}
