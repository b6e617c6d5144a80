//! Looks at the system that are under way beside the loop, and what each is for.
//!
//! Nothing changes meanwhile: children are reaped and started, operators are
//! answered. The end gives a look up.

use crate::config::looked;
use crate::supervisor::change::reload::Begun;
use crate::supervisor::event_loop::Supervisor;
use crate::supervisor::family::held_back::Lacking;
use crate::supervisor::kept::names::{Making, Wanted};
use crate::supervisor::kept::unix_name::{self, Inode};
use crate::supervisor::poll::{Id, Token, Watched};
use crate::sys::aside::Keeps;
use crate::sys::cause::cause;
use crate::sys::look::{Answers, EACH, Look};
use nix::sys::epoll::EpollFlags;
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

/// One that was killed has this long to die before it is named.
const TO_DIE: Duration = Duration::from_secs(1);

/// What a look is for.
pub(crate) enum Purpose {
    /// A reload, and whose; `None`: a signal's.
    Reload(Option<u32>),
    /// What a reload would do, for that connection.
    Plan(u32),
    /// Names of sockets, for a reload whose configuration was read.
    Names(Making, Box<Begun>),
    /// What a child lacks.
    Lacking(Box<Lacking>),
    /// Names of sockets that may be gone, for the next status.
    Lost,
}

/// Those under way.
#[derive(Default)]
pub(crate) struct Looks {
    next: u32,
    under_way: BTreeMap<u32, UnderWay>,
    /// A reload that is to make names, once a look for what a child lacks has made the same.
    reload: Option<Box<Begun>>,
    /// Names that may be gone are not looked at again before.
    lost_at: Option<Instant>,
    /// Those that were killed, until they are reaped or named: what each was doing.
    killed: BTreeMap<Pid, (Instant, String)>,
}

struct UnderWay {
    look: Watched<Look>,
    purpose: Purpose,
    /// See then whether it hangs.
    ask_at: Instant,
}

impl Looks {
    /// When one may take too long.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let under_way = self.under_way.values().map(|under_way| under_way.ask_at);
        under_way.chain(self.killed.values().map(|(at, _)| *at)).min()
    }

    /// That process was reaped.
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

    /// Whether one is for what that child lacks.
    pub(crate) fn look_for(&self, id: Id) -> bool {
        self.purposes().any(|purpose| matches!(purpose, Purpose::Lacking(lacking) if lacking.id() == id))
    }

    /// Whether one of these names is just being made for a child that lacks it.
    fn make_one_of(&self, wanted: &Wanted) -> bool {
        self.purposes()
            .any(|purpose| matches!(purpose, Purpose::Lacking(lacking) if lacking.making().makes_one_of(wanted)))
    }
}

impl Supervisor {
    /// Whether a reload is under way, looks for it included.
    pub(crate) fn is_reloading(&self) -> bool {
        !self.changes.reloads.is_empty() || self.looks.are_for_reload()
    }

    /// Whether a reload takes addresses that nobody else is to take meanwhile: it has their names
    /// made, or holds them for what is to be started.
    pub(crate) fn is_taking_addresses(&self) -> bool {
        self.changes.reloads.iter().any(|reload| reload.change.is_before_effect()) || self.looks.make_names()
    }

    /// Has the names of sockets looked at that this process can't look at itself: what is seen
    /// is in the next status.
    pub(crate) fn look_for_lost_names(&mut self) {
        let (now, names) = (Instant::now(), self.kept.sockets.far_names());
        let is_early = self.looks.lost_at.is_some_and(|at| now < at);
        // Where a file system answers nobody, one that hangs there is enough.
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

    /// Begins to look at the configuration, in that file or where it came from.
    pub(crate) fn look_at_configuration(&mut self, file: Option<&Path>, purpose: Purpose) {
        let file = file.or(self.model().file.as_deref()).map(Path::to_owned);
        let begun = Look::begin(Keeps::Only(&[]), |scribe| looked::look(file.as_deref(), true, scribe));
        match begun {
            Ok(look) => self.follow(look, purpose),
            Err(error) => {
                self.looked(purpose, Err(format!("cannot start a process that looks at the system: {}", cause(&error))))
            }
        }
    }

    /// Begins to make the names that a reload needs. One that is just being made for a child
    /// that lacks it would be met as in use: that look is waited for, which is bounded.
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

    /// The process that looks has ended.
    pub(crate) fn on_look(&mut self, id: u32) {
        let Some(UnderWay { look, purpose, .. }) = self.looks.under_way.remove(&id) else { return };
        let answers = look.answers();
        drop(look);
        self.looked(purpose, answers);
    }

    /// Gives up those that hang.
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

    /// It is killed as it is dropped; if that does not end it, it is named.
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

    /// The end: nobody needs them any more.
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
            // A change back has refused it already.
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

fn lost(path: &Path, inode: Inode) -> String {
    format!("lost {inode} {}", path.display())
}
