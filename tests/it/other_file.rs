//! A logger is killed, and has another `file` when it starts again: each message is in
//! exactly one of the two files, once.

use crate::logger_kills::{COUNT, Dice, ECHO, assert_same, expected, full_rig};
use crate::mini::{Held, Rig, records, wait_until, write_record};
use crate::trace::{Place, go_on, held_at, held_before_a_write, kill_at};
use plumbd::link::handover::Protocol::{Lines, Records};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Gives the logger another file, and returns the path of the one before.
fn change_file(rig: &mut Rig, name: &str) -> PathBuf {
    let before = rig.path();
    rig.settings["file"] = before.with_file_name(name).to_str().unwrap().into();
    before
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_default()
}

/// The messages of one peer in files, one after the other.
fn messages(files: &[&Path], peer: &str) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for file in files {
        let bytes = read(file);
        assert!(bytes.is_empty() || bytes.ends_with(b"\n"), "{} has only whole lines", file.display());
        for line in bytes.split_inclusive(|&byte| byte == b'\n') {
            let time = line.iter().position(|&byte| byte == b' ').expect("a line begins with its time");
            let line = plumbd::plugin::logger::escape::unescape(&line[time + 1..line.len() - 1]).unwrap();
            if line.starts_with(&[peer.as_bytes(), b" "].concat()) {
                all.push(line);
            }
        }
    }
    all
}

fn assert_once(files: &[&Path], when: &str) {
    for peer in ["tick", ECHO] {
        assert_same(&messages(files, peer), &expected(peer, COUNT), &format!("{when}, from {peer}"));
    }
}

#[test]
#[ignore = "needs ptrace and a minute, run by .ci/run"]
fn a_kill_at_any_system_call_and_another_file_lose_and_double_nothing() {
    for stop in 0.. {
        let mut rig = full_rig(COUNT);
        let place = Place { stop, steps: 0 };
        let killed = kill_at(&rig, place);
        let before = change_file(&mut rig, "other.log");
        // The logger that settles the batch may be killed too.
        if stop % 3 == 0 {
            kill_at(&rig, Place { stop: stop % 40, steps: 0 });
        }
        rig.drain();
        let when = format!("after a kill at {place:?} and another file");
        let after = rig.path();
        assert_once(&[&before, &after], &when);
        // A logger comes back to the first file, and finds nothing left to complete there.
        let (first, second) = (read(&before), read(&after));
        rig.settings["file"] = before.to_str().unwrap().into();
        rig.links_anew();
        rig.drain();
        assert_eq!((read(&before), read(&after)), (first, second), "{when}, and back");
        if !killed {
            assert!(stop > 80, "only {stop} places");
            return;
        }
    }
}

#[test]
#[ignore = "needs ptrace and a minute, run by .ci/run"]
fn kills_at_random_with_another_file_each_time_lose_and_double_nothing() {
    let mut dice = Dice(std::process::id().into());
    println!("seed {}", dice.0);
    for _ in 0..60 {
        let mut rig = full_rig(COUNT);
        let mut files = vec![rig.path()];
        let mut places = Vec::new();
        for i in 0..=dice.below(4) {
            let place = Place { stop: dice.below(250), steps: dice.below(2) * dice.below(2000) };
            places.push(place);
            kill_at(&rig, place);
            change_file(&mut rig, &format!("other{i}.log"));
            files.push(rig.path());
        }
        rig.drain();
        let files: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
        assert_once(&files, &format!("after kills at {places:?}"));
    }
}

/// A rig with one synced message, and a logger that is stopped in its fdatasync.
fn rig_in_fdatasync() -> (Rig, crate::mini::Logger) {
    let mut rig = Rig::with("raw", Records);
    write_record(&rig.links[0].source(), &records(1, 7, b"one", true)[0]);
    rig.end();
    let logger = held_at(&rig, nix::libc::SYS_fdatasync, Place { stop: 0, steps: 0 });
    (rig, logger)
}

#[test]
#[ignore = "needs ptrace, run by .ci/run"]
fn a_batch_that_was_not_synced_yet_stays_in_the_old_file() {
    let (mut rig, logger) = rig_in_fdatasync();
    logger.kill();
    let before = change_file(&mut rig, "other.log");
    rig.drain();
    assert_eq!((read(&before), rig.bytes()), (b"one\n".to_vec(), Vec::new()));
    assert_eq!(rig.links[0].acks().len(), 1);
}

#[test]
#[ignore = "needs ptrace, run by .ci/run"]
fn the_logger_waits_for_a_batch_that_another_process_is_saving() {
    let (mut rig, logger) = rig_in_fdatasync();
    let before = change_file(&mut rig, "other.log");
    let next = rig.start();
    rig.wait_notified("X_PLUMBD_PROBLEM=cannot settle a batch in");
    rig.wait_notified("EXTEND_TIMEOUT_USEC=");
    logger.kill();
    next.wait_success();
    assert_eq!((read(&before), rig.bytes()), (b"one\n".to_vec(), Vec::new()));
}

#[test]
#[ignore = "needs ptrace, run by .ci/run"]
fn a_batch_is_settled_in_a_file_that_was_renamed_meanwhile() {
    let (mut rig, logger) = rig_in_fdatasync();
    logger.kill();
    let before = change_file(&mut rig, "other.log");
    let moved = before.with_file_name("m.log.1");
    std::fs::rename(&before, &moved).unwrap();
    rig.drain();
    assert_eq!((read(&moved), before.exists(), rig.bytes()), (b"one\n".to_vec(), false, Vec::new()));
}

#[test]
#[ignore = "needs ptrace, run by .ci/run"]
fn a_batch_whose_file_is_gone_is_taken_again() {
    for also_the_intent in [false, true] {
        let (mut rig, logger) = rig_in_fdatasync();
        logger.kill();
        let before = change_file(&mut rig, "other.log");
        std::fs::remove_file(&before).unwrap();
        if also_the_intent {
            std::fs::remove_file(before.with_file_name(".m.log.intent")).unwrap();
        }
        rig.drain();
        assert_eq!((before.exists(), rig.bytes()), (false, b"one\n".to_vec()), "{also_the_intent}");
        assert!(rig.logged().contains("the batch that was for it is taken again"));
        // Nor is it completed in the old file later.
        rig.settings["file"] = before.to_str().unwrap().into();
        rig.links_anew();
        rig.drain();
        assert_eq!(rig.bytes(), b"");
    }
}

#[test]
#[ignore = "needs ptrace, run by .ci/run"]
fn a_batch_whose_intent_file_is_gone_is_cut_out_there_and_taken_again() {
    let (mut rig, logger) = rig_in_fdatasync();
    logger.kill();
    let before = change_file(&mut rig, "other.log");
    std::fs::remove_file(before.with_file_name(".m.log.intent")).unwrap();
    rig.drain();
    assert_eq!((read(&before), rig.bytes()), (Vec::new(), b"one\n".to_vec()));
    assert_eq!(read(&rig.files("m.log.torn-")[0]), b"one\n");
}

#[test]
#[ignore = "needs ptrace, run by .ci/run"]
fn a_batch_that_was_promised_and_not_begun_is_saved_in_the_old_file() {
    let mut rig = Rig::with("raw", Lines);
    rig.links[0].source().write_all(b"one\n").unwrap();
    rig.end();
    held_before_a_write(&rig).kill();
    let before = change_file(&mut rig, "other.log");
    rig.drain();
    assert_eq!((read(&before), rig.bytes()), (b"one\n".to_vec(), Vec::new()));
}

#[test]
#[ignore = "needs ptrace and a minute, run by .ci/run"]
fn loggers_that_are_killed_and_exchange_files_lose_and_double_nothing() {
    let mut dice = Dice(std::process::id().into());
    println!("seed {}", dice.0);
    for round in 0..60 {
        let mut rigs = ["tick", "tock"].map(|from| {
            let mut rig = Rig::new("raw");
            rig.links.push(Held::new(from, Lines, 1 << 20));
            let text: String = (0..20_000).map(|i| format!("{from} {i}\n")).collect();
            rig.links[0].source().write_all(text.as_bytes()).unwrap();
            rig.end();
            (rig, text)
        });
        let folder = tempfile::tempdir().unwrap();
        let paths = ["a.log", "b.log"].map(|name| folder.path().join(name));
        let mut places = Vec::new();
        for turn in 0..3 {
            let mut loggers = Vec::new();
            for (at, (rig, _)) in rigs.iter_mut().enumerate() {
                rig.settings["file"] = paths[(at + turn) % 2].to_str().unwrap().into();
                if turn == 2 {
                    loggers.push(rig.start());
                }
            }
            if turn == 2 {
                loggers.into_iter().for_each(crate::mini::Logger::wait_success);
                break;
            }
            // In turn 1, one logger may settle a batch of the other.
            for (rig, _) in rigs.iter().skip(if turn == 1 { dice.below(2) } else { 0 }) {
                let place = Place { stop: dice.below(90), steps: dice.below(2) * dice.below(500) };
                places.push(place);
                kill_at(rig, place);
            }
        }
        let all = [read(&paths[0]), read(&paths[1])].concat();
        let lines: Vec<&[u8]> = all.split_inclusive(|&byte| byte == b'\n').collect();
        for (rig, text) in &rigs {
            let from = &text[..5];
            let mut got: Vec<&[u8]> = lines.iter().copied().filter(|line| line.starts_with(from.as_bytes())).collect();
            let mut want: Vec<&[u8]> = text.as_bytes().split_inclusive(|&byte| byte == b'\n').collect();
            got.sort_unstable();
            want.sort_unstable();
            assert_eq!(got.len(), want.len(), "{from}, round {round}, {places:?}");
            assert!(got == want, "{from}, round {round}, {places:?}");
            assert_eq!(rig.links[0].queued(), 0);
        }
        assert_eq!(lines.len(), 40_000, "round {round}, {places:?}");
    }
}

#[test]
#[ignore = "needs ptrace, run by .ci/run"]
fn a_batch_that_the_next_owner_of_a_file_completed_is_not_taken_again() {
    let mut rig = Rig::with("raw", Lines);
    rig.links[0].source().write_all(b"one\n").unwrap();
    rig.end();
    let logger = held_before_a_write(&rig);
    // The bytes are in the file, and nothing more has been done.
    go_on(&logger, 1);
    logger.kill();
    let mut other = Rig::with("raw", Lines);
    other.settings["file"] = rig.path().to_str().unwrap().into();
    let running = other.start();
    other.wait_notified("READY=1");
    // The next owner still has the file, although it has been moved away.
    std::fs::rename(rig.path(), rig.path().with_file_name("moved.log")).unwrap();
    let before = change_file(&mut rig, "other.log");
    rig.drain();
    other.links[0].source().write_all(b"two\n").unwrap();
    other.end();
    running.wait_success();
    assert_eq!(read(&before.with_file_name("moved.log")), b"one\ntwo\n");
    assert_eq!(rig.bytes(), b"");
    wait_until("nothing is left", || (rig.links[0].queued() == 0).then_some(()));
}
