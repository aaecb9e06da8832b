//! Every parser accepts exactly its grammar and never panics. The grammars are written here a second time.

use chatserver::domain::{
    ApiKey, Color, ConversationId, Data, Email, FullName, HideId, Instance, Kind, MessageId, Nick,
    Parse, Property, Signature, StationId, Timestamp, UserId, WorkspaceName,
};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use unicode_normalization::UnicodeNormalization as _;

use crate::harness::random::cases;

const LOWER_HEX: &str = "0123456789abcdef";
const DIGITS: &str = "0123456789";

/// Generates characters that are special in some grammar, and a few arbitrary ones.
fn odd() -> impl Strategy<Value = char> + Clone {
    const TELLING: &str =
        " \t\n\0-+:.@#/=_gGaAfFzZ09\u{7f}\u{85}\u{a0}\u{e9}\u{301}\u{202e}\u{2069}\u{2028}\u{ff11}";
    prop_oneof![3 => select(TELLING.chars().collect::<Vec<_>>()), 1 => any::<char>()]
}

/// Generates text of this form, such text with characters inserted, replaced and removed, and arbitrary text.
fn near(form: &'static str) -> impl Strategy<Value = String> {
    let right = proptest::string::string_regex(form).unwrap().boxed();
    let slip = (any::<Index>(), 0..3_u8, odd());
    let spoiled = (right.clone(), prop::collection::vec(slip, 1..3));
    let spoiled = spoiled.prop_map(|(right, slips)| {
        let mut text: Vec<char> = right.chars().collect();
        for (at, kind, odd) in slips {
            let place = at.index(text.len() + 1);
            match kind {
                0 => text.insert(place, odd),
                _ if place == text.len() => text.push(odd),
                1 => text[place] = odd,
                _ => drop(text.remove(place)),
            }
        }
        text.into_iter().collect()
    });
    prop_oneof![2 => right, 4 => spoiled, 1 => any::<String>(), 1 => ".{0,300}"]
}

/// Asserts that parsing succeeds exactly if `normal` is given, that the value is shown as `normal`, and that
/// `normal` parses to itself.
fn agrees<T: Parse>(text: &str, normal: Option<&str>, shown: impl Fn(T) -> String) {
    assert_eq!(T::parse(text).map(&shown).as_deref(), normal, "{text:?}");
    if let Some(normal) = normal {
        assert_eq!(T::parse(normal).map(&shown).as_deref(), Some(normal), "{text:?}");
    }
}

/// Tests that the text consists of these characters alone, and that its length in characters is in the range.
fn only(characters: &str, text: &str, lengths: std::ops::RangeInclusive<usize>) -> bool {
    text.chars().all(|c| characters.contains(c)) && lengths.contains(&text.chars().count())
}

fn alphanumeric() -> String {
    ('0'..='9').chain('a'..='z').chain('A'..='Z').collect()
}

fn is_control(c: char) -> bool {
    matches!(u32::from(c), 0..=0x1f | 0x7f..=0x9f)
}

/// Returns the normalized name, or `None` if the text is not a name.
fn name(text: &str) -> Option<String> {
    const OVERRIDES: &str =
        "\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}\u{2066}\u{2067}\u{2068}\u{2069}";
    let name: String = text.trim().nfc().collect();
    let is_bad = |c: char| is_control(c) || OVERRIDES.contains(c) || "\u{2028}\u{2029}".contains(c);
    let shows = name.is_empty() || !only_invisible(&name);
    (shows && !name.chars().any(is_bad)).then_some(name)
}

/// Tests that all characters of the text are invisible.
fn only_invisible(text: &str) -> bool {
    const RANGES: [(u32, u32); 25] = [
        (0x09, 0x0d),
        (0x20, 0x20),
        (0x85, 0x85),
        (0xa0, 0xa0),
        (0xad, 0xad),
        (0x34f, 0x34f),
        (0x61c, 0x61c),
        (0x115f, 0x1160),
        (0x1680, 0x1680),
        (0x17b4, 0x17b5),
        (0x180b, 0x180f),
        (0x2000, 0x200f),
        (0x2028, 0x202f),
        (0x205f, 0x206f),
        (0x2800, 0x2800),
        (0x3000, 0x3000),
        (0x3164, 0x3164),
        (0xfe00, 0xfe0f),
        (0xfeff, 0xfeff),
        (0xffa0, 0xffa0),
        (0xfff0, 0xfff8),
        (0x1bca0, 0x1bca3),
        (0x1d159, 0x1d159),
        (0x1d173, 0x1d17a),
        (0xe0000, 0xe0fff),
    ];
    let is_invisible = |c| RANGES.iter().any(|(from, to)| (*from..=*to).contains(&u32::from(c)));
    text.chars().all(is_invisible)
}

fn days_of_month(year: u32, month: u32) -> u32 {
    let is_leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    match month {
        2 => 28 + u32::from(is_leap),
        4 | 6 | 9 | 11 => 30,
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        _ => 0,
    }
}

/// Returns the Unix second of a protocol date, counted year by year.
fn second_of(text: &str) -> Option<i64> {
    let form = "dddd-dd-dd dd:dd:dd";
    let fits = |(c, f): (char, char)| if f == 'd' { DIGITS.contains(c) } else { c == f };
    if text.chars().count() != form.len() || !text.chars().zip(form.chars()).all(fits) {
        return None;
    }
    let number = |from: usize, to: usize| text[from..to].parse::<u32>().unwrap();
    let (year, month, day) = (number(0, 4), number(5, 7), number(8, 10));
    let (hour, minute, second) = (number(11, 13), number(14, 16), number(17, 19));
    if !(1..=days_of_month(year, month)).contains(&day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let days_of = |year, months: std::ops::Range<u32>| -> u32 {
        months.map(|month| days_of_month(year, month)).sum()
    };
    let days_until = |year| i64::from((0..year).map(|year| days_of(year, 1..13)).sum::<u32>());
    let since_new_year = i64::from(days_of(year, 1..month) + day - 1);
    let days = days_until(year) + since_new_year - days_until(1970);
    Some(days * 86_400 + i64::from(hour * 3600 + minute * 60 + second))
}

/// Tests for padded standard base64 whose unused bits are zero, so that no two texts encode the same bytes.
fn is_base64(text: &str) -> bool {
    const ALPHABET: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let body = text.trim_end_matches('=');
    let unused = match (text.len() % 4, text.len() - body.len()) {
        (0, 0) => 1,
        (0, 1) if !body.is_empty() => 4,
        (0, 2) if !body.is_empty() => 16,
        _ => return false,
    };
    let last = body.chars().next_back().and_then(|last| ALPHABET.find(last));
    body.chars().all(|c| ALPHABET.contains(c)) && last.is_none_or(|last| last % unused == 0)
}

proptest! {
    #![proptest_config(cases(512))]

    #[test]
    fn ids_have_32_hexadecimal_characters(text in near("[0-9a-f]{32}")) {
        let normal = only(LOWER_HEX, &text, 32..=32).then_some(text.as_str());
        agrees(&text, normal, |id: UserId| id.to_string());
        agrees(&text, normal, |id: ConversationId| id.to_string());
        agrees(&text, normal, |id: StationId| id.as_str().to_owned());
    }

    #[test]
    fn keys_and_signatures_have_64_hexadecimal_characters(text in near("[0-9a-f]{64}")) {
        let normal = only(LOWER_HEX, &text, 64..=64).then_some(text.as_str());
        agrees(&text, normal, |key: ApiKey| key.as_str().to_owned());
        agrees(&text, normal, |signature: Signature| signature.as_str().to_owned());
    }

    #[test]
    fn addresses_are_accepted_by_their_grammar(text in prop_oneof![
        near("[ \t]?[!#-'*+./0-9=?A-Z\\[\\]^-~-]{0,130}@[!#-'*+./0-9=?A-Z\\[\\]^-~-]{0,130}[ \n]?"),
        near("(mailto:|<|\")?[a-z]{1,9}@[a-z.]{1,9}[>,;\"]?"),
    ]) {
        let lower = text.trim().to_ascii_lowercase();
        // Blanks and control characters within an address are refused, never guessed at.
        let visible: String = ('!'..='~').filter(|c| !"<>(),;:\\\"".contains(*c)).collect();
        let parts: Vec<_> = lower.split('@').collect();
        let well_formed = only(&visible, &lower, 3..=254)
            && parts.len() == 2
            && parts.iter().all(|part| !part.is_empty());
        agrees(&text, well_formed.then_some(lower.as_str()), |email: Email| email.to_string());
    }

    #[test]
    fn workspace_names_are_accepted_by_their_grammar(text in prop_oneof![
        near("[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?([.][a-z0-9]([a-z0-9-]{0,9}[a-z0-9])?){1,3}"),
        near("([a-z0-9]{60,64}[.]){3}[a-z0-9]{58,63}"),
    ]) {
        let labels: Vec<_> = text.split('.').collect();
        let is_label = |label: &&str| {
            let inner = label.trim_start_matches('-').trim_end_matches('-');
            only(&(alphanumeric() + "-"), label, 1..=63) && inner == *label
        };
        let well_formed =
            text.chars().count() <= 253 && labels.len() >= 2 && labels.iter().all(is_label);
        let lower = text.to_lowercase();
        agrees(&text, well_formed.then_some(lower.as_str()), |name: WorkspaceName| {
            name.as_str().to_owned()
        });
    }

    #[test]
    fn message_ids_are_accepted_by_their_grammar(text in near("[A-Za-z0-9-]{1,64}")) {
        let normal = only(&(alphanumeric() + "-"), &text, 1..=64).then_some(text.as_str());
        agrees(&text, normal, |id: MessageId| id.to_string());
    }

    #[test]
    fn instances_are_accepted_by_their_grammar(text in near("[A-Za-z0-9]{10}")) {
        let normal = only(&alphanumeric(), &text, 10..=10).then_some(text.as_str());
        agrees(&text, normal, |instance: Instance| instance.to_string());
    }

    #[test]
    fn dates_are_accepted_by_their_grammar(text in prop_oneof![
        near("[0-9]{4}-(0[0-9]|1[0-3])-[0-3][0-9] [0-2][0-9]:[0-6][0-9]:[0-6][0-9]"),
        near("[+-]?[0-9]{4,6}-0[1-9]-[12][0-9] [01][0-9]:[0-5][0-9]:[0-5][0-9]"),
    ]) {
        let second = second_of(&text);
        agrees(&text, second.map(|_| text.as_str()), |date: Timestamp| date.to_string());
        prop_assert_eq!(Timestamp::parse(&text).map(Timestamp::unix), second);
    }

    #[test]
    fn seconds_of_years_0_to_9999_are_dates(second in prop_oneof![
        any::<i64>(), -63_000_000_000_i64..260_000_000_000, -62_167_219_205..-62_167_219_195_i64,
        253_402_300_795..253_402_300_805_i64,
    ]) {
        // 0000-01-01 00:00:00 to 9999-12-31 23:59:59.
        let is_date = (-62_167_219_200..=253_402_300_799).contains(&second);
        let date = Timestamp::from_unix(second);
        prop_assert_eq!(date.is_some(), is_date);
        if let Some(date) = date {
            prop_assert_eq!(second_of(&date.to_string()), Some(second));
        }
    }

    #[test]
    fn names_are_accepted_by_their_grammar(text in prop_oneof![near("[ -~]{0,70}"), near("[a\u{e9}\u{4e00}\u{1f600}e\u{301} ]{0,90}"),
        near("[\u{200b}\u{2800}\u{3164}\u{e0041}\u{ad}]{1,5}")]) {
        let name = name(&text);
        let nick = name.as_ref().filter(|nick| {
            (1..=64).contains(&nick.chars().count()) && nick.len() <= 190
        });
        agrees(&text, nick.map(String::as_str), |nick: Nick| nick.as_str().to_owned());
        let full = name.as_ref().filter(|name| name.len() <= 256);
        agrees(&text, full.map(String::as_str), |name: FullName| name.as_str().to_owned());
    }

    #[test]
    fn message_types_are_accepted_by_their_grammar(text in near("[ -~\u{a0}-\u{2000}]{1,33}")) {
        let length = text.chars().count();
        let well_formed = (1..=32).contains(&length) && !text.chars().any(is_control);
        agrees(&text, well_formed.then_some(text.as_str()), Kind::into_string);
    }

    #[test]
    fn payloads_are_canonical_base64(text in near("([A-Za-z0-9+/]{4}){0,5}([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")) {
        let normal = is_base64(&text).then_some(text.as_str());
        agrees(&text, normal, Data::into_string);
    }

    #[test]
    fn every_byte_string_has_a_payload(bytes in any::<Vec<u8>>()) {
        use base64::Engine as _;
        let text = base64::engine::general_purpose::STANDARD.encode(bytes);
        agrees(&text, Some(&text), Data::into_string);
    }

    #[test]
    fn colours_are_accepted_by_their_grammar(text in near("#[0-9a-fA-F]{6}")) {
        let lower = text.to_ascii_lowercase();
        let well_formed = lower.starts_with('#') && only(LOWER_HEX, &lower[1..], 6..=6);
        agrees(&text, well_formed.then_some(lower.as_str()), |color: Color| {
            match color.into_property() {
                Property::BackgroundColor(color) => color,
                other => panic!("{other:?}"),
            }
        });
    }

    #[test]
    fn hide_ids_are_accepted_by_their_grammar(text in near("[ -~\u{e9}\u{4e00}]{0,200}")) {
        let well_formed = text.len() <= 256 && !text.chars().any(is_control);
        agrees(&text, well_formed.then_some(text.as_str()), |marker: HideId| {
            match marker.into_property() {
                Property::HideId(marker) => marker,
                other => panic!("{other:?}"),
            }
        });
    }
}
