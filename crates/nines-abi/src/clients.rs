//! Which clients may begin flows, and how many; what strangers must show.

use crate::Addr;

/// Data of a key of map `SOURCES`, a trie of prefixes: 32 bits of service come before those of the
/// client's address. The value is [`SOURCE_ALLOWED`] or [`SOURCE_DENIED`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct SourceKey {
    /// Id of the service.
    pub service: u32,
    /// Leading bits of the clients' address.
    pub addr: Addr,
}

/// Such clients may begin flows.
pub const SOURCE_ALLOWED: u32 = 1;
/// They may not.
pub const SOURCE_DENIED: u32 = 2;
/// Prefixes of all services.
pub const SOURCES_MAX: u32 = 1 << 16;

/// Clients whose rate is known at most (map `RATE_USED`, keys are [`crate::TemplateKey`], values
/// the time before which nothing is saved up, ns); who was heard of longest ago begins anew.
pub const RATE_USED_MAX: u32 = 1 << 16;
/// Clients that have shown a cookie at most (map `COOKIE_CLIENTS`, values the time in the units of
/// [`crate::seen_of`]).
pub const COOKIE_CLIENTS_MAX: u32 = 1 << 16;
/// How long they need not show another, in the units of [`crate::seen_of`]: 300 s.
pub const PROVEN_UNITS: u32 = crate::idle_units(300);
/// A cookie is good in the time it was made in and in the next: [`cookie_time`] shifts ns by it,
/// 17 s.
const COOKIE_SHIFT: u32 = 34;

/// When a cookie is made.
#[must_use]
pub const fn cookie_time(now_ns: u64) -> u64 {
    now_ns >> COOKIE_SHIFT
}

/// SipHash-2-4 (Aumasson and Bernstein, 2012) of whole words.
#[must_use]
#[inline(always)]
pub fn sip_hash<const N: usize>(secret: [u64; 2], words: [u64; N]) -> u64 {
    let [k0, k1] = secret;
    let mut v = [
        k0 ^ 0x736f_6d65_7073_6575,
        k1 ^ 0x646f_7261_6e64_6f6d,
        k0 ^ 0x6c79_6765_6e65_7261,
        k1 ^ 0x7465_6462_7974_6573,
    ];
    for word in words {
        take(&mut v, word);
    }
    take(&mut v, (8 * N as u64) << 56);
    v[2] ^= 0xff;
    for _ in 0..4 {
        round(&mut v);
    }
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

#[inline(always)]
fn take(v: &mut [u64; 4], word: u64) {
    v[3] ^= word;
    round(v);
    round(v);
    v[0] ^= word;
}

#[inline(always)]
fn round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[2] = v[2].rotate_left(32);
}

#[cfg(test)]
mod tests {
    extern crate std;

    /// The paper's vector has 15 bytes, which are no whole words; this is of the reference
    /// implementation's (vectors_sip64, 0 to 15 in order: two words).
    #[test]
    fn sip_hash_is_the_reference() {
        let bytes: [u8; 16] = core::array::from_fn(|i| i as u8);
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        let key = [word(0), word(8)];
        assert_eq!(super::sip_hash(key, []), 0x726f_db47_dd0e_0e31);
        assert_eq!(super::sip_hash(key, [word(0)]), 0x93f5_f579_9a93_2462);
        assert_eq!(super::sip_hash(key, [word(0), word(8)]), 0x3f2a_cc7f_57c2_9bdb);
    }
}
