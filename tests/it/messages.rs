//! `plumbd messages`: what it prints of a message file and its archives, to the byte.

use crate::mini::{Rig, wait_until};
use flate2::write::GzEncoder;
use plumbd::link::handover::Protocol::Lines;
use plumbd::plugin::logger::follows;
use serde_json::json;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A folder with message files.
struct Files {
    folder: tempfile::TempDir,
}

/// The time in an archive's name and, in a line, of the message at that second.
fn name_time(second: u32) -> String {
    format!("20261122T15{:02}{:02}.000000Z", second / 60, second % 60)
}

fn line(second: u32, peer: &str, message: &str) -> String {
    format!("2026-11-22T15:{:02}:{:02}.000000Z {peer} {message}\n", second / 60, second % 60)
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

fn zstd(text: &str) -> Vec<u8> {
    zstd::encode_all(text.as_bytes(), 1).unwrap()
}

impl Files {
    fn new() -> Files {
        Files { folder: tempfile::tempdir().unwrap() }
    }

    /// Three archives, one of each form, and the file: messages of the seconds 1 to 8.
    fn four() -> (Files, String) {
        let files = Files::new();
        let text =
            |seconds: &[u32]| seconds.iter().map(|&s| line(s, "10.0.0.1:7", &format!("m{s}"))).collect::<String>();
        files.put(&format!("m.log.{}.gz", name_time(3)), gzip(&text(&[1, 2])));
        files.put(&format!("m.log.{}.zst", name_time(5)), zstd(&text(&[3, 4])));
        files.put(&format!("m.log.{}", name_time(7)), text(&[5, 6]));
        files.put("m.log", text(&[7, 8]));
        (files, text(&[1, 2, 3, 4, 5, 6, 7, 8]))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn put(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(name), content).unwrap();
    }

    fn run(&self, words: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_plumbd"))
            .arg("messages")
            .args(words)
            .current_dir(self.folder.path())
            .env("TZ", "UTC")
            .env("XDG_CONFIG_HOME", "/nowhere")
            .output()
            .unwrap()
    }

    /// What is printed where all is well.
    #[track_caller]
    fn printed(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert_eq!((output.status.code(), err(&output).as_str()), (Some(0), ""), "{words:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    fn refused(&self, words: &[&str], status: i32, why: &str) {
        let output = self.run(words);
        assert_eq!((output.status.code(), err(&output)), (Some(status), format!("plumbd: {why}\n")), "{words:?}");
        assert!(output.stdout.is_empty());
    }
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The messages `mN` that were printed.
fn numbers(printed: &str) -> Vec<u32> {
    printed.lines().map(|line| line.rsplit_once(" m").unwrap().1.parse().unwrap()).collect()
}

#[test]
fn messages_come_in_order_over_archives_of_every_form() {
    let (files, all) = Files::four();
    assert_eq!(files.printed(&["m.log"]), all);
    // A half compressed form beside a raw one does not count, and neither does any other name.
    files.put(&format!("m.log.{}.gz", name_time(7)), "half");
    files.put("m.log.torn-20200101T000000.000000Z", "torn\n");
    files.put("m.log.1", "other\n");
    assert_eq!(files.printed(&["m.log"]), all);
    assert_eq!(files.printed(&[files.path("m.log").to_str().unwrap()]), all);
}

#[test]
fn one_archive_is_read_alone_also_by_the_name_that_it_had_before() {
    let (files, _) = Files::four();
    let name = |second: u32, form: &str| format!("m.log.{}{form}", name_time(second));
    assert_eq!(numbers(&files.printed(&[&name(3, ".gz")])), [1, 2]);
    assert_eq!(numbers(&files.printed(&[&name(3, "")])), [1, 2]);
    assert_eq!(numbers(&files.printed(&[&name(5, ".zst"), "-n", "1"])), [4]);
    assert_eq!(numbers(&files.printed(&[&name(7, ""), "-f"])), [5, 6], "an archive does not grow");
    // So is any other file, compressed if its name says so.
    files.put("other.gz", gzip(&line(9, "-", "m9")));
    assert_eq!(numbers(&files.printed(&["other.gz"])), [9]);
    let gone = name(1, "");
    files.refused(&[&gone], 1, &format!("cannot read {gone}: No such file or directory"));
}

#[test]
fn a_last_line_without_its_newline_is_not_a_message_yet() {
    let files = Files::new();
    let whole = line(1, "-", "m1") + &line(2, "-", "m2");
    files.put(&format!("m.log.{}", name_time(3)), line(0, "-", "m0") + "2026-11-22T15:00:0");
    files.put("m.log", whole.clone() + &line(3, "-", "m3").trim_end().replace("m3", "half"));
    assert_eq!(numbers(&files.printed(&["m.log"])), [0, 1, 2]);
    assert_eq!(numbers(&files.printed(&["m.log", "-n", "1"])), [2]);
    assert_eq!(numbers(&files.printed(&["m.log", "--since", "2026-11-22T15:00:00Z"])), [0, 1, 2]);
    files.put("m.log", "no newline at all");
    assert_eq!(numbers(&files.printed(&["m.log"])), [0]);
}

#[test]
fn the_file_is_that_of_the_only_logger() {
    let (files, all) = Files::four();
    let logger = |name: &str, file: &str| {
        format!("[children.{name}]\nplugin = \"logger\"\n[children.{name}.settings]\nfile = \"{file}\"\n")
    };
    files.refused(&[], 1, "cannot read messages.log: No such file or directory");
    files.put("plumbd.toml", logger("logger", "m.log"));
    assert_eq!(files.printed(&[]), all);
    // It may have problems elsewhere.
    files.put("plumbd.toml", logger("logger", "m.log") + "[children.x]\nuser = \"nobody-of-that-name\"\nlisten = 7\n");
    assert_eq!(files.printed(&[]), all);
    fs::create_dir(files.path("etc")).unwrap();
    files.put("etc/other.toml", logger("logger", "../m.log"));
    assert_eq!(files.printed(&["-c", "etc/other.toml"]), all);
    files.put("plumbd.toml", logger("a", "m.log") + &logger("b", "n.log"));
    files.refused(
        &[],
        2,
        "cannot tell which messages are meant: plumbd.toml has several loggers; name one file:\n  m.log\n  n.log",
    );
    assert_eq!(files.printed(&["m.log"]), all);
    files.put("plumbd.toml", "[children.x]\ncommand = [\"x\"]\n");
    files.refused(&[], 1, "cannot find messages: plumbd.toml has no logger; name a file, or give -c FILE");
    files.refused(&["-c", "no.toml"], 1, "cannot read no.toml: No such file or directory; or name a message file");
}

#[test]
fn times_are_bounds_on_every_file() {
    let (files, _) = Files::four();
    let at = |second: u32| format!("2026-11-22T15:00:{second:02}Z");
    for since in 0..10u32 {
        for until in 0..10u32 {
            let expected: Vec<u32> = (since.max(1)..=until.min(8)).collect();
            let printed = files.printed(&["m.log", "--since", &at(since), "--until", &at(until)]);
            assert_eq!(numbers(&printed), expected, "{since} {until}");
        }
    }
    assert_eq!(numbers(&files.printed(&["m.log", "--since", "2026-11-22 15:00:07"])), [7, 8]);
    assert_eq!(numbers(&files.printed(&["m.log", "--until", "2026-11-22T16:00:03+01:00"])), [1, 2, 3]);
    assert_eq!(files.printed(&["m.log", "--since", "2026-11-24"]), "", "nothing found is no failure");
    files.refused(
        &["m.log", "--since", "yesterdays"],
        2,
        "cannot use --since: \"yesterdays\" is no time; write 2026-11-22T15:04:05Z, \"2026-11-22 15:04\", 15:04, 10m or \
         \"10min ago\"",
    );
}

#[test]
fn a_clock_that_was_set_back_hides_nothing() {
    let files = Files::new();
    let seconds = (0..600).chain(30..300).chain(100..3000);
    let text: String = seconds.clone().map(|s| line(s, "-", &format!("m{s}"))).collect();
    files.put("m.log", text);
    // Rotated while the clock was behind: the name is earlier than what it has.
    files.put(&format!("m.log.{}.gz", name_time(5)), gzip(&line(200, "-", "m200")));
    for since in [0, 29, 150, 299, 400, 2000] {
        let time = line(since, "", "").split(' ').next().unwrap().to_owned();
        let expected: Vec<u32> = [200].into_iter().chain(seconds.clone()).filter(|&s| s >= since).collect();
        assert_eq!(numbers(&files.printed(&["m.log", "--since", &time])), expected, "{since}");
        let last = &expected[expected.len() - 100..];
        assert_eq!(numbers(&files.printed(&["m.log", "--since", &time, "-n", "100"])), last, "{since}");
        let expected: Vec<u32> = [200].into_iter().chain(seconds.clone()).filter(|&s| s <= since).collect();
        assert_eq!(numbers(&files.printed(&["m.log", "--until", &time])), expected, "{since}");
    }
}

#[test]
fn the_last_ones_are_counted_back_over_the_files() {
    let (files, _) = Files::four();
    for last in 0..10u32 {
        let expected: Vec<u32> = (9 - last.min(8)..=8).collect();
        assert_eq!(numbers(&files.printed(&["m.log", "-n", &last.to_string()])), expected);
        let expected: Vec<u32> = (1..=8).filter(|n| n % 2 == 0).collect();
        let expected = &expected[4 - (last as usize).min(4)..];
        let printed = files.printed(&["m.log", "-n", &last.to_string(), "--grep", "m[2468]$"]);
        assert_eq!(numbers(&printed), expected);
    }
    // What is not needed is not read.
    files.put(&format!("m.log.{}.zst", name_time(5)), "damaged");
    assert_eq!(numbers(&files.printed(&["m.log", "-n", "4"])), [5, 6, 7, 8]);
}

#[test]
fn peers_and_patterns_choose_messages() {
    let files = Files::new();
    let text = line(1, "10.0.0.1:7", "one")
        + &line(2, "[::1]:8", r"two\x09tab back\\slash")
        + &line(3, "unix:4711", "three é")
        + &line(4, "10.0.0.1:9", r"\xff four");
    files.put("m.log", &text);
    let found = |words: &[&str]| {
        let printed = files.printed(&[&["m.log"], words].concat());
        printed.lines().map(|line| line[18..19].parse().unwrap()).collect::<Vec<u32>>()
    };
    for (words, expected) in [
        (&["--peer", "10.0.0.1"][..], &[1, 4][..]),
        (&["--peer", "10.0.0.1:9"], &[4]),
        (&["--peer", "::1"], &[2]),
        (&["--peer", "[::1]:8"], &[2]),
        (&["--peer", "unix:4711"], &[3]),
        (&["--peer", "10.0.0.2"], &[]),
        (&["--grep", r"two\ttab back\\slash"], &[2]),
        (&["--grep", "x09"], &[]),
        (&["--grep", "é$"], &[3]),
        (&["--grep", "^(one|. four)$"], &[1, 4]),
        (&["--grep", "o", "--peer", "10.0.0.1:7"], &[1]),
        (&["--grep", "15:00"], &[]),
    ] {
        assert_eq!(found(words), expected, "{words:?}");
    }
    let output = files.run(&["m.log", "--grep", "("]);
    assert_eq!(output.status.code(), Some(2));
    assert!(err(&output).starts_with("plumbd: cannot use \"(\" as a regular expression: "), "{}", err(&output));
}

#[test]
fn every_byte_can_be_had_back() {
    let files = Files::new();
    files.put("m.log", line(1, "-", r"caf\xc3 \x00 back\\slash") + &line(2, "-", "") + &line(3, "-", r"a\x0ab"));
    let output = files.run(&["m.log", "--unescape"]);
    assert_eq!(output.stdout, b"caf\xc3 \0 back\\slash\n\na\nb\n");
    files.put(
        "m.log",
        concat!(
            r#"{"time":"2026-11-22T15:00:01.000000Z","child":"echo","peer":"-","message":"a\u001b\"b"}"#,
            "\n",
            r#"{"time":"2026-11-22T15:00:02.000000Z","child":"echo","peer":"-","message_base64":"/wo=","more":true}"#,
            "\n"
        ),
    );
    assert_eq!(files.run(&["m.log", "--unescape"]).stdout, b"a\x1b\"b\n\xff\n\n");
    files.put("m.log", b"raw \\x41 \xff\n");
    assert_eq!(files.run(&["m.log", "--unescape"]).stdout, b"raw \\x41 \xff\n");
}

#[test]
fn json_comes_from_every_format() {
    let files = Files::new();
    files.put("m.log", line(1, "10.0.0.1:7", r#"say \x09 "hi""#) + &line(2, "clock", r"\xff"));
    let object = |second: u32, rest: &str| format!("{{\"time\":\"2026-11-22T15:00:0{second}.000000Z\",{rest}}}\n");
    assert_eq!(
        files.printed(&["m.log", "--json"]),
        object(1, r#""peer":"10.0.0.1:7","message":"say \t \"hi\"""#)
            + &object(2, r#""child":"clock","peer":"clock","message_base64":"/w==""#)
    );
    let json = object(1, r#""child":"echo","peer":"unix:7","message":"x","more":true"#);
    files.put("m.log", &json);
    assert_eq!(files.printed(&["m.log", "--json"]), json);
    assert_eq!(files.printed(&["m.log"]), json);
    assert_eq!(files.printed(&["m.log", "--peer", "unix:7", "--grep", "^x$", "--since", "2026-11-22"]), json);
    assert_eq!(files.printed(&["m.log", "--until", "2026-11-21"]), "");
    files.put("m.log", "a \"raw\" one\n");
    assert_eq!(files.printed(&["m.log", "--json"]), "{\"message\":\"a \\\"raw\\\" one\"}\n");
}

#[test]
fn the_format_raw_has_neither_times_nor_peers() {
    let files = Files::new();
    let text = "one\n2026-11-22T15:00:01.000000Z - two\n";
    files.put("m.log", text);
    for option in ["--since", "--until", "--peer"] {
        let why = format!("cannot use {option}: m.log has the format raw, without times and peers");
        files.refused(&["m.log", option, "12:00"], 2, &why);
    }
    assert_eq!(files.printed(&["m.log", "--grep", "o"]), text);
    assert_eq!(files.printed(&["m.log", "-n", "1"]), &text[4..]);
    // The configuration knows better than a first line.
    files.put("m.log", &text[4..]);
    files.put("plumbd.toml", "[children.x]\nplugin = \"logger\"\nsettings = { file = \"m.log\", format = \"raw\" }\n");
    files.refused(&["--peer", "-"], 2, "cannot use --peer: m.log has the format raw, without times and peers");
    assert_eq!(files.printed(&["m.log", "--unescape"]), &text[4..]);
    // The format was changed in the middle of the file.
    files.put("plumbd.toml", "[children.x]\nplugin = \"logger\"\nsettings = { file = \"m.log\" }\n");
    files.put("m.log", text);
    let output = files.run(&["--since", "2026-11-22"]);
    assert_eq!(output.stdout, &text.as_bytes()[4..]);
    assert_eq!(err(&output), "plumbd: 1 line has no time or peer, and was left out\n");
}

#[test]
fn what_cannot_be_read_is_reported_and_the_rest_is_shown() {
    let (files, _) = Files::four();
    let damaged = format!("m.log.{}.gz", name_time(3));
    let whole = fs::read(files.path(&damaged)).unwrap();
    files.put(&damaged, &whole[..whole.len() - 8]);
    files.put(&format!("m.log.{}.zst", name_time(5)), "not compressed at all");
    let output = files.run(&["m.log"]);
    assert_eq!(output.status.code(), Some(1));
    let shown = numbers(std::str::from_utf8(&output.stdout).unwrap());
    assert_eq!(shown, [1, 2, 5, 6, 7, 8], "with what is whole of a damaged one");
    let told = err(&output);
    let told: Vec<&str> = told.lines().map(|line| line.rsplit_once(": ").unwrap().0).collect();
    let names = [3, 5].map(|second| format!("plumbd: cannot read m.log.{}", name_time(second)));
    assert_eq!(told, [names[0].clone() + ".gz", names[1].clone() + ".zst"]);
    fs::remove_file(files.path("m.log")).unwrap();
    assert!(err(&files.run(&["m.log"])).ends_with("plumbd: cannot read m.log: No such file or directory\n"));
    files.refused(&["."], 1, "cannot read .: Is a directory");
}

#[test]
fn a_file_that_is_missing_between_two_is_reported() {
    // Where a file system has attributes of users.
    let files = Files { folder: tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap() };
    let mut before: Option<PathBuf> = None;
    let archive = |second: u32| files.path(&format!("m.log.{}", name_time(second)));
    for second in 1..=4 {
        fs::write(archive(second), line(second, "-", &format!("m{second}"))).unwrap();
        let note = |before: &PathBuf| follows::note(&File::open(archive(second)).unwrap(), &archive(second), before);
        before.iter().for_each(note);
        before = Some(archive(second));
    }
    files.put("m.log", line(5, "-", "m5"));
    let live = File::open(files.path("m.log")).unwrap();
    follows::note(&live, Path::new("m.log"), &archive(4));
    if follows::of(&live).is_none() {
        println!("left out: this file system has no attributes");
        return;
    }
    assert_eq!(numbers(&files.printed(&["m.log"])), [1, 2, 3, 4, 5]);
    fs::remove_file(archive(1)).unwrap();
    assert_eq!(numbers(&files.printed(&["m.log"])), [2, 3, 4, 5], "what is removed at the old end is no gap");
    fs::remove_file(archive(3)).unwrap();
    let output = files.run(&["m.log"]);
    assert_eq!(numbers(std::str::from_utf8(&output.stdout).unwrap()), [2, 4, 5]);
    let name = format!("m.log.{}", name_time(3));
    assert_eq!(err(&output), format!("plumbd: messages are missing here: {name} is not there any more\n"));
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(numbers(&files.printed(&["m.log", "-n", "2"])), [4, 5], "the gap is before what is shown");
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let files = Files::new();
    files.put("m.log", (0..100_000).map(|s| line(s % 3600, "-", "x")).collect::<String>());
    for words in ["m.log", "m.log --grep x"] {
        let script = format!("{} messages {words} | head -n 1; exit ${{PIPESTATUS[0]}}", env!("CARGO_BIN_EXE_plumbd"));
        let output = Command::new("bash").args(["-c", &script]).current_dir(files.folder.path()).output().unwrap();
        assert_eq!((output.status.code(), err(&output).as_str()), (Some(0), ""));
        assert_eq!(output.stdout, line(0, "-", "x").as_bytes());
    }
}

#[test]
fn a_full_disk_is_reported() {
    let (files, _) = Files::four();
    for words in ["", "--grep m"] {
        let script = format!("exec {} messages m.log {words} >/dev/full", env!("CARGO_BIN_EXE_plumbd"));
        let output = Command::new("bash").args(["-c", &script]).current_dir(files.folder.path()).output().unwrap();
        let why = "plumbd: cannot write to standard output: No space left on device\n";
        assert_eq!((output.status.code(), err(&output).as_str()), (Some(1), why));
    }
}

#[test]
fn a_pipe_is_read_once() {
    let files = Files::new();
    files.put("m.log", line(1, "-", "m1") + &line(2, "-", "m2"));
    let run = |words: &str| {
        let script = format!("cat m.log | {} messages /dev/stdin {words}", env!("CARGO_BIN_EXE_plumbd"));
        Command::new("bash").args(["-c", &script]).current_dir(files.folder.path()).output().unwrap()
    };
    for (words, expected) in
        [("", &[1, 2][..]), ("-f", &[1, 2]), ("--grep m2", &[2]), ("--since 2026-11-22T15:00:02Z", &[2])]
    {
        let output = run(words);
        assert_eq!(err(&output), "");
        assert_eq!(numbers(std::str::from_utf8(&output.stdout).unwrap()), expected, "{words}");
    }
    assert_eq!(run("-n 1").status.code(), Some(2));
}

#[test]
fn what_is_no_regular_file_is_refused_at_once() {
    let files = Files::new();
    nix::unistd::mkfifo(&files.path("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(files.path("socket")).unwrap();
    for words in [&[][..], &["-f"], &["-n", "3"], &["--grep", "x"]] {
        for (name, kind) in [("fifo", "a FIFO"), ("socket", "a socket")] {
            files.refused(
                &[&[name][..], words].concat(),
                1,
                &format!("cannot read {name}: it is {kind}, not a regular file"),
            );
        }
    }
    std::os::unix::fs::symlink("/dev/zero", files.path("device")).unwrap();
    files.refused(&["device"], 1, "cannot read device: it is a device, not a regular file");
}

#[test]
fn archives_of_others_are_left_out_and_named() {
    if !nix::unistd::geteuid().is_root() {
        println!("left out: it needs root");
        return;
    }
    let (files, _) = Files::four();
    let theirs = |second: u32| {
        let name = format!("m.log.{}", name_time(second));
        files.put(&name, line(second, "-", "theirs"));
        std::os::unix::fs::chown(files.path(&name), Some(12345), None).unwrap();
        name
    };
    let whose = "neither to you nor to the owner of m.log or its folder";
    let one = theirs(30);
    let output = files.run(&["m.log"]);
    assert_eq!(err(&output), format!("plumbd: left out, because it belongs {whose}: {one}\n"));
    assert!(output.status.success() && !String::from_utf8_lossy(&output.stdout).contains("theirs"));
    let mut all: Vec<String> = (31..37).map(theirs).collect();
    all.insert(0, one);
    let named = all[..5].join(", ");
    assert_eq!(
        err(&files.run(&["m.log"])),
        format!("plumbd: left out, because they belong {whose}: {named} and 2 more\n")
    );
}

/// What a terminal of script(1) is sent, and the exit status.
fn on_terminal(files: &Files, environment: &str, words: &str) -> (String, Option<i32>) {
    let command = format!("{environment} {} messages {words}", env!("CARGO_BIN_EXE_plumbd"));
    let output = Command::new("script")
        .args(["-qefc", &command, "/dev/null"])
        .current_dir(files.folder.path())
        .env("SHELL", "/bin/sh")
        .env_remove("NO_COLOR")
        .stdin(std::process::Stdio::null())
        .output()
        .expect("script(1) of util-linux is needed");
    (String::from_utf8(output.stdout).unwrap().replace("\r\n", "\n"), output.status.code())
}

#[test]
fn on_a_terminal_times_and_peers_are_dim_and_no_line_controls_it() {
    let files = Files::new();
    let text = line(1, "10.0.0.1:7", r"a \x1b[2J \\");
    files.put("m.log", &text);
    let (head, message) = text.split_at(text.len() - r"a \x1b[2J \\".len() - 1);
    let dim = format!("\x1b[2m{head}\x1b[0m{message}");
    assert_eq!(on_terminal(&files, "TERM=xterm", "m.log"), (dim, Some(0)));
    assert_eq!(on_terminal(&files, "TERM=xterm NO_COLOR=1", "m.log"), (text.clone(), Some(0)));
    assert_eq!(on_terminal(&files, "TERM=dumb", "m.log"), (text, Some(0)));
    files.put("m.log", "raw \x1b[2J\n");
    assert_eq!(on_terminal(&files, "TERM=xterm", "m.log"), ("raw \\x1b[2J\n".to_owned(), Some(0)));
    let why = "plumbd: cannot print unescaped messages to a terminal, because they could control it; redirect them to \
               a file or a pipe\n";
    assert_eq!(on_terminal(&files, "TERM=xterm", "m.log --unescape"), (why.to_owned(), Some(2)));
}

/// As an operator of the group of the files, who is not the logger's user.
#[test]
fn who_may_read_the_files_sees_the_archives_of_another_user() {
    use nix::unistd::{Uid, chown, geteuid};
    if !geteuid().is_root() {
        println!("left out: it needs root");
        return;
    }
    let (files, all) = Files::four();
    for entry in fs::read_dir(files.folder.path()).unwrap() {
        chown(&entry.unwrap().path(), Some(Uid::from_raw(12_345)), None).unwrap();
    }
    chown(files.folder.path(), Some(Uid::from_raw(12_345)), None).unwrap();
    let mode = |path: &Path| fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    mode(files.folder.path());
    let plumbd = files.path("plumbd");
    fs::copy(env!("CARGO_BIN_EXE_plumbd"), &plumbd).unwrap();
    mode(&plumbd);
    let mut command = Command::new(plumbd);
    std::os::unix::process::CommandExt::uid(&mut command, 23_456);
    command.args(["messages", "m.log"]).current_dir(files.folder.path());
    // A process that another test has just forked may have the copy open for writing still.
    let output = wait_until("it can be executed", || match command.output() {
        Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => None,
        other => Some(other.unwrap()),
    });
    assert_eq!((String::from_utf8(output.stdout.clone()).unwrap(), err(&output)), (all, String::new()));
}

/// The logger rotates as often as it can, and its archivist compresses, while others read.
#[test]
fn what_is_read_during_rotations_is_neither_lost_nor_doubled() {
    let mut rig = Rig::with("text", Lines);
    rig.settings["rotate"] = json!({"size": 4096, "compress": "gzip", "least_ms": 0});
    let logger = rig.start();
    wait_until("there is a file", || rig.path().exists().then_some(()));
    let mut source = rig.links[0].source();
    let (mut written, mut runs) = (0, 0);
    let file = rig.path();
    let read = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_plumbd"));
        let output = command.arg("messages").arg(&file).args(words).output().unwrap();
        assert_eq!((output.status.code(), err(&output).as_str()), (Some(0), ""));
        let numbers = String::from_utf8(output.stdout).unwrap();
        numbers.lines().map(|line| line.parse::<u32>().unwrap()).collect::<Vec<_>>()
    };
    while rig.counter("rotations") < 60 {
        let lines: String = (written..written + 50).map(|number| format!("{number:050}\n")).collect();
        source.write_all(lines.as_bytes()).unwrap();
        written += 50;
        wait_until("there is room", || (rig.links[0].queued() < 8192).then_some(()));
        if written % 200 == 0 {
            let all = read(&["--unescape"]);
            assert!(all.iter().copied().eq(0..all.len() as u32), "{all:?}");
            let last = read(&["--unescape", "-n", "300", "--grep", "0"]);
            assert!(last.len() == 300 || all.len() < 300, "{} of {}", last.len(), all.len());
            assert!(last.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{last:?}");
            runs += 1;
        }
    }
    assert!(runs > 5, "{runs}");
    drop(source);
    rig.end();
    logger.wait_success();
    assert!(read(&["--unescape"]).into_iter().eq(0..written));
}
