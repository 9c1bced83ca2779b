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
    fn length(&self) -> usize {
        self.frame_length()
    }

    #[inline(always)]
    fn reshape(&mut self, front: usize, length: usize) -> Option<&mut [u8]> {
        Mbuf::reshape(self, front, length)
    }

    #[inline(always)]
    fn strip(&mut self, count: usize) -> bool {
        Mbuf::strip(self, count)
    }

    #[inline(always)]
    fn prefetch(&self) {
        Mbuf::prefetch(self);
    }
}
