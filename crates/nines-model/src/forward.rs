//! Ways to a real server.

use std::fmt;

/// How packets reach the real servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Forward {
    /// Direct routing: addresses kept, replies bypass the director.
    Dr,
    /// Destination rewritten; replies come back through the director.
    Nat,
    /// The same, and the source rewritten to the VIP: replies come back whatever the server's
    /// routes are.
    FullNat,
    /// The director itself is the server.
    Local,
    /// In another header; replies bypass the director.
    Tunnel(Tunnel),
}

impl Forward {
    /// All, by the name that configs use; tunnels with their defaults.
    pub const ALL: [(&'static str, Self); 7] = [
        ("dr", Self::Dr),
        ("nat", Self::Nat),
        ("full-nat", Self::FullNat),
        ("local", Self::Local),
        ("ipip", Self::Tunnel(Tunnel::new(TunnelKind::Ipip))),
        ("gue", Self::Tunnel(Tunnel::new(TunnelKind::Gue))),
        ("gre", Self::Tunnel(Tunnel::new(TunnelKind::Gre))),
    ];
    /// Names of all methods, as the config writes them.
    pub const NAMES: [&'static str; 7] = ["dr", "nat", "full-nat", "local", "ipip", "gue", "gre"];

    /// Replies come through the director, which knows them by their addresses.
    #[must_use]
    pub const fn translates(self) -> bool {
        matches!(self, Self::Nat | Self::FullNat)
    }
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dr => f.write_str("dr"),
            Self::Nat => f.write_str("nat"),
            Self::FullNat => f.write_str("full-nat"),
            Self::Local => f.write_str("local"),
            Self::Tunnel(tunnel) => tunnel.fmt(f),
        }
    }
}

/// The header that packets to a real server travel in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tunnel {
    /// Encapsulation: IP in IP, GUE or GRE.
    pub kind: TunnelKind,
    /// UDP port (GUE).
    pub port: u16,
    /// Of the outer header (GUE, GRE).
    pub checksum: TunnelChecksum,
}

impl Tunnel {
    /// UDP port of GUE (IANA).
    pub const GUE_PORT: u16 = 6_080;

    /// A tunnel of this kind with the default port and without a checksum.
    pub const fn new(kind: TunnelKind) -> Self {
        let port = if matches!(kind, TunnelKind::Gue) { Self::GUE_PORT } else { 0 };
        Self { kind, port, checksum: TunnelChecksum::None }
    }
}

impl fmt::Display for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            TunnelKind::Ipip => "ipip",
            TunnelKind::Gue => "gue",
            TunnelKind::Gre => "gre",
        })?;
        if self.kind == TunnelKind::Gue && self.port != Self::GUE_PORT {
            write!(f, " port {}", self.port)?;
        }
        f.write_str(match self.checksum {
            TunnelChecksum::None => "",
            TunnelChecksum::Full => " with checksum",
            TunnelChecksum::Remote => " with remote checksum",
        })
    }
}

/// Kinds of [`Tunnel`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TunnelKind {
    /// IP in IP, any family in any.
    Ipip,
    /// Generic UDP encapsulation.
    Gue,
    /// Generic routing encapsulation.
    Gre,
}

/// Checksum of the outer header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TunnelChecksum {
    /// The outer header has no checksum.
    None,
    /// The outer header has its checksum.
    Full,
    /// Remote checksum offload; known to ipvsadm, forwarded as [`TunnelChecksum::None`].
    Remote,
}
