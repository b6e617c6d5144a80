//! The intent file needs only writes, so any file system will do, and the logger waits if
//! it is full.

use crate::mini::{Logger, Rig, records, wait_until, write_record};
use plumbd::link::handover::Protocol::{Lines, Records};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A mount that is gone when the test ends.
struct Mounted(PathBuf);

impl Mounted {
    fn new(at: PathBuf, command: &[&str]) -> Mounted {
        std::fs::create_dir(&at).unwrap();
        let output = Command::new(command[0]).args(&command[1..]).arg(&at).output().unwrap();
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        Mounted(at)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _gone = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A rig whose file is in that folder.
fn rig_in(folder: &Path) -> Rig {
    let mut rig = Rig::with("raw", Lines);
    rig.settings["file"] = folder.join("m.log").to_str().unwrap().into();
    rig
}

#[test]
fn no_file_in_the_folder_is_mapped_for_writing() {
    let mut rig = Rig::with("raw", Lines);
    let logger = rig.start();
    rig.links[0].source().write_all(b"one\n").unwrap();
    wait_until("it is saved", || (rig.bytes() == b"one\n").then_some(()));
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", logger.pid())).unwrap();
    let folder = rig.path().parent().unwrap().to_str().unwrap().to_owned();
    assert!(!maps.contains(&folder), "{maps}");
    let intent = std::fs::metadata(rig.folder.path().join(".m.log.intent")).unwrap();
    assert_eq!(intent.len(), 2 * 4096, "it takes what the batch takes");
    rig.end();
    logger.wait_success();
}

#[test]
#[ignore = "needs root for a file system of its own, run by .ci/run"]
fn a_small_disk_is_used_to_its_last_byte() {
    // The largest has a mebibyte, the smallest hardly more than two pages for each of the files.
    for (size, least) in [("1m", 700_000), ("200k", 60_000), ("64k", 15_000)] {
        let folder = tempfile::tempdir().unwrap();
        let disk =
            Mounted::new(folder.path().join("disk"), &["mount", "-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]);
        let rig = rig_in(&disk.0);
        let logger = rig.start();
        rig.wait_notified("READY=1");
        let text: String = (0..100_000).map(|i| format!("line {i}\n")).collect();
        let (mut source, bytes) = (rig.links[0].source(), text.clone());
        let writer = std::thread::spawn(move || source.write_all(bytes.as_bytes()));
        rig.wait_notified("X_PLUMBD_PROBLEM=cannot write to");
        let saved =
            wait_until(&format!("most of {size} is used"), || Some(rig.bytes()).filter(|saved| saved.len() > least));
        assert!(
            text.as_bytes().starts_with(&saved[..=saved.iter().rposition(|&byte| byte == b'\n').unwrap()]),
            "{size}"
        );
        // With more room, the logger goes on.
        let more = Command::new("mount").args(["-o", "remount,size=8m"]).arg(&disk.0).status().unwrap();
        assert!(more.success());
        writer.join().unwrap().unwrap();
        let mut rig = rig;
        rig.end();
        logger.wait_success();
        assert!(rig.text() == text, "{size}");
    }
}

#[test]
#[ignore = "needs root and btrfs-progs for a file system of its own, run by .ci/run"]
fn the_logger_waits_for_a_full_file_system_that_copies_on_write() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image");
    std::fs::File::create(&image).unwrap().set_len(128 << 20).unwrap();
    assert!(Command::new("mkfs.btrfs").arg("-q").arg(&image).status().unwrap().success());
    let disk = Mounted::new(folder.path().join("disk"), &["mount", "-o", "loop", image.to_str().unwrap()]);
    let mut rig = rig_in(&disk.0);
    let mut logger = rig.start();
    let mut text = String::new();
    let mut say = |count: usize| {
        let lines: String = (0..count).map(|i| format!("line {i} {}\n", "x".repeat(200))).collect();
        rig.links[0].source().write_all(lines.as_bytes()).unwrap();
        text.push_str(&lines);
        text.clone()
    };
    let before = say(200);
    wait_until("they are saved", || (rig.bytes() == before.as_bytes()).then_some(()));
    assert!(Command::new("sync").arg("-f").arg(&disk.0).status().unwrap().success());
    // The disk is full to the last page.
    let filler = disk.0.join("filler");
    let mut file = std::fs::File::create(&filler).unwrap();
    for size in [1 << 20, 4096] {
        while file.write_all(&vec![b'x'; size]).and_then(|()| file.sync_data()).is_ok() {}
    }
    let all = say(2000);
    rig.wait_notified("X_PLUMBD_PROBLEM=cannot write to");
    assert!(logger.ended().is_none(), "it waits");
    drop(file);
    std::fs::remove_file(&filler).unwrap();
    assert!(Command::new("sync").arg("-f").arg(&disk.0).status().unwrap().success());
    wait_until("the rest is saved", || (rig.bytes() == all.as_bytes()).then_some(()));
    rig.end();
    logger.wait_success();
}

#[test]
#[ignore = "needs root and bindfs, run by .ci/run"]
fn a_file_system_without_shared_mappings_is_like_any_other() {
    let folder = tempfile::tempdir().unwrap();
    let below = folder.path().join("below");
    std::fs::create_dir(&below).unwrap();
    let disk = Mounted::new(folder.path().join("disk"), &["bindfs", "-o", "direct_io", below.to_str().unwrap()]);
    let mut rig = rig_in(&disk.0);
    let logger = rig.start();
    let text: String = (0..30_000).map(|i| format!("line {i}\n")).collect();
    rig.links[0].source().write_all(text.as_bytes()).unwrap();
    rig.wait_notified("READY=1");
    // The logger is killed meanwhile, at any place.
    logger.kill();
    rig.drain();
    assert!(rig.text() == text);
}

/// Feeds a link until it is asked to stop.
fn busy(rig: &Rig, link: usize) -> (std::sync::Arc<std::sync::atomic::AtomicBool>, std::thread::JoinHandle<()>) {
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (mut source, told) = (rig.links[link].source(), stop.clone());
    let writer = std::thread::spawn(move || {
        let lines = "y\n".repeat(2048);
        while !told.load(std::sync::atomic::Ordering::Relaxed) {
            source.write_all(lines.as_bytes()).unwrap();
        }
    });
    (stop, writer)
}

#[test]
fn a_busy_link_does_not_starve_a_large_message() {
    // Each byte takes four in the file, so each of these is larger than a body.
    for sizes in [vec![1_000_000], vec![1 << 20], vec![600_000; 3]] {
        let mut rig = Rig::with("text", Records);
        rig.links.push(crate::mini::Held::new("yes", Lines, 1 << 20));
        let logger: Logger = rig.start();
        let (stop, writer) = busy(&rig, 1);
        wait_until("the other link is busy", || (rig.counter("batches") > 3).then_some(()));
        for (i, size) in (1..).zip(&sizes) {
            for record in records(i, 7, &vec![0xff; *size], false) {
                write_record(&rig.links[0].source(), &record);
            }
        }
        let mut newest = 0;
        wait_until("the large ones are saved", || {
            newest = rig.links[0].acks().last().map_or(newest, |ack| ack.sequence);
            (newest == sizes.len() as u64).then_some(())
        });
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        writer.join().unwrap();
        rig.end();
        logger.wait_success();
    }
}

#[test]
fn whole_records_behind_a_torn_one_are_saved_and_acknowledged() {
    let long = records(1, 3, &[b'x'; 3000], false).concat();
    // Torn in its header, in its address, in its payload.
    for cut in [3, 20, 43, 100, 2999] {
        let mut rig = Rig::with("raw", Records);
        let logger = rig.start();
        let mut source = rig.links[0].source();
        // A source dies in the middle of a write, and its successor waits for an acknowledgement.
        source.write_all(&long[..cut]).unwrap();
        for (i, text) in (1..).zip(["one", "two", "three"]) {
            for record in records(i, 7, text.as_bytes(), false) {
                write_record(&source, &record);
            }
        }
        let mut newest = 0;
        wait_until("they are acknowledged", || {
            newest = rig.links[0].acks().last().map_or(newest, |ack| ack.sequence);
            (newest == 3).then_some(())
        });
        // This also holds at the end of the link.
        source.write_all(&long[..cut]).unwrap();
        write_record(&source, &records(4, 7, b"four", false)[0]);
        source.write_all(&long[..cut]).unwrap();
        drop(source);
        rig.end();
        logger.wait_success();
        assert_eq!(rig.text(), "one\ntwo\nthree\nfour\n", "{cut}");
        assert_eq!(rig.counter("garbage_bytes"), 3 * cut as u64);
    }
}

/// How often a logger under strace has synced its file.
fn synced(log: &Path) -> usize {
    std::fs::read_to_string(log).unwrap_or_default().matches("fdatasync(").count()
}

#[test]
#[ignore = "needs strace, run by .ci/run"]
fn a_sync_that_is_due_is_made_up_for_after_a_kill_and_at_a_stop() {
    for stopped in [false, true] {
        let mut rig = Rig::with("raw", Lines);
        // The interval is so long that the first logger does not sync.
        rig.settings["sync"] = "1h".into();
        let log = rig.folder.path().join("calls");
        let first = rig.start();
        rig.links[0].source().write_all(b"one\n").unwrap();
        wait_until("it is saved", || (rig.bytes() == b"one\n").then_some(()));
        first.kill();
        if !stopped {
            rig.settings["sync"] = "200ms".into();
        }
        let wrapper = ["strace", "-qq", "-o", log.to_str().unwrap(), "-e", "trace=fdatasync"];
        let next = rig.start_under(&wrapper);
        rig.wait_notified("READY=1");
        rig.wait_notified("READY=1");
        if stopped {
            nix::sys::signal::killpg(next.pid(), nix::sys::signal::Signal::SIGTERM).unwrap();
        } else {
            wait_until("it is synced", || (synced(&log) > 0).then_some(()));
            rig.end();
        }
        next.wait_success();
        assert!(synced(&log) > 0, "stopped: {stopped}");
    }
}
