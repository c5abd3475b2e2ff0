//! Walks a TOML document and notes what is wrong, with the place.
//!
//! Decides: how a wrong type, an unknown key or a bad name is told. Knows no key by name.

use std::ops::{Range, RangeInclusive};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{Diagnostic, broken, keys::Key};
use crate::{names::is_name, printable::clean, suggest::closest};

/// A key with its place.
pub(super) struct Name {
    pub text: String,
    pub span: Range<usize>,
}

/// A value with its place.
#[derive(Clone)]
pub(super) struct Value<'a> {
    pub span: Range<usize>,
    inner: &'a DeValue<'a>,
}

/// A table with its place.
#[derive(Clone)]
pub(super) struct Table<'a> {
    pub span: Range<usize>,
    inner: &'a DeTable<'a>,
}

/// A document: what values and tables are parts of.
pub(super) struct Document<'a>(Spanned<DeTable<'a>>);

impl Document<'_> {
    pub fn root(&self) -> Table<'_> {
        Table { span: self.0.span(), inner: self.0.get_ref() }
    }
}

impl<'a> Value<'a> {
    fn of(spanned: &'a Spanned<DeValue<'a>>) -> Self {
        Self { span: spanned.span(), inner: spanned.get_ref() }
    }

    pub fn as_table(&self) -> Option<Table<'a>> {
        match self.inner {
            DeValue::Table(inner) => Some(Table { span: self.span.clone(), inner }),
            _ => None,
        }
    }

    pub fn as_array(&self) -> Option<Vec<Value<'a>>> {
        match self.inner {
            DeValue::Array(items) => Some(items.iter().map(Value::of).collect()),
            _ => None,
        }
    }

    pub fn as_text(&self) -> Option<&str> {
        match self.inner {
            DeValue::String(text) => Some(text.as_ref()),
            _ => None,
        }
    }

    pub fn as_integer(&self) -> Option<&str> {
        match self.inner {
            DeValue::Integer(number) => Some(number.as_str()),
            _ => None,
        }
    }

    fn kind(&self) -> &'static str {
        match self.inner {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "a number",
            DeValue::Float(_) => "a fraction",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        }
    }
}

impl<'a> Table<'a> {
    pub fn get(&self, key: &str) -> Option<Value<'a>> {
        self.inner.iter().find(|(k, _)| k.get_ref().as_ref() == key).map(|(_, v)| Value::of(v))
    }

    pub fn entries(&self) -> Vec<(Name, Value<'a>)> {
        self.inner
            .iter()
            .map(|(k, v)| (Name { text: k.get_ref().to_string(), span: k.span() }, Value::of(v)))
            .collect()
    }
}

/// Collects what is wrong.
#[derive(Default)]
pub(super) struct Reader {
    pub diagnostics: Vec<Diagnostic>,
    /// Keys that are misspelt: the table's place, and what was meant. They are not missing, too.
    misspelt: Vec<(Range<usize>, &'static str)>,
}

impl Reader {
    pub fn document<'a>(&mut self, text: &'a str) -> Option<Document<'a>> {
        let (root, errors) = DeTable::parse_recoverable(text);
        let mut told: Vec<_> = errors
            .iter()
            .map(|e| (e.span().unwrap_or(0..0), e.message().trim().to_owned()))
            .collect();
        told.sort_by_key(|(span, _)| span.start);
        self.diagnostics.extend(broken::told(text, &told));
        errors.is_empty().then_some(Document(root))
    }

    pub fn error(&mut self, span: Range<usize>, message: impl Into<String>, help: Option<String>) {
        self.diagnostics.push(Diagnostic { span, message: message.into(), help });
    }

    pub fn unknown_word<'a>(
        &mut self,
        span: Range<usize>,
        what: &str,
        word: &str,
        known: impl Iterator<Item = &'a str>,
    ) {
        let known: Vec<&str> = known.collect();
        let help = closest(word, known.iter().copied()).map_or_else(
            || format!("known: {}", known.join(", ")),
            |meant| format!("did you mean \"{meant}\"?"),
        );
        self.error(span, format!("unknown {what} \"{word}\""), Some(help));
    }

    /// Every key of the table stands in `keys`.
    pub fn known(&mut self, table: &Table<'_>, keys: &[Key]) {
        for (name, _) in table.entries() {
            if !keys.iter().any(|key| key.name == name.text) {
                if let Some(meant) = closest(&name.text, keys.iter().map(|k| k.name)) {
                    self.misspelt.push((table.span.clone(), meant));
                }
                self.unknown_word(name.span, "key", &name.text, keys.iter().map(|k| k.name));
            }
        }
    }

    pub fn required<'a>(&mut self, table: &Table<'a>, key: &str) -> Option<Value<'a>> {
        let value = table.get(key);
        if value.is_none() && !self.is_misspelt(table, key) {
            self.error(table.span.clone(), format!("\"{key}\" is missing here"), None);
        }
        value
    }

    /// Whether a key of this table stands there in another spelling, which was told.
    pub fn is_misspelt(&self, table: &Table<'_>, key: &str) -> bool {
        self.misspelt.iter().any(|(at, meant)| *at == table.span && *meant == key)
    }

    pub fn wanted(&mut self, value: &Value<'_>, what: &str) {
        self.error(value.span.clone(), format!("this is {}; wanted {what}", value.kind()), None);
    }

    pub fn as_table<'a>(&mut self, value: &Value<'a>) -> Option<Table<'a>> {
        let table = value.as_table();
        if table.is_none() {
            self.wanted(value, "a table");
        }
        table
    }

    pub fn table<'a>(&mut self, table: &Table<'a>, key: &str) -> Option<Table<'a>> {
        let value = table.get(key)?;
        self.as_table(&value)
    }

    pub fn string(&mut self, value: &Value<'_>) -> Option<String> {
        if let DeValue::String(text) = value.inner {
            return Some(text.to_string());
        }
        self.wanted(value, "a string in quotes");
        None
    }

    pub fn flag(&mut self, table: &Table<'_>, key: &str) -> Option<bool> {
        let value = table.get(key)?;
        if let DeValue::Boolean(flag) = value.inner {
            return Some(*flag);
        }
        self.wanted(&value, "true or false, without quotes");
        None
    }

    /// A string, a whole number as its decimal text, or "1" for true and "0" for false.
    pub fn scalar(&mut self, value: &Value<'_>) -> Option<String> {
        let text = match value.inner {
            DeValue::String(text) => Some(text.to_string()),
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
                .ok()
                .map(|number| number.to_string()),
            DeValue::Boolean(flag) => Some(u8::from(*flag).to_string()),
            _ => None,
        };
        if text.is_none() {
            self.wanted(value, "a string in quotes");
        }
        text
    }

    pub fn strings(&mut self, value: &Value<'_>) -> Vec<(String, Range<usize>)> {
        let Some(items) = value.as_array() else {
            self.wanted(value, "a list of strings");
            return Vec::new();
        };
        items
            .iter()
            .filter_map(|item| self.string(item).map(|text| (text, item.span.clone())))
            .collect()
    }

    pub fn number(
        &mut self,
        table: &Table<'_>,
        key: &str,
        range: RangeInclusive<u32>,
    ) -> Option<u32> {
        let value = table.get(key)?;
        let DeValue::Integer(number) = value.inner else {
            self.wanted(&value, "a number");
            return None;
        };
        match u32::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) if range.contains(&number) => Some(number),
            _ => {
                let message = format!("{key} must be {} to {}", range.start(), range.end());
                self.error(value.span, message, None);
                None
            }
        }
    }

    pub fn choice<T: Clone>(&mut self, value: &Value<'_>, options: &[(&str, T)]) -> Option<T> {
        self.choice_of(value, ("", "word"), options, &[])
    }

    /// The same of a key and what it names; `others`: what other programs call some of the options.
    pub fn choice_of<T: Clone>(
        &mut self,
        value: &Value<'_>,
        (key, what): (&str, &str),
        options: &[(&str, T)],
        others: &[(&str, &str)],
    ) -> Option<T> {
        let word = self.string(value)?;
        let named = |wanted: &str| options.iter().find(|(name, _)| *name == wanted);
        if let Some((_, meant)) = named(&word) {
            return Some(meant.clone());
        }
        let lower = word.to_ascii_lowercase();
        let line = |word: &str| match key {
            "" => format!("\"{word}\""),
            key => format!("{key} = \"{word}\""),
        };
        let help = if named(&lower).is_some() {
            format!("write {}   (names are lower case)", line(&lower))
        } else if let Some((theirs, ours)) = others.iter().find(|(theirs, _)| *theirs == lower) {
            format!("write {}   (other programs call it {theirs})", line(ours))
        } else {
            let known = options.iter().map(|(name, _)| *name);
            self.unknown_word(value.span.clone(), what, &word, known);
            return None;
        };
        self.error(value.span.clone(), format!("unknown {what} \"{word}\""), Some(help));
        None
    }

    /// A name people type and files carry; `names.rs` says which characters it has.
    pub fn name(&mut self, value: &Value<'_>) -> Option<String> {
        let text = self.string(value)?;
        self.check_name(&Name { text: text.clone(), span: value.span.clone() });
        Some(text)
    }

    pub fn check_name(&mut self, name: &Name) {
        let text = &name.text;
        if !is_name(text) {
            let help = "use 1 to 63 letters, digits, dots, dashes and _; a letter or digit first";
            self.error(
                name.span.clone(),
                format!("\"{}\" is not a valid name", clean(text)),
                Some(help.into()),
            );
        }
    }
}
