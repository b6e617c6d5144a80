//! Describes the machine that the figures belong to.

use std::fs;
use std::path::Path;

/// Kernel, processor, cores, the file system that the message files are on, and the load
/// average: if it is above a few tenths, the figures are worth little.
pub(crate) fn description() -> String {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!(
        "Linux {} {}, {}, {cores} cores, message files on {}, load average {}",
        kernel.trim(),
        std::env::consts::ARCH,
        processor().unwrap_or_else(|| "unknown processor".to_owned()),
        file_system(Path::new(super::rig::FOLDER)).unwrap_or_else(|| "an unknown file system".to_owned()),
        fs::read_to_string("/proc/loadavg").unwrap_or_default().split(' ').next().unwrap_or_default(),
    )
}

fn processor() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// The type of the file system that holds a path, by the longest mount point above it
/// (proc_pid_mountinfo(5)).
fn file_system(path: &Path) -> Option<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let holding = mounts.lines().filter_map(|line| {
        let (mount, source) = line.split_once(" - ")?;
        let point = mount.split(' ').nth(4)?;
        path.starts_with(point).then(|| (point.len(), source.split(' ').next()))
    });
    // If two file systems are mounted on one point, the later one is visible.
    holding.max_by_key(|(length, _)| *length)?.1.map(str::to_owned)
}
