//! Lines that number themselves: `CONNECTION.SEQUENCE FILLER`, newline.
//!
//! A message is determined by its connection, its sequence and its length, so
//! neither the generator nor the checker has to remember any.

/// `CONNECTION.SEQUENCE `, eight hexadecimal digits each.
const HEAD: usize = 18;
/// The shortest message: its numbers, one byte of filler and the newline.
pub(crate) const SHORTEST: usize = HEAD + 2;
/// Plain characters, which no format of the message file escapes.
const FILLER: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+-";

/// Appends one message of `length` bytes, the newline included; at least [`SHORTEST`].
pub(crate) fn append(connection: u32, sequence: u32, length: usize, out: &mut Vec<u8>) {
    let mut head = *b"00000000.00000000 ";
    put_hex(&mut head[..8], connection);
    put_hex(&mut head[9..17], sequence);
    out.extend_from_slice(&head);
    // The filler begins at another place in each message, so that no piece of one is a piece of the next.
    let mut from = (connection.wrapping_mul(31).wrapping_add(sequence.wrapping_mul(7)) % 64) as usize;
    let mut left = length.max(SHORTEST) - HEAD - 1;
    let mut row = 0;
    while left > 0 {
        let n = left.min(FILLER.len() - from);
        out.extend_from_slice(&FILLER[from..from + n]);
        // So does each row of a long message, so that no two parts of it are alike.
        from = row % FILLER.len();
        row += 1;
        left -= n;
    }
    out.push(b'\n');
}

/// Connection and sequence of the message that begins like this.
pub(crate) fn numbers(line: &[u8]) -> Option<(u32, u32)> {
    let head = line.first_chunk::<HEAD>()?;
    if head[8] != b'.' || head[17] != b' ' {
        return None;
    }
    Some((get_hex(&head[..8])?, get_hex(&head[9..17])?))
}

fn put_hex(out: &mut [u8], mut number: u32) {
    for digit in out.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(number & 15) as usize];
        number >>= 4;
    }
}

fn get_hex(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |number: u32, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u32::from(value))
    })
}
