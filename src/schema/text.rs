//! Texts that are put together when plumbd is compiled, so that they can stand in the
//! rows of constant tables.

/// No text is longer, in bytes.
const MOST: usize = 512;

/// A text that grows at its end.
#[derive(Debug, Clone, Copy)]
pub struct Text {
    bytes: [u8; MOST],
    len: usize,
}

impl Text {
    /// A text that begins so.
    pub const fn new(text: &str) -> Text {
        Text { bytes: [0; MOST], len: 0 }.add(text)
    }

    /// The text, and that after it.
    #[must_use]
    pub const fn add(self, text: &str) -> Text {
        self.add_bytes(text, false)
    }

    /// The text, and that after it in capitals.
    #[must_use]
    pub const fn add_capitals(self, text: &str) -> Text {
        self.add_bytes(text, true)
    }

    const fn add_bytes(mut self, text: &str, capitals: bool) -> Text {
        let (bytes, mut at) = (text.as_bytes(), 0);
        while at < bytes.len() {
            self.bytes[self.len] = if capitals { bytes[at].to_ascii_uppercase() } else { bytes[at] };
            self.len += 1;
            at += 1;
        }
        self
    }

    /// The whole text.
    ///
    /// # Panics
    /// Never: it is made of whole strings.
    pub const fn as_str(&self) -> &str {
        match std::str::from_utf8(self.bytes.split_at(self.len).0) {
            Ok(text) => text,
            Err(_) => panic!("strings after each other are a string"),
        }
    }
}
