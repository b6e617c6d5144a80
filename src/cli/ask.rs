//! Every command that is one request to the daemon: plan, reload, start, stop,
//! restart, shutdown, reopen.

use super::socket::Socket;
use super::status::PATIENCE;
use super::{Failure, elsewhere, holders, output};
use crate::control::{Request, Response, client};
use crate::journal;
use std::io::IsTerminal;
use std::path::Path;

/// Makes sure that the daemon answers and does not hang, because the request itself may
/// take as long as a drain. Returns the file of its configuration.
fn answers(path: &Path) -> Result<Option<String>, Failure> {
    look(path).map_err(|failure| elsewhere::unreachable(Failure::FAILED, &failure))
}

/// Asks for what may go on for ever, and prints each answer that is `shown` as it comes: until the
/// daemon has no more, or nobody reads.
pub(super) fn follow(
    socket: &Socket,
    request: &Request,
    shown: impl Fn(Response) -> Option<String>,
) -> Result<u8, Failure> {
    let path = socket.path()?;
    answers(&path)?;
    let followed = client::follow(&path, request, |response| {
        if let Response::Err(text) = response {
            output::tell(&format!("plumbd: {text}"));
        } else if let Some(text) = shown(response) {
            // If its reader is gone, that ends the conversation before the next answer.
            output::print(text).map_err(|failure| failure.why)?;
        }
        Ok(())
    });
    match followed {
        Err(client::Failure::Unread) => Ok(0),
        followed => followed.map_err(|failure| Failure::from(failure.to_string())),
    }
}

fn look(path: &Path) -> Result<Option<String>, client::Failure> {
    let mut file = None;
    let asked = client::ask_within(PATIENCE, path, &Request::Status, |response| {
        if let Response::Status(status) = response {
            file = status.config;
        }
        Ok(())
    });
    asked.map(|_| file)
}

/// A daemon reloads its own file, so a file that was named must be the same one.
fn is_its_own(named: &Path, own: Option<String>) -> Result<(), Failure> {
    let own = own.unwrap_or_else(|| "the built-in one".to_owned());
    let real = |path: &Path| path.canonicalize().ok();
    if real(named).is_some_and(|path| Some(path) == real(Path::new(&own))) {
        return Ok(());
    }
    let named = named.display();
    Err(format!("cannot reload {named}: the daemon's configuration is {own}; start one with `plumbd run -c {named}`")
        .into())
}

/// Asks, prints the answers as they come, and returns the status that the
/// daemon gave, even if nobody reads the answers any more (`| head -1`).
pub(super) fn ask(socket: &Socket, request: &Request) -> Result<u8, Failure> {
    // Progress is for a person who watches a terminal, and NO_COLOR turns it off too.
    let watched = std::io::stdout().is_terminal() && output::colours();
    let mut problems = Vec::new();
    // The daemon logs all of a reload: an ExecReload= of its unit need not do so once more.
    let is_logged = matches!(request, Request::Reload) && journal::is_on_stderr();
    let path = socket.path()?;
    let file = match look(&path) {
        // It has ended already, unless the file names another socket by now.
        Err(failure) if matches!(request, Request::Shutdown { .. }) && failure.no_daemon() => {
            return elsewhere::has_ended(socket, &path, &failure);
        }
        looked => looked.map_err(|failure| elsewhere::unreachable(Failure::FAILED, &failure))?,
    };
    if let (Request::Reload, Socket::Configured(Some(named))) = (request, socket) {
        is_its_own(named, file)?;
    }
    let status = client::ask(&path, request, |response| {
        match response {
            Response::Out(_) if is_logged => {}
            Response::Out(text) => {
                output::print(holders::named(&text) + "\n").map_err(|e| e.why)?;
            }
            Response::Progress(text) if watched => {
                output::print(format!("  {text}\n")).map_err(|e| e.why)?;
            }
            Response::Err(text) => problems.push(holders::named(&text)),
            // `status` is a command of its own.
            _ => {}
        }
        Ok(())
    });
    if is_logged {
        problems = problems.iter().filter_map(|text| text.lines().last().map(str::to_owned)).collect();
    }
    // With problems of a configuration, each line begins with FILE:LINE:COL.
    let prefix = if matches!(status, Ok(Failure::CONFIGURATION)) { "" } else { "plumbd: " };
    problems.iter().for_each(|text| output::tell(&format!("{prefix}{text}")));
    status.map_err(|failure| Failure::from(failure.to_string()))
}
