//! The buffer that a frame lives in: an mbuf on an lcore, plain memory in replay and in tests.

/// One received frame, Ethernet header first, in a single contiguous segment with headroom before it.
///
/// `PREFIX` in the pipeline is at most [`Frame::HEADROOM`] bytes, so a frame that [`Frame::is_contiguous`] can always
/// take an outer header.
pub trait Frame {
    /// Bytes that every implementation guarantees in front of a received frame.
    const HEADROOM: usize = 128;

    /// The frame's bytes from the Ethernet header on (first segment only).
    fn bytes(&self) -> &[u8];
    fn bytes_mut(&mut self) -> &mut [u8];
    /// Makes the frame `count` bytes longer at the front; gives all of it. `None` where the headroom does not suffice.
    fn prepend(&mut self, count: usize) -> Option<&mut [u8]>;
    /// Cuts the frame to `length` bytes; a longer `length` changes nothing.
    fn truncate(&mut self, length: usize);
    /// Whether all the frame is in [`Frame::bytes`] (a jumbo frame may be a chain of mbufs).
    fn is_contiguous(&self) -> bool {
        true
    }
    /// Hints that the first bytes will be read soon.
    fn prefetch(&self) {}
}
