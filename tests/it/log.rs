//! The daemon's log on standard error: what children print, however much.

use crate::daemon::{Daemon, wait_for};
use nix::fcntl::OFlag;
use plumbd::control::status::ChildState;
use std::time::Instant;

#[test]
fn crashes_in_a_row_are_summed_up() {
    let mut daemon = Daemon::start(
        r#"
        [children.weak]
        command = ["sh", "-c", "echo '<3>no way'; exit 1"]
        backoff = { first = "10ms", factor = 1.0, max = "10ms" }
        start_limit = { burst = 100000, within = "60s" }
        "#,
    );
    for line in ["no way", "exited with status 1; starts again in 0.01 s"] {
        wait_for("a sum", || {
            let log = daemon.log();
            log.lines().any(|l| l.contains(" more times in ") && l.ends_with(&format!(" s: {line}"))).then_some(())
        });
    }
    let log = daemon.log();
    assert_eq!(log.matches("ERROR weak: no way\n").count(), 5, "{log}");
    assert_eq!(log.matches("WARN weak: exited with status 1; starts again in 0.01 s\n").count(), 5, "{log}");
    daemon.signal(nix::libc::SIGTERM);
    assert!(daemon.wait_end().success());
}

#[test]
fn one_that_floods_the_log_is_cut_off_and_gets_on_and_its_errors_are_logged() {
    let mut daemon = Daemon::start(
        r#"
        [children.loud]
        command = ["sh", "-c", "seq 200000; echo '<3>an error'"]
        restart = "never"
        "#,
    );
    daemon.wait_log("ERROR loud: an error\n");
    daemon.wait_child("loud", ChildState::Down);
    daemon.stop();
    let log = daemon.log();
    let said = || log.lines().filter_map(|line| line.split_once(" loud: ").map(|(_, said)| said));
    let went = said().filter(|line| line.parse::<u32>().is_ok()).count();
    let left_out =
        said().filter_map(|line| line.split_once(" more lines in ")).map(|(n, _)| n.parse::<usize>().unwrap());
    assert_eq!(went + left_out.sum::<usize>(), 200_000);
    assert!(went < 20_000, "{went}");
}

#[test]
fn a_log_that_nobody_reads_holds_no_child_up() {
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC).unwrap();
    let mut daemon = Daemon::logging_to(
        write,
        r#"
        [children.loud]
        command = ["sh", "-c", "i=0; while [ $i -lt 3000 ]; do i=$((i+1)); echo \"<4>$i and on and on and on and on and on and on and on and on and on and on\"; done"]
        restart = "never"
        [children.quiet]
        command = ["sleep", "1000"]
        "#,
    );
    wait_for("it has written a pipe full and a backlog full, and ended", || {
        daemon.try_status()?.children.iter().any(|c| c.name == "loud" && c.last_exit.is_some()).then_some(())
    });
    let asked = Instant::now();
    assert!(daemon.try_status().is_some());
    assert!(asked.elapsed().as_secs() < 5);
    drop(read);
    daemon.stop();
}

#[test]
fn a_line_without_end_and_bytes_of_any_kind_stay_one_childs_entries() {
    let mut daemon = Daemon::start(
        r#"
        [children.wild]
        command = ["sh", "-c", """
        head -c 1000000 /dev/zero | tr '\\000' x; echo
        printf 'a\\r<0>plumbd: forged\\033c\\000\\303\\nb\\302\\205c\\n'
        head -c 30000 /dev/zero
        """]
        restart = "never"
        "#,
    );
    daemon.wait_log("wild: finished\n");
    daemon.stop();
    let log = daemon.log();
    let said: Vec<&str> =
        log.lines().filter_map(|line| line.split_once(" INFO wild: ").map(|(_, said)| said)).collect();
    assert_eq!(said.iter().map(|line| line.matches('x').count()).max(), Some(7 * 1024));
    let long = said.iter().filter(|line| !line.is_empty() && line.bytes().all(|b| b == b'x'));
    assert_eq!(long.map(|line| line.len()).sum::<usize>(), 1_000_000);
    assert!(said.contains(&"a\\x0d<0>plumbd: forged\\x1bc\\x00\\xc3"), "{said:?}");
    assert!(said.contains(&"b\\xc2\\x85c"));
    assert_eq!(said.iter().map(|line| line.matches("\\x00").count()).sum::<usize>(), 30_001);
    assert!(log.bytes().all(|b| b == b'\n' || (0x20..0x7f).contains(&b)), "only printable characters");
    assert!(log.lines().all(|line| line.starts_with("20")), "a time before each entry");
}

#[test]
fn systemds_journal_is_told_priorities_and_no_times() {
    let mut daemon = Daemon::start_after(
        "export JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2)",
        r#"
        [children.talker]
        command = ["sh", "-c", "echo '<3>an error' >&2; echo plain"]
        restart = "never"
        "#,
    );
    daemon.wait_log("<6>talker: plain\n");
    daemon.wait_log("<3>talker: an error\n");
    daemon.stop();
    let log = daemon.log();
    assert!(log.lines().all(|line| line.starts_with('<') && line[2..].starts_with('>')), "{log}");
}
