//! Who a child runs as, and its environment.

use super::super::model::Identity;
use crate::schema::system::Account;
use crate::schema::table::{Reader, Section};
use crate::schema::value::{self, Read, quoted, wrong};
use std::collections::BTreeMap;

/// Where programs are looked for if the supervisor itself has no PATH.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Set by the supervisor for each child, see sd_listen_fds(3), sd_notify(3)
/// and the section on plugins in the manual.
const OWN: [&str; 12] = [
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "LISTEN_PID",
    "NOTIFY_SOCKET",
    "PLUMBD_CHILD",
    "PLUMBD_INSTANCE",
    "PLUMBD_LINKS",
    "PLUMBD_METRICS",
    "PLUMBD_READY_FD",
    "PLUMBD_SETTINGS",
    "PLUMBD_SHARED",
    "PLUMBD_START",
];

pub(super) fn read(reader: &mut Reader<'_>, section: &Section<'_>) -> Option<Identity> {
    let user = reader.read(section, "user", value::string);
    let group = reader.read(section, "group", value::string);
    if user.is_empty() && group.is_empty() {
        return None;
    }
    let account = account(reader, section, &user);
    let gid = match group.as_str() {
        "" => None,
        group => reader.group_id(section.place("group"), group),
    };
    if !reader.system.is_root() {
        let key = if user.is_empty() { "group" } else { "user" };
        let help = "run plumbd as root, or leave user and group out: the child then runs as you do";
        reader.problem(section.place(key), format!("{key} needs root"), help);
    }
    let account = account?;
    Some(Identity {
        user: account.name,
        uid: account.uid,
        gid: gid.unwrap_or(account.gid),
        home: account.home,
        shell: account.shell,
    })
}

/// The account of that name. The empty name stands for the account that runs this process.
fn account(reader: &mut Reader<'_>, section: &Section<'_>, user: &str) -> Option<Account> {
    let cause = match reader.system.account(user) {
        Ok(Some(account)) => return Some(account),
        Ok(None) if user.is_empty() => "the user who runs plumbd has no account, and no user is given".to_owned(),
        Ok(None) => format!("there is no user {}", quoted(user)),
        Err(cause) => format!("cannot look up the user {}: {cause}", quoted(user)),
    };
    let key = if user.is_empty() { "group" } else { "user" };
    reader.absent(section.place(key), cause, "`getent passwd` lists those that exist");
    None
}

/// What every program gets of this process's own environment.
pub(super) fn minimal(reader: &Reader<'_>) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::from([("PATH".to_owned(), PATH.to_owned())]);
    for name in ["PATH", "LANG", "TZ"] {
        if let Some(value) = reader.system.variable(name).filter(|value| !value.is_empty()) {
            variables.insert(name.to_owned(), value);
        }
    }
    variables
}

/// The whole environment: the minimal one, and what the table adds to it.
pub(super) fn environment(
    reader: &mut Reader<'_>,
    section: &Section<'_>,
    identity: Option<&Identity>,
) -> BTreeMap<String, String> {
    let mut variables = minimal(reader);
    if let Some(identity) = identity {
        let (home, shell) = (identity.home.to_string_lossy(), identity.shell.to_string_lossy());
        let own = [("HOME", &*home), ("USER", &identity.user), ("LOGNAME", &identity.user), ("SHELL", &*shell)];
        variables.extend(own.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
    for entry in reader.free(section, "environment", r#"as in environment = { NAME = "value" }"#) {
        let name = reader.take(entry.key_span.clone(), variable(entry.key));
        let value = reader.take_of(entry.key, entry.value.span(), value::string(entry.value.get_ref()));
        if let (Some(name), Some(value)) = (name, value) {
            variables.insert(name.value, value.value);
        }
    }
    variables
}

/// `pass_environment`.
pub(super) fn passed(reader: &mut Reader<'_>, section: &Section<'_>) -> Vec<String> {
    let names = reader.list(section, "pass_environment", r#"["NAME"]"#, |value| variable(&value::string(value)?));
    names.into_iter().map(|placed| placed.value).collect()
}

fn variable(name: &str) -> Read<String> {
    if name.is_empty() || name.contains(['=', '\0']) {
        return wrong(format!("{} is no name of a variable", quoted(name)), "a name is not empty and has no = in it");
    }
    if OWN.contains(&name) {
        return wrong(format!("{name} is set by plumbd itself"), "leave it out");
    }
    Ok(name.to_owned())
}
