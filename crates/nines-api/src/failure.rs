//! An error as a person meets it: what, why, and the next command; and its exit code.

use std::fmt;

use crate::types::{FileError, Problem};

/// What kind of failure; each has one exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Done, and the answer is no.
    No,
    /// The command or a file makes no sense.
    Usage,
    /// No agent or cluster reached.
    Unreachable,
    /// Refused because it would harm.
    Unsafe,
    /// No such thing.
    NotFound,
    /// Another operator changed it meanwhile.
    Changed,
    /// Waited long enough.
    TimedOut,
    /// The user or process may not do that.
    Denied,
    /// The machine: disk, kernel, network.
    Io,
}

/// The table that `nines help exit-codes` prints.
pub const EXIT_CODES: &[(u8, &str)] = &[
    (0, "done"),
    (1, "done, and the answer is no (differences, unhealthy, not drained)"),
    (2, "usage: the command or a file makes no sense; nothing was changed"),
    (3, "no agent or cluster reached"),
    (4, "refused for safety"),
    (5, "not found"),
    (6, "changed by someone else (revision)"),
    (7, "timed out waiting"),
    (8, "not allowed (root or a capability is missing)"),
    (9, "this machine refused: disk, kernel or network"),
];

impl Kind {
    /// Its exit code.
    pub fn code(self) -> u8 {
        match self {
            Self::No => 1,
            Self::Usage => 2,
            Self::Unreachable => 3,
            Self::Unsafe => 4,
            Self::NotFound => 5,
            Self::Changed => 6,
            Self::TimedOut => 7,
            Self::Denied => 8,
            Self::Io => 9,
        }
    }

    /// Its name in the API.
    pub fn word(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::Usage => "usage",
            Self::Unreachable => "unreachable",
            Self::Unsafe => "unsafe",
            Self::NotFound => "not-found",
            Self::Changed => "changed",
            Self::TimedOut => "timed-out",
            Self::Denied => "denied",
            Self::Io => "io",
        }
    }

    /// Back from the API.
    pub fn from_word(word: &str) -> Self {
        let all = [
            Self::No,
            Self::Usage,
            Self::Unreachable,
            Self::Unsafe,
            Self::NotFound,
            Self::Changed,
            Self::TimedOut,
            Self::Denied,
        ];
        all.into_iter().find(|k| k.word() == word).unwrap_or(Self::Io)
    }
}

/// Why a command or request failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Kind of the failure; it decides the exit code.
    pub kind: Kind,
    /// What failed, in a few words.
    pub what: String,
    /// Why it failed; empty: `what` says it.
    pub why: String,
    /// The next command.
    pub next: Option<String>,
    /// Errors in a file, one each.
    pub errors: Vec<FileError>,
}

/// `Result` with a [`Failure`].
pub type Outcome<T> = Result<T, Failure>;

impl Failure {
    /// `what` failed because of `why`.
    pub fn new(kind: Kind, what: impl Into<String>, why: impl fmt::Display) -> Self {
        Self { kind, what: what.into(), why: why.to_string(), next: None, errors: Vec::new() }
    }

    /// As the API and `-o json` say it.
    pub fn problem(self) -> Problem {
        Problem {
            r#type: format!("urn:nines:{}", self.kind.word()),
            title: self.what,
            detail: self.why,
            next: self.next,
            errors: self.errors,
        }
    }

    /// With the next command.
    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.what)?;
        if !self.why.is_empty() {
            write!(f, ": {}", self.why)?;
        }
        Ok(())
    }
}
