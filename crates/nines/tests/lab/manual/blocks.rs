//! The fenced blocks of the pages: where they are, of which kind, and which are not run.

use std::path::{Path, PathBuf};

/// Blocks that are not run, page by page.
pub const NOT_RUN: &[(&str, usize)] = &[
    ("README.md", 3),
    ("docs/manual/forwarding/ipvs.md", 1),
    ("docs/manual/installation.md", 1),
    ("docs/manual/quorum-disk.md", 2),
    ("docs/manual/quorumd.md", 3),
    ("docs/manual/roles.md", 1),
    ("docs/manual/upgrade.md", 1),
];
const MARKER: &str = "<!-- not run by the tests: ";

/// A fenced block.
pub struct Block {
    pub page: String,
    /// Its first line in the page.
    pub line: usize,
    pub language: String,
    pub text: String,
    pub not_run: bool,
}

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// Pages from the root of the repository.
pub fn pages() -> Vec<String> {
    let mut pages = vec!["README.md".to_owned()];
    for folder in ["docs/manual", "docs/manual/forwarding"] {
        for entry in std::fs::read_dir(root().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|kind| kind == "md") {
                let name = path.file_name().unwrap().to_str().unwrap();
                pages.push(format!("{folder}/{name}"));
            }
        }
    }
    pages.sort();
    pages
}

pub fn blocks(page: &str) -> Vec<Block> {
    let whole = std::fs::read_to_string(root().join(page)).unwrap();
    let (mut found, mut open): (Vec<Block>, bool) = (Vec::new(), false);
    let mut before = "";
    for (i, line) in whole.lines().enumerate() {
        if let Some(language) = line.strip_prefix("```") {
            open = !open;
            if open {
                found.push(Block {
                    page: page.to_owned(),
                    line: i + 2,
                    language: language.to_owned(),
                    text: String::new(),
                    not_run: before.starts_with(MARKER),
                });
            }
        } else if open {
            let block = found.last_mut().unwrap();
            block.text.push_str(line);
            block.text.push('\n');
        } else {
            let hidden = before.is_empty() && line.starts_with("    ");
            assert!(!hidden, "{page}:{}: a block without a fence", i + 1);
            let misplaced = before.starts_with(MARKER);
            assert!(!misplaced, "{page}:{}: no block follows the marker", i + 1);
        }
        before = line;
    }
    found
}
