//! Text by other people, made safe for a terminal.

use std::fmt::Write as _;

/// Replaces control characters, line separators and characters that change the direction of text by `\n`, `\t` or
/// `\u{…}`. A message is then one line, and can't move the cursor, clear the screen or look like another message.
pub(super) fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => shown.push_str("\\n"),
            '\t' => shown.push_str("\\t"),
            _ if is_harmful(c) => {
                write!(shown, "\\u{{{:x}}}", u32::from(c))
                    .expect("writing to a string does not fail");
            }
            _ => shown.push(c),
        }
    }
    shown
}

fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{61c}')
        || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_moves_the_cursor_or_turns_its_direction() {
        assert_eq!(visible("Grüße 👋 שלום"), "Grüße 👋 שלום");
        assert_eq!(visible("a\nb\tc\r"), "a\\nb\\tc\\u{d}");
        assert_eq!(
            visible("\u{1b}[2J\u{9b}1m\u{202e}x\u{2066}"),
            "\\u{1b}[2J\\u{9b}1m\\u{202e}x\\u{2066}"
        );
        assert!(!visible(&('\0'..='\u{ffff}').collect::<String>()).contains(char::is_control));
    }
}
