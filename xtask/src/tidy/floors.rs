//! That the modules of the kernel program stand on floors, each using only those below it.
//!
//! Decides: the order is the list in the header of its `main.rs`, after the words
//! "before it in this list:". So no two modules import each other, in a circle of any length.

use super::File;

/// Where the modules are.
const SOURCES: &str = "crates/nines-bpf/src/";

/// What is wrong, a line each.
pub fn check(files: &[File]) -> Vec<String> {
    let Some(main) = files.iter().find(|file| file.name == format!("{SOURCES}main.rs")) else {
        return Vec::new();
    };
    let floors = floors(&main.text);
    let mut wrong = Vec::new();
    for file in files {
        let Some(path) = file.name.strip_prefix(SOURCES) else { continue };
        let module = path.split(['/', '.']).next().unwrap_or_default();
        if module == "main" {
            continue;
        }
        let Some(own) = floors.iter().position(|name| name == module) else {
            wrong.push(format!("{}: {module} is not in the list of {}", file.name, main.name));
            continue;
        };
        for used in uses(&file.text) {
            if used != module && !floors[..own].contains(&used) {
                wrong.push(format!("{}: {used} is not below {module}", file.name));
            }
        }
    }
    wrong
}

/// Modules from the ground up.
fn floors(main: &str) -> Vec<String> {
    let header: Vec<&str> = main.lines().map_while(|line| line.strip_prefix("//!")).collect();
    let header = header.join(" ");
    let Some((_, list)) = header.split_once("before it in this list:") else { return Vec::new() };
    let list = list.split('.').next().unwrap_or_default();
    list.split(',').map(|name| name.trim().to_owned()).collect()
}

/// Modules that the code names after `crate::`, alone or in a group; comments aside.
fn uses(text: &str) -> Vec<String> {
    let code = |line: &str| line.split("//").next().unwrap_or_default().to_owned() + "\n";
    let text: String = text.lines().map(code).collect();
    let mut found = Vec::new();
    for rest in text.split("crate::").skip(1) {
        match rest.strip_prefix('{') {
            Some(group) => found.extend(members(group)),
            None => found.push(word(rest)),
        }
    }
    found.sort();
    found.dedup();
    found
}

/// First words of a group's members, up to the brace that ends it.
fn members(group: &str) -> Vec<String> {
    let (mut depth, mut begins, mut found) = (0, true, Vec::new());
    for (i, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => begins = true,
            c if begins && c.is_alphabetic() => {
                found.push(word(&group[i..]));
                begins = false;
            }
            _ => {}
        }
    }
    found
}

fn word(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, text: &str) -> File {
        File { name: format!("{SOURCES}{name}"), text: text.into() }
    }

    #[test]
    fn a_module_uses_those_before_it_only() {
        let main = file(
            "main.rs",
            "//! Each module uses only those before it in this list: maps, parse,\n//! entry.\nmod a;\n",
        );
        let files = [
            main,
            file("entry/tc.rs", "use crate::{\n    maps::{self, A},\n    parse::packet,\n};\n"),
            file("maps.rs", "// crate::entry is above\nuse core::mem;\n"),
            file(
                "parse/packet.rs",
                "use crate::{maps::{A, B}, entry};\nfn a(b: crate::parse::C) {}\n",
            ),
            file("parse.rs", "fn a() { crate::entry::b() }\n"),
            file("new.rs", ""),
        ];
        assert_eq!(
            check(&files),
            [
                "crates/nines-bpf/src/parse/packet.rs: entry is not below parse",
                "crates/nines-bpf/src/parse.rs: entry is not below parse",
                "crates/nines-bpf/src/new.rs: new is not in the list of crates/nines-bpf/src/main.rs",
            ]
        );
    }

    #[test]
    fn without_the_list_every_module_is_missed() {
        let files = [file("main.rs", "//! Programs.\n"), file("maps.rs", "")];
        assert_eq!(check(&files).len(), 1);
    }
}
