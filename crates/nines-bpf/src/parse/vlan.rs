//! VLAN tags: beside a packet when it comes in (the kernel or the card has taken it off the frame),
//! beside it or in the frame when it leaves.
//!
//! Decides: a packet of a VLAN is the VLAN's own device's, and programs on the device below leave
//! it alone. There it would be forwarded with the tag it came with, and from VLANs that this host
//! is not in.

use aya_ebpf::programs::TcContext;

use crate::{frame::Frame, kernel};

/// Number of the VLAN in a tag (IEEE 802.1Q clause 9.6).
const NUMBER: u32 = 0xfff;
const ETH_VLAN: u16 = 0x8100u16.to_be();
const ETH_PROVIDER: u16 = 0x88a8u16.to_be();
const TAG_LEN: usize = 4;
/// Two MAC addresses.
const TYPE_AT: usize = 12;

/// Whether a packet that came in is of a VLAN. Number 0 is none, but a priority: that tag goes, as
/// the stack takes it off, and the packet is this device's.
#[inline(always)]
pub fn is_elsewhere(ctx: &TcContext) -> bool {
    // Without a tag, Linux 6.1 leaves what was in `vlan_tci`.
    if kernel::skb(ctx).vlan_present == 0 {
        return false;
    }
    if kernel::skb(ctx).vlan_tci & NUMBER != 0 {
        return true;
    }
    // Behind a priority there may be a VLAN, whose tag the kernel then puts in that one's place.
    kernel::vlan_pop(ctx).is_none() || kernel::skb(ctx).vlan_present != 0
}

/// Where a packet that leaves would begin if it had no tag in its frame: VLAN devices put one there
/// when told so (`reorder_hdr off`), and whoever claims an address does it by any frame.
#[inline(always)]
pub fn behind_tag(ctx: &TcContext) -> Frame {
    let frame = Frame::of_skb(ctx);
    match frame.read::<u16>(TYPE_AT) {
        Some(ETH_VLAN | ETH_PROVIDER) => frame.behind(TAG_LEN),
        _ => frame,
    }
}
