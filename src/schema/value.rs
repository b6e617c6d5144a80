//! Parses single values of TOML: durations, sizes, words.

use super::kind::Useless;
use super::nearest;
use crate::sys::text::clipped;
use nix::sys::signal::Signal;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;
use toml::de::DeValue;

/// What is wrong with a value, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wrong {
    pub(crate) what: String,
    pub(crate) help: String,
}

/// A value that was read, or what is wrong with it.
pub(crate) type Read<T> = Result<T, Wrong>;

pub(crate) fn wrong<T>(what: impl Into<String>, help: impl Into<String>) -> Read<T> {
    Err(Wrong { what: what.into(), help: help.into() })
}

/// The longest duration: a year of 365 days.
pub(crate) const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// Reports that the value has the wrong type.
fn not<T>(found: &DeValue<'_>, wanted: &str, example: &str) -> Read<T> {
    let (kind, value) = (kind(found), scalar(found));
    let help = if example.is_empty() { String::new() } else { format!("as in {example}") };
    wrong(format!("expected {wanted}, found {kind}{value}"), help)
}

/// The name of a value's type, with its article.
pub(crate) fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

fn scalar(value: &DeValue<'_>) -> String {
    match value {
        DeValue::Integer(number) => format!(" {}", clip(&number.to_string())),
        DeValue::Float(number) => format!(" {}", clip(&number.to_string())),
        DeValue::Boolean(truth) => format!(" {truth}"),
        DeValue::String(text) => format!(" {}", quoted(text)),
        _ => String::new(),
    }
}

/// A text in quotes, cut if it is long.
pub(crate) fn quoted(text: &str) -> String {
    format!("\"{}\"", clip(text))
}

pub(crate) fn clip(text: &str) -> String {
    const SHOWN: usize = 60;
    clipped(text, SHOWN)
}

/// A string without a NUL, because no system call takes one.
pub(crate) fn string(value: &DeValue<'_>) -> Read<String> {
    match value {
        DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_) => {
            let written = scalar(value);
            wrong(format!("expected a string, found {}{written}", kind(value)), format!("write \"{}\"", written.trim()))
        }
        other => string_as(other, "a string", "\"text\""),
    }
}

pub(crate) fn string_as(value: &DeValue<'_>, wanted: &str, example: &str) -> Read<String> {
    match value {
        DeValue::String(text) if text.contains('\0') => wrong("a NUL character can't be in here", "remove the \\u0000"),
        DeValue::String(text) => Ok(text.to_string()),
        other => not(other, wanted, example),
    }
}

/// A string that is not empty.
pub(crate) fn filled(value: &DeValue<'_>) -> Read<String> {
    match string(value)? {
        text if text.is_empty() => wrong("it is empty", "write what is meant"),
        text => Ok(text),
    }
}

/// What one of some words means.
pub(crate) fn choice<T: Clone>(words: &[(&str, T)]) -> impl Fn(&DeValue<'_>) -> Read<T> {
    move |value| {
        let found = word(words.iter().map(|(word, _)| *word), value)?;
        let meaning = words.iter().find(|(word, _)| *word == found).map(|(_, meaning)| meaning.clone());
        meaning.ok_or_else(|| unreachable!("{found} is one of the words"))
    }
}

/// One of some words.
pub(crate) fn word<'w>(words: impl Iterator<Item = &'w str> + Clone, value: &DeValue<'_>) -> Read<&'w str> {
    let listed = || words.clone().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ");
    let text = string_as(value, &format!("one of {}", listed()), "")?;
    if let Some(word) = words.clone().find(|word| *word == text) {
        return Ok(word);
    }
    let help = match nearest(&text, words.clone()) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None => format!("write one of {}", listed()),
    };
    wrong(format!("unknown word {}", quoted(&text)), help)
}

/// A whole number in a range.
pub(crate) fn integer(range: RangeInclusive<u64>) -> impl Fn(&DeValue<'_>) -> Read<u64> {
    move |value| {
        let DeValue::Integer(number) = value else {
            return match value {
                DeValue::String(text) if text.parse::<u64>().is_ok() => {
                    wrong(format!("expected a whole number, found a string {}", quoted(text)), format!("write {text}"))
                }
                other => not(other, "a whole number", "10"),
            };
        };
        let read = u64::from_str_radix(number.as_str().trim_start_matches('+'), number.radix());
        within(&range, read.ok(), &number.to_string())
    }
}

/// A number in a range.
pub(crate) fn float(range: RangeInclusive<f64>) -> impl Fn(&DeValue<'_>) -> Read<f64> {
    move |value| {
        let (read, written) = match value {
            DeValue::Float(number) => (number.as_str().parse().ok(), number.to_string()),
            DeValue::Integer(number) => (number.as_str().parse().ok(), number.to_string()),
            other => return not(other, "a number", "2.0"),
        };
        within(&range, read, &written)
    }
}

fn within<T: PartialOrd + Display>(range: &RangeInclusive<T>, read: Option<T>, written: &str) -> Read<T> {
    match read.filter(|number| range.contains(number)) {
        Some(number) => Ok(number),
        None => wrong(
            format!("{} is out of range", clip(written)),
            format!("write one from {} to {}", range.start(), range.end()),
        ),
    }
}

/// A duration in a range: a whole number and its unit.
pub(crate) fn duration(range: RangeInclusive<Duration>) -> impl Fn(&DeValue<'_>) -> Read<Duration> {
    move |value| {
        if let DeValue::Integer(number) = value {
            let number = clip(&number.to_string());
            return wrong(
                format!("the duration {number} has no unit"),
                format!("write \"{number}s\" or \"{number}ms\""),
            );
        }
        let text = string_as(value, "a duration", "\"10s\"")?;
        let read = match parse_duration(&text) {
            Ok(read) => read,
            Err(help) => return wrong(format!("{} is no duration", quoted(&text)), help),
        };
        if range.contains(&read) {
            return Ok(read);
        }
        let (low, high) = (duration_text(*range.start()), duration_text(*range.end()));
        wrong(format!("{} is out of range", quoted(&text)), format!("write one from \"{low}\" to \"{high}\""))
    }
}

pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    const HELP: &str = "write a whole number and its unit: \"20ms\", \"10s\", \"5m\", \"1h\"";
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(HELP.to_owned());
    }
    let millis: u64 = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60 * 1000,
        "h" => 3600 * 1000,
        "" => return Err(format!("write its unit: \"{number}s\" or \"{number}ms\"", number = clip(number))),
        _ => return Err(HELP.to_owned()),
    };
    let number = number.parse::<u64>().ok().and_then(|number| number.checked_mul(millis));
    // A number that overflows is out of any range.
    Ok(number.map_or(Duration::MAX, Duration::from_millis))
}

/// A duration as it is written, in the largest unit that is exact.
pub fn duration_text(duration: Duration) -> String {
    let millis = duration.as_millis();
    let units = [(3600 * 1000, "h"), (60 * 1000, "m"), (1000, "s")];
    match units.iter().find(|(unit, _)| millis >= *unit && millis % unit == 0) {
        Some((unit, name)) => format!("{}{name}", millis / unit),
        None if millis == 0 => "0s".to_owned(),
        None => format!("{millis}ms"),
    }
}

/// A size in a range, in bytes: a whole number and its unit.
pub(crate) fn size(range: RangeInclusive<u64>) -> impl Fn(&DeValue<'_>) -> Read<u64> {
    move |value| {
        if let DeValue::Integer(number) = value {
            let number = clip(&number.to_string());
            return wrong(format!("the size {number} has no unit"), format!("write \"{number}B\" if bytes are meant"));
        }
        let text = string_as(value, "a size", "\"64KiB\"")?;
        let read = match parse_size(&text) {
            Ok(read) => read,
            Err(help) => return wrong(format!("{} is no size", quoted(&text)), help),
        };
        if range.contains(&read) {
            return Ok(read);
        }
        let (low, high) = (size_text(*range.start()), size_text(*range.end()));
        wrong(format!("{} is out of range", quoted(&text)), format!("write one from \"{low}\" to \"{high}\""))
    }
}

pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let number_shown = clip(number);
    let shift = match (number.is_empty(), unit) {
        (false, "B") => 0,
        (false, "KiB") => 10,
        (false, "MiB") => 20,
        (false, "GiB") => 30,
        (false, "") => return Err(format!("write its unit: \"{number_shown}KiB\" or \"{number_shown}B\"")),
        (false, "k" | "K" | "kB" | "KB" | "kb" | "kib" | "Kib") => return Err(format!("write \"{number_shown}KiB\"")),
        (false, "m" | "M" | "MB" | "mb" | "mib" | "Mib") => return Err(format!("write \"{number_shown}MiB\"")),
        (false, "g" | "G" | "GB" | "gb" | "gib" | "Gib") => return Err(format!("write \"{number_shown}GiB\"")),
        _ => return Err("write a whole number and its unit: \"512B\", \"64KiB\", \"1MiB\", \"1GiB\"".to_owned()),
    };
    let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift));
    Ok(bytes.unwrap_or(u64::MAX))
}

/// A size as it is written, in the largest unit that is exact.
pub fn size_text(bytes: u64) -> String {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.iter().find(|(unit, _)| bytes >= *unit && bytes % unit == 0) {
        Some((unit, name)) => format!("{}{name}", bytes / unit),
        None => format!("{bytes}B"),
    }
}

/// The name of a signal, except those that are of no use.
pub(crate) fn signal(useless: Useless) -> impl Fn(&DeValue<'_>) -> Read<Signal> {
    const HELP: &str = "write a name, as SIGTERM, SIGINT or SIGHUP";
    move |value| {
        if let DeValue::Integer(number) = value {
            return wrong(format!("expected a signal's name, found {number}"), HELP);
        }
        let name = filled(value)?;
        let Ok(signal) = name.parse::<Signal>() else {
            let upper = name.to_uppercase();
            let known = Signal::iterator().map(|signal| signal.as_str().trim_start_matches("SIG"));
            let near = nearest(upper.strip_prefix("SIG").unwrap_or(&upper), known);
            let help = near.map_or(HELP.to_owned(), |near| format!("did you mean \"SIG{near}\"?"));
            return wrong(format!("unknown signal {}", quoted(&name)), help);
        };
        match useless.iter().find(|(useless, _)| *useless == signal) {
            Some((_, why)) => wrong(format!("{signal} {why}"), HELP),
            None => Ok(signal),
        }
    }
}

/// An octal number in a string, as for chmod(1) and umask.
pub(crate) fn octal(value: &DeValue<'_>) -> Read<u32> {
    const HELP: &str = "write octal digits in a string, from \"0000\" to \"0777\"";
    let text = match value {
        DeValue::Integer(number) => {
            return wrong(format!("expected a string, found a number {}", clip(&number.to_string())), HELP);
        }
        other => string_as(other, "a string of octal digits", "\"0640\"")?,
    };
    let octal = text.bytes().all(|b| b.is_ascii_digit()).then(|| u32::from_str_radix(&text, 8).ok()).flatten();
    octal.filter(|mode| *mode <= 0o777).map_or_else(|| wrong(format!("{} is no mode", quoted(&text)), HELP), Ok)
}

/// A path relative to `base`, without `.` and doubled slashes.
pub(crate) fn absolute(base: &Path, path: &str) -> PathBuf {
    base.join(path).components().filter(|part| *part != Component::CurDir).collect()
}

/// A value as JSON, the form in which programs get their settings. Dates become strings.
pub(crate) fn json(value: &DeValue<'_>) -> Read<serde_json::Value> {
    use serde_json::Value;
    Ok(match value {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Boolean(truth) => Value::Bool(*truth),
        DeValue::Datetime(time) => Value::String(time.to_string()),
        DeValue::Integer(number) => {
            match i64::from_str_radix(number.as_str().trim_start_matches('+'), number.radix()) {
                Ok(number) => Value::from(number),
                Err(_) => {
                    return wrong(
                        format!("{} is out of range", clip(&number.to_string())),
                        "write a number of at most 64 bits",
                    );
                }
            }
        }
        DeValue::Float(number) => {
            let read = number.as_str().parse::<f64>().ok().and_then(serde_json::Number::from_f64);
            match read {
                Some(number) => Value::Number(number),
                None => {
                    return wrong(
                        format!("{number} can't be written in JSON"),
                        "settings go to the program as JSON: write a number or a string",
                    );
                }
            }
        }
        DeValue::Array(items) => Value::Array(items.iter().map(|item| json(item.get_ref())).collect::<Read<_>>()?),
        DeValue::Table(table) => {
            let entries = table.iter().map(|(key, value)| Ok((key.get_ref().to_string(), json(value.get_ref())?)));
            Value::Object(entries.collect::<Read<_>>()?)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> DeValue<'_> {
        DeValue::parse(text).unwrap().into_inner()
    }

    #[test]
    fn durations_are_exact_and_print_back() {
        let read = duration(Duration::ZERO..=YEAR);
        for text in ["0s", "20ms", "1500ms", "10s", "5m", "24h", "8760h"] {
            let duration = read(&parsed(&format!("\"{text}\""))).unwrap();
            assert_eq!(duration_text(duration), text);
        }
        assert_eq!(read(&parsed("\"60s\"")).unwrap(), Duration::from_secs(60));
        for text in ["10", "1.5s", "s", "-1s", "10 s", "9999999999999999999999h", "8761h", "\\u0661s"] {
            assert!(read(&parsed(&format!("\"{text}\""))).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_exact_and_print_back() {
        let read = size(0..=u64::MAX);
        for text in ["0B", "1000B", "64KiB", "1MiB", "3GiB"] {
            assert_eq!(size_text(read(&parsed(&format!("\"{text}\""))).unwrap()), text);
        }
        for text in ["64", "64kB", "1M", "KiB", "1.5MiB"] {
            assert!(read(&parsed(&format!("\"{text}\""))).is_err(), "{text}");
        }
    }

    #[test]
    fn modes_are_octal() {
        assert_eq!(octal(&parsed("\"0640\"")), Ok(0o640));
        assert_eq!(octal(&parsed("\"22\"")), Ok(0o22));
        for text in ["\"0888\"", "\"+22\"", "\"1777\"", "\"\"", "640"] {
            assert!(octal(&parsed(text)).is_err(), "{text}");
        }
    }
}
