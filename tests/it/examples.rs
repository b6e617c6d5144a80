//! The example configurations that `plumbd example` prints do what they promise.

use crate::daemon::{Daemon, free_port, wait_for};
use std::io::{Read, Write};
use std::process::{Command, Stdio};

fn example(name: &str) -> String {
    let printed = Command::new(env!("CARGO_BIN_EXE_plumbd")).args(["example", name]).output().unwrap();
    assert!(printed.status.success());
    String::from_utf8(printed.stdout).unwrap()
}

#[test]
fn one_way_carries_a_greeting_through_a_pipe() {
    let mut daemon = Daemon::start(&example("one-way"));
    daemon.wait_log("INFO reader: received: Hello, World!");
    daemon.stop();
}

#[test]
fn two_way_carries_a_greeting_and_its_answer() {
    let mut daemon = Daemon::start(&example("two-way"));
    daemon.wait_log("INFO guest: guest received: Hello, who are you?");
    daemon.wait_log("INFO host: host received: Hi, I am the guest!");
    daemon.stop();
}

#[test]
fn pipeline_filters_and_stores() {
    let mut daemon = Daemon::start(&example("pipeline"));
    let lines = wait_for("five even numbers", || {
        let file = daemon.read_text("pipeline.log");
        (file.lines().count() == 5).then_some(file)
    });
    let messages: Vec<&str> = lines.lines().map(|line| line.splitn(3, ' ').nth(2).unwrap()).collect();
    let even: Vec<String> = [2, 4, 6, 8, 10].iter().map(|n| format!("number {n} is even")).collect();
    assert_eq!(messages, even);
    assert!(lines.lines().all(|line| line.split(' ').nth(1) == Some("filter")), "{lines}");
    daemon.stop();
}

/// Lines that a careless filter changes, and what is left of them in capitals.
const ODD: [&str; 6] = ["  two blanks before", "\ta tab", "back\\slash \\n \\c \\\\", "-n", "-e x", "trailing blank  "];

/// What the filter in a text, from `#!/bin/sh` to the line about its input, makes of [`ODD`].
#[track_caller]
fn filtered(text: &str) -> String {
    let from = text.find("#!/bin/sh\n").unwrap();
    let script = text[from..].lines().take_while(|line| !line.starts_with("echo \"my input"));
    let script = script.collect::<Vec<_>>().join("\n");
    let mut shell =
        Command::new("/bin/sh").args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    shell.stdin.take().unwrap().write_all((ODD.join("\n") + "\n").as_bytes()).unwrap();
    String::from_utf8(shell.wait_with_output().unwrap().stdout).unwrap()
}

#[test]
fn the_filter_in_the_documentation_changes_only_what_it_should() {
    let capitals = ODD.join("\n").to_uppercase() + "\n";
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    assert_eq!(filtered(&readme), capitals);
    let page = Command::new(env!("CARGO_BIN_EXE_plumbd")).args(["man", "plumbd-plugin"]).output().unwrap().stdout;
    let page = String::from_utf8(page).unwrap().replace("\\-", "-").replace("\\(aq", "'").replace("\\e", "\\");
    assert_eq!(filtered(&page), capitals);
}

#[test]
fn the_filters_of_the_examples_keep_each_line_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("odd"), ODD.join("\n") + "\n").unwrap();
    let config = example("one-way").replace("printf 'Hello, World!\\\\n'", "cat odd");
    let mut daemon = Daemon::spawn_in(dir, &config);
    for line in ODD {
        daemon.wait_log(&format!("INFO reader: received: {}\n", line));
    }
    daemon.stop();

    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("odd"), "  back\\slash \\n 2\n\tx 3\n\t-e \\c 4\n").unwrap();
    let source = "for n in 1 2 3 4 5 6 7 8 9 10; do echo \\\"number $n\\\"; done";
    let config = example("pipeline");
    assert!(config.contains(source), "{config}");
    let mut daemon = Daemon::spawn_in(dir, &config.replace(source, "cat odd"));
    let lines = wait_for("two even numbers", || {
        let file = daemon.read_text("pipeline.log");
        (file.lines().count() == 2).then_some(file)
    });
    let messages: Vec<&str> = lines.lines().map(|line| line.splitn(3, ' ').nth(2).unwrap()).collect();
    assert_eq!(messages, ["  back\\\\slash \\\\n 2 is even", "\\x09-e \\\\c 4 is even"]);
    daemon.stop();
}

#[test]
fn errors_are_saved_in_a_file_of_their_own() {
    let mut daemon = Daemon::start(&example("errors"));
    wait_for("an error", || daemon.read_text("checks-errors.log").contains(" checks ls: ").then_some(()));
    wait_for("an answer", || daemon.read_text("checks.log").contains(" checks Filesystem ").then_some(()));
    daemon.stop();
    assert!(!daemon.read_text("checks.log").contains("/nothing") && !daemon.log().contains("/nothing"));
}

#[test]
fn echo_store_echoes_and_saves() {
    let port = free_port();
    let config = example("echo-store").replace("127.0.0.1:7007", &format!("127.0.0.1:{port}"));
    let mut daemon = Daemon::start(&config);
    let mut client = daemon.connect(port);
    client.write_all(b"hello\ncaf\xc3 tab\tback\\slash\n").unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let mut echo = Vec::new();
    client.read_to_end(&mut echo).unwrap();
    assert_eq!(echo, b"hello\ncaf\xc3 tab\tback\\slash\n");
    let peer = client.local_addr().unwrap();
    let file = daemon.read_text("messages.log");
    let saved: Vec<&str> = file.lines().map(|line| line.split_once(' ').unwrap().1).collect();
    assert_eq!(saved, [format!("{peer} hello"), format!("{peer} caf\\xc3 tab\\x09back\\\\slash")]);
    daemon.stop();
}
