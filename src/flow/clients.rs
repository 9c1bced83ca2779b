//! Where the clients of `source-ip` affinity went: one table a node, 8 bytes a client, shared by all lcores.
//!
//! **One word an entry.** A keyed hash of 23 bits, a destination, and the second when the client was last seen, in one [`AtomicU64`]:
//! who reads an entry never sees half of one, and who changes it does so by compare-and-exchange, so never what it has not read.
//! There is no lock, nobody waits, and nothing is allocated after the start.
//!
//! **Two buckets a client**, by two further keyed hashes, each a cache line of eight entries. A new client takes a free entry in the
//! emptier one. Are both full, an entry that is over goes, else the one that was seen longest ago. An entry never moves, so a lookup
//! never misses one. (A new client is taken for another with a chance of 2 in a million: so ask whether a destination is of the
//! service, too. Hashes cannot be chosen without the key.)
//!
//! **Two lcores that enter the same client at once** may choose different entries, but must not end with two: a browser opens six
//! connections in the same millisecond, and they shall all go to one backend. So an entry starts as a *claim*, which lookups pass
//! over. Whoever has made or seen a claim passes a fence and then looks at all sixteen entries:
//!
//! 1. If one of the client's is *firm*, that one counts. What else is the client's is freed.
//! 2. Else the first of its claims, in the order of the entries, shall count, whoever made it: the others are freed, then it is made
//!    firm. If one of these exchanges fails, somebody else was quicker: look again.
//!
//! Of two that made claims, one at least sees the other's (that is what the fence is for); and it makes its own firm only after it
//! has freed the other as a claim, which fails once that one is firm. So there are never two firm ones, and all lcores give the same
//! answer, also those which were asked to enter something else: `models.rs` tries every interleaving of two lcores (loom). Each
//! exchange that fails is one of another lcore that did not; after a few of them the client goes unremembered.
//!
//! (Left out of the proof: an lcore that sleeps between a look and an exchange while the very same claim is freed and made again.
//! That can leave two firm ones; then the first counts, everywhere, and the next that is asked to enter the client frees the other.)

use std::fmt;
use std::net::IpAddr;

#[cfg(penstock_loom)]
use loom::sync::atomic::{AtomicU64, Ordering, fence};
#[cfg(not(penstock_loom))]
use std::sync::atomic::{AtomicU64, Ordering, fence};

use super::{Seconds, fold, key};

#[cfg(all(test, penstock_loom))]
mod models;
#[cfg(all(test, not(penstock_loom)))]
mod stress;
#[cfg(all(test, not(penstock_loom)))]
mod tests;

/// Entries of a bucket: a cache line of them, and few enough for a model.
const WAYS: usize = if cfg!(penstock_loom) { 2 } else { 8 };

/// How many entries there are for four that shall fit. Of as many random clients as shall fit, 1 in 5,000 then finds both its buckets
/// full.
const FIFTHS: usize = 5;

/// Looks at a client's entries, at most, until it is entered.
const TRIES: usize = 8;

/// The clients that a node remembers.
pub struct Clients {
    buckets: Box<[Bucket]>,
    key: [u64; 2],
}

#[repr(align(64))]
struct Bucket([AtomicU64; WAYS]);

/// 24 bits of head (the client's hash, and whether it is a claim), 20 of destination, 20 of seconds. All zeros: free.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Entry(u64);

/// Where a client is looked for: the two buckets, and what tells it from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientSpot {
    buckets: [u32; 2],
    /// Of a firm entry: even, and never 0.
    head: u32,
}

/// What is remembered of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    /// A service and backend, below [`Client::DESTINATIONS`]; the same numbers as a flow's.
    pub destination: u32,
    /// When it was last seen, below [`Client::SECONDS`]: the rest of the clock's seconds by that.
    pub seen: u32,
}

impl Client {
    /// How many destinations there may be, as [`super::Flow::DESTINATIONS`].
    pub const DESTINATIONS: u32 = 1 << 20;

    /// How far the seconds count before they start anew, as [`super::Flow::SECONDS`]: 12 days.
    pub const SECONDS: u32 = 1 << 20;

    /// So many seconds another lcore's clock may be ahead. No idle timeout may reach `SECONDS - AHEAD` (12 days).
    pub const AHEAD: u32 = 60;

    /// Seconds since it was last seen. 0 also where another lcore, whose clock is ahead, saw it later than `now`.
    #[inline]
    pub fn age(&self, now: Seconds) -> u32 {
        let age = now.0.wrapping_sub(self.seen) % Self::SECONDS;
        if age > Self::SECONDS - Self::AHEAD { 0 } else { age }
    }
}

impl Entry {
    const FREE: Self = Self(0);

    fn new(head: u32, client: &Client) -> Self {
        Self(
            u64::from(head) << 40
                | u64::from(client.destination % Client::DESTINATIONS) << 20
                | u64::from(client.seen % Client::SECONDS),
        )
    }

    #[inline]
    fn head(self) -> u32 {
        (self.0 >> 40) as u32
    }

    #[inline]
    fn client(self) -> Client {
        Client { destination: (self.0 >> 20) as u32 % Client::DESTINATIONS, seen: self.0 as u32 % Client::SECONDS }
    }

    fn as_claim(self) -> Self {
        Self(self.0 | 1 << 40)
    }

    fn as_firm(self) -> Self {
        Self(self.0 & !(1 << 40))
    }
}

impl Clients {
    /// With room for `capacity` clients, of which 1 in 1,000 may displace another. `seed`: a secret of the process.
    pub fn new(capacity: usize, seed: [u64; 2]) -> Self {
        let bucket = |_| Bucket(std::array::from_fn(|_| AtomicU64::new(Entry::FREE.0)));
        Self { buckets: (0..buckets(capacity)).map(bucket).collect(), key: key(seed) }
    }

    /// Bytes that a table of this capacity takes.
    pub const fn bytes(capacity: usize) -> usize {
        buckets(capacity) * size_of::<Bucket>()
    }

    /// Where a client of a service is looked for. `service`: whatever tells the services apart whose clients shall not be taken for
    /// each other's.
    #[inline]
    pub fn spot(&self, service: u64, address: IpAddr) -> ClientSpot {
        let address = match address {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => address,
        };
        let words = [service, (address.to_bits() >> 64) as u64, address.to_bits() as u64];
        let hash = words.iter().fold(self.key[1], |mixed, word| fold(mixed ^ word, self.key[0]));
        // Words of their own: what says a bucket must not say the other, nor the head.
        let below = |word: u64, bound: usize| ((u128::from(word) * bound as u128) >> 64) as usize;
        let buckets = self.buckets.len();
        let first = below(fold(hash ^ self.key[1], self.key[0]), buckets);
        // Never the first again, so that no entry is looked at twice.
        let apart = 1 + below(fold(hash ^ self.key[0], self.key[1]), buckets.saturating_sub(1));
        let second = if first + apart < buckets { first + apart } else { (first + apart).saturating_sub(buckets) };
        ClientSpot { buckets: [first as u32, second as u32], head: ((hash >> 41) as u32).max(1) << 1 }
    }

    /// What is remembered of a client, be it over.
    #[inline]
    pub fn find(&self, spot: ClientSpot) -> Option<Client> {
        self.firm(spot).map(|(_, entry)| entry.client())
    }

    /// Remembers that a client went to `destination` (below [`Client::DESTINATIONS`]) at `now`, unless it is remembered otherwise and
    /// not over. Gives the destination that counts, on every lcore. Writes nothing if the client was seen in this second.
    ///
    /// `is_over`: whether an entry may be given up. It should say so of one that is too old for its service, and of one whose backend
    /// takes nothing more. It is asked of other clients' entries too, if room is needed; and an lcore that has adopted a newer snapshot
    /// may have entered a destination which this one does not know yet.
    #[inline]
    pub fn note(&self, spot: ClientSpot, destination: u32, now: Seconds, is_over: impl Fn(&Client) -> bool) -> u32 {
        let new = Entry::new(spot.head, &Client { destination, seen: now.0 });
        let known = self.firm(spot).and_then(|(way, entry)| self.keep(spot, way, entry, new, now, &is_over));
        known.unwrap_or_else(|| self.enter(spot, new, now, is_over))
    }

    /// Looks at the whole table: frees the entries that are over, and calls `live` with the others. For the control side, now and
    /// then: a client that comes back after [`Client::SECONDS`] would else be taken for one of today.
    pub fn sweep(&self, is_over: impl Fn(&Client) -> bool, mut live: impl FnMut(&Client)) {
        for word in self.buckets.iter().flat_map(|bucket| &bucket.0) {
            let mut entry = Entry(word.load(Ordering::Acquire));
            while entry != Entry::FREE && is_over(&entry.client()) && !exchange(word, entry, Entry::FREE) {
                // An lcore was quicker: another stands there.
                entry = Entry(word.load(Ordering::Acquire));
            }
            if entry != Entry::FREE && !is_over(&entry.client()) {
                live(&entry.client());
            }
        }
    }

    /// Clients that are remembered, be they over. Looks at the whole table.
    pub fn count(&self) -> usize {
        let mut count = 0;
        self.sweep(|_| false, |_| count += 1);
        count
    }

    fn word(&self, spot: ClientSpot, way: usize) -> &AtomicU64 {
        &self.buckets[spot.buckets[way / WAYS] as usize].0[way % WAYS]
    }

    fn load(&self, spot: ClientSpot, way: usize) -> Entry {
        Entry(self.word(spot, way).load(Ordering::Acquire))
    }

    /// A client's entry: the one that counts.
    #[inline]
    fn firm(&self, spot: ClientSpot) -> Option<(usize, Entry)> {
        if self.buckets.is_empty() {
            return None;
        }
        let mut entries = (0..2 * WAYS).map(|way| (way, self.load(spot, way)));
        entries.find(|(_, entry)| entry.head() == spot.head)
    }

    fn exchange(&self, spot: ClientSpot, way: usize, old: Entry, new: Entry) -> bool {
        exchange(self.word(spot, way), old, new)
    }

    /// Refreshes a client's entry, or puts `new` in its place if it is over: the destination that counts. `None`: it is not there any
    /// more.
    #[inline]
    fn keep(
        &self,
        spot: ClientSpot,
        way: usize,
        entry: Entry,
        new: Entry,
        now: Seconds,
        is_over: impl Fn(&Client) -> bool,
    ) -> Option<u32> {
        let client = entry.client();
        let next = match client.age(now) {
            _ if is_over(&client) => new,
            0 => entry,
            _ => Entry::new(spot.head, &Client { seen: now.0, ..client }),
        };
        (next == entry || self.exchange(spot, way, entry, next)).then_some(next.client().destination)
    }

    /// Enters a client that was not found, as the module's text says: the destination that counts.
    #[cold]
    fn enter(&self, spot: ClientSpot, new: Entry, now: Seconds, is_over: impl Fn(&Client) -> bool) -> u32 {
        if self.buckets.is_empty() {
            return new.client().destination;
        }
        let mine = new.as_claim();
        // A claim that was there before the last fence.
        let mut fenced = None;
        for _ in 0..TRIES {
            let entries: [Entry; 2 * WAYS] = std::array::from_fn(|way| self.load(spot, way));
            let ways = |head| (0..2 * WAYS).filter(move |&way| entries[way].head() == head);
            let free = |way| self.exchange(spot, way, entries[way], Entry::FREE);
            let [firm, claim] = [spot.head, mine.head()].map(|head| ways(head).next());
            if let Some(firm) = firm {
                ways(mine.head()).chain(ways(spot.head).skip(1)).for_each(|way| _ = free(way));
                if let Some(destination) = self.keep(spot, firm, entries[firm], new, now, &is_over) {
                    return destination;
                }
            } else if let Some(way) = claim {
                let claim = entries[way];
                if claim != mine && is_over(&claim.client()) {
                    free(way);
                } else if fenced != Some((way, claim)) {
                    fenced = Some((way, claim));
                } else if ways(mine.head()).skip(1).all(free) && self.exchange(spot, way, claim, claim.as_firm()) {
                    return claim.client().destination;
                }
            } else {
                let way = place(&entries, now, &is_over);
                if self.exchange(spot, way, entries[way], mine) {
                    fenced = Some((way, mine));
                }
            }
            fence(Ordering::SeqCst);
        }
        new.client().destination
    }
}

/// How many buckets there are for so many clients. With only one, a client would not have two.
const fn buckets(capacity: usize) -> usize {
    match capacity {
        0 => 0,
        1..=WAYS => 2,
        _ => (capacity * FIFTHS).div_ceil((FIFTHS - 1) * WAYS),
    }
}

/// Puts `new` in place of `old`, if that still stands there.
fn exchange(word: &AtomicU64, old: Entry, new: Entry) -> bool {
    #[cfg(all(test, not(penstock_loom)))]
    tests::count_a_write();
    word.compare_exchange(old.0, new.0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
}

/// Where in both buckets a new client goes.
fn place(entries: &[Entry; 2 * WAYS], now: Seconds, is_over: impl Fn(&Client) -> bool) -> usize {
    let free = |bucket: usize| {
        let ways = bucket * WAYS..(bucket + 1) * WAYS;
        ways.filter(|&way| entries[way] == Entry::FREE)
    };
    let emptier = usize::from(free(1).count() > free(0).count());
    let age = |way: usize| entries[way].client().age(now);
    let over = || entries.iter().position(|entry| is_over(&entry.client()));
    let oldest = || (1..2 * WAYS).fold(0, |oldest, way| if age(way) > age(oldest) { way } else { oldest });
    free(emptier).next().or_else(over).unwrap_or_else(oldest)
}

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clients").field("buckets", &self.buckets.len()).finish_non_exhaustive()
    }
}
