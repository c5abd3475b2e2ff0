//! `cargo xtask CHORE`: what a developer of nines runs besides cargo itself.

use std::path::PathBuf;

mod bench;
mod bpf;
mod tidy;

/// The root of the repository.
fn root() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("xtask lies in the root").to_owned()
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["bpf"] => bpf::build(&root(), None),
        ["bpf", "--out", file] => bpf::build(&root(), Some(file)),
        ["tidy"] => match tidy::check(&root()) {
            wrong if wrong.is_empty() => Ok(()),
            wrong => Err(wrong.join("\n")),
        },
        ["bench", "http", ..] => bench::http::http(words.contains(&"json")),
        ["bench", "dataplane", ..] => bench::dataplane::dataplane(&words),
        ["bench", "tables", ..] => bench::tables::tables(words.contains(&"json")),
        _ => Err(
            "usage: cargo xtask bpf [--out FILE] | tidy | bench http|dataplane|tables [-o json]"
                .into(),
        ),
    };
    if let Err(why) = done {
        eprintln!("xtask: {why}");
        std::process::exit(1);
    }
}
