//! Ends that are not failures, according to `success`.

use crate::daemon::{Daemon, wait_for};
use plumbd::control::Request;
use plumbd::control::status::{Child, ChildState, Ended};

fn child(name: &str, script: &str, keys: &str) -> String {
    format!(
        r#"
        [children.{name}]
        command = ["sh", "-c", "echo x >> {name}.starts; {script}"]
        backoff = {{ first = "1ms", factor = 1.0 }}
        {keys}
        "#
    )
}

fn starts(daemon: &Daemon, name: &str) -> usize {
    daemon.read_text(&format!("{name}.starts")).lines().count()
}

fn ended(daemon: &Daemon, name: &str) -> Child {
    wait_for(&format!("{name} has ended"), || {
        Some(daemon.child(name)).filter(|child| child.state == ChildState::Down && child.last_exit.is_some())
    })
}

#[test]
fn an_end_that_is_no_failure_finishes_a_job() {
    let mut daemon = Daemon::start(
        &[
            child("code", "exit 3", "restart = \"on-failure\"\nsuccess = { codes = [0, 3] }"),
            child("highest", "exit 255", "restart = \"never\"\nsuccess = { codes = [255] }"),
            child("signal", "kill -TERM $$", "restart = \"on-failure\"\nsuccess = { signals = [\"SIGTERM\"] }"),
            child("killed", "kill -KILL $$", "restart = \"never\"\nsuccess = { signals = [\"SIGINT\", \"SIGKILL\"] }"),
            child("zero", "exit 0", "restart = \"never\"\nsuccess = { signals = [\"SIGKILL\"] }"),
            child("next", "exec sleep 1000", "after = [\"code\", \"signal\"]"),
        ]
        .concat(),
    );
    for (name, how) in [
        ("code", Ended::Code(3)),
        ("highest", Ended::Code(255)),
        ("signal", Ended::Signal("SIGTERM".to_owned())),
        ("killed", Ended::Signal("SIGKILL".to_owned())),
        ("zero", Ended::Code(0)),
    ] {
        let job = ended(&daemon, name);
        assert!(job.finished && job.problem.is_none(), "{job:?}");
        assert_eq!((job.last_exit.unwrap().how, starts(&daemon, name)), (how, 1));
        daemon.wait_log(&format!("{name}: finished"));
    }
    daemon.wait_child("next", ChildState::Up);
    assert!(daemon.status().all_up());
    daemon.stop();
}

#[test]
fn an_end_that_is_not_listed_is_a_failure_even_status_0() {
    let again = "test $(wc -l < NAME.starts) = 3 && exec sleep 1000";
    let failing = |name: &str, end: &str, success: &str| {
        let script = format!("{}; {end}", again.replace("NAME", name));
        child(name, &script, &format!("restart = \"on-failure\"\nsuccess = {success}"))
    };
    let mut daemon = Daemon::start(
        &[
            failing("zero", "exit 0", "{ codes = [3] }"),
            failing("none", "exit 0", "{ codes = [] }"),
            failing("near", "exit 4", "{ codes = [0, 3, 5] }"),
            failing("signal", "kill -INT $$", "{ codes = [0, 2, 130], signals = [\"SIGTERM\"] }"),
        ]
        .concat(),
    );
    for name in ["zero", "none", "near", "signal"] {
        wait_for(name, || {
            Some(daemon.child(name)).filter(|child| child.state == ChildState::Up && child.restarts == 2)
        });
    }
    daemon.stop();
}

#[test]
fn success_changes_with_a_reload_and_no_restart() {
    let config = |success: &str| {
        child("job", "exit 3", &format!("restart = \"never\"\n{success}")) + &child("one", "exec sleep 1000", success)
    };
    let mut daemon = Daemon::spawn(&config(""));
    let job = ended(&daemon, "job");
    assert!(!job.finished && job.problem.is_some());
    let one = daemon.child_pid_when_up("one");
    let said = daemon.reload(&config("success = { codes = [3] }"));
    assert!(
        said.contains(
            "success changes from { codes = [0], signals = [] } to { codes = [3], signals = [] }; its process stays"
        ),
        "{said}"
    );
    let job = daemon.child("job");
    assert!(job.finished && job.problem.is_none() && daemon.status().all_up(), "{job:?}");
    assert_eq!((daemon.child_pid("one"), starts(&daemon, "job")), (one, 1));
    // A child that has finished stays finished.
    daemon.reload(&config(""));
    assert!(daemon.child("job").finished);
    daemon.done(&Request::Stop { children: vec!["one".to_owned()] });
    daemon.stop();
}

#[test]
fn a_start_counts_however_the_one_before_it_ended() {
    let limit = "start_limit = { burst = 3, within = \"1h\" }";
    let ends = |name: &str, end: &str, keys: &str| child(name, end, &format!("{keys}\n{limit}"));
    let mut daemon = Daemon::spawn(
        &[
            ends("well", "exit 0", ""),
            ends("listed", "exit 3", "success = { codes = [3] }"),
            ends("badly", "exit 3", "restart = \"on-failure\""),
            // A child that has finished is not started again, so it can't reach its limit.
            ends("once", "exit 0", "restart = \"on-failure\""),
        ]
        .concat(),
    );
    for (name, how) in [("well", 0), ("listed", 3), ("badly", 3)] {
        let given_up = daemon.wait_child(name, ChildState::Failed);
        assert_eq!(starts(&daemon, name), 3);
        let why = format!("given up after 3 starts within 3600 s; it exited with status {how} the last time");
        assert!(given_up.problem.as_ref().is_some_and(|problem| problem.contains(&why)), "{given_up:?}");
    }
    assert!(ended(&daemon, "once").finished);
    daemon.signal(nix::libc::SIGTERM);
    daemon.wait_end();
}
