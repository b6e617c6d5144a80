//! A service manager as plumbd sees one: it gets notifications
//! (sd_notify(3)), keeps descriptors by name (FDSTORE=1), and hands them, and
//! sockets of its own, to the daemon that it starts (sd_listen_fds(3)).

use crate::daemon::{DEADLINE, wait_for};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, sendmsg};
use std::collections::BTreeMap;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// More descriptors than a test stores.
const MOST: usize = 64;
const QUIT: &[u8] = b"QUIT";
/// When this message has been received, so have all earlier ones.
const FENCE: &[u8] = b"FENCE";
/// Names the socket over which [`launcher`] gets its descriptors.
const HANDED: &str = "PLUMBD_TEST_HANDED";

#[derive(Default)]
struct Heard {
    lines: Vec<String>,
    store: BTreeMap<String, OwnedFd>,
    fences: usize,
}

/// The manager; its sockets are in the folder of its daemon.
pub struct Manager {
    path: PathBuf,
    heard: Arc<Mutex<Heard>>,
    listener: Option<JoinHandle<()>>,
    /// Sockets of a socket unit.
    pub lent: Vec<OwnedFd>,
    /// Other variables in the daemon's environment.
    pub environment: Vec<(&'static str, String)>,
}

impl Manager {
    pub fn new(dir: &Path) -> Manager {
        let path = dir.join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let heard = Arc::default();
        let told = Arc::clone(&heard);
        let listener = Some(std::thread::spawn(move || listen(&socket, &told)));
        Manager { path, heard, listener, lent: Vec::new(), environment: Vec::new() }
    }

    /// Starts a daemon in that folder and hands it what is stored.
    pub fn start(&self, dir: &Path, log: Stdio) -> Child {
        self.hear_all();
        let to = dir.join("handed");
        let _none_before = std::fs::remove_file(&to);
        let started = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "manager::launcher", "--nocapture"])
            .current_dir(dir)
            .env(HANDED, &to)
            .env("NOTIFY_SOCKET", &self.path)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let heard = self.heard.lock().unwrap();
        let lent = self.lent.iter().map(|fd| ("plumbd.socket", fd.as_raw_fd()));
        let (names, fds): (Vec<&str>, Vec<RawFd>) =
            heard.store.iter().map(|(name, fd)| (name.as_str(), fd.as_raw_fd())).chain(lent).unzip();
        let names = names.join(":");
        let socket = UnixDatagram::unbound().unwrap();
        let address = UnixAddr::new(&to).unwrap();
        wait_for("the launcher listens", || {
            let rights = [ControlMessage::ScmRights(&fds)];
            let with: &[ControlMessage<'_>] = if fds.is_empty() { &[] } else { &rights };
            let text = [IoSlice::new(names.as_bytes())];
            sendmsg(socket.as_raw_fd(), &text, with, MsgFlags::empty(), Some(&address)).ok()
        });
        started
    }

    /// Waits until all messages so far have been received. As with systemd, the messages of a
    /// dead daemon count before the next one is started.
    fn hear_all(&self) {
        let fences = self.heard.lock().unwrap().fences;
        UnixDatagram::unbound().unwrap().send_to(FENCE, &self.path).unwrap();
        wait_for("all is heard", || (self.heard.lock().unwrap().fences > fences).then_some(()));
    }

    /// Waits until the store has these names and no others.
    #[track_caller]
    pub fn wait_stored(&self, names: &[&str]) {
        wait_for(&format!("only {names:?} are stored"), || {
            let heard = self.heard.lock().unwrap();
            heard.store.keys().eq(names).then_some(())
        });
    }

    /// Loses what it keeps under that name, like a manager that has no room.
    pub fn lose(&self, name: &str) {
        assert!(self.heard.lock().unwrap().store.remove(name).is_some(), "{name} is not stored");
    }

    /// Another descriptor of what it keeps under a name that begins with `begin`, and the whole
    /// name.
    pub fn kept(&self, begin: &str) -> (String, OwnedFd) {
        wait_for(&format!("{begin:?} is stored"), || {
            let heard = self.heard.lock().unwrap();
            let (name, fd) = heard.store.iter().find(|(name, _)| name.starts_with(begin))?;
            Some((name.clone(), fd.try_clone().unwrap()))
        })
    }

    /// Keeps this, like a manager that was not told to forget it.
    pub fn keep(&self, (name, fd): (String, OwnedFd)) {
        self.hear_all();
        self.heard.lock().unwrap().store.insert(name, fd);
    }

    /// Waits until it has received a message that begins with this.
    #[track_caller]
    pub fn wait_heard(&self, text: &str) {
        wait_for(&format!("{text:?} is heard"), || {
            let mut heard = self.heard.lock().unwrap();
            let at = heard.lines.iter().position(|line| line.starts_with(text))?;
            heard.lines.drain(..=at);
            Some(())
        });
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        let _dead_already = UnixDatagram::unbound().unwrap().send_to(QUIT, &self.path);
        self.listener.take().unwrap().join().unwrap();
    }
}

fn receive(socket: &UnixDatagram) -> (Vec<u8>, Vec<OwnedFd>) {
    let mut bytes = [0u8; 8192];
    let mut control = nix::cmsg_space!([RawFd; MOST]);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let message =
        recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC).unwrap();
    let mut fds = Vec::new();
    for rights in message.cmsgs().unwrap() {
        if let ControlMessageOwned::ScmRights(numbers) = rights {
            // SAFETY: the kernel has just given these numbers to this process.
            #[allow(unsafe_code)]
            fds.extend(numbers.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    let length = message.bytes;
    (bytes[..length].to_vec(), fds)
}

fn listen(socket: &UnixDatagram, heard: &Mutex<Heard>) {
    loop {
        let (bytes, fds) = receive(socket);
        if bytes == QUIT {
            return;
        }
        if bytes == FENCE {
            heard.lock().unwrap().fences += 1;
            continue;
        }
        let text = String::from_utf8(bytes).unwrap();
        let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        let mut heard = heard.lock().unwrap();
        let name = value("FDNAME").unwrap_or_default().to_owned();
        if value("FDSTORE") == Some("1") {
            assert!(!name.contains(':') && !name.is_empty(), "{text:?}");
            assert_eq!(value("FDPOLL"), Some("0"), "{text:?}");
            let [fd] = <[OwnedFd; 1]>::try_from(fds).unwrap();
            assert!(heard.store.insert(name, fd).is_none(), "twice: {text:?}");
        } else if value("FDSTOREREMOVE") == Some("1") {
            assert!(heard.store.remove(&name).is_some(), "{text:?}");
        }
        heard.lines.push(text);
    }
}

/// Not a test: [`Manager::start`] runs it in a process of its own, which receives its
/// descriptors, gives them the numbers from 3 on, and executes the daemon.
#[test]
fn launcher() {
    become_daemon();
}

/// If this process is the launcher, this does not return.
pub fn become_daemon() {
    let Some(path) = std::env::var_os(HANDED) else { return };
    let socket = UnixDatagram::bind(path).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let (names, fds) = receive(&socket);
    let count = fds.len();
    // They are moved out of the way first, because they may have the numbers that are wanted.
    let high: Vec<OwnedFd> = fds.iter().map(|fd| above(fd, 3 + 2 * count)).collect();
    for (target, fd) in (3..).zip(&high) {
        // SAFETY: the owner of that number is never used again, because exec comes next.
        #[allow(unsafe_code)]
        let copied = unsafe { nix::libc::dup2(fd.as_raw_fd(), target) };
        assert_eq!(copied, target);
    }
    let mut daemon = Command::new(env!("CARGO_BIN_EXE_plumbd"));
    daemon.args(["run", "-c", "plumbd.toml"]).env_remove(HANDED);
    if count > 0 {
        daemon
            .env("LISTEN_FDS", count.to_string())
            .env("LISTEN_FDNAMES", String::from_utf8(names).unwrap())
            .env("LISTEN_PID", std::process::id().to_string());
    }
    panic!("cannot become the daemon: {}", daemon.exec());
}

fn above(fd: &OwnedFd, least: usize) -> OwnedFd {
    use nix::fcntl::{FcntlArg, fcntl};
    let copy = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(i32::try_from(least).unwrap())).unwrap();
    // SAFETY: fcntl has just made this descriptor.
    #[allow(unsafe_code)]
    unsafe {
        OwnedFd::from_raw_fd(copy)
    }
}
