//! The agents that this machine has, and what they say of themselves.
//!
//! Decides: when metadata is asked for again: when the program is another file, of another size, or
//! of another time. An agent takes 60 to 200 ms to tell.

use std::{
    collections::BTreeMap,
    fmt, fs,
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use nines_model::{Millis, fence::is_agent_name, suggest};

use super::{
    call::grace,
    device::DIRECTORY,
    metadata::{Metadata, Misread},
};
use crate::{
    Runner,
    run::{Exit, NotStarted, Run},
};

/// Bytes that metadata may have. The longest of Debian 12 has 11,293.
const METADATA_BYTES_MAX: usize = 1 << 20;

/// The fence agents of this machine.
#[derive(Debug)]
pub struct Installed {
    directory: PathBuf,
    read: Mutex<BTreeMap<String, (Version, Arc<Metadata>)>>,
}

/// A file, by what changes with it: size in bytes, time of its last change, and number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Version {
    size: u64,
    modified: (i64, i64),
    number: u64,
}

/// Why there is no metadata of an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoMetadata {
    /// It is not the name of a fence agent: "fence_", then letters, digits and lines.
    Name(String),
    /// This machine does not have it; one that is meant, perhaps.
    NotInstalled(Option<String>),
    /// It could not be asked, for this reason.
    NotStarted(NotStarted),
    /// It was asked and ended like this.
    Failed(Exit),
    /// It said more than any agent should.
    TooLong,
    /// It told something else.
    Misread(Misread),
}

impl fmt::Display for NoMetadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => {
                write!(f, "\"{}\" is not a fence agent's name", nines_model::printable::clean(name))
            }
            Self::NotInstalled(None) => {
                f.write_str("it is not installed; try apt install fence-agents")
            }
            Self::NotInstalled(Some(meant)) => {
                write!(f, "it is not installed; did you mean \"{meant}\"?")
            }
            Self::NotStarted(why) => write!(f, "not started: {why}"),
            Self::Failed(Exit::Code(code)) => write!(f, "exit code {code}"),
            Self::Failed(Exit::Signal(signal)) => write!(f, "killed by signal {signal}"),
            Self::Failed(_) => f.write_str("no answer before the deadline"),
            Self::TooLong => f.write_str("it said more than is kept"),
            Self::Misread(why) => why.fmt(f),
        }
    }
}

impl Default for Installed {
    fn default() -> Self {
        Self::in_directory(DIRECTORY)
    }
}

impl Installed {
    /// Those in a directory other than `/usr/sbin`.
    pub fn in_directory(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into(), read: Mutex::default() }
    }

    /// Their names, in order.
    pub fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let mut names: Vec<String> = names.filter(|name| is_agent_name(name)).collect();
        names.sort();
        names
    }

    /// What this one says of itself: kept from the last time, or asked for within `deadline`. Not
    /// on the way to a fence: a device is checked when it is configured.
    pub fn metadata(
        &self,
        runner: &dyn Runner,
        agent: &str,
        deadline: Millis,
    ) -> Result<Arc<Metadata>, NoMetadata> {
        if !is_agent_name(agent) {
            return Err(NoMetadata::Name(agent.to_owned()));
        }
        let program = self.directory.join(agent);
        let Ok(file) = fs::metadata(&program) else {
            let names = self.names();
            let meant = suggest::closest(agent, names.iter().map(String::as_str));
            return Err(NoMetadata::NotInstalled(meant.map(str::to_owned)));
        };
        let modified = (file.mtime(), file.mtime_nsec());
        let version = Version { size: file.size(), modified, number: file.ino() };
        let read = || self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, known)) = read().get(agent).filter(|(of, _)| *of == version) {
            return Ok(Arc::clone(known));
        }
        let run = Run::new(program, deadline).args(["-o", "metadata"]);
        let run = Run { output_bytes_max: METADATA_BYTES_MAX, grace: grace(deadline), ..run };
        let outcome = runner.run(run);
        let text = match outcome.exit {
            Exit::Code(0) if outcome.stdout.is_cut => return Err(NoMetadata::TooLong),
            Exit::Code(0) => outcome.stdout.bytes,
            Exit::NotStarted(why) => return Err(NoMetadata::NotStarted(why)),
            exit => return Err(NoMetadata::Failed(exit)),
        };
        let metadata = Arc::new(Metadata::parse(&text).map_err(NoMetadata::Misread)?);
        read().insert(agent.to_owned(), (version, Arc::clone(&metadata)));
        Ok(metadata)
    }
}

#[cfg(test)]
mod tests;
