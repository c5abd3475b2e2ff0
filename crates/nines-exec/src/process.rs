//! What `/proc` says of processes, and how one is killed without hitting another of its number.
//!
//! Decides: which processes belong to a session. A process that makes a session of its own has left
//! it; only a cgroup holds that one.

use std::fs;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// A line of `/proc/PID/stat`, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// `R`, `S`, `D`; `Z` and `X` have ended.
    pub state: char,
    /// Number of its parent.
    pub parent: u32,
    /// Number of the process that made its session.
    pub session: u32,
    /// When it was started, in clock ticks since boot. With its number it names no other process;
    /// `exec` changes neither.
    pub since: u64,
}

impl Stat {
    /// Of this process; `None`: it is gone.
    pub fn of(pid: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// The name of a program, in brackets, may have brackets and spaces of its own.
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.rsplit_once(") ")?.1.split(' ');
        let state = fields.next()?.chars().next()?;
        let parent = fields.next()?.parse().ok()?;
        let session = fields.nth(1)?.parse().ok()?;
        let since = fields.nth(15)?.parse().ok()?;
        Some(Self { state, parent, session, since })
    }

    /// Whether it still runs.
    pub fn lives(self) -> bool {
        !matches!(self.state, 'Z' | 'X')
    }
}

/// Every process that can be seen from here.
pub fn all() -> impl Iterator<Item = (u32, Stat)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid| Some((pid, Stat::of(pid)?)))
}

/// Live processes of the session that `leader` has made, itself aside. It was not reaped yet: until
/// then no other session has its number.
pub fn others_of_session(leader: Pid) -> Vec<u32> {
    let leader = leader.as_raw_nonzero().get() as u32;
    let of_session = |stat: Stat| stat.session == leader && stat.lives();
    all().filter(|(pid, stat)| *pid != leader && of_session(*stat)).map(|(pid, _)| pid).collect()
}

/// Sends SIGKILL to the others of that session, job by job of a shell too; how many there were.
pub fn kill_others_of_session(leader: Pid) -> usize {
    let session = leader.as_raw_nonzero().get() as u32;
    let found = others_of_session(leader);
    for pid in &found {
        let Some(raw) = Pid::from_raw(*pid as i32) else { continue };
        let Ok(held) = pidfd_open(raw, PidfdFlags::empty()) else { continue };
        // The number may have gone to another process before it was held.
        if Stat::of(*pid).is_some_and(|stat| stat.session == session) {
            let _ = pidfd_send_signal(&held, Signal::KILL);
        }
    }
    found.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_and_spaces_is_no_field() {
        let line = "4711 (a) b ) S 12 4711 4700 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 98765 9 9\n";
        let stat = Stat { state: 'S', parent: 12, session: 4_700, since: 98_765 };
        assert_eq!(Stat::parse(line), Some(stat));
        assert_eq!(Stat::parse("4711 (a"), None);
        assert!(stat.lives() && !Stat { state: 'Z', ..stat }.lives());
    }
}
