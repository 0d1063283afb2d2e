//! One mapping that holds all that a child without heap needs: written before the clone, read after it.

use super::memory::PAGE;
use crate::error::{Error, Result};

/// Writes one thing after another into a mapping that is large enough. Dropping it unmaps it in this process.
#[derive(Debug)]
pub(super) struct Arena {
    start: *mut u8,
    next: *mut u8,
    end: *mut u8,
}

impl Arena {
    /// The pages are there at once: a fault for each would cost as much as the mapping.
    #[allow(unsafe_code)]
    pub(super) fn new(size: usize) -> Result<Self> {
        let size = size.next_multiple_of(PAGE);
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE;
        // SAFETY: a new mapping, where the kernel likes it.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), size, rights, kind, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(Error::last(format!("mmap({size})")));
        }
        let start = start.cast::<u8>();
        Ok(Self { start, next: start, end: start.wrapping_add(size) })
    }

    /// The copy lives as long as the arena.
    #[allow(unsafe_code)]
    pub(super) fn put<T: Copy>(&mut self, values: &[T]) -> *mut T {
        let align = self.next.align_offset(align_of::<T>().max(16));
        let place = self.next.wrapping_add(align).cast::<T>();
        let after = place.wrapping_add(values.len()).cast::<u8>();
        assert!(after <= self.end, "the arena's size was counted before");
        // SAFETY: the place is aligned, inside the mapping and new, so it overlaps nothing.
        unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), place, values.len()) };
        self.next = after;
        place
    }

    /// With a NUL byte after it.
    #[allow(unsafe_code)]
    pub(super) fn string(&mut self, bytes: &[u8]) -> *const u8 {
        let start = self.put(bytes);
        assert!(self.next < self.end, "the arena's size was counted before");
        // SAFETY: the place is inside the mapping and new.
        unsafe { self.next.write(0) };
        self.next = self.next.wrapping_add(1);
        start
    }
}

impl Drop for Arena {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        let size = self.end as usize - self.start as usize;
        // SAFETY: the mapping is ours, and whoever points into it lives in another process.
        unsafe { libc::munmap(self.start.cast(), size) };
    }
}
