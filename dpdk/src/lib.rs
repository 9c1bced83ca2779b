//! DPDK, safe and thin: what a polling dataplane needs of it, and nothing more.
//!
//! ```text
//! Eal::init ── proof that DPDK runs; everything below asks for it
//!  ├─ Mempool ── gives Mbufs: owned frames, freed on drop
//!  ├─ Port ── start ──> one Queue an lcore: receive into and send from a Batch of Mbufs
//!  ├─ ring::single, ring::shared ── Mbufs to another thread, bounded
//!  └─ Lcore ── a pinned thread: launch a closure on it, join it
//! ```
//!
//! **Cost.** C is called once a burst (a [`Batch`]), never once a frame; an [`Mbuf`]'s fields are read and written in
//! Rust, and a test holds their offsets to what the C compiler says. **Ownership.** An [`Mbuf`] has one owner, always:
//! whatever is dropped goes back to its pool. No raw pointer leaves this crate. **Threads.** Each type says who may use it
//! from where; the compiler holds to it.

#![warn(missing_docs)]

mod batch;
pub mod cycles;
pub mod eal;
mod errno;
mod lcore;
mod mbuf;
mod mempool;
pub mod port;
pub mod ring;

pub use batch::{BURST, Batch};
pub use eal::Eal;
pub use errno::Errno;
pub use lcore::{Lcore, Registered, Running};
pub use mbuf::Mbuf;
pub use mempool::{Mempool, MempoolError};
pub use port::{Port, Queue};
