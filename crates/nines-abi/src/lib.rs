//! The words the kernel program and its loader share: every map key and value.
//!
//! Decides: the binary layout of the pinned maps. Does not decide: what is written in them.
//! Every struct is `repr(C)`, has a fixed size, no enum, bool, Option or implicit padding, and its
//! size is asserted below at compile time, for both targets. [`ABI`] names the layout; it is part
//! of the pin path, so a binary never opens maps that another layout wrote.
#![no_std]

/// Version of everything in this file. Raise it with any change of layout or meaning.
pub const ABI: u32 = 1;

/// An address as IPv6; IPv4 is mapped (`::ffff:a.b.c.d`, RFC 4291 section 2.5.5.2).
pub type Addr = [u8; 16];

/// Entries of one service's pick table at most; also Maglev's table size (a prime, so every skip
/// visits every slot: Maglev, NSDI'16, section 3.4).
pub const TABLE_LEN_MAX: u32 = 16_381;
/// Services a director holds at most.
pub const SERVICES_MAX: u32 = 128;
/// Real-server slots a director holds at most; a slot is one server of one service.
pub const SERVERS_MAX: u32 = 4_096;
/// Guarded addresses a node holds at most.
pub const GUARDS_MAX: u32 = 256;
/// Regions of [`TABLE_LEN_MAX`] picks: two a service, so that a new table is written beside the
/// one in use and switched to by one map update.
pub const REGIONS_MAX: u32 = 2 * SERVICES_MAX;
/// Other directors whose forwarded packets a real server on a director accepts.
pub const PEERS_MAX: u32 = 64;

/// Schedulers, [`Service::scheduler`]: next entry of the pick table for each new flow (rr, wrr).
pub const SCHED_TURN: u32 = 0;
/// Entry chosen by the hash of the flow (Maglev): the same on every director.
pub const SCHED_HASH: u32 = 1;

/// [`Server::forward`]: direct routing, the packet keeps its addresses.
pub const FORWARD_DR: u8 = 0;
/// Destination rewritten to the server, replies rewritten back.
pub const FORWARD_NAT: u8 = 1;
/// The director is the server: up its own stack.
pub const FORWARD_LOCAL: u8 = 2;

/// [`Server::state`]: takes new flows.
pub const SERVER_UP: u8 = 0;
/// No new flow; old ones live on (weight 0, drain).
pub const SERVER_DRAIN: u8 = 1;
/// Failed its check: no new flow, a SYN or a UDP packet of an old flow is scheduled anew.
pub const SERVER_DOWN: u8 = 2;

/// [`Flow::state`] of TCP: SYN seen; of UDP: always [`FLOW_OPEN`].
pub const FLOW_SYN: u8 = 0;
/// An ACK without SYN seen.
pub const FLOW_OPEN: u8 = 1;
/// FIN seen.
pub const FLOW_FIN: u8 = 2;
/// RST seen.
pub const FLOW_RST: u8 = 3;

/// Idle limits, ns, as IPVS has them (net/netfilter/ipvs/ip_vs_proto_tcp.c): established 900 s.
pub const IDLE_OPEN_NS: u64 = 900_000_000_000;
/// SYN seen only, 60 s.
pub const IDLE_SYN_NS: u64 = 60_000_000_000;
/// After FIN, 120 s.
pub const IDLE_FIN_NS: u64 = 120_000_000_000;
/// After RST, 10 s.
pub const IDLE_RST_NS: u64 = 10_000_000_000;
/// UDP, 300 s.
pub const IDLE_UDP_NS: u64 = 300_000_000_000;

/// [`Guard::flags`]: this node is a real server for the address: packets that come from another
/// director's MAC (map `PEERS`) are delivered even when the deadline has passed.
pub const GUARD_SERVES: u32 = 1;

/// [`Settings::flags`]: at least one server is reached by NAT, so replies are looked up.
pub const SETTING_NAT: u32 = 1;

/// Value of map `GUARD`, key [`Addr`]: until when this node may answer for an address.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guard {
    /// CLOCK_BOOTTIME, ns; at or after it the address is silent. 0 is always past.
    pub deadline_ns: u64,
    /// `GUARD_*`.
    pub flags: u32,
    /// Zero.
    pub pad: u32,
}

/// Key of map `SERVICES`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServiceKey {
    /// The VIP.
    pub addr: Addr,
    /// Network byte order.
    pub port: u16,
    /// IP protocol number: 6 or 17.
    pub proto: u8,
    /// Zero.
    pub pad: u8,
}

/// Value of map `SERVICES`. One update of it switches the service to another pick table.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Service {
    /// Index into `SERVICE_STATS` and `TURNS`.
    pub id: u32,
    /// First entry in `PICKS`.
    pub table_base: u32,
    /// Entries; 0 means that no server takes a new flow.
    pub table_len: u32,
    /// `SCHED_*`.
    pub scheduler: u32,
}

/// Value of map `SERVERS`, indexed by slot.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Server {
    /// The real server.
    pub addr: Addr,
    /// Next hop on the way there (the server itself when on link).
    pub nexthop: Addr,
    /// The VIP its replies carry (NAT).
    pub vip: Addr,
    /// Interface towards the next hop; 0 means no route.
    pub ifindex: u32,
    /// Raised when the slot gets another server: flows of the old one end.
    pub generation: u32,
    /// Index into `SERVICE_STATS`.
    pub service: u32,
    /// Network byte order.
    pub port: u16,
    /// The VIP's port, network byte order.
    pub vip_port: u16,
    /// `FORWARD_*`.
    pub forward: u8,
    /// `SERVER_*`.
    pub state: u8,
    /// Zero.
    pub pad: [u8; 6],
}

/// Key of map `FLOWS4`: 16 bytes, because the cost of an established packet is this lookup.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Flow4 {
    /// Source, as on the wire.
    pub src: u32,
    /// Destination, as on the wire.
    pub dst: u32,
    /// Source port, network byte order.
    pub sport: u16,
    /// Destination port, network byte order.
    pub dport: u16,
    /// IP protocol number.
    pub proto: u32,
}

/// Key of map `FLOWS6`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Flow6 {
    /// Source, as on the wire.
    pub src: [u32; 4],
    /// Destination, as on the wire.
    pub dst: [u32; 4],
    /// Source port, network byte order.
    pub sport: u16,
    /// Destination port, network byte order.
    pub dport: u16,
    /// IP protocol number.
    pub proto: u32,
}

/// Value of both flow maps.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// CLOCK_BOOTTIME of the last packet, ns, refreshed at most once a second.
    pub seen_ns: u64,
    /// Slot in `SERVERS`.
    pub server: u32,
    /// [`Server::generation`] when the flow was made; another one ends the flow.
    pub generation: u32,
    /// `FLOW_*`.
    pub state: u8,
    /// 1: this entry names packets from the real server back to the client (NAT).
    pub reply: u8,
    /// Zero.
    pub pad: [u8; 6],
}

/// Value of the per-CPU maps `SERVICE_STATS` and `SERVER_STATS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Flows made.
    pub connections: u64,
    /// Packets from clients.
    pub packets_in: u64,
    /// Bytes from clients, from the IP header on.
    pub bytes_in: u64,
    /// Packets to clients; only NAT replies pass the director.
    pub packets_out: u64,
    /// Bytes to clients.
    pub bytes_out: u64,
}

/// Value of map `SETTINGS`, one entry.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// `SETTING_*`.
    pub flags: u32,
    /// Zero.
    pub pad: u32,
}

/// Indices of the per-CPU map `DROPS`, values `u64` packets.
pub const DROP_GUARD: u32 = 0;
/// No server takes a new flow.
pub const DROP_NO_SERVER: u32 = 1;
/// The chosen server has no route.
pub const DROP_NO_ROUTE: u32 = 2;
/// TTL or hop limit ran out.
pub const DROP_TTL: u32 = 3;
/// Header could not be rewritten.
pub const DROP_MANGLED: u32 = 4;
/// Count of `DROP_*`.
pub const DROPS: u32 = 5;
/// What `DROP_*` count, in the words of the counters.
pub const DROP_NAMES: [&str; DROPS as usize] = ["guard", "no-server", "no-route", "ttl", "mangled"];

const _: () = {
    assert!(core::mem::size_of::<Guard>() == 16);
    assert!(core::mem::size_of::<ServiceKey>() == 20);
    assert!(core::mem::size_of::<Service>() == 16);
    assert!(core::mem::size_of::<Server>() == 72);
    assert!(core::mem::size_of::<Flow4>() == 16);
    assert!(core::mem::size_of::<Flow6>() == 40);
    assert!(core::mem::size_of::<Flow>() == 24);
    assert!(core::mem::size_of::<Stats>() == 40);
    assert!(core::mem::size_of::<Settings>() == 8);
};

/// IPv4 address as a mapped [`Addr`].
#[must_use]
pub const fn mapped(v4: [u8; 4]) -> Addr {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, v4[0], v4[1], v4[2], v4[3]]
}
