//! Faults as a tired operator meets them, who types one command. `plumbd status` on a terminal of
//! 80 columns must show the cause and what to do, and `systemctl status plumbd` at least the cause
//! in its "Status:" line (except for a sink that stalls, which the daemon sees only if asked).

use crate::machine::Machine;
use crate::service::CONFIG;
use crate::wait::wait_for;

/// What `plumbd status` shows on a terminal of 80 columns, each problem in one line, and its exit
/// status.
fn screen(machine: &Machine) -> (String, i32) {
    let line = "stty rows 24 cols 80; NO_COLOR=1 TERM=xterm plumbd status";
    let said = machine.run(&["script", "-qec", line, "/dev/null"]);
    let shown = said.out.replace('\r', "");
    // An error is left to the terminal to wrap.
    let is_page = shown.starts_with("plumbd running");
    assert!(!is_page || shown.lines().all(|line| line.chars().count() <= 80), "{shown}");
    (shown.replace("\n  ", " "), said.status)
}

/// Waits until one `plumbd status` shows all these words. Its exit status must be this one.
#[track_caller]
fn shows(machine: &Machine, status: i32, words: &[&str]) {
    let mut last = String::new();
    wait_for(&format!("{words:?} on the screen"), || {
        let (shown, code) = screen(machine);
        let all = words.iter().all(|word| shown.contains(word));
        if !all && shown != last {
            eprintln!("{shown}");
            last.clone_from(&shown);
        }
        all.then(|| assert_eq!(code, status, "{shown}"))
    });
}

/// Waits until the "Status:" line of `systemctl status plumbd` contains this.
#[track_caller]
fn systemd_shows(machine: &Machine, words: &str) {
    wait_for(&format!("{words:?} in the status text"), || machine.property("StatusText").contains(words).then_some(()));
}

/// Adds children to the packaged configuration, and reloads.
#[track_caller]
fn add(machine: &Machine, children: &str) {
    machine.write(CONFIG, &(machine.read_text(CONFIG) + "\n" + children));
    machine.done(&["systemctl", "reload", "plumbd"]);
}

fn program(machine: &Machine, path: &str, text: &str) {
    machine.write(path, text);
    machine.done(&["chmod", "+x", path]);
}

/// Another program that listens on a port of 127.0.0.1; its process id.
#[track_caller]
fn squat(machine: &Machine, port: u16) -> String {
    machine.sh(&format!("setsid nc -lk 127.0.0.1 {port} </dev/null >/dev/null 2>&1 &"));
    let pid = machine.sh(&format!("pgrep -f '^nc -lk 127.0.0.1 {port}'"));
    wait_for("the other program listens", || {
        (machine.run(&["nc", "-z", "127.0.0.1", &port.to_string()]).status == 0).then_some(())
    });
    pid.trim().to_owned()
}

#[test]
#[ignore = "needs root, systemd-nspawn, debootstrap and cargo-deb"]
fn a_child_that_dies_again_and_again_is_told_with_its_last_line_and_where_to_read_on() {
    let machine = Machine::serving();
    let line = "ModuleNotFoundError: No module named 'foo'";
    program(
        &machine,
        "/usr/local/bin/report",
        &format!("#!/bin/sh\ncat >&2 <<'X'\nTraceback:\n  File \"report\", line 3\n{line}\nX\nexit 1\n"),
    );
    add(&machine, "[children.report]\ncommand = [\"/usr/local/bin/report\"]\n");
    let died = format!("; its last line: \"{line}\"");
    shows(
        &machine,
        4,
        &[
            "plumbd running, with 1 problem: 2 of 3 children up\n",
            "! report: exited with status 1, ",
            &died,
            "; starts again in ",
            "more tries; see `plumbd log report`\n",
        ],
    );
    systemd_shows(&machine, &format!("2 of 3 up; report: exited with status 1{died}"));
    assert!(machine.done(&["plumbd", "log", "report"]).contains("File \"report\", line 3"));
    // In the end it is given up.
    machine.edit(
        "\"/usr/local/bin/report\"]",
        "\"/usr/local/bin/report\"]\nstart_limit = { burst = 3, within = \"60s\" }",
    );
    machine.done(&["systemctl", "reload", "plumbd"]);
    let given_up =
        "! report: given up after 3 starts within 60 s; it exited with status 1 the last time; its last line: ";
    shows(&machine, 4, &[given_up, ". Mend it, then start it; see `plumbd log report`\n"]);
    systemd_shows(&machine, "2 of 3 up; report: given up after 3 starts");
}

#[test]
#[ignore = "needs root, systemd-nspawn, debootstrap and cargo-deb"]
fn a_child_that_flaps_slowly_is_told_although_it_is_up() {
    let machine = Machine::serving();
    let line = "cannot reach the database at db1: Connection refused";
    program(&machine, "/usr/local/bin/slow", &format!("#!/bin/sh\nsleep 1\necho '{line}' >&2\nexit 1\n"));
    add(
        &machine,
        "[children.slow]\ncommand = [\"/usr/local/bin/slow\"]\nstart_limit = { burst = 100, within = \"60s\" }\n\
         backoff = { first = \"0ms\", factor = 1.0, max = \"1ms\" }\n",
    );
    let died = format!("; its last line: \"{line}\"");
    shows(
        &machine,
        4,
        &[
            "plumbd running, with 1 problem: 3 of 3 children up\n",
            "! slow: keeps ending: exited with status 1, ",
            &format!("{died}; see `plumbd log slow`\n"),
        ],
    );
    systemd_shows(&machine, &format!("3 of 3 up; slow: keeps ending: exited with status 1{died}"));
}

#[test]
#[ignore = "needs root, systemd-nspawn, debootstrap and cargo-deb"]
fn a_child_that_hangs_is_told_by_its_checks_by_its_process_and_by_its_link() {
    let machine = Machine::serving();
    program(&machine, "/usr/local/bin/web", "#!/bin/sh\nwhile touch /run/plumbd/alive; do sleep 0.2; done\n");
    // A busy machine may touch it late.
    program(
        &machine,
        "/usr/local/bin/is-alive",
        "#!/bin/sh\nfind /run/plumbd/alive -newermt '3 seconds ago' | grep -q .\n",
    );
    add(
        &machine,
        "[children.web]\ncommand = [\"/usr/local/bin/web\"]\n\
         health = { command = [\"/usr/local/bin/is-alive\"], every = \"2s\", failures = 3 }\n",
    );
    let web = machine.child("web");
    machine.done(&["kill", "-STOP", &web]);
    let stopped = format!("! web: process {web} is stopped; `kill -CONT {web}` lets it go on\n");
    let failing = "- web: a check failed, 2 of 3 in a row: exited with status 1";
    shows(&machine, 4, &["plumbd running, with 1 problem: 3 of 3 children up\n", &stopped, failing]);
    machine.wait_journal("web: unhealthy: 3 checks failed in a row; the last one: exited with status 1");
    shows(&machine, 0, &["plumbd running: 3 of 3 children up\n"]);
    assert_ne!(machine.child("web"), web, "it was started again");
    // Without a check, the process itself and the link into it show it.
    let logger = machine.child("logger");
    machine.done(&["kill", "-STOP", &logger]);
    machine.sh("((printf 'waits\\n'; sleep 1000) | nc 127.0.0.1 7007) >/dev/null 2>&1 &");
    let stopped = format!("! logger: process {logger} is stopped; `kill -CONT {logger}` lets it go on\n");
    shows(&machine, 4, &[", with 2 problems: ", &stopped, "! echo -> logger: logger has taken nothing for "]);
    machine.done(&["kill", "-CONT", &logger]);
    shows(&machine, 0, &["plumbd running: 3 of 3 children up\n"]);
}

#[test]
#[ignore = "needs root, systemd-nspawn, debootstrap and cargo-deb"]
fn a_full_disk_is_told_and_how_much_is_free() {
    let machine = Machine::with_package();
    machine.sh("mkdir -p /var/log/plumbd; mount -t tmpfs -o size=64k tmpfs /var/log/plumbd\n\
         chown plumbd:plumbd /var/log/plumbd; systemctl start plumbd\n\
         (seq 10000 | nc 127.0.0.1 7007) >/dev/null 2>&1 &");
    let why = "logger: cannot write to /var/log/plumbd/messages.log: No space left on device";
    shows(
        &machine,
        4,
        &["2 of 2 children up\n", "FILE /var/log/plumbd/messages.log", "  0B free", &format!("! {why}\n")],
    );
    systemd_shows(&machine, &format!("2 of 2 up; {why}"));
    machine.sh("mount -o remount,size=8m /var/log/plumbd");
    shows(&machine, 0, &["plumbd running: 2 of 2 children up\n"]);
    systemd_shows(&machine, "2 of 2 up");
}

#[test]
#[ignore = "needs root, systemd-nspawn, debootstrap and cargo-deb"]
fn a_sink_that_reads_nothing_is_told_by_the_first_status() {
    let machine = Machine::serving();
    add(
        &machine,
        "[children.numbers]\ncommand = [\"seq\", \"100000\"]\nrestart = \"on-failure\"\n\
         [children.deaf]\ncommand = [\"sleep\", \"1000\"]\n\
         [[links]]\nfrom = \"numbers\"\nto = \"deaf\"\ncapacity = \"64KiB\"\n",
    );
    // Nobody has looked before, except for the reload.
    machine.sh("sleep 0.5");
    let (shown, code) = screen(&machine);
    let told = "! numbers -> deaf: deaf has taken nothing for 1s; if it hangs, `plumbd restart deaf`\n";
    assert!(code == 4 && shown.contains(told), "{code} {shown}");
}

#[test]
#[ignore = "needs root, systemd-nspawn, debootstrap and cargo-deb"]
fn a_port_that_is_taken_is_told_with_its_line_and_the_process_that_the_daemon_may_not_see() {
    let machine = Machine::with_package();
    let pid = squat(&machine, 7007);
    machine.done(&["systemctl", "start", "plumbd"]);
    let taken = |port, pid: &str| {
        format!(
            ": cannot listen on tcp://127.0.0.1:{port}: Address already in use by nc (process {pid}); stop it, or take \
             another port"
        )
    };
    let told = format!("{}\n", taken(7007, &pid));
    shows(&machine, 4, &[", with 1 problem: 1 of 2 children up\n", "! echo: /etc/plumbd/plumbd.toml:", &told]);
    assert!(!screen(&machine).0.contains("LISTEN tcp"), "it does not listen");
    assert!(!machine.journal().contains("echo: listens"), "{}", machine.journal());
    systemd_shows(&machine, "cannot listen on tcp://127.0.0.1:7007: Address already in use by a process that this");
    machine.done(&["kill", &pid]);
    shows(&machine, 0, &["plumbd running: 2 of 2 children up\n", "LISTEN tcp://127.0.0.1:7007"]);
    // The same at a reload, which changes nothing.
    let pid = squat(&machine, 7008);
    machine.edit("tcp://127.0.0.1:7007", "tcp://127.0.0.1:7008");
    assert_ne!(machine.run(&["systemctl", "reload", "plumbd"]).status, 0);
    let told = taken(7008, &pid);
    shows(
        &machine,
        0,
        &["! plumbd.toml was changed ", " ago and is not in force: see `plumbd plan`; the last reload failed: ", &told],
    );
    for words in [["plumbd", "plan"], ["plumbd", "reload"]] {
        let said = machine.run(&words);
        assert!(said.status == 1 && said.err.contains(&told), "{said:?}");
    }
    systemd_shows(&machine, "the last reload changed nothing: /etc/plumbd/plumbd.toml:");
}

#[test]
#[ignore = "needs root, systemd-nspawn, debootstrap and cargo-deb"]
fn a_wrong_file_and_a_forgotten_edit_are_told_until_they_are_in_force() {
    let machine = Machine::serving();
    let right = machine.read_text(CONFIG);
    machine.edit("\nlisten ", "\nlisten = [\"tcp://127.0.0.1:7009\"] #");
    let forgotten = " ago and is not in force: see `plumbd plan`";
    shows(&machine, 0, &["! plumbd.toml was changed ", &format!("{forgotten}\n")]);
    machine.write(CONFIG, &right);
    machine.edit("\nlisten ", "\nlisen ");
    assert_ne!(machine.run(&["systemctl", "reload", "plumbd"]).status, 0);
    let wrong = "unknown key \"lisen\" in [children.echo]; did you mean \"listen\"?";
    let failed = format!("{forgotten}; the last reload failed: /etc/plumbd/plumbd.toml:");
    shows(&machine, 0, &["plumbd running: 2 of 2 children up\n", &failed, wrong]);
    systemd_shows(&machine, wrong);
    // The same if it is stopped, and starts no more.
    machine.done(&["systemctl", "stop", "plumbd"]);
    assert_ne!(machine.run(&["systemctl", "start", "plumbd"]).status, 0);
    shows(
        &machine,
        3,
        &["no daemon starts with this configuration (see `plumbd check`): /etc/plumbd/plumbd.toml:", wrong],
    );
    machine.write(CONFIG, &right);
    machine.done(&["systemctl", "start", "plumbd"]);
    let (shown, code) = screen(&machine);
    assert!(code == 0 && !shown.contains("! "), "{shown}");
}
