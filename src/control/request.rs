//! What an operator asks for, and the daemon's decoder.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A request: a line of JSON, `{"command":"stop","children":["echo"]}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "lowercase")]
pub enum Request {
    /// How are the children and links?
    Status,
    /// What would a reload do?
    Plan {
        /// The configuration to compare with, absolute; `None`: the daemon's own file.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        file: Option<PathBuf>,
    },
    /// Read the configuration again and apply it.
    Reload,
    /// Start these children; clears a start limit.
    Start {
        /// Their names, at least one.
        children: Vec<String>,
    },
    /// Stop these children, until they are started by hand or by a reload.
    Stop {
        /// Their names, at least one.
        children: Vec<String>,
    },
    /// Stop these children and start them again.
    Restart {
        /// Their names, at least one.
        children: Vec<String>,
    },
    /// End the daemon.
    Shutdown {
        /// Without draining.
        #[serde(default)]
        fast: bool,
    },
    /// Children open their files anew.
    Reopen,
    /// What was logged lately?
    Log {
        /// The names of children; none: all of them, and the daemon.
        #[serde(default)]
        children: Vec<String>,
        /// At most so many entries; `None`: all that are kept.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lines: Option<usize>,
        /// Go on with what is logged from now on.
        #[serde(default)]
        follow: bool,
    },
    /// What happens? Goes on until the operator hangs up.
    Events {
        /// The name of a child; `None`: all of them, and the daemon.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        child: Option<String>,
        /// The number of the first event; `None`: the next one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        since: Option<u64>,
    },
    /// What does only the daemon know of these children?
    Inspect {
        /// Their names.
        children: Vec<String>,
    },
}

impl Request {
    /// The line that goes over the socket, with its newline.
    ///
    /// # Errors
    /// A path that is not UTF-8, which JSON can't carry.
    pub fn line(&self) -> Result<Vec<u8>, String> {
        let mut line = serde_json::to_vec(self).map_err(|e| format!("cannot send the request: {e}"))?;
        line.push(b'\n');
        Ok(line)
    }
}

/// The longest request, in bytes with its newline.
pub const LONGEST: usize = 64 * 1024;

/// Turns the bytes of one connection into requests, whatever these bytes are.
#[derive(Debug, Default)]
pub struct Decoder {
    held: Vec<u8>,
    refused: bool,
}

impl Decoder {
    /// Takes what was read from the socket. Holds at most [`LONGEST`]
    /// bytes more than one call brings.
    pub fn feed(&mut self, bytes: &[u8]) {
        if !self.refused {
            self.held.extend_from_slice(bytes);
        }
    }

    /// The next whole request, or the reason why the bytes are not a request, for the
    /// operator; `None` until more bytes come.
    ///
    /// After an error, the connection has no more requests, because bytes after a
    /// malformed request mean nothing.
    pub fn next_request(&mut self) -> Option<Result<Request, String>> {
        let end = memchr::memchr(b'\n', &self.held);
        if end.unwrap_or(self.held.len()) >= LONGEST {
            return Some(self.refuse(format!("cannot read the request: it is longer than {LONGEST} bytes")));
        }
        let line: Vec<u8> = self.held.drain(..=end?).collect();
        match serde_json::from_slice(&line) {
            Ok(request) => Some(Ok(request)),
            Err(error) => Some(self.refuse(format!("cannot read the request: {error}"))),
        }
    }

    fn refuse(&mut self, why: String) -> Result<Request, String> {
        self.refused = true;
        self.held = Vec::new();
        Err(why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn every_request() -> Vec<Request> {
        let children = vec!["echo".to_owned(), "logger".to_owned()];
        vec![
            Request::Status,
            Request::Plan { file: None },
            Request::Plan { file: Some("/etc/plumbd/plumbd.toml".into()) },
            Request::Reload,
            Request::Start { children: children.clone() },
            Request::Stop { children: children.clone() },
            Request::Restart { children: children.clone() },
            Request::Shutdown { fast: false },
            Request::Shutdown { fast: true },
            Request::Reopen,
            Request::Log { children: vec!["echo".to_owned()], lines: Some(5), follow: true },
            Request::Log { children: Vec::new(), lines: None, follow: false },
            Request::Events { child: None, since: None },
            Request::Events { child: Some("echo".to_owned()), since: Some(7) },
            Request::Inspect { children },
        ]
    }

    #[test]
    fn requests_look_as_documented() {
        let lines: Vec<String> =
            every_request().iter().map(|r| String::from_utf8(r.line().unwrap()).unwrap()).collect();
        assert_eq!(
            lines.concat(),
            r#"{"command":"status"}
{"command":"plan"}
{"command":"plan","file":"/etc/plumbd/plumbd.toml"}
{"command":"reload"}
{"command":"start","children":["echo","logger"]}
{"command":"stop","children":["echo","logger"]}
{"command":"restart","children":["echo","logger"]}
{"command":"shutdown","fast":false}
{"command":"shutdown","fast":true}
{"command":"reopen"}
{"command":"log","children":["echo"],"lines":5,"follow":true}
{"command":"log","children":[],"follow":false}
{"command":"events"}
{"command":"events","child":"echo","since":7}
{"command":"inspect","children":["echo","logger"]}
"#
        );
    }

    #[test]
    fn shutdown_without_fast_drains() {
        let mut decoder = Decoder::default();
        decoder.feed(b"{\"command\":\"shutdown\"}\n");
        assert_eq!(decoder.next_request(), Some(Ok(Request::Shutdown { fast: false })));
    }

    #[test]
    fn half_a_request_waits_for_the_rest() {
        let mut decoder = Decoder::default();
        decoder.feed(b"{\"command\":");
        assert_eq!(decoder.next_request(), None);
        decoder.feed(b"\"reload\"}\n{\"comm");
        assert_eq!(decoder.next_request(), Some(Ok(Request::Reload)));
        assert_eq!(decoder.next_request(), None);
    }

    #[test]
    fn an_endless_request_is_refused_once_and_takes_no_memory() {
        let mut decoder = Decoder::default();
        decoder.feed(&vec![b' '; LONGEST]);
        assert!(decoder.next_request().unwrap().is_err());
        decoder.feed(b"{\"command\":\"status\"}\n");
        assert_eq!(decoder.next_request(), None);
        assert!(decoder.held.is_empty());
    }

    #[test]
    fn a_wrong_command_says_which_are_right() {
        let mut decoder = Decoder::default();
        decoder.feed(b"{\"command\":\"stopp\"}\n");
        let why = decoder.next_request().unwrap().unwrap_err();
        assert!(why.starts_with("cannot read the request: unknown variant `stopp`, expected one of"), "{why}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_requests_or_a_refusal(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..20)) {
            let mut decoder = Decoder::default();
            let mut refusals = 0;
            for piece in pieces {
                decoder.feed(&piece);
                while let Some(outcome) = decoder.next_request() {
                    refusals += usize::from(outcome.is_err());
                }
            }
            prop_assert!(refusals <= 1);
        }

        #[test]
        fn requests_come_through_however_the_bytes_are_split(at in prop::collection::vec(0usize..400, 0..10)) {
            let bytes: Vec<u8> = every_request().iter().flat_map(|r| r.line().unwrap()).collect();
            let mut cuts: Vec<usize> = at.into_iter().map(|n| n.min(bytes.len())).chain([0, bytes.len()]).collect();
            cuts.sort_unstable();
            let mut decoder = Decoder::default();
            let mut got = Vec::new();
            for pair in cuts.windows(2) {
                decoder.feed(&bytes[pair[0]..pair[1]]);
                while let Some(request) = decoder.next_request() {
                    got.push(request.unwrap());
                }
            }
            prop_assert_eq!(got, every_request());
        }
    }
}
