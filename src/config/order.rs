//! Which child must be ready before which.
//!
//! Start order: a child waits for the children that it needs. Stop order is the other way
//! round: a child is stopped once all children that need it are down.

use super::model::Model;
use std::collections::{BTreeMap, BTreeSet};

/// For each child, the children that must be ready before it starts. Every
/// child has an entry.
pub type Needs = BTreeMap<String, BTreeSet<String>>;

/// What each child needs: what its `after` says, and the sinks of its links.
///
/// If a sink already needs its source, directly or not, the source does not wait for it,
/// because of two programs that talk both ways only one can be first. So there is never a
/// cycle unless `after` alone has one, and the configuration's check rules that out.
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

/// The inverse relation: for each child, the children that need it, which must be down
/// before it is stopped.
pub fn needed_by(needs: &Needs) -> Needs {
    let mut reverse: Needs = needs.keys().map(|name| (name.clone(), BTreeSet::new())).collect();
    for (name, needed) in needs {
        for other in needed {
            reverse.entry(other.clone()).or_default().insert(name.clone());
        }
    }
    reverse
}

/// Whether `from` is `to`, or needs it, directly or not.
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

/// A cycle in a relation, as a path whose last name is its first; `None` if there is
/// none. The same relation gives the same path.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::{Child, Link, Model};
    use crate::link::handover::Protocol;
    use crate::sys::stream::Stream;
    use proptest::prelude::*;
    use std::rc::Rc;

    fn model(after: &[(usize, usize)], links: &[(usize, usize)], count: usize) -> Model {
        let base = std::path::Path::new("/");
        let one = crate::config::check_text(b"[children.c]\ncommand = ['/bin/sh']\n", "test", base).unwrap();
        let child = |i: usize| Child {
            name: format!("c{i}"),
            after: after.iter().filter(|(who, _)| *who == i).map(|(_, other)| format!("c{other}")).collect(),
            ..Child::clone(&one.children[0])
        };
        let link = |(from, to): &(usize, usize)| Link {
            from: format!("c{from}"),
            stream: Stream::Stdout,
            to: format!("c{to}"),
            line: 0,
            capacity: 4096,
            protocol: Protocol::Lines,
        };
        Model { children: (0..count).map(child).map(Rc::new).collect(), links: links.iter().map(link).collect(), ..one }
    }

    fn needed(needs: &Needs, name: &str) -> Vec<String> {
        needs[name].iter().cloned().collect()
    }

    #[test]
    fn a_source_needs_its_sink() {
        let needs = needs(&model(&[], &[(0, 1), (1, 2)], 3));
        assert_eq!(needed(&needs, "c0"), ["c1"]);
        assert_eq!(needed(&needs, "c1"), ["c2"]);
        assert!(needs["c2"].is_empty());
        let reverse = needed_by(&needs);
        assert_eq!(needed(&reverse, "c2"), ["c1"]);
        assert!(reverse["c0"].is_empty());
    }

    #[test]
    fn if_two_talk_both_ways_the_first_link_decides() {
        let needs = needs(&model(&[], &[(0, 1), (1, 0)], 2));
        assert_eq!(needed(&needs, "c0"), ["c1"]);
        assert!(needs["c1"].is_empty());
    }

    #[test]
    fn after_takes_precedence_over_a_link() {
        let needs = needs(&model(&[(1, 0)], &[(0, 1)], 2));
        assert!(needs["c0"].is_empty());
        assert_eq!(needed(&needs, "c1"), ["c0"]);
    }

    #[test]
    fn a_cycle_is_a_path_back_to_its_start() {
        let names = |path: &[&str]| path.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let needs: Needs = [("a", "b"), ("b", "c"), ("c", "b")]
            .map(|(name, other)| (name.to_owned(), BTreeSet::from([other.to_owned()])))
            .into();
        assert_eq!(cycle(&needs), Some(names(&["b", "c", "b"])));
        assert_eq!(cycle(&Needs::new()), None);
    }

    proptest! {
        #[test]
        fn there_is_never_a_cycle_and_every_after_is_kept(
            order in Just((0..10usize).collect::<Vec<_>>()).prop_shuffle(),
            after in proptest::collection::vec((0..10usize, 0..10usize), 0..20),
            links in proptest::collection::vec((0..10usize, 0..10usize), 0..20),
        ) {
            // The names come in any order, but no `after` is part of a cycle.
            let after: Vec<_> = after.iter().filter(|(a, b)| a < b).map(|(a, b)| (order[*a], order[*b])).collect();
            let links: Vec<_> = links.into_iter().filter(|(from, to)| from != to).collect();
            let needs = needs(&model(&after, &links, 10));
            prop_assert_eq!(cycle(&needs), None);
            for (who, other) in &after {
                let (who, other) = (format!("c{who}"), format!("c{other}"));
                prop_assert!(needs[&who].contains(&other));
            }
            for (from, to) in &links {
                let (from, to) = (format!("c{from}"), format!("c{to}"));
                prop_assert!(needs[&from].contains(&to) || reaches(&needs, &to, &from));
            }
            prop_assert_eq!(needed_by(&needed_by(&needs)), needs);
        }
    }
}
