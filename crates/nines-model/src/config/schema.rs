//! JSON Schema (2020-12) of `cluster.toml`, made from [`super::keys`].

use std::fmt::Write as _;

use super::keys::{Absent, Key, ROOT, Shape};

/// The schema as JSON text, with a final newline.
pub fn json() -> String {
    let mut out = String::from(
        "{\n  \"$schema\": \"https://json-schema.org/draft/2020-12/schema\",\n  \
         \"title\": \"nines cluster.toml\",\n",
    );
    out.push_str(&fields(ROOT, 1));
    out.push_str("\n}\n");
    out
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

fn list(words: &[&str]) -> String {
    words.iter().map(|w| quoted(w)).collect::<Vec<_>>().join(", ")
}

/// What the key means, and what applies without it.
fn description(key: &Key) -> String {
    match key.absent {
        Absent::Unsaid => key.doc.to_owned(),
        Absent::Is(words) | Absent::Means(words) => format!("{} Default: {words}.", key.doc),
    }
}

/// The inside of an object schema, indented by `depth`.
fn fields(keys: &[Key], depth: usize) -> String {
    let pad = "  ".repeat(depth);
    let mut out = format!("{pad}\"type\": \"object\",\n{pad}\"additionalProperties\": false,\n");
    let required: Vec<&str> = keys.iter().filter(|k| k.required).map(|k| k.name).collect();
    if !required.is_empty() {
        let _ = writeln!(out, "{pad}\"required\": [{}],", list(&required));
    }
    let _ = writeln!(out, "{pad}\"properties\": {{");
    let inner: Vec<String> = keys
        .iter()
        .map(|k| {
            let doc = quoted(&description(k));
            let shape = shape(&k.shape, depth + 2);
            format!(
                "{pad}  {}: {{\n{pad}    \"description\": {doc},\n{shape}\n{pad}  }}",
                quoted(k.name)
            )
        })
        .collect();
    let _ = write!(out, "{}\n{pad}}}", inner.join(",\n"));
    out
}

fn shape(shape: &Shape, depth: usize) -> String {
    let pad = "  ".repeat(depth);
    let text = "{ \"type\": \"string\" }";
    let texts = "{ \"type\": \"array\", \"items\": { \"type\": \"string\" } }";
    let any = |options: &[String]| format!("{pad}\"anyOf\": [\n{}\n{pad}]", options.join(",\n"));
    let line = |json: &str| format!("{pad}  {json}");
    let object = |keys: &[Key]| format!("{pad}  {{\n{}\n{pad}  }}", fields(keys, depth + 2));
    match shape {
        Shape::Text(_) => format!("{pad}\"type\": \"string\""),
        Shape::Duration => {
            format!("{pad}\"type\": \"string\",\n{pad}\"pattern\": \"^[0-9]+(ms|s|m|h|d)$\"")
        }
        Shape::Number(low, high) => {
            format!(
                "{pad}\"type\": \"integer\",\n{pad}\"minimum\": {low},\n{pad}\"maximum\": {high}"
            )
        }
        Shape::Flag => format!("{pad}\"type\": \"boolean\""),
        Shape::Scalar(_) => {
            format!("{pad}\"type\": [\"string\", \"integer\", \"boolean\"]")
        }
        Shape::Levels(_) => {
            let item = format!("{{ \"anyOf\": [{text}, {texts}] }}");
            format!("{pad}\"type\": \"array\",\n{pad}\"items\": {item}")
        }
        Shape::Texts(_) => {
            format!("{pad}\"type\": \"array\",\n{pad}\"items\": {text}")
        }
        Shape::TextOrTexts(_) => any(&[line(text), line(texts)]),
        Shape::Choice(words) => format!("{pad}\"enum\": [{}]", list(words)),
        Shape::Choices(words) => {
            let item = format!("{{ \"enum\": [{}] }}", list(words));
            format!("{pad}\"type\": \"array\",\n{pad}\"items\": {item}")
        }
        Shape::Table(keys) => fields(keys, depth),
        Shape::Named(inner) => {
            let inner = self::shape(inner, depth + 1);
            format!(
                "{pad}\"type\": \"object\",\n{pad}\"additionalProperties\": {{\n{inner}\n{pad}}}"
            )
        }
        Shape::TextsOrTable(_, keys) => any(&[line(text), line(texts), object(keys)]),
        Shape::TextOrTable(_, keys) => any(&[line(text), object(keys)]),
        Shape::ChoiceOrTable(words, keys) => {
            any(&[line(&format!("{{ \"enum\": [{}] }}", list(words))), object(keys)])
        }
    }
}
