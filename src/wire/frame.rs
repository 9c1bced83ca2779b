//! The buffer that a frame lives in: an mbuf on an lcore, plain memory in replay and in tests.

/// One received frame, Ethernet header first, with headroom in front of it.
///
/// Only one contiguous piece of it is seen, and what a device delivers in several (a jumbo frame) cannot be reshaped. So it
/// is malformed to a service, even where the packet ends within the first piece: never half-read, never sent with a tail.
pub trait Frame {
    /// Bytes that every implementation guarantees in front of a received frame.
    const HEADROOM: usize = 128;

    /// The frame's bytes from the Ethernet header on (first segment only).
    fn bytes(&self) -> &[u8];
    fn bytes_mut(&mut self) -> &mut [u8];
    /// Bytes of all of it.
    fn length(&self) -> usize {
        self.bytes().len()
    }
    /// Keeps the first `length` bytes, makes the frame `front` bytes longer in front of them, and gives all of it; the new
    /// bytes are whatever lay there. `None`, and nothing changed, where the frame has not so many bytes in one piece, or
    /// not so much headroom.
    fn reshape(&mut self, front: usize, length: usize) -> Option<&mut [u8]>;
    /// Takes `count` bytes off the front; whether the frame has so many in one piece.
    fn strip(&mut self, count: usize) -> bool;
    /// Hints that the first bytes will be read soon.
    fn prefetch(&self) {}
}
