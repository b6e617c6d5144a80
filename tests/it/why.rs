//! Why a child died: with its exit, how often in what time, and its last line, where an
//! operator looks first.

use crate::daemon::{Daemon, kill, wait_for};
use plumbd::control::Request;
use plumbd::control::status::{ChildState, RestartsBy};

fn status(daemon: &Daemon) -> (Option<i32>, String) {
    let out = daemon.command(&["status"]).output().unwrap();
    (out.status.code(), String::from_utf8(out.stdout).unwrap())
}

fn start(name: &str) -> Request {
    Request::Start { children: vec![name.to_owned()] }
}

#[test]
fn status_and_log_say_why_it_died_and_when_it_comes_again() {
    let mut daemon = Daemon::spawn(
        r#"
        [children.crash]
        command = ["sh", "-c", "echo here; echo 'Traceback: no module named foo' >&2; exit 1"]
        backoff = { first = "10ms", factor = 1000.0, max = "30s" }
        "#,
    );
    let why = r#"crash: exited with status 1, 2 times in 1 s; its last line: "Traceback: no module named foo"; starts again in "#;
    let shown = wait_for("the second end", || {
        let (code, shown) = status(&daemon);
        shown.contains(why).then_some((code, shown))
    });
    assert_eq!(shown.0, Some(4));
    assert!(shown.1.ends_with("s, then 7 more tries; see `plumbd log crash`\n"), "{}", shown.1);
    assert!(shown.1.contains(", with 1 problem: 0 of 1 child up\n"), "{}", shown.1);
    let entry =
        r#"WARN crash: exited with status 1; its last line: "Traceback: no module named foo"; starts again in 10 s"#;
    daemon.wait_log(entry);
    daemon.stop();
}

#[test]
fn one_that_keeps_ending_is_a_problem_even_while_it_is_up() {
    let mut daemon = Daemon::start(
        r#"
        [children.slowcrash]
        command = ["sh", "-c", "echo lost my peer; exec sleep 1000"]
        backoff = { first = "0ms", factor = 1.0, max = "1ms" }
        "#,
    );
    assert_eq!(status(&daemon).0, Some(0));
    for _ in 0..3 {
        let pid = daemon.child_pid_when_up("slowcrash");
        wait_for("it has spoken", || {
            (daemon.ask(&Request::Log { children: Vec::new(), lines: None, follow: false }).0 == 0).then_some(())
        });
        kill(pid, nix::libc::SIGKILL);
        daemon.wait_replaced("slowcrash", pid);
    }
    daemon.wait_child("slowcrash", ChildState::Up);
    let (code, shown) = status(&daemon);
    assert_eq!(code, Some(4), "{shown}");
    assert!(shown.contains("slowcrash: keeps ending: was killed by SIGKILL, 3 times in "), "{shown}");
    assert_eq!(daemon.child("slowcrash").restarts_by, RestartsBy { failure: 3, operator: 0, reload: 0, health: 0 });
    // An operator's start forgives.
    assert_eq!(daemon.ask(&Request::Restart { children: vec!["slowcrash".to_owned()] }).0, 0);
    let (code, shown) = status(&daemon);
    assert_eq!(code, Some(0), "{shown}");
    assert_eq!(daemon.child("slowcrash").restarts_by, RestartsBy { failure: 3, operator: 1, reload: 0, health: 0 });
    daemon.stop();
}

#[test]
fn a_start_that_ends_at_once_is_a_failure_with_its_reason() {
    let mut daemon = Daemon::spawn(
        r#"
        [children.crash]
        command = ["sh", "-c", "echo no module named foo; exit 3"]
        restart = "never"
        [children.again]
        command = ["sh", "-c", "echo gone >&2; exit 4"]
        start_limit = { burst = 2, within = "1h" }
        [children.fine]
        command = ["sleep", "1000"]
        [children.job]
        command = ["true"]
        restart = "never"
        "#,
    );
    daemon.wait_child("crash", ChildState::Down);
    daemon.wait_child("again", ChildState::Failed);
    let (code, _, why) = daemon.ask(&start("crash"));
    assert_eq!(code, 1);
    assert!(why.contains("its last line: \"no module named foo\""), "{why}");
    let (code, _, why) = daemon.ask(&start("again"));
    assert_eq!(code, 1);
    assert!(why.contains("exited with status 4") && why.contains("its last line: \"gone\""), "{why}");
    assert_eq!(daemon.ask(&Request::Restart { children: vec!["fine".to_owned()] }).0, 0);
    assert_eq!(daemon.ask(&start("job")).0, 0);
    daemon.stop();
}

#[test]
fn a_reload_says_why_what_it_started_died() {
    let config = "[children.one]\ncommand = [\"sleep\", \"1000\"]\n";
    let mut daemon = Daemon::start(config);
    daemon.configure("[children.one]\ncommand = [\"sh\", \"-c\", \"echo no such table; exit 1\"]\nready = \"fd\"\n");
    let (code, _, why) = daemon.ask(&Request::Reload);
    assert_eq!(code, 1);
    assert!(why.contains("its last line: \"no such table\""), "{why}");
    daemon.reload("[children.one]\ncommand = [\"sleep\", \"1001\"]\n");
    assert!(daemon.child("one").restarts_by.reload > 0);
    assert!(daemon.child("one").last_exit.unwrap().asked);
    daemon.stop();
}
