//! Hooks: programs that are run when something happens (`on` of a child, and of the daemon).
//!
//! They read the events as `plumbd events` does, and nothing waits for them. Each child, and
//! the daemon, has a row of its own: one program runs, the next ones wait. What a hook does is
//! no event, so that no hook can keep itself busy.
//!
//! | fault | what happens |
//! |---|---|
//! | it can't be started, or fails | a warning with its last line; the next one runs |
//! | it does not end | SIGKILL to its group after 30 s; what it has started ends with it |
//! | SIGKILL does not end it | its row waits, and drops what is too much |
//! | more happens than it can follow | the oldest event is dropped and counted |
//! | a reload changes or removes it | what waits runs as it was configured when it happened |
//! | the daemon ends | the rows have a second more, then what runs is killed |
//! | the supervisor is killed | the next one finds it by its mark, as a child's strays |

use crate::config::model::{Child, Hooks as Configured};
use crate::control::event::Event;
use crate::control::status;
use crate::supervisor::event_loop::Supervisor;
use crate::supervisor::events::Events;
use crate::supervisor::family::beside::{Process, Purpose};
use crate::supervisor::family::spawn::{As, Beside};
use crate::supervisor::poll::Id;
use crate::sys::cause::cause;
use crate::sys::map;
use crate::sys::text::{clipped, counted};
use nix::unistd::Pid;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// How many events may wait in a row.
const WAIT_MOST: usize = 16;
/// How long a hook may run.
const TIME: Duration = Duration::from_secs(30);
/// How long all of them have once everything else has ended.
const LAST: Duration = Duration::from_secs(1);
/// A longer reason is cut in the environment, which takes 128 KiB at most (MAX_ARG_STRLEN,
/// execve(2)). Standard input has the whole.
const REASON_MOST: usize = 16 * 1024;
/// The row of the daemon's own hooks. No child has this number.
const DAEMON: Id = 0;

/// The hooks of all children, and of the daemon.
#[derive(Debug, Default)]
pub(crate) struct Hooks {
    /// The number of the next event to look at.
    next: u64,
    /// The rows in which something runs or waits.
    rows: BTreeMap<Id, Row>,
    pub(crate) counts: status::Hooks,
    /// When everything else had ended.
    all_ended: Option<Instant>,
}

/// What waits, and what runs.
#[derive(Debug, Default)]
struct Row {
    runs: Option<Run>,
    waits: VecDeque<Due>,
    /// How many were dropped since that was logged.
    dropped: u64,
}

/// A program that is to be run for an event.
#[derive(Debug, Clone)]
struct Due {
    runs_as: Who,
    command: Vec<String>,
    event: Event,
}

/// Whom it runs as, as that was configured when the event happened.
#[derive(Debug, Clone)]
enum Who {
    Child(Rc<Child>),
    /// As the daemon, with this environment.
    Daemon(Vec<(String, String)>),
}

#[derive(Debug)]
struct Run {
    process: Process,
    /// What the log calls whom it belongs to.
    name: String,
    title: String,
    until: Instant,
    /// Why it was killed.
    killed: Option<String>,
}

impl Row {
    /// Has one more wait. If too many do, the oldest is dropped.
    fn add(&mut self, due: Due) -> bool {
        let is_full = self.waits.len() == WAIT_MOST;
        if is_full {
            self.waits.pop_front();
            self.dropped += 1;
        }
        self.waits.push_back(due);
        is_full
    }
}

impl Who {
    /// What the log calls it.
    fn name(&self) -> &str {
        match self {
            Who::Child(child) => &child.name,
            Who::Daemon(_) => "plumbd",
        }
    }
}

impl Due {
    /// Such as `the hook on failed (/usr/bin/notify)`.
    fn title(&self) -> String {
        let program = self.command.first().map_or("", String::as_str);
        format!("the hook on {} ({program})", self.event.event.word())
    }

    /// Its variables. Those that do not apply are empty, so that a script may use `set -u`.
    fn variables(&self) -> [(&'static str, String); 6] {
        let about = &self.event.about;
        // An environment has no NUL.
        let reason = about.reason.as_deref().unwrap_or_default().replace('\0', "\u{fffd}");
        [
            ("PLUMBD_EVENT", self.event.event.word()),
            ("PLUMBD_CHILD", about.child.clone().unwrap_or_default()),
            ("PLUMBD_REASON", clipped(&reason, REASON_MOST)),
            ("PLUMBD_EXIT_CODE", about.exit.map(|code| code.to_string()).unwrap_or_default()),
            ("PLUMBD_SIGNAL", about.signal.clone().unwrap_or_default()),
            ("PLUMBD_SEQ", self.event.seq.to_string()),
        ]
    }
}

impl Hooks {
    /// Whether events may soon be gone that hooks have not seen.
    pub(crate) fn are_behind(&self, events: &Events) -> bool {
        events.are_many_since(self.next)
    }

    /// When a hook has run for too long.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let runs = self.rows.values().filter_map(|row| row.runs.as_ref());
        runs.filter(|run| run.killed.is_none()).map(|run| run.until).min()
    }

    /// Kills hooks that have run for too long.
    pub(crate) fn on_time(&mut self, now: Instant) {
        for run in self.rows.values_mut().filter_map(|row| row.runs.as_mut()) {
            if run.killed.is_none() && run.until <= now {
                run.kill(format!("it took longer than {} s", TIME.as_secs()));
            }
        }
    }

    /// The daemon ends: what runs is killed next, and what waits never runs.
    pub(crate) fn cut_short(&self) {
        let (runs, waits) = self
            .rows
            .values()
            .fold((0, 0), |(runs, waits), row| (runs + usize::from(row.runs.is_some()), waits + row.waits.len()));
        if runs > 0 || waits > 0 {
            log::warn!("the daemon ends: {} did not end, and {waits} never began", counted(runs, "hook", "hooks"));
        }
    }

    /// Whether the end of the daemon, for which everything else is done, may wait for hooks.
    pub(crate) fn have_time(&mut self, now: Instant) -> Option<Duration> {
        let until = *self.all_ended.get_or_insert(now) + LAST;
        let busy = self.rows.values().any(|row| row.runs.is_some());
        (busy && now < until).then(|| until - now)
    }
}

impl Run {
    fn kill(&mut self, why: String) {
        let pid = self.process.pid;
        if let Err(error) = self.process.kill() {
            log::error!("cannot kill process {pid}, {}: {}", self.title, cause(&error));
        }
        self.killed = Some(why);
    }
}

impl Supervisor {
    /// Runs what is configured for the events that have happened since the last time. Whatever may
    /// add many events calls this before they push each other out.
    pub(crate) fn run_hooks(&mut self) {
        while let Some((event, next)) = self.events.read(self.hooks.next) {
            self.hooks.next = next;
            for (id, due) in self.due(&event) {
                let dropped = self.hooks.rows.entry(id).or_default().add(due);
                self.hooks.counts.dropped += u64::from(dropped);
                self.run_next(id);
            }
        }
    }

    /// What is configured for that event, and in which row it is to run.
    fn due(&self, event: &Event) -> Vec<(Id, Due)> {
        let word = event.event.word();
        let command = |on: &Configured| on.get(word.as_str()).cloned();
        let due = |runs_as, command| Due { runs_as, command, event: event.clone() };
        let named = event.about.child.as_deref();
        let id = named.and_then(|name| self.children.id_of(name));
        let of_child = id.and_then(|id| {
            // Of one that is held back, not even its user may be known.
            let config = &self.children.get(id).filter(|child| child.config.lacks.is_empty())?.config;
            Some((id, due(Who::Child(Rc::clone(config)), command(&config.on)?)))
        });
        let daemon = &self.model().daemon;
        let of_daemon =
            command(&daemon.on).map(|command| (DAEMON, due(Who::Daemon(daemon.environment.clone()), command)));
        of_child.into_iter().chain(of_daemon).collect()
    }

    /// Runs the next hook of that row, if none runs and one waits.
    fn run_next(&mut self, id: Id) {
        while let Some(row) = self.hooks.rows.get_mut(&id).filter(|row| row.runs.is_none()) {
            let Some(due) = row.waits.pop_front() else {
                self.hooks.rows.remove(&id);
                return;
            };
            let (name, title) = (due.runs_as.name().to_owned(), due.title());
            if let dropped @ 1.. = std::mem::take(&mut row.dropped) {
                let events = counted(dropped, "event", "events");
                log::warn!(target: &name, "{events} dropped: a hook ran, and {WAIT_MOST} others waited");
            }
            self.hooks.counts.started += 1;
            match self.begin_hook(id, &due) {
                Ok(process) => {
                    let run = Run { process, name, title, until: Instant::now() + TIME, killed: None };
                    if let Some(row) = self.hooks.rows.get_mut(&id) {
                        row.runs = Some(run);
                    }
                }
                Err(error) => {
                    self.hooks.counts.failed += 1;
                    log::warn!(target: &name, "cannot start {title}: {}", cause(&error));
                }
            }
        }
    }

    fn begin_hook(&mut self, id: Id, due: &Due) -> io::Result<Process> {
        let mut json = serde_json::to_vec(&due.event)?;
        json.push(b'\n');
        let input = map::sealed_file(c"plumbd-event", &json)?;
        let variables = due.variables();
        let runs_as = match &due.runs_as {
            Who::Child(child) => As::Child(child),
            Who::Daemon(environment) => As::Daemon(environment),
        };
        let program = Beside { runs_as, command: &due.command, event: Some((&variables, &input)) };
        self.begin_beside(Purpose::Hook(id), due.runs_as.name(), program)
    }

    /// A hook has written something.
    pub(crate) fn on_hook(&mut self, id: Id) {
        let Some(run) = self.hooks.rows.get_mut(&id).and_then(|row| row.runs.as_mut()) else { return };
        if let Err(why) = run.process.hear() {
            run.kill(why);
        }
    }

    /// Reaps a hook, which is dead, and runs the next one.
    pub(crate) fn reap_hook(&mut self, pid: Pid, id: Id) {
        let Some(ended) = self.reap_beside(pid) else { return };
        let Some(Run { mut process, name, title, killed, .. }) =
            self.hooks.rows.get_mut(&id).and_then(|row| row.runs.take())
        else {
            return;
        };
        let result = killed.map_or_else(|| process.result(ended), Err);
        match (result, process.last_line()) {
            (Ok(()), Some(line)) => log::info!(target: &name, "{title}: {line}"),
            (Ok(()), None) => log::debug!(target: &name, "{title} ended"),
            (Err(why), _) => {
                self.hooks.counts.failed += 1;
                log::warn!(target: &name, "{title} failed: {why}");
            }
        }
        self.run_next(id);
    }
}
