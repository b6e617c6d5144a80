//! Resource limits by the names that a configuration gives them.

use super::nearest;
use super::value::{Read, filled, quoted, size, wrong};
use nix::sys::resource::{RLIM_INFINITY, Resource};
use toml::de::DeValue;

/// setrlimit(2) resources: lower case, without RLIMIT_.
const RESOURCES: [(&str, Resource); 16] = [
    ("as", Resource::RLIMIT_AS),
    ("core", Resource::RLIMIT_CORE),
    ("cpu", Resource::RLIMIT_CPU),
    ("data", Resource::RLIMIT_DATA),
    ("fsize", Resource::RLIMIT_FSIZE),
    ("locks", Resource::RLIMIT_LOCKS),
    ("memlock", Resource::RLIMIT_MEMLOCK),
    ("msgqueue", Resource::RLIMIT_MSGQUEUE),
    ("nice", Resource::RLIMIT_NICE),
    ("nofile", Resource::RLIMIT_NOFILE),
    ("nproc", Resource::RLIMIT_NPROC),
    ("rss", Resource::RLIMIT_RSS),
    ("rtprio", Resource::RLIMIT_RTPRIO),
    ("rttime", Resource::RLIMIT_RTTIME),
    ("sigpending", Resource::RLIMIT_SIGPENDING),
    ("stack", Resource::RLIMIT_STACK),
];

/// Their names.
pub fn names() -> impl Iterator<Item = &'static str> {
    RESOURCES.iter().map(|(name, _)| *name)
}

/// The resource of that name.
pub(crate) fn resource(name: &str) -> Read<Resource> {
    let known = || RESOURCES.iter().map(|(known, _)| *known);
    match RESOURCES.iter().find(|(known, _)| *known == name) {
        Some((_, resource)) => Ok(*resource),
        None => {
            let bare = name.to_lowercase();
            let near = nearest(bare.strip_prefix("rlimit_").unwrap_or(&bare), known());
            let help = near.map_or_else(
                || format!("the limits are {}", known().collect::<Vec<_>>().join(", ")),
                |near| format!("did you mean \"{near}\"?"),
            );
            wrong(format!("unknown limit {}", quoted(name)), help)
        }
    }
}

/// A resource's name.
pub(crate) fn name(resource: Resource) -> &'static str {
    RESOURCES.iter().find(|(_, known)| *known == resource).map_or("", |(name, _)| *name)
}

/// A limit: a number, a size, or `"unlimited"`.
pub(crate) fn limit(value: &DeValue<'_>) -> Read<u64> {
    match value {
        DeValue::Integer(number) => match number.as_str().parse::<i64>().map(u64::try_from) {
            Ok(Ok(limit)) => Ok(limit),
            _ => wrong(format!("{number} is out of range"), "write a number from 0, a size, or \"unlimited\""),
        },
        DeValue::String(_) if filled(value)? == "unlimited" => Ok(RLIM_INFINITY),
        other => size(0..=i64::MAX as u64)(other),
    }
}
