//! The words the kernel program and its loader share: every map key and value.
//!
//! Decides: the binary layout of the pinned maps. Does not decide: what is written in them.
//! Every struct is `repr(C)`, has a fixed size, no enum, bool, Option or implicit padding, and its
//! size is asserted below at compile time, for both targets. [`ABI`] names the layout; it is part
//! of the pin path, so a binary never opens maps that another layout wrote.
#![no_std]

/// Version of everything in this file. Raise it with any change of layout or meaning.
pub const ABI: u32 = 3;

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

/// Clients remembered by services with persistence at most; the one heard of longest ago is
/// forgotten first.
pub const TEMPLATES_MAX: u32 = 1 << 16;

/// Schedulers, [`Service::scheduler`]: next entry of the pick table for each new flow (rr, wrr).
pub const SCHED_TURN: u32 = 0;
/// Entry chosen by the hash of the flow (Maglev): the same on every director.
pub const SCHED_HASH: u32 = 1;
/// The pick table lists every server once and the kernel weighs their flows; the rest are such.
/// Definitions: net/netfilter/ipvs/ip_vs_{lc,wlc,sed,nq,fo,ovf}.c. Fewest flows.
pub const SCHED_LC: u32 = 2;
/// Fewest flows by weight.
pub const SCHED_WLC: u32 = 3;
/// Shortest expected delay: (active + 1) by weight.
pub const SCHED_SED: u32 = 4;
/// Never queue: an idle server if there is one, else the shortest expected delay.
pub const SCHED_NQ: u32 = 5;
/// Weighted failover: the highest weight takes all.
pub const SCHED_FO: u32 = 6;
/// Weighted overflow: the highest weight that has no more active flows than its weight.
pub const SCHED_OVF: u32 = 7;
/// From here on entries are chosen by hashes of addresses. Destination hashing: 256 entries by
/// the VIP (net/netfilter/ipvs/ip_vs_dh.c).
pub const SCHED_DH: u32 = 8;
/// Source hashing: 256 entries by the client (net/netfilter/ipvs/ip_vs_sh.c).
pub const SCHED_SH: u32 = 9;

/// Servers that the kernel weighs for one new flow at most.
pub const SCAN_MAX: u32 = 64;

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

/// States of a flow, [`state_of`]: of TCP as net/netfilter/ipvs/ip_vs_proto_tcp.c names them. A
/// director that sees one direction only infers the other. Nothing known.
pub const STATE_NONE: u8 = 0;
/// Both sides talk.
pub const STATE_ESTABLISHED: u8 = 1;
/// The server's SYN came first.
pub const STATE_SYN_SENT: u8 = 2;
/// The client's SYN.
pub const STATE_SYN_RECV: u8 = 3;
/// One side said FIN.
pub const STATE_FIN_WAIT: u8 = 4;
/// Both sides did.
pub const STATE_TIME_WAIT: u8 = 5;
/// RST.
pub const STATE_CLOSE: u8 = 6;
/// The client said FIN and the server's answers are seen.
pub const STATE_CLOSE_WAIT: u8 = 7;
/// Then the server did.
pub const STATE_LAST_ACK: u8 = 8;
/// Not met here.
pub const STATE_LISTEN: u8 = 9;
/// Answered by a SYN cookie.
pub const STATE_SYN_ACK: u8 = 10;
/// Any UDP flow.
pub const STATE_UDP: u8 = 11;
/// Count of `STATE_*`.
pub const STATES: usize = 12;

/// Idle limits by state, seconds, IPVS's defaults.
pub const IDLE_SECONDS: [u32; STATES] = [2, 900, 120, 60, 120, 120, 10, 60, 30, 120, 120, 300];

/// Times of flows are in units of `1 << IDLE_SHIFT` ns (16.8 ms), 32 bits: they wrap after two
/// years, and only differences are used.
pub const IDLE_SHIFT: u32 = 24;

/// Ways of a bucket: flows that share a hash value and have room.
pub const WAYS: usize = 7;
/// Buckets (a power of two): 229,376 flows, 16 MiB, 73 bytes a flow.
pub const BUCKETS: u32 = 1 << 15;

/// [`Tail::word`]: the entry is in use.
pub const WORD_LIVE: u64 = 1 << 8;
/// This entry names packets from the real server back to the client (NAT).
pub const WORD_REPLY: u64 = 1 << 9;

/// [`Guard::flags`]: this node is a real server for the address: packets that come from another
/// director's MAC (map `PEERS`) are delivered even when the deadline has passed.
pub const GUARD_SERVES: u32 = 1;

/// [`Settings::flags`]: at least one server is reached by NAT; the loader turns forwarding on.
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
    /// A client's new flows go where its last one went, for so long after it, in the units of
    /// [`seen_of`]; 0: they do not.
    pub persist: u32,
    /// Zero.
    pub pad: u32,
    /// Which bits of a client's address tell it from others, as on the wire.
    pub mask: [u32; 4],
}

/// Key of map `TEMPLATES`: a client of a service with persistence.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TemplateKey {
    /// Its address under [`Service::mask`].
    pub client: [u32; 4],
    /// [`Service::id`].
    pub service: u32,
    /// Zero.
    pub pad: u32,
}

/// Value of map `TEMPLATES`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Template {
    /// Slot in `SERVERS`.
    pub server: u32,
    /// [`Server::generation`] when it was made; another one ends it.
    pub generation: u32,
    /// Time of the client's last packet, in the units of [`seen_of`], within half a second.
    pub seen: u32,
    /// Zero.
    pub pad: u32,
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
    pub pad: [u8; 2],
    /// Share of new flows.
    pub weight: u32,
}

/// Value of map `LOADS`, indexed by slot: flows now, as the schedulers weigh them.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// TCP between the handshake's start and the first FIN or RST.
    pub active: u64,
    /// All others.
    pub inactive: u64,
}

/// Key of a flow; IPv4 is mapped as in [`Addr`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Flow {
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

/// What is known of a flow. One word decides everything that two processors may want to change at
/// once, so that exactly one of them does.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tail {
    /// 0: free. Else state in bits 0-7, `WORD_*` in 8-15, a version that each use raises in 16-31,
    /// time of the last packet in 32-63, within half a second.
    pub word: u64,
    /// Slot in `SERVERS`.
    pub server: u32,
    /// [`Server::generation`] when the flow was made; another one ends the flow.
    pub generation: u32,
}

/// State in a [`Tail::word`].
#[must_use]
pub const fn state_of(word: u64) -> u8 {
    word as u8
}

/// Time of the last packet in a [`Tail::word`].
#[must_use]
pub const fn seen_of(word: u64) -> u32 {
    (word >> 32) as u32
}

/// A clock reading in the units of [`seen_of`].
#[must_use]
pub const fn clock_of(now_ns: u64) -> u32 {
    (now_ns >> IDLE_SHIFT) as u32
}

/// Idle limit of a state in the units of [`seen_of`].
#[must_use]
pub const fn idle_units(seconds: u32) -> u32 {
    ((seconds as u64 * 1_000_000_000) >> IDLE_SHIFT) as u32
}

/// Whether flows in this state count as active.
#[must_use]
pub const fn is_active(state: u8) -> bool {
    matches!(state, STATE_ESTABLISHED | STATE_SYN_SENT | STATE_SYN_RECV | STATE_SYN_ACK)
}

/// Value of map `FLOWS`: eight cache lines, the first tells where to look.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    /// 1 while somebody adds a flow here.
    pub lock: u64,
    /// 1 once a flow of this bucket lives in its second one.
    pub spilled: u64,
    /// Upper hash bits by way, the first of eight being unused.
    pub tags: [u16; 8],
    /// Zero.
    pub pad: [u64; 4],
    /// Flows.
    pub ways: [Entry; WAYS],
}

/// A flow: a cache line.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Whose.
    pub key: Flow,
    /// Zero.
    pub pad: u64,
    /// What.
    pub tail: Tail,
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
    /// Idle limits by state, in the units of [`seen_of`]; the last four are zero.
    pub idle: [u32; 16],
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
/// Not a drop: a flow was pushed out of a full table by a newer one.
pub const EVICTED: u32 = 5;
/// Not a drop: a flow found no place in the table and goes by hash.
pub const UNPLACED: u32 = 6;
/// Count of `DROP_*`.
pub const DROPS: u32 = 7;
/// What `DROP_*` count, in the words of the counters.
pub const DROP_NAMES: [&str; DROPS as usize] =
    ["guard", "no-server", "no-route", "ttl", "mangled", "evicted", "unplaced"];

const _: () = {
    assert!(core::mem::size_of::<Guard>() == 16);
    assert!(core::mem::size_of::<ServiceKey>() == 20);
    assert!(core::mem::size_of::<Service>() == 40);
    assert!(core::mem::size_of::<Server>() == 72);
    assert!(core::mem::size_of::<TemplateKey>() == 24);
    assert!(core::mem::size_of::<Template>() == 16);
    assert!(core::mem::size_of::<Flow>() == 40);
    assert!(core::mem::size_of::<Tail>() == 16);
    assert!(core::mem::size_of::<Entry>() == 64);
    assert!(core::mem::size_of::<Bucket>() == 512);
    assert!(core::mem::size_of::<Load>() == 16);
    assert!(core::mem::size_of::<Stats>() == 40);
    assert!(core::mem::size_of::<Settings>() == 72);
};

/// IPv4 address as a mapped [`Addr`].
#[must_use]
pub const fn mapped(v4: [u8; 4]) -> Addr {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, v4[0], v4[1], v4[2], v4[3]]
}
