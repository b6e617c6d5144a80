//! What the kernel knows about a process (proc(5)).

use std::fs;
use std::time::Duration;

/// The ids of the processes whose parent is `parent`, and what each runs.
pub(crate) fn children(parent: u32) -> Vec<(u32, String)> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let parent = format!("{parent}");
    pids.filter(|&pid| status(pid, "PPid:").is_some_and(|value| value == parent))
        .map(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words: Vec<_> = line.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
            (pid, words.join(" ").trim_end().to_owned())
        })
        .collect()
}

/// A field of /proc/PID/status, with its unit.
pub(crate) fn status(pid: u32, field: &str) -> Option<String> {
    value(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?, field)
}

/// A process's share of its resident pages, in bytes: a page that n processes share counts 1/n.
pub(crate) fn proportional_size(pid: u32) -> Option<f64> {
    bytes(&value(&fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?, "Pss:")?)
}

/// A process's resident pages, in bytes.
pub(crate) fn resident(pid: u32) -> Option<f64> {
    bytes(&status(pid, "VmRSS:")?)
}

/// The bytes of `1234 kB`.
fn bytes(text: &str) -> Option<f64> {
    Some(text.split(' ').next()?.parse::<f64>().ok()? * 1024.0)
}

/// How long a process of one thread was on a core.
pub(crate) fn time_on_core(pid: u32) -> Duration {
    let text = fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap_or_default();
    Duration::from_nanos(text.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0))
}

/// How often a process was given a core after it had waited or had been interrupted.
pub(crate) fn switches(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let count = |field| value(&text, field)?.parse::<u64>().ok();
    Some(count("voluntary_ctxt_switches:")? + count("nonvoluntary_ctxt_switches:")?)
}

fn value(text: &str, field: &str) -> Option<String> {
    text.lines().find_map(|line| line.strip_prefix(field)).map(|value| value.trim().to_owned())
}
