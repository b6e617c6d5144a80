//! Who must be ready before whom.
//!
//! Start order: a child waits for what it `needs`. Stop order is the other way
//! round: a child is stopped once all that need it are down.

use super::model::Model;
use std::collections::{BTreeMap, BTreeSet};

/// For each child, the children that must be ready before it starts. Every
/// child has its entry.
pub type Needs = BTreeMap<String, BTreeSet<String>>;

/// What each child needs: what its `after` says, and the sinks of its links.
///
/// A sink that already needs its source, directly or not, is not waited for:
/// two programs that talk both ways can't both be first. So there is never a
/// cycle, provided there is none in `after` alone (the configuration's check
/// sees to that).
pub fn needs(model: &Model) -> Needs {
    let mut needs: Needs =
        model.children.iter().map(|child| (child.name.clone(), child.after.iter().cloned().collect())).collect();
    for link in &model.links {
        if !reaches(&needs, &link.to, &link.from) {
            needs.entry(link.from.clone()).or_default().insert(link.to.clone());
        }
    }
    needs
}

/// The relation the other way round: for each child, the children that need
/// it, which are down before it is stopped.
pub fn needed_by(needs: &Needs) -> Needs {
    let mut reverse: Needs = needs.keys().map(|name| (name.clone(), BTreeSet::new())).collect();
    for (name, needed) in needs {
        for other in needed {
            reverse.entry(other.clone()).or_default().insert(name.clone());
        }
    }
    reverse
}

/// Whether `from` is `to`, or needs it directly or not.
fn reaches(needs: &Needs, from: &str, to: &str) -> bool {
    let mut seen = BTreeSet::new();
    let mut open = vec![from];
    while let Some(name) = open.pop() {
        if name == to {
            return true;
        }
        if seen.insert(name) {
            open.extend(needs.get(name).into_iter().flatten().map(String::as_str));
        }
    }
    false
}

/// A cycle in a relation, as a path whose last name is its first; `None`
/// where there is none. The same relation gives the same path.
pub(super) fn cycle(needs: &Needs) -> Option<Vec<String>> {
    let mut done: BTreeSet<&str> = BTreeSet::new();
    for start in needs.keys() {
        let mut path: Vec<(&str, Vec<&str>)> = vec![(start, below(needs, start))];
        while let Some((name, rest)) = path.last_mut() {
            let Some(next) = rest.pop() else {
                done.insert(name);
                path.pop();
                continue;
            };
            if let Some(at) = path.iter().position(|(on_path, _)| *on_path == next) {
                let names = path[at..].iter().map(|(name, _)| (*name).to_owned());
                return Some(names.chain([next.to_owned()]).collect());
            }
            if !done.contains(next) {
                path.push((next, below(needs, next)));
            }
        }
    }
    None
}

fn below<'a>(needs: &'a Needs, name: &str) -> Vec<&'a str> {
    needs.get(name).into_iter().flatten().rev().map(String::as_str).collect()
}
