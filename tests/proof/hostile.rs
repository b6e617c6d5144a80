//! Another local user, who may write to the folder of the message file, puts things at
//! every name that the logger uses there, before it starts and while it opens them.

use crate::mini::{Logger, Rig, records, wait_until};
use crate::trial::{Trial, Tried, needs_command, needs_root, scaled};
use nix::sys::signal::Signal::{SIGTERM, SIGUSR1};
use plumbd::link::handover::Protocol::Records;
use serde_json::json;
use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown, lchown, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        Trial {
            name: "hostile/planted",
            fault: "another user has put a link, a dangling link, a second name of a file, a FIFO, a folder or a file of \
                    theirs at each name that the logger uses, in a folder like /tmp and in one of theirs",
            promise: "nothing outside the folder is read, written or changed in owner or mode; the logger saves, or \
                      reports what is in its way and goes on once that is gone; every message is there exactly once",
            missing: needs_root,
            attempt: planted,
        },
        Trial {
            name: "hostile/swapped",
            fault: "these things are put there and taken away again while the logger rotates, compresses, reopens, and is \
                    stopped and killed; in a folder of theirs, the message file is moved aside too",
            promise: "nothing outside the folder is read, written or changed in owner or mode; no logger takes longer than \
                      10 s to stop; every message is there exactly once, in the file, an archive, or what was moved \
                      aside, in order in each",
            missing: || needs_root().or_else(|| needs_command("perl")).or_else(|| needs_command("setpriv")),
            attempt: swapped,
        },
    ]
}

/// The other user.
const OTHER: u32 = 65534;

const NAMES: [&str; 7] = [
    "m.log",
    ".m.log.intent",
    ".m.log.intent.new",
    ".m.log.new",
    ".m.log.archive",
    ".m.log.torn-5-4",
    "m.log.20990101T000000.000000Z",
];

/// The things that are put there.
const WAYS: [&str; 6] = ["link", "dangling link", "second name", "FIFO", "folder", "file"];

/// A folder that the other user may write to, and files of root outside of it.
struct Place {
    rig: Rig,
    folder: PathBuf,
    secret: PathBuf,
    common: PathBuf,
    before: Vec<String>,
    sent: u64,
}

impl Place {
    fn new(theirs: bool) -> Place {
        let mut rig = Rig::with("raw", Records);
        fs::set_permissions(rig.folder.path(), Permissions::from_mode(0o755)).unwrap();
        let at = |name: &str| rig.folder.path().join(name);
        let (folder, outside) = (at("theirs"), at("outside"));
        for path in [&folder, &outside] {
            fs::create_dir(path).unwrap();
        }
        if theirs {
            chown(&folder, Some(OTHER), None).unwrap();
        } else {
            fs::set_permissions(&folder, Permissions::from_mode(0o1777)).unwrap();
        }
        let (secret, common) = (outside.join("secret"), outside.join("common"));
        for (path, mode) in [(&secret, 0o600), (&common, 0o666)] {
            // If it is read, this is found in the messages.
            fs::write(path, "outside\n").unwrap();
            fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        }
        rig.settings["file"] = json!(folder.join("m.log"));
        rig.settings["rotate"] = json!({"size": 4096, "least_ms": 0, "keep": 100_000, "compress": "gzip"});
        let before = looks(&outside);
        Place { rig, folder, secret, common, before, sent: 0 }
    }

    fn put(&self, way: &str, name: &str) -> PathBuf {
        let path = self.folder.join(name);
        match way {
            "link" => symlink(&self.secret, &path).unwrap(),
            "dangling link" => symlink(self.secret.with_extension("new"), &path).unwrap(),
            "second name" => return fs::hard_link(&self.secret, &path).map(|()| path).unwrap(),
            "FIFO" => nix::unistd::mkfifo(&path, nix::sys::stat::Mode::from_bits_truncate(0o666)).unwrap(),
            "folder" => fs::create_dir(&path).unwrap(),
            _ => fs::write(&path, "forged\n").unwrap(),
        }
        lchown(&path, Some(OTHER), Some(OTHER)).unwrap();
        path
    }

    /// Sends a message, if there is room.
    fn send(&mut self) {
        let text = format!("{} {}", self.sent + 1, "x".repeat(80));
        let mut source = self.rig.links[0].source();
        for record in records(self.sent + 1, 7, text.as_bytes(), false) {
            if source.write(&record).is_err() {
                return;
            }
        }
        self.sent += 1;
    }

    /// Checks that every message is there once, in order in each file, and nothing else is.
    fn check(&self) {
        let mut seen = BTreeMap::new();
        for path in fs::read_dir(&self.folder).unwrap().map(|entry| entry.unwrap().path()) {
            let name = path.file_name().unwrap().to_str().unwrap();
            let is_saved = name == "m.log" || name.starts_with("m.log.2") || name.ends_with("-m.log");
            // If the raw form of an archive is there, that is the one that counts.
            if !is_saved || name.ends_with(".gz") && path.with_extension("").exists() {
                continue;
            }
            let mut text = String::new();
            let file = File::open(&path).unwrap();
            assert_eq!(file.metadata().unwrap().uid(), 0, "{name}");
            match name.ends_with(".gz") {
                true => flate2::read::GzDecoder::new(file).read_to_string(&mut text).unwrap(),
                false => { file }.read_to_string(&mut text).unwrap(),
            };
            let mut last = 0;
            for line in text.lines() {
                let number: u64 = line.split_once(' ').unwrap_or_else(|| panic!("{name}: {line:?}")).0.parse().unwrap();
                assert!(number > last, "{name}: {number} behind {last}");
                last = number;
                *seen.entry(number).or_insert(0) += 1;
            }
        }
        let doubled: Vec<_> = seen.iter().filter(|(_, times)| **times > 1).collect();
        let lost: Vec<_> = (1..=self.sent).filter(|number| !seen.contains_key(number)).collect();
        assert!(doubled.is_empty() && lost.is_empty(), "doubled {doubled:?}, lost {lost:?}");
        assert_eq!(seen.len() as u64, self.sent, "there is more than was sent");
    }

    fn check_outside(&self) {
        assert_eq!(looks(self.secret.parent().unwrap()), self.before, "what is outside has changed");
    }

    /// Removes what is left of the other user.
    fn clear(&self) {
        for path in fs::read_dir(&self.folder).unwrap().map(|entry| entry.unwrap().path()) {
            let is = path.symlink_metadata().unwrap();
            if is.uid() == OTHER || !is.is_file() || is.nlink() > 1 {
                remove(&path);
            }
        }
    }
}

/// Removes a name if it is still there. The archivist may have removed it.
fn remove(path: &Path) {
    match path.symlink_metadata() {
        Ok(is) if is.is_dir() => fs::remove_dir(path).unwrap(),
        Ok(_) => fs::remove_file(path).unwrap(),
        Err(_) => {}
    }
}

/// The name, owner, mode and content of everything in a folder.
fn looks(folder: &Path) -> Vec<String> {
    let look = |entry: std::io::Result<fs::DirEntry>| {
        let path = entry.unwrap().path();
        let is = fs::symlink_metadata(&path).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        format!("{path:?} {} {} {:o} {text}", is.uid(), is.gid(), is.mode())
    };
    let mut all: Vec<String> = fs::read_dir(folder).unwrap().map(look).collect();
    all.sort();
    all
}

fn planted(times: f64) -> Tried {
    let (mut tried, mut told, mut messages) = (0, 0, 0);
    for _ in 0..scaled(1, times) {
        for theirs in [false, true] {
            for name in NAMES {
                for way in WAYS {
                    let mut place = Place::new(theirs);
                    let there = place.put(way, name);
                    let logger = place.rig.start();
                    (0..200).for_each(|_| place.send());
                    if ["m.log", ".m.log.intent"].contains(&name) {
                        place.rig.wait_notified(&format!("X_PLUMBD_PROBLEM=cannot open {}: it ", there.display()));
                        told += 1;
                    } else {
                        place.rig.wait_notified("READY=1");
                    }
                    place.check_outside();
                    remove(&there);
                    place.rig.end();
                    logger.wait_success();
                    place.clear();
                    place.check();
                    place.check_outside();
                    tried += 1;
                    messages += place.sent;
                }
            }
        }
    }
    Tried {
        count: format!(
            "{tried} times {} things at {} names in 2 kinds of folder; {messages} messages",
            WAYS.len(),
            NAMES.len()
        ),
        outcome: format!("nothing outside changed; told and waited out {told} times; 0 lost, 0 doubled"),
        control: through_a_link(),
    }
}

/// The control: a logger that opens its file by its name.
fn through_a_link() -> String {
    let place = Place::new(true);
    place.put("link", "m.log");
    let mut tee = Command::new("tee");
    let mut tee =
        tee.arg("-a").arg(place.folder.join("m.log")).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    tee.stdin.take().unwrap().write_all(b"a message\n").unwrap();
    assert!(tee.wait().unwrap().success());
    assert_ne!(looks(place.secret.parent().unwrap()), place.before, "a link makes no difference");
    "`tee -a` wrote through a link: found out".to_owned()
}

/// How long a logger may take to stop.
const STOP: Duration = Duration::from_secs(10);

fn swapped(times: f64) -> Tried {
    let count = scaled(10_000, times);
    let (mut swaps, mut aside, mut starts, mut messages) = (0, 0, 0, 0);
    for theirs in [false, true] {
        let mut place = Place::new(theirs);
        let other = other_user(&place, count, theirs);
        let came = disturbed(&mut place, other, &mut starts);
        let figures: Vec<u32> = came.split_whitespace().map(|figure| figure.parse().unwrap()).collect();
        swaps += figures[0];
        aside += figures[1];
        place.clear();
        place.rig.drain();
        place.check_outside();
        place.clear();
        place.check();
        messages += place.sent;
    }
    assert_eq!(swaps, 2 * count);
    Tried {
        count: format!(
            "{swaps} swaps in 2 kinds of folder, the file moved aside {aside} times; {starts} loggers, {messages} messages"
        ),
        outcome: "nothing outside changed; each logger stopped in time; 0 lost, 0 doubled, 0 out of order".to_owned(),
        control: look_then_open(count),
    }
}

fn other_user(place: &Place, count: u32, theirs: bool) -> std::process::Child {
    Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "perl"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/proof/hostile.pl"))
        .args([&place.folder, &place.secret, &place.common])
        .arg(count.to_string())
        .arg(if theirs { "1" } else { "" })
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Runs one logger after the other while the other user is at work. Returns what that one
/// reports at the end.
fn disturbed(place: &mut Place, mut other: std::process::Child, starts: &mut u32) -> String {
    let mut logger = place.rig.start();
    while other.try_wait().unwrap().is_none() {
        let until = Instant::now() + Duration::from_millis(20);
        while Instant::now() < until {
            place.send();
            std::thread::sleep(Duration::from_micros(200));
        }
        *starts += 1;
        match *starts % 4 {
            0 => logger.kill(),
            1 => stop(logger),
            _ => {
                logger.signal(SIGUSR1);
                continue;
            }
        }
        logger = place.rig.start();
    }
    stop(logger);
    let mut said = String::new();
    other.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(other.wait().unwrap().success());
    said
}

fn stop(mut logger: Logger) {
    let began = Instant::now();
    logger.signal(SIGTERM);
    let status = wait_until("the logger has ended", || logger.ended());
    assert!(began.elapsed() < STOP, "it took {:?} to stop", began.elapsed());
    // If it has just been started, it may not have its handlers yet.
    assert!(status.success() || status.signal() == Some(SIGTERM as i32), "{status:?}");
}

/// The control: a program that looks at a name first, and then opens it.
fn look_then_open(count: u32) -> String {
    let place = Place::new(true);
    let mut other = other_user(&place, count, true);
    let path = place.folder.join(".m.log.archive");
    let mut fooled = 0;
    while other.try_wait().unwrap().is_none() {
        let is_link = path.symlink_metadata().is_ok_and(|is| !is.is_file());
        // Do not wait for a FIFO.
        let opened = (!is_link).then(|| File::options().append(true).custom_flags(nix::libc::O_NONBLOCK).open(&path));
        let common = place.common.metadata().unwrap().ino();
        let secret = place.secret.metadata().unwrap().ino();
        if let Some(Ok(file)) = opened {
            fooled += u32::from([common, secret].contains(&file.metadata().unwrap().ino()));
        }
    }
    other.wait().unwrap();
    assert!(fooled > 0, "to look first makes no difference");
    format!("`look, then open` opened a file outside {fooled} times: found out; {}", through_a_link())
}
