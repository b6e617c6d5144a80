//! What was typed: the shape of the command line, and its help.

use super::completions;
use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use clap_complete::engine::ArgValueCandidates;
use std::path::PathBuf;

/// Supervise programs linked by pipes; an echoed message is a saved message
///
/// Without -c the configuration is ./plumbd.toml, else
/// ~/.config/plumbd/plumbd.toml (not root's), else /etc/plumbd/plumbd.toml, else a
/// built-in one: an echo server on 127.0.0.1:7007 that saves every message to
/// messages.log.
#[derive(Debug, Parser)]
#[command(name = "plumbd", version, disable_help_subcommand = true, after_help = EXAMPLES)]
pub(super) struct Typed {
    #[command(subcommand)]
    pub(super) command: Command,
}

const EXAMPLES: &str = "\
Examples:
  plumbd run                          serve with the configuration that is found
  plumbd example echo-store >plumbd.toml
  plumbd check && plumbd reload       change a running daemon

Exit status: 0 done; 1 could not, with the reason on standard error; 2 wrong
usage; 78 the configuration has problems.";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Supervise, in the foreground unless --daemon
    #[command(after_help = "\
Examples:
  plumbd run
  plumbd run -c /etc/plumbd/plumbd.toml
  plumbd run --daemon --pid-file /run/plumbd.pid

Signals: SIGHUP reloads; SIGTERM and SIGINT drain and end, a second one ends at
once; SIGUSR1 has the children reopen their files.")]
    Run {
        #[command(flatten)]
        config: Config,
        /// Go to the background, and come back only once every child is ready, or with the reason why not
        #[arg(long)]
        daemon: bool,
        /// Write the process id to this file, and hold a lock on it
        #[arg(long, value_name = "FILE")]
        pid_file: Option<PathBuf>,
    },
    /// Print every problem of a configuration
    #[command(after_help = "\
Examples:
  plumbd check
  plumbd check -c new.toml && mv new.toml plumbd.toml && plumbd reload
  plumbd check --effective            what every default is

Exit status: 0 it is right; 78 it has problems.")]
    Check {
        #[command(flatten)]
        config: Config,
        /// Print the configuration with every default filled in
        #[arg(long)]
        effective: bool,
    },
    /// Say what a reload would do, child by child, and why; changes nothing
    ///
    /// A line each: keep, restart, start or stop; the child; the line of the
    /// configuration that is the reason, and the reason. Then the links and
    /// sockets that come, change or go.
    #[command(after_help = "\
Examples:
  plumbd plan
  plumbd plan -c new.toml --control /run/plumbd/plumbd.sock")]
    Plan {
        #[command(flatten)]
        daemon: Daemon,
    },
    /// Have the daemon read its configuration again, and report what changed, or every problem
    ///
    /// Prints the plan, and on a terminal what happens meanwhile, and comes back
    /// when all that changed is ready. A wrong file changes nothing: every
    /// problem is told, and the exit status is 78. What can not be started makes
    /// it 1.
    #[command(after_help = "\
Examples:
  plumbd check && plumbd reload")]
    Reload {
        #[command(flatten)]
        daemon: Daemon,
    },
    /// Show the children and the links
    ///
    /// Of each child: its state, process, for how long it has been in that
    /// state, how often it was started again, how it ended the last time, and,
    /// of plugins, messages and bytes a second and open connections. Of each
    /// link: how full it is, and for how long its sink has taken nothing while
    /// bytes waited. What is wrong stands below, in words.
    ///
    /// A child that ended as it should, and that its `restart` does not start
    /// again, is finished: that is no reason for exit status 4.
    #[command(after_help = "\
Examples:
  plumbd status
  plumbd status --watch
  plumbd status --json | jq '.children[] | select(.state != \"up\")'

Exit status: 0 all is up; 3 no daemon runs; 4 one runs, but not all is up.")]
    Status {
        #[command(flatten)]
        daemon: Daemon,
        /// As JSON, for programs: keys may be added in later versions, never changed
        #[arg(long)]
        json: bool,
        /// Again each second, until Ctrl-C
        #[arg(long)]
        watch: bool,
    },
    /// Start children, and wait until they are up; clears a start limit
    #[command(after_help = "\
Examples:
  plumbd start echo
  plumbd start echo.0 echo.1")]
    Start(Children),
    /// Stop children, and wait until they are down
    #[command(after_help = "\
Examples:
  plumbd stop echo")]
    Stop(Children),
    /// Stop children and start them again, and wait until they are up
    #[command(after_help = "\
Examples:
  plumbd restart logger               its clients wait; nothing is lost")]
    Restart(Children),
    /// Drain and end the daemon, and wait until it is gone
    #[command(after_help = "\
Examples:
  plumbd shutdown
  plumbd shutdown --fast              do not drain")]
    Shutdown {
        #[command(flatten)]
        daemon: Daemon,
        /// Do not drain
        #[arg(long)]
        fast: bool,
    },
    /// Have children reopen their files, for an external log rotator
    #[command(after_help = "\
Examples:
  mv messages.log messages.log.1 && plumbd reopen")]
    Reopen {
        #[command(flatten)]
        daemon: Daemon,
    },
    /// List the ready configurations, or print one
    #[command(after_help = "\
Examples:
  plumbd example
  plumbd example echo-store >plumbd.toml && plumbd run")]
    Example {
        /// Which one
        #[arg(add = ArgValueCandidates::new(completions::examples))]
        name: Option<String>,
    },
    /// Print completions for a shell
    #[command(after_help = "\
Examples:
  plumbd completions bash >/usr/share/bash-completion/completions/plumbd
  plumbd completions zsh >\"${fpath[1]}/_plumbd\"
  plumbd completions fish >~/.config/fish/completions/plumbd.fish")]
    Completions {
        /// Which shell
        shell: Shell,
    },
    /// List the manual pages, print one, or write them all to a folder
    #[command(after_help = "\
Examples:
  plumbd man
  plumbd man plumbd.toml | man -l -
  plumbd man --out /usr/local/share/man")]
    Man {
        /// Which one
        #[arg(add = ArgValueCandidates::new(completions::pages), conflicts_with = "out")]
        page: Option<String>,
        /// Write every page below this folder, as man1/plumbd.1 and so on
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
    /// Print the JSON schema of the configuration, for editors
    #[command(after_help = "\
Examples:
  plumbd schema >plumbd.schema.json

Name it in the first line of plumbd.toml, as taplo reads it: #:schema ./plumbd.schema.json")]
    Schema,
    /// Run a built-in plugin, as `plumbd run` does; or describe it
    #[command(
        hide = true,
        after_help = "\
Examples:
  command = [\"plumbd\", \"plugin\", \"echo\"]   as the supervisor runs it
  plumbd plugin echo --describe | jq '.keys[].name'"
    )]
    Plugin {
        /// Which one
        #[arg(add = ArgValueCandidates::new(completions::plugins))]
        name: String,
        /// Print what it is as JSON: its roles, its settings and its metrics
        #[arg(long)]
        describe: bool,
    },
}

/// Where the configuration is.
#[derive(Debug, Args)]
pub(super) struct Config {
    /// The configuration [default: ./plumbd.toml, ~/.config/plumbd/plumbd.toml, /etc/plumbd/plumbd.toml, or built in]
    #[arg(short, long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
}

/// Which daemon to talk to.
#[derive(Debug, Args)]
pub(super) struct Daemon {
    #[command(flatten)]
    pub(super) config: Config,
    /// The daemon's control socket [default: $PLUMBD_CONTROL, or what the configuration says]
    #[arg(long, value_name = "PATH")]
    pub(super) control: Option<PathBuf>,
}

/// Which children, of which daemon.
#[derive(Debug, Args)]
pub(super) struct Children {
    /// Their names; a child with instances is all of them, NAME.0 is one
    #[arg(required = true, value_name = "CHILD", add = ArgValueCandidates::new(completions::children))]
    pub(super) children: Vec<String>,
    #[command(flatten)]
    pub(super) daemon: Daemon,
}
