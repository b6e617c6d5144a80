//! `plumbd messages -f`: what comes later, over rotations, removals and truncation.

use crate::mini::{Rig, wait_until};
use nix::sys::signal::Signal::SIGTERM;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use plumbd::link::handover::Protocol::Lines;
use plumbd::plugin::logger::follows;
use serde_json::json;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// `plumbd messages`, and the lines that it prints.
struct Reader {
    process: Child,
    lines: Receiver<String>,
    told: Receiver<String>,
}

fn lines_of(stream: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (to, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines() {
            if to.send(line.unwrap()).is_err() {
                return;
            }
        }
    });
    lines
}

impl Reader {
    fn start(file: &Path, words: &[&str]) -> Reader {
        let mut command = Command::new(env!("CARGO_BIN_EXE_plumbd"));
        command.arg("messages").arg(file).arg("-f").args(words).current_dir(file.parent().unwrap());
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (lines, told) = (lines_of(process.stdout.take().unwrap()), lines_of(process.stderr.take().unwrap()));
        Reader { process, lines, told }
    }

    #[track_caller]
    fn next(&self) -> String {
        self.lines.recv_timeout(Duration::from_secs(30)).expect("a line")
    }

    #[track_caller]
    fn told(&self) -> String {
        self.told.recv_timeout(Duration::from_secs(30)).expect("a line on standard error")
    }

    #[track_caller]
    fn expect(&self, lines: &[&str]) {
        for line in lines {
            assert_eq!(self.next(), *line);
        }
    }

    /// Ends it. It has printed nothing else. (SIGINT is ignored if these tests run in the background of a shell.)
    #[track_caller]
    fn end(mut self) {
        kill(Pid::from_raw(self.process.id() as i32), SIGTERM).unwrap();
        assert_eq!(self.process.wait().unwrap().signal(), Some(SIGTERM as i32));
        assert_eq!(self.lines.iter().collect::<Vec<_>>(), [""; 0]);
        assert_eq!(self.told.iter().collect::<Vec<_>>(), [""; 0]);
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let _ended = self.process.kill();
        let _ended = self.process.wait();
    }
}

fn append(file: &Path, text: &str) {
    File::options().append(true).create(true).open(file).unwrap().write_all(text.as_bytes()).unwrap();
}

fn folder() -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("m.log");
    (folder, file)
}

fn archive(file: &Path, second: u32) -> std::path::PathBuf {
    format!("{}.20261122T1504{second:02}.000000Z", file.display()).into()
}

#[test]
fn it_begins_with_the_last_ten_and_goes_on_with_whole_lines() {
    let (_folder, file) = folder();
    fs::write(&file, (0..30).map(|i| format!("l{i}\n")).collect::<String>()).unwrap();
    let reader = Reader::start(&file, &[]);
    (20..30).for_each(|i| reader.expect(&[&format!("l{i}")]));
    append(&file, "one\nha");
    reader.expect(&["one"]);
    append(&file, "lf\n");
    reader.expect(&["half"]);
    reader.end();
    let reader = Reader::start(&file, &["-n", "0", "--grep", "^x"]);
    // It may be looking for the end still, so this is repeated until it is seen.
    wait_until("it has begun", || {
        append(&file, "y\nx1\n");
        reader.lines.try_recv().ok()
    });
    drop(reader);
    let most = fs::read_to_string(&file).unwrap().lines().count() - 2;
    let reader = Reader::start(&file, &["-n", &most.to_string()]);
    reader.expect(&["l2"]);
}

#[test]
fn it_follows_the_name_and_loses_no_line_over_rotations() {
    let (_folder, file) = folder();
    fs::write(&file, "one\n").unwrap();
    let reader = Reader::start(&file, &[]);
    reader.expect(&["one"]);
    append(&file, "two\n");
    reader.expect(&["two"]);
    // Twice, with a file that comes and goes in between.
    append(&file, "three\n");
    fs::rename(&file, archive(&file, 1)).unwrap();
    fs::write(&file, "four\n").unwrap();
    fs::rename(&file, archive(&file, 2)).unwrap();
    append(&file, "five\n");
    reader.expect(&["three", "four", "five"]);
    // The archive is compressed before it is seen.
    append(&file, "six\n");
    fs::rename(&file, archive(&file, 3)).unwrap();
    let packed = zstd::encode_all(&b"five\nsix\n"[..], 1).unwrap();
    fs::write(format!("{}.zst", archive(&file, 3).display()), packed).unwrap();
    fs::remove_file(archive(&file, 3)).unwrap();
    fs::write(&file, "seven\n").unwrap();
    reader.expect(&["six", "seven"]);
    // It is removed, and made again.
    fs::remove_file(&file).unwrap();
    append(&file, "eight\n");
    reader.expect(&["eight"]);
    // Another program's rotation: the file is written to until it is reopened.
    let mut open = File::options().append(true).open(&file).unwrap();
    fs::rename(&file, format!("{}.1", file.display())).unwrap();
    open.write_all(b"nine\n").unwrap();
    reader.expect(&["nine"]);
    append(&file, "ten\n");
    reader.expect(&["ten"]);
    reader.end();
}

#[test]
fn it_waits_for_a_file_that_is_not_there_yet() {
    let (_folder, file) = folder();
    fs::write(archive(&file, 1), "old\n").unwrap();
    let reader = Reader::start(&file, &[]);
    reader.expect(&["old"]);
    fs::write(&file, "new\n").unwrap();
    reader.expect(&["new"]);
    append(&file, "newer\n");
    reader.expect(&["newer"]);
    reader.end();
}

#[test]
fn a_folder_may_be_another_one() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let make = |text: &str| {
        fs::create_dir(at("logs")).unwrap();
        fs::write(at("logs/m.log"), text).unwrap();
    };
    make("one\n");
    let reader = Reader::start(&at("logs/m.log"), &[]);
    reader.expect(&["one"]);
    fs::rename(at("logs"), at("old")).unwrap();
    append(&at("old/m.log"), "two\n");
    reader.expect(&["two"]);
    make("three\n");
    reader.expect(&["three"]);
    fs::remove_dir_all(at("logs")).unwrap();
    make("four\n");
    reader.expect(&["four"]);
    append(&at("logs/m.log"), "five\n");
    reader.expect(&["five"]);
    reader.end();
}

#[test]
fn what_a_symbolic_link_leads_to_is_followed_though_no_change_is_reported() {
    let (folder, file) = folder();
    let at = |name: &str| folder.path().join("elsewhere").join(name);
    fs::create_dir(folder.path().join("elsewhere")).unwrap();
    fs::write(at("a.log"), "one\n").unwrap();
    std::os::unix::fs::symlink(at("a.log"), &file).unwrap();
    let reader = Reader::start(&file, &[]);
    reader.expect(&["one"]);
    append(&at("a.log"), "two\n");
    reader.expect(&["two"]);
    fs::rename(at("a.log"), at("a.log.1")).unwrap();
    fs::write(at("a.log"), "three\n").unwrap();
    reader.expect(&["three"]);
    reader.end();
}

#[test]
fn what_is_truncated_is_gone_on_with() {
    let (_folder, file) = folder();
    fs::write(&file, "one\ntwo\nthree\n").unwrap();
    let reader = Reader::start(&file, &[]);
    reader.expect(&["one", "two", "three"]);
    // A part of its end: nothing is printed again.
    File::options().write(true).open(&file).unwrap().set_len(9).unwrap();
    assert_eq!(reader.told(), format!("plumbd: {} was truncated from 14 to 9 bytes", file.display()));
    append(&file, "2\n");
    reader.expect(&["t2"]);
    // Another content: all of it is new.
    fs::write(&file, "").unwrap();
    append(&file, "x\n");
    assert!(reader.told().contains("was truncated from 11 to "));
    reader.expect(&["x"]);
    reader.end();
}

#[test]
fn it_ends_quietly_when_nobody_reads_any_more() {
    let (_folder, file) = folder();
    fs::write(&file, "one\n").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_plumbd"));
    command.arg("messages").arg(&file).arg("-f").current_dir(file.parent().unwrap());
    let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    let mut out = BufReader::new(process.stdout.take().unwrap());
    out.read_line(&mut line).unwrap();
    assert_eq!(line, "one\n");
    // No message comes.
    drop(out);
    let status = wait_until("it has ended", || process.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));
    assert_eq!(std::io::read_to_string(process.stderr.take().unwrap()).unwrap(), "");
}

#[test]
fn it_ends_when_nothing_later_is_asked_for() {
    let (_folder, file) = folder();
    let line = |day: u32| format!("2026-11-{day}T15:04:05.000000Z - m{day}\n");
    fs::write(&file, line(20)).unwrap();
    let mut reader = Reader::start(&file, &["--until", "2026-11-22"]);
    assert!(reader.next().ends_with("m20"));
    append(&file, &(line(21) + &line(22)));
    assert!(reader.next().ends_with("m21"));
    append(&file, &line(24));
    let status = wait_until("it has ended", || reader.process.try_wait().unwrap());
    assert_eq!((status.code(), reader.lines.iter().count()), (Some(0), 0));
}

/// The logger itself, rotating as often as it can.
fn follows_rotations(compress: Option<&str>) {
    let mut rig = Rig::with("text", Lines);
    rig.settings["rotate"] = json!({"size": 4096, "compress": compress, "keep": 3, "least_ms": 0});
    let logger = rig.start();
    wait_until("there is a file", || rig.path().exists().then_some(()));
    let reader = Reader::start(&rig.path(), &["--unescape", "-n", "100000"]);
    let mut source = rig.links[0].source();
    let mut written = 0;
    while rig.counter("rotations") < 40 {
        let lines: String = (written..written + 20).map(|number| format!("{number:050}\n")).collect();
        source.write_all(lines.as_bytes()).unwrap();
        (written..written + 20).for_each(|number| assert_eq!(reader.next(), format!("{number:050}")));
        written += 20;
    }
    drop(source);
    rig.end();
    logger.wait_success();
    reader.end();
}

#[test]
fn forty_rotations_are_followed() {
    follows_rotations(None);
}

#[test]
fn forty_rotations_that_are_compressed_are_followed() {
    follows_rotations(Some("zstd"));
}

#[test]
fn each_rotation_notes_which_archive_comes_before_and_compression_keeps_that() {
    let mut rig = Rig::with("raw", Lines);
    rig.settings["rotate"] = json!({"size": 4096, "compress": "zstd", "least_ms": 0});
    let logger = rig.start();
    let mut source = rig.links[0].source();
    for count in 1..=4 {
        source.write_all("x\n".repeat(3000).as_bytes()).unwrap();
        wait_until("it is rotated", || (rig.counter("rotations") == count && rig.text().is_empty()).then_some(()));
    }
    let is_packed = |path: &std::path::PathBuf| path.extension().is_some_and(|extension| extension == "zst");
    wait_until("all are compressed", || {
        let archives = rig.archives();
        (archives.len() == 4 && archives.iter().all(is_packed)).then_some(())
    });
    let follows = |path: &Path| follows::of(&File::open(path).unwrap());
    if follows(&rig.path()).is_some() {
        let archives = rig.archives();
        let time =
            |path: &Path| path.to_str().unwrap().rsplit_once("m.log.").unwrap().1.trim_end_matches(".zst").to_owned();
        assert_eq!(follows(&archives[0]), None, "the first follows none");
        for pair in archives.windows(2) {
            assert_eq!(follows(&pair[1]), Some(time(&pair[0])));
        }
        assert_eq!(follows(&rig.path()), Some(time(&archives[3])));
    } else {
        println!("left out: this file system has no attributes of users");
    }
    logger.signal(SIGTERM);
    logger.wait_success();
}
