//! Every command that is one request to the daemon: plan, reload, start, stop,
//! restart, shutdown, reopen.

use super::socket::Socket;
use super::status::PATIENCE;
use super::{Failure, output};
use crate::control::{Request, Response, client};
use std::io::IsTerminal;
use std::path::Path;

/// Makes sure that the daemon answers at all, which a hung one does not: what
/// is asked next may take as long as a drain. Returns its configuration's file.
pub(super) fn answers(path: &Path) -> Result<Option<String>, Failure> {
    let mut file = None;
    let asked = client::ask_within(PATIENCE, path, &Request::Status, |response| {
        if let Response::Status(status) = response {
            file = status.config;
        }
        Ok(())
    });
    asked.map(|_| file).map_err(|failure| Failure::from(failure.to_string()))
}

/// A daemon reloads its own file: one that was named must be that.
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
/// daemon gave. Who reads no further (`| head -1`) still gets it.
pub(super) fn ask(socket: &Socket, request: &Request) -> Result<u8, Failure> {
    // Progress is for a person who looks on; NO_COLOR is for who wants none.
    let watched = std::io::stdout().is_terminal() && output::colours();
    let mut problems = Vec::new();
    let path = socket.path()?;
    let file = answers(&path)?;
    if let (Request::Reload, Socket::Configured(Some(named))) = (request, socket) {
        is_its_own(named, file)?;
    }
    let status = client::ask(&path, request, |response| {
        match response {
            Response::Out(text) => {
                output::print(format!("{text}\n")).map_err(|e| e.why)?;
            }
            Response::Progress(text) if watched => {
                output::print(format!("  {text}\n")).map_err(|e| e.why)?;
            }
            Response::Err(text) => problems.push(text),
            // `status` is a command of its own.
            Response::Progress(_) | Response::Status(_) | Response::Exit(_) => {}
            // So is `log`.
            Response::Entry(_) | Response::Lost(_) => {}
        }
        Ok(())
    });
    // Of a configuration, each line says FILE:LINE:COL by itself.
    let prefix = if matches!(status, Ok(Failure::CONFIGURATION)) { "" } else { "plumbd: " };
    problems.iter().for_each(|text| output::tell(&format!("{prefix}{text}")));
    status.map_err(|failure| Failure::from(failure.to_string()))
}
