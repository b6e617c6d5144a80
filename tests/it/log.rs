//! The daemon's log on standard error: what children print, however much it is.

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
    for line in ["no way", r#"exited with status 1; its last line: "no way"; starts again in 0.01 s"#] {
        wait_for("a sum", || {
            let log = daemon.log();
            log.lines().any(|l| l.contains(" more time") && l.ends_with(&format!(" s: {line}"))).then_some(())
        });
    }
    let log = daemon.log();
    assert_eq!(log.matches("ERROR weak: no way\n").count(), 5, "{log}");
    assert_eq!(
        log.matches("WARN weak: exited with status 1; its last line: \"no way\"; starts again in 0.01 s\n").count(),
        5,
        "{log}"
    );
    daemon.signal(nix::libc::SIGTERM);
    assert!(daemon.wait_end().success());
}

#[test]
fn a_child_that_floods_the_log_is_limited_but_goes_on_and_its_errors_are_logged() {
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
    let left_out = said().filter_map(|line| line.split_once(" more line")).map(|(n, _)| n.parse::<usize>().unwrap());
    assert_eq!(went + left_out.sum::<usize>(), 200_000);
    assert!(went < 20_000, "{went}");
}

#[test]
fn a_log_that_is_not_read_holds_up_no_child() {
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
fn an_endless_line_and_any_bytes_are_logged_as_entries_of_their_child() {
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
    let texts = said.iter().map(|line| line.strip_prefix("... ").unwrap_or(line));
    let long = texts.filter(|line| !line.is_empty() && line.bytes().all(|b| b == b'x'));
    assert_eq!(long.map(|line| line.len()).sum::<usize>(), 1_000_000);
    assert!(said.contains(&"a\\x0d<0>plumbd: forged\\x1bc\\x00\\xc3"), "{said:?}");
    assert!(said.contains(&"b\\xc2\\x85c"));
    assert_eq!(said.iter().map(|line| line.matches("\\x00").count()).sum::<usize>(), 30_001);
    assert!(log.bytes().all(|b| b == b'\n' || (0x20..0x7f).contains(&b)), "only printable characters");
    assert!(log.lines().all(|line| line.starts_with("20")), "a time before each entry");
}

/// The priorities and texts of the child's log lines, in the form for systemd's journal.
fn said(log: &str, child: &str) -> Vec<(char, String)> {
    let lines = log.lines().filter_map(|line| {
        let (priority, text) = line.split_once(&format!(">{child}: "))?;
        Some((priority.strip_prefix('<')?.parse().unwrap(), text.to_owned()))
    });
    lines.collect()
}

const TO_JOURNAL: &str = "export JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2)";

#[test]
fn all_parts_of_a_long_line_have_the_priority_that_it_begins_with() {
    let mut daemon = Daemon::start_after(
        TO_JOURNAL,
        r#"
        [children.long]
        command = ["sh", "-c", """
        a() { head -c $1 /dev/zero | tr '\\000' a; }
        echo "<3>$(a 7165)more"; echo "<6>$(a 7165)<0>forged"; echo "$(a 7168)<1>"; echo "<4>$(a 20000)<2>"
        """]
        restart = "never"
        "#,
    );
    daemon.wait_log("long: finished\n");
    daemon.stop();
    let said = said(&daemon.log(), "long");
    let of = |n: usize, end: &str| "a".repeat(n) + end;
    let expected = [
        ('3', of(7165, "")),
        ('3', "... more".to_owned()),
        ('6', of(7165, "")),
        ('6', "... <0>forged".to_owned()),
        ('6', of(7168, "")),
        ('6', "... <1>".to_owned()),
        ('4', of(7165, "")),
        ('4', format!("... {}", of(7168, ""))),
        ('4', format!("... {}", of(20_000 - 7165 - 7168, "<2>"))),
        ('6', "finished".to_owned()),
    ];
    assert!(said == expected, "{said:?}");
}

#[test]
fn a_long_line_is_cut_between_characters_and_not_within_an_escaped_byte() {
    let mut daemon = Daemon::start(
        r#"
        [children.long]
        command = ["sh", "-c", """
        i=0; l=x; while [ $i -lt 5000 ]; do l="$l€"; i=$((i+1)); done; echo "$l"
        printf x; head -c 10000 /dev/zero; echo
        """]
        restart = "never"
        "#,
    );
    daemon.wait_log("long: finished\n");
    daemon.stop();
    let log = daemon.log();
    let said: Vec<&str> =
        log.lines().filter_map(|line| line.split_once(" INFO long: ").map(|(_, said)| said)).collect();
    let text = |line: &&str| line.strip_prefix("... ").unwrap_or(line).to_owned();
    let letters = said.iter().map(text).filter(|line| line.contains('€'));
    assert_eq!(letters.collect::<String>(), format!("x{}", "€".repeat(5000)));
    let bytes: Vec<String> = said.iter().map(text).filter(|line| line.contains("\\x00")).collect();
    assert!(bytes.iter().all(|line| line.trim_start_matches('x').len() % 4 == 0), "{bytes:?}");
    assert_eq!(bytes.concat(), format!("x{}", "\\x00".repeat(10_000)));
}

#[test]
fn a_prompt_is_logged_after_a_pause_and_the_rest_of_its_line_later() {
    let mut daemon = Daemon::start_after(
        TO_JOURNAL,
        r#"
        [children.asks]
        command = ["sh", "-c", """
        until_there() { until [ -e $1 ]; do sleep 0.02; done; }
        printf '<4>passphrase: ' >&2; until_there one
        printf '<0>one' >&2; until_there two
        printf '<1>\\n<5>next\\ntwo? ' >&2; until_there three
        """]
        restart = "never"
        [children.counts]
        command = ["sh", "-c", """
        printf '<3'; sleep 2; printf '>10 %% \\303'; until [ -e four ]; do sleep 0.02; done
        printf '\\251'; exec sleep 1000
        """]
        "#,
    );
    let answer = |name: &str| std::fs::write(daemon.path(name), "").unwrap();
    daemon.wait_log("<4>asks: passphrase: \n");
    answer("one");
    daemon.wait_log("<4>asks: ... <0>one\n");
    answer("two");
    daemon.wait_log("<6>asks: two? \n");
    answer("three");
    daemon.wait_log("<3>counts: 10 % \n");
    answer("four");
    daemon.wait_log("<3>counts: ... \u{e9}\n");
    daemon.wait_log("asks: finished\n");
    daemon.stop();
    let log = daemon.log();
    let texts = |child| said(&log, child).into_iter().map(|(p, text)| format!("{p}{text}")).collect::<Vec<_>>();
    assert_eq!(texts("asks"), ["4passphrase: ", "4... <0>one", "4... <1>", "5next", "6two? ", "6finished"]);
    assert_eq!(texts("counts"), ["310 % ", "3... \u{e9}"]);
}

#[test]
fn a_child_can_have_a_log_limit_of_its_own_and_a_reload_changes_it_without_a_restart() {
    let config = |limit: &str| {
        format!(
            "[children.loud]\ncommand = [\"sh\", \"-c\", \"trap 'seq $n; n=3000' USR1; n=3000; touch up; while :; do \
             sleep 0.05; done\"]\nlog_limit = {limit}\n"
        )
    };
    let mut daemon = Daemon::start(&config("{ lines = 100, per_second = 1 }"));
    wait_for("its trap", || daemon.path("up").exists().then_some(()));
    let pid = daemon.child_pid("loud");
    let numbers = |log: &str| {
        log.lines().filter(|l| l.split_once(" loud: ").is_some_and(|(_, said)| said.parse::<u32>().is_ok())).count()
    };
    daemon.signal(nix::libc::SIGUSR1);
    daemon.wait_log(" more line");
    let went = numbers(&daemon.log());
    assert!((60..200).contains(&went), "{went}");
    let said = daemon.reload(&config("\"none\""));
    assert!(said.contains("log_limit changes"), "{said}");
    assert_eq!(daemon.child_pid("loud"), pid);
    daemon.signal(nix::libc::SIGUSR1);
    wait_for("every line", || (numbers(&daemon.log()) == went + 3000).then_some(()));
    daemon.reload(&config("{ lines = 10 }"));
    assert_eq!(daemon.child_pid("loud"), pid);
    daemon.signal(nix::libc::SIGUSR1);
    wait_for("a second count", || (daemon.log().matches(" more line").count() == 2).then_some(()));
    daemon.stop();
}

#[test]
fn without_a_limit_the_same_line_is_logged_again_and_again() {
    let mut daemon = Daemon::start(
        r#"
        [children.loud]
        command = ["sh", "-c", "yes again | head -n 5000; seq 5000"]
        restart = "never"
        log_limit = "none"
        "#,
    );
    daemon.wait_log("loud: finished\n");
    daemon.stop();
    let log = daemon.log();
    assert_eq!(log.matches(" loud: again\n").count(), 5000);
    assert_eq!(log.lines().filter(|line| line.contains(" INFO loud: ")).count(), 10_001);
}

#[test]
fn systemds_journal_gets_priorities_and_no_times() {
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
