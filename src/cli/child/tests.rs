use super::*;
use serde_json::{Value, json};
use std::path::Path;

const NOW: &str = "2026-11-22T17:03:20Z";

fn status(children: &Value, links: &Value, listeners: &Value) -> Status {
    serde_json::from_value(json!({
        "version": 1, "pid": 4242, "state": "running", "config": "/etc/plumbd/plumbd.toml",
        "since": "2026-11-22T15:00:00Z", "reloads": 0, "children": children, "links": links, "listeners": listeners
    }))
    .unwrap()
}

fn at(status: &Status, width: Option<usize>) -> String {
    shown(status, NOW.parse().unwrap(), Paper { width, colours: false }).print
}

/// An echo server to which nothing ever happened.
fn echo() -> Status {
    let child = json!({
        "name": "echo", "state": "up", "pid": 4243, "ready": true, "since": "2026-11-22T15:00:00Z",
        "restarts": 0, "last_exit": null, "problem": null,
        "metrics": {"connections": 5, "messages": 1234}, "rates": {"messages": 12.5},
        "usage": {"processes": 1, "cpu_ms": 12_345, "cpu_percent": 3.1, "cpu_percent_over_ms": 7_400_000,
                  "memory_bytes": 4_300_000, "descriptors": 14, "read_bytes": 100_000, "written_bytes": 99_000},
        "config": {"plugin": "echo", "listen": ["tcp://127.0.0.1:7007"], "instances": 1,
                   "backoff": {"first": "0s", "factor": 2.0, "max": "30s", "reset_after": "10s"},
                   "settings": {"echo_after": "saved", "allow": ["0.0.0.0/0", "::/0"]}},
        "environment": {"PLUMBD_CHILD": "echo", "LISTEN_FDS": "1",
                        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
        "descriptors": [
            {"number": 0, "kind": "file", "name": "/dev/null"},
            {"number": 1, "kind": "pipe", "name": "link echo -> logger"},
            {"number": 2, "kind": "pipe", "name": "log"},
            {"number": 3, "kind": "socket", "name": "tcp://127.0.0.1:7007"},
            {"number": 4, "kind": "other", "name": "eventpoll"},
            {"number": 5, "kind": "memory", "name": "settings"},
            {"number": 10, "kind": "connection", "name": "tcp 127.0.0.1:7007 with 127.0.0.1:50001"},
            {"number": 11, "kind": "connection", "name": "tcp 127.0.0.1:7007 with 127.0.0.1:50002"},
            {"number": 12, "kind": "connection", "name": "tcp 127.0.0.1:7007 with 127.0.0.1:50003"},
            {"number": 13, "kind": "connection", "name": "tcp 127.0.0.1:7007 with 127.0.0.1:50004"}
        ],
        "limits": {"nofile": {"soft": 20000, "hard": 524_288, "differs": false},
                   "core": {"soft": 0, "hard": null, "differs": false}},
        "processes": [{"pid": 4243, "parent": 4242, "depth": 0, "command": "plumbd plugin echo", "state": "sleeping",
                       "cpu_ms": 12_345, "memory_bytes": 4_300_000, "age_ms": 7_400_000}],
        "ends": [],
        "lines": [{"seq": 3, "at": "2026-11-22T15:00:00Z", "child": "echo", "level": "info",
                   "text": "listens on tcp://127.0.0.1:7007"}]
    });
    let links = json!([
        {"from": "echo", "to": "logger", "queued_bytes": 0, "capacity_bytes": 1048576, "stalled_for_ms": 0,
         "messages": 1234, "bytes": 99000, "rates": {"messages": 12.5, "bytes": 4096.0}, "rates_1m": {}}
    ]);
    let listeners = json!([{"address": "tcp://127.0.0.1:7007", "child": "echo", "backlog": 0, "backlog_max": 4096}]);
    status(&json!([child]), &links, &listeners)
}

/// A program that keeps dying, and waits for its next start.
fn crash() -> Status {
    let why = "Traceback: no module named foo";
    let end = |second: u32, more: Value| {
        let mut end = json!({"code": 1, "at": format!("2026-11-22T17:03:{second:02}Z"), "ran_ms": 108, "asked": false,
                             "reason": null, "last_line": why});
        end.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        end
    };
    let line = |seq: u32, level: &str, text: &str| {
        let at = format!("2026-11-22T17:03:{:02}.123Z", 10 + seq);
        json!({"seq": seq, "at": at, "child": "crash", "level": level, "text": text})
    };
    let child = json!({
        "name": "crash", "state": "backoff", "pid": null, "ready": false, "since": "2026-11-22T17:03:18Z",
        "restarts": 7, "restarts_by": {"failure": 3, "operator": 1, "reload": 1, "health": 2},
        "last_exit": {"code": 1, "at": "2026-11-22T17:03:18Z"},
        "problem": format!("exited with status 1, 5 times in 14 s; its last line: \"{why}\"; starts again in 3 s, then 3 more tries"),
        "metrics": {}, "usage": null,
        "config": {"command": ["/usr/bin/python3", "/srv/crash.py"], "settings": {}},
        "environment": null, "descriptors": null, "limits": null, "processes": [],
        "ends": [
            end(1, json!({"asked": true, "last_line": null})),
            end(12, json!({"reason": "not ready within 10 s", "ran_ms": 10_002})),
            end(18, json!({}))
        ],
        "lines": [
            line(1, "info", why),
            line(2, "warn", &format!("exited with status 1; its last line: \"{why}\"; starts again in 3 s")),
            line(3, "info", "\u{1b}[2Jcleared"),
        ]
    });
    let mut status = status(&json!([child]), &json!([]), &json!([]));
    status.config_changed = Some("2026-11-22T17:01:20Z".parse().unwrap());
    status
}

/// A shell that has started others.
fn tree() -> Status {
    let process = |pid: i32, depth: u32, command: &str, state: &str| {
        json!({"pid": pid, "parent": 1, "depth": depth, "command": command, "state": state, "cpu_ms": pid * 40,
               "memory_bytes": 1_500_000, "age_ms": 61_000})
    };
    let child = json!({
        "name": "tree", "state": "up", "pid": 100, "ready": true, "since": "2026-11-22T17:02:19Z",
        "restarts": 0, "last_exit": null, "problem": null, "metrics": {},
        "usage": {"processes": 4, "cpu_ms": 16_240, "cpu_percent": 120.0, "cpu_percent_over_ms": 61_000,
                  "memory_bytes": 6_000_000, "descriptors": 16, "read_bytes": 100_000, "written_bytes": 99_000},
        "config": {"command": ["/bin/sh", "-c", "sleep 1000 & sh -c 'sleep 1001; :'"], "settings": {}},
        "environment": {"PLUMBD_CHILD": "tree", "ODD": "a\nb\u{1b}[2J"},
        "descriptors": [{"number": 0, "kind": "file", "name": "/dev/null"}, {"number": 1, "kind": "pipe", "name": "log"},
                        {"number": 2, "kind": "pipe", "name": "log"}, {"number": 3, "kind": "memory", "name": "settings"}],
        "limits": {"nofile": {"soft": 1024, "hard": 1024, "differs": true}, "core": {"soft": 0, "hard": 0, "differs": true},
                   "stack": {"soft": 8_388_608, "hard": null, "differs": false}},
        "processes": [
            process(100, 0, "/bin/sh -c sleep 1000 & sh -c 'sleep 1001; :'", "sleeping"),
            process(101, 1, "sleep 1000", "stopped"),
            process(102, 1, "sh -c sleep 1001; :", "sleeping"),
            process(103, 2, "sleep 1001", "running"),
        ],
        "ends": [], "lines": []
    });
    status(&json!([child]), &json!([]), &json!([]))
}

/// The pages of a child are those of a file beside this one, which has them one below the other
/// at 40, 80 and 250 columns. `UPDATE_EXPECT=1 cargo test --lib cli::child` writes it anew.
#[track_caller]
fn expect(name: &str, status: &Status) {
    let mut pages = String::new();
    for width in [40, 80, 250] {
        let page = at(status, Some(width));
        assert!(page.lines().all(|line| line.chars().count() <= width), "{width}:\n{page}");
        pages += &format!("{:=<width$}\n{page}", "");
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cli/child/expected").join(name);
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(path, pages).unwrap();
        return;
    }
    assert_eq!(std::fs::read_to_string(path).unwrap(), pages);
}

#[test]
fn a_healthy_echo_is_shown_with_all_it_has() {
    expect("echo.txt", &echo());
}

#[test]
fn a_program_that_keeps_ending_is_shown_with_its_last_ends_and_lines() {
    expect("crash.txt", &crash());
}

#[test]
fn the_processes_of_a_program_are_shown_as_a_tree() {
    expect("tree.txt", &tree());
}

#[test]
fn what_may_not_be_seen_says_so() {
    let mut status = tree();
    let details = status.children[0].details.as_mut().unwrap();
    (details.environment, details.descriptors, details.limits, details.processes) = (None, None, None, None);
    let page = at(&status, None);
    let advice = if geteuid().is_root() { "" } else { ": use sudo" };
    for title in ["ENVIRONMENT", "DESCRIPTORS", "LIMITS", "PROCESS"] {
        assert!(page.contains(&format!("\n{title}\n  cannot be seen{advice}\n")), "{page}");
    }
}

#[test]
fn without_a_terminal_nothing_is_folded_and_in_a_watch_what_changes_comes_first() {
    let status = echo();
    assert_eq!(at(&status, None), at(&status, Some(100_000)));
    let watched = shown(&status, NOW.parse().unwrap(), Paper { width: Some(80), colours: true }).watch;
    let place = |text: &str| watched.find(text).unwrap_or_else(|| panic!("{text} in {watched}"));
    assert!(place("\x1b[32mup\x1b[0m") < place("USES") && place("USES") < place("PROCESS"), "{watched}");
    assert!(place("LAST LINES") < place("CONFIGURATION"), "{watched}");
}

#[test]
fn only_what_belongs_to_the_named_children_is_left() {
    let child = |name: &str| {
        json!({"name": name, "state": "up", "pid": 1, "ready": true, "since": "2026-11-22T15:00:00Z", "restarts": 0,
               "last_exit": null, "problem": null, "metrics": {}})
    };
    let link = |from: &str, to: &str| json!({"from": from, "to": to, "queued_bytes": 0, "capacity_bytes": 1, "stalled_for_ms": 0});
    let all = status(
        &json!([child("echo.0"), child("echo.1"), child("logger"), child("other")]),
        &json!([link("echo.0", "logger"), link("echo.1", "logger"), link("other", "x")]),
        &json!([{"address": "tcp://[::1]:7", "child": "echo.0"}, {"address": "tcp://[::1]:8", "child": "other"}]),
    );
    let kept = |names: &[&str]| {
        let mut status = all.clone();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        look::keep(&mut status, &names).map(|()| {
            let children: Vec<String> = status.children.iter().map(|child| child.name.clone()).collect();
            (children.join(" "), status.links.len(), status.listeners.len())
        })
    };
    assert_eq!(kept(&["echo"]).unwrap(), ("echo.0 echo.1".to_owned(), 2, 1));
    assert_eq!(kept(&["echo.1"]).unwrap(), ("echo.1".to_owned(), 1, 1));
    assert_eq!(kept(&["logger", "logger"]).unwrap(), ("logger".to_owned(), 2, 0));
    assert_eq!(kept(&["all"]).unwrap().1, 3);
    let why = |name: &str| kept(&[name]).unwrap_err().to_string();
    assert_eq!(why("ecko"), "plumbd: cannot find child \"ecko\": did you mean \"echo\"?");
    assert_eq!(why("moon"), "plumbd: cannot find child \"moon\": there are echo.0, echo.1, logger, other");
}

#[test]
fn these_children_alone_decide_whether_all_is_well() {
    assert!(are_well(&echo()));
    assert!(!are_well(&crash()));
    let mut reloading = echo();
    reloading.state = crate::control::status::DaemonState::Reloading;
    assert!(are_well(&reloading));
    reloading.links[0].stalled_for_ms = 5000;
    assert!(!are_well(&reloading));
}
