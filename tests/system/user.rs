//! A user's own service, under that user's systemd.

use crate::machine::{Machine, Said};
use crate::wait::wait_for;

const CONFIG: &str = "/home/u/.config/plumbd/plumbd.toml";
const MESSAGES: &str = "/home/u/.config/plumbd/messages.log";

/// A machine with the package, and a user whose service manager runs.
fn with_user() -> Machine {
    let machine = Machine::with_package();
    machine.sh("useradd --create-home --uid 1000 u");
    // pam_systemd would do this, but this machine does not have it.
    let runtime = "[Service]\nEnvironment=XDG_RUNTIME_DIR=/run/user/%i\n";
    machine.write("/etc/systemd/system/user@.service.d/runtime.conf", runtime);
    machine.done(&["systemctl", "daemon-reload"]);
    machine.done(&["loginctl", "enable-linger", "u"]);
    wait_for("the user's manager", || {
        (machine.run(&["systemctl", "is-active", "user@1000.service"]).out == "active\n").then_some(())
    });
    machine
}

fn run(machine: &Machine, line: &str) -> Said {
    let user = ["setpriv", "--reuid=u", "--regid=u", "--init-groups", "--reset-env"];
    let environment = ["env", "--chdir=/home/u", "XDG_RUNTIME_DIR=/run/user/1000", "sh", "-ec", line];
    machine.run(&[&user[..], &environment[..]].concat())
}

#[track_caller]
fn done(machine: &Machine, line: &str) -> String {
    let said = run(machine, line);
    let why = machine.run(&["journalctl", "--no-pager", "-n", "50"]).out;
    assert!(said.status == 0, "{line}: {said:#?}\n{why}");
    said.out
}

#[test]
#[ignore = "needs root, systemd-nspawn, debootstrap and cargo-deb"]
fn a_user_has_a_service_of_their_own() {
    let machine = with_user();
    // Without a configuration there is nothing to run.
    done(&machine, "systemctl --user start plumbd");
    assert_eq!(run(&machine, "systemctl --user is-active plumbd").out, "inactive\n");
    let verified = run(&machine, "systemd-analyze verify --user --man=no /usr/lib/systemd/user/plumbd.service");
    assert_eq!((verified.status, verified.err.as_str()), (0, ""), "{verified:?}");

    done(&machine, "mkdir -p .config/plumbd; plumbd example echo-store >.config/plumbd/plumbd.toml");
    done(&machine, "systemctl --user enable --now plumbd");
    assert_eq!(machine.echo("hello"), "hello\n");
    machine.wait_line(MESSAGES, "hello");
    assert_eq!(machine.done(&["stat", "-c", "%U", MESSAGES]), "u\n");
    let status = done(&machine, "plumbd status");
    assert!(status.contains("2 of 2 children up"), "{status}");

    // With a wrong file, the reload fails and changes nothing.
    let config = machine.read_text(CONFIG);
    machine.write(CONFIG, &format!("{config}\nwrong = 1\n"));
    assert_ne!(run(&machine, "systemctl --user reload plumbd").status, 0);
    machine.write(CONFIG, &format!("{config}\n# right\n"));
    done(&machine, "systemctl --user reload plumbd");

    // Sockets and pipes survive the supervisor, as with the system's service.
    let pid = || done(&machine, "systemctl --user show --value -p MainPID plumbd");
    let before = pid();
    machine.done(&["kill", "-KILL", before.trim()]);
    wait_for("another supervisor", || {
        let active = run(&machine, "systemctl --user is-active plumbd").out == "active\n";
        (active && pid() != before).then_some(())
    });
    assert_eq!(machine.echo("again"), "again\n");
    machine.wait_line(MESSAGES, "again");

    done(&machine, "systemctl --user stop plumbd");
    assert_eq!(machine.run(&["pgrep", "-u", "u", "plumbd"]).out, "");
    assert_eq!(run(&machine, "plumbd status").status, 3);
}
