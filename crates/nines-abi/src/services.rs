//! Services, and by what packets find them.

use crate::Addr;

/// [`Service::flags`]: sh and mh take another server where theirs takes no new flow.
pub const SERVICE_FALLBACK: u32 = 1;
/// sh and mh hash the client's port too.
pub const SERVICE_PORT: u32 = 2;
/// Every datagram is scheduled by itself (UDP).
pub const SERVICE_ONE_PACKET: u32 = 4;
/// A client stays with its server call by call (persistence engine sip).
pub const SERVICE_SIP: u32 = 8;
/// This id is in use.
pub const SERVICE_LIVE: u32 = 16;
/// Not every client may begin a flow: map `SOURCES` says.
pub const SERVICE_SOURCES: u32 = 32;
/// A client may begin so many flows in a time: [`Service::client_every`].
pub const SERVICE_RATE: u32 = 64;
/// Beyond so many in a time clients are asked for a cookie: [`Service::cookies_every`].
pub const SERVICE_COOKIES: u32 = 128;
/// Datagrams may name their server: map `QUIC_IDS`.
pub const SERVICE_QUIC: u32 = 256;

/// There is something in [`Service::pool`].
pub const SERVICE_POOL: u32 = 512;

/// [`ServiceKey::kind`]: address, protocol and port, or 0 for every port that has no service.
pub const KEY_ADDRESS: u8 = 0;
/// The packet's mark, in the last four bytes of `addr`, big-endian; IPv4 packets.
pub const KEY_MARK_V4: u8 = 1;
/// The same for IPv6 packets.
pub const KEY_MARK_V6: u8 = 2;
/// A range of ports, of which it has the first: no packet is looked up by it, map `SERVICE_RANGES`
/// leads to the service.
pub const KEY_RANGE: u8 = 3;
/// The same of many addresses, and one port or all.
pub const KEY_NETWORK: u8 = 4;

/// Key of map `SERVICE_KEYS`, value: id of the service.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServiceKey {
    /// VIP of the service.
    pub addr: Addr,
    /// Network byte order.
    pub port: u16,
    /// IP protocol number: 6, 17 or 132; 0 with a mark.
    pub proto: u8,
    /// What the key stands for: one of the constants `KEY_*`.
    pub kind: u8,
}

/// Data of a key of map `SERVICE_RANGES`, a trie of prefixes: the protocol and the address whole,
/// and the leading bits of the port, or all of it and `pad`. The value is the id of the service.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServiceRangeKey {
    /// IP protocol number.
    pub proto: u32,
    /// One VIP of the service.
    pub addr: Addr,
    /// Network byte order.
    pub port: u16,
    /// Padding to 24 bytes; always 0.
    pub pad: u16,
}

/// Bits of a [`ServiceRangeKey`] before the port.
pub const SPREAD_BITS: u32 = 32 + 128;
/// Prefixes of all services.
pub const SERVICE_RANGES_MAX: u32 = 1 << 16;

/// Value of array `SERVICES`, indexed by id. The first word switches the service to another
/// lookup table.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// First entry in `LOOKUP` in the upper half, number of entries in the lower; 0 entries mean
    /// that no server takes a new flow.
    pub table: u64,
    /// Scheduler of the service: one of the constants `SCHED_*`.
    pub scheduler: u32,
    /// Options of the service: bits of the constants `SERVICE_*`.
    pub flags: u32,
    /// A client's new flows go where its last one went, for so long after it, in the units of
    /// [`seen_of`]; 0: they do not.
    pub persist: u32,
    /// The same in seconds, for listings.
    pub persist_seconds: u32,
    /// Which bits of a client's address tell it from others, as on the wire.
    pub mask: [u32; 4],
    /// What packets are its.
    pub key: ServiceKey,
    /// Its place in listings that keep the order of creation.
    pub order: u32,
    /// Last port, network byte order.
    pub last: u16,
    /// Leading bits of `key.addr` (as IPv6) that its addresses share; 0 with a mark.
    pub prefix: u8,
    /// Padding in front of `quic_bytes`; always 0.
    pub pad: u8,
    /// Bytes of a server's id in QUIC connection ids; 0: they name none.
    pub quic_bytes: u32,
    /// From one flow that a client begins to the next, ns; many may be saved up.
    pub client_every: u64,
    /// How much of that, ns.
    pub client_burst: u64,
    /// Which bits tell a client from others there, as on the wire.
    pub client_mask: [u32; 4],
    /// From one flow of clients without a cookie to the next, ns; a second's worth is saved up.
    pub cookies_every: u64,
    /// What servers behind full NAT may see in place of the VIP; zero: nothing here. One keeps its
    /// place for as long as it is in the pool.
    pub pool: [Addr; POOL_MAX],
}

/// Entries of array `SERVICE_CACHE`, a power of two: ids of services, each where the last packet
/// for its address, protocol and port left it. Whoever reads one looks whether [`Service::key`] is
/// the packet's, and whether the service is live.
pub const SERVICE_CACHE_MAX: u32 = 256;

/// Addresses of a [`Service::pool`].
pub const POOL_MAX: usize = 8;

/// [`crate::Via::source`] for the address at a place of the pool: the place from 1 on, and a part
/// of the address, so that another one there is not taken for it.
#[must_use]
#[inline(always)]
pub const fn source_at(place: u32, addr: [u32; 4]) -> u16 {
    let mixed = addr[0] ^ addr[1] ^ addr[2] ^ addr[3];
    let byte = (mixed ^ mixed >> 16) as u16;
    (place + 1) as u16 & 0xff | (byte ^ byte >> 8) << 8
}

impl Service {
    /// First entry in `LOOKUP`.
    #[must_use]
    #[inline(always)]
    pub const fn table_base(&self) -> u32 {
        (self.table >> 32) as u32
    }

    /// Number of entries.
    #[must_use]
    #[inline(always)]
    pub const fn table_len(&self) -> u32 {
        self.table as u32
    }
}

/// Key of map `QUIC_IDS`: the id of a server in connection ids. The value is its slot.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct QuicKey {
    /// As a number, big-endian.
    pub id: u64,
    /// Id of the service.
    pub service: u32,
    /// Padding to 16 bytes; always 0.
    pub pad: u32,
}

/// Bytes of such an id at most.
pub const QUIC_ID_MAX: u32 = 8;
