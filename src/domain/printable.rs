//! Text of strangers, for terminals and logs.

use std::fmt::{self, Write};

/// A text in one line that does nothing to a terminal: line ends, control characters
/// (escape sequences begin with one) and what turns the direction of writing are shown as
/// `\n`, `\u{1b}`, `\u{202e}`.
#[derive(Clone, Copy, Debug)]
pub struct Printable<'a>(pub &'a str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        while let Some(at) = rest.find(acts) {
            f.write_str(&rest[..at])?;
            let mut after = rest[at..].chars();
            if let Some(c) = after.next() {
                for c in c.escape_default() {
                    f.write_char(c)?;
                }
            }
            rest = after.as_str();
        }
        f.write_str(rest)
    }
}

/// Whether a character does something instead of standing for something.
fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c,
            // Marks and overrides of direction, joiners, line and paragraph ends.
            '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            // Tags, which show nothing at all.
            | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_acts_is_shown_and_what_stands_for_itself_stays() {
        for (text, shown) in [
            ("", ""),
            (
                "naïve “café” 日本 🙂 'x' \"y\" \\n",
                "naïve “café” 日本 🙂 'x' \"y\" \\n",
            ),
            ("a\nb\r\tc\0", "a\\nb\\r\\tc\\u{0}"),
            ("\u{1b}[31mred", "\\u{1b}[31mred"),
            ("\u{9b}31m\u{7f}", "\\u{9b}31m\\u{7f}"),
            (
                "a\u{202e}b\u{2066}c\u{200f}",
                "a\\u{202e}b\\u{2066}c\\u{200f}",
            ),
            (
                "\u{2028}\u{2029}\u{feff}\u{e0041}",
                "\\u{2028}\\u{2029}\\u{feff}\\u{e0041}",
            ),
        ] {
            assert_eq!(Printable(text).to_string(), shown);
        }
    }
}
