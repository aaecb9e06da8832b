//! Text by other people, made safe for a terminal.

use std::fmt::Write as _;

/// Replaces control characters, line separators and characters that change the direction of text by `\n`, `\t` or
/// `\u{…}`. A message is then one line, and can't move the cursor, clear the screen or look like another message.
pub(super) fn visible(text: &str) -> String {
    escape(text, is_harmful)
}

/// Makes a nick visible like [`visible`], its invisible characters included: two nicks that differ then look different.
pub(super) fn visible_nick(nick: &str) -> String {
    escape(nick, |c| is_harmful(c) || is_invisible(c))
}

fn escape(text: &str, is_escaped: impl Fn(char) -> bool) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => shown.push_str("\\n"),
            '\t' => shown.push_str("\\t"),
            _ if is_escaped(c) => {
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

/// Whether a character shows nothing by itself (`Default_Ignorable_Code_Point` of Unicode, as far as it is assigned). In the
/// text of a message many of them belong to emoji and to scripts.
fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{ad}' | '\u{34f}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200d}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}' | '\u{ffa0}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}'
    )
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

    #[test]
    fn nicks_that_differ_look_different() {
        assert_eq!(visible_nick("Bátor Ló 👋"), "Bátor Ló 👋");
        for c in ['\u{200b}', '\u{200d}', '\u{feff}', '\u{ad}', '\u{2060}', '\u{fe0f}'] {
            let shown = format!("Al\\u{{{:x}}}ice", u32::from(c));
            assert_eq!(visible_nick(&format!("Al{c}ice")), shown);
        }
        assert_eq!(visible("👩\u{200d}💻"), "👩\u{200d}💻");
    }
}
