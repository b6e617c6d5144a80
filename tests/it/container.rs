//! As process 1 of a container: no init, no service manager around it.

use crate::daemon::{children_of, kill, state, wait_for};
use plumbd::control::client;
use plumbd::control::{Request, Response};
use std::path::Path;
use std::process::Command;

/// A child whose own children outlive their parents: two that end soon, one
/// that goes on.
const CONFIG: &str = r#"
[children.parent]
command = ["sh", "-c", "(setsid sh -c 'sleep 0.1; echo one >&2' &); (setsid sh -c 'sleep 0.1; echo two >&2' &); (setsid sleep 1000 &); exec sleep 1000"]
"#;

fn all_up(socket: &Path) -> bool {
    let mut up = false;
    let asked = client::ask(socket, &Request::Status, |response| {
        if let Response::Status(status) = response {
            up = status.all_up() && status.pid == 1;
        }
        Ok(())
    });
    asked.is_ok() && up
}

#[test]
#[ignore = "needs root"]
fn process_1_reaps_everybody_and_ends_when_it_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("plumbd.toml"), CONFIG).unwrap();
    let mut container = Command::new("unshare")
        .args(["--pid", "--fork", "--kill-child", "--mount-proc", env!("CARGO_BIN_EXE_plumbd"), "run"])
        .current_dir(dir.path())
        .stderr(std::fs::File::create(dir.path().join("log")).unwrap())
        .spawn()
        .unwrap();
    let log = || std::fs::read_to_string(dir.path().join("log")).unwrap();
    wait_for("all is up", || all_up(&dir.path().join("plumbd.sock")).then_some(()));
    let unshare = i32::try_from(container.id()).unwrap();
    let daemon = children_of(unshare).into_iter().next().unwrap();
    wait_for("both orphans have ended", || (log().contains("one") && log().contains("two")).then_some(()));
    wait_for("the child and the orphan that goes on are left", || {
        let children = children_of(daemon);
        (children.len() == 2 && children.iter().all(|&pid| state(pid) != Some('Z'))).then_some(())
    });
    kill(daemon, nix::libc::SIGTERM);
    let ended = wait_for("it has ended", || container.try_wait().unwrap());
    assert_eq!(ended.code(), Some(0), "{}", log());
}
