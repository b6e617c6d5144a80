//! The wall clock is set while the daemon runs: the ages that the daemon shows do not change.

use crate::daemon::{DEADLINE, Daemon, echo_and_logger, kill, wait_for};
use jiff::{SignedDuration, Timestamp};
use plumbd::control::status::ChildState;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

/// A library that makes the wall clock wrong by as many seconds as a file says.
const WRONG_CLOCK: &str = r#"
    #define _GNU_SOURCE
    #include <stdio.h>
    #include <sys/syscall.h>
    #include <time.h>
    #include <unistd.h>
    int clock_gettime(clockid_t clock, struct timespec *time) {
        int result = syscall(SYS_clock_gettime, clock, time);
        if (result == 0 && clock == CLOCK_REALTIME) {
            long wrong = 0;
            FILE *file = fopen("wrong", "re");
            if (file) {
                if (fscanf(file, "%ld", &wrong) != 1) wrong = 0;
                fclose(file);
            }
            time->tv_sec += wrong;
        }
        return result;
    }
"#;

/// A daemon whose wall clock can be set. Its plugins have the right time.
fn start(config: &str) -> Daemon {
    let build = "cc -shared -fPIC -o wrong.so wrong.c && export LD_PRELOAD=$PWD/wrong.so";
    let write = format!("cat > wrong.c <<'END'\n{WRONG_CLOCK}\nEND");
    Daemon::start_after(&format!("{write}\n{build}"), config)
}

fn set(daemon: &Daemon, wrong: i64) {
    std::fs::write(daemon.path("wrong.new"), wrong.to_string()).unwrap();
    std::fs::rename(daemon.path("wrong.new"), daemon.path("wrong")).unwrap();
}

/// A machine without a battery boots in 1970, and one with a bad battery in any year.
const SET: [i64; 4] = [19_675 * 86_400, -20 * 365 * 86_400, 3, 0];

#[test]
fn the_ages_that_are_shown_do_not_change_when_the_clock_is_set() {
    let before = Instant::now();
    let mut daemon = start(
        r#"
        [children.one]
        command = ["sleep", "1000"]
        [children.two]
        command = ["sleep", "1000"]
        "#,
    );
    let pid = daemon.child_pid("two");
    kill(pid, nix::libc::SIGKILL);
    daemon.wait_replaced("two", pid);
    for wrong in SET {
        set(&daemon, wrong);
        let status = daemon.status();
        let now = Timestamp::now() + SignedDuration::from_secs(wrong);
        let mut times = vec![status.since];
        times.extend(status.children.iter().map(|child| child.since));
        times.extend(status.children.iter().filter_map(|child| child.last_exit.as_ref()).map(|exit| exit.at));
        assert_eq!(times.len(), 4);
        for time in times {
            let ago = Duration::try_from(now.duration_since(time)).unwrap_or_else(|_| panic!("{time} is after {now}"));
            assert!(ago <= before.elapsed() + Duration::from_secs(1), "{time} is {ago:?} before {now}");
        }
    }
    // Two looks give exactly the same.
    let times = || daemon.status().children.iter().map(|child| child.since).collect::<Vec<_>>();
    let first = times();
    assert!((0..20).all(|_| times() == first));
    daemon.stop();
}

#[test]
fn setting_the_clock_makes_no_stall_longer() {
    let port = crate::daemon::free_port();
    let mut daemon = start(&echo_and_logger(port));
    let mut client = daemon.connect(port);
    client.write_all(b"one\n").unwrap();
    client.read_exact(&mut [0; 4]).unwrap();
    wait_for("it is taken", || (daemon.link("echo", "logger").queued_bytes == 0).then_some(()));
    let before = Instant::now();
    let logger = daemon.child_pid("logger");
    kill(logger, nix::libc::SIGSTOP);
    client.write_all(b"two\n").unwrap();
    let stalled = || Duration::from_millis(daemon.link("echo", "logger").stalled_for_ms);
    wait_for("it stands", || (stalled() >= Duration::from_millis(100)).then_some(()));
    for wrong in SET {
        set(&daemon, wrong);
        let (stalled, at_most) = (stalled(), before.elapsed() + Duration::from_secs(1));
        assert!(stalled >= Duration::from_millis(100) && stalled <= at_most, "{stalled:?} of {at_most:?}");
    }
    kill(logger, nix::libc::SIGCONT);
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    client.read_exact(&mut [0; 4]).unwrap();
    daemon.wait_child("logger", ChildState::Up);
    daemon.stop();
}
