//! For now: the built-in configuration only.
use super::model::*;
use super::problem::Problems;
use super::system::System;
use crate::link::handover::Protocol;
use nix::sys::signal::Signal;
use std::path::Path;
use std::time::Duration;

pub(super) fn check(text: &[u8], name: &str, base: &Path, _system: &dyn System) -> Result<Model, Problems> {
    if text != super::BUILTIN.as_bytes() {
        return Err(Problems::unreadable(name, "only the built-in configuration is read so far", ""));
    }
    let child = |plugin: &'static str, settings, listen| Child {
        name: plugin.to_owned(),
        line: 1,
        program: Program::Plugin(plugin),
        listen,
        restart: Restart::Always,
        backoff: Backoff {
            first: Duration::ZERO,
            factor: 2.0,
            max: Duration::from_secs(30),
            reset_after: Duration::from_secs(10),
        },
        start_limit: StartLimit { burst: 10, within: Duration::from_secs(60) },
        ready: Ready::Notify,
        ready_timeout: Duration::from_secs(10),
        stop_signal: Signal::SIGTERM,
        stop_timeout: Duration::from_secs(10),
        after: Vec::new(),
        user: None,
        directory: None,
        umask: 0o022,
        environment: vec![("PATH".to_owned(), "/usr/bin:/bin".to_owned())],
        pass_environment: Vec::new(),
        limits: Vec::new(),
        settings,
    };
    Ok(Model {
        file: None,
        daemon: Daemon {
            control: base.join("plumbd.sock"),
            log: LogTarget::Auto,
            log_level: log::LevelFilter::Info,
            stop_timeout: Duration::from_secs(10),
        },
        children: vec![
            child(
                "echo",
                serde_json::to_value(crate::plugin::echo::settings::Settings::default()).unwrap_or_default(),
                vec![Address::Tcp(([127, 0, 0, 1], 7007).into())],
            ),
            child(
                "logger",
                serde_json::json!({"file": base.join("messages.log"), "mode": 0o640, "format": "text", "sync": "asked"}),
                Vec::new(),
            ),
        ],
        links: vec![Link {
            from: "echo".to_owned(),
            to: "logger".to_owned(),
            line: 1,
            capacity: 1 << 20,
            protocol: Protocol::Records,
        }],
    })
}
