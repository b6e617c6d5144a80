//! The message file is removed, replaced, linked or renamed while a logger has it.

use crate::mini::{Logger, Rig, records, wait_until, write_record};
use nix::sys::signal::Signal::{SIGTERM, SIGUSR1};
use plumbd::link::handover::Protocol::{Lines, Records};
use plumbd::link::record::Ack;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, symlink};

fn stop(logger: Logger) {
    logger.signal(SIGTERM);
    logger.wait_success();
}

/// Sends a message and waits until it is acknowledged.
fn send(rig: &Rig, sequence: u64, message: &str, sync: bool) {
    let source = rig.links[0].source();
    records(sequence, 7, message.as_bytes(), sync).iter().for_each(|record| write_record(&source, record));
    wait_until("it is acknowledged", || rig.links[0].acks().contains(&Ack { epoch: 7, sequence }).then_some(()));
}

fn inode(rig: &Rig) -> Option<u64> {
    fs::metadata(rig.path()).ok().map(|is| is.ino())
}

#[test]
fn what_is_acknowledged_after_a_removal_is_in_a_file_with_a_name() {
    for sync in [false, true] {
        let rig = Rig::with("raw", Records);
        let logger = rig.start();
        for sequence in 1..50 {
            send(&rig, sequence, &format!("{sequence}"), sync);
            assert!(rig.text().ends_with(&format!("{sequence}\n")), "{sequence} is in no file");
            fs::remove_file(rig.path()).unwrap();
        }
        stop(logger);
    }
}

#[test]
fn an_idle_logger_makes_a_new_file_at_once_if_its_own_is_removed() {
    let rig = Rig::with("raw", Records);
    let logger = rig.start();
    rig.wait_notified("READY=1");
    for _ in 0..3 {
        let old = fs::File::open(rig.path()).unwrap();
        fs::remove_file(rig.path()).unwrap();
        wait_until("there is a new file", || inode(&rig));
        assert_ne!(inode(&rig), Some(old.metadata().unwrap().ino()));
    }
    // The logger watches the new file each time, even if that is then renamed.
    let moved = rig.folder.path().join("moved");
    fs::rename(rig.path(), &moved).unwrap();
    assert!(!rig.path().exists());
    fs::remove_file(&moved).unwrap();
    wait_until("there is a new file", || inode(&rig));
    send(&rig, 1, "one", true);
    assert_eq!(rig.text(), "one\n");
    stop(logger);
}

#[test]
fn the_logger_goes_on_with_a_file_that_replaces_its_own() {
    let rig = Rig::with("raw", Records);
    let logger = rig.start();
    for sequence in (1..40).step_by(2) {
        send(&rig, sequence, "ours", false);
        let other = rig.folder.path().join("other");
        fs::write(&other, "theirs\nhalf").unwrap();
        fs::rename(&other, rig.path()).unwrap();
        send(&rig, sequence + 1, "next", false);
        assert_eq!(rig.text(), "theirs\nnext\n");
    }
    stop(logger);
    assert!(rig.files("m.log.torn-").iter().all(|torn| fs::read(torn).unwrap() == b"half"));
}

#[test]
fn the_logger_goes_on_with_a_file_that_another_process_made_after_a_removal() {
    let rig = Rig::with("raw", Records);
    let logger = rig.start();
    send(&rig, 1, "one", false);
    fs::remove_file(rig.path()).unwrap();
    let _made = fs::File::options().append(true).create(true).open(rig.path()).unwrap().write_all(b"theirs\n");
    send(&rig, 2, "two", false);
    assert!(rig.text().ends_with("two\n"));
    stop(logger);
}

#[test]
fn a_file_that_has_another_name_is_not_replaced_before_a_reopen() {
    let rig = Rig::with("raw", Records);
    let logger = rig.start();
    send(&rig, 1, "one", false);
    let other = rig.folder.path().join("other");
    fs::hard_link(rig.path(), &other).unwrap();
    send(&rig, 2, "two", false);
    fs::remove_file(rig.path()).unwrap();
    send(&rig, 3, "three", false);
    assert_eq!((fs::read_to_string(&other).unwrap().as_str(), rig.path().exists()), ("one\ntwo\nthree\n", false));
    // Its last name is removed too.
    fs::remove_file(&other).unwrap();
    send(&rig, 4, "four", false);
    assert_eq!(rig.text(), "four\n");
    logger.signal(SIGUSR1);
    send(&rig, 5, "five", false);
    assert_eq!(rig.text(), "four\nfive\n");
    stop(logger);
}

#[test]
fn if_its_folder_is_removed_nothing_is_acknowledged_until_that_is_back() {
    let mut rig = Rig::with("raw", Records);
    let folder = rig.folder.path().join("logs");
    rig.settings["file"] = folder.join("m.log").to_str().unwrap().into();
    fs::create_dir(&folder).unwrap();
    let logger = rig.start();
    send(&rig, 1, "one", false);
    fs::remove_dir_all(&folder).unwrap();
    rig.wait_notified("X_PLUMBD_PROBLEM=cannot open ");
    let source = rig.links[0].source();
    records(2, 7, b"two", false).iter().for_each(|record| write_record(&source, record));
    assert!(rig.links[0].acks().is_empty());
    fs::create_dir(&folder).unwrap();
    wait_until("it is acknowledged", || rig.links[0].acks().contains(&Ack { epoch: 7, sequence: 2 }).then_some(()));
    assert_eq!(rig.text(), "two\n");
    wait_until("the intent file is there again", || (!rig.files(".m.log.intent").is_empty()).then_some(()));
    stop(logger);
}

#[test]
fn the_file_behind_a_symbolic_link_is_made_again_where_the_link_points() {
    let rig = Rig::with("raw", Records);
    let folder = rig.folder.path().join("elsewhere");
    fs::create_dir(&folder).unwrap();
    let real = folder.join("real.log");
    symlink(&real, rig.path()).unwrap();
    let logger = rig.start();
    send(&rig, 1, "one", true);
    fs::remove_file(&real).unwrap();
    send(&rig, 2, "two", true);
    assert_eq!(fs::read_to_string(&real).unwrap(), "two\n");
    assert!(rig.path().is_symlink());
    stop(logger);
}

#[test]
fn lines_of_any_program_are_never_consumed_into_a_removed_file() {
    let mut rig = Rig::with("raw", Lines);
    let logger = rig.start();
    let mut source = rig.links[0].source();
    for i in 0..50 {
        source.write_all(format!("{i}\n").as_bytes()).unwrap();
        wait_until("it was taken", || (rig.links[0].queued() == 0).then_some(()));
        wait_until("it is in a file", || rig.text().ends_with(&format!("{i}\n")).then_some(()));
        fs::remove_file(rig.path()).unwrap();
    }
    drop(source);
    rig.end();
    logger.wait_success();
}

#[test]
fn the_folder_with_the_file_is_synced_wherever_links_lead() {
    for levels in [0, 1, 2] {
        let mut rig = Rig::with("raw", Records);
        let folder = rig.folder.path().canonicalize().unwrap();
        let names: Vec<_> = (0..=levels).map(|level| folder.join(format!("folder{level}"))).collect();
        names.iter().for_each(|name| fs::create_dir(name).unwrap());
        for pair in names.windows(2) {
            // One link is relative, the other is not.
            let target = if pair[0] == names[0] { "../folder1/m.log".into() } else { pair[1].join("m.log") };
            symlink(target, pair[0].join("m.log")).unwrap();
        }
        rig.settings["file"] = names[0].join("m.log").to_str().unwrap().into();
        let trace = folder.join("trace");
        let logger = rig.start_under(&["strace", "-qq", "-y", "-o", trace.to_str().unwrap(), "-e", "trace=fsync"]);
        send(&rig, 1, "one", true);
        rig.end();
        logger.wait_success();
        let trace = fs::read_to_string(trace).unwrap();
        let synced = format!("<{}>)", names[levels].display());
        assert!(trace.contains(&synced), "{synced}\n{trace}");
    }
}
