//! Kernel arrays as memory of this process (BPF_F_MMAPABLE, Linux 5.5): read and written in place,
//! without a system call for each entry.

use std::{
    marker::PhantomData,
    os::fd::{AsFd as _, AsRawFd as _},
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

use aya::maps::MapData;

use crate::{Error, Result};

/// A pinned array of `T`. Programs loaded later name the map by its descriptor, so it stays open;
/// its memory is mapped only while somebody looks, or it would count as this process's.
pub struct Shared<T> {
    data: MapData,
    of: PhantomData<fn() -> T>,
}

impl<T: Copy> Shared<T> {
    /// Of this map.
    pub fn new(data: MapData) -> Self {
        Self { data, of: PhantomData }
    }

    /// All entries, in place.
    pub fn view(&self) -> Result<View<T>> {
        View::map(&self.data, 0, u32::MAX)
    }

    /// At least so many entries from this one on.
    pub fn part(&self, first: u32, count: u32) -> Result<View<T>> {
        View::map(&self.data, first, count)
    }
}

/// The entries of an array. The kernel program may read or write any of them at any moment.
pub struct View<T> {
    at: NonNull<u8>,
    first: u32,
    len: u32,
    /// Bytes before the first entry: mappings begin at pages.
    before: usize,
    /// From one entry to the next: the kernel rounds values up to eight bytes.
    stride: usize,
    of: PhantomData<T>,
}

// SAFETY: kernel memory that belongs to no thread; every access is a volatile word.
unsafe impl<T> Send for View<T> {}

impl<T: Copy> View<T> {
    fn map(data: &MapData, first: u32, count: u32) -> Result<Self> {
        let wrong = |e: &dyn std::fmt::Display| Error::new("a kernel map cannot be mapped", e);
        let info = data.info().map_err(|e| wrong(&e))?;
        let size = std::mem::size_of::<T>();
        if info.value_size() as usize != size {
            return Err(wrong(&format!("its values are {} bytes, not {size}", info.value_size())));
        }
        let stride = size.next_multiple_of(8);
        let len = info.max_entries().saturating_sub(first).min(count);
        let from = first as usize * stride;
        // SAFETY: asks for a number.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
        let before = from % page;
        let bytes = before + stride * len as usize;
        let fd = data.fd().as_fd().as_raw_fd();
        let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        let offset = (from - before) as libc::off_t;
        // SAFETY: a fresh mapping of a live descriptor at an address of the kernel's choice.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), bytes, prot, flags, fd, offset) };
        if at == libc::MAP_FAILED {
            return Err(wrong(&std::io::Error::last_os_error()));
        }
        let at = NonNull::new(at.cast()).ok_or_else(|| wrong(&"mapped at address zero"))?;
        Ok(Self { at, first, len, before, stride, of: PhantomData })
    }

    /// Number of entries.
    pub fn len(&self) -> u32 {
        self.len
    }

    fn entry(&self, index: u32) -> *mut T {
        let (first, len) = (self.first, self.len);
        assert!(index >= first && index - first < len, "entry {index} of {first} + {len}");
        let at = self.before + (index - first) as usize * self.stride;
        // SAFETY: within the mapping, by the assertion.
        unsafe { self.at.as_ptr().add(at).cast() }
    }

    /// A copy of one entry; of one that the kernel writes meanwhile it may be a mixture.
    pub fn get(&self, index: u32) -> T {
        // SAFETY: a valid, aligned entry; every bit pattern is a `T` (nines-abi has no other).
        unsafe { std::ptr::read_volatile(self.entry(index)) }
    }

    /// Writes one entry word by word, the first word last: a program that finds the new first word
    /// finds the rest, too.
    pub fn set(&self, index: u32, value: T) {
        let words = std::mem::size_of::<T>() / 8;
        assert!(words * 8 == std::mem::size_of::<T>(), "values are whole words");
        let (to, from) = (self.entry(index).cast::<u64>(), (&raw const value).cast::<u64>());
        for word in (0..words).rev() {
            // SAFETY: within the entry, which the kernel aligns to eight bytes; `value` may be
            // aligned to less, so it is read unaligned.
            unsafe {
                std::ptr::write_volatile(to.add(word), std::ptr::read_unaligned(from.add(word)))
            }
            std::sync::atomic::fence(Ordering::Release);
        }
    }
}

impl<T: Copy> View<T> {
    /// Writes one word of eight bytes of an entry.
    pub fn set_word(&self, index: u32, word: usize, value: u64) {
        assert!((word + 1) * 8 <= std::mem::size_of::<T>(), "a word of the value");
        // SAFETY: within the entry, which the kernel aligns to eight bytes.
        unsafe { std::ptr::write_volatile(self.entry(index).cast::<u64>().add(word), value) }
    }
}

impl View<u64> {
    /// Puts `value` there and gives what was, at once for every processor.
    pub fn swap(&self, index: u32, value: u64) -> u64 {
        // SAFETY: within the mapping and aligned to eight bytes; the kernel program changes such
        // words by atomic instructions only.
        let word = unsafe { AtomicU64::from_ptr(self.entry(index)) };
        word.swap(value, Ordering::SeqCst)
    }
}

impl<T> Drop for View<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `map`, which nothing points into any more.
        unsafe {
            let bytes = self.before + self.stride * self.len as usize;
            libc::munmap(self.at.as_ptr().cast(), bytes);
        }
    }
}
