//! `plumbd log`: the last lines of children, whatever the log's target is.

use crate::daemon::{Daemon, wait_for};
use plumbd::control::Request;
use plumbd::control::status::ChildState;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Output, Stdio};
use std::time::Duration;

fn plumbd(daemon: &Daemon, words: &[&str]) -> Output {
    daemon.command(words).output().unwrap()
}

/// Follows, into a file of that name.
fn follow(daemon: &Daemon, words: &[&str], file: &str) -> Child {
    daemon.command(words).stdout(File::create(daemon.path(file)).unwrap()).spawn().unwrap()
}

/// Each line without its time, which is checked to be one.
fn lines(out: &[u8]) -> Vec<String> {
    let text = std::str::from_utf8(out).unwrap();
    text.lines().map(without_time).collect()
}

fn without_time(line: &str) -> String {
    let (time, rest) = line.split_once(' ').unwrap();
    assert!(time.parse::<jiff::Timestamp>().is_ok(), "{line}");
    rest.trim_end().to_owned()
}

const TWO: &str = r#"
    [children.first]
    command = ["sh", "-c", "echo one; echo '<3>two'; exec sleep 1000"]
    [children.second]
    command = ["sh", "-c", "echo three >&2; echo '<7>detail'; exec sleep 1000"]
    after = ["first"]
    ready = "fd"
    [children.third]
    command = ["sh", "-c", "printf '\\033[2J\\n'; exec sleep 1000"]
"#;

#[test]
fn the_last_lines_of_children_are_shown_whatever_the_level_of_the_log() {
    let mut daemon = Daemon::spawn(&TWO.replace("    ready = \"fd\"\n", ""));
    wait_for("all have spoken", || {
        let out = plumbd(&daemon, &["log"]).stdout;
        ["two", "detail", "x1b"].iter().all(|word| String::from_utf8_lossy(&out).contains(word)).then_some(())
    });
    assert_eq!(lines(&plumbd(&daemon, &["log", "first"]).stdout), ["INFO first: one", "ERROR first: two"]);
    assert_eq!(lines(&plumbd(&daemon, &["log", "first", "-n", "1"]).stdout), ["ERROR first: two"]);
    assert_eq!(lines(&plumbd(&daemon, &["log", "second"]).stdout), ["INFO second: three", "DEBUG second: detail"]);
    assert_eq!(lines(&plumbd(&daemon, &["log", "third"]).stdout), ["INFO third: \\x1b[2J"]);
    let own = lines(&plumbd(&daemon, &["log", "plumbd"]).stdout);
    assert!(own.iter().any(|line| line.starts_with("INFO plumbd: supervises 3 children")), "{own:?}");
    let all = lines(&plumbd(&daemon, &["log"]).stdout);
    assert_eq!(all.len(), own.len() + 5, "{all:?}");
    let nobody = plumbd(&daemon, &["log", "fourth"]);
    assert_eq!(nobody.status.code(), Some(1));
    let why = String::from_utf8(nobody.stderr).unwrap();
    assert!(why.starts_with("plumbd: cannot find child \"fourth\": "), "{why}");
    daemon.stop();
}

#[test]
fn what_is_past_the_limit_of_the_log_can_be_seen_all_the_same_and_the_ring_is_bounded() {
    let mut daemon = Daemon::start(
        r#"
        [children.loud]
        command = ["sh", "-c", "seq 20000"]
        restart = "never"
        log_keep = "8KiB"
        "#,
    );
    daemon.wait_child("loud", ChildState::Down);
    wait_for("its last line", || {
        let kept = lines(&plumbd(&daemon, &["log", "loud"]).stdout);
        kept.iter().any(|line| line == "INFO loud: 20000").then_some(())
    });
    let kept = plumbd(&daemon, &["log", "loud"]).stdout;
    assert!(lines(&kept).len() < 200, "{}", lines(&kept).len());
    daemon.stop();
}

#[test]
fn one_that_follows_sees_each_line_in_order_and_ends_with_the_daemon() {
    let mut daemon = Daemon::start(
        r#"
        [children.says]
        command = ["sh", "-c", "echo here; until [ -e go ]; do sleep 0.01; done; echo a; echo b >&2; exec sleep 1000"]
        [children.other]
        command = ["sh", "-c", "echo unheard; exec sleep 1000"]
        "#,
    );
    let mut one = follow(&daemon, &["log", "says", "-f"], "one");
    let mut all = follow(&daemon, &["log", "--follow"], "all");
    for file in ["one", "all"] {
        wait_for("it follows", || daemon.read_text(file).contains(" says: here\n").then_some(()));
    }
    File::create(daemon.path("go")).unwrap();
    wait_for("both lines", || {
        (lines(&daemon.read("one")) == ["INFO says: here", "INFO says: a", "INFO says: b"]).then_some(())
    });
    daemon.signal(nix::libc::SIGTERM);
    assert!(daemon.wait_end().success());
    assert!(one.wait().unwrap().success() && all.wait().unwrap().success());
    let all = daemon.read_text("all");
    assert!([" says: b\n", " other: unheard\n", " SIGTERM from "].iter().all(|said| all.contains(said)), "{all}");
}

#[test]
fn a_reader_that_never_reads_holds_nobody_up_and_learns_what_it_missed() {
    let mut daemon = Daemon::start(
        r#"
        [children.loud]
        command = ["sh", "-c", "echo here; until [ -e go ]; do sleep 0.01; done; seq -f 'a line that takes some room in what waits %.0f' 60000; echo done; exec sleep 1000"]
        log_limit = "none"
        "#,
    );
    // Once it follows, it reads nothing.
    let mut slow = UnixStream::connect(daemon.path("plumbd.sock")).unwrap();
    let request = Request::Log { children: vec!["loud".to_owned()], lines: None, follow: true };
    slow.write_all(&request.line().unwrap()).unwrap();
    slow.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut answers = BufReader::new(slow);
    let mut line = String::new();
    answers.read_line(&mut line).unwrap();
    assert!(line.contains("here"), "{line}");
    File::create(daemon.path("go")).unwrap();
    wait_for("the last line", || {
        let last = lines(&plumbd(&daemon, &["log", "loud", "-n", "1"]).stdout);
        (last == ["INFO loud: done"]).then_some(())
    });
    assert!(daemon.try_status().is_some());
    let (mut read, mut lost) = (0, 0);
    loop {
        line.clear();
        answers.read_line(&mut line).unwrap();
        let answer: serde_json::Value = serde_json::from_str(&line).unwrap();
        if let Some(missed) = answer.get("lost") {
            assert_eq!(missed["child"], "loud");
            lost += missed["entries"].as_u64().unwrap();
        } else {
            read += 1;
            if answer["entry"]["text"] == "done" {
                break;
            }
        }
    }
    assert_eq!(read + lost, 60_001);
    assert!(lost > 0);
    daemon.stop();
}

#[test]
fn all_that_is_kept_comes_even_if_nothing_else_happens() {
    let mut daemon = Daemon::start(
        r#"
        [children.loud]
        command = ["sh", "-c", "seq -f 'a line that takes some room in what is kept %.0f' 5000; exec sleep 1000"]
        log_limit = "none"
        log_keep = "1MiB"
        "#,
    );
    wait_for("the last line", || {
        let last = lines(&plumbd(&daemon, &["log", "loud", "-n", "1"]).stdout);
        last[..].first().is_some_and(|line| line.ends_with(" 5000")).then_some(())
    });
    assert_eq!(lines(&plumbd(&daemon, &["log", "loud"]).stdout).len(), 5000);
    assert_eq!(
        lines(&plumbd(&daemon, &["log", "all"]).stdout).iter().filter(|line| line.contains("loud")).count(),
        5000
    );
    // A reload makes the ring smaller at once.
    let config = daemon.read_text("plumbd.toml").replace("1MiB", "4KiB");
    daemon.reload(&config);
    assert!(lines(&plumbd(&daemon, &["log", "loud"]).stdout).len() < 100);
    daemon.stop();
}

#[test]
fn one_whose_reader_is_gone_ends() {
    let mut daemon = Daemon::start("[children.one]\ncommand = [\"sh\", \"-c\", \"echo here; exec sleep 1000\"]\n");
    for words in [&["log", "-f"][..], &["events", "--since", "0"]] {
        let mut follower = daemon.command(words).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(follower.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(!line.is_empty());
        // Its pipe is closed now.
        let ended = wait_for("it ends", || follower.try_wait().unwrap());
        assert!(ended.success(), "{words:?}");
    }
    daemon.stop();
}

/// A daemon with more to read than a socket holds.
fn loud() -> Daemon {
    let daemon = Daemon::start(
        r#"
        [children.loud]
        command = ["sh", "-c", "seq 20000; exec sleep 1000"]
        log_keep = "4MiB"
        "#,
    );
    wait_for("its last line", || {
        let kept = lines(&plumbd(&daemon, &["log", "-n", "1", "loud"]).stdout);
        (kept == ["INFO loud: 20000"]).then_some(())
    });
    daemon
}

#[test]
fn a_reader_that_is_behind_when_the_daemon_ends_gets_the_rest() {
    let mut daemon = loud();
    let mut stream = UnixStream::connect(daemon.path("plumbd.sock")).unwrap();
    let request = Request::Log { children: vec!["loud".to_owned()], lines: None, follow: true };
    stream.write_all(&request.line().unwrap()).unwrap();
    // It has come to a halt.
    stream.read_exact(&mut [0; 1]).unwrap();
    daemon.signal(nix::libc::SIGTERM);
    let mut answers = Vec::new();
    // It reads on, but slower than the daemon ends.
    while Read::by_ref(&mut stream).take(32 << 10).read_to_end(&mut answers).unwrap() > 0 {
        std::thread::sleep(Duration::from_millis(4));
    }
    assert!(daemon.wait_end().success());
    let answers: Vec<&str> = std::str::from_utf8(&answers).unwrap().lines().collect();
    assert!(answers.last().unwrap().contains("exit"), "{:?}", answers.last());
    assert!(answers.iter().filter(|line| line.contains("loud")).count() >= 20_000, "{}", answers.len());
}

#[test]
fn a_reader_that_does_not_read_is_told_that_it_lacks_something() {
    let mut daemon = loud();
    let mut command = daemon.command(&["log", "-f", "loud"]);
    let mut reader = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut out = reader.stdout.take().unwrap();
    out.read_exact(&mut [0; 1]).unwrap();
    daemon.signal(nix::libc::SIGTERM);
    assert!(daemon.wait_end().success());
    out.read_to_end(&mut Vec::new()).unwrap();
    let output = reader.wait_with_output().unwrap();
    let why = "plumbd: the daemon ended before it had sent everything\n";
    assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap().as_str()), (Some(1), why));
}
