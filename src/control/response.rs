//! What the daemon answers.

use super::Status;
use super::details::Known;
use super::entry::{Entry, Lost};
use super::event::Event;
use crate::sys::cause;
use serde::{Deserialize, Serialize};

/// One line of an answer: `{"out":"..."}`, `{"err":"..."}`, `{"progress":"..."}`,
/// `{"status":{...}}`, `{"known":{...}}`, `{"entry":{...}}`, `{"lost":{...}}`,
/// `{"event":{...}}`, and finally `{"exit":0}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Response {
    /// For the client's standard output; a newline is added.
    Out(String),
    /// For its standard error; a newline is added.
    Err(String),
    /// The progress so far, for a person who watches; a newline is added. Programs
    /// can ignore it.
    Progress(String),
    /// How the children and links are.
    Status(Box<Status>),
    /// What only the daemon knows of a child.
    Known(Box<Known>),
    /// An entry of the log.
    Entry(Entry),
    /// Entries of the log that went before this reader took them.
    Lost(Lost),
    /// Something that happened.
    Event(Event),
    /// The request is done: the client's exit status. Nothing follows.
    Exit(u8),
}

impl Response {
    /// The line that goes over the socket, with its newline.
    pub fn line(&self) -> Vec<u8> {
        let json = serde_json::to_string(self).expect("strings, numbers and maps with string keys are always JSON");
        // An error's words contain nothing that JSON escapes, so `plain` finds them here.
        let mut line = cause::plain(&json).into_owned().into_bytes();
        line.push(b'\n');
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_look_as_documented() {
        let progress = Response::Progress("d".to_owned());
        let lines = [Response::Out("a\nb".to_owned()), Response::Err("c".to_owned()), progress, Response::Exit(1)];
        let text: Vec<u8> = lines.iter().flat_map(Response::line).collect();
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "{\"out\":\"a\\nb\"}\n{\"err\":\"c\"}\n{\"progress\":\"d\"}\n{\"exit\":1}\n"
        );
    }
}
