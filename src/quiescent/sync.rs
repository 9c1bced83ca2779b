//! The standard library's types, or loom's under `--cfg penstock_loom`: the same code is shipped and modelled.

#[cfg(not(penstock_loom))]
pub use std::sync::Arc;
#[cfg(not(penstock_loom))]
pub(super) use std::{
    sync::atomic::{AtomicBool, Ordering},
    sync::{Mutex, MutexGuard, TryLockError},
    thread::yield_now,
};

#[cfg(penstock_loom)]
pub use loom::sync::Arc;
#[cfg(penstock_loom)]
pub(super) use {
    loom::sync::atomic::{AtomicBool, Ordering},
    loom::sync::{Mutex, MutexGuard},
    loom::thread::yield_now,
    std::sync::TryLockError,
};
