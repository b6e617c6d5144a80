//! The configurations in etc/, as `plumbd example` lists and prints them.

/// A configuration that ships with the program.
#[derive(Debug, Clone, Copy)]
pub struct Example {
    /// `plumbd example NAME`.
    pub name: &'static str,
    /// What it shows, in one line.
    pub about: &'static str,
    /// Its text.
    pub text: &'static str,
}

/// All of them, the fullest last.
pub static EXAMPLES: [Example; 6] = [
    Example {
        name: "one-way",
        about: "what a program writes goes through a pipe to another program",
        text: include_str!("../../etc/one-way.toml"),
    },
    Example {
        name: "two-way",
        about: "two programs talk to each other over two pipes: a greeting and its answer",
        text: include_str!("../../etc/two-way.toml"),
    },
    Example {
        name: "echo-store",
        about: "the echo server, and the file that has every message it echoed",
        text: include_str!("../../etc/echo-store.toml"),
    },
    Example {
        name: "pipeline",
        about: "a source, a filter and the logger, linked in a row",
        text: include_str!("../../etc/pipeline.toml"),
    },
    Example {
        name: "errors",
        about: "a program whose errors are saved in a file of their own",
        text: include_str!("../../etc/errors.toml"),
    },
    Example {
        name: "plumbd",
        about: "the built-in configuration with the system's paths, and a comment on every key",
        text: include_str!("../../etc/plumbd.toml"),
    },
];

/// The example of that name, with or without `.toml`.
pub fn find(name: &str) -> Option<&'static Example> {
    let name = name.strip_suffix(".toml").unwrap_or(name);
    EXAMPLES.iter().find(|example| example.name == name)
}
