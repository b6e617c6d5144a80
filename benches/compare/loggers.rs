//! Programs that read lines and save them to files.

use crate::packages::program;
use crate::peer::Peer;
use crate::rig::{self, LOOK, PATIENCE};
use crate::roles;
use plumbd::sys::pipe::Pipe;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Bytes of a line, with its newline.
pub(crate) const LINE: usize = 100;
/// The capacity of the pipe to a logger: a link's default.
pub(crate) const CAPACITY: usize = 1 << 20;

/// A program that saves lines from its standard input.
#[derive(Clone, Copy)]
pub(crate) enum Logger {
    Cat,
    S6Log,
    Multilog,
    Svlogd,
    /// It does not read a pipe, but follows a file.
    Rsyslog,
}

/// The loggers that put the time before each line.
pub(crate) const STAMPERS: [(Logger, &str); 4] = [
    (Logger::S6Log, "s6-log T"),
    (Logger::Multilog, "multilog t"),
    (Logger::Svlogd, "svlogd -tt"),
    (Logger::Rsyslog, "rsyslogd imfile to omfile"),
];

/// How long it takes to save this many lines, from just before the first is written.
///
/// # Errors
/// The program is missing, fails, or saves something else.
pub(crate) fn took(logger: Logger, lines: u32) -> Result<Duration, String> {
    let folder = rig::folder()?;
    let (stamp, out) = (folder.path().join("began"), folder.path().join("out"));
    fs::create_dir(&out).map_err(|e| format!("cannot make {}: {e}", out.display()))?;
    if let Logger::Rsyslog = logger {
        return rsyslog(lines, folder.path(), &out);
    }
    let mut command = command(logger, &out)?;
    let cannot = |e: std::io::Error| format!("cannot measure a logger: {e}");
    let pipe = Pipe::new(CAPACITY).map_err(cannot)?;
    let mut child = command.stdin(pipe.read).stderr(Stdio::null()).spawn().map_err(cannot)?;
    drop(command);
    let words = roles::lines_command(lines, LINE, &stamp)?;
    let mut source = Command::new(&words[0]);
    let mut writer = source.args(&words[1..]).stdin(Stdio::null()).stdout(pipe.write).spawn().map_err(cannot)?;
    // The pipe ends when its last writer closes it, so this program must not keep it open.
    drop(source);
    let wrote = writer.wait().map_err(cannot)?;
    // The logger ends when its input ends and everything is written.
    let ended = child.wait().map_err(cannot)?;
    let took = roles::since(&stamp)?;
    let there = count_lines(&out)?;
    if !wrote.success() || !ended.success() || there != u64::from(lines) {
        return Err(format!("of {lines} lines {there} were saved; it ended with {ended}"));
    }
    Ok(took)
}

fn command(logger: Logger, out: &Path) -> Result<Command, String> {
    let file = out.join("file");
    // Each rotates as rarely as it allows.
    let (name, arguments): (&str, &[&str]) = match logger {
        Logger::S6Log => ("s6-log", &["n1000", "s268435455", "T"]),
        Logger::Multilog => ("multilog", &["t", "n1000", "s16777215"]),
        Logger::Svlogd => ("svlogd", &["-tt"]),
        Logger::Cat | Logger::Rsyslog => ("cat", &[]),
    };
    let mut command = Command::new(program(name)?);
    command.args(arguments);
    match logger {
        Logger::Cat => {
            let file = File::create(&file).map_err(|e| format!("cannot create {}: {e}", file.display()))?;
            command.stdout(file);
        }
        _ => {
            fs::write(out.join("config"), "s0\nn0\n").map_err(|e| format!("cannot configure svlogd: {e}"))?;
            command.arg(out).stdout(Stdio::null());
        }
    }
    Ok(command)
}

fn rsyslog(lines: u32, folder: &Path, out: &Path) -> Result<Duration, String> {
    let cannot = |e: std::io::Error| format!("cannot measure rsyslogd: {e}");
    let path = program("rsyslogd")?;
    let (input, output, settings) = (folder.join("input"), out.join("file"), folder.join("rsyslog.conf"));
    let words = roles::lines_command(lines, LINE, &folder.join("began"))?;
    let input_file = File::create(&input).map_err(cannot)?;
    let wrote = Command::new(&words[0]).args(&words[1..]).stdout(input_file).status().map_err(cannot)?;
    let text = format!(
        "global(workDirectory=\"{0}\")\nmodule(load=\"imfile\")\n\
         template(name=\"line\" type=\"string\" string=\"%timegenerated:::date-rfc3339% %msg%\\n\")\n\
         input(type=\"imfile\" File=\"{1}\" Tag=\"t\")\naction(type=\"omfile\" File=\"{2}\" template=\"line\")\n",
        folder.display(),
        input.display(),
        output.display()
    );
    fs::write(&settings, text).map_err(cannot)?;
    let begin = Instant::now();
    let mut command = Command::new(path);
    command.arg("-n").arg("-f").arg(&settings).arg("-i").arg(folder.join("pid"));
    let _peer = Peer::start(command.stdout(Stdio::null()).stderr(Stdio::null()))?;
    // A line of the file has the time and a blank before the line of the input.
    let wanted = u64::from(lines) * (LINE + "2026-11-22T15:04:05.123456+00:00 ".len()) as u64;
    while fs::metadata(&output).map_or(0, |file| file.len()) < wanted {
        if !wrote.success() || begin.elapsed() > PATIENCE {
            return Err("rsyslogd did not save all lines in time".to_owned());
        }
        sleep(LOOK);
    }
    Ok(begin.elapsed())
}

/// The number of lines in all files of a folder.
fn count_lines(folder: &Path) -> Result<u64, String> {
    let cannot = |e: std::io::Error| format!("cannot read {}: {e}", folder.display());
    let mut count = 0;
    let mut buffer = vec![0; 1 << 20];
    for entry in fs::read_dir(folder).map_err(cannot)? {
        let path = entry.map_err(cannot)?.path();
        if path.ends_with("config") {
            continue;
        }
        let mut file = File::open(&path).map_err(cannot)?;
        loop {
            let n = file.read(&mut buffer).map_err(cannot)?;
            if n == 0 {
                break;
            }
            count += memchr::memchr_iter(b'\n', &buffer[..n]).count() as u64;
        }
    }
    Ok(count)
}
