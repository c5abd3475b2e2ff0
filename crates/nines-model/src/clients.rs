//! Which clients may connect, how often, and what they and their packets say of servers.

use std::{collections::BTreeMap, fmt, net::IpAddr};

/// Whether clients of these networks (address, prefix length) may begin flows; the longest prefix
/// decides, and who is in none may.
pub type Sources = BTreeMap<(IpAddr, u8), bool>;

/// So many in so many seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rate {
    /// At least 1.
    pub count: u32,
    /// 1 or 60.
    pub seconds: u32,
}

impl Rate {
    /// `None`: the text is no "20/s" or "300/m" of 1 to a million.
    pub fn parse(text: &str) -> Option<Self> {
        let (count, unit) = text.split_once('/')?;
        let seconds = match unit {
            "s" => 1,
            "m" => 60,
            _ => return None,
        };
        let count = count.parse().ok().filter(|count| (1..=1_000_000).contains(count))?;
        Some(Self { count, seconds })
    }

    /// From one to the next, ns.
    pub fn every_ns(self) -> u64 {
        u64::from(self.seconds) * 1_000_000_000 / u64::from(self.count)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.count, if self.seconds == 1 { "s" } else { "m" })
    }
}

/// Flows that a client may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientRate {
    /// So often for long.
    pub rate: Rate,
    /// So many at once.
    pub burst: u32,
    /// Clients whose addresses share so many leading bits are one.
    pub prefix: u8,
}

impl fmt::Display for ClientRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (burst {}) of a client by /{}", self.rate, self.burst, self.prefix)
    }
}

/// What a server's QUIC connection ids hold to name it (draft-ietf-quic-load-balancers).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QuicId {
    /// 1 to 8.
    pub bytes: u8,
    /// As a number, big-endian.
    pub id: u64,
}

impl QuicId {
    /// `None`: the text is no one to eight bytes in hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.bytes().all(|b| b.is_ascii_hexdigit());
        let fits = (1..=8).contains(&(text.len() / 2)) && text.len().is_multiple_of(2);
        let id = u64::from_str_radix(text, 16).ok().filter(|_| digits && fits)?;
        Some(Self { bytes: (text.len() / 2) as u8, id })
    }
}

impl fmt::Display for QuicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:0width$x}", self.id, width = usize::from(self.bytes) * 2)
    }
}
