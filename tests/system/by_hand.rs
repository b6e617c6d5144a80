//! plumbd is installed without the package, as the README describes.

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
    let first = machine.read_text("/etc/plumbd/plumbd.toml").lines().next().unwrap().to_owned();
    let schema = first.strip_prefix("#:schema ").unwrap();
    assert!(machine.read_text(schema).contains("draft-07"), "{schema}");
    machine.sh("systemd-sysusers && systemd-tmpfiles --create && systemctl daemon-reload");
    machine.done(&["systemctl", "enable", "--now", "plumbd"]);
    assert_eq!(machine.echo("by hand"), "by hand\n");
    machine.wait_line(MESSAGES, "by hand");
    machine.done(&["systemctl", "reload", "plumbd"]);

    // An edited configuration is never overwritten.
    machine.edit("#max_connections ", "max_connections = 5000 #");
    make("install");
    assert!(machine.read_text("/etc/plumbd/plumbd.toml").contains("\nmax_connections = 5000 #"));

    machine.done(&["systemctl", "disable", "--now", "plumbd"]);
    make("uninstall");
    let left = machine.sh("find /usr/local -type f");
    assert_eq!(left, "");
    machine.wait_line(MESSAGES, "by hand");
}

#[test]
fn make_install_reports_what_is_not_built() {
    let dir = tempfile::tempdir().unwrap();
    let made = Command::new("make")
        .args(["--silent", "install"])
        .env("CARGO_TARGET_DIR", dir.path())
        .arg(format!("DESTDIR={}", dir.path().join("root").display()))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let said = String::from_utf8(made.stderr).unwrap();
    let built = dir.path().join("release/plumbd");
    assert!(said.contains(&format!("cannot install {}: it is not built; run make first", built.display())), "{said}");
    assert!(!made.status.success() && !dir.path().join("root").exists());
}
