//! A file system that stops answering, at each step of a start, a reload and a stop.

use crate::clients_service::{Service, Wanted, counts};
use crate::daemon::wait_for;
use crate::far::Far;
use crate::trial::{Trial, Tried, scaled};
use plumbd::control::Request;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub(crate) fn trials() -> Vec<Trial> {
    vec![Trial {
        name: "hung/files",
        fault: "a file system stops answering before a start, a reload, a child's start and the end that need it: for the \
                configuration, a program, its interpreter, a directory, a message file, the name of a socket, the control socket",
        promise: "what needs it fails within 20 s and names it; all else goes on: children are reaped and started, \
                  operators answered within 5 s, no client notices; the end is in order",
        missing: || (!Path::new("/dev/fuse").exists()).then(|| "there is no /dev/fuse".to_owned()),
        attempt: files,
    }]
}

/// A look is given up within this time.
const LATEST: Duration = Duration::from_secs(20);
/// What does not need the file system takes no longer than this.
const SOON: Duration = Duration::from_secs(5);
const SLEEP: &str = "command = [\"sleep\", \"1000\"]\n";

/// Parts of a configuration that need that file system, each with its name.
fn ways(far: &Far) -> Vec<(&'static str, String)> {
    let at = |name: &str| far.path(name).display().to_string();
    let (program, shell) = (far.program("sleep", "/bin/sleep"), far.program("sh", "/bin/sh"));
    let script = far.near("../script");
    std::fs::write(&script, format!("#!{}\nexec sleep 1000\n", shell.display())).unwrap();
    let executable = Command::new("chmod").args(["+x", script.to_str().unwrap()]).status().unwrap();
    assert!(executable.success());
    let child = |text: String| format!("[children.new]\n{text}");
    vec![
        ("program", child(format!("command = [\"{}\", \"1000\"]\n", program.display()))),
        ("interpreter", child(format!("command = [\"{}\"]\nready_timeout = \"1s\"\n", script.display()))),
        ("directory", child(format!("{SLEEP}directory = \"{}\"\n", at("")))),
        ("socket", child(format!("{SLEEP}listen = [\"unix:{}\"]\n", at("socket")))),
        (
            "messages",
            format!(
                "[children.source]\n{SLEEP}[children.new]\nplugin = \"logger\"\nsettings = {{ file = \"{}\" }}\n\
                 [[links]]\nfrom = \"source\"\nto = \"new\"\n",
                at("messages.log")
            ),
        ),
        ("control", format!("[daemon]\ncontrol = \"{}\"\n", at("control.sock"))),
    ]
}

fn files(times: f64) -> Tried {
    let far = Far::new();
    let ways = ways(&far);
    let service = Service::start(&Wanted::default());
    let load = service.load(|_| ());
    let before = service.daemon.read_text("plumbd.toml");
    let (mut reloads, mut starts) = (0, 0);
    for _ in 0..scaled(1, times) {
        for (name, more) in &ways {
            far.hang();
            service.daemon.configure(&format!("{before}{more}"));
            reload(&service, name);
            far.answer();
            reloads += 1;
        }
        far.hang();
        starts += start(&far, &ways);
        far.answer();
    }
    let control = control(&far);
    let program = far.path("sleep").display().to_string();
    let stuck = format!("[children.stuck]\ncommand = [\"{program}\", \"1000\"]\nready_timeout = \"1s\"\n");
    service.daemon.reload(&format!("{before}{stuck}"));
    far.hang();
    crate::daemon::kill(service.daemon.child_pid("stuck"), nix::libc::SIGKILL);
    service.daemon.wait_log("stuck: not ready within 1 s; killed");
    service.wait_progress();
    let outcome = load.end_unnoticed();
    let checked = service.end(&outcome.connections);
    Tried {
        count: format!(
            "{reloads} reloads, {starts} starts, a child's start, an end, {} messages meanwhile",
            outcome.echoed()
        ),
        outcome: counts(&checked.verdict),
        control: format!("{control}; {}", checked.control),
    }
}

/// Checks that a reload that needs it is refused, and all else goes on meanwhile.
fn reload(service: &Service, name: &str) {
    let began = Instant::now();
    let answer = service.daemon.ask_meanwhile(Request::Reload);
    service.wait_progress();
    let asked = Instant::now();
    let _status = service.daemon.status();
    assert!(asked.elapsed() < SOON, "{name}: an operator waited for {:?}", asked.elapsed());
    let (status, _, why) = answer.join().unwrap().unwrap();
    assert!(began.elapsed() < LATEST, "{name}: {:?}", began.elapsed());
    let named = why.contains("cannot reload: looking at ") && why.contains(" took longer than 10 s");
    assert!(status == 1 && named, "{name}: {why}");
}

/// Does all starts at once. Returns how many there were.
fn start(far: &Far, ways: &[(&str, String)]) -> usize {
    let folder = tempfile::tempdir().unwrap();
    let started: Vec<(&str, Child)> = ways
        .iter()
        .map(|(name, more)| {
            let dir = folder.path().join(name);
            std::fs::create_dir(&dir).unwrap();
            std::fs::write(dir.join("plumbd.toml"), format!("[children.near]\n{SLEEP}{more}")).unwrap();
            (*name, run(&dir, "plumbd.toml"))
        })
        .chain([("configuration", run(folder.path(), far.path("plumbd.toml").to_str().unwrap()))])
        .collect();
    let count = started.len();
    let began = Instant::now();
    for (name, child) in started {
        let output = child.wait_with_output().unwrap();
        let why = String::from_utf8(output.stderr).unwrap();
        let named = why.contains("cannot start: looking at ") && why.contains(" took longer than 10 s");
        assert!(output.status.code() == Some(1) && named, "{name}: {why}");
    }
    assert!(began.elapsed() < LATEST, "{:?}", began.elapsed());
    count
}

fn run(dir: &Path, file: &str) -> Child {
    Command::new(env!("CARGO_BIN_EXE_plumbd"))
        .args(["run", "-c", file])
        .current_dir(dir)
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The control: a process that looks at the file system itself does not return.
fn control(far: &Far) -> String {
    far.hang();
    let mut cat = Command::new("cat").arg(far.path("sleep")).stdout(Stdio::null()).spawn().unwrap();
    let began = Instant::now();
    wait_for("a second", || (began.elapsed() > Duration::from_secs(1)).then_some(()));
    let waits = cat.try_wait().unwrap().is_none();
    far.answer();
    cat.wait().unwrap();
    assert!(waits, "the file system answers");
    "a process that looks at it itself waits until it answers".to_owned()
}
