//! What every command gets from the command line: where the agent is, and the form of results.
//!
//! Decides: nothing; `cli.rs` reads the options, and each command acts on them.

use std::path::PathBuf;

use clap::ValueEnum;
use nines_api::client::Client;

/// Socket of the agent, unless chosen otherwise.
pub const SOCKET: &str = "/run/nines/nines.sock";
/// State directory of the agent, unless chosen otherwise.
pub const STATE: &str = "/var/lib/nines";

/// Form of results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// A table, for people.
    #[default]
    Table,
    /// JSON, for programs: the API's own objects.
    Json,
}

/// What every command gets.
pub struct Context {
    /// API socket of the agent.
    pub socket: PathBuf,
    /// State directory.
    pub state: PathBuf,
    /// What results look like.
    pub output: Output,
}

impl Context {
    /// The agent's API.
    pub fn client(&self) -> Client<'_> {
        Client { socket: &self.socket }
    }

    /// Whether a program reads.
    pub fn json(&self) -> bool {
        self.output == Output::Json
    }
}
