//! A frame in DPDK's memory, owned.

use std::ptr::NonNull;

use dpdk_sys as sys;

/// One frame, the only handle to it; goes back to its pool when dropped.
///
/// A frame longer than a pool's data room is a chain of segments; this shows the bytes of the first, and
/// [`Mbuf::is_contiguous`] tells whether there are more. Lengths and pointers are read from the mbuf in place, without a
/// call into C. Send, as pools take mbufs back from any thread; not Sync, as nobody shares one.
#[repr(transparent)]
pub struct Mbuf(NonNull<sys::rte_mbuf>);

// SAFETY: the handle is the only one to the mbuf and its data; a pool takes it back on any thread (see Mempool).
unsafe impl Send for Mbuf {}

impl Mbuf {
    /// Takes ownership.
    ///
    /// # Safety
    /// `mbuf` is a live mbuf (buffer, offset and lengths as DPDK keeps them), reference count 1, that nobody else uses.
    pub(crate) unsafe fn from_raw(mbuf: NonNull<sys::rte_mbuf>) -> Self {
        Self(mbuf)
    }

    #[inline(always)]
    fn header(&self) -> &sys::rte_mbuf {
        // SAFETY: a live mbuf, by `from_raw`; only this handle writes to it, and not while `&self` is borrowed.
        unsafe { self.0.as_ref() }
    }

    #[inline(always)]
    fn header_mut(&mut self) -> &mut sys::rte_mbuf {
        // SAFETY: a live mbuf, by `from_raw`, and this is its only handle, borrowed exclusively.
        unsafe { self.0.as_mut() }
    }

    #[inline(always)]
    fn start(&self) -> *mut u8 {
        // SAFETY: the offset lies within the buffer, as DPDK and the methods below keep it; so the sum is no null pointer,
        // which spares the compiler a test of each `Option<&mut [u8]>`.
        unsafe {
            let start = self.header().buf_addr.cast::<u8>().add(usize::from(self.header().data_off));
            std::hint::assert_unchecked(!start.is_null());
            start
        }
    }

    /// The first segment's bytes: those of the frame where it is contiguous.
    #[inline(always)]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: data_len bytes from data_off on lie within the buffer, as DPDK and the methods below keep it, are
        // initialised (the pool's memory is mapped zeroed) and belong to this handle alone (reference count 1).
        unsafe { std::slice::from_raw_parts(self.start(), usize::from(self.header().data_len)) }
    }

    /// As [`Mbuf::bytes`], to be written.
    #[inline(always)]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and the handle is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start(), usize::from(self.header().data_len)) }
    }

    /// Bytes of the frame over all segments.
    #[inline(always)]
    pub fn frame_length(&self) -> usize {
        self.header().pkt_len as usize
    }

    /// Whether the frame is one segment.
    #[inline(always)]
    pub fn is_contiguous(&self) -> bool {
        self.header().nb_segs == 1
    }

    /// Bytes that [`Mbuf::prepend`] can still take.
    #[inline(always)]
    pub fn headroom(&self) -> usize {
        usize::from(self.header().data_off)
    }

    /// Bytes that [`Mbuf::append`] can still take (0 in a chain).
    #[inline(always)]
    pub fn tailroom(&self) -> usize {
        let header = self.header();
        if header.nb_segs != 1 {
            return 0;
        }
        usize::from(header.buf_len).saturating_sub(usize::from(header.data_off) + usize::from(header.data_len))
    }

    /// Makes the frame `count` bytes longer at the front and gives the first segment; the new bytes are whatever lay
    /// there. `None`, and nothing changed, where the headroom does not suffice.
    #[inline(always)]
    pub fn prepend(&mut self, count: usize) -> Option<&mut [u8]> {
        let header = self.header_mut();
        if count > usize::from(header.data_off) {
            return None;
        }
        header.data_off -= count as u16;
        header.data_len += count as u16;
        header.pkt_len += count as u32;
        Some(self.bytes_mut())
    }

    /// Takes `count` bytes off the front; whether the first segment has so many (else nothing changed).
    #[inline(always)]
    pub fn strip(&mut self, count: usize) -> bool {
        let header = self.header_mut();
        if count > usize::from(header.data_len) {
            return false;
        }
        header.data_off += count as u16;
        header.data_len -= count as u16;
        header.pkt_len -= count as u32;
        true
    }

    /// Cuts the frame to `length` bytes; whether it did. A longer `length`, or a chain, changes nothing.
    #[inline(always)]
    pub fn truncate(&mut self, length: usize) -> bool {
        let header = self.header_mut();
        if length > usize::from(header.data_len) || header.nb_segs != 1 {
            return false;
        }
        header.data_len = length as u16;
        header.pkt_len = length as u32;
        true
    }

    /// [`Mbuf::truncate`] to `length` and [`Mbuf::prepend`] of `front` in one; gives all of the frame. `None`, and nothing
    /// changed, where either cannot be.
    #[inline(always)]
    pub fn reshape(&mut self, front: usize, length: usize) -> Option<&mut [u8]> {
        let header = self.header_mut();
        if front > usize::from(header.data_off) || length > usize::from(header.data_len) || header.nb_segs != 1 {
            return None;
        }
        // No overflow: both lie within the buffer, whose size is a u16.
        header.data_off -= front as u16;
        header.data_len = (front + length) as u16;
        header.pkt_len = (front + length) as u32;
        Some(self.bytes_mut())
    }

    /// Makes the frame `count` bytes longer at the end and gives these; they are whatever lay there. `None`, and nothing
    /// changed, where the tailroom does not suffice.
    #[inline]
    pub fn append(&mut self, count: usize) -> Option<&mut [u8]> {
        if count > self.tailroom() {
            return None;
        }
        let header = self.header_mut();
        let old = usize::from(header.data_len);
        header.data_len += count as u16;
        header.pkt_len += count as u32;
        Some(&mut self.bytes_mut()[old..])
    }

    /// Hints that the mbuf's first bytes will be read soon, and those in front of them be written. Reads the mbuf itself, whose line a driver
    /// has just written.
    #[inline(always)]
    pub fn prefetch(&self) {
        let start = self.start();
        crate::cycles::prefetch(start);
        crate::cycles::prefetch(start.wrapping_sub(crate::cycles::LINE));
    }
}

impl Drop for Mbuf {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the only handle to a live mbuf goes; DPDK takes all segments back.
        unsafe { sys::shim_mbuf_free(self.0.as_ptr()) }
    }
}

impl std::fmt::Debug for Mbuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let header = self.header();
        f.debug_struct("Mbuf")
            .field("frame_length", &header.pkt_len)
            .field("segments", &header.nb_segs)
            .field("bytes", &self.bytes())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::{offset_of, size_of};

    /// The C compiler's word against bindgen's (clang's) for every field that this file touches.
    #[test]
    fn the_layout_is_what_the_c_compiler_says() {
        // SAFETY: a constant array of the shim.
        let layout = unsafe { sys::shim_mbuf_layout };
        macro_rules! offsets {
            ($($field:ident)*) => { [size_of::<sys::rte_mbuf>(), $(offset_of!(sys::rte_mbuf, $field)),*] };
        }
        assert_eq!(layout, offsets!(buf_addr data_off refcnt nb_segs port pkt_len data_len buf_len next));
        assert_eq!(size_of::<Option<Mbuf>>(), size_of::<*const ()>());
    }
}
