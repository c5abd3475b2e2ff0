//! The bytes of a packet, read and written in place.
//!
//! Decides: which accesses are within bounds. A [`Frame`] compares an offset with the packet's end
//! once and gives a [`Window`]; what is done in the window the compiler checks, at no cost.
//!
//! Accesses are plain and not `read_unaligned`: for this target the compiler would turn those into
//! one access a byte, and the verifier admits unaligned accesses to packets where the CPU does.

use core::mem::size_of;

use aya_ebpf::programs::{TcContext, XdpContext};

/// What of a packet lies in one piece of memory: from `data` up to `end`.
#[derive(Clone, Copy)]
pub struct Frame {
    data: usize,
    end: usize,
}

impl Frame {
    /// What the kernel shows of an skb. Helpers that change the skb may move it: then anew.
    #[inline(always)]
    pub fn of_skb(ctx: &TcContext) -> Self {
        Self { data: ctx.data(), end: ctx.data_end() }
    }

    /// The whole frame at XDP. After `bpf_xdp_adjust_head` it is another one.
    #[inline(always)]
    pub fn of_xdp(ctx: &XdpContext) -> Self {
        Self { data: ctx.data(), end: ctx.data_end() }
    }

    /// The same from an offset on. Behind its end nothing can be read.
    #[inline(always)]
    pub fn behind(self, offset: usize) -> Self {
        Self { data: self.data + offset, end: self.end }
    }

    /// With an end of which the compiler knows nothing.
    #[inline(always)]
    pub fn with_opaque_end(self) -> Self {
        Self { data: self.data, end: crate::atomic::opaque(self.end as u64) as usize }
    }

    /// Whether there are so many bytes.
    #[inline(always)]
    pub fn has(self, len: usize) -> bool {
        self.data + len <= self.end
    }

    /// The value at an offset; `None`: the packet ends before.
    #[inline(always)]
    pub fn read<T: Copy>(self, offset: usize) -> Option<T> {
        // In this order: the sum of frame and offset is there already when the value is read.
        let at = self.data + offset;
        if at + size_of::<T>() > self.end {
            return None;
        }
        // SAFETY: it lies before the packet's end, which the verifier also wants to see; no other
        // processor has the packet. `T` is integers, for which any bits do. See the header for its
        // alignment.
        Some(unsafe { *(at as *const T) })
    }

    /// Writes a value at an offset.
    ///
    /// # Safety
    ///
    /// The caller has seen, by [`Frame::read`] or [`Frame::window`], that so many bytes are there.
    #[inline(always)]
    pub unsafe fn put<T: Copy>(self, offset: usize, value: T) {
        // SAFETY: the caller's; else as in `Window::put`.
        unsafe { *((self.data + offset) as *mut T) = value };
    }

    /// `N` bytes from an offset on; `None`: the packet ends before.
    #[inline(always)]
    pub fn window<const N: usize>(self, offset: usize) -> Option<Window<N>> {
        let at = self.data + offset;
        (at + N <= self.end).then_some(Window { at })
    }
}

/// `N` bytes of a packet that are there.
#[derive(Clone, Copy)]
pub struct Window<const N: usize> {
    at: usize,
}

impl<const N: usize> Window<N> {
    /// The value at offset `O`.
    #[inline(always)]
    pub fn get<T: Copy, const O: usize>(self) -> T {
        const { assert!(O + size_of::<T>() <= N) };
        // SAFETY: it lies in the window, by the line before; as in `Frame::read`.
        unsafe { *((self.at + O) as *const T) }
    }

    /// Writes a value at offset `O`.
    #[inline(always)]
    pub fn put<T: Copy, const O: usize>(self, value: T) {
        const { assert!(O + size_of::<T>() <= N) };
        // SAFETY: it lies in the window, by the line before; nobody holds a reference into packets.
        unsafe { *((self.at + O) as *mut T) = value };
    }

    /// `M` of its bytes, from offset `O` on.
    #[inline(always)]
    pub fn part<const M: usize, const O: usize>(self) -> Window<M> {
        const { assert!(O + M <= N) };
        Window { at: self.at + O }
    }
}
