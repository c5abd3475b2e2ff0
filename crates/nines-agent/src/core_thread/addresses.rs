//! Where a peer is.
//!
//! Decides: which of its addresses a datagram goes to.

use std::net::{IpAddr, SocketAddr};

/// Where datagrams to a peer go.
pub(super) struct PeerAddresses {
    /// One a link; of one that floats: one a host.
    all: Vec<SocketAddr>,
    /// It runs on one of several hosts: each datagram goes to all of them, over each link.
    floats: bool,
}

impl PeerAddresses {
    pub(super) fn new(addresses: &[IpAddr], port: u16, floats: bool) -> Self {
        let all = addresses.iter().map(|a| SocketAddr::new(*a, port)).collect();
        Self { all, floats }
    }

    /// One that was heard from there.
    pub(super) fn one(from: SocketAddr) -> Self {
        Self { all: vec![from], floats: false }
    }

    /// All of them.
    pub(super) fn all(&self) -> &[SocketAddr] {
        &self.all
    }

    /// Those that a link leads to.
    pub(super) fn of(&self, link: usize) -> &[SocketAddr] {
        let one = link.min(self.all.len().saturating_sub(1));
        if self.floats { &self.all } else { self.all.get(one..=one).unwrap_or_default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_floats_is_spoken_to_at_all_addresses_over_each_link() {
        let addresses = ["10.0.0.2", "10.0.0.3"].map(|a| a.parse::<IpAddr>().unwrap());
        let all = addresses.map(|a| SocketAddr::new(a, 9118));
        let fixed = PeerAddresses::new(&addresses, 9118, false);
        assert_eq!([0, 1, 2].map(|link| fixed.of(link)), [&all[..1], &all[1..], &all[1..]]);
        let floats = PeerAddresses::new(&addresses, 9118, true);
        assert_eq!([0, 1].map(|link| floats.of(link)), [&all[..], &all[..]]);
        assert!(PeerAddresses::new(&[], 9118, false).of(0).is_empty());
    }
}
