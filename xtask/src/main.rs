//! `cargo xtask CHORE`: what a developer of nines runs besides cargo itself.

use std::{os::unix::process::CommandExt as _, path::PathBuf, process::Command};

mod bench;
mod bpf;
mod faults;
mod package;
mod scenarios;
mod tidy;
mod torn;
mod zoo;

/// The root of the repository.
fn root() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("xtask lies in the root").to_owned()
}

/// Where cargo puts release builds.
fn release() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    root().join(target).join("release")
}

/// What came of a part of a chore; an error says why nothing did.
type Done<T = ()> = Result<T, String>;

/// The cargo that runs this.
fn cargo() -> std::ffi::OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// Set where it is one already.
const RELEASE: &str = "NINES_XTASK_RELEASE";

/// Builds nines and the chores for release.
fn build_release() -> Result<(), String> {
    let build = ["build", "--quiet", "--release", "--package", "nines", "--package", "xtask"];
    match Command::new(cargo()).args(build).current_dir(root()).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("cargo build --release, {status}: see above")),
        Err(why) => Err(format!("cargo build --release: {why}")),
    }
}

/// This chore by a release build, of nines too; returns only why there is none.
fn as_release(words: &[&str]) -> String {
    if let Err(why) = build_release() {
        return why;
    }
    let xtask = release().join("xtask");
    let why = Command::new(&xtask).args(words).env(RELEASE, "1").exec();
    format!("{}: {why}", xtask.display())
}

/// Packs a release build, or the binary that is named.
fn package(options: &[&str]) -> Result<(), String> {
    let (mut binary, mut out) = (None, release().with_file_name("debian"));
    let mut version = env!("CARGO_PKG_VERSION").to_owned();
    for pair in options.chunks(2) {
        match pair {
            ["--binary", file] => binary = Some(PathBuf::from(file)),
            ["--out", folder] => out = PathBuf::from(folder),
            ["--version", other] => (*other).clone_into(&mut version),
            other => return Err(format!("{other:?} is not an option of package")),
        }
    }
    let binary = match binary {
        Some(binary) => binary,
        None => {
            build_release()?;
            release().join("nines")
        }
    };
    for package in package::build_all(&root(), &binary, &out, &version)? {
        println!("{}", package.display());
    }
    Ok(())
}

/// Prints the named scenarios with their tests, or writes their page.
fn scenarios(options: &[&str]) -> Result<(), String> {
    let all = scenarios::read(&root())?;
    match options {
        [] => print!("{}", all.table()),
        ["-o", "json"] => print!("{}", all.json()),
        ["--write"] => {
            let page = root().join(scenarios::PAGE);
            std::fs::write(&page, all.page()).map_err(|e| format!("{}: {e}", page.display()))?;
        }
        other => return Err(format!("{other:?} are no options of scenarios")),
    }
    Ok(())
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
        ["scenarios", ref options @ ..] => scenarios(options),
        ["torn-writes", ref options @ ..] => torn::run(&root(), options),
        ["package", ref options @ ..] => package(options),
        ["zoo", ref words @ ..] => zoo::zoo(&root(), words),
        // What is measured is what people run.
        ["bench" | "faults", ..] if std::env::var_os(RELEASE).is_none() => Err(as_release(&words)),
        ["faults", ref options @ ..] => faults::run(&release().join("nines"), options),
        ["bench", "http", ..] => bench::http::http(words.contains(&"json")),
        ["bench", "dataplane", ..] => bench::dataplane::dataplane(&words),
        ["bench", "nodes", ref options @ ..] => {
            bench::nodes::nodes(&release().join("nines"), options)
        }
        ["bench", "tables", ..] => bench::tables::tables(words.contains(&"json")),
        _ => Err(
            "usage: cargo xtask bpf [--out FILE] | tidy | bench http|dataplane|nodes|tables [-o json]\n\
             \x20      cargo xtask scenarios [-o json | --write]\n\
             \x20      cargo xtask faults [--rounds N] [--busy N] [-o json]\n\
             \x20      cargo xtask package [--binary FILE] [--out DIR] [--version VERSION]\n\
             \x20      cargo xtask torn-writes [--trials N] [--seed N]\n\
             \x20      cargo xtask zoo [-o json] [NAME...]"
                .into(),
        ),
    };
    if let Err(why) = done {
        eprintln!("xtask: {why}");
        std::process::exit(1);
    }
}
