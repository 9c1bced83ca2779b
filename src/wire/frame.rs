//! The buffer that a frame lives in: an mbuf on an lcore, plain memory in replay and in tests.

/// One received frame, Ethernet header first, with headroom in front of it.
///
/// Only one contiguous piece of it is seen. What a device delivers in several (a jumbo frame) claims more bytes than that
/// piece holds, and so is malformed to a service: never half-read.
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
    /// Hints that the first bytes will be read soon.
    fn prefetch(&self) {}
}
