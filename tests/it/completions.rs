//! Tab completion, in the shells themselves.

use crate::daemon::{Daemon, wait_for};
use plumbd::control::Request;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const TWO: &str = "[children.echoes]\ncommand = [\"sleep\", \"1000\"]\ninstances = 2\n\
                   [children.other]\ncommand = [\"sleep\", \"1000\"]\n";

/// What is typed before Tab is pressed, and what it becomes, in a folder with files.
const TYPED: [(&str, &str); 28] = [
    ("plumbd ev", "plumbd events"),
    ("plumbd lo", "plumbd log"),
    ("plumbd mes", "plumbd messages"),
    ("plumbd exa", "plumbd example"),
    ("plumbd plu", "plumbd plugin"),
    ("plumbd sch", "plumbd schema"),
    ("plumbd stat", "plumbd status"),
    ("plumbd star", "plumbd start"),
    ("plumbd log oth", "plumbd log other"),
    ("plumbd log -n 5 oth", "plumbd log -n 5 other"),
    ("plumbd log plu", "plumbd log plumbd"),
    ("plumbd start oth", "plumbd start other"),
    ("plumbd stop oth", "plumbd stop other"),
    ("plumbd restart al", "plumbd restart all"),
    ("plumbd events --child oth", "plumbd events --child other"),
    ("plumbd events --child=oth", "plumbd events --child=other"),
    ("plumbd events --si", "plumbd events --since"),
    ("plumbd log --fol", "plumbd log --follow"),
    ("plumbd messages --unt", "plumbd messages --until"),
    ("plumbd completions zs", "plumbd completions zsh"),
    ("plumbd example echo-", "plumbd example echo-store"),
    ("plumbd man plumbd-", "plumbd man plumbd-plugin"),
    ("plumbd plugin ec", "plumbd plugin echo"),
    ("plumbd check -c plu", "plumbd check -c plumbd.toml"),
    ("plumbd check --config=oth", "plumbd check --config=other.toml"),
    ("plumbd status --control below/in", "plumbd status --control below/inner.toml"),
    ("plumbd messages plu", "plumbd messages plumbd.toml"),
    ("plumbd run --pid-file plu", "plumbd run --pid-file plumbd.toml"),
];

/// A shell on a terminal, that of script(1).
struct Typing {
    script: Child,
    shown: Arc<Mutex<Vec<u8>>>,
}

impl Typing {
    /// Starts a shell in a folder and has it run `first`; `None` if it is not installed.
    fn start(folder: &Path, shell: &str, first: &str) -> Option<Typing> {
        let program = shell.split(' ').next().unwrap();
        if Command::new(program).arg("--version").stdout(Stdio::null()).status().is_err() {
            eprintln!("left out: {program} is not installed");
            return None;
        }
        let bin = Path::new(env!("CARGO_BIN_EXE_plumbd")).parent().unwrap();
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
        let mut script = Command::new("script")
            .args(["-qefc", shell, "/dev/null"])
            .current_dir(folder)
            .envs([("PATH", path.as_str()), ("SHELL", "/bin/sh"), ("TERM", "dumb"), ("PS1", "")])
            .env("HOME", folder)
            .env_remove("PLUMBD_CONTROL")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("script(1) of util-linux is needed");
        let shown = Arc::new(Mutex::new(Vec::new()));
        let (mut from, to) = (script.stdout.take().unwrap(), shown.clone());
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(n @ 1..) = from.read(&mut bytes) {
                to.lock().unwrap().extend_from_slice(&bytes[..n]);
            }
        });
        let mut typing = Typing { script, shown };
        typing.press(&format!("{first}; echo is''ready\n"), "isready");
        Some(typing)
    }

    /// Presses keys, and waits until the terminal has shown that text.
    #[track_caller]
    fn press(&mut self, keys: &str, expected: &str) {
        let before = self.shown.lock().unwrap().len();
        self.script.stdin.as_mut().unwrap().write_all(keys.as_bytes()).unwrap();
        // Bells come in between.
        let after = || String::from_utf8_lossy(&self.shown.lock().unwrap()[before..]).replace('\x07', "");
        wait_for(&format!("{expected:?} after {keys:?}"), || after().contains(expected).then_some(()));
    }

    /// Types this and Tab, waits until it became that, and clears the line.
    #[track_caller]
    fn tab(&mut self, typed: &str, expected: &str) {
        self.press(&format!("{typed}\t"), expected);
        self.press("\x15", "");
    }
}

impl Drop for Typing {
    fn drop(&mut self) {
        let _over = self.script.kill();
        let _reaped = self.script.wait();
    }
}

const BASH: (&str, &str) = ("bash --norc --noprofile -i", "source <(plumbd completions bash)");
const ZSH: (&str, &str) =
    ("zsh -f -i", "PS1=; autoload -U compinit; compinit -u -d dump; source <(plumbd completions zsh)");

#[test]
fn in_bash_and_zsh_a_tab_completes_what_is_typed() {
    for (shell, first) in [BASH, ZSH] {
        let folder = with_files();
        let Some(mut typing) = Typing::start(folder.path(), shell, first) else { continue };
        TYPED.iter().for_each(|(typed, expected)| typing.tab(typed, expected));
        // Files below the home folder, and with a space in their name.
        typing.tab("plumbd run -c ~/oth", "plumbd run -c ~/other.toml");
        std::fs::write(folder.path().join("with space"), "").unwrap();
        typing.tab("plumbd run -c wit", "plumbd run -c with\\ space");
        typing.tab("plumbd run -c ~/wit", "plumbd run -c ~/with\\ space");
    }
}

#[test]
fn in_fish_a_tab_completes_what_is_typed() {
    let folder = with_files();
    let ask = |(typed, _): &(&str, &str)| format!("complete -C '{typed}' | head -n 1\n");
    let script = format!("plumbd completions fish | source\n{}", TYPED.iter().map(ask).collect::<String>());
    let Some(out) = shell("fish", &["--no-config", "-c", &script], folder.path()) else { return };
    let offered: Vec<&str> = out.lines().map(|line| line.split('\t').next().unwrap()).collect();
    let expected: Vec<&str> = TYPED.iter().map(|(_, line)| line.rsplit(' ').next().unwrap()).collect();
    assert_eq!(offered, expected);
}

/// What a shell prints for that script in a folder; `None` if it is not installed.
fn shell(program: &str, words: &[&str], folder: &Path) -> Option<String> {
    let bin = Path::new(env!("CARGO_BIN_EXE_plumbd")).parent().unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let mut command = Command::new(program);
    command.args(words).current_dir(folder).env("PATH", path).env_remove("PLUMBD_CONTROL").env("HOME", folder);
    let Ok(output) = command.stdin(Stdio::null()).output() else {
        eprintln!("left out: {program} is not installed");
        return None;
    };
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && err.is_empty(), "{program}: {:?} {err}", output.status);
    Some(String::from_utf8(output.stdout).unwrap())
}

/// What bash offers for the last of these words.
fn bash(folder: &Path, words: &[&str]) -> Vec<String> {
    let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
    let script = format!(
        "source <(plumbd completions bash)\n\
         COMP_WORDS=({}); COMP_CWORD={}; COMP_TYPE=9; COMP_KEY=9\n\
         function=$(complete -p plumbd | sed 's/.*-F \\([^ ]*\\).*/\\1/')\n\
         $function plumbd \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\" 2>/dev/null\n\
         printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        quoted.join(" "),
        words.len() - 1
    );
    let offered = shell("bash", &["--norc", "-c", &script], folder).expect("bash is everywhere");
    // With nothing typed yet, options follow the names.
    let bare = words.last() == Some(&"");
    let lines = offered.lines().map(|line| line.trim_end().to_owned());
    lines.filter(|line| !(bare && line.starts_with("--"))).collect()
}

#[test]
fn commands_options_and_examples_are_completed() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(bash(folder.path(), &["plumbd", "sta"]), ["status", "start"]);
    assert_eq!(bash(folder.path(), &["plumbd", "status", "--w"]), ["--watch"]);
    assert_eq!(bash(folder.path(), &["plumbd", "messages", "--u"]), ["--until", "--unescape"]);
    assert_eq!(bash(folder.path(), &["plumbd", "example", "echo"]), ["echo-store"]);
    assert_eq!(bash(folder.path(), &["plumbd", "completions", "z"]), ["zsh"]);
    assert_eq!(bash(folder.path(), &["plumbd", "man", "plumbd."]), ["plumbd.toml"]);
    assert!(!bash(folder.path(), &["plumbd", ""]).contains(&"plugin".to_owned()), "it is hidden");
}

/// A folder with two configurations, and one below it.
fn with_files() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("below")).unwrap();
    for name in ["plumbd.toml", "other.toml", "below/inner.toml"] {
        std::fs::write(folder.path().join(name), TWO).unwrap();
    }
    folder
}

#[test]
fn relative_files_are_completed() {
    let folder = with_files();
    for words in [
        &["plumbd", "run", "-c", "plum"][..],
        &["plumbd", "check", "--config", "plum"],
        &["plumbd", "run", "--pid-file", "plum"],
        &["plumbd", "status", "--control", "plum"],
        &["plumbd", "messages", "plum"],
        &["plumbd", "messages", "--json", "-c", "plum"],
    ] {
        assert_eq!(bash(folder.path(), words), ["plumbd.toml"], "{words:?}");
    }
    assert_eq!(bash(folder.path(), &["plumbd", "run", "-c", "./oth"]), ["./other.toml"]);
    assert_eq!(bash(folder.path(), &["plumbd", "run", "-c", "bel"]), ["below/"]);
    assert_eq!(bash(folder.path(), &["plumbd", "run", "-c", "below/in"]), ["below/inner.toml"]);
    assert_eq!(bash(&folder.path().join("below"), &["plumbd", "run", "-c", "../plu"]), ["../plumbd.toml"]);
    let whole = format!("{}/plum", folder.path().display());
    assert_eq!(bash(folder.path(), &["plumbd", "run", "-c", &whole]), [format!("{whole}bd.toml")]);
}

#[test]
fn zsh_and_fish_complete_relative_files() {
    let folder = with_files();
    for (typed, whole) in [("plum", "plumbd.toml"), ("below/in", "below/inner.toml")] {
        for command in ["plumbd run -c", "plumbd messages"] {
            let fish = format!("plumbd completions fish | source; complete -C '{command} {typed}'");
            if let Some(out) = shell("fish", &["--no-config", "-c", &fish], folder.path()) {
                assert_eq!(out.lines().next().map(|line| line.split('\t').next().unwrap()), Some(whole), "{out}");
            }
            if let Some(out) = zsh(folder.path(), &format!("{command} {typed}"), whole) {
                assert!(out.contains(&format!("{command} {whole}")), "{out:?}");
            }
        }
    }
}

#[test]
fn children_of_the_daemon_that_runs_are_completed() {
    let mut daemon = Daemon::start(TWO);
    let socket = daemon.path("plumbd.sock");
    // The file may say something else meanwhile.
    daemon.configure("[children.later]\ncommand = [\"sleep\", \"1000\"]\n");
    let all = ["echoes", "echoes.0", "echoes.1", "other", "all"];
    let elsewhere = tempfile::tempdir().unwrap();
    let socket = socket.to_str().unwrap();
    for command in ["start", "stop", "restart", "status"] {
        assert_eq!(bash(daemon.dir.path(), &["plumbd", command, ""]), all, "{command}");
        assert_eq!(bash(elsewhere.path(), &["plumbd", command, "--control", socket, ""]), all, "{command}");
    }
    assert_eq!(bash(daemon.dir.path(), &["plumbd", "stop", "other", "echoes."]), ["echoes.0", "echoes.1"]);
    assert_eq!(bash(daemon.dir.path(), &["plumbd", "log", ""]), ["echoes", "echoes.0", "echoes.1", "other", "plumbd"]);
    assert_eq!(bash(daemon.dir.path(), &["plumbd", "events", "--child", ""]), all[..4]);
    daemon.stop();
}

#[test]
fn if_no_daemon_runs_the_names_come_from_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(bash(folder.path(), &["plumbd", "stop", ""]), ["echo", "logger", "all"], "the built-in one");
    std::fs::write(folder.path().join("x.toml"), TWO).unwrap();
    assert_eq!(bash(folder.path(), &["plumbd", "stop", "-c", "x.toml", "o"]), ["other"]);
    std::fs::write(folder.path().join("plumbd.toml"), "wrong").unwrap();
    assert_eq!(bash(folder.path(), &["plumbd", "stop", ""]), ["all"]);
}

/// A person's shell must not hang because the daemon does.
#[test]
fn a_daemon_that_hangs_is_not_waited_for() {
    let mut daemon = Daemon::start(TWO);
    daemon.signal(nix::libc::SIGSTOP);
    wait_for("it stands", || (crate::daemon::state(daemon.pid()) == Some('T')).then_some(()));
    let start = Instant::now();
    // The daemon does not answer, so the names come from the file.
    assert_eq!(bash(daemon.dir.path(), &["plumbd", "stop", "o"]), ["other"]);
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    daemon.signal(nix::libc::SIGCONT);
    assert_eq!(daemon.ask(&Request::Reopen).0, 0);
    daemon.stop();
}

/// What a terminal with zsh shows, up to a word, when that is typed and Tab is pressed.
/// `None` if zsh is not installed.
fn zsh(folder: &Path, typed: &str, word: &str) -> Option<String> {
    // The completions are a file in $fpath, and Tab is pressed in a terminal.
    let script = format!(
        "mkdir -p f; plumbd completions zsh >f/_plumbd; fpath=($PWD/f $fpath)\n\
         autoload -U compinit; compinit -u -d $PWD/dump; zmodload zsh/zpty\n\
         zpty z zsh -f; zpty -w z \"PS1=; fpath=($PWD/f \\$fpath); autoload -U compinit; compinit -u -d $PWD/dump; echo rea''dy\"\n\
         zpty -r -m z out '*ready*'\n\
         zpty -w -n z $'{typed}\\t'; zpty -r -m z out '*{word}*'; print -r -- $out; zpty -d z"
    );
    if Command::new("zsh").arg("--version").output().is_err() {
        eprintln!("left out: zsh is not installed");
        return None;
    }
    shell("timeout", &["30", "zsh", "-f", "-c", &script], folder)
}

#[test]
fn zsh_completes_children_at_the_first_tab_too() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("plumbd.toml"), TWO).unwrap();
    if let Some(out) = zsh(folder.path(), "plumbd stop oth", "other") {
        assert!(out.contains("plumbd stop other"), "{out:?}");
    }
}

#[test]
fn fish_completes_children_with_their_states() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("plumbd.toml"), TWO).unwrap();
    let script = "plumbd completions fish | source; complete -C 'plumbd stop o'";
    if let Some(out) = shell("fish", &["--no-config", "-c", script], folder.path()) {
        assert_eq!(out, "other\tin the configuration\n");
    }
}
