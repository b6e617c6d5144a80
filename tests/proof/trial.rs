//! A trial: a fault, how often it is made, and the outcome.

use crate::load::checker::Verdict;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A folder that is kept if its trial breaks.
pub(crate) struct Evidence(pub(crate) tempfile::TempDir);

impl Drop for Evidence {
    fn drop(&mut self) {
        crate::daemon::keep_if_failed(&mut self.0);
    }
}

/// One fault.
pub(crate) struct Trial {
    /// `group/name`, by which it is chosen on the command line.
    pub(crate) name: &'static str,
    /// What is done to plumbd, in words.
    pub(crate) fault: &'static str,
    /// What must hold, in words.
    pub(crate) promise: &'static str,
    /// Why it can't be tried on this machine, if it can't.
    pub(crate) missing: fn() -> Option<String>,
    /// Makes the fault this many times as often as usual. A panic means that the promise is
    /// broken.
    pub(crate) attempt: fn(times: f64) -> Tried,
}

/// What was tried.
#[derive(Debug)]
pub(crate) struct Tried {
    /// How often, and on what: "2,000 kills, 81,344 messages echoed".
    pub(crate) count: String,
    /// The outcome: "0 lost, 0 doubled, 0 out of order, 0 torn, 0 forged".
    pub(crate) outcome: String,
    /// What the control showed, with the protection taken away.
    pub(crate) control: String,
}

/// The outcome of a trial.
pub(crate) struct Outcome {
    /// How long it took.
    pub(crate) took: Duration,
    /// What was tried, or why it was not tried, or what broke.
    pub(crate) what: Result<Tried, Ended>,
}

/// Why there is no outcome.
pub(crate) enum Ended {
    /// It can't be tried on this machine.
    LeftOut(String),
    /// The promise was broken, or the trial itself.
    Broken(String),
}

impl Outcome {
    pub(crate) fn held(&self) -> bool {
        self.what.is_ok()
    }

    pub(crate) fn was_left_out(&self) -> bool {
        matches!(self.what, Err(Ended::LeftOut(_)))
    }
}

impl Trial {
    /// Whether that is its name, or the name of its group.
    pub(crate) fn is(&self, name: &str) -> bool {
        self.name == name || self.name.split('/').next() == Some(name)
    }

    /// Runs it, and prints the outcome.
    pub(crate) fn run(&self, times: f64) -> Outcome {
        println!("\n{}: {}", self.name, self.fault);
        let began = Instant::now();
        let what = match (self.missing)() {
            Some(why) => Err(Ended::LeftOut(why)),
            None => catch_unwind(AssertUnwindSafe(|| (self.attempt)(times))).map_err(|panic| {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                Ended::Broken(text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked").to_owned())
            }),
        };
        let outcome = Outcome { took: began.elapsed(), what };
        match &outcome.what {
            Ok(tried) => {
                println!("  tried    {}", tried.count);
                println!("  outcome  {}", tried.outcome);
                println!("  control  {}", tried.control);
                println!("  held, in {:.1} s", outcome.took.as_secs_f64());
            }
            Err(Ended::LeftOut(why)) => println!("  left out: {why}"),
            Err(Ended::Broken(why)) => println!("  BROKEN: {why}"),
        }
        outcome
    }
}

/// Adds what was found in one file to what was found in others.
pub(crate) fn add(total: &mut Verdict, one: &Verdict) {
    total.lines += one.lines;
    total.echoed += one.echoed;
    total.unechoed += one.unechoed;
    total.parts += one.parts;
    total.cut += one.cut;
    total.joined += one.joined;
    total.lost += one.lost;
    total.doubled += one.doubled;
    total.disordered += one.disordered;
    total.torn += one.torn;
    total.forged += one.forged;
}

/// What is wrong with it, counted.
pub(crate) fn faults(verdict: &Verdict) -> String {
    let Verdict { lost, doubled, disordered, torn, forged, .. } = verdict;
    format!("{lost} lost, {doubled} doubled, {disordered} out of order, {torn} torn, {forged} forged")
}

/// The number of tries for a base number and a factor; at least one.
pub(crate) fn scaled(base: u32, times: f64) -> u32 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count of tries")]
    let count = (f64::from(base) * times).round() as u32;
    count.max(1)
}

/// Why a trial can't run without that program, if it is missing.
pub(crate) fn needs_command(name: &str) -> Option<String> {
    let found = Command::new("sh").args(["-c", &format!("command -v {name}")]).stdout(Stdio::null()).status().unwrap();
    (!found.success()).then(|| format!("needs {name}"))
}

/// Why a trial can't run without root, if this is not root.
pub(crate) fn needs_root() -> Option<String> {
    (!nix::unistd::geteuid().is_root()).then(|| "needs root".to_owned())
}
