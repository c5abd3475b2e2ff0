//! Where texts decide: comparisons with a text in quotes, and matches on one.
//!
//! Decides: what counts as such a decision, and which files may have it because they read text.
//! Everywhere else in the pure crates, the API and the demo a closed enum decides, and a text is
//! read into it once, where it comes in.

use super::File;

/// Beginnings of the names of files that are looked at.
const LOOKED_AT: &[&str] = &[
    "crates/nines-model/src/",
    "crates/nines-planner/src/",
    "crates/nines-core/src/",
    "crates/nines-api/src/",
    "crates/nines-agent/src/http",
    "crates/nines/src/demo",
];
/// Files that read text of people, of the kernel or of other programs, and what they read.
const READERS: &[(&str, &str)] = &[
    ("crates/nines-model/src/config", "the config"),
    ("crates/nines-model/src/clients.rs", "rates"),
    ("crates/nines-model/src/time.rs", "lengths of time"),
    ("crates/nines-api/src/states.rs", "subjects in JSON"),
    ("crates/nines-api/src/client.rs", "the error of a socket, and paths"),
    ("crates/nines/src/demo.rs", "the command line"),
    ("crates/nines/src/demo/probe.rs", "answers of a web server"),
];
/// Calls that compare with the text in their brackets.
const CALLS: &[&str] = &["starts_with(", "ends_with(", "contains(", "contains(&", "eq("];

/// What is wrong, a line each.
pub fn check(files: &[File]) -> Vec<String> {
    let is_looked_at = |file: &&File| {
        let reads = READERS.iter().any(|(start, _)| file.name.starts_with(start));
        !file.is_test() && !reads && LOOKED_AT.iter().any(|start| file.name.starts_with(start))
    };
    let mut wrong = Vec::new();
    for file in files.iter().filter(is_looked_at) {
        let code = file.text.lines().take_while(|line| *line != "mod tests {");
        for (i, line) in code.enumerate().filter(|(_, line)| decides(line)) {
            let (name, line) = (&file.name, line.trim());
            wrong.push(format!("{name}:{}: a text decides, not an enum: {line}", i + 1));
        }
    }
    wrong
}

/// Whether a text in quotes decides in this line. The empty text is none: it says "nothing given".
fn decides(line: &str) -> bool {
    let line = line.trim_start();
    if line.starts_with("//") {
        return false;
    }
    let (code, texts) = without_texts(line);
    // "#" stands for a text, and "_" for an empty one.
    let compares = ["== #", "!= #", "# ==", "# !="].iter().any(|form| code.contains(form));
    let calls = CALLS.iter().any(|call| code.contains(&format!("{call}#")));
    let arm = code.split_once("=>").is_some_and(|(pattern, _)| pattern.contains('#'));
    let matches = code.split_once("matches!(").is_some_and(|(_, rest)| rest.contains('#'));
    let alternative = code.starts_with("| #") || code.starts_with("# |");
    texts && (compares || calls || arm || matches || alternative)
}

/// A line with "#" in place of each text and "_" in place of an empty one; whether it has any.
fn without_texts(line: &str) -> (String, bool) {
    let (mut code, mut any) = (String::new(), false);
    let mut rest = line;
    while let Some((before, after)) = rest.split_once('"') {
        if before.contains("//") {
            break;
        }
        // A quote as a character: '"'.
        if before.ends_with('\'') && after.starts_with('\'') {
            code.push_str(before);
            rest = after;
            continue;
        }
        let (mut end, mut escaped) = (after.len(), false);
        for (i, c) in after.char_indices() {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' => {
                    end = i;
                    break;
                }
                _ => {}
            }
        }
        code.push_str(before.strip_suffix('b').unwrap_or(before));
        code.push(if end == 0 { '_' } else { '#' });
        any |= end > 0;
        rest = after.get(end + 1..).unwrap_or_default();
    }
    code.push_str(rest.split("//").next().unwrap_or_default());
    (code, any)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_decide_are_found() {
        for line in [
            "if node.state == \"silent\" {",
            "let x = \"lb1\" != name;",
            "    \"drain\" | \"undrain\" => no_server(spec),",
            "    Some((\"node\", name)) if a => Self::Node(name),",
            "    | \"ready\"",
            "matches!(server.state.as_str(), \"up\" | \"spare\")",
            "e.kind.starts_with(\"note\")",
            "if [\"a\"].contains(&\"b\") {",
        ] {
            assert!(decides(line), "{line}");
        }
        for line in [
            "// if state == \"silent\" {",
            "Self::Silent => f.write_str(\"is silent\"),",
            "Ok(()) => format!(\"a => b == {c}\"),",
            "if name == \"\" {",
            "match holder { \"\" => 0,",
            "Silent = \"silent\",",
            "line.push('\"'); // \"a\" == \"b\"",
            "let text = \"say \\\"up\\\" == down\";",
        ] {
            assert!(!decides(line), "{line}");
        }
    }

    #[test]
    fn readers_and_tests_are_left_alone() {
        let text = "fn a() {\n    x == \"up\"\n}\nmod tests {\n    y == \"up\"\n}\n";
        let found = |name: &str| check(&[File { name: name.into(), text: text.into() }]).len();
        assert_eq!(found("crates/nines-core/src/a.rs"), 1);
        assert_eq!(found("crates/nines-core/src/a/tests.rs"), 0);
        assert_eq!(found("crates/nines-model/src/config/keys.rs"), 0);
        assert_eq!(found("crates/nines/src/cli/act.rs"), 0);
    }
}
