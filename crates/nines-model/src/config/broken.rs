//! What is told of a file that is not TOML, in the words of the mistakes that people make.
//!
//! Decides: one diagnostic for each mistake. The parser also tells what follows from one: a section
//! that is there twice gives an error for each key in it.

use std::ops::Range;

use super::Diagnostic;

/// What the parser found, place and words; in order of places.
pub(super) fn told(text: &str, errors: &[(Range<usize>, String)]) -> Vec<Diagnostic> {
    let mut found: Vec<Diagnostic> = Vec::new();
    let mut until = 0;
    for (span, message) in errors {
        if span.start < until {
            continue;
        }
        let line = line_at(text, span.start);
        if message == "duplicate key" {
            let header = text[line.clone()].trim_start().starts_with('[');
            found.push(twice(text, span, &line, header));
            // What stands in a section of the same name is there twice, too.
            until = if header { next_section(text, line.end) } else { line.end };
        } else if let Some(diagnostic) = unquoted(text, span.start, &line) {
            found.push(diagnostic);
            until = line.end;
        } else {
            let help = None;
            found.push(Diagnostic { span: span.clone(), message: message.clone(), help });
        }
    }
    found
}

/// The bytes of the line that a place is in, without its end.
fn line_at(text: &str, at: usize) -> Range<usize> {
    let at = text.floor_char_boundary(at);
    let start = text[..at].rfind('\n').map_or(0, |end| end + 1);
    let end = text[at..].find('\n').map_or(text.len(), |end| at + end);
    start..end
}

fn number_of_line(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

/// Where the next section begins, or the text ends.
fn next_section(text: &str, from: usize) -> usize {
    text[from..].find("\n[").map_or(text.len(), |at| from + at + 1)
}

fn twice(text: &str, span: &Range<usize>, line: &Range<usize>, header: bool) -> Diagnostic {
    let bare = |line: &str| line.split('#').next().unwrap_or_default().trim().to_owned();
    let own = bare(&text[line.clone()]);
    let key = text.get(span.clone()).unwrap_or_default();
    // A key is looked for in its own section.
    let from = if header { 0 } else { text[..line.start].rfind("\n[").map_or(0, |at| at + 1) };
    let same = |other: &str| {
        let other = bare(other);
        if header { other == own } else { other.split('=').next().map(str::trim) == Some(key) }
    };
    let first = text[from..line.start].split_inclusive('\n').scan(from, |at, other| {
        let begins = *at;
        *at += other.len();
        Some((begins, other))
    });
    let first = first.filter(|(_, other)| same(other)).map(|(at, _)| number_of_line(text, at));
    let again = number_of_line(text, line.start);
    let service = own.strip_prefix("[service.").and_then(|rest| rest.strip_suffix(']'));
    let what = match service {
        Some(name) if header && !name.contains('.') => format!("service \"{name}\""),
        _ if header => own.clone(),
        _ => format!("\"{key}\""),
    };
    let message = match first.last() {
        Some(first) => format!("{what} is defined twice: line {first} and line {again}"),
        None => format!("{what} is defined twice"),
    };
    let help = if header { "rename one of them, or merge them" } else { "remove one of them" };
    Diagnostic { span: span.clone(), message, help: Some(help.into()) }
}

/// A value that should stand in quotes, if that is what is wrong at this place.
fn unquoted(text: &str, at: usize, line: &Range<usize>) -> Option<Diagnostic> {
    let equals = line.start + text.get(line.start..at.min(line.end))?.rfind('=')?;
    let in_key = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let before = text[line.start..equals].trim_end();
    let key = &before[before.trim_end_matches(in_key).len()..];
    let after = &text[equals + 1..line.end];
    let value = after.trim_start();
    let start = equals + 1 + (after.len() - value.len());
    let value = value.split([',', '}', ']', '#']).next().unwrap_or_default().trim_end();
    let plain = !value.starts_with(['"', '\'', '[', '{']) && !value.contains('"');
    let protocol = if key == "listen" && !value.contains('/') { "/tcp" } else { "" };
    let other = value.parse::<f64>().is_ok() || matches!(value, "" | "true" | "false");
    (plain && !other && !key.is_empty()).then(|| Diagnostic {
        span: start..start + value.len(),
        message: format!("missing quotes around {value}"),
        help: Some(format!("write {key} = \"{value}{protocol}\"")),
    })
}

#[cfg(test)]
mod tests {
    use crate::config::parse;

    /// "message | help" of every diagnostic.
    fn told(text: &str) -> Vec<String> {
        let found = parse(text).unwrap_err();
        found
            .iter()
            .map(|d| format!("{} | {}", d.message, d.help.clone().unwrap_or_default()))
            .collect()
    }

    #[test]
    fn one_mistake_gives_one_error_in_its_own_words() {
        let base = "[cluster]\nname = \"x\"\n[nodes]\nlb1 = \"10.0.0.2\"\n";
        let good = "[service.a]\nlisten = \"10.0.0.9:80\"\nservers = { r = \"10.0.0.1\" }\n";
        let with = |old: &str, new: &str| told(&format!("{base}{}", good.replace(old, new)));
        let cases = [
            ("10.0.0.9:80", "10.0.0.9:70000/tcp", "port 70000 is out of range", "65535"),
            (
                "\"10.0.0.9:80\"",
                "10.0.0.9:80",
                "missing quotes around 10.0.0.9:80",
                "listen = \"10.0.0.9:80/tcp\"",
            ),
            ("\"10.0.0.1\"", "10.0.0.1", "missing quotes around 10.0.0.1", "r = \"10.0.0.1\""),
            ("\"10.0.0.1\"", "fd00::1", "missing quotes around fd00::1", "r = \"fd00::1\""),
            ("listen", "listn", "unknown key \"listn\"", "did you mean \"listen\"?"),
            (
                "servers",
                "forward = \"masq\"\nservers",
                "forwarding method \"masq\"",
                "write forward = \"nat\"",
            ),
            (
                "servers",
                "scheduler = \"WLC\"\nservers",
                "scheduler \"WLC\"",
                "write scheduler = \"wlc\"",
            ),
            (
                "servers",
                "scheduler = \"roundrobin\"\nservers",
                "scheduler",
                "write scheduler = \"rr\"",
            ),
            ("{ r = \"10.0.0.1\" }", "[\"10.0.0.1\"]", "needs a name", "{ r1 = \"10.0.0.1\" }"),
            ("servers", "check = { every = 5 }\nservers", "needs a unit", "every = \"5s\""),
            ("servers", "listen = \"10.0.0.8:80\"\nservers", "line 6 and line 7", "remove one"),
        ];
        for (old, new, message, help) in cases {
            let told = with(old, new);
            assert_eq!(told.len(), 1, "{new}: {told:?}");
            let (said, helped) = told[0].split_once(" | ").unwrap();
            assert!(said.contains(message) && helped.contains(help), "{new}: {told:?}");
        }
        // A whole section twice, with all its keys; what follows is still read.
        let two = told(&format!("{base}{good}\n{good}[vip.v]\naddress = 10.0.0.9\n"));
        assert!(two[0].contains("service \"a\" is defined twice: line 5 and line 9"), "{two:?}");
        assert!(two[1].contains("missing quotes around 10.0.0.9"), "{two:?}");
        assert_eq!(two.len(), 2, "{two:?}");
    }
}
