//! A run as data: what is asked, and what came of it.
//!
//! Decides: the bounds that a run has when its caller sets none.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use nines_model::Millis;

/// Where programs find others, unless the caller says otherwise. The environment of the agent is
/// not handed on: what an operator's shell had set must not change what an agent does.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Milliseconds between SIGTERM and SIGKILL, unless the caller says otherwise: enough for a shell
/// script to clean up, short beside a deadline.
const GRACE: Millis = Millis(2_000);
/// Bytes kept of each stream, unless the caller says otherwise.
const OUTPUT_BYTES_MAX: usize = 64 << 10;

/// A program to run, and its bounds.
#[derive(Clone, PartialEq, Eq)]
pub struct Run {
    /// Absolute path of the program.
    pub program: PathBuf,
    /// Its arguments, without its own name.
    pub args: Vec<String>,
    /// Its whole environment.
    pub env: BTreeMap<String, String>,
    /// What it reads; it reads `/dev/null` if this is empty.
    pub stdin: Vec<u8>,
    /// Milliseconds until it is stopped, from the call that starts it: a start that hangs counts.
    /// The outcome comes then, after `grace` at the latest, or 5 s later if SIGKILL does not work.
    pub deadline: Millis,
    /// Milliseconds from SIGTERM until SIGKILL.
    pub grace: Millis,
    /// Bytes kept of its output, and as many of its errors. The rest is read and thrown away.
    pub output_bytes_max: usize,
    /// Name in the name of its cgroup, "web-server".
    pub cgroup: String,
    /// What becomes of processes that it leaves behind when it ends by itself.
    pub survivors: Survivors,
}

impl Run {
    /// `program` without arguments, in a clean environment, with this deadline.
    pub fn new(program: impl Into<PathBuf>, deadline: Millis) -> Self {
        let program = program.into();
        let name = program.file_name().map_or_else(String::new, |n| n.to_string_lossy().into());
        Self {
            program,
            args: Vec::new(),
            env: [("PATH", PATH), ("LC_ALL", "C")].map(|(k, v)| (k.into(), v.into())).into(),
            stdin: Vec::new(),
            deadline,
            grace: GRACE,
            output_bytes_max: OUTPUT_BYTES_MAX,
            cgroup: name,
            survivors: Survivors::Kill,
        }
    }

    /// With these arguments.
    pub fn args<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }
}

/// Without what it reads, which may be a password.
impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run")
            .field("program", &self.program)
            .field("args", &self.args)
            .field("env", &self.env)
            .field("stdin", &format_args!("{} bytes", self.stdin.len()))
            .field("deadline", &self.deadline)
            .field("survivors", &self.survivors)
            .finish_non_exhaustive()
    }
}

/// What becomes of processes that a program leaves behind. A program that is stopped leaves none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survivors {
    /// They are killed: of a check or a fence agent nothing stays.
    Kill,
    /// They stay: a resource agent that has started a server has done its work.
    Keep,
}

/// What came of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// How it ended.
    pub exit: Exit,
    /// What it wrote to its output.
    pub stdout: Output,
    /// What it wrote to its errors.
    pub stderr: Output,
    /// Milliseconds from the start to the end.
    pub duration: Millis,
    /// What held its processes together.
    pub containment: Containment,
    /// It was seen to become the program. `false`: it was stopped before, or on the way there, as
    /// when the program's file system does not answer; or it could not be started.
    pub has_begun: bool,
    /// Processes that were still there when it ended by itself; [`Run::survivors`] says what became
    /// of them. Without a cgroup only those of its session are found.
    pub left_behind: usize,
    /// Something of it is still there: SIGKILL has no effect while the kernel waits for a device.
    /// It is reaped when it ends.
    pub lingers: bool,
}

impl Outcome {
    /// An end without any output, after `duration`.
    pub fn new(exit: Exit, duration: Millis) -> Self {
        Self {
            has_begun: !matches!(exit, Exit::NotStarted(_)),
            exit,
            stdout: Output::default(),
            stderr: Output::default(),
            duration,
            containment: Containment::Cgroup,
            left_behind: 0,
            lingers: false,
        }
    }
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this exit code.
    Code(i32),
    /// By this signal, which the runner did not send.
    Signal(i32),
    /// The runner stopped it at its deadline.
    DeadlineKilled,
    /// The runner stopped it because its caller asked for that, or dropped its handle.
    Cancelled,
    /// Not one instruction of it ran.
    NotStarted(NotStarted),
}

/// Why a program was not started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotStarted {
    /// The path is not absolute.
    Relative,
    /// There is no such file; or it is a script whose interpreter is not there.
    Missing,
    /// It may not be executed.
    NotExecutable,
    /// So many children run already.
    TooMany(usize),
    /// Its runner starts nothing any more.
    Ended,
    /// The system refused, with these words.
    Refused(String),
}

impl fmt::Display for NotStarted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Relative => f.write_str("its path is not absolute"),
            Self::Missing => f.write_str("there is no such program, or its interpreter is missing"),
            Self::NotExecutable => f.write_str("it is not executable"),
            Self::TooMany(max) => write!(f, "{max} programs run already"),
            Self::Ended => f.write_str("no program is started any more"),
            Self::Refused(why) => f.write_str(why),
        }
    }
}

/// The beginning of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// As many bytes as the bound allows.
    pub bytes: Vec<u8>,
    /// There was more.
    pub is_cut: bool,
}

impl Output {
    /// Keeps what fits of some more bytes.
    pub(crate) fn take(&mut self, more: &[u8], bytes_max: usize) {
        let room = bytes_max.saturating_sub(self.bytes.len());
        self.bytes.extend_from_slice(&more[..room.min(more.len())]);
        self.is_cut |= more.len() > room;
    }
}

/// What held the processes of a run together, so that all of them could be stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Containment {
    /// A cgroup: none can leave it.
    Cgroup,
    /// A process group and its session only, because there could be no cgroup, for this reason: a
    /// process that makes a session of its own has left them and is not stopped.
    ProcessGroup(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_holds_to_the_byte() {
        let mut output = Output::default();
        output.take(b"abc", 4);
        assert_eq!((output.bytes.as_slice(), output.is_cut), (&b"abc"[..], false));
        output.take(b"d", 4);
        assert!(!output.is_cut, "all of it fitted");
        output.take(b"", 4);
        assert!(!output.is_cut, "nothing was lost");
        output.take(b"ef", 4);
        assert_eq!((output.bytes.as_slice(), output.is_cut), (&b"abcd"[..], true));
    }
}
