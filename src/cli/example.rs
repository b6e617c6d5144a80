//! `plumbd example`.

use super::{Failure, output};
use crate::config::examples::{self, EXAMPLES, Example};

/// The example of that name.
pub(super) fn find(name: &str) -> Result<&'static Example, Failure> {
    examples::find(name).ok_or_else(|| {
        let known: Vec<&str> = EXAMPLES.iter().map(|e| e.name).collect();
        Failure::new(Failure::USAGE, format_args!("cannot print the example {name:?}: there are {}", known.join(", ")))
    })
}

/// Lists them, one line each.
pub(super) fn list() -> Result<u8, Failure> {
    let width = EXAMPLES.iter().map(|e| e.name.len()).max().unwrap_or(0);
    let lines: String = EXAMPLES.iter().map(|e| format!("{:width$}  {}\n", e.name, e.about)).collect();
    output::print(lines)?;
    Ok(0)
}

/// Prints one.
pub(super) fn print(example: &Example) -> Result<u8, Failure> {
    output::print(example.text)?;
    Ok(0)
}
