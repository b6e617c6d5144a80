//! The ready configurations, as `plumbd example` prints them, do what they say.

use crate::daemon::{Daemon, free_port, wait_for};
use std::io::{Read, Write};
use std::process::Command;

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
