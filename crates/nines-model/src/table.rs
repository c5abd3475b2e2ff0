//! What a director forwards, and what it counted. Every data plane takes the first and gives the
//! second.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use crate::{
    Backend, ClientRate, Forward, IdleLimits, Limit, Listen, Persist, QuicId, Rate, RealServerRole,
    Scheduler, SchedulerFlags, ServerName, ServerRef, ServiceName, Sources,
};

/// Everything one director's data plane must do, complete: what is not here is not forwarded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForwardingTable {
    /// By name; names are unique.
    pub services: BTreeMap<ServiceName, TableService>,
    /// What this very node must have as a real server of other directors.
    pub duty: RealServerRole,
    /// MAC addresses of the other directors.
    pub director_macs: Vec<[u8; 6]>,
    /// Data plane that forwards the packets.
    pub backend: Backend,
    /// How long silent connections are known; `None`: as long as they are now.
    pub idle: Option<IdleLimits>,
}

/// One service in the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableService {
    /// Which packets are its.
    pub traffic: Traffic,
    /// Choice of server.
    pub scheduler: Scheduler,
    /// What sh and mh do differently.
    pub flags: SchedulerFlags,
    /// Every datagram is scheduled by itself (UDP).
    pub one_packet: bool,
    /// A client stays with its server call by call, by the Call-ID of SIP (UDP).
    pub sip: bool,
    /// Whether a client stays with its server.
    pub persist: Option<Persist>,
    /// What servers behind full NAT see in place of the VIP; empty: the VIP.
    pub pool: Vec<IpAddr>,
    /// Which clients may begin flows.
    pub sources: Sources,
    /// New flows that each client may begin; `None`: no limit.
    pub rate: Option<ClientRate>,
    /// Beyond so many of all clients they are asked for a cookie (TCP).
    pub cookies: Option<Rate>,
    /// Real servers of the service by name.
    pub servers: BTreeMap<ServerName, TableServer>,
}

/// Which packets belong to a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Traffic {
    /// Those to these addresses, ports and protocol; port 0: to every port that has no service.
    To(Listen),
    /// Those that carry this mark.
    Marked {
        /// The mark that packets carry, never 0.
        mark: u32,
        /// IPv6 packets; else IPv4.
        v6: bool,
    },
}

impl Traffic {
    /// The address, if it is one.
    pub fn vip(self) -> Option<IpAddr> {
        let mut vips = self.vips();
        vips.next().filter(|_| vips.next().is_none())
    }

    /// The addresses, if it goes by them.
    pub fn vips(self) -> impl Iterator<Item = IpAddr> {
        let listen = match self {
            Self::To(listen) => Some(listen),
            Self::Marked { .. } => None,
        };
        listen.into_iter().flat_map(|listen| listen.vips())
    }

    /// The port, if it is one.
    pub fn one_port(self) -> Option<u16> {
        match self {
            Self::To(listen) => listen.one_port(),
            Self::Marked { .. } => None,
        }
    }

    /// Whether the packets are IPv6; else they are IPv4.
    pub fn is_ipv6(self) -> bool {
        match self {
            Self::To(listen) => listen.addr.is_ipv6(),
            Self::Marked { v6, .. } => v6,
        }
    }
}

/// One real server in the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableServer {
    /// Address and port.
    pub addr: SocketAddr,
    /// How packets get there.
    pub forward: Forward,
    /// Share of new flows.
    pub weight: u32,
    /// Limits of what it carries.
    pub limit: Limit,
    /// Packets that hold this are its, wherever they come from.
    pub quic_id: Option<QuicId>,
    /// With full NAT: it is told who its clients are (PROXY protocol, version 2).
    pub proxy: bool,
    /// Whether it takes new flows.
    pub state: ServerState,
}

/// Whether a server takes new flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ServerState {
    /// Yes; it passes its check or has none.
    Up,
    /// No; old flows live on.
    Draining,
    /// No; it failed its check.
    Down,
}

impl TableService {
    /// Without servers, persistence and options.
    pub fn new(traffic: Traffic, scheduler: Scheduler) -> Self {
        Self {
            traffic,
            scheduler,
            flags: SchedulerFlags::default(),
            one_packet: false,
            sip: false,
            pool: Vec::new(),
            sources: Sources::new(),
            rate: None,
            cookies: None,
            persist: None,
            servers: BTreeMap::new(),
        }
    }
}

impl TableServer {
    /// Up, of weight 1, without limit.
    pub fn new(addr: SocketAddr, forward: Forward) -> Self {
        Self {
            addr,
            forward,
            weight: 1,
            state: ServerState::Up,
            limit: Limit::default(),
            quic_id: None,
            proxy: false,
        }
    }

    /// Takes new flows: up and with a share.
    pub fn takes_new(&self) -> bool {
        self.state == ServerState::Up && self.weight > 0
    }
}

/// Counts of one service or server since the tables were made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Number of flows that began.
    pub connections: u64,
    /// Packets from clients.
    pub packets_in: u64,
    /// Bytes from clients, from the IP header on.
    pub bytes_in: u64,
    /// Packets to clients; 0 with direct routing, whose replies bypass the director.
    pub packets_out: u64,
    /// Bytes to clients.
    pub bytes_out: u64,
    /// Flows now between their first SYN and their first FIN or RST (IPVS: ActiveConn). Of
    /// services: the sum of their servers.
    pub active: u64,
    /// All other flows that are not idle too long (IPVS: InActConn).
    pub inactive: u64,
}

/// What a data plane counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Counts of each service by its name.
    pub services: BTreeMap<ServiceName, Tally>,
    /// Counts of each real server.
    pub servers: BTreeMap<ServerRef, Tally>,
    /// Packets dropped, by reason.
    pub drops: BTreeMap<String, u64>,
    /// Places in the flow table; 0: not nines' own.
    pub places: u64,
    /// Those that living flows take, as far as counted.
    pub taken: u64,
}
