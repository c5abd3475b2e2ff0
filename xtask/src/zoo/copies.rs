//! A copy of the crates that the simulator needs, to which patches are applied.
//!
//! Decides: what is copied, and how it is built: one folder of build results for all bugs, so that
//! only what a patch touches is compiled again.

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{Done, cargo};

/// Crates that are copied: the simulator, the core, and what their tests need.
const CRATES: &[&str] = &["nines-cases", "nines-core", "nines-model", "nines-planner", "nines-sim"];
/// How the copy is built: as fast as a release, and compiled again in seconds.
const PROFILE: &str = "\n[profile.zoo]\ninherits = \"release\"\nopt-level = 2\nlto = \"off\"\n\
    codegen-units = 256\nincremental = true\nstrip = false\npanic = \"unwind\"\n";
/// What takes longer does not end.
const LATE: Duration = Duration::from_secs(600);

/// What came of a command, with what it printed.
pub enum Ended {
    /// It said that all is well.
    Good(String),
    /// It did not.
    Bad(String),
    /// It was stopped, because it took too long.
    Late,
}

/// The copied crates.
pub struct Copies {
    tree: PathBuf,
}

fn at(path: &Path) -> impl Fn(std::io::Error) -> String + '_ {
    move |why| format!("{}: {why}", path.display())
}

/// Writes a file unless it has these contents: what is built goes by the time of the last change.
fn keep(path: &Path, contents: &[u8]) -> Done {
    if fs::read(path).is_ok_and(|before| before == contents) {
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(at(folder))?;
    }
    fs::write(path, contents).map_err(at(path))
}

/// Makes `to` the same as `from`.
fn mirror(from: &Path, to: &Path) -> Done {
    let mut names = Vec::new();
    for entry in fs::read_dir(from).map_err(at(from))?.flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        if path.is_dir() {
            mirror(&path, &to.join(&name))?;
        } else {
            keep(&to.join(&name), &fs::read(&path).map_err(at(&path))?)?;
        }
        names.push(name);
    }
    for entry in fs::read_dir(to).map_err(at(to))?.flatten() {
        let path = entry.path();
        if names.contains(&entry.file_name()) {
            continue;
        }
        let gone = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        gone.map_err(at(&path))?;
    }
    Ok(())
}

/// The manifest of the workspace with these crates alone.
fn manifest(whole: &str) -> Done<String> {
    let (before, rest) = whole.split_once("members = [").ok_or("Cargo.toml names no members")?;
    let (_, after) = rest.split_once(']').ok_or("Cargo.toml: its members do not end")?;
    let members: Vec<String> = CRATES.iter().map(|name| format!("\"crates/{name}\"")).collect();
    Ok(format!("{before}members = [{}]{after}{PROFILE}", members.join(", ")))
}

impl Copies {
    /// Copies the crates of the repository at `root` to below `room`.
    pub fn new(root: &Path, room: &Path) -> Done<Self> {
        let copies = Self { tree: room.join("tree") };
        for name in CRATES {
            let to = copies.tree.join("crates").join(name);
            fs::create_dir_all(&to).map_err(at(&to))?;
            mirror(&root.join("crates").join(name), &to)?;
        }
        let whole = root.join("Cargo.toml");
        let whole = fs::read_to_string(&whole).map_err(at(&whole))?;
        keep(&copies.tree.join("Cargo.toml"), manifest(&whole)?.as_bytes())?;
        let lock = root.join("Cargo.lock");
        fs::copy(&lock, copies.tree.join("Cargo.lock")).map_err(at(&lock))?;
        Ok(copies)
    }

    /// Applies a patch; its lines must be there as they are in the patch, wherever in their file.
    pub fn apply(&self, patch: &str) -> Done {
        self.patch(&["--forward", "--dry-run"], patch)?;
        self.patch(&["--forward"], patch)
    }

    /// Takes a patch back.
    pub fn take_back(&self, patch: &str) -> Done {
        self.patch(&["--reverse"], patch)
    }

    fn patch(&self, words: &[&str], patch: &str) -> Done {
        let failed = |why: std::io::Error| format!("patch: {why}");
        let mut command = Command::new("patch");
        command.args(["-p1", "--fuzz=0", "--batch", "--no-backup-if-mismatch"]).args(words);
        command.current_dir(&self.tree).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(failed)?;
        let mut lines = child.stdin.take().expect("it was asked for");
        lines.write_all(patch.as_bytes()).map_err(failed)?;
        drop(lines);
        let output = child.wait_with_output().map_err(failed)?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() { Ok(()) } else { Err(said) }
    }

    fn cargo(&self, words: &[&str]) -> Command {
        let mut command = Command::new(cargo());
        command.args(words).args(["--offline", "--profile", "zoo", "--target-dir"]);
        command.arg(self.target()).current_dir(&self.tree);
        command
    }

    fn target(&self) -> PathBuf {
        self.tree.with_file_name("target")
    }

    /// Runs a command as long as it may take.
    fn run(&self, command: &mut Command) -> Done<Ended> {
        let path = self.tree.with_file_name("output");
        let output = File::create(&path).map_err(at(&path))?;
        let errors = output.try_clone().map_err(at(&path))?;
        command.stdin(Stdio::null()).stdout(output).stderr(errors).process_group(0);
        let child = command.spawn();
        let mut child =
            child.map_err(|why| format!("{}: {why}", command.get_program().display()))?;
        let began = Instant::now();
        loop {
            let status = child.try_wait().map_err(|why| why.to_string())?;
            if let Some(status) = status {
                let said = fs::read(&path).map_err(at(&path))?;
                let said = String::from_utf8_lossy(&said).into_owned();
                return Ok(if status.success() { Ended::Good(said) } else { Ended::Bad(said) });
            }
            if began.elapsed() > LATE {
                // A test that does not end is a child of cargo's.
                let group = format!("-{}", child.id());
                let killed = Command::new("kill").args(["-KILL", "--", &group]).status();
                killed.and_then(|_| child.wait()).map_err(|why| format!("kill: {why}"))?;
                return Ok(Ended::Late);
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Builds the simulator.
    pub fn build(&self) -> Done {
        match self.run(&mut self.cargo(&["build", "--package", "nines-sim"]))? {
            Ended::Good(_) => Ok(()),
            Ended::Bad(said) => Err(format!("it does not compile: {said}")),
            Ended::Late => Err("its compiler does not end".into()),
        }
    }

    /// Runs so many seeds, or fewer if one has a violation.
    pub fn simulate(&self, seeds: &str) -> Done<Ended> {
        let mut command = Command::new(self.target().join("zoo/nines-sim"));
        self.run(command.args(["--seeds", seeds, "--until-violation", "-o", "json"]))
    }

    /// Runs the tests of a crate, all of them although some fail.
    pub fn test(&self, name: &str) -> Done<Ended> {
        let words = ["test", "--package", name, "--lib", "--tests", "--no-fail-fast"];
        self.run(&mut self.cargo(&words))
    }
}
