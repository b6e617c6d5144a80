//! What one process was given and has open (proc(5)), for a person who wants to know. Some of
//! it is in the process's own memory, and reading that may wait, so a process aside reads.

use super::descendants::Process;
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::fs::read;
use std::path::Path;

/// The soft and the hard value of each limit; `None` is unlimited.
pub type Limits = BTreeMap<String, [Option<u64>; 2]>;

/// The names of limits in proc_pid_limits(5), and in a configuration.
const LIMITS: [(&str, &str); 16] = [
    ("Max address space", "as"),
    ("Max core file size", "core"),
    ("Max cpu time", "cpu"),
    ("Max data size", "data"),
    ("Max file locks", "locks"),
    ("Max file size", "fsize"),
    ("Max locked memory", "memlock"),
    ("Max msgqueue size", "msgqueue"),
    ("Max nice priority", "nice"),
    ("Max open files", "nofile"),
    ("Max pending signals", "sigpending"),
    ("Max processes", "nproc"),
    ("Max realtime priority", "rtprio"),
    ("Max realtime timeout", "rttime"),
    ("Max resident set", "rss"),
    ("Max stack size", "stack"),
];

/// The environment with which a process was executed. `None`: that can't be seen.
pub fn environment(pid: i32) -> Option<BTreeMap<String, String>> {
    let text = Process::look(Pid::from_raw(pid)).ok()??.environment().ok()??;
    // A child of the supervisor always has some, so this one may not be seen.
    let entries = text.split(|&byte| byte == 0).filter(|entry| !entry.is_empty()).map(String::from_utf8_lossy);
    let pair = |entry: &str| {
        let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
        (name.to_owned(), value.to_owned())
    };
    let found: BTreeMap<String, String> = entries.map(|entry| pair(&entry)).collect();
    (!found.is_empty()).then_some(found)
}

/// What a process has open: each number, and what its link in /proc says. `None`: that can't be
/// seen.
pub fn descriptors(pid: i32) -> Option<BTreeMap<i32, String>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).ok()? {
        let path = entry.ok()?.path();
        let number = path.file_name().and_then(|name| name.to_str()?.parse().ok());
        // One that was closed meanwhile is not open.
        if let (Some(number), Ok(target)) = (number, std::fs::read_link(&path)) {
            found.insert(number, target.to_string_lossy().into_owned());
        }
    }
    Some(found)
}

/// The resource limits of a process. `None`: they can't be seen.
pub fn limits(pid: i32) -> Option<Limits> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    let found = parse_limits(&text);
    (!found.is_empty()).then_some(found)
}

fn parse_limits(text: &str) -> Limits {
    let value = |word: &str| if word == "unlimited" { Some(None) } else { word.parse().ok().map(Some) };
    let row = |line: &str| {
        let (long, name) = LIMITS.iter().find(|(long, _)| line.starts_with(long))?;
        let mut values = line[long.len()..].split_ascii_whitespace();
        Some(((*name).to_owned(), [value(values.next()?)?, value(values.next()?)?]))
    };
    text.lines().filter_map(row).collect()
}

/// The command line of a process, with a space between words; its name in brackets if that is
/// empty or can't be seen.
pub fn command(pid: i32) -> String {
    let words = read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = words.strip_suffix(b"\0").unwrap_or(&words);
    if words.is_empty() {
        let name = read(Path::new("/proc").join(pid.to_string()).join("comm")).unwrap_or_default();
        return format!("[{}]", String::from_utf8_lossy(name.trim_ascii_end()));
    }
    let words: Vec<u8> = words.iter().map(|&byte| if byte == 0 { b' ' } else { byte }).collect();
    String::from_utf8_lossy(&words).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use std::process::{Command, Stdio};

    #[test]
    fn a_process_is_seen_with_what_it_was_given() {
        let mut sleep = Command::new("sleep")
            .arg("1000")
            .env_clear()
            .envs([("A", "1=2"), ("PLUMBD_X", "a\nb")])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = i32::try_from(sleep.id()).unwrap();
        let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while environment(pid).is_none_or(|found| found.len() != 2) && std::time::Instant::now() < until {}
        let environment = environment(pid).unwrap();
        assert_eq!((environment["A"].as_str(), environment["PLUMBD_X"].as_str()), ("1=2", "a\nb"));
        let open = descriptors(pid).unwrap();
        assert_eq!(open[&0], "/dev/null");
        assert!(open[&1].starts_with("pipe:["), "{open:?}");
        assert_eq!(command(pid), "sleep 1000");
        assert_eq!(limits(pid), limits(i32::try_from(std::process::id()).unwrap()));
        sleep.kill().unwrap();
        sleep.wait().unwrap();
        assert_eq!((super::environment(pid), descriptors(pid), limits(pid)), (None, None, None));
        assert_eq!(command(pid), "[]");
    }

    #[test]
    fn limits_have_the_names_of_the_configuration() {
        let own = limits(i32::try_from(std::process::id()).unwrap()).unwrap();
        let known: Vec<&str> = crate::schema::limits::names().collect();
        assert_eq!(own.keys().map(String::as_str).collect::<Vec<_>>(), known);
        let (soft, _) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!(own["nofile"][0], Some(soft));
        let text = "Limit                     Soft Limit           Hard Limit           Units\n\
                    Max cpu time              unlimited            7                    seconds\n\
                    Max moons                 1                    2                    moons\n";
        assert_eq!(parse_limits(text), Limits::from([("cpu".to_owned(), [None, Some(7)])]));
        assert_eq!(parse_limits("Max cpu time\nMax cpu time x y"), Limits::new());
    }

    #[test]
    fn what_is_open_is_seen_by_its_number() {
        let file = std::fs::File::open("/dev/zero").unwrap();
        let own = descriptors(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert_eq!(own[&file.as_raw_fd()], "/dev/zero");
    }
}
