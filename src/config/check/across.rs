//! What must hold between children: addresses, files, `after`.

use super::super::model::{Address, Daemon, HostPort};
use super::super::order::{Needs, cycle};
use super::child::Draft;
use crate::schema::table::{Placed, Reader};
use crate::schema::value::quoted;
use std::collections::BTreeSet;
use std::path::PathBuf;

pub(super) fn check(reader: &mut Reader<'_>, daemon: &Daemon, drafts: &[Draft]) {
    addresses(reader, daemon, drafts);
    files(reader, drafts);
    after(reader, drafts);
}

/// No two sockets are bound to one address.
fn addresses(reader: &mut Reader<'_>, daemon: &Daemon, drafts: &[Draft]) {
    let mut before: Vec<(&Draft, &Placed<Address>)> = Vec::new();
    for draft in drafts {
        for placed in &draft.listen {
            let address = &placed.value;
            if *address == Address::Unix(daemon.control.clone()) {
                let what = format!("{address} is the control socket (control in [daemon])");
                reader.problem(placed.span.clone(), what, "name another path");
            }
            if let Some((other, taken)) = before.iter().find(|(_, taken)| overlap(&taken.value, address)) {
                let line = reader.places.line(taken.span.start);
                let place = format!("in line {line}, by {}", quoted(other.name()));
                let what = match taken.value == *address {
                    true => format!("{address} is bound twice: already {place}"),
                    false => format!("{address} and {} overlap: already {place}", taken.value),
                };
                let help = match other.name() == draft.name() {
                    true => "leave one out",
                    false => "give each child its own port; for several of one kind use `instances`",
                };
                reader.problem(placed.span.clone(), what, help);
            }
            before.push((draft, placed));
        }
    }
}

/// Whether binding both fails, because they are the same address, or have the same port
/// and one stands for all addresses of its family.
fn overlap(a: &Address, b: &Address) -> bool {
    let both = |a: &HostPort, b: &HostPort| {
        let (at, other) = (a.at, b.at);
        let family = at.is_ipv4() == other.is_ipv4();
        let any = at.ip().is_unspecified() || other.ip().is_unspecified();
        a == b || (family && any && at.port() == other.port() && at.port() != 0)
    };
    match (a, b) {
        (Address::Tcp(a), Address::Tcp(b)) | (Address::Udp(a), Address::Udp(b)) => both(a, b),
        (a, b) => a == b,
    }
}

/// No two children write to the same file through their plugins.
fn files(reader: &mut Reader<'_>, drafts: &[Draft]) {
    let mut before: Vec<(&Draft, PathBuf)> = Vec::new();
    for (draft, file) in drafts.iter().flat_map(|draft| draft.files.iter().map(move |file| (draft, file))) {
        let path = reader.system.resolve(&file.value);
        if let Some((other, _)) = before.iter().find(|(_, taken)| *taken == path) {
            let what = format!("{} already saves to {}", quoted(other.name()), path.display());
            let help = format!("name another file, or link both sources to {}", quoted(other.name()));
            reader.problem(file.span.clone(), what, help);
        }
        before.push((draft, path));
    }
}

/// `after` names only children that exist, and there is a start order that satisfies it.
fn after(reader: &mut Reader<'_>, drafts: &[Draft]) {
    let names = drafts.iter().map(Draft::name);
    let mut needs = Needs::new();
    for draft in drafts {
        let mut known = BTreeSet::new();
        for placed in &draft.after {
            if placed.value == draft.name() {
                let what = format!("{} -> {0}: a child can't start after itself", placed.value);
                reader.problem(placed.span.clone(), what, "leave it out");
            } else if names.clone().any(|name| name == placed.value) {
                known.insert(placed.value.clone());
            } else {
                let what = format!("there is no child {}", quoted(&placed.value));
                reader.missing(placed.span.clone(), what, super::meant(&placed.value, names.clone()));
            }
        }
        needs.insert(draft.name().to_owned(), known);
    }
    while let Some(path) = cycle(&needs) {
        let (from, to) = (&path[0], &path[1]);
        let draft = drafts.iter().find(|draft| draft.name() == from);
        if let Some(placed) = draft.and_then(|draft| draft.after.iter().find(|placed| placed.value == *to)) {
            let what = format!("each would wait for the next to be ready: {}", path.join(" -> "));
            reader.problem(placed.span.clone(), what, "leave one of them out");
        }
        if let Some(needed) = needs.get_mut(from) {
            needed.remove(to);
        }
    }
}
