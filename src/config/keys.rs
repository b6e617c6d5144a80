//! Every key of a configuration except the settings of plugins: its name, what it is,
//! its default, what it does.
//!
//! The checks read names, defaults and ranges from these tables. plumbd.toml(5) and the
//! JSON schema are made from them, and a test compares etc/plumbd.toml with them.

use crate::plugin::PLUGINS;
use crate::plugin::shared::MOST_INSTANCES;
use crate::schema::kind::{Key, Keys, Kind, Useless, Word, key, required};
use crate::schema::value::YEAR;
use nix::sys::signal::Signal;
use std::time::Duration;

const NOTHING: Duration = Duration::ZERO;
const MILLISECOND: Duration = Duration::from_millis(1);
/// The least that a pipe holds, and the largest power of two that fcntl(2) F_SETPIPE_SZ
/// takes.
const PIPE: Kind = Kind::Size(4 << 10, 1 << 30);

/// The words of `plugin`.
static WORDS: [Word; PLUGINS.len()] = {
    let (mut words, mut at) = ([("", ""); PLUGINS.len()], 0);
    while at < PLUGINS.len() {
        words[at] = (PLUGINS[at].name, PLUGINS[at].meaning);
        at += 1;
    }
    words
};

/// The file itself.
pub const FILE: Keys = &[
    key("daemon", Kind::Table(DAEMON), "{}", "the daemon itself", "The daemon itself."),
    required(
        "children",
        Kind::Named(CHILD),
        "a table for each child, by its name",
        "The children: a table for each, by its name.",
    ),
    key(
        "links",
        Kind::Row(LINK),
        "[]",
        "a table for each link: what one child writes, another reads",
        "The links, a table for each: what one child writes, another reads.",
    ),
];

/// `[daemon]`.
pub const DAEMON: Keys = &[
    key(
        "control",
        Kind::Path,
        r#""plumbd.sock""#,
        "control socket; mode 0600",
        "The control socket, through which commands such as `plumbd status` talk to the daemon. Its mode is 0600, and \
         only root and the daemon's own user are served. Its folder must exist.",
    ),
    key(
        "log",
        Kind::Words(&[
            ("auto", "to syslog if the daemon was started with `--daemon`, otherwise to standard error"),
            ("stderr", "to standard error, one entry per line"),
            ("syslog", "to the system's log, through /dev/log"),
        ]),
        r#""auto""#,
        "auto | stderr | syslog; auto: syslog with --daemon, else stderr",
        "Where the log goes. The log has the daemon's own entries, and every line that a child writes to \
         its standard output or standard error, unless that is a link. The daemon never waits for the reader of a \
         pipe, a terminal or a socket, nor for syslog. But a write to a file can't be cut short. So if standard error \
         is a file, put it on a local file system: if the file system does not answer, the daemon hangs, and no child \
         is restarted until it answers.",
    ),
    key(
        "syslog_facility",
        Kind::Words(&crate::journal::FACILITIES),
        r#""daemon""#,
        "daemon, user, local0 ... local7, see syslog(3); takes effect at the next start",
        "The facility under which the system's log files the entries. A change takes effect at the daemon's next \
         start.",
    ),
    key(
        "log_level",
        Kind::Words(&[
            ("error", "problems that need a person"),
            ("warn", "also problems that may soon need a person"),
            ("info", "also what happens to children, and the lines that they write"),
            ("debug", "also processes and signals"),
            ("trace", "everything"),
        ]),
        r#""info""#,
        "error | warn | info | debug | trace",
        "What is logged. A reload changes it at once.",
    ),
    key(
        "stop_timeout",
        Kind::Duration(NOTHING, YEAR),
        r#""10s""#,
        "how long a drain may take",
        "How long a drain may take when the daemon ends, or when a reload stops children. After that, all children \
         that are still running are asked to stop at once, in no particular order, except sinks that save what they \
         take, which have 2 s once nothing more can come. So the daemon ends within this time, plus the longest \
         `stop_timeout` of a child, plus 7 s. Whatever the links still hold then is logged as lost, and the exit \
         status is 1.",
    ),
    key(
        "on",
        Kind::Table(ON),
        "{}",
        "programs that are run at events, as in { failed = [\"/usr/bin/notify\"] }",
        "Hooks: programs that are run when something happens to the daemon or to any child, by the event. They run as \
         the daemon's user, in its directory, with PATH, LANG and TZ. Otherwise they are like hooks of a child, and wait \
         in a row of their own.",
    ),
];

/// `[children.NAME]`.
pub const CHILD: Keys = &[
    key(
        "plugin",
        Kind::Words(&WORDS),
        "",
        "a built-in plugin",
        "The built-in plugin that this child is. A child has either this key or `command`.",
    ),
    key(
        "command",
        Kind::List(&Kind::Text),
        "",
        "any program and its arguments",
        "The program that this child runs, and its arguments, each a string. No shell is involved. A program with a \
         slash in its name is relative to the folder of the configuration; one without a slash is looked up in the \
         PATH that the child gets. A program for another kind of processor, or in another format, runs if the kernel \
         has a handler for it (binfmt_misc) that is visible in /proc/sys/fs/binfmt_misc. Containers often do not have \
         this mounted. There, name the handler as the program: `[\"/usr/bin/qemu-aarch64\", \"./prog\"]`.",
    ),
    key(
        "listen",
        Kind::List(&Kind::Address),
        "[]",
        "tcp://HOST:PORT  udp://HOST:PORT  unix:PATH  ([::1] form for IPv6)",
        "Sockets that the supervisor binds and keeps open, so that a restart or a reload refuses no client: \
         `tcp://HOST:PORT`, `udp://HOST:PORT` or `unix:PATH`. HOST is an address or `localhost`; names are not looked \
         up. An IPv6 address is written in brackets, and a link-local one with its interface, as in \
         `tcp://[fe80::1%eth0]:7007`. The program gets the sockets from descriptor 3 on, see plumbd-plugin(7).",
    ),
    key(
        "instances",
        Kind::Integer(1, MOST_INSTANCES as u64),
        "1",
        "NAME.0, NAME.1 ... share the listening sockets",
        "How many processes this child consists of. If there is more than one, they are called NAME.0, NAME.1 and so \
         on. They share the listening sockets, and each has a link of its own.",
    ),
    key(
        "restart",
        Kind::Words(&[
            ("always", "however it ended"),
            (
                "on-failure",
                "only if `success` does not list its end (by default, after an exit status other than 0, or after a \
                 signal)",
            ),
            ("never", "it is not started again"),
        ]),
        r#""always""#,
        "always | on-failure | never",
        "When the child is started again after it ended by itself.",
    ),
    key(
        "backoff",
        Kind::Table(BACKOFF),
        "{}",
        "wait before restarts in a row: none, then 100ms, then times the factor each time",
        "How long to wait before the child is started again. Restarts that follow each other closely form a row, in \
         which each wait is longer than the one before.",
    ),
    key(
        "start_limit",
        Kind::Table(START_LIMIT),
        "{}",
        "beyond it: failed, until an operator starts it or a reload changes it",
        "How often the child may be started. Beyond that, its state is failed, until `plumbd start` starts it or a \
         reload changes it. Every start counts, however the previous process ended. An end that is a `success` counts \
         too, because a program that keeps ending does not serve. If a program is meant to end often, give it a larger \
         `burst`.",
    ),
    key(
        "ready",
        Kind::Words(&[
            ("exec", "as soon as the program has been executed"),
            ("notify", "when it sends READY=1 to $NOTIFY_SOCKET, as sd_notify(3) does"),
            ("fd", "when it writes a newline to the descriptor $PLUMBD_READY_FD"),
            ("health", "when a check of its `health` succeeds for the first time"),
        ]),
        r#""exec""#,
        "exec | notify (sd_notify) | fd (a newline to $PLUMBD_READY_FD) | health; plugins: notify",
        "When the child counts as ready. Children that are started after it wait for that, and so does a reload. With \
         `exec`, a child passes a reload's health check even if it fails a moment later; `notify`, `fd` and `health` \
         make that check real. The default for built-in plugins is `notify`.",
    ),
    key(
        "ready_timeout",
        Kind::Duration(MILLISECOND, YEAR),
        r#""10s""#,
        "if it is not ready by then, it is killed (SIGKILL): a failure",
        "How long the child may take to become ready. After that, its whole process group gets SIGKILL at once, and \
         this counts as a failure.",
    ),
    key(
        "stop_signal",
        Kind::Signal(NO_STOP),
        r#""SIGTERM""#,
        "asks it to stop",
        "The signal that asks the child to stop. It is sent together with SIGCONT. Built-in plugins drain on SIGTERM, \
         and no other signal can be set for them.",
    ),
    key(
        "stop_to",
        Kind::Words(&[
            ("group", "the whole process group of the child"),
            ("leader", "only the process that was started, which then stops its own workers"),
        ]),
        r#""group""#,
        "group | leader: which processes get stop_signal; what is left of the group gets SIGKILL",
        "Which processes get `stop_signal`. Set `leader` for a server with worker processes (prefork) that the signal \
         would interrupt in the middle of their work: the server then lets them finish before it ends. Whatever is \
         left of the process group when the server has ended, or after `stop_timeout`, gets SIGKILL.",
    ),
    key(
        "stop_timeout",
        Kind::Duration(NOTHING, YEAR),
        r#""10s""#,
        "then SIGKILL to its whole process group",
        "How long the child may take to stop. After that, its whole process group gets SIGKILL. Whatever it has \
         started outside its group gets SIGKILL as soon as the child itself has ended.",
    ),
    key(
        "success",
        Kind::Table(SUCCESS),
        "{}",
        "ends that are not failures; by default only exit status 0",
        "Which ends are not failures. After one of these, a child with `restart = \"on-failure\"` is not started \
         again, and a child with `restart = \"never\"` counts as finished. If a stop or a reload ended the child, it \
         did as it was told, however it ended.",
    ),
    key(
        "health",
        Kind::Table(HEALTH),
        "{}",
        "as in { command = [\"./check\"], every = \"10s\" }; or tcp, http; {}: no check",
        "A check that is repeated while the child is up. If it fails `failures` times in a row, the child is unhealthy: \
         it is stopped as an operator would stop it (`stop_signal`, so that it can finish its work, then SIGKILL after \
         `stop_timeout`). This counts as a failure, and `restart` decides whether the child starts again. Give one of \
         `command`, `tcp` and `http`. A failed check does not count if the machine was too busy for it: if plumbd itself \
         began or ended the check half a second late or more; if a process of the check spent a quarter of the check's \
         time ready to run, but without a processor; or if the child's own process did so, and got almost no processor \
         time. A reload changes this without restarting the child.",
    ),
    key(
        "watchdog",
        Kind::Duration(NOTHING, YEAR),
        r#""0s""#,
        "it must send WATCHDOG=1 at least this often; 0s: it need not",
        "How often the child must send WATCHDOG=1 to $NOTIFY_SOCKET while it is up (sd_notify(3)). If it does not, it \
         gets SIGABRT, so that it leaves a core dump where that is enabled, and SIGKILL after `stop_timeout`. This \
         counts as a failure. If it sends WATCHDOG=trigger, the same happens at once. The child finds the time in \
         $WATCHDOG_USEC. A reload changes this without restarting the child: a longer time, or 0s, at once; a shorter \
         time only from its next start on, because its process does not know the new time. Built-in plugins do not send \
         WATCHDOG=1.",
    ),
    key(
        "stalled",
        Kind::Duration(NOTHING, YEAR),
        r#""0s""#,
        "a sink that takes nothing for this long while bytes wait is unhealthy; 0s: it is not",
        "If bytes wait for this sink and it takes none of them for this long, it is unhealthy, and is stopped as for \
         `health`. A built-in plugin takes bytes when it completes a batch. Any other program counts as taking bytes if \
         the number of bytes that wait changes, or if it, or a process below it, reads anything at all. So a program \
         that still reads other things does not count as stalled. Nor does one of which plumbd may not see what it reads \
         (/proc/PID/io), which is logged. A reload changes this without restarting the child.",
    ),
    key(
        "after",
        Kind::List(&Kind::Name),
        "[]",
        "start after these are ready; sinks start before their sources anyway",
        "Children that must be ready before this one is started. Links need no `after`, because sinks start before \
         their sources anyway.",
    ),
    key(
        "user",
        Kind::Text,
        r#""""#,
        "with its supplementary groups; needs root",
        "The user that the child runs as, by name or number, with that user's supplementary groups. Empty: the \
         supervisor's user. Needs root.",
    ),
    key(
        "group",
        Kind::Text,
        r#""""#,
        "instead of the user's own; needs root",
        "The group that the child runs as, by name or number. Empty: the user's own group. Needs root.",
    ),
    key(
        "directory",
        Kind::Path,
        r#""""#,
        "working directory; else the supervisor's",
        "The child's working directory. Empty: the supervisor's, which is / with `--daemon`.",
    ),
    key(
        "umask",
        Kind::Octal,
        r#""0022""#,
        "file mode creation mask",
        "The child's file mode creation mask, see umask(2).",
    ),
    key(
        "environment",
        Kind::Map(&Kind::Text),
        "{}",
        "added to a minimal one: PATH, LANG, TZ, HOME/USER of `user`",
        "Variables that are added to the child's environment. Otherwise it is minimal: PATH, LANG and TZ of the \
         supervisor; HOME, USER, LOGNAME and SHELL of `user`; and what plumbd-plugin(7) lists.",
    ),
    key(
        "pass_environment",
        Kind::List(&Kind::Text),
        "[]",
        "names of variables passed on from the supervisor",
        "Names of variables that are passed on from the supervisor's own environment.",
    ),
    key(
        "limits",
        Kind::Limits,
        "{}",
        "nofile = 20000, core = 0, ... see setrlimit(2); a number, a size or \"unlimited\"",
        "Resource limits, each soft and hard alike. Their names are those of setrlimit(2), in lower case and without \
         RLIMIT_, as in `{ nofile = 20000, core = 0 }`. A value is a number, a size or \"unlimited\".",
    ),
    key(
        "on",
        Kind::Table(CHILD_ON),
        "{}",
        "programs that are run at events of this child, as in { failed = [\"/usr/bin/notify\", \"arg\"] }",
        "Hooks: programs that are run when something happens to this child, by the event (`plumbd events` shows them). \
         Each is a program and its arguments, as for `command`. It runs as the child's user, in its directory, with its \
         limits and its environment, and besides with PLUMBD_EVENT, PLUMBD_CHILD, PLUMBD_REASON, PLUMBD_EXIT_CODE, \
         PLUMBD_SIGNAL and PLUMBD_SEQ (empty where they do not apply). Its standard input is the event as a line of \
         JSON. Nothing waits for it. One hook of a child runs at a time, and 16 events wait for theirs; if more come, \
         the oldest is dropped, and the log says how many were. A hook that runs for more than 30 s is killed, together \
         with everything that it started. The last line that it writes is logged. If it fails, that is logged as a \
         warning, and is no event. When the daemon ends, hooks have one more second, unless it has to end at once. A reload changes this without \
         restarting the child.",
    ),
    key(
        "log_keep",
        Kind::Size(1 << 10, 64 << 20),
        r#""64KiB""#,
        "how much of its last log lines `plumbd log` can show",
        "How many bytes of the child's last log lines are kept in memory for `plumbd log`: what the child wrote, \
         including lines beyond `log_limit`, and what the daemon logged about it. An entry takes some 60 bytes besides \
         its text. A reload changes this without restarting the child.",
    ),
    key(
        "log_limit",
        Kind::WordsOr(&[("none", "every line is logged, even if it keeps repeating")], &Kind::Table(LOG_LIMIT)),
        "{}",
        "lines beyond it are left out of the log and counted; or \"none\"",
        "How many of the child's lines are logged, that is, of what it writes to its standard output or standard \
         error, unless that is a link. Lines beyond this limit are left out and counted, and the count is logged every \
         5s. The last quarter is kept for errors and warnings, and a line longer than 1 KiB counts as several. While \
         lines are left out, the child's pipe is read 20 times a second, 16 KiB each time, so the child can write no \
         more than some 300 KiB/s. If the child writes the same line more than 5 times in 5s, further copies are left \
         out and counted, too. All children with no more than the default limit together log at most 3000 lines at \
         once, and 150 per second. A reload changes this limit without restarting the child.",
    ),
    key(
        "settings",
        Kind::Settings,
        "{}",
        "passed to the plugin, which checks them",
        "Passed to the plugin, which checks them: the settings of each plugin have a section of their own below. A \
         program of your own gets them as JSON, see plumbd-plugin(7).",
    ),
];

/// `health`.
pub const HEALTH: Keys = &[
    key(
        "command",
        Kind::List(&Kind::Text),
        "",
        "a program and its arguments; exit status 0: well",
        "A program and its arguments, each a string, as for `command` of the child. It runs as the child's user, in its \
         directory, with its environment and limits, and /dev/null as its standard input. With exit status 0 the \
         child is well. The last line that it writes is part of the reason otherwise. At most 1 MiB of what it writes \
         is read. What it starts ends with it.",
    ),
    key(
        "tcp",
        Kind::Text,
        "",
        "HOST:PORT; it accepts a connection: well",
        "An address, as in `127.0.0.1:7007`, `[::1]:7007` or `localhost:7007`. If it accepts a connection, the child is \
         well. Names are not looked up. It can't be an address of the child's own `listen`: plumbd holds that socket \
         open, so it accepts connections even if the child hangs.",
    ),
    key(
        "http",
        Kind::Text,
        "",
        "http://HOST:PORT/PATH; it answers with 2xx or 3xx: well",
        "A URL, as in `http://127.0.0.1:8080/health`. If the answer to GET has a status from 200 to 399, the child is \
         well. HOST is an address or `localhost`; names are not looked up. For https, use `command`, as in \
         `[\"curl\", \"-fsS\", \"https://...\"]`.",
    ),
    key(
        "every",
        Kind::Duration(MILLISECOND, YEAR),
        r#""10s""#,
        "from one check to the next",
        "The time from the beginning of one check to the beginning of the next. A check that takes longer delays the \
         next one. The first check begins between `every` and twice `every` after the child is up; when, follows from its \
         name, so that many children that start together are not checked all at once. Until a child with `ready = \"health\"` is ready, it is checked more often: after 100 ms, then \
         after twice as long each time, up to 1 s.",
    ),
    key(
        "timeout",
        Kind::Duration(MILLISECOND, YEAR),
        r#""5s""#,
        "a check that takes longer has failed",
        "How long a check may take. After that it has failed, and its whole process group gets SIGKILL.",
    ),
    key(
        "failures",
        Kind::Integer(1, 1000),
        "3",
        "this many failures in a row: unhealthy",
        "How many checks in a row must fail before the child is unhealthy.",
    ),
    key(
        "start",
        Kind::Duration(NOTHING, YEAR),
        r#""0s""#,
        "for this long after its start, failures do not count",
        "For this long after the child's process was started, no failure counts.",
    ),
];

/// How many of [`ON`] are about children.
const ABOUT_CHILDREN: usize = 15;
/// `on` of a child.
pub const CHILD_ON: Keys = ON.split_at(ABOUT_CHILDREN).0;
/// `on` of the daemon: every event that a program can be run at.
pub const ON: Keys = &[
    on("starting", "it has a new process", "A child has a process that is not ready yet."),
    on("ready", "it says that it is ready", "A child says that it is ready, or a check does (`ready` is not `exec`)."),
    on("up", "it serves", "A child serves."),
    on("exited", "its process ended", "A child's process ended, for whatever reason."),
    on("backoff", "it waits before its next start", "A child waits before its next start."),
    on("failed", "it was given up", "A child was given up: it stays down until an operator or a reload starts it."),
    on("finished", "it has done what it was there for", "A child ended as it should, and is not started again."),
    on("problem", "something is wrong with it", "Something is wrong with a child; the reason says what."),
    on("solved", "nothing is wrong any more", "What was wrong with a child is wrong no more."),
    on("unhealthy", "its checks failed", "Checks of a child failed, and it is asked to stop."),
    on("stalled", "it takes no bytes", "A sink took none of the bytes that wait for it, and is asked to stop."),
    on("watchdog", "it sent no WATCHDOG=1", "A child did not send WATCHDOG=1 in time, and gets SIGABRT."),
    on(
        "link-full",
        "a link into it is full",
        "A link has been full for a second, so that its source waits for its sink, which is the child of this event.",
    ),
    on("link-moves", "that link moves again", "A link that was full has room again."),
    on("stopping", "it is asked to end", "A child is asked to end; without a child, the daemon."),
    on("reload-begun", "a reload begins", "A reload begins."),
    on("reload-done", "a reload is over", "The new configuration is in force, and everything that changed is up."),
    on("reload-refused", "a reload was refused", "A reload was refused, and changed nothing; the reason says why."),
    on("reload-undone", "a reload failed", "A reload failed, and was undone; the reason says why."),
];

/// What is run at that event.
const fn on(event: &'static str, doc: &'static str, text: &'static str) -> Key {
    key(event, Kind::List(&Kind::Text), "", doc, text)
}

/// `backoff`.
pub const BACKOFF: Keys = &[
    key(
        "first",
        Kind::Duration(NOTHING, YEAR),
        r#""0ms""#,
        "before the first restart in a row; 0: at once, and 100ms before the second",
        "The wait before the first restart in a row. 0: no wait, and 100ms before the second restart.",
    ),
    key(
        "factor",
        Kind::Number(1.0, 1000.0),
        "2.0",
        "each wait is this many times the one before",
        "Each wait is this many times as long as the one before.",
    ),
    key("max", Kind::Duration(NOTHING, YEAR), r#""30s""#, "the longest wait", "The longest wait."),
    key(
        "reset_after",
        Kind::Duration(NOTHING, YEAR),
        r#""10s""#,
        "once it was up for this long, a new row begins",
        "If the child was up for this long before it ended, a new row begins.",
    ),
];

/// `start_limit`.
pub const START_LIMIT: Keys = &[
    key(
        "burst",
        Kind::Integer(1, 1_000_000),
        "10",
        "this many starts",
        "How many starts are allowed in the time that `within` sets.",
    ),
    key(
        "within",
        Kind::Duration(MILLISECOND, YEAR),
        r#""60s""#,
        "in this time",
        "The time in which starts are counted.",
    ),
];

/// `log_limit`.
pub const LOG_LIMIT: Keys = &[
    key(
        "lines",
        Kind::Integer(10, 1_000_000),
        "2000",
        "this many at once",
        "How many lines may come at once. Lines that were logged count less and less as time passes.",
    ),
    key(
        "per_second",
        Kind::Integer(1, 1_000_000),
        "100",
        "this many per second over time",
        "How many lines per second are logged over time. For errors and warnings, it is a third more.",
    ),
];

/// `success`.
pub const SUCCESS: Keys = &[
    key(
        "codes",
        Kind::List(&Kind::Integer(0, 255)),
        "[0]",
        "exit statuses",
        "Exit statuses that count as a success. 0 counts only if it is listed. For a Java program, which ends with 143 \
         when it is asked to stop, write `[0, 143]`.",
    ),
    key(
        "signals",
        Kind::List(&Kind::Signal(NO_END)),
        "[]",
        "signals that it was killed by",
        "Signals that the child may be killed by, as in `[\"SIGTERM\"]`.",
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
        "the source",
        "The source: the link is its standard output, or its standard error if `stream` says so. A child can be the \
         source of one link for each of the two.",
    ),
    key(
        "stream",
        Kind::Words(&[("stdout", "standard output"), ("stderr", "standard error, of a child with `command`")]),
        r#""stdout""#,
        "stdout | stderr: which of the source's outputs the link is",
        "Which of the source's outputs the link is. With `stderr`, what the program reports there goes to the sink \
         and not to the daemon's log, which then has only what the daemon itself says about the child. Both outputs of \
         a program may be linked, to the same sink or to two. If the sink takes nothing and the link is full, the \
         program waits when it reports an error. A link from standard error carries lines. Built-in plugins log to \
         their standard error, so that can't be linked.",
    ),
    required(
        "to",
        Kind::Name,
        "the sink: its standard input",
        "The sink: its standard input is the link. Several sources can feed one sink.",
    ),
    key(
        "capacity",
        PIPE,
        r#""1MiB""#,
        "how much the link holds while the sink is busy",
        "How much the link holds while the sink is busy or dead. When the link is full, its source waits. An ordinary \
         user gets the most that pipe(7) allows if that is less; `plumbd status` shows the actual capacity.",
    ),
    key(
        "protocol",
        Kind::Words(&[
            ("lines", "a message is a line"),
            ("records", "the record protocol of plumbd-plugin(7), with acknowledgements"),
        ]),
        "",
        "lines | records; default: records between built-in plugins, else lines",
        "How the link carries messages. The default is `records` between two built-in plugins, otherwise `lines`.",
    ),
];
