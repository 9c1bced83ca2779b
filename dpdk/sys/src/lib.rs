//! DPDK as C sees it: what bindgen makes of its headers, and a page of C (`shim.c`) for what they offer only inline.
//!
//! Everything here is unsafe and bare; the `dpdk` crate is how it is used. The libraries are linked dynamically, and
//! drivers are not linked at all: EAL loads those of its driver directory when it starts, as Debian installs them.

#![allow(non_camel_case_types, non_upper_case_globals, non_snake_case, dead_code)]
#![allow(clippy::all, clippy::undocumented_unsafe_blocks, unnecessary_transmutes)]

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
