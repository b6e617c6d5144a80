//! Echo servers: plumbd, the plain one that saves nothing, and other programs.

use crate::load::checker::Format;
use crate::load::generator::{Connection, Outcome};
use crate::packages::program;
use crate::peer::{self, Peer};
use crate::rig::{self, LOOK, PATIENCE, Rig};
use crate::{proc, roles};
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Instant;
use tempfile::TempDir;

/// An echo server.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Server {
    /// A plain epoll loop that saves nothing.
    Plain,
    /// plumbd with this `echo_after`, and this many instances of echo.
    Plumbd(&'static str, u32),
    /// A process for each client, a pipe and a file.
    Textbook,
    Tcpserver,
    Socat,
    Xinetd,
}

/// The other servers that save.
pub(crate) const OTHERS: [(Server, &str); 4] = [
    (Server::Textbook, "textbook: fork, pipe, file"),
    (Server::Tcpserver, "tcpserver tee -a"),
    (Server::Socat, "socat fork EXEC:tee -a"),
    (Server::Xinetd, "xinetd tee -a"),
];

/// A running server. It is ended, with all of its processes and files, when this is dropped.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    process: Process,
}

enum Process {
    /// plumbd, and the number of bytes that its message file had before.
    Plumbd(Rig, u64),
    /// A peer, its folder, and the file that it saves to.
    Peer(Peer, TempDir, Option<PathBuf>),
}

impl Server {
    /// Starts it, and waits until it accepts connections.
    ///
    /// # Errors
    /// It can't be run.
    pub(crate) fn start(self) -> Result<Running, String> {
        let address = rig::free_address()?;
        let folder = rig::folder()?;
        if let Server::Plumbd(echo_after, instances) = self {
            return Running::plumbd(folder, address, &configuration(address, echo_after, instances), 0);
        }
        let file = folder.path().join("messages");
        // Each client's tee(1) opens it for appending.
        File::create(&file).map_err(|e| format!("cannot create {}: {e}", file.display()))?;
        let mut command = match self {
            Server::Plain => roles::yardstick_command(address)?,
            _ => self.command(address, &folder, &file.display().to_string())?,
        };
        let log = File::create(folder.path().join("log")).map_err(|e| format!("cannot create a log: {e}"))?;
        let mut peer = Peer::start(command.stdout(Stdio::null()).stderr(log))?;
        peer.wait_for_address(address)?;
        let saves = (self != Server::Plain).then_some(file);
        Ok(Running { address, process: Process::Peer(peer, folder, saves) })
    }

    fn command(self, address: SocketAddr, folder: &TempDir, file: &str) -> Result<Command, String> {
        let port = address.port().to_string();
        let (path, arguments) = match self {
            Server::Tcpserver => {
                let options = "-q -D -R -H -l localhost -c 2000 -b 2000 127.0.0.1";
                (program("tcpserver")?, [words(options), words(&format!("{port} tee -a {file}"))].concat())
            }
            Server::Socat => {
                let listen = format!("TCP-LISTEN:{port},bind=127.0.0.1,reuseaddr,nodelay,backlog=2000,fork");
                (program("socat")?, vec![listen, format!("EXEC:tee -a {file}")])
            }
            Server::Xinetd => {
                let (settings, pid) = (folder.path().join("xinetd.conf"), folder.path().join("pid"));
                fs::write(&settings, xinetd(&port, file)).map_err(|e| format!("cannot configure xinetd: {e}"))?;
                let options = format!("-dontfork -f {} -pidfile {}", settings.display(), pid.display());
                (program("xinetd")?, words(&options))
            }
            _ => (peer::textbook()?.to_owned(), vec![port, file.to_owned()]),
        };
        let mut command = Command::new(path);
        command.args(arguments);
        Ok(command)
    }
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

fn xinetd(port: &str, file: &str) -> String {
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten().map_or("root".into(), |u| u.name);
    format!(
        "service echo_and_save\n{{\ntype = UNLISTED\nsocket_type = stream\nprotocol = tcp\nbind = 127.0.0.1\n\
         port = {port}\nwait = no\nuser = {user}\nserver = /usr/bin/tee\nserver_args = -a {file}\n\
         instances = UNLIMITED\nper_source = UNLIMITED\ncps = 100000 1\nflags = NODELAY\n}}\n"
    )
}

/// A configuration with an echo linked to a logger that saves to `messages`.
pub(crate) fn configuration(address: SocketAddr, echo_after: &str, instances: u32) -> String {
    format!(
        r#"[children.echo]
plugin = "echo"
listen = ["tcp://{address}"]
instances = {instances}
settings = {{ echo_after = "{echo_after}" }}

[children.logger]
plugin = "logger"
settings = {{ file = "messages", format = "text" }}

[[links]]
from = "echo"
to = "logger"
"#
    )
}

impl Running {
    /// Starts plumbd with this configuration. Its message file already has this many bytes.
    ///
    /// # Errors
    /// It can't be run.
    pub(crate) fn plumbd(
        folder: TempDir,
        address: SocketAddr,
        configuration: &str,
        before: u64,
    ) -> Result<Running, String> {
        let mut rig = Rig::start(folder, configuration)?;
        rig.wait_for_address(address)?;
        // The supervisor listens before its children run.
        let there = |rig: &Rig| ["echo", "logger"].iter().all(|name| rig.processes().iter().any(|(_, it)| it == name));
        let deadline = Instant::now() + PATIENCE;
        while !there(&rig) {
            if Instant::now() > deadline {
                return Err(rig.complaint("plumbd has not started its children"));
            }
            sleep(LOOK);
        }
        Ok(Running { address, process: Process::Plumbd(rig, before) })
    }

    /// Its processes, with the name of each.
    pub(crate) fn processes(&self) -> Vec<(u32, String)> {
        match &self.process {
            Process::Plumbd(rig, _) => rig.processes(),
            Process::Peer(peer, ..) => {
                peer.processes().into_iter().map(|pid| (pid, self.called().to_owned())).collect()
            }
        }
    }

    fn called(&self) -> &'static str {
        match &self.process {
            Process::Peer(_, _, None) => "plain server",
            _ => "server",
        }
    }

    /// Microseconds on a core per message, for each process over its whole life.
    pub(crate) fn costs(&self, outcome: &Outcome) -> Vec<(String, f64)> {
        let cost = |pid| proc::time_on_core(pid).as_secs_f64() * 1e6 / outcome.echoed().max(1) as f64;
        self.processes().into_iter().map(|(pid, name)| (name, cost(pid))).collect()
    }

    /// What went wrong, with the server's own messages.
    pub(crate) fn complaint(&self, what: &str) -> String {
        match &self.process {
            Process::Plumbd(rig, _) => rig.complaint(what),
            Process::Peer(_, folder, _) => {
                let log = fs::read_to_string(folder.path().join("log")).unwrap_or_default();
                let last: Vec<&str> = log.lines().rev().take(3).collect();
                format!("{what} {last:?}")
            }
        }
    }

    /// Ends it, and checks that what was sent is in its file: for plumbd byte for byte, for others
    /// by the number of bytes.
    ///
    /// # Errors
    /// It does not end, or the file is not right.
    pub(crate) fn finish(self, sent: &[Connection]) -> Result<(), String> {
        match self.process {
            Process::Plumbd(mut rig, before) => {
                rig.stop()?;
                rig.check(&rig.path("messages"), before, Format::Text, sent)
            }
            Process::Peer(_, _, None) => Ok(()),
            Process::Peer(_peer, _folder, Some(file)) => {
                let wanted: u64 = sent.iter().map(|c| u64::from(c.echoed) * c.length as u64).sum();
                let deadline = Instant::now() + PATIENCE;
                loop {
                    let there = fs::metadata(&file).map_or(0, |file| file.len());
                    if there >= wanted {
                        return Ok(());
                    }
                    if Instant::now() > deadline {
                        return Err(format!("of {wanted} echoed bytes it saved {there}"));
                    }
                    sleep(LOOK);
                }
            }
        }
    }
}
