//! `plumbd run`.

use super::daemon::{self, Side};
use super::pid_file::PidFile;
use super::{Failure, output};
use crate::config::model::{Address, LogTarget, Model, Program};
use crate::config::{self, Loaded, PLACES};
use crate::journal::{self, Target};
use crate::supervisor::ready::Ready;
use crate::supervisor::{self, Options};
use std::path::PathBuf;
use std::time::Duration;

/// How long the last log entries may take to go out at the end.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What was asked.
#[derive(Debug)]
pub(super) struct Run {
    /// The configuration, as it was given.
    pub(super) config: Option<PathBuf>,
    /// Go to the background.
    pub(super) daemon: bool,
    /// Absolute.
    pub(super) pid_file: Option<PathBuf>,
}

impl Run {
    /// Supervises until it is told to end. With `--daemon` this process only
    /// waits until its child, the daemon, is ready.
    pub(super) fn carry_out(self) -> Result<u8, Failure> {
        let loaded = config::load(self.config.as_deref())?;
        if loaded.builtin {
            output::tell(&built_in(&loaded.model));
        }
        match self.target(&loaded.model) {
            Target::Syslog(_) if !journal::syslog_listens() => {
                output::tell("plumbd: nobody listens on /dev/log: the log waits for a syslog daemon");
            }
            Target::Stderr if self.daemon => {
                output::tell("plumbd: daemon.log is \"stderr\", which a daemon has none of: nothing is logged");
            }
            Target::Stderr | Target::Syslog(_) => {}
        }
        if !self.daemon {
            self.supervise(loaded, &mut Ready::nobody_waits())?;
            return Ok(0);
        }
        match daemon::fork(loaded.builtin)? {
            Side::Caller(awaited) => {
                awaited.outcome()?;
                Ok(0)
            }
            Side::Failed => Ok(Failure::FAILED),
            Side::Daemon(mut ready) => {
                let outcome = self.supervise(loaded, &mut ready);
                if let Err(why) = &outcome {
                    ready.failed(why);
                }
                outcome?;
                Ok(0)
            }
        }
    }

    fn target(&self, model: &Model) -> Target {
        match model.daemon.log {
            LogTarget::Stderr => Target::Stderr,
            LogTarget::Auto if !self.daemon => Target::Stderr,
            LogTarget::Auto | LogTarget::Syslog => Target::Syslog(model.daemon.syslog_facility),
        }
    }

    fn supervise(self, loaded: Loaded, ready: &mut Ready) -> Result<(), String> {
        let target = self.target(&loaded.model);
        let _pid_file = self.pid_file.as_deref().map(PidFile::hold).transpose()?;
        journal::start(target, loaded.model.daemon.log_level)?;
        let outcome = supervisor::run(Options { loaded, daemonized: self.daemon }, ready);
        // On standard error it is told as the command's failure.
        if let (Err(why), Target::Syslog(_)) = (&outcome, target) {
            log::error!("{why}");
        }
        journal::finish(LAST_WORDS);
        let unsent = journal::unsent();
        if unsent > 0 {
            // A daemon's standard error is /dev/null; but not all are daemons.
            output::tell(&format!("plumbd: {unsent} log entries could not be logged"));
        }
        outcome
    }
}

/// Says that the built-in configuration is used, and what to do with it.
fn built_in(model: &Model) -> String {
    let [here, system] = PLACES;
    let mut text = format!("plumbd: no {here} here and no {system}: using the built-in configuration");
    let addresses = model.children.iter().flat_map(|child| &child.listen);
    for address in addresses {
        if let Address::Tcp(address) = address {
            text += &format!("\n  talk to it:  nc {} {}", address.ip(), address.port());
        }
    }
    for child in model.children.iter().filter(|child| child.program == Program::Plugin("logger")) {
        if let Some(file) = child.settings["file"].as_str() {
            text += &format!("\n  read along:  tail -F {file}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_configuration_is_introduced() {
        let folder = tempfile::tempdir().unwrap();
        let model = config::check_text(config::BUILTIN.as_bytes(), config::BUILTIN_NAME, folder.path()).unwrap();
        let file = folder.path().join("messages.log");
        assert_eq!(
            built_in(&model),
            format!(
                "plumbd: no plumbd.toml here and no /etc/plumbd/plumbd.toml: using the built-in configuration\n  \
                   talk to it:  nc 127.0.0.1 7007\n  \
                   read along:  tail -F {}",
                file.display()
            )
        );
    }
}
