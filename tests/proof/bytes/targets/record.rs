//! Records and acknowledgements: what is accepted is what was sent, byte for
//! byte, and nothing that checks out is passed over.

use super::{Verdict, hold};
use plumbd::link::messages::{Next, next_message};
use plumbd::link::record::{ACK_LEN, Ack, Decoded, MAGIC, MESSAGE_MAX, RECORD_MAX, decode};

/// A decoder of records.
pub type Decode = for<'a> fn(&'a [u8]) -> Decoded<'a>;

/// Tries plumbd's own function.
pub fn target(bytes: &[u8]) -> Verdict {
    look(bytes, decode)
}

/// Tries the bytes as they are, and with every checksum made right, because otherwise few
/// would get any further.
pub fn look(bytes: &[u8], decode: Decode) -> Verdict {
    walk(bytes, decode)?;
    let mut mended = bytes.to_vec();
    (0..mended.len()).for_each(|at| mend(&mut mended[at..]));
    walk(&mended, decode)?;
    messages(&mended, false)?;
    messages(&mended, true)?;
    bytes.windows(ACK_LEN).take(3).try_for_each(|window| acknowledgement(window.try_into().unwrap()))
}

/// Makes the checksum of a record at the head of `bytes` right, if its length is possible.
pub fn mend(bytes: &mut [u8]) {
    if bytes.len() < 10 || bytes[..4] != MAGIC.to_le_bytes() {
        return;
    }
    let len = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    if (9..=bytes.len()).contains(&len) {
        let sum = crc32fast::hash(&bytes[8..len]);
        bytes[4..8].copy_from_slice(&sum.to_le_bytes());
    }
}

fn walk(bytes: &[u8], decode: Decode) -> Verdict {
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        match decode(rest) {
            Decoded::Record(record) => {
                hold!(record.len <= rest.len(), "a record of {} bytes in {}", record.len, rest.len());
                let mut again = Vec::new();
                record.head.encode(record.payload, &mut again);
                hold!(again == rest[..record.len], "what was accepted was never sent: {record:?}");
                let cut = decode(&rest[..record.len - 1]);
                hold!(cut == Decoded::Incomplete, "a record cut short is {cut:?}");
                at += record.len;
            }
            Decoded::Incomplete => {
                hold!(rest.len() < RECORD_MAX, "waits for more than a record has");
                return Ok(());
            }
            Decoded::Garbage(passed) => {
                hold!((1..=rest.len()).contains(&passed), "passes over {passed} of {} bytes", rest.len());
                let magic = MAGIC.to_le_bytes();
                let mut starts = (1..passed).filter(|&from| rest[from..].starts_with(&magic));
                let over = starts.find(|&from| matches!(decode(&rest[from..]), Decoded::Record(_)));
                hold!(over.is_none(), "passes over the record at {over:?}");
                at += passed;
            }
        }
    }
    Ok(())
}

/// Checks that the logger reads the bytes to the end, and that no message is too long.
fn messages(bytes: &[u8], last: bool) -> Verdict {
    let (mut at, mut joined) = (0, Vec::new());
    while let Some(next) = next_message(&bytes[at..], &mut joined, last) {
        let len = match next {
            Next::Message { bytes: message, len, .. } => {
                hold!(message.len() <= MESSAGE_MAX, "a message of {} bytes", message.len());
                len
            }
            Next::Incomplete(len) | Next::Garbage(len) => len,
        };
        hold!((1..=bytes.len() - at).contains(&len), "takes {len} of {} bytes", bytes.len() - at);
        at += len;
    }
    hold!(!last || at == bytes.len(), "stops {} bytes before the end", bytes.len() - at);
    Ok(())
}

fn acknowledgement(bytes: &[u8; ACK_LEN]) -> Verdict {
    let right = Ack::decode(bytes).is_none_or(|ack| ack.encode() == *bytes);
    hold!(right, "an acknowledgement that was not sent");
    Ok(())
}
