//! `plumbd status CHILD`: everything about one child, and the schema of what it prints.

use crate::daemon::{Daemon, echo_and_logger, free_port, kill, wait_for};
use plumbd::control::status::{ChildState, DaemonState};
use serde_json::{Value, json};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Output;

fn run(daemon: &Daemon, words: &[&str]) -> Output {
    daemon.command(&[&["status"], words].concat()).output().unwrap()
}

/// The page of these children, and the exit status.
fn page(daemon: &Daemon, words: &[&str]) -> (String, Option<i32>) {
    let out = run(daemon, words);
    assert!(out.stderr.is_empty(), "{}", String::from_utf8_lossy(&out.stderr));
    (String::from_utf8(out.stdout).unwrap(), out.status.code())
}

#[track_caller]
fn json_of(daemon: &Daemon, words: &[&str]) -> Value {
    let out = run(daemon, &[words, &["--json"]].concat());
    serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {out:?}"))
}

/// The first of the children.
#[track_caller]
fn first(status: &Value) -> &Value {
    &status["children"][0]
}

fn names(found: &Value, key: &str) -> Vec<String> {
    found.as_array().unwrap().iter().map(|one| one[key].as_str().unwrap().to_owned()).collect()
}

#[test]
fn an_echo_is_shown_with_its_configuration_and_what_it_was_given() {
    let port = free_port();
    let mut daemon = Daemon::start(&echo_and_logger(port));
    let pid = daemon.child_pid_when_up("echo");
    let _client = daemon.connect(port);
    let shown = wait_for("the client's connection", || {
        let shown = json_of(&daemon, &["echo"]);
        names(&first(&shown)["descriptors"], "kind").contains(&"connection".to_owned()).then_some(shown)
    });
    assert_eq!((shown["children"].as_array().unwrap().len(), shown["files"].as_array().unwrap().len()), (1, 0));
    assert_eq!(shown["listeners"][0]["address"], format!("tcp://127.0.0.1:{port}"));
    let echo = first(&shown);
    assert_eq!((&echo["name"], &echo["pid"]), (&json!("echo"), &json!(pid)));
    assert_eq!(echo["config"]["settings"]["echo_after"], "saved");
    assert_eq!(echo["environment"]["PLUMBD_CHILD"], "echo");
    assert_eq!(echo["processes"][0]["command"], "plumbd plugin echo");
    assert_eq!((&echo["ends"], &echo["limits"]["core"]["differs"]), (&json!([]), &json!(false)));
    let open = names(&echo["descriptors"], "name");
    let listens = format!("tcp://127.0.0.1:{port}");
    for name in ["/dev/null", "link echo -> logger", "log", "replies of echo -> logger", &listens] {
        assert!(open.contains(&name.to_owned()), "{name} in {open:?}");
    }
    let (page, code) = page(&daemon, &["echo"]);
    assert_eq!(code, Some(0), "{page}");
    let text = |text: &str| assert!(page.contains(text), "{text:?} in:\n{page}");
    text("echo: up for ");
    text(&format!(", process {pid}, not restarted\n"));
    text("\n[children.echo]\nplugin           = \"echo\"\n");
    text("\n[children.echo.settings]\necho_after ");
    text("\n  PLUMBD_CHILD=echo\n");
    text("\n    1  pipe: link echo -> logger\n");
    text(&format!("\n    3  socket: {listens}\n"));
    text("\nLINK            QUEUED");
    text(&format!("\nLISTEN {listens}  echo  backlog 0\n"));
    let logger = json_of(&daemon, &["logger"]);
    let open = names(&first(&logger)["descriptors"], "name");
    for name in ["link echo -> logger", "staging of echo -> logger", "ledger"] {
        assert!(open.contains(&name.to_owned()), "{name} in {open:?}");
    }
    assert_eq!(logger["files"].as_array().unwrap().len(), 1);
    daemon.stop();
}

#[test]
fn a_program_that_keeps_ending_shows_its_last_ends_and_lines() {
    let mut daemon = Daemon::spawn(
        r#"
        [children.crash]
        command = ["sh", "-c", "echo here; echo 'no module named foo' >&2; exit 3"]
        backoff = { first = "1ms", factor = 1.0, max = "1ms" }
        start_limit = { burst = 13, within = "1h" }
        [children.fine]
        command = ["sleep", "1000"]
        "#,
    );
    daemon.wait_child("crash", ChildState::Failed);
    daemon.wait_child("fine", ChildState::Up);
    let shown = json_of(&daemon, &["crash"]);
    let crash = first(&shown);
    let ends = crash["ends"].as_array().unwrap();
    assert_eq!(ends.len(), 10, "{crash}");
    for end in ends {
        assert_eq!((&end["code"], &end["asked"]), (&json!(3), &json!(false)));
        assert_eq!((&end["last_line"], &end["reason"]), (&json!("no module named foo"), &Value::Null));
        assert!(end["ran_ms"].as_u64().unwrap() < 30_000 && end["at"].is_string(), "{end}");
    }
    assert!(ends.is_sorted_by_key(|end| end["at"].as_str().unwrap().to_owned()), "{crash}");
    let lines = names(&crash["lines"], "text");
    assert_eq!(lines.len(), 10);
    assert!(lines[9].starts_with("given up after 13 starts"), "{lines:?}");
    assert_eq!((&crash["pid"], &crash["processes"]), (&Value::Null, &json!([])));
    assert!(crash["environment"].is_null() && crash["descriptors"].is_null() && crash["limits"].is_null(), "{crash}");
    let (page, code) = page(&daemon, &["crash"]);
    assert_eq!(code, Some(4));
    assert!(page.starts_with("! crash: given up after 13 starts"), "{page}");
    assert!(page.contains("\ncrash: failed for ") && page.contains(", no process, restarted 12 times"), "{page}");
    assert_eq!(page.matches("exited with status 3 after ").count(), 10, "{page}");
    // The others' troubles are no business of this one.
    assert_eq!(run(&daemon, &["fine"]).status.code(), Some(0));
    assert_eq!(run(&daemon, &[]).status.code(), Some(4));
    assert_eq!(run(&daemon, &["fine", "crash"]).status.code(), Some(4));
    daemon.stop();
}

#[test]
fn an_end_that_was_asked_for_and_one_that_had_a_reason_say_so() {
    let mut daemon = Daemon::spawn(
        r#"
        [children.slow]
        command = ["sleep", "1000"]
        ready = "fd"
        ready_timeout = "10ms"
        backoff = { first = "30s" }
        [children.fine]
        command = ["sleep", "1000"]
        "#,
    );
    daemon.wait_child("slow", ChildState::Backoff);
    daemon.wait_child("fine", ChildState::Up);
    assert_eq!(daemon.command(&["restart", "fine"]).status().unwrap().code(), Some(0));
    let shown = json_of(&daemon, &["slow", "fine"]);
    let [slow, fine] = [0, 1].map(|which| shown["children"][which]["ends"][0].clone());
    assert_eq!((&slow["signal"], &slow["reason"]), (&json!("SIGKILL"), &json!("not ready within 0.01 s")));
    assert_eq!((&fine["signal"], &fine["asked"], &fine["reason"]), (&json!("SIGTERM"), &json!(true), &Value::Null));
    daemon.stop();
}

#[test]
fn the_processes_of_a_program_are_shown_as_a_tree_with_limits_and_harmless_words() {
    let mut daemon = Daemon::start(
        r#"
        [children.tree]
        command = ["sh", "-c", "sleep 1000 & sh -c 'sleep 1001; :' & wait"]
        environment = { ODD = "a\nb\u001b[2J\u202e" }
        limits = { nofile = 77 }
        "#,
    );
    let tree = wait_for("all its processes", || {
        let shown = json_of(&daemon, &["tree"]);
        let tree = first(&shown).clone();
        names(&tree["processes"], "command").contains(&"sleep 1001".to_owned()).then_some(tree)
    });
    let processes = tree["processes"].as_array().unwrap();
    let depths: Vec<u64> = processes.iter().map(|process| process["depth"].as_u64().unwrap()).collect();
    assert_eq!(depths, [0, 1, 1, 2], "{tree}");
    assert_eq!(names(&tree["processes"], "command")[1..], ["sleep 1000", "sh -c sleep 1001; :", "sleep 1001"]);
    assert_eq!(processes[1]["parent"], processes[0]["pid"]);
    assert_eq!(tree["usage"]["processes"], 4);
    assert_eq!(tree["limits"]["nofile"], json!({"soft": 77, "hard": 77, "differs": true}));
    let out = run(&daemon, &["tree"]);
    let page = String::from_utf8(out.stdout).unwrap();
    assert!(page.contains(r"  ODD=a\nb\x1b[2J\xe2\x80\xae"), "{page}");
    assert!(page.contains("\n  nofile      77\n") && !page.contains('\x1b'), "{page}");
    assert!(page.contains("\n    sleep 1001 "), "{page}");
    daemon.stop();
}

#[test]
fn a_name_stands_for_all_instances_and_an_unknown_one_is_refused_with_a_suggestion() {
    let mut daemon = Daemon::start("[children.many]\ncommand = [\"sleep\", \"1000\"]\ninstances = 2\n");
    assert_eq!(names(&json_of(&daemon, &["many"])["children"], "name"), ["many.0", "many.1"]);
    assert_eq!(names(&json_of(&daemon, &["many.1"])["children"], "name"), ["many.1"]);
    assert_eq!(names(&json_of(&daemon, &["all"])["children"], "name"), ["many.0", "many.1"]);
    let out = run(&daemon, &["mani"]);
    assert_eq!((out.status.code(), out.stdout.as_slice()), (Some(1), &b""[..]));
    let why = String::from_utf8(out.stderr).unwrap();
    assert_eq!(why, "plumbd: cannot find child \"mani\": did you mean \"many\"?\n");
    daemon.stop();
}

#[test]
fn the_configuration_is_the_one_in_force_and_an_edit_is_pointed_out() {
    let config = "[children.one]\ncommand = [\"sleep\", \"1000\"]\n";
    let mut daemon = Daemon::start(config);
    daemon.configure(&config.replace("1000", "1001"));
    let (page, code) = page(&daemon, &["one"]);
    assert_eq!(code, Some(0));
    assert!(page.contains("/sleep\", \"1000\"]\n") && !page.contains("1001"), "{page}");
    assert!(page.contains("! plumbd.toml was changed ") && page.contains(" and is not in force"), "{page}");
    daemon.reload(&config.replace("1000", "1001"));
    let shown = json_of(&daemon, &["one"]);
    assert_eq!(first(&shown)["config"]["command"][1], "1001");
    assert!(first(&shown)["ends"][0]["asked"].as_bool().unwrap(), "{shown}");
    daemon.stop();
}

#[test]
fn a_watch_of_one_child_goes_on_with_its_details() {
    let mut daemon = Daemon::start("[children.one]\ncommand = [\"sleep\", \"1000\"]\n");
    let mut watch =
        daemon.command(&["status", "one", "--json", "--watch"]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let lines = std::io::BufRead::lines(std::io::BufReader::new(watch.stdout.take().unwrap()));
    let looks: Vec<Value> = lines.take(2).map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect();
    watch.kill().unwrap();
    watch.wait().unwrap();
    assert!(looks.iter().all(|look| first(look)["environment"]["PLUMBD_CHILD"] == "one"), "{looks:?}");
    assert!(first(&looks[1])["usage"]["read_rate"].is_number(), "{looks:?}");
    daemon.stop();
}

/// A daemon that is asked to end when the test does, and waited for.
struct Ended(std::process::Child);

impl Drop for Ended {
    fn drop(&mut self) {
        kill(i32::try_from(self.0.id()).unwrap(), nix::libc::SIGTERM);
        self.0.wait().unwrap();
    }
}

#[test]
#[ignore = "needs root, run by .ci/run"]
fn what_another_user_may_not_see_of_a_child_is_said_to_be_hidden() {
    // The daemon is another user's, and the program that it started may be looked at by root alone.
    const USER: u32 = 65534;
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(folder.path(), Some(USER), Some(USER)).unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::copy("/bin/sleep", at("sleep")).unwrap();
    std::fs::set_permissions(at("sleep"), std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
    std::fs::write(at("plumbd.toml"), format!("[children.hidden]\ncommand = [{:?}, \"1000\"]\n", at("sleep"))).unwrap();
    let binary: PathBuf = at("plumbd");
    std::fs::copy(env!("CARGO_BIN_EXE_plumbd"), &binary).unwrap();
    let plumbd = |words: &[&str]| {
        let mut command = std::process::Command::new(&binary);
        command.args(words).current_dir(folder.path()).env_remove("PLUMBD_CONTROL").uid(USER).gid(USER);
        command
    };
    let daemon = Ended(plumbd(&["run"]).spawn().unwrap());
    let page = wait_for("it is up", || {
        let out = plumbd(&["status", "hidden"]).output().unwrap();
        String::from_utf8(out.stdout).ok().filter(|page| page.starts_with("hidden: up"))
    });
    drop(daemon);
    assert!(page.contains("\nENVIRONMENT\n  cannot be seen: use sudo\n"), "{page}");
    assert!(page.contains("\nDESCRIPTORS\n  cannot be seen: use sudo\n"), "{page}");
    assert!(page.contains("[children.hidden]") && page.contains(" 1000 "), "{page}");
}

/// What a daemon really prints is valid, whatever state it is in, and what is not, is refused.
#[test]
#[ignore = "needs python3-jsonschema, run by .ci/run"]
fn what_is_printed_is_what_the_schema_says() {
    let port = free_port();
    let mut daemon = Daemon::spawn(&format!(
        r#"
        {}
        [children.crash]
        command = ["sh", "-c", "echo gone; exit 3"]
        backoff = {{ first = "1ms", factor = 1.0, max = "1ms" }}
        start_limit = {{ burst = 3, within = "1h" }}
        [children.waits]
        command = ["sh", "-c", "kill -KILL $$"]
        backoff = {{ first = "30s" }}
        [children.done]
        command = ["true"]
        restart = "never"
        [children.starts]
        command = ["sleep", "1000"]
        ready = "fd"
        ready_timeout = "1h"
        [children.clock]
        command = ["sh", "-c", "while :; do echo tick; done"]
        [children.blocked]
        command = ["sleep", "1000"]
        [[links]]
        from = "clock"
        to = "blocked"
        "#,
        echo_and_logger(port)
    ));
    daemon.wait_child("crash", ChildState::Failed);
    daemon.wait_child("waits", ChildState::Backoff);
    daemon.wait_child("done", ChildState::Down);
    let client = daemon.connect(port);
    std::io::Write::write_all(&mut &client, b"hello\n").unwrap();
    wait_for("a link that stalls", || (daemon.link("clock", "blocked").stalled_for_ms > 1000).then_some(()));
    let mut seen = vec![json_of(&daemon, &[]), json_of(&daemon, &["all"])];
    let each = ["echo", "logger", "crash", "waits", "done", "starts", "clock", "blocked"];
    seen.extend(each.iter().map(|name| json_of(&daemon, &[name])));
    daemon.configure("[children.logger]\nplugin = \"logger\"\nsettings = { file = \"/dev/full\" }\n");
    seen.push(json_of(&daemon, &["echo"]));
    assert!(seen.last().unwrap()["config_changed"].is_string());
    daemon.configure("[children.one]\ncommand = [\"sleep\", \"1000\"]\n");
    daemon.signal(nix::libc::SIGTERM);
    wait_for("it stops", || {
        daemon.try_status().is_none_or(|status| status.state == DaemonState::Stopping).then_some(())
    });
    if let Ok(stopping) = serde_json::from_slice(&run(&daemon, &["--json"]).stdout) {
        seen.push(stopping);
    }
    let out = std::process::Command::new(env!("CARGO_BIN_EXE_plumbd")).args(["schema", "status"]).output().unwrap();
    let schema: Value = serde_json::from_slice(&out.stdout).unwrap();
    let valid = crate::schema::valid(&schema, &seen);
    let wrong: Vec<&Value> = seen.iter().zip(&valid).filter(|(_, valid)| !**valid).map(|(status, _)| status).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    let mut bad = vec![seen[1].clone(); 4];
    bad[0]["children"][0]["state"] = json!("dead");
    bad[1]["children"][0]["limits"]["core"]["soft"] = json!("7");
    bad[2]["children"][0]["ends"] = json!([{"code": 1}]);
    bad[3].as_object_mut().unwrap().remove("links");
    let mut more = seen[1].clone();
    more["children"][0]["moon"] = json!("full");
    bad.push(more);
    assert_eq!(crate::schema::valid(&schema, &bad), [false, false, false, false, true]);
    kill(daemon.pid(), nix::libc::SIGTERM);
    daemon.wait_end();
}
