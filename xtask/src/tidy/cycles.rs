//! Files of a crate that import each other in a circle.
//!
//! Decides: what counts as an import. It is a path that begins with `crate`, `super` or `self` and
//! names something of another file, in a `use` or anywhere else; and the name of a child module in
//! its parent. What a file takes from those above it (`foo.rs` above `foo/bar.rs`) does not count:
//! the two are one room. Tests, comments and texts do not count either. A cycle is opened by moving
//! what both sides need to a file of its own.

use std::collections::{BTreeMap, BTreeSet};

use super::File;

/// What one file takes from another: the names, by the other's name.
type Imports<'a> = BTreeMap<&'a str, BTreeSet<String>>;

/// The cycles, each with its arrows.
pub fn check(files: &[File]) -> Vec<String> {
    let imports = imports(files);
    let cycles = cycles(&imports).into_iter();
    cycles.map(|cycle| format!("files import each other: {}", tell(&cycle, &imports))).collect()
}

/// The arrows between files of a cycle, with the names that they are there for.
fn tell(cycle: &BTreeSet<&str>, imports: &BTreeMap<&str, Imports<'_>>) -> String {
    let mut arrows = Vec::new();
    for from in cycle {
        for (to, names) in imports[from].iter().filter(|(to, _)| cycle.contains(*to)) {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            arrows.push(format!("\n  {from} -> {to}: {}", names.join(", ")));
        }
    }
    arrows.concat()
}

/// Sets of files each of which reaches all others of its set.
fn cycles<'a>(imports: &BTreeMap<&'a str, Imports<'a>>) -> BTreeSet<BTreeSet<&'a str>> {
    let reached = |from: &'a str| {
        let (mut found, mut open) = (BTreeSet::new(), vec![from]);
        while let Some(file) = open.pop() {
            for to in imports.get(file).into_iter().flat_map(BTreeMap::keys) {
                if found.insert(*to) {
                    open.push(to);
                }
            }
        }
        found
    };
    let reached: BTreeMap<&str, BTreeSet<&str>> =
        imports.keys().map(|file| (*file, reached(file))).collect();
    let circular = reached.iter().filter(|(file, to)| to.contains(*file));
    circular
        .map(|(file, to)| to.iter().copied().filter(|to| reached[to].contains(file)).collect())
        .collect()
}

/// What each file takes from the others of its crate.
fn imports(files: &[File]) -> BTreeMap<&str, Imports<'_>> {
    let mut crates: BTreeMap<&str, BTreeMap<Vec<&str>, &File>> = BTreeMap::new();
    for file in files.iter().filter(|file| !file.is_test()) {
        if let Some((of, path)) = module(&file.name) {
            // A crate with a library and a program: what is in the library counts.
            if !path.is_empty() || file.stem() == "lib" || !crates.contains_key(of) {
                crates.entry(of).or_default().insert(path, file);
            }
        }
    }
    let mut all = BTreeMap::new();
    for modules in crates.values() {
        for (path, file) in modules {
            let mut imports = Imports::new();
            for named in paths(&code(&file.text), path) {
                let named: Vec<&str> = named.iter().map(String::as_str).collect();
                let longest = (0..=named.len()).rev();
                let owner = longest.filter_map(|n| Some((n, modules.get_key_value(&named[..n])?)));
                let Some((n, (owner, other))) = owner.into_iter().next() else { continue };
                if !path.starts_with(owner) {
                    let name = named.get(n).map_or("itself", |name| *name).to_owned();
                    imports.entry(&other.name).or_default().insert(name);
                }
            }
            all.insert(file.name.as_str(), imports);
        }
    }
    all
}

/// The crate of a file, and its module path in it: "crates/a/src/b/c.rs" is `b::c` of "crates/a".
fn module(name: &str) -> Option<(&str, Vec<&str>)> {
    let (of, rest) = name.split_once("/src/")?;
    let rest = rest.strip_suffix(".rs")?;
    let path = if matches!(rest, "lib" | "main") { Vec::new() } else { rest.split('/').collect() };
    Some((of, path))
}

/// The code alone: without comments, texts and the tests at the end.
fn code(text: &str) -> String {
    let mut code = String::new();
    for line in text.lines().take_while(|line| *line != "mod tests {") {
        let mut quoted = false;
        let mut before = ' ';
        for (i, c) in line.char_indices() {
            if c == '"' && before != '\\' && before != '\'' {
                quoted = !quoted;
            } else if !quoted && line[i..].starts_with("//") {
                break;
            } else if !quoted {
                code.push(c);
            }
            before = c;
        }
        code.push('\n');
    }
    code
}

/// Whole paths, from the root of the crate, of everything that the module at `here` names.
fn paths(code: &str, here: &[&str]) -> Vec<Vec<String>> {
    let children: BTreeSet<&str> = code
        .lines()
        .filter_map(|line| line.trim().strip_suffix(';')?.rsplit_once("mod ").map(|(_, name)| name))
        .collect();
    let mut found = Vec::new();
    let mut at = 0;
    while let Some((start, word)) = next_word(code, at) {
        at = start + word.len();
        let before = code[..start].trim_end();
        // A visibility, `pub(in super::super)`, or the middle of a path.
        if before.ends_with("(in") || before.ends_with("::") || !code[at..].starts_with("::") {
            continue;
        }
        let base: Vec<String> = match word {
            "crate" => Vec::new(),
            "self" => here.iter().map(|s| (*s).to_owned()).collect(),
            "super" => here[..here.len().saturating_sub(1)].iter().map(|s| (*s).into()).collect(),
            child if children.contains(child) => {
                here.iter().copied().chain([child]).map(str::to_owned).collect()
            }
            _ => continue,
        };
        at = tree(code, at + 2, base, &mut found);
    }
    found
}

/// Reads a path, or many in braces, as they go on at `at`; where they end.
fn tree(code: &str, at: usize, mut path: Vec<String>, found: &mut Vec<Vec<String>>) -> usize {
    if code[at..].starts_with('{') {
        let mut at = at + 1;
        loop {
            at += code[at..].len() - code[at..].trim_start_matches([',', ' ', '\n']).len();
            if code[at..].starts_with('}') || at >= code.len() {
                return at + 1;
            }
            let next = tree(code, at, path.clone(), found);
            // "name as other", or something that is no path.
            at = next + code[next..].find([',', '}']).unwrap_or(code.len() - next);
        }
    }
    let Some((start, word)) = next_word(code, at).filter(|(start, _)| *start == at) else {
        found.push(path);
        return at;
    };
    match word {
        "self" => {}
        "super" => drop(path.pop()),
        word => path.push(word.to_owned()),
    }
    let end = start + word.len();
    if code[end..].starts_with("::") {
        return tree(code, end + 2, path, found);
    }
    found.push(path);
    end
}

/// The first word from `at` on, and where it begins.
fn next_word(code: &str, at: usize) -> Option<(usize, &str)> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let start = at + code.get(at..)?.find(is_word)?;
    let end = code[start..].find(|c| !is_word(c)).map_or(code.len(), |n| start + n);
    Some((start, &code[start..end]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, text: &str) -> File {
        File { name: format!("crates/x/src/{name}.rs"), text: text.into() }
    }

    /// Arrows as "from to".
    fn arrows(files: &[File]) -> Vec<String> {
        let short = |name: &str| name[13..name.len() - 3].to_owned();
        let imports = imports(files);
        let all = imports.iter().flat_map(|(a, to)| to.keys().map(move |b| (*a, *b)));
        all.map(|(a, b)| format!("{} {}", short(a), short(b))).collect()
    }

    #[test]
    fn imports_are_found_in_every_form() {
        let files = [
            file("lib", "mod a;\nmod b;\nmod c;\npub struct Error;\n"),
            file(
                "a",
                "use crate::{\n    Error,\n    b::{self, B as Other, deep::Deep},\n};\nmod in_a;",
            ),
            file("a/in_a", "use super::{super::c, A};\nfn f(_: crate::b::deep::Deep) {}"),
            file("b", "mod deep;\nfn f() { deep::g() }\npub use self::deep::Deep;\n"),
            file("b/deep", "pub(in super::super) fn g() {}\nuse super::B;\n"),
            file(
                "c",
                "// crate::a::A\nfn f() { \"crate::a\"; }\nmod tests {\n    use crate::a;\n}\n",
            ),
        ];
        let found = ["a b", "a b/deep", "a/in_a b/deep", "a/in_a c", "b b/deep"];
        assert_eq!(arrows(&files), found);
    }

    #[test]
    fn a_cycle_is_refused_and_told_with_the_names_that_make_it() {
        let files = [
            file("a", "use crate::b::B;"),
            file("b", "use crate::c::{C, make};"),
            file("c", "use crate::{a::A, d};"),
            file("d", ""),
        ];
        let wrong = check(&files);
        assert_eq!(wrong.len(), 1, "{wrong:?}");
        assert!(wrong[0].contains("crates/x/src/b.rs -> crates/x/src/c.rs: C, make"), "{wrong:?}");
        assert!(!wrong[0].contains("d.rs"), "{wrong:?}");
    }

    #[test]
    fn a_cycle_through_the_folder_of_another_file_is_one() {
        let files = [
            file("a", "mod in_a;\npub use self::in_a::X;"),
            file("a/in_a", "use crate::b::B;\nuse super::A;"),
            file("b", "use crate::a::X;"),
        ];
        assert_eq!(check(&files).len(), 1);
        assert!(check(&files[..2]).is_empty(), "a file and its folder are one room");
    }
}
