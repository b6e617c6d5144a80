//! A daemon that runs for long: nothing leaks, and nothing wakes up for no reason.

use crate::daemon::{Daemon, children_of, kill, wait_for};
use plumbd::control::status::ChildState;
use std::time::Duration;

fn config(umask: &str) -> String {
    let often = "backoff = { factor = 1.0, max = \"0ms\" }\nstart_limit = { burst = 100000, within = \"60s\" }";
    let ports = [crate::daemon::free_port(), crate::daemon::free_port()];
    format!(
        r#"
        [children.source]
        command = ["sh", "-c", "echo line; exec sleep 1000"]
        {often}
        [children.sink]
        command = ["sh", "-c", "exec cat > /dev/null"]
        {often}
        [children.server]
        command = ["sh", "-c", "(setsid true &); echo >&$PLUMBD_READY_FD; exec sleep 1000"]
        ready = "fd"
        ready_timeout = "1000s"
        umask = "{umask}"
        listen = ["tcp://127.0.0.1:{}", "tcp://127.0.0.1:{}"]
        {often}
        [[links]]
        from = "source"
        to = "sink"
        "#,
        ports[0], ports[1]
    )
}

#[test]
fn kills_and_reloads_leak_no_descriptor_and_leave_no_zombie() {
    let mut daemon = Daemon::start(&config("0022"));
    wait_for("all is up", || daemon.status().all_up().then_some(()));
    let before = daemon.descriptors();
    for round in 0..20 {
        for _ in 0..10 {
            for name in ["source", "sink", "server"] {
                let child = daemon.wait_child(name, ChildState::Up);
                kill(child.pid.unwrap(), nix::libc::SIGKILL);
                daemon.wait_replaced(name, child.pid.unwrap());
            }
        }
        // Each time, a child and its ports change.
        daemon.reload(&config(if round % 2 == 0 { "0077" } else { "0022" }));
    }
    let status = daemon.status();
    assert_eq!(status.reloads, 20);
    let restarts: Vec<u64> = status.children.iter().map(|child| child.restarts).collect();
    assert_eq!(restarts, [200, 200, 220], "{status:?}");
    wait_for("no descriptor more", || (daemon.descriptors() <= before).then_some(()));
    daemon.check_clean();
    wait_for("no orphan is left", || (children_of(daemon.pid()).len() == 3).then_some(()));
    daemon.stop();
}

/// How often a process went to sleep, which it does once after each wake-up.
pub(crate) fn wake_ups(pid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
    line.trim().parse().unwrap()
}

#[test]
fn an_idle_daemon_sleeps() {
    let mut daemon = Daemon::start(&config("0022"));
    wait_for("all is up", || daemon.status().all_up().then_some(()));
    // This waits for time, not for a fact. A second without any wake-up must come soon,
    // because there is nothing to wake up for.
    wait_for("a second of sleep", || {
        let before = wake_ups(daemon.pid());
        std::thread::sleep(Duration::from_secs(1));
        (wake_ups(daemon.pid()) == before).then_some(())
    });
    daemon.stop();
}
