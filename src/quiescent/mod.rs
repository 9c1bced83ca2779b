//! Publish an immutable value to polling threads, and free the old ones once no thread can see them (QSBR).
//!
//! ```text
//!  publisher (control thread)                      reader (one lcore)
//!  newest ──┐                                      value: what it reads between quiescent points
//!  retired  └─ clone ─► mailbox: waiting ─────────► quiescent(): value = waiting
//! ```
//!
//! Each [`Reader`] owns a share (`Arc`) of the value that it reads, so nothing can be freed under it. Each has a mailbox
//! of its own, where [`Publisher::publish`] leaves a share of the newest value, in place of one that was not taken. At a
//! quiescent point (the lcore holds no reference: the borrow checker sees to it) the reader looks at one flag in a cache
//! line that nobody writes between two publishes, and exchanges its share if there is news.
//!
//! **Who frees.** The publisher keeps a share of every value that it published, and gives it up only as the sole owner
//! ([`Arc::get_mut`] says so). So a share that a reader drops is never the last one: a reader counts down and never
//! frees. At most the newest value and one for each reader are alive, however long a reader is stuck.
//!
//! **Who waits.** Never the reader: it takes the mailbox's lock only when there is news, by `try_lock`, and if the
//! publisher is there just now it reads the old value for one more round. The publisher gives way until the reader has
//! moved one pointer. It never sleeps on the lock, so the reader's unlock has nobody to wake: no system call.
//!
//! All of it is safe Rust; what is left to prove is who frees, when, and that the newest arrives: the models in
//! `models.rs` try every interleaving of a few publishes (loom).

mod sync;

#[cfg(all(test, penstock_loom))]
mod models;
#[cfg(all(test, not(penstock_loom)))]
mod stress;

pub use sync::Arc;
use sync::{AtomicBool, Mutex, MutexGuard, Ordering, TryLockError, yield_now};

/// A publisher and `readers` readers, which start with `first`.
pub fn channel<T>(readers: usize, first: Arc<T>) -> (Publisher<T>, Vec<Reader<T>>) {
    let mailboxes: Vec<_> = (0..readers).map(|_| Arc::new(Mailbox::new())).collect();
    let readers = mailboxes.iter().map(|mailbox| Reader { value: first.clone(), mailbox: mailbox.clone() }).collect();
    (Publisher { newest: first, retired: Vec::new(), mailboxes }, readers)
}

/// The one that publishes, and the only one that frees. Keep it until all readers have ended: of what they still hold
/// then, the last holder frees it.
#[derive(Debug)]
pub struct Publisher<T> {
    newest: Arc<T>,
    /// Values published before, each once, that somebody may still hold.
    retired: Vec<Arc<T>>,
    /// One for each reader that has not ended.
    mailboxes: Vec<Arc<Mailbox<T>>>,
}

impl<T> Publisher<T> {
    /// The value published last.
    pub fn newest(&self) -> &Arc<T> {
        &self.newest
    }

    /// Makes `value` the one that each reader adopts at its next quiescent point, and frees what it can.
    pub fn publish(&mut self, value: Arc<T>) {
        // One that is published again is not retired any more.
        self.retired.retain(|retired| !Arc::ptr_eq(retired, &value));
        let old = std::mem::replace(&mut self.newest, value);
        if !Arc::ptr_eq(&old, &self.newest) {
            self.retired.push(old);
        }
        for mailbox in &self.mailboxes {
            mailbox.put(self.newest.clone());
        }
        self.reclaim();
    }

    /// Frees every retired value that no one else holds. True when each reader has adopted the newest value, or ended:
    /// then none of them can see an older one. Never waits; whoever wants to, asks again.
    pub fn reclaim(&mut self) -> bool {
        // A reader that ended let go of its value first, then of its mailbox (the order of its fields).
        self.mailboxes.retain_mut(|mailbox| Arc::get_mut(mailbox).is_none());
        let all_adopted = !self.mailboxes.iter().any(|mailbox| mailbox.has_news());
        self.retired.retain_mut(|value| Arc::get_mut(value).is_none());
        all_adopted
    }
}

/// A polling thread's end: the value that it reads, exchanged at quiescent points only.
#[derive(Debug)]
pub struct Reader<T> {
    // Dropped in this order, see `Publisher::reclaim`.
    value: Arc<T>,
    mailbox: Arc<Mailbox<T>>,
}

impl<T> Reader<T> {
    /// A quiescent point: adopts the newest published value, if it is new, and gives the one to read until the next
    /// quiescent point. Costs one load when nothing is new. Call it once a round of the poll loop, also when idle.
    #[inline]
    pub fn quiescent(&mut self) -> &T {
        if self.mailbox.has_news() {
            self.adopt();
        }
        &self.value
    }

    /// The value that is read until the next quiescent point.
    #[inline]
    pub fn value(&self) -> &T {
        &self.value
    }

    #[cold]
    fn adopt(&mut self) {
        let Some(mut waiting) = self.mailbox.try_open() else { return };
        if let Some(newest) = waiting.take() {
            self.value = newest;
        }
        // Only now, so that who sees the flag down also sees the old value let go.
        self.mailbox.news.store(false, Ordering::Release);
    }
}

/// Where a value waits for its reader. `news` says whether one does; it changes under the lock only, and is read
/// without it. In a cache line of its own, which stays in the reader's cache until something is published.
#[derive(Debug)]
#[repr(align(64))]
struct Mailbox<T> {
    news: AtomicBool,
    waiting: Mutex<Option<Arc<T>>>,
}

impl<T> Mailbox<T> {
    fn new() -> Self {
        Self { news: AtomicBool::new(false), waiting: Mutex::new(None) }
    }

    #[inline]
    fn has_news(&self) -> bool {
        self.news.load(Ordering::Acquire)
    }

    /// Leaves `value` for the reader, in place of one not yet taken.
    fn put(&self, value: Arc<T>) {
        let mut waiting = loop {
            match self.try_open() {
                Some(waiting) => break waiting,
                None => yield_now(), // the reader is in `adopt`
            }
        };
        *waiting = Some(value);
        self.news.store(true, Ordering::Release);
    }

    /// The inside of the mailbox; `None` while the other side is at it.
    fn try_open(&self) -> Option<MutexGuard<'_, Option<Arc<T>>>> {
        match self.waiting.try_lock() {
            Ok(guard) => Some(guard),
            // Somebody panicked there: an Option is whole at every moment.
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}
