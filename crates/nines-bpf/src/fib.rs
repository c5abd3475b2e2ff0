//! The kernel's routing table (forwarding information base), asked by `bpf_fib_lookup`.
//!
//! Decides: nothing; what a route is good for each caller decides.

use core::mem::{offset_of, size_of};

use aya_ebpf::helpers::generated::bpf_fib_lookup;
use nines_abi::Packet;

pub const AF_INET: u32 = 2;
pub const AF_INET6: u32 = 10;

/// `struct bpf_fib_lookup` (uapi/linux/bpf.h) without its unions; 64 bytes.
#[repr(C)]
pub struct Fib {
    family: u8,
    l4_protocol: u8,
    sport: u16,
    dport: u16,
    tot_len: u16,
    pub ifindex: u32,
    tos: u32,
    src: [u32; 4],
    pub dst: [u32; 4],
    vlan: u32,
    pub smac: [u8; 6],
    pub dmac: [u8; 6],
}
const _: () = assert!(size_of::<Fib>() == 64 && offset_of!(Fib, dmac) == 58);

pub const FIB_SUCCESS: i64 = 0;
pub const FIB_NO_NEIGH: i64 = 7;

impl Fib {
    /// The way to the packet's destination, when it has `src` as source.
    #[inline(always)]
    pub fn towards(packet: &Packet, src: [u32; 4]) -> Self {
        Self::new(packet.v6 != 0, packet.proto, src, packet.dst)
    }

    #[inline(always)]
    pub fn new(v6: bool, proto: u8, src: [u32; 4], dst: [u32; 4]) -> Self {
        Self {
            family: if v6 { AF_INET6 as u8 } else { AF_INET as u8 },
            l4_protocol: proto,
            sport: 0,
            dport: 0,
            tot_len: 0,
            ifindex: 0,
            tos: 0,
            src: if v6 { src } else { [src[3], 0, 0, 0] },
            dst: if v6 { dst } else { [dst[3], 0, 0, 0] },
            vlan: 0,
            smac: [0; 6],
            dmac: [0; 6],
        }
    }

    #[inline(always)]
    pub fn look(&mut self, ctx: *mut core::ffi::c_void) -> i64 {
        let params = (self as *mut Self).cast();
        // SAFETY: `ctx` is the program's own, of its hook's kind; the kernel reads and writes as
        // many bytes as `self` has, which is laid out as its struct (asserted above).
        unsafe { bpf_fib_lookup(ctx, params, size_of::<Self>() as i32, 0) }
    }
}
