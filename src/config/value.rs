//! From one TOML value to what it means: durations, sizes, addresses, words.

use super::model::{Address, HostPort};
use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;
use toml::de::DeValue;

/// Why a value is not right, and what would be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) what: String,
    pub(super) help: String,
}

/// What reading a value gives.
pub(super) type Read<T> = Result<T, Wrong>;

pub(super) fn wrong<T>(what: impl Into<String>, help: impl Into<String>) -> Read<T> {
    Err(Wrong { what: what.into(), help: help.into() })
}

/// The longest duration: a year of 365 days.
pub(super) const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// A value of another type than the key has.
fn not<T>(found: &DeValue<'_>, wanted: &str, example: &str) -> Read<T> {
    let (kind, value) = (kind(found), scalar(found));
    let help = if example.is_empty() { String::new() } else { format!("as in {example}") };
    wrong(format!("expected {wanted}, found {kind}{value}"), help)
}

/// A value's type with its article.
pub(super) fn kind(value: &DeValue<'_>) -> &'static str {
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

/// A text in quotes, cut where it is long.
pub(super) fn quoted(text: &str) -> String {
    format!("\"{}\"", clip(text))
}

fn clip(text: &str) -> String {
    const SHOWN: usize = 60;
    match text.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text.to_owned(),
    }
}

/// A string without NUL, which no system call takes.
pub(super) fn string(value: &DeValue<'_>) -> Read<String> {
    match value {
        DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_) => {
            let written = scalar(value);
            wrong(format!("expected a string, found {}{written}", kind(value)), format!("write \"{}\"", written.trim()))
        }
        other => string_as(other, "a string", "\"text\""),
    }
}

fn string_as(value: &DeValue<'_>, wanted: &str, example: &str) -> Read<String> {
    match value {
        DeValue::String(text) if text.contains('\0') => wrong("a NUL character can't be in here", "remove the \\u0000"),
        DeValue::String(text) => Ok(text.to_string()),
        other => not(other, wanted, example),
    }
}

/// A string that says something.
pub(super) fn filled(value: &DeValue<'_>) -> Read<String> {
    match string(value)? {
        text if text.is_empty() => wrong("it is empty", "write what is meant"),
        text => Ok(text),
    }
}

/// One of some words.
pub(super) fn choice<T: Clone>(words: &[(&str, T)]) -> impl Fn(&DeValue<'_>) -> Read<T> {
    let words: Vec<(String, T)> = words.iter().map(|(word, meaning)| ((*word).to_owned(), meaning.clone())).collect();
    move |value| {
        let known = || words.iter().map(|(word, _)| word.as_str());
        let listed = || known().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ");
        let text = string_as(value, &format!("one of {}", listed()), "")?;
        match words.iter().find(|(word, _)| *word == text) {
            Some((_, meaning)) => Ok(meaning.clone()),
            None => {
                let near = super::keys::nearest(&text, known());
                let help = near
                    .map_or_else(|| format!("write one of {}", listed()), |near| format!("did you mean \"{near}\"?"));
                wrong(format!("unknown word {}", quoted(&text)), help)
            }
        }
    }
}

/// A whole number in a range.
pub(super) fn integer(range: RangeInclusive<u64>) -> impl Fn(&DeValue<'_>) -> Read<u64> {
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
pub(super) fn float(range: RangeInclusive<f64>) -> impl Fn(&DeValue<'_>) -> Read<f64> {
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
pub(super) fn duration(range: RangeInclusive<Duration>) -> impl Fn(&DeValue<'_>) -> Read<Duration> {
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

fn parse_duration(text: &str) -> Result<Duration, String> {
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
    // Too large for a number is out of any range.
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
pub(super) fn size(range: RangeInclusive<u64>) -> impl Fn(&DeValue<'_>) -> Read<u64> {
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

fn parse_size(text: &str) -> Result<u64, String> {
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

/// An octal number in a string, as chmod(1) and umask take it.
pub(super) fn octal(value: &DeValue<'_>) -> Read<u32> {
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

/// An address to listen on. Paths are relative to `base`.
pub(super) fn address(value: &DeValue<'_>, base: &Path) -> Read<Address> {
    const FORMS: &str = "write tcp://HOST:PORT, udp://HOST:PORT or unix:PATH";
    let text = string_as(value, "an address", "\"tcp://127.0.0.1:7007\"")?;
    let shown = quoted(&text);
    if let Some(path) = text.strip_prefix("unix:") {
        return match path {
            "" => wrong(format!("{shown} has no path"), "write unix:PATH"),
            path if path.starts_with("//") && !path.starts_with("///") => {
                let meant = path.trim_start_matches('/');
                wrong(format!("{shown} is ambiguous"), format!("write unix:/{meant} or unix:{meant}"))
            }
            path => socket_path(&absolute(base, path)).map(Address::Unix),
        };
    }
    let (make, rest): (fn(HostPort) -> Address, &str) = match text.split_once("://") {
        Some(("tcp", rest)) => (Address::Tcp, rest),
        Some(("udp", rest)) => (Address::Udp, rest),
        Some((scheme, _)) => return wrong(format!("unknown kind of address {}", quoted(scheme)), FORMS),
        None if host_port(&text).is_ok() => {
            return wrong(format!("{shown} does not say what kind it is"), format!("write \"tcp://{text}\""));
        }
        None => return wrong(format!("{shown} is no address"), FORMS),
    };
    match host_port(rest) {
        Ok(address) => Ok(make(address)),
        Err(wrong) => Err(Wrong { what: format!("{shown}: {}", wrong.what), help: wrong.help }),
    }
}

fn host_port(text: &str) -> Read<HostPort> {
    let (without, zone) = split_zone(text);
    if let Ok(address) = without.parse::<SocketAddr>() {
        return in_zone(SocketAddr::new(address.ip().to_canonical(), address.port()), zone);
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return wrong(
            "there is no port",
            format!("write HOST:PORT, as in {}:7007", if text.is_empty() { "127.0.0.1" } else { text }),
        );
    };
    let number = port.bytes().all(|b| b.is_ascii_digit()).then(|| port.parse::<u16>().ok()).flatten();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    match (host, number, bare.parse::<IpAddr>()) {
        (_, Some(port), Ok(IpAddr::V6(ip))) => {
            wrong("an IPv6 address goes in brackets", format!("write [{ip}]:{port}"))
        }
        // `::1` as a whole reads as host `:` and port `1`.
        _ if text.parse::<std::net::Ipv6Addr>().is_ok() => {
            wrong("an IPv6 address goes in brackets", format!("write [{text}]:PORT"))
        }
        (_, None, _) => wrong(format!("{} is no port", quoted(port)), "write a number from 0 to 65535"),
        ("localhost", Some(port), _) => Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into()),
        ("", Some(port), _) => {
            wrong("there is no host", format!("for all interfaces write 0.0.0.0:{port} or [::]:{port}"))
        }
        ("*", Some(port), _) => {
            wrong("* is no host", format!("for all interfaces write 0.0.0.0:{port} or [::]:{port}"))
        }
        (host, Some(_), _) => wrong(
            format!("{} is no IP address", quoted(host)),
            "write the address itself, or localhost: names are not looked up, so that nothing waits for DNS",
        ),
    }
}

/// Takes the zone out of `[ADDRESS%ZONE]:PORT`.
fn split_zone(text: &str) -> (String, Option<&str>) {
    let zone = text.split_once('%').and_then(|(host, rest)| Some((host, rest.split_once(']')?)));
    match zone {
        Some((host, (zone, rest))) if host.starts_with('[') => (format!("{host}]{rest}"), Some(zone)),
        _ => (text.to_owned(), None),
    }
}

/// A link-local address is another one on each interface, so it goes with one (RFC 4007).
fn in_zone(at: SocketAddr, zone: Option<&str>) -> Read<HostPort> {
    let link_local = matches!(at.ip(), IpAddr::V6(ip) if ip.is_unicast_link_local());
    let (ip, port) = (at.ip(), at.port());
    let example = format!("write [{ip}%INTERFACE]:{port}, as in [{ip}%eth0]:{port}");
    match zone {
        None if link_local => wrong("a link-local address needs its interface", example),
        Some(_) if !link_local => {
            wrong("only a link-local address, fe80::/10, goes with an interface", format!("write {at}"))
        }
        // The kernel's dev_valid_name.
        Some(zone)
            if zone.is_empty()
                || zone.len() > 15
                || zone.contains(['/', ':'])
                || zone.contains(char::is_whitespace) =>
        {
            wrong(format!("{} is no name of an interface", quoted(zone)), example)
        }
        zone => Ok(HostPort { at, zone: zone.map(str::to_owned) }),
    }
}

/// A path that a socket can be bound to: unix(7) leaves 108 bytes with a NUL.
pub(super) fn socket_path(path: &Path) -> Read<PathBuf> {
    const MAX: usize = 107;
    let length = path.as_os_str().len();
    if length <= MAX {
        return Ok(path.to_owned());
    }
    wrong(
        format!("the path of the socket has {length} bytes ({})", clip(&path.to_string_lossy())),
        format!("at most {MAX} with the folder, as in /run/plumbd/NAME.sock"),
    )
}

/// A path as seen from `base`, without `.` and doubled slashes.
pub(super) fn absolute(base: &Path, path: &str) -> PathBuf {
    base.join(path).components().filter(|part| *part != Component::CurDir).collect()
}

/// A value as JSON, for a program that reads its settings so. Dates are strings.
pub(super) fn json(value: &DeValue<'_>) -> Read<serde_json::Value> {
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
                        format!("{number} can't be told in JSON"),
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
    fn addresses_are_literal() {
        let base = Path::new("/base");
        let read = |text: &str| address(&parsed(&format!("\"{text}\"")), base);
        assert_eq!(read("tcp://127.0.0.1:7007").unwrap().to_string(), "tcp://127.0.0.1:7007");
        assert_eq!(read("tcp://localhost:7").unwrap().to_string(), "tcp://127.0.0.1:7");
        assert_eq!(read("udp://[::1]:7").unwrap().to_string(), "udp://[::1]:7");
        assert_eq!(read("tcp://[::ffff:127.0.0.1]:7").unwrap(), read("tcp://127.0.0.1:7").unwrap());
        assert_eq!(read("tcp://[fe80::1%eth0]:7").unwrap().to_string(), "tcp://[fe80::1%eth0]:7");
        assert_eq!(read("udp://[fe80:0::1%2]:7").unwrap().to_string(), "udp://[fe80::1%2]:7");
        assert_eq!(read("unix:./run/x.sock").unwrap().to_string(), "unix:/base/run/x.sock");
        assert_eq!(read("unix:/run/x.sock").unwrap().to_string(), "unix:/run/x.sock");
        let bad =
            ["", "tcp://", "tcp://:7", "tcp://*:7", "tcp://::1", "tcp://::1:7", "tcp://a.example:7", "tcp://1.2.3.4"];
        let worse =
            ["1.2.3.4:7", "http://1.2.3.4:7", "unix:", "unix://run/x", "tcp://1.2.3.4:70000", "tcp://1.2.3.4:+7"];
        let zones = [
            "tcp://[fe80::1]:7",
            "tcp://[fe80::1%]:7",
            "tcp://[::1%lo]:7",
            "tcp://[fe80::1%a/b]:7",
            "tcp://fe80::1%lo:7",
        ];
        for text in bad.into_iter().chain(worse).chain(zones) {
            assert!(read(text).is_err(), "{text}");
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
