//! The table of keys as the manual's page `docs/manual/keys.md`, in Markdown that also reads on a
//! terminal.
//!
//! Decides: the order and the form of the page. The texts are those of the table.

use std::fmt::Write as _;

use super::{Absent, Key, ROOT, Shape};

/// Columns of a line of the page.
const COLUMNS: usize = 118;

const INTRODUCTION: [&str; 3] = [
    "# Keys of `cluster.toml`",
    "This page is made from the table of keys in the program; `nines help keys` prints it, too. \
     [Configuration](configuration.md) is the overview. A key that is not on this page is an error. \
     A time has a unit: `ms`, `s`, `m`, `h` or `d`.",
    "NAME stands for a name of your choice: 1 to 63 letters, digits, dots, dashes and underscores, of \
     which the first is a letter or digit.",
];

/// The whole page, with a final newline.
pub fn page() -> String {
    let mut out = INTRODUCTION.map(folded).join("\n");
    for key in ROOT {
        section(&mut out, key.name, key);
    }
    out
}

/// The section that a key opens, then those inside of it.
fn section(out: &mut String, path: &str, key: &Key) {
    let (path, keys) = match key.shape {
        Shape::Table(keys) | Shape::ChoiceOrTable(_, keys) => (path.to_owned(), keys),
        Shape::Named(
            &(Shape::Table(keys) | Shape::TextsOrTable(_, keys) | Shape::TextOrTable(_, keys)),
        ) => (format!("{path}.NAME"), keys),
        _ => return,
    };
    let _ = write!(out, "\n## [{path}]\n\n{}", folded(key.doc));
    if key.required && !path.contains('.') {
        out.push_str("Every file has this section.\n");
    }
    if let Shape::Named(Shape::TextsOrTable(form, _)) = key.shape {
        out.push_str(&folded(&format!("In place of a table, a node may have {form}.")));
    }
    example(out, key);
    for key in keys {
        one(out, &path, key);
    }
    for key in keys {
        section(out, &format!("{path}.{}", key.name), key);
    }
}

/// The entry of a key.
fn one(out: &mut String, path: &str, key: &Key) {
    let _ = write!(out, "\n### {path}.{}\n\n{}", key.name, folded(key.doc));
    let _ = write!(out, "\n- Value: {}\n", value(&key.shape, path, key.name));
    match key.absent {
        _ if key.required => out.push_str("- Default: none, the key is required\n"),
        Absent::Unsaid => {}
        Absent::Is(value) => {
            let _ = writeln!(out, "- Default: `{value}`");
        }
        Absent::Means(words) => {
            let _ = writeln!(out, "- Default: {words}");
        }
    }
    example(out, key);
}

fn example(out: &mut String, key: &Key) {
    if !key.example.is_empty() {
        let _ = write!(out, "\n```toml\n{}\n```\n", key.example);
    }
}

/// What the value may be, in words.
fn value(shape: &Shape, path: &str, name: &str) -> String {
    let quoted = |words: &[&str]| {
        words.iter().map(|word| format!("`\"{word}\"`")).collect::<Vec<_>>().join(", ")
    };
    match shape {
        Shape::Text(form) => format!("a string: {form}"),
        Shape::Duration => "a string: a time with its unit".to_owned(),
        Shape::Number(low, high) => format!("a whole number from {low} to {high}"),
        Shape::Flag => "`true` or `false`".to_owned(),
        Shape::Scalar(form) => {
            format!("a string: {form}; also a whole number, `true` (1) or `false` (0)")
        }
        Shape::Levels(form) => {
            format!("a list; each item is a string, {form}, or a list of such strings")
        }
        Shape::Named(inner @ (Shape::Text(_) | Shape::Scalar(_))) => {
            format!("a table of names, each with {}", self::value(inner, path, name))
        }
        Shape::Texts(form) => format!("a list of strings: {form}"),
        Shape::TextOrTexts(form) => format!("a string or a list of strings: {form}"),
        Shape::Choice([word]) => format!("`\"{word}\"`"),
        Shape::Choice(words) => format!("one of {}", quoted(words)),
        Shape::Choices(words) => format!("a list of {}", quoted(words)),
        Shape::Named(Shape::TextOrTable(form, _)) => {
            format!(
                "a table of names, each with a string: {form}; or with a table: {path}.{name}.NAME"
            )
        }
        Shape::ChoiceOrTable(words, _) => {
            format!("one of {}, or a table: {path}.{name}", quoted(words))
        }
        Shape::Table(_) | Shape::Named(_) => "a table".to_owned(),
        Shape::TextsOrTable(form, _) | Shape::TextOrTable(form, _) => format!("{form}, or a table"),
    }
}

/// The text in lines of the page's width, with a final newline.
fn folded(text: &str) -> String {
    let mut out = String::new();
    let mut column = 0;
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if column > 0 && column + 1 + length > COLUMNS {
            out.push('\n');
            column = 0;
        }
        if column > 0 {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += length;
    }
    out.push('\n');
    out
}
