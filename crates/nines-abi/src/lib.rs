//! The words the kernel program and its loader share: every map key and value.
//!
//! Decides: the binary layout of the pinned maps; of flows in `flow_key.rs`. Does not decide: what
//! is written in them. Every struct is `repr(C)`, has a fixed size, no enum, bool, Option or
//! implicit padding, and its size is asserted below at compile time, for both targets. [`ABI`]
//! names the layout; it is part of the pin path, so a binary never opens maps that another layout
//! wrote.
#![no_std]

mod clients;
mod flow_key;
mod packet;
mod schedulers;
mod services;

pub use clients::*;
pub use flow_key::*;
pub use packet::*;
pub use schedulers::*;
pub use services::*;

/// Version of everything in this crate, of [`hash_of`] and of the tables that its values are places
/// in. Raise it with any change of layout or meaning.
pub const ABI: u32 = 18;

/// An address as IPv6; IPv4 is mapped (`::ffff:a.b.c.d`, RFC 4291 section 2.5.5.2).
pub type Addr = [u8; 16];

/// Entries of one Maglev table of flows (a prime, so every skip visits every slot: Maglev,
/// NSDI'16, section 3.4); other tables of picks are at most as long.
pub const TABLE_LEN_MAX: u32 = 16_381;
/// Entries of the table of scheduler mh (CONFIG_IP_VS_MH_TAB_INDEX 12).
pub const MH_TABLE_LEN: u32 = 4_093;
/// Entries of the tables of schedulers sh and dh.
pub const HASH_TABLE_LEN: u32 = 256;
/// Services a director holds, unless the loader makes more room.
pub const SERVICES: u32 = 1_024;
/// Real-server slots a director holds, unless the loader makes more room; a slot is one server of
/// one service.
pub const SERVERS: u32 = 8_192;
/// Picks of all services and of one update, unless the loader makes more room.
pub const LOOKUP: u32 = 1 << 22;
/// Places of the table of guarded addresses.
pub const GUARDS: u32 = 2_048;
/// Guarded addresses a node holds at most.
pub const GUARDS_MAX: u32 = 1_024;
/// Places of the table of addresses that matter, per service that the loader makes room for.
pub const ADDRESSES_PER_SERVICE: u32 = 16;
/// Places looked at for one address, in the tables of guards and of addresses that matter.
pub const PROBES: u32 = 16;
/// Other directors whose forwarded packets a real server on a director accepts.
pub const PEERS_MAX: u32 = 64;

/// Clients remembered by services with persistence at most; the one heard of longest ago is
/// forgotten first.
pub const TEMPLATES_MAX: u32 = 1 << 16;
/// Destinations remembered by lblc and lblcr at most (ip_vs_lblc.c: 1,024 buckets of 16).
pub const LOCALITIES_MAX: u32 = 1 << 14;

/// Entries of map `DECAP_ADDRESSES` of a real server: VIPs and ports of tunnels.
pub const DECAP_ADDRESSES_MAX: u32 = 1_024;

/// Entries of the arrays of programs: what goes on where the entry program ends. A stack and the
/// verifier's patience of their own are what each of them gains. New flows.
pub const PROGRAM_NEW: u32 = 0;
/// Program for ICMP errors.
pub const PROGRAM_ERROR: u32 = 1;
/// Packets that go nowhere, and whose sender hears why.
pub const PROGRAM_REFUSE: u32 = 2;
/// Packets whose server is chosen.
pub const PROGRAM_DELIVER: u32 = 3;
/// New flows of schedulers that weigh their servers.
pub const PROGRAM_SCHEDULE_LOAD: u32 = 4;
/// New flows of schedulers that remember destinations.
pub const PROGRAM_SCHEDULE_LOCALITY: u32 = 5;
/// New flows whose server is chosen.
pub const PROGRAM_INSERT: u32 = 6;
/// New flows of the scheduler that draws lots.
pub const PROGRAM_SCHEDULE_RANDOM: u32 = 7;
/// Fragments without ports.
pub const PROGRAM_FRAGMENT: u32 = 8;
/// Packets that change source and destination, in both directions.
pub const PROGRAM_FULL_NAT: u32 = 9;
/// New flows by full NAT whose server is chosen.
pub const PROGRAM_INSERT_FULL_NAT: u32 = 10;
/// Packets of flows by full NAT that both of their entries must know.
pub const PROGRAM_UPDATE_FULL_NAT: u32 = 11;
/// The same of flows by NAT.
pub const PROGRAM_UPDATE_NAT: u32 = 12;
/// Answers by NAT, on their way after that.
pub const PROGRAM_REPLY: u32 = 13;
/// Flows by full NAT whose answers have no entry.
pub const PROGRAM_INSERT_REPLY: u32 = 14;
/// New flows of services that do not let everybody begin as many as he likes.
pub const PROGRAM_ADMIT: u32 = 15;
/// SYNs that are answered by a cookie, and what comes of it.
pub const PROGRAM_COOKIE: u32 = 16;
/// Datagrams that may name their server.
pub const PROGRAM_QUIC: u32 = 17;
/// Packets of flows whose server is told who its client is.
pub const PROGRAM_PROXY: u32 = 18;
/// Datagrams that may be of a call.
pub const PROGRAM_SIP: u32 = 19;
/// New flows by full NAT that get a source from a pool.
pub const PROGRAM_SOURCE_ADDRESS: u32 = 20;
/// New flows by full NAT that get a port; once for each one tried.
pub const PROGRAM_SOURCE_PORT: u32 = 21;
/// New flows by NAT whose server is chosen, at tc.
pub const PROGRAM_INSERT_NAT: u32 = 22;
/// New flows by hash, where another server than that of the hash may take them.
pub const PROGRAM_SCHEDULE_FALLBACK: u32 = 23;
/// Room for them.
pub const PROGRAMS_MAX: u32 = 24;

/// [`Server::forward`]: direct routing, the packet keeps its addresses.
pub const FORWARD_DR: u8 = 0;
/// Destination rewritten to the server, replies rewritten back.
pub const FORWARD_NAT: u8 = 1;
/// The director is the server: up its own stack.
pub const FORWARD_LOCAL: u8 = 2;
/// Destination rewritten to the server, source to the VIP with a port of its own: answers come
/// back by themselves.
pub const FORWARD_FULL_NAT: u8 = 3;
/// In another IP header (RFC 2003, RFC 2473, RFC 4213). Tunnels are the last ones.
pub const FORWARD_IPIP: u8 = 4;
/// In UDP, generic UDP encapsulation (draft-ietf-intarea-gue, variant 0).
pub const FORWARD_GUE: u8 = 5;
/// In GRE (RFC 2784).
pub const FORWARD_GRE: u8 = 6;

/// [`Server::checksum`]: none in the outer header.
pub const CHECKSUM_NONE: u8 = 0;
/// The outer header's checksum is filled in.
pub const CHECKSUM_FULL: u8 = 1;
/// Remote checksum offload was asked for; for listings, packets go without.
pub const CHECKSUM_REMOTE: u8 = 2;

/// [`Server::state`]: takes new flows.
pub const SERVER_UP: u8 = 0;
/// No new flow; old ones live on (weight 0, drain).
pub const SERVER_DRAIN: u8 = 1;
/// Failed its check: no new flow, a SYN or a UDP packet of an old flow is scheduled anew.
pub const SERVER_DOWN: u8 = 2;
/// [`Server::service`] of a slot whose server left: nobody's, under the next generation. The rest
/// stays, for a packet that is on its way to it at this instant.
pub const NO_SERVICE: u32 = u32::MAX;

/// [`Guard::flags`]: this node is a real server for the address: packets that come from another
/// director's MAC (map `PEERS`) are delivered even when the deadline has passed.
pub const GUARD_SERVES: u32 = 1;
/// A place that was used once: a search goes on behind it.
pub const GUARD_USED: u32 = 2;

/// [`Place::flags`]: services listen on the address.
pub const PLACE_VIP: u32 = 1;
/// It is the address of a server reached by NAT: its packets may be answers.
pub const PLACE_SERVER: u32 = 2;
/// A place that was used once: a search goes on behind it.
pub const PLACE_USED: u32 = 4;
/// It is the address of a server reached otherwise.
pub const PLACE_REAL: u32 = 8;

/// [`Settings::flags`]: at least one server is reached by NAT; the loader turns forwarding on.
pub const SETTING_NAT: u32 = 1;
/// MAC address of both devices through which marked packets come in again.
pub const DETOUR_MAC: [u8; 6] = [0x02, b'n', b'i', b'n', b'e', b's'];

/// At least one service goes by the packet's mark.
pub const SETTING_MARKS: u32 = 2;
/// At least one has many addresses or a range of ports: map `SERVICE_RANGES`.
pub const SETTING_SPREAD: u32 = 4;

/// Entry of array `GUARD_TABLE`, an open-addressed table ([`place_of`]): until when this node may
/// answer for an address.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Guard {
    /// Whose; zero where there is none.
    pub addr: Addr,
    /// CLOCK_BOOTTIME, ns; at or after it the address is silent. 0 is always past.
    pub deadline_ns: u64,
    /// Bits that say how the guard treats the address: constants `GUARD_*`.
    pub flags: u32,
    /// Padding to 32 bytes; always 0.
    pub pad: u32,
}

/// Entry of array `ADDRESSES`, an open-addressed table ([`place_of`]): an address that matters.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Zero where there is none.
    pub addr: Addr,
    /// Bits that say what the address is: constants `PLACE_*`.
    pub flags: u32,
    /// Padding to 24 bytes; always 0.
    pub pad: u32,
}

/// Where the search for an address begins in the tables of guards and places.
#[must_use]
#[inline(always)]
pub const fn place_of(halves: [u64; 2]) -> u32 {
    // Neighbouring addresses must not lie on one another: every bit reaches the low half, and from
    // there the upper half of a product.
    let h = halves[0].wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ halves[1];
    ((h ^ h >> 32).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 32) as u32
}

/// An address as two words of eight bytes, as this machine reads them.
#[must_use]
#[inline(always)]
pub const fn halves(words: [u32; 4]) -> [u64; 2] {
    [words[0] as u64 | (words[1] as u64) << 32, words[2] as u64 | (words[3] as u64) << 32]
}

/// Key of map `TEMPLATES`: a client of a service with persistence. Of map `RATE_USED`: a client of
/// a service with a rate. Of map `LOCALITIES`: a destination.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TemplateKey {
    /// Its address under [`Service::mask`].
    pub client: [u32; 4],
    /// Hash of the call's name with [`SERVICE_SIP`]; 0: of no call.
    pub call: u64,
    /// Id of the service.
    pub service: u32,
    /// Padding to 32 bytes; always 0.
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
    /// Padding to 16 bytes; always 0.
    pub pad: u32,
}

/// Servers of one destination that lblcr remembers at most.
pub const LOCALITY_SET: usize = 8;

/// Value of map `LOCALITIES`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Locality {
    /// Slots in `SERVERS` and their generations; lblc uses the first only.
    pub servers: [[u32; 2]; LOCALITY_SET],
    /// When one was added or left, in the units of [`seen_of`].
    pub changed: u32,
    /// How many there are.
    pub count: u32,
}

/// Value of array `SERVERS`, indexed by slot.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Server {
    /// Raised when the slot gets another server: flows of the old one end.
    pub generation: u32,
    /// Id of its service.
    pub service: u32,
    /// Interface towards the next hop; 0 means no route. Of this machine as a server of a service
    /// by mark: the device by which its packets come in; 0: any.
    pub ifindex: u32,
    /// Share of new flows.
    pub weight: u32,
    /// Network byte order; 0: the port that the client asked for.
    pub port: u16,
    /// The VIP's port, network byte order; 0: of many.
    pub vip_port: u16,
    /// Forwarding method: one of the constants `FORWARD_*`.
    pub forward: u8,
    /// Whether the server takes new flows: one of the constants `SERVER_*`.
    pub state: u8,
    /// 1: `addr` is IPv6.
    pub v6: u8,
    /// Checksum of the tunnel's outer header: one of the constants `CHECKSUM_*`.
    pub checksum: u8,
    /// UDP port of the tunnel, network byte order.
    pub tunnel_port: u16,
    /// Largest IP packet that the interface carries.
    pub mtu: u16,
    /// No new flow at so many flows or more; 0: no limit.
    pub upper: u32,
    /// And again below so many.
    pub lower: u32,
    /// Its place in listings that keep the order of creation.
    pub order: u32,
    /// The real server.
    pub addr: Addr,
    /// The last weight that was not 0: what scheduler mh goes by.
    pub last_weight: u32,
    /// 1: with full NAT it is told of new flows who their client is.
    pub proxy: u32,
    /// Next hop on the way there (the server itself when on link).
    pub nexthop: Addr,
    /// The VIP its replies carry (NAT).
    pub vip: Addr,
    /// This machine's address on the way there, the source of tunnels.
    pub source: Addr,
    /// Padding to 128 bytes; always 0.
    pub rest: [u64; 2],
}

/// Value of the per-CPU maps `SERVICE_STATS` and `SERVER_STATS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Number of flows that began.
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
    /// Bits that say what the tables contain: constants `SETTING_*`.
    pub flags: u32,
    /// [`named_bit`] of every address in `ADDRESSES`.
    pub named: u32,
    /// Idle limits by state, in the units of [`seen_of`]; the last four are zero.
    pub idle: [u32; 16],
    /// Key of cookies.
    pub secret: [u64; 2],
    /// Key of places in the flow table ([`place_hash`]).
    pub flow_key: u64,
}

/// One of 32 bits for an address, as [`halves`] gives it: most addresses that `ADDRESSES` has not
/// are told from those it has by one look at all bits.
#[must_use]
#[inline(always)]
pub const fn named_bit([low, high]: [u64; 2]) -> u32 {
    1 << ((low ^ high).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 59)
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
/// Larger than the way to the server carries; the client was told.
pub const DROP_TOO_BIG: u32 = 7;
/// The client may not begin flows of this service.
pub const DROP_DENIED: u32 = 8;
/// Every port tried for a flow by full NAT belongs to another flow.
pub const DROP_NO_PORT: u32 = 9;
/// The client begins more flows than it may.
pub const DROP_RATE: u32 = 10;
/// A SYN that was answered by a cookie.
pub const DROP_CHALLENGED: u32 = 11;
/// What came of it: the client gets what is sent to it, and tries again.
pub const DROP_PROVEN: u32 = 12;
/// In the middle of a connection that is not known: to a server that is told of its clients, or
/// more of them than the service lets strangers begin.
pub const DROP_MIDDLE: u32 = 13;
/// From an address that can be nobody's, or not there.
pub const DROP_MARTIAN: u32 = 14;
/// Its sender prescribed the way: a source route (RFC 791), a routing header (RFC 8200).
pub const DROP_SOURCE_ROUTE: u32 = 15;
/// A first fragment too short for its transport header, or one that overlaps another one.
pub const DROP_FRAGMENT: u32 = 16;
/// Count of `DROP_*`.
pub const DROPS: u32 = 17;
/// What `DROP_*` count, in the words of the counters.
pub const DROP_NAMES: [&str; DROPS as usize] = [
    "guard",
    "no-server",
    "no-route",
    "ttl",
    "mangled",
    "evicted",
    "unplaced",
    "too-big",
    "denied",
    "no-port",
    "rate",
    "challenged",
    "proven",
    "middle",
    "martian",
    "source-route",
    "fragment",
];

const _: () = {
    assert!(core::mem::size_of::<Packet>() == 208);
    assert!(core::mem::size_of::<SourceKey>() == 20);
    assert!(core::mem::size_of::<Guard>() == 32);
    assert!(core::mem::offset_of!(Packet, src) == 8 && core::mem::offset_of!(Packet, dst) == 24);
    assert!(core::mem::size_of::<FragmentKey>() == 40);
    assert!(core::mem::size_of::<Fragment>() == 40);
    assert!(core::mem::size_of::<Hop>() == 32);
    assert!(core::mem::size_of::<ServiceKey>() == 20);
    assert!(core::mem::size_of::<ServiceRangeKey>() == 24);
    assert!(core::mem::size_of::<QuicKey>() == 16);
    assert!(core::mem::size_of::<Place>() == 24);
    assert!(core::mem::size_of::<Service>() == 240);
    assert!(core::mem::size_of::<Server>() == 128);
    assert!(core::mem::size_of::<Locality>() == 72);
    assert!(core::mem::size_of::<TemplateKey>() == 32);
    assert!(core::mem::size_of::<Template>() == 16);
    assert!(core::mem::size_of::<Stats>() == 40);
    assert!(core::mem::size_of::<Settings>() == 96);
};

/// IPv4 address as a mapped [`Addr`].
#[must_use]
pub const fn mapped(v4: [u8; 4]) -> Addr {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, v4[0], v4[1], v4[2], v4[3]]
}
