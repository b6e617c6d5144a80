//! What a person sees on a real terminal, the pseudo-terminal of script(1).

use crate::daemon::{DEADLINE, Daemon, alive, children_of, free_port, kill, state, wait_for};
use nix::libc::{SIGCONT, SIGTERM, SIGTSTP};
use plumbd::control::status::{ChildState, Status};
use plumbd::control::{Request, Response, client};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const TWO: &str = "[children.one]\ncommand = [\"sleep\", \"1000\"]\n[children.two]\ncommand = [\"sleep\", \"1000\"]\n";
const ENTER: &str = "\x1b[?1049h";
const LEAVE: &str = "\x1b[?1049l";

/// `plumbd` with some words on a terminal of 24 rows and 80 columns.
struct Terminal {
    script: Child,
    shown: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Terminal {
    fn start(folder: &Path, words: &str) -> Terminal {
        Terminal::start_with(folder, words, "TERM=xterm")
    }

    fn start_with(folder: &Path, words: &str, environment: &str) -> Terminal {
        let plumbd = env!("CARGO_BIN_EXE_plumbd");
        let command = format!("stty rows 24 cols 80; tty; {environment} '{plumbd}' {words}; exit $?");
        let mut script = Command::new("script")
            .args(["-qefc", &command, "/dev/null"])
            .current_dir(folder)
            .env("SHELL", "/bin/sh")
            .env_remove("NO_COLOR")
            .env_remove("PLUMBD_CONTROL")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("script(1) of util-linux is needed");
        let shown = Arc::new(Mutex::new(Vec::new()));
        let (mut from, to) = (script.stdout.take().unwrap(), shown.clone());
        let reader = std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(n @ 1..) = from.read(&mut bytes) {
                to.lock().unwrap().extend_from_slice(&bytes[..n]);
            }
        });
        Terminal { script, shown, reader: Some(reader) }
    }

    /// Everything that was written to it.
    fn all(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().unwrap()).into_owned()
    }

    #[track_caller]
    fn wait(&self, text: &str) {
        wait_for(&format!("{text:?} in {:?}", self.all()), || self.all().contains(text).then_some(()));
    }

    /// Waits until that is written once more.
    #[track_caller]
    fn wait_again(&self, text: &str) {
        let now = self.shown.lock().unwrap().len();
        let after = || String::from_utf8_lossy(&self.shown.lock().unwrap()[now..]).into_owned();
        wait_for(&format!("{text:?} again in {:?}", after()), || after().contains(text).then_some(()));
    }

    /// Presses keys.
    fn press(&mut self, keys: &[u8]) {
        self.script.stdin.as_mut().unwrap().write_all(keys).unwrap();
    }

    /// The process of `plumbd`, which is a child of a shell below script(1).
    fn plumbd(&self) -> i32 {
        let script = i32::try_from(self.script.id()).unwrap();
        wait_for("plumbd in its terminal", || {
            let shells = children_of(script);
            let below = shells.iter().flat_map(|&shell| children_of(shell));
            below.into_iter().find(|pid| {
                std::fs::read(format!("/proc/{pid}/cmdline"))
                    .is_ok_and(|line| line.starts_with(env!("CARGO_BIN_EXE_plumbd").as_bytes()))
            })
        })
    }

    fn size(&self, rows: u16, columns: u16) {
        let tty = self.all().lines().next().unwrap().trim().to_owned();
        let words = ["-F", &tty, "rows", &rows.to_string(), "cols", &columns.to_string()];
        assert!(Command::new("stty").args(words).status().unwrap().success());
    }

    /// Waits for its end, and until all that it wrote has arrived. Returns the exit
    /// status; for a signal, the shell's.
    #[track_caller]
    fn end(&mut self) -> i32 {
        let status = wait_for("the end of it", || self.script.try_wait().unwrap());
        self.reader.take().unwrap().join().unwrap();
        status.code().unwrap()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _over = self.script.kill();
        let _reaped = self.script.wait();
    }
}

/// What the screen shows after all that output, as lines.
fn screen(all: &str) -> Vec<String> {
    let page = all.rsplit("\x1b[H").next().unwrap();
    let mut plain = String::new();
    let mut rest = page;
    while let Some((before, after)) = rest.split_once('\x1b') {
        plain += before;
        rest = after.trim_start_matches(|c: char| !c.is_ascii_alphabetic());
        rest = &rest[1..];
    }
    (plain + rest).lines().map(|line| line.trim_end().to_owned()).collect()
}

#[test]
fn a_watched_status_is_refreshed_in_place_and_ctrl_c_leaves_the_terminal_as_it_was() {
    let mut daemon = Daemon::start(TWO);
    let mut terminal = Terminal::start(daemon.dir.path(), "status --watch");
    terminal.wait("2 of 2 children up");
    terminal.wait_again("2 of 2 children up");
    let all = terminal.all();
    assert_eq!((all.matches(ENTER).count(), all.matches(LEAVE).count()), (1, 0));
    wait_for("the children", || {
        screen(&terminal.all()).iter().any(|line| line.starts_with("one    up ")).then_some(())
    });
    terminal.press(b"\x03");
    assert_eq!(terminal.end(), 130, "{:?}", terminal.all());
    let all = terminal.all();
    let after = all.rsplit(LEAVE).next().unwrap();
    assert_eq!(all.matches(LEAVE).count(), 1);
    // The cursor and line wrapping are restored too, and nothing is left behind.
    assert!(all.contains("\x1b[?25h") && all.contains("\x1b[?7h"));
    assert!(!after.contains("plumbd"), "{after:?}");
    daemon.stop();
}

#[test]
fn a_signal_leaves_the_terminal_as_it_was() {
    let mut daemon = Daemon::start(TWO);
    let mut terminal = Terminal::start(daemon.dir.path(), "status --watch");
    terminal.wait("children up");
    kill(terminal.plumbd(), SIGTERM);
    assert_eq!(terminal.end(), 128 + SIGTERM);
    assert_eq!(terminal.all().matches(LEAVE).count(), 1);
    daemon.stop();
}

#[test]
fn a_halt_restores_the_terminal_and_a_continue_shows_the_screen_again() {
    let mut daemon = Daemon::start(TWO);
    let mut terminal = Terminal::start(daemon.dir.path(), "status --watch");
    terminal.wait("children up");
    let pid = terminal.plumbd();
    kill(pid, SIGTSTP);
    terminal.wait(LEAVE);
    wait_for("it is halted", || (state(pid) == Some('T')).then_some(()));
    kill(pid, SIGCONT);
    wait_for("the screen again", || (terminal.all().matches(ENTER).count() == 2).then_some(()));
    terminal.wait_again("children up");
    terminal.press(b"\x03");
    assert_eq!(terminal.end(), 130);
    assert!(!alive(pid));
    daemon.stop();
}

#[test]
fn a_watcher_sees_the_daemon_go_and_come_back() {
    let mut daemon = Daemon::start(TWO);
    // It has a folder of its own, because nothing may be left in the daemon's.
    let elsewhere = tempfile::tempdir().unwrap();
    let words = format!("status --watch --control '{}'", daemon.path("plumbd.sock").display());
    let mut terminal = Terminal::start(elsewhere.path(), &words);
    terminal.wait("2 of 2 children up");
    kill(daemon.child_pid("one"), nix::libc::SIGKILL);
    terminal.wait("SIGKILL");
    daemon.stop();
    terminal.wait("cannot reach the daemon");
    daemon.start_again();
    terminal.wait_again("2 of 2 children up");
    terminal.press(b"\x03");
    assert_eq!(terminal.end(), 130);
    daemon.stop();
}

#[test]
fn a_window_that_shrinks_shows_as_much_as_fits() {
    let long = "[children.a-child-with-a-name-that-is-longer-than-any-window]\ncommand = [\"sleep\", \"1000\"]\n";
    let mut daemon = Daemon::start(&format!("{TWO}{long}"));
    let mut terminal = Terminal::start(daemon.dir.path(), "status --watch");
    terminal.wait("3 of 3 children up");
    let fits = |rows: usize, columns: usize| {
        wait_for(&format!("{rows} rows of {columns} columns"), || {
            let all = terminal.all();
            let shown = screen(&all);
            // The daemon's own line is cut by the terminal.
            let table = shown.iter().filter(|line| !line.starts_with("process "));
            let fits = shown.len() <= rows && table.clone().all(|line| line.chars().count() <= columns);
            // This is not half a page, with the rest still to come.
            let whole = all.ends_with("\x1b[J") || all.ends_with("... a taller window shows the rest");
            (fits && whole).then_some(shown)
        })
    };
    fits(24, 80);
    terminal.size(20, 50);
    assert!(fits(20, 50).iter().any(|line| line.contains("..  up")));
    terminal.size(4, 50);
    assert_eq!(fits(4, 50).last().unwrap(), "... a taller window shows the rest");
    terminal.press(b"\x03");
    assert_eq!(terminal.end(), 130);
    daemon.stop();
}

#[test]
fn a_reload_is_followed_on_a_terminal_and_nowhere_else() {
    let mut daemon = Daemon::start(TWO);
    let changed =
        |umask: &str| format!("{TWO}umask = \"{umask}\"\n[children.three]\ncommand = [\"sleep\", \"1000\"]\n");
    daemon.configure(&changed("0077"));
    let mut terminal = Terminal::start(daemon.dir.path(), "reload");
    assert_eq!(terminal.end(), 0, "{}", terminal.all());
    let pid = daemon.child_pid("two");
    let two = ["restart  two", "two: stopping", "two: down", "the new configuration is in force", "two: starting"];
    let up = format!("two: up, process {pid}");
    let mut rest = terminal.all();
    for step in two.iter().copied().chain([up.as_str(), "reloaded"]) {
        rest = rest.split_once(step).unwrap_or_else(|| panic!("no {step:?} in {rest:?}")).1.to_owned();
    }

    daemon.configure(&changed("0027"));
    let mut terminal = Terminal::start_with(daemon.dir.path(), "reload", "NO_COLOR=1");
    assert_eq!(terminal.end(), 0);
    assert!(terminal.all().contains("reloaded") && !terminal.all().contains("two: stopping"), "{}", terminal.all());

    daemon.configure(&changed("0022"));
    let piped =
        Command::new(env!("CARGO_BIN_EXE_plumbd")).arg("reload").current_dir(daemon.dir.path()).output().unwrap();
    let out = String::from_utf8(piped.stdout).unwrap();
    let place = format!("{}:5: umask changes", daemon.path("plumbd.toml").display());
    assert!(out.contains(&place) && out.ends_with("reloaded\n") && !out.contains("two: "), "{out}");
    daemon.stop();
}

#[test]
fn colours_are_for_a_terminal_without_no_color() {
    let mut daemon = Daemon::start(TWO);
    let shown = |environment: &str| {
        let mut terminal = Terminal::start_with(daemon.dir.path(), "status", environment);
        assert_eq!(terminal.end(), 0);
        terminal.wait("children up");
        terminal.all()
    };
    assert!(shown("TERM=xterm").contains("\x1b[32mup\x1b[0m"));
    for plain in ["TERM=xterm NO_COLOR=1", "TERM=dumb"] {
        assert!(!shown(plain).contains('\x1b'), "{plain}");
    }
    daemon.stop();
}

#[test]
fn watching_without_a_terminal_prints_table_after_table() {
    let mut daemon = Daemon::start(TWO);
    let mut watch = Command::new(env!("CARGO_BIN_EXE_plumbd"))
        .args(["status", "--watch"])
        .current_dir(daemon.dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufRead::lines(BufReader::new(watch.stdout.take().unwrap()));
    let start = Instant::now();
    for _ in 0..2 {
        let line = out.find(|line| line.as_ref().unwrap().starts_with("CHILD")).unwrap().unwrap();
        assert!(!line.contains('\x1b'), "{line:?}");
    }
    assert!(start.elapsed() < DEADLINE);
    drop(out);
    let ended = wait_for("it ends because its reader is gone", || watch.try_wait().unwrap());
    assert_eq!(ended.code(), Some(0));
    daemon.stop();
}

#[test]
fn after_ctrl_z_a_daemon_goes_on_and_deadlines_that_passed_meanwhile_do_not_count() {
    let (port, bound) = (free_port(), Duration::from_secs(3));
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let ready = "until [ -e go ]; do sleep 0.01; done; echo >&$PLUMBD_READY_FD; : > said; exec sleep 1000";
    let config = format!(
        "[children.late]\ncommand = [\"sh\", \"-c\", \"{ready}\"]\nready = \"fd\"\nready_timeout = \"{}s\"\n\
         [children.echo]\nplugin = \"echo\"\nlisten = [\"tcp://127.0.0.1:{port}\"]\n\
         [children.logger]\nplugin = \"logger\"\nsettings = {{ file = \"messages.log\" }}\n\
         [[links]]\nfrom = \"echo\"\nto = \"logger\"\n",
        bound.as_secs()
    );
    std::fs::write(path("plumbd.toml"), config).unwrap();
    let words = "run; echo halted; read go; fg; exit $?";
    let mut terminal = Terminal::start_with(folder.path(), words, "set -m;");
    let child = |name: &str| status_in(folder.path())?.children.into_iter().find(|child| child.name == name);
    let up = |name: &str| wait_for(name, || child(name).filter(|child| child.state == ChildState::Up)?.pid);
    let late = wait_for("late", || child("late")?.pid);
    let (began, echo) = (Instant::now(), up("echo"));
    let pid = terminal.plumbd();
    // It must be busy when it is halted. The last request waits until it goes on.
    let halted = Arc::new(AtomicBool::new(false));
    let asking = {
        let (folder, halted) = (folder.path().to_owned(), halted.clone());
        std::thread::spawn(move || {
            while status_in(&folder).is_some() {
                if halted.load(Ordering::Relaxed) {
                    return true;
                }
            }
            false
        })
    };
    terminal.press(b"\x1a");
    terminal.wait("halted");
    assert_eq!(state(pid), Some('T'));
    halted.store(true, Ordering::Relaxed);

    // Its children are not part of the terminal's job.
    let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    client.write_all(b"meanwhile\n").unwrap();
    let mut line = String::new();
    BufReader::new(&client).read_line(&mut line).unwrap();
    assert_eq!(line, "meanwhile\n");
    std::fs::write(path("go"), "").unwrap();
    wait_for("late says that it is ready", || path("said").exists().then_some(()));
    kill(echo, nix::libc::SIGKILL);
    wait_for("the deadline", || (began.elapsed() > bound).then_some(()));
    assert_eq!(state(pid), Some('T'));

    terminal.press(b"\n");
    assert!(asking.join().unwrap(), "a request that came meanwhile is answered");
    assert_eq!(up("late"), late, "{}", terminal.all());
    wait_for("another echo", || (up("echo") != echo).then_some(()));
    assert!(!terminal.all().contains("not ready"), "{}", terminal.all());
    terminal.press(b"\x03");
    assert_eq!(terminal.end(), 0, "{}", terminal.all());
    assert!(!alive(late) && !alive(pid));
}

/// The status of the daemon in that folder.
fn status_in(folder: &Path) -> Option<Status> {
    let mut status = None;
    let asked = client::ask(&folder.join("plumbd.sock"), &Request::Status, |response| {
        if let Response::Status(told) = response {
            status = Some(*told);
        }
        Ok(())
    });
    asked.ok().and(status)
}
