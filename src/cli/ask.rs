//! Every command that is one request to the daemon: plan, reload, start, stop,
//! restart, shutdown, reopen.

use super::socket::Socket;
use super::{Failure, output};
use crate::control::{Request, Response, client};

/// Asks, prints the answers as they come, and returns the status that the
/// daemon gave. Who reads no further (`| head -1`) still gets it.
pub(super) fn ask(socket: &Socket, request: &Request) -> Result<u8, Failure> {
    let status = client::ask(&socket.path()?, request, |response| {
        match response {
            Response::Out(text) => {
                output::print(format!("{text}\n")).map_err(|e| e.why)?;
            }
            Response::Err(text) => output::tell(&format!("plumbd: {text}")),
            // `status` is a command of its own.
            Response::Status(_) | Response::Exit(_) => {}
        }
        Ok(())
    });
    status.map_err(|failure| Failure::from(failure.to_string()))
}
