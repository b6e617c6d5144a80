//! The service is stopped and restarted while clients send messages.

use crate::machine::Machine;

#[test]
#[ignore = "needs root, systemd-nspawn, debootstrap and cargo-deb"]
fn a_stop_loses_nothing_and_leaves_nothing() {
    for echo_after in ["queued", "saved", "synced"] {
        let machine = Machine::with_package();
        machine.edit("#echo_after ", &format!("echo_after = \"{echo_after}\" #"));
        machine.done(&["systemctl", "start", "plumbd"]);
        let load = machine.load();
        machine.wait_progress();
        assert_ne!(machine.property("NFileDescriptorStore"), "0");
        machine.done(&["systemctl", "stop", "plumbd"]);
        assert_eq!(machine.property("Result"), "success");
        assert_eq!(machine.property("NFileDescriptorStore"), "0");
        assert_eq!(machine.run(&["pgrep", "plumbd"]).out, "");
        let outcome = load.end();
        machine.assert_kept(&[outcome]);
    }
}

#[test]
#[ignore = "needs root, systemd-nspawn, debootstrap and cargo-deb"]
fn a_restart_loses_nothing_and_refuses_nobody() {
    let machine = Machine::serving();
    let load = machine.load();
    for _ in 0..3 {
        machine.wait_progress();
        machine.done(&["systemctl", "restart", "plumbd"]);
    }
    machine.wait_progress();
    let outcome = load.end();
    machine.assert_kept(std::slice::from_ref(&outcome));
    assert_eq!(outcome.refused, 0, "a client was refused");
}

#[test]
#[ignore = "needs root, systemd-nspawn, debootstrap and cargo-deb"]
fn a_reboot_keeps_the_messages_and_serves_again() {
    let mut machine = Machine::serving();
    let load = machine.load();
    machine.wait_progress();
    machine.reboot();
    let outcome = load.end();
    machine.assert_kept(&[outcome]);
    assert_eq!(machine.property("ActiveState"), "active");
    assert_eq!(machine.echo("after it"), "after it\n");
}
