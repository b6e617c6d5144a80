//! Text that people read: words that agree with their number, no longer than fits, and safe
//! for a terminal.

use std::fmt::Write;

/// A number with the word for what is counted.
pub fn counted(count: impl TryInto<u64>, one: &str, many: &str) -> String {
    match count.try_into().unwrap_or(u64::MAX) {
        1 => format!("1 {one}"),
        count => format!("{count} {many}"),
    }
}

/// The text, cut after this many characters if it is longer.
pub fn clipped(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text.to_owned(),
    }
}

/// Whether a character controls a terminal: a control character, one of Unicode's bidirectional
/// controls, or one that begins a line.
pub fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The text with U+FFFD for each character that controls a terminal.
pub fn masked(text: &str) -> String {
    text.replace(steers, "\u{fffd}")
}

/// Makes a text safe for a terminal: characters that control it become `\xNN`, as in the message
/// file; newlines and tabs stay.
pub fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for character in text.chars() {
        if !steers(character) || matches!(character, '\n' | '\t') {
            plain.push(character);
            continue;
        }
        let mut bytes = [0; 4];
        for byte in character.encode_utf8(&mut bytes).bytes() {
            let _never_fails = write!(plain, "\\x{byte:02x}");
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thing_is_singular() {
        assert_eq!([0, 1, 2].map(|n: u64| counted(n, "child", "children")), ["0 children", "1 child", "2 children"]);
    }

    #[test]
    fn a_text_is_cut_between_letters() {
        assert_eq!([0, 1, 2, 3].map(|most| clipped("éa", most)), ["...", "é...", "éa", "éa"]);
    }

    #[test]
    fn no_text_controls_a_terminal() {
        let text = "\u{1b}[2J\u{1b}]0;title\u{7} \u{9b}31m \r\u{202e}\u{2066}\u{7f} caf\u{e9}\tb\nnext";
        let shown = r"\x1b[2J\x1b]0;title\x07 \xc2\x9b31m \x0d\xe2\x80\xae\xe2\x81\xa6\x7f café";
        assert_eq!(plain(text), format!("{shown}\tb\nnext"));
    }
}
