//! The whole lines of a file, plain or compressed, read as a stream.

use crate::plugin::logger::archives::Form;
use crate::plugin::logger::settings::Compress;
use flate2::read::MultiGzDecoder;
use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read};
use std::os::unix::fs::FileExt;

const BLOCK: usize = 256 * 1024;
/// No message takes as much: what has such a line is not a message file.
const LONGEST: usize = 64 << 20;

/// A file's lines, a block of whole ones at a time.
pub(super) struct Lines {
    source: Source,
    buffer: Vec<u8>,
    /// How many bytes of the buffer were given out.
    given: usize,
    filled: usize,
}

enum Source {
    /// A regular file.
    Plain(Place),
    /// Anything else that can be read.
    Stream(File),
    Gzip(Box<MultiGzDecoder<BufReader<Place>>>),
    Zstd(Box<zstd::Decoder<'static, BufReader<Place>>>),
}

/// A regular file, and where it is read next, whoever else reads it.
struct Place {
    file: File,
    at: u64,
}

impl Read for Place {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

impl Lines {
    /// Those of a file of that form; one that is regular and plain from `at` on.
    ///
    /// # Errors
    /// There is no memory for a decoder; or from fstat(2).
    pub(super) fn new(file: File, form: Form, at: u64) -> io::Result<Lines> {
        let buffered = |file| BufReader::with_capacity(64 * 1024, Place { file, at: 0 });
        let source = match form {
            _ if !file.metadata()?.is_file() => Source::Stream(file),
            Form::Raw => Source::Plain(Place { file, at }),
            Form::Compressed(Compress::Gzip) => Source::Gzip(Box::new(MultiGzDecoder::new(buffered(file)))),
            Form::Compressed(Compress::Zstd) => Source::Zstd(Box::new(zstd::Decoder::with_buffer(buffered(file))?)),
        };
        Ok(Lines { source, buffer: vec![0; BLOCK], given: 0, filled: 0 })
    }

    /// The next whole lines, the last one with its newline too. `None`: for now there is no
    /// other; what comes later in a plain file is read then.
    ///
    /// # Errors
    /// From read(2); what is compressed is damaged; or a line is too long.
    pub(super) fn next(&mut self) -> io::Result<Option<&[u8]>> {
        self.buffer.copy_within(self.given..self.filled, 0);
        self.filled -= self.given;
        self.given = 0;
        loop {
            if self.filled == self.buffer.len() {
                if self.filled >= LONGEST {
                    return Err(io::Error::other("it has a line of more than 64 MiB, so it is not a message file"));
                }
                self.buffer.resize(self.filled * 2, 0);
            }
            let read = match self.source.read(&mut self.buffer[self.filled..]) {
                Ok(0) => return Ok(None),
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let new = &self.buffer[self.filled..self.filled + read];
            let whole = memchr::memrchr(b'\n', new).map(|at| self.filled + at + 1);
            self.filled += read;
            if let Some(whole) = whole {
                self.given = whole;
                return Ok(Some(&self.buffer[..whole]));
            }
        }
    }

    /// Where the next line begins in a plain file.
    pub(super) fn position(&self) -> u64 {
        match self.source {
            Source::Plain(Place { at, .. }) => at - (self.filled - self.given) as u64,
            _ => 0,
        }
    }

    /// Goes on at that place of a plain file.
    pub(super) fn go_to(&mut self, position: u64) {
        if let Source::Plain(place) = &mut self.source {
            place.at = position;
        }
        (self.given, self.filled) = (0, 0);
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Source::Plain(place) => place.read(buffer),
            Source::Stream(file) => file.read(buffer),
            Source::Gzip(decoder) => decoder.read(buffer),
            Source::Zstd(decoder) => decoder.read(buffer),
        }
    }
}

/// The lines of a block, without their newlines.
pub(super) fn each(block: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut begin = 0;
    memchr::memchr_iter(b'\n', block).map(move |end| {
        let line = &block[begin..end];
        begin = end + 1;
        line
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn all(lines: &mut Lines) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(block) = lines.next().unwrap() {
            assert_eq!(block.last(), Some(&b'\n'));
            all.extend_from_slice(block);
        }
        all
    }

    fn written(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        io::Seek::rewind(&mut file).unwrap();
        file
    }

    #[test]
    fn every_form_gives_the_whole_lines_and_no_other() {
        let long = "x".repeat(3 * BLOCK);
        let text: String = (0..50_000).map(|line| format!("line {line}\n")).collect::<String>() + &long + "\nend\n";
        let with_rest = text.clone() + "half a li";
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(with_rest.as_bytes()).unwrap();
        for (bytes, form) in [
            (with_rest.clone().into_bytes(), Form::Raw),
            (gzip.finish().unwrap(), Form::Compressed(Compress::Gzip)),
            (zstd::encode_all(with_rest.as_bytes(), 1).unwrap(), Form::Compressed(Compress::Zstd)),
        ] {
            let mut lines = Lines::new(written(&bytes), form, 0).unwrap();
            assert_eq!(all(&mut lines), text.as_bytes(), "{form:?}");
            // What is damaged gives the lines before that.
            if form != Form::Raw {
                let mut lines = Lines::new(written(&bytes[..bytes.len() - 9]), form, 0).unwrap();
                let mut got = Vec::new();
                let error = loop {
                    match lines.next() {
                        Ok(block) => got.extend_from_slice(block.unwrap()),
                        Err(error) => break error,
                    }
                };
                assert!(text.as_bytes().starts_with(&got), "{error}");
            }
        }
    }

    #[test]
    fn a_half_line_is_given_once_it_is_whole() {
        let file = written(b"one\ntw");
        let mut lines = Lines::new(file.try_clone().unwrap(), Form::Raw, 0).unwrap();
        assert_eq!((all(&mut lines), lines.position()), (b"one\n".to_vec(), 4));
        file.write_all_at(b"o\nthree", 6).unwrap();
        assert_eq!((all(&mut lines), lines.position()), (b"two\n".to_vec(), 8));
        lines.go_to(4);
        assert_eq!(all(&mut lines), b"two\n");
    }
}
