//! How much flows, waits and is used, as `plumbd status` shows it.

use crate::daemon::{Daemon, echo_and_logger, free_port, kill, wait_for};
use plumbd::control::Request;
use serde_json::Value;
use std::io::{Read, Write};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

fn status(daemon: &Daemon, words: &[&str]) -> Output {
    daemon.command(&[&["status"], words].concat()).output().unwrap()
}

fn json(daemon: &Daemon) -> Value {
    serde_json::from_slice(&status(daemon, &["--json"]).stdout).unwrap()
}

fn named<'a>(list: &'a Value, key: &str, name: &str) -> &'a Value {
    list.as_array().unwrap().iter().find(|each| each[key] == name).unwrap()
}

fn echoed(daemon: &Daemon, port: u16, messages: usize) {
    let mut client = daemon.connect(port);
    for _ in 0..messages {
        client.write_all(b"123456789\n").unwrap();
        client.read_exact(&mut [0; 10]).unwrap();
    }
}

#[test]
fn messages_leave_totals_and_rates_that_last_and_decay() {
    let port = free_port();
    let mut daemon = Daemon::start(&echo_and_logger(port));
    let before = json(&daemon);
    let link = &before["links"][0];
    assert_eq!((&link["messages"], &link["bytes"]), (&Value::from(0), &Value::from(0)), "{link}");
    echoed(&daemon, port, 50);
    // Counted after the message is acknowledged.
    let now = wait_for("all are counted", || Some(json(&daemon)).filter(|now| now["links"][0]["messages"] == 50));
    assert_eq!(now["links"][0]["bytes"], 450, "{now}");
    for child in ["echo", "logger"] {
        let child = named(&now["children"], "name", child);
        assert_eq!(child["metrics"]["messages"], 50, "{child}");
        // The burst is in both averages, or was a second ago.
        let rate = |which: &str| child[which]["messages"].as_f64().unwrap();
        assert!(rate("rates_1m") > 0.3 && rate("rates_1m") < 1.0, "{child}");
        assert!(rate("rates") > 0.0 && rate("rates") <= 50.0, "{child}");
    }
    wait_for("a second is forgotten before a minute is", || {
        let now = json(&daemon);
        let rate = |which: &str| now["links"][0][which]["messages"].as_f64().unwrap();
        (rate("rates") < rate("rates_1m")).then_some(())
    });
    // The link's account outlives its sink.
    let pid = daemon.child_pid("logger");
    kill(pid, nix::libc::SIGKILL);
    daemon.wait_replaced("logger", pid);
    echoed(&daemon, port, 1);
    wait_for("the total goes on", || (json(&daemon)["links"][0]["messages"] == 51).then_some(()));
    assert_eq!(named(&json(&daemon)["children"], "name", "logger")["metrics"]["messages"], 1);
    let page = String::from_utf8(status(&daemon, &[]).stdout).unwrap();
    assert!(page.contains(" MSGS  MSG/S ") && page.contains("TOTAL"), "{page}");
    daemon.stop();
}

#[test]
fn listening_sockets_and_message_files_are_in_the_status_and_in_the_log() {
    let port = free_port();
    let mut daemon = Daemon::start(&echo_and_logger(port));
    daemon.wait_log(&format!("INFO echo: listens on tcp://127.0.0.1:{port}\n"));
    let path = daemon.dir.path().canonicalize().unwrap().join("messages.log");
    daemon.wait_log(&format!("INFO logger: writes messages to {}\n", path.display()));
    echoed(&daemon, port, 1);
    let now = json(&daemon);
    let listener = &now["listeners"][0];
    assert_eq!((&listener["address"], &listener["child"]), (&format!("tcp://127.0.0.1:{port}").into(), &"echo".into()));
    assert!(listener["backlog"] == 0 && listener["backlog_max"].as_u64().unwrap() > 0, "{listener}");
    let file = &now["files"][0];
    assert_eq!((&file["path"], &file["child"]), (&path.to_str().unwrap().into(), &"logger".into()));
    assert_eq!(file["size"], std::fs::metadata(&path).unwrap().len(), "{file}");
    assert!(file["free"].as_u64().unwrap() > 0, "{file}");
    wait_for("its growth is known", || (json(&daemon)["files"][0]["rate_1m"].as_f64().unwrap() > 0.0).then_some(()));
    let page = String::from_utf8(status(&daemon, &[]).stdout).unwrap();
    assert!(page.contains(&format!("\nLISTEN tcp://127.0.0.1:{port}  echo  backlog 0\n")), "{page}");
    assert!(page.contains(&format!("\nFILE {}  logger  ", path.display())) && page.contains(" free"), "{page}");

    // Clients of an echo that is halted wait.
    let echo = daemon.child_pid("echo");
    kill(echo, nix::libc::SIGSTOP);
    let clients: Vec<_> = (0..3).map(|_| daemon.connect(port)).collect();
    wait_for("three wait", || (json(&daemon)["listeners"][0]["backlog"] == 3).then_some(()));
    kill(echo, nix::libc::SIGCONT);
    wait_for("none waits", || (json(&daemon)["listeners"][0]["backlog"] == 0).then_some(()));
    drop(clients);
    daemon.stop();
}

#[test]
fn clients_that_wait_at_a_unix_socket_are_counted_too() {
    let mut daemon = Daemon::start(
        r#"
        [children.deaf]
        command = ["sleep", "1000"]
        listen = ["unix:socket", "udp://127.0.0.1:0"]
        "#,
    );
    let _clients = [(); 2].map(|()| std::os::unix::net::UnixStream::connect(daemon.path("socket")).unwrap());
    let now = json(&daemon);
    assert_eq!(
        (&now["listeners"][0]["backlog"], &now["listeners"][0]["queued_bytes"]),
        (&2.into(), &Value::Null),
        "{now}"
    );
    assert_eq!(
        (&now["listeners"][1]["backlog"], &now["listeners"][1]["queued_bytes"]),
        (&Value::Null, &0.into()),
        "{now}"
    );
    let page = String::from_utf8(status(&daemon, &[]).stdout).unwrap();
    assert!(page.contains("socket  deaf  backlog 2\n") && page.contains("  deaf  queued 0B\n"), "{page}");
    daemon.stop();
}

#[test]
fn what_a_program_and_all_that_it_started_use_is_shown() {
    // Its grandchild writes, its orphan holds memory in a group of its own, and it spends time.
    let mut daemon = Daemon::start(
        r#"
        [children.busy]
        command = ["sh", "-c", "sh -c 'printf %100000s x; exec sleep 1000' & (sleep 1000 &); while :; do :; done"]
        [children.sink]
        command = ["sh", "-c", "exec cat >/dev/null"]
        [children.done]
        command = ["true"]
        restart = "never"
        [[links]]
        from = "busy"
        to = "sink"
        "#,
    );
    let usage = |child: &str| named(&json(&daemon)["children"], "name", child)["usage"].clone();
    let busy = wait_for("all of it is there", || {
        let usage = usage("busy");
        let written = usage["written_bytes"].as_u64()?;
        (usage["processes"] == 3 && written >= 100_000 && usage["cpu_ms"].as_u64()? >= 100).then_some(usage)
    });
    assert!(busy["cpu_percent"].as_f64().unwrap() > 1.0, "{busy}");
    assert!(busy["memory_bytes"].as_u64().unwrap() > 100_000 && busy["descriptors"].as_u64().unwrap() >= 9, "{busy}");
    wait_for("the sink has read it", || usage("sink")["read_bytes"].as_u64().filter(|&read| read >= 100_000));
    wait_for("it has ended", || usage("done").is_null().then_some(()));
    // A link between programs: nobody counts.
    let link = &json(&daemon)["links"][0];
    assert!(link["messages"].is_null() && link["bytes"].is_null() && link["rates"].is_null(), "{link}");
    daemon.done(&Request::Stop { children: vec!["busy".to_owned()] });
    daemon.stop();
}

#[test]
fn a_watch_compares_with_the_look_before() {
    let mut daemon = Daemon::start(
        r#"
        [children.clock]
        command = ["sh", "-c", "while :; do printf %1000s x; sleep 0.01; done"]
        [children.sink]
        command = ["sh", "-c", "exec cat >/dev/null"]
        [[links]]
        from = "clock"
        to = "sink"
        "#,
    );
    let mut watch = Command::new(env!("CARGO_BIN_EXE_plumbd"))
        .args(["status", "--json", "--watch", "--control"])
        .arg(daemon.path("plumbd.sock"))
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let lines = std::io::BufRead::lines(std::io::BufReader::new(watch.stdout.take().unwrap()));
    let looks: Vec<Value> = lines.take(2).map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect();
    watch.kill().unwrap();
    watch.wait().unwrap();
    let [first, second] = [0, 1].map(|look| named(&looks[look]["children"], "name", "clock")["usage"].clone());
    assert!(first["written_rate"].is_null(), "{first}");
    assert!(second["written_rate"].as_f64().unwrap() > 100.0, "{second}");
    assert!((900..60_000).contains(&second["cpu_percent_over_ms"].as_u64().unwrap()), "{second}");
    daemon.stop();
}

#[test]
#[ignore = "needs root and bindfs, run by .ci/run"]
fn a_message_file_whose_file_system_does_not_answer_has_no_size_and_delays_nobody() {
    let far = crate::far::Far::new();
    let mut daemon = Daemon::start(&format!(
        "[children.logger]\nplugin = \"logger\"\nsettings = {{ file = {:?} }}\n\
         [children.clock]\ncommand = [\"sleep\", \"1000\"]\n[[links]]\nfrom = \"clock\"\nto = \"logger\"\n",
        far.path("messages.log")
    ));
    assert_eq!(json(&daemon)["files"][0]["size"], 0);
    far.hang();
    let began = Instant::now();
    let file = json(&daemon)["files"][0].clone();
    assert!(file["size"].is_null() && file["free"].is_null(), "{file}");
    assert!(began.elapsed() < Duration::from_secs(5), "it took {:?}", began.elapsed());
    far.answer();
    daemon.stop();
}

/// The time that a process has spent on a processor.
fn spent(pid: i32) -> Duration {
    let text = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap();
    Duration::from_nanos(text.split_whitespace().next().unwrap().parse().unwrap())
}

#[test]
#[ignore = "starts a thousand processes"]
fn a_thousand_idle_children_wake_nobody_and_their_status_is_quick() {
    let children = (0..1000).map(|child| format!("[children.child-{child}]\ncommand = [\"sleep\", \"100000\"]\n"));
    let mut daemon = Daemon::start(&children.collect::<String>());
    wait_for("all is up", || daemon.status().all_up().then_some(()));
    let all: Vec<i32> = daemon.status().children.iter().filter_map(|child| child.pid).chain([daemon.pid()]).collect();
    let wake_ups = || all.iter().map(|&pid| crate::steady::wake_ups(pid)).sum::<u64>();
    wait_for("two seconds of sleep", || {
        let before = wake_ups();
        std::thread::sleep(Duration::from_secs(2));
        (wake_ups() == before).then_some(())
    });
    let mut best = [Duration::MAX; 2];
    for _ in 0..5 {
        let (began, before) = (Instant::now(), spent(daemon.pid()));
        let out = status(&daemon, &["--json"]);
        let now = [began.elapsed(), spent(daemon.pid()).saturating_sub(before)];
        best = [0, 1].map(|which| best[which].min(now[which]));
        let shown: Value = serde_json::from_slice(&out.stdout).unwrap();
        let seen = shown["children"].as_array().unwrap().iter().filter(|child| child["usage"]["processes"] == 1);
        assert_eq!(seen.count(), 1000);
    }
    println!("status of 1,000 children: {:?}, of which the loop was busy for {:?}", best[0], best[1]);
    // This is an unoptimized program on a busy machine. Optimized, it must be below 50 ms.
    assert!(best[0] < Duration::from_millis(500) && best[1] < Duration::from_millis(100), "{best:?}");
    daemon.stop();
}

#[test]
fn a_filter_that_holds_back_its_output_is_hinted_at() {
    let config = |filter: &str| {
        format!(
            r#"
            [children.source]
            command = ["sh", "-c", "seq 5000; exec sleep 1000"]
            [children.filter]
            command = {filter}
            [children.sink]
            command = ["sh", "-c", "exec cat >/dev/null"]
            [[links]]
            from = "source"
            to = "filter"
            [[links]]
            from = "filter"
            to = "sink"
            "#
        )
    };
    // Its one line waits in a buffer.
    let mut silent = Daemon::start(&config(r#"["grep", "^4711$"]"#));
    let mut writes = Daemon::start(&config(r#"["grep", "--line-buffered", "^4711$"]"#));
    let problems = |daemon: &Daemon| {
        let output = status(daemon, &[]);
        let text = String::from_utf8(output.stdout).unwrap();
        (output.status.code(), text.lines().find(|line| line.contains("buffered")).map(str::to_owned))
    };
    let (code, note) = wait_for("the hint", || Some(problems(&silent)).filter(|(_, note)| note.is_some()));
    let note = note.unwrap();
    assert!(note.starts_with("- filter: has read 23.3 KB in 1"), "{note}");
    assert!(note.ends_with("s and written nothing; its output may be buffered: see plumbd-plugin(7)"), "{note}");
    assert_eq!((code, problems(&writes)), (Some(0), (Some(0), None)));
    silent.stop();
    writes.stop();
}
