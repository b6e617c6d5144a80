//! Reads the tables of a file: the value or the default of each key, and a problem for each
//! value that is wrong.

use super::kind::{Key, Keys, Kind};
use super::nearest;
use super::problem::{Places, Problem};
use super::system::System;
use super::value::{self, Read, Wrong, kind, quoted};
use std::ops::Range;
use std::path::Path;
use std::time::Duration;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A part of the file.
pub(crate) type Span = Range<usize>;

/// Reads tables and gathers their problems.
pub(crate) struct Reader<'a> {
    pub(crate) places: Places<'a>,
    pub(crate) problems: Vec<Problem>,
    /// Whether parts of the file can't be read. What seems missing may be in them.
    pub(crate) partial: bool,
    /// Where mistakes of syntax are. They have already been reported, so no other problem is
    /// reported there.
    pub(crate) reported: Vec<Span>,
    /// What relative paths are relative to.
    pub(crate) base: &'a Path,
    pub(crate) system: &'a dyn System,
    /// The child whose table is being read.
    pub(crate) child: Option<String>,
    /// What a key that is not known in a table means, if it is known by another name or
    /// in another table.
    pub(crate) meant: fn(&Section<'_>, &Entry<'_>) -> Option<Meant>,
}

/// What an unknown key means.
#[derive(Debug)]
pub(crate) struct Meant {
    /// The key of the same table that is meant, if it is one.
    pub(crate) key: Option<&'static str>,
    /// The problem, in words.
    pub(crate) wrong: Wrong,
}

/// A table of the file.
#[derive(Debug)]
pub(crate) struct Section<'t> {
    /// What messages call it: `[children.NAME]`.
    pub(crate) title: String,
    /// Where it begins.
    pub(crate) span: Span,
    /// The keys that it can have.
    pub(crate) keys: Keys,
    entries: Vec<Entry<'t>>,
    /// Known keys that seem to be meant by unknown ones. They do not count as missing.
    slips: Vec<&'static str>,
    /// Whether it is a table at all.
    whole: bool,
}

/// A key and its value.
#[derive(Debug)]
pub(crate) struct Entry<'t> {
    pub(crate) key: &'t str,
    pub(crate) key_span: Span,
    pub(crate) value: &'t Spanned<DeValue<'t>>,
}

/// A value and its place in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Placed<T> {
    pub(crate) value: T,
    pub(crate) span: Span,
}

/// A table's entries in the order of the file.
pub(crate) fn entries<'t>(table: &'t DeTable<'t>) -> Vec<Entry<'t>> {
    let mut entries: Vec<Entry<'t>> =
        table.iter().map(|(key, value)| Entry { key: key.get_ref(), key_span: key.span(), value }).collect();
    entries.sort_by_key(|entry| entry.key_span.start);
    entries
}

/// The entries of a table whose keys are not known, each with the key that it seems to
/// mean.
fn unknown<'e, 't>(
    keys: Keys,
    entries: &'e [Entry<'t>],
) -> impl Iterator<Item = (&'e Entry<'t>, Option<&'static str>)> {
    let known = || keys.iter().map(|key| key.name);
    let unknown = entries.iter().filter(move |entry| !known().any(|name| name == entry.key));
    unknown.map(move |entry| (entry, nearest(entry.key, known())))
}

impl<'t> Section<'t> {
    fn new(title: &str, span: Span, keys: Keys, table: Option<&'t DeTable<'t>>) -> Section<'t> {
        let entries = table.map(entries).unwrap_or_default();
        let slips = unknown(keys, &entries).filter_map(|(_, near)| near).collect();
        Section { title: title.to_owned(), span, keys, entries, slips, whole: table.is_some() }
    }

    /// The table of a key that has been read before; an empty one if the key is not given.
    /// Its problems are not reported again.
    pub(crate) fn within(&self, name: &str, keys: Keys) -> Section<'_> {
        match self.entry(name) {
            Some(entry) => Section::new(name, entry.key_span.clone(), keys, entry.value.get_ref().as_table()),
            None => self.none(name, name, keys),
        }
    }

    fn none(&self, name: &str, title: &str, keys: Keys) -> Section<'static> {
        let (title, span, whole) = (title.to_owned(), self.span.clone(), self.lacks(name));
        Section { title, span, keys, entries: Vec::new(), slips: Vec::new(), whole }
    }

    /// Whether it has no key.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn entry(&self, name: &str) -> Option<&Entry<'_>> {
        self.entries.iter().find(|entry| entry.key == name)
    }

    /// The line of each key, and of each key of a table within, as `table.key`.
    pub(crate) fn lines(&self, places: &Places<'_>) -> Vec<(String, usize)> {
        let all = self.entries.iter().flat_map(|outer| {
            let inner = outer.value.get_ref().as_table().map(entries).unwrap_or_default();
            let inner = inner.into_iter().map(|entry| (format!("{}.{}", outer.key, entry.key), entry.key_span));
            std::iter::once((outer.key.to_owned(), outer.key_span.clone())).chain(inner.collect::<Vec<_>>())
        });
        all.map(|(key, span)| (key, places.line(span.start))).collect()
    }

    /// Whether a key is missing, rather than misspelt.
    pub(crate) fn lacks(&self, name: &str) -> bool {
        self.whole && !self.has(name) && !self.slips.contains(&name)
    }

    /// The key's value as the file has it.
    pub(crate) fn value(&self, name: &str) -> Option<&Spanned<DeValue<'_>>> {
        self.entry(name).map(|entry| entry.value)
    }

    /// Whether the file gives that key.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.entry(name).is_some()
    }

    /// Whether the key is given as an empty list.
    pub(crate) fn is_empty_list(&self, name: &str) -> bool {
        self.value(name).is_some_and(|value| value.get_ref().as_array().is_some_and(|items| items.is_empty()))
    }

    /// Where the value of a key is, or where the table begins if the key is not given.
    pub(crate) fn place(&self, name: &str) -> Span {
        self.entry(name).map_or_else(|| self.span.clone(), |entry| entry.value.span())
    }

    /// Where the key itself is, or where the table begins if the key is not given.
    pub(crate) fn key_place(&self, name: &str) -> Span {
        self.entry(name).map_or_else(|| self.span.clone(), |entry| entry.key_span.clone())
    }

    fn key(&self, name: &str) -> &'static Key {
        self.keys.iter().find(|key| key.name == name).expect("every key that is read is in the table of keys")
    }

    fn default(&self, name: &str) -> DeValue<'static> {
        self.key(name).default_value().unwrap_or_else(|| unreachable!("{name} has no default"))
    }
}

impl<'a> Reader<'a> {
    /// Reports that something is wrong.
    pub(crate) fn problem(&mut self, span: Span, what: impl Into<String>, help: impl Into<String>) {
        if !self.reported.iter().any(|part| part.start < span.end && span.start < part.end) {
            self.problems.push(self.places.problem(span, what.into(), help.into()));
        }
    }

    /// Reports that the system lacks something, perhaps only for now, that is needed by the
    /// child whose table is being read.
    pub(crate) fn absent(&mut self, span: Span, what: impl Into<String>, help: impl Into<String>) {
        let before = self.problems.len();
        self.problem(span, what, help);
        for problem in &mut self.problems[before..] {
            problem.lacking.clone_from(&self.child);
        }
    }

    /// Reports that something is missing, unless it may be in a part that can't be read.
    pub(crate) fn missing(&mut self, span: Span, what: impl Into<String>, help: impl Into<String>) {
        if !self.partial {
            self.problem(span, what, help);
        }
    }

    /// A table with these keys. Any other key is a problem.
    pub(crate) fn section<'t>(
        &mut self,
        title: &str,
        span: Span,
        value: &'t Spanned<DeValue<'t>>,
        keys: Keys,
    ) -> Section<'t> {
        let mut section = Section::new(title, span, keys, value.get_ref().as_table());
        if !section.whole {
            let what = format!("expected a table, found {}", kind(value.get_ref()));
            self.problem(value.span(), what, format!("write {title} and its keys below"));
        }
        self.unknown(&mut section);
        section
    }

    /// The file's own table.
    pub(crate) fn root<'t>(&mut self, table: &'t DeTable<'t>, keys: Keys) -> Section<'t> {
        let mut section = Section::new("the file", 0..0, keys, Some(table));
        self.unknown(&mut section);
        section
    }

    /// Reports the keys that are not known.
    fn unknown(&mut self, section: &mut Section<'_>) {
        let mut slips = Vec::new();
        for (entry, near) in unknown(section.keys, &section.entries) {
            if let Some(Meant { key, wrong: Wrong { what, help } }) = (self.meant)(section, entry) {
                slips.extend(key);
                self.problem(entry.key_span.clone(), what, help);
                continue;
            }
            let help = match near {
                Some(name) => format!("did you mean \"{name}\"?"),
                None => {
                    let known: Vec<&str> = section.keys.iter().map(|key| key.name).collect();
                    format!("the keys are {}", known.join(", "))
                }
            };
            let what = format!("unknown key {} in {}", quoted(entry.key), section.title);
            self.problem(entry.key_span.clone(), what, help);
        }
        section.slips.extend(slips);
    }

    /// The value of a key, or its default if it is not given or wrong.
    pub(crate) fn read<T>(&mut self, section: &Section<'_>, name: &str, parse: impl Fn(&DeValue<'_>) -> Read<T>) -> T {
        match self.optional(section, name, &parse) {
            Some(placed) => placed.value,
            None => {
                parse(&section.default(name)).unwrap_or_else(|wrong| unreachable!("default of {name}: {}", wrong.what))
            }
        }
    }

    /// A duration in the key's range.
    pub(crate) fn duration(&mut self, section: &Section<'_>, name: &str) -> Duration {
        match section.key(name).kind {
            Kind::Duration(least, most) => self.read(section, name, value::duration(least..=most)),
            other => unreachable!("{name} is read as a duration, and is {other:?}"),
        }
    }

    /// A size in the key's range, in bytes.
    pub(crate) fn size(&mut self, section: &Section<'_>, name: &str) -> u64 {
        match section.key(name).kind {
            Kind::Size(least, most) => self.read(section, name, value::size(least..=most)),
            other => unreachable!("{name} is read as a size, and is {other:?}"),
        }
    }

    /// A whole number in the key's range.
    pub(crate) fn integer(&mut self, section: &Section<'_>, name: &str) -> u64 {
        match section.key(name).kind {
            Kind::Integer(least, most) => self.read(section, name, value::integer(least..=most)),
            other => unreachable!("{name} is read as a whole number, and is {other:?}"),
        }
    }

    /// A number in the key's range.
    pub(crate) fn number(&mut self, section: &Section<'_>, name: &str) -> f64 {
        match section.key(name).kind {
            Kind::Number(least, most) => self.read(section, name, value::float(least..=most)),
            other => unreachable!("{name} is read as a number, and is {other:?}"),
        }
    }

    /// The value of a key, if it is given and right.
    pub(crate) fn optional<T>(
        &mut self,
        section: &Section<'_>,
        name: &str,
        parse: impl Fn(&DeValue<'_>) -> Read<T>,
    ) -> Option<Placed<T>> {
        let value = section.entry(name)?.value;
        self.take_of(name, value.span(), parse(value.get_ref()))
    }

    /// The value of a key that must be given.
    pub(crate) fn required<T>(
        &mut self,
        section: &Section<'_>,
        name: &str,
        help: &str,
        parse: impl Fn(&DeValue<'_>) -> Read<T>,
    ) -> Option<Placed<T>> {
        if section.lacks(name) {
            self.missing(section.span.clone(), format!("{} lacks the key \"{name}\"", section.title), help);
        }
        self.optional(section, name, parse)
    }

    /// The items of a list that are right; none if the key is not given.
    pub(crate) fn list<T>(
        &mut self,
        section: &Section<'_>,
        name: &str,
        example: &str,
        parse: impl Fn(&DeValue<'_>) -> Read<T>,
    ) -> Vec<Placed<T>> {
        self.items(section, name, &format!("as in {name} = {example}"), parse)
    }

    /// Like [`Reader::list`], with other advice for a value that is not a list.
    pub(crate) fn items<T>(
        &mut self,
        section: &Section<'_>,
        name: &str,
        help: &str,
        parse: impl Fn(&DeValue<'_>) -> Read<T>,
    ) -> Vec<Placed<T>> {
        let Some(entry) = section.entry(name) else {
            return Vec::new();
        };
        let DeValue::Array(items) = entry.value.get_ref() else {
            let found = kind(entry.value.get_ref());
            self.problem(entry.value.span(), format!("expected a list, found {found}"), help);
            return Vec::new();
        };
        let items: Vec<&Spanned<DeValue<'_>>> = items.iter().collect();
        items.into_iter().filter_map(|item| self.take_of(name, item.span(), parse(item.get_ref()))).collect()
    }

    /// The entries of a table that may have any keys, in the order of the file.
    pub(crate) fn free<'t>(&mut self, section: &'t Section<'_>, name: &str, help: &str) -> Vec<Entry<'t>> {
        match section.value(name).map(|value| (value.span(), value.get_ref())) {
            None => Vec::new(),
            Some((_, DeValue::Table(table))) => entries(table),
            Some((span, other)) => {
                self.problem(span, format!("{name}: expected a table, found {}", kind(other)), help);
                Vec::new()
            }
        }
    }

    /// A table within a table; an empty one if it is not given.
    pub(crate) fn inner<'t>(&mut self, section: &'t Section<'_>, name: &str, title: &str, keys: Keys) -> Section<'t> {
        let mut inner = match section.entry(name) {
            Some(entry) => self.section(title, entry.key_span.clone(), entry.value, keys),
            None => section.none(name, title, keys),
        };
        // Keys that stand in the outer table by mistake are not missing here.
        let known = |name: &str| section.keys.iter().any(|key| key.name == name);
        inner.slips.extend(keys.iter().map(|key| key.name).filter(|name| section.has(name) && !known(name)));
        inner
    }

    /// Takes a value that was read, or reports its problem with the name of the key.
    pub(crate) fn take_of<T>(&mut self, key: &str, span: Span, read: Read<T>) -> Option<Placed<T>> {
        self.take(span, read.map_err(|wrong| Wrong { what: format!("{key}: {}", wrong.what), ..wrong }))
    }

    /// Takes a value that was read, or reports its problem.
    pub(crate) fn take<T>(&mut self, span: Span, read: Read<T>) -> Option<Placed<T>> {
        match read {
            Ok(value) => Some(Placed { value, span }),
            Err(Wrong { what, help }) => {
                self.problem(span, what, help);
                None
            }
        }
    }
}
