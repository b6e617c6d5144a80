//! `plumbd status`.

use super::page::{self, page};
use super::socket::Socket;
use super::table::Paper;
use super::{Failure, amounts, child, elsewhere, holders, output, watch};
use crate::config::{self, Reader, Which};
use crate::control::status::{Content, DaemonState};
use crate::control::{Request, Response, Status, client};
use crate::schema::system::Real;
use crate::sys::usage::Processes;
use jiff::Timestamp;
use std::cell::Cell;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};
use terminal_size::terminal_size;

/// How the status is shown.
#[derive(Debug, Clone, Copy)]
pub(super) struct How {
    /// As JSON.
    pub(super) json: bool,
    /// Again every second.
    pub(super) watch: bool,
}

/// The time between two looks, of which the second sees whether what waits moves.
const MOMENT: Duration = Duration::from_millis(200);
/// There are no more looks than this: enough to see that nothing has moved for as long as makes
/// it a problem.
const LOOKS: u32 = 8;

/// A file system that did not answer is asked again after this time.
const ASK_AGAIN: Duration = Duration::from_secs(60);

/// How long the daemon may take to answer; a running one answers at once.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);

/// What was seen, and when.
#[derive(Debug)]
pub(super) struct Look {
    pub(super) status: Status,
    at: Instant,
}

/// What is looked at.
#[derive(Debug)]
pub(super) struct Subject {
    /// The daemon's socket.
    path: PathBuf,
    /// The children that are shown with their details; if there are none, all are shown without.
    children: Vec<String>,
    /// Whether it is looked at again and again.
    watches: bool,
    /// When a file system did not answer the last time.
    hung: Cell<Option<Instant>>,
}

/// A status as people read it: once, or again and again.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) print: String,
    pub(super) watch: String,
}

/// Shows how the children and links are. The exit status is 0 if everything is up.
pub(super) fn status(socket: &Socket, children: Vec<String>, how: How) -> Result<u8, Failure> {
    let subject = Subject { path: socket.path()?, children, watches: false, hung: Cell::default() };
    let mut seen = subject.look(None).map_err(|failure| unusable(socket, failure))?;
    for before in 1..LOOKS {
        if !may_stall(&seen.status, before) {
            break;
        }
        std::thread::sleep(MOMENT);
        // If the daemon ended meanwhile, it was there at the first look.
        seen = subject.look(None).unwrap_or(seen);
    }
    if how.watch {
        return watch::watch(&Subject { watches: true, ..subject }, seen, how.json);
    }
    let text = match how.json {
        true => pretty(&seen.status),
        false => subject.shown(&seen.status).print,
    };
    output::print(text)?;
    let is_well = match subject.children.is_empty() {
        true => page::is_well(&seen.status),
        false => child::are_well(&seen.status),
    };
    Ok(if is_well { 0 } else { Failure::NOT_ALL_UP })
}

/// Whether another look can show more than those before: where bytes wait, the first one may be
/// the one that has seen them for the first time, and later ones see whether they stay for so
/// long that it is a problem.
fn may_stall(status: &Status, before: u32) -> bool {
    let mut waiting = status.links.iter().filter(|link| link.queued_bytes > 0).map(page::stalled);
    waiting.any(|stalled| before == 1 || !stalled.is_zero() && stalled < page::STALLED)
}

/// If no daemon runs, a wrong configuration may be the reason.
fn unusable(socket: &Socket, mut failure: Failure) -> Failure {
    let Socket::Configured(file) = socket else { return failure };
    if failure.status != Failure::NO_DAEMON {
        return failure;
    }
    if let Some(first) = prevents_a_start(file.as_deref()) {
        failure.why.push_str(&format!("\nno daemon starts with this configuration (see `plumbd check`): {first}"));
    }
    failure
}

/// The first problem of a configuration that ends a start. What the system lacks only holds
/// children back.
fn prevents_a_start(file: Option<&Path>) -> Option<String> {
    let problems = match config::source(file, Reader::Word) {
        Ok(source) => config::check_source(&Rc::new(source), &Real, Which::OfTheFile).err()?,
        Err(problems) => problems,
    };
    problems.iter().find(|problem| problem.lacking.is_none()).map(|problem| problems.headline(problem))
}

impl Subject {
    /// Asks the daemon, and looks at what the daemon does not look at, compared with the look
    /// `before` if there was one.
    pub(super) fn look(&self, before: Option<&Look>) -> Result<Look, Failure> {
        let mut status = fetch(&self.path, self.watches)?;
        if !self.children.is_empty() {
            child::look::keep(&mut status, &self.children)?;
        }
        let at = Instant::now();
        let mut look = Look { status, at };
        let before = before.filter(|before| before.status.pid == look.status.pid);
        // Each process that asks may stay until the file system answers.
        let files = self.hung.get().is_none_or(|hung| at - hung >= ASK_AGAIN);
        let processes = Processes::look().ok();
        let since = before.map(|before| (&before.status, at - before.at));
        if amounts::fill_in(&mut look.status, processes.as_ref(), since, files) {
            self.hung.set(Some(at));
        }
        if !self.children.is_empty() {
            child::look::fill_in(&self.path, &mut look.status, processes.as_ref(), PATIENCE)?;
        }
        Ok(look)
    }

    /// For people.
    pub(super) fn shown(&self, status: &Status) -> Shown {
        let now = Timestamp::now();
        if self.children.is_empty() {
            let page = page(status, now, paper());
            return Shown { print: page.print(), watch: page.watch() };
        }
        child::shown(status, now, paper())
    }
}

/// Asks the daemon. If none answers and nobody just waits for it to come back (`watches`), the
/// failure says which others run here, which wakes all of them.
fn fetch(path: &Path, watches: bool) -> Result<Status, Failure> {
    let mut got = None;
    let exit = client::ask_within(PATIENCE, path, &Request::Status, |response| {
        match response {
            Response::Status(status) => got = Some(*status),
            Response::Err(text) => output::tell(&format!("plumbd: {text}")),
            _ => {}
        }
        Ok(())
    });
    match (exit, got) {
        (Ok(0), Some(mut status)) => {
            match changed(&status) {
                Changed::No => status.reload_failed = None,
                Changed::At(at) => status.config_changed = Some(at),
                Changed::Unknown => {}
            }
            for child in &mut status.children {
                child.problem = child.problem.as_deref().map(holders::named);
            }
            status.reload_failed = status.reload_failed.as_deref().map(holders::named);
            Ok(status)
        }
        (Ok(_), _) => Err(Failure::from("cannot show the status: the daemon did not send it".to_owned())),
        (Err(failure), _) => {
            let status = if failure.no_daemon() { Failure::NO_DAEMON } else { Failure::FAILED };
            Err(match watches {
                true => Failure::new(status, failure.to_string()),
                false => elsewhere::unreachable(status, &failure),
            })
        }
    }
}

/// Whether the configuration file holds something else than what is in force.
enum Changed {
    No,
    /// It was changed at that time.
    At(Timestamp),
    /// It can't be read, or there is none.
    Unknown,
}

fn changed(status: &Status) -> Changed {
    let (Some(file), Some(content)) = (&status.config, status.config_content) else { return Changed::Unknown };
    let Ok(text) = config::text(Path::new(file)) else { return Changed::Unknown };
    if status.state == DaemonState::Reloading || Content::of(&text) == content {
        return Changed::No;
    }
    let changed = std::fs::metadata(file).and_then(|found| found.modified()).ok();
    changed.and_then(|at| Timestamp::try_from(at).ok()).map_or(Changed::Unknown, Changed::At)
}

/// The width and the colours of standard output.
pub(super) fn paper() -> Paper {
    let terminal = std::io::stdout().is_terminal();
    let width = terminal_size().filter(|_| terminal).map(|(width, _)| usize::from(width.0));
    Paper { width: width.filter(|&width| width > 0), colours: terminal && output::colours() }
}

fn pretty(status: &Status) -> String {
    serde_json::to_string_pretty(status).expect("strings, numbers and maps with string keys are always JSON") + "\n"
}

/// One line, for a program that follows the status.
pub(super) fn line(status: &Status) -> String {
    serde_json::to_string(status).expect("strings, numbers and maps with string keys are always JSON") + "\n"
}
