//! Another local user may write to the folder of the message file, or may only read the
//! file. Such a user gains, reads, destroys and stops nothing.
//!
//! What that user plants is made by root here and then given to that user. Only the owner
//! matters.

use crate::daemon::Daemon;
use crate::mini::{Logger, Rig, records, wait_until, write_record};
use nix::sys::signal::Signal::{SIGTERM, SIGUSR1};
use nix::sys::stat::Mode;
use plumbd::control::client;
use plumbd::link::handover::Protocol::{Lines, Records};
use plumbd::link::intent::{FileId, Intent, Promise};
use plumbd::link::record::Ack;
use serde_json::json;
use std::fs::{self, File, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The other user.
const OTHER: u32 = 65534;
const AS_OTHER: [&str; 4] = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];

/// The kind of shared folder that the message file is in.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Shared {
    /// Like /tmp.
    Sticky,
    /// It belongs to the other user.
    Theirs,
}

const BOTH: [Shared; 2] = [Shared::Sticky, Shared::Theirs];

/// What is planted at a name.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Plant {
    Link,
    Dangling,
    HardLink,
    Fifo,
    Folder,
    File,
}

const PLANTS: [Plant; 6] = [Plant::Link, Plant::Dangling, Plant::HardLink, Plant::Fifo, Plant::Folder, Plant::File];

fn is_root() -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        println!("left out: needs root");
    }
    is_root
}

/// A rig whose file is in such a folder, and a file of root outside of it.
struct Scene {
    rig: Rig,
    folder: PathBuf,
    victim: PathBuf,
    before: (u32, u32, u32, i64),
}

const SECRET: &[u8] = b"secret\nlines\n";

impl Scene {
    fn new(shared: Shared, mut rig: Rig) -> Scene {
        fs::set_permissions(rig.folder.path(), Permissions::from_mode(0o755)).unwrap();
        let folder = rig.folder.path().join("theirs");
        fs::create_dir(&folder).unwrap();
        match shared {
            Shared::Sticky => fs::set_permissions(&folder, Permissions::from_mode(0o1777)).unwrap(),
            Shared::Theirs => chown(&folder, Some(OTHER), None).unwrap(),
        }
        rig.settings["file"] = json!(folder.join("m.log"));
        let victim = rig.folder.path().join("victim");
        fs::write(&victim, SECRET).unwrap();
        fs::set_permissions(&victim, Permissions::from_mode(0o600)).unwrap();
        let before = looks(&victim);
        Scene { rig, folder, victim, before }
    }

    fn with_lines(shared: Shared) -> Scene {
        let mut rig = Rig::with("raw", Lines);
        rig.settings["rotate"] = json!({"size": 4096, "least_ms": 0, "keep": 100, "compress": "gzip"});
        Scene::new(shared, rig)
    }

    fn plant(&self, plant: Plant, name: &str) -> PathBuf {
        let path = self.folder.join(name);
        match plant {
            Plant::Link => symlink(&self.victim, &path).unwrap(),
            Plant::Dangling => symlink(self.rig.folder.path().join("new"), &path).unwrap(),
            Plant::HardLink => return fs::hard_link(&self.victim, &path).map(|()| path).unwrap(),
            Plant::Fifo => nix::unistd::mkfifo(&path, Mode::from_bits_truncate(0o666)).unwrap(),
            Plant::Folder => fs::create_dir(&path).unwrap(),
            Plant::File => {
                fs::write(&path, "").unwrap();
                fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
            }
        }
        lchown(&path, Some(OTHER), Some(OTHER)).unwrap();
        path
    }

    /// Checks that nothing outside the folder was copied into it, written or changed.
    fn assert_untouched(&self, what: &str) {
        assert_eq!(fs::read(&self.victim).unwrap(), SECRET, "{what}");
        let (mut now, mut before) = (looks(&self.victim), self.before);
        // Hard links that were planted may or may not be there still.
        (now.3, before.3) = (0, 0);
        assert_eq!(now, before, "{what}");
        assert!(!self.rig.folder.path().join("new").exists(), "{what}");
    }
}

/// Mode, owner, group, and time of the last write.
fn looks(path: &Path) -> (u32, u32, u32, i64) {
    let is = fs::symlink_metadata(path).unwrap();
    (is.mode() & 0o7777, is.uid(), is.gid(), is.mtime_nsec())
}

fn remove(path: &Path) {
    match path.symlink_metadata() {
        Ok(is) if is.is_dir() => fs::remove_dir(path).unwrap(),
        Ok(_) => fs::remove_file(path).unwrap(),
        Err(_) => {}
    }
}

fn stop(logger: Logger) {
    logger.signal(SIGTERM);
    logger.wait_success();
}

#[test]
fn what_is_planted_where_the_logger_must_open_a_file_is_refused_with_the_reason_until_it_is_gone() {
    if !is_root() {
        return;
    }
    for shared in BOTH {
        for name in ["m.log", ".m.log.intent"] {
            for plant in PLANTS {
                let what = format!("{shared:?} {name} {plant:?}");
                let mut scene = Scene::with_lines(shared);
                let planted = scene.plant(plant, name);
                scene.rig.links[0].source().write_all(b"one\n").unwrap();
                let logger = scene.rig.start();
                let reason = match plant {
                    Plant::Link | Plant::Dangling => "it is a symbolic link, in a folder that others may write to",
                    Plant::HardLink => "it has 2 names, in a folder that others may write to",
                    Plant::Fifo => "it is a FIFO, no regular file",
                    Plant::Folder => "it is no regular file",
                    Plant::File => "it belongs to user 65534",
                };
                scene.rig.wait_notified(&format!("X_PLUMBD_PROBLEM=cannot open {}: {reason}", planted.display()));
                scene.assert_untouched(&what);
                remove(&planted);
                scene.rig.end();
                logger.wait_success();
                assert_eq!(scene.rig.text(), "one\n", "{what}");
                scene.assert_untouched(&what);
            }
        }
    }
}

#[test]
fn what_is_planted_at_its_other_names_keeps_no_message_from_being_saved() {
    if !is_root() {
        return;
    }
    let torn = ".m.log.torn-5-4";
    for shared in BOTH {
        for name in [".m.log.archive", ".m.log.new", ".m.log.intent.new", torn, "m.log.20200101T000000.000000Z"] {
            for plant in PLANTS {
                let what = format!("{shared:?} {name} {plant:?}");
                let mut scene = Scene::with_lines(shared);
                let planted = scene.plant(plant, name);
                let logger = scene.rig.start();
                scene.rig.wait_notified("READY=1");
                let text = "x\n".repeat(3000);
                scene.rig.links[0].source().write_all(text.as_bytes()).unwrap();
                scene.rig.end();
                logger.wait_success();
                scene.rig.start_archivist(&[]).wait();
                // What the other user has planted does not count as an archive.
                remove(&planted);
                assert_eq!(scene.rig.all_text(), text, "{what}");
                scene.assert_untouched(&what);
            }
        }
    }
}

#[test]
fn a_link_on_the_way_is_followed_only_if_an_administrator_made_it() {
    if !is_root() {
        return;
    }
    for shared in BOTH {
        let mut scene = Scene::with_lines(shared);
        let outside = scene.rig.folder.path().join("outside");
        fs::create_dir(&outside).unwrap();
        let (theirs, ours) = (scene.folder.join("logs"), scene.rig.folder.path().join("logs"));
        for link in [&theirs, &ours] {
            symlink(&outside, link).unwrap();
        }
        lchown(&theirs, Some(OTHER), None).unwrap();
        scene.rig.settings["file"] = json!(theirs.join("m.log"));
        let logger = scene.rig.start();
        scene.rig.wait_notified("logs on the way is a symbolic link, in a folder that others may write to");
        stop(logger);
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
        scene.rig.settings["file"] = json!(ours.join("m.log"));
        scene.rig.links[0].source().write_all(b"one\n").unwrap();
        scene.rig.drain();
        assert_eq!(fs::read(outside.join("m.log")).unwrap(), b"one\n");
    }
}

/// An intent file that promises those bytes to that file.
fn forged(scene: &Scene, file: &Path, bytes: &[u8]) -> Vec<u8> {
    let path = scene.rig.folder.path().join("forged");
    let mut intent = Intent::open(&path, 4096).unwrap().unwrap();
    intent.reset().unwrap();
    intent.body_mut()[..bytes.len()].copy_from_slice(bytes);
    let is = fs::metadata(file).unwrap();
    let length = bytes.len() as u64;
    intent.promise(&Promise { batch: 7, file: FileId::of(&is), offset: is.len(), length }).unwrap();
    let forged = fs::read(&path).unwrap();
    fs::remove_file(path).unwrap();
    forged
}

#[test]
fn an_intent_file_of_another_user_is_never_believed() {
    if !is_root() {
        return;
    }
    for shared in BOTH {
        for way in [Plant::Link, Plant::HardLink, Plant::File] {
            let mut scene = Scene::new(shared, Rig::with("raw", Lines));
            // The file of the promise: a link, another name of a file, or a file of their own.
            let target = scene.plant(way, "target");
            let bytes = forged(&scene, &target, b"forged\n");
            let intent = scene.folder.join(".m.log.intent");
            fs::write(&intent, bytes).unwrap();
            chown(&intent, Some(OTHER), None).unwrap();
            let logger = scene.rig.start();
            scene.rig.wait_notified("/.m.log.intent: it belongs to user 65534");
            fs::remove_file(&intent).unwrap();
            scene.rig.links[0].source().write_all(b"one\n").unwrap();
            scene.rig.end();
            logger.wait_success();
            assert_eq!(scene.rig.text(), "one\n");
            scene.assert_untouched(&format!("{shared:?} {way:?}"));
            assert!(way != Plant::File || fs::read(&target).unwrap().is_empty());
        }
    }
}

#[test]
fn no_message_goes_to_a_file_that_others_made_readable_for_themselves() {
    if !is_root() {
        return;
    }
    // In a folder of root, an administrator wants this.
    for (shared, is_given) in [(Shared::Theirs, false), (Shared::Sticky, true)] {
        let mut scene = Scene::new(shared, Rig::with("raw", Records));
        // All that is made there belongs to their group, which may read and write it.
        chown(&scene.folder, None, Some(OTHER)).unwrap();
        let mode = fs::metadata(&scene.folder).unwrap().mode();
        fs::set_permissions(&scene.folder, Permissions::from_mode(mode | 0o2000)).unwrap();
        let list = ["-d", "-m", "u:65534:rwx,m::rwx"];
        let has_lists = Command::new("setfacl").args(list).arg(&scene.folder).status().is_ok_and(|s| s.success());
        let source = scene.rig.links[0].source();
        for record in records(1, 7, b"for few", false) {
            write_record(&source, &record);
        }
        drop(source);
        let logger = scene.rig.start();
        wait_until("it is saved", || (scene.rig.text() == "for few\n").then_some(()));
        for name in ["m.log", ".m.log.intent"] {
            let path = scene.folder.join(name);
            let read = Command::new(AS_OTHER[0]).args(&AS_OTHER[1..]).arg("cat").arg(&path).output().unwrap();
            let is_read = is_given && name == "m.log";
            assert_eq!(read.stdout.is_empty(), !is_read, "{name}, lists: {has_lists}");
            assert_eq!(fs::metadata(&path).unwrap().gid() == OTHER, is_given, "{name}");
        }
        scene.rig.end();
        logger.wait_success();
    }
}

#[test]
fn archives_that_others_planted_do_not_count() {
    if !is_root() {
        return;
    }
    for shared in BOTH {
        let mut scene = Scene::with_lines(shared);
        scene.rig.settings["rotate"] = json!({"size": 4096, "least_ms": 0, "keep": 2});
        for second in 0..3 {
            fs::write(scene.folder.join(format!("m.log.20200101T00000{second}.000000Z")), "ours\n").unwrap();
        }
        for (at, plant) in PLANTS.into_iter().enumerate() {
            scene.plant(plant, &format!("m.log.2099010{}T000000.000000Z", at + 1));
        }
        scene.rig.start_archivist(&[]).wait_success();
        let ours = |scene: &Scene| scene.rig.files("m.log.2020").len();
        assert_eq!((ours(&scene), scene.rig.files("m.log.2099").len()), (2, PLANTS.len()), "{shared:?}");
        scene.rig.links[0].source().write_all("x\n".repeat(3000).as_bytes()).unwrap();
        scene.rig.drain();
        scene.rig.start_archivist(&[]).wait_success();
        // The new archive has the name of the current time, not one after theirs.
        assert_eq!((ours(&scene), scene.rig.files("m.log.2099").len()), (1, PLANTS.len()), "{shared:?}");
        scene.assert_untouched(&format!("{shared:?}"));
    }
}

#[test]
fn if_two_loggers_belong_to_different_users_the_second_waits() {
    if !is_root() {
        return;
    }
    for other_is_first in [true, false] {
        let (rig, second) = (Rig::with("raw", Lines), Rig::with("raw", Lines));
        let scene = Scene::new(Shared::Sticky, rig);
        let mut second = Scene { folder: scene.folder.clone(), ..Scene::new(Shared::Sticky, second) };
        second.rig.settings["file"] = scene.rig.settings["file"].clone();
        for rig in [&scene.rig, &second.rig] {
            fs::set_permissions(rig.folder.path().join("notify"), Permissions::from_mode(0o777)).unwrap();
        }
        let start = |rig: &Rig, other: bool| if other { rig.start_under(&AS_OTHER) } else { rig.start() };
        let first = start(&scene.rig, other_is_first);
        scene.rig.wait_notified("READY=1");
        let waits = start(&second.rig, !other_is_first);
        let why = if other_is_first { "it belongs to user 65534" } else { "Permission denied" };
        second.rig.wait_notified(&format!("/.m.log.intent: {why}"));
        scene.rig.links[0].source().write_all(b"one\n").unwrap();
        wait_until("it is saved", || (scene.rig.text() == "one\n").then_some(()));
        stop(first);
        stop(waits);
    }
}

#[test]
fn a_check_warns_of_a_folder_that_others_may_write_to() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let logs = folder.path().join("logs");
    fs::create_dir(&logs).unwrap();
    let config = |user: &str| {
        format!(
            "[children.logger]\nplugin = \"logger\"\n{user}\n[children.logger.settings]\nfile = \"logs/m.log\"\n\
             [children.one]\ncommand = [\"/bin/true\"]\n[[links]]\nfrom = \"one\"\nto = \"logger\"\n"
        )
    };
    let text = "plumbd.toml:5: warning: others may write to ";
    for (mode, owner, user, warns) in [
        (0o755, 0, "", false),
        (0o755, 0, "user = \"nobody\"", false),
        (0o755, OTHER, "user = \"nobody\"", false),
        (0o755, 1, "user = \"nobody\"", true),
        // A folder of that user alone is no reason: a service manager may run plumbd as that user.
        (0o755, OTHER, "", false),
        (0o775, OTHER, "", false),
        (0o777, 0, "", true),
        (0o1777, 0, "", true),
        (0o1777, 0, "user = \"nobody\"", true),
    ] {
        chown(&logs, Some(owner), Some(owner)).unwrap();
        fs::set_permissions(&logs, Permissions::from_mode(mode)).unwrap();
        fs::write(folder.path().join("plumbd.toml"), config(user)).unwrap();
        let (status, _, err) = plumbd(folder.path(), &["check"]);
        assert_eq!(
            (status, err.starts_with(text), err.is_empty()),
            (Some(0), warns, !warns),
            "{mode:o} {owner} {user} {err}"
        );
    }
}

/// A process of the other user, which ends with the test.
struct Other(Child);

impl Other {
    /// Starts it, and waits until it reports that it is ready.
    fn start(command: &mut Command) -> Other {
        let mut other = Other(command.stdout(Stdio::piped()).spawn().unwrap());
        other.0.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        other
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// A process that has locked that file.
fn locked_by_other(path: &Path, how: &str) -> Other {
    let script = format!("exec 9<\"$0\"; flock {how} 9; echo; exec sleep 1000");
    Other::start(Command::new(AS_OTHER[0]).args(&AS_OTHER[1..]).args(["sh", "-c", &script]).arg(path))
}

#[test]
fn a_user_who_may_only_read_the_file_stops_nothing_by_a_lock() {
    if !is_root() {
        return;
    }
    for how in ["-s", "-x"] {
        let mut rig = Rig::with("raw", Records);
        fs::set_permissions(rig.folder.path(), Permissions::from_mode(0o755)).unwrap();
        rig.settings["mode"] = json!(0o644);
        fs::write(rig.path(), "").unwrap();
        let other = locked_by_other(&rig.path(), how);
        let logger = rig.start();
        rig.wait_notified("READY=1");
        let send = |sequence: u64| {
            for record in records(sequence, 7, b"m", true) {
                write_record(&rig.links[0].source(), &record);
            }
            wait_until("it is acknowledged", || {
                rig.links[0].acks().contains(&Ack { epoch: 7, sequence }).then_some(())
            });
        };
        send(1);
        // This holds for a new file after a rename too, which they lock before the reopen.
        fs::rename(rig.path(), rig.folder.path().join("m.log.1")).unwrap();
        fs::write(rig.path(), "").unwrap();
        let again = locked_by_other(&rig.path(), how);
        logger.signal(SIGUSR1);
        wait_until("it is reopened", || rig.logged().contains("reopened").then_some(()));
        send(2);
        assert_eq!(rig.text(), "m\n");
        // But another logger waits, whatever name it has for the file.
        let link = rig.folder.path().join("link.log");
        symlink(rig.path(), &link).unwrap();
        let mut second = Rig::with("raw", Records);
        second.settings["file"] = json!(link);
        let waits = second.start();
        second.wait_notified("another process has locked it");
        stop(logger);
        second.wait_notified("READY=1");
        stop(waits);
        drop((other, again));
    }
}

#[test]
fn archives_that_others_lock_are_compressed_and_removed() {
    if !is_root() {
        return;
    }
    for how in ["-s", "-x"] {
        let mut rig = Rig::with("raw", Lines);
        fs::set_permissions(rig.folder.path(), Permissions::from_mode(0o755)).unwrap();
        rig.settings["rotate"] = json!({"size": 4096, "keep": 2, "compress": "gzip"});
        let names: Vec<String> = (0..3).map(|second| format!("m.log.20200101T00000{second}.000000Z")).collect();
        let others: Vec<Other> = names
            .iter()
            .map(|name| {
                fs::write(rig.folder.path().join(name), "one\n").unwrap();
                locked_by_other(&rig.folder.path().join(name), how)
            })
            .collect();
        rig.start_archivist(&[]).wait_success();
        let left: Vec<PathBuf> = names[1..].iter().map(|name| rig.folder.path().join(format!("{name}.gz"))).collect();
        assert_eq!(rig.archives(), left, "{how}");
        drop(others);
    }
}

#[test]
fn a_pid_file_is_written_through_no_link_and_held_by_no_reader() {
    if !is_root() {
        return;
    }
    for shared in BOTH {
        let scene = Scene::with_lines(shared);
        for plant in PLANTS {
            let planted = scene.plant(plant, "pid");
            let (status, err) = run_with_pid_file(scene.rig.folder.path(), &planted);
            assert!(status != Some(0) && err.contains("cannot open the pid file"), "{plant:?}: {err}");
            scene.assert_untouched(&format!("{shared:?} {plant:?}"));
            remove(&planted);
        }
    }
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    let pid = folder.path().join("pid");
    fs::write(&pid, "").unwrap();
    let _other = locked_by_other(&pid, "-x");
    let (status, err) = run_with_pid_file(folder.path(), &pid);
    assert_eq!((status, err.contains("pid file")), (Some(0), false), "{err}");
}

/// Runs a daemon of one child that ends it soon, and returns what came of it.
fn run_with_pid_file(folder: &Path, pid: &Path) -> (Option<i32>, String) {
    let config = folder.join("pid.toml");
    fs::write(&config, "[children.one]\ncommand = [\"/bin/sh\", \"-c\", \"kill $PPID\"]\nrestart = \"never\"\n")
        .unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_plumbd"));
    let out = command.args(["run", "-c"]).arg(&config).arg("--pid-file").arg(pid).output().unwrap();
    (out.status.code(), String::from_utf8(out.stderr).unwrap())
}

fn plumbd(folder: &Path, words: &[&str]) -> (Option<i32>, String, String) {
    let out = Command::new(env!("CARGO_BIN_EXE_plumbd")).args(words).current_dir(folder).output().unwrap();
    (out.status.code(), String::from_utf8(out.stdout).unwrap(), String::from_utf8(out.stderr).unwrap())
}

const RIGHT: &str = "[children.one]\ncommand = [\"/bin/true\"]\n";

#[test]
fn a_configuration_that_others_may_have_written_is_refused() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("plumbd.toml");
    let put = |mode: u32, owner: u32| {
        remove(&file);
        fs::write(&file, RIGHT).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
        chown(&file, Some(owner), Some(owner)).unwrap();
    };
    let refused = |why: &str| {
        for words in [&["check"][..], &["check", "-c", "plumbd.toml"], &["run"]] {
            let (status, out, err) = plumbd(folder.path(), words);
            assert!(status != Some(0) && out.is_empty() && err.contains(why), "{words:?} {status:?} {out} {err}");
        }
    };
    put(0o644, OTHER);
    refused("it belongs to user 65534, who is neither root nor you");
    // A command that only looks for the control socket in it checks who listens there instead.
    let (status, _, err) = plumbd(folder.path(), &["status"]);
    assert!(status == Some(3) && !err.contains("belongs"), "{status:?} {err}");
    // A file that is handed over as a descriptor, or mounted read-only, is trusted.
    let sh = |script: &str| {
        let mut sh = Command::new("unshare");
        sh.args(["-m", "sh", "-c", script, env!("CARGO_BIN_EXE_plumbd")]).current_dir(folder.path());
        let done = sh.output().unwrap();
        (done.status.success(), String::from_utf8(done.stderr).unwrap())
    };
    assert_eq!(sh("\"$0\" check -c /dev/stdin <plumbd.toml"), (true, String::new()));
    let mounted = "mount --bind plumbd.toml plumbd.toml && mount -o remount,bind,ro plumbd.toml && \"$0\" check";
    assert_eq!(sh(mounted), (true, String::new()));
    remove(&file);
    nix::unistd::mkfifo(&file, Mode::S_IRWXU).unwrap();
    chown(&file, Some(OTHER), None).unwrap();
    refused("it belongs to user 65534, who is neither root nor you");
    put(0o666, 0);
    refused("others than its owner may write to it (mode 0666)");
    put(0o664, 0);
    chown(&file, None, Some(4)).unwrap();
    refused("others than its owner may write to it (mode 0664)");
    // A file of root in a folder where any user may have put it.
    put(0o644, 0);
    let other = folder.path().join("other");
    fs::hard_link(&file, &other).unwrap();
    for (mode, owner) in [(0o1777, 0), (0o755, OTHER)] {
        fs::set_permissions(folder.path(), Permissions::from_mode(mode)).unwrap();
        chown(folder.path(), Some(owner), None).unwrap();
        refused("another user may have put it there");
    }
    fs::remove_file(&file).unwrap();
    symlink(&other, &file).unwrap();
    lchown(&file, Some(OTHER), None).unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o1777)).unwrap();
    refused("another user may have put it there");
}

#[test]
fn a_configuration_by_links_of_an_administrator_is_taken() {
    // This is how Kubernetes mounts a ConfigMap.
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).unwrap();
    let data = folder.path().join("..2026_11_22");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("plumbd.toml"), RIGHT).unwrap();
    symlink("..2026_11_22", folder.path().join("..data")).unwrap();
    symlink("..data/plumbd.toml", folder.path().join("plumbd.toml")).unwrap();
    let (status, out, err) = plumbd(folder.path(), &["check"]);
    assert_eq!((status, out.as_str(), err.as_str()), (Some(0), "plumbd.toml: no problems\n", ""));
}

#[test]
fn manual_pages_are_written_through_no_link() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let victim = folder.path().join("victim");
    fs::write(&victim, SECRET).unwrap();
    for hard in [false, true] {
        let out = folder.path().join(format!("out{hard}"));
        fs::create_dir_all(out.join("man1")).unwrap();
        let page = out.join("man1/plumbd.1");
        if hard {
            fs::hard_link(&victim, &page).unwrap()
        } else {
            symlink(&victim, &page).unwrap()
        }
        let (status, _, err) = plumbd(folder.path(), &["man", "--out", out.to_str().unwrap()]);
        assert_eq!((status, err.as_str()), (Some(0), ""));
        assert_eq!(fs::read(&victim).unwrap(), SECRET);
        assert!(page.symlink_metadata().unwrap().is_file() && fs::read(&page).unwrap().starts_with(b"'\\\" t"));
    }
    let sticky = folder.path().join("sticky");
    fs::create_dir(&sticky).unwrap();
    fs::set_permissions(&sticky, Permissions::from_mode(0o1777)).unwrap();
    let outside = folder.path().join("outside");
    fs::create_dir(&outside).unwrap();
    symlink(&outside, sticky.join("man1")).unwrap();
    lchown(sticky.join("man1"), Some(OTHER), None).unwrap();
    let (status, _, err) = plumbd(folder.path(), &["man", "--out", sticky.to_str().unwrap()]);
    assert!(status == Some(1) && err.contains("man1 on the way is a symbolic link"), "{err}");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

/// A listener of the other user that gives each request that answer.
fn planted_listener(path: &Path, answer: &str) -> Other {
    let script = "use Socket; $SIG{PIPE} = \"IGNORE\"; socket(S, AF_UNIX, SOCK_STREAM, 0); bind(S, sockaddr_un($ARGV[0])) or die; listen(S, 9); \
                  $| = 1; print \"\\n\"; while (accept(C, S)) { sysread(C, $b, 9999); syswrite(C, $ARGV[1]); close C }";
    let mut perl = Command::new(AS_OTHER[0]);
    Other::start(perl.args(&AS_OTHER[1..]).args(["perl", "-e", script]).arg(path).arg(answer))
}

const STEERING: &str = "{\"err\":\"\\u001b[2J\\u009bx\"}\n{\"out\":\"\\u001b]0;x\\u0007\"}\n{\"exit\":0}\n";

#[test]
fn a_listener_that_others_planted_is_not_trusted_and_does_not_control_the_terminal() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o1777)).unwrap();
    let socket = folder.path().join("plumbd.sock");
    let _other = planted_listener(&socket, STEERING);
    fs::write(folder.path().join("plumbd.toml"), RIGHT).unwrap();
    let control = socket.to_str().unwrap();
    let ways: [&[&str]; 5] = [
        &["status"],
        &["status", "--control", control],
        &["reopen", "--control", control],
        &["stop", "echo", "--control", control],
        &["shutdown"],
    ];
    for words in ways {
        let (status, out, err) = plumbd(folder.path(), words);
        let path = if words.contains(&"--control") { control } else { "plumbd.sock" };
        let why = format!("plumbd: cannot trust who listens at {path}: it is a process of user 65534");
        assert!(status == Some(1) && out.is_empty() && err.starts_with(&why), "{words:?} {status:?} {out} {err}");
    }
    // In a folder of their own, their answer is taken, but only as text.
    chown(folder.path(), Some(OTHER), None).unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    for words in &ways[1..4] {
        let (_, out, err) = plumbd(folder.path(), words);
        assert!(err.contains("\\x1b[2J\\xc2\\x9bx"), "{words:?} {err}");
        assert!(!(out + &err).contains(['\u{1b}', '\u{9b}', '\u{7}']), "{words:?} {err}");
    }
}

#[test]
fn roots_socket_and_the_callers_own_are_trusted_wherever_they_are() {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o1777)).unwrap();
    let path = folder.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let answers = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"{\"exit\":7}\n").unwrap();
    });
    assert_eq!(client::ask(&path, &plumbd::control::Request::Reopen, |_| Ok(())).unwrap(), 7);
    answers.join().unwrap();
}

#[test]
fn a_control_socket_is_made_through_no_link() {
    if !is_root() {
        return;
    }
    for shared in BOTH {
        let scene = Scene::with_lines(shared);
        for plant in [Plant::Link, Plant::Dangling, Plant::HardLink, Plant::Fifo, Plant::File] {
            for name in ["ctl.sock", ".ctl.sock.lock"] {
                let planted = scene.plant(plant, name);
                let config = scene.rig.folder.path().join("plumbd.toml");
                fs::write(&config, format!("[daemon]\ncontrol = \"theirs/ctl.sock\"\n{RIGHT}")).unwrap();
                let (status, _, err) = plumbd(scene.rig.folder.path(), &["run"]);
                assert!(status == Some(1) && err.contains("cannot "), "{plant:?} {name} {err}");
                scene.assert_untouched(&format!("{shared:?} {plant:?} {name}"));
                remove(&planted);
            }
        }
    }
}

#[test]
fn a_daemon_with_its_file_in_a_folder_of_theirs_saves_whatever_they_do_there() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    let folder = dir.path().join("theirs");
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, Permissions::from_mode(0o1777)).unwrap();
    let mut daemon = Daemon::spawn_in(
        dir,
        "[children.lines]\ncommand = [\"/bin/sh\", \"-c\", \"echo one; exec sleep 1000\"]\n\
         [children.logger]\nplugin = \"logger\"\n[children.logger.settings]\nfile = \"theirs/m.log\"\nformat = \"raw\"\n\
         [[links]]\nfrom = \"lines\"\nto = \"logger\"\n",
    );
    let file = daemon.path("theirs/m.log");
    wait_until("it is saved", || fs::read(&file).is_ok_and(|text| text == b"one\n").then_some(()));
    assert_eq!(File::open(&file).unwrap().metadata().unwrap().nlink(), 1);
    daemon.stop();
}
