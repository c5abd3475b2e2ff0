//! What this node itself is short of.
//!
//! Decides: which errors say nothing about a server. A check that could not be made for want of a
//! descriptor, memory or a free local port changes no server's state; people are told instead.

use std::{
    io,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// How long after the last one a shortage is still shown.
const SHOWN: Duration = Duration::from_secs(10);
/// How often one is logged.
const LOGGED: Duration = Duration::from_secs(10);

/// Numbers of Linux for errors that are this machine's own, with what a person can do.
const OWN: &[(i32, &str, &str)] = &[
    (
        libc::EMFILE,
        "the agent has no free file descriptor",
        "raise LimitNOFILE in nines.service (systemctl edit nines), then restart nines",
    ),
    (
        libc::ENFILE,
        "the machine has no free file descriptor",
        "raise fs.file-max (sysctl -w fs.file-max=NUMBER)",
    ),
    (libc::ENOBUFS, "the kernel has no free network buffer", "see free and /proc/net/sockstat"),
    (libc::ENOMEM, "the kernel has no free memory", "see free and /proc/net/sockstat"),
    (
        libc::EADDRNOTAVAIL,
        "no local address or port is free",
        "widen net.ipv4.ip_local_port_range, or check less often (every)",
    ),
];

/// Why a try gave no good result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The server's fault, or that of the way to it.
    Server(String),
    /// This node could not ask: the entry of [`OWN`].
    Own(usize),
}

impl Trouble {
    /// What an error of the system says; `what` was tried.
    pub fn of(error: &io::Error, what: impl FnOnce() -> String) -> Self {
        let own = OWN.iter().position(|(number, ..)| error.raw_os_error() == Some(*number));
        own.map_or_else(|| Self::Server(format!("{}: {error}", what())), Self::Own)
    }

    /// The same of an error that has become text.
    pub fn of_text(text: &str) -> Self {
        let has = |number: &i32| text.contains(&format!("(os error {number})"));
        let own = OWN.iter().position(|(number, ..)| has(number));
        own.map_or_else(|| Self::Server(text.to_owned()), Self::Own)
    }
}

impl From<String> for Trouble {
    fn from(why: String) -> Self {
        Self::Server(why)
    }
}

#[derive(Default)]
struct Seen {
    what: usize,
    last: Option<Instant>,
    logged: Option<Instant>,
    since_logged: u64,
}

/// Shortages seen lately.
#[derive(Default)]
pub struct Shortages(Mutex<Seen>);

impl Shortages {
    /// One more check that could not be made; a line for the log now and then.
    pub fn note(&self, what: usize, now: Instant) -> Option<String> {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.what = what;
        seen.last = Some(now);
        seen.since_logged += 1;
        if seen.logged.is_some_and(|at| now.duration_since(at) < LOGGED) {
            return None;
        }
        seen.logged = Some(now);
        let count = std::mem::take(&mut seen.since_logged);
        let (_, why, next) = OWN[what];
        let checks = if count == 1 { "1 check was".into() } else { format!("{count} checks were") };
        Some(format!("{checks} not made: {why}; servers keep their state; next: {next}"))
    }

    /// What status says about it: why, and the next step.
    pub fn shown(&self, now: Instant) -> Option<(String, &'static str)> {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.last.filter(|at| now.duration_since(*at) < SHOWN)?;
        let (_, why, next) = OWN[seen.what];
        Some((format!("checks cannot be made: {why}"), next))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_shortages_are_told_from_servers_faults() {
        let of = |number| Trouble::of(&io::Error::from_raw_os_error(number), || "x".into());
        let own = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM, libc::EADDRNOTAVAIL];
        for number in own {
            assert!(matches!(of(number), Trouble::Own(_)), "{number}");
            let text = format!("probe: {}", io::Error::from_raw_os_error(number));
            assert_eq!(Trouble::of_text(&text), of(number), "{number}");
        }
        for number in [libc::ECONNREFUSED, libc::EHOSTUNREACH, libc::ENETUNREACH, libc::ETIMEDOUT] {
            assert!(matches!(of(number), Trouble::Server(_)), "{number}");
        }
    }

    #[test]
    fn a_shortage_is_logged_once_in_a_while_and_shown_for_a_while() {
        let shortages = Shortages::default();
        let start = Instant::now();
        assert_eq!(shortages.shown(start), None);
        assert!(shortages.note(0, start).unwrap().starts_with("1 check was not made"));
        for _ in 0..500 {
            assert_eq!(shortages.note(0, start + Duration::from_secs(1)), None);
        }
        let later = start + LOGGED;
        assert!(shortages.note(0, later).unwrap().starts_with("501 checks were not made"));
        assert!(shortages.shown(later).unwrap().0.contains("file descriptor"));
        assert_eq!(shortages.shown(later + SHOWN), None);
    }
}
