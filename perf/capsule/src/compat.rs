//! What capsule asks of DPDK 19.11, for it to run on 22.11.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::process::abort;

unsafe extern "C" {
    fn __real_rte_eal_init(argc: c_int, argv: *mut *mut c_char) -> c_int;
    fn rte_thread_register() -> c_int;
}

/// capsule's call, by the linker's `--wrap`: `--master-lcore` has been `--main-lcore` since 20.11, and 21.11 no longer knows the old name.
///
/// # Safety
///
/// As for rte_eal_init: `argv` has `argc` strings.
// SAFETY: nobody else defines this name, which the linker makes of calls of `rte_eal_init`; the signature is DPDK's.
#[unsafe(no_mangle)]
unsafe extern "C" fn __wrap_rte_eal_init(argc: c_int, argv: *mut *mut c_char) -> c_int {
    for at in 0..argc as usize {
        // SAFETY: by contract. EAL only reads the strings, so that it may have one of ours, which lives for ever.
        unsafe {
            let argument = argv.add(at);
            if CStr::from_ptr(*argument) == c"--master-lcore" {
                *argument = c"--main-lcore".as_ptr().cast_mut();
            }
        }
    }
    // SAFETY: by contract.
    unsafe { __real_rte_eal_init(argc, argv) }
}

/// KNI, which Debian's 22.11 does not have: called for ports with `kni = true` alone, and main refuses those.
macro_rules! absent {
    ($($name:ident)*) => { $(
        // SAFETY: nobody else defines these names here. Whatever it is called with, it does not return.
        #[unsafe(no_mangle)]
        extern "C" fn $name() -> *const c_void { abort() }
    )* };
}
absent! { rte_kni_init rte_kni_close rte_kni_alloc rte_kni_release rte_kni_handle_request rte_kni_get_name rte_kni_rx_burst rte_kni_tx_burst }

/// Makes the calling thread an lcore of EAL's. capsule's threads are none, and only lcores have a mempool's cache: all others take each
/// mbuf from the ring that all share, and put it back there, one by one. (DPDK 19.11 had no such call.)
pub fn register_thread() {
    // SAFETY: EAL is initialized: this runs on a thread that capsule's runtime starts after that.
    assert_eq!(unsafe { rte_thread_register() }, 0, "EAL has no lcore left for this thread");
}
