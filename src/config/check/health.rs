//! `health`, `watchdog`, `stalled`: what shows whether a child is well.

use super::super::keys;
use super::super::model::{Address, Check, Health, Probe};
use super::program;
use crate::plugin::Plugin;
use crate::schema::address;
use crate::schema::table::{Placed, Reader, Section};
use crate::schema::value::{Read, quoted, string_as, wrong};
use std::net::SocketAddr;
use std::time::Duration;
use toml::de::DeValue;

/// `path` is the PATH that the child gets.
pub(super) fn read(
    reader: &mut Reader<'_>,
    section: &Section<'_>,
    plugin: Option<&'static Plugin>,
    listen: &[Placed<Address>],
    path: &str,
) -> Health {
    let check = check(reader, section, listen, path);
    let watchdog = reader.duration(section, "watchdog");
    if let Some(plugin) = plugin.filter(|_| !watchdog.is_zero()) {
        let what = format!("{} does not send WATCHDOG=1, and would be ended again and again", plugin.name);
        reader.problem(section.place("watchdog"), what, "leave `watchdog` out; `health` works for every child");
    }
    let stalled = reader.duration(section, "stalled");
    let given = |time: Duration| Some(time).filter(|time| !time.is_zero());
    Health { check, watchdog: given(watchdog), stalled: given(stalled) }
}

fn check(reader: &mut Reader<'_>, section: &Section<'_>, listen: &[Placed<Address>], path: &str) -> Option<Check> {
    let inner = reader.inner(section, "health", "health", keys::HEALTH);
    let [every, timeout, start] = ["every", "timeout", "start"].map(|key| reader.duration(&inner, key));
    let failures = u32::try_from(reader.integer(&inner, "failures")).unwrap_or(u32::MAX);
    let command = program::command(reader, &inner, "command", path).map(Probe::Command);
    let tcp = reader.optional(&inner, "tcp", tcp).map(|placed| placed.value);
    if let Some(Probe::Tcp(at)) = &tcp {
        if listen.iter().any(|placed| is_at(&placed.value, *at)) {
            let what = format!("plumbd itself holds {at} open, so it accepts connections even if the child hangs");
            let help = "use http, or a command that waits for an answer";
            reader.problem(inner.place("tcp"), what, help);
        }
    }
    let http = reader.optional(&inner, "http", http).map(|placed| placed.value);
    let kinds = ["command", "tcp", "http"];
    let given: Vec<&str> = kinds.into_iter().filter(|kind| inner.has(kind)).collect();
    match given[..] {
        [] if !inner.is_empty() && kinds.iter().all(|kind| inner.lacks(kind)) => {
            let help = r#"add one of them, as in health = { tcp = "127.0.0.1:7007" }"#;
            reader.missing(inner.span.clone(), "health has neither command nor tcp nor http", help);
        }
        [one, other, ..] => {
            let what = format!("{one} and {other} exclude each other");
            reader.problem(inner.key_place(other), what, "keep one of them: a check is one thing");
        }
        _ => {}
    }
    let probe = command.or(tcp).or(http)?;
    Some(Check { probe, every, timeout, failures, start })
}

/// Whether a connection to `at` arrives at that address.
fn is_at(address: &Address, at: SocketAddr) -> bool {
    let Address::Tcp(host) = address else { return false };
    // The socket of [::] takes no connections of IPv4.
    let any = host.at.ip().is_unspecified() && host.at.is_ipv4() == at.is_ipv4();
    host.at.port() == at.port() && (any || host.at.ip() == at.ip())
}

fn tcp(value: &DeValue<'_>) -> Read<Probe> {
    let text = string_as(value, "an address", "\"127.0.0.1:7007\"")?;
    if let Some(rest) = text.strip_prefix("tcp://") {
        return wrong(format!("{} is no HOST:PORT", quoted(&text)), format!("write \"{rest}\""));
    }
    peer(&text, &text).map(Probe::Tcp)
}

fn http(value: &DeValue<'_>) -> Read<Probe> {
    const CURL: &str = r#"use command = ["curl", "-fsS", "https://..."]"#;
    let text = string_as(value, "a URL", "\"http://127.0.0.1:8080/health\"")?;
    let Some(rest) = text.strip_prefix("http://") else {
        let help = "write http://HOST:PORT/PATH";
        return match text.split_once("://") {
            Some(("https", _)) => wrong("plumbd itself does not speak https", CURL),
            Some((scheme, _)) => wrong(format!("a check can't speak {}", quoted(scheme)), help),
            None => wrong(format!("{} is no URL", quoted(&text)), help),
        };
    };
    // A request line has only printable characters of ASCII (RFC 9112, 3; RFC 3986, 2).
    if let Some(odd) = text.chars().find(|c| !c.is_ascii_graphic()) {
        let what = format!("{} has {}, which no URL can have", quoted(&text), quoted(&odd.to_string()));
        return wrong(what, "write it as %XX, the two digits of each byte");
    }
    // What follows a # is for the client alone (RFC 9110, 7.1).
    let rest = rest.split('#').next().unwrap_or_default();
    let (host, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    if host.contains('@') {
        return wrong("a user in a URL is not sent", r#"use command = ["curl", "-fsS", "-u", "USER:PASSWORD", ...]"#);
    }
    let bare_v6 = host.ends_with(']');
    let at = if host.contains(':') && !bare_v6 { host.to_owned() } else { format!("{host}:80") };
    let at = peer(&text, &at)?;
    let slash = if path.starts_with('/') { "" } else { "/" };
    Ok(Probe::Http { at, url: format!("http://{host}{slash}{path}") })
}

/// The address that a check connects to.
fn peer(shown: &str, text: &str) -> Read<SocketAddr> {
    let shown = quoted(shown);
    match address::host_port(text) {
        Ok(address) if address.zone.is_some() => {
            wrong(format!("{shown}: a check can't name an interface"), "use `command` for it")
        }
        Ok(address) if address.at.port() == 0 => wrong(format!("{shown}: nothing listens on port 0"), "name the port"),
        Ok(address) => Ok(address.at),
        Err(found) => wrong(format!("{shown}: {}", found.what), found.help),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(read: fn(&DeValue<'_>) -> Read<Probe>, text: &str) -> Read<Probe> {
        read(DeValue::parse(&format!("{text:?}")).unwrap().get_ref())
    }

    #[test]
    fn an_address_is_literal_and_a_url_is_http() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert_eq!(parse(tcp, "127.0.0.1:7").ok(), Some(Probe::Tcp(at("127.0.0.1:7"))));
        assert_eq!(parse(tcp, "localhost:7").ok(), Some(Probe::Tcp(at("127.0.0.1:7"))));
        assert_eq!(parse(tcp, "[::1]:7").ok(), Some(Probe::Tcp(at("[::1]:7"))));
        for bad in ["", "7", "a.example:7", "127.0.0.1:0", "tcp://127.0.0.1:7", "::1:7", "[fe80::1%lo]:7"] {
            assert!(parse(tcp, bad).is_err(), "{bad}");
        }
        for (text, address, url) in [
            ("http://127.0.0.1:8080/a?b#c", "127.0.0.1:8080", "http://127.0.0.1:8080/a?b"),
            ("http://localhost", "127.0.0.1:80", "http://localhost/"),
            ("http://[::1]/x", "[::1]:80", "http://[::1]/x"),
            ("http://[::1]:81?x", "[::1]:81", "http://[::1]:81/?x"),
        ] {
            let expected = Probe::Http { at: at(address), url: url.to_owned() };
            assert_eq!(parse(http, text).ok(), Some(expected), "{text}");
        }
        for bad in [
            "https://127.0.0.1/",
            "127.0.0.1",
            "http://",
            "http://a.example/",
            "http://u:p@127.0.0.1/",
            "http://127.0.0.1/a b\r\n",
        ] {
            assert!(parse(http, bad).is_err(), "{bad}");
        }
    }
}
