//! Whether a file is at hand: on a disk or in the memory of this machine, and
//! not behind a network or a program that may be down. Finding out may itself take for
//! ever, so only a process aside does it.

use nix::libc;
use nix::sys::statfs::{
    BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, F2FS_SUPER_MAGIC, OVERLAYFS_SUPER_MAGIC, TMPFS_MAGIC, XFS_SUPER_MAGIC, statfs,
};
use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};

/// The most symbolic links on the way to a file (path_resolution(7)).
const LINKS: usize = 40;
/// How deep scripts may be each other's interpreters (execve(2) allows 5).
const INTERPRETERS: usize = 5;
/// The longest path in a program's head (PATH_MAX).
const PATH: usize = 4096;

/// Whether executing that program waits for nothing but disks of this machine: the
/// file, each folder and link on the way to it, and likewise its interpreter.
pub fn is_at_hand(program: &Path) -> bool {
    is_all_at_hand(program.to_owned(), INTERPRETERS)
}

fn is_all_at_hand(program: PathBuf, interpreters: usize) -> bool {
    if !is_way_local(&program) {
        return false;
    }
    match File::open(&program).and_then(|file| interpreter(&file)) {
        Ok(None) => true,
        Ok(Some(next)) => interpreters > 0 && is_all_at_hand(next, interpreters - 1),
        // It can't be read, for example because of its mode, so its interpreter is unknown.
        Err(_) => false,
    }
}

/// Whether a file's own file system is local, however it is named.
pub fn is_local(path: &Path) -> bool {
    // linux/magic.h; nix has no name for these.
    const SQUASHFS: libc::__fsword_t = 0x7371_7368;
    const EROFS: libc::__fsword_t = 0xe0f5_e1e2;
    const PROC: libc::__fsword_t = 0x9fa0;
    const RAMFS: libc::__fsword_t = 0x8584_58f6;
    const BCACHEFS: libc::__fsword_t = 0xca45_1a4e;
    const VFAT: libc::__fsword_t = 0x4d44;
    const EXFAT: libc::__fsword_t = 0x2011_bab0;
    const NTFS3: libc::__fsword_t = 0x7366_746e;
    // OpenZFS, include/sys/fs/zfs.h.
    const ZFS: libc::__fsword_t = 0x2fc1_2fc1;
    let others = [SQUASHFS, EROFS, PROC, RAMFS, BCACHEFS, VFAT, EXFAT, NTFS3, ZFS];
    let known =
        [EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC, F2FS_SUPER_MAGIC, TMPFS_MAGIC, OVERLAYFS_SUPER_MAGIC];
    statfs(path).is_ok_and(|found| {
        let kind = found.filesystem_type();
        known.contains(&kind) || others.contains(&kind.0)
    })
}

/// Whether every folder and link on the way to that file is local, and the file too.
pub fn is_way_local(path: &Path) -> bool {
    let mut at = PathBuf::from("/");
    let mut rest: VecDeque<OsString> = parts(path).collect();
    let mut links = 0;
    while let Some(part) = rest.pop_front() {
        if part == ".." {
            at.pop();
            continue;
        }
        let next = at.join(&part);
        match std::fs::read_link(&next) {
            // Only the kernel knows where links in /proc lead.
            Ok(_) if next.starts_with("/proc") => {
                at = next;
                if !is_local(&at) {
                    return false;
                }
            }
            Ok(to) => {
                links += 1;
                if links > LINKS {
                    return false;
                }
                if to.is_absolute() {
                    at = PathBuf::from("/");
                }
                let before = std::mem::take(&mut rest);
                rest = parts(&to).chain(before).collect();
            }
            Err(_) => {
                at = next;
                if !is_local(&at) {
                    return false;
                }
            }
        }
    }
    true
}

fn parts(path: &Path) -> impl Iterator<Item = OsString> + '_ {
    path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
}

/// The file by which the kernel executes that program, if it is another one: a script's
/// interpreter (execve(2)), or the dynamic linker (elf(5)).
fn interpreter(mut file: &File) -> io::Result<Option<PathBuf>> {
    let mut head = Vec::new();
    file.by_ref().take(PATH as u64).read_to_end(&mut head)?;
    if let Some(line) = head.strip_prefix(b"#!") {
        let line = line.split(|&byte| byte == b'\n').next().unwrap_or_default();
        let mut words = line.split(|&byte| byte == b' ' || byte == b'\t').filter(|word| !word.is_empty());
        return Ok(words.next().map(|path| OsString::from_vec(path.to_vec()).into()));
    }
    if head.starts_with(b"\x7fELF") { dynamic_linker(&head, file) } else { Ok(None) }
}

/// PT_INTERP of a 64-bit little-endian program, as on all machines that plumbd runs on.
fn dynamic_linker(head: &[u8], file: &File) -> io::Result<Option<PathBuf>> {
    const PT_INTERP: u64 = 3;
    let number = |bytes: &[u8], at: usize, length: usize| {
        let field = bytes.get(at..at + length).unwrap_or_default();
        field.iter().rev().fold(0u64, |number, &byte| number << 8 | u64::from(byte))
    };
    let (table, size, count) = (number(head, 32, 8), number(head, 54, 2), number(head, 56, 2));
    for place in 0..count {
        let mut entry = [0; 56];
        file.read_exact_at(&mut entry, table + place * size)?;
        if number(&entry, 0, 4) == PT_INTERP {
            let length = usize::try_from(number(&entry, 32, 8)).unwrap_or(PATH).min(PATH);
            let mut path = vec![0; length];
            file.read_exact_at(&mut path, number(&entry, 8, 8))?;
            path.retain(|&byte| byte != 0);
            return Ok(Some(OsString::from_vec(path).into()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn interpreter_of(path: &Path) -> Option<PathBuf> {
        interpreter(&File::open(path).unwrap()).unwrap()
    }

    #[test]
    fn the_interpreter_of_a_script_and_of_a_program_is_known() {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("script");
        for (text, path) in [
            ("#!/bin/sh\n", Some("/bin/sh")),
            ("#! \t/usr/bin/env python3 -u\nx\n", Some("/usr/bin/env")),
            ("#!/bin/sh", Some("/bin/sh")),
            ("#!\n", None),
            ("#", None),
            ("", None),
        ] {
            std::fs::write(&script, text).unwrap();
            assert_eq!(interpreter_of(&script), path.map(PathBuf::from), "{text:?}");
        }
        let linker = interpreter_of(Path::new("/bin/sh")).unwrap();
        assert!(linker.is_absolute() && linker.exists(), "{linker:?}");
        std::fs::write(&script, b"\x7fELF torn").unwrap();
        assert!(!matches!(interpreter(&File::open(&script).unwrap()), Ok(Some(_))));
    }

    #[test]
    fn every_step_of_the_way_counts() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        std::fs::copy("/bin/true", root.join("program")).unwrap();
        if !is_at_hand(&root.join("program")) {
            return;
        }
        // sysfs is local too, but it is not a file system for programs, so it does not count.
        symlink("/sys/kernel", root.join("far")).unwrap();
        symlink("program", root.join("near")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        std::fs::write(root.join("script"), "#!/sys/kernel/interpreter\n").unwrap();
        std::fs::write(root.join("by-script"), format!("#!{}/script\n", root.display())).unwrap();
        for (name, at_hand) in [
            ("near", true),
            ("far/x", false),
            ("far/../x", false),
            ("loop", false),
            ("script", false),
            ("by-script", false),
        ] {
            assert_eq!(is_at_hand(&root.join(name)), at_hand, "{name}");
        }
        assert!(is_at_hand(Path::new("/proc/self/exe")));
    }
}
