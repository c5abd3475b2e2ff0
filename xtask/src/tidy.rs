//! Habits that a test can hold: sizes of files and functions' lines, headers, names, and that
//! ARCHITECTURE.md names what is there.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// Lines a file may have.
const FILE_LINES_MAX: usize = 500;
/// Characters a line may have.
const LINE_CHARS_MAX: usize = 120;
/// Files that were longer when this was written; each may only shrink.
const LONGER: &[(&str, usize)] = &[];
/// Words that say nothing.
const EMPTY_NAMES: &[&str] = &["util", "utils", "helper", "helpers", "common", "misc", "manager"];

/// Every Rust file of ours.
fn files(root: &Path) -> Vec<PathBuf> {
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
    found.sort();
    found
}

/// What is wrong, a line each.
pub fn check(root: &Path) -> Vec<String> {
    let longer: BTreeMap<&str, usize> = LONGER.iter().copied().collect();
    let mut wrong = Vec::new();
    for path in files(root) {
        let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
        let text = fs::read_to_string(&path).unwrap_or_default();
        let lines = text.lines().count();
        let limit = longer.get(name.as_str()).copied().unwrap_or(FILE_LINES_MAX);
        if lines > limit {
            wrong.push(format!("{name}: {lines} lines, {limit} allowed: split the room"));
        }
        if !text.starts_with("//!") && !name.ends_with("tests.rs") {
            wrong.push(format!("{name}: no header that says what the file decides"));
        }
        for (i, line) in text.lines().enumerate() {
            if line.chars().count() > LINE_CHARS_MAX {
                wrong.push(format!("{name}:{}: longer than {LINE_CHARS_MAX}", i + 1));
            }
        }
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if EMPTY_NAMES.contains(&stem.as_str()) || stem == "mod" {
            wrong.push(format!("{name}: the name says nothing"));
        }
    }
    wrong.extend(map(root));
    wrong
}

/// ARCHITECTURE.md names every crate and nothing that is not there.
fn map(root: &Path) -> Vec<String> {
    let text = fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap_or_default();
    let mut wrong = Vec::new();
    for entry in fs::read_dir(root.join("crates")).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !text.contains(&format!("`{name}`")) {
            wrong.push(format!("ARCHITECTURE.md does not name {name}"));
        }
    }
    for word in text.split('`').skip(1).step_by(2) {
        let is_path = word.contains('/') && !word.contains([' ', '*', '{', '<']);
        if is_path && word.starts_with("crates/") && !root.join(word).exists() {
            wrong.push(format!("ARCHITECTURE.md names {word}, which is not there"));
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_house_is_tidy() {
        let wrong = super::check(&crate::root());
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    #[test]
    fn it_can_find_something() {
        let room = std::env::temp_dir().join(format!("nines-tidy-{}", std::process::id()));
        std::fs::create_dir_all(room.join("crates/x")).unwrap();
        std::fs::write(room.join("crates/x/util.rs"), "fn a() {}\n".repeat(600)).unwrap();
        std::fs::write(room.join("ARCHITECTURE.md"), "`crates/gone`").unwrap();
        let wrong = super::check(&room);
        std::fs::remove_dir_all(room).unwrap();
        for part in ["600 lines", "no header", "says nothing", "does not name x", "not there"] {
            assert!(wrong.iter().any(|w| w.contains(part)), "{part}: {wrong:?}");
        }
    }
}
