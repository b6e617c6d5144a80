//! `plumbd events`: what happens, a JSON object a line.

use crate::daemon::{Daemon, wait_for};
use plumbd::control::Request;
use plumbd::control::status::ChildState;
use serde_json::{Value, json};
use std::fs::File;
use std::process::Child;

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
