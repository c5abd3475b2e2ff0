//! Where a service listens.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

/// Transport protocol of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Proto {
    /// TCP, IP protocol 6 (RFC 9293).
    Tcp,
    /// UDP, IP protocol 17 (RFC 768).
    Udp,
    /// SCTP, IP protocol 132 (RFC 9260).
    Sctp,
}

impl Proto {
    /// IP protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl fmt::Display for Proto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

/// The address without the bits behind the prefix.
pub fn network(addr: IpAddr, prefix: u8) -> IpAddr {
    match addr {
        IpAddr::V4(a) => {
            let mask = u32::MAX.checked_shl(32u32.saturating_sub(prefix.into())).unwrap_or(0);
            IpAddr::V4((u32::from(a) & mask).into())
        }
        IpAddr::V6(a) => {
            let mask = u128::MAX.checked_shl(128u32.saturating_sub(prefix.into())).unwrap_or(0);
            IpAddr::V6((u128::from(a) & mask).into())
        }
    }
}

/// Where a service listens: `addr:port/proto`, also on a range of ports and on the addresses of a
/// network; port 0 is every port of an address that no other service has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Listen {
    /// VIP and port, the first of each.
    pub addr: SocketAddr,
    /// Last port; the first one again if there is but one, or all.
    pub last: u16,
    /// Leading bits that the VIPs share: 32 of IPv4, 128 of IPv6 are one VIP.
    pub prefix: u8,
    /// Transport protocol of the service.
    pub proto: Proto,
}

impl Listen {
    /// VIPs of one service at most: beats name each that is held, and must fit a datagram.
    pub const VIPS_MAX: u32 = 32;

    /// On one VIP, and one port or all.
    pub const fn new(addr: SocketAddr, proto: Proto) -> Self {
        let prefix = if addr.is_ipv4() { 32 } else { 128 };
        Self { addr, last: addr.port(), prefix, proto }
    }

    /// One VIP, and one port or all.
    pub fn is_one(&self) -> bool {
        *self == Self::new(self.addr, self.proto)
    }

    /// Whether the service takes every port.
    pub fn is_every_port(&self) -> bool {
        self.addr.port() == 0
    }

    /// The only port.
    pub fn one_port(&self) -> Option<u16> {
        (self.last == self.addr.port() && !self.is_every_port()).then_some(self.last)
    }

    /// All addresses of the service, from the first on.
    pub fn vips(&self) -> impl Iterator<Item = IpAddr> + use<> {
        let (first, prefix) = (self.addr.ip(), u32::from(self.prefix));
        let more = if first.is_ipv4() { 32 } else { 128 } - prefix;
        let count = 1u32.checked_shl(more).unwrap_or(u32::MAX).min(Self::VIPS_MAX);
        (0..count).map(move |i| match first {
            IpAddr::V4(a) => IpAddr::V4((u32::from(a).wrapping_add(i)).into()),
            IpAddr::V6(a) => IpAddr::V6((u128::from(a).wrapping_add(i.into())).into()),
        })
    }

    /// Them for people: an address, or a network.
    pub fn hosts(&self) -> String {
        let one_vip = self.prefix == Self::new(self.addr, self.proto).prefix;
        let length = if one_vip { String::new() } else { format!("/{}", self.prefix) };
        format!("{}{length}", self.addr.ip())
    }

    /// Whether this is one of them.
    pub fn has(&self, vip: IpAddr) -> bool {
        network(vip, self.prefix) == self.addr.ip() && vip.is_ipv4() == self.addr.is_ipv4()
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { addr, last, proto, .. } = *self;
        match addr {
            SocketAddr::V4(_) => write!(f, "{}:", self.hosts())?,
            SocketAddr::V6(_) => write!(f, "[{}]:", self.hosts())?,
        }
        match (addr.port(), self.one_port()) {
            (0, _) => write!(f, "*/{proto}"),
            (_, Some(port)) => write!(f, "{port}/{proto}"),
            (first, None) => write!(f, "{first}-{last}/{proto}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(addr: &str, last: u16, prefix: u8) -> Listen {
        Listen { last, prefix, ..Listen::new(addr.parse().unwrap(), Proto::Tcp) }
    }

    #[test]
    fn a_network_has_its_addresses_and_no_others() {
        let net = on("10.0.0.16:80", 80, 30);
        let vips: Vec<String> = net.vips().map(|vip| vip.to_string()).collect();
        assert_eq!(vips, ["10.0.0.16", "10.0.0.17", "10.0.0.18", "10.0.0.19"]);
        assert!(net.has("10.0.0.19".parse().unwrap()) && !net.has("10.0.0.20".parse().unwrap()));
        assert_eq!(net.to_string(), "10.0.0.16/30:80/tcp");
        let six = on("[2001:db8::]:80", 90, 126);
        assert_eq!((six.vips().count(), six.to_string()), (4, "[2001:db8::/126]:80-90/tcp".into()));
    }
}
