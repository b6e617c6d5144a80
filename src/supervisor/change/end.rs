//! The first start, and the end.

use super::Own;
use super::drain::Bounds;
use super::steps::{Next, Stop};
use crate::control::event::{About, What};
use crate::supervisor::event_loop::Supervisor;
use crate::supervisor::family::child::Event;
use crate::supervisor::family::outcome;
use crate::supervisor::poll::Id;
use crate::sys::notify;
use crate::sys::{aside, process};
use std::time::{Duration, Instant};

/// What children left behind has this long to die when it is killed at the end.
const LAST_STRAYS: Duration = Duration::from_secs(1);
/// The names of Unix sockets have this long, all together, to be removed at the end, if their
/// folders are on file systems that may not answer.
const NAMES: Duration = Duration::from_secs(1);
/// Children that were killed because the time for the end is up have this long to die.
const LAST_KILL: Duration = Duration::from_secs(1);

impl Supervisor {
    /// The first start is over once each child is up, or is known not to be.
    pub(super) fn started(&mut self) {
        if self.startup.has_started {
            return;
        }
        let Some(mut bad) = outcome::outcome_of(&self.children, self.children.names()) else { return };
        bad.sort();
        self.startup.has_started = true;
        if bad.is_empty() {
            log::info!("ready");
            // Whoever started this process as a daemon knows its caller only.
            let main =
                if self.startup.must_start { format!("MAINPID={}\n", std::process::id()) } else { String::new() };
            self.manager.tell(&format!("{main}READY=1\nSTATUS=all children are ready"));
            self.startup.ready.ready();
            return;
        }
        let why = bad.join("; ");
        log::error!("not all children are up: {why}");
        if self.startup.must_start {
            // Whoever waits for it is told when nothing of it is left.
            self.startup.failed_start = Some(why);
            self.begin_end();
        } else {
            // What can serve does, and status says what can't: better than
            // that one child takes all others down.
            self.manager.tell(&format!("READY=1\nSTATUS={why}"));
        }
    }

    /// SIGTERM or SIGINT: the first drains, the second does not.
    pub(crate) fn asked_to_end(&mut self) {
        if self.changes.is_ending() { self.end_at_once() } else { self.begin_end() }
    }

    /// Drains and ends.
    pub(crate) fn begin_end(&mut self) {
        for reload in std::mem::take(&mut self.changes.reloads) {
            self.operators.refuse(reload.waiter, &reload.cut_short());
        }
        self.give_up_looks();
        // A reload may have ended inputs that now have sources again.
        self.resume_inputs();
        log::info!("stopping");
        self.manager.tell("STOPPING=1");
        self.events.happened(What::Stopping, About::default());
        if self.startup.failed_start.is_none() {
            self.startup.ready.failed("it was told to stop before all children were ready");
        }
        let all = self.children.names().cloned().collect();
        self.changes.end = Some(Stop::new(all, self.kept.links.ending(None), self.bounds_from_now()));
        self.operators.refuse_starts();
    }

    /// How long a drain that begins now may take.
    pub(super) fn bounds_from_now(&self) -> Bounds {
        Bounds::new(Instant::now(), self.model().daemon.stop_timeout, self.children.longest_stop())
    }

    pub(super) fn step_end(&mut self) {
        let Some(stop) = &mut self.changes.end else { return };
        let now = Instant::now();
        let Next { to_do, look_after, then: done } =
            stop.step(&Own { children: &self.children, links: &self.kept.links }, now);
        let until = stop.until();
        self.carry_out(to_do, look_after);
        // An operator who says twice that it shall end, or says it to one that is out of time,
        // does not wait for what the kernel can't end.
        if done || now >= until + LAST_KILL {
            self.end_now();
        } else if now >= until {
            self.agenda.look_after(LAST_KILL);
        }
    }

    /// Kills every child and ends, whatever waits in the links.
    pub(crate) fn end_at_once(&mut self) {
        log::warn!("ending at once");
        if !self.changes.is_ending() {
            self.begin_end();
        }
        if let Some(stop) = &mut self.changes.end {
            stop.cut_short(Instant::now());
        }
        let ids: Vec<Id> = self.children.iter().map(|(id, _)| id).collect();
        for id in ids {
            self.step(id, Event::Kill);
        }
    }

    /// All children are down, or can't be killed: nothing else that plumbd started
    /// stays, and what nobody took is reported.
    fn end_now(&mut self) {
        let unkillable = outcome::unkillable(&self.children, self.children.names());
        let deadline = Instant::now() + if unkillable.is_none() { LAST_STRAYS } else { Duration::ZERO };
        // Orphans become children of this process as their parents die.
        while self.strays.kill_all() {
            if Instant::now() >= deadline {
                log::error!("cannot kill everything that children have left behind");
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
            while let Ok(Some(pid)) = process::next_dead() {
                if process::reap(pid).is_ok() {
                    self.strays.reaped(pid);
                }
            }
        }
        let mut lost: Vec<String> = self
            .kept
            .links
            .iter()
            .map(|held| (held, self.kept.links.queued(held)))
            .filter(|&(_, queued)| queued > 0)
            .map(|(held, queued)| (held.title(), queued))
            .map(|(link, queued)| format!("{queued} bytes in the link {link}"))
            .collect();
        for (from, to, bytes) in self.kept.store.waiting() {
            let what = format!("in the link {from} -> {to}, which is not in the configuration");
            if notify::is_heard() {
                log::warn!("{bytes} bytes stay with the service manager {what}");
            } else {
                lost.push(format!("{bytes} bytes {what}"));
            }
        }
        let lost = (!lost.is_empty()).then(|| format!("nobody took {}", lost.join(", ")));
        let bad: Vec<String> = lost.into_iter().chain(unkillable).collect();
        let bad = (!bad.is_empty()).then(|| format!("stopped, but {}", bad.join("; ")));
        let end = match (self.startup.failed_start.take(), bad) {
            (None, None) => {
                log::info!("stopped");
                Ok(())
            }
            (Some(failed), Some(bad)) => Err(format!("{failed}; {bad}")),
            (Some(why), None) | (None, Some(why)) => Err(why),
        };
        // If the service manager starts the next one, clients have waited for
        // it, and what nobody took is there again. Else it forgets them itself.
        self.kept.keep_at_the_end(&mut self.manager);
        // Whoever is told that it is over may start the next one at once.
        let removing: Vec<_> = self.kept.sockets.close().into_iter().chain(self.operators.server.close()).collect();
        aside::wait(removing, NAMES);
        self.operators.end_readers(&self.events);
        self.operators.answer_shutdown(&end);
        self.agenda.end = Some(end);
    }
}
