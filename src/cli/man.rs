//! `plumbd man`: the manual page plumbd(1), made of the same descriptions as
//! `--help`.

use super::typed::Typed;
use super::{Failure, output};
use clap::{Command, CommandFactory};
use clap_mangen::Man;
use std::io::{self, Write};

/// What no argument's description says, in roff (man(7)).
const REST: &str = include_str!("man.roff");

/// Prints it.
pub(super) fn man() -> Result<u8, Failure> {
    let mut page = Vec::new();
    write(&mut page).map_err(|e| format!("cannot write the manual page: {e}"))?;
    output::print(page)?;
    Ok(0)
}

fn write(page: &mut Vec<u8>) -> io::Result<()> {
    let command = Typed::command();
    let whole = Man::new(command.clone()).manual("plumbd manual");
    whole.render_title(page)?;
    whole.render_name_section(page)?;
    whole.render_synopsis_section(page)?;
    whole.render_description_section(page)?;
    writeln!(page, ".SH COMMANDS")?;
    for subcommand in command.get_subcommands().filter(|c| !c.is_hide_set()) {
        let name = format!("plumbd {}", subcommand.get_name());
        writeln!(page, ".SS {name}")?;
        page.extend(section(subcommand.clone().bin_name(name).disable_help_flag(true))?);
    }
    page.extend_from_slice(REST.as_bytes());
    whole.render_version_section(page)
}

/// A command's part of the page: its sections without their headings.
fn section(command: Command) -> io::Result<Vec<u8>> {
    let examples = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let man = Man::new(command);
    let mut roff = Vec::new();
    man.render_synopsis_section(&mut roff)?;
    writeln!(roff, ".PP")?;
    man.render_description_section(&mut roff)?;
    man.render_options_section(&mut roff)?;
    let text = String::from_utf8_lossy(&roff);
    let mut section: Vec<u8> = text
        .lines()
        .filter(|line| !line.starts_with(".SH"))
        .flat_map(|line| [line.as_bytes(), b"\n"].concat())
        .collect();
    writeln!(section, ".PP\n.nf\n{}\n.fi", verbatim(&examples))?;
    Ok(section)
}

/// Text as it is: nothing in it is a request or an escape (roff(7)).
fn verbatim(text: &str) -> String {
    let lines =
        text.lines().map(|line| format!("\\&{}", line.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq")));
    lines.collect::<Vec<_>>().join("\n")
}
