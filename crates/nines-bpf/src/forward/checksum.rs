//! Internet checksums (RFC 1071), and how they follow a change (RFC 1624).

/// RFC 1071.
#[inline(always)]
pub fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}

/// A checksum that follows by difference (RFC 1624): `by` is what was added to the words it covers.
#[inline(always)]
pub fn follow(sum: u16, by: u64) -> u16 {
    fold(u64::from(!sum) + by)
}

/// What replacing `old` by `new` adds, in words of 16 bits that are not folded.
#[inline(always)]
pub fn difference(old: u32, new: u32) -> u64 {
    u64::from(!old) + u64::from(new)
}
