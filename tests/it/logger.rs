//! What the logger does with its input, and when something goes wrong.

use crate::daemon::{Daemon, kill, wait_for};
use crate::mini::{DEADLINE, Held, Rig, records, wait_until, write_record};
use nix::fcntl::{Flock, FlockArg};
use nix::libc::SIGKILL;
use nix::sys::signal::Signal::{SIGTERM, SIGUSR1};
use plumbd::control::status::{Child, ChildState, DaemonState};
use plumbd::link::handover::Protocol::{Lines, Records};
use plumbd::link::intent::{FileId, Intent, Promise};
use plumbd::link::ledger::{Batch, Ledger};
use plumbd::link::record::Ack;
use plumbd::plugin::logger::escape::unescape;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Lines of text without their times.
fn without_time(text: &str) -> Vec<&str> {
    text.lines().map(|line| line.split_once(' ').unwrap().1).collect()
}

#[test]
fn records_are_saved_counted_and_acknowledged() {
    let rig = Rig::with("text", Records);
    let source = rig.links[0].source();
    let long = "long ".repeat(3000);
    for (sequence, message) in (1..).zip([&b"hello"[..], b"caf\xc3 tab\x09 back\\slash", b"", long.as_bytes()]) {
        records(sequence, 7, message, false).iter().for_each(|record| write_record(&source, record));
    }
    let logger = rig.start();
    rig.wait_notified("READY=1");
    wait_until("the last is acknowledged", || {
        (rig.links[0].acks().last() == Some(&Ack { epoch: 7, sequence: 4 })).then_some(())
    });
    let prefix = "2026-11-22T15:04:05.123456Z 127.0.0.1:40312";
    let expected = format!("{prefix} hello\n{prefix} caf\\xc3 tab\\x09 back\\\\slash\n{prefix} \n{prefix} {long}\n");
    assert_eq!(rig.text(), expected);
    assert_eq!(rig.links[0].queued(), 0);
    logger.signal(SIGTERM);
    logger.wait_success();
    let counts = ["messages", "bytes", "incomplete", "garbage_bytes", "syncs"].map(|name| rig.counter(name));
    assert_eq!(counts, [4, 5 + 20 + 15_000, 0, 0, 0]);
    assert!(rig.counter("batches") >= 1);
}

#[test]
fn json_names_the_child_and_the_peer() {
    let mut rig = Rig::with("json", Records);
    records(1, 7, "say \"é\"".as_bytes(), false).iter().for_each(|r| write_record(&rig.links[0].source(), r));
    records(2, 7, b"\xff", true).iter().for_each(|r| write_record(&rig.links[0].source(), r));
    rig.drain();
    let begin = r#"{"time":"2026-11-22T15:04:05.123456Z","child":"tick","peer":"127.0.0.1:40312","#;
    assert_eq!(rig.text(), format!("{begin}\"message\":\"say \\\"é\\\"\"}}\n{begin}\"message_base64\":\"/w==\"}}\n"));
    assert_eq!(rig.counter("syncs"), 1);
}

#[test]
fn bytes_that_are_no_record_and_messages_without_end_are_left_out_and_counted() {
    let mut rig = Rig::with("raw", Records);
    let source = rig.links[0].source();
    let cut = records(1, 7, &[b'x'; 9000], false);
    for bytes in [&b"noise"[..], &cut[0], &cut[1], &records(1, 8, b"one", false)[0], &cut[2][..99]] {
        write_record(&source, bytes);
    }
    drop(source);
    rig.drain();
    assert_eq!(rig.text(), "one\n");
    assert_eq!([rig.counter("incomplete"), rig.counter("garbage_bytes")], [1, 5 + 99]);
}

#[test]
fn lines_of_any_program_are_saved_with_its_name() {
    let mut rig = Rig::with("text", Lines);
    rig.links[0].source().write_all(b"one\ntwo\r\n\n\xff\\\nlast").unwrap();
    rig.drain();
    let text = rig.text();
    assert_eq!(without_time(&text), ["tick one", "tick two", "tick ", r"tick \xff\\", "tick last"]);
    assert_eq!(unescape(br"\xff\\"), Some(b"\xff\\".to_vec()));
}

#[test]
fn half_a_line_waits_for_its_end_through_any_number_of_restarts() {
    let mut rig = Rig::with("raw", Lines);
    for piece in ["a li", "ne of ", "many pie", "ces\nand ha"] {
        rig.links[0].source().write_all(piece.as_bytes()).unwrap();
        let logger = rig.start();
        wait_until("it was taken", || (rig.links[0].queued() == 0).then_some(()));
        logger.signal(SIGTERM);
        logger.wait_success();
    }
    assert_eq!(rig.text(), "a line of many pieces\n");
    rig.drain();
    assert_eq!(rig.text(), "a line of many pieces\nand ha\n");
}

#[test]
fn a_line_that_comes_byte_by_byte_is_one_line() {
    let mut rig = Rig::with("raw", Lines);
    let logger = rig.start();
    // The line has more bytes than a pipe of that capacity has slots.
    let line = "0123456789".repeat(100);
    for byte in line.bytes() {
        rig.links[0].source().write_all(&[byte]).unwrap();
        wait_until("it was taken", || (rig.links[0].queued() == 0).then_some(()));
    }
    assert_eq!(rig.text(), "");
    rig.end();
    logger.wait_success();
    assert_eq!(rig.text(), line + "\n");
}

#[test]
fn an_endless_line_is_saved_in_parts() {
    let mut rig = Rig::with("json", Lines);
    let logger = rig.start();
    let line = "é".repeat(100_000);
    rig.links[0].source().write_all(format!("x{line}\nnext\n").as_bytes()).unwrap();
    rig.end();
    logger.wait_success();
    let text = rig.text();
    let objects: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let message = |i: usize| objects[i]["message"].as_str().unwrap();
    assert_eq!(objects.len(), 5);
    assert_eq!([0, 1, 2].map(|i| objects[i]["more"].as_bool()), [Some(true); 3]);
    assert_eq!([message(0), message(1), message(2), message(3)].concat(), format!("x{line}"));
    assert_eq!((message(4), objects[3].get("more"), objects[4].get("more")), ("next", None, None));
}

#[test]
fn a_message_that_needs_more_room_than_a_batch_has_gets_it() {
    let mut rig = Rig::with("text", Records);
    let source = rig.links[0].source();
    let logger = rig.start();
    // Each byte becomes four.
    let message = vec![0xff; 1_000_000];
    records(1, 7, &message, true).iter().for_each(|record| write_record(&source, record));
    records(2, 7, b"next", true).iter().for_each(|record| write_record(&source, record));
    drop(source);
    rig.end();
    logger.wait_success();
    let text = rig.text();
    let lines: Vec<&str> = text.lines().map(|line| line.splitn(3, ' ').nth(2).unwrap()).collect();
    assert_eq!(unescape(lines[0].as_bytes()).unwrap(), message);
    assert_eq!((lines[1], lines.len()), ("next", 2));
}

#[test]
fn several_links_go_into_one_file_each_in_its_order() {
    let mut rig = Rig::new("text");
    for from in ["one", "two", "three"] {
        rig.links.push(Held::new(from, Lines, 1 << 16));
    }
    rig.links.push(Held::new("echo", Records, 1 << 16));
    let logger = rig.start();
    for i in 0..2000 {
        for link in &rig.links[..3] {
            writeln!(link.source(), "{i}").unwrap();
        }
        write_record(&rig.links[3].source(), &records(i + 1, 7, i.to_string().as_bytes(), i % 100 == 0)[0]);
    }
    rig.end();
    logger.wait_success();
    let text = rig.text();
    for from in ["one", "two", "three", "127.0.0.1:40312"] {
        let numbers = without_time(&text).into_iter().filter_map(|line| line.strip_prefix(from)?.strip_prefix(' '));
        assert!(numbers.map(|n| n.parse::<usize>().unwrap()).eq(0..2000), "{from}");
    }
    assert_eq!(text.lines().count(), 8000);
}

#[test]
fn a_torn_tail_that_nothing_explains_is_moved_away() {
    let mut rig = Rig::with("raw", Lines);
    std::fs::write(rig.path(), "whole\nto").unwrap();
    rig.links[0].source().write_all(b"next\n").unwrap();
    rig.drain();
    assert_eq!(rig.text(), "whole\nnext\n");
    let torn = rig.files("m.log.torn-");
    assert_eq!(torn.len(), 1);
    assert_eq!(std::fs::read_to_string(&torn[0]).unwrap(), "to");
}

/// Writes what a logger leaves if it is killed before it saves a batch.
pub(crate) fn promised(rig: &Rig, to: &std::path::Path, offset: u64, batch: &[u8]) {
    let file = FileId::of(&std::fs::metadata(to).unwrap());
    let mut intent = Intent::open(&rig.folder.path().join(".m.log.intent"), 4096).unwrap().unwrap();
    intent.reset().unwrap();
    intent.body_mut()[..batch.len()].copy_from_slice(batch);
    intent.promise(&Promise { batch: 7, file, offset, length: batch.len() as u64 }).unwrap();
}

#[test]
fn a_batch_is_completed_where_it_begins_or_otherwise_saved_whole() {
    for (there, after) in [
        ("one\nbat", "one\nbatch\n"),
        ("one\nbatch\n", "one\nbatch\n"),
        ("one\nother\n", "one\nother\nbatch\n"),
        ("one\nother\nbatch\n", "one\nother\nbatch\n"),
        ("one\nother\nbatch\nother\n", "one\nother\nbatch\nother\n"),
        ("one\nother\nbat", "one\nother\nbatch\n"),
        ("one\nother", "one\nbatch\n"),
        ("one", "batch\n"),
    ] {
        let mut rig = Rig::with("raw", Lines);
        std::fs::write(rig.path(), there).unwrap();
        promised(&rig, &rig.path(), 4, b"batch\n");
        rig.drain();
        assert_eq!(rig.text(), after, "{there:?}");
    }
}

#[test]
fn a_batch_that_another_process_wrote_into_is_saved_once_and_the_others_bytes_are_kept() {
    let mut rig = Rig::with("raw", Lines);
    std::fs::write(rig.path(), "one\nhis\nfirst\nsecohis\nhis\n").unwrap();
    promised(&rig, &rig.path(), 4, b"first\nsecond\n");
    rig.drain();
    assert_eq!(rig.text(), "one\nhis\nfirst\nsecond\n");
    let torn = rig.files("m.log.torn-");
    assert_eq!(torn.len(), 1);
    assert_eq!(std::fs::read_to_string(&torn[0]).unwrap(), "first\nsecohis\nhis\n");
}

#[test]
fn a_file_with_the_inode_number_of_a_removed_one_is_left_alone() {
    for (renamed, left, new) in [
        ("one\nbat", "one\nbatch\n", ""),
        ("one\n", "one\n", "batch\n"),
        ("one\nsomebody's", "one\nsomebody's", "batch\n"),
        ("o", "o", "batch\n"),
    ] {
        let mut rig = Rig::with("raw", Lines);
        let other = rig.folder.path().join("other");
        std::fs::write(&other, renamed).unwrap();
        promised(&rig, &other, 4, b"batch\n");
        rig.drain();
        assert_eq!((std::fs::read_to_string(other).unwrap().as_str(), rig.text().as_str()), (left, new));
    }
}

#[test]
fn what_is_cut_off_because_the_intent_file_is_gone_is_moved_away() {
    let mut rig = Rig::with("raw", Lines);
    std::fs::write(rig.path(), "one\nbatch\n").unwrap();
    let file = FileId::of(&std::fs::metadata(rig.path()).unwrap());
    let ledger = Ledger::open(rig.links[0].intake.ledger.try_clone().unwrap()).unwrap();
    ledger.prepare(&Batch { id: 7, take: 6, last: Ack { epoch: 0, sequence: 0 }, offset: 4, file }, b"", 0).unwrap();
    rig.links[0].source().write_all(b"batch\nnext\n").unwrap();
    rig.drain();
    assert_eq!(rig.text(), "one\nbatch\nnext\n");
    let torn = rig.files("m.log.torn-");
    assert_eq!(torn.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect::<Vec<_>>(), ["batch\n"]);
}

#[test]
fn a_line_that_another_process_cuts_in_two_is_moved_away() {
    let mut rig = Rig::with("raw", Lines);
    let logger = rig.start();
    let mut source = rig.links[0].source();
    source.write_all(b"one\ntwo\n").unwrap();
    wait_until("it is saved", || (rig.text() == "one\ntwo\n").then_some(()));
    std::fs::File::options().write(true).open(rig.path()).unwrap().set_len(5).unwrap();
    source.write_all(b"three\n").unwrap();
    drop(source);
    rig.end();
    logger.wait_success();
    assert_eq!(rig.text(), "one\nthree\n");
    let torn = rig.files("m.log.torn-");
    assert_eq!(torn.len(), 1);
    assert_eq!(std::fs::read_to_string(&torn[0]).unwrap(), "t");
}

#[test]
fn while_another_process_keeps_writing_half_lines_the_logger_reports_it_and_can_be_stopped() {
    let rig = Rig::with("raw", Lines);
    std::fs::write(rig.path(), "whole\nto").unwrap();
    let (path, goes_on) = (rig.path(), AtomicBool::new(true));
    let until = Instant::now() + 2 * DEADLINE;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut file = std::fs::File::options().append(true).open(&path).unwrap();
            while goes_on.load(Ordering::Relaxed) && Instant::now() < until {
                file.write_all(b"x").unwrap();
            }
        });
        let logger = wait_until("the other process writes while the logger mends the end", || {
            let logger = rig.start();
            let said = || rig.was_notified("X_PLUMBD_PROBLEM=cannot mend the end of");
            wait_until("it has begun", || (said() || rig.was_notified("READY=1")).then_some(()));
            if !said() {
                // The logger was done before the other process came to write.
                rig.wait_notified("READY=1");
                return None;
            }
            Some(logger)
        });
        logger.signal(SIGTERM);
        logger.wait_success();
        goes_on.store(false, Ordering::Relaxed);
    });
}

#[test]
#[ignore = "needs root for a file system of its own, run by .ci/run"]
fn a_file_system_that_is_read_only_at_its_start_is_waited_for() {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    let mut rig = Rig::with("raw", Lines);
    let disk = rig.folder.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    let remount = |flags| mount(None::<&str>, &disk, None::<&str>, MsFlags::MS_REMOUNT | flags, None::<&str>);
    mount(Some("tmpfs"), &disk, Some("tmpfs"), MsFlags::MS_RDONLY, None::<&str>).unwrap();
    rig.settings["file"] = disk.join("m.log").to_str().unwrap().into();
    rig.links[0].source().write_all(b"one\n").unwrap();
    let logger = rig.start();
    rig.wait_notified("Read-only file system");
    rig.wait_notified("EXTEND_TIMEOUT_USEC=");
    remount(MsFlags::empty()).unwrap();
    rig.wait_notified("READY=1");
    rig.end();
    logger.wait_success();
    let text = rig.text();
    umount2(&disk, MntFlags::MNT_DETACH).unwrap();
    assert_eq!(text, "one\n");
}

#[test]
#[ignore = "needs strace, run by .ci/run"]
fn a_batch_makes_no_unnecessary_system_calls() {
    const BATCHES: u64 = 20;
    let mut rig = Rig::with("text", Records);
    let trace = rig.folder.path().join("trace");
    let logger = rig.start_under(&["strace", "-qq", "-y", "-o", trace.to_str().unwrap()]);
    let source = rig.links[0].source();
    for sequence in 1..=BATCHES + 2 {
        records(sequence, 7, b"hello", false).iter().for_each(|record| write_record(&source, record));
        wait_until("it is acknowledged", || {
            (rig.links[0].acks().last() == Some(&Ack { epoch: 7, sequence })).then_some(())
        });
    }
    drop(source);
    rig.end();
    logger.wait_success();
    let trace = std::fs::read_to_string(trace).unwrap();
    let calls: Vec<&str> = trace.lines().collect();
    let is_saved = |line: &&str| line.starts_with("pwrite64(") && line.contains("/m.log>");
    let saved: Vec<usize> = (0..calls.len()).filter(|&at| is_saved(&calls[at])).collect();
    // The first batch is left out, because the logger begins to watch the file after it.
    let calls = &calls[saved[1]..*saved.last().unwrap()];
    let count = |name: &str, with: &str| {
        calls.iter().filter(|line| line.starts_with(&format!("{name}(")) && line.contains(with)).count() as u64
    };
    // The writes are the promise, the batch, and the end of the promise.
    assert_eq!(count("pwrite64", ""), 3 * BATCHES, "{calls:#?}");
    // The logger asks for the length before and for the link count after. It never asks for
    // times, because then the next batch would have more to write.
    for asked in ["/m.log>", ", STATX_NLINK|STATX_SIZE, "] {
        assert_eq!(count("statx", asked), 2 * BATCHES, "{asked}: {calls:#?}");
    }
    for (name, each) in [("splice", 2), ("tee", 1), ("read", 1), ("write", 1), ("prlimit64", 0), ("getpid", 0)] {
        assert_eq!(count(name, ""), each * BATCHES, "{name}: {calls:#?}");
    }
}

#[test]
fn a_second_logger_on_a_file_waits_and_reports_it() {
    let mut rig = Rig::with("raw", Lines);
    let first = rig.start();
    rig.wait_notified("READY=1");
    let mut other = Rig::with("raw", Lines);
    other.settings["file"] = rig.settings["file"].clone();
    other.links[0].source().write_all(b"other\n").unwrap();
    let second = other.start();
    other.wait_notified("another process has locked it");
    other.wait_notified("EXTEND_TIMEOUT_USEC=");
    assert!(!other.was_notified("READY=1"));
    rig.links[0].source().write_all(b"first\n").unwrap();
    rig.end();
    first.wait_success();
    other.wait_notified("READY=1");
    other.end();
    second.wait_success();
    assert_eq!(rig.text(), "first\nother\n");

    // It can be stopped while it waits.
    let rig = Rig::new("raw");
    let _holder = rig.start();
    rig.wait_notified("READY=1");
    let mut waiting = Rig::new("raw");
    waiting.settings["file"] = rig.settings["file"].clone();
    let second = waiting.start();
    waiting.wait_notified("another process has locked it");
    second.signal(SIGTERM);
    second.wait_success();
}

#[test]
fn a_renamed_file_is_reported_and_a_reopen_makes_a_new_one() {
    let mut rig = Rig::with("raw", Lines);
    let logger = rig.start();
    let mut source = rig.links[0].source();
    let renamed = rig.folder.path().join("m.log.1");
    source.write_all(b"one\n").unwrap();
    wait_until("it is saved", || (rig.text() == "one\n").then_some(()));
    std::fs::rename(rig.path(), &renamed).unwrap();
    wait_until("it is missed", || {
        source.write_all(b"-\n").unwrap();
        rig.was_notified("has lost its name: run plumbd reopen").then_some(())
    });
    assert!(!rig.path().exists());
    wait_until("all is saved", || (rig.links[0].queued() == 0).then_some(()));
    logger.signal(SIGUSR1);
    wait_until("there is a new file", || rig.path().exists().then_some(()));
    source.write_all(b"two\n").unwrap();
    wait_until("it is saved", || (rig.text() == "two\n").then_some(()));
    rig.wait_notified("has lost its name");
    rig.wait_notified("X_PLUMBD_PROBLEM=");
    assert!(std::fs::read_to_string(&renamed).unwrap().starts_with("one\n-\n"));
    // If nothing is wrong, a reopen changes nothing.
    logger.signal(SIGUSR1);
    source.write_all(b"three\n").unwrap();
    drop(source);
    rig.end();
    logger.wait_success();
    assert_eq!(rig.text(), "two\nthree\n");
}

#[test]
fn the_logger_goes_on_with_a_file_that_gets_its_name_back_while_it_waits_for_the_lock_of_another() {
    let mut rig = Rig::with("raw", Lines);
    let logger = rig.start();
    let mut source = rig.links[0].source();
    source.write_all(b"one\n").unwrap();
    wait_until("it is saved", || (rig.text() == "one\n").then_some(()));
    let moved = rig.folder.path().join("moved");
    std::fs::rename(rig.path(), &moved).unwrap();
    let others = std::fs::File::create(rig.path()).unwrap();
    let _locked = Flock::lock(others, FlockArg::LockExclusiveNonblock).unwrap();
    logger.signal(SIGUSR1);
    rig.wait_notified("another process has locked it");
    std::fs::rename(&moved, rig.path()).unwrap();
    source.write_all(b"two\n").unwrap();
    drop(source);
    rig.end();
    logger.wait_success();
    assert_eq!(rig.text(), "one\ntwo\n");
}

#[test]
fn without_links_it_waits_until_it_is_asked_to_stop() {
    let rig = Rig::new("raw");
    let mut logger = rig.start();
    rig.wait_notified("READY=1");
    logger.signal(SIGUSR1);
    assert!(logger.ended().is_none());
    logger.signal(SIGTERM);
    logger.wait_success();
}

#[test]
fn when_the_supervisor_is_dead_it_goes_on_until_its_links_end() {
    let mut rig = Rig::with("raw", Lines);
    let mut supervisor = rig.start_under(&["/bin/sh", "-c", "\"$@\" & echo $! >\"$0\"; wait", &rig.pid_file()]);
    rig.wait_notified("READY=1");
    let pid = wait_until("its pid is written", || std::fs::read_to_string(rig.pid_file()).ok()?.trim().parse().ok());
    let pid = nix::unistd::Pid::from_raw(pid);
    supervisor.kill_and_reap();
    let state = || {
        std::fs::read_to_string(format!("/proc/{pid}/stat")).ok().and_then(|s| Some(s.rsplit_once(") ")?.1.to_owned()))
    };
    let parent = || state()?.split_whitespace().nth(1)?.parse::<i32>().ok();
    wait_until("it has another parent", || (parent()? != supervisor.pid().as_raw()).then_some(()));
    nix::sys::signal::kill(pid, SIGTERM).unwrap();
    rig.links[0].source().write_all(b"one\nlast").unwrap();
    wait_until("it goes on", || (rig.text() == "one\n").then_some(()));
    rig.end();
    // Its new parent may take its time to reap it.
    wait_until("it has ended", || state().is_none_or(|s| s.starts_with('Z')).then_some(()));
    assert_eq!(rig.text(), "one\nlast\n");
}

#[test]
fn a_path_that_is_not_a_file_is_an_error() {
    let mut rig = Rig::new("raw");
    for wrong in [rig.folder.path().join("notify"), rig.folder.path().to_owned()] {
        rig.settings["file"] = wrong.to_str().unwrap().into();
        assert_eq!(rig.start().wait().code(), Some(1), "{}", wrong.display());
    }
    assert!(!rig.folder.path().join(".notify.intent").exists());
}

#[test]
fn a_folder_that_is_missing_at_its_start_is_waited_for() {
    let mut rig = Rig::with("raw", Lines);
    let folder = rig.folder.path().join("folder");
    rig.settings["file"] = folder.join("m.log").to_str().unwrap().into();
    rig.links[0].source().write_all(b"one\n").unwrap();
    let logger = rig.start();
    rig.wait_notified("X_PLUMBD_PROBLEM=cannot open ");
    rig.wait_notified("EXTEND_TIMEOUT_USEC=");
    std::fs::create_dir(folder).unwrap();
    rig.wait_notified("READY=1");
    rig.end();
    logger.wait_success();
    assert_eq!(rig.text(), "one\n");
}

#[test]
fn a_folder_that_is_missing_for_long_uses_up_no_starts() {
    let dir = tempfile::tempdir().unwrap();
    let (here, gone) = (dir.path().join("here"), dir.path().join("gone"));
    std::fs::create_dir(&here).unwrap();
    let mut daemon = Daemon::spawn_in(
        dir,
        r#"
        [children.source]
        command = ["sh", "-c", "while ! test -e go; do sleep 0.01; done; echo one; exec sleep 1000"]
        [children.logger]
        plugin = "logger"
        settings = { file = "here/messages.log", format = "raw" }
        ready_timeout = "100ms"
        start_limit = { burst = 2, within = "60s" }
        [[links]]
        from = "source"
        to = "logger"
        "#,
    );
    daemon.wait_state(DaemonState::Running);
    std::fs::rename(&here, &gone).unwrap();
    kill(daemon.child_pid_when_up("logger"), SIGKILL);
    let told = |child: Child| child.problem.filter(|problem| problem.contains("No such file")).map(|_| child.pid);
    let pid = wait_for("status says so", || told(daemon.child("logger")));
    daemon.wait_log("No such file or directory; trying again until it passes");
    std::fs::write(daemon.path("go"), "").unwrap();
    wait_for("a line waits", || (daemon.link("source", "logger").queued_bytes == 4).then_some(()));
    assert_eq!(daemon.child("logger").state, ChildState::Starting);
    std::fs::rename(&gone, &here).unwrap();
    wait_for("it is saved", || (daemon.read("here/messages.log") == b"one\n").then_some(()));
    let logger = daemon.wait_child("logger", ChildState::Up);
    assert_eq!((logger.pid, logger.restarts, logger.problem), (pid, 1, None));
    let log = daemon.log();
    let told = log
        .lines()
        .find_map(|line| line.split_once(" INFO logger: resolved after "))
        .unwrap_or_else(|| panic!("{log}"));
    assert!(told.1.contains(" s, nothing was lost: ") && told.1.ends_with("No such file or directory"), "{log}");
    daemon.stop();
}

#[test]
fn with_a_sync_interval_it_syncs_that_often_and_then_sleeps() {
    let mut rig = Rig::with("raw", Lines);
    rig.settings["sync"] = "1ms".into();
    let logger = rig.start();
    rig.links[0].source().write_all(b"one\n").unwrap();
    wait_until("it is synced", || (rig.counter("syncs") == 1).then_some(()));
    rig.links[0].source().write_all(b"two\n").unwrap();
    wait_until("it is synced", || (rig.counter("syncs") == 2).then_some(()));
    rig.settings["sync"] = "always".into();
    logger.signal(SIGTERM);
    logger.wait_success();
    assert_eq!(rig.counter("syncs"), 2);
    rig.links[0].source().write_all(b"three\n").unwrap();
    rig.drain();
    assert_eq!((rig.counter("syncs"), rig.text().as_str()), (1, "one\ntwo\nthree\n"));
}

#[test]
fn a_full_replies_pipe_holds_up_nothing_and_then_gets_the_newest_acknowledgement() {
    let rig = Rig::with("raw", Records);
    rig.links[0].shrink_replies();
    let _logger = rig.start();
    let source = rig.links[0].source();
    // More acknowledgements than 4096 bytes hold. Nothing reads them meanwhile.
    let sent = 400;
    for sequence in 1..=sent {
        write_record(&source, &records(sequence, 7, b"m", false)[0]);
        wait_until("it was taken", || (rig.links[0].queued() == 0).then_some(()));
    }
    let mut acks = Vec::new();
    wait_until("the newest came", || {
        acks.extend(rig.links[0].acks().into_iter().map(|ack| ack.sequence));
        (acks.last() == Some(&sent)).then_some(())
    });
    // Those that fitted, and the newest. One more may have come while these were read.
    assert!(acks.iter().take(170).copied().eq(1..=170) && acks.len() <= 172, "{acks:?}");
    assert_eq!(rig.text().lines().count() as u64, sent);
}

#[test]
fn the_intent_file_is_made_again_if_it_was_removed() {
    let rig = Rig::with("raw", Lines);
    let logger = rig.start();
    let intent = rig.folder.path().join(".m.log.intent");
    let mut source = rig.links[0].source();
    wait_until("it is there", || intent.exists().then_some(()));
    std::fs::remove_file(&intent).unwrap();
    let mut lines = 0;
    wait_until("it is there again", || {
        source.write_all(b"line\n").unwrap();
        lines += 1;
        intent.exists().then_some(())
    });
    logger.kill();
    drop(source);
    let mut rig = rig;
    rig.drain();
    assert_eq!(rig.text(), "line\n".repeat(lines));
}
