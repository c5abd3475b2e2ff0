//! Habits that a test can hold: sizes of files, functions and lines, headers, the words of file
//! names, doc comments, what depends on what, cycles between files, reasons of `unsafe`, and that
//! ARCHITECTURE.md and the glossary name what is there.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

mod codes;
mod cycles;
mod floors;
mod lookups;
mod unsafe_blocks;
mod walls;

/// Lines a file may have.
const FILE_LINES_MAX: usize = 500;
/// Lines a function may have, outside tests.
const FUNCTION_LINES_MAX: usize = 70;
/// Characters a line may have.
const LINE_CHARS_MAX: usize = 100;
/// Characters a line with a text in quotes, or of one, may have: texts are not folded.
const TEXT_CHARS_MAX: usize = 120;
/// Functions that were longer when this was written, with their lines; each may only shrink.
const LONGER_FUNCTIONS: &[(&str, usize)] = &[];
/// Words that say nothing.
const EMPTY_NAMES: &[&str] = &["util", "utils", "helper", "helpers", "common", "misc", "manager"];
/// File names that Cargo or the compiler gives.
const GIVEN_NAMES: &[&str] = &["lib", "main", "build", "tests"];

/// A Rust file of ours.
struct File {
    /// From the root of the repository.
    name: String,
    text: String,
}

impl File {
    fn stem(&self) -> &str {
        let file = self.name.rsplit('/').next().unwrap_or_default();
        file.strip_suffix(".rs").unwrap_or(file)
    }

    fn is_test(&self) -> bool {
        self.name.contains("/tests/") || self.stem() == "tests"
    }
}

/// Every Rust file of ours, by name.
fn files(root: &Path) -> Vec<File> {
    let mut found = Vec::new();
    let mut rooms = vec![root.join("crates"), root.join("xtask")];
    while let Some(room) = rooms.pop() {
        for entry in fs::read_dir(&room).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() && path.file_name().is_none_or(|n| n != "target") {
                rooms.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    let read = |path: PathBuf| File {
        name: path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned(),
        text: fs::read_to_string(&path).unwrap_or_default(),
    };
    let mut files: Vec<File> = found.into_iter().map(read).collect();
    // By bytes, as `git grep` lists them.
    files.sort_by(|a, b| a.name.cmp(&b.name));
    files
}

/// What is wrong, a line each.
pub fn check(root: &Path) -> Vec<String> {
    let files = files(root);
    let glossary = fs::read_to_string(root.join("docs/glossary.md")).unwrap_or_default();
    let words = words_of(&glossary);
    let mut wrong = Vec::new();
    for file in &files {
        lines(file, &mut wrong);
        if !file.is_test() {
            functions(file, &mut wrong);
            doc_comments(file, &mut wrong);
        }
        stem(file, &words, &mut wrong);
    }
    wrong.extend(paths(root, "ARCHITECTURE.md"));
    wrong.extend(paths(root, "docs/glossary.md"));
    wrong.extend(crates(root));
    wrong.extend(codes::check(&files));
    wrong.extend(floors::check(&files));
    wrong.extend(lookups::check(&files));
    wrong.extend(walls::check(root, &files));
    wrong.extend(cycles::check(&files));
    wrong.extend(unsafe_blocks::check(&files));
    wrong
}

fn lines(file: &File, wrong: &mut Vec<String>) {
    let File { name, text } = file;
    let count = text.lines().count();
    if count > FILE_LINES_MAX {
        wrong.push(format!("{name}: {count} lines, {FILE_LINES_MAX} allowed: split the room"));
    }
    if !text.starts_with("//!") && file.stem() != "tests" {
        wrong.push(format!("{name}: no header that says what the file decides"));
    }
    // A text may go on over lines that end in a backslash.
    let mut within = false;
    for (i, line) in text.lines().enumerate() {
        let most = if within || line.contains('"') { TEXT_CHARS_MAX } else { LINE_CHARS_MAX };
        if line.chars().count() > most {
            wrong.push(format!("{name}:{}: longer than {most}", i + 1));
        }
        within = line.ends_with('\\');
    }
}

/// Functions by the form that rustfmt gives them: the brace at the end has the indent of the
/// beginning.
fn functions(file: &File, wrong: &mut Vec<String>) {
    let lines: Vec<&str> = file.text.lines().collect();
    for (i, line) in lines.iter().enumerate() {
        if *line == "mod tests {" {
            return;
        }
        let Some((before, after)) = line.split_once("fn ") else { continue };
        let code = before.trim_start();
        let indent = &before[..before.len() - code.len()];
        if code.contains("//") || code.contains('"') || code.contains('(') && !code.contains("pub(")
        {
            continue;
        }
        let name: String = after.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        let end = format!("{indent}}}");
        let (mut length, mut declared) = (0, false);
        for line in &lines[i..] {
            length += 1;
            declared |= line.contains('{');
            if *line == end
                || !declared && line.ends_with(';')
                || length == 1 && line.ends_with('}')
            {
                break;
            }
        }
        let known = format!("{} {name}", file.name);
        let most = LONGER_FUNCTIONS.iter().find(|(of, _)| *of == known);
        let most = most.map_or(FUNCTION_LINES_MAX, |(_, lines)| *lines);
        if length > most {
            wrong.push(format!("{known}: {length} lines, {most} allowed"));
        }
    }
}

/// A doc comment of one word repeats the name below it: noun, unit and errors are missing.
/// Sources of the kernel object change together with the object, not for a comment.
fn doc_comments(file: &File, wrong: &mut Vec<String>) {
    let doc = |line: &str| line.trim_start().strip_prefix("///").map(str::to_owned);
    let mut before = None;
    let mut lines = file.text.lines().enumerate().peekable();
    while let Some((i, line)) = lines.next() {
        if line == "mod tests {" {
            return;
        }
        let this = doc(line);
        let goes_on = lines.peek().is_some_and(|(_, next)| doc(next).is_some());
        if let (Some(text), None, false) = (&this, &before, goes_on)
            && text.split_whitespace().count() < 2
        {
            wrong.push(format!("{}:{}: a doc comment of one word", file.name, i + 1));
        }
        before = this;
    }
}

/// Words that the glossary explains, and those that it lists as plain English.
fn words_of(glossary: &str) -> BTreeSet<String> {
    let mut words = BTreeSet::new();
    let mut plain = false;
    for line in glossary.lines() {
        plain |= line == "## Plain words in file names";
        let text = match line.strip_prefix("| ") {
            Some(row) => row.split('|').next().unwrap_or_default(),
            None if plain => line,
            None => continue,
        };
        let split = text.split(|c: char| !c.is_alphanumeric());
        words.extend(split.filter(|w| !w.is_empty()).map(str::to_lowercase));
    }
    words
}

fn stem(file: &File, words: &BTreeSet<String>, wrong: &mut Vec<String>) {
    let stem = file.stem();
    if EMPTY_NAMES.contains(&stem) || stem == "mod" {
        wrong.push(format!("{}: the name says nothing", file.name));
    }
    // The file of an invariant or a goal begins with its number.
    let numbered = file.name.contains("/invariants/") || file.name.contains("/liveness/");
    if file.is_test() || GIVEN_NAMES.contains(&stem) || numbered {
        return;
    }
    let known = |word: &str| {
        let one = word.strip_suffix('s').unwrap_or(word);
        words.contains(word) || words.contains(one) || words.contains(&format!("{word}s"))
    };
    for word in stem.split('_').filter(|word| !known(word)) {
        let name = &file.name;
        wrong.push(format!("{name}: docs/glossary.md does not have the word \"{word}\""));
    }
}

/// Whether the paths that a page names are there.
fn paths(root: &Path, page: &str) -> Vec<String> {
    let text = fs::read_to_string(root.join(page)).unwrap_or_default();
    let mut wrong = Vec::new();
    for word in text.split('`').skip(1).step_by(2) {
        let is_path = word.contains('/') && !word.contains([' ', '*', '{', '<', '$']);
        let ours = ["crates/", "xtask/", "docs/"].iter().any(|room| word.starts_with(room));
        if is_path && ours && !root.join(word).exists() {
            wrong.push(format!("{page} names {word}, which is not there"));
        }
    }
    wrong
}

/// Whether ARCHITECTURE.md names each crate, and the dependencies between them as the manifests do.
fn crates(root: &Path) -> Vec<String> {
    let text = fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap_or_default();
    let allowed = arrows(&text);
    let mut wrong = Vec::new();
    for entry in fs::read_dir(root.join("crates")).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !text.contains(&format!("`{name}`")) {
            wrong.push(format!("ARCHITECTURE.md does not name {name}"));
        }
        let manifest = fs::read_to_string(entry.path().join("Cargo.toml")).unwrap_or_default();
        let Some(allowed) = allowed.get(short(&name)) else { continue };
        for needed in dependencies(&manifest).difference(allowed) {
            wrong.push(format!("{name} depends on {needed}, which ARCHITECTURE.md does not say"));
        }
    }
    wrong
}

/// "nines-core" is "core" there.
fn short(name: &str) -> &str {
    name.strip_prefix("nines-").unwrap_or(name)
}

/// What depends on what, as ARCHITECTURE.md says: "core -> planner, model;". A crate that it says
/// nothing of depends on none of ours; "everything but" is not compared.
fn arrows(text: &str) -> BTreeMap<String, BTreeSet<String>> {
    let Some((_, rest)) = text.split_once("Dependencies: ") else { return BTreeMap::new() };
    let line = rest.split(". ").next().unwrap_or_default().replace('\n', " ");
    let one = |arrow: &str| {
        let (from, to) = arrow.trim().split_once(" -> ")?;
        let to = to.split(',').map(|name| name.trim().to_owned()).collect();
        Some((from.to_owned(), to))
    };
    let mut all: BTreeMap<String, BTreeSet<String>> = line.split(';').filter_map(one).collect();
    all.retain(|_, to| !to.iter().any(|name| name.contains("everything")));
    for alone in ["model", "abi", "lab"] {
        all.entry(alone.into()).or_default();
    }
    all
}

/// Crates of ours that a manifest names as dependencies, tests' aside.
fn dependencies(manifest: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut counts = false;
    for line in manifest.lines() {
        if line.starts_with('[') {
            counts = line == "[dependencies]";
        }
        let name = line.split([' ', '.', '=']).next().unwrap_or_default();
        if counts && name.starts_with("nines-") {
            found.insert(short(name).to_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_house_is_tidy() {
        let wrong = check(&crate::root());
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    #[test]
    fn it_can_find_something() {
        let room = std::env::temp_dir().join(format!("nines-tidy-{}", std::process::id()));
        fs::create_dir_all(room.join("crates/nines-model/src")).unwrap();
        fs::create_dir_all(room.join("docs")).unwrap();
        let long = format!("fn long() {{\n{}}}\n", "    a();\n".repeat(80));
        let text = long + &"fn a() {}\n".repeat(600) + &"x".repeat(101);
        fs::write(room.join("crates/nines-model/src/util.rs"), text).unwrap();
        let manifest = "[dependencies]\nnines-core = { path = \"../nines-core\" }\n";
        fs::write(room.join("crates/nines-model/Cargo.toml"), manifest).unwrap();
        let map = "`crates/gone` Dependencies: core -> model. Next.";
        fs::write(room.join("ARCHITECTURE.md"), map).unwrap();
        fs::write(room.join("docs/glossary.md"), "| flow | a | b |\n").unwrap();
        let wrong = check(&room);
        fs::remove_dir_all(room).unwrap();
        for part in [
            "683 lines",
            "no header",
            "says nothing",
            "does not have the word \"util\"",
            "long: 82 lines",
            "longer than 100",
            "does not name nines-model",
            "nines-model depends on core",
            "crates/gone, which is not there",
        ] {
            assert!(wrong.iter().any(|w| w.contains(part)), "{part}: {wrong:?}");
        }
    }

    #[test]
    fn doc_comments_of_one_word_are_found() {
        let told = |text: &str| {
            let mut wrong = Vec::new();
            doc_comments(&File { name: "a.rs".into(), text: text.into() }, &mut wrong);
            wrong.join("; ")
        };
        assert_eq!(
            told("struct A {\n    /// Name.\n    a: u8,\n}\n"),
            "a.rs:2: a doc comment of one word"
        );
        assert_eq!(told("/// `identity.json`\nstruct A;\n"), "a.rs:1: a doc comment of one word");
        assert_eq!(told("///\nstruct A;\n"), "a.rs:1: a doc comment of one word");
        // More words, more lines, no doc comment, and what only tests have.
        assert_eq!(told("/// Name of the node.\na: u8,\n"), "");
        assert_eq!(told("/// A text that goes on\n/// here.\nstruct A;\n"), "");
        assert_eq!(told("/// One\n///\n/// Two\nstruct A;\n"), "");
        assert_eq!(told("// Name\na: u8,\nmod tests {\n/// Name\n"), "");
    }

    #[test]
    fn plain_words_count_below_their_heading_only() {
        let page = "text about sheep\n| flow entry | x | y |\n## Plain words in file names\n\nact, \
            time\n";
        let words: Vec<String> = words_of(page).into_iter().collect();
        assert_eq!(
            words,
            ["act", "entry", "file", "flow", "in", "names", "plain", "time", "words"]
        );
    }
}
