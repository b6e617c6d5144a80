//! The package is upgraded to its next version while clients send messages.

use crate::machine::Machine;
use crate::service::{CONFIG, NEXT_VERSION, next_package};

#[test]
#[ignore = "needs root, systemd-nspawn, debootstrap and cargo-deb"]
fn an_upgrade_restarts_it_loses_nothing_and_refuses_nobody() {
    let next = next_package();
    let machine = Machine::serving();
    machine.edit("#max_connections ", "max_connections = 5000 #");
    machine.done(&["systemctl", "reload", "plumbd"]);
    let config = machine.read_text(CONFIG);
    let load = machine.load();
    machine.wait_progress();
    let before = machine.supervisor();
    machine.install(next);
    assert_eq!(machine.done(&["dpkg-query", "-W", "-f", "${Version}", "plumbd"]), NEXT_VERSION);
    assert_ne!(machine.supervisor(), before, "the old version still runs");
    machine.wait_progress();
    let outcome = load.end();
    machine.assert_kept(std::slice::from_ref(&outcome));
    assert_eq!(outcome.refused, 0, "a client was refused");
    assert_eq!(machine.read_text(CONFIG), config, "the administrator's edit is gone");
}

#[test]
#[ignore = "needs root, systemd-nspawn, debootstrap and cargo-deb"]
fn an_upgrade_starts_nothing_that_was_stopped() {
    let next = next_package();
    let machine = Machine::with_package();
    machine.install(next);
    assert_eq!(machine.property("ActiveState"), "inactive");
    assert_eq!(machine.run(&["systemctl", "is-enabled", "plumbd"]).out, "disabled\n");
}
