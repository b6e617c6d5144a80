//! Installed without the package, as the README says.

use crate::machine::Machine;
use crate::service::MESSAGES;
use std::process::Command;

#[test]
#[ignore = "needs root, systemd-nspawn, debootstrap and cargo-deb"]
fn make_install_gives_a_service_too() {
    let machine = Machine::boot();
    let make = |goal: &str| {
        let made = Command::new("make")
            .args(["--silent", goal])
            .arg(format!("DESTDIR={}", machine.path("").display()))
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .unwrap();
        assert!(made.status.success(), "make {goal}: {}", String::from_utf8_lossy(&made.stderr));
    };
    make("install");
    machine.sh("systemd-sysusers && systemd-tmpfiles --create && systemctl daemon-reload");
    machine.done(&["systemctl", "enable", "--now", "plumbd"]);
    assert_eq!(machine.echo("by hand"), "by hand\n");
    machine.wait_line(MESSAGES, "by hand");
    machine.done(&["systemctl", "reload", "plumbd"]);

    // An edited configuration is nobody's to overwrite.
    machine.edit("#max_connections ", "max_connections = 5000 #");
    make("install");
    assert!(machine.read_text("/etc/plumbd/plumbd.toml").contains("\nmax_connections = 5000 #"));

    machine.done(&["systemctl", "disable", "--now", "plumbd"]);
    make("uninstall");
    let left = machine.sh("find /usr/local -type f");
    assert_eq!(left, "");
    machine.wait_line(MESSAGES, "by hand");
}
