//! Text of people, peers and servers as it may be shown: on a terminal, in a log, in a metric.
//!
//! Decides: which characters are written out (`\u{1b}`) and not sent: those that move the cursor,
//! begin a new line, or change the order or the look of what stands beside them.

use std::{borrow::Cow, fmt::Write as _};

/// Whether a character may act on what shows it: C0, DEL, C1, line and paragraph separators, and
/// marks that change the direction of text or are not seen.
pub fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}')
}

/// The text on one line, with what [`is_unsafe`] written out.
pub fn clean(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if is_unsafe(c) => write!(out, "\\u{{{:x}}}", u32::from(c)).expect("into a string"),
            c => out.push(c),
        }
    }
    Cow::Owned(out)
}

/// The same of a text of several lines, which stay.
pub fn clean_lines(text: &str) -> String {
    let whole = |line: &str| line.split('\t').map(clean).collect::<Vec<_>>().join("\t");
    text.split('\n').map(whole).collect::<Vec<_>>().join("\n")
}

/// JSON text whose strings, once read, are as [`clean`] leaves them. What is no JSON stays no JSON.
pub fn clean_json(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    let mut rest = json.chars();
    let mut inside = false;
    while let Some(c) = rest.next() {
        match c {
            '"' => {
                inside = !inside;
                out.push(c);
            }
            '\\' if inside => escaped(&mut rest, &mut out),
            c if inside && is_unsafe(c) => {
                write!(out, "\\\\u{{{:x}}}", u32::from(c)).expect("into a string");
            }
            c => out.push(c),
        }
    }
    out
}

/// What follows a backslash in a string of JSON.
fn escaped(rest: &mut std::str::Chars<'_>, out: &mut String) {
    match rest.next() {
        Some(c @ ('n' | 'r' | 't')) => out.extend(['\\', '\\', c]),
        Some('b') => out.push_str("\\\\u{8}"),
        Some('f') => out.push_str("\\\\u{c}"),
        Some('u') => {
            let digits: String = rest.by_ref().take(4).collect();
            let code = u32::from_str_radix(&digits, 16).ok();
            match code.and_then(char::from_u32) {
                Some(c) if is_unsafe(c) => {
                    write!(out, "\\\\u{{{:x}}}", u32::from(c)).expect("into a string");
                }
                // Halves of a pair make one character, which no terminal acts on.
                _ => write!(out, "\\u{digits}").expect("into a string"),
            }
        }
        Some(c) => out.extend(['\\', c]),
        None => out.push('\\'),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_acts_on_a_terminal_is_written_out() {
        assert_eq!(clean("rack 4, \"däy\" \\n 日本"), "rack 4, \"däy\" \\n 日本");
        assert_eq!(clean("\x1b[31mred\nforged\r\t"), "\\u{1b}[31mred\\nforged\\r\\t");
        for code in (0..0x20).chain(0x7f..0xa0).chain([0x200e, 0x202e, 0x2066, 0x2028, 0xfeff]) {
            let c = char::from_u32(code).unwrap();
            let shown = clean(&format!("a{c}b")).into_owned();
            assert!(!shown.chars().any(is_unsafe), "{code:x}: {shown:?}");
            assert_eq!(clean(&shown), shown, "a second time changes nothing");
        }
    }

    #[test]
    fn lines_stay_lines() {
        assert_eq!(clean_lines("a\tb\n\u{1b}c\r\n"), "a\tb\n\\u{1b}c\\r\n");
    }

    #[test]
    fn strings_of_json_are_cleaned_and_the_rest_stays() {
        let read = "{\"a\": \"x\\u001b[1m\\ny\\\\n\\\"\\u00e9\\ud83d\\ude00\u{202e}\u{85}\",\n \"b\": [1]}";
        let wanted = "{\"a\": \"x\\\\u{1b}[1m\\\\ny\\\\n\\\"\\u00e9\\ud83d\\ude00\\\\u{202e}\\\\u{85}\",\n \
                      \"b\": [1]}";
        assert_eq!(clean_json(read), wanted);
        assert_eq!(clean_json(wanted), wanted);
    }
}
