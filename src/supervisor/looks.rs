//! Looks at the system, each by a process aside, and what each is for.
//!
//! The loop goes on meanwhile: children are reaped and started, operators are
//! answered. Looks that are under way at the end are given up.

use crate::config::model::Address;
use crate::config::{Loaded, looked};
use crate::supervisor::change::reload::Begun;
use crate::supervisor::event_loop::Supervisor;
use crate::supervisor::family::held_back::Lacking;
use crate::supervisor::kept::holder;
use crate::supervisor::kept::names::{Making, Wanted};
use crate::supervisor::kept::unix_name::{self, Inode};
use crate::supervisor::poll::{Id, Token, Watched};
use crate::sys::aside::Keeps;
use crate::sys::cause::cause;
use crate::sys::look::{Answers, EACH, Look};
use nix::sys::epoll::EpollFlags;
use nix::unistd::{Pid, getpid};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

/// A look that was killed has this long to die before it is reported.
const TO_DIE: Duration = Duration::from_secs(1);

/// What a look is for.
pub(crate) enum Purpose {
    /// A reload for that connection; `None`: a signal asked for it.
    Reload(Option<u32>),
    /// To tell that connection what a reload would do.
    Plan(u32),
    /// Names of sockets, for a reload whose configuration was read.
    Names(Making, Box<Begun>),
    /// What a child lacks.
    Lacking(Box<Lacking>),
    /// Names of sockets that may be gone, for the next status.
    Lost,
}

/// The looks that are under way.
#[derive(Default)]
pub(crate) struct Looks {
    next: u32,
    under_way: BTreeMap<u32, UnderWay>,
    /// A reload that waits to make names until a look for what a child lacks has made them.
    reload: Option<Box<Begun>>,
    /// Names that may be gone are not looked at again before this.
    lost_at: Option<Instant>,
    /// Looks that were killed, until they are reaped or reported, and what each was doing.
    killed: BTreeMap<Pid, (Instant, String)>,
}

struct UnderWay {
    look: Watched<Look>,
    purpose: Purpose,
    /// When to check whether it hangs.
    ask_at: Instant,
}

impl Looks {
    /// When to check next whether a look takes too long.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let under_way = self.under_way.values().map(|under_way| under_way.ask_at);
        under_way.chain(self.killed.values().map(|(at, _)| *at)).min()
    }

    /// Notes that a process was reaped.
    pub(crate) fn reaped(&mut self, pid: Pid) {
        self.killed.remove(&pid);
        let looks = self.under_way.values_mut().map(|under_way| &mut under_way.look);
        looks.filter(|look| look.pid() == pid).for_each(|look| look.set_reaped());
    }

    fn purposes(&self) -> impl Iterator<Item = &Purpose> {
        self.under_way.values().map(|under_way| &under_way.purpose)
    }

    fn are_for_reload(&self) -> bool {
        self.make_names() || self.purposes().any(|purpose| matches!(purpose, Purpose::Reload(_)))
    }

    /// Whether a reload has names made, or is about to.
    fn make_names(&self) -> bool {
        self.reload.is_some() || self.purposes().any(|purpose| matches!(purpose, Purpose::Names(..)))
    }

    /// Whether one looks for what that child lacks.
    pub(crate) fn look_for(&self, id: Id) -> bool {
        self.purposes().any(|purpose| matches!(purpose, Purpose::Lacking(lacking) if lacking.id() == id))
    }

    /// Whether one of these names is being made at the moment for a child that lacks it.
    fn make_one_of(&self, wanted: &Wanted) -> bool {
        self.purposes()
            .any(|purpose| matches!(purpose, Purpose::Lacking(lacking) if lacking.making().makes_one_of(wanted)))
    }
}

impl Supervisor {
    /// Whether a reload is under way, including looks for one.
    pub(crate) fn is_reloading(&self) -> bool {
        !self.changes.reloads.is_empty() || self.looks.are_for_reload()
    }

    /// Whether a reload is taking addresses, so that nothing else may take them: it has their
    /// names made, or holds them for children that it will start.
    pub(crate) fn is_taking_addresses(&self) -> bool {
        self.changes.reloads.iter().any(|reload| reload.change.is_before_effect()) || self.looks.make_names()
    }

    /// Begins to look at the names of sockets that this process can't look at itself. The
    /// next status shows the result.
    pub(crate) fn look_for_lost_names(&mut self) {
        let (now, names) = (Instant::now(), self.kept.sockets.far_names());
        let is_early = self.looks.lost_at.is_some_and(|at| now < at);
        // If a file system does not answer, one look that hangs there is enough.
        if names.is_empty() || is_early || !self.looks.killed.is_empty() || self.changes.is_ending() {
            return;
        }
        self.looks.lost_at = Some(now + EACH);
        let begun = Look::begin(Keeps::Only(&[]), |scribe| {
            for (path, inode) in &names {
                let is_lost = || unix_name::is_still(path, *inode).ok().map(|still| !still);
                scribe.ask(&lost(path, *inode), &format!("looking at {}", path.display()), is_lost);
            }
        });
        match begun {
            Ok(look) => self.follow(look, Purpose::Lost),
            Err(error) => log::debug!("cannot start a process that looks for names of sockets: {}", cause(&error)),
        }
    }

    /// Begins to look at the configuration, in that file or in the one that it came from.
    pub(crate) fn look_at_configuration(&mut self, file: Option<&Path>, purpose: Purpose) {
        let file = file.or(self.model().file.as_deref()).map(Path::to_owned);
        let (daemon, sockets) = (getpid(), &self.kept.sockets);
        let begun = Look::begin(Keeps::Only(&[]), |scribe| {
            let Some(loaded) = looked::look(file.as_deref(), true, scribe) else { return };
            let listens = loaded.model.children.iter().flat_map(|child| &child.listen);
            for address in listens.filter(|address| !sockets.has(address)).collect::<BTreeSet<_>>() {
                let what = format!("looking who listens on {address}");
                scribe.ask(&obstacle(address), &what, || holder::obstacle(address, Some(daemon)));
            }
        });
        match begun {
            Ok(look) => self.follow(look, purpose),
            Err(error) => {
                self.looked(purpose, Err(format!("cannot start a process that looks at the system: {}", cause(&error))))
            }
        }
    }

    /// Begins to make the names that a reload needs. If one of them is being made for a child
    /// that lacks it, it would be found in use, so the reload waits for that look, which takes
    /// a bounded time.
    pub(crate) fn make_names(&mut self, wanted: Wanted, reload: Begun) {
        if self.looks.make_one_of(&wanted) {
            self.looks.reload = Some(Box::new(reload));
            return;
        }
        match wanted.begin() {
            Ok((making, look)) => self.follow(look, Purpose::Names(making, Box::new(reload))),
            Err(why) => self.not_begun(&why, &reload),
        }
    }

    pub(crate) fn follow(&mut self, look: Look, purpose: Purpose) {
        let now = Instant::now();
        let ask_at = look.hangs(now).unwrap_or(now);
        self.looks.next = self.looks.next.wrapping_add(1);
        let id = self.looks.next;
        match self.system.poll.watch(look, EpollFlags::EPOLLIN, Token::Look(id)) {
            Ok(look) => {
                self.looks.under_way.insert(id, UnderWay { look, purpose, ask_at });
            }
            Err(error) => self.looked(purpose, Err(format!("cannot watch a process that looks: {}", cause(&error)))),
        }
    }

    /// Takes the answers of a look whose process has ended.
    pub(crate) fn on_look(&mut self, id: u32) {
        let Some(UnderWay { look, purpose, .. }) = self.looks.under_way.remove(&id) else { return };
        let answers = look.answers();
        drop(look);
        self.looked(purpose, answers);
    }

    /// Gives up looks that hang.
    pub(crate) fn hung_looks(&mut self, now: Instant) {
        self.name_left(now);
        let due: Vec<u32> =
            self.looks.under_way.iter().filter(|(_, under_way)| under_way.ask_at <= now).map(|(&id, _)| id).collect();
        for id in due {
            let Some(under_way) = self.looks.under_way.get_mut(&id) else { continue };
            match under_way.look.hangs(now) {
                Ok(at) => under_way.ask_at = at,
                Err(why) => {
                    let Some(UnderWay { look, purpose, .. }) = self.looks.under_way.remove(&id) else { continue };
                    self.give_up(&look, &why);
                    drop(look);
                    self.looked(purpose, Err(why));
                }
            }
        }
    }

    /// Notes a look that is given up. It is killed when it is dropped; if that does not end it,
    /// it is reported.
    fn give_up(&mut self, look: &Look, why: &str) {
        if !look.is_reaped() {
            self.looks.killed.insert(look.pid(), (Instant::now() + TO_DIE, why.to_owned()));
        }
    }

    fn name_left(&mut self, now: Instant) {
        self.looks.killed.retain(|pid, (at, why)| {
            let is_due = *at <= now;
            if is_due {
                log::warn!("process {pid} does not die of SIGKILL ({why}): it stays until the kernel lets it go");
            }
            !is_due
        });
    }

    /// Gives up all looks at the end, when nobody needs them any more.
    pub(crate) fn give_up_looks(&mut self) {
        for UnderWay { look, purpose, .. } in std::mem::take(&mut self.looks.under_way).into_values() {
            self.give_up(&look, "it looked at the system for a reload");
            drop(look);
            match purpose {
                Purpose::Reload(waiter) => self.operators.refuse(waiter, "cannot reload: the daemon is stopping"),
                Purpose::Plan(connection) => {
                    self.operators.refuse(Some(connection), "cannot plan: the daemon is stopping")
                }
                Purpose::Lacking(lacking) => self.not_looked_for(&lacking),
                Purpose::Lost => {}
                Purpose::Names(_, reload) => self.looks.reload = Some(reload),
            }
        }
        if let Some(reload) = self.looks.reload.take() {
            // If this is a change back, it was refused already.
            self.operators.refuse(reload.waiter, "cannot reload: the daemon is stopping");
        }
    }

    fn looked(&mut self, purpose: Purpose, answers: Result<Answers, String>) {
        match purpose {
            Purpose::Reload(waiter) => self.looked_for_reload(waiter, answers),
            Purpose::Plan(connection) => self.looked_for_plan(connection, answers),
            Purpose::Lacking(lacking) => {
                self.looked_for_lacking(*lacking, answers);
                if let Some(reload) = self.looks.reload.take() {
                    self.begin_reload(*reload);
                }
            }
            Purpose::Lost => match answers {
                Ok(answers) => self.kept.sockets.set_lost(|path, inode| answers.get(&lost(path, inode)).flatten()),
                Err(why) => log::debug!("cannot see whether names of sockets are gone: {why}"),
            },
            Purpose::Names(making, reload) => match answers {
                Ok(answers) => self.names_made(*reload, making.made(&answers)),
                Err(why) => self.not_begun(&why, &reload),
            },
        }
    }
}

/// Why the daemon can't listen on addresses of that configuration, as far as a process aside
/// has seen it. Each begins with the place in the file.
pub(crate) fn obstacles(loaded: &Loaded, answers: &Answers) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let children = loaded.model.children.iter();
    let listens = children.flat_map(|child| child.listen.iter().map(move |address| (child, address)));
    let new = listens.filter(|(_, address)| seen.insert(*address));
    new.filter_map(|(child, address)| {
        let why: String = answers.get::<Option<String>>(&obstacle(address))??;
        Some(format!("{}: {why}", loaded.place(child.lines.of("listen").unwrap_or(child.line))))
    })
    .collect()
}

fn obstacle(address: &Address) -> String {
    format!("obstacle at {address}")
}

fn lost(path: &Path, inode: Inode) -> String {
    format!("lost {inode} {}", path.display())
}
