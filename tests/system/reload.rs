//! The configuration is edited, then reloaded with `systemctl reload`.

use crate::machine::Machine;
use crate::service::CONFIG;

#[test]
#[ignore = "needs root, systemd-nspawn, debootstrap and cargo-deb"]
fn a_right_file_is_applied_and_a_wrong_one_fails_with_every_problem_reported() {
    let machine = Machine::serving();
    let pids = || [machine.supervisor(), machine.child("echo"), machine.child("logger")];
    let [supervisor, echo, logger] = pids();

    machine.edit("#echo_after ", "echo_after = \"synced\" #");
    machine.done(&["systemctl", "reload", "plumbd"]);
    assert_eq!(machine.property("ActiveState"), "active");
    let [supervisor_now, echo_now, logger_now] = pids();
    assert_eq!((&supervisor_now, &logger_now), (&supervisor, &logger));
    assert_ne!(echo_now, echo, "echo's settings changed");
    assert_eq!(machine.echo("synced"), "synced\n");

    let right = machine.read_text(CONFIG);
    machine.write(CONFIG, &(right.clone() + "\nprotocoll = \"lines\"\n[children.more]\nuser = 7\n"));
    let said = machine.run(&["systemctl", "reload", "plumbd"]);
    assert_ne!(said.status, 0, "{said:?}");
    machine.wait_journal("Reload failed");
    let journal = machine.journal();
    for problem in ["unknown key \"protocoll\"", "user"] {
        assert!(journal.contains(problem), "{problem:?} in\n{journal}");
    }
    assert_eq!(machine.property("ActiveState"), "active");
    assert_eq!(pids(), [supervisor_now, echo_now, logger_now]);
    assert_eq!(machine.echo("still here"), "still here\n");

    // With a wrong file, a stopped service fails to start, and does not try again and again.
    machine.done(&["systemctl", "stop", "plumbd"]);
    assert_ne!(machine.run(&["systemctl", "start", "plumbd"]).status, 0);
    assert_eq!(machine.property("ActiveState"), "failed");
    assert_eq!(machine.property("NRestarts"), "0");
    machine.write(CONFIG, &right);
    machine.done(&["systemctl", "start", "plumbd"]);
    assert_eq!(machine.echo("right again"), "right again\n");
}
