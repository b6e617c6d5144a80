//! `plumbd completions SHELL`, and the answers for such a script.
//!
//! The script only calls back: at each Tab it runs
//! `plumbd` with [`ASKS`] set. That completes the words from the same
//! description of the arguments as `--help`, and the names of children from the
//! running daemon.

use super::meant;
use super::socket::Socket;
use super::typed::Typed;
use super::{Failure, output};
use crate::config::model::base_name;
use crate::config::{self, examples::EXAMPLES};
use crate::control::{Request, Response, client};
use crate::plugin::PLUGINS;
use clap::CommandFactory;
use clap_complete::engine::CompletionCandidate;
use clap_complete::{CompleteEnv, Shell, env::Shells};
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Set by the scripts, to the name of their shell.
const ASKS: &str = "PLUMBD_COMPLETE";

/// How long the daemon may take, because a person has pressed Tab and waits.
const PATIENCE: Duration = Duration::from_millis(500);

/// Put around clap's function for bash, which takes words as bash splits them.
const BASH: &str = r#"
_plumbd() {
    # Bash takes the = of --option=value as a word of its own, and leaves backslashes in words.
    local all=("${COMP_WORDS[@]//\\/}") current=$COMP_CWORD COMP_WORDS=() COMP_CWORD at
    for at in "${!all[@]}"; do
        [[ ${all[at]} == = && at -ne current ]] && continue
        [[ at -eq current ]] && COMP_CWORD=${#COMP_WORDS[@]}
        COMP_WORDS+=("${all[at]}")
    done
    _clap_complete_plumbd "$1" "${2//\\/}" "$3"
    # A file may have a space in its name. Between quotes that is right as it is.
    [[ ${all[current]} == [\"\']* ]] && return
    local file
    for at in "${!COMPREPLY[@]}"; do
        file=${COMPREPLY[at]}
        if [[ $file == '~/'* && -e $HOME/${file:2} ]]; then
            COMPREPLY[at]="~/$(printf %q "${file:2}")"
        elif [[ -e $file ]]; then
            COMPREPLY[at]=$(printf %q "$file")
        fi
    done
}
complete -o nospace -o bashdefault -o nosort -F _plumbd plumbd
"#;

/// Put around clap's function for zsh. If the script is a file in `$fpath`, the first Tab runs
/// the file itself as the completion.
const ZSH: &str = r#"
_plumbd_words() {
    # Zsh has not expanded the ~ yet, and would quote it in an answer.
    if [[ "${words[CURRENT]}" == '~'* ]]; then
        _files
    else
        _clap_dynamic_completer_plumbd "$@"
    fi
}
compdef _plumbd_words plumbd
if [[ "$funcstack[1]" == _plumbd ]]; then
    _plumbd_words "$@"
fi
"#;

/// Prints the script.
pub(super) fn completions(shell: Shell) -> Result<u8, Failure> {
    let script = script(shell).map_err(|e| format!("cannot write completions for {shell}: {e}"))?;
    output::print(script)?;
    Ok(0)
}

fn script(shell: Shell) -> io::Result<Vec<u8>> {
    let shells = Shells::builtins();
    let known = shells.completer(&shell.to_string()).ok_or(io::ErrorKind::Unsupported)?;
    let mut script = Vec::new();
    known.write_registration(ASKS, "plumbd", "plumbd", "plumbd", &mut script)?;
    match shell {
        Shell::Bash => script.extend_from_slice(BASH.as_bytes()),
        Shell::Zsh => script.extend_from_slice(ZSH.as_bytes()),
        _ => {}
    }
    Ok(script)
}

/// Answers if a script asks, and returns whether one did.
pub(super) fn answer(arguments: &[OsString]) -> bool {
    if std::env::var_os(ASKS).is_none() {
        return false;
    }
    // A person in the middle of a line does not want to see why nothing can be completed.
    let here = std::env::current_dir().ok();
    CompleteEnv::with_factory(Typed::command).var(ASKS).try_complete(arguments, here.as_deref()).unwrap_or(true)
}

/// What `plumbd log` can show.
pub(super) fn logs() -> Vec<CompletionCandidate> {
    with("plumbd", "the daemon itself")
}

/// The children that a command is about: some, or all of them.
pub(super) fn some_or_all() -> Vec<CompletionCandidate> {
    with("all", "every child")
}

fn with(name: &str, help: &'static str) -> Vec<CompletionCandidate> {
    let more = CompletionCandidate::new(name).help(Some(help.into()));
    children().into_iter().chain([more]).collect()
}

/// The children that can be named: those of the running daemon or, if it does not answer,
/// of the configuration. A child with instances is also listed by its own name.
pub(super) fn children() -> Vec<CompletionCandidate> {
    let words: Vec<OsString> = std::env::args_os().collect();
    let config = option(&words, &["-c", "--config"]);
    let socket = meant::socket_of(option(&words, &["--control"]), config.clone());
    let mut candidates = Vec::new();
    for (name, help) in running(&socket).unwrap_or_else(|| configured(config)) {
        let base = base_name(&name).to_owned();
        if base != name && !candidates.iter().any(|(known, _)| *known == base) {
            candidates.push((base, "all its instances".to_owned()));
        }
        candidates.push((name, help));
    }
    candidates.into_iter().map(|(name, help)| CompletionCandidate::new(name).help(Some(help.into()))).collect()
}

fn running(socket: &Socket) -> Option<Vec<(String, String)>> {
    let mut children = None;
    let asked = client::ask_within(PATIENCE, &socket.path().ok()?, &Request::Status, |response| {
        if let Response::Status(status) = response {
            let named = status.children.into_iter().map(|child| (child.name, child.state.to_string()));
            children = Some(named.collect());
        }
        Ok(())
    });
    asked.ok().and(children)
}

fn configured(file: Option<PathBuf>) -> Vec<(String, String)> {
    let children = config::load(file.as_deref()).map(|loaded| loaded.model.children).unwrap_or_default();
    children.into_iter().map(|child| (child.name.clone(), "in the configuration".to_owned())).collect()
}

/// The value of an option on the line that is being typed.
fn option(words: &[OsString], names: &[&str]) -> Option<PathBuf> {
    words.iter().enumerate().find_map(|(at, word)| {
        let word = word.to_str()?;
        names.iter().find_map(|name| match word.strip_prefix(name)? {
            "" => words.get(at + 1).map(PathBuf::from),
            rest => rest.strip_prefix('=').map(PathBuf::from),
        })
    })
}

/// The names of `plumbd example`.
pub(super) fn examples() -> Vec<CompletionCandidate> {
    EXAMPLES.iter().map(|example| CompletionCandidate::new(example.name).help(Some(example.about.into()))).collect()
}

/// The names of `plumbd plugin`.
pub(super) fn plugins() -> Vec<CompletionCandidate> {
    PLUGINS.iter().map(|plugin| CompletionCandidate::new(plugin.name).help(Some(plugin.about.into()))).collect()
}

/// The names of `plumbd man`.
pub(super) fn pages() -> Vec<CompletionCandidate> {
    super::man::PAGES.iter().map(|page| CompletionCandidate::new(page.name).help(Some(page.about.into()))).collect()
}
