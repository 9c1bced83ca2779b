//! The time stamp counter, and hints to the core.

/// Cycles of the time stamp counter, the same on all cores (`constant_tsc`); about 20 cycles to read.
#[inline(always)]
pub fn tsc() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 core has the instruction.
    unsafe {
        std::arch::x86_64::_rdtsc()
    }
    #[cfg(not(target_arch = "x86_64"))]
    // SAFETY: reads a counter.
    unsafe {
        dpdk_sys::shim_tsc()
    }
}

/// Cycles of [`tsc`] in a second, as EAL determined them when it started.
pub fn tsc_hz(_: crate::Eal) -> u64 {
    // SAFETY: reads a number that EAL set once, before there was an `Eal`.
    unsafe { dpdk_sys::rte_get_tsc_hz() }
}

/// Tells the core that this is a waiting loop: saves power and leaves more to a sibling thread (about 140 cycles on
/// Intel since Skylake, 40 to 65 on AMD Zen).
#[inline(always)]
pub fn pause() {
    std::hint::spin_loop();
}

/// Bytes of a cache line.
pub const LINE: usize = 64;

/// Asks for the cache line at the start of `bytes`, to be read soon. An empty slice is harmless.
#[inline(always)]
pub fn prefetch(bytes: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch is a hint; it reads nothing and faults on no address.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(bytes.cast())
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = bytes;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_goes_on() {
        let before = tsc();
        pause();
        prefetch(std::ptr::null());
        assert!(tsc() > before);
    }
}
