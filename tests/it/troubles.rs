//! Trouble with the message file that passes: limits on its size, servers that don't
//! answer, and a supervisor that dies meanwhile.

use crate::mini::{Logger, Rig, wait_until};
use nix::sys::signal::Signal::{SIGTERM, SIGUSR1};
use plumbd::link::handover::Protocol::Lines;
use serde_json::json;
use std::fs;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::time::{Duration, Instant};

/// More than the intent file takes, less than what is sent.
const LIMIT: u64 = 3_000_000;

fn limited(rig: &Rig) -> Logger {
    rig.start_under(&["prlimit", &format!("--fsize={LIMIT}:{}", LIMIT * 3)])
}

/// Numbered lines of a hundred bytes each.
fn lines(from: usize, to: usize) -> String {
    (from..to).map(|i| format!("{i:08} {}\n", "x".repeat(90))).collect()
}

/// Writes while the logger reads.
fn feed(rig: &Rig, text: String) -> std::thread::JoinHandle<()> {
    let mut source = rig.links[0].source();
    nix::fcntl::fcntl(&source, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::empty())).unwrap();
    assert!(source.as_raw_fd() > 2);
    std::thread::spawn(move || source.write_all(text.as_bytes()).unwrap())
}

const COUNT: usize = 60_000;

#[test]
fn at_a_limit_of_its_size_no_half_line_is_left_and_a_reopen_helps() {
    let mut rig = Rig::with("raw", Lines);
    let mut logger = limited(&rig);
    let feeding = feed(&rig, lines(0, COUNT));
    let mut parts = Vec::new();
    rig.wait_notified("File too large");
    for part in 0.. {
        let len = rig.bytes().len() as u64;
        assert!(len <= LIMIT, "{len}");
        assert!(feeding.is_finished() || rig.text().ends_with('\n'), "half a line stays");
        assert!(logger.ended().is_none());
        parts.push(rig.folder.path().join(format!("part{part}")));
        fs::rename(rig.path(), &parts[part]).unwrap();
        logger.signal(SIGUSR1);
        wait_until("there is a new file", || rig.path().exists().then_some(()));
        if feeding.is_finished() {
            break;
        }
        wait_until("it is full, or all is taken", || {
            (rig.was_notified("File too large") || feeding.is_finished()).then_some(())
        });
        if !feeding.is_finished() {
            rig.wait_notified("File too large");
        }
    }
    feeding.join().unwrap();
    rig.end();
    logger.wait_success();
    let parts: String = parts.iter().map(|part| fs::read_to_string(part).unwrap()).collect();
    assert!(parts + &rig.text() == lines(0, COUNT), "it is not what was sent");
    assert!(rig.files("m.log.torn-").is_empty());
}

#[test]
fn the_logger_goes_on_when_a_limit_is_raised() {
    let mut rig = Rig::with("raw", Lines);
    let logger = limited(&rig);
    let feeding = feed(&rig, lines(0, COUNT));
    rig.wait_notified("X_PLUMBD_PROBLEM=cannot write to ");
    let raised = Command::new("prlimit").args([&format!("--pid={}", logger.pid()), "--fsize=9000000:9000000"]).status();
    assert!(raised.unwrap().success());
    feeding.join().unwrap();
    rig.end();
    logger.wait_success();
    assert!(rig.text() == lines(0, COUNT), "it is not what was sent");
}

#[test]
fn a_file_at_its_limit_is_rotated_if_rotation_is_on() {
    for rule in [json!({"size": 100_000_000}), json!({"age": 3_600_000})] {
        let mut rig = Rig::with("raw", Lines);
        rig.settings["rotate"] = rule;
        rig.settings["rotate"]["least_ms"] = json!(10);
        let logger = limited(&rig);
        let feeding = feed(&rig, lines(0, COUNT));
        feeding.join().unwrap();
        rig.end();
        logger.wait_success();
        assert!(rig.archives().len() >= 2, "{:?}", rig.archives());
        assert!(rig.all_text() == lines(0, COUNT), "it is not what was sent");
        assert!(rig.archives().iter().all(|path| fs::read(path).unwrap().ends_with(b"\n")));
    }
}

#[test]
fn a_batch_that_a_limit_cuts_short_is_taken_out_again() {
    // The limit is the file system's, so it shows only in the write.
    let mut rig = Rig::with("raw", Lines);
    let logger = rig.start();
    rig.links[0].source().write_all(b"one\n").unwrap();
    wait_until("it is saved", || (rig.text() == "one\n").then_some(()));
    stop(logger);
    rig.links[0].source().write_all(b"two\n").unwrap();
    let logger = failing(&rig, "pwrite64", "error=EFBIG:when=1..2");
    rig.wait_notified("File too large");
    rig.end();
    logger.wait_success();
    assert_eq!(rig.text(), "one\ntwo\n");
}

/// A file system that is gone when the test ends.
struct Mounted(std::path::PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        Command::new("umount").arg("--lazy").arg(&self.0).status().unwrap();
    }
}

/// How long a file can get on ext4 with blocks of 1 KiB and without extents.
const EXT4_LONGEST: u64 = 17_247_252_480;

#[test]
#[ignore = "needs root, a loop device, and strace"]
fn at_the_limit_of_a_file_system_half_a_batch_is_written_and_cut_off_only_once() {
    let folder = tempfile::tempdir().unwrap();
    let [image, at] = ["image", "fs"].map(|name| folder.path().join(name));
    fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
    fs::create_dir(&at).unwrap();
    let run = |command: &mut Command| assert!(command.status().unwrap().success(), "{command:?}");
    run(Command::new("mke2fs").args(["-q", "-t", "ext4", "-b", "1024", "-O", "^extent,^64bit"]).arg(&image));
    run(Command::new("mount").args(["-o", "loop"]).args([&image, &at]));
    let mounted = Mounted(at.clone());
    let mut rig = Rig::with("raw", Lines);
    let path = at.join("m.log");
    rig.settings["file"] = json!(path);
    let file = fs::File::create(&path).unwrap();
    file.write_all_at(b"\n", EXT4_LONGEST - 30).unwrap();
    let trace = folder.path().join("trace");
    let arguments = ["strace", "-qq", "-o", trace.to_str().unwrap(), "-e", "trace=ftruncate,prlimit64"];
    let logger = rig.start_under(&arguments);
    rig.links[0].source().write_all(lines(0, 1).as_bytes()).unwrap();
    rig.wait_notified("File too large");
    let calls = |name: &str| fs::read_to_string(&trace).unwrap().matches(name).count();
    let before = calls("prlimit64(");
    wait_until("it has looked ten times more", || (calls("prlimit64(") > before + 10).then_some(()));
    assert_eq!(calls("ftruncate("), 1);
    assert_eq!(file.metadata().unwrap().len(), EXT4_LONGEST - 29);
    file.set_len(0).unwrap();
    wait_until("it goes on", || (fs::read_to_string(&path).unwrap() == lines(0, 1)).then_some(()));
    rig.end();
    logger.wait_success();
    drop((file, mounted));
}

fn stop(logger: Logger) {
    logger.signal(SIGTERM);
    logger.wait_success();
}

/// Starts a logger under strace, which makes system calls fail in that way.
fn failing(rig: &Rig, calls: &str, fault: &str) -> Logger {
    let (trace, inject) = (format!("trace={calls}"), format!("inject={calls}:{fault}"));
    // Only those on the message file, which is opened by its name in its folder.
    let path = rig.path().to_str().unwrap().to_owned();
    rig.start_under(&["strace", "-qq", "-o", "/dev/null", "-P", &path, "-P", "m.log", "-e", &trace, "-e", &inject])
}

#[test]
fn the_logger_waits_for_a_server_that_is_away_wherever_it_uses_the_file() {
    let faults = ["ENOTCONN", "ETIMEDOUT", "EHOSTDOWN", "ESTALE", "EREMOTEIO", "ENETUNREACH", "ECONNABORTED"];
    let calls = ["openat", "flock", "statx", "fallocate", "pwrite64", "fdatasync"];
    for (at, call) in calls.iter().enumerate() {
        for errno in [faults[at], faults[(at + 3) % faults.len()]] {
            let mut rig = Rig::with("raw", Lines);
            rig.settings["sync"] = json!("always");
            rig.links[0].source().write_all(b"one\ntwo\n").unwrap();
            let logger = failing(&rig, call, &format!("error={errno}:when=1..3"));
            rig.wait_notified("X_PLUMBD_PROBLEM=cannot ");
            rig.end();
            logger.wait_success();
            assert_eq!(rig.text(), "one\ntwo\n", "{call} {errno}");
        }
    }
}

#[test]
fn errors_that_never_pass_end_it_at_once() {
    let mut rig = Rig::with("raw", Lines);
    let long = rig.folder.path().join("x".repeat(300));
    let link = rig.folder.path().join("link");
    std::os::unix::fs::symlink(&link, &link).unwrap();
    for file in [long, link, rig.folder.path().to_owned()] {
        rig.settings["file"] = file.to_str().unwrap().into();
        let mut logger = rig.start();
        assert!(!logger.wait().success());
    }
}

#[test]
fn if_its_supervisor_is_dead_it_ends_soon_whatever_it_waits_for() {
    let in_start = [("openat", "ENOSPC"), ("flock", "ENOLCK"), ("openat", "ENOTCONN")];
    let later = [("fallocate", "ENOSPC"), ("pwrite64", "EIO"), ("fdatasync", "EIO"), ("statx", "ETIMEDOUT")];
    let rigs: Vec<(Rig, i32)> = in_start
        .iter()
        .chain(&later)
        .map(|(call, errno)| {
            let mut rig = Rig::with("raw", Lines);
            rig.settings["sync"] = json!("always");
            rig.links[0].source().write_all(b"one\n").unwrap();
            let logger = orphan(&rig, call, errno);
            (rig, logger)
        })
        .collect();
    let dead = Instant::now();
    for (rig, logger) in rigs {
        wait_until(&format!("it has ended: {:?}", rig.files("log")), || {
            (nix::sys::signal::kill(nix::unistd::Pid::from_raw(logger), None).is_err()).then_some(())
        });
        assert!(dead.elapsed() < Duration::from_secs(20), "{:?}", dead.elapsed());
    }
}

/// The pid of a logger that is in trouble and whose supervisor is dead.
fn orphan(rig: &Rig, call: &str, errno: &str) -> i32 {
    let (trace, inject) = (format!("trace={call}"), format!("inject={call}:error={errno}"));
    let path = rig.path().to_str().unwrap().to_owned();
    // A shell is its supervisor; strace watches as a grandchild of the logger (-D).
    let script = format!("\"$@\" & echo $! >'{}'; wait", rig.pid_file());
    let strace =
        ["strace", "-D", "-f", "-qq", "-o", "/dev/null", "-P", &path, "-P", "m.log", "-e", &trace, "-e", &inject];
    let words = [&["sh", "-c", &script, "sh"][..], &strace].concat();
    let mut shell = rig.start_under(&words);
    rig.wait_notified("X_PLUMBD_PROBLEM=cannot ");
    let pid = fs::read_to_string(rig.pid_file()).unwrap().trim().parse().unwrap();
    shell.kill_and_reap();
    pid
}

/// A file whose last line, of many megabytes, never ends.
fn long_tail(rig: &Rig) -> u64 {
    const TAIL: u64 = 64 << 20;
    let mut file = fs::File::create(rig.path()).unwrap();
    file.write_all(b"one\nbegin").unwrap();
    file.set_len(4 + TAIL).unwrap();
    FileExt::write_all_at(&file, b"middle", TAIL / 2).unwrap();
    FileExt::write_all_at(&file, b"end", 1 + TAIL).unwrap();
    TAIL
}

/// Copies of a torn end, finished or not.
fn copies(rig: &Rig) -> Vec<std::path::PathBuf> {
    rig.files("m.log.torn-").into_iter().chain(rig.files(".m.log.torn-")).collect()
}

fn assert_moved(rig: &Rig, tail: u64) {
    let copies = copies(rig);
    assert_eq!(copies.len(), 1, "{copies:?}");
    let bytes = fs::read(&copies[0]).unwrap();
    assert_eq!(bytes.len() as u64, tail);
    let middle = usize::try_from(tail / 2 - 4).unwrap();
    assert!(bytes.starts_with(b"begin\0") && bytes.ends_with(b"\0end") && bytes[middle..].starts_with(b"middle\0"));
    assert!(copies[0].file_name().unwrap().to_str().unwrap().starts_with("m.log.torn-"));
}

#[test]
fn for_a_long_torn_end_it_asks_for_more_time_and_reports_what_it_does() {
    let mut rig = Rig::with("raw", Lines);
    let tail = long_tail(&rig);
    let logger = rig.start();
    rig.wait_notified("does not end with a whole line: ");
    rig.wait_notified("EXTEND_TIMEOUT_USEC=");
    rig.wait_notified("X_PLUMBD_PROBLEM=\0".trim_end_matches('\0'));
    rig.wait_notified("READY=1");
    rig.end();
    logger.wait_success();
    assert_moved(&rig, tail);
    assert_eq!(rig.text(), "one\n");
}

#[test]
fn a_logger_that_moves_a_long_torn_end_can_be_stopped() {
    let rig = Rig::with("raw", Lines);
    let tail = long_tail(&rig);
    let len = || fs::metadata(rig.path()).unwrap().len();
    let mut stops = 0;
    while len() > 4 {
        let before = len();
        let mut logger = rig.start();
        wait_until("it has moved a piece", || (len() < before).then_some(()));
        logger.signal(SIGTERM);
        assert!(logger.wait().success());
        assert_eq!(copies(&rig).len(), 1);
        stops += 1;
    }
    assert!(stops > 1, "{stops}");
    let mut rig = rig;
    rig.drain();
    assert_moved(&rig, tail);
}

#[test]
fn kills_while_a_long_torn_end_is_moved_leave_one_copy() {
    for call in ["fsync", "ftruncate", "renameat", "pwrite64"] {
        let rig = Rig::with("raw", Lines);
        let tail = long_tail(&rig);
        let mut kills = 0;
        for when in 1.. {
            // Each logger gets a little further than the one before.
            let when = if call == "pwrite64" { when * 150 } else { when };
            let kill = format!("inject={call}:signal=KILL:when={when}");
            let trace = format!("trace={call}");
            let mut logger = rig.start_under(&["strace", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &kill]);
            let ended = wait_until("it is ready or killed", || {
                logger.ended().is_some().then_some(true).or_else(|| rig.was_notified("READY=1").then_some(false))
            });
            assert!(copies(&rig).len() <= 1, "{call} {when}: {:?}", copies(&rig));
            if !ended {
                break;
            }
            kills += 1;
        }
        assert!(kills > 0, "{call}");
        assert_moved(&rig, tail);
    }
}

#[test]
fn a_limit_that_is_lowered_while_it_runs_loses_nothing() {
    let mut rig = Rig::with("raw", Lines);
    let logger = rig.start();
    let set = |bytes: &str| {
        let limit =
            ["prlimit", &format!("--pid={}", logger.pid()), &format!("--fsize={bytes}:unlimited")].map(str::to_owned);
        assert!(Command::new(&limit[0]).args(&limit[1..]).status().unwrap().success());
    };
    let source = || rig.links[0].source();
    let mut expected = String::new();
    // The limit is within the room that was reserved: in the middle of a line, and before it.
    for (round, below) in [(0, 40), (1, 0)] {
        source().write_all(lines(round, round + 1).as_bytes()).unwrap();
        expected += &lines(round, round + 1);
        wait_until("it is saved", || (rig.text() == expected).then_some(()));
        set(&(expected.len() + below).to_string());
        source().write_all(lines(7, 8).as_bytes()).unwrap();
        rig.wait_notified("X_PLUMBD_PROBLEM=cannot write to ");
        wait_until("no half line stays", || (rig.text() == expected).then_some(()));
        set("unlimited");
        expected += &lines(7, 8);
        wait_until("it goes on", || (rig.text() == expected).then_some(()));
        rig.wait_notified("X_PLUMBD_PROBLEM=");
    }
    rig.end();
    logger.wait_success();
    assert_eq!(rig.text(), expected);
    assert!(rig.files("m.log.torn-").is_empty());
}
