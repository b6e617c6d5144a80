//! Processes are killed while clients send messages, and a supervisor hangs.

use crate::machine::Machine;
use crate::service::MESSAGES;

/// How often each is killed; less than the unit's start limit.
const KILLS: usize = 5;

/// Kills these again and again (systemd restarts the supervisor, which restarts its
/// children): no client is refused, and nothing that was echoed is lost or doubled.
fn survives_kills(whom: impl Fn(&Machine) -> Vec<String>, echo_after: &str) {
    let machine = Machine::with_package();
    machine.edit("#echo_after ", &format!("echo_after = \"{echo_after}\" #"));
    machine.done(&["systemctl", "start", "plumbd"]);
    let load = machine.load();
    for _ in 0..KILLS {
        machine.wait_progress();
        let supervisor = machine.supervisor();
        let pids = whom(&machine);
        let signal = ["kill", "-KILL"].into_iter().chain(pids.iter().map(String::as_str));
        machine.done(&signal.collect::<Vec<_>>());
        if pids.contains(&supervisor) {
            machine.wait_replaced(&supervisor);
        }
    }
    machine.wait_progress();
    let outcome = load.end();
    machine.assert_kept(std::slice::from_ref(&outcome));
    assert_eq!(outcome.refused, 0, "a client was refused");
}

fn supervisor(machine: &Machine) -> Vec<String> {
    vec![machine.supervisor()]
}

/// The supervisor comes last, because its death ends the others before they can be killed.
fn all(machine: &Machine) -> Vec<String> {
    vec![machine.child("echo"), machine.child("logger"), machine.supervisor()]
}

#[test]
#[ignore = "needs root, systemd-nspawn, debootstrap and cargo-deb"]
fn the_supervisor_is_killed() {
    survives_kills(supervisor, "saved");
}

#[test]
#[ignore = "needs root, systemd-nspawn, debootstrap and cargo-deb"]
fn all_are_killed() {
    survives_kills(all, "saved");
}

#[test]
#[ignore = "needs root, systemd-nspawn, debootstrap and cargo-deb"]
fn the_supervisor_is_killed_with_messages_only_queued() {
    survives_kills(supervisor, "queued");
}

#[test]
#[ignore = "needs root, systemd-nspawn, debootstrap and cargo-deb"]
fn all_are_killed_with_messages_only_queued() {
    survives_kills(all, "queued");
}

#[test]
#[ignore = "needs root, systemd-nspawn, debootstrap and cargo-deb"]
fn messages_in_a_pipe_while_all_are_killed_are_saved_by_the_next_logger() {
    let machine = Machine::with_package();
    machine.edit("#echo_after ", "echo_after = \"queued\" #");
    machine.done(&["systemctl", "start", "plumbd"]);
    // The logger takes nothing, so echoed messages are only in the pipe.
    machine.done(&["kill", "-STOP", &machine.child("logger")]);
    let numbers = machine.sh("seq 1000 | nc -N -w 60 127.0.0.1 7007");
    assert_eq!(numbers, machine.sh("seq 1000"));
    assert_eq!(machine.read_text(MESSAGES), "");
    let pids = all(&machine);
    machine.done(&["kill", "-KILL", &pids[0], &pids[1], &pids[2]]);
    machine.wait_replaced(&pids[2]);
    machine.wait_line(MESSAGES, "1000");
    let saved = machine.sh(&format!("cut -d ' ' -f 3 {MESSAGES}"));
    assert_eq!(saved, numbers);
}

#[test]
#[ignore = "needs root, systemd-nspawn, debootstrap and cargo-deb"]
fn echo_is_killed() {
    survives_kills(|machine| vec![machine.child("echo")], "saved");
}

#[test]
#[ignore = "needs root, systemd-nspawn, debootstrap and cargo-deb"]
fn the_logger_is_killed() {
    survives_kills(|machine| vec![machine.child("logger")], "saved");
}

#[test]
#[ignore = "needs root, systemd-nspawn, debootstrap and cargo-deb"]
fn a_supervisor_that_hangs_is_replaced() {
    let machine = Machine::with_package();
    machine.drop_in("sooner.conf", "[Service]\nWatchdogSec=2s\n");
    machine.done(&["systemctl", "start", "plumbd"]);
    let load = machine.load();
    machine.wait_progress();
    let supervisor = machine.supervisor();
    machine.done(&["kill", "-STOP", &supervisor]);
    machine.wait_replaced(&supervisor);
    assert!(machine.journal().contains("Watchdog timeout"), "{}", machine.journal());
    machine.wait_progress();
    let outcome = load.end();
    machine.assert_kept(std::slice::from_ref(&outcome));
    assert_eq!(outcome.refused, 0, "a client was refused");
}
