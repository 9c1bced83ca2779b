//! Up to a burst of mbufs, to be received, sent, queued or freed by one call.

use std::mem::MaybeUninit;
use std::ops::{Deref, DerefMut};
use std::ptr;

use dpdk_sys as sys;

use crate::mbuf::Mbuf;

/// Frames that one call moves at most.
pub const BURST: usize = 32;

/// Up to [`BURST`] owned mbufs in order, in place: no allocation. Whatever is in it when it is dropped or cleared goes back
/// to the pool in one call. Reads as a slice of [`Mbuf`].
///
/// Send like the mbufs in it.
pub struct Batch {
    /// The first `len` are initialised.
    mbufs: [MaybeUninit<Mbuf>; BURST],
    len: usize,
}

impl Batch {
    /// An empty one.
    pub const fn new() -> Self {
        Self { mbufs: [const { MaybeUninit::uninit() }; BURST], len: 0 }
    }

    /// Adds one at the end; gives it back where the batch is full.
    #[inline(always)]
    pub fn push(&mut self, mbuf: Mbuf) -> Result<(), Mbuf> {
        match self.mbufs.get_mut(self.len) {
            Some(slot) => {
                slot.write(mbuf);
                self.len += 1;
                Ok(())
            }
            None => Err(mbuf),
        }
    }

    /// Takes the last one.
    pub fn pop(&mut self) -> Option<Mbuf> {
        self.len = self.len.checked_sub(1)?;
        // SAFETY: it was initialised, and is beyond `len` from now on, so nobody reads it again.
        Some(unsafe { self.mbufs[self.len].assume_init_read() })
    }

    /// Moves every mbuf, in order, into the batch of `to` that `choose` names by its index; this one is empty after. One for
    /// which `choose` names no batch, or a full one, goes back to its pool.
    #[inline(always)]
    pub fn deal(&mut self, to: &mut [Batch], mut choose: impl FnMut(usize) -> usize) {
        // Empty before the first move, so that no mbuf has two owners should `choose` panic.
        let len = std::mem::take(&mut self.len);
        for index in 0..len {
            // SAFETY: index < the old len, so it is initialised; read once, and beyond the new `len`.
            let mbuf = unsafe { self.mbufs[index].assume_init_read() };
            if let Some(batch) = to.get_mut(choose(index)) {
                drop(batch.push(mbuf));
            }
        }
    }

    /// Gives all of it back to the pool, in one call.
    #[inline]
    pub fn clear(&mut self) {
        if self.len > 0 {
            self.free_from(0);
        }
    }

    /// Frees the mbufs from `first` on, and keeps those before.
    fn free_from(&mut self, first: usize) {
        let count = (self.len - first) as u32;
        self.len = first;
        // SAFETY: `count` initialised mbufs begin at `first`; they are ours, and beyond `len` from now on.
        unsafe { sys::rte_pktmbuf_free_bulk(self.raw().add(first), count) }
    }

    /// Takes the first `taken` out, which `take` has given new owners, frees the rest in one call, and says how many these
    /// were. `take` gets the mbufs and their number, and gives how many it took from the front.
    ///
    /// # Safety
    /// `take` gives at most the number that it got, and whatever it took has another owner when it returns.
    #[inline(always)]
    pub(crate) unsafe fn hand_over(&mut self, take: impl FnOnce(*mut *mut sys::rte_mbuf, usize) -> usize) -> usize {
        let len = self.len;
        if len == 0 {
            return 0;
        }
        let taken = take(self.raw(), len);
        debug_assert!(taken <= len);
        if taken < len {
            self.free_from(taken);
        }
        self.len = 0;
        len - taken
    }

    /// The pointers, as C has them.
    #[inline(always)]
    fn raw(&mut self) -> *mut *mut sys::rte_mbuf {
        // Mbuf is transparent over a non-null pointer, MaybeUninit over Mbuf.
        self.mbufs.as_mut_ptr().cast()
    }

    /// Where [`BURST`] - len more pointers have room.
    #[inline(always)]
    pub(crate) fn spare_ptr(&mut self) -> *mut *mut sys::rte_mbuf {
        // SAFETY: len ≤ BURST.
        unsafe { self.raw().add(self.len) }
    }

    /// # Safety
    /// The first `len` slots hold mbufs that nobody else owns; `len` ≤ BURST.
    #[inline(always)]
    pub(crate) unsafe fn set_len(&mut self, len: usize) {
        debug_assert!(len <= BURST);
        self.len = len;
    }
}

impl Default for Batch {
    fn default() -> Self {
        Self::new()
    }
}

impl Deref for Batch {
    type Target = [Mbuf];

    #[inline(always)]
    fn deref(&self) -> &[Mbuf] {
        // SAFETY: the first `len` are initialised, and MaybeUninit<Mbuf> is laid out as Mbuf.
        unsafe { &*ptr::slice_from_raw_parts(self.mbufs.as_ptr().cast(), self.len) }
    }
}

impl DerefMut for Batch {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [Mbuf] {
        // SAFETY: as in `deref`, borrowed exclusively.
        unsafe { &mut *ptr::slice_from_raw_parts_mut(self.mbufs.as_mut_ptr().cast(), self.len) }
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.clear();
    }
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
