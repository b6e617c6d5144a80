//! No allocation a message: echo and logger, once warm, work in the memory that
//! they have. This program is plumbd itself, with an allocator that counts.

#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

#[path = "../benches/load/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the benchmark and other tests use more of it")]
mod load;

use load::generator::{Plan, run};
use plumbd::sys::map::SharedMap;
use std::alloc::{GlobalAlloc, Layout, System};
use std::fs::{self, File, OpenOptions};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Names the file whose first word counts this process's allocations.
const COUNTER: &str = "ALLOCATIONS";
const PATIENCE: Duration = Duration::from_secs(30);
/// New connections and fuller batches than before take some memory.
const MESSAGES_AN_ALLOCATION: u64 = 100;

static COUNTED: OnceLock<&'static AtomicU64> = OnceLock::new();

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count() {
    if let Some(word) = COUNTED.get() {
        word.fetch_add(1, Ordering::Relaxed);
    }
}

#[allow(unsafe_code)]
// SAFETY: the system's allocator does all of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as the caller promised.
        unsafe { System.realloc(at, layout, size) }
    }
}

fn main() -> ExitCode {
    if matches!(std::env::args().nth(1).as_deref(), Some("run" | "plugin")) {
        if let Some(path) = std::env::var_os(COUNTER) {
            let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
            let map = Box::leak(Box::new(SharedMap::new(&file, 8).unwrap()));
            COUNTED.set(&map.words(1)[0]).unwrap();
        }
        return plumbd::cli::main(std::env::args_os()).map_or(ExitCode::FAILURE, ExitCode::from);
    }
    // As test runners ask what there is (cargo-nextest's custom harnesses).
    if std::env::args().any(|word| word == "--list") {
        if !std::env::args().any(|word| word == "--ignored") {
            println!("allocations: test");
        }
        return ExitCode::SUCCESS;
    }
    for echo_after in ["queued", "saved"] {
        measure(echo_after);
    }
    println!("allocations: ok");
    ExitCode::SUCCESS
}

/// # Panics
/// Where echo or logger allocates for each message, or for many.
fn measure(echo_after: &str) {
    let folder = tempfile::tempdir().unwrap();
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let counters = ["echo", "logger"].map(|name| {
        let path = folder.path().join(name);
        let file = File::create_new(&path).unwrap();
        file.set_len(8).unwrap();
        (name, path)
    });
    let environment = |place: usize| format!("environment = {{ {COUNTER} = {:?} }}", counters[place].1);
    let configuration = format!(
        r#"
[children.echo]
plugin = "echo"
listen = ["tcp://{address}"]
settings = {{ echo_after = "{echo_after}" }}
{}

[children.logger]
plugin = "logger"
settings = {{ file = "messages" }}
{}

[[links]]
from = "echo"
to = "logger"
"#,
        environment(0),
        environment(1)
    );
    let daemon = Daemon::start(folder.path(), &configuration, address);
    let read = || counters.each_ref().map(|(_, path)| word(path));
    // Warm: every buffer has been as full as it gets.
    loads(address, 0);
    let before = read();
    let messages = loads(address, 1000);
    let after = read();
    drop(daemon);
    for ((name, _), (before, after)) in counters.iter().zip(before.into_iter().zip(after)) {
        let allocations = after - before;
        println!("{echo_after}: {name}: {allocations} allocations for {messages} messages");
        assert!(before > 0, "the allocator of {name} does not count");
        assert!(allocations * MESSAGES_AN_ALLOCATION <= messages, "{name} allocates for its messages");
    }
}

fn loads(address: SocketAddr, first: u32) -> u64 {
    let plan = Plan {
        address,
        connections: 20,
        depth: 50,
        length: 128,
        first,
        reconnect: false,
        lasts: Duration::from_secs(1),
        drain: PATIENCE,
    };
    let outcome = run(&plan, &AtomicBool::new(false)).unwrap();
    assert_eq!((outcome.unanswered(), outcome.wrong.len()), (0, 0));
    outcome.echoed()
}

fn word(path: &Path) -> u64 {
    u64::from_ne_bytes(fs::read(path).unwrap().try_into().unwrap())
}

/// A supervisor, which ends with this.
struct Daemon(std::process::Child);

impl Daemon {
    fn start(folder: &Path, configuration: &str, address: SocketAddr) -> Daemon {
        let file = folder.join("plumbd.toml");
        fs::write(&file, configuration).unwrap();
        let log = File::create(folder.join("log")).unwrap();
        let process =
            Command::new(std::env::current_exe().unwrap()).args(["run", "-c"]).arg(&file).stderr(log).spawn().unwrap();
        let daemon = Daemon(process);
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(address).is_err() {
            assert!(Instant::now() < deadline, "{}", fs::read_to_string(folder.join("log")).unwrap());
            std::thread::sleep(Duration::from_millis(2));
        }
        daemon
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Its children end with it.
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}
