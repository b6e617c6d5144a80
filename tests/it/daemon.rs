//! A whole daemon in a folder of its own. However a test uses it, it ends with a check that
//! there are no strays, no zombies and no leaked descriptors.

use crate::manager::Manager;
use plumbd::control::status::{Child, ChildState, DaemonState, Link, Status};
use plumbd::control::{Request, Response, client};
use std::collections::BTreeSet;
use std::fs::File;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The longest that a test waits for a fact. On a loaded machine, facts take long.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Whether the folder of a failed test is kept, and its name printed.
pub static KEEP: AtomicBool = AtomicBool::new(false);

/// Must be called before the folder of a test is dropped.
pub fn keep_if_failed(dir: &mut tempfile::TempDir) {
    if std::thread::panicking() && KEEP.load(Ordering::Relaxed) {
        dir.disable_cleanup(true);
        eprintln!("kept: {}", dir.path().display());
    }
}

/// Waits until `fact` gives something.
///
/// # Panics
/// With `what`, if it gives nothing within the deadline.
#[track_caller]
pub fn wait_for<T>(what: &str, mut fact: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = fact() {
            return value;
        }
        assert!(start.elapsed() < DEADLINE, "waited {DEADLINE:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A daemon and its folder.
pub struct Daemon {
    /// The service manager that started it, if one did. It comes before the folder, which its
    /// socket is in.
    pub manager: Option<Manager>,
    pub dir: tempfile::TempDir,
    process: std::process::Child,
    /// What a shell runs before it executes the daemon.
    first: String,
    over: bool,
}

impl Daemon {
    /// Starts `plumbd run` with that configuration in a folder of its own, and
    /// waits until it is no longer starting. The control socket must be the default,
    /// `plumbd.sock`.
    pub fn start(config: &str) -> Daemon {
        let daemon = Daemon::spawn(config);
        daemon.wait_state(DaemonState::Running);
        daemon
    }

    /// Starts it and does not wait.
    pub fn spawn(config: &str) -> Daemon {
        let dir = tempfile::tempdir().unwrap();
        Daemon::spawn_in(dir, config)
    }

    /// Starts it in a folder that was prepared.
    pub fn spawn_in(dir: tempfile::TempDir, config: &str) -> Daemon {
        std::fs::write(dir.path().join("plumbd.toml"), config).unwrap();
        let process = run_in(dir.path(), "");
        Daemon { dir, manager: None, process, first: String::new(), over: false }
    }

    /// Starts it with a log of its own, and does not wait.
    pub fn logging_to(log: impl Into<Stdio>, config: &str) -> Daemon {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("plumbd.toml"), config).unwrap();
        let process = run(dir.path(), "", log.into());
        Daemon { dir, manager: None, process, first: String::new(), over: false }
    }

    /// Starts it from a shell that runs `first` before it executes the
    /// daemon, and waits until it is no longer starting.
    pub fn start_after(first: &str, config: &str) -> Daemon {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("plumbd.toml"), config).unwrap();
        let process = run_in(dir.path(), first);
        let daemon = Daemon { dir, manager: None, process, first: first.to_owned(), over: false };
        daemon.wait_state(DaemonState::Running);
        daemon
    }

    /// Starts it under a service manager, and waits until it is no longer starting.
    pub fn start_managed(config: &str) -> Daemon {
        let dir = tempfile::tempdir().unwrap();
        let manager = Manager::new(dir.path());
        Daemon::start_under(manager, dir, config)
    }

    /// Starts it under that service manager, which was made for that folder.
    pub fn start_under(manager: Manager, dir: tempfile::TempDir, config: &str) -> Daemon {
        std::fs::write(dir.path().join("plumbd.toml"), config).unwrap();
        let process = manager.start(dir.path(), log_of(dir.path()));
        let daemon = Daemon { dir, manager: Some(manager), process, first: String::new(), over: false };
        daemon.wait_state(DaemonState::Running);
        daemon
    }

    pub fn manager(&self) -> &Manager {
        self.manager.as_ref().unwrap()
    }

    /// Starts another daemon in the same folder. The one before must be dead.
    pub fn start_again(&mut self) {
        self.spawn_again();
        self.wait_state(DaemonState::Running);
    }

    /// Starts another daemon in the same folder and does not wait. The one before must be dead.
    pub fn spawn_again(&mut self) {
        self.process = match &self.manager {
            Some(manager) => manager.start(self.dir.path(), log_of(self.dir.path())),
            None => run_in(self.dir.path(), &self.first),
        };
        self.over = false;
    }

    /// `plumbd` with these words, which asks this daemon.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_plumbd"));
        command.args(words).arg("--control").arg(self.path("plumbd.sock")).env_remove("PLUMBD_CONTROL");
        command
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.process.id()).unwrap()
    }

    /// The content of a file in its folder; empty if there is none.
    pub fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap_or_default()
    }

    pub fn read_text(&self, name: &str) -> String {
        String::from_utf8(self.read(name)).unwrap()
    }

    /// Everything that the daemon has logged.
    pub fn log(&self) -> String {
        self.read_text("daemon.log")
    }

    #[track_caller]
    pub fn wait_log(&self, text: &str) {
        wait_for(&format!("{text:?} in the log"), || self.log().contains(text).then_some(()));
    }

    /// Sends a request. Returns the exit status and what a command would print on standard
    /// output and standard error.
    #[track_caller]
    pub fn ask(&self, request: &Request) -> (u8, String, String) {
        ask(&self.path("plumbd.sock"), request).unwrap_or_else(|e| panic!("{e}\nlog:\n{}", self.log()))
    }

    /// Sends a request whose answer may take a while.
    pub fn ask_meanwhile(&self, request: Request) -> JoinHandle<Result<(u8, String, String), String>> {
        let socket = self.path("plumbd.sock");
        std::thread::spawn(move || ask(&socket, &request))
    }

    /// Sends a request that must succeed. Returns its output.
    #[track_caller]
    pub fn done(&self, request: &Request) -> String {
        let (status, out, err) = self.ask(request);
        assert_eq!((status, err.as_str()), (0, ""), "{request:?}: {out}\nlog:\n{}", self.log());
        out
    }

    /// Replaces its configuration and reloads it, which must succeed. Returns the output.
    #[track_caller]
    pub fn reload(&self, config: &str) -> String {
        self.configure(config);
        self.done(&Request::Reload)
    }

    /// Its status; `None` while it can't be reached.
    pub fn try_status(&self) -> Option<Status> {
        let mut status = None;
        let asked = client::ask(&self.path("plumbd.sock"), &Request::Status, |response| {
            if let Response::Status(s) = response {
                status = Some(*s);
            }
            Ok(())
        });
        asked.ok().and(status)
    }

    #[track_caller]
    pub fn status(&self) -> Status {
        wait_for("a status", || self.try_status())
    }

    #[track_caller]
    pub fn child(&self, name: &str) -> Child {
        let status = self.status();
        status.children.into_iter().find(|c| c.name == name).unwrap_or_else(|| panic!("no child {name}"))
    }

    #[track_caller]
    pub fn child_pid(&self, name: &str) -> i32 {
        self.child(name).pid.unwrap_or_else(|| panic!("{name} has no process\nlog:\n{}", self.log()))
    }

    #[track_caller]
    pub fn link(&self, from: &str, to: &str) -> Link {
        self.status().links.into_iter().find(|l| l.from == from && l.to == to).unwrap()
    }

    #[track_caller]
    pub fn wait_state(&self, state: DaemonState) {
        wait_for(&format!("the daemon is {state}\nlog:\n{}", self.log()), || {
            self.try_status().filter(|s| s.state == state)
        });
    }

    /// Waits until that child is in that state. Returns its status then.
    #[track_caller]
    pub fn wait_child(&self, name: &str, state: ChildState) -> Child {
        wait_for(&format!("{name} is {state}"), || Some(self.child(name)).filter(|c| c.state == state))
    }

    /// The process of that child, once it is up.
    #[track_caller]
    pub fn child_pid_when_up(&self, name: &str) -> i32 {
        self.wait_child(name, ChildState::Up).pid.unwrap()
    }

    /// Whether its process has ended.
    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        self.process.try_wait().unwrap()
    }

    /// Waits for its end after it was killed, without any check.
    #[track_caller]
    pub fn wait_killed(&mut self) -> ExitStatus {
        wait_for("the daemon is dead", || self.process.try_wait().unwrap())
    }

    /// Waits until that child is up with another process than `pid`.
    #[track_caller]
    pub fn wait_replaced(&self, name: &str, pid: i32) -> i32 {
        wait_for(&format!("another process in place of {name} {pid}"), || {
            let child = self.child(name);
            child.pid.filter(|&p| p != pid && child.state == ChildState::Up)
        })
    }

    /// Replaces its configuration, without a reload.
    pub fn configure(&self, config: &str) {
        std::fs::write(self.path("plumbd.toml"), config).unwrap();
    }

    pub fn signal(&self, signal: i32) {
        kill(self.pid(), signal);
    }

    /// Waits for its end and checks that nothing of it is left.
    #[track_caller]
    pub fn wait_end(&mut self) -> ExitStatus {
        let status = wait_for("the daemon ends", || self.process.try_wait().unwrap());
        wait_for("no strays", || strays(self.dir.path()).is_empty().then_some(()));
        // If there are any, dropping the daemon ends them.
        self.over = true;
        status
    }

    /// Stops it as an operator would. Checks that it leaks nothing and leaves nothing behind, and
    /// that its exit status is 0.
    #[track_caller]
    pub fn stop(&mut self) {
        self.check_clean();
        self.signal(nix::libc::SIGTERM);
        let status = self.wait_end();
        assert!(status.success(), "exit status {status}\nlog:\n{}", self.log());
        assert!(!self.path("plumbd.sock").exists(), "the control socket is left behind");
    }

    /// Checks that there are no zombies now, and that each built-in child has only the
    /// descriptors that it was given or made itself.
    #[track_caller]
    pub fn check_clean(&self) {
        let zombies = || children_of(self.pid()).into_iter().filter(|&pid| is_zombie(pid)).count();
        wait_for("no zombies", || (zombies() == 0).then_some(()));
    }

    /// How many descriptors the supervisor has open.
    pub fn descriptors(&self) -> usize {
        descriptors(self.pid())
    }

    /// A client of that port, on which a child listens now or soon.
    #[track_caller]
    pub fn connect(&self, port: u16) -> TcpStream {
        let stream = wait_for("a connection", || TcpStream::connect(("127.0.0.1", port)).ok());
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if !self.over {
            let _killed = self.process.kill();
            let _reaped = self.process.wait();
            // Even a failed test must not leave processes behind.
            for pid in strays(self.dir.path()) {
                kill(pid, nix::libc::SIGKILL);
            }
        }
        if std::thread::panicking() {
            eprintln!("the daemon's log:\n{}", self.log());
        }
        keep_if_failed(&mut self.dir);
    }
}

fn ask(socket: &Path, request: &Request) -> Result<(u8, String, String), String> {
    let (mut out, mut err) = (String::new(), String::new());
    let status = client::ask(socket, request, |response| {
        match response {
            Response::Out(text) => out.push_str(&(text + "\n")),
            Response::Err(text) => err.push_str(&(text + "\n")),
            _ => {}
        }
        Ok(())
    });
    status.map(|status| (status, out, err)).map_err(|e| e.to_string())
}

fn log_of(dir: &Path) -> Stdio {
    File::options().create(true).append(true).open(dir.join("daemon.log")).unwrap().into()
}

fn run_in(dir: &Path, first: &str) -> std::process::Child {
    run(dir, first, log_of(dir))
}

fn run(dir: &Path, first: &str, log: Stdio) -> std::process::Child {
    Command::new("/bin/sh")
        .args(["-c", &format!("{first}\nexec \"$0\" run -c plumbd.toml"), env!("CARGO_BIN_EXE_plumbd")])
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// An echo server at that port, and a logger that saves to messages.log.
pub fn echo_and_logger(port: u16) -> String {
    format!(
        r#"
        [children.echo]
        plugin = "echo"
        listen = ["tcp://127.0.0.1:{port}"]
        [children.logger]
        plugin = "logger"
        settings = {{ file = "messages.log" }}
        [[links]]
        from = "echo"
        to = "logger"
        "#
    )
}

/// A port on which no process listens at this moment. It is outside the range that the
/// kernel gives to clients, and no other test of this run was given it.
pub fn free_port() -> u16 {
    use std::sync::atomic::{AtomicU16, Ordering};
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let base = 20_000 + u16::try_from(std::process::id() % 50).unwrap() * 200;
    for _ in 0..200 {
        let port = base + NEXT.fetch_add(1, Ordering::Relaxed) % 200;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port from {base}");
}

pub fn kill(pid: i32, signal: i32) {
    let signal = nix::sys::signal::Signal::try_from(signal).unwrap();
    let _gone_already = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal);
}

/// Sends a signal of any number, real-time ones too.
pub fn send(pid: i32, signal: i32) {
    let sent = Command::new("kill").args([format!("-{signal}"), pid.to_string()]).status().unwrap();
    assert!(sent.success());
}

/// The environment that a program was given. A child counts as up as soon as exec closes its
/// descriptors, which is before the kernel notes where its environment is
/// (fs/binfmt_elf.c).
pub fn environment(pid: i32) -> Vec<(String, String)> {
    let bytes = wait_for("an environment", || {
        let bytes = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
        (!bytes.is_empty()).then_some(bytes)
    });
    let entries = bytes.split(|&byte| byte == 0).filter(|entry| !entry.is_empty());
    let pair = |entry: &[u8]| {
        let (name, value) = std::str::from_utf8(entry).unwrap().split_once('=').unwrap();
        (name.to_owned(), value.to_owned())
    };
    entries.map(pair).collect()
}

/// A process's state, as proc_pid_stat(5) has it.
pub fn state(pid: i32) -> Option<char> {
    stat(pid).map(|(state, _)| state)
}

pub fn alive(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok() && !is_zombie(pid)
}

/// Processes whose working directory is that folder. A daemon's children and their
/// children stay there unless they go elsewhere.
pub fn strays(dir: &Path) -> BTreeSet<i32> {
    let dir = dir.canonicalize().unwrap();
    processes().filter(|pid| std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == dir)).collect()
}

/// The processes whose parent is that one.
pub fn children_of(parent: i32) -> BTreeSet<i32> {
    processes().filter(|&pid| stat(pid).is_some_and(|(_, ppid)| ppid == parent)).collect()
}

/// How many descriptors a process has open.
pub fn descriptors(pid: i32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

fn is_zombie(pid: i32) -> bool {
    stat(pid).is_some_and(|(state, _)| state == 'Z')
}

fn processes() -> impl Iterator<Item = i32> {
    std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// State and parent, proc_pid_stat(5).
fn stat(pid: i32) -> Option<(char, i32)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let rest = text.rsplit_once(')')?.1;
    let mut fields = rest.split_ascii_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}
