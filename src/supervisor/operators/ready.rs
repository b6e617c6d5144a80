//! Tells the process that started the daemon that all is ready, or why not.
//!
//! `plumbd run --daemon` waits at one end of a pipe for the daemon's message at
//! the other. Both ends are defined here, so they can't disagree.

use crate::sys::pipe::Pipe;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;

/// The daemon's message for "all is ready".
const OK: &str = "ok";

/// The daemon's end. It sends one message; if it is dropped without one, that says that
/// the daemon died.
#[derive(Debug, Default)]
pub struct Ready {
    to: Option<OwnedFd>,
}

/// The end of the process that waits.
#[derive(Debug)]
pub struct Awaited {
    from: OwnedFd,
}

/// Both ends. They are close-on-exec, so no child holds the daemon's end open.
///
/// # Errors
/// EMFILE, ENFILE from pipe2(2).
pub fn pair() -> io::Result<(Ready, Awaited)> {
    let Pipe { read, write } = Pipe::new(4096)?;
    Ok((Ready { to: Some(write) }, Awaited { from: read }))
}

impl Ready {
    /// For a daemon in the foreground, for which nobody waits.
    pub fn nobody_waits() -> Ready {
        Ready { to: None }
    }

    /// Says that all is ready. Any later message is dropped.
    pub fn ready(&mut self) {
        self.say(OK);
    }

    /// Says that the daemon will not be ready, and why. Any later message is dropped.
    pub fn failed(&mut self, why: &str) {
        self.say(why);
    }

    fn say(&mut self, word: &str) {
        if let Some(to) = self.to.take() {
            // The process that waited may have been killed; the daemon goes on.
            let _unheard = File::from(to).write_all(word.as_bytes());
        }
    }
}

impl Awaited {
    /// Waits for the daemon's message.
    ///
    /// # Errors
    /// The daemon did not become ready, and why.
    pub fn outcome(self) -> Result<(), String> {
        let mut word = Vec::new();
        File::from(self.from).read_to_end(&mut word).map_err(|e| format!("cannot hear from the daemon: {e}"))?;
        match String::from_utf8_lossy(&word).as_ref() {
            OK => Ok(()),
            "" => Err("the daemon died before it was ready".to_owned()),
            why => Err(why.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_received() {
        let (mut ready, awaited) = pair().unwrap();
        ready.ready();
        ready.failed("too late to say so");
        assert_eq!(awaited.outcome(), Ok(()));
    }

    #[test]
    fn the_reason_is_received() {
        let (mut ready, awaited) = pair().unwrap();
        ready.failed("cannot bind tcp://127.0.0.1:7007: address in use");
        assert_eq!(awaited.outcome(), Err("cannot bind tcp://127.0.0.1:7007: address in use".to_owned()));
    }

    #[test]
    fn a_death_is_noticed() {
        let (ready, awaited) = pair().unwrap();
        drop(ready);
        assert_eq!(awaited.outcome(), Err("the daemon died before it was ready".to_owned()));
    }

    #[test]
    fn a_daemon_whose_starter_is_gone_goes_on() {
        let (mut ready, awaited) = pair().unwrap();
        drop(awaited);
        ready.ready();
    }
}
