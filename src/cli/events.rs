//! `plumbd events`.

use super::socket::Socket;
use super::{Failure, ask};
use crate::control::{Request, Response};

/// Prints events as they come, a line of JSON each, until the daemon ends.
pub(super) fn events(socket: &Socket, request: &Request) -> Result<u8, Failure> {
    ask::follow(socket, request, |response| match response {
        Response::Event(event) => {
            let line = serde_json::to_string(&event).expect("strings and numbers are always JSON");
            Some(line + "\n")
        }
        _ => None,
    })
}
