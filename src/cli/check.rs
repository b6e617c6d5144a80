//! `plumbd check`.

use super::{Failure, output};
use crate::config::model::{Child, Program};
use crate::config::{self, Loaded, effective};
use crate::control::client;
use crate::plugin;
use crate::schema::kind::Kind;
use crate::supervisor::holder;
use crate::sys::beside::Folder;
use nix::unistd::{Uid, User, geteuid};
use std::collections::BTreeSet;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// Checks the configuration; prints it with its defaults if that is asked for.
/// The failure has every problem that was found.
pub(super) fn check(file: Option<&Path>, effective: bool) -> Result<u8, Failure> {
    let loaded = config::load(file)?;
    obstacles(&loaded).iter().for_each(|text| output::tell(text));
    for child in &loaded.model.children {
        shared_folders(&loaded, child).for_each(|text| output::tell(&text));
        without_shell(&loaded, child).into_iter().for_each(|text| output::tell(&text));
    }
    other_user(&loaded).iter().for_each(|text| output::tell(text));
    if effective {
        output::print(effective::effective(&loaded.model))?;
    } else {
        output::print(format!("{}: no problems\n", loaded.name))?;
    }
    Ok(0)
}

/// A hint if the daemon that runs with this control socket is another user's, who may have
/// other rights.
fn other_user(loaded: &Loaded) -> Option<String> {
    let found = loaded.model.daemon.control.symlink_metadata().ok()?;
    let (own, daemon) = (geteuid(), Uid::from_raw(found.uid()));
    let name = |uid: Uid| User::from_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name);
    let differs = found.file_type().is_socket() && own != daemon;
    differs.then(|| {
        let (own, daemon) = (name(own), name(daemon));
        format!("{}: checked as {own}, but the daemon is {daemon}: `plumbd plan` asks the daemon", loaded.name)
    })
}

/// Warnings about addresses that a daemon could not have now, unless they are those of a
/// daemon that runs with this control socket.
fn obstacles(loaded: &Loaded) -> Vec<String> {
    let daemon = client::listener(&loaded.model.daemon.control);
    let mut seen = BTreeSet::new();
    let children = loaded.model.children.iter();
    let listens = children.flat_map(|child| child.listen.iter().map(move |address| (child, address)));
    let new = listens.filter(|(_, address)| seen.insert(*address));
    new.filter_map(|(child, address)| {
        let why = holder::obstacle(address, daemon)?;
        Some(format!("{}: warning: {why}", loaded.place(child.lines.of("listen").unwrap_or(child.line))))
    })
    .collect()
}

/// A warning about a word of a command that only a shell would understand.
fn without_shell(loaded: &Loaded, child: &Child) -> Option<String> {
    let Program::Command(words) = &child.program else { return None };
    let (program, words) = words.split_first()?;
    let program = Path::new(program).file_name()?.to_string_lossy();
    let is_shell = program.ends_with("sh") || ["env", "ssh", "su", "sudo", "watch"].contains(&&*program);
    let word = words.iter().find(|word| !is_shell && is_for_a_shell(word))?;
    let place = loaded.place(child.lines.of("command").unwrap_or(child.line));
    Some(format!(
        "{place}: warning: no shell reads this command: {program} is given \"{word}\" as it is; if a shell is meant, \
         write [\"/bin/sh\", \"-c\", \"...\"]"
    ))
}

fn is_for_a_shell(word: &str) -> bool {
    const OPERATORS: [&str; 12] = ["|", "||", "&", "&&", ";", "<", ">", ">>", "2>", "2>&1", "&>", "|&"];
    let is_path = |rest: &str| rest.is_empty() || rest.starts_with('/');
    let is_name = |rest: &str| rest.starts_with(|c: char| c.is_ascii_uppercase() || matches!(c, '_' | '{' | '('));
    OPERATORS.contains(&word)
        || word.strip_prefix('~').is_some_and(is_path)
        || word.strip_prefix('$').is_some_and(is_name)
        || word.trim_start_matches('2').strip_prefix('>').is_some_and(|rest| rest.starts_with(['/', '&', '>']))
}

/// Warnings about files of a plugin in folders that others than root and the plugin's
/// user may write to.
fn shared_folders<'a>(loaded: &'a Loaded, child: &'a Child) -> impl Iterator<Item = String> + 'a {
    let plugin = match child.program {
        Program::Plugin(name) => plugin::find(name),
        Program::Command(_) => None,
    };
    let keys = plugin.map_or(&[][..], |plugin| plugin.keys).iter();
    keys.filter(|key| matches!(key.kind, Kind::File(_))).filter_map(|key| shared_folder(loaded, child, key.name))
}

fn shared_folder(loaded: &Loaded, child: &Child, key: &str) -> Option<String> {
    let file = Path::new(child.settings.get(key)?.as_str()?);
    let folder = Folder::of(file).ok()?;
    let is_safe = match &child.user {
        Some(user) => folder.is_only_of(user.uid, user.gid),
        // A service manager may run it as the user who owns the folder.
        None => !folder.is_shared() || folder.is_one_users(),
    };
    (!is_safe).then(|| {
        format!(
            "{}: warning: others may write to {}, where {} has its file: what they put there is not used, but can keep \
             it from saving",
            loaded.place(child.lines.of(&format!("settings.{key}")).unwrap_or(child.line)),
            file.parent().unwrap_or(file).display(),
            child.name
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_only_a_shell_understands_are_known() {
        for word in ["|", "&&", ">", ">/dev/null", "2>/dev/null", "2>&1", "~/x", "~", "$HOME", "${HOME}/x", "$(date)"] {
            assert!(is_for_a_shell(word), "{word}");
        }
        for word in ["", "-", "a|b", "{print $1}", "$1", "~user", "2", "22", ">x", "a > b", "https://x/?a=1&b"] {
            assert!(!is_for_a_shell(word), "{word}");
        }
    }
}
