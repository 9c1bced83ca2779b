//! The reasons that DPDK's functions give when they fail.

use std::ffi::c_int;
use std::fmt;

macro_rules! errnos {
    ($($variant:ident $code:literal $text:literal)*) => {
        /// Why DPDK refused, decoded from a function's negative return or from `rte_errno`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Errno {
            $(#[doc = $text] $variant,)*
            /// Any other code (Linux's `errno(3)`).
            Other(i32),
        }

        impl Errno {
            /// From a code of either sign.
            pub(crate) fn new(code: c_int) -> Self {
                match code.abs() { $($code => Self::$variant,)* other => Self::Other(other) }
            }
        }

        impl fmt::Display for Errno {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Self::$variant => f.write_str($text),)*
                    Self::Other(code) => write!(f, "{}", std::io::Error::from_raw_os_error(*code)),
                }
            }
        }
    };
}

errnos! {
    NotPermitted 1 "not permitted: run as root, or with CAP_NET_ADMIN, CAP_NET_RAW and CAP_IPC_LOCK"
    NotFound 2 "no such device or entry"
    NoDevice 6 "no such device or address"
    Again 11 "a resource is busy for now"
    OutOfMemory 12 "out of memory: fewer mbufs, more hugepages, or a larger -m"
    AccessDenied 13 "access denied: run as root"
    Busy 16 "busy"
    Exists 17 "exists already"
    Missing 19 "no such device"
    Invalid 22 "an argument is invalid"
    NoSpace 28 "no room"
    NotSupported 95 "the driver does not support it"
    Already 114 "done already"
}

impl std::error::Error for Errno {}

/// The result of a C function that gives a negative `errno` where it fails.
pub(crate) fn check(code: c_int) -> Result<c_int, Errno> {
    if code < 0 { Err(Errno::new(code)) } else { Ok(code) }
}

/// What `rte_errno` says on this thread.
pub(crate) fn last() -> Errno {
    // SAFETY: reads a thread-local of DPDK.
    Errno::new(unsafe { dpdk_sys::shim_errno() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_either_sign_are_decoded() {
        assert_eq!((check(3), check(-95), Errno::new(95)), (Ok(3), Err(Errno::NotSupported), Errno::NotSupported));
        assert_eq!(Errno::new(-5).to_string(), std::io::Error::from_raw_os_error(5).to_string());
    }
}
