//! Links from a program's standard error: its errors are saved like anything else, also
//! beside what it writes to standard output.

use crate::daemon::{Daemon, alive, children_of, kill, strays, wait_for};
use nix::libc::SIGKILL;
use plumbd::control::Request;
use plumbd::control::status::{ChildState, Link};
use plumbd::sys::stream::Stream::{self, Stderr, Stdout};

/// A program, `./program`, whose outputs go to one logger each.
const TWO_FILES: &str = r#"
    [children.program]
    command = ["sh", "-c", ". ./program"]
    backoff = { factor = 1.0, max = "0ms" }
    start_limit = { burst = 10000, within = "60s" }
    [children.output]
    plugin = "logger"
    settings = { file = "out", format = "raw" }
    backoff = { factor = 1.0, max = "0ms" }
    start_limit = { burst = 10000, within = "60s" }
    [children.errors]
    plugin = "logger"
    settings = { file = "err", format = "raw" }
    backoff = { factor = 1.0, max = "0ms" }
    start_limit = { burst = 10000, within = "60s" }
    [[links]]
    from = "program"
    to = "output"
    [[links]]
    from = "program"
    stream = "stderr"
    to = "errors"
"#;

/// The same children, without the link of errors.
fn without_errors() -> String {
    let without = TWO_FILES.split("    [[links]]\n    from = \"program\"\n    stream").next().unwrap();
    let logger = "plugin = \"logger\"\n    settings = { file = \"err\", format = \"raw\" }";
    assert!(without.contains(logger));
    without.replace(logger, "command = [\"sleep\", \"1000\"]")
}

/// A folder with that text as its `program`.
fn folder(program: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("program"), program).unwrap();
    dir
}

/// A daemon whose children include that program.
fn start(program: &str, config: &str) -> Daemon {
    let daemon = Daemon::spawn_in(folder(program), config);
    daemon.wait_state(plumbd::control::status::DaemonState::Running);
    daemon
}

fn link(daemon: &Daemon, stream: Stream) -> Link {
    daemon.status().links.into_iter().find(|link| link.from == "program" && link.stream == stream).unwrap()
}

fn wait_file(daemon: &Daemon, name: &str, text: &str) {
    wait_for(&format!("{text:?} in {name}\nlog:\n{}", daemon.log()), || (daemon.read_text(name) == text).then_some(()));
}

#[test]
fn each_output_of_a_program_is_saved_in_a_file_of_its_own() {
    let mut daemon =
        start("echo an answer; echo '<3>an error' >&2; echo by name >/dev/stderr; exec sleep 1000", TWO_FILES);
    wait_file(&daemon, "out", "an answer\n");
    wait_file(&daemon, "err", "<3>an error\nby name\n");
    let links = daemon.status().links;
    let shown: Vec<(&str, Stream, &str)> =
        links.iter().map(|link| (link.from.as_str(), link.stream, link.to.as_str())).collect();
    assert_eq!(shown, [("program", Stdout, "output"), ("program", Stderr, "errors")]);
    daemon.stop();
    assert!(!daemon.log().contains("an error"), "{}", daemon.log());
}

#[test]
fn a_standard_output_that_is_not_linked_still_goes_to_the_log() {
    let config = "[children.program]\ncommand = [\"sh\", \"-c\", \". ./program\"]\n\
                  [children.errors]\ncommand = [\"sh\", \"-c\", \"exec cat >>err\"]\n\
                  [[links]]\nfrom = \"program\"\nstream = \"stderr\"\nto = \"errors\"\n";
    let mut daemon = start("echo an error >&2; echo an answer; exec sleep 1000", config);
    wait_file(&daemon, "err", "an error\n");
    daemon.wait_log("program: an answer");
    daemon.stop();
    assert!(!daemon.log().contains("an error"), "{}", daemon.log());
}

#[test]
fn both_outputs_of_a_program_go_to_one_ordinary_sink() {
    let config = "[children.program]\ncommand = [\"sh\", \"-c\", \". ./program\"]\n\
                  [children.sink]\ncommand = [\"sh\", \"-c\", \"exec cat >>both\"]\n\
                  [[links]]\nfrom = \"program\"\nto = \"sink\"\n\
                  [[links]]\nfrom = \"program\"\nstream = \"stderr\"\nto = \"sink\"\n";
    let mut daemon = start("echo 1; echo 2 >&2; echo 3; echo 4 >&2; exec sleep 1000", config);
    wait_file(&daemon, "both", "1\n2\n3\n4\n");
    daemon.stop();
}

#[test]
fn both_outputs_of_a_program_go_to_one_logger_which_tells_them_apart() {
    let config = TWO_FILES
        .replace("to = \"errors\"", "to = \"output\"")
        .replace("format = \"raw\"", "format = \"json\"")
        .replace(
            "plugin = \"logger\"\n    settings = { file = \"err\", format = \"json\" }",
            "command = [\"sleep\", \"9\"]",
        );
    let mut daemon = start("echo an answer; echo an error >&2; exec sleep 1000", &config);
    let entries = wait_for("both", || {
        let text = daemon.read_text("out");
        let entries: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        (entries.len() == 2).then_some(entries)
    });
    let mut shown: Vec<_> =
        entries.iter().map(|entry| (&entry["message"], &entry["child"], &entry["stream"])).collect();
    shown.sort_by_key(|(message, ..)| message.as_str());
    let (program, none) = ("program".into(), serde_json::Value::Null);
    assert_eq!(shown, [(&"an answer".into(), &program, &none), (&"an error".into(), &program, &"stderr".into())]);
    daemon.stop();
}

#[test]
fn what_the_daemon_says_about_a_program_never_goes_into_its_links() {
    // The arguments and the environment of a program may take a quarter of its stack, but at
    // least 128 KiB (execve(2), E2BIG).
    let long = "x".repeat(100_000);
    let program = format!(
        "[children.program]\n    environment = {{ A = \"{long}\", B = \"{long}\" }}\n    limits = {{ stack = \"64KiB\" }}"
    );
    let config = TWO_FILES.replace("[children.program]", &program).replacen("burst = 10000", "burst = 3", 1);
    let mut daemon = Daemon::spawn_in(folder("echo it runs >&2"), &config);
    daemon.wait_child("program", ChildState::Failed);
    daemon.wait_log("Argument list too long");
    daemon.stop();
    assert_eq!((daemon.read_text("out"), daemon.read_text("err")), (String::new(), String::new()));
}

/// Writes numbered lines to both outputs, the numbers of a run being behind its process id. Each
/// fourth line of errors is written in two halves.
const COUNTS: &str = r#"
    n=0
    while :; do
        n=$((n + 1))
        echo "$$ $n"
        if test $((n % 4)) = 0; then printf '%s' "$$ " >&2; echo "$n" >&2; else echo "$$ $n" >&2; fi
    done
"#;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ends {
    Last,
    InTheMiddle,
}

/// Checks that each run's lines in that file are there from 1 on, once, and in their order. A
/// half line is continued by the first line of the next run, or becomes a line because the link
/// `ends`: for good, or in the middle too.
fn check_counts(daemon: &Daemon, name: &str, ends: Ends) -> usize {
    let text = daemon.read_text(name);
    let (mut run, mut last, mut runs, mut halves) = (String::new(), 0, 0, 0);
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if name == "err" && line == format!("{run} ") && (ends == Ends::InTheMiddle || lines.peek().is_none()) {
            last = u64::MAX;
            continue;
        }
        let words: Vec<&str> = line.split(' ').collect();
        let (pid, number) = match words[..] {
            [pid, number] => (pid, number),
            [half, pid, number] => {
                assert_eq!(half, run, "{name}: {line}");
                halves += 1;
                (pid, number)
            }
            _ => panic!("{name}: {line:?}"),
        };
        let number: u64 = number.parse().unwrap_or_else(|_| panic!("{name}: {line:?}"));
        if pid != run {
            (run, last) = (pid.to_owned(), 0);
            runs += 1;
        }
        assert_eq!(Some(number), last.checked_add(1), "{name}: {line:?}");
        last = number;
    }
    assert!(name == "err" || halves == 0, "{name}");
    runs
}

#[test]
fn whatever_is_killed_each_line_arrives_once_in_its_own_file() {
    let mut daemon = start(COUNTS, TWO_FILES);
    for round in 0..24 {
        let before = (daemon.read("out").len(), daemon.read("err").len());
        wait_for("both flow", || {
            (daemon.read("out").len() > before.0 && daemon.read("err").len() > before.1).then_some(())
        });
        let names: &[&str] = [&["program"][..], &["errors"], &["program", "errors"], &["output", "errors"]][round % 4];
        let pids: Vec<i32> = names.iter().map(|name| daemon.child_pid_when_up(name)).collect();
        pids.iter().for_each(|&pid| kill(pid, SIGKILL));
        for (name, pid) in names.iter().zip(pids) {
            daemon.wait_replaced(name, pid);
        }
    }
    daemon.stop();
    let (out, err) = (check_counts(&daemon, "out", Ends::Last), check_counts(&daemon, "err", Ends::Last));
    assert!(out >= 6 && err >= 6, "{out} and {err} runs");
}

#[test]
fn whatever_is_killed_while_reloads_add_and_remove_the_link_each_line_arrives_once() {
    let without = without_errors();
    let mut daemon = start(COUNTS, TWO_FILES);
    for round in 0..12 {
        daemon.configure(if round % 2 == 0 { &without } else { TWO_FILES });
        let names: &[&str] = [&["program"][..], &["errors"], &["output", "program"]][round % 3];
        let pids: Vec<i32> = names.iter().map(|name| daemon.child_pid_when_up(name)).collect();
        let reload = daemon.ask_meanwhile(Request::Reload);
        if round % 4 > 1 {
            wait_for("the reload is under way", || (daemon.log().matches("reload: ").count() > round).then_some(()));
        }
        pids.iter().for_each(|&pid| kill(pid, SIGKILL));
        let _whatever_it_says = reload.join().unwrap();
        daemon.wait_state(plumbd::control::status::DaemonState::Running);
    }
    daemon.reload(TWO_FILES);
    let before = daemon.read("err").len();
    wait_for("errors flow", || (daemon.read("err").len() > before).then_some(()));
    daemon.stop();
    let (out, err) = (check_counts(&daemon, "out", Ends::Last), check_counts(&daemon, "err", Ends::InTheMiddle));
    assert!(out >= 6 && err >= 3, "{out} and {err} runs");
}

#[test]
fn half_a_line_of_errors_is_continued_by_the_next_process() {
    let program =
        "if test -e once; then echo ' and the rest' >&2; else touch once; printf half >&2; fi; exec sleep 1000";
    let mut daemon = start(program, TWO_FILES);
    let pid = daemon.child_pid_when_up("program");
    wait_for("half a line is written", || (link(&daemon, Stderr).queued_bytes == 4).then_some(()));
    kill(pid, SIGKILL);
    wait_file(&daemon, "err", "half and the rest\n");
    daemon.stop();
    assert_eq!(daemon.read_text("err"), "half and the rest\n");
}

#[test]
fn a_stop_saves_all_errors_that_were_written() {
    let mut daemon = start("seq 1 50000 >&2; seq 1 50000; touch written; exec sleep 1000", TWO_FILES);
    wait_for("all is written", || daemon.path("written").exists().then_some(()));
    daemon.stop();
    let expected: String = (1..=50000).map(|n| format!("{n}\n")).collect();
    assert!(daemon.read_text("out") == expected && daemon.read_text("err") == expected);
}

#[test]
fn a_stopped_sink_of_errors_holds_its_source_back_and_nothing_else() {
    let program = "while ! test -e go; do sleep 0.01; done; head -c 100000 /dev/zero >&2; echo done; exec sleep 1000";
    let config = format!("{TWO_FILES}    capacity = \"64KiB\"\n");
    let mut daemon = start(program, &config);
    daemon.done(&Request::Stop { children: vec!["errors".into()] });
    std::fs::write(daemon.path("go"), "").unwrap();
    wait_for("its pipe is full", || (link(&daemon, Stderr).queued_bytes == 65536).then_some(()));
    assert_eq!(daemon.child("program").state, ChildState::Up);
    assert_eq!(daemon.read_text("out"), "");
    daemon.done(&Request::Start { children: vec!["errors".into()] });
    wait_file(&daemon, "out", "done\n");
    daemon.stop();
    // The last line has no newline, and is saved in two parts of a line.
    assert_eq!(daemon.read("err").iter().filter(|&&byte| byte == 0).count(), 100_000);
}

#[test]
fn a_reload_adds_and_removes_the_link() {
    let without = without_errors();
    let mut daemon = start("echo run $$ >&2; echo $$; exec sleep 1000", &without);
    let first = daemon.child_pid_when_up("program");
    daemon.wait_log(&format!("program: run {first}"));
    let said = daemon.reload(TWO_FILES);
    assert!(said.contains(": a link of its stderr to errors comes\n"), "{said}");
    assert!(said.contains(": a link from program (stderr) comes\n"), "{said}");
    assert!(said.contains("link     program (stderr) -> errors  "), "{said}");
    assert!(said.contains("keep     output\n"), "{said}");
    let second = daemon.wait_replaced("program", first);
    wait_file(&daemon, "err", &format!("run {second}\n"));
    // What waits in a link that goes is saved first.
    daemon.done(&Request::Stop { children: vec!["errors".into()] });
    kill(second, SIGKILL);
    let third = daemon.wait_replaced("program", second);
    wait_for("its line waits", || (link(&daemon, Stderr).queued_bytes > 0).then_some(()));
    let said = daemon.reload(&without);
    assert!(said.contains(": the link of its stderr to errors goes\n"), "{said}");
    assert_eq!(daemon.read_text("err"), format!("run {second}\nrun {third}\n"));
    let fourth = daemon.wait_replaced("program", third);
    daemon.wait_log(&format!("program: run {fourth}"));
    wait_file(&daemon, "out", &[first, second, third, fourth].map(|pid| format!("{pid}\n")).concat());
    daemon.stop();
}

#[test]
fn a_link_that_moves_from_one_output_to_the_other_is_another_link() {
    let config = |stream: &str| {
        format!(
            "[children.program]\ncommand = [\"sh\", \"-c\", \". ./program\"]\n[children.sink]\nplugin = \"logger\"\n\
             settings = {{ file = \"out\", format = \"raw\" }}\n\
             [[links]]\nfrom = \"program\"\nto = \"sink\"\nstream = \"{stream}\"\n"
        )
    };
    let mut daemon = start("echo $$ out; echo $$ err >&2; exec sleep 1000", &config("stdout"));
    let first = daemon.child_pid_when_up("program");
    wait_file(&daemon, "out", &format!("{first} out\n"));
    daemon.reload(&config("stderr"));
    let second = daemon.wait_replaced("program", first);
    wait_file(&daemon, "out", &format!("{first} out\n{second} err\n"));
    daemon.stop();
}

#[test]
fn a_service_manager_keeps_errors_for_the_next_supervisor() {
    let program = "test -e once || { touch once; echo an answer; echo an error >&2; }; exec sleep 1000";
    let dir = folder(program);
    let manager = crate::manager::Manager::new(dir.path());
    let config = TWO_FILES.replace("plugin = \"logger\"", "restart = \"never\"\n    plugin = \"logger\"");
    let mut daemon = Daemon::start_under(manager, dir, &config);
    wait_file(&daemon, "err", "an error\n");
    wait_file(&daemon, "out", "an answer\n");
    let stored = ["program#stderr/errors", "program/output"]
        .map(|link| ["ledger", "queue", "staging"].map(|part| format!("link/lines/{link}/{part}")))
        .concat();
    let stored: Vec<&str> = stored.iter().map(String::as_str).collect();
    daemon.manager().wait_stored(&stored);
    // Another error, which no sink takes before all are killed.
    daemon.done(&Request::Stop { children: vec!["errors".into(), "output".into()] });
    std::fs::remove_file(daemon.path("once")).unwrap();
    daemon.done(&Request::Restart { children: vec!["program".into()] });
    wait_for("both wait", || {
        (link(&daemon, Stderr).queued_bytes == 9 && link(&daemon, Stdout).queued_bytes == 10).then_some(())
    });
    let children = children_of(daemon.pid());
    kill(daemon.pid(), SIGKILL);
    children.iter().for_each(|&pid| kill(pid, SIGKILL));
    daemon.wait_killed();
    wait_for("all are dead", || children.iter().all(|&pid| !alive(pid)).then_some(()));
    assert!(strays(daemon.dir.path()).is_empty());
    // A configuration without the link keeps what waits there.
    daemon.configure(&without_errors());
    daemon.start_again();
    daemon.wait_log("the last supervisor left 9 bytes in the link program (stderr) -> errors, which is not in");
    let left = daemon.status().links.into_iter().find(|link| link.stream == Stderr).unwrap();
    assert_eq!((left.from.as_str(), left.to.as_str(), left.queued_bytes), ("program", "errors", 9));
    daemon.reload(&config);
    wait_file(&daemon, "err", "an error\nan error\n");
    wait_file(&daemon, "out", "an answer\nan answer\n");
    daemon.stop();
}

#[test]
fn what_a_program_did_to_its_pipe_ends_with_it() {
    // Perl's fcntl(2) numbers: F_SETFL 4, O_NONBLOCK 2048, F_SETPIPE_SZ 1031.
    let program = "test -e once || { touch once; perl -e 'fcntl(STDERR, 4, 2048 | 1); fcntl(STDERR, 1031, 4096)'; touch done; exec sleep 1000; }; \
                   cat /proc/self/fdinfo/2 >flags; exec sleep 1000";
    let mut daemon = start(program, TWO_FILES);
    wait_for("it is done", || daemon.path("done").exists().then_some(()));
    assert_eq!(link(&daemon, Stderr).capacity_bytes, 4096);
    let pid = daemon.child_pid_when_up("program");
    kill(pid, SIGKILL);
    daemon.wait_replaced("program", pid);
    let flags = wait_for("its flags", || {
        let text = daemon.read_text("flags");
        text.lines().find_map(|line| line.strip_prefix("flags:\t").map(str::to_owned))
    });
    assert_eq!(u32::from_str_radix(&flags, 8).unwrap() & 0o4003, 1, "write-only, blocking: {flags}");
    assert_eq!(link(&daemon, Stderr).capacity_bytes, 1 << 20);
    daemon.stop();
}

#[test]
#[ignore = "needs root"]
fn a_program_of_another_user_opens_its_link_as_dev_stderr() {
    let program = "echo by name >/dev/stderr; cat </dev/stderr && echo reads; echo done; exec sleep 1000";
    let config = TWO_FILES.replacen("[children.program]", "[children.program]\n    user = \"nobody\"", 1);
    let dir = folder(program);
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(dir.path(), mode).unwrap();
    let mut daemon = Daemon::spawn_in(dir, &config);
    wait_file(&daemon, "out", "done\n");
    wait_for("both lines", || (daemon.read_text("err").lines().count() == 2).then_some(()));
    let errors = daemon.read_text("err");
    assert!(
        errors.starts_with("by name\n") && errors.contains("cannot open /dev/stderr: Permission denied"),
        "{errors}"
    );
    daemon.stop();
}

#[test]
fn a_program_reads_lines_as_its_standard_input_whichever_other_links_it_has() {
    let config = "[children.program]\ncommand = [\"sh\", \"-c\", \". ./program\"]\n\
                  [children.sink]\ncommand = [\"sh\", \"-c\", \"exec cat >>lines\"]\n\
                  [[links]]\nfrom = \"program\"\nto = \"sink\"\nprotocol = \"records\"\n\
                  [[links]]\nfrom = \"program\"\nstream = \"stderr\"\nto = \"sink\"\n";
    let mut daemon = start("echo a line >&2; exec sleep 1000", config);
    wait_file(&daemon, "lines", "a line\n");
    daemon.stop();
}
