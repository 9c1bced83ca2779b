//! A frame in plain memory.

use crate::wire::Frame;

/// A frame with headroom, reused from burst to burst.
#[derive(Debug, Clone, Default)]
pub struct Buffer {
    memory: Vec<u8>,
    start: usize,
}

impl Buffer {
    /// Of a frame's bytes.
    pub fn new(frame: &[u8]) -> Self {
        let mut buffer = Self::default();
        buffer.fill(frame);
        buffer
    }

    /// Takes a frame's bytes in place of what was there.
    #[inline]
    pub fn fill(&mut self, frame: &[u8]) {
        self.start = Self::HEADROOM;
        self.memory.resize(Self::HEADROOM, 0);
        self.memory.extend_from_slice(frame);
    }
}

impl Frame for Buffer {
    #[inline]
    fn bytes(&self) -> &[u8] {
        &self.memory[self.start..]
    }

    #[inline]
    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..]
    }

    #[inline]
    fn reshape(&mut self, front: usize, length: usize) -> Option<&mut [u8]> {
        if front > self.start || length > self.bytes().len() {
            return None;
        }
        self.memory.truncate(self.start + length);
        self.start -= front;
        self.memory.get_mut(self.start..)
    }

    #[inline]
    fn strip(&mut self, count: usize) -> bool {
        let has = count <= self.bytes().len();
        if has {
            self.start += count;
        }
        has
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_grows_at_the_front_and_shrinks_at_the_end() {
        let mut buffer = Buffer::new(b"frame");
        assert!(buffer.reshape(0, 6).is_none() && buffer.reshape(Buffer::HEADROOM + 1, 3).is_none());
        assert_eq!(buffer.bytes(), b"frame");
        buffer.reshape(2, 3).unwrap()[..2].copy_from_slice(b"a ");
        assert_eq!(buffer.bytes(), b"a fra");
        assert!(buffer.reshape(Buffer::HEADROOM, 5).is_none());
        buffer.fill(b"");
        assert_eq!(buffer.bytes(), b"");
    }
}
