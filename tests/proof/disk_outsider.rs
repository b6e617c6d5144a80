//! An outsider, another process, removes the message file, renames it, replaces it,
//! truncates it, appends to it ([`crate::disk_appended`]), or takes away its folder or the
//! right to it.
//!
//! What the outsider destroys is lost, and not by plumbd. To account for it exactly,
//! the trial keeps it: it holds a removed file open, and looks at what it
//! truncates while the logger is stopped for a moment.

use crate::daemon::{kill, send, state, wait_for};
use crate::disk::append_but_what_is_in_both;
use crate::disk_appended::appended;
use crate::disk_held::Held;
use crate::disk_site::{Site, forgetful, tried};
use crate::trial::{Trial, Tried, needs_command, needs_root, scaled};
use nix::libc::{SIGCONT, SIGSTOP};
use std::collections::hash_map::RandomState;
use std::fs::{File, Permissions};
use std::hash::{BuildHasher, Hasher};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

const NAME_GONE: &str = "has lost its name: run plumbd reopen";

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        Trial {
            name: "disk/removed",
            fault: "the last name of the file is removed, even one that it got by a rename or hard link; the logger is \
                    killed at the same moment, or not",
            promise: "a new file is made at once; what the removed one had in that moment, and the new ones, together \
                      have every message exactly once, whole, in order (a batch that was under way may be in both)",
            missing: || None,
            attempt: removed,
        },
        Trial {
            name: "disk/renamed",
            fault: "another process renames the file, then `plumbd reopen` is run, or the logger is killed",
            promise: "status and log say so; the renamed files and the new one together have every message exactly \
                      once, whole, in order",
            missing: || None,
            attempt: renamed,
        },
        Trial {
            name: "disk/replaced",
            fault: "another file, which ends in half a line, is renamed over it",
            promise: "the logger goes on with it at once; its whole lines stay, the half one is moved away; what was \
                      replaced, and what comes after those lines, together have every message exactly once, whole, in order (a \
                      batch that was under way may be in both)",
            missing: || None,
            attempt: replaced,
        },
        Trial {
            name: "disk/truncated",
            fault: "another process truncates the file, to nothing or at any byte",
            promise: "what was cut off, and what comes after that place, together have every message exactly once, \
                      whole, in order; a line that was cut in two is moved away, unless a batch was just about to be \
                      written, which then follows the half line, whole; there is never a gap",
            missing: || needs_root().or_else(|| needs_command("strace")),
            attempt: truncated,
        },
        Trial {
            name: "disk/appended",
            fault: "another process appends lines of its own to the file, even when plumbd is just about to write",
            promise: "its lines stay whole and in place; every message is there exactly once, whole, in order",
            missing: || needs_root().or_else(|| needs_command("strace")),
            attempt: appended,
        },
        Trial {
            name: "disk/folder-gone",
            fault: "another process renames the folder, and the logger is killed; later the folder is back",
            promise: "status and log say so, clients wait, it goes on by itself, with one start, however long that \
                      lasts; every message is there exactly once, whole, in order",
            missing: || None,
            attempt: folder_gone,
        },
        Trial {
            name: "disk/no-permission",
            fault: "a logger that is not root loses the right to its folder and its file, and is killed; later it is \
                    given back",
            promise: "status and log say so, clients wait, it goes on by itself, with one start, however long that \
                      lasts; every message is there exactly once, whole, in order",
            missing: needs_root,
            attempt: no_permission,
        },
    ]
}

/// What is acknowledged was written before its file lost its last name, or is in
/// the next file. So the content of the removed file right after the removal, together with
/// what is there later, must have all of it.
fn removed(times: f64) -> Tried {
    let rounds = scaled(40, times);
    let folder = tempfile::tempdir().unwrap();
    // It is killed more often in a row than the default limits allow.
    let again = "backoff = { first = \"0ms\", factor = 1.0, max = \"0ms\" }\n\
                 start_limit = { burst = 1000, within = \"1s\" }";
    let site = Site::new(folder.path(), "saved", again);
    let other = folder.path().join("other");
    let (mut taken, mut kills, mut both) = (Vec::new(), 0, 0);
    for round in 0..rounds {
        let (held, inode) = (File::open(&site.file).unwrap(), site.inode().unwrap());
        match round % 4 {
            // The logger goes on with it under another name, until that is removed too.
            1 => {
                std::fs::hard_link(&site.file, &other).unwrap();
                std::fs::remove_file(&site.file).unwrap();
                site.wait_progress();
                std::fs::remove_file(&other).unwrap();
            }
            2 => {
                std::fs::rename(&site.file, &other).unwrap();
                site.wait_progress();
                std::fs::remove_file(&other).unwrap();
            }
            3 => {
                std::fs::remove_file(&site.file).unwrap();
                site.kill_logger();
                kills += 1;
            }
            _ => std::fs::remove_file(&site.file).unwrap(),
        }
        let mut there = read_all(held);
        site.wait_new_file(inode);
        site.wait_passed();
        there.truncate(memchr::memrchr(b'\n', &there).map_or(0, |at| at + 1));
        both += u32::from(is_under_way(&there, &std::fs::read(&site.file).unwrap()));
        taken.push((there, true));
    }
    let kept = [site.end(&[], |live| joined(taken, live))];
    let what = format!("{rounds} times, half of them under another name first, the logger killed {kills} times");
    tried(&what, &kept, &format!("{both} batches in both files"), &format!("{}; {}", left_out(), forgetful()))
}

/// The control: the content of the removed file is left out.
fn left_out() -> String {
    let folder = tempfile::tempdir().unwrap();
    let site = Site::new(folder.path(), "saved", "");
    std::fs::remove_file(&site.file).unwrap();
    format!("without what was removed, {}", site.end_found_out())
}

fn is_under_way(before: &[u8], after: &[u8]) -> bool {
    append_but_what_is_in_both(&mut before.to_vec(), after)
}

/// Joins files in order. With each comes whether its last batch may be in the next one too.
fn joined(files: Vec<(Vec<u8>, bool)>, live: Vec<u8>) -> Vec<u8> {
    let mut all = Vec::new();
    let mut may_be_in_both = false;
    for (file, is_killed) in files.into_iter().chain([(live, false)]) {
        if may_be_in_both {
            append_but_what_is_in_both(&mut all, &file);
        } else {
            all.extend_from_slice(&file);
        }
        may_be_in_both = is_killed;
    }
    all
}

fn renamed(times: f64) -> Tried {
    let rounds = scaled(4, times);
    let folder = tempfile::tempdir().unwrap();
    let site = Site::new(folder.path(), "saved", "");
    let mut away: Vec<PathBuf> = Vec::new();
    for round in 0..rounds {
        let inode = site.inode().unwrap();
        away.push(folder.path().join(format!("messages.log.away-{round:06}")));
        std::fs::rename(&site.file, &away[round as usize]).unwrap();
        site.wait_told(NAME_GONE);
        site.wait_progress();
        if round % 2 == 1 {
            site.kill_logger();
        } else {
            site.reopen();
        }
        site.wait_new_file(inode);
        site.wait_passed();
    }
    let kept = [site.end(&[], |live| {
        let away = away.iter().map(|path| std::fs::read(path).unwrap());
        away.chain([live]).collect::<Vec<_>>().concat()
    })];
    let what = format!("{rounds} times, the logger killed {} times", rounds / 2);
    tried(&what, &kept, "", &forgetful())
}

fn replaced(times: f64) -> Tried {
    const WHOLE: &[u8] = b"a line of an outsider\n";
    const HALF: &[u8] = b"and half a li";
    let rounds = scaled(20, times);
    let folder = tempfile::tempdir().unwrap();
    let site = Site::new(folder.path(), "saved", "");
    let other = folder.path().join("other");
    let mut taken = Vec::new();
    for _ in 0..rounds {
        let held = File::open(&site.file).unwrap();
        std::fs::write(&other, [WHOLE, HALF].concat()).unwrap();
        let inode = std::fs::metadata(&other).unwrap().ino();
        std::fs::rename(&other, &site.file).unwrap();
        let mut there = read_all(held);
        there.truncate(memchr::memrchr(b'\n', &there).map_or(0, |at| at + 1));
        taken.push((there, true));
        site.wait_progress();
        assert_eq!(site.inode(), Some(inode), "the other file stays");
        site.wait_passed();
    }
    let torn: Vec<Vec<u8>> =
        site.beside("messages.log.torn-").iter().map(|path| std::fs::read(path).unwrap()).collect();
    assert_eq!(torn, vec![HALF; rounds as usize], "what was moved away");
    let kept = [site.end(&[], |live| {
        let without = |(at, (file, both)): (usize, (Vec<u8>, bool))| {
            let outsiders = if at == 0 { &[] } else { WHOLE };
            (file.strip_prefix(outsiders).expect("its whole line stays").to_vec(), both)
        };
        taken.push((live, false));
        let mut own: Vec<(Vec<u8>, bool)> = taken.into_iter().enumerate().map(without).collect();
        let (live, _) = own.pop().unwrap();
        joined(own, live)
    })];
    tried(&format!("{rounds} times"), &kept, &format!("{} half lines moved away", torn.len()), &left_out())
}

fn truncated(times: f64) -> Tried {
    let rounds = scaled(40, times);
    let folder = tempfile::tempdir().unwrap();
    let site = Site::new(folder.path(), "saved", "");
    let mut cuts = Cuts::default();
    (0..rounds).for_each(|_| cuts.make(&site, |there| [0, random(there.len())][random(2)]));
    let (mut moved, mut behind) = (0, 0);
    let kept = [site.end(&[], |live| {
        cuts.account(&live);
        assert!(!cuts.all.contains(&0), "there is a gap");
        (moved, behind) = (cuts.moved, cuts.behind);
        cuts.all
    })];
    assert_eq!(moved, halves_in(folder.path()), "half lines that were moved away");
    let what = format!("{rounds} times, {} of them in the middle of a line", moved + behind);
    let more = format!(
        "{moved} half lines moved away, {behind} with a whole line behind them, as the logger was about to write; no gap"
    );
    tried(&what, &kept, &more, &written_at_its_offset())
}

/// The control: the file is not open for appending any more. With and without that, it is
/// truncated at the same moment, between the logger's look at its length and its write.
fn written_at_its_offset() -> String {
    let folder = tempfile::tempdir().unwrap();
    let site = Site::new(folder.path(), "saved", "");
    let held = Held::new(&site);
    assert_eq!(cut_before_a_write(&held), 0, "there is a gap");
    held.is_not_appending();
    let gap = cut_before_a_write(&held);
    assert!(gap > 0, "a file that is not open for appending has no gap: the trial proves nothing");
    format!(
        "cut while the logger is held just before a write (strace): no gap; without O_APPEND one of {gap} NUL bytes"
    )
}

/// Truncates the file to nothing just before a write. Returns how many NUL bytes it
/// begins with afterwards.
fn cut_before_a_write(held: &Held<'_>) -> usize {
    let file = &held.site.file;
    held.before_a_write(|| File::options().write(true).open(file).unwrap().set_len(0).unwrap());
    held.site.wait_progress();
    std::fs::read(file).unwrap().iter().take_while(|&&byte| byte == 0).count()
}

/// What was in a file that is truncated again and again.
#[derive(Default)]
struct Cuts {
    /// Everything that was ever in it, each line once.
    all: Vec<u8>,
    /// Up to here, the file is in `all` already.
    counted: usize,
    /// The half line that the last cut left in the file.
    half: Vec<u8>,
    /// Half lines that were moved away.
    moved: usize,
    /// Half lines that are followed by a batch that was under way.
    behind: usize,
}

impl Cuts {
    /// Truncates the file while the logger is stopped at any place.
    fn make(&mut self, site: &Site, to: impl FnOnce(&[u8]) -> usize) {
        site.wait_progress();
        let logger = site.logger();
        send(logger, SIGSTOP);
        wait_for("it is stopped", || (state(logger) == Some('T')).then_some(()));
        let there = std::fs::read(&site.file).unwrap();
        let to = to(&there);
        File::options().write(true).open(&site.file).unwrap().set_len(to as u64).unwrap();
        kill(logger, SIGCONT);
        self.account(&there);
        self.counted = memchr::memrchr(b'\n', &there[..to]).map_or(0, |at| at + 1);
        self.half = there[self.counted..to].to_vec();
    }

    /// Adds what came since the last cut.
    fn account(&mut self, there: &[u8]) {
        let mut new = &there[self.counted..];
        match new.strip_prefix(&*self.half).filter(|_| !self.half.is_empty()) {
            // The half line was just about to be moved away.
            Some([]) => new = &[],
            Some(rest) if is_begin_of_line(rest) => {
                self.behind += 1;
                new = rest;
            }
            _ => self.moved += usize::from(!self.half.is_empty()),
        }
        self.all.extend_from_slice(new);
    }
}

/// Whether bytes look like `2026-11-22T15:04:05.123456Z `. The rest of a line does not by chance.
fn is_begin_of_line(bytes: &[u8]) -> bool {
    let form = b"____-__-__T__:__:__.______Z ";
    bytes.len() > form.len()
        && form.iter().zip(bytes).all(|(&form, &byte)| form == b'_' && byte.is_ascii_digit() || form == byte)
}

fn halves_in(folder: &Path) -> usize {
    let names = folder.read_dir().unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.to_str().unwrap().starts_with("messages.log.torn-")).count()
}

/// Below `bound`, which is not 0.
fn random(bound: usize) -> usize {
    let random = RandomState::new().build_hasher().finish();
    usize::try_from(random % bound as u64).unwrap()
}

fn folder_gone(times: f64) -> Tried {
    let rounds = scaled(2, times);
    let kept: Vec<_> = (0..rounds)
        .map(|_| {
            let folder = tempfile::tempdir().unwrap();
            let (here, gone) = (folder.path().join("here"), folder.path().join("gone"));
            std::fs::create_dir(&here).unwrap();
            let site = Site::new(&here, "saved", "");
            std::fs::rename(&here, &gone).unwrap();
            site.wait_told(NAME_GONE);
            // A reopen that fails changes nothing.
            site.reopen();
            site.wait_told("cannot reopen");
            site.wait_progress();
            site.kill_logger();
            let taken = site.wait_told("cannot open");
            site.assert_waiting(taken);
            std::fs::rename(&gone, &here).unwrap();
            site.wait_passed();
            // It may last for any time, because no start is used up.
            assert_eq!(site.daemon.child("logger").restarts, 1);
            site.end(&[], |live| live)
        })
        .collect();
    tried(&format!("{rounds} times"), &kept, "", &forgetful())
}

fn no_permission(times: f64) -> Tried {
    const NOBODY: u32 = 65534;
    let rounds = scaled(2, times);
    let kept: Vec<_> = (0..rounds)
        .map(|_| {
            let folder = tempfile::tempdir().unwrap();
            std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
            let here = folder.path().join("here");
            std::fs::create_dir(&here).unwrap();
            chown(&here, Some(NOBODY), None).unwrap();
            let site = Site::new(&here, "saved", "user = \"nobody\"");
            for path in [&site.file, &here] {
                chown(path, Some(0), None).unwrap();
                std::fs::set_permissions(path, Permissions::from_mode(0o700)).unwrap();
            }
            site.wait_told(NAME_GONE);
            site.reopen();
            site.wait_told("Permission denied");
            site.wait_progress();
            site.kill_logger();
            let taken = site.wait_told("cannot open");
            site.assert_waiting(taken);
            for path in [&site.file, &here] {
                chown(path, Some(NOBODY), None).unwrap();
            }
            site.wait_passed();
            assert_eq!(site.daemon.child("logger").restarts, 1);
            site.end(&[], |live| live)
        })
        .collect();
    tried(&format!("{rounds} times"), &kept, "", &forgetful())
}

fn read_all(mut file: File) -> Vec<u8> {
    let mut all = Vec::new();
    file.read_to_end(&mut all).unwrap();
    all
}
