//! What works inside the unit's sandbox, and what the drop-ins allow.

use crate::machine::Machine;
use crate::service::{CONFIG, MESSAGES};

/// The drop-ins that ship.
const GROUP: &str = include_str!("../../systemd/drop-ins/group.conf");
const PORT: &str = include_str!("../../systemd/drop-ins/port-below-1024.conf");
const USERS: &str = include_str!("../../systemd/drop-ins/users.conf");
const PATHS: &str = include_str!("../../systemd/drop-ins/paths.conf");

#[test]
#[ignore = "needs root, systemd-nspawn, debootstrap and cargo-deb"]
fn every_example_runs_in_the_sandbox() {
    let machine = Machine::with_package();
    let listed = machine.done(&["plumbd", "example"]);
    let names: Vec<&str> = listed.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert!(names.contains(&"plumbd"), "{listed}");
    for name in names {
        // Relative paths are relative to /etc/plumbd, which is read only.
        let text = machine
            .done(&["plumbd", "example", name])
            .replace("\"plumbd.sock\"", "\"/run/plumbd/plumbd.sock\"")
            .replace("file = \"", "file = \"/var/log/plumbd/")
            .replace("/var/log/plumbd//", "/");
        machine.write(CONFIG, &text);
        machine.done(&["systemctl", "restart", "plumbd"]);
        match name {
            "one-way" => machine.wait_journal("reader: received: Hello, World!"),
            "two-way" => {
                machine.wait_journal("guest: guest received: Hello, who are you?");
                machine.wait_journal("host: host received: Hi, I am the guest!");
            }
            "pipeline" => machine.wait_line("/var/log/plumbd/pipeline.log", "number 10 is even"),
            "errors" => machine.wait_line("/var/log/plumbd/checks-errors.log", "No such file or directory"),
            "echo-store" | "plumbd" => {
                assert_eq!(machine.echo(name), format!("{name}\n"));
                machine.wait_line(MESSAGES, name);
            }
            other => panic!("no check is known for the example {other}"),
        }
        let failures = machine.run(&["sh", "-c", "journalctl -u plumbd -p err -o cat --no-pager"]).out;
        assert_eq!(failures, "", "{name}");
    }
}

#[test]
#[ignore = "needs root, systemd-nspawn, debootstrap and cargo-deb"]
fn the_sandbox_blocks_foreign_files_and_processes() {
    let machine = Machine::serving();
    machine.write("/home/secret", "of a person");
    let prober = r#"
[children.prober]
command = ["/bin/sh", "-c", """
for path in /etc/plumbd/new /usr/new /srv/new; do touch $path && echo "wrote $path"; done
cat /home/secret
cat /proc/1/status && echo 'saw process 1'
echo kept >/var/lib/plumbd/new && pwd
echo 'probed'
"""]
restart = "never"
"#;
    machine.write(CONFIG, &(machine.read_text(CONFIG) + prober));
    machine.done(&["systemctl", "reload", "plumbd"]);
    machine.wait_journal("prober: probed");
    let journal = machine.journal();
    for breach in ["wrote", "of a person", "saw process 1"] {
        assert!(!journal.contains(&format!("prober: {breach}")), "{journal}");
    }
    assert!(journal.contains("prober: /var/lib/plumbd"), "{journal}");
    assert_eq!(machine.read_text("/var/lib/plumbd/new"), "kept\n");
}

#[test]
#[ignore = "needs root, systemd-nspawn, debootstrap and cargo-deb"]
fn port_7_with_its_drop_in() {
    let machine = Machine::with_package();
    machine.edit("tcp://127.0.0.1:7007", "tcp://127.0.0.1:7");
    // The service starts, and reports which child can't.
    machine.done(&["systemctl", "start", "plumbd"]);
    machine.wait_journal("cannot listen on tcp://127.0.0.1:7: Permission denied");
    assert!(machine.done(&["systemctl", "status", "plumbd"]).contains("cannot start echo: "));
    machine.done(&["systemctl", "stop", "plumbd"]);
    machine.drop_in("port-below-1024.conf", PORT);
    machine.done(&["systemctl", "start", "plumbd"]);
    assert_eq!(machine.sh("echo seven | nc -N -w 60 127.0.0.1 7"), "seven\n");
}

#[test]
#[ignore = "needs root, systemd-nspawn, debootstrap and cargo-deb"]
fn children_of_other_users_with_its_drop_in() {
    let machine = Machine::serving();
    assert_eq!(machine.echo("before"), "before\n");
    machine.drop_in("users.conf", USERS);
    machine.edit("[children.echo]\n", "[children.echo]\nuser = \"nobody\"\n");
    machine.edit("[children.logger]\n", "[children.logger]\nuser = \"plumbd\"\n");
    let job = "[children.job]\nuser = \"games\"\ngroup = \"tty\"\ncommand = [\"/bin/sleep\", \"1000\"]\n";
    machine.write(CONFIG, &(machine.read_text(CONFIG) + job));
    machine.done(&["systemctl", "restart", "plumbd"]);
    for (child, who) in [("echo", "nobody nogroup"), ("logger", "plumbd plumbd"), ("job", "games tty")] {
        let is = machine.done(&["ps", "-o", "user=,group=", "-p", &machine.child(child)]);
        assert_eq!(is.split_whitespace().collect::<Vec<_>>().join(" "), who, "{child}");
    }
    assert_eq!(machine.echo("after"), "after\n");
    assert!(machine.read_text(MESSAGES).ends_with(" after\n"));
    // The supervisor may signal them too.
    assert_eq!(machine.done(&["plumbd", "reopen"]), "told logger\n");
    machine.done(&["plumbd", "restart", "echo", "logger", "job"]);
    let load = machine.load();
    machine.wait_progress();
    let supervisor = machine.supervisor();
    machine.done(&["kill", "-KILL", &supervisor]);
    machine.wait_replaced(&supervisor);
    machine.wait_progress();
    let outcome = load.end();
    assert_eq!(outcome.refused, 0, "a client was refused");
    machine.done(&["systemctl", "stop", "plumbd"]);
    assert_eq!(machine.property("Result"), "success");
}

#[test]
#[ignore = "needs root, systemd-nspawn, debootstrap and cargo-deb"]
fn messages_elsewhere_with_its_drop_in() {
    let machine = Machine::serving();
    machine.sh("mkdir /srv/plumbd && chown plumbd: /srv/plumbd");
    machine.edit("\"/var/log/plumbd/messages.log\"", "\"/srv/plumbd/messages.log\"");
    assert_ne!(machine.run(&["systemctl", "reload", "plumbd"]).status, 0, "the sandbox is open");
    machine.drop_in("paths.conf", PATHS);
    machine.done(&["systemctl", "restart", "plumbd"]);
    assert_eq!(machine.echo("elsewhere"), "elsewhere\n");
    machine.wait_line("/srv/plumbd/messages.log", "elsewhere");
}

#[test]
#[ignore = "needs root, systemd-nspawn, debootstrap and cargo-deb"]
fn messages_of_another_group_with_its_drop_in() {
    let machine = Machine::with_package();
    machine.drop_in("group.conf", GROUP);
    machine.edit("[children.logger.settings]\n", "[children.logger.settings]\ngroup = \"adm\"\n");
    machine.done(&["systemctl", "start", "plumbd"]);
    assert_eq!(machine.echo("for adm"), "for adm\n");
    assert_eq!(machine.done(&["stat", "-c", "%U %G %a", MESSAGES]), "plumbd adm 640\n");
}
