//! The manual pages are made from what the program knows about itself, and are right for
//! each roff formatter that is installed.

use std::path::Path;
use std::process::{Command, Stdio};

const PAGES: [(&str, u8); 3] = [("plumbd", 1), ("plumbd.toml", 5), ("plumbd-plugin", 7)];

fn plumbd(words: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_plumbd")).args(words).output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A folder with every page, laid out as man(1) expects.
fn written() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    plumbd(&["man", "--out", folder.path().to_str().unwrap()]);
    folder
}

fn file(folder: &Path, (name, section): (&str, u8)) -> std::path::PathBuf {
    folder.join(format!("man{section}/{name}.{section}"))
}

/// What a program prints about a page on standard error and, if it is a
/// linter, on standard output; `None` if it is not installed.
fn said(program: &str, words: &[&str], page: &Path) -> Option<String> {
    let mut command = Command::new(program);
    command.args(words).arg(page).env("LC_ALL", "C.UTF-8").env("MANWIDTH", "80").stdin(Stdio::null());
    let output = command.output().ok()?;
    let out = if program == "mandoc" { output.stdout } else { Vec::new() };
    Some(String::from_utf8([out, output.stderr].concat()).unwrap())
}

/// A page as a person reads it.
fn read(page: &Path) -> String {
    let mut man = Command::new("man");
    man.args(["-l", "-P", "cat"]).arg(page).env("MANWIDTH", "80").env("LC_ALL", "C.UTF-8");
    let text = String::from_utf8(man.env("GROFF_NO_SGR", "1").output().unwrap().stdout).unwrap();
    // A bold character is printed over itself.
    let chars: Vec<char> = text.chars().collect();
    let is_over = |at: usize| chars.get(at + 1) == Some(&'\u{8}') || chars[at] == '\u{8}';
    (0..chars.len()).filter(|&at| !is_over(at)).map(|at| chars[at]).collect()
}

#[test]
fn pages_are_listed_printed_and_written() {
    let folder = written();
    let listed = plumbd(&["man"]);
    for (name, section) in PAGES {
        assert!(listed.lines().any(|line| line.starts_with(&format!("{name} "))), "{listed}");
        let printed = plumbd(&["man", name]);
        assert!(
            printed.contains(&format!(".TH \"{}\" {section} ", name.to_uppercase().replace('-', "\\-"))),
            "{printed}"
        );
        assert_eq!(std::fs::read_to_string(file(folder.path(), (name, section))).unwrap(), printed);
        assert_eq!(plumbd(&["man", &format!("{name}.{section}")]), printed);
        assert_eq!(plumbd(&["man", &format!("{name}({section})")]), printed);
    }
}

#[test]
fn a_folder_that_cannot_be_written_is_reported() {
    let words = ["man", "--out", "/proc/none"];
    let output = Command::new(env!("CARGO_BIN_EXE_plumbd")).args(words).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let why = "plumbd: cannot write /proc/none/man1/plumbd.1: No such file or directory\n";
    assert_eq!(String::from_utf8(output.stderr).unwrap(), why);
}

#[test]
fn the_first_page_has_every_command_and_its_options() {
    let page = plumbd(&["man", "plumbd"]);
    let help = plumbd(&["--help"]);
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names: Vec<&str> = commands.filter_map(|line| line.strip_prefix("  ")?.split(' ').next()).collect();
    assert!(names.len() >= 14, "{names:?}");
    for name in names.into_iter().filter(|name| !name.is_empty()) {
        assert!(page.lines().any(|line| line == format!(".SS {name}")), "{name}");
        for option in plumbd(&[name, "-h"]).split(|c: char| !c.is_ascii_alphanumeric() && c != '-') {
            if option.len() > 2 && option.starts_with("--") {
                assert!(page.contains(&option.replace('-', "\\-")), "{name} {option}");
            }
        }
    }
    for title in
        ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "FILES", "SIGNALS", "EXIT STATUS", "EXAMPLES", "SEE ALSO"]
    {
        assert!(page.lines().any(|line| line == format!(".SH {title}")), "{title}");
    }
}

#[test]
fn the_second_page_has_every_key_with_its_default() {
    let page = plumbd(&["man", "plumbd.toml"]);
    for key in crate::config::tables().iter().skip(1).flat_map(|(_, keys)| *keys) {
        let default = match (key.required, key.default) {
            (true, _) => ", required)".to_owned(),
            (false, "") => ")".to_owned(),
            (false, default) => format!(", default {default})"),
        };
        let name = key.name.replace('-', "\\-");
        let is = |line: &str| line.starts_with(&format!("\\fB{name}\\fR (")) && line.ends_with(&default);
        assert!(page.lines().any(is), "{}{default}", key.name);
    }
}

/// man(1) and groff(1) warn of what they do not understand, and mandoc(1) of more.
#[test]
fn formatters_report_nothing() {
    let folder = written();
    let formatters: [(&str, &[&str]); 3] = [
        ("man", &["--warnings", "-l", "-P", "true"]),
        ("groff", &["-t", "-man", "-ww", "-Tutf8", "-z"]),
        ("mandoc", &["-T", "lint", "-W", "warning"]),
    ];
    for (program, words) in formatters {
        for page in PAGES {
            match said(program, words, &file(folder.path(), page)) {
                Some(said) => assert_eq!(said, "", "{program} of {}", page.0),
                None => eprintln!("left out: {program} is not installed"),
            }
        }
    }
}

#[test]
fn what_a_person_reads_has_no_roff_in_it() {
    if Command::new("man").arg("--version").output().is_err() {
        eprintln!("left out: man is not installed");
        return;
    }
    let folder = written();
    for page in PAGES {
        let text = read(&file(folder.path(), page));
        assert!(text.lines().count() > 100, "{text}");
        // Only paragraphs, because preformatted text may be wider.
        let is_text = |line: &&str| line.starts_with("       ") && !line.starts_with("        ");
        let wide = text.lines().filter(is_text).find(|line| line.chars().count() > 80);
        assert_eq!(wide, None, "{}", page.0);
        for odd in ["\\f", "\\-", "\\&", ".TP", " @", "`"] {
            let shown = text.lines().find(|line| line.contains(odd));
            assert_eq!(shown, None, "{odd:?} in {}", page.0);
        }
    }
}
