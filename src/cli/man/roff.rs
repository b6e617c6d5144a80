//! Turns plain text into roff, so that no part of it is taken for a request or an escape
//! (roff(7), man(7)).

/// Text that is printed as it is.
pub(super) fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq");
    text.replace('`', "\\(ga").replace('~', "\\(ti").replace('^', "\\(ha")
}

/// A paragraph: `code` and the names of pages, such as pipe(7), are bold, and no line
/// begins with a request's dot.
pub(super) fn text(paragraph: &str) -> String {
    let mut out = String::new();
    let mut rest = paragraph;
    while let Some((before, (code, after))) =
        rest.split_once('`').and_then(|(before, rest)| Some((before, rest.split_once('`')?)))
    {
        out += &words(before);
        out += &format!("\\fB{}\\fR", escaped(code));
        rest = after;
    }
    format!("\\&{}{}\n", out, words(rest))
}

/// Lines as they are, indented.
pub(super) fn verbatim(text: &str) -> String {
    let lines: String = text.lines().map(|line| format!("\\&{}\n", escaped(line))).collect();
    format!(".PP\n.RS 4\n.nf\n{lines}.fi\n.RE\n")
}

/// Words, with the names of pages in bold.
fn words(text: &str) -> String {
    let each = text.split(' ').map(|word| match page(word) {
        Some((name, rest)) => format!("\\fB{}\\fR{}", escaped(name), escaped(rest)),
        None => escaped(word),
    });
    each.collect::<Vec<_>>().join(" ")
}

/// `pipe` and `(7),` of `pipe(7),`.
fn page(word: &str) -> Option<(&str, &str)> {
    let at = word.find('(')?;
    let (name, rest) = word.split_at(at);
    let section =
        rest.as_bytes().get(1).is_some_and(|b| (b'1'..=b'8').contains(b)) && rest.as_bytes().get(2) == Some(&b')');
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    (section && !name.is_empty() && name.chars().all(plain)).then_some((name, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_is_a_request_or_an_escape() {
        assert_eq!(text(".SH `a\\b` it's -x"), "\\&.SH \\fBa\\eb\\fR it\\(aqs \\-x\n");
        assert_eq!(verbatim("'x\n\n.y"), ".PP\n.RS 4\n.nf\n\\&\\(aqx\n\\&\n\\&.y\n.fi\n.RE\n");
    }

    #[test]
    fn pages_are_bold() {
        assert_eq!(
            text("see pipe(7), sd_notify(3) (or not)."),
            "\\&see \\fBpipe\\fR(7), \\fBsd_notify\\fR(3) (or not).\n"
        );
    }
}
