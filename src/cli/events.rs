//! `plumbd events`.

use super::Failure;
use super::ask::answers;
use super::output::{self, Reader};
use super::socket::Socket;
use crate::control::{Request, Response, client};

/// Prints events as they come, a line of JSON each, until the daemon ends.
pub(super) fn events(socket: &Socket, request: &Request) -> Result<u8, Failure> {
    let path = socket.path()?;
    answers(&path)?;
    let mut gone = false;
    let exit = client::follow(&path, request, |response| {
        match response {
            Response::Event(event) => {
                let line = serde_json::to_string(&event).map_err(|e| format!("cannot print an event: {e}"))?;
                gone = output::print(line + "\n").map_err(|failure| failure.why)? == Reader::Gone;
            }
            Response::Err(text) => output::tell(&format!("plumbd: {text}")),
            _ => {}
        }
        if gone { Err(String::new()) } else { Ok(()) }
    });
    match exit {
        Err(client::Failure::Unread) => Ok(0),
        Err(_) if gone => Ok(0),
        exit => exit.map_err(|failure| Failure::from(failure.to_string())),
    }
}
