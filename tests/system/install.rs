//! From the package to messages in the file, and back.

use crate::machine::Machine;
use crate::service::{CONFIG, MESSAGES, package};
use crate::wait::wait_for;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

/// The exposure that the unit promises (systemd-analyze security).
const EXPOSURE: f64 = 1.4;

#[test]
#[ignore = "needs root, systemd-nspawn, debootstrap and cargo-deb"]
fn an_installation_starts_nothing_and_enable_now_serves() {
    let machine = Machine::with_package();
    assert_eq!(machine.run(&["systemctl", "is-enabled", "plumbd"]).out, "disabled\n");
    assert_eq!(machine.run(&["systemctl", "is-active", "plumbd"]).out, "inactive\n");
    assert_eq!(machine.done(&["plumbd", "check"]), format!("{CONFIG}: no problems\n"));
    assert_eq!(machine.run(&["plumbd", "status"]).status, 3);
    let schema = machine.read_text(CONFIG).lines().next().unwrap().strip_prefix("#:schema ").unwrap().to_owned();
    assert!(machine.read_text(&schema).contains("draft-07"), "{schema}");
    let user = machine.done(&["getent", "passwd", "plumbd"]);
    assert!(user.contains(":/var/lib/plumbd:") && user.trim().ends_with("/nologin"), "{user}");

    machine.done(&["systemctl", "enable", "--now", "plumbd"]);
    assert_eq!(machine.echo("hello"), "hello\n");
    assert!(machine.read_text(MESSAGES).ends_with(" hello\n"));

    // Files, processes and the control socket belong to the right users.
    assert_eq!(machine.done(&["stat", "-c", "%U:%G %a", MESSAGES]), "plumbd:plumbd 640\n");
    assert_eq!(machine.done(&["stat", "-c", "%U:%G %a", "/var/log/plumbd"]), "plumbd:plumbd 750\n");
    assert_eq!(machine.done(&["ps", "-o", "user=", "-p", &machine.supervisor()]), "plumbd\n");
    machine.done(&["plumbd", "status"]);
    let stranger = machine.run(&["setpriv", "--reuid=nobody", "--clear-groups", "plumbd", "status"]);
    assert!(stranger.status == 1 && stranger.err.contains("Permission denied"), "{stranger:?}");
    let status = machine.done(&["systemctl", "status", "plumbd"]);
    assert!(status.contains("Status: \"all children are ready\""), "{status}");
}

#[test]
#[ignore = "needs root, systemd-nspawn, debootstrap and cargo-deb"]
fn tail_follows_the_messages() {
    let machine = Machine::serving();
    let mut tail = machine.command(&["tail", "-n", "0", "-F", MESSAGES]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(tail.stdout.take().unwrap()).lines();
    // tail does not report that it has started, so lines are sent until it prints one.
    let (first, sender) = std::sync::mpsc::channel::<()>();
    std::thread::scope(|scope| {
        let machine = &machine;
        scope.spawn(move || {
            let mut number = 0;
            loop {
                machine.echo(&format!("line {number}"));
                number += 1;
                if sender.recv_timeout(std::time::Duration::from_millis(50)).is_ok() {
                    break;
                }
            }
            machine.echo("the last");
        });
        let seen = lines.next().unwrap().unwrap();
        first.send(()).unwrap();
        assert!(seen.contains(" line "), "{seen}");
        assert!(lines.any(|line| line.unwrap().ends_with(" the last")));
    });
    tail.kill().unwrap();
    tail.wait().unwrap();
}

#[test]
#[ignore = "needs root, systemd-nspawn, debootstrap and cargo-deb"]
fn the_sandbox_is_as_tight_as_promised() {
    let machine = Machine::serving();
    let rated = machine.done(&["systemd-analyze", "security", "--no-pager", "plumbd.service"]);
    let level = rated.lines().find_map(|line| line.split_once("exposure level for plumbd.service: ")).unwrap().1;
    let level: f64 = level.split(' ').next().unwrap().parse().unwrap();
    assert!(level <= EXPOSURE, "{rated}");
}

#[test]
#[ignore = "needs root, systemd-nspawn, debootstrap and cargo-deb"]
fn the_journal_has_each_line_with_its_priority_and_child() {
    let machine = Machine::serving();
    let talker = r#"
[children.talker]
command = ["/bin/sh", "-c", "echo '<3>broken' >&2; echo '<4>odd' >&2; echo plain >&2; echo said; printf '\\033[2Jforged\\n' >&2; exec sleep 1000"]
"#;
    machine.write(CONFIG, &(machine.read_text(CONFIG) + talker));
    machine.done(&["systemctl", "reload", "plumbd"]);
    let entries = wait_for("its last line is in the journal", || {
        let entries = machine.done(&["journalctl", "-u", "plumbd", "-o", "json", "--all"]);
        entries.contains("forged").then_some(entries)
    });
    let entries: Vec<(String, String)> = entries
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .filter(|entry| entry["_COMM"] == "plumbd")
        .map(|entry| {
            (entry["PRIORITY"].as_str().unwrap().to_owned(), entry["MESSAGE"].as_str().unwrap_or("bytes").to_owned())
        })
        .collect();
    for (priority, message) in [
        ("6", "plumbd: ready"),
        ("3", "talker: broken"),
        ("4", "talker: odd"),
        ("6", "talker: plain"),
        ("6", "talker: said"),
        ("6", "talker: \\x1b[2Jforged"),
    ] {
        assert!(entries.contains(&(priority.to_owned(), message.to_owned())), "{message:?} in {entries:#?}");
    }
}

#[test]
#[ignore = "needs root, systemd-nspawn, debootstrap and cargo-deb"]
fn a_removal_stops_it_and_a_purge_keeps_the_messages() {
    let machine = Machine::serving();
    machine.echo("hello");
    // A second logger's file is in the other folder.
    const OTHER: &str = "/var/lib/plumbd/other.log";
    machine.write(OTHER, "a message\n");
    let messages = machine.read_text(MESSAGES);

    machine.done(&["dpkg", "--remove", "plumbd"]);
    assert_eq!(machine.run(&["systemctl", "is-active", "plumbd"]).out, "inactive\n");
    assert_eq!(machine.run(&["pgrep", "plumbd"]).out, "");
    assert!(machine.path(CONFIG).exists());

    // When it is installed again, it is enabled as before, but not started.
    machine.install(package());
    assert_eq!(machine.run(&["systemctl", "is-enabled", "plumbd"]).out, "enabled\n");
    machine.done(&["systemctl", "start", "plumbd"]);
    assert_eq!(machine.echo("again"), "again\n");

    // Files that a kill can leave behind: of a batch, an archive, a rotation.
    for folder in ["/var/log/plumbd", "/var/lib/plumbd"] {
        machine.sh(&format!("cd {folder} && echo x >.m.log.intent && echo x >.m.log.archive && : >.m.log.new"));
    }
    machine.done(&["dpkg", "--purge", "plumbd"]);
    for gone in [
        "/etc/plumbd",
        "/etc/systemd/system/multi-user.target.wants/plumbd.service",
        "/etc/systemd/system/plumbd.service",
    ] {
        // A mask is a link to /dev/null.
        assert!(machine.path(gone).symlink_metadata().is_err(), "{gone} is still there");
    }
    let kept = machine.read_text(MESSAGES);
    assert!(kept.starts_with(&messages) && kept.ends_with(" again\n"), "{kept}");
    assert_eq!(machine.read_text(OTHER), "a message\n");
    assert_eq!(machine.sh("find /var/log/plumbd /var/lib/plumbd -name '.*'"), "");
    machine.done(&["getent", "passwd", "plumbd"]);
}

#[test]
#[ignore = "needs root, systemd-nspawn, debootstrap and cargo-deb"]
fn maintainer_scripts_may_run_twice() {
    let machine = Machine::with_package();
    let script = |name: &str, argument: &str| {
        machine.done(&[&format!("/var/lib/dpkg/info/plumbd.{name}"), argument]);
    };
    for _ in 0..2 {
        script("postinst", "configure");
    }
    assert_eq!(machine.run(&["systemctl", "is-enabled", "plumbd"]).out, "disabled\n");
    let hidden = ["/var/log/plumbd/.messages.log.intent", "/var/lib/plumbd/.messages.log.archive"];
    hidden.iter().for_each(|file| machine.write(file, "no message"));
    for argument in ["remove", "remove", "purge", "purge"] {
        script("prerm", argument);
        script("postrm", argument);
    }
    // There were no messages to keep.
    assert!(!machine.path("/var/log/plumbd").exists());
    assert!(!machine.path("/var/lib/plumbd").exists());
}
