//! What was typed: the shape of the command line, and its help.

use super::completions;
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use clap_complete::engine::ArgValueCandidates;
use std::ffi::OsString;
use std::path::PathBuf;

/// Supervise programs linked by pipes; an echoed message is a saved message
///
/// Without -c, the configuration is the first of these that exists:
/// ./plumbd.toml, ~/.config/plumbd/plumbd.toml (not for root),
/// /etc/plumbd/plumbd.toml. If there is none, a built-in one is used: an echo
/// server on 127.0.0.1:7007 that saves every message to messages.log.
#[derive(Debug, Parser)]
#[command(name = "plumbd", version, disable_help_subcommand = true, after_help = EXAMPLES)]
pub(super) struct Typed {
    #[command(subcommand)]
    pub(super) command: Command,
}

const EXAMPLES: &str = "\
Examples:
  plumbd run                          run with the first configuration found
  plumbd example echo-store >plumbd.toml
  plumbd check && plumbd reload       change a running daemon

Exit status: 0 done; 1 failed, with the reason on standard error; 2 wrong usage;
78 the configuration has problems.";

/// `help` and `help COMMAND` as the option that they mean.
pub(super) fn help_as_option(mut words: Vec<OsString>) -> Vec<OsString> {
    if words.get(1).is_some_and(|word| word == "help") {
        words.remove(1);
        words.push("--help".into());
    }
    words
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run the supervisor, in the foreground unless --daemon is given
    #[command(after_help = "\
Examples:
  plumbd run
  plumbd run -c /etc/plumbd/plumbd.toml
  plumbd run --daemon --pid-file /run/plumbd.pid

Signals: SIGHUP reloads; SIGTERM and SIGINT drain and end, and a second one ends
at once; SIGUSR1 makes the children reopen their files.")]
    Run {
        #[command(flatten)]
        config: Config,
        /// Go to the background; return once every child is ready, or report why not
        #[arg(long)]
        daemon: bool,
        /// Write the process id to this file, and keep the file locked
        #[arg(long, value_name = "FILE")]
        pid_file: Option<PathBuf>,
    },
    /// Check a configuration, and print every problem
    ///
    /// Also warns about addresses that the daemon could not bind now, with the
    /// process that has them, and about words in a command that only a shell would
    /// understand. Warnings don't change the exit status.
    #[command(after_help = "\
Examples:
  plumbd check
  plumbd check new.toml && mv new.toml plumbd.toml && plumbd reload
  plumbd check --effective            show what every default is

Exit status: 0 the configuration is right; 78 it has problems.")]
    Check {
        #[command(flatten)]
        config: Config,
        /// The configuration, as with -c
        #[arg(value_name = "FILE", conflicts_with = "config")]
        file: Option<PathBuf>,
        /// Print the configuration with every default filled in
        #[arg(long)]
        effective: bool,
    },
    /// Show what a reload would do to each child, and why; changes nothing
    ///
    /// Prints one line for each child: keep, restart, start or stop; the name of
    /// the child; the line of the configuration that is the reason; and the
    /// reason. Then come the links and sockets that are added, changed or
    /// removed. Addresses that the daemon could not bind now are reported, each
    /// with the process that has it; then the exit status is 1.
    #[command(after_help = "\
Examples:
  plumbd plan
  plumbd plan -c new.toml --control /run/plumbd/plumbd.sock")]
    Plan {
        #[command(flatten)]
        daemon: Daemon,
    },
    /// Make the daemon read its configuration again, and report what changed, or every problem
    ///
    /// Prints the plan and, on a terminal, the progress. Returns when everything
    /// that changed is ready. If the configuration is wrong, nothing changes,
    /// every problem is reported, and the exit status is 78. If something can't
    /// be started, the exit status is 1.
    #[command(after_help = "\
Examples:
  plumbd check && plumbd reload")]
    Reload {
        #[command(flatten)]
        daemon: Daemon,
    },
    /// Show the children and the links, or everything about one child
    ///
    /// For each child: its state, its process id, how long it has been in that
    /// state, how often it was restarted, how it ended the last time, what its
    /// processes use, and, for plugins, messages in total and per second, bytes
    /// per second and open connections. For each link: how full it is, for how long
    /// its sink has taken nothing although bytes were waiting, and the bytes per
    /// second and in total. Then the listening sockets and the message files.
    /// Below that, the problems are listed in words. On a narrow terminal, the
    /// least important columns are left out. plumbd(1) explains each figure.
    ///
    /// If the configuration file holds something else than what is in force, this is
    /// pointed out too; it does not cause exit status 4.
    ///
    /// A child is finished if it ended as it should and its `restart` does not
    /// start it again. Such a child does not cause exit status 4.
    ///
    /// With CHILD, shows everything about these children: what is wrong, the part of the
    /// configuration that is in force, the environment, the open descriptors, the limits, the
    /// processes and what they use, the links, sockets and files, the last ends and the last
    /// lines. The exit status is about these children alone. The environment is shown with
    /// its values, which may be secrets.
    #[command(after_help = "\
Examples:
  plumbd status
  plumbd status --watch
  plumbd status echo                  everything about one child
  plumbd status --json | jq '.children[] | select(.state != \"up\" and (.finished | not))'
  plumbd status --json | jq '.files[] | {path, size, free, full_in_s}'

Exit status: 0 all is well; 3 no daemon is running; 4 a daemon is running, but a
child that should be up is not, or something is a problem.")]
    Status {
        /// The names of children; NAME stands for all instances of a child, NAME.0 for one of them, all for every child
        #[arg(value_name = "CHILD", add = ArgValueCandidates::new(completions::some_or_all))]
        children: Vec<String>,
        #[command(flatten)]
        daemon: Daemon,
        /// Print JSON, for programs: later versions may add keys, but never change any
        #[arg(long)]
        json: bool,
        /// Refresh every second, until Ctrl-C
        #[arg(long)]
        watch: bool,
    },
    /// Start children, even past their start limit, and wait until they are up
    #[command(after_help = "\
Examples:
  plumbd start echo
  plumbd start echo.0 echo.1")]
    Start(Children),
    /// Stop children and wait until they are down
    #[command(after_help = "\
Examples:
  plumbd stop echo")]
    Stop(Children),
    /// Stop children, start them again, and wait until they are up
    #[command(after_help = "\
Examples:
  plumbd restart logger               its clients wait; nothing is lost")]
    Restart(Children),
    /// Drain, end the daemon, and wait until it is gone
    ///
    /// If no daemon runs, that is no failure.
    #[command(after_help = "\
Examples:
  plumbd shutdown
  plumbd shutdown --fast              do not drain")]
    Shutdown {
        #[command(flatten)]
        daemon: Daemon,
        /// End without draining
        #[arg(long)]
        fast: bool,
    },
    /// Make children reopen their files, for an external log rotator
    #[command(after_help = "\
Examples:
  mv messages.log messages.log.1 && plumbd reopen")]
    Reopen {
        #[command(flatten)]
        daemon: Daemon,
    },
    /// Print what happens to children and to the daemon, a JSON object a line, until Ctrl-C
    ///
    /// The daemon keeps the last 1,024 events, and numbers them from 0. Each has a
    /// number (`seq`), a time (`at`), a name (`event`) and, if they apply, `child`,
    /// `pid`, `reason`, `exit`, `signal`, `restarts` and `from`. The names: starting, ready,
    /// up, exited, backoff, failed, finished, unhealthy, stalled, watchdog, problem, solved,
    /// link-full, link-moves, reload-begun, reload-done, reload-refused, reload-undone,
    /// stopping, and lost if the reader was too slow for `count` events.
    ///
    /// A link is full (link-full) if its pipe has had no free page for 1 s, so that its source
    /// (`from`) waits for its sink (`child`), and nothing has moved. The daemon notices that
    /// 1 to 3 s after the link became full. link-moves follows when bytes flow again. A link
    /// that is full because its sink is slower than its source has no such events.
    #[command(after_help = "\
Examples:
  plumbd events                       from now on
  plumbd events --since 0             everything that is kept, and what comes
  plumbd events --child echo | jq -r '.event'")]
    Events {
        /// Begin with the event of this number; a number that is too high begins with the oldest that is kept [default: the next one]
        #[arg(long, value_name = "SEQ")]
        since: Option<u64>,
        /// Only of this child; NAME stands for all instances
        #[arg(long, value_name = "NAME", add = ArgValueCandidates::new(completions::children))]
        child: Option<String>,
        #[command(flatten)]
        daemon: Daemon,
    },
    /// Show the last log lines of children and of the daemon
    ///
    /// The daemon keeps the last lines of each child in memory (`log_keep`),
    /// whatever its log's target is: what the child wrote to its standard output or
    /// standard error, unless that is a link, and what the daemon logged about it.
    /// Lines of several children come in the order in which they were logged.
    #[command(
        alias = "logs",
        after_help = "\
Examples:
  plumbd log echo                     what echo said, and what became of it
  plumbd log -n 20                    the last 20 lines of everything
  plumbd log -f                       follow all children and the daemon
  plumbd log plumbd                   the daemon's own lines"
    )]
    Log {
        /// The names of children; NAME stands for all instances, NAME.0 for one of them, plumbd for the daemon [default: all]
        #[arg(value_name = "CHILD", add = ArgValueCandidates::new(completions::logs))]
        children: Vec<String>,
        /// Show at most this many lines [default: all that are kept]
        #[arg(short = 'n', long, value_name = "N")]
        lines: Option<usize>,
        /// Go on with new lines, until Ctrl-C or until the daemon ends
        #[arg(short, long)]
        follow: bool,
        #[command(flatten)]
        daemon: Daemon,
    },
    /// Print saved messages, in order, from the message file and its archives
    ///
    /// Without FILE, it reads the file of the configuration's only logger. It needs no
    /// daemon, only the right to read the files. Compressed archives are read as they are. A
    /// FILE that is an archive is read alone.
    ///
    /// Messages are printed as the lines that were saved. The last line of a file without its
    /// newline is not a message yet, and is never printed. If an archive between two others is
    /// missing, that is reported on standard error with the time in its name.
    ///
    /// T is 2026-11-22T15:04:05Z, "2026-11-22 15:04", 2026-11-22, 15:04 (today), 10m or
    /// "10min ago"; without a zone it is local time. --since and --until rely on a clock that was
    /// not set back by a day or more; if it was, they may leave out messages.
    #[command(after_help = "\
Examples:
  plumbd messages --since 10m
  plumbd messages --since \"2026-11-22 15:04\" --until 15:30 --peer 192.0.2.7
  plumbd messages -f --grep 'error|warning'
  plumbd messages /var/log/plumbd/messages.log -n 100 --json | jq -r .message

Exit status: 0 done, even if nothing was found; 1 a file can't be read (the others are
still printed).")]
    Messages(Messages),
    /// List the ready-made configurations, or print one
    #[command(after_help = "\
Examples:
  plumbd example
  plumbd example echo-store >plumbd.toml && plumbd run")]
    Example {
        /// The configuration to print
        #[arg(add = ArgValueCandidates::new(completions::examples))]
        name: Option<String>,
    },
    /// Print the completion script for a shell
    #[command(after_help = "\
Examples:
  plumbd completions bash >/usr/share/bash-completion/completions/plumbd
  plumbd completions zsh >\"${fpath[1]}/_plumbd\"
  plumbd completions fish >~/.config/fish/completions/plumbd.fish")]
    Completions {
        /// The shell
        shell: Shell,
    },
    /// List the manual pages, print one, or write all of them to a folder
    #[command(after_help = "\
Examples:
  plumbd man
  plumbd man plumbd.toml | man -l -
  plumbd man --out /usr/local/share/man")]
    Man {
        /// The page to print
        #[arg(add = ArgValueCandidates::new(completions::pages), conflicts_with = "out")]
        page: Option<String>,
        /// Write every page below this folder, as man1/plumbd.1 and so on
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
    /// Print the JSON schema of the configuration, for editors, or of the status
    #[command(after_help = "\
Examples:
  plumbd schema >plumbd.schema.json
  plumbd schema status                every key of the status as JSON, with its meaning and unit

Name the first file in the first line of plumbd.toml, in the form that taplo reads:
#:schema ./plumbd.schema.json")]
    Schema {
        /// Of what
        #[arg(value_enum, default_value_t = Schema::Config)]
        of: Schema,
    },
    /// Run a built-in plugin, as `plumbd run` does, or describe it
    #[command(
        hide = true,
        after_help = "\
Examples:
  command = [\"plumbd\", \"plugin\", \"echo\"]   as the supervisor runs it
  plumbd plugin echo --describe | jq '.keys[].name'"
    )]
    Plugin {
        /// The plugin
        #[arg(add = ArgValueCandidates::new(completions::plugins))]
        name: String,
        /// Print its roles, settings and metrics as JSON
        #[arg(long)]
        describe: bool,
    },
}

/// What a JSON schema describes.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Schema {
    /// The configuration (draft 7, which editors read)
    Config,
    /// What `plumbd status --json` prints (draft 2020-12)
    Status,
}

/// Which messages, and how they are printed.
#[derive(Debug, Args)]
pub(super) struct Messages {
    /// The message file, or one archive [default: the file of the only logger]
    pub(super) file: Option<PathBuf>,
    #[command(flatten)]
    pub(super) config: Config,
    /// Only messages that were received at this time or later
    #[arg(long, value_name = "T")]
    pub(super) since: Option<String>,
    /// Only messages that were received at this time or earlier
    #[arg(long, value_name = "T")]
    pub(super) until: Option<String>,
    /// Only messages from this address, with or without its port, from unix:PID, or from the child of this name
    #[arg(long, value_name = "P")]
    pub(super) peer: Option<String>,
    /// Only messages that this regular expression matches, as they were sent
    #[arg(long, value_name = "RE")]
    pub(super) grep: Option<String>,
    /// Go on with new messages as they are saved, across rotations, until Ctrl-C; without -n and --since, begin with the last 10
    #[arg(short, long)]
    pub(super) follow: bool,
    /// Only the last N of these messages
    #[arg(short = 'n', long, value_name = "N")]
    pub(super) lines: Option<u64>,
    /// Print the exact bytes of each message and a newline; not to a terminal
    #[arg(long, conflicts_with = "json")]
    pub(super) unescape: bool,
    /// Print JSON, an object for each message, whatever the format of the file
    #[arg(long)]
    pub(super) json: bool,
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
    /// The names of children; NAME stands for all instances of a child, NAME.0 for one of them, all for every child
    #[arg(required = true, value_name = "CHILD", add = ArgValueCandidates::new(completions::some_or_all))]
    pub(super) children: Vec<String>,
    #[command(flatten)]
    pub(super) daemon: Daemon,
}
