//! A pool of mbufs.

use std::ffi::CString;
use std::ptr::NonNull;

use dpdk_sys as sys;

use crate::batch::{BURST, Batch};
use crate::eal::Eal;
use crate::errno::{self, Errno};
use crate::mbuf::Mbuf;

/// A pool of mbufs of one size. It lives until the process ends, since its mbufs may be anywhere (in a device's queue, in
/// a ring) and DPDK cannot tell when the last came back; so a handle may be copied freely.
///
/// Usable from any thread; lcores and [registered](crate::Registered) threads have a cache of their own in it, others
/// take a slower way.
#[derive(Debug, Clone, Copy)]
pub struct Mempool {
    pool: NonNull<sys::rte_mempool>,
    data_room: u16,
}

// SAFETY: DPDK's mempools are multi-producer and multi-consumer (no single-user flag is set below), their per-lcore
// caches are found by a thread-local lcore id.
unsafe impl Send for Mempool {}
// SAFETY: as above; every method may run on several threads at once.
unsafe impl Sync for Mempool {}

/// Why there is no pool.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("mempool {name:?} of {mbufs} mbufs with {data_room} bytes each: {reason}")]
pub struct MempoolError {
    /// The pool's name.
    pub name: String,
    /// How many mbufs it was to have.
    pub mbufs: u32,
    /// Bytes of data in each.
    pub data_room: u16,
    /// Why not.
    pub reason: Errno,
}

impl Mempool {
    /// Bytes in front of a received frame, within the data room.
    pub const HEADROOM: usize = sys::RTE_PKTMBUF_HEADROOM as usize;

    /// Makes a pool of `mbufs` (best 2^n - 1) with a data room of `data_room` bytes each, headroom included. `name` is
    /// unique in the process, at most 25 bytes.
    pub fn new(_: Eal, name: &str, mbufs: u32, data_room: u16) -> Result<Self, MempoolError> {
        let error = |reason| MempoolError { name: name.to_owned(), mbufs, data_room, reason };
        let c_name = CString::new(name).map_err(|_| error(Errno::Invalid))?;
        // DPDK's limits: 512, and two thirds of the pool. What lies in one lcore's cache another cannot have.
        let cache = (mbufs / 8).min(256);
        const ANY_SOCKET: i32 = -1;
        // SAFETY: EAL runs; the name is a C string that DPDK copies.
        let pool = unsafe { sys::rte_pktmbuf_pool_create(c_name.as_ptr(), mbufs, cache, 0, data_room, ANY_SOCKET) };
        NonNull::new(pool).map(|pool| Self { pool, data_room }).ok_or_else(|| error(errno::last()))
    }

    /// An empty mbuf, or `None` where the pool is.
    pub fn alloc(self) -> Option<Mbuf> {
        let mut mbuf = std::ptr::null_mut();
        // SAFETY: the pool lives for ever; there is room for one pointer.
        let code = unsafe { sys::shim_mbuf_alloc_bulk(self.pool.as_ptr(), &raw mut mbuf, 1) };
        // SAFETY: with code 0 it is a fresh mbuf, ours alone.
        (code == 0).then(|| unsafe { Mbuf::from_raw(NonNull::new_unchecked(mbuf)) })
    }

    /// Fills what is left of `batch` with empty mbufs, all or none; whether it did.
    pub fn fill(self, batch: &mut Batch) -> bool {
        let spare = BURST - batch.len();
        // SAFETY: the pool lives for ever; there is room for `spare` pointers after the batch's.
        if unsafe { sys::shim_mbuf_alloc_bulk(self.pool.as_ptr(), batch.spare_ptr(), spare as u32) } != 0 {
            return false;
        }
        // SAFETY: the call wrote `spare` fresh mbufs there, ours alone.
        unsafe { batch.set_len(BURST) };
        true
    }

    /// Mbufs that are free, caches included. Slow, and only exact while nobody allocates.
    pub fn available(self) -> u32 {
        // SAFETY: the pool lives for ever.
        unsafe { sys::rte_mempool_avail_count(self.pool.as_ptr()) }
    }

    /// Mbufs that are out: in a queue, a ring, a batch. Slow, and only exact while nobody allocates.
    pub fn in_use(self) -> u32 {
        // SAFETY: the pool lives for ever.
        unsafe { sys::rte_mempool_in_use_count(self.pool.as_ptr()) }
    }

    /// Bytes of data that one mbuf holds, headroom included.
    pub fn data_room(self) -> u16 {
        self.data_room
    }

    pub(crate) fn as_ptr(self) -> *mut sys::rte_mempool {
        self.pool.as_ptr()
    }
}
