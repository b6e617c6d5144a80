//! plumbd.socket: systemd listens, and plumbd takes over the sockets.

use crate::machine::Machine;

#[test]
#[ignore = "needs root, systemd-nspawn, debootstrap and cargo-deb"]
fn the_first_client_starts_the_service_and_a_stop_refuses_nobody() {
    let machine = Machine::with_package();
    machine.done(&["systemctl", "enable", "--now", "plumbd.socket"]);
    assert_eq!(machine.property("ActiveState"), "inactive");
    let load = machine.load();
    machine.wait_progress();
    assert_eq!(machine.property("ActiveState"), "active");
    for _ in 0..3 {
        machine.wait_progress();
        machine.done(&["systemctl", "stop", "plumbd.service"]);
    }
    machine.wait_progress();
    let supervisor = machine.supervisor();
    machine.done(&["kill", "-KILL", &supervisor]);
    machine.wait_replaced(&supervisor);
    machine.wait_progress();
    let outcome = load.end();
    machine.assert_kept(std::slice::from_ref(&outcome));
    assert_eq!(outcome.refused, 0, "a client was refused");
    assert!(outcome.disconnected > 0, "it never stopped");

    // If both are stopped, nobody listens.
    machine.done(&["systemctl", "stop", "plumbd.socket", "plumbd.service"]);
    assert_ne!(machine.run(&["nc", "-z", "127.0.0.1", "7007"]).status, 0);
}

#[test]
#[ignore = "needs root, systemd-nspawn, debootstrap and cargo-deb"]
fn a_port_below_1024_needs_no_capability_this_way() {
    let machine = Machine::with_package();
    machine.edit("tcp://127.0.0.1:7007", "tcp://127.0.0.1:7");
    machine.write(
        "/etc/systemd/system/plumbd.socket.d/address.conf",
        "[Socket]\nListenStream=\nListenStream=127.0.0.1:7\n",
    );
    machine.done(&["systemctl", "daemon-reload"]);
    machine.done(&["systemctl", "start", "plumbd.socket", "plumbd.service"]);
    assert_eq!(machine.sh("echo seven | nc -N -w 60 127.0.0.1 7"), "seven\n");
    let capabilities = machine.sh(&format!("grep ^CapEff: /proc/{}/status", machine.child("echo")));
    assert_eq!(capabilities, "CapEff:\t0000000000000000\n");
}
