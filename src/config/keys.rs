//! Every key of a configuration: its name, what it is, its default, what it
//! does.
//!
//! The one table. The checks read names, defaults and ranges from it;
//! plumbd.toml(5) and the JSON schema are made of it; etc/plumbd.toml is held
//! against it by a test.

mod kind;

pub use kind::{Key, Keys, Kind, Useless, Word};

use super::value::YEAR;
use crate::link::record::MESSAGE_MAX;
use crate::plugin::shared::MOST_INSTANCES;
use nix::sys::signal::Signal;
use std::time::Duration;

const NOTHING: Duration = Duration::ZERO;
const MILLISECOND: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3600);
/// The least that a pipe holds, and the most that fcntl(2) F_SETPIPE_SZ takes
/// by a power of two.
const PIPE: Kind = Kind::Size(4 << 10, 1 << 30);
const MAX_CONNECTIONS: u64 = 1_000_000;
/// TCP_KEEPIDLE takes 32,767 s at most (MAX_TCP_KEEPIDLE in the kernel's net/tcp.h).
const KEEPALIVE_MAX: Duration = Duration::from_secs(9 * 3600);

const fn key(name: &'static str, kind: Kind, default: &'static str, doc: &'static str, text: &'static str) -> Key {
    Key { name, kind, default, required: false, doc, text }
}

const fn required(name: &'static str, kind: Kind, doc: &'static str, text: &'static str) -> Key {
    Key { name, kind, default: "", required: true, doc, text }
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
    key(
        "stop_timeout",
        Kind::Duration(NOTHING, YEAR),
        r#""10s""#,
        "bound on a drain",
        "How long a drain may take at the end of the daemon, and in a reload that stops children. Then all children that \
         are still there are asked to stop at once, without regard to their order, but for loggers, which have 2 s once \
         nothing more can come. So an end takes at most this long, and the longest `stop_timeout` of a child, and 6 s. \
         What the links still hold then is logged as lost, and the exit status is 1.",
    ),
];

/// `[children.NAME]`.
pub const CHILD: Keys = &[
    key(
        "plugin",
        Kind::Words(&[
            ("echo", "the network echo server, see SETTINGS OF ECHO"),
            ("logger", "saves messages to a file, see SETTINGS OF LOGGER"),
        ]),
        "",
        "a built-in plugin, echo or logger; or else:",
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
    key(
        "settings",
        Kind::Settings,
        "{}",
        "given to the plugin; each plugin checks its own",
        "Given to the plugin, which checks its own: see SETTINGS OF ECHO and SETTINGS OF LOGGER. A program of your own \
         gets them as JSON, see plumbd-plugin(7).",
    ),
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
        "lines | records; records between echo and logger, else lines",
        "How messages stand in the link. The default is records between echo and logger, else lines.",
    ),
];

/// `settings` of echo.
pub const ECHO: Keys = &[
    key(
        "echo_after",
        Kind::Words(&[
            ("queued", "it is in a pipe that the supervisor holds: survives SIGKILL of any child"),
            ("saved", "it is in the file, as every reader of it sees: survives SIGKILL of every process at once"),
            ("synced", "it is on the disk, fdatasync(2) returned: survives power loss"),
        ]),
        r#""saved""#,
        "queued | saved | synced: what has happened to a message before its echo leaves",
        "What has happened to a message before its echo leaves.",
    ),
    key(
        "framing",
        Kind::Words(&[("line", "a message ends at a newline"), ("read", "each read from the socket is a message")]),
        r#""line""#,
        "line: a message ends at a newline; read: each read is one",
        "What a message is. Clients get each byte back as it came, whatever this is.",
    ),
    key(
        "partial_after",
        Kind::Duration(MILLISECOND, HOUR),
        r#""1s""#,
        "bytes with no newline become a message when this long idle",
        "Bytes with no newline become a message when the connection has been idle for this long. A lost segment takes \
         0.2 s and more to arrive, so with less than the default a line may be saved in two.",
    ),
    key(
        "max_message",
        Kind::Size(1, MESSAGE_MAX as u64),
        r#""64KiB""#,
        "longer ones are saved in parts, in order, none lost",
        "Longer messages are saved in parts, in order, none lost. At most a quarter of the link's capacity.",
    ),
    key(
        "max_connections",
        Kind::Integer(1, MAX_CONNECTIONS),
        "10000",
        "at the limit new clients wait in the backlog",
        "How many clients are served at once. Others wait in the backlog; none is refused.",
    ),
    key(
        "max_connections_per_address",
        Kind::Integer(0, MAX_CONNECTIONS),
        "0",
        "0: no limit",
        "How many clients of one address are served at once, over all instances; others are closed at once and \
         counted. 0: no limit. Two that come to two instances at the same instant may both be refused where there was \
         room for one.",
    ),
    key(
        "ipv6_prefix",
        Kind::Integer(1, 128),
        "64",
        "IPv6 addresses with these bits in common count as one",
        "To `max_connections_per_address`, IPv6 addresses that have this many bits in common are one address: a host \
         usually has all addresses of a /64. An IPv4-mapped address is an IPv4 address.",
    ),
    key(
        "idle_timeout",
        Kind::Duration(NOTHING, YEAR),
        r#""0s""#,
        "0s: none",
        "A client that sends nothing for so long is disconnected. 0s: never.",
    ),
    key(
        "send_timeout",
        Kind::Duration(NOTHING, YEAR),
        r#""60s""#,
        "a client that takes nothing of what is due to it for this long is closed; 0s: none",
        "A client that takes nothing of what is due to it for this long, or up to a quarter longer, is closed with a \
         reset and counted as `send_timeouts`. What counts is what its kernel acknowledges, so a client that reads \
         slowly, but steadily, stays; but a kernel whose buffer was full acknowledges nothing before some part of it, \
         about a sixteenth, is free again. 0s: never.",
    ),
    key(
        "keepalive",
        Kind::Duration(NOTHING, KEEPALIVE_MAX),
        r#""60s""#,
        "after this long a silent peer is asked whether it is there; 0s: never",
        "After this long without a byte, in whole seconds rounded up, the kernel asks the client's kernel whether it is \
         still there, and asks three times more in the time that follows: a client that vanished is closed after \
         twice this long. If an echo is due to it, `send_timeout` closes it. 0s: never.",
    ),
    key(
        "max_memory",
        Kind::Size(1 << 20, 1 << 40),
        r#""256MiB""#,
        "of all connections together; past it nobody new is read",
        "How many bytes all connections may hold: messages that are not complete, are not saved, or whose echoes are \
         not taken. Past it, who holds nothing is not read until others let go of some, first come, first served; \
         nothing is lost. A part is kept for the first 4 KiB of every client, so clients that take no echoes keep \
         nobody with short messages waiting. At least 8 times `max_message`. Besides, the kernel has up to some 400 \
         KiB for a client that neither is read nor reads.",
    ),
    key(
        "allow",
        Kind::List(&Kind::Network),
        r#"["0.0.0.0/0", "::/0"]"#,
        "networks; others are closed at once and counted",
        "Networks whose clients are served, as in `10.0.0.0/8` or `::1`. Others are closed at once and counted. \
         IPv4-mapped networks, as in `::ffff:10.0.0.0/104`, are the IPv4 ones.",
    ),
];

/// `settings` of logger.
pub const LOGGER: Keys = &[
    required(
        "file",
        Kind::Path,
        "the message file; its folder must exist",
        "The message file. Its folder must exist, and the child must be allowed to write to it. The file is locked: a \
         second logger on it waits. In a folder that others may write to than root and the child's user, it must belong to \
         one of those and have one name, and no symbolic link is followed: else the logger waits, and says why.",
    ),
    key(
        "mode",
        Kind::Octal,
        r#""0640""#,
        "the file's, when it is created",
        "The mode of the file when it is created; the child's `umask` takes bits away. A rotation gives the new file \
         what the old one has by then: mode, owner, group, access control list and user attributes. So to change them \
         later, change the file.",
    ),
    key(
        "group",
        Kind::Text,
        r#""""#,
        "the file's, when it is created, and so its archives'; empty: as for any new file",
        "The group of the file when it is created, by name or by number, which its archives get too. Without root, it \
         must be one of the child's own groups. Empty: the file gets the group that any file gets which the child \
         creates.",
    ),
    key(
        "format",
        Kind::Words(&[
            ("text", "TIME PEER MESSAGE, with everything escaped that could steer a terminal"),
            ("raw", "the message's bytes and a newline, nothing else"),
            ("json", "an object a line: time, child, peer, message or message_base64, more"),
        ]),
        r#""text""#,
        "text | raw | json",
        "How a message stands in the file, see THE MESSAGE FILE.",
    ),
    key(
        "sync",
        Kind::WordsOr(
            &[("asked", "when a source asks, as echo does with echo_after = \"synced\""), ("always", "every batch")],
            &Kind::Duration(MILLISECOND, HOUR),
        ),
        r#""asked""#,
        "asked: when a source asks; always; \"1s\": at least so often",
        "When the file is brought to the disk with fdatasync(2). A duration: at least so often, and when a source asks.",
    ),
    key(
        "rotate",
        Kind::Table(ROTATE),
        "{}",
        "as in { size = \"100MiB\", age = \"24h\", keep = 14, compress = \"zstd\" }; {}: never",
        "When the logger renames its file and begins a new one, and what becomes of the renamed ones, which are called \
         `FILE.20261122T150405.123456Z`, with .gz or .zst where they are compressed. `tail -F` loses no line by it. \
         With neither `size` nor `age` it never does.",
    ),
    key(
        "when_full",
        Kind::Words(&[
            ("wait", "clients wait, and status and log say so; nothing is lost, and it goes on by itself"),
            ("drop-archives", "the oldest rotated files are removed first, then clients wait"),
        ]),
        r#""wait""#,
        "wait | drop-archives: the oldest rotated files first, then wait: clients wait, nothing is lost",
        "What is done when the disk is full.",
    ),
];

/// `rotate`.
pub const ROTATE: Keys = &[
    key(
        "size",
        Kind::Size(4 << 10, 1 << 60),
        "",
        "rotate when the file has so many bytes; two rotations are at least 10s apart",
        "Rotate when the file has so many bytes. Two rotations are at least 10s apart.",
    ),
    key(
        "age",
        Kind::Duration(Duration::from_secs(10), YEAR),
        "",
        "rotate when its first message is so old",
        "Rotate when its first message is so old.",
    ),
    key(
        "keep",
        Kind::Integer(1, 100_000),
        "",
        "so many rotated files are kept; else all",
        "How many rotated files are kept, the newest. Without it, all are.",
    ),
    key(
        "keep_size",
        Kind::Size(4 << 10, 1 << 60),
        "",
        "so many bytes of rotated files are kept, and always the newest; else all",
        "How many bytes of rotated files are kept, and always the newest file. Without it, all are.",
    ),
    key(
        "compress",
        Kind::Words(&[("none", "they stay as they are"), ("gzip", "as .gz"), ("zstd", "as .zst")]),
        r#""none""#,
        "none | gzip | zstd: in the background, at low priority",
        "How rotated files are compressed, in the background at low priority.",
    ),
];

/// The settings of that built-in plugin.
pub fn settings_of(plugin: &str) -> Option<Keys> {
    match plugin {
        "echo" => Some(ECHO),
        "logger" => Some(LOGGER),
        _ => None,
    }
}

/// Every table, with what it is called.
pub const TABLES: &[(&str, Keys)] = &[
    ("the file", FILE),
    ("[daemon]", DAEMON),
    ("[children.NAME]", CHILD),
    ("backoff", BACKOFF),
    ("start_limit", START_LIMIT),
    ("log_limit", LOG_LIMIT),
    ("success", SUCCESS),
    ("[[links]]", LINK),
    ("settings of echo", ECHO),
    ("settings of logger", LOGGER),
    ("rotate", ROTATE),
];

/// The known name nearest to one that is not known; `None` where none is near.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_lowercase().replace('-', "_");
    let near = known.into_iter().map(|other| (strsim::damerau_levenshtein(&name, &other.to_lowercase()), other));
    let (distance, other) = near.min_by_key(|(distance, _)| *distance)?;
    let shorter = name.chars().count().min(other.chars().count());
    (distance <= 1 + shorter / 4 && distance < shorter.max(2)).then_some(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_the_key_that_was_meant() {
        let known = || CHILD.iter().map(|key| key.name);
        assert_eq!(nearest("listten", known()), Some("listen"));
        assert_eq!(nearest("Start-Limit", known()), Some("start_limit"));
        assert_eq!(nearest("comand", known()), Some("command"));
        assert_eq!(nearest("colour", known()), None);
        assert_eq!(nearest("x", ["to"]), None);
        assert_eq!(nearest("x", []), None);
    }

    #[test]
    fn a_long_name_is_compared_in_bounded_time() {
        assert_eq!(nearest(&"x".repeat(100_000), ["listen"]), None);
    }
}
