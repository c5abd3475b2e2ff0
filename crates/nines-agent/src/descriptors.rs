//! How the process's file descriptors are divided.
//!
//! Decides: shares that add up to less than the limit, so that strangers never take what checks,
//! members and the kernel tables need, whatever the limit is.

use nines_dataplane::process::raise_open_files;

/// Kernel tables, the log, sockets for heartbeats, netlink, standard streams.
const OWN: usize = 256;

/// Shares of the descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    /// Checks of real servers.
    pub checks: usize,
    /// Connections at the peer port that have shown no certificate yet.
    pub strangers: usize,
    /// Connections of members and real servers.
    pub members: usize,
    /// Connections at the port for metrics.
    pub metrics: usize,
    /// Connections at the API's socket.
    pub api: usize,
    /// Connections at the API's port.
    pub remote: usize,
}

impl Shares {
    /// Raises the limit as far as it goes, and divides it.
    pub fn of_this_process() -> Self {
        Self::of(usize::try_from(raise_open_files()).unwrap_or(usize::MAX))
    }

    /// The share of each of so many witnesses in this process.
    pub fn each_of(self, witnesses: usize) -> Self {
        let one = |all: usize, least: usize| (all / witnesses.max(1)).max(least);
        let (strangers, members) = (one(self.strangers, 4), one(self.members, 32));
        Self { strangers, members, checks: 0, metrics: 0, api: 0, remote: 0 }
    }

    /// Divides a limit of open files.
    pub fn of(limit: usize) -> Self {
        let free = limit.saturating_sub(OWN).max(64);
        Self {
            // More at once would only crowd out each other, and use up local ports.
            checks: (free / 2).min(4_096),
            strangers: (free / 12).clamp(4, 128),
            members: (free / 6).clamp(8, 16_384),
            metrics: (free / 24).clamp(2, 64),
            api: (free / 12).clamp(4, 256),
            remote: (free / 24).clamp(2, 64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_fit_whatever_the_limit_is() {
        for limit in [320, 512, 1_024, 4_096, 65_536, 524_288, usize::MAX] {
            let Shares { checks, strangers, members, metrics, api, remote } = Shares::of(limit);
            let all = OWN + checks + strangers + members + metrics + api + remote;
            assert!(all <= limit, "{limit}: {all}");
            assert!(checks >= 32 && strangers >= 4 && members >= 8, "{limit}");
        }
        assert_eq!(Shares::of(usize::MAX).checks, 4_096);
    }
}
