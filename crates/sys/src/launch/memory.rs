//! The memory that a process born among tracers must not get, and how it is kept from it.

use crate::error::{Context, Result, check};
use nix::errno::Errno;

/// Memory of this process that a tail must not get, noted while /proc is the host's.
#[derive(Debug, Default)]
pub(super) struct Private {
    ranges: Vec<(usize, usize)>,
    heap: Option<usize>,
}

impl Private {
    /// From now on the heap grows in one place only.
    #[allow(unsafe_code)]
    pub(super) fn note() -> Result<Self> {
        // SAFETY: it only tells the allocator to take all memory from the break from now on.
        unsafe { libc::mallopt(libc::M_MMAP_MAX, 0) };
        let maps = std::fs::read_to_string("/proc/self/maps").call(|| "read(/proc/self/maps)".into())?;
        let mut private = Self::default();
        let mut end_of_file = 0;
        for line in maps.lines() {
            let mut fields = line.split_ascii_whitespace();
            let (Some(range), Some(rights)) = (fields.next(), fields.next()) else { continue };
            let name = fields.nth(3).unwrap_or_default();
            let Some((start, end)) = range.split_once('-') else { continue };
            let (Ok(start), Ok(end)) = (usize::from_str_radix(start, 16), usize::from_str_radix(end, 16)) else {
                continue;
            };
            if name.starts_with('/') {
                end_of_file = end;
                continue;
            }
            let is_bss = start == end_of_file;
            if name == "[heap]" {
                private.heap = Some(start);
            } else if name == "[stack]" {
                // With the arguments and the environment; it may have grown by then, and nothing else is near.
                private.ranges.push((start.saturating_sub(STACK_GROWTH_MAX), end));
            } else if rights == "rw-p" && name.is_empty() && !is_bss {
                private.ranges.push((start, end));
            }
        }
        Ok(private)
    }

    #[allow(unsafe_code)]
    pub(super) fn keep_from_children(&self) -> Result<()> {
        forget_rseq()?;
        let heap = self.heap.map(|start| {
            // SAFETY: sbrk(0) only asks where the break is.
            let end = unsafe { libc::sbrk(0) } as usize;
            (start, end.next_multiple_of(PAGE))
        });
        for (start, end) in self.ranges.iter().copied().chain(heap) {
            let pointer = start as *mut libc::c_void;
            // SAFETY: the advice changes nothing for this process; what a child lacks, `run` does not touch.
            let done = unsafe { libc::madvise(pointer, end - start, libc::MADV_DONTFORK) };
            match check(done.into(), || format!("madvise({start:#x}, {:#x}, MADV_DONTFORK)", end - start)) {
                // Unmapped since it was noted.
                Err(error) if error.errno() == Errno::ENOMEM => {}
                other => drop(other?),
            }
        }
        Ok(())
    }
}

/// Until this is dropped a child gets no heap: neither it nor we pay for a copy of what we write meanwhile. The first
/// pages stay: a static program's thread-local storage lies there, and the kernel writes to it (rseq).
#[derive(Debug)]
pub(super) struct KeptHeap {
    range: Option<(usize, usize)>,
}

impl KeptHeap {
    /// Nothing is kept where another thread could bear a child that needs its heap.
    pub(super) fn keep() -> Self {
        let range = if is_single_threaded() { heap() } else { None };
        Self { range: range.filter(|range| advise(*range, libc::MADV_DONTFORK)) }
    }
}

impl Drop for KeptHeap {
    fn drop(&mut self) {
        if let Some(range) = self.range {
            advise(range, libc::MADV_DOFORK);
        }
    }
}

/// From behind the thread-local storage to the break.
#[allow(unsafe_code)]
fn heap() -> Option<(usize, usize)> {
    /// glibc's thread descriptor is smaller.
    const AFTER_POINTER: usize = PAGE;
    const HEAP_BYTES_MAX: usize = 1 << 30;
    // SAFETY: sbrk(0) only asks where the break is.
    let end = (unsafe { libc::sbrk(0) } as usize).next_multiple_of(PAGE);
    let start = (thread_pointer() + AFTER_POINTER).next_multiple_of(PAGE);
    // Elsewhere it is when the C library is a shared one.
    (start < end && end - start < HEAP_BYTES_MAX).then_some((start, end))
}

/// A part that is not mapped (ENOMEM) has nothing to copy.
#[allow(unsafe_code)]
fn advise((start, end): (usize, usize), advice: libc::c_int) -> bool {
    // SAFETY: the advice changes nothing for this process; a child that lacks the memory does not touch it.
    let done = unsafe { libc::madvise(start as *mut libc::c_void, end - start, advice) };
    done == 0 || Errno::last() == Errno::ENOMEM
}

/// False also where it is not known.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code)]
fn is_single_threaded() -> bool {
    unsafe extern "C" {
        static __libc_single_threaded: libc::c_char;
    }
    // SAFETY: the C library writes it only when this very thread makes the second one.
    unsafe { __libc_single_threaded != 0 }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn is_single_threaded() -> bool {
    false
}

pub(super) const PAGE: usize = 4096;
/// Within the gap of at least 128 MiB that the kernel keeps free below a stack.
const STACK_GROWTH_MAX: usize = 32 << 20;

/// The kernel writes to the C library's restartable-sequence area at every preemption, and kills who lacks it: that
/// area lies in thread-local storage, which is in the heap of a static program.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code)]
fn forget_rseq() -> Result<()> {
    unsafe extern "C" {
        static __rseq_offset: isize;
        static __rseq_size: libc::c_uint;
    }
    const RSEQ_FLAG_UNREGISTER: libc::c_int = 1;
    #[cfg(target_arch = "x86_64")]
    const RSEQ_SIG: u32 = 0x5305_3053;
    #[cfg(not(target_arch = "x86_64"))]
    const RSEQ_SIG: u32 = 0xd428_bc00;
    // SAFETY: the C library sets it before main and never again.
    let registered = unsafe { __rseq_size };
    if registered == 0 {
        return Ok(());
    }
    // SAFETY: as above.
    let offset = unsafe { __rseq_offset };
    let area = thread_pointer().wrapping_add_signed(offset);
    // The size that was registered: glibc rounds what it needs up to the structure's first size, 32, and its alignment.
    let sizes = [registered.max(32).next_multiple_of(32), registered.max(32), 32];
    let mut last = Ok(());
    for size in sizes {
        // SAFETY: the kernel only stops to write there.
        let done = unsafe { libc::syscall(libc::SYS_rseq, area, size, RSEQ_FLAG_UNREGISTER, RSEQ_SIG) };
        last = check(done, || format!("rseq({area:#x}, {size}, RSEQ_FLAG_UNREGISTER)")).map(drop);
        if last.is_ok() {
            break;
        }
    }
    last
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn forget_rseq() -> Result<()> {
    Ok(())
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
fn thread_pointer() -> usize {
    let pointer: usize;
    // SAFETY: the ABI has the thread pointer at the start of the block that fs points to.
    unsafe { std::arch::asm!("mov {}, fs:0", out(reg) pointer, options(nostack, preserves_flags, readonly)) };
    pointer
}

#[cfg(target_arch = "aarch64")]
#[allow(unsafe_code)]
fn thread_pointer() -> usize {
    let pointer: usize;
    // SAFETY: it only reads a register.
    unsafe { std::arch::asm!("mrs {}, tpidr_el0", out(reg) pointer, options(nostack, preserves_flags, nomem)) };
    pointer
}
