//! One call of an agent: what it is told, and what its end means.
//!
//! Decides: that each call names its action, that secrets go to the agent's input only, and when an
//! answer is one. Whatever is not exactly the interface's answer is a [`Failure`]: of a status that
//! leaves the power unknown.
//!
//! "Off" takes the exit code 2 and the line "Status: OFF". The code alone does not do: python and
//! shells end with 2 as well when they cannot read their script.

use std::{
    fmt, fs,
    io::Read as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use nines_model::{Millis, fence::line_value, printable};

use super::device::{Device, Interface, Outlet};
use crate::{
    Runner,
    run::{Exit, NotStarted, Outcome, Run},
};

/// Bytes that a file with a secret may have.
const SECRET_BYTES_MAX: u64 = 4 << 10;
/// Characters kept of what an agent says when it fails.
const SAID_CHARS_MAX: usize = 300;
/// Outlets of a device that are read; the largest frames have some hundreds of slots.
const OUTLETS_MAX: usize = 10_000;
/// Bytes that a list of outlets may have.
const LIST_BYTES_MAX: usize = 1 << 20;

/// What an agent is asked for, with the name of the node that is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action<'a> {
    /// Switch it on, and wait until it is.
    On(&'a str),
    /// Switch it off, and wait until it is. This alone proves nothing: see [`Device::power_off`].
    Off(&'a str),
    /// Off and on. For devices that can do nothing else: the agent says that it worked also when
    /// only "off" did, and with some methods the machine is never off.
    Reboot(&'a str),
    /// Is it on?
    Status(&'a str),
    /// Does the device answer?
    Monitor,
    /// What outlets has the device?
    List,
}

impl<'a> Action<'a> {
    /// Its name in the interface.
    pub const fn word(self) -> &'static str {
        match self {
            Self::On(_) => "on",
            Self::Off(_) => "off",
            Self::Reboot(_) => "reboot",
            Self::Status(_) => "status",
            Self::Monitor => "monitor",
            Self::List => "list",
        }
    }

    const fn node(self) -> Option<&'a str> {
        match self {
            Self::On(node) | Self::Off(node) | Self::Reboot(node) | Self::Status(node) => {
                Some(node)
            }
            Self::Monitor | Self::List => None,
        }
    }
}

/// What kind of answer an action has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    ToAct,
    Status,
    List,
}

/// A call that can be made: a description, nothing has run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    pub(super) program: PathBuf,
    interface: Interface,
    pub(super) action: &'static str,
    /// The node that is meant; empty: none.
    pub(super) node: String,
    asked: Asked,
    pub(super) lines: Vec<(String, String)>,
    secrets: Vec<(String, PathBuf)>,
    pub(super) deadline: Millis,
    separator: String,
}

/// Why a device cannot make a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoCall {
    /// The device does not switch this node.
    NotItsNode(String),
    /// Its agent does not have this action.
    NoAction(&'static str),
}

impl fmt::Display for NoCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotItsNode(node) => write!(f, "it does not switch {}", printable::clean(node)),
            Self::NoAction(action) => write!(f, "its agent has no action \"{action}\""),
        }
    }
}

/// Whether a machine is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    /// It is on, or the agent says so with less than all it should say.
    On,
    /// The device says that it is off.
    Off,
}

/// What came of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// `on`, `off`, `reboot`, `monitor`: the agent says that it worked.
    Done,
    /// `status`: the agent says this.
    Power(Power),
    /// `list`: these.
    Outlets(Vec<ListedOutlet>),
    /// `list`: the agent cannot tell.
    NoList,
    /// Anything else.
    Failed(Failure),
}

/// An outlet as a device lists it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ListedOutlet {
    /// What a config names it by.
    pub name: String,
    /// What people have called it on the device; may be empty.
    pub alias: String,
}

/// How a call failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The agent ended with this exit code.
    Code {
        /// 1 of all that can go wrong.
        code: i32,
        /// The end of what it said, on a line, without secrets; may be empty.
        said: String,
    },
    /// A signal ended it, which nobody here had sent.
    Signal(i32),
    /// It was stopped at its deadline, perhaps half way: the power is unknown.
    Deadline {
        /// `false`: not even the agent's program had begun.
        has_begun: bool,
        /// It cannot be killed, and may go on when the kernel lets it.
        lingers: bool,
    },
    /// It was stopped because its caller wanted that: the power is unknown.
    Cancelled,
    /// It was not started.
    NotStarted(NotStarted),
    /// It said something that is no answer to what it was asked; this, on a line.
    NoAnswer(String),
    /// It said more than is kept.
    TooLong,
    /// The file of a secret cannot be used; nothing was started.
    Secret {
        /// The key that it is for.
        key: String,
        /// The file.
        path: PathBuf,
        /// What is wrong with the file.
        why: String,
    },
}

impl Failure {
    /// Whether the same call would fail again until a person has changed something, or for ever.
    pub(super) fn is_final(&self) -> bool {
        matches!(
            self,
            Self::Secret { .. }
                | Self::NotStarted(
                    NotStarted::Relative
                        | NotStarted::Missing
                        | NotStarted::NotExecutable
                        | NotStarted::Ended
                )
        )
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code { code, said } if said.is_empty() => write!(f, "exit code {code}"),
            Self::Code { code, said } => write!(f, "exit code {code}: {said}"),
            Self::Signal(signal) => write!(f, "killed by signal {signal}"),
            Self::Deadline { has_begun: false, .. } => {
                f.write_str("its program did not begin before the deadline")
            }
            Self::Deadline { lingers: true, .. } => {
                f.write_str("no answer before the deadline, and it cannot be killed")
            }
            Self::Deadline { .. } => f.write_str("no answer before the deadline"),
            Self::Cancelled => f.write_str("cancelled"),
            Self::NotStarted(why) => write!(f, "not started: {why}"),
            Self::NoAnswer(said) if said.is_empty() => f.write_str("it said nothing"),
            Self::NoAnswer(said) => write!(f, "no answer to what was asked: {said}"),
            Self::TooLong => f.write_str("it said more than is kept"),
            Self::Secret { key, path, why } => {
                write!(f, "the file of \"{key}\", {}: {why}", path.display())
            }
        }
    }
}

impl Device {
    /// The call for an action, to be over within `deadline`.
    pub fn call(&self, action: Action<'_>, deadline: Millis) -> Result<Call, NoCall> {
        let (config, metadata) = (self.config(), self.metadata());
        if !metadata.actions.contains_key(action.word()) {
            return Err(NoCall::NoAction(action.word()));
        }
        let outlet = match action.node() {
            None => None,
            Some(node) => {
                self.outlet_line(node).ok_or_else(|| NoCall::NotItsNode(node.to_owned()))?
            }
        };
        let outlet = outlet.map(|(key, name)| (key.to_owned(), name.to_owned()));
        let parameters = config.parameters.iter().map(|(key, value)| (key.clone(), value.clone()));
        let separator = config.parameters.get("separator").cloned();
        let default = || metadata.parameters.get("separator").and_then(|of| of.default.clone());
        Ok(Call {
            program: self.program(),
            interface: self.interface(),
            action: action.word(),
            node: action.node().unwrap_or_default().to_owned(),
            asked: match action {
                Action::Status(_) => Asked::Status,
                Action::List => Asked::List,
                _ => Asked::ToAct,
            },
            lines: outlet.into_iter().chain(parameters).collect(),
            secrets: config.secrets.clone().into_iter().collect(),
            deadline,
            separator: separator.or_else(default).unwrap_or_else(|| ",".into()),
        })
    }

    /// What this device has of a node, for people.
    pub fn outlet(&self, node: &str) -> Option<&Outlet> {
        self.config().outlets.get(node)
    }
}

impl Call {
    /// Makes it, and waits for the answer. Reads the files of the secrets.
    pub fn carry_out(&self, runner: &dyn Runner) -> Answer {
        match self.prepare() {
            Ok(prepared) => prepared.answer(&runner.run(prepared.run.clone())),
            Err(why) => Answer::Failed(why),
        }
    }

    /// Reads the secrets.
    pub(super) fn prepare(&self) -> Result<Prepared<'_>, Failure> {
        if self.interface == Interface::Command {
            return Ok(Prepared { call: self, run: self.command(), secrets: Vec::new() });
        }
        let mut secrets = Vec::new();
        for (key, path) in &self.secrets {
            let value = secret(path).map_err(|why| {
                let (key, path) = (key.clone(), path.clone());
                Failure::Secret { key, path, why }
            })?;
            secrets.push((key.clone(), value));
        }
        // The action comes first: an agent that stops reading in the middle must know it.
        let mut stdin = format!("action={}\n", self.action);
        for (key, value) in self.lines.iter().chain(&secrets) {
            stdin.push_str(&format!("{key}={value}\n"));
        }
        let mut run = Run::new(&self.program, self.deadline);
        run.stdin = stdin.into();
        run.grace = grace(self.deadline);
        if self.asked == Asked::List {
            run.output_bytes_max = LIST_BYTES_MAX;
        }
        let secrets = secrets.into_iter().map(|(_, value)| value).collect();
        Ok(Prepared { call: self, run, secrets })
    }
}

/// How long an agent may take to end after SIGTERM: an eighth of its time, half a second at most.
pub(super) fn grace(deadline: Millis) -> Millis {
    Millis((deadline.0 / 8).min(500))
}

/// The content of a file, as an agent is told it.
fn secret(path: &Path) -> Result<String, String> {
    let shown = |why: std::io::Error| why.to_string();
    let file = fs::File::open(path).map_err(shown)?;
    let about = file.metadata().map_err(shown)?;
    if !about.is_file() {
        return Err("it is not a file".into());
    }
    if about.permissions().mode() & 0o007 != 0 {
        return Err("everybody may use it; take that away with chmod o= FILE".into());
    }
    let mut text = Vec::new();
    file.take(SECRET_BYTES_MAX + 1).read_to_end(&mut text).map_err(shown)?;
    if text.len() as u64 > SECRET_BYTES_MAX {
        return Err(format!("it has more than {SECRET_BYTES_MAX} bytes"));
    }
    let text = String::from_utf8(text).map_err(|_| "it is not UTF-8")?;
    let value = text.strip_suffix('\n').unwrap_or(&text);
    let value = value.strip_suffix('\r').unwrap_or(value);
    if value.is_empty() {
        return Err("it is empty".into());
    }
    line_value(value)?;
    Ok(value.to_owned())
}

/// A call whose secrets were read.
pub(super) struct Prepared<'a> {
    call: &'a Call,
    pub run: Run,
    secrets: Vec<String>,
}

impl Prepared<'_> {
    /// What an end means.
    pub fn answer(&self, outcome: &Outcome) -> Answer {
        let code = match &outcome.exit {
            Exit::Code(code) => *code,
            Exit::Signal(signal) => return Answer::Failed(Failure::Signal(*signal)),
            Exit::Cancelled => return Answer::Failed(Failure::Cancelled),
            Exit::NotStarted(why) => return Answer::Failed(Failure::NotStarted(why.clone())),
            Exit::DeadlineKilled => {
                let Outcome { has_begun, lingers, .. } = *outcome;
                return Answer::Failed(Failure::Deadline { has_begun, lingers });
            }
        };
        let failed = |code| Answer::Failed(Failure::Code { code, said: self.said(outcome) });
        let no_answer = || Answer::Failed(Failure::NoAnswer(self.said(outcome)));
        match (self.call.asked, code, status_line(&outcome.stdout.bytes)) {
            (Asked::Status, 0, Some(Power::On) | None) => Answer::Power(Power::On),
            (Asked::Status, 2, Some(Power::Off)) => Answer::Power(Power::Off),
            (Asked::Status, 0 | 2, _) => no_answer(),
            (Asked::List, 0, _) if outcome.stdout.is_cut => Answer::Failed(Failure::TooLong),
            (Asked::List, 0, _) => match outlets(&outcome.stdout.bytes, &self.call.separator) {
                Some(outlets) if outlets.is_empty() => Answer::NoList,
                Some(outlets) => Answer::Outlets(outlets),
                None => no_answer(),
            },
            (_, 0, _) => Answer::Done,
            (_, code, _) => failed(code),
        }
    }

    /// The last line that an agent has said, its errors before its output; without secrets, and
    /// without what would act on a terminal.
    fn said(&self, outcome: &Outcome) -> String {
        let last = |bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes);
            let line = text.lines().map(str::trim).rfind(|l| !l.is_empty() && !is_hint(l));
            line.map(str::to_owned)
        };
        let line = last(&outcome.stderr.bytes).or_else(|| last(&outcome.stdout.bytes));
        let mut line = line.unwrap_or_default();
        for secret in &self.secrets {
            line = line.replace(secret.as_str(), "***");
        }
        let line: String = line.chars().take(SAID_CHARS_MAX).collect();
        printable::clean(&line).into_owned()
    }
}

/// A line with which agents end, whatever was wrong.
fn is_hint(line: &str) -> bool {
    line.ends_with("Please use '-h' for usage")
}

/// What the last line "Status: ..." says.
fn status_line(output: &[u8]) -> Option<Power> {
    let text = String::from_utf8_lossy(output);
    let told = text.lines().rev().find_map(|line| {
        let line = line.trim().to_ascii_lowercase();
        Some(line.strip_prefix("status:")?.trim().to_owned())
    })?;
    match told.as_str() {
        "on" => Some(Power::On),
        "off" => Some(Power::Off),
        _ => None,
    }
}

/// The lines `NAME,ALIAS` of a list; none: the agent says that it cannot tell. `None`: it is no
/// list.
fn outlets(output: &[u8], separator: &str) -> Option<Vec<ListedOutlet>> {
    let text = std::str::from_utf8(output).ok()?;
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if lines.iter().all(|line| *line == "N/A" || line.starts_with("NOTICE:")) {
        return Some(Vec::new());
    }
    let one = |line: &&str| {
        let (name, alias) = line.split_once(separator)?;
        if name.is_empty() || line_value(name).is_err() {
            return None;
        }
        Some(ListedOutlet { name: name.to_owned(), alias: printable::clean(alias).into_owned() })
    };
    if lines.len() > OUTLETS_MAX {
        return None;
    }
    lines.iter().map(one).collect()
}

#[cfg(test)]
mod tests;
