//! Every key of a configuration except the settings of plugins: its name, what it is,
//! its default, what it does.
//!
//! The checks read names, defaults and ranges from these tables. plumbd.toml(5) and the
//! JSON schema are made from them, and a test compares etc/plumbd.toml with them.

use crate::plugin::PLUGINS;
use crate::plugin::shared::MOST_INSTANCES;
use crate::schema::kind::{Keys, Kind, Useless, Word, key, required};
use crate::schema::text::Text;
use crate::schema::value::YEAR;
use nix::sys::signal::Signal;
use std::time::Duration;

const NOTHING: Duration = Duration::ZERO;
const MILLISECOND: Duration = Duration::from_millis(1);
/// The least that a pipe holds, and the largest power of two that fcntl(2) F_SETPIPE_SZ
/// takes.
const PIPE: Kind = Kind::Size(4 << 10, 1 << 30);

/// The words of `plugin`.
static WORDS: [Word; PLUGINS.len()] = words();
static MEANINGS: [Text; PLUGINS.len()] = meanings();
static SETTINGS: Text = listed(Text::new("Given to the plugin, which checks its own: see "), "SETTINGS OF ", true)
    .add(". A program of your own gets them as JSON, see plumbd-plugin(7).");
static PROTOCOL_LINE: Text = listed(Text::new("lines | records; records between "), "", false).add(", else lines");
static PROTOCOL: Text = listed(Text::new("How messages stand in the link. The default is records between "), "", false)
    .add(", else lines.");

static STOP_TIMEOUT: Text = sinks(Text::new(
    "How long a drain may take at the end of the daemon, and in a reload that stops children. Then all children that \
     are still there are asked to stop at once, without regard to their order, but for ",
))
.add(
    ", which have 2 s once nothing more can come. So an end takes at most this long, and the longest `stop_timeout` of \
     a child, and 6 s. What the links still hold then is logged as lost, and the exit status is 1.",
);

const fn words() -> [Word; PLUGINS.len()] {
    let (mut words, mut at) = ([("", ""); PLUGINS.len()], 0);
    while at < PLUGINS.len() {
        words[at] = (PLUGINS[at].name, MEANINGS[at].as_str());
        at += 1;
    }
    words
}

const fn meanings() -> [Text; PLUGINS.len()] {
    let (mut meanings, mut at) = ([Text::new(""); PLUGINS.len()], 0);
    while at < PLUGINS.len() {
        let plugin = &PLUGINS[at];
        meanings[at] = Text::new(plugin.meaning).add(", see SETTINGS OF ").add_capitals(plugin.name);
        at += 1;
    }
    meanings
}

/// A text, and after it the names of all plugins, as in `a, b and c`.
const fn listed(mut text: Text, before: &str, capitals: bool) -> Text {
    let mut at = 0;
    while at < PLUGINS.len() {
        let gap = if at == 0 {
            ""
        } else if at + 1 < PLUGINS.len() {
            ", "
        } else {
            " and "
        };
        text = text.add(gap).add(before);
        text = if capitals { text.add_capitals(PLUGINS[at].name) } else { text.add(PLUGINS[at].name) };
        at += 1;
    }
    text
}

/// A text, and after it the plugins that can be a sink, as in `as and bs`.
const fn sinks(mut text: Text) -> Text {
    let (mut at, mut gap) = (0, "");
    while at < PLUGINS.len() {
        if PLUGINS[at].sink {
            text = text.add(gap).add(PLUGINS[at].name).add("s");
            gap = " and ";
        }
        at += 1;
    }
    text
}

/// The file itself.
pub const FILE: Keys = &[
    key("daemon", Kind::Table(DAEMON), "{}", "the daemon itself", "The daemon itself."),
    required(
        "children",
        Kind::Named(CHILD),
        "a table a child, by its name",
        "The children, a table each, by their names.",
    ),
    key(
        "links",
        Kind::Row(LINK),
        "[]",
        "a table a link: what one child writes, another reads",
        "The links, a table each: what one child writes, another reads.",
    ),
];

/// `[daemon]`.
pub const DAEMON: Keys = &[
    key(
        "control",
        Kind::Path,
        r#""plumbd.sock""#,
        "operator socket; mode 0600",
        "The socket that operators' commands talk to. Its mode is 0600, and only root and the daemon's own user are \
         served. Its folder must exist.",
    ),
    key(
        "log",
        Kind::Words(&[
            ("auto", "to syslog where it was started with `--daemon`, else to standard error"),
            ("stderr", "to standard error, a line an entry"),
            ("syslog", "to the system's log, through /dev/log"),
        ]),
        r#""auto""#,
        "auto | stderr | syslog; auto: syslog where it daemonized, else stderr",
        "Where the log goes: the daemon's own entries and every line that a child writes to standard error, or to a \
         standard output that is no link. The daemon waits for no reader of a pipe, a terminal or a socket, and not for \
         syslog. But no write to a file can be cut short: where standard error is a file, it should be on a local file \
         system, for one that does not answer holds up the daemon, and no child is started again until it does.",
    ),
    key(
        "syslog_facility",
        Kind::Words(&crate::journal::FACILITIES),
        r#""daemon""#,
        "daemon, user, local0 ... local7, as syslog(3) has them",
        "The facility that the system's log files it under. A change counts from the daemon's next start.",
    ),
    key(
        "log_level",
        Kind::Words(&[
            ("error", "what needs a person"),
            ("warn", "and what may soon"),
            ("info", "and what happens to children, and their own lines"),
            ("debug", "and processes and signals"),
            ("trace", "everything"),
        ]),
        r#""info""#,
        "error | warn | info | debug | trace",
        "What is logged. A reload changes it at once.",
    ),
    key("stop_timeout", Kind::Duration(NOTHING, YEAR), r#""10s""#, "bound on a drain", STOP_TIMEOUT.as_str()),
];

/// `[children.NAME]`.
pub const CHILD: Keys = &[
    key(
        "plugin",
        Kind::Words(&WORDS),
        "",
        "a built-in plugin",
        "The built-in plugin that this child is. Either this or `command` must be given.",
    ),
    key(
        "command",
        Kind::List(&Kind::Text),
        "",
        "any program and its arguments",
        "The program that this child runs, and its arguments, a string each; there is no shell. A program with a slash \
         in its name is relative to the file, one without is looked for in the PATH that it gets. One for another \
         kind of processor, or in another format, is run if the kernel has a handler for such (binfmt_misc) that can be \
         seen in /proc/sys/fs/binfmt_misc. In a container it often is not mounted, so name the handler as the program: \
         `[\"/usr/bin/qemu-aarch64\", \"./prog\"]`.",
    ),
    key(
        "listen",
        Kind::List(&Kind::Address),
        "[]",
        "tcp://HOST:PORT  udp://HOST:PORT  unix:PATH  ([::1] form for IPv6)",
        "Sockets that the supervisor binds and keeps, so that a restart or a reload refuses nobody: `tcp://HOST:PORT`, \
         `udp://HOST:PORT` or `unix:PATH`, an IPv6 address in brackets, a link-local one with its interface, as in \
         `tcp://[fe80::1%eth0]:7007`. HOST is an address or `localhost`: no names are looked up. The program finds them from descriptor 3 on, see plumbd-plugin(7).",
    ),
    key(
        "instances",
        Kind::Integer(1, MOST_INSTANCES as u64),
        "1",
        "NAME.0, NAME.1 ... share the listening sockets",
        "How many processes it is. With more than one they are called NAME.0, NAME.1 and so on, share the listening \
         sockets, and have a link each.",
    ),
    key(
        "restart",
        Kind::Words(&[
            ("always", "however it ended"),
            ("on-failure", "after an end that is none of `success`: an exit status other than 0, or a signal"),
            ("never", "not at all"),
        ]),
        r#""always""#,
        "always | on-failure | never",
        "When it is started again after it ended by itself.",
    ),
    key(
        "backoff",
        Kind::Table(BACKOFF),
        "{}",
        "wait before each start in a row; first 0: at once, then 100ms, then by the factor",
        "How long to wait before each start of a row of starts.",
    ),
    key(
        "start_limit",
        Kind::Table(START_LIMIT),
        "{}",
        "past it: failed, until an operator starts it or a reload changes it",
        "How often it may be started. Past that its state is failed, until `plumbd start` or a reload that changes it. \
         Every start counts, however the process before it ended: an end that is a `success` too, for a program that \
         ends well again and again does not serve. One that is meant to wants a larger `burst`.",
    ),
    key(
        "ready",
        Kind::Words(&[
            ("exec", "once the program is executed"),
            ("notify", "when it sends READY=1 to $NOTIFY_SOCKET, as sd_notify(3) does"),
            ("fd", "when it writes a newline to the descriptor $PLUMBD_READY_FD"),
        ]),
        r#""exec""#,
        "exec | notify (sd_notify) | fd (a newline on $PLUMBD_READY_FD); plugins: notify",
        "How it says that it is ready. What comes after it, and a reload, wait for that: one that is ready once \
         executed passes a reload's health check though it fails a moment later; notify or fd make that check real. \
         The default of built-in plugins is notify.",
    ),
    key(
        "ready_timeout",
        Kind::Duration(MILLISECOND, YEAR),
        r#""10s""#,
        "not ready by then: it is killed (SIGKILL), a failure",
        "How long it may take to be ready. Then its whole process group gets SIGKILL at once, and that counts as a \
         failure.",
    ),
    key(
        "stop_signal",
        Kind::Signal(NO_STOP),
        r#""SIGTERM""#,
        "what asks it to stop",
        "The signal that asks it to stop, sent with SIGCONT. Built-in plugins drain at SIGTERM and take no other.",
    ),
    key(
        "stop_to",
        Kind::Words(&[
            ("group", "to its whole process group"),
            ("leader", "to the process that was started, alone, which tells its own workers"),
        ]),
        r#""group""#,
        "group | leader: whom stop_signal goes to; the rest of the group gets SIGKILL in the end",
        "Whom `stop_signal` goes to. A server with worker processes (prefork) that would be cut off in the middle of \
         their work by the signal wants `leader`: it has them finish, and then ends. Whatever is left of its process \
         group when it has ended, or after `stop_timeout`, gets SIGKILL.",
    ),
    key(
        "stop_timeout",
        Kind::Duration(NOTHING, YEAR),
        r#""10s""#,
        "then SIGKILL to its whole process group",
        "How long it may take to stop. Then its whole process group gets SIGKILL. What it has started outside of its \
         group gets SIGKILL as soon as the child itself has ended.",
    ),
    key(
        "success",
        Kind::Table(SUCCESS),
        "{}",
        "ends that are no failure; else exit status 0 alone",
        "Which ends are no failures. With `restart = \"on-failure\"` it is not started again after one of these, and \
         with `never` it then counts as finished. A child that a stop or a reload has ended did as it was told, \
         however it ended.",
    ),
    key(
        "after",
        Kind::List(&Kind::Name),
        "[]",
        "start after these are ready; linked children start sinks first",
        "Children that must be ready before this one is started. Linked children need none: sinks start before their \
         sources.",
    ),
    key(
        "user",
        Kind::Text,
        r#""""#,
        "with its supplementary groups; needs root",
        "Who it runs as, by name or number, with the supplementary groups of that user; empty: as the supervisor. \
         Needs root.",
    ),
    key(
        "group",
        Kind::Text,
        r#""""#,
        "instead of the user's own; needs root",
        "The group it runs as, by name or number; empty: the user's own. Needs root.",
    ),
    key(
        "directory",
        Kind::Path,
        r#""""#,
        "where it runs; else where the supervisor runs",
        "Its working directory; empty: the supervisor's, which is / with `--daemon`.",
    ),
    key("umask", Kind::Octal, r#""0022""#, "file mode creation mask", "Its file mode creation mask, see umask(2)."),
    key(
        "environment",
        Kind::Map(&Kind::Text),
        "{}",
        "added to a minimal one: PATH, LANG, TZ, HOME/USER of `user`",
        "Variables added to its environment, which is otherwise minimal: PATH, LANG and TZ of the supervisor; HOME, \
         USER, LOGNAME and SHELL of `user`; and what plumbd-plugin(7) lists.",
    ),
    key(
        "pass_environment",
        Kind::List(&Kind::Text),
        "[]",
        "names passed on from the supervisor's own",
        "Names of variables that are passed on from the supervisor's own environment.",
    ),
    key(
        "limits",
        Kind::Limits,
        "{}",
        "nofile = 20000, core = 0, ... as setrlimit(2); a number, a size or \"unlimited\"",
        "Resource limits, soft and hard alike, by the names of setrlimit(2) in lower case without RLIMIT_, as in \
         `{ nofile = 20000, core = 0 }`: a number, a size or \"unlimited\".",
    ),
    key(
        "log_limit",
        Kind::WordsOr(&[("none", "every line is logged, the same one again and again too")], &Kind::Table(LOG_LIMIT)),
        "{}",
        "what is past it is left out of the log and counted; or \"none\"",
        "How many of its lines are logged: what it writes to standard error, or to a standard output that is no link. \
         What is past it is left out, counted, and told every 5s; the last quarter is for errors and warnings, and a \
         line above 1 KiB counts as several. While lines are left out its pipe is read 20 times a second, 16 KiB each, \
         so it goes on at no more than some 300 KiB/s. The same line more than 5 times in 5s is counted too. Children \
         whose limit is no higher than the default log at most 3000 lines at once, and 150 a second, all together. A \
         reload changes it and keeps the child.",
    ),
    key("settings", Kind::Settings, "{}", "given to the plugin; each plugin checks its own", SETTINGS.as_str()),
];

/// `backoff`.
pub const BACKOFF: Keys = &[
    key(
        "first",
        Kind::Duration(NOTHING, YEAR),
        r#""0ms""#,
        "before the first start in a row; 0: at once, and 100ms before the second",
        "The wait before the first start in a row; 0: at once, and 100ms before the second.",
    ),
    key(
        "factor",
        Kind::Number(1.0, 1000.0),
        "2.0",
        "by what each wait is longer than the one before",
        "By what each wait is longer than the one before.",
    ),
    key("max", Kind::Duration(NOTHING, YEAR), r#""30s""#, "no wait is longer", "No wait is longer."),
    key(
        "reset_after",
        Kind::Duration(NOTHING, YEAR),
        r#""10s""#,
        "up for so long: the row is over",
        "A child that was up for so long begins a new row.",
    ),
];

/// `start_limit`.
pub const START_LIMIT: Keys = &[
    key("burst", Kind::Integer(1, 1_000_000), "10", "so many starts", "How many starts are too many."),
    key("within", Kind::Duration(MILLISECOND, YEAR), r#""60s""#, "in that time", "The time in which they are counted."),
];

/// `log_limit`.
pub const LOG_LIMIT: Keys = &[
    key(
        "lines",
        Kind::Integer(10, 1_000_000),
        "2000",
        "so many at once",
        "How many lines at once. What was logged counts less and less as time passes.",
    ),
    key(
        "per_second",
        Kind::Integer(1, 1_000_000),
        "100",
        "so many a second for good",
        "How many lines a second for good; of errors and warnings a third more.",
    ),
];

/// `success`.
pub const SUCCESS: Keys = &[
    key(
        "codes",
        Kind::List(&Kind::Integer(0, 255)),
        "[0]",
        "exit statuses",
        "Exit statuses, 0 only if it is listed: `[0, 143]` for a Java program, which ends with 143 when it is asked to.",
    ),
    key(
        "signals",
        Kind::List(&Kind::Signal(NO_END)),
        "[]",
        "signals that it was killed by",
        "Signals that it may be killed by, as in `[\"SIGTERM\"]`.",
    ),
];

/// What `stop_signal` can't be.
pub const NO_STOP: Useless = &[
    (Signal::SIGSTOP, "halts a program and does not end it"),
    (Signal::SIGCONT, "lets a halted program go on and does not end it"),
    (Signal::SIGCHLD, "tells a program that one of its own children ended"),
];
/// Signals that kill no program (signal(7)).
pub const NO_END: Useless = &[
    (Signal::SIGSTOP, HALTS),
    (Signal::SIGTSTP, HALTS),
    (Signal::SIGTTIN, HALTS),
    (Signal::SIGTTOU, HALTS),
    (Signal::SIGCONT, KILLS_NOBODY),
    (Signal::SIGCHLD, KILLS_NOBODY),
    (Signal::SIGURG, KILLS_NOBODY),
    (Signal::SIGWINCH, KILLS_NOBODY),
];
const HALTS: &str = "halts a program and does not kill it";
const KILLS_NOBODY: &str = "kills no program";

/// `[[links]]`.
pub const LINK: Keys = &[
    required(
        "from",
        Kind::Name,
        "the source: its standard output",
        "The source: its standard output is the link. A child is the source of at most one link.",
    ),
    required(
        "to",
        Kind::Name,
        "the sink: its standard input",
        "The sink: its standard input is the link. Several sources may flow into one sink.",
    ),
    key(
        "capacity",
        PIPE,
        r#""1MiB""#,
        "what the link holds while the sink is busy",
        "What the link holds while the sink is busy or dead; then its source waits. An ordinary \
         user gets the most that pipe(7) allows where that is less; `plumbd status` shows what it is.",
    ),
    key(
        "protocol",
        Kind::Words(&[
            ("lines", "a message is a line"),
            ("records", "the record protocol of plumbd-plugin(7), with acknowledgements"),
        ]),
        "",
        PROTOCOL_LINE.as_str(),
        PROTOCOL.as_str(),
    ),
];
