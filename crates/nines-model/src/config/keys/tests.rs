use super::{Absent, Key, ROOT, Shape, page};
use crate::config::parse;

/// What no key may have as its value.
const WRONG: &str = "1979-05-27";

/// Every key below the root with the path of its section.
fn all() -> Vec<(String, &'static Key)> {
    let mut found = Vec::new();
    let mut open: Vec<(String, &'static [Key])> = vec![(String::new(), ROOT)];
    while let Some((path, keys)) = open.pop() {
        for key in keys {
            let inner = format!("{path}{}.", key.name);
            match key.shape {
                Shape::Table(keys) | Shape::ChoiceOrTable(_, keys) => open.push((inner, keys)),
                Shape::Named(
                    &(Shape::Table(keys)
                    | Shape::TextsOrTable(_, keys)
                    | Shape::TextOrTable(_, keys)),
                ) => open.push((format!("{inner}NAME."), keys)),
                _ => {}
            }
            if !path.is_empty() {
                found.push((path.trim_end_matches('.').to_owned(), key));
            }
        }
    }
    found
}

/// A file that is valid if these lines of that section are.
fn file(path: &str, lines: &str) -> String {
    let cluster = "[cluster]\nname = \"shop\"\n";
    let nodes = "[nodes]\nlb1 = \"10.0.0.2\"\n";
    let missing = |key: &str, line: &str| {
        let has = lines.lines().any(|l| l.split(' ').next() == Some(key));
        if has { String::new() } else { format!("{line}\n") }
    };
    match path {
        "cluster" => format!("[cluster]\n{lines}\n{nodes}"),
        "nodes.NAME" => format!("{cluster}{nodes}{lines}\n{}", devices(lines)),
        "fence.NAME" => {
            let is_command = lines.starts_with("command ");
            let agent = if is_command { "" } else { "agent = \"fence_apc\"" };
            let agent = missing("agent", agent);
            let has_machines = lines.starts_with("node ") || lines.starts_with("outlets ");
            let node = if has_machines { "" } else { "node = \"lb1\"\n" };
            format!("{cluster}{nodes}lb2 = \"10.0.0.3\"\n[fence.x]\n{agent}{node}{lines}\n")
        }
        "service.NAME" | "service.NAME.check" => {
            let listen = missing("listen", "listen = \"10.0.0.100:80/tcp\"");
            let servers = missing("servers", "servers = { r1 = \"10.0.0.11\" }");
            format!("{cluster}{nodes}[service.web]\n{listen}{servers}{lines}\n")
        }
        "service.NAME.servers.NAME" => {
            let proto = if lines.contains("quic-id") { "udp" } else { "tcp" };
            format!(
                "{cluster}{nodes}[service.web]\nlisten = \"10.0.0.100:443/{proto}\"\n\
                 [service.web.servers]\nr1 = \"10.0.0.11\"\n{lines}\n"
            )
        }
        "vip.NAME" => {
            let address = missing("address", "address = \"10.0.0.100\"");
            // Directors that a list of preferences names.
            format!("{cluster}{nodes}lb2 = \"10.0.0.3\"\n[vip.inner]\n{address}{lines}\n")
        }
        _ => format!("{cluster}{nodes}[{path}]\n{lines}\n"),
    }
}

/// Sections of the fence devices that lines of `[nodes]` name for lb2.
fn devices(lines: &str) -> String {
    let words =
        lines.split('"').filter(|word| word.starts_with("bmc-") || word.starts_with("pdu-"));
    words.map(|name| format!("[fence.{name}]\nagent = \"fence_apc\"\nnode = \"lb2\"\n")).collect()
}

/// Where `name = value` stands in the example of a key.
fn place(key: &Key) -> std::ops::Range<usize> {
    let text = key.example;
    let is_here = |at: usize| {
        let before = text[..at].chars().next_back();
        let after = text[at + key.name.len()..].trim_start();
        before.is_none_or(|c| c == '\n' || c == ' ') && after.starts_with('=')
    };
    let found = text.match_indices(key.name).map(|(at, _)| at).find(|at| is_here(*at));
    let start = found.unwrap_or_else(|| panic!("{} is not in its example", key.name));
    let own_line = start == 0 || text[..start].ends_with('\n');
    let (mut quoted, mut depth) = (false, 0);
    for (i, c) in text[start..].char_indices() {
        quoted ^= c == '"';
        match c {
            '\n' => return start..start + i,
            '[' if !quoted => depth += 1,
            ']' if !quoted => depth -= 1,
            ',' | '}' if !quoted && !own_line && depth == 0 => {
                return start..start + text[start..start + i].trim_end().len();
            }
            _ => {}
        }
    }
    start..text.len()
}

/// The example with other words in place of the key and its value.
fn with(key: &Key, words: &str) -> String {
    let mut text = key.example.to_owned();
    text.replace_range(place(key), words);
    text
}

/// The example without the key.
fn without(key: &Key) -> String {
    with(key, "").replace("{ , ", "{ ").replace(", , ", ", ").replace(",  }", " }")
}

/// The message about the text at a place, if there is one.
fn about(text: &str, at: &str) -> Option<String> {
    let found = parse(text).err()?;
    found.iter().find(|one| text.get(one.span.clone()) == Some(at)).map(|one| one.message.clone())
}

#[test]
fn every_example_is_a_valid_config() {
    for (path, key) in all() {
        let text = file(&path, key.example);
        assert!(parse(&text).is_ok(), "{path}.{}: {:?}\n{text}", key.name, parse(&text));
    }
    for key in ROOT {
        let mut text = key.example.to_owned();
        for (section, line) in
            [("cluster", "name = \"x\""), ("nodes", "lb1 = \"10.9.0.2\"\nlb2 = \"10.9.0.3\"")]
        {
            if key.name != section {
                text = format!("[{section}]\n{line}\n{text}\n");
            }
        }
        assert!(parse(&text).is_ok(), "{}: {:?}\n{text}", key.name, parse(&text));
    }
}

/// A key of the table that no reader looks at would be ignored in a file.
#[test]
fn every_key_of_the_table_is_read() {
    for (path, key) in all() {
        let text = file(&path, &with(key, &format!("{} = {WRONG}", key.name)));
        assert!(about(&text, WRONG).is_some(), "nobody reads {path}.{}\n{text}", key.name);
    }
    for key in ROOT {
        let text = format!("{} = {WRONG}\n", key.name);
        assert!(about(&text, WRONG).is_some(), "nobody reads {}", key.name);
    }
}

/// A key that a section accepts is one of the table: every other is unknown there.
#[test]
fn every_section_refuses_keys_that_are_not_in_the_table() {
    for (path, key) in all() {
        let text = file(&path, &with(key, "unheard-of = 1"));
        let told = about(&text, "unheard-of");
        assert_eq!(told.as_deref(), Some("unknown key \"unheard-of\""), "{path}\n{text}");
    }
    let told = about("unheard-of = 1\n[cluster]\nname = \"shop\"\n", "unheard-of");
    assert_eq!(told.as_deref(), Some("unknown key \"unheard-of\""));
}

#[test]
fn a_default_that_is_written_changes_nothing() {
    let mut seen = 0;
    for (path, key) in all() {
        let Absent::Is(value) = key.absent else { continue };
        let written = file(&path, &with(key, &format!("{} = {value}", key.name)));
        let left_out = file(&path, &without(key));
        let read = |text: &str| parse(text).unwrap_or_else(|e| panic!("{e:?}\n{text}"));
        assert_eq!(read(&written), read(&left_out), "{path}.{}", key.name);
        seen += 1;
    }
    assert!(seen > 15, "{seen}");
}

#[test]
fn the_bounds_and_words_of_the_table_are_those_of_the_reader() {
    for (path, key) in all() {
        let of = |value: &str| {
            about(&file(&path, &with(key, &format!("{} = {value}", key.name))), value)
        };
        match key.shape {
            Shape::Number(low, high) => {
                for beyond in [i64::from(low) - 1, i64::from(high) + 1] {
                    assert!(of(&beyond.to_string()).is_some(), "{path}.{} = {beyond}", key.name);
                }
                let low = of(&low.to_string());
                assert!(low.is_none_or(|told| !told.contains("must be")), "{path}.{}", key.name);
            }
            Shape::Choice(words) | Shape::ChoiceOrTable(words, _) => {
                for word in words {
                    let told = of(&format!("\"{word}\""));
                    assert!(told.is_none_or(|t| !t.starts_with("unknown")), "{}", key.name);
                }
                assert!(of("\"unheard-of\"").is_some_and(|t| t.starts_with("unknown")));
            }
            _ => {}
        }
    }
}

#[test]
fn every_key_has_texts() {
    for (path, key) in all() {
        assert!(key.doc.ends_with('.') && key.doc.len() > 20, "{path}.{}: {}", key.name, key.doc);
        let silent = matches!(key.absent, Absent::Unsaid);
        assert_eq!(silent, key.required, "{path}.{}: required, or a default", key.name);
    }
}

/// `UPDATE_DOCS=1 cargo nextest run --workspace -E 'test(the_manual_lists_every_key)'` writes the
/// page anew.
#[test]
fn the_manual_lists_every_key() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/manual/keys.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, page()).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == page(),
        "docs/manual/keys.md is not what the table of keys says; run\n  UPDATE_DOCS=1 cargo nextest \
         run --workspace -E 'test(the_manual_lists_every_key)'\nand commit the page"
    );
}
