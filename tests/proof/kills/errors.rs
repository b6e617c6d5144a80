//! A program whose errors are saved beside its output. Whatever process is killed, each line
//! that it wrote is saved once, in order, in the file of the output to which it wrote it.

use super::control::{kill_and_see_replaced, until_found};
use super::count::Count;
use super::doctor::{any, damage};
use super::random::side_by_side;
use crate::daemon::{Daemon, alive, children_of, kill, wait_for};
use crate::load::checker::{self, Format};
use crate::load::generator::Connection;
use crate::manager::Manager;
use crate::trial::{Tried, scaled};
use nix::libc::SIGKILL;
use plumbd::control::status::DaemonState;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

/// Writes the checker's lines to both outputs, twenty at a time, each twenty in one write that
/// goes into the pipe as a whole or not at all. It notes each write.
const PROGRAM: &str = r#"#!/usr/bin/perl
my @outputs = map { { number => ($_->[2] << 28) + $$, to => $_->[1], told => "told.$_->[0].$$" } }
    ["out", \*STDOUT, 4], ["err", \*STDERR, 6];
open($_->{notes}, ">", $_->{told}) or die for @outputs;
my $letters = join("", "A".."Z", "a".."z", "0".."9", "+-") x 2;
for (my $first = 0; ; $first += 20) {
    for my $output (@outputs) {
        my $n = $output->{number};
        my $line = sub { sprintf("%08x.%08x %s\n", $n, $_[0], substr($letters, ($n * 31 + $_[0] * 7) % 64, 45)) };
        syswrite($output->{to}, join("", map { $line->($_) } $first .. $first + 19)) or die;
        syswrite($output->{notes}, ".");
    }
    select(undef, undef, undef, 0.003);
}
"#;
const LINES: u32 = 20;
const LENGTH: usize = 64;

/// The two outputs: the name of each, and its mark in the numbers of its lines.
const OUTPUTS: [(&str, u32); 2] = [("out", 4 << 28), ("err", 6 << 28)];

/// Where the two outputs go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum To {
    /// To a logger each.
    TwoFiles,
    /// To one logger, which notes which output it was.
    OneFile,
}

/// How a daemon is set up.
#[derive(Debug, Clone, Copy)]
struct Setting {
    to: To,
    /// Under a service manager that keeps its descriptors.
    managed: bool,
}

/// Kills any of the processes.
pub(crate) fn attempt(times: f64) -> Tried {
    let settings = [To::TwoFiles, To::OneFile].map(|to| [true, false].map(|managed| Setting { to, managed }));
    let count = side_by_side(&settings, |both| {
        let counts = both.iter().map(|&setting| kills(setting, scaled(40, times)));
        counts.fold(Count::default(), |all, one| all.and(&one))
    });
    count.tried(&a_sink_of_errors_without_a_ledger())
}

fn kills(setting: Setting, times: u32) -> Count {
    let mut daemon = start(&config(setting.to, "plugin = \"logger\""), setting.managed);
    let sinks: &[&str] = if setting.to == To::TwoFiles { &["output", "errors"] } else { &["output"] };
    let mut count = Count::default();
    for _ in 0..times {
        if any(4) > 0 {
            wait_progress(&daemon, setting.to);
        }
        std::thread::sleep(Duration::from_micros(any(6000)));
        match any(5) {
            0 => kill_and_see_replaced(&daemon, &["program"]),
            1 => kill_and_see_replaced(&daemon, &[sinks[sinks.len() - 1]]),
            2 => kill_and_see_replaced(&daemon, sinks),
            3 => kill_and_see_replaced(&daemon, &[sinks, &["program"]].concat()),
            _ => {
                // Without a manager, only the loggers keep the pipes then, so there must be all.
                for sink in sinks {
                    daemon.child_pid_when_up(sink);
                }
                kill_supervisor(&mut daemon, setting.managed && any(2) == 0);
            }
        }
        count.kills += 1;
    }
    wait_progress(&daemon, setting.to);
    daemon.stop();
    for (output, _) in OUTPUTS {
        let (saved, wrote) = (saved(&daemon, setting.to, output), wrote(&daemon, output));
        let format = format(setting.to);
        let verdict = checker::check(&*saved, format, &wrote).unwrap();
        count.add(&verdict, &wrote, &format!("{setting:?}, {output}\nlog:\n{}", daemon.log()));
        count.doctored += damage(&saved, format, &wrote);
    }
    count
}

/// For these kills: a sink of errors that reads, then writes, and notes nothing.
fn a_sink_of_errors_without_a_ledger() -> String {
    until_found("`tee -a` as the sink of errors, killed 5 times", || {
        let tee = "command = [\"/bin/sh\", \"-c\", \"exec tee -a err >/dev/null\"]";
        let mut daemon = start(&config(To::TwoFiles, tee), false);
        for _ in 0..5 {
            wait_progress(&daemon, To::TwoFiles);
            kill_and_see_replaced(&daemon, &["errors"]);
        }
        daemon.stop();
        let verdict = |output| checker::check(&*daemon.read(output), Format::Raw, &wrote(&daemon, output)).unwrap();
        assert!(verdict("out").is_clean(), "the logger beside it: {}", verdict("out"));
        verdict("err")
    })
}

fn start(config: &str, managed: bool) -> Daemon {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("program");
    std::fs::write(&program, PROGRAM).unwrap();
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    let daemon = if managed {
        let manager = Manager::new(dir.path());
        Daemon::start_under(manager, dir, config)
    } else {
        Daemon::spawn_in(dir, config)
    };
    daemon.wait_state(DaemonState::Running);
    daemon
}

fn config(to: To, sink_of_errors: &str) -> String {
    let at_once = r#"
        backoff = { first = "0ms", factor = 1.0, max = "1ms", reset_after = "1s" }
        start_limit = { burst = 1000000, within = "1s" }"#;
    let format = format(to).name();
    let settings = |file: &str| format!("settings = {{ file = \"{file}\", format = \"{format}\" }}");
    let (sink, errors) = match to {
        To::OneFile => ("output", String::new()),
        To::TwoFiles => ("errors", format!("[children.errors]{at_once}\n{sink_of_errors}\n{}\n", settings("err"))),
    };
    format!(
        "[daemon]\nlog_level = \"error\"\n\
         [children.program]\ncommand = [\"./program\"]{at_once}\n\
         [children.output]\nplugin = \"logger\"{at_once}\n{}\n{errors}\
         [[links]]\nfrom = \"program\"\nto = \"output\"\n\
         [[links]]\nfrom = \"program\"\nstream = \"stderr\"\nto = \"{sink}\"\n",
        settings("out")
    )
}

fn format(to: To) -> Format {
    if to == To::TwoFiles { Format::Raw } else { Format::Json }
}

/// Waits until more lines of each output are saved.
fn wait_progress(daemon: &Daemon, to: To) {
    let files: &[&str] = if to == To::TwoFiles { &["out", "err"] } else { &["out"] };
    let length = |file: &&str| std::fs::metadata(daemon.path(file)).map_or(0, |file| file.len());
    let before: Vec<u64> = files.iter().map(length).collect();
    let is_longer = || files.iter().map(length).zip(&before).all(|(now, before)| now != *before);
    wait_for(&format!("lines are saved\nlog:\n{}", daemon.log()), || is_longer().then_some(()));
}

/// Kills the supervisor, and its children if `all`, and starts the next one.
fn kill_supervisor(daemon: &mut Daemon, all: bool) {
    let children = children_of(daemon.pid());
    kill(daemon.pid(), SIGKILL);
    if all {
        children.iter().for_each(|&pid| kill(pid, SIGKILL));
    }
    daemon.wait_killed();
    wait_for("the children are dead", || children.iter().all(|&pid| !alive(pid)).then_some(()));
    daemon.start_again();
}

/// The lines of that output, as they are saved.
fn saved(daemon: &Daemon, to: To, output: &str) -> Vec<u8> {
    if to == To::TwoFiles {
        return daemon.read(output);
    }
    let is_of = |line: &&[u8]| {
        let entry: serde_json::Value = serde_json::from_slice(line).expect("a torn line");
        (entry["stream"] == "stderr") == (output == "err")
    };
    daemon.read("out").split_inclusive(|&byte| byte == b'\n').filter(is_of).flatten().copied().collect()
}

/// What the programs wrote to that output, according to their notes.
fn wrote(daemon: &Daemon, output: &str) -> Vec<Connection> {
    let (_, mark) = OUTPUTS.into_iter().find(|(name, _)| *name == output).unwrap();
    let names = daemon.dir.path().read_dir().unwrap().map(|entry| entry.unwrap().file_name());
    let told = names.filter_map(|name| {
        let name = name.into_string().ok()?;
        let pid = name.strip_prefix("told.")?.strip_prefix(output)?.strip_prefix('.')?;
        let writes = u32::try_from(daemon.read(&name).len()).unwrap();
        Some(Connection {
            number: mark + pid.parse::<u32>().unwrap(),
            peer: "program".to_owned(),
            length: LENGTH,
            // If it was killed after a write, it could not note that any more.
            sent: (writes + 1) * LINES,
            part: 0,
            echoed: writes * LINES,
            echoed_part: 0,
        })
    });
    told.collect()
}
