//! Addresses to listen on.

use super::value::{Read, Wrong, absolute, clip, quoted, string_as, wrong};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use toml::de::DeValue;

/// A listening socket's address.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// tcp://HOST:PORT
    Tcp(HostPort),
    /// udp://HOST:PORT
    Udp(HostPort),
    /// unix:PATH, a stream socket. The path is absolute.
    Unix(PathBuf),
}

/// HOST:PORT. An IPv4-mapped address becomes the IPv4 address.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPort {
    /// The address and port, without the zone.
    pub at: SocketAddr,
    /// The interface of a link-local address, by name or number. Only the running system
    /// knows whether it exists (RFC 4007, 11).
    pub zone: Option<String>,
}

impl From<SocketAddr> for HostPort {
    fn from(at: SocketAddr) -> HostPort {
        HostPort { at, zone: None }
    }
}

impl std::fmt::Display for HostPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.zone {
            Some(zone) => write!(f, "[{}%{zone}]:{}", self.at.ip(), self.at.port()),
            None => write!(f, "{}", self.at),
        }
    }
}

impl std::fmt::Display for Address {
    /// The address as a configuration has it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Address::Tcp(address) => write!(f, "tcp://{address}"),
            Address::Udp(address) => write!(f, "udp://{address}"),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Address {
    /// Its IP address, if it has one.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Address::Tcp(host) | Address::Udp(host) => Some(host.at.ip()),
            Address::Unix(_) => None,
        }
    }

    /// `tcp`, `udp` or `unix`: the socket's name in $LISTEN_FDNAMES, which can't hold a colon.
    pub const fn scheme(&self) -> &'static str {
        match self {
            Address::Tcp(_) => "tcp",
            Address::Udp(_) => "udp",
            Address::Unix(_) => "unix",
        }
    }
}

/// How an address of that scheme is written.
pub(crate) fn form(scheme: &str) -> &'static str {
    match scheme {
        "tcp" => "tcp://HOST:PORT",
        "udp" => "udp://HOST:PORT",
        _ => "unix:PATH",
    }
}

/// An address to listen on. Paths are relative to `base`.
pub(crate) fn address(value: &DeValue<'_>, base: &Path) -> Read<Address> {
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

/// HOST:PORT; HOST is an address or `localhost`.
pub(crate) fn host_port(text: &str) -> Read<HostPort> {
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
        // Without this, `::1` would be read as the host `:` and the port `1`.
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

/// A link-local address names its interface, because each interface has its own (RFC 4007).
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

/// A path that a socket can be bound to. It has room for 108 bytes, including a NUL (unix(7)).
pub(crate) fn socket_path(path: &Path) -> Read<PathBuf> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_literal() {
        let base = Path::new("/base");
        let read = |text: &str| address(DeValue::parse(&format!("\"{text}\"")).unwrap().get_ref(), base);
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
}
