//! Power loss: the file system that the message file is on is shut down
//! without flushing anything (`EXT4_IOC_SHUTDOWN`, `XFS_IOC_GOINGDOWN`), every
//! process is killed, and it is mounted again, which recovers its journal.
//!
//! The disk is the image under the loop device: the file system's own caches
//! are lost, but a drive's write cache is not modelled. The next daemon finds
//! another boot id, as after a real power loss, because it runs in a mount namespace
//! of its own, where another file is mounted over /proc/sys/kernel/random/boot_id.

use crate::daemon::{Daemon, alive, children_of, free_port, kill, strays, wait_for};
use crate::disk_image::{self, Image, Kind};
use crate::load::checker::{self, Format, Verdict};
use crate::load::generator::{self, Connection, Outcome, Plan};
use crate::load::rotated;
use crate::trial::{Trial, Tried, add, faults, scaled};
use nix::libc::{SIGKILL, SIGUSR1};
use plumbd::link::intent::Header;
use plumbd::plugin::logger::file::now;
use plumbd::plugin::logger::render::name_time;
use std::collections::BTreeSet;
use std::collections::hash_map::RandomState;
use std::fs::File;
use std::hash::{BuildHasher, Hasher};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub(crate) fn trials() -> Vec<Trial> {
    let promise = "synced: what was echoed before the cut is there exactly once, whole, in order, \
                   before and after the next start, which takes up what it finds";
    vec![
        Trial {
            name: "power/ext4",
            fault: "power loss on ext4 (shut down without flushing, every process killed)",
            promise,
            missing: || disk_image::missing(Kind::Ext4, &["strace"]),
            attempt: |times| attempt(Kind::Ext4, times),
        },
        Trial {
            name: "power/xfs",
            fault: "power loss on XFS (shut down without flushing, every process killed)",
            promise,
            missing: || disk_image::missing(Kind::Xfs, &["strace"]),
            attempt: |times| attempt(Kind::Xfs, times),
        },
    ]
}

/// When the power is lost. Each file system goes through one of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// When the first messages are in a new file.
    Creation,
    /// Under load.
    Load,
    /// When the daemon has just rotated it, and compresses.
    Rotation,
    /// After the file was renamed, and after `plumbd reopen`.
    Reopen,
    /// Under load, with long messages, while the kernel writes back what it has.
    WriteBack,
}

const CUTS: [Cut; 5] = [Cut::Creation, Cut::Load, Cut::Rotation, Cut::Reopen, Cut::WriteBack];

/// What a torn end can look like.
const HALF: &[u8] = b"2026-11-22T15:04:05.123456Z 127.0.0.1:4";
/// Clients, and messages that each has under way.
const CONNECTIONS: u32 = 20;
const DEPTH: u32 = 3;

fn attempt(kind: Kind, times: f64) -> Tried {
    let mut tally = Tally::default();
    for _ in 0..scaled(10, times) {
        let mut machine = Machine::new(kind, "");
        for cut in CUTS {
            let verdict = machine.lives_until(cut, &mut tally);
            machine.assert_kept(&verdict, "after the cut");
            add(&mut tally.after_cuts, &verdict);
            if cut == Cut::Load {
                machine.tear();
            }
            machine.starts_again();
            if cut == Cut::Load {
                machine.assert_torn_is_moved();
            }
        }
        machine.daemon.stop();
        // One of them was made by this trial.
        tally.torn_tails += machine.files("messages.log.torn-").len() - 1;
        let verdict = machine.check(machine.whole());
        machine.assert_kept(&verdict, "in the end");
        add(&mut tally.in_the_end, &verdict);
    }
    let each = tally.cuts / CUTS.len();
    Tried {
        count: format!(
            "{} cuts ({each} each: in a new file, under load, at a rotation, at a reopen, during write-back), \
             {} messages echoed",
            tally.cuts, tally.in_the_end.echoed
        ),
        outcome: format!(
            "right after the cuts {}; in the end {} ({} not echoed were saved); the next start found and moved away \
             {} torn ends, {each} more that were put there, and {} promises of the boot before, worth nothing",
            faults(&tally.after_cuts),
            faults(&tally.in_the_end),
            tally.in_the_end.unechoed,
            tally.torn_tails,
            tally.promises
        ),
        control: control(kind, times),
    }
}

/// The control: power loss with a fdatasync(2) that does nothing.
fn control(kind: Kind, times: f64) -> String {
    const NOTHING_DONE: &str = "strace -D -f --seccomp-bpf -qq -o /dev/null -e trace=fdatasync \
                                -e inject=fdatasync:retval=0";
    let tries = scaled(3, times);
    let (mut lost, mut echoed, mut found_out) = (0, 0, 0);
    for _ in 0..tries {
        let mut machine = Machine::new(kind, NOTHING_DONE);
        let verdict = machine.lives_until(Cut::Load, &mut Tally::default());
        lost += verdict.lost;
        echoed += verdict.lost + verdict.echoed;
        found_out += u32::from(!verdict.is_clean());
    }
    assert_eq!(found_out, tries, "with fdatasync left out nothing was lost: the trial proves nothing");
    format!("fdatasync left out: {lost} of {echoed} echoed messages lost, found out in {found_out} of {tries} cuts")
}

/// What was seen, over all cuts.
#[derive(Debug, Default)]
struct Tally {
    cuts: usize,
    /// The verdict about the disk after each cut, before the next start.
    after_cuts: Verdict,
    /// The verdict about each file system at its end.
    in_the_end: Verdict,
    torn_tails: usize,
    promises: usize,
}

/// A machine that loses its power: a disk and a daemon.
struct Machine {
    daemon: Daemon,
    image: Image,
    port: u16,
    /// All connections that sent anything until the last cut.
    connections: Vec<Connection>,
}

impl Machine {
    /// A new file system, and a daemon on it that was started under that wrapper.
    fn new(kind: Kind, wrapper: &str) -> Machine {
        let image = Image::new(kind, 300);
        let port = free_port();
        // A new boot: only the daemon sees the other id.
        let first = format!(
            "cat /proc/sys/kernel/random/uuid >boot_id
            exec {wrapper} unshare --mount --propagation private /bin/sh -c '
                mount --bind boot_id /proc/sys/kernel/random/boot_id && exec \"$0\" run -c plumbd.toml' \"$0\""
        );
        let daemon = Daemon::start_after(&first, &config(port, &image));
        Machine { daemon, image, port, connections: Vec::new() }
    }

    /// Lets it work under load until the power is lost, then checks what is on the disk.
    fn lives_until(&mut self, cut: Cut, tally: &mut Tally) -> Verdict {
        // These are counted first. If the file is long enough, it is rotated at the start, and the
        // next time 10 s later.
        let archives = rotated::archives(&self.file()).unwrap().len();
        if cut == Cut::Rotation {
            let children = self.kill_all();
            self.wait_killed(&children);
            self.age_file();
            self.daemon.start_again();
        }
        let length = if cut == Cut::WriteBack { 8 * 1024 } else { 128 };
        let load = self.load(length);
        match cut {
            Cut::Creation => wait_for("the first messages", || (self.size() > 0).then_some(())),
            Cut::Load => self.wait_progress(length),
            Cut::Reopen => {
                self.wait_progress(length);
                std::fs::rename(self.file(), self.archive_of_now()).unwrap();
                moment(1000);
                self.daemon.signal(SIGUSR1);
            }
            Cut::Rotation => {
                self.wait_progress(length);
                wait_for("a rotation", || (rotated::archives(&self.file()).unwrap().len() > archives).then_some(()));
            }
            Cut::WriteBack => {
                self.wait_progress(length);
                let disk = File::open(self.image.disk()).unwrap();
                // The cut comes in the middle of this, and ends it.
                std::thread::spawn(move || nix::unistd::syncfs(&disk));
            }
        }
        moment(3000);
        self.cut();
        let outcome = load.join().unwrap();
        assert!(outcome.wrong.is_empty(), "echoes differ: {:?}", outcome.wrong);
        assert!(cut == Cut::Creation || outcome.echoed() > 0, "nothing was echoed before the cut");
        self.connections.extend(outcome.connections);
        self.image.unmount();
        self.image.mount();
        tally.cuts += 1;
        tally.promises += usize::from(self.promises());
        self.check(self.whole_lines())
    }

    /// Cuts the power: the processes are killed a moment before the disk is cut. A process that
    /// still ran would see a failing file system, which can't happen when a
    /// machine is off. (ext4 and XFS on Linux 6.18 may even report success for a fdatasync(2)
    /// that was under way.)
    fn cut(&mut self) {
        let children = self.kill_all();
        self.image.cut();
        self.wait_killed(&children);
    }

    /// Starts it again. It must come up, and find nothing wrong.
    fn starts_again(&mut self) {
        self.daemon.start_again();
        assert_eq!(self.daemon.child("logger").problem, None, "log:\n{}", self.daemon.log());
    }

    /// Puts half a line at the end of the file, as other file systems may leave one.
    fn tear(&self) {
        let mut file = File::options().append(true).open(self.file()).unwrap();
        file.write_all(HALF).unwrap();
    }

    #[track_caller]
    fn assert_torn_is_moved(&self) {
        let torn = self.files("messages.log.torn-");
        assert!(torn.iter().any(|path| std::fs::read(path).unwrap().ends_with(HALF)), "log:\n{}", self.daemon.log());
    }

    fn kill_all(&self) -> BTreeSet<i32> {
        let children = children_of(self.daemon.pid());
        kill(self.daemon.pid(), SIGKILL);
        children.iter().for_each(|&pid| kill(pid, SIGKILL));
        children
    }

    fn wait_killed(&mut self, children: &BTreeSet<i32>) {
        self.daemon.wait_killed();
        wait_for("its children are dead", || children.iter().all(|&pid| !alive(pid)).then_some(()));
        // The archivist is the logger's child, and dies with it.
        wait_for("no strays", || strays(self.daemon.dir.path()).is_empty().then_some(()));
    }

    /// Rotations are at least 10 s apart: makes the file as old as that, where
    /// the logger notes it (doc/law-of-a-link.md, "Intent file").
    fn age_file(&self) {
        const LONG: Duration = Duration::from_secs(60);
        let file = File::options().write(true).create(true).truncate(false).open(self.intent()).unwrap();
        let live = std::fs::metadata(self.file()).unwrap();
        let began = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() - LONG;
        let words = [live.dev(), live.ino(), u64::try_from(began.as_micros()).unwrap()];
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.extend(u64::from(crc32fast::hash(&bytes)).to_le_bytes());
        file.write_all_at(b"plumbdi\x02", 0).unwrap();
        file.write_all_at(&bytes, 21 * 8).unwrap();
    }

    /// Whether the intent file on the disk has a batch under way.
    fn promises(&self) -> bool {
        Header::at(&self.intent()).is_ok_and(|header| header.batch().is_some())
    }

    fn load(&self, length: usize) -> JoinHandle<Outcome> {
        let plan = Plan {
            connections: CONNECTIONS,
            depth: DEPTH,
            length,
            first: u32::try_from(self.connections.len()).unwrap(),
            reconnect: false,
            ..Plan::usual(self.port)
        };
        std::thread::spawn(move || generator::run(&plan, &AtomicBool::new(false)).unwrap())
    }

    /// Waits until more was saved than can be under way, so that something must have been echoed.
    fn wait_progress(&self, length: usize) {
        let before = self.size();
        let under_way = u64::from(CONNECTIONS * DEPTH) * (length as u64 + 64);
        wait_for("messages are saved", || (self.size() > before + 2 * under_way).then_some(()));
    }

    fn file(&self) -> PathBuf {
        self.image.disk().join("messages.log")
    }

    fn intent(&self) -> PathBuf {
        self.image.disk().join(".messages.log.intent")
    }

    fn size(&self) -> u64 {
        std::fs::metadata(self.file()).map_or(0, |metadata| metadata.len())
    }

    /// The name that an archive would get at this moment.
    fn archive_of_now(&self) -> PathBuf {
        self.image.disk().join(format!("messages.log.{}", name_time(now())))
    }

    fn files(&self, begin: &str) -> Vec<PathBuf> {
        let all = std::fs::read_dir(self.image.disk()).unwrap().map(|entry| entry.unwrap().path());
        all.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(begin)).collect()
    }

    /// All that was saved.
    fn whole(&self) -> Box<dyn BufRead> {
        Box::new(rotated::open(&self.file()).unwrap())
    }

    /// All that was saved, without a torn end, which the next start moves away.
    fn whole_lines(&self) -> Box<dyn BufRead> {
        let mut all = Vec::new();
        self.whole().read_to_end(&mut all).unwrap();
        let lines = memchr::memrchr(b'\n', &all).map_or(0, |at| at + 1);
        all.truncate(lines);
        Box::new(BufReader::new(std::io::Cursor::new(all)))
    }

    fn check(&self, all: Box<dyn BufRead>) -> Verdict {
        checker::check(all, Format::Text, &self.connections).unwrap()
    }

    #[track_caller]
    fn assert_kept(&self, verdict: &Verdict, when: &str) {
        let echoed: u64 = self.connections.iter().map(|c| u64::from(c.echoed)).sum();
        assert!(verdict.is_clean() && verdict.echoed == echoed, "{when}: {verdict}\nlog:\n{}", self.daemon.log());
    }
}

fn config(port: u16, image: &Image) -> String {
    format!(
        r#"
        [daemon]
        log_level = "warn"
        [children.echo]
        plugin = "echo"
        listen = ["tcp://127.0.0.1:{port}"]
        settings = {{ echo_after = "synced", partial_after = "60s" }}
        [children.logger]
        plugin = "logger"
        [children.logger.settings]
        file = "{}/messages.log"
        rotate = {{ size = "256KiB", compress = "zstd" }}
        [[links]]
        from = "echo"
        to = "logger"
        "#,
        image.disk().display()
    )
}

/// Waits for some time, so that the cut comes at any instant. Nothing depends on how long.
fn moment(at_most_micros: u64) {
    let random = RandomState::new().build_hasher().finish();
    std::thread::sleep(Duration::from_micros(random % at_most_micros));
}
