//! Somebody else at the message file: removes it, renames it, replaces it,
//! truncates it, takes its folder or the right to it away.
//!
//! What an outsider destroys is lost by his hand. To account for it exactly,
//! the trial keeps it: it holds what is removed open, and looks at what it
//! truncates while the logger is stopped for a moment.

use crate::daemon::{kill, send, state, wait_for};
use crate::disk::{DOCTORED, append_but_what_is_in_both, echoed, outcome};
use crate::disk_site::Site;
use crate::trial::{Trial, Tried, needs_root, scaled};
use nix::libc::{SIGCONT, SIGSTOP};
use std::collections::hash_map::RandomState;
use std::fs::{File, Permissions};
use std::hash::{BuildHasher, Hasher};
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;

const NAME_GONE: &str = "was removed or renamed: run plumbd reopen";

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        Trial {
            name: "disk/removed",
            fault: "somebody removes the file, then runs `plumbd reopen`, or the logger is killed",
            promise: "status and log say so; what he removed, and the new file, together have every message exactly \
                      once, whole, in order (a batch that was under way at a kill may be in both)",
            missing: || None,
            attempt: removed,
        },
        Trial {
            name: "disk/renamed",
            fault: "somebody renames the file, then runs `plumbd reopen`, or the logger is killed",
            promise: "status and log say so; the renamed files and the new one together have every message exactly \
                      once, whole, in order",
            missing: || None,
            attempt: renamed,
        },
        Trial {
            name: "disk/replaced",
            fault: "somebody renames a file of his own, which ends in half a line, over it, then runs `plumbd reopen`",
            promise: "status and log say so; his whole lines stay, the half one is moved away; what he replaced, and \
                      what comes after his lines, together have every message exactly once, whole, in order",
            missing: || None,
            attempt: replaced,
        },
        Trial {
            name: "disk/truncated",
            fault: "somebody truncates the file, to nothing or at any byte",
            promise: "what he cut off, and what comes after that place, together have every message exactly once, \
                      whole, in order; a line that he cut in two is moved away; before a batch that \
                      was under way there may be a gap of NUL bytes, as long as what he cut off",
            missing: || None,
            attempt: truncated,
        },
        Trial {
            name: "disk/folder-gone",
            fault: "somebody renames the folder, and the logger is killed; later the folder is back",
            promise: "status and log say so, clients wait, it goes on by itself; every message is there exactly \
                      once, whole, in order",
            missing: || None,
            attempt: folder_gone,
        },
        Trial {
            name: "disk/no-permission",
            fault: "a logger that is not root loses the right to its folder and its file, and is killed; later it is \
                    given back",
            promise: "status and log say so, clients wait, it goes on by itself; every message is there exactly \
                      once, whole, in order",
            missing: needs_root,
            attempt: no_permission,
        },
    ]
}

fn removed(times: f64) -> Tried {
    let rounds = scaled(4, times);
    let folder = tempfile::tempdir().unwrap();
    let site = Site::new(folder.path(), "saved", "");
    let (mut taken, mut kills, mut both, mut torn) = (Vec::new(), 0, 0, 0);
    for round in 0..rounds {
        let (held, inode) = (File::open(&site.file).unwrap(), site.inode().unwrap());
        std::fs::remove_file(&site.file).unwrap();
        site.wait_told(NAME_GONE);
        site.wait_progress();
        let is_killed = round % 2 == 1;
        if is_killed {
            site.kill_logger();
            kills += 1;
        } else {
            site.reopen();
        }
        site.wait_new_file(inode);
        site.wait_passed();
        let mut there = read_all(held);
        let whole = memchr::memrchr(b'\n', &there).map_or(0, |at| at + 1);
        assert!(is_killed || whole == there.len(), "a removed file ends in half a line");
        torn += u32::from(whole < there.len());
        there.truncate(whole);
        // What is under way at a kill is saved in the new file anew.
        both += u32::from(is_killed && is_under_way(&there, &std::fs::read(&site.file).unwrap()));
        taken.push((there, is_killed));
    }
    let kept = [site.end(&[], |live| joined(taken, live))];
    Tried {
        count: format!("{rounds} times, the logger killed {kills} times; {} messages echoed", echoed(&kept)),
        outcome: format!("{}; {both} batches in both files, {torn} torn ends in removed ones", outcome(&kept)),
        control: DOCTORED.to_owned(),
    }
}

fn is_under_way(before: &[u8], after: &[u8]) -> bool {
    append_but_what_is_in_both(&mut before.to_vec(), after)
}

/// Files one after the other, each with whether its last batch may be in the next too.
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
    Tried {
        count: format!("{rounds} times, the logger killed {} times; {} messages echoed", rounds / 2, echoed(&kept)),
        outcome: outcome(&kept),
        control: DOCTORED.to_owned(),
    }
}

fn replaced(times: f64) -> Tried {
    const HIS: &[u8] = b"a line of somebody else's\n";
    const HALF: &[u8] = b"and half a li";
    let rounds = scaled(3, times);
    let folder = tempfile::tempdir().unwrap();
    let site = Site::new(folder.path(), "saved", "");
    let other = folder.path().join("other");
    let mut taken = Vec::new();
    for _ in 0..rounds {
        let held = File::open(&site.file).unwrap();
        std::fs::write(&other, [HIS, HALF].concat()).unwrap();
        std::fs::rename(&other, &site.file).unwrap();
        site.wait_told(NAME_GONE);
        site.wait_progress();
        site.reopen();
        site.wait_passed();
        taken.push(read_all(held));
    }
    let torn: Vec<Vec<u8>> =
        site.beside("messages.log.torn-").iter().map(|path| std::fs::read(path).unwrap()).collect();
    assert_eq!(torn, vec![HALF; rounds as usize], "what was moved away");
    let kept = [site.end(&[], |live| {
        taken.push(live);
        let own = |(at, file): (usize, &Vec<u8>)| {
            let his = if at == 0 { &[] } else { HIS };
            file.strip_prefix(his).expect("his line stays").to_vec()
        };
        taken.iter().enumerate().map(own).collect::<Vec<_>>().concat()
    })];
    Tried {
        count: format!("{rounds} times; {} messages echoed", echoed(&kept)),
        outcome: outcome(&kept),
        control: DOCTORED.to_owned(),
    }
}

fn truncated(times: f64) -> Tried {
    let rounds = scaled(40, times);
    let folder = tempfile::tempdir().unwrap();
    let site = Site::new(folder.path(), "saved", "");
    let mut cuts = Cuts::default();
    for _ in 0..rounds {
        site.wait_progress();
        let logger = site.logger();
        send(logger, SIGSTOP);
        wait_for("it is stopped", || (state(logger) == Some('T')).then_some(()));
        let there = std::fs::read(&site.file).unwrap();
        let to = [0, random(there.len())][random(2)];
        File::options().write(true).open(&site.file).unwrap().set_len(to as u64).unwrap();
        kill(logger, SIGCONT);
        cuts.account(&there);
        cuts.cut(&there, to);
    }
    let torn = site.beside("messages.log.torn-").len();
    let (mut gaps, mut halves) = (0, 0);
    let kept = [site.end(&[], |live| {
        cuts.account(&live);
        (gaps, halves) = (cuts.gaps, cuts.halves);
        cuts.all
    })];
    Tried {
        count: format!("{rounds} times, {halves} of them in the middle of a line; {} messages echoed", echoed(&kept)),
        outcome: format!("{}; {torn} half lines moved away, {gaps} gaps", outcome(&kept)),
        control: DOCTORED.to_owned(),
    }
}

/// What was in a file that somebody truncates again and again.
#[derive(Default)]
struct Cuts {
    /// All that was in it, each line once.
    all: Vec<u8>,
    /// Up to here it is in `all` already.
    counted: usize,
    /// The half line that the last cut left there.
    half: Vec<u8>,
    /// How many bytes it cut off.
    off: usize,
    halves: usize,
    gaps: usize,
}

impl Cuts {
    /// Adds what came since the last cut.
    fn account(&mut self, there: &[u8]) {
        let mut new = &there[self.counted..];
        // Where a batch was under way, it is where it was to be: behind a gap.
        let gap = [&self.half[..], &vec![0; self.off]].concat();
        if let Some(behind) = new.strip_prefix(&gap[..]).filter(|_| self.off > 0) {
            self.gaps += 1;
            new = behind;
        }
        self.all.extend_from_slice(new);
    }

    /// It was truncated to that length.
    fn cut(&mut self, there: &[u8], to: usize) {
        self.counted = memchr::memrchr(b'\n', &there[..to]).map_or(0, |at| at + 1);
        self.half = there[self.counted..to].to_vec();
        self.halves += usize::from(!self.half.is_empty());
        self.off = there.len() - to;
    }
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
            // What can't be reopened goes on.
            site.reopen();
            site.wait_told("cannot reopen");
            site.wait_progress();
            site.kill_logger();
            site.daemon.wait_log("No such file or directory");
            let taken = site.taken();
            site.daemon.wait_log("logger: exited with status 1");
            site.assert_waiting(taken);
            std::fs::rename(&gone, &here).unwrap();
            site.wait_passed();
            site.end(&[], |live| live)
        })
        .collect();
    Tried {
        count: format!("{rounds} times, {} messages echoed", echoed(&kept)),
        outcome: outcome(&kept),
        control: DOCTORED.to_owned(),
    }
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
            site.daemon.wait_log("logger: exited with status 1");
            let taken = site.taken();
            site.assert_waiting(taken);
            for path in [&site.file, &here] {
                chown(path, Some(NOBODY), None).unwrap();
            }
            site.wait_passed();
            site.end(&[], |live| live)
        })
        .collect();
    Tried {
        count: format!("{rounds} times, {} messages echoed", echoed(&kept)),
        outcome: outcome(&kept),
        control: DOCTORED.to_owned(),
    }
}

fn read_all(mut file: File) -> Vec<u8> {
    let mut all = Vec::new();
    file.read_to_end(&mut all).unwrap();
    all
}
