//! Flows as directors tell each other of them: by addresses and names that mean the same on every
//! machine, never by places in one kernel's tables.

use std::net::{IpAddr, SocketAddr};

use nines_model::Traffic;

/// What one director tells the others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Real servers that [`SharedFlow::server`] points at: a service's traffic, and the server's
    /// address as its table has it (port 0: the port that the client asked for).
    pub servers: Vec<(Traffic, SocketAddr)>,
    /// Flows that the others are told of.
    pub flows: Vec<SharedFlow>,
}

/// One flow, from the client's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedFlow {
    /// Who asks; of a client that persistence remembers its address under the mask, port 0.
    pub client: SocketAddr,
    /// What it asks.
    pub asked: SocketAddr,
    /// IP protocol number.
    pub proto: u8,
    /// State of a flow (`STATE_*` of nines-abi); 0: only the client is to be remembered.
    pub state: u8,
    /// For how long it has been silent, ms.
    pub idle_ms: u32,
    /// Index into [`Batch::servers`].
    pub server: u32,
    /// The server has answered it, or its client has come again: it gives way last.
    pub earned: bool,
    /// The port that the server sees beside the VIP, with full NAT; else 0.
    pub own_port: u16,
    /// What it sees in place of the VIP.
    pub own_addr: Option<IpAddr>,
    /// And if the server is told who its clients are.
    pub told: Option<Told>,
    /// Of a client that persistence remembers call by call: which call (`TemplateKey::call` of
    /// nines-abi); else 0.
    pub call: u64,
}

/// How far telling a server who the client of a flow is has come (PROXY protocol).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// Sequence number of the client's SYN.
    pub first: u32,
    /// The header was sent,
    pub sent: bool,
    /// the client's first data behind it,
    pub data: bool,
    /// and the server has acknowledged it.
    pub shown: bool,
}

impl Batch {
    /// The index of a server, which is added if it is not there.
    pub fn server(&mut self, server: (Traffic, SocketAddr)) -> u32 {
        let at = self.servers.iter().rposition(|s| *s == server);
        at.unwrap_or_else(|| {
            self.servers.push(server);
            self.servers.len() - 1
        }) as u32
    }
}
