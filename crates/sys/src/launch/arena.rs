//! One stretch of memory that holds all that a child without heap needs: written before the clone, read after it.

use super::memory::PAGE;
use crate::error::{Error, Result};
use std::marker::PhantomData;
use std::mem::MaybeUninit;

/// Room on the caller's stack for what is usually needed: its pages are there already.
pub(super) type Room = [MaybeUninit<u8>; 3 * PAGE];

/// Writes one thing after another, and remembers when something did not fit.
#[derive(Debug)]
pub(super) struct Arena<'a> {
    next: *mut u8,
    end: *mut u8,
    is_full: bool,
    /// To be unmapped in this process when it is dropped.
    mapped: Option<(*mut u8, usize)>,
    room: PhantomData<&'a mut Room>,
}

impl<'a> Arena<'a> {
    pub(super) fn within(room: &'a mut Room) -> Self {
        let place = room.as_mut_ptr_range();
        Self { next: place.start.cast(), end: place.end.cast(), is_full: false, mapped: None, room: PhantomData }
    }

    /// The pages are there at once: a fault for each would cost as much as the mapping.
    #[allow(unsafe_code)]
    pub(super) fn mapped(size: usize) -> Result<Self> {
        let size = size.next_multiple_of(PAGE);
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE;
        // SAFETY: a new mapping, where the kernel likes it.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), size, rights, kind, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(Error::last(format!("mmap({size})")));
        }
        let (start, end) = (start.cast::<u8>(), start.cast::<u8>().wrapping_add(size));
        Ok(Self { next: start, end, is_full: false, mapped: Some((start, size)), room: PhantomData })
    }

    /// Something was not written, and null was told as its place.
    pub(super) fn is_full(&self) -> bool {
        self.is_full
    }

    /// The copy lives as long as the arena.
    #[allow(unsafe_code)]
    pub(super) fn put<T: Copy>(&mut self, values: &[T]) -> *mut T {
        let align = self.next.align_offset(align_of::<T>().max(16));
        let place = self.next.wrapping_add(align).cast::<T>();
        let after = place.wrapping_add(values.len()).cast::<u8>();
        if after > self.end {
            self.is_full = true;
            return std::ptr::null_mut();
        }
        // SAFETY: the place is aligned, inside the memory that is ours and new, so it overlaps nothing.
        unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), place, values.len()) };
        self.next = after;
        place
    }

    /// With a NUL byte after it.
    #[allow(unsafe_code)]
    pub(super) fn string(&mut self, bytes: &[u8]) -> *const u8 {
        let start = self.put(bytes);
        if self.next == self.end {
            self.is_full = true;
        }
        if !self.is_full {
            // SAFETY: the place is inside the memory that is ours, and new.
            unsafe { self.next.write(0) };
            self.next = self.next.wrapping_add(1);
        }
        start
    }
}

impl Drop for Arena<'_> {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        if let Some((start, size)) = self.mapped {
            // SAFETY: the mapping is ours, and whoever points into it lives in another process.
            unsafe { libc::munmap(start.cast(), size) };
        }
    }
}
