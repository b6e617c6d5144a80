//! The logger rotates its file, and its archivist compresses and removes archives.

use crate::mini::{Logger, Rig, records, wait_until, write_record};
use nix::sys::signal::Signal::SIGTERM;
use plumbd::link::handover::Protocol::{Lines, Records};
use serde_json::json;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;
use std::time::Duration;

fn rig(rotate: serde_json::Value) -> Rig {
    let mut rig = Rig::with("raw", Lines);
    rig.settings["rotate"] = rotate;
    rig.settings["rotate"]["least_ms"] = json!(0);
    rig
}

/// A file of that name in the rig's folder.
fn put(rig: &Rig, name: &str, content: impl AsRef<[u8]>) {
    fs::write(rig.folder.path().join(name), content).unwrap();
}

/// The names of the archives, without the name of the file at their beginning.
fn archives(rig: &Rig) -> Vec<String> {
    let name = |path: &std::path::PathBuf| path.to_str().unwrap().rsplit_once("m.log.").unwrap().1.to_owned();
    rig.archives().iter().map(name).collect()
}

fn stop(logger: Logger) {
    logger.signal(SIGTERM);
    logger.wait_success();
}

#[test]
fn a_file_that_is_large_enough_is_rotated_and_every_file_has_whole_lines() {
    let mut rig = rig(json!({"size": 4096}));
    let logger = rig.start();
    let mut source = rig.links[0].source();
    let mut written = String::new();
    for i in 0..5 {
        let lines: String = (0..100).map(|line| format!("{i} {line} {}\n", "x".repeat(60))).collect();
        source.write_all(lines.as_bytes()).unwrap();
        written += &lines;
        wait_until("it is rotated", || (rig.archives().len() > i && rig.path().exists()).then_some(()));
    }
    let archives = rig.archives();
    for path in &archives {
        let text = fs::read_to_string(path).unwrap();
        assert!(text.len() >= 4096 && text.ends_with('\n'));
        let is = path.metadata().unwrap();
        assert_eq!((is.mode() & 0o777, is.nlink()), (0o640, 1));
    }
    drop(source);
    rig.end();
    logger.wait_success();
    assert_eq!(rig.counter("rotations"), archives.len() as u64);
    assert_eq!(rig.all_text(), written);
    assert_eq!(fs::metadata(rig.path()).unwrap().mode() & 0o777, 0o640);
    assert!(rig.files(".m.log.new").is_empty() && rig.files(".m.log.archive").is_empty());
}

#[test]
fn rotations_are_never_closer_than_the_least_time_apart() {
    let mut rig = rig(json!({"size": 4096}));
    rig.settings["rotate"]["least_ms"] = json!(3_600_000);
    let line = "x".repeat(99) + "\n";
    for _ in 0..3 {
        let logger = rig.start();
        rig.links[0].source().write_all(line.repeat(200).as_bytes()).unwrap();
        wait_until("all is saved", || (rig.links[0].queued() == 0).then_some(()));
        stop(logger);
    }
    assert_eq!((rig.archives().len(), rig.text().len()), (0, 60_000));
    rig.settings["rotate"]["least_ms"] = json!(1);
    let logger = rig.start();
    wait_until("it is rotated at the start", || (rig.archives().len() == 1 && rig.text().is_empty()).then_some(()));
    stop(logger);
}

#[test]
fn an_old_file_is_rotated_however_often_its_logger_is_restarted() {
    for is_remembered in [true, false] {
        let rig = rig(json!({"age": 1000}));
        rig.links[0].source().write_all(b"one\n").unwrap();
        wait_until("it is rotated", || {
            let logger = rig.start();
            rig.wait_notified("READY=1");
            // Each logger runs for less than the age at which the file is rotated.
            std::thread::sleep(Duration::from_millis(200));
            logger.kill();
            if !is_remembered {
                fs::remove_file(rig.folder.path().join(".m.log.intent")).unwrap();
            }
            (!rig.archives().is_empty()).then_some(())
        });
        assert_eq!((rig.all_text().as_str(), rig.text().as_str()), ("one\n", ""));
    }
}

#[test]
fn an_old_file_is_rotated_even_without_a_new_message_and_an_empty_one_never() {
    let rig = rig(json!({"age": 300}));
    let logger = rig.start();
    rig.wait_notified("READY=1");
    std::thread::sleep(Duration::from_millis(400));
    rig.links[0].source().write_all(b"one\n").unwrap();
    wait_until("it is saved", || (rig.text() == "one\n").then_some(()));
    // A file's age is that of its first message.
    assert!(rig.archives().is_empty());
    wait_until("it is rotated", || (!rig.archives().is_empty()).then_some(()));
    std::thread::sleep(Duration::from_millis(400));
    stop(logger);
    assert_eq!((archives(&rig).len(), rig.counter("rotations"), rig.text().as_str()), (1, 1, ""));
}

#[test]
fn the_oldest_archives_are_removed_and_nothing_else() {
    let rig = rig(json!({"size": 4096, "keep": 3}));
    let others = ["m.log.1", "m.log.torn-20200101T000000.000000Z", "m.log.20200101T000000.000000Z.xz", "n.log"];
    others.iter().for_each(|name| put(&rig, name, "other"));
    for second in 0..5 {
        put(&rig, &format!("m.log.20200101T00000{second}.000000Z.gz"), "");
    }
    // A link to a file is not an archive either, whatever its name.
    let link = rig.folder.path().join("m.log.20200101T000000.000009Z");
    std::os::unix::fs::symlink(rig.path(), &link).unwrap();
    let logger = rig.start();
    let left = ["20200101T000002.000000Z.gz", "20200101T000003.000000Z.gz", "20200101T000004.000000Z.gz"];
    let is_left = |archives: &[String]| archives.iter().filter(|name| name.ends_with(".gz")).eq(left.iter());
    wait_until("the oldest are gone", || is_left(&archives(&rig)).then_some(()));
    rig.links[0].source().write_all("x\n".repeat(3000).as_bytes()).unwrap();
    wait_until("one more is gone", || {
        (archives(&rig).iter().filter(|name| name.ends_with(".gz")).count() == 2).then_some(())
    });
    stop(logger);
    assert!(others.iter().all(|name| rig.folder.path().join(name).exists()));
    assert!(link.symlink_metadata().is_ok());
}

#[test]
fn archives_are_kept_up_to_a_total_size_and_the_newest_always() {
    for (keep_size, left) in [(2500, 2), (1000, 1), (100, 1), (3000, 3)] {
        let rig = rig(json!({"size": 4096, "keep_size": keep_size}));
        for second in 0..3 {
            put(&rig, &format!("m.log.20200101T00000{second}.000000Z"), [b'x'; 1000]);
        }
        rig.start_archivist(&[]).wait_success();
        assert_eq!(archives(&rig), (3 - left..3).map(|s| format!("20200101T00000{s}.000000Z")).collect::<Vec<_>>());
    }
}

#[test]
fn the_usual_tools_can_read_the_archives() {
    for (compress, tool) in [("gzip", "gzip"), ("zstd", "zstd")] {
        if Command::new(tool).arg("--version").output().is_err() {
            println!("left out: there is no {tool} here");
            continue;
        }
        let mut rig = rig(json!({"size": 4096, "compress": compress}));
        let lines: String = (0..2000).map(|i| format!("{i} {}\n", "x".repeat(i % 70))).collect();
        rig.links[0].source().write_all(lines.as_bytes()).unwrap();
        let logger = rig.start();
        wait_until("it is compressed", || {
            let archives = archives(&rig);
            (!archives.is_empty() && archives.iter().all(|name| !name.ends_with('Z'))).then_some(())
        });
        rig.end();
        logger.wait_success();
        let mut text = String::new();
        for path in rig.archives() {
            let out = Command::new(tool).args(["-dc", "-q"]).arg(path).output().unwrap();
            assert!(out.status.success());
            text += &String::from_utf8(out.stdout).unwrap();
        }
        assert_eq!(text + &rig.text(), lines);
    }
}

#[test]
fn a_rotation_that_fails_is_reported_once_and_saving_goes_on() {
    let mut rig = rig(json!({"size": 4096}));
    rig.settings["rotate"]["least_ms"] = json!(50);
    put(&rig, ".m.log.new", "somebody's");
    let logger = rig.start();
    let mut source = rig.links[0].source();
    source.write_all("x\n".repeat(3000).as_bytes()).unwrap();
    rig.wait_notified("X_PLUMBD_PROBLEM=cannot rotate ");
    source.write_all(b"y\n").unwrap();
    wait_until("it is saved", || rig.text().ends_with("y\n").then_some(()));
    fs::remove_file(rig.folder.path().join(".m.log.new")).unwrap();
    wait_until("it is rotated", || (rig.archives().len() == 1).then_some(()));
    assert!(!rig.was_notified("X_PLUMBD_PROBLEM=cannot rotate "), "it was told again");
    rig.wait_notified("X_PLUMBD_PROBLEM=");
    stop(logger);
    assert_eq!(rig.all_text().len(), 6002);
}

#[test]
fn an_archivist_that_fails_is_reported_and_leaves_the_raw_file() {
    let rig = rig(json!({"size": 4096, "compress": "zstd"}));
    fs::create_dir(rig.folder.path().join(".m.log.archive")).unwrap();
    let logger = rig.start();
    // The archivist takes that folder for a leftover, so it starts without a rotation.
    rig.wait_notified("X_PLUMBD_PROBLEM=logger-archivist exited with status 1");
    rig.links[0].source().write_all("x\n".repeat(3000).as_bytes()).unwrap();
    wait_until("it is rotated, and that failed too", || {
        (rig.counter("rotations") == 1 && archivist(&logger).is_none()).then_some(())
    });
    assert!(archives(&rig)[0].ends_with('Z'));
    assert!(!rig.was_notified("X_PLUMBD_PROBLEM="), "it was told again");
    fs::remove_dir(rig.folder.path().join(".m.log.archive")).unwrap();
    rig.links[0].source().write_all("x\n".repeat(3000).as_bytes()).unwrap();
    wait_until("both are compressed", || {
        archives(&rig).iter().filter(|name| name.ends_with(".zst")).count().eq(&2).then_some(())
    });
    rig.wait_notified("X_PLUMBD_PROBLEM=");
    stop(logger);
    assert_eq!(rig.all_text().len(), 12_000);
}

/// The process id of the one archivist below a logger.
fn archivist(logger: &Logger) -> Option<u32> {
    let pid = logger.pid();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

#[test]
fn compressing_has_low_priority_delays_nothing_and_ends_with_its_logger() {
    let mut rig = Rig::with("raw", Records);
    rig.settings["rotate"] = json!({"size": 4096, "compress": "gzip", "least_ms": 0});
    // A lot of data, which does not get smaller.
    let mut noise = vec![0u8; 60 << 20];
    fs::File::open("/dev/urandom").and_then(|mut f| std::io::Read::read_exact(&mut f, &mut noise)).unwrap();
    put(&rig, "m.log.20200101T000000.000000Z", &noise);
    fs::set_permissions(&rig.archives()[0], fs::Permissions::from_mode(0o604)).unwrap();
    let workshop = rig.folder.path().join(".m.log.archive");
    let at_work = || fs::metadata(&workshop).is_ok_and(|is| is.len() > 0);
    let logger = rig.start();
    wait_until("it is at work", || at_work().then_some(()));
    let pid = archivist(&logger).expect("it runs");
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    assert_eq!(stat.rsplit_once(") ").unwrap().1.split_whitespace().nth(16), Some("19"), "{stat}");
    for sequence in 1..=50 {
        write_record(&rig.links[0].source(), &records(sequence, 7, b"message", false)[0]);
        wait_until("it is acknowledged", || rig.links[0].acks().last().map(|_| ()));
    }
    assert!(at_work(), "it was done before");
    stop(logger);
    wait_until("the archivist is gone", || (!fs::exists(format!("/proc/{pid}")).unwrap()).then_some(()));
    assert!(archives(&rig)[0].ends_with('Z'), "{:?}", archives(&rig));
    // The next archivist does it.
    let logger = rig.start();
    wait_until("it is compressed", || (archives(&rig) == ["20200101T000000.000000Z.gz"]).then_some(()));
    wait_until("its workshop is gone", || (!workshop.exists()).then_some(()));
    assert_eq!(fs::metadata(&rig.archives()[0]).unwrap().mode() & 0o777, 0o604);
    stop(logger);
    assert!(rig.all_bytes().starts_with(&noise));
}

/// Starts a logger with some of its system calls failing.
fn start_failing(rig: &Rig, inject: &str) -> Logger {
    let call = inject.split(':').next().unwrap();
    let (trace, inject) = (format!("trace={call}"), format!("inject={inject}"));
    rig.start_under(&["strace", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject])
}

#[test]
#[ignore = "needs strace, run by .ci/run"]
fn if_any_rename_fails_nothing_is_lost_and_the_file_is_rotated_in_the_end() {
    let lines: String = (0..2000).map(|i| format!("{i} line\n")).collect();
    // The rename away fails; the one into place fails; the file system has no RENAME_NOREPLACE.
    for (inject, told) in [
        ("renameat2:error=ENOSPC:when=1", true),
        ("renameat2:error=EROFS:when=1..3", true),
        ("renameat2:error=EIO:when=2", false),
        ("renameat2:error=EINVAL", false),
    ] {
        let mut rig = rig(json!({"size": 4096}));
        rig.settings["rotate"]["least_ms"] = json!(20);
        let logger = start_failing(&rig, inject);
        rig.links[0].source().write_all(lines.as_bytes()).unwrap();
        if told {
            rig.wait_notified("X_PLUMBD_PROBLEM=cannot rotate ");
        }
        wait_until("it is rotated", || (rig.archives().len() == 1 && rig.path().exists()).then_some(()));
        rig.links[0].source().write_all(b"last\n").unwrap();
        rig.end();
        logger.wait_success();
        assert_eq!(rig.all_text(), lines.clone() + "last\n", "{inject}");
        assert_eq!(rig.text(), "last\n", "{inject}");
        assert!(rig.files(".m.log.new").is_empty(), "{inject}");
    }
}

#[test]
#[ignore = "needs strace, run by .ci/run"]
fn names_are_on_the_disk_before_what_follows_is_acknowledged() {
    let mut rig = Rig::with("raw", Records);
    rig.settings["rotate"] = json!({"size": 4096, "least_ms": 0});
    let trace = rig.folder.path().join("trace");
    let calls = "trace=renameat2,pwrite64,fdatasync,fsync,write";
    let logger = rig.start_under(&["strace", "-qq", "-y", "-s", "0", "-e", calls, "-o", trace.to_str().unwrap()]);
    for sequence in 1..=5 {
        for record in records(sequence, 7, &[b'x'; 5000], true) {
            write_record(&rig.links[0].source(), &record);
        }
        wait_until("it is acknowledged", || rig.links[0].acks().last().map(|_| ()));
    }
    rig.end();
    logger.wait_success();
    assert_eq!(rig.counter("rotations"), 5);
    let trace = fs::read_to_string(trace).unwrap();
    // What is not on the disk yet: bytes of the file, and its name.
    let (mut bytes, mut name, mut acks) = (false, true, 0);
    for call in trace.lines() {
        match call.split('(').next().unwrap() {
            "renameat2" => name = true,
            "pwrite64" => bytes = true,
            "fdatasync" => bytes = false,
            "fsync" => name = false,
            "write" if call.contains("<pipe:") => {
                acks += usize::from(call.ends_with("= 24"));
                assert!(!call.ends_with("= 24") || !(bytes || name), "{trace}");
            }
            _ => {}
        }
    }
    assert_eq!(acks, 5, "{trace}");
}

#[test]
#[ignore = "needs root for a file system of its own, run by .ci/run"]
fn on_a_full_disk_the_oldest_archives_are_removed_and_then_the_sources_wait() {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    let mut rig = rig(json!({"size": 4096, "compress": "gzip"}));
    rig.settings["when_full"] = json!("drop-archives");
    rig.settings["rotate"]["size"] = json!(1_u64 << 40);
    let disk = rig.folder.path().join("disk");
    fs::create_dir(&disk).unwrap();
    mount(Some("tmpfs"), &disk, Some("tmpfs"), MsFlags::empty(), Some("size=10m")).unwrap();
    rig.settings["file"] = disk.join("m.log").to_str().unwrap().into();
    for second in 0..3 {
        let name = format!("m.log.20200101T00000{second}.000000Z.zst");
        fs::write(disk.join(name), vec![0; 1 << 20]).unwrap();
    }
    // The leftovers of a killed archivist are removed before any archive.
    fs::write(disk.join(".m.log.archive"), vec![0; 2 << 20]).unwrap();
    fs::write(disk.join("m.log.torn-20200101T000000.000000Z"), vec![0; 1 << 20]).unwrap();
    let logger = rig.start();
    rig.wait_notified("READY=1");
    let mut source = rig.links[0].source();
    let line = "x".repeat(99) + "\n";
    let mut written = 0;
    let write = std::thread::spawn(move || {
        for _ in 0..100_000 {
            source.write_all(line.as_bytes()).unwrap();
            written += line.len();
        }
        written
    });
    rig.wait_notified("X_PLUMBD_PROBLEM=cannot write to");
    assert!(rig.archives().is_empty(), "{:?}", rig.archives());
    assert!(disk.join("m.log.torn-20200101T000000.000000Z").exists());
    fs::remove_file(disk.join("m.log.torn-20200101T000000.000000Z")).unwrap();
    let written = write.join().unwrap();
    rig.end();
    logger.wait_success();
    let saved = rig.text();
    umount2(&disk, MntFlags::MNT_DETACH).unwrap();
    assert_eq!(saved.len(), written);
}

#[test]
fn archives_are_compressed_even_if_the_kernel_gives_no_pidfd() {
    let mut rig = rig(json!({"size": 4096, "keep": 2, "compress": "gzip"}));
    let trace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=pidfd_open", "-e"];
    let logger = rig.start_under(&[&trace[..], &["inject=pidfd_open:error=EPERM"]].concat());
    for round in 1..5 {
        rig.links[0].source().write_all("x\n".repeat(3000).as_bytes()).unwrap();
        wait_until("it is rotated and compressed", || {
            let archives = archives(&rig);
            (archives.len() == round.min(2) && archives.iter().all(|name| name.ends_with(".gz"))).then_some(())
        });
        wait_until("it is over", || (rig.counter("rotations") == round as u64).then_some(()));
    }
    assert!(!rig.was_notified("X_PLUMBD_PROBLEM=c"));
    rig.end();
    logger.wait_success();
}

/// The mode, owner and group.
fn rights(path: &std::path::Path) -> (u32, u32, u32) {
    let is = path.metadata().unwrap();
    (is.mode() & 0o7777, is.uid(), is.gid())
}

#[test]
fn mode_and_owner_of_the_file_are_kept_for_the_new_one_and_for_each_archive() {
    let is_root = nix::unistd::geteuid().is_root();
    for compress in ["none", "gzip", "zstd"] {
        let mut rig = rig(json!({"size": 4096}));
        if compress != "none" {
            rig.settings["rotate"]["compress"] = json!(compress);
        }
        let logger = rig.start();
        rig.wait_notified("READY=1");
        fs::set_permissions(rig.path(), fs::Permissions::from_mode(0o604)).unwrap();
        if is_root {
            std::os::unix::fs::chown(rig.path(), Some(65534), Some(4)).unwrap();
        }
        let given = rights(&rig.path());
        for round in 1..4 {
            rig.links[0].source().write_all("x\n".repeat(3000).as_bytes()).unwrap();
            wait_until("it is rotated", || {
                let archives = archives(&rig);
                let done = compress == "none" || archives.iter().all(|name| !name.ends_with('Z'));
                (archives.len() == round && done && rig.path().exists()).then_some(())
            });
            for path in rig.archives().iter().chain([&rig.path()]) {
                assert_eq!(rights(path), given, "{path:?}");
            }
        }
        stop(logger);
        // A new logger keeps them too.
        let logger = rig.start();
        rig.wait_notified("READY=1");
        assert_eq!(rights(&rig.path()), given);
        stop(logger);
    }
}

#[test]
fn a_file_that_is_not_trusted_passes_its_mode_and_owner_on_to_the_next() {
    let mut rig = Rig::with("raw", Records);
    records(1, 7, b"one", true).iter().for_each(|record| write_record(&rig.links[0].source(), record));
    put(&rig, "m.log", "");
    fs::set_permissions(rig.path(), fs::Permissions::from_mode(0o606)).unwrap();
    let fail = ["strace", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync", "-e", "inject=fdatasync:error=EIO:when=1"];
    let logger = rig.start_under(&fail);
    rig.end();
    logger.wait_success();
    assert_eq!((rig.text().as_str(), rights(&rig.path()).0), ("one\n", 0o606));
    assert_eq!(rig.files("m.log.untrusted-").len(), 1);
}

#[test]
fn a_new_file_and_its_archives_have_the_group_of_the_settings() {
    if !nix::unistd::geteuid().is_root() {
        println!("left out: needs root");
        return;
    }
    let mut rig = rig(json!({"size": 4096, "compress": "gzip"}));
    rig.settings["group"] = json!({"name": "adm", "id": 4});
    let logger = rig.start();
    rig.wait_notified("READY=1");
    assert_eq!(rights(&rig.path()), (0o640, 0, 4));
    rig.links[0].source().write_all("x\n".repeat(3000).as_bytes()).unwrap();
    wait_until("it is compressed", || archives(&rig).iter().any(|name| name.ends_with(".gz")).then_some(()));
    wait_until("there is a new file", || rig.path().exists().then_some(()));
    let all: Vec<_> = rig.archives().into_iter().chain([rig.path()]).collect();
    assert!(all.iter().all(|path| rights(path) == (0o640, 0, 4)));
    // After a removal there is a new file too.
    fs::remove_file(rig.path()).unwrap();
    wait_until("there is a new file", || rig.path().exists().then_some(()));
    wait_until("it has its group", || (rights(&rig.path()) == (0o640, 0, 4)).then_some(()));
    stop(logger);
}

const NOBODY: [&str; 4] = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];

/// Whether a logger can run as the user nobody here. If so, opens its folder to all users.
fn may_be_nobody(rig: &Rig) -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if is_root {
        for path in [rig.folder.path().to_owned(), rig.folder.path().join("notify")] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
        }
    } else {
        println!("left out: needs root");
    }
    is_root
}

#[test]
fn if_the_group_cannot_be_set_that_is_reported_and_no_other_group_gets_access() {
    let mut rig = rig(json!({"size": 4096}));
    if !may_be_nobody(&rig) {
        return;
    }
    rig.settings["group"] = json!({"name": "adm", "id": 4});
    let logger = rig.start_under(&NOBODY);
    rig.wait_notified("m.log the group adm: Operation not permitted");
    assert_eq!(rights(&rig.path()), (0o600, 65534, 65534));
    fs::set_permissions(rig.path(), fs::Permissions::from_mode(0o660)).unwrap();
    std::os::unix::fs::chown(rig.path(), None, Some(4)).unwrap();
    rig.links[0].source().write_all("x\n".repeat(3000).as_bytes()).unwrap();
    rig.wait_notified("m.log the group of the file that it replaces: Operation not permitted");
    wait_until("it is rotated", || (rig.archives().len() == 1 && rig.path().exists()).then_some(()));
    assert_eq!(rights(&rig.path()), (0o600, 65534, 65534));
    assert_eq!(rights(&rig.archives()[0]), (0o660, 65534, 4));
    rig.end();
    logger.wait_success();
    assert_eq!(rig.all_text().len(), 6000);
}

#[test]
fn archives_of_another_owner_are_removed_where_the_folder_allows_it() {
    let rig = rig(json!({"size": 4096, "keep": 1}));
    if !may_be_nobody(&rig) {
        return;
    }
    let names: Vec<String> = (0..4).map(|second| format!("m.log.20200101T00000{second}.000000Z.gz")).collect();
    for name in &names {
        put(&rig, name, "x");
        fs::set_permissions(rig.folder.path().join(name), fs::Permissions::from_mode(0o600)).unwrap();
    }
    let logger = rig.start_under(&NOBODY);
    wait_until("all but the newest are gone", || (rig.archives().len() == 1).then_some(()));
    assert!(rig.archives()[0].ends_with(&names[3]));
    stop(logger);
    // In a folder like /tmp, a user can't remove files of another.
    put(&rig, &names[0], "x");
    fs::set_permissions(rig.folder.path().join(&names[0]), fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(rig.folder.path(), fs::Permissions::from_mode(0o1777)).unwrap();
    let mut archivist = rig.start_archivist(&NOBODY);
    assert!(!archivist.wait().success());
    let log = fs::read_to_string(rig.folder.path().join("log")).unwrap();
    assert!(log.contains("cannot remove the archive of 20200101T000000.000000Z: Operation not permitted"), "{log}");
    assert_eq!(rig.archives().len(), 2);
}

#[test]
fn an_archive_of_another_owner_that_a_logger_writes_to_stays() {
    use nix::fcntl::{Flock, FlockArg};
    let rig = rig(json!({"size": 4096, "keep": 1}));
    if !may_be_nobody(&rig) {
        return;
    }
    for second in 0..4 {
        put(&rig, &format!("m.log.20200101T00000{second}.000000Z"), "x");
    }
    for path in rig.archives() {
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    let held = fs::File::open(&rig.archives()[0]).unwrap();
    let _held = Flock::lock(held, FlockArg::LockExclusiveNonblock).unwrap();
    // This stands for a logger in another container, whose lock is not listed here.
    put(&rig, ".m.log.20200101T000001.000000Z.intent", "");
    rig.start_archivist(&NOBODY).wait_success();
    let left: Vec<String> = archives(&rig);
    let expected = ["20200101T000000.000000Z", "20200101T000001.000000Z", "20200101T000003.000000Z"];
    assert_eq!(left, expected);
}

#[test]
fn leftovers_of_an_archivist_of_another_user_are_no_obstacle() {
    let rig = rig(json!({"size": 4096, "compress": "zstd"}));
    if !may_be_nobody(&rig) {
        return;
    }
    put(&rig, ".m.log.archive", "left");
    fs::set_permissions(rig.folder.path().join(".m.log.archive"), fs::Permissions::from_mode(0o600)).unwrap();
    let path = rig.folder.path().join("m.log.20200101T000000.000000Z");
    fs::write(&path, "one\n").unwrap();
    // It belongs to another owner, but is not secret. So it is compressed even if the owner can't be
    // restored.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    rig.start_archivist(&NOBODY).wait_success();
    assert_eq!(archives(&rig), ["20200101T000000.000000Z.zst"]);
    assert_eq!(rights(&rig.archives()[0]), (0o604, 65534, 65534));
    let log = fs::read_to_string(rig.folder.path().join("log")).unwrap();
    assert!(log.contains("the owner of the file that it replaces: Operation not permitted"), "{log}");
}
