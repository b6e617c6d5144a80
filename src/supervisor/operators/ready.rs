//! Telling whoever started the daemon that all is ready, or why not.
//!
//! `plumbd run --daemon` waits at one end of a pipe for the daemon's word at
//! the other. Both ends are here, so they can't disagree.

use crate::sys::pipe::Pipe;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;

/// The daemon's word for "all is ready".
const OK: &str = "ok";

/// The daemon's end. It speaks once; dropped without a word it says that the
/// daemon died.
#[derive(Debug, Default)]
pub struct Ready {
    to: Option<OwnedFd>,
}

/// The end of whoever waits.
#[derive(Debug)]
pub struct Awaited {
    from: OwnedFd,
}

/// Both ends, close-on-exec: no child holds the daemon's end open.
///
/// # Errors
/// EMFILE, ENFILE from pipe2(2).
pub fn pair() -> io::Result<(Ready, Awaited)> {
    let Pipe { read, write } = Pipe::new(4096)?;
    Ok((Ready { to: Some(write) }, Awaited { from: read }))
}

impl Ready {
    /// For a daemon that nobody waits for: in the foreground.
    pub fn nobody_waits() -> Ready {
        Ready { to: None }
    }

    /// All is ready. What is said after it goes to nobody.
    pub fn ready(&mut self) {
        self.say(OK);
    }

    /// It will not be ready, and why. What is said after it goes to nobody.
    pub fn failed(&mut self, why: &str) {
        self.say(why);
    }

    fn say(&mut self, word: &str) {
        if let Some(to) = self.to.take() {
            // Whoever waited may have been killed; the daemon goes on.
            let _unheard = File::from(to).write_all(word.as_bytes());
        }
    }
}

impl Awaited {
    /// Waits for the daemon's word.
    ///
    /// # Errors
    /// Why it did not become ready.
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
    fn ready_is_heard() {
        let (mut ready, awaited) = pair().unwrap();
        ready.ready();
        ready.failed("too late to say so");
        assert_eq!(awaited.outcome(), Ok(()));
    }

    #[test]
    fn the_reason_is_heard() {
        let (mut ready, awaited) = pair().unwrap();
        ready.failed("cannot bind tcp://127.0.0.1:7007: address in use");
        assert_eq!(awaited.outcome(), Err("cannot bind tcp://127.0.0.1:7007: address in use".to_owned()));
    }

    #[test]
    fn a_death_is_heard() {
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
