//! Where plumbd is started: limits, folders, descriptors and programs that are not as
//! they should be. Each is reported in words that say what to do.

use crate::daemon::{Daemon, strays, wait_for};
use plumbd::control::Request;
use plumbd::control::status::ChildState;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

const PLUMBD: &str = env!("CARGO_BIN_EXE_plumbd");

const BOTH: &str = r#"
[children.echo]
plugin = "echo"
listen = ["tcp://127.0.0.1:0"]
[children.logger]
plugin = "logger"
[children.logger.settings]
file = "m.log"
[[links]]
from = "echo"
to = "logger"
"#;

const SLEEPER: &str = "[children.one]\ncommand = [\"sleep\", \"1000\"]\n";

/// The output of a shell script in that folder; `$P` is plumbd.
fn shell(folder: &Path, script: &str) -> Output {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script]).current_dir(folder).env("P", PLUMBD).env_remove("PLUMBD_CONTROL");
    command.env("XDG_CONFIG_HOME", folder.join("none")).stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn folder(config: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("plumbd.toml"), config).unwrap();
    dir
}

fn program(folder: &Path, name: &str, text: &[u8], mode: u32) {
    std::fs::write(folder.join(name), text).unwrap();
    std::fs::set_permissions(folder.join(name), PermissionsExt::from_mode(mode)).unwrap();
}

#[test]
fn a_limit_on_the_size_of_files_kills_no_process_and_is_named_in_messages() {
    let dir = folder(BOTH);
    // The limit is in blocks of 512 bytes, and memory files count.
    for blocks in [0, 1, 2000] {
        let output = shell(dir.path(), &format!("ulimit -f {blocks}; exec $P run -c plumbd.toml"));
        let err = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{blocks}: {err}");
        let limit = format!("File too large (the limit is {} bytes a file: raise it with ulimit -f", blocks * 512);
        assert!(err.contains(&limit), "{blocks}: {err}");
        assert!(strays(dir.path()).is_empty());
    }
}

#[test]
fn a_log_at_a_limit_of_its_size_ends_nothing_and_programs_get_the_usual_signal() {
    let mut daemon = Daemon::start_after(
        "head -c 8192 /dev/zero | tr '\\000' '\\n' >&2; ulimit -f 16",
        r#"
        [children.one]
        command = ["sh", "-c", "for i in 1 2 3 4 5 6 7 8; do echo $i $(seq 100); done >&2; head -c 100000 /dev/zero >big; exec sleep 1000"]
        "#,
    );
    wait_for("head is killed at the limit", || {
        (daemon.path("big").metadata().is_ok_and(|big| big.len() == 8192)).then_some(())
    });
    assert_eq!(daemon.child("one").state, ChildState::Up);
    daemon.signal(nix::libc::SIGTERM);
    assert!(daemon.wait_end().success());
}

#[test]
fn a_limit_on_descriptors_is_named_wherever_it_is_reached() {
    let dir = folder(BOTH);
    let mut met = 0;
    for limit in [10, 20, 30, 34] {
        let script = format!("ulimit -n {limit}; timeout 5 $P run -c plumbd.toml");
        let output = shell(dir.path(), &script);
        let err = text(&output.stderr);
        if err.contains("Too many open files") {
            met += 1;
            let named = format!("Too many open files (the limit is {limit} descriptors: raise it with ulimit -n");
            assert!(err.lines().filter(|l| l.contains("Too many open")).all(|l| l.contains(&named)), "{limit}: {err}");
        }
        assert!(!err.contains("(os error"), "{err}");
    }
    assert!(met >= 2, "{met}");
}

#[test]
fn a_plugin_that_has_too_few_descriptors_names_its_own_limit() {
    for limit in [11, 13] {
        let own = format!("plugin = \"logger\"\nlimits = {{ nofile = {limit} }}");
        let mut daemon = Daemon::spawn(&BOTH.replace("plugin = \"logger\"", &own));
        let line = wait_for("the logger says it", || {
            let log = daemon.log();
            log.lines().find(|line| line.contains(" logger: ") && line.contains("Too many open")).map(str::to_owned)
        });
        assert!(line.contains(&format!("(the limit is {limit} descriptors: raise it with ulimit -n")), "{line}");
        daemon.signal(nix::libc::SIGTERM);
        daemon.signal(nix::libc::SIGTERM);
        daemon.wait_end();
    }
}

#[test]
fn a_removed_working_directory_does_not_matter_if_a_file_is_given() {
    let dir = folder(SLEEPER);
    let gone = "mkdir gone; cd gone; rmdir ../gone;";
    let file = dir.path().join("plumbd.toml");
    let checked = shell(dir.path(), &format!("{gone} exec $P check -c {}", file.display()));
    assert!(checked.status.success(), "{}", text(&checked.stderr));
    for command in ["run", "check"] {
        let output = shell(dir.path(), &format!("{gone} exec $P {command}"));
        let err = text(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{err}");
        assert!(err.contains("cannot find the working directory: No such file or directory"), "{err}");
    }
    let mut daemon =
        Daemon::start_after("mkdir gone; cd gone; rmdir ../gone; exec \"$0\" run -c \"$OLDPWD/plumbd.toml\"", SLEEPER);
    daemon.reload(&format!("{SLEEPER}umask = \"0077\"\n"));
    daemon.stop();
}

#[test]
fn only_a_regular_file_can_be_the_message_file() {
    let dir = tempfile::tempdir().unwrap();
    assert!(Command::new("mkfifo").arg(dir.path().join("fifo")).status().unwrap().success());
    std::fs::create_dir(dir.path().join("folder")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
    for (file, what) in [
        ("/dev/null", "it is no regular file"),
        ("/dev/full", "it is no regular file"),
        ("/dev/stdout", "it is no regular file"),
        ("fifo", "it is no regular file"),
        ("socket", "it is no regular file"),
        ("folder", "it is a folder"),
    ] {
        std::fs::write(dir.path().join("plumbd.toml"), BOTH.replace("m.log", file)).unwrap();
        for command in ["check", "run"] {
            let output = shell(dir.path(), &format!("exec $P {command} -c plumbd.toml"));
            let err = text(&output.stderr);
            assert_eq!(output.status.code(), Some(78), "{file}: {err}");
            assert!(err.starts_with("plumbd.toml:8:8: cannot save to ") && err.contains(what), "{file}: {err}");
        }
    }
    std::fs::write(dir.path().join("plumbd.toml"), BOTH.replace("m.log", "new.log")).unwrap();
    assert!(shell(dir.path(), "exec $P check -c plumbd.toml").status.success());
}

#[test]
fn closed_standard_streams_become_dev_null() {
    let dir = folder(SLEEPER);
    for closed in [">&-", "2>&-", "<&-", "<&- >&- 2>&-"] {
        for words in ["schema", "man", "check", "example echo-store"] {
            let output = shell(dir.path(), &format!("exec $P {words} {closed}"));
            assert!(output.status.success(), "{words} {closed}: {}", text(&output.stderr));
        }
        // Commands that should fail still do.
        let output = shell(dir.path(), &format!("exec $P check -c none.toml {closed}"));
        assert_eq!(output.status.code(), Some(78), "{closed}");
    }
    let mut daemon = Daemon::start_after("exec <&- >&- 2>&-", SLEEPER);
    for number in 0..3 {
        let link = std::fs::read_link(format!("/proc/{}/fd/{number}", daemon.pid())).unwrap();
        assert_eq!(link, Path::new("/dev/null"), "{number}");
    }
    daemon.stop();
}

#[test]
#[ignore = "needs root"]
fn the_first_process_of_a_container_does_not_go_to_the_background() {
    let dir = folder(SLEEPER);
    let output = shell(dir.path(), "exec unshare --mount --pid --fork --mount-proc $P run --daemon -c plumbd.toml");
    let err = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.contains("plumbd: cannot go to the background: process 1 of a container"), "{err}");
}

#[test]
fn a_reload_that_changes_nothing_is_one_line_in_the_log() {
    let children: String = (0..20).map(|n| SLEEPER.replace("one", &format!("c{n}"))).collect();
    let mut daemon = Daemon::start(&children);
    let before = daemon.log().lines().count();
    for _ in 0..5 {
        daemon.reload(&children);
    }
    let log = daemon.log();
    let said: Vec<&str> = log.lines().skip(before).map(|line| line.split_once(' ').unwrap().1).collect();
    assert_eq!(said, ["INFO plumbd: reloaded: nothing changes"; 5]);
    // A reload that changes something logs a line for that, and none for what it keeps.
    let before = log.lines().count();
    daemon.reload(&children.replacen("1000", "1001", 1));
    let log = daemon.log();
    let said: Vec<&str> = log.lines().skip(before).collect();
    assert_eq!(said.iter().filter(|line| line.contains("reload: restart ")).count(), 1, "{said:?}");
    assert!(
        said.last().unwrap().ends_with(" plumbd: reloaded") && !said.iter().any(|l| l.contains("keep")),
        "{said:?}"
    );
    daemon.stop();
}

#[test]
fn a_program_that_cannot_run_is_reported_with_the_reason() {
    let flaws: [(&str, &[u8], u32, &str); 8] = [
        ("orphan", b"#!/no/such/interpreter\n", 0o755, "its interpreter /no/such/interpreter does not exist"),
        ("spelt", b"#! /usr/bin/pyton3 -u\n", 0o755, "its interpreter /usr/bin/pyton3 does not exist"),
        (
            "windows",
            b"#!/bin/sh\r\nexec sleep 1000\r\n",
            0o755,
            "its lines end in CR LF, and the CR counts as part of a name; sed -i 's/\\r$//' /",
        ),
        ("noise", b"no program at all\n", 0o755, "begin it with #!/bin/sh"),
        ("empty", b"", 0o755, "it is empty"),
        ("plain", b"#!/bin/sh\nexec sleep 1000\n", 0o644, "it is not marked executable; chmod +x /"),
        (
            "foreign",
            b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\xf3\0",
            0o755,
            "it is a program for riscv64, not for ",
        ),
        ("folder", b"", 0, "it is a folder"),
    ];
    let dir = tempfile::tempdir().unwrap();
    let put = |name: &str, bytes: &[u8], mode: u32| {
        let path = dir.path().join(name);
        let _none = std::fs::remove_dir(&path);
        if mode == 0 {
            let _file = std::fs::remove_file(&path);
            return std::fs::create_dir(&path).unwrap();
        }
        program(dir.path(), name, bytes, mode);
    };
    let child = |name: &str| format!("[children.{name}]\ncommand = [\"./{name}\"]\nrestart = \"never\"\n");
    let config: String = flaws.iter().map(|(name, ..)| child(name)).collect();
    std::fs::write(dir.path().join("plumbd.toml"), &config).unwrap();
    flaws.iter().for_each(|(name, bytes, mode, _)| put(name, bytes, *mode));
    let checked = shell(dir.path(), "exec $P check -c plumbd.toml");
    let err = text(&checked.stderr);
    assert_eq!(checked.status.code(), Some(78));
    for (place, (name, .., why)) in flaws.iter().enumerate() {
        let said = format!("plumbd.toml:{}:12: cannot run {}/{name}: ", place * 3 + 2, dir.path().display());
        let line = err.lines().find(|line| line.starts_with(&said)).unwrap_or_else(|| panic!("{said} in {err}"));
        assert!(line.contains(why), "{line}");
    }

    // Programs that were right when they were checked are reported in the same way.
    flaws.iter().for_each(|(name, ..)| put(name, b"#!/bin/sh\n", 0o755));
    let mut daemon =
        Daemon::spawn_in(tempfile::tempdir().unwrap(), &config.replace("./", &format!("{}/", dir.path().display())));
    daemon.wait_state(plumbd::control::status::DaemonState::Running);
    flaws.iter().for_each(|(name, bytes, mode, _)| put(name, bytes, *mode));
    for (name, .., why) in &flaws {
        let (status, _, err) = daemon.ask(&Request::Restart { children: vec![(*name).to_owned()] });
        assert_eq!(status, 1);
        assert!(err.starts_with(&format!("cannot start {name}: executing: ")) && err.contains(why), "{err}");
        daemon.wait_log(&format!("{name}: cannot start: executing: "));
    }
    daemon.stop();
}

#[test]
fn a_program_that_died_early_is_not_reported_as_one_that_could_not_start() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::spawn_in(
        dir,
        r#"
        [children.killed]
        command = ["sh", "-c", "kill -KILL $$"]
        ready = "fd"
        backoff = { first = "1h", max = "1h" }
        [children.exits]
        command = ["sh", "-c", "exit 3"]
        ready = "fd"
        restart = "never"
        [children.serves]
        command = ["sh", "-c", "echo >&$PLUMBD_READY_FD; exit 4"]
        ready = "fd"
        backoff = { first = "1h", max = "1h" }
        "#,
    );
    daemon.wait_log("not all children are up: ");
    let log = daemon.log();
    let line = log.lines().find(|line| line.contains("not all children are up")).unwrap();
    for said in [
        "exits exited with status 3 before it was ready, and restart = \"never\"",
        "killed was killed by SIGKILL before it was ready",
    ] {
        assert!(line.contains(said), "{line}");
    }
    assert!(!line.contains("cannot start"), "{line}");
    let (status, _, err) = daemon.ask(&Request::Start { children: vec!["killed".to_owned()] });
    assert_eq!((status, err.as_str()), (1, "killed was killed by SIGKILL before it was ready\n"));
    daemon.stop();
}

#[test]
fn only_children_with_a_file_are_asked_to_reopen_it() {
    let mut daemon = Daemon::start(&format!(
        "{}[children.own]\ncommand = [\"sh\", \"-c\", \"trap 'echo again' USR1; touch up; while :; do sleep 0.05; done\"]\n{SLEEPER}",
        BOTH
    ));
    wait_for("its trap", || daemon.path("up").exists().then_some(()));
    assert_eq!(daemon.done(&Request::Reopen), "told logger, own\n");
    daemon.wait_log("own: again\n");
    daemon.wait_log("reopen: told logger, own\n");
    daemon.reload(SLEEPER);
    assert!(daemon.done(&Request::Reopen).starts_with("no child reopens a file"));
    daemon.stop();
}

/// The output of plumbd with these words for a user who is not root, with that home.
fn as_user(home: &Path, here: &Path, settings: Option<&Path>, words: &[&str]) -> Output {
    let program = home.join("plumbd");
    if !program.exists() {
        // Another process copies it: see ETXTBSY in execve(2).
        assert!(Command::new("cp").arg(PLUMBD).arg(&program).status().unwrap().success());
    }
    let mut command = if nix::unistd::geteuid().is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program);
        command
    } else {
        Command::new(&program)
    };
    command.args(words).current_dir(here).env("HOME", home).env_remove("PLUMBD_CONTROL").env_remove("XDG_CONFIG_HOME");
    command.envs(settings.map(|folder| ("XDG_CONFIG_HOME", folder))).output().unwrap()
}

#[test]
fn a_users_own_configuration_is_found_by_every_command_in_its_place() {
    let open = |folder: &Path| std::fs::set_permissions(folder, PermissionsExt::from_mode(0o755)).unwrap();
    let (home, here) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (home, here) = (home.path(), here.path());
    let settings = home.join("settings");
    for (folder, name) in [(home.join(".config"), "homes"), (settings.clone(), "settings")] {
        std::fs::create_dir_all(folder.join("plumbd")).unwrap();
        let config = SLEEPER.replace("one", name);
        std::fs::write(folder.join("plumbd/plumbd.toml"), config).unwrap();
    }
    [home, here].into_iter().for_each(open);
    let said = |settings: Option<&Path>, words: &[&str]| {
        let output = as_user(home, here, settings, words);
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let none = Some(Path::new("/nonexistent"));
    let place = |folder: &str| format!("{}/{folder}/plumbd/plumbd", home.display());
    assert_eq!(said(None, &["check"]).1, format!("{}.toml: no problems\n", place(".config")));
    assert_eq!(said(Some(&settings), &["check"]).1, format!("{}.toml: no problems\n", place("settings")));
    assert!(said(Some(&settings), &["check", "--effective"]).1.contains("[children.settings]"));
    for words in [&["status"][..], &["reload"], &["stop", "x"]] {
        let (_, _, err) = said(Some(&settings), words);
        assert!(err.contains(&format!("{}.sock", place("settings"))), "{words:?}: {err}");
    }
    // Other users do not use it, nor is it used if a relative name is given.
    if !Path::new("/etc/plumbd/plumbd.toml").exists() {
        assert!(said(none, &["check"]).1.starts_with("built-in configuration"));
    }
    let mut root = Command::new(PLUMBD);
    root.arg("check").current_dir(here).env("HOME", home).env_remove("XDG_CONFIG_HOME");
    let root = text(&root.output().unwrap().stdout);
    assert_eq!(root.contains(".config"), !nix::unistd::geteuid().is_root(), "{root}");
    std::fs::write(here.join("plumbd.toml"), SLEEPER).unwrap();
    assert_eq!(said(None, &["check"]).1, "plumbd.toml: no problems\n");
}

#[test]
fn a_daemon_that_runs_by_a_users_configuration_is_found_by_it() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join(".config/plumbd");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("plumbd.toml"), SLEEPER).unwrap();
    let owned = |path: &Path| {
        if nix::unistd::geteuid().is_root() {
            std::os::unix::fs::chown(path, Some(65534), Some(65534)).unwrap();
        }
    };
    [home.path(), &folder].into_iter().for_each(owned);
    let said = |words: &[&str]| as_user(home.path(), home.path(), None, words);
    let pid = home.path().join("pid");
    let started = said(&["run", "--daemon", "--pid-file", pid.to_str().unwrap()]);
    assert!(started.status.success(), "{}", text(&started.stderr));
    let status = said(&["status"]);
    assert!(status.status.success(), "{}{}", text(&status.stdout), text(&status.stderr));
    assert!(text(&status.stdout).contains("1 of 1 child up"), "{}", text(&status.stdout));
    assert_eq!(text(&said(&["reload"]).stdout), "keep     one\nreloaded\n");
    let ended = said(&["shutdown"]);
    assert!(ended.status.success(), "{}", text(&ended.stderr));
    wait_for("it is gone", || (!pid.exists()).then_some(()));
}

#[test]
fn no_message_has_an_error_number() {
    let dir = folder(SLEEPER);
    std::fs::write(dir.path().join("control.toml"), format!("[daemon]\ncontrol = \"none/ctl\"\n{SLEEPER}")).unwrap();
    std::fs::write(dir.path().join("long.toml"), format!("[daemon]\ncontrol = \"plumbd.toml/x\"\n{SLEEPER}")).unwrap();
    for words in [
        "status --control /nonexistent/x",
        "status --control plumbd.toml",
        "reload -c control.toml",
        "run -c control.toml",
        "run -c long.toml",
        "run --pid-file none/pid",
        "run --pid-file .",
        "run --daemon -c control.toml",
        "run -c /proc/self/mem",
        "check -c none/x.toml",
        "check -c .",
        "man --out /proc/none",
        "schema >/dev/full",
        "plugin logger",
    ] {
        let output = shell(dir.path(), &format!("exec timeout 10 $P {words}"));
        let err = text(&output.stderr);
        assert!(!output.status.success() && !err.is_empty() && !err.contains("os error"), "{words}: {err}");
    }
    // What a daemon reports to an operator, in its log, and as a child's problem.
    let config = format!("{BOTH}{SLEEPER}directory = \"gone\"\n");
    let dir = folder(&config);
    std::fs::create_dir(dir.path().join("gone")).unwrap();
    let mut daemon = Daemon::spawn_in(dir, &config);
    daemon.wait_state(plumbd::control::status::DaemonState::Running);
    std::fs::remove_dir(daemon.path("gone")).unwrap();
    let (_, _, err) = daemon.ask(&Request::Restart { children: vec!["one".to_owned()] });
    let problem = daemon.child("one").problem.unwrap();
    for said in [err, problem, daemon.log()] {
        assert!(said.contains("No such file or directory") && !said.contains("os error"), "{said}");
    }
    daemon.stop();
}
