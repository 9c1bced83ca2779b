//! The heap of the control side. A whole set takes a hundred megabytes of pieces that were needed to read it, or were the old set.

#![allow(unsafe_code, reason = "nothing else asks the C library's allocator for it")]

/// Has all threads allocate from one arena, for which nobody waits: lcores never allocate. With one each, what a thread needed once stays its
/// own. Call it before there are threads.
pub fn share() {
    // SAFETY: `mallopt` takes two numbers, and only has `malloc` go about its work otherwise (mallopt(3)).
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Gives the system back the pages that nothing is in.
pub fn trim() {
    // SAFETY: `malloc_trim` takes no pointer, may be called by any thread at any time, and gives back only pages without anything that is
    // allocated (malloc_trim(3)).
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}
