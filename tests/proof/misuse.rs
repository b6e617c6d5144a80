//! A child misuses what it was given, again and again, beside other children.

use crate::clients_service::{Service, Wanted, counts};
use crate::daemon::{free_port, wait_for};
use crate::trial::{Trial, Tried, scaled};
use nix::fcntl::OFlag;
use plumbd::sys::anew;
use plumbd::sys::pipe::Pipe;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

pub(crate) fn trials() -> Vec<Trial> {
    vec![Trial {
        name: "misuse/given",
        fault: "children beside echo, logger and a source of lines set flags on what they were given, change its size, \
                seek, cut, lock, shut it down, connect it, and fail, again and again",
        promise: "nothing echoed is lost; lines of a source that shares a queue with them are complete and in order; \
                  their sockets listen; no client notices",
        missing: || None,
        attempt: given,
    }]
}

/// How many lines an ordinary source writes.
const LINES: u32 = 100_000;
/// Ways to misuse something, in misuse.pl.
const WAYS: u32 = 11;

fn script() -> &'static str {
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/proof/misuse.pl")
}

fn given(times: f64) -> Tried {
    let ports = [free_port(), free_port()];
    let mut more = "\n".to_owned();
    for (name, to) in [("rude", "collect"), ("ruder", "logger")] {
        let listen = match name {
            "rude" => format!("\"tcp://127.0.0.1:{}\", \"udp://127.0.0.1:{}\", \"unix:rude.sock\"", ports[0], ports[1]),
            _ => String::new(),
        };
        write!(
            more,
            "[children.{name}]\ncommand = [\"perl\", \"{}\", \"{name}.count\"]\nlisten = [{listen}]\n\
             settings = {{ key = \"value\" }}\n\
             backoff = {{ first = \"0ms\", factor = 2.0, max = \"20ms\", reset_after = \"1s\" }}\n\
             start_limit = {{ burst = 1000000, within = \"1s\" }}\n\
             [[links]]\nfrom = \"{name}\"\nto = \"{to}\"\n",
            script()
        )
        .unwrap();
    }
    write!(
        more,
        "[children.lines]\ncommand = [\"sh\", \"-c\", \"seq 1 {LINES}; exec sleep 100000\"]\n\
         [children.collect]\ncommand = [\"sh\", \"-c\", \"while IFS= read -r line; do echo \\\"$line\\\"; done > out\"]\n\
         [[links]]\nfrom = \"lines\"\nto = \"collect\"\n"
    )
    .unwrap();
    let service = Service::start(&Wanted { link: &more, ..Wanted::default() });
    let load = service.load(|_| ());
    let count = |name: &str| service.daemon.read(&format!("{name}.count")).len();
    let enough = usize::try_from(scaled(3 * WAYS, times).max(WAYS)).unwrap();
    for name in ["rude", "ruder"] {
        let mut before = 0;
        while before < enough {
            before = wait_for(&format!("more misuse by {name} than {before}"), || {
                Some(count(name)).filter(|now| *now > before)
            });
        }
    }
    service.wait_progress();
    let last = format!("\n{LINES}\n");
    let mut length = 0;
    while !service.daemon.read_text("out").ends_with(&last) {
        length = wait_for("more lines", || {
            Some(service.daemon.read("out").len())
                .filter(|now| *now > length || service.daemon.read_text("out").ends_with(&last))
        });
    }
    let expected: String = (1..=LINES).map(|n| format!("{n}\n")).collect();
    assert!(service.daemon.read_text("out") == expected, "lines of a neighbour are missing or changed");
    // While none of them runs, clients wait in the backlog, and none is refused.
    wait_for("a place in the backlog", || std::net::TcpStream::connect(("127.0.0.1", ports[0])).ok());
    let misused = count("rude") + count("ruder");
    let outcome = load.end_unnoticed();
    let checked = service.end(&outcome.connections);
    Tried {
        count: format!("{misused} misuses in {WAYS} ways, {} messages and {LINES} lines meanwhile", outcome.echoed()),
        outcome: format!("{}; of the lines none lost, changed or out of order", counts(&checked.verdict)),
        control: format!("{}; {}", control(), checked.control),
    }
}

/// The control: the misuse must have an effect if all processes share one description of a
/// pipe.
fn control() -> String {
    let own = |end: &OwnedFd| anew::description(end, OFlag::O_WRONLY).unwrap();
    let shared = |end: &OwnedFd| end.try_clone().unwrap();
    let (with, without) = (lines_after_misuse(own), lines_after_misuse(shared));
    assert_eq!(with, LINES);
    assert!(without < LINES, "a shared description makes no difference");
    format!("where starts share one description, {} of {LINES} lines are lost", LINES - without)
}

fn lines_after_misuse(give: impl Fn(&OwnedFd) -> OwnedFd) -> u32 {
    let Pipe { read, write } = Pipe::new(4096).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut rude = Command::new("perl");
    rude.arg(script()).arg(folder.path().join("count")).stdin(Stdio::null()).stdout(give(&write)).stderr(Stdio::null());
    assert!(!rude.status().unwrap().success());
    let mut source = Command::new("seq");
    let mut lines = source
        .args(["1", &LINES.to_string()])
        .stdin(Stdio::null())
        .stdout(give(&write))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // It is read once it is full, or the writer has given up.
    wait_for("a full pipe", || {
        let full = plumbd::sys::pipe::bytes_in(&read).unwrap() >= 4000;
        (full || lines.try_wait().unwrap().is_some()).then_some(())
    });
    // If the writer does not wait for room, it ends now.
    std::thread::sleep(std::time::Duration::from_millis(100));
    drop((write, rude, source));
    let mut text = String::new();
    File::from(read).read_to_string(&mut text).unwrap();
    lines.wait().unwrap();
    u32::try_from(text.lines().count()).unwrap()
}
