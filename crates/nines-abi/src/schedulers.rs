//! How the kernel program chooses: words of schedulers, and what two of them compute.

/// Schedulers, [`crate::Service::scheduler`]. Definitions: net/netfilter/ipvs/ip_vs_*.c. These two
/// take the next entry of the pick table for each new flow.
pub const SCHED_RR: u32 = 0;
/// In turn, as often as the weight.
pub const SCHED_WRR: u32 = 1;
/// From here to [`SCHED_TWOS`] the pick table lists every server once and the kernel weighs what
/// they carry. Fewest flows.
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
/// Locality: a destination's flows go to one server while it is not overloaded.
pub const SCHED_LBLC: u32 = 8;
/// Locality with a set of servers for each destination.
pub const SCHED_LBLCR: u32 = 9;
/// The less loaded of two taken at random by weight.
pub const SCHED_TWOS: u32 = 10;
/// From here on entries are chosen by hashes. Of the destination.
pub const SCHED_DH: u32 = 11;
/// Of the client.
pub const SCHED_SH: u32 = 12;
/// Of the client, Maglev's table.
pub const SCHED_MH: u32 = 13;
/// Of the whole flow, Maglev's table: the same on every director. Not in IPVS.
pub const SCHED_MAGLEV: u32 = 14;

/// Servers that the kernel weighs for one new flow at most.
pub const SCAN_MAX: u32 = 64;

/// Keys of scheduler mh (net/netfilter/ipvs/ip_vs_mh.c): of the position of a client or server.
pub const MH_KEY_1: u64 = 2_654_435_761;
/// Of a server's step.
pub const MH_KEY_2: u64 = 2_654_446_892;

/// hsiphash of four bytes as 64-bit kernels compute it, SipHash-1-3 (lib/siphash.c), with a key
/// whose halves are equal.
#[must_use]
#[inline(always)]
pub const fn hsiphash(value: u32, key: u64) -> u32 {
    let mut v = [
        0x736f_6d65_7073_6575 ^ key,
        0x646f_7261_6e64_6f6d ^ key,
        0x6c79_6765_6e65_7261 ^ key,
        0x7465_6462_7974_6573 ^ key,
    ];
    let b = 4 << 56 | value as u64;
    v[3] ^= b;
    v = sip_round(v);
    v[0] ^= b;
    v[2] ^= 0xff;
    v = sip_round(sip_round(sip_round(v)));
    (v[0] ^ v[1] ^ v[2] ^ v[3]) as u32
}

#[inline(always)]
const fn sip_round([mut a, mut b, mut c, mut d]: [u64; 4]) -> [u64; 4] {
    a = a.wrapping_add(b);
    b = b.rotate_left(13) ^ a;
    a = a.rotate_left(32);
    c = c.wrapping_add(d);
    d = d.rotate_left(16) ^ c;
    a = a.wrapping_add(d);
    d = d.rotate_left(21) ^ a;
    c = c.wrapping_add(b);
    b = b.rotate_left(17) ^ c;
    c = c.rotate_left(32);
    [a, b, c, d]
}
