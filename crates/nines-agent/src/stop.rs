//! How an agent ends.
//!
//! Decides: how it is replaced in place. The new process has the number of the old one, so systemd
//! does not notice, and it runs the binary that is installed now.

use std::{env, io, os::unix::process::CommandExt as _, path::PathBuf, process::Command};

use nines_core::wire::Begun;

/// How an agent ends.
pub enum End {
    /// For good: its process ends.
    Stopped,
    /// A newer process takes its place.
    Replace,
    /// Likewise, and it starts without the log, which was lost.
    BeginAnew(Begun),
}

/// Starts this program anew in its own place; returns only if that cannot be.
pub fn replace() -> io::Error {
    let me = match env::current_exe() {
        Ok(me) => me,
        Err(why) => return why,
    };
    // An upgraded binary has the same path; the kernel calls the old one "(deleted)".
    let me = PathBuf::from(me.to_string_lossy().trim_end_matches(" (deleted)").to_owned());
    Command::new(me).args(env::args_os().skip(1)).exec()
}
