//! Hints to the processor and the kernel about memory, a comparison of sixteen bytes at once, and
//! code compiled for newer processors. They change speed, never results; the engine's only
//! `unsafe`.
#![allow(unsafe_code)]

/// Asks the processor to fetch the cache line of an item; a miss then overlaps with other work.
/// Nothing happens for one that is not there.
#[inline(always)]
pub(crate) fn prefetch<T>(items: &[T], index: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch has no effect but on caches, and cannot fault whatever the address is.
    unsafe {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(items.as_ptr().wrapping_add(index).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (items, index);
}

/// A vector with room for `capacity` items, for which the kernel is asked to use 2 MB pages: a
/// random look-up in a large table then costs one miss and not two. Pages are touched only as items
/// are written.
#[must_use]
pub(crate) fn reserve<T>(capacity: usize) -> Vec<T> {
    let vector: Vec<T> = Vec::with_capacity(capacity);
    #[cfg(target_os = "linux")]
    {
        const HUGE_PAGE: usize = 2 << 20;
        const MADV_HUGEPAGE: i32 = 14;
        unsafe extern "C" {
            fn madvise(address: *mut core::ffi::c_void, length: usize, advice: i32) -> i32;
        }
        let start = vector.as_ptr().addr().next_multiple_of(HUGE_PAGE);
        let end = (vector.as_ptr().addr() + capacity * size_of::<T>()) / HUGE_PAGE * HUGE_PAGE;
        if start < end {
            // SAFETY: the range lies inside the vector's own allocation, and MADV_HUGEPAGE does not
            // change what is stored there. A refusal (no such feature) is no error: the pages are
            // small then.
            unsafe {
                madvise(std::ptr::with_exposed_provenance_mut(start), end - start, MADV_HUGEPAGE)
            };
        }
    }
    vector
}

/// Marks the bytes that equal `wanted` by a bit each, the first by the lowest.
#[inline(always)]
pub(crate) fn mark_bytes(bytes: &[u8; 16], wanted: u8) -> u32 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 processor has SSE2, and the load, for which any alignment will do, is of
    // the sixteen bytes that are borrowed.
    unsafe {
        use core::arch::x86_64 as x86;
        let bytes = x86::_mm_loadu_si128(bytes.as_ptr().cast());
        let marks = x86::_mm_cmpeq_epi8(bytes, x86::_mm_set1_epi8(wanted.cast_signed()));
        x86::_mm_movemask_epi8(marks).cast_unsigned()
    }
    #[cfg(not(target_arch = "x86_64"))]
    mark_each_byte(bytes, wanted)
}

/// Work of which there are two compilations: for any processor, and for those of x86-64-v3.
pub(crate) trait Work {
    type Output;

    /// Does the work. To be inlined always, else there is only one compilation of it.
    fn run(self) -> Self::Output;
}

/// Does work as fast as this processor can. Cost: a load and a test; a call, so it pays for
/// batches.
#[inline(always)]
pub(crate) fn dispatch<W: Work>(work: W) -> W::Output {
    #[cfg(target_arch = "x86_64")]
    if has_v3() {
        // SAFETY: the processor has what the compilation uses.
        return unsafe { run_v3(work) };
    }
    work.run()
}

/// Whether the processor has the instructions that [`run_v3`] uses. The standard library asks it
/// once.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn has_v3() -> bool {
    #[cfg(test)]
    if tests::IS_PORTABLE.get() {
        return false;
    }
    is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("lzcnt")
        && is_x86_feature_detected!("movbe")
}

/// The part of x86-64-v3 without vectors: loads in network byte order, multiplications and shifts
/// that leave the flags alone.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "bmi1,bmi2,lzcnt,movbe")]
fn run_v3<W: Work>(work: W) -> W::Output {
    work.run()
}

/// [`mark_bytes`] for any processor.
#[cfg(any(test, not(target_arch = "x86_64")))]
fn mark_each_byte(bytes: &[u8; 16], wanted: u8) -> u32 {
    bytes.iter().rev().fold(0, |marks, &byte| marks << 1 | u32::from(byte == wanted))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::cell::Cell;

    use super::*;
    use proptest::prelude::*;

    thread_local! {
        /// Whether this thread takes the compilation for any processor.
        pub(crate) static IS_PORTABLE: Cell<bool> = const { Cell::new(false) };
    }

    proptest! {
        /// Few values, so that bytes are often equal; and all, so that none is special.
        #[test]
        fn bytes_are_marked_as_portable_code_marks_them(
            bytes in prop_oneof![prop::array::uniform16(0..4u8), any::<[u8; 16]>()],
            wanted in prop_oneof![0..4u8, any::<u8>()],
            place in 0..16usize,
        ) {
            let mut bytes = bytes;
            prop_assert_eq!(mark_bytes(&bytes, wanted), mark_each_byte(&bytes, wanted));
            bytes[place] = wanted;
            prop_assert_eq!(mark_bytes(&bytes, wanted), mark_each_byte(&bytes, wanted));
            prop_assert_ne!(mark_bytes(&bytes, wanted) & 1 << place, 0);
        }
    }
}
