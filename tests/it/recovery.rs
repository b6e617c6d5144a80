//! What a logger does with what other loggers left: each batch is in the files once, and
//! no other messages are touched.

use crate::logger::promised;
use crate::logger_kills::start_failing;
use crate::mini::{Rig, records, wait_until, write_record};
use crate::trace::{held_before_a_write, try_go_on};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::Signal::SIGTERM;
use plumbd::link::handover::Protocol::{Lines, Records};
use plumbd::link::intent::{FileId, Intent};
use plumbd::link::ledger::{Batch, Ledger};
use plumbd::link::record::Ack;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const NONE: Ack = Ack { epoch: 0, sequence: 0 };

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

fn intent_file(rig: &Rig) -> PathBuf {
    rig.folder.path().join(".m.log.intent")
}

/// A rig with `batch` in its link. Its ledger has that as batch 7, which begins at `offset` of
/// a file.
fn prepared(at: &Path, offset: u64, batch: &str) -> Rig {
    let rig = Rig::with("raw", Lines);
    let file = FileId::of(&std::fs::metadata(at).unwrap());
    let mut ledger = Ledger::open(rig.links[0].intake.ledger.try_clone().unwrap()).unwrap();
    ledger.set_path(at).unwrap();
    ledger.prepare(&Batch { id: 7, take: batch.len() as u64, last: NONE, offset, file }, b"", 0).unwrap();
    rig.links[0].source().write_all(batch.as_bytes()).unwrap();
    rig
}

/// Changes the promise in an intent file so that its body is not whole.
fn tear(intent: &Path) {
    let file = std::fs::OpenOptions::new().write(true).open(intent).unwrap();
    file.write_all_at(b"~", 4096).unwrap();
}

#[test]
fn a_batch_that_was_never_promised_removes_no_other_bytes_from_a_file() {
    // Either its own promise was cut short, or the promise of a later logger, whose file is
    // the same or another.
    for (elsewhere, closed) in [(false, false), (false, true), (true, false), (true, true)] {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join("m.log");
        std::fs::write(&at, "one\nan hour\nof another's\n").unwrap();
        let mut rig = prepared(&at, 4, "batch\n");
        let other = Rig::with("raw", Lines);
        std::fs::write(other.path(), "").unwrap();
        promised(&other, &at, 25, b"never\n");
        tear(&intent_file(&other));
        std::fs::rename(intent_file(&other), folder.path().join(".m.log.intent")).unwrap();
        if closed {
            let mut intent = Intent::open(&folder.path().join(".m.log.intent"), 4096).unwrap().unwrap();
            intent.close().unwrap();
        }
        if !elsewhere {
            rig.settings["file"] = at.to_str().unwrap().into();
        }
        rig.drain();
        let (own, here) = if elsewhere { (rig.text(), "") } else { ("batch\n".to_owned(), "batch\n") };
        assert_eq!(read(&at), format!("one\nan hour\nof another's\n{here}"), "{elsewhere} {closed}");
        assert_eq!(own, "batch\n", "{elsewhere} {closed}");
    }
}

#[test]
fn a_promise_that_a_link_is_done_with_is_not_completed_again_whatever_became_of_its_file() {
    for moved in [true, false] {
        let mut rig = Rig::with("raw", Lines);
        std::fs::write(rig.path(), "one\nbatch\n").unwrap();
        promised(&rig, &rig.path(), 4, b"batch\n");
        let file = FileId::of(&std::fs::metadata(rig.path()).unwrap());
        let ledger = Ledger::open(rig.links[0].intake.ledger.try_clone().unwrap()).unwrap();
        ledger.prepare(&Batch { id: 7, take: 0, last: NONE, offset: 4, file }, b"", 0).unwrap();
        ledger.consuming(0);
        ledger.consumed();
        if moved {
            // The file was moved to another folder, or compressed.
            std::fs::remove_file(rig.path()).unwrap();
        } else {
            // This is what copytruncate of logrotate does.
            std::fs::write(rig.path(), "").unwrap();
        }
        rig.links[0].source().write_all(b"next\n").unwrap();
        rig.drain();
        assert_eq!(rig.text(), "next\n", "{moved}");
    }
}

/// A rig with a batch that is promised to a file which has been renamed since.
fn renamed(text: &str, batch: &str) -> (Rig, PathBuf) {
    let rig = Rig::with("raw", Lines);
    let other = rig.folder.path().join("other");
    std::fs::write(&other, text).unwrap();
    promised(&rig, &other, 4, batch.as_bytes());
    (rig, other)
}

#[test]
fn a_renamed_file_that_another_process_wrote_into_has_no_line_twice() {
    for (text, moved) in [
        ("one\nfirst\nhis\n", "first\nhis\n"),
        ("one\nfirst\nsechis\n", "first\nsechis\n"),
        ("one\nhis\nfirst\n\n", "first\n\n"),
    ] {
        let (mut rig, other) = renamed(text, "first\nsecond\n");
        rig.drain();
        assert_eq!((read(&other) + moved, rig.text().as_str()), (text.to_owned(), "first\nsecond\n"), "{text:?}");
        let torn = rig.files("other.torn-");
        assert_eq!(torn.iter().map(|path| read(path)).collect::<Vec<_>>(), [moved], "{text:?}");
    }
}

#[test]
fn a_renamed_file_that_has_all_of_a_batch_needs_neither_a_lock_nor_a_write() {
    let (mut rig, other) = renamed("one\nbatch\n", "batch\n");
    let lock = Flock::lock(File::open(&other).unwrap(), FlockArg::LockExclusive).unwrap();
    rig.drain();
    assert_eq!((read(&other).as_str(), rig.text().as_str()), ("one\nbatch\n", ""));
    drop(lock);
}

#[test]
fn the_logger_waits_for_a_renamed_file_that_another_process_has_locked() {
    let (mut rig, other) = renamed("one\nbat", "batch\n");
    let lock = Flock::lock(File::open(&other).unwrap(), FlockArg::LockExclusive).unwrap();
    let logger = rig.start();
    rig.wait_notified("X_PLUMBD_PROBLEM=cannot open ");
    assert_eq!(read(&other), "one\nbat");
    drop(lock);
    rig.end();
    logger.wait_success();
    assert_eq!((read(&other).as_str(), rig.text().as_str()), ("one\nbatch\n", ""));
}

#[test]
#[ignore = "needs strace, run by .ci/run"]
fn a_renamed_file_that_cannot_be_synced_is_put_aside_and_the_batch_saved_whole() {
    for text in ["one\nbat", "one\nbatch\n"] {
        let (mut rig, other) = renamed(text, "batch\n");
        rig.end();
        start_failing(&rig, "fdatasync:error=EIO:when=1").wait_success();
        assert_eq!((other.exists(), rig.text().as_str()), (false, "batch\n"), "{text:?}");
        assert_eq!(read(&rig.files("other.untrusted-")[0]), "one\nbatch\n", "{text:?}");
    }
}

#[test]
#[ignore = "needs strace, run by .ci/run"]
fn bytes_that_were_there_already_are_written_again_before_they_are_synced() {
    let mut rig = Rig::with("raw", Lines);
    std::fs::write(rig.path(), "one\nbatch\nhis\n").unwrap();
    promised(&rig, &rig.path(), 4, b"batch\n");
    rig.end();
    let trace = rig.folder.path().join("trace");
    let calls = "trace=pwrite64,fdatasync";
    rig.start_under(&["strace", "-qq", "-y", "-o", trace.to_str().unwrap(), "-e", calls]).wait_success();
    let trace = read(&trace);
    let at = |text: &str| trace.find(text).unwrap_or_else(|| panic!("{text}\n{trace}"));
    assert!(at("m.log>, \"batch\\n\", 6, 4)") < at("m.log>) "), "{trace}");
    assert_eq!(rig.text(), "one\nbatch\nhis\n");
}

#[test]
#[ignore = "needs strace, run by .ci/run"]
fn a_batch_that_could_not_be_synced_before_a_stop_is_saved_in_a_file_that_is_trusted() {
    let mut rig = Rig::with("raw", Records);
    rig.settings["sync"] = "1h".into();
    let logger = start_failing(&rig, "fdatasync:error=EIO");
    rig.wait_notified("READY=1");
    let source = rig.links[0].source();
    write_record(&source, &records(1, 7, b"one", false)[0]);
    wait_until("it is saved", || (rig.text() == "one\n").then_some(()));
    write_record(&source, &records(2, 7, b"two", true)[0]);
    rig.wait_notified("X_PLUMBD_PROBLEM=cannot bring ");
    // strace passes the signal on, if it is sent to the process group.
    nix::sys::signal::killpg(logger.pid(), SIGTERM).unwrap();
    logger.wait_success();
    drop(source);
    rig.drain();
    assert_eq!(rig.text(), "two\n", "{}", rig.logged());
    assert_eq!(rig.links[0].acks().last(), Some(&Ack { epoch: 7, sequence: 2 }));
}

#[test]
#[ignore = "needs ptrace, run by .ci/run"]
fn if_a_folder_is_emptied_in_the_middle_of_a_batch_the_promise_is_not_lost() {
    for stops in 0.. {
        let mut rig = Rig::with("raw", Lines);
        rig.links[0].source().write_all(b"one\n").unwrap();
        rig.end();
        let logger = held_before_a_write(&rig);
        std::fs::remove_file(rig.path()).unwrap();
        std::fs::remove_file(intent_file(&rig)).unwrap();
        let mut left = stops;
        while left > 0 && try_go_on(&logger) {
            left -= 1;
        }
        logger.kill();
        rig.drain();
        let torn: Vec<String> = rig.files("m.log.torn-").iter().map(|path| read(path)).collect();
        assert_eq!(rig.text(), "one\n", "{stops} {torn:?} {}", rig.logged());
        if left > 0 {
            assert!(stops > 40, "only {stops} places");
            return;
        }
    }
}
