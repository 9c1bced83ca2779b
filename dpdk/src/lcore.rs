//! Lcores: EAL's pinned threads, and other threads that DPDK knows.

use std::any::Any;
use std::ffi::{c_int, c_void};
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;

use dpdk_sys as sys;

use crate::eal::Eal;
use crate::errno::{self, Errno};

/// One of EAL's worker threads, pinned to its CPU, waiting for work. Free to copy and to use from any thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lcore(u32);

/// Work under way on an lcore. Dropping it lets the work go on; [`Running::join`] waits for its end.
#[derive(Debug)]
pub struct Running<T> {
    lcore: Lcore,
    outcome: mpsc::Receiver<Result<T, Box<dyn Any + Send>>>,
}

type Work = Box<dyn FnOnce() + Send>;

impl Lcore {
    pub(crate) fn new(_: Eal, id: u32) -> Self {
        Self(id)
    }

    /// DPDK's number of it; not the number of its CPU.
    pub fn id(self) -> u32 {
        self.0
    }

    /// Runs `work` on this lcore. [`Errno::Busy`] while other work runs there.
    pub fn launch<T: Send + 'static>(self, work: impl FnOnce() -> T + Send + 'static) -> Result<Running<T>, Errno> {
        unsafe extern "C" fn run(work: *mut c_void) -> c_int {
            // SAFETY: `launch` made it of a Box and left it to this call, which EAL makes once.
            let work = unsafe { Box::from_raw(work.cast::<Work>()) };
            work();
            0
        }
        let (send, outcome) = mpsc::sync_channel(1);
        // A panic must not unwind into EAL's C; the one who joins gets it.
        let work: Work = Box::new(move || drop(send.send(catch_unwind(AssertUnwindSafe(work)))));
        let work = Box::into_raw(Box::new(work));
        // SAFETY: `run` takes what `work` points to and owns it; it is Send, so another thread may.
        match errno::check(unsafe { sys::rte_eal_remote_launch(Some(run), work.cast(), self.0) }) {
            Ok(_) => Ok(Running { lcore: self, outcome }),
            Err(error) => {
                // SAFETY: EAL refused, so `run` never gets it.
                drop(unsafe { Box::from_raw(work) });
                Err(error)
            }
        }
    }
}

impl<T> Running<T> {
    /// Where it runs.
    pub fn lcore(&self) -> Lcore {
        self.lcore
    }

    /// Whether its end has come, so that [`Running::join`] would not wait.
    pub fn is_finished(&self) -> bool {
        // SAFETY: reads the state of an lcore that exists.
        unsafe { sys::rte_eal_get_lcore_state(self.lcore.0) != sys::RUNNING }
    }

    /// Waits for the work's end and gives its result; `Err` is what it panicked with.
    pub fn join(self) -> Result<T, Box<dyn Any + Send>> {
        let outcome = self.outcome.recv().expect("the work sends its outcome, panic or not");
        // SAFETY: waits until the lcore is free for other work.
        unsafe { sys::rte_eal_wait_lcore(self.lcore.0) };
        outcome
    }
}

/// Makes the calling thread known to DPDK as long as this lives, which gives it its own cache of each mempool (27
/// instead of 52 cycles for an allocation and its release).
///
/// Neither Send nor Sync: it belongs to the thread that made it.
#[derive(Debug)]
pub struct Registered(PhantomData<*const ()>);

impl Registered {
    /// [`Errno::Invalid`] on a thread that DPDK knows already, [`Errno::OutOfMemory`] where its table is full.
    pub fn new(_: Eal) -> Result<Self, Errno> {
        // SAFETY: reads a thread-local of DPDK.
        if unsafe { sys::shim_lcore_id() } < sys::RTE_MAX_LCORE {
            return Err(Errno::Invalid);
        }
        // SAFETY: EAL runs, and this thread is not registered.
        if unsafe { sys::rte_thread_register() } < 0 { Err(errno::last()) } else { Ok(Self(PhantomData)) }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        // SAFETY: this is the thread that `new` registered, as the type is not Send.
        unsafe { sys::rte_thread_unregister() }
    }
}
