use super::output::tests::{over, syslog_at};
use super::*;
use crate::sys::pipe::Pipe;
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixDatagram;

fn journal(output: Output) -> &'static Journal {
    Box::leak(Box::new(Journal::new(output)))
}

fn piece(priority: Priority, text: &[u8]) -> Piece<'_> {
    Piece { priority, text, continues: false }
}

fn say(journal: &Journal, text: &str) {
    let entry = Entry { priority: Priority::WARNING, child: "echo", text };
    journal.add(&mut journal.state(), &entry, Instant::now());
}

#[test]
fn a_full_pipe_never_blocks_and_dropped_entries_are_reported() {
    const LINES: usize = 10_000;
    let Pipe { read, write } = Pipe::new(4096).unwrap();
    let journal = journal(over(write));
    for n in 0..LINES {
        say(journal, &format!("{n} {}", "x".repeat(100)));
    }
    assert!(matches!(journal.waiting(), Waiting::Writable(_)));

    let mut lines = BufReader::new(std::fs::File::from(read)).lines();
    let (mut seen, mut dropped) = (0, 0);
    while seen + dropped < LINES {
        journal.flush(Instant::now());
        let line = lines.next().unwrap().unwrap();
        let text = line.split_once(": ").unwrap().1;
        match text.strip_suffix(" entries could not be logged") {
            Some(count) => dropped += count.parse::<usize>().unwrap(),
            None => {
                assert!(text.starts_with(&format!("{} ", seen + dropped)), "{line}");
                seen += 1;
            }
        }
    }
    assert!(dropped > 0);
    assert!(matches!(journal.flush(Instant::now()), Waiting::Nothing));
}

#[test]
fn entries_wait_for_a_syslog_daemon_that_starts_later() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let journal = journal(syslog_at(&path));
    say(journal, "early");
    let Waiting::Until(then) = journal.waiting() else { panic!("it waits for nothing") };
    let daemon = UnixDatagram::bind(&path).unwrap();
    assert!(matches!(journal.flush(then - Duration::from_millis(1)), Waiting::Until(at) if at == then));
    assert!(matches!(journal.flush(then), Waiting::Nothing));
    let mut got = [0; 100];
    let n = daemon.recv(&mut got).unwrap();
    assert!(got[..n].ends_with(b": echo: early"));
}

#[test]
fn if_nobody_reads_any_more_nothing_waits_for_ever() {
    let Pipe { read, write } = Pipe::new(4096).unwrap();
    let journal = journal(over(write));
    drop(read);
    say(journal, "one");
    say(journal, "two");
    assert!(matches!(journal.flush(Instant::now()), Waiting::Nothing));
}

#[test]
fn the_end_waits_no_longer_than_it_may() {
    let Pipe { read: _read, write } = Pipe::new(4096).unwrap();
    let journal = journal(over(write));
    for _ in 0..100 {
        say(journal, &"x".repeat(1000));
    }
    let start = Instant::now();
    journal.finish(start + Duration::from_millis(50));
    assert!(start.elapsed() >= Duration::from_millis(50));
    assert!(matches!(journal.waiting(), Waiting::Writable(_)));
}

#[test]
fn a_message_of_several_lines_is_several_entries() {
    let Pipe { read, write } = Pipe::new(4096).unwrap();
    let journal = Journal::new(over(write));
    log::set_max_level(LevelFilter::Info);
    journal.log(&Record::builder().level(log::Level::Info).target("logger").args(format_args!("a\nb")).build());
    drop(journal);
    let lines: Vec<String> = BufReader::new(std::fs::File::from(read)).lines().map(Result::unwrap).collect();
    assert!(lines[0].ends_with(" INFO logger: a"), "{lines:?}");
    assert!(lines[1].ends_with(" INFO logger: b"), "{lines:?}");
}

/// Everything that was written to that pipe, without the times.
fn all(journal: Journal, read: std::os::fd::OwnedFd) -> Vec<String> {
    drop(journal);
    let lines = BufReader::new(std::fs::File::from(read)).lines();
    lines.map(|line| line.unwrap().split_once(' ').unwrap().1.to_owned()).collect()
}

#[test]
fn repeated_lines_are_summed_up_and_hide_nothing_of_another_speaker() {
    let Pipe { read, write } = Pipe::new(65_536).unwrap();
    let journal = Journal::new(over(write));
    for _ in 0..100 {
        journal.child_line("echo", Some(LogLimit::default()), piece(Priority::WARNING, b"cannot \x1b go on"));
    }
    journal.own_line(Priority::WARNING, "echo", b"cannot \x1b go on");
    journal.child_line("logger", Some(LogLimit::default()), piece(Priority::WARNING, b"cannot \x1b go on"));
    let at = journal.state().sum_at.unwrap();
    journal.sum_up(&mut journal.state(), at - Duration::from_millis(1), false);
    journal.sum_up(&mut journal.state(), at, false);
    assert_eq!(journal.state().sum_at, None, "nothing to wake up for");
    let mut expected = vec!["WARN echo: cannot \\x1b go on"; 6];
    expected.extend(["WARN logger: cannot \\x1b go on", "WARN echo: 95 more times in 5 s: cannot \\x1b go on"]);
    assert_eq!(all(journal, read), expected);
}

#[test]
fn lines_that_were_counted_are_reported_at_the_end_at_the_latest() {
    let Pipe { read, write } = Pipe::new(1 << 20).unwrap();
    let journal = Journal::new(over(write));
    for n in 0..3000 {
        journal.child_line(
            "echo",
            Some(LogLimit::default()),
            piece(Priority::from(log::Level::Info), n.to_string().as_bytes()),
        );
    }
    let left_out = 3000 - 1500;
    journal.sum_up(&mut journal.state(), Instant::now(), true);
    let lines = all(journal, read);
    let last = lines.last().unwrap();
    assert!(last.ends_with(" not logged, because of log_limit"), "{last}");
    let count: i32 = last.strip_prefix("WARN echo: ").unwrap().split(' ').next().unwrap().parse().unwrap();
    // The share grows while the test runs.
    assert!((left_out - 1000..=left_out).contains(&count), "{last}");
    assert_eq!(lines.len() - 1 + usize::try_from(count).unwrap(), 3000);
}

#[test]
fn the_supervisors_own_entries_are_never_cut_off() {
    let Pipe { read, write } = Pipe::new(1 << 20).unwrap();
    let journal = Journal::new(over(write));
    for n in 0..5000 {
        journal.own_line(Priority::WARNING, entry::OWN, n.to_string().as_bytes());
    }
    assert_eq!(all(journal, read).len(), 5000);
}

#[test]
fn each_facility_is_known_to_syslog() {
    assert!(FACILITIES.iter().all(|(name, _)| name.parse::<::syslog::Facility>().is_ok()));
}

#[test]
fn the_end_waits_for_a_slow_stream_but_not_for_an_absent_daemon() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let journal = journal(syslog_at(&path));
    let start = Instant::now();
    say(journal, "nobody");
    journal.finish(Instant::now() + Duration::from_millis(900));
    assert!(start.elapsed() < Duration::from_millis(800), "{:?}", start.elapsed());

    let daemon = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let reader = std::thread::spawn(move || {
        let (stream, _) = daemon.accept().unwrap();
        std::thread::sleep(Duration::from_millis(50));
        BufReader::new(stream).split(0).take(201).map(|entry| entry.unwrap().len()).sum::<usize>()
    });
    for _ in 0..200 {
        say(journal, &"x".repeat(1000));
    }
    journal.finish(Instant::now() + Duration::from_secs(30));
    assert!(reader.join().unwrap() > 200_000);
    assert_eq!(journal.state().backlog.unsent(), 0);
}
