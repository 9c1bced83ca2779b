//! An mbuf as the pipeline sees it.

use dpdk::{Mbuf, Mempool};

use crate::wire::Frame;

impl Frame for Mbuf {
    const HEADROOM: usize = Mempool::HEADROOM;

    #[inline(always)]
    fn bytes(&self) -> &[u8] {
        Mbuf::bytes(self)
    }

    #[inline(always)]
    fn bytes_mut(&mut self) -> &mut [u8] {
        Mbuf::bytes_mut(self)
    }

    #[inline(always)]
    fn prepend(&mut self, count: usize) -> Option<&mut [u8]> {
        Mbuf::prepend(self, count)
    }

    /// A chain is never cut: the pipeline drops or punts what is not contiguous.
    #[inline(always)]
    fn truncate(&mut self, length: usize) {
        Mbuf::truncate(self, length);
    }

    #[inline(always)]
    fn prefetch(&self) {
        Mbuf::prefetch(self);
    }
}
