//! Hooks: programs that are run when something happens (`on`).

use crate::daemon::{DEADLINE, Daemon, alive, children_of, kill, wait_for};
use plumbd::control::Request;
use plumbd::control::status::{ChildState, DaemonState};
use serde_json::Value;
use std::time::{Duration, Instant};

/// A hook that notes its variables and its standard input in `noted`.
const NOTES: &str = r#"["sh", "-c", 'set -u; echo "$PLUMBD_EVENT,$PLUMBD_CHILD,$PLUMBD_REASON,$PLUMBD_EXIT_CODE,$PLUMBD_SIGNAL,$PLUMBD_SEQ" >>noted; cat >>json']"#;

fn lines(daemon: &Daemon, file: &str) -> Vec<String> {
    std::fs::read_to_string(daemon.path(file)).unwrap_or_default().lines().map(str::to_owned).collect()
}

#[test]
fn a_hook_learns_what_happened_from_its_variables_and_as_json() {
    let mut daemon = Daemon::start(&format!(
        r#"
        [children.weak]
        command = ["sh", "-c", "echo it is broken >&2; exit 3"]
        restart = "never"
        environment = {{ OWN = "value" }}
        umask = "0077"
        on = {{ exited = {NOTES}, up = ["sh", "-c", "echo $OWN $(umask) >up; env >environment"] }}
        [children.shot]
        command = ["sh", "-c", "kill -9 $$"]
        restart = "never"
        on = {{ exited = {NOTES} }}
        "#
    ));
    wait_for("both hooks", || (lines(&daemon, "json").len() == 2).then_some(()));
    let noted = lines(&daemon, "noted");
    let of = |child: &str| {
        let json = lines(&daemon, "json").into_iter().map(|line| serde_json::from_str::<Value>(&line).unwrap());
        let event = json.clone().find(|event| event["child"] == child).unwrap();
        let note = noted.iter().find(|line| line.contains(child)).unwrap().clone();
        (event, note)
    };
    let (event, note) = of("weak");
    assert_eq!(note, format!("exited,weak,exited with status 3,3,,{}", event["seq"]));
    assert_eq!((&event["event"], &event["exit"]), (&"exited".into(), &3.into()));
    let (event, note) = of("shot");
    assert_eq!(note, format!("exited,shot,was killed by SIGKILL,,SIGKILL,{}", event["seq"]));
    // It runs as the child does.
    wait_for("the other hook", || (lines(&daemon, "up") == ["value 0077"]).then_some(()));
    let environment = daemon.read_text("environment");
    assert!(!environment.contains("LISTEN_FDS") && !environment.contains("PLUMBD_SETTINGS"), "{environment}");
    daemon.stop();
}

#[test]
fn hooks_of_the_daemon_see_every_child_and_reloads() {
    let config = format!(
        r#"
        [daemon]
        on = {{ up = {NOTES}, reload-done = {NOTES}, reload-refused = {NOTES}, stopping = {NOTES} }}
        [children.one]
        command = ["sleep", "1000"]
        [children.two]
        command = ["sleep", "1000"]
        "#
    );
    let mut daemon = Daemon::start(&config);
    wait_for("the first", || (lines(&daemon, "noted").len() == 2).then_some(()));
    daemon.reload(&config.replace("[children.two]", "[children.three]"));
    wait_for("the reload", || (lines(&daemon, "noted").len() >= 4).then_some(()));
    daemon.configure("[children.one]\nx = 1\n");
    assert_eq!(daemon.ask(&Request::Reload).0, 78);
    wait_for("the refusal", || daemon.read_text("noted").contains("reload-refused,").then_some(()));
    daemon.signal(nix::libc::SIGTERM);
    assert!(daemon.wait_end().success());
    // The end waits for them, but not for long.
    let noted = lines(&daemon, "noted");
    let seen = |what: &str| noted.iter().any(|line| line.starts_with(what));
    for what in ["up,one,", "up,two,", "up,three,", "reload-done,,", "stopping,one,", "stopping,three,", "stopping,,"] {
        assert!(seen(what), "{what}: {noted:?}");
    }
    assert!(daemon.log().contains("unknown key"), "{}", daemon.log());
}

#[test]
fn one_hook_runs_at_a_time_and_the_oldest_of_too_many_is_dropped() {
    let children: String = (0..25).map(|i| format!("[children.c{i}]\ncommand = [\"sleep\", \"1000\"]\n")).collect();
    let hook = r#"["sh", "-c", 'echo "$PLUMBD_SEQ begins" >>order; until [ -e go ]; do sleep 0.01; done; echo "$PLUMBD_SEQ ends" >>order']"#;
    let mut daemon = Daemon::start(&format!("[daemon]\non = {{ up = {hook} }}\n{children}"));
    // Nothing waits for the hook.
    daemon.wait_state(DaemonState::Running);
    wait_for("the first", || (lines(&daemon, "order").len() == 1).then_some(()));
    let hooks = daemon.status().hooks;
    assert_eq!((hooks.started, hooks.failed, hooks.dropped), (1, 0, 8));
    std::fs::write(daemon.path("go"), "").unwrap();
    wait_for("all that wait", || (lines(&daemon, "order").len() == 2 * 17).then_some(()));
    let order = lines(&daemon, "order");
    for pair in order.chunks(2) {
        assert_eq!(pair[0].replace("begins", "ends"), pair[1], "{order:?}");
    }
    let numbers = order.iter().step_by(2).map(|line| line.split(' ').next().unwrap().parse::<u64>().unwrap());
    assert!(numbers.is_sorted(), "{order:?}");
    daemon.wait_log("WARN plumbd: 8 events dropped: a hook ran, and 16 others waited");
    daemon.stop();
}

#[test]
fn a_hook_that_fails_is_told_and_is_no_event() {
    let mut daemon = Daemon::start(
        r#"
        [daemon]
        on = { failed = ["false"], problem = ["false"], exited = ["false"], backoff = ["false"] }
        [children.calm]
        command = ["sleep", "1000"]
        on = { up = ["sh", "-c", "echo one; echo two >&2; exit 7"] }
        [children.well]
        command = ["sleep", "1000"]
        on = { up = ["sh", "-c", "echo done"] }
        "#,
    );
    daemon.wait_log("WARN calm: the hook on up (");
    daemon.wait_log("failed: \"two\"");
    daemon.wait_log("INFO well: the hook on up (");
    daemon.wait_log("): \"done\"");
    let hooks = daemon.status().hooks;
    assert_eq!((hooks.started, hooks.failed, hooks.dropped), (2, 1, 0));
    daemon.stop();
}

#[test]
fn what_a_hook_leaves_behind_ends_with_it_and_the_end_waits_a_second_at_most() {
    let mut daemon = Daemon::start(
        r#"
        [children.one]
        command = ["sleep", "1000"]
        on = { up = ["sh", "-c", "setsid sleep 1000 & echo $! >left"], stopping = ["sh", "-c", "trap '' TERM; echo $$ >hangs; while :; do sleep 1; done"] }
        "#,
    );
    let pid = wait_for("its process", || daemon.read_text("left").trim().parse().ok());
    wait_for("its end", || (!alive(pid)).then_some(()));
    let began = Instant::now();
    daemon.signal(nix::libc::SIGTERM);
    assert!(daemon.wait_end().success());
    let pid = daemon.read_text("hangs").trim().parse().unwrap();
    assert!(!alive(pid) && began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
}

#[test]
fn a_second_signal_or_a_fast_shutdown_waits_for_no_hook() {
    let mut daemon = Daemon::start(
        r#"
        [children.one]
        command = ["sleep", "1000"]
        on = { up = ["sh", "-c", "echo $$ >hangs; exec sleep 1000"] }
        "#,
    );
    let pid: i32 = wait_for("it hangs", || daemon.read_text("hangs").trim().parse().ok());
    assert!(children_of(daemon.pid()).contains(&pid));
    let began = Instant::now();
    daemon.signal(nix::libc::SIGTERM);
    daemon.wait_log("INFO plumbd: stopping");
    daemon.signal(nix::libc::SIGTERM);
    daemon.wait_end();
    assert!(!alive(pid) && began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}

#[test]
fn a_reload_changes_hooks_without_a_restart() {
    let config = |file: &str| {
        format!("[children.one]\ncommand = [\"sleep\", \"1000\"]\non = {{ exited = [\"touch\", \"{file}\"] }}\n")
    };
    let mut daemon = Daemon::start(&config("before"));
    let pid = daemon.child_pid("one");
    daemon.reload(&config("after"));
    daemon.wait_log(": on.exited changes; its process stays");
    assert_eq!(daemon.child_pid("one"), pid);
    kill(pid, nix::libc::SIGKILL);
    wait_for("the new hook", || daemon.path("after").exists().then_some(()));
    assert!(!daemon.path("before").exists());
    daemon.stop();
}

#[test]
fn a_hook_that_is_not_there_keeps_no_other_child_from_running() {
    let daemon_only = "[daemon]\non = { up = [\"/no/such/program\"], exited = [\"touch\", \"exited\"] }\n\
                       [children.one]\ncommand = [\"sleep\", \"1000\"]\n";
    let mut daemon = Daemon::start(daemon_only);
    daemon.wait_log("WARN plumbd: plumbd.toml:2:14: cannot run /no/such/program: ");
    daemon.wait_log("; until a reload, this hook does not run");
    let said = daemon.command(&["status"]).output().unwrap();
    let shown = String::from_utf8(said.stdout).unwrap();
    assert!(shown.starts_with("plumbd running, with 1 problem: 1 of 1 child up\n"), "{shown}");
    assert!(shown.contains("\n! plumbd.toml:2:14: cannot run /no/such/program: "), "{shown}");
    assert_eq!(said.status.code(), Some(4));
    kill(daemon.child_pid("one"), nix::libc::SIGKILL);
    wait_for("the other hook", || daemon.path("exited").exists().then_some(()));
    assert_eq!(daemon.ask(&Request::Reload).0, 78);
    daemon.stop();

    let of_child = "[children.one]\ncommand = [\"sleep\", \"1000\"]\non = { up = [\"/no/such/program\"] }\n\
                    [children.two]\ncommand = [\"sleep\", \"1000\"]\n";
    let mut daemon = Daemon::spawn(of_child);
    daemon.wait_child("two", ChildState::Up);
    wait_for("it is held back", || daemon.child("one").problem?.contains("cannot run /no/such/program").then_some(()));
    daemon.stop();
}

#[test]
fn a_hook_of_a_supervisor_that_was_killed_ends_before_the_next_one_starts_anything() {
    let mut daemon = Daemon::start(
        r#"
        [daemon]
        on = { up = ["sh", "-c", "[ -e hangs ] || { echo $$ >hangs; exec sleep 1000; }"] }
        [children.one]
        command = ["sleep", "1000"]
        "#,
    );
    let pid: i32 = wait_for("it hangs", || std::fs::read_to_string(daemon.path("hangs")).ok()?.trim().parse().ok());
    daemon.signal(nix::libc::SIGKILL);
    daemon.wait_killed();
    daemon.start_again();
    assert!(!alive(pid));
    daemon.stop();
}

#[test]
#[ignore = "needs root, run by .ci/run"]
fn a_child_whose_user_is_not_there_has_no_hook_that_could_run_as_another() {
    let mut daemon = Daemon::spawn(
        r#"
        [daemon]
        on = { problem = ["touch", "of-the-daemon"] }
        [children.one]
        command = ["sleep", "1000"]
        user = "plumbd-no-such-user"
        on = { problem = ["touch", "of-the-child"] }
        [children.two]
        command = ["sleep", "1000"]
        group = "plumbd-no-such-group"
        on = { problem = ["touch", "of-the-child"] }
        "#,
    );
    wait_for("the hook of the daemon", || daemon.path("of-the-daemon").exists().then_some(()));
    daemon.stop();
    assert!(!daemon.path("of-the-child").exists(), "{}", daemon.log());
    assert!(!daemon.log().contains("/touch) failed"), "{}", daemon.log());
}

#[test]
#[ignore = "starts a thousand processes"]
fn hooks_of_a_child_run_even_if_thousands_of_events_come_at_once() {
    let crowd: String = (0..6)
        .map(|i| format!("[children.c{i}]\ncommand = [\"true\"]\nrestart = \"never\"\ninstances = 200\n"))
        .collect();
    let mut daemon = Daemon::spawn(&format!(
        "[children.a]\ncommand = [\"sleep\", \"1000\"]\non = {{ up = [\"touch\", \"first\"] }}\n{crowd}\
         [children.z]\ncommand = [\"true\"]\nrestart = \"never\"\non = {{ exited = [\"touch\", \"last\"] }}\n"
    ));
    wait_for("both hooks", || (daemon.path("first").exists() && daemon.path("last").exists()).then_some(()));
    daemon.stop();
}

#[test]
#[ignore = "takes 30 s"]
fn a_hook_that_does_not_end_is_killed() {
    let mut daemon = Daemon::start(
        r#"
        [children.one]
        command = ["sleep", "1000"]
        on = { up = ["sh", "-c", "echo waiting; exec sleep 1000"], exited = ["touch", "next"] }
        "#,
    );
    kill(daemon.child_pid("one"), nix::libc::SIGKILL);
    let began = Instant::now();
    while !daemon.log().contains(") failed: it took longer than 30 s") {
        assert!(began.elapsed() < 2 * DEADLINE, "{}", daemon.log());
        std::thread::sleep(Duration::from_millis(100));
    }
    wait_for("the next", || daemon.path("next").exists().then_some(()));
    daemon.stop();
}
