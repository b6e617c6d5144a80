//! Why a file can't be executed. For a script whose interpreter is missing, execve(2) only
//! says "No such file or directory", and its other errors say as little. The file itself
//! shows more.

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::unistd::{AccessFlags, access};
use std::ffi::CStr;
use std::fmt;
use std::path::Path;

/// How much of a file is read to find out what it is. The kernel looks at 256 bytes
/// (BINPRM_BUF_SIZE, linux/binfmts.h), and linkers put the name of a program's loader into
/// the first page.
const HEAD: usize = 4096;
/// A name in the first line of a script ends before this (BINPRM_BUF_SIZE).
const NAME_MOST: usize = 256;

/// The length of a flaw in bytes.
pub const BYTES: usize = 4 + NAME_MOST;

/// The architectures in the headers of programs for this machine: its own, and an older
/// one that its kernel may run too (elf(5), e_machine).
#[cfg(target_arch = "x86_64")]
const OWN: [u16; 2] = [62, 3];
#[cfg(target_arch = "aarch64")]
const OWN: [u16; 2] = [183, 40];

/// What is wrong with a program's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flaw {
    kind: Kind,
    /// The architecture of [`Kind::Foreign`].
    machine: u16,
    name: [u8; NAME_MOST],
    length: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Folder,
    NotExecutable,
    Empty,
    LineEnds,
    NoInterpreter,
    NoFirstLine,
    NoFormat,
    Foreign,
    InterpreterMissing,
    InterpreterNotExecutable,
    LoaderMissing,
}

impl Kind {
    const ALL: [Kind; 11] = [
        Kind::Folder,
        Kind::NotExecutable,
        Kind::Empty,
        Kind::LineEnds,
        Kind::NoInterpreter,
        Kind::NoFirstLine,
        Kind::NoFormat,
        Kind::Foreign,
        Kind::InterpreterMissing,
        Kind::InterpreterNotExecutable,
        Kind::LoaderMissing,
    ];

    /// Whether that is a reason for this error of execve(2).
    fn explains(self, errno: Errno) -> bool {
        match self {
            Kind::Folder | Kind::NotExecutable | Kind::InterpreterNotExecutable => errno == Errno::EACCES,
            Kind::Empty | Kind::NoInterpreter | Kind::NoFirstLine | Kind::NoFormat | Kind::Foreign => {
                errno == Errno::ENOEXEC
            }
            Kind::LineEnds | Kind::InterpreterMissing | Kind::LoaderMissing => errno == Errno::ENOENT,
        }
    }
}

impl Flaw {
    fn new(kind: Kind) -> Flaw {
        Flaw { kind, machine: 0, name: [0; NAME_MOST], length: 0 }
    }

    /// A flaw with as much of that name as there is room for.
    fn named(kind: Kind, name: &[u8]) -> Flaw {
        let length = u8::try_from(name.len()).unwrap_or(u8::MAX);
        let mut flaw = Flaw { length, ..Flaw::new(kind) };
        flaw.name[..usize::from(length)].copy_from_slice(&name[..usize::from(length)]);
        flaw
    }

    /// Whether another program may have been registered to run such a file
    /// (binfmt_misc in the kernel's documentation).
    pub fn may_be_registered(&self) -> bool {
        matches!(self.kind, Kind::NoFirstLine | Kind::NoFormat | Kind::Foreign)
    }

    /// What would mend that file; empty if that can't be told.
    pub fn help(&self, path: &Path) -> String {
        let file = shell_word(&path.to_string_lossy());
        match self.kind {
            Kind::Folder => "name a program in it".to_owned(),
            Kind::NotExecutable => format!("chmod +x {file}"),
            Kind::LineEnds => format!("sed -i 's/\\r$//' {file}"),
            Kind::NoInterpreter => "write #!/bin/sh, or another interpreter".to_owned(),
            Kind::NoFirstLine => "if it is a shell script, begin it with #!/bin/sh".to_owned(),
            Kind::InterpreterMissing => "correct its first line, or install the interpreter".to_owned(),
            Kind::InterpreterNotExecutable => "correct its first line".to_owned(),
            Kind::Empty | Kind::NoFormat | Kind::Foreign | Kind::LoaderMissing => String::new(),
        }
    }

    /// The flaw as bytes, for a process that can't report more: the kind, the machine, the name.
    pub fn bytes(&self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        let [low, high] = self.machine.to_le_bytes();
        bytes[..4].copy_from_slice(&[self.kind as u8, low, high, self.length]);
        bytes[4..].copy_from_slice(&self.name);
        bytes
    }

    /// The flaw from which [`Flaw::bytes`] made these bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Flaw> {
        let (head, name) = bytes.split_first_chunk::<4>()?;
        let [kind, low, high, length] = *head;
        let kind = *Kind::ALL.get(usize::from(kind))?;
        let name = name.get(..usize::from(length))?;
        Some(Flaw { machine: u16::from_le_bytes([low, high]), ..Flaw::named(kind, name) })
    }
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = String::from_utf8_lossy(&self.name[..usize::from(self.length)]);
        let name = name.escape_debug();
        match self.kind {
            Kind::Folder => write!(f, "it is a folder"),
            Kind::NotExecutable => write!(f, "it is not marked executable"),
            Kind::Empty => write!(f, "it is empty"),
            Kind::LineEnds => write!(f, "its lines end in CR LF, and the CR counts as part of a name"),
            Kind::NoInterpreter => write!(f, "its first line, #!, names no interpreter"),
            Kind::NoFirstLine => write!(f, "it is a text without a #! line that names an interpreter"),
            Kind::NoFormat => write!(f, "it is not a program for this machine"),
            Kind::Foreign => {
                write!(f, "it is a program for {}, not for {}", machine(self.machine), std::env::consts::ARCH)
            }
            Kind::InterpreterMissing => write!(f, "its interpreter {name} does not exist"),
            Kind::InterpreterNotExecutable => write!(f, "its interpreter {name} can't be executed"),
            Kind::LoaderMissing => write!(f, "its loader {name} does not exist: it was built for another system"),
        }
    }
}

/// A path as a shell takes it.
fn shell_word(path: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+:@%,".contains(c);
    match path.chars().all(is_plain) {
        true => path.to_owned(),
        false => format!("'{}'", path.replace('\'', r"'\''")),
    }
}

/// The architecture's name in uname(1).
fn machine(number: u16) -> String {
    match number {
        3 => "i386".to_owned(),
        8 => "mips".to_owned(),
        20 => "ppc".to_owned(),
        21 => "ppc64".to_owned(),
        22 => "s390x".to_owned(),
        40 => "arm".to_owned(),
        62 => "x86_64".to_owned(),
        183 => "aarch64".to_owned(),
        243 => "riscv64".to_owned(),
        258 => "loongarch64".to_owned(),
        other => format!("another architecture (ELF machine {other})"),
    }
}

/// Why execve(2) of that file failed with that error, if the file shows more.
///
/// Allocates nothing, because the calling process may share another one's memory.
pub fn explain(path: &CStr, errno: Errno) -> Option<Flaw> {
    look(path).filter(|flaw| flaw.kind.explains(errno))
}

/// What is wrong with that file as a program. `None`: nothing that can be seen, or the file
/// can't be read.
pub fn look(path: &CStr) -> Option<Flaw> {
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let file = open(path, flags, Mode::empty()).ok()?;
    let found = fstat(&file).ok()?;
    match SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT {
        SFlag::S_IFDIR => return Some(Flaw::new(Kind::Folder)),
        SFlag::S_IFREG => {}
        _ => return None,
    }
    if found.st_mode & 0o111 == 0 {
        return Some(Flaw::new(Kind::NotExecutable));
    }
    let mut head = [0; HEAD];
    let mut length = 0;
    while length < HEAD {
        match nix::unistd::read(&file, &mut head[length..]) {
            Ok(0) => break,
            Ok(n) => length += n,
            Err(Errno::EINTR) => {}
            Err(_) => return None,
        }
    }
    of_head(&head[..length])
}

fn of_head(head: &[u8]) -> Option<Flaw> {
    match head {
        [] => Some(Flaw::new(Kind::Empty)),
        [b'#', b'!', rest @ ..] => of_script(rest),
        [0x7f, b'E', b'L', b'F', ..] => of_elf(head),
        text if is_text(text) => Some(Flaw::new(Kind::NoFirstLine)),
        _ => Some(Flaw::new(Kind::NoFormat)),
    }
}

fn is_text(head: &[u8]) -> bool {
    head.iter().all(|&byte| byte >= b' ' || matches!(byte, b'\n' | b'\r' | b'\t' | 0x0c | 0x1b))
}

/// A script's first line, behind `#!` (execve(2), Interpreter scripts).
fn of_script(rest: &[u8]) -> Option<Flaw> {
    let line = rest.split(|&byte| byte == b'\n').next().unwrap_or(rest);
    let line = &line[..line.len().min(NAME_MOST - 3)];
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let Some(from) = line.iter().position(|byte| !is_blank(byte)) else {
        return Some(Flaw::new(Kind::NoInterpreter));
    };
    if line.ends_with(b"\r") {
        return Some(Flaw::new(Kind::LineEnds));
    }
    let name = line[from..].split(is_blank).next().unwrap_or(line);
    missing(name, Kind::InterpreterMissing)
}

/// Checks in the header of a program (elf(5)) where it can run.
fn of_elf(head: &[u8]) -> Option<Flaw> {
    const CLASS_64: u8 = 2;
    const LITTLE_ENDIAN: u8 = 1;
    const PT_INTERP: u32 = 3;
    let half = |at: usize| head.get(at..at + 2).map(|bytes| u16::from_le_bytes([bytes[0], bytes[1]]));
    let long = |at: usize| Some(u64::from_le_bytes(*head.get(at..)?.first_chunk::<8>()?));
    let machine = match head.get(5)? {
        &LITTLE_ENDIAN => half(18)?,
        _ => half(18)?.swap_bytes(),
    };
    if !OWN.contains(&machine) {
        return Some(Flaw { machine, ..Flaw::new(Kind::Foreign) });
    }
    if head.get(4)? != &CLASS_64 {
        return None;
    }
    let (table, size, count) = (usize::try_from(long(32)?).ok()?, usize::from(half(54)?), usize::from(half(56)?));
    let mut segments = (0..count).map_while(|place| head.get(table.checked_add(place * size)?..)?.get(..40));
    let interpreter = segments.find(|segment| segment[..4] == PT_INTERP.to_le_bytes())?;
    let number = |at: usize| usize::try_from(u64::from_le_bytes(*interpreter[at..].first_chunk::<8>()?)).ok();
    let (from, length) = (number(8)?, number(32)?);
    let name = head.get(from..from.checked_add(length)?)?;
    missing(name.split(|&byte| byte == 0).next()?, Kind::LoaderMissing)
}

/// Whether that program is missing. For a relative name this is unknown before it is
/// executed, because it is relative to the directory in which the program will run.
fn missing(name: &[u8], kind: Kind) -> Option<Flaw> {
    if !name.starts_with(b"/") {
        return None;
    }
    let mut text = [0; NAME_MOST];
    text.get_mut(..name.len())?.copy_from_slice(name);
    let path = CStr::from_bytes_until_nul(&text).ok()?;
    match access(path, AccessFlags::X_OK) {
        Err(Errno::ENOENT | Errno::ENOTDIR) => Some(Flaw::named(kind, name)),
        Err(Errno::EACCES) if kind == Kind::InterpreterMissing => {
            Some(Flaw::named(Kind::InterpreterNotExecutable, name))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::ffi::CString;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::PermissionsExt;
    use std::path::{Path, PathBuf};

    fn file(folder: &Path, bytes: &[u8], mode: u32) -> PathBuf {
        let path = folder.join("program");
        std::fs::write(&path, bytes).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    fn said(path: &Path) -> Option<String> {
        look(&CString::new(path.as_os_str().as_bytes()).unwrap()).map(|flaw| flaw.to_string())
    }

    /// This program's own file, changed.
    fn own(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut bytes = std::fs::read("/proc/self/exe").unwrap();
        bytes.truncate(HEAD);
        change(&mut bytes);
        bytes
    }

    #[test]
    fn a_program_that_runs_has_no_flaw() {
        assert_eq!(said(Path::new("/bin/sh")), None);
        assert_eq!(said(Path::new("/proc/self/exe")), None);
        let folder = tempfile::tempdir().unwrap();
        for script in ["#!/bin/sh\n", "#! /bin/sh -e\nexit\r\n", "#!/bin/sh", "#!\t/bin/sh\t-e"] {
            assert_eq!(said(&file(folder.path(), script.as_bytes(), 0o755)), None, "{script:?}");
        }
        assert_eq!(said(Path::new("/nonexistent")), None, "the error itself says that");
    }

    #[test]
    fn each_flaw_is_reported() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        assert_eq!(said(dir).unwrap(), "it is a folder");
        let missing = "its interpreter /usr/bin/pyton3 does not exist";
        let foreign = if cfg!(target_arch = "x86_64") { 183u16 } else { 62 };
        let loader = |bytes: &mut Vec<u8>| {
            let at = bytes.windows(4).position(|four| four == b"/lib").expect("its loader is named in its first page");
            bytes[at + 1] = b'x';
        };
        for (bytes, mode, expected) in [
            (&b"#!/bin/sh\n"[..], 0o644, "it is not marked executable"),
            (b"", 0o755, "it is empty"),
            (b"#!/bin/sh\r\necho\r\n", 0o755, "its lines end in CR LF"),
            (b"#!/usr/bin/env python3\r\n", 0o755, "its lines end in CR LF"),
            (b"#!\n", 0o755, "names no interpreter"),
            (b"#!   \t \nx", 0o755, "names no interpreter"),
            (b"#!/usr/bin/pyton3\n", 0o755, missing),
            (b"#! /usr/bin/pyton3 -u\n", 0o755, missing),
            (b"#!/etc/passwd/x\n", 0o755, "its interpreter /etc/passwd/x does not exist"),
            (b"echo hello\n", 0o755, "it is a text without a #! line"),
            (b"\x00\x00", 0o755, "it is not a program for this machine"),
            (&own(|bytes| bytes[18..20].copy_from_slice(&foreign.to_le_bytes())), 0o755, "it is a program for "),
            (&own(loader), 0o755, "its loader /xib"),
        ] {
            let said = said(&file(dir, bytes, mode)).unwrap_or_default();
            assert!(said.contains(expected), "{said:?}, not {expected:?}");
        }
    }

    #[test]
    fn what_would_mend_a_file_can_be_pasted_into_a_shell() {
        let help = |kind, path: &str| Flaw::new(kind).help(Path::new(path));
        assert_eq!(help(Kind::LineEnds, "/srv/run.sh"), r"sed -i 's/\r$//' /srv/run.sh");
        assert_eq!(help(Kind::NotExecutable, "/srv/it's mine"), r"chmod +x '/srv/it'\''s mine'");
    }

    #[test]
    fn a_flaw_survives_the_way_through_bytes() {
        for kind in Kind::ALL {
            for name in [&b""[..], b"/usr/bin/pyton3", &[b'x'; 255]] {
                let flaw = Flaw { machine: 183, ..Flaw::named(kind, name) };
                assert_eq!(Flaw::from_bytes(&flaw.bytes()), Some(flaw));
            }
        }
        assert_eq!(Flaw::from_bytes(&[99, 0, 0, 0]), None);
        assert_eq!(Flaw::from_bytes(&[]), None);
    }

    #[test]
    fn an_error_is_explained_only_by_a_flaw_that_causes_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = file(folder.path(), b"echo\n", 0o755);
        let path = CString::new(path.as_os_str().as_bytes()).unwrap();
        assert!(explain(&path, Errno::ENOEXEC).is_some());
        assert!(explain(&path, Errno::ENOMEM).is_none() && explain(&path, Errno::ENOENT).is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_are_looked_at_without_a_panic(
            magic in prop_oneof![Just(&b"#!"[..]), Just(&b"\x7fELF"[..]), Just(&b""[..])],
            rest in prop::collection::vec(any::<u8>(), 0..600),
        ) {
            let _flaw = of_head(&[magic, &rest].concat());
        }

        #[test]
        fn a_damaged_program_is_looked_at_without_a_panic(at in 0usize..200, byte in any::<u8>(), cut in 0usize..HEAD) {
            let bytes = own(|bytes| {
                bytes[at] = byte;
                bytes.truncate(cut);
            });
            let _flaw = of_head(&bytes);
        }
    }
}
