//! Whenever a logger is killed, each message is in the file exactly once.

use crate::logger::promised;
use crate::mini::{Held, Logger, Rig, records, wait_until, write_record};
use crate::trace::{Place, go_on, held_at, held_before_a_write, kill_at, let_go};
use nix::sys::signal::Signal::SIGTERM;
use plumbd::link::handover::Protocol::{self, Lines, Records};
use plumbd::plugin::logger::escape::unescape;
use std::fs::File;
use std::io::Write;
use std::time::Duration;

/// Numbers that look random but are the same each time.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % n
    }
}

/// Message number `i`: some short, some long, some not text.
fn message(i: usize) -> Vec<u8> {
    let mut message = format!("{i} ").into_bytes();
    match i % 97 {
        0 => message.resize(9000, b'x'),
        1..=5 => message.extend_from_slice(b"\xff\x00\\ caf\xc3\xa9"),
        other => message.resize(message.len() + other, b'.'),
    }
    message
}

/// The messages of a link as they should be in the file, each without its time.
pub(crate) fn expected(peer: &str, count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|i| [peer.as_bytes(), b" ", &message(i)].concat()).collect()
}

/// The messages of one peer in a file of text, and in what was rotated from it.
pub(crate) fn saved(rig: &Rig, peer: &str) -> Vec<Vec<u8>> {
    let bytes = rig.all_bytes();
    assert!(bytes.is_empty() || bytes.ends_with(b"\n"), "the file holds only whole lines");
    let begin = [peer.as_bytes(), b" "].concat();
    let lines = bytes.split_inclusive(|&byte| byte == b'\n').map(|line| {
        let time = line.iter().position(|&byte| byte == b' ').expect("a line begins with its time");
        assert_eq!(time, "2026-11-22T15:04:05.123456Z".len(), "{:?}", String::from_utf8_lossy(line));
        unescape(&line[time + 1..line.len() - 1]).expect("a line is as it was written")
    });
    lines.filter(|line| line.starts_with(&begin)).collect()
}

/// Compares without printing megabytes.
pub(crate) fn assert_same(got: &[Vec<u8>], want: &[Vec<u8>], when: &str) {
    let differs = got.iter().zip(want).position(|(a, b)| a != b);
    let show = |all: &[Vec<u8>], at: usize| all.get(at).map(|m| String::from_utf8_lossy(m).into_owned());
    let at = differs.unwrap_or(got.len().min(want.len()));
    assert!(
        got == want,
        "{when}: {} messages, expected {}; number {at} is {:?}, expected {:?}",
        got.len(),
        want.len(),
        show(got, at),
        show(want, at)
    );
}

pub(crate) const ECHO: &str = "127.0.0.1:40312";

fn write_all(protocol: Protocol, mut queue: File, count: usize, dice: &mut Dice) {
    let mut lines = Vec::new();
    for i in 0..count {
        match protocol {
            Lines => {
                lines.extend_from_slice(&message(i).into_iter().filter(|&b| b != b'\n').collect::<Vec<_>>());
                lines.push(b'\n');
                // Writes end anywhere, not only where lines do.
                let cut = dice.below(4000);
                if lines.len() > cut {
                    queue.write_all(&lines[..cut]).unwrap();
                    lines.drain(..cut);
                }
            }
            Records => {
                for record in records(i as u64 + 1, 7, &message(i), i % 50 == 0) {
                    write_record(&queue, &record);
                }
            }
        }
    }
    queue.write_all(&lines).unwrap();
}

pub(crate) fn under_load(mut rig: Rig, peer: &str, kills: usize) -> Rig {
    let protocol = if peer == ECHO { Records } else { Lines };
    let queue = rig.links[0].source();
    let count = 60_000;
    let writer = std::thread::spawn(move || write_all(protocol, queue, count, &mut Dice(5)));
    let mut dice = Dice(11);
    for _ in 0..kills {
        let logger = rig.start();
        std::thread::sleep(Duration::from_micros(dice.below(30_000) as u64));
        logger.kill();
    }
    let last = rig.start();
    writer.join().unwrap();
    rig.end();
    last.wait_success();
    assert_same(&saved(&rig, peer), &expected(peer, count), "after kills under load");
    rig
}

#[test]
fn lines_under_load_survive_kills_at_random_instants() {
    under_load(Rig::with("text", Lines), "tick", 60);
}

#[test]
fn records_under_load_survive_kills_at_random_instants() {
    under_load(Rig::with("text", Records), ECHO, 60);
}

/// A rig with a link of lines and one of records. Both are full of messages that take more than
/// one batch, and have ended.
pub(crate) fn full_rig(count: usize) -> Rig {
    let mut rig = Rig::new("text");
    for (from, protocol) in [("tick", Lines), ("echo", Records)] {
        rig.links.push(Held::new(from, protocol, 1 << 20));
        write_all(protocol, rig.links.last().unwrap().source(), count, &mut Dice(5));
    }
    rig.end();
    rig
}

/// More than one batch, and a message that is carried over.
pub(crate) const COUNT: usize = 3500;

fn assert_all_saved(rig: &Rig, when: &str) {
    assert_saved_once(rig, when);
    assert_eq!(rig.files("m.log"), [rig.path()], "{when}");
}

fn assert_saved_once(rig: &Rig, when: &str) {
    for peer in ["tick", ECHO] {
        assert_same(&saved(rig, peer), &expected(peer, COUNT), &format!("{when}, from {peer}"));
    }
}

#[test]
#[ignore = "needs ptrace and a minute, run by .ci/run"]
fn a_kill_before_or_after_any_system_call_loses_and_doubles_nothing() {
    for stop in 0.. {
        let mut rig = full_rig(COUNT);
        let place = Place { stop, steps: 0 };
        if !kill_at(&rig, place) {
            println!("{stop} places");
            assert!(stop > 80, "only {stop} places");
            assert_all_saved(&rig, "without any kill");
            return;
        }
        rig.drain();
        assert_all_saved(&rig, &format!("after a kill at {place:?}"));
    }
}

#[test]
#[ignore = "needs ptrace and a minute, run by .ci/run"]
fn kills_at_any_instruction_even_of_a_recovery_lose_and_double_nothing() {
    let mut dice = Dice(std::process::id().into());
    println!("seed {}", dice.0);
    for _ in 0..200 {
        let mut rig = full_rig(COUNT);
        let mut places = Vec::new();
        for _ in 0..=dice.below(3) {
            let place = Place { stop: dice.below(150), steps: dice.below(2).pow(2) * dice.below(3000) };
            places.push(place);
            kill_at(&rig, place);
        }
        rig.drain();
        assert_all_saved(&rig, &format!("after kills at {places:?}"));
    }
}

#[test]
#[ignore = "needs ptrace and a minute, run by .ci/run"]
fn if_all_processes_are_killed_what_was_acknowledged_is_saved_once_and_nothing_is_torn() {
    let mut dice = Dice(3);
    for stop in 0.. {
        let mut rig = full_rig(COUNT);
        let place = Place { stop, steps: dice.below(2) * dice.below(200) };
        if !kill_at(&rig, place) {
            return;
        }
        let acknowledged = rig.links[1].acks().last().map_or(0, |ack| ack.sequence);
        let before = rig.bytes();
        rig.links_anew();
        rig.links[0].source().write_all(b"after\n").unwrap();
        rig.drain();
        let when = format!("after all were killed at {place:?}");
        let after = rig.bytes();
        assert!(after.starts_with(&before), "the file only ever grows, {when}");
        for peer in ["tick", ECHO] {
            let mut got = saved(&rig, peer);
            if peer == "tick" {
                assert_eq!(got.pop().as_deref(), Some(&b"tick after"[..]), "{when}");
            } else {
                assert!(got.len() as u64 >= acknowledged, "{acknowledged} were acknowledged, {when}");
            }
            assert_same(&got, &expected(peer, COUNT)[..got.len()], &when);
        }
        assert_eq!(rig.files("m.log"), [rig.path()], "{when}");
    }
}

#[test]
#[ignore = "needs ptrace and a minute, run by .ci/run"]
fn an_intent_file_that_is_lost_with_its_logger_loses_and_doubles_nothing() {
    for stop in 0.. {
        let mut rig = full_rig(COUNT);
        let place = Place { stop, steps: 0 };
        if !kill_at(&rig, place) {
            return;
        }
        let _may_not_be_there_yet = std::fs::remove_file(rig.folder.path().join(".m.log.intent"));
        rig.drain();
        let when = format!("after a kill at {place:?} and the loss of the intent file");
        assert_saved_once(&rig, &when);
        // What was taken again was moved away.
        let aside = rig.files("m.log").len() - 1;
        assert!(aside <= 1 && rig.files("m.log.torn-").len() == aside, "{when}");
    }
}

/// Starts a logger with some of its system calls failing.
pub(crate) fn start_failing(rig: &Rig, inject: &str) -> Logger {
    let call = inject.split(':').next().unwrap();
    let (trace, inject) = (format!("trace={call}"), format!("inject={inject}"));
    rig.start_under(&["strace", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject])
}

#[test]
#[ignore = "needs strace, run by .ci/run"]
fn a_full_disk_is_waited_for_and_reported() {
    let rig = full_rig(COUNT);
    // The third write to the file fails five times; the others come through.
    let logger = start_failing(&rig, "pwrite64:error=ENOSPC:when=2..6");
    rig.wait_notified("X_PLUMBD_PROBLEM=cannot write to");
    rig.wait_notified("X_PLUMBD_PROBLEM=");
    logger.wait_success();
    assert_all_saved(&rig, "after a full disk");
}

#[test]
#[ignore = "needs strace, run by .ci/run"]
fn a_logger_that_is_stopped_on_a_full_disk_leaves_the_rest_to_the_next() {
    for from in [1, 2] {
        let mut rig = full_rig(COUNT);
        let logger = start_failing(&rig, &format!("pwrite64:error=ENOSPC:when={from}+"));
        rig.wait_notified("X_PLUMBD_PROBLEM=cannot write to");
        // strace passes the signal on, if it is sent to the process group.
        nix::sys::signal::killpg(logger.pid(), SIGTERM).unwrap();
        logger.wait_success();
        rig.drain();
        assert_all_saved(&rig, "after a stop on a full disk");
    }
}

#[test]
#[ignore = "needs strace, run by .ci/run"]
fn a_file_that_cannot_be_synced_is_put_aside_and_the_batch_saved_anew() {
    let mut rig = Rig::with("raw", Records);
    write_record(&rig.links[0].source(), &records(1, 7, b"one", true)[0]);
    rig.end();
    std::fs::write(rig.path(), "before\n").unwrap();
    // The new file can't be synced at first either.
    start_failing(&rig, "fdatasync:error=EIO:when=1..3").wait_success();
    assert_eq!(rig.text(), "one\n");
    let aside = rig.files("m.log.untrusted-");
    assert_eq!(aside.len(), 1, "{aside:?}");
    assert_eq!(std::fs::read_to_string(&aside[0]).unwrap(), "before\none\n");
    assert_eq!(rig.links[0].acks().len(), 1);
}

#[test]
#[ignore = "needs strace, run by .ci/run"]
fn a_torn_end_that_cannot_be_cut_off_is_waited_for_without_leaving_copies() {
    let mut rig = Rig::with("raw", Lines);
    std::fs::write(rig.path(), "whole\nto").unwrap();
    rig.links[0].source().write_all(b"next\n").unwrap();
    rig.end();
    // This is the error that `chattr +a` causes.
    let logger = start_failing(&rig, "ftruncate:error=EPERM:when=1..3");
    rig.wait_notified("X_PLUMBD_PROBLEM=cannot mend the end of");
    logger.wait_success();
    assert_eq!(rig.text(), "whole\nnext\n");
    let torn = rig.files("m.log.torn-");
    assert_eq!(torn.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect::<Vec<_>>(), ["to"]);
}

#[test]
#[ignore = "needs strace, run by .ci/run"]
fn a_file_that_cannot_be_written_to_is_promised_nothing() {
    let mut rig = full_rig(COUNT);
    let logger = start_failing(&rig, "fallocate:error=EROFS:when=1+");
    rig.wait_notified("X_PLUMBD_PROBLEM=cannot write to");
    nix::sys::signal::killpg(logger.pid(), SIGTERM).unwrap();
    logger.wait_success();
    assert_eq!(rig.bytes(), b"");
    // So the next logger saves everything in the file that it finds.
    std::fs::remove_file(rig.path()).unwrap();
    rig.drain();
    assert_all_saved(&rig, "after a file that was read-only");
}

#[test]
#[ignore = "needs strace, run by .ci/run"]
fn a_file_that_can_neither_be_synced_nor_put_aside_is_waited_for() {
    let mut rig = Rig::with("raw", Records);
    write_record(&rig.links[0].source(), &records(1, 7, b"one", true)[0]);
    rig.end();
    std::fs::write(rig.path(), "before\n").unwrap();
    let rename = "inject=?rename,?renameat,?renameat2:error=EROFS:when=1..3";
    let logger = rig.start_under(&[
        "strace",
        "-qq",
        "-o",
        "/dev/null",
        "-e",
        "trace=fdatasync,?rename,?renameat,?renameat2",
        "-e",
        "inject=fdatasync:error=EIO:when=1",
        "-e",
        rename,
    ]);
    rig.wait_notified("X_PLUMBD_PROBLEM=cannot put ");
    logger.wait_success();
    assert_eq!(rig.text(), "one\n");
    let aside = rig.files("m.log.untrusted-");
    assert_eq!(aside.len(), 1, "{aside:?}");
    assert_eq!(std::fs::read_to_string(&aside[0]).unwrap(), "before\none\n");
}

#[test]
#[ignore = "needs strace, run by .ci/run"]
fn a_file_that_cannot_be_synced_while_its_folder_is_away_is_put_aside_once_that_is_back() {
    let mut rig = Rig::with("raw", Records);
    let [folder, away] = ["folder", "away"].map(|name| rig.folder.path().join(name));
    std::fs::create_dir(&folder).unwrap();
    rig.settings["file"] = folder.join("m.log").to_str().unwrap().into();
    std::fs::write(rig.path(), "before\n").unwrap();
    let logger = start_failing(&rig, "fdatasync:error=EIO:when=1");
    rig.wait_notified("READY=1");
    std::fs::rename(&folder, &away).unwrap();
    write_record(&rig.links[0].source(), &records(1, 7, b"one", true)[0]);
    rig.wait_notified("X_PLUMBD_PROBLEM=cannot open");
    std::fs::rename(&away, &folder).unwrap();
    rig.end();
    logger.wait_success();
    assert_eq!(rig.text(), "one\n");
    let aside = rig.files("m.log.untrusted-");
    assert_eq!(aside.len(), 1, "{aside:?}");
    assert_eq!(std::fs::read_to_string(&aside[0]).unwrap(), "before\none\n");
}

#[test]
#[ignore = "needs strace, run by .ci/run"]
fn a_batch_that_cannot_be_looked_at_is_waited_for() {
    let mut rig = Rig::with("raw", Lines);
    std::fs::write(rig.path(), "one\nbat").unwrap();
    promised(&rig, &rig.path(), 4, b"batch\n");
    rig.end();
    let path = rig.path();
    let only = ["-P", path.to_str().unwrap(), "-e", "trace=pread64", "-e", "inject=pread64:error=EIO:when=1..2"];
    let logger = rig.start_under(&[&["strace", "-qq", "-o", "/dev/null"][..], &only].concat());
    rig.wait_notified("X_PLUMBD_PROBLEM=cannot look at");
    logger.wait_success();
    assert_eq!(rig.text(), "one\nbatch\n");
}

#[test]
#[ignore = "needs root for a file system of its own, run by .ci/run"]
fn a_disk_that_is_really_full_holds_the_sources_until_there_is_room() {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    let mut rig = Rig::with("raw", Lines);
    let disk = rig.folder.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    mount(Some("tmpfs"), &disk, Some("tmpfs"), MsFlags::empty(), Some("size=8m")).unwrap();
    rig.settings["file"] = disk.join("m.log").to_str().unwrap().into();
    let filler = disk.join("filler");
    std::fs::write(&filler, vec![0; 5_800_000]).unwrap();
    let queue = rig.links[0].source();
    let writer = std::thread::spawn(move || write_all(Lines, queue, 20_000, &mut Dice(5)));
    let logger = rig.start();
    rig.wait_notified("X_PLUMBD_PROBLEM=cannot write to");
    // It is killed, and then stopped, while the disk is full.
    logger.kill();
    let logger = rig.start();
    rig.wait_notified("X_PLUMBD_PROBLEM=cannot write to");
    logger.signal(SIGTERM);
    logger.wait_success();
    let logger = rig.start();
    rig.wait_notified("X_PLUMBD_PROBLEM=cannot write to");
    std::fs::remove_file(&filler).unwrap();
    writer.join().unwrap();
    rig.end();
    logger.wait_success();
    let got: Vec<Vec<u8>> = rig.bytes().split(|&b| b == b'\n').map(<[u8]>::to_vec).collect();
    umount2(&disk, MntFlags::MNT_DETACH).unwrap();
    let want: Vec<Vec<u8>> = (0..20_000).map(message).collect();
    assert_same(&got[..got.len() - 1], &want, "after a full disk");
}

#[test]
#[ignore = "needs root for a file system of its own, run by .ci/run"]
fn a_batch_that_does_not_fit_on_a_full_disk_goes_to_another_file_as_a_whole() {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    for is_killed in [false, true] {
        let mut rig = full_rig(COUNT);
        let (disk, other) = (rig.folder.path().join("disk"), rig.settings["file"].clone());
        std::fs::create_dir(&disk).unwrap();
        mount(Some("tmpfs"), &disk, Some("tmpfs"), MsFlags::empty(), Some("size=4m")).unwrap();
        rig.settings["file"] = disk.join("m.log").to_str().unwrap().into();
        // There is room for some batches, but not for all.
        std::fs::write(disk.join("filler"), vec![0; 3_700_000]).unwrap();
        let logger = rig.start();
        rig.wait_notified("X_PLUMBD_PROBLEM=cannot write to");
        if is_killed {
            logger.kill();
        } else {
            logger.signal(SIGTERM);
            logger.wait_success();
        }
        let full = rig.settings["file"].clone();
        // This is what a reload does.
        rig.settings["file"] = other.clone();
        rig.drain();
        // There is room again, and a logger comes back to that file.
        std::fs::remove_file(disk.join("filler")).unwrap();
        rig.settings["file"] = full;
        rig.links_anew();
        rig.drain();
        let there = rig.all_bytes();
        umount2(&disk, MntFlags::MNT_DETACH).unwrap();
        rig.settings["file"] = other;
        let all = [there, rig.all_bytes()].concat();
        std::fs::write(rig.path(), all).unwrap();
        assert_all_saved(&rig, "after a full disk and another file");
    }
}

#[test]
fn a_batch_is_completed_in_a_file_that_was_renamed_meanwhile() {
    let rig = full_rig(COUNT);
    let logger = rig.start();
    let moved = rig.folder.path().join("m.log.1");
    wait_until("a batch is under way", || (!rig.bytes().is_empty()).then_some(()));
    logger.kill();
    std::fs::rename(rig.path(), &moved).unwrap();
    let mut rig = rig;
    rig.drain();
    let rest = rig.bytes();
    let all = [std::fs::read(&moved).unwrap(), rest.clone()].concat();
    assert!(rest.is_empty() || rest.starts_with(b"20"), "each file has whole lines");
    std::fs::write(rig.path(), all).unwrap();
    std::fs::remove_file(&moved).unwrap();
    assert_all_saved(&rig, "after a rename");
}

#[test]
#[ignore = "needs ptrace, run by .ci/run"]
fn a_file_that_is_truncated_just_before_a_write_has_no_gap() {
    let mut rig = Rig::with("raw", Lines);
    std::fs::write(rig.path(), "one\ntwo\n").unwrap();
    rig.links[0].source().write_all(b"three\n").unwrap();
    rig.end();
    // It has found where the file ends, and promised to write there.
    let logger = held_before_a_write(&rig);
    File::options().write(true).open(rig.path()).unwrap().set_len(4).unwrap();
    let_go(&logger);
    logger.wait_success();
    assert_eq!(rig.text(), "one\nthree\n");
}

#[test]
#[ignore = "needs ptrace, run by .ci/run"]
fn a_batch_that_is_cut_short_and_followed_by_other_bytes_is_saved_whole() {
    let mut rig = Rig::with("raw", Lines);
    std::fs::write(rig.path(), "one\n").unwrap();
    rig.links[0].source().write_all(b"first\nsecond\n").unwrap();
    rig.end();
    let logger = held_before_a_write(&rig);
    let limit = |bytes: &str| {
        let (pid, fsize) = (format!("--pid={}", logger.pid()), format!("--fsize={bytes}"));
        assert!(std::process::Command::new("prlimit").args([pid, fsize]).status().unwrap().success());
    };
    limit("13:unlimited");
    go_on(&logger, 1);
    assert_eq!(rig.text(), "one\nfirst\nsec");
    limit("unlimited");
    File::options().append(true).open(rig.path()).unwrap().write_all(b"his\n").unwrap();
    let_go(&logger);
    logger.wait_success();
    assert_eq!(rig.text(), "one\nfirst\nsecond\n");
    let torn = rig.files("m.log.torn-");
    assert_eq!(torn.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect::<Vec<_>>(), ["first\nsechis\n"]);
}

#[test]
#[ignore = "needs ptrace, run by .ci/run"]
fn a_file_that_is_truncated_while_its_end_is_mended_has_no_gap() {
    let mut rig = Rig::with("raw", Lines);
    std::fs::write(rig.path(), "whole\nto").unwrap();
    rig.links[0].source().write_all(b"next\n").unwrap();
    rig.end();
    // It has copied the torn part, and is about to cut it off.
    let logger = held_at(&rig, nix::libc::SYS_fsync, Place { stop: 0, steps: 0 });
    File::options().write(true).open(rig.path()).unwrap().set_len(0).unwrap();
    let_go(&logger);
    logger.wait_success();
    assert_eq!(rig.text(), "next\n");
    assert_eq!(rig.files("m.log.torn-").len(), 0);
}
