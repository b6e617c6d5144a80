//! `plumbd events`: what happens, a JSON object a line.

use crate::daemon::{Daemon, wait_for};
use crate::steady::wake_ups;
use plumbd::control::Request;
use plumbd::control::status::ChildState;
use serde_json::{Value, json};
use std::fs::File;
use std::process::Child;
use std::time::Duration;

pub fn follow(daemon: &Daemon, words: &[&str], file: &str) -> Child {
    let mut command = daemon.command(&[&["events"], words].concat());
    command.stdout(File::create(daemon.path(file)).unwrap()).spawn().unwrap()
}

pub fn events(daemon: &Daemon, file: &str) -> Vec<Value> {
    // The last line may not be whole yet.
    let text = daemon.read_text(file);
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

pub fn names(events: &[Value], child: &str) -> Vec<String> {
    let of = events.iter().filter(|event| event["child"] == child);
    of.map(|event| event["event"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_childs_life_is_told_from_its_start_to_its_end() {
    let mut daemon = Daemon::start(
        r#"
        [children.job]
        command = ["true"]
        restart = "never"
        [children.weak]
        command = ["sh", "-c", "exit 3"]
        restart = "never"
        [children.says]
        command = ["sh", "-c", "echo >&$PLUMBD_READY_FD; exec sleep 1000"]
        ready = "fd"
        "#,
    );
    daemon.wait_child("job", ChildState::Down);
    daemon.wait_child("weak", ChildState::Down);
    let mut all = follow(&daemon, &["--since", "0"], "all");
    let mut one = follow(&daemon, &["--child", "says", "--since", "0"], "one");
    wait_for("it has read all", || (names(&events(&daemon, "all"), "says").len() == 3).then_some(()));
    let seen = events(&daemon, "all");
    assert_eq!(names(&seen, "job"), ["starting", "up", "exited", "finished"]);
    assert_eq!(names(&seen, "weak"), ["starting", "up", "exited", "problem"]);
    assert_eq!(names(&seen, "says"), ["starting", "ready", "up"]);
    let exited = seen.iter().find(|event| event["child"] == "weak" && event["event"] == "exited").unwrap();
    assert_eq!((&exited["exit"], exited.get("signal")), (&json!(3), None));
    assert_eq!(exited["reason"], "exited with status 3");
    assert!(exited["pid"].as_i64().is_some());

    let pid = daemon.child_pid("says");
    crate::daemon::kill(pid, nix::libc::SIGKILL);
    daemon.wait_replaced("says", pid);
    wait_for("its next life", || (names(&events(&daemon, "one"), "says").len() == 7).then_some(()));
    let seen = events(&daemon, "one");
    assert_eq!(names(&seen, "says")[3..], ["exited", "starting", "ready", "up"]);
    assert_eq!((&seen[3]["signal"], &seen[4]["restarts"]), (&json!("SIGKILL"), &json!(1)));

    daemon.signal(nix::libc::SIGTERM);
    assert!(daemon.wait_end().success());
    assert!(all.wait().unwrap().success() && one.wait().unwrap().success());
    let seen = events(&daemon, "all");
    let numbers: Vec<u64> = seen.iter().map(|event| event["seq"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (0..numbers.len() as u64).collect::<Vec<_>>());
    assert!(seen.iter().any(|event| event["event"] == "stopping" && event.get("child").is_none()));
}

#[test]
fn reloads_are_told_with_how_they_end() {
    let config = r#"
        [children.one]
        command = ["sleep", "1000"]
        "#;
    let mut daemon = Daemon::start(config);
    let mut all = follow(&daemon, &["--since", "0"], "all");
    daemon.reload(&config.replace("1000", "1001"));
    daemon.configure("[children.one]\ncommand = []\n");
    assert_eq!(daemon.ask(&Request::Reload).0, 78);
    daemon.configure(
        &config
            .replace("\"sleep\", \"1000\"", "\"sh\", \"-c\", \"exit 1\"")
            .replace("command", "restart = \"never\"\nready = \"fd\"\ncommand"),
    );
    assert_eq!(daemon.ask(&Request::Reload).0, 1);
    daemon.stop();
    assert!(all.wait().unwrap().success());
    let seen = events(&daemon, "all");
    let of_daemon: Vec<&str> = seen
        .iter()
        .filter(|event| event.get("child").is_none())
        .map(|event| event["event"].as_str().unwrap())
        .collect();
    assert_eq!(
        of_daemon,
        ["reload-begun", "reload-done", "reload-refused", "reload-begun", "reload-begun", "reload-undone", "stopping"]
    );
}

#[test]
#[ignore = "needs systemd-notify(1)"]
fn a_problem_is_not_solved_by_the_end_of_who_reported_it() {
    let mut daemon = Daemon::start(
        r#"
        [children.sick]
        command = ["sh", "-c", "systemd-notify --ready X_PLUMBD_PROBLEM=unwell || exit 9; exec sleep 1000"]
        ready = "notify"
        "#,
    );
    let mut all = follow(&daemon, &["--since", "0", "--child", "all"], "all");
    wait_for("it is unwell", || names(&events(&daemon, "all"), "sick").contains(&"problem".to_owned()).then_some(()));
    let pid = daemon.child_pid("sick");
    crate::daemon::kill(pid, nix::libc::SIGKILL);
    daemon.wait_replaced("sick", pid);
    daemon.stop();
    assert!(all.wait().unwrap().success());
    let seen = names(&events(&daemon, "all"), "sick");
    let ended = seen.iter().position(|event| event == "exited").unwrap();
    assert!(!seen[..=ended].contains(&"solved".to_owned()), "{seen:?}");
}

/// The events of links, and what each is about.
fn of_links(daemon: &Daemon, file: &str) -> Vec<[String; 4]> {
    let all = events(daemon, file);
    let of_links = all.iter().filter(|event| event["event"].as_str().unwrap().starts_with("link-"));
    let text = |event: &Value, key: &str| event[key].as_str().unwrap().to_owned();
    of_links.map(|event| ["event", "from", "child", "reason"].map(|key| text(event, key))).collect()
}

/// A link from a source to a sink, which have these keys.
fn link(source: &str, sink: &str) -> String {
    format!("[children.source]\n{source}\n[children.sink]\n{sink}\n[[links]]\nfrom = \"source\"\nto = \"sink\"\n")
}

const WRITES: &str = r#"command = ["yes"]"#;
const READS: &str = r#"command = ["sh", "-c", "exec cat >/dev/null"]"#;

#[test]
fn a_link_is_full_once_and_moves_once() {
    let part = r#"command = ["sh", "-c", "until test -e go; do sleep 0.02; done; head -c 3000000 /dev/zero; exec sleep 1000"]"#;
    let logger = "plugin = \"logger\"\nsettings = { file = \"messages.log\" }";
    for (source, sink) in [(WRITES, READS), (part, logger)] {
        let mut daemon = Daemon::start(&link(source, sink));
        let mut all = follow(&daemon, &["--child", "source"], "all");
        let pid = daemon.child_pid_when_up("sink");
        crate::daemon::kill(pid, nix::libc::SIGSTOP);
        std::fs::write(daemon.path("go"), "").unwrap();
        wait_for("it is full", || (!of_links(&daemon, "all").is_empty()).then_some(()));
        // A full link wakes nobody.
        wait_for("the daemon sleeps", || {
            let before = wake_ups(daemon.pid());
            std::thread::sleep(Duration::from_secs(1));
            (wake_ups(daemon.pid()) == before).then_some(())
        });
        crate::daemon::kill(pid, nix::libc::SIGCONT);
        wait_for("it moves", || (of_links(&daemon, "all").len() > 1).then_some(()));
        // This waits for time, not for a fact: in twice the time after which a full link is
        // called so, nothing more is said.
        std::thread::sleep(Duration::from_secs(6));
        let seen = of_links(&daemon, "all");
        assert_eq!(seen.len(), 2, "{seen:?}");
        assert_eq!(seen[0][..3], ["link-full", "source", "sink"]);
        assert_eq!(seen[0][3], "source -> sink is full: sink has made no room for 1 s");
        assert_eq!(seen[1][..3], ["link-moves", "source", "sink"]);
        assert!(seen[1][3].starts_with("source -> sink moves again: it was full for "), "{seen:?}");
        daemon.ask(&Request::Shutdown { fast: true });
        daemon.wait_end();
        assert!(all.wait().unwrap().success());
    }
}

#[test]
fn a_busy_link_wakes_the_daemon_about_once_a_second() {
    let mut daemon = Daemon::start(&link(WRITES, READS));
    let mut all = follow(&daemon, &["--since", "0"], "all");
    wait_for("it has read all", || (names(&events(&daemon, "all"), "source").len() == 2).then_some(()));
    // Each two seconds a look, and a report of room if it was full then. A machine with more work than
    // processors adds a few, but never one a message.
    wait_for("five quiet seconds", || {
        let before = wake_ups(daemon.pid());
        std::thread::sleep(Duration::from_secs(5));
        (wake_ups(daemon.pid()) <= before + 10).then_some(())
    });
    assert_eq!(of_links(&daemon, "all").len(), 0);
    daemon.ask(&Request::Shutdown { fast: true });
    daemon.wait_end();
    assert!(all.wait().unwrap().success());
}

#[test]
fn a_link_whose_sink_is_slow_is_not_full() {
    let slow = r#"command = ["sh", "-c", "while head -c 4096 >/dev/null; do echo >>taken; sleep 0.05; done"]"#;
    let mut daemon = Daemon::start(&link(r#"command = ["dd", "if=/dev/zero", "bs=2M"]"#, slow));
    let mut all = follow(&daemon, &["--since", "0"], "all");
    // Long enough to be called full three times.
    wait_for("it has taken some", || (daemon.path("taken").exists() && daemon.read("taken").len() > 150).then_some(()));
    assert_eq!(of_links(&daemon, "all").len(), 0, "{}", daemon.read_text("all"));
    daemon.ask(&Request::Shutdown { fast: true });
    daemon.wait_end();
    assert!(all.wait().unwrap().success());
}

#[test]
fn links_in_which_nothing_waits_wake_nobody() {
    let mut config = "[children.logger]\nplugin = \"logger\"\nsettings = { file = \"messages.log\" }\n".to_owned();
    for number in 0..100 {
        config += &format!("[children.s{number}]\ncommand = [\"sleep\", \"1000\"]\n");
        for stream in ["stdout", "stderr"] {
            config += &format!("[[links]]\nfrom = \"s{number}\"\nto = \"logger\"\nstream = \"{stream}\"\n");
        }
    }
    let mut daemon = Daemon::start(&config);
    wait_for("a second of sleep", || {
        let before = wake_ups(daemon.pid());
        std::thread::sleep(Duration::from_secs(1));
        (wake_ups(daemon.pid()) == before).then_some(())
    });
    daemon.stop();
}
