//! Processes that leave their child in every possible way, under kills of the child
//! and of the supervisor, while all cores are busy.
//!
//! Each stray writes its pid to a file that is named after the process that
//! started it, so this trial knows about each without asking plumbd. If a stray of an
//! earlier process of a child is alive when the child is up again, it has outlived it.

use super::kills::{below, stat};
use crate::daemon::{Daemon, alive, kill, strays, wait_for};
use crate::trial::Tried;
use nix::libc::SIGKILL;
use plumbd::control::status::ChildState;
use std::fmt::Write;
use std::process::{Child, Command};
use std::time::Duration;

/// How many kills of one child there are with `--times 1`.
pub(super) const KILLS: u32 = 2_000;
/// One of this many kills is a kill of the supervisor.
const SUPERVISOR: u32 = 20;

/// Ways in which a stray leaves its child. `$0` is its file.
const SORTS: &[(&str, &str)] = &[
    ("session", "setsid sh -c 'echo $$ >> $0; exec sleep 1000' $0.$$ &"),
    ("forked-twice", "(setsid setsid sh -c 'echo $$ >> $0; exec sleep 1000' $0.$$ &)"),
    ("hangup", "nohup setsid sh -c 'echo $$ >> $0; exec sleep 1000' $0.$$ &"),
    ("deaf", "setsid sh -c 'trap : TERM HUP INT; echo $$ >> $0; while :; do sleep 1000; done' $0.$$ &"),
    ("below", "setsid sh -c 'setsid env -i /bin/sh -c \"echo \\$\\$ >> $0; exec /bin/sleep 1000\" $0 & wait' $0.$$ &"),
    ("busy", "setsid sh -c 'echo $$ >> $0; while :; do setsid sleep 0.05 & sleep 0.02; done' $0.$$ &"),
    ("stopped", "setsid sh -c 'echo $$ >> $0; kill -STOP $$; sleep 1000' $0.$$ &"),
    ("server", "(sh -c 'echo $$ >> $0; exec sleep 1000' $0.$$; true) &"),
    ("unmarked", "setsid env -i /bin/sh -c 'echo $$ >> $0; exec /bin/sleep 1000' $0.$$ &"),
    ("unmarked-orphan", "(setsid env -i /bin/sh -c 'echo $$ >> $0; exec /bin/sleep 1000' $0.$$ &)"),
];
/// Once the supervisor is dead, nothing shows where these are from.
const UNMARKED: [&str; 2] = ["unmarked", "unmarked-orphan"];

fn config() -> String {
    let mut text = String::new();
    for (sort, start) in SORTS {
        let _never_fails = write!(
            text,
            "[children.{sort}]\ncommand = [\"/bin/sh\", \"-c\", '''\n{start}\nexec sleep 1000''', \"left.{sort}\"]\n\
             backoff = {{ first = \"0ms\", factor = 1.0, max = \"1ms\", reset_after = \"0s\" }}\n\
             start_limit = {{ burst = 1000000, within = \"1s\" }}\nstop_timeout = \"500ms\"\n"
        );
    }
    text
}

/// The trial: what was done and found.
#[derive(Debug, Default)]
struct Count {
    children: u32,
    supervisors: u32,
    ended: usize,
    outlived: usize,
}

struct Trial {
    daemon: Daemon,
    count: Count,
    /// The earlier processes of children, by sort.
    before: Vec<(&'static str, i32)>,
}

impl Trial {
    /// The stray of that process, if it has left one.
    fn left(&self, (sort, pid): (&str, i32)) -> Option<i32> {
        // Pids are reused, so the file may begin with the stray of an earlier process.
        self.daemon.read_text(&format!("left.{sort}.{pid}")).strip_suffix('\n')?.lines().last()?.parse().ok()
    }

    fn wait_up(&self, sort: &str, not: Option<i32>) -> i32 {
        wait_for(&format!("{sort} is up"), || {
            let child = self.daemon.try_status()?.children.into_iter().find(|child| child.name == sort)?;
            child.pid.filter(|pid| Some(*pid) != not && child.state == ChildState::Up)
        })
    }

    /// Waits until each has left something. Returns the processes.
    fn wait_left(&self) -> Vec<(&'static str, i32)> {
        let up: Vec<(&str, i32)> = SORTS.iter().map(|(sort, _)| (*sort, self.wait_up(sort, None))).collect();
        up.iter().for_each(|of| {
            wait_for("a stray", || self.left(*of));
        });
        up
    }

    /// Counts the stray of that process, which has a successor now.
    fn look(&mut self, of: (&'static str, i32)) {
        match self.left(of) {
            Some(stray) if self.is_there(stray) => self.count.outlived += 1,
            Some(_) => self.count.ended += 1,
            None => {}
        }
        self.before.push(of);
    }

    fn is_there(&self, stray: i32) -> bool {
        alive(stray) && strays(self.daemon.dir.path()).contains(&stray)
    }

    fn kill_child(&mut self, sort: &'static str) {
        let of = (sort, self.wait_up(sort, None));
        if below(3) > 0 {
            wait_for("a stray", || self.left(of));
        } else {
            // It may just be leaving something behind.
            std::thread::sleep(Duration::from_micros(below(5000)));
        }
        kill(of.1, SIGKILL);
        self.wait_up(sort, Some(of.1));
        self.look(of);
        self.count.children += 1;
    }

    fn kill_supervisor(&mut self) {
        let all = self.wait_left();
        self.daemon.signal(SIGKILL);
        self.daemon.wait_killed();
        // plumbd documents that it can't find these, so the trial itself ends them.
        self.end_unmarked(&all);
        self.daemon.start_again();
        all.into_iter().for_each(|of| self.look(of));
        self.count.supervisors += 1;
    }

    fn end_unmarked(&self, all: &[(&'static str, i32)]) {
        let unmarked = all.iter().filter(|(sort, _)| UNMARKED.contains(sort)).filter_map(|of| self.left(*of));
        unmarked.filter(|stray| self.is_there(*stray)).for_each(|stray| {
            kill(stray, SIGKILL);
            wait_for("it is gone", || (!alive(stray)).then_some(()));
        });
    }

    /// Finds those that wrote their files late.
    fn look_again(&mut self) {
        let now = self.wait_left();
        let before = self.before.iter().filter(|of| !now.contains(of));
        let late = before.filter(|of| self.left(**of).is_some_and(|stray| self.is_writer(**of, stray)));
        self.count.outlived += late.count();
    }

    /// Whether that process wrote that file, and is not another one with the same pid: it must be
    /// at least as old as the file.
    fn is_writer(&self, (sort, pid): (&str, i32), stray: i32) -> bool {
        let Some(started) = stat(stray).map(|stat| stat.started) else { return false };
        let written = self.daemon.path(&format!("left.{sort}.{pid}")).metadata().unwrap().modified().unwrap();
        let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
        let uptime: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
        // These are clock ticks, of which /proc has 100 per second.
        let age = uptime - Duration::from_millis(started * 10).as_secs_f64();
        self.is_there(stray) && age + 0.05 > written.elapsed().unwrap_or_default().as_secs_f64()
    }
}

/// Keeps all cores busy.
struct Busy(Vec<Child>);

impl Busy {
    fn start() -> Busy {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let one = || Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        Busy((0..cores).map(|_| one()).collect())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ended = child.kill();
            let _reaped = child.wait();
        }
    }
}

pub(super) fn attempt(kills: u32) -> Tried {
    let _busy = Busy::start();
    let mut trial = Trial { daemon: Daemon::start(&config()), count: Count::default(), before: Vec::new() };
    for nth in 1..=kills {
        if nth % SUPERVISOR == 0 {
            trial.kill_supervisor();
        } else {
            let (sort, _) = SORTS[usize::try_from(below(SORTS.len() as u64)).unwrap()];
            trial.kill_child(sort);
        }
        assert_eq!(trial.count.outlived, 0, "{:?}, log:\n{}", trial.count, trial.daemon.log());
    }
    trial.look_again();
    assert_eq!(trial.count.outlived, 0, "{:?}, log:\n{}", trial.count, trial.daemon.log());
    let control = control(&mut trial);
    trial.daemon.stop();
    let Count { children, supervisors, ended, outlived } = trial.count;
    Tried {
        count: format!("{children} kills of a child, {supervisors} of the supervisor, {} sorts of strays", SORTS.len()),
        outcome: format!("{ended} strays ended with their child, {outlived} outlived it"),
        control,
    }
}

/// The control: the supervisor is killed, and this trial does not end the strays without a mark.
fn control(trial: &mut Trial) -> String {
    let before = std::mem::take(&mut trial.count);
    let all = trial.wait_left();
    trial.daemon.signal(SIGKILL);
    trial.daemon.wait_killed();
    trial.daemon.start_again();
    all.iter().for_each(|of| trial.look(*of));
    let found = std::mem::replace(&mut trial.count, before).outlived;
    trial.end_unmarked(&all);
    assert_eq!(found, UNMARKED.len());
    format!("strays whose marks were all cleaned, of a supervisor that was killed: {found} of {found} found")
}
