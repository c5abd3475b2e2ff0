//! What the kernel does for a program: its helper functions, and the fields of a packet's context.
//!
//! Decides: nothing. Each function here is as its helper in bpf-helpers(7), with arguments that
//! cannot be wrong.

use core::mem::{size_of, MaybeUninit};

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{
        bpf_csum_diff, bpf_get_prandom_u32, bpf_jiffies64, bpf_ktime_get_boot_ns, bpf_redirect,
        bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_store_bytes, bpf_skb_vlan_pop,
        bpf_xdp_adjust_head, bpf_xdp_load_bytes,
    },
    maps::ProgramArray,
    programs::{TcContext, XdpContext},
    EbpfContext,
};

/// The fields of an skb that the kernel shows to programs.
#[inline(always)]
pub fn skb(ctx: &TcContext) -> &__sk_buff {
    // SAFETY: the kernel passes the program a context that is valid until it ends. What is read of
    // it the verifier turns into reads of the packet's own fields.
    unsafe { &*ctx.skb.skb }
}

/// CLOCK_BOOTTIME, ns.
#[inline(always)]
pub fn boot_ns() -> u64 {
    // SAFETY: it takes no argument; it reads a clock of the kernel.
    unsafe { bpf_ktime_get_boot_ns() }
}

/// Timer ticks since the machine started.
#[inline(always)]
pub fn ticks() -> u64 {
    // SAFETY: it takes no argument; it reads a counter of the kernel.
    unsafe { bpf_jiffies64() }
}

/// A random number of 32 bits.
#[inline(always)]
pub fn random() -> u32 {
    // SAFETY: it takes no argument; its state is the kernel's, one a processor.
    unsafe { bpf_get_prandom_u32() as u32 }
}

/// Out over a device, or with flag BPF_F_INGRESS in by it: the code that the program returns then.
#[inline(always)]
pub fn redirect(ifindex: u32, flags: u64) -> i64 {
    // SAFETY: it takes numbers only; a device that is not there is an error when the program ends.
    unsafe { bpf_redirect(ifindex, flags) }
}

/// Goes on in another program; comes back if that one is not loaded, or too many went before.
#[inline(always)]
pub fn tail_call(programs: &ProgramArray, ctx: &impl EbpfContext, index: u32) {
    // SAFETY: the kernel lets a map hold programs of this kind of context only, and the callers are
    // inlined into what the kernel calls.
    unsafe { programs.tail_call(ctx, index) };
}

/// Reads a value at an offset of the packet into `to`; `None`: the packet ends before.
#[inline(always)]
pub fn load_into<T: Copy>(ctx: &TcContext, offset: u32, to: &mut T) -> Option<()> {
    let (at, len) = (core::ptr::from_mut(to).cast(), size_of::<T>() as u32);
    // SAFETY: the kernel writes as many bytes as `to` has. `T` is integers, for which any bits do.
    let rc = unsafe { bpf_skb_load_bytes(ctx.skb.skb.cast(), offset, at, len) };
    (rc == 0).then_some(())
}

/// Reads `len` bytes at an offset of the packet into the beginning of `to`.
#[inline(always)]
pub fn load_bytes(ctx: &TcContext, offset: u32, to: &mut [u8], len: u32) -> Option<()> {
    // SAFETY: the verifier refuses a program whose `len` it does not see to be at most what is left
    // of the map value or stack that `to` lies in.
    let rc = unsafe { bpf_skb_load_bytes(ctx.skb.skb.cast(), offset, to.as_mut_ptr().cast(), len) };
    (rc == 0).then_some(())
}

/// Writes a value at an offset of the packet. Checksums do not follow.
#[inline(always)]
pub fn store<T: Copy>(ctx: &TcContext, offset: u32, from: &T) -> Option<()> {
    store_part(ctx, offset, from, size_of::<T>() as u32)
}

/// Writes the first `len` bytes of a value at an offset of the packet.
#[inline(always)]
pub fn store_part<T: Copy>(ctx: &TcContext, offset: u32, from: &T, len: u32) -> Option<()> {
    let at = core::ptr::from_ref(from).cast();
    // SAFETY: the verifier refuses a program whose `len` it does not see to be at most what is left
    // of the stack or map value that `from` lies in.
    let rc = unsafe { bpf_skb_store_bytes(ctx.skb.skb.cast(), offset, at, len, 0) };
    (rc == 0).then_some(())
}

/// Cuts or lengthens the packet to `len` bytes.
#[inline(always)]
pub fn change_tail(ctx: &TcContext, len: u32) -> Option<()> {
    // SAFETY: the skb is the program's own. What was read of its bytes by address is gone after
    // this, and the verifier refuses programs that go on using it.
    (unsafe { bpf_skb_change_tail(ctx.skb.skb.cast(), len, 0) } == 0).then_some(())
}

/// Takes the outermost VLAN tag off the packet.
#[inline(always)]
pub fn vlan_pop(ctx: &TcContext) -> Option<()> {
    // SAFETY: the skb is the program's own, and addresses in it are read anew, as in `change_tail`.
    (unsafe { bpf_skb_vlan_pop(ctx.skb.skb) } == 0).then_some(())
}

/// The checksum `seed` with these words more in it, not folded.
#[inline(always)]
pub fn sum_with<const N: usize>(words: &mut [u32; N], seed: u32) -> i64 {
    let (none, len) = (core::ptr::null_mut(), (N * 4) as u32);
    // SAFETY: the kernel reads `N` words, which are there, and nothing where the length is 0.
    unsafe { bpf_csum_diff(none, 0, words.as_mut_ptr(), len, seed) }
}

/// The checksum `seed` with the first `len` bytes less in it, not folded; `len` is a multiple of 4.
#[inline(always)]
pub fn sum_without(bytes: &mut [u8], len: u32, seed: u32) -> i64 {
    // SAFETY: the verifier refuses a program whose `len` it does not see to be at most what is left
    // of the map value that `bytes` lies in. The kernel reads bytes, whatever their alignment.
    unsafe { bpf_csum_diff(bytes.as_mut_ptr().cast(), len, core::ptr::null_mut(), 0, seed) }
}

/// Reads a value at an offset of the frame; `None`: the frame ends before.
#[inline(always)]
pub fn xdp_load<T: Copy>(ctx: &XdpContext, offset: u32) -> Option<T> {
    let mut value = MaybeUninit::<T>::uninit();
    let (at, len) = (value.as_mut_ptr().cast(), size_of::<T>() as u32);
    // SAFETY: the kernel writes as many bytes as `T` has, or gives an error. `T` is integers.
    let rc = unsafe { bpf_xdp_load_bytes(ctx.ctx, offset, at, len) };
    // SAFETY: without an error all of it was written.
    (rc == 0).then(|| unsafe { value.assume_init() })
}

/// Gives the frame `len` bytes more in front.
#[inline(always)]
pub fn xdp_make_room(ctx: &XdpContext, len: u32) -> Option<()> {
    // SAFETY: as of `change_tail`: addresses in the frame are read anew after this.
    (unsafe { bpf_xdp_adjust_head(ctx.ctx, -(len as i32)) } == 0).then_some(())
}
