//! Wrong bytes: each reader of foreign bytes is given the corpus of its
//! fuzz target, and a million inputs that are made from it or are random.

mod doctored;
mod inputs;
mod targets;

use crate::trial::{Trial, Tried, scaled};
use inputs::{Inputs, corpus};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};
use targets::Verdict;

type Target = fn(&[u8]) -> Verdict;

/// How many inputs a target is given.
const INPUTS: u32 = 1_000_000;

/// The trial of one reader.
fn trial(name: &'static str, fault: &'static str, promise: &'static str, attempt: fn(f64) -> Tried) -> Trial {
    Trial { name, fault, promise, missing: || None, attempt }
}

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial(
            "bytes/record",
            "any bytes as records and acknowledgements",
            "what is accepted is what was sent, byte for byte; nothing that checks out is passed over",
            |times| {
                attempt(
                    "record",
                    targets::record::target,
                    times,
                    ("a decoder that ignores checksums", |bytes| targets::record::look(bytes, doctored::unchecked)),
                )
            },
        ),
        trial(
            "bytes/config",
            "any text as the configuration",
            "refused with the place of each problem, or right, and the same with its defaults written out",
            |times| {
                attempt(
                    "config",
                    targets::config::target,
                    times,
                    ("defaults written without `ready`", |bytes| targets::config::look(bytes, doctored::forgetful)),
                )
            },
        ),
        trial(
            "bytes/control",
            "any bytes as operators' requests, whole, in pieces and without end",
            "the same requests however they arrive, one refusal at most, no more than 64 KiB held",
            |times| {
                attempt(
                    "control",
                    targets::control::target,
                    times,
                    ("a decoder without a bound", targets::control::look::<doctored::Boundless>),
                )
            },
        ),
        trial(
            "bytes/ledger",
            "any ledger and any header of an intent file",
            "refused, unless every checksum of what counts is right; then taken as it says",
            |times| {
                attempt(
                    "ledger",
                    targets::ledger::target,
                    times,
                    ("a ledger whose checksums are ignored", |bytes| targets::ledger::look(bytes, doctored::credulous)),
                )
            },
        ),
        trial(
            "bytes/recovery",
            "a logger that starts on any ledger and any intent file",
            "it says why it refuses, or starts clean: saved lines stay, waiting ones are saved in order",
            recovery,
        ),
        trial(
            "bytes/notify",
            "any datagram as what a child reports about itself",
            "nothing is understood that was not sent, and no text controls a terminal",
            |times| {
                attempt(
                    "notify",
                    targets::notify::target,
                    times,
                    ("a problem's text passed on unchanged", |bytes| {
                        targets::notify::look(bytes, doctored::raw_problem)
                    }),
                )
            },
        ),
        trial(
            "bytes/log",
            "any bytes as what a child logs, in any pieces",
            "each line, in order, as printable text in parts of at most 7 KiB",
            |times| {
                attempt(
                    "log",
                    targets::log::target,
                    times,
                    ("a line logged unchanged", |bytes| targets::log::look(bytes, doctored::raw_line)),
                )
            },
        ),
        trial(
            "bytes/message",
            "any bytes as a message in the file",
            "one line that controls no terminal, and from which every byte can be restored",
            |times| {
                attempt(
                    "message",
                    targets::message::target,
                    times,
                    ("a backslash that is not escaped", |bytes| targets::message::look(bytes, doctored::one_backslash)),
                )
            },
        ),
        trial(
            "bytes/names",
            "files of any name beside the message file",
            "what is listed as an archive has the name of one, with a time that exists",
            |times| {
                attempt(
                    "names",
                    targets::names::target,
                    times,
                    ("any name that begins like that of an archive", |bytes| {
                        targets::names::look(bytes, doctored::any_suffix)
                    }),
                )
            },
        ),
    ]
}

fn attempt(name: &str, target: Target, times: f64, (doctored, control): (&str, Target)) -> Tried {
    // If a target is slow, its inputs are short.
    let longest = match name {
        "config" => 60,
        "ledger" | "recovery" => 520,
        _ => 250,
    };
    let folder = format!("fuzz/corpus/{name}");
    let mut folders = vec![folder.as_str()];
    match name {
        "config" => folders.extend(["tests/config/good", "tests/config/bad", "etc"]),
        "ledger" => folders.extend(["fuzz/corpus/recovery", "fuzz/corpus/recovery/right"]),
        "recovery" => folders.push("fuzz/corpus/recovery/right"),
        _ => {}
    }
    let corpus = corpus(&folders);
    let count = u64::from(scaled(INPUTS, times));
    let seed = seed();
    let read = try_all(target, &corpus, longest, seed, count);
    if let Some((input, why)) = &read.first_wrong {
        panic!("{why}\nseed {seed}, input {}", input.escape_ascii());
    }
    let found = try_all(control, &corpus, longest, seed, count).first_wrong;
    let (input, _) = found.unwrap_or_else(|| panic!("the control holds too: {doctored}"));
    Tried {
        count: format!("{} inputs: {} files, and what was made of them, seed {seed}", read.right, corpus.len()),
        outcome: format!("{} right, {} wrong", read.right, read.wrong),
        control: format!("{doctored}: found out by {} bytes", input.len()),
    }
}

fn recovery(times: f64) -> Tried {
    use targets::recovery::{Kind, look};
    let right = corpus(&["fuzz/corpus/recovery/right"]);
    for input in &right {
        look(input, Kind::Right).unwrap_or_else(|why| panic!("{why}; input {}", input.escape_ascii()));
    }
    let control: Target = |bytes| look(bytes, Kind::Unchecked);
    let tried = attempt("recovery", targets::recovery::target, times, ("checksums that are always right", control));
    Tried {
        outcome: format!("{}; {} as a killed logger leaves them, all taken up", tried.outcome, right.len()),
        ..tried
    }
}

fn seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::from(now.subsec_nanos()) ^ now.as_secs()
}

/// The verdicts of a target about its inputs.
#[derive(Default)]
struct Said {
    right: u64,
    wrong: u64,
    /// The first input that was wrong, and why.
    first_wrong: Option<(Vec<u8>, String)>,
}

impl Said {
    fn add(&mut self, target: Target, input: &[u8]) {
        match verdict(target, input) {
            Ok(()) => self.right += 1,
            Err(why) => {
                self.wrong += 1;
                self.first_wrong.get_or_insert_with(|| (input.to_vec(), why));
            }
        }
    }
}

/// Tries the inputs of the corpus, then this many others, on every core. Stops at
/// the first that is wrong.
fn try_all(target: Target, corpus: &[Vec<u8>], longest: usize, seed: u64, count: u64) -> Said {
    let mut all = Said::default();
    for input in corpus {
        all.add(target, input);
        if all.wrong > 0 {
            return all;
        }
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    // How many are left to try; none once something was found.
    let left = AtomicU64::new(count);
    let take = || left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok();
    let work = |core: u64| {
        let mut inputs = Inputs::new(corpus, longest, seed ^ (core << 48));
        let mut said = Said::default();
        while take() {
            said.add(target, &inputs.next());
            if said.wrong > 0 {
                left.store(0, Ordering::Relaxed);
            }
        }
        said
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..cores).map(|core| scope.spawn(move || work(core))).collect();
        for thread in threads {
            let said = thread.join().unwrap();
            all.right += said.right;
            all.wrong += said.wrong;
            all.first_wrong = all.first_wrong.take().or(said.first_wrong);
        }
    });
    all
}

fn verdict(target: Target, input: &[u8]) -> Verdict {
    catch_unwind(AssertUnwindSafe(|| target(input))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        Err(format!("it panicked: {}", text.unwrap_or_default()))
    })
}
