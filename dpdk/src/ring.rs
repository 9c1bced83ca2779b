//! Bounded rings of mbufs between threads.
//!
//! What goes in is an owned [`Mbuf`](crate::Mbuf), what comes out is too; what is still in it when both ends are gone
//! goes back to its pool. Neither end waits.

use std::ffi::CString;
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dpdk_sys as sys;

use crate::batch::{BURST, Batch};
use crate::eal::Eal;
use crate::errno::{self, Errno};
use crate::mbuf::Mbuf;

/// Why there is no ring.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a ring of {capacity} mbufs: {reason}")]
pub struct RingError {
    /// How many it was to hold.
    pub capacity: u32,
    /// Why not.
    pub reason: Errno,
}

/// A ring with one producer: no locked instruction on either end.
pub fn single(eal: Eal, capacity: u32) -> Result<(Producer, Consumer), RingError> {
    let ring = Ring::new(eal, capacity, sys::RING_F_SP_ENQ | sys::RING_F_SC_DEQ)?;
    Ok((Producer(ring.clone(), PhantomData), Consumer(ring, PhantomData)))
}

/// A ring with any number of producers: the handle can be cloned and shared. A producer that the kernel suspends in the
/// middle of a push makes the others wait.
pub fn shared(eal: Eal, capacity: u32) -> Result<(SharedProducer, Consumer), RingError> {
    let ring = Ring::new(eal, capacity, sys::RING_F_SC_DEQ)?;
    Ok((SharedProducer(ring.clone()), Consumer(ring, PhantomData)))
}

/// The only way into a ring of [`single`]. Send, but not Sync nor Clone: one thread at a time.
#[derive(Debug)]
pub struct Producer(Arc<Ring>, PhantomData<std::cell::Cell<()>>);

/// A way into a ring of [`shared`]. Send, Sync and Clone.
#[derive(Debug, Clone)]
pub struct SharedProducer(Arc<Ring>);

/// The only way out of a ring. Send, but not Sync nor Clone: one thread at a time.
#[derive(Debug)]
pub struct Consumer(Arc<Ring>, PhantomData<std::cell::Cell<()>>);

impl Producer {
    /// Moves the whole batch in, and frees what finds no room; how many these were.
    #[inline]
    pub fn push(&mut self, batch: &mut Batch) -> usize {
        // SAFETY: the only producer of a single-producer ring, borrowed exclusively.
        unsafe { self.0.push(batch) }
    }

    /// Whether the other end is gone.
    pub fn is_abandoned(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }
}

impl SharedProducer {
    /// Moves the whole batch in, and frees what finds no room; how many these were.
    #[inline]
    pub fn push(&self, batch: &mut Batch) -> usize {
        // SAFETY: the ring was made for many producers.
        unsafe { self.0.push(batch) }
    }
}

impl Consumer {
    /// Fills the rest of `batch` with what is there; how many came.
    #[inline]
    pub fn pop(&mut self, batch: &mut Batch) -> usize {
        // SAFETY: the only consumer, borrowed exclusively.
        unsafe { self.0.pop(batch) }
    }

    /// Mbufs in the ring, at some moment during the call.
    #[inline]
    pub fn len(&self) -> usize {
        // SAFETY: reads two indices.
        unsafe { sys::shim_ring_count(self.0.0.as_ptr()) as usize }
    }

    /// Whether [`Consumer::len`] is 0.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[derive(Debug)]
struct Ring(NonNull<sys::rte_ring>);

// SAFETY: an rte_ring is made for use between threads; who may push and pop is up to the handles. Mbufs are Send.
unsafe impl Send for Ring {}
// SAFETY: as above.
unsafe impl Sync for Ring {}

impl Ring {
    fn new(_: Eal, capacity: u32, flags: u32) -> Result<Arc<Self>, RingError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        // DPDK finds rings by name; nobody looks for ours.
        let name = CString::new(format!("ring{}", NEXT.fetch_add(1, Ordering::Relaxed))).expect("no zero byte");
        const ANY_SOCKET: i32 = -1;
        // SAFETY: EAL runs; the name is a C string that DPDK copies.
        let ring = unsafe { sys::rte_ring_create(name.as_ptr(), capacity, ANY_SOCKET, flags | sys::RING_F_EXACT_SZ) };
        NonNull::new(ring).map(|ring| Arc::new(Self(ring))).ok_or_else(|| RingError { capacity, reason: errno::last() })
    }

    /// # Safety
    /// No other thread pushes meanwhile, unless the ring is for many producers.
    #[inline(always)]
    unsafe fn push(&self, batch: &mut Batch) -> usize {
        // SAFETY: the ring takes `n` ≤ count pointers from the front and gives them to its consumer. The caller keeps the
        // rule about threads.
        unsafe { batch.hand_over(|mbufs, count| sys::shim_ring_enqueue(self.0.as_ptr(), mbufs, count as u32) as usize) }
    }

    /// # Safety
    /// No other thread pops meanwhile.
    #[inline(always)]
    unsafe fn pop(&self, batch: &mut Batch) -> usize {
        let held = batch.len();
        // SAFETY: there is room for BURST - held pointers; what comes out went in as an owned mbuf. The caller keeps the
        // rule about threads.
        unsafe {
            let count = sys::shim_ring_dequeue(self.0.as_ptr(), batch.spare_ptr(), (BURST - held) as u32) as usize;
            batch.set_len(held + count);
            count
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        let mut rest = Batch::new();
        // SAFETY: the last handle is gone, so nobody else pops.
        while unsafe { self.pop(&mut rest) } > 0 {
            rest.clear();
        }
        // SAFETY: nobody has it any more.
        unsafe { sys::rte_ring_free(self.0.as_ptr()) }
    }
}

/// One mbuf, pushed without a batch.
impl From<Mbuf> for Batch {
    fn from(mbuf: Mbuf) -> Self {
        let mut batch = Self::new();
        let Ok(()) = batch.push(mbuf) else { unreachable!("an empty batch has room") };
        batch
    }
}
