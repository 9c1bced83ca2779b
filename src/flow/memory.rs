//! The memory that flows are remembered in: pages of its own, huge ones where there are any, since every packet goes to another place.

#![allow(unsafe_code, reason = "a mapping is bytes, and a table is of words")]

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Deref;
use std::sync::atomic::AtomicU64;

use memmap2::{Advice, MmapOptions, MmapRaw};

use super::table::Bucket;

/// Zeros, or what was there before; a table's buckets, which any thread may read and one changes.
pub struct Memory {
    map: MmapRaw,
    /// Without the last one, whose first word is [`Memory::word`].
    buckets: usize,
}

impl Memory {
    /// Bytes of a bucket.
    pub const BUCKET: usize = size_of::<Bucket>();

    /// Bytes of so many buckets and the word.
    pub const fn bytes(buckets: usize) -> usize {
        (buckets + 1) * Self::BUCKET
    }

    /// Of a file, which outlives the process; what is in it are buckets, or zeros. Longer than so many buckets at least, and changed by
    /// nobody else as long as this lives: others would mix flows up, but harm no memory.
    ///
    /// All pages are touched, so that they come now and from the NUMA node of whoever calls this.
    pub fn of_file(file: &File, buckets: usize) -> io::Result<Self> {
        if file.metadata()?.len() < Self::bytes(buckets) as u64 {
            return Err(io::Error::other("the file is shorter than the memory"));
        }
        let map = MmapOptions::new().map_raw(file)?;
        let _ = map.advise(Advice::HugePage);
        let memory = Self { map, buckets };
        memory.all().iter().step_by(4096 / Self::BUCKET).for_each(Bucket::touch);
        Ok(memory)
    }

    /// Of this process alone. All free.
    ///
    /// Pages come when they are first touched, from the NUMA node of whoever touches them.
    pub fn private(buckets: usize) -> io::Result<Self> {
        let mut options = MmapOptions::new();
        options.len(Self::bytes(buckets));
        let map = MmapRaw::from(options.map_anon()?);
        // As many systems have them for whoever asks. Without, all goes on, only slower.
        let _ = map.advise(Advice::HugePage);
        Ok(Self { map, buckets })
    }
}

impl Memory {
    /// This bucket; where there is none one without entries.
    #[inline(always)]
    pub fn any(&self, bucket: u32) -> &Bucket {
        let all = self.all();
        all.get(bucket as usize).unwrap_or(&all[self.buckets])
    }

    /// Hints that this bucket will be read soon, if there is one.
    #[inline(always)]
    pub fn prefetch(&self, bucket: u32) {
        prefetch(self.map.as_ptr().cast::<Bucket>().wrapping_add(bucket as usize));
    }

    /// What the table notes of itself; as no entry that is taken.
    pub fn word(&self) -> &AtomicU64 {
        self.all()[self.buckets].word()
    }

    #[inline(always)]
    fn all(&self) -> &[Bucket] {
        // SAFETY: the mapping is of at least so many buckets (both constructors see to it), begins at a page and so at an address that a
        // bucket may have, and lives as long as `self`, whose borrow the slice has. A bucket is nothing but atomic words, which have no
        // invalid values and may be changed by whoever shares them; nothing makes a `&mut` of any byte of the mapping.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().cast::<Bucket>(), self.buckets + 1) }
    }
}

/// Hints that this will be read soon.
#[inline(always)]
pub fn prefetch<T>(what: *const T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch reads nothing that the program sees and never faults, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(what.cast()) };
    }
}

impl Deref for Memory {
    type Target = [Bucket];

    #[inline(always)]
    fn deref(&self) -> &[Bucket] {
        &self.all()[..self.buckets]
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").field("buckets", &self.buckets).finish_non_exhaustive()
    }
}
