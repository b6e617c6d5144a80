//! A separate Debian system, booted: systemd as process 1, a package manager,
//! users, a network with nobody else in it.
//!
//! Its root is made once with debootstrap and kept in a folder outside the
//! sources; each machine has an overlay in memory on top of it. Everything is
//! mounted in a mount namespace of the test's own thread, so nothing is
//! left behind, however the test ends. Nothing here touches the host's units,
//! users or /etc.

use crate::wait::wait_for;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::Pid;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The packages that the root has in addition to a minimal Debian.
const PACKAGES: &str = "dbus,netcat-openbsd,procps,systemd,systemd-sysv";

const JOURNAL: [&str; 6] = ["journalctl", "--no-pager", "-o", "short-precise", "-u", "plumbd"];

/// The exit status by which systemd-nspawn asks to be started again.
const REBOOT: i32 = 133;

/// One machine. It ends when this is dropped.
pub struct Machine {
    dir: tempfile::TempDir,
    /// unshare, whose child is systemd-nspawn, whose child is the machine's process 1.
    nspawn: Child,
    init: Pid,
    /// Only one machine runs at a time, because all have the same control group.
    _turn: Flock<File>,
}

/// The outcome of a command.
#[derive(Debug)]
pub struct Said {
    pub status: i32,
    pub out: String,
    pub err: String,
}

impl Machine {
    /// Boots a machine.
    pub fn boot() -> Machine {
        assert!(nix::unistd::geteuid().is_root(), "this test needs root");
        let cache = cache();
        let turn = lock(&cache.join("turn"));
        let base = base(&cache);
        let dir = tempfile::tempdir().unwrap();
        // From here on, only this thread and its children see what it mounts.
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let nothing = None::<&str>;
        mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing).unwrap();
        mount(Some("tmpfs"), dir.path(), Some("tmpfs"), MsFlags::empty(), nothing).unwrap();
        let [root, upper, work] = ["root", "upper", "work"].map(|name| dir.path().join(name));
        for folder in [&root, &upper, &work] {
            fs::create_dir(folder).unwrap();
        }
        let layers = format!("lowerdir={},upperdir={},workdir={}", base.display(), upper.display(), work.display());
        mount(Some("overlay"), &root, Some("overlay"), MsFlags::empty(), Some(layers.as_str())).unwrap();

        let nspawn = start(dir.path());
        let mut machine = Machine { dir, nspawn, init: Pid::from_raw(0), _turn: turn };
        machine.wait_booted();
        machine
    }

    fn wait_booted(&mut self) {
        wait_for("the machine has booted", || {
            let ended = self.nspawn.try_wait().unwrap();
            assert!(ended.is_none(), "systemd-nspawn ended, {}:\n{}", ended.unwrap(), self.console());
            self.init = child_of(child_of(Pid::from_raw(self.nspawn.id().try_into().unwrap()))?)?;
            (self.try_run(&["systemctl", "is-system-running"])?.out.trim() == "running").then_some(())
        });
    }

    /// The text on its console.
    fn console(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.dir.path().join("console")).unwrap_or_default()).into_owned()
    }

    /// Boots it again: its disk stays, everything else is new.
    pub fn reboot(&mut self) {
        // It may go down before the command gets its answer.
        let _cut_off = self.try_run(&["systemctl", "reboot"]);
        let ended = wait_for("the machine is down", || self.nspawn.try_wait().unwrap());
        assert_eq!(ended.code(), Some(REBOOT), "{}", self.console());
        self.nspawn = start(self.dir.path());
        self.wait_booted();
    }

    /// The path outside for a path inside the machine.
    pub fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.init))
    }

    pub fn read(&self, path: &str) -> Vec<u8> {
        fs::read(self.path(path)).unwrap_or_default()
    }

    pub fn read_text(&self, path: &str) -> String {
        String::from_utf8(self.read(path)).unwrap()
    }

    pub fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Copies a file in.
    pub fn put(&self, from: &Path, to: &str) {
        fs::copy(from, self.path(to)).unwrap();
    }

    /// A command that will run inside.
    pub fn command<S: AsRef<OsStr>>(&self, words: &[S]) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &self.init.to_string(), "--all", "--wdns=/", "env", "-i"])
            .args(["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "DEBIAN_FRONTEND=noninteractive"])
            .args(words)
            .stdin(Stdio::null());
        command
    }

    fn try_run(&self, words: &[&str]) -> Option<Said> {
        let output = self.command(words).output().ok()?;
        Some(Said {
            status: output.status.code()?,
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Runs a command inside, whether it succeeds or not.
    #[track_caller]
    pub fn run(&self, words: &[&str]) -> Said {
        self.try_run(words).unwrap_or_else(|| panic!("cannot run {words:?}"))
    }

    /// Runs a command inside that must succeed; returns its output.
    #[track_caller]
    pub fn done(&self, words: &[&str]) -> String {
        let said = self.run(words);
        assert!(said.status == 0, "{words:?}: {said:#?}\njournal:\n{}", self.journal());
        said.out
    }

    /// As [`Machine::done`], with a command line for the shell.
    #[track_caller]
    pub fn sh(&self, line: &str) -> String {
        self.done(&["sh", "-ec", line])
    }

    /// What the service has logged, and what systemd says about it.
    pub fn journal(&self) -> String {
        self.run(&JOURNAL).out
    }

    #[track_caller]
    pub fn wait_journal(&self, text: &str) {
        wait_for(&format!("{text:?} in the journal"), || self.journal().contains(text).then_some(()));
    }

    /// Runs `what` on a thread in the machine's network.
    pub fn in_network<T: Send + 'static>(
        &self,
        what: impl FnOnce() -> T + Send + 'static,
    ) -> std::thread::JoinHandle<T> {
        let network = File::open(format!("/proc/{}/ns/net", self.init)).unwrap();
        std::thread::spawn(move || {
            setns(network, CloneFlags::CLONE_NEWNET).unwrap();
            what()
        })
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            match self.try_run(&JOURNAL) {
                Some(said) => eprintln!("the service's journal:\n{}", said.out),
                None => eprintln!("the machine's console:\n{}", self.console()),
            }
        }
        let _killed = self.nspawn.kill();
        let _reaped = self.nspawn.wait();
        wait_for("the machine's processes are gone", || {
            (!Path::new(&format!("/proc/{}", self.init)).exists()).then_some(())
        });
        // The mounts end with this thread, but the folder under them can be removed only
        // when they are gone.
        let _unmounted = nix::mount::umount2(&self.dir.path().join("root"), nix::mount::MntFlags::MNT_DETACH);
        let _unmounted = nix::mount::umount2(self.dir.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}

fn start(dir: &Path) -> Child {
    let console = File::options().create(true).append(true).open(dir.join("console")).unwrap();
    Command::new("setpriv")
        // If this process is killed, unshare is killed too, and so is systemd-nspawn. That
        // is process 1 of a pid namespace, so the machine ends with it.
        .args(["--pdeathsig", "KILL", "unshare", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .args(["systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit"])
        .args(["--private-network", "--resolv-conf=off", "--timezone=off", "--link-journal=no", "-D"])
        .arg(dir.join("root"))
        // The machine uses version 2 of control groups even if the host uses version 1.
        .env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1")
        .stdin(Stdio::null())
        .stdout(console.try_clone().unwrap())
        .stderr(console)
        .spawn()
        .expect("cannot start systemd-nspawn")
}

fn child_of(parent: Pid) -> Option<Pid> {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
    Some(Pid::from_raw(children.split_ascii_whitespace().next()?.parse().ok()?))
}

/// The folder that outlives a checkout.
fn cache() -> PathBuf {
    let folder = std::env::var_os("PLUMBD_TEST_CACHE").map_or_else(|| "/var/cache/plumbd-tests".into(), PathBuf::from);
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn lock(path: &Path) -> Flock<File> {
    let file = File::create(path).unwrap();
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| e).unwrap()
}

/// The root that all machines share, made if it does not exist yet. The caller
/// must hold the lock.
fn base(cache: &Path) -> PathBuf {
    let (mirror, release) = mirror();
    let base = cache.join(format!("{release}-{:08x}", crc32fast::hash(PACKAGES.as_bytes())));
    if !base.exists() {
        let unfinished = cache.join("unfinished");
        let _from_before = fs::remove_dir_all(&unfinished);
        let made = Command::new("debootstrap")
            .args(["--variant=minbase", &format!("--include={PACKAGES}"), &release])
            .arg(&unfinished)
            .arg(&mirror)
            .stdin(Stdio::null())
            .output()
            .expect("cannot start debootstrap");
        assert!(made.status.success(), "debootstrap: {}", String::from_utf8_lossy(&made.stdout));
        fs::rename(&unfinished, &base).unwrap();
    }
    base
}

/// The mirror that the host's own packages come from, and the name of its release.
fn mirror() -> (String, String) {
    let said = Command::new("apt-get")
        .args(["indextargets", "--format", "$(REPO_URI) $(CODENAME)"])
        .args(["Created-By: Packages", "Origin: Debian", "Component: main"])
        .output()
        .expect("cannot run apt-get");
    let said = String::from_utf8(said.stdout).unwrap();
    let main = said.lines().filter_map(|line| line.split_once(' ')).find(|(_, release)| !release.contains('-'));
    let (mirror, release) = main.expect("apt's configuration names no Debian mirror");
    (mirror.to_owned(), release.to_owned())
}
