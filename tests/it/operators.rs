//! What an operator reads, to the letter: the texts that help somebody who has typed something
//! wrong, or whose system is not as the configuration says.

use crate::daemon::{Daemon, wait_for};
use plumbd::control::Request;
use plumbd::control::status::ChildState;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

/// What `plumbd` with these words prints in that folder: exit status, standard output,
/// standard error. The folder is called DIR.
fn plumbd(dir: &Path, words: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_plumbd"))
        .args(words)
        .current_dir(dir)
        .env_remove("PLUMBD_CONTROL")
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace(dir.to_str().unwrap(), "DIR");
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

/// The same, as one text.
fn said(dir: &Path, words: &[&str]) -> String {
    let (status, out, err) = plumbd(dir, words);
    format!("{out}{err}exit status {status}")
}

fn folder(config: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("plumbd.toml"), config).unwrap();
    dir
}

/// The first line of each problem.
fn headlines(text: &str) -> Vec<&str> {
    text.lines().filter(|line| line.starts_with("plumbd.toml:")).collect()
}

#[test]
fn a_script_that_can_not_run_is_told_with_what_would_mend_it() {
    let names = ["badinterp", "crlf", "none", "gen.py"];
    let child = |name: &str| format!("[children.{}]\ncommand = [\"./{name}\"]\n", name.replace('.', "_"));
    let dir = folder(&names.map(child).concat());
    for (name, text, mode) in [
        ("badinterp", "#!/usr/bin/pyhton3\n", 0o755),
        ("crlf", "#!/bin/sh\r\nexit\r\n", 0o755),
        ("none", "exit\n", 0o755),
        ("gen.py", "#!/bin/sh\n", 0o644),
    ] {
        std::fs::write(dir.path().join(name), text).unwrap();
        std::fs::set_permissions(dir.path().join(name), std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let (status, out, err) = plumbd(dir.path(), &["check"]);
    assert_eq!((status, &*out), (78, ""));
    let expected = [
        "plumbd.toml:2:12: cannot run DIR/badinterp: its interpreter /usr/bin/pyhton3 does not exist; correct its first \
         line, or install the interpreter",
        r"plumbd.toml:4:12: cannot run DIR/crlf: its lines end in CR LF, and the CR counts as part of a name; sed -i 's/\r$//' DIR/crlf",
        "plumbd.toml:6:12: cannot run DIR/none: it is a text without a #! line that names an interpreter; if it is a \
         shell script, begin it with #!/bin/sh",
        "plumbd.toml:8:12: cannot run DIR/gen.py: it is not marked executable; chmod +x DIR/gen.py",
    ];
    assert_eq!(headlines(&err), expected);
}

#[test]
fn what_only_a_shell_understands_in_a_command_is_warned_about() {
    let dir = folder(
        "[children.a]\ncommand = [\"ls\", \"|\", \"wc\"]\n[children.b]\ncommand = [\"cat\", \"~/x\"]\n\
         [children.c]\ncommand = [\"sh\", \"-c\", \"ls\", \"|\"]\n",
    );
    let warned = |line, program, word| {
        format!(
            "plumbd.toml:{line}: warning: no shell reads this command: {program} is given \"{word}\" as it is; if a \
             shell is meant, write [\"/bin/sh\", \"-c\", \"...\"]\n"
        )
    };
    let err = format!("{}{}", warned(2, "ls", "|"), warned(4, "cat", "~/x"));
    assert_eq!(plumbd(dir.path(), &["check"]), (0, "plumbd.toml: no problems\n".to_owned(), err));
}

#[test]
fn a_check_names_who_has_an_address_unless_it_is_this_daemon() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let config = format!("[children.a]\ncommand = [\"sleep\", \"1000\"]\nlisten = [\"tcp://127.0.0.1:{port}\"]\n");
    let dir = folder(&config);
    let (status, out, err) = plumbd(dir.path(), &["check"]);
    assert_eq!((status, out.as_str()), (0, "plumbd.toml: no problems\n"));
    let told = format!("plumbd.toml:3: warning: cannot listen on tcp://127.0.0.1:{port}: Address already in use by ");
    let own = format!(" (process {}); stop it, or take another port\n", std::process::id());
    assert!(err.starts_with(&told) && err.ends_with(&own), "{err}");
    drop(taken);
    let mut daemon = Daemon::start(&config);
    wait_for("it listens", || (daemon.child("a").state == ChildState::Up).then_some(()));
    assert_eq!(said(daemon.dir.path(), &["check"]), "plumbd.toml: no problems\nexit status 0");
    assert_eq!(said(daemon.dir.path(), &["plan"]), "keep     a\nnothing would change\nexit status 0");
    daemon.stop();
}

#[test]
fn an_operator_in_the_wrong_place_learns_which_daemons_run() {
    let mut daemon = Daemon::start("[children.a]\ncommand = [\"sleep\", \"1000\"]\nlisten = [\"unix:a.sock\"]\n");
    let here = daemon.dir.path().to_owned();
    let running = format!(
        "running here: process {}, {here}/plumbd.toml (--control {here}/plumbd.sock)",
        daemon.pid(),
        here = here.display()
    );
    let dir = tempfile::tempdir().unwrap();
    let told = "plumbd: cannot reach the daemon at DIR/plumbd.sock: No such file or directory; is it running?\n";
    for (words, expected) in [(["status"], 3), (["reload"], 1), (["log"], 1)] {
        let (status, _, err) = plumbd(dir.path(), &words);
        assert_eq!(status, expected);
        // Other tests' daemons are listed too, but no more than five.
        let all: Vec<&str> = err.lines().filter(|line| line.starts_with("running here: process ")).collect();
        assert!(err.starts_with(told) && (all.contains(&&*running) || all.len() == 5), "{err}");
    }
    // The same if the configuration names another control socket by now.
    let config = daemon.read_text("plumbd.toml");
    daemon.configure(&format!("daemon.control = \"new.sock\"\n{config}"));
    let (status, _, err) = plumbd(&here, &["reload"]);
    let running = running.replace(&here.display().to_string(), "DIR");
    let told = "plumbd: cannot reach the daemon at DIR/new.sock: No such file or directory; is it running?\n";
    assert!(status == 1 && err.starts_with(told), "{err}");
    assert!(err.contains(&running) || err.matches("running here").count() == 5, "{err}");
    daemon.stop();
}

#[test]
#[ignore = "needs root to be another user, run by .ci/run"]
fn a_daemon_of_another_user_is_reached_with_sudo() {
    let mut daemon = Daemon::start("[children.a]\ncommand = [\"sleep\", \"1000\"]\n");
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(daemon.dir.path(), open).unwrap();
    let output = Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups", env!("CARGO_BIN_EXE_plumbd"), "status"])
        .arg("--control")
        .arg(daemon.path("plumbd.sock"))
        .current_dir("/")
        .output()
        .unwrap();
    assert_eq!(
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned()),
        (
            Some(1),
            format!(
                "plumbd: cannot reach the daemon at {}: Permission denied; it belongs to root: use sudo\n",
                daemon.path("plumbd.sock").display()
            )
        )
    );
    daemon.stop();
}

#[test]
fn a_changed_file_is_hinted_at_until_it_is_in_force_and_only_if_its_content_differs() {
    const A: &str = "[children.a]\ncommand = [\"sleep\", \"1000\"]\n";
    let mut daemon = Daemon::start(A);
    let hint = || {
        let (status, out, _) = plumbd(daemon.dir.path(), &["status"]);
        assert_eq!(status, 0);
        out.lines().find(|line| line.starts_with("! ")).map(str::to_owned)
    };
    daemon.configure(A);
    assert_eq!(hint(), None, "it was only written again");
    daemon.configure(&format!("{A}umask = \"0077\"\n"));
    let told = hint().unwrap();
    let (before, after) = told.split_once(" was changed ").unwrap();
    assert_eq!(before, "! plumbd.toml");
    assert!(after.ends_with("s ago and is not in force: see `plumbd plan`"), "{told}");
    let json = plumbd(daemon.dir.path(), &["status", "--json"]).1;
    assert!(json.contains("\"config_changed\": \"20"), "{json}");
    // A reload that fails does not put it in force.
    daemon.configure(&format!("{A}umaks = \"0077\"\n"));
    assert_eq!(daemon.ask(&Request::Reload).0, 78);
    assert!(hint().is_some());
    daemon.reload(&format!("{A}umask = \"0077\"\n"));
    assert_eq!(hint(), None);
    daemon.stop();
}

#[test]
fn what_other_programs_call_a_command_works_here() {
    let dir = folder("[children.a]\ncommand = [\"sh\"]\n");
    std::fs::rename(dir.path().join("plumbd.toml"), dir.path().join("other.toml")).unwrap();
    assert_eq!(said(dir.path(), &["check", "other.toml"]), "other.toml: no problems\nexit status 0");
    for (one, other) in [(["help"].as_slice(), ["--help"].as_slice()), (&["help", "log"], &["logs", "--help"])] {
        let (status, out, err) = plumbd(dir.path(), one);
        assert_eq!((status, err.as_str()), (0, ""));
        assert_eq!(out, plumbd(dir.path(), other).1);
    }
}

#[test]
fn all_is_every_child() {
    let mut daemon =
        Daemon::start("[children.a]\ncommand = [\"sleep\", \"1000\"]\n[children.b]\ncommand = [\"sleep\", \"1000\"]\n");
    let pids = ["a", "b"].map(|name| daemon.child_pid(name));
    assert_eq!(said(daemon.dir.path(), &["restart", "all"]), "exit status 0");
    let again = ["a", "b"].map(|name| daemon.child_pid(name));
    assert!(pids[0] != again[0] && pids[1] != again[1], "{pids:?} {again:?}");
    let (status, out, _) = plumbd(daemon.dir.path(), &["status"]);
    let second = format!("s, version {}, DIR/plumbd.toml\n", env!("CARGO_PKG_VERSION"));
    assert!(status == 0 && out.starts_with("plumbd running: 2 of 2 children up") && out.contains(&second), "{out}");
    daemon.stop();
}

#[test]
fn a_shutdown_of_a_daemon_that_has_ended_is_done() {
    let mut daemon = Daemon::start("[children.a]\ncommand = [\"sleep\", \"1000\"]\n");
    let dir = daemon.dir.path().to_owned();
    // Not if it only moved its socket.
    let config = daemon.read_text("plumbd.toml");
    daemon.configure(&format!("daemon.control = \"new.sock\"\n{config}"));
    let (status, _, err) = plumbd(&dir, &["shutdown"]);
    assert!(status == 1 && err.starts_with("plumbd: cannot reach the daemon at DIR/new.sock: "), "{err}");
    daemon.configure(&config);
    assert_eq!(said(&dir, &["shutdown"]), "exit status 0");
    daemon.wait_end();
    assert_eq!(said(&dir, &["shutdown"]), "plumbd: no daemon runs at DIR/plumbd.sock\nexit status 0");
}

#[test]
fn in_the_journal_a_reload_that_fails_is_told_once() {
    let mut daemon = Daemon::start("[children.a]\ncommand = [\"sleep\", \"1000\"]\n");
    daemon.configure("[children.a]\ncommand = [\"sleep\", \"1000\"]\numaks = \"0077\"\n");
    let journal = daemon.path("journal");
    let file = std::fs::File::create(&journal).unwrap();
    let is = file.metadata().unwrap();
    let reload = |stream: String| {
        let stderr = std::fs::File::options().append(true).open(&journal).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_plumbd"));
        command.arg("reload").current_dir(daemon.dir.path()).env_remove("PLUMBD_CONTROL").env("JOURNAL_STREAM", stream);
        assert_eq!(command.stderr(stderr).status().unwrap().code(), Some(78));
        std::mem::take(&mut std::fs::read_to_string(&journal).unwrap())
    };
    let own = reload(format!("{}:{}", is.dev(), is.ino()));
    assert_eq!(own, "cannot reload: nothing is changed\n");
    let others = reload("1:1".to_owned()).replacen(&own, "", 1);
    assert!(others.contains("plumbd.toml:3:1: unknown key \"umaks\"") && others.ends_with(&own), "{others}");
    daemon.stop();
}

#[test]
fn the_service_manager_learns_which_children_are_not_up_and_when_all_are_again() {
    let mut daemon = Daemon::start_managed(
        "[children.one]\ncommand = [\"sleep\", \"1000\"]\n[children.two]\ncommand = [\"sleep\", \"1000\"]\n",
    );
    daemon.manager().wait_heard("READY=1\nSTATUS=all children are ready");
    assert_eq!(said(daemon.dir.path(), &["stop", "two"]), "exit status 0");
    daemon.manager().wait_heard("STATUS=1 of 2 up; two is down");
    assert_eq!(said(daemon.dir.path(), &["start", "two"]), "exit status 0");
    daemon.manager().wait_heard("STATUS=2 of 2 up");
    daemon.stop();
}

#[test]
#[ignore = "needs root to be another user, run by .ci/run"]
fn a_check_as_another_user_than_the_daemon_says_so() {
    let mut daemon = Daemon::start("[children.a]\ncommand = [\"sleep\", \"1000\"]\n");
    let dir = daemon.dir.path();
    std::os::unix::fs::chown(dir.join("plumbd.sock"), Some(65534), None).unwrap();
    assert_eq!(
        said(dir, &["check"]),
        "plumbd.toml: no problems\n\
         plumbd.toml: checked as root, but the daemon is nobody: `plumbd plan` asks the daemon\nexit status 0"
    );
    daemon.stop();
}

// What is shown on a terminal of 80 columns, to the letter.

/// What `plumbd` with these words shows in that folder on a terminal of 80 columns, and its exit
/// status. The folder is called DIR.
fn on_80_columns(dir: &Path, words: &str) -> (String, i32) {
    let line = format!("stty rows 24 cols 80; NO_COLOR=1 '{}' {words}", env!("CARGO_BIN_EXE_plumbd"));
    let mut command = Command::new("script");
    command.args(["-qec", &line, "/dev/null"]).current_dir(dir).env("SHELL", "/bin/sh").env_remove("PLUMBD_CONTROL");
    let output = command.stdin(std::process::Stdio::null()).output().expect("script(1) of util-linux is needed");
    let shown = String::from_utf8(output.stdout).unwrap().replace('\r', "");
    (shown.replace(dir.to_str().unwrap(), "DIR"), output.status.code().unwrap())
}

/// The problems on that screen, with each number called N.
fn problems(shown: &str) -> String {
    let start = shown.find("\n! ").map_or(shown.len(), |at| at + 1);
    let mut text = String::new();
    for c in shown[start..].chars() {
        match c {
            '0'..='9' if text.ends_with('N') => {}
            '0'..='9' => text.push('N'),
            c => text.push(c),
        }
    }
    text
}

#[test]
fn on_80_columns_an_end_is_told_with_how_often_its_last_line_and_what_comes_next() {
    let mut daemon = Daemon::spawn(
        "[children.crash]\ncommand = [\"sh\", \"-c\", \"echo 'ModuleNotFoundError: No module named foo' >&2; exit 1\"]\n\
         backoff = { first = \"0ms\", factor = 1.0, max = \"1ms\" }\nstart_limit = { burst = 2, within = \"60s\" }\n",
    );
    let (shown, status) = wait_for("it is given up", || {
        let (shown, status) = on_80_columns(daemon.dir.path(), "status");
        shown.contains("given up").then_some((shown, status))
    });
    assert_eq!(status, 4);
    assert!(shown.starts_with("plumbd running, with 1 problem: 0 of 1 child up\n"), "{shown}");
    let expected = "\
! crash: given up after N starts within N s; it exited with status N the last
  time; its last line: \"ModuleNotFoundError: No module named foo\". Mend it, then
  start it; see `plumbd log crash`
";
    assert_eq!(problems(&shown), expected);
    assert!(shown.lines().any(|line| line.starts_with("crash  failed ")), "{shown}");
    assert!(daemon.log().contains("supervises 1 child, configured by "), "{}", daemon.log());
    daemon.stop();
}

#[test]
fn on_80_columns_a_start_that_ends_at_once_is_told_with_its_last_line() {
    let mut daemon = Daemon::spawn(
        "[children.once]\ncommand = [\"sh\", \"-c\", \"sleep 0.3; echo gone >&2; exit 3\"]\nrestart = \"never\"\n",
    );
    daemon.wait_child("once", ChildState::Down);
    let (shown, status) = on_80_columns(daemon.dir.path(), "start once");
    assert_eq!(status, 1);
    let told = "plumbd: once was up, then exited with status 3 after ";
    assert!(shown.starts_with(told) && shown.ends_with("; its last line: \"gone\"\n"), "{shown}");
    daemon.stop();
}

#[test]
fn on_80_columns_an_address_is_told_with_its_line_and_who_has_it_and_is_not_listed() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp://{}", taken.local_addr().unwrap());
    let mut daemon =
        Daemon::start(&format!("[children.web]\ncommand = [\"sleep\", \"1000\"]\nlisten = [\"{address}\"]\n"));
    let (shown, status) = wait_for("who has it is known", || {
        let (shown, status) = on_80_columns(daemon.dir.path(), "status");
        shown.contains("(process").then_some((shown, status))
    });
    assert_eq!(status, 4);
    let told = format!(
        "! web: plumbd.toml:3: cannot listen on {address}: Address already in use by it (process {}); stop it, or take another port\n",
        std::process::id()
    );
    let words = |text: &str| text.split_ascii_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let name = std::fs::read_to_string("/proc/self/comm").unwrap();
    let told = told.replace(" by it ", &format!(" by {} ", name.trim()));
    assert_eq!(words(&shown[shown.find("! ").unwrap()..]), words(&told));
    assert!(!shown.contains("LISTEN") && !daemon.log().contains("listens on"), "{shown}\n{}", daemon.log());
    drop(taken);
    wait_for("it listens", || {
        on_80_columns(daemon.dir.path(), "status").0.contains(&format!("LISTEN {address}")).then_some(())
    });
    daemon.wait_log(&format!("INFO web: listens on {address}\n"));
    let other = format!("tcp://127.0.0.1:{}", crate::daemon::free_port());
    daemon.reload(&daemon.read_text("plumbd.toml").replace(&address, &other));
    daemon.wait_log(&format!("INFO web: listens on {other}\n"));
    assert_eq!(daemon.log().matches("INFO web: listens on").count(), 2, "{}", daemon.log());
    daemon.stop();
}

#[test]
fn on_80_columns_a_sink_that_reads_nothing_and_a_failed_reload_are_told_at_the_first_look() {
    let config = "[children.source]\ncommand = [\"sh\", \"-c\", \"echo line; exec sleep 1000\"]\n\
                  [children.deaf]\ncommand = [\"sh\", \"-c\", \"until [ -e go ]; do sleep 0.1; done; exec cat\"]\n\
                  [[links]]\nfrom = \"source\"\nto = \"deaf\"\n";
    let mut daemon = Daemon::start(config);
    wait_for("a line waits", || (daemon.link("source", "deaf").queued_bytes == 5).then_some(()));
    let (shown, status) = on_80_columns(daemon.dir.path(), "status");
    assert_eq!(status, 4);
    let stalled = "! source -> deaf: deaf has taken nothing for Ns; if it hangs, `plumbd restart\n  deaf`\n";
    assert_eq!(problems(&shown), stalled);
    daemon.configure(&config.replace("command", "comand"));
    assert_eq!(daemon.ask(&Request::Reload).0, 78);
    let (shown, status) = on_80_columns(daemon.dir.path(), "status");
    let told = "! plumbd.toml was changed Ns ago and is not in force: see `plumbd plan`; the last reload failed: \
                DIR/plumbd.toml:N:N: unknown key \"comand\" in [children.source]; did you mean \"command\"?\n";
    assert!(status == 4 && problems(&shown).replace("\n  ", " ").ends_with(told), "{shown}");
    daemon.configure(config);
    let (shown, _) = on_80_columns(daemon.dir.path(), "status");
    assert_eq!(problems(&shown), stalled, "the file holds again what is in force");
    std::fs::write(daemon.path("go"), "").unwrap();
    wait_for("it reads", || (daemon.link("source", "deaf").queued_bytes == 0).then_some(()));
    daemon.stop();
}

#[test]
fn on_80_columns_a_process_that_is_stopped_is_a_problem_until_it_goes_on() {
    let mut daemon = Daemon::start("[children.a]\ncommand = [\"sleep\", \"1000\"]\n");
    let pid = daemon.child_pid("a");
    crate::daemon::kill(pid, nix::libc::SIGSTOP);
    wait_for("it stands", || (crate::daemon::state(pid) == Some('T')).then_some(()));
    let (shown, status) = on_80_columns(daemon.dir.path(), "status");
    assert!(shown.starts_with("plumbd running, with 1 problem: 1 of 1 child up\n"), "{shown}");
    assert_eq!((problems(&shown).as_str(), status), ("! a: process N is stopped; `kill -CONT N` lets it go on\n", 4));
    crate::daemon::kill(pid, nix::libc::SIGCONT);
    wait_for("it goes on", || (on_80_columns(daemon.dir.path(), "status").1 == 0).then_some(()));
    daemon.stop();
}

/// That screen with each time of the log called TIME.
fn without_times(shown: &str) -> String {
    let lines = shown.lines().map(|line| match line.split_once("Z ") {
        Some((time, rest)) if time.starts_with("20") => format!("TIME {rest}\n"),
        _ => format!("{line}\n"),
    });
    lines.collect()
}

#[test]
fn on_80_columns_the_last_lines_what_has_finished_and_what_a_reload_would_do_are_shown() {
    let config = "[children.a]\ncommand = [\"sh\", \"-c\", \"echo one; echo '<4>two'; exec sleep 1000\"]\n\
                  [children.job]\ncommand = [\"true\"]\nrestart = \"never\"\n";
    let mut daemon = Daemon::start(config);
    let dir = daemon.dir.path();
    for words in ["log a", "logs a"] {
        let shown =
            wait_for("its lines", || Some(on_80_columns(dir, words).0).filter(|shown| shown.lines().count() == 2));
        assert_eq!(without_times(&shown), "TIME INFO a: one\nTIME WARN a: two\n");
    }
    daemon.wait_child("job", ChildState::Down);
    let (shown, status) = on_80_columns(dir, "status");
    assert!(status == 0 && shown.starts_with("plumbd running: 1 of 2 children up, 1 finished\n"), "{shown}");
    let job = shown.lines().find(|line| line.starts_with("job ")).unwrap();
    assert_eq!(job.split_whitespace().take(3).collect::<Vec<_>>(), ["job", "finished", "-"], "{shown}");
    daemon.configure(&config.replace("never", "on-failure").replace("1000", "2000"));
    let plan = "\
restart  a    DIR/plumbd.toml:2: command changes
keep     job  DIR/plumbd.toml:5: restart changes from \"never\" to \"on-failure\"; its process stays
";
    assert_eq!(on_80_columns(dir, "plan"), (plan.to_owned(), 0));
    daemon.configure(config);
    assert_eq!(on_80_columns(dir, "plan").0, "keep     a\nkeep     job\nnothing would change\n");
    assert_eq!(on_80_columns(dir, "shutdown"), (String::new(), 0));
    daemon.wait_end();
    let none = "plumbd: no daemon runs at DIR/plumbd.sock\n".to_owned();
    assert_eq!(on_80_columns(daemon.dir.path(), "shutdown"), (none, 0));
}

#[test]
fn on_80_columns_a_script_that_can_not_run_and_a_misplaced_key_are_told_with_what_would_be_right() {
    let dir = folder(
        "[children.logger]\nplugin = \"logger\"\nfile = \"x.log\"\n\
         [children.gen]\ncommand = [\"./gen.py\"]\ncwd = \"/tmp\"\n",
    );
    let script = dir.path().join("gen.py");
    std::fs::write(&script, "#!/usr/bin/pyhton3\n").unwrap();
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
    let expected = "\
plumbd.toml:1:11: \"logger\" has no link: it has nothing to save; add [[links]] with to = \"logger\" and from = a source
1 | [children.logger]
  |           ^^^^^^
plumbd.toml:3:1: \"file\" is a setting of logger, not of [children.logger]; put it below [children.logger.settings]
3 | file = \"x.log\"
  | ^^^^
plumbd.toml:5:12: cannot run DIR/gen.py: its interpreter /usr/bin/pyhton3 does not exist; correct its first line, or install the interpreter
5 | command = [\"./gen.py\"]
  |            ^^^^^^^^^^
plumbd.toml:6:1: unknown key \"cwd\" in [children.gen]; it is called directory here
6 | cwd = \"/tmp\"
  | ^^^
";
    assert_eq!(on_80_columns(dir.path(), "check"), (expected.to_owned(), 78));
}

#[test]
fn if_no_daemon_runs_the_first_problem_of_its_file_is_told() {
    let dir = folder("[children.a]\ncomand = [\"sleep\", \"1000\"]\n");
    let (status, _, err) = plumbd(dir.path(), &["status"]);
    let told = "no daemon starts with this configuration (see `plumbd check`): plumbd.toml:";
    let last = err.lines().last().unwrap();
    assert!(status == 3 && last.starts_with(told) && !last.ends_with(':'), "{err}");
}
