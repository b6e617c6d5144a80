//! Room for rendered bytes, which become the body of the intent file.

use std::io;

/// A buffer that is filled from its start. A writer must check for room first.
#[derive(Debug)]
pub struct Body<'a> {
    buffer: &'a mut [u8],
    len: usize,
    limit: usize,
}

impl<'a> Body<'a> {
    /// An empty one.
    pub fn new(buffer: &'a mut [u8]) -> Body<'a> {
        Body::resumed(buffer, 0, usize::MAX)
    }

    /// One that already has `len` bytes, and is full once it has `limit`. A message
    /// that goes beyond the limit is still put whole.
    pub fn resumed(buffer: &'a mut [u8], len: usize, limit: usize) -> Body<'a> {
        Body { buffer, len, limit }
    }

    /// Whether no further message may begin.
    pub fn is_full(&self) -> bool {
        self.len >= self.limit
    }

    /// How many bytes were written.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no byte was written.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many more bytes can be written.
    pub fn room(&self) -> usize {
        self.buffer.len() - self.len
    }

    /// Appends bytes.
    ///
    /// # Panics
    /// If there is no room.
    #[inline]
    pub fn put(&mut self, bytes: &[u8]) {
        self.next(bytes.len()).copy_from_slice(bytes);
    }

    /// The next `len` bytes, for the caller to fill.
    ///
    /// # Panics
    /// If there is no room.
    #[inline]
    pub fn next(&mut self, len: usize) -> &mut [u8] {
        let at = self.len;
        self.len += len;
        &mut self.buffer[at..at + len]
    }
}

impl io::Write for Body<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.put(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
