//! The plugin `echo`, seen by its supervisor and its sink.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use crate::fake_sink::{Got, Setup, connect, eventually, has_nothing, read_exact, read_to_end};
use nix::sys::signal::Signal;
use nix::sys::socket::{MsgFlags, send, setsockopt, sockopt};
use plumbd::link::record::{Flags, Peer};
use serde_json::json;
use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;

/// Each connection's payloads, joined.
pub(crate) fn by_connection(records: &[Got]) -> HashMap<u32, Vec<u8>> {
    let mut joined = HashMap::<u32, Vec<u8>>::new();
    for record in records {
        joined.entry(record.connection).or_default().extend_from_slice(&record.payload);
    }
    joined
}

/// Bytes of every value, the same each time.
fn noise(count: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    })
    .take(count)
    .collect()
}

/// Writes until the other side takes no more. Returns how many bytes it took.
pub(crate) fn write_all_it_takes(client: &mut TcpStream, bytes: &[u8]) -> usize {
    client.set_nonblocking(true).unwrap();
    let mut sent = 0;
    while sent < bytes.len() {
        match client.write(&bytes[sent..]) {
            Ok(count) => sent += count,
            Err(e) if e.kind() == ErrorKind::WouldBlock => break,
            Err(e) => panic!("{e}"),
        }
    }
    client.set_nonblocking(false).unwrap();
    sent
}

#[test]
fn a_saved_echo_is_sent_when_its_message_is_acknowledged() {
    let mut echo = Setup::new(json!({})).start();
    let mut client = echo.client();
    client.write_all(b"one\r\ntwo\n\nthree\n").unwrap();
    let records = echo.sink.records(4);
    let payloads: Vec<_> = records.iter().map(|r| r.payload.as_slice()).collect();
    assert_eq!(payloads, [&b"one"[..], b"two", b"", b"three"]);
    assert_eq!(records.iter().map(|r| r.sequence).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert!(records.iter().all(|r| r.flags == Flags::FIRST.with(Flags::LAST)));
    assert_eq!(records[0].peer, Peer::Net(client.local_addr().unwrap()));

    // Once a later message is queued, any echo that left too early would have arrived.
    let mut other = echo.client();
    other.write_all(b"later\n").unwrap();
    let later = echo.sink.records(1);
    assert!(has_nothing(&client));
    echo.sink.acknowledge(&records[1]);
    assert_eq!(read_exact(&mut client, 9), b"one\r\ntwo\n");
    echo.sink.acknowledge(&later[0]);
    assert_eq!(read_exact(&mut other, 6), b"later\n");
    assert_eq!(read_exact(&mut client, 7), b"\nthree\n");
    assert!(has_nothing(&client));
    assert_eq!((echo.metric("messages"), echo.metric("bytes"), echo.metric("connections")), (5, 22, 2));
}

#[test]
fn a_queued_echo_waits_for_no_acknowledgement() {
    let mut echo = Setup::new(json!({ "echo_after": "queued" })).start();
    let mut client = echo.client();
    client.write_all(b"hello\n").unwrap();
    assert_eq!(read_exact(&mut client, 6), b"hello\n");
    assert_eq!(echo.sink.records(1)[0].payload, b"hello");
}

#[test]
fn a_synced_echo_asks_for_the_disk() {
    let mut echo = Setup::new(json!({ "echo_after": "synced" })).start();
    let mut client = echo.client();
    client.write_all(b"hello\n").unwrap();
    let records = echo.sink.records(1);
    assert!(records[0].flags.has(Flags::SYNC));
    echo.sink.acknowledge(&records[0]);
    assert_eq!(read_exact(&mut client, 6), b"hello\n");
}

#[test]
fn an_acknowledgement_for_another_epoch_releases_no_echo() {
    let mut echo = Setup::new(json!({})).start();
    let mut client = echo.client();
    client.write_all(b"one\n").unwrap();
    let one = echo.sink.records(1).remove(0);
    echo.sink.acknowledge(&Got { epoch: one.epoch - 1, ..one.clone() });
    echo.sink.acknowledge(&Got { epoch: one.epoch + 1, sequence: 99, ..one.clone() });
    client.write_all(b"two\n").unwrap();
    let two = echo.sink.records(1).remove(0);
    assert!(has_nothing(&client));
    echo.sink.acknowledge(&two);
    assert_eq!(read_exact(&mut client, 8), b"one\ntwo\n");
}

#[test]
fn bytes_without_a_newline_become_a_message_when_idle() {
    let mut echo = Setup::new(json!({ "partial_after": 5 })).start();
    let mut client = echo.client();
    client.write_all(b"login: ").unwrap();
    let records = echo.sink.records(1);
    assert_eq!(records[0].payload, b"login: ");
    echo.sink.acknowledge(&records[0]);
    assert_eq!(read_exact(&mut client, 7), b"login: ");
    // The line end is echoed, but is not a message.
    client.write_all(b"\r\n").unwrap();
    assert_eq!(read_exact(&mut client, 2), b"\r\n");
    client.write_all(b"next\n").unwrap();
    let next = echo.sink.records(1);
    assert_eq!((next[0].payload.as_slice(), next[0].sequence), (&b"next"[..], 2));
}

#[test]
fn the_line_end_of_a_partial_message_is_echoed_after_it() {
    let mut echo = Setup::new(json!({ "partial_after": 5 })).start();
    let mut client = echo.client();
    client.write_all(b"abc").unwrap();
    let partial = echo.sink.records(1).remove(0);
    client.write_all(b"\n").unwrap();
    eventually("the newline was read", || echo.metric("bytes") == 4);
    assert!(has_nothing(&client));
    echo.sink.acknowledge(&partial);
    assert_eq!(read_exact(&mut client, 4), b"abc\n");
}

#[test]
fn a_long_line_is_saved_in_parts() {
    let mut echo = Setup::new(json!({ "max_message": 10_000 })).start();
    let mut client = echo.client();
    let line = "\u{20ac}".repeat(8000) + "\n";
    client.write_all(line.as_bytes()).unwrap();
    // Parts of 9999, 9999 and 4002 bytes: three, three and one record.
    let records = echo.sink.records(3 + 3 + 1);
    let shape: Vec<_> = records.iter().map(|r| (r.sequence, r.flags)).collect();
    let (first, last, more) = (Flags::FIRST, Flags::LAST, Flags::MORE);
    assert_eq!(
        shape,
        [
            (1, first.with(more)),
            (1, more),
            (1, last.with(more)),
            (2, first.with(more)),
            (2, more),
            (2, last.with(more)),
            (3, first.with(last)),
        ]
    );
    let joined: Vec<u8> = records.iter().flat_map(|r| r.payload.clone()).collect();
    assert_eq!(joined, line.trim_end().as_bytes());
    echo.sink.acknowledge(&records[6]);
    assert_eq!(read_exact(&mut client, line.len()), line.as_bytes());
    assert_eq!(echo.metric("messages"), 1);
}

#[test]
fn a_message_is_at_most_a_quarter_of_the_queue() {
    let mut echo = Setup::new(json!({})).capacity(16 * 1024).start();
    let mut client = echo.client();
    client.write_all(&[b'x'; 4097]).unwrap();
    client.write_all(b"\n").unwrap();
    let records = echo.sink.records(3);
    let parts: Vec<_> = records.iter().map(|r| (r.sequence, r.payload.len())).collect();
    let first = parts[0].1;
    assert_eq!(parts, [(1, first), (1, 4096 - first), (2, 1)]);
}

#[test]
fn a_half_closed_client_gets_all_its_echoes() {
    let mut echo = Setup::new(json!({})).start();
    let mut client = echo.client();
    client.write_all(b"one\nrest").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let records = echo.sink.records(2);
    assert_eq!(records[1].payload, b"rest");
    echo.sink.acknowledge(&records[1]);
    assert_eq!(read_to_end(&mut client), b"one\nrest");
    eventually("its connection is closed", || echo.metric("connections") == 0);
}

#[test]
fn binary_comes_back_byte_for_byte() {
    for framing in ["line", "read"] {
        let mut echo = Setup::new(json!({ "framing": framing })).start();
        let auto = echo.acknowledge_all();
        let bytes = noise(3_000_000);
        let mut client = echo.client();
        let mut writer = client.try_clone().unwrap();
        let sent = bytes.clone();
        let writing = std::thread::spawn(move || {
            writer.write_all(&sent).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        assert!(read_to_end(&mut client) == bytes, "{framing}");
        writing.join().unwrap();
        let records = auto.stop();
        if framing == "read" {
            assert!(by_connection(&records)[&1] == bytes);
        }
    }
}

#[test]
fn a_client_that_never_reads_slows_no_other() {
    let mut echo = Setup::new(json!({})).start();
    let auto = echo.acknowledge_all();
    let (mut hog, mut other) = (echo.client(), echo.client());
    let flood = b"a line whose echo is never read\n".repeat(10_000);
    let (mut sent, mut rounds) = (0, 0);
    // Until it takes nothing more while another client is served a thousand times.
    while rounds < 1000 {
        let taken = write_all_it_takes(&mut hog, &flood);
        sent += taken;
        rounds = if taken > 0 { 0 } else { rounds + 1 };
        other.write_all(b"quick\n").unwrap();
        assert_eq!(read_exact(&mut other, 6), b"quick\n");
        assert!(sent < 256 << 20, "it never stops taking bytes");
    }
    assert!(echo.resident() < 32 << 20, "{} bytes resident", echo.resident());
    // Nothing of it is lost.
    hog.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut hog).len(), sent);
    auto.stop();
}

#[test]
fn what_a_client_sent_before_it_reset_is_saved() {
    let mut echo = Setup::new(json!({})).start();
    for n in 0..50 {
        let mut client = echo.client();
        client.write_all(format!("line {n}\nhalf {n}").as_bytes()).unwrap();
        setsockopt(&client, sockopt::Linger, &nix::libc::linger { l_onoff: 1, l_linger: 0 }).unwrap();
        drop(client);
    }
    let records = echo.sink.records(100);
    let mut got: Vec<_> = records.iter().map(|r| String::from_utf8(r.payload.clone()).unwrap()).collect();
    let mut sent: Vec<_> = (0..50).flat_map(|n| [format!("line {n}"), format!("half {n}")]).collect();
    got.sort();
    sent.sort();
    assert_eq!(got, sent);
    echo.sink.acknowledge(&records[99]);
    eventually("all are closed", || echo.metric("connections") == 0);
    let mut client = echo.client();
    client.write_all(b"still here\n").unwrap();
    let next = echo.sink.records(1);
    echo.sink.acknowledge(&next[0]);
    assert_eq!(read_exact(&mut client, 11), b"still here\n");
}

#[test]
fn a_thousand_clients_each_get_their_own() {
    let mut echo = Setup::new(json!({})).start();
    let auto = echo.acknowledge_all();
    let mut clients: Vec<_> = (0..1000).map(|_| echo.client()).collect();
    for round in 0..3 {
        for (n, client) in clients.iter_mut().enumerate() {
            client.write_all(format!("client {n} round {round}\n").as_bytes()).unwrap();
        }
        for (n, client) in clients.iter_mut().enumerate() {
            let line = format!("client {n} round {round}\n");
            assert_eq!(read_exact(client, line.len()), line.as_bytes());
        }
    }
    assert_eq!((echo.metric("accepted"), echo.metric("connections")), (1000, 1000));
    drop(clients);
    eventually("all are closed", || echo.metric("connections") == 0);
    let records = auto.stop();
    assert_eq!(records.len(), 3000);
    assert!(records.windows(2).all(|pair| pair[1].sequence == pair[0].sequence + 1));
}

#[test]
fn a_full_queue_makes_clients_wait_and_loses_nothing() {
    let mut echo = Setup::new(json!({})).capacity(64 * 1024).start();
    let lines: Vec<u8> = (0..200_000).flat_map(|n| format!("line {n:100}\n").into_bytes()).collect();
    let mut clients = [echo.client(), echo.client(), echo.client()];
    let mut sent = vec![0; clients.len()];
    loop {
        let before = (sent.clone(), echo.metric("bytes"));
        for (client, sent) in clients.iter_mut().zip(&mut sent) {
            *sent += write_all_it_takes(client, &lines[*sent..]);
            assert!(*sent < lines.len(), "it never stops taking bytes");
        }
        if before == (sent.clone(), echo.metric("bytes")) && before.1 > 0 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    // The queue, the batch, and a buffer for each client.
    assert!(echo.metric("bytes") < 1 << 20, "{} bytes taken", echo.metric("bytes"));
    assert!(clients.iter().all(has_nothing));
    let auto = echo.acknowledge_all();
    for (client, sent) in clients.iter_mut().zip(&sent) {
        client.shutdown(Shutdown::Write).unwrap();
        assert!(read_to_end(client) == lines[..*sent]);
    }
    let saved = by_connection(&auto.stop());
    let mut saved: Vec<_> = saved.into_values().collect();
    let mut sent: Vec<_> = sent.iter().map(|sent| lines[..*sent].to_vec()).collect();
    sent.iter_mut().for_each(|bytes| bytes.retain(|byte| *byte != b'\n'));
    saved.sort();
    sent.sort();
    assert!(saved == sent, "{:?} {:?}", lengths(&saved), lengths(&sent));
}

#[test]
fn asked_to_stop_it_sends_every_echo_first() {
    let mut echo = Setup::new(json!({})).start();
    let (mut client, mut idle) = (echo.client(), echo.client());
    client.write_all(b"one\n").unwrap();
    let one = echo.sink.records(1).remove(0);
    client.write_all(b"two\nrest").unwrap();
    echo.signal(Signal::SIGTERM);
    assert_eq!(read_to_end(&mut idle), b"");
    let rest = echo.sink.records(2).remove(1);
    // A client that connects now is served by the next echo.
    let mut next_client = echo.client();
    next_client.write_all(b"wait\n").unwrap();
    assert!(has_nothing(&client) && echo.is_running());
    echo.sink.acknowledge(&one);
    echo.sink.acknowledge(&rest);
    assert_eq!(read_to_end(&mut client), b"one\ntwo\nrest");
    assert_eq!(echo.wait().code(), Some(0), "{}", echo.log());
    let mut next = Setup::new(json!({})).listener(echo.listener.try_clone().unwrap()).start();
    let waited = next.sink.records(1);
    next.sink.acknowledge(&waited[0]);
    assert_eq!(read_exact(&mut next_client, 5), b"wait\n");
    assert_ne!(waited[0].epoch, one.epoch);
}

#[test]
fn a_stop_under_load_echoes_all_that_was_saved() {
    let mut echo = Setup::new(json!({})).start();
    let auto = echo.acknowledge_all();
    let clients: Vec<_> = (0..20)
        .map(|_| {
            let mut client = echo.client();
            std::thread::spawn(move || {
                let (mut echoed, mut buffer) = (Vec::new(), [0; 4096]);
                let mut writer = client.try_clone().unwrap();
                // The connection may end with a reset while this client still sends.
                let writing = std::thread::spawn(move || (0..).find(|n| writeln!(writer, "line {n:200}").is_err()));
                while let Ok(count @ 1..) = client.read(&mut buffer) {
                    echoed.extend_from_slice(&buffer[..count]);
                }
                drop(client);
                writing.join().unwrap();
                echoed
            })
        })
        .collect();
    eventually("they are at it", || echo.metric("messages") > 2000);
    echo.signal(Signal::SIGTERM);
    assert_eq!(echo.wait().code(), Some(0), "{}", echo.log());
    let mut echoed: Vec<_> = clients.into_iter().map(|client| client.join().unwrap()).collect();
    echoed.iter_mut().for_each(|bytes| bytes.retain(|byte| *byte != b'\n'));
    // Some may not have got as far as sending anything.
    echoed.retain(|bytes| !bytes.is_empty());
    let mut saved: Vec<_> = by_connection(&auto.end()).into_values().collect();
    echoed.sort();
    saved.sort();
    assert!(echoed == saved, "{:?} {:?}", lengths(&echoed), lengths(&saved));
}

fn lengths(all: &[Vec<u8>]) -> Vec<usize> {
    all.iter().map(Vec::len).collect()
}

#[test]
fn asked_to_stop_it_gives_up_on_a_client_that_takes_nothing() {
    let mut echo = Setup::new(json!({})).start();
    let auto = echo.acknowledge_all();
    let mut hog = echo.client();
    let flood = b"a line whose echo is never read\n".repeat(10_000);
    let (mut last, mut bytes) = (1, 0);
    while last != bytes {
        last = bytes;
        write_all_it_takes(&mut hog, &flood);
        let mut other = echo.client();
        other.write_all(b"x\n").unwrap();
        read_exact(&mut other, 2);
        bytes = echo.metric("bytes") - 2 * echo.metric("accepted");
    }
    echo.signal(Signal::SIGTERM);
    assert_eq!(echo.wait().code(), Some(0), "{}", echo.log());
    auto.end();
}

#[test]
fn it_ends_when_the_sink_closes_the_replies() {
    let mut echo = Setup::new(json!({})).start();
    echo.sink.replies = None;
    assert_eq!(echo.wait().code(), Some(1));
    assert!(echo.log().contains("nobody acknowledges"), "{}", echo.log());
}

#[test]
fn it_ends_when_the_queue_has_no_reader_any_more() {
    for lines in [false, true] {
        let setup = Setup::new(json!({ "echo_after": "queued" }));
        let mut echo = if lines { setup.lines() } else { setup }.start();
        echo.sink.queue = None;
        // A process that another test has just forked has the other end until it executes its
        // program.
        eventually("it has ended", || {
            let sent = TcpStream::connect(echo.address).and_then(|mut client| client.write_all(b"to nobody\n"));
            sent.is_err() || !echo.is_running()
        });
        assert_eq!(echo.wait().code(), Some(1), "it exits by itself, not by a signal");
        assert!(echo.log().contains("nobody reads"), "{}", echo.log());
    }
}

#[test]
fn all_that_arrived_while_it_was_stopped_is_echoed_whatever_cuts_a_read_short() {
    // epoll reports all of this only once.
    let many = "x".repeat(1023) + "\n";
    let many = many.repeat(50);
    for (end, urgent) in [(false, false), (true, false), (false, true), (true, true)] {
        let echo = Setup::new(json!({ "echo_after": "queued" })).start();
        let mut client = echo.client();
        echo.signal(Signal::SIGSTOP);
        client.write_all(b"a\n").unwrap();
        if urgent {
            // recv(2) stops before an urgent byte.
            assert_eq!(send(client.as_raw_fd(), b"!", MsgFlags::MSG_OOB), Ok(1));
        }
        client.write_all(many.as_bytes()).unwrap();
        if end {
            client.shutdown(Shutdown::Write).unwrap();
        }
        echo.signal(Signal::SIGCONT);
        let sent = format!("a\n{}{many}", if urgent { "!" } else { "" });
        let got = if end { read_to_end(&mut client) } else { read_exact(&mut client, sent.len()) };
        assert!(got == sent.as_bytes(), "end: {end}, urgent: {urgent}, {} bytes", got.len());
    }
}

#[test]
fn a_client_that_sends_without_end_holds_up_no_other() {
    let mut echo = Setup::new(json!({ "echo_after": "queued" })).start();
    let mut other = echo.client();
    let mut hog = echo.client();
    let mut echoes = hog.try_clone().unwrap();
    let _auto = echo.acknowledge_all();
    // Empty messages: a few writes of them fill all the room that there is before the sink.
    let sends = std::thread::spawn(move || while hog.write_all(&[b'\n'; 65536]).is_ok() {});
    let reads = std::thread::spawn(move || {
        let mut came = 0;
        let mut buffer = [0; 65536];
        while let Ok(1..) = echoes.read(&mut buffer).inspect(|n| came += n) {}
        came
    });
    for _ in 0..300 {
        other.write_all(b"ping\n").unwrap();
        assert_eq!(read_exact(&mut other, 5), b"ping\n");
    }
    echo.signal(Signal::SIGKILL);
    sends.join().unwrap();
    assert!(reads.join().unwrap() > 65536, "the client that sends without end was not served");
}

#[test]
fn an_ordinary_sink_gets_lines() {
    let mut echo = Setup::new(json!({ "echo_after": "queued", "max_message": 8192 })).lines().start();
    let mut client = echo.client();
    let long = "x".repeat(8192);
    let input = format!("one\r\n\n{long}\nlast\n");
    client.write_all(input.as_bytes()).unwrap();
    assert_eq!(read_exact(&mut client, input.len()), input.as_bytes());
    assert_eq!(echo.sink.lines(4), format!("one\n\n{long}\nlast\n"));
}

#[test]
fn a_full_queue_of_lines_makes_clients_wait() {
    let mut echo = Setup::new(json!({ "echo_after": "queued" })).lines().capacity(4096).start();
    let mut client = echo.client();
    let lines = b"0123456789abcde\n".repeat(4096);
    client.write_all(&lines).unwrap();
    client.write_all(b"last\n").unwrap();
    let mut other = echo.client();
    other.write_all(b"end\n").unwrap();
    eventually("both were heard", || echo.metric("connections") == 2);
    assert!(has_nothing(&other));
    let got = echo.sink.lines(4096 + 2);
    assert_eq!(read_exact(&mut client, lines.len()), lines);
    assert_eq!(read_exact(&mut other, 4), b"end\n");
    assert!(got.contains("\nlast\n") && got.contains("\nend\n"));
}

#[test]
fn an_ordinary_sink_cannot_acknowledge() {
    let mut echo = Setup::new(json!({})).lines().spawn();
    assert_eq!(echo.wait().code(), Some(1));
    assert!(echo.log().contains("does not acknowledge"), "{}", echo.log());
}

#[test]
fn at_the_limit_new_clients_wait() {
    let mut echo = Setup::new(json!({ "max_connections": 2, "echo_after": "queued" })).start();
    let mut clients = [echo.client(), echo.client(), echo.client()];
    for client in &mut clients {
        client.write_all(b"hello\n").unwrap();
    }
    let [first, second, third] = &mut clients;
    assert_eq!(read_exact(first, 6), b"hello\n");
    assert_eq!(read_exact(second, 6), b"hello\n");
    assert!(has_nothing(third));
    assert_eq!(echo.metric("accepted"), 2);
    first.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_exact(third, 6), b"hello\n");
    assert_eq!(echo.sink.records(3).len(), 3);
}

#[test]
fn out_of_descriptors_new_clients_wait() {
    let mut echo = Setup::new(json!({ "echo_after": "queued" })).descriptors(20).start();
    let mut clients: Vec<_> = (0..30).map(|_| echo.client()).collect();
    for client in &mut clients {
        client.write_all(b"hello\n").unwrap();
    }
    // The accepted ones are served. As they leave, the others are accepted.
    for client in &mut clients {
        assert_eq!(read_exact(client, 6), b"hello\n");
        client.shutdown(Shutdown::Write).unwrap();
    }
    assert_eq!(echo.metric("accepted"), 30);
    assert!(echo.is_running());
}

#[test]
fn it_reports_the_end_of_a_shortage_once_the_last_waiting_client_is_accepted_and_another_leaves() {
    let echo = Setup::new(json!({ "echo_after": "queued" })).descriptors(20).start();
    let mut clients = Vec::new();
    while !echo.log().contains("cannot accept clients for now: Too many open files") {
        let before = echo.metric("accepted");
        clients.push(echo.client());
        eventually("it is in, or it waits", || {
            echo.metric("accepted") > before || echo.log().contains("cannot accept")
        });
    }
    // It may have reported this when no client was waiting yet.
    let inside = echo.metric("accepted");
    if clients.len() as u64 == inside {
        clients.push(echo.client());
    }
    // The client that waits takes the place of the first that leaves.
    for (waits, client) in (0..).zip(clients.iter().take(2)) {
        client.shutdown(Shutdown::Write).unwrap();
        let all = u64::try_from(clients.len()).unwrap();
        eventually("a place is taken, then one is free", || {
            (echo.metric("accepted"), echo.metric("connections")) == (all, inside - waits)
        });
    }
    eventually("it says so", || echo.log().contains("accepts clients again"));
}

#[test]
fn clients_that_are_not_allowed_are_closed_at_once() {
    let echo = Setup::new(json!({ "allow": ["10.0.0.0/8"] })).start();
    let mut client = echo.client();
    assert_eq!(read_to_end(&mut client), b"");
    eventually("it is counted", || (echo.metric("refused"), echo.metric("accepted")) == (1, 0));
}

#[test]
fn a_silent_client_is_disconnected_after_idle_timeout() {
    let mut echo = Setup::new(json!({ "idle_timeout": 100 })).start();
    let (mut silent, mut owed) = (echo.client(), echo.client());
    owed.write_all(b"hello\n").unwrap();
    let record = echo.sink.records(1).remove(0);
    assert_eq!(read_to_end(&mut silent), b"");
    eventually("the silent one is gone", || echo.metric("connections") == 1);
    assert!(has_nothing(&owed));
    echo.sink.acknowledge(&record);
    assert_eq!(read_to_end(&mut owed), b"hello\n");
}

#[test]
fn short_connections_leave_no_memory_behind_even_with_a_long_idle_timeout() {
    let mut echo = Setup::new(json!({ "idle_timeout": 86_400_000 })).start();
    let sink = echo.acknowledge_all();
    let mut all = 0;
    let mut come_and_go = |count: u64| {
        for each in 1..=count {
            let mut client = echo.client();
            if each % 1000 == 0 {
                client.write_all(b"hello\n").unwrap();
                assert_eq!(read_exact(&mut client, 6), b"hello\n");
            }
            // A reset, so that no port stays in TIME_WAIT for a minute.
            let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
            setsockopt(&client, sockopt::Linger, &linger).unwrap();
            drop(client);
            all += 1;
            // If more come at once than the backlog holds, they wait for a second try.
            if each % 50 == 0 {
                eventually("they have come and gone", || {
                    (echo.metric("accepted"), echo.metric("connections")) == (all, 0)
                });
            }
        }
        echo.resident()
    };
    let before = come_and_go(2_000);
    let after = come_and_go(20_000);
    // Their timers would be 640,000 bytes.
    assert!(after < before + 400_000, "{before} bytes, then {after}");
    drop(sink.stop());
}

#[test]
fn ipv6_clients_are_served() {
    let Ok(listener) = TcpListener::bind("[::]:0") else { return };
    let port = listener.local_addr().unwrap().port();
    let mut echo = Setup::new(json!({})).listener(listener).start();
    let mut six = connect(([0, 0, 0, 0, 0, 0, 0, 1], port).into());
    six.write_all(b"six\n").unwrap();
    assert_eq!(echo.sink.records(1)[0].peer, Peer::Net(six.local_addr().unwrap()));
    let mut four = connect(([127, 0, 0, 1], port).into());
    four.write_all(b"four\n").unwrap();
    let record = echo.sink.records(1).remove(0);
    assert_eq!(record.peer, Peer::Net(four.local_addr().unwrap()));
    echo.sink.acknowledge(&record);
    assert_eq!(read_exact(&mut six, 4), b"six\n");
    assert_eq!(read_exact(&mut four, 5), b"four\n");
}
