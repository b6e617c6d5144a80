//! Why a system call failed, in words that a person can act on: without the number
//! that the standard library adds, and with the limit that was reached.
//!
//! Wherever text leaves this process, [`plain`] is applied last: in the log, a
//! plugin's log, answers to operators, notifications, and what a command prints on standard
//! error. So the code that makes a message need not care.

use nix::errno::Errno;
use nix::libc::RLIM_INFINITY;
use nix::sys::resource::{Resource, getrlimit};
use std::borrow::Cow;
use std::io;

/// The text that `io::Error` writes between the words for an error and its number.
const NUMBER: &str = " (os error ";

/// The cause of an error: "No such file or directory".
pub fn cause(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => words(Errno::from_raw(number)),
        None => error.to_string(),
    }
}

/// As [`cause`], for a system call's error number.
pub fn words(errno: Errno) -> String {
    let words = libc_words(errno as i32);
    match limit(errno) {
        Some(limit) => format!("{words} ({limit})"),
        None => words,
    }
}

/// The words of strerror(3).
fn libc_words(number: i32) -> String {
    let whole = io::Error::from_raw_os_error(number).to_string();
    whole.split_once(NUMBER).map_or_else(|| whole.clone(), |(words, _)| words.to_owned())
}

/// The limit that this process has reached, and how to raise it (setrlimit(2)).
fn limit(errno: Errno) -> Option<String> {
    let (resource, unit, raise) = match errno {
        Errno::EMFILE => {
            (Resource::RLIMIT_NOFILE, "descriptors", "ulimit -n, LimitNOFILE= of a systemd unit, or nofile")
        }
        Errno::EFBIG => (Resource::RLIMIT_FSIZE, "bytes a file", "ulimit -f, LimitFSIZE= of a systemd unit, or fsize"),
        Errno::ENFILE => return Some("the limit of the whole system: raise fs.file-max, see sysctl(8)".to_owned()),
        _ => return None,
    };
    let (soft, _) = getrlimit(resource).ok()?;
    // If this is unlimited, the limit was the file system's own.
    (soft != RLIM_INFINITY)
        .then(|| format!("the limit is {soft} {unit}: raise it with {raise} in `limits` of the child"))
}

/// Replaces each error in a text by its [`cause`]: `io::Error`'s own form, "Too many
/// open files (os error 24)", has a number that nobody needs. Only text that is exactly an
/// error's words is changed.
pub fn plain(text: &str) -> Cow<'_, str> {
    if !text.contains(NUMBER) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(NUMBER) {
        let (before, number) = rest.split_at(at);
        out.push_str(before);
        rest = match said(before, &number[NUMBER.len()..]) {
            Some((errno, behind)) => {
                if let Some(limit) = limit(errno) {
                    out.push_str(&format!(" ({limit})"));
                }
                behind
            }
            None => {
                out.push_str(NUMBER);
                &number[NUMBER.len()..]
            }
        };
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// The error whose words end `before` and whose number begins `number`, and the text after
/// that.
fn said<'a>(before: &str, number: &'a str) -> Option<(Errno, &'a str)> {
    let (number, behind) = number.split_once(')')?;
    let number: i32 = number.parse().ok()?;
    before.ends_with(&libc_words(number)).then(|| (Errno::from_raw(number), behind))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::{Path, PathBuf};

    fn error(errno: Errno) -> io::Error {
        errno.into()
    }

    #[test]
    fn no_error_number_is_shown() {
        for errno in [Errno::ENOENT, Errno::EACCES, Errno::EIO, Errno::ENOSPC] {
            let said = cause(&error(errno));
            assert!(!said.is_empty() && !said.contains("os error"), "{said}");
            let text = format!("cannot open /x: {}; trying again", error(errno));
            assert_eq!(plain(&text), format!("cannot open /x: {said}; trying again"));
        }
        let two = format!("cannot a: {}; cannot b: {}", error(Errno::ENOENT), error(Errno::EIO));
        assert_eq!(plain(&two), "cannot a: No such file or directory; cannot b: Input/output error");
    }

    #[test]
    fn text_that_only_looks_like_an_error_stays() {
        for text in [
            "it printed (os error 2)",
            "No such file or directory (os error 3)",
            "No such file or directory (os error 2",
            "No such file or directory (os error two)",
            " (os error ",
            "",
        ] {
            assert_eq!(plain(text), text);
        }
    }

    #[test]
    fn a_limit_that_was_reached_is_named_with_how_to_raise_it() {
        let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        let said = plain(&format!("cannot accept: {}", error(Errno::EMFILE))).into_owned();
        let whole = format!(
            "cannot accept: Too many open files (the limit is {soft} descriptors: raise it with ulimit -n, \
             LimitNOFILE= of a systemd unit, or nofile in `limits` of the child)"
        );
        assert_eq!(said, whole);
        assert_eq!(format!("cannot accept: {}", cause(&error(Errno::EMFILE))), whole);
        assert!(words(Errno::ENFILE).contains("fs.file-max"));
    }

    proptest! {
        #[test]
        fn any_text_without_an_error_stays(text in "[a-z (os error)0-9]{0,60}") {
            prop_assert_eq!(plain(&text), text.as_str());
        }
    }

    /// Every file of the sources.
    fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }

    /// Text leaves this process at few places, and each applies `plain`.
    #[test]
    fn every_place_where_text_leaves_this_process_makes_it_plain() {
        const WAYS_OUT: [&str; 6] = ["eprint", "println!", "print!(", "io::stderr()", "io::stdout()", "sendmsg("];
        // These send no text of ours: echo's link, messages, passing of descriptors, a check for a terminal.
        const SAFE: [&str; 11] = [
            "control/client.rs",
            "cli/messages/mod.rs",
            "cli/messages/print.rs",
            "plugin/echo/sink.rs",
            "plugin/logger/archivist.rs",
            "cli/status.rs",
            "cli/watch.rs",
            "cli/ask.rs",
            "journal/output.rs",
            "cause.rs",
            "main.rs",
        ];
        let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut found = Vec::new();
        sources(&src, &mut found);
        for path in found {
            let name = path.strip_prefix(&src).unwrap().to_str().unwrap().to_owned();
            let text = std::fs::read_to_string(&path).unwrap();
            let text = text.split("#[cfg(test)]").next().unwrap();
            let speaks = WAYS_OUT.iter().any(|way| text.contains(way));
            let is_test = name.contains("tests");
            let is_plain = text.contains("cause::plain") || SAFE.contains(&name.as_str()) || is_test;
            assert!(!speaks || is_plain, "src/{name} says something without cause::plain");
        }
    }
}
