//! `plumbd completions SHELL`.

use super::typed::Typed;
use super::{Failure, output};
use clap::CommandFactory;
use clap_complete::{Shell, generate};

/// Prints them.
pub(super) fn completions(shell: Shell) -> Result<u8, Failure> {
    let mut script = Vec::new();
    generate(shell, &mut Typed::command(), "plumbd", &mut script);
    output::print(script)?;
    Ok(0)
}
