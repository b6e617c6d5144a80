//! `plumbd status`.

use super::output::{self, Reader};
use super::socket::Socket;
use super::{Failure, table};
use crate::control::{Request, Response, Status, client};
use jiff::Timestamp;
use std::io::IsTerminal;
use std::path::Path;
use std::time::Duration;

/// How it is shown.
#[derive(Debug, Clone, Copy)]
pub(super) struct How {
    /// As JSON.
    pub(super) json: bool,
    /// Again each second.
    pub(super) watch: bool,
}

/// How often it is shown anew.
const WATCH: Duration = Duration::from_secs(1);

/// Clears the terminal and goes to its top left.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// Shows how the children and links are. The exit status is 0 where all is up.
pub(super) fn status(socket: &Socket, how: How) -> Result<u8, Failure> {
    let path = socket.path()?;
    let status = fetch(&path)?;
    if how.watch {
        return watch(&path, status, how.json);
    }
    output::print(shown(&status, how))?;
    Ok(if status.all_up() { 0 } else { Failure::NOT_ALL_UP })
}

/// Until nobody reads any more, or Ctrl-C. A daemon that goes away may come
/// back: a watcher wants to see that.
fn watch(path: &Path, first: Status, json: bool) -> Result<u8, Failure> {
    let in_place = !json && std::io::stdout().is_terminal();
    let mut next: Result<Status, Failure> = Ok(first);
    loop {
        let text = match &next {
            Ok(status) => shown(status, How { json, watch: true }),
            Err(failure) if in_place => format!("{failure}\n"),
            Err(failure) => {
                output::tell(&failure.to_string());
                String::new()
            }
        };
        let clear = if in_place { CLEAR } else { "" };
        if output::print(format!("{clear}{text}"))? == Reader::Gone {
            return Ok(0);
        }
        std::thread::sleep(WATCH);
        next = fetch(path);
    }
}

fn fetch(path: &Path) -> Result<Status, Failure> {
    let mut got = None;
    let exit = client::ask(path, &Request::Status, |response| {
        match response {
            Response::Status(status) => got = Some(*status),
            Response::Err(text) => output::tell(&format!("plumbd: {text}")),
            Response::Out(_) | Response::Exit(_) => {}
        }
        Ok(())
    });
    match (exit, got) {
        (Ok(0), Some(status)) => Ok(status),
        (Ok(_), _) => Err(Failure::from("cannot show the status: the daemon did not tell it".to_owned())),
        (Err(failure), _) if failure.no_daemon() => Err(Failure::new(Failure::NO_DAEMON, failure)),
        (Err(failure), _) => Err(Failure::from(failure.to_string())),
    }
}

fn shown(status: &Status, how: How) -> String {
    let json = match how {
        // A line each time, for a program that follows it.
        How { json: true, watch: true } => serde_json::to_string(status),
        How { json: true, watch: false } => serde_json::to_string_pretty(status),
        How { json: false, .. } => return table::render(status, Timestamp::now()),
    };
    json.expect("strings, numbers and maps with string keys are always JSON") + "\n"
}
