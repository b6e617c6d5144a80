use super::*;
use crate::sys::pipe::Pipe;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;

/// An output through any descriptor.
pub(crate) fn over(fd: impl Into<OwnedFd>) -> Output {
    Output::over(fd.into(), None).unwrap()
}

/// An output to a syslog daemon at this path.
pub(crate) fn syslog_at(path: &Path) -> Output {
    Output::syslog_at(path, Facility::LOG_DAEMON).unwrap()
}

fn flags(fd: &OwnedFd) -> OFlag {
    OFlag::from_bits_retain(nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_GETFL).unwrap())
}

/// Sends until there is no room, which must be reported and not waited for.
fn fill(output: &Output) -> usize {
    let mut sent = 0;
    loop {
        match output.send(&[b'x'; 10_000]) {
            Sent::Bytes(n) => sent += n,
            Sent::Full => return sent,
            other => panic!("{other:?} after {sent} bytes"),
        }
    }
}

#[test]
fn a_full_pipe_is_reported_and_its_flags_stay_as_they_were() {
    let pipe = Pipe::new(65_536).unwrap();
    let shared = pipe.write.try_clone().unwrap();
    let output = over(pipe.write);
    assert!(matches!(output.how, How::Own));
    assert!(fill(&output) >= 65_536 - SHARED_WRITE);
    assert!(!flags(&shared).contains(OFlag::O_NONBLOCK));
}

#[test]
fn a_full_pipe_that_can_not_be_opened_again_is_reported_too() {
    let pipe = Pipe::new(65_536).unwrap();
    let output = Output { fd: pipe.write, how: How::Shared, journal: false };
    assert!(fill(&output) >= 65_536 - SHARED_WRITE);
}

#[test]
fn a_full_socket_is_reported_and_its_flags_stay_as_they_were() {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let shared = OwnedFd::from(ours.try_clone().unwrap());
    let output = over(ours);
    assert!(fill(&output) > 0);
    assert!(!flags(&shared).contains(OFlag::O_NONBLOCK));
}

#[test]
fn a_pipe_that_nobody_reads_any_more_is_never_tried_again() {
    let Pipe { read, write } = Pipe::new(65_536).unwrap();
    let output = over(write);
    drop(read);
    assert_eq!(output.send(b"x"), Sent::Never);
}

#[test]
fn a_file_takes_everything() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let output = over(std::fs::File::create(&path).unwrap());
    assert_eq!(output.send(b"a line\n"), Sent::Bytes(7));
    assert_eq!(std::fs::read(path).unwrap(), b"a line\n");
}

#[test]
fn a_full_disk_is_tried_again_later() {
    let output = over(std::fs::File::options().write(true).open("/dev/full").unwrap());
    assert_eq!(output.send(b"x"), Sent::Later(RETRY));
}

#[test]
fn the_journal_is_recognised_by_device_and_inode() {
    let folder = tempfile::tempdir().unwrap();
    let file = std::fs::File::create(folder.path().join("log")).unwrap();
    let data = file.metadata().unwrap();
    let stat = fstat(&file).unwrap();
    assert!(is_stream(&format!("{}:{}", data.dev(), data.ino()), &stat));
    assert!(!is_stream(&format!("{}:{}", data.dev(), data.ino() + 1), &stat));
    for wrong in ["", ":", "1", "a:b"] {
        assert!(!is_stream(wrong, &stat));
    }
}

#[test]
fn what_was_sent_is_what_comes_out() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let output = over(ours);
    assert_eq!(output.send(b"whole"), Sent::Bytes(5));
    drop(output);
    let mut got = String::new();
    theirs.read_to_string(&mut got).unwrap();
    assert_eq!(got, "whole");
}
