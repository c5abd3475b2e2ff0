//! The flow table and what servers carry.

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
/// One side sent RST (IP_VS_TCP_S_CLOSE).
pub const STATE_CLOSE: u8 = 6;
/// The client said FIN and the server's answers are seen.
pub const STATE_CLOSE_WAIT: u8 = 7;
/// Then the server did.
pub const STATE_LAST_ACK: u8 = 8;
/// Any UDP flow.
pub const STATE_UDP: u8 = 9;
/// Answered by a SYN cookie.
pub const STATE_SYN_ACK: u8 = 10;
/// Not met here.
pub const STATE_LISTEN: u8 = 11;
/// Count of `STATE_*`.
pub const STATES: usize = 12;

/// Idle limits by state, seconds, IPVS's defaults.
pub const IDLE_SECONDS: [u32; STATES] = [2, 900, 120, 60, 120, 120, 10, 60, 30, 300, 120, 120];

/// Those that people set: established TCP, TCP after a FIN, UDP.
pub const IDLE_SET: [u8; 3] = [STATE_ESTABLISHED, STATE_FIN_WAIT, STATE_UDP];

/// Times of flows are in units of `1 << IDLE_SHIFT` ns (16.8 ms), 32 bits: they wrap after two
/// years, and only differences are used.
pub const IDLE_SHIFT: u32 = 24;

/// First port that full NAT gives to flows; it goes on to the last.
pub const FULL_NAT_PORTS: u16 = 1_024;

/// Ways of a bucket: flows that share a hash value and have room.
pub const WAYS: usize = 7;
/// Buckets (a power of two), unless the loader wants another number: 229,376 flows, 16 MiB, 73
/// bytes a flow.
pub const BUCKETS: u32 = 1 << 15;

/// [`Tail::word`]: the entry is in use.
pub const WORD_LIVE: u64 = 1 << 8;
/// This entry names packets from the real server back to the client (NAT).
pub const WORD_REPLY: u64 = 1 << 9;
/// Of a flow by full NAT: see [`Via`].
pub const WORD_FULL: u64 = 1 << 10;
/// And its server is told who the client is (PROXY protocol), in both entries. What follows is in
/// the client's.
pub const WORD_PROXY: u64 = 1 << 11;
/// The header that tells it was sent,
pub const WORD_SENT: u64 = 1 << 12;
/// the client's first data behind it,
pub const WORD_DATA: u64 = 1 << 13;
/// and the server has acknowledged it.
pub const WORD_SHOWN: u64 = 1 << 14;
/// The server has answered, or the client has come again: see [`WORD_MIDDLE`].
pub const WORD_EARNED: u64 = 1 << 15;
/// The flow was first seen in the middle. Until it is [`WORD_EARNED`], such a flow counts for
/// nothing: it has no weight, other directors do not hear of it, and any other flow may replace it.
pub const WORD_MIDDLE: u64 = 1 << 16;
/// All of the PROXY protocol.
pub const WORDS_PROXY: u64 = WORD_PROXY | WORD_SENT | WORD_DATA | WORD_SHOWN;

/// Bytes of the value of per-CPU map `BYTES`, room to look at parts of packets.
pub const BYTES_LEN: usize = 4_096;

/// [`Load::overloaded`] of a server with this load and these thresholds.
#[must_use]
#[inline(always)]
pub const fn limited(load: &Load, upper: u32, lower: u32) -> u64 {
    let flows = load.active + load.inactive;
    let (upper, lower) = (upper as u64, lower as u64);
    let below = if lower != 0 { flows < lower } else { flows * 4 < upper * 3 };
    if upper == 0 || below && flows < upper {
        0
    } else if flows >= upper {
        1
    } else {
        load.overloaded
    }
}

/// Value of map `LOADS`, indexed by slot: flows now, as the schedulers weigh them.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// TCP between the handshake's start and the first FIN or RST.
    pub active: u64,
    /// All other flows of the server.
    pub inactive: u64,
    /// 1 from reaching [`crate::Server::upper`] until below [`crate::Server::lower`].
    pub overloaded: u64,
    /// Padding to 32 bytes; always 0.
    pub pad: u64,
}

/// Key of a flow; IPv4 is mapped as in [`crate::Addr`]. Compared word by word.
#[repr(C, align(8))]
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

/// 64 bits out of which places, tags and picks are taken; the same on every director.
#[must_use]
#[inline(always)]
pub const fn mix(a: u64, b: u64) -> u64 {
    // Multiply and fold twice, as the finalisers of MurmurHash3 and SplitMix64 (public domain) do.
    let mut h = a.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ b.rotate_left(31);
    h ^= h >> 32;
    h = h.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    h ^= h >> 29;
    h = h.wrapping_mul(0x94d0_49bb_1331_11eb);
    h ^ h >> 32
}

/// [`mix`] of a whole key: what every director chooses servers by.
#[must_use]
#[inline(always)]
pub const fn hash_of(key: &Flow) -> u64 {
    place_hash(key, 0)
}

/// The same under a key that only this machine knows: where a flow lies in its table, so that
/// nobody can send what lies in few buckets only.
#[must_use]
#[inline(always)]
pub const fn place_hash(key: &Flow, secret: u64) -> u64 {
    // Pairs as a little-endian machine reads them: the compiler makes one load of each.
    const fn pair(low: u32, high: u32) -> u64 {
        low as u64 | (high as u64) << 32
    }
    let (src, dst) = (&key.src, &key.dst);
    let ports = key.sport as u64 | (key.dport as u64) << 16 | (key.proto as u64) << 32;
    let first = pair(src[0], src[1]) ^ pair(dst[0], dst[1]).rotate_left(17) ^ secret;
    // A lighter round is enough before the last.
    let light = first.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ pair(src[2], src[3]);
    let light = (light ^ light >> 32).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mix(light ^ ports, pair(dst[2], dst[3]))
}

/// What is known of a flow. One word decides everything that two processors may want to change at
/// once, so that exactly one of them does.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tail {
    /// 0: free. Else state in bits 0-7, `WORD_*` in 8-16, a version that each use raises in 17-31,
    /// time of the last packet in 32-63, within half a second.
    pub word: u64,
    /// Slot in `SERVERS`.
    pub server: u32,
    /// [`crate::Server::generation`] when the flow was made; another one ends the flow.
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
    /// Padding to a cache line of 64 bytes; always 0.
    pub pad: [u64; 4],
    /// Flow entries; a free one has 0 in [`Tail::word`].
    pub ways: [Entry; WAYS],
}

/// A flow: a cache line.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Addresses, ports and protocol of the flow.
    pub key: Flow,
    /// What the client calls the other end.
    pub via: Via,
    /// State, time of the last packet and real server of the flow.
    pub tail: Tail,
}

/// Flows that one run of `nines_learn` may be given: entries of map `SYNC_IMPORT`, a power of two.
/// An entry is a flow as another director knows it, with slot and generation of this one.
pub const SYNC_IMPORT_MAX: u32 = 1_024;

/// Bytes of ring buffer `SYNC_EVENTS`. Word `SYNC_PENDING` is 1 from a change in map `SYNC_CHANGED`
/// (a bit a bucket) until whoever passes flows on has begun to look; the change that sets it also
/// writes an entry to the ring, which wakes him.
pub const SYNC_EVENTS_BYTES: u32 = 4_096;

/// The other end as a client of a translated flow knows it, where the server's own `vip` and
/// `vip_port` do not say it because its service has many addresses or ports.
///
/// In the client's entry, whose key says that, what the client said last, if anything is known: the
/// sequence and the acknowledgement number as on the wire.
///
/// With full NAT: the port that the server sees beside the VIP or a source, and, in the entry of
/// the answers, which entry is the client's; in the client's, with [`WORD_PROXY`], the sequence
/// number of its SYN.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Via {
    /// IPv4 address as on the wire. With full NAT the index of an entry: eight times its bucket's,
    /// and its way.
    pub addr: u32,
    /// Network byte order.
    pub port: u16,
    /// With full NAT: which address of the pool the server sees, [`crate::source_at`]; 0: the VIP.
    pub source: u16,
}

impl Via {
    /// Port and source: what tells flows by full NAT to one server apart.
    #[must_use]
    #[inline(always)]
    pub const fn name(&self) -> u32 {
        self.port as u32 | (self.source as u32) << 16
    }
}

/// In an entry of map `SYNC_IMPORT` that names a client only, this is what
/// [`crate::TemplateKey::call`] becomes.
#[must_use]
pub const fn via_of_call(call: u64) -> Via {
    Via { addr: call as u32, port: (call >> 32) as u16, source: (call >> 48) as u16 }
}

/// The [`crate::TemplateKey::call`] that [`via_of_call`] packed.
#[must_use]
#[inline(always)]
pub const fn call_of(via: &Via) -> u64 {
    via.addr as u64 | (via.name() as u64) << 32
}

const _: () = {
    assert!(core::mem::size_of::<Flow>() == 40);
    assert!(core::mem::size_of::<Tail>() == 16);
    assert!(core::mem::size_of::<Entry>() == 64);
    assert!(core::mem::size_of::<Bucket>() == 512);
    assert!(core::mem::size_of::<Load>() == 32);
};
