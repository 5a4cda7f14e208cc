//! An event as one line of text.

use crate::protocol::api::Event;
use std::fmt::Write;

/// `event` as JSON without anything that could make it look like several records, or like
/// something else than it is: control and formatting characters are escaped.
pub fn of(event: &Event) -> String {
    let json = serde_json::json!(event).to_string();
    if json.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
        return json;
    }
    let mut line = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        match c.is_control() || is_formatting(c) {
            // All of them lie in the basic plane, within strings.
            true => _ = write!(line, "\\u{:04x}", u32::from(c)),
            false => line.push(c),
        }
    }
    line
}

/// Line and paragraph separators, and what changes the direction or hides in text.
fn is_formatting(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{061c}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn whatever_an_event_says_is_one_line_and_the_same_event() {
        for text in [
            "a\r\nb",
            "\x1b[31mred",
            "\u{9b}31m",
            "\u{202e}txt.exe",
            "\u{2028}next",
            "\0\u{7f}\u{feff}",
            "plain ünïcode 日本語",
        ] {
            let event = Event::new(1, None, None, 0, "warning", json!({ "message": text }));
            let line = of(&event);
            assert!(!line.chars().any(|c| c.is_control() || is_formatting(c)));
            assert_eq!(serde_json::from_str::<Event>(&line).unwrap(), event);
        }
        let plain = Event::new(1, None, None, 0, "epoch", json!({ "message": "日本" }));
        assert!(of(&plain).contains("日本"));
    }
}
