//! Where flows went: 16 bytes a flow, no timers, nothing allocated after the start.
//!
//! **Cuckoo hashing** with two buckets of four entries, a bucket a cache line (Dietzfelbinger and Weidling, 2007). Of a flow's keyed
//! hash 62 bits are kept, which tell it from others and say where its buckets are, so that an entry can move without its flow
//! (as in Fan et al., CoNEXT 2014). Most entries stand in their first bucket. (Hashes cannot be chosen without
//! the key, and a new flow is taken for one of a million others with a chance of 1 in 2^42.)
//!
//! **As wide as its flows need.** Few flows stand close together in the first buckets of a large table, and so take few cache lines and
//! pages; with each few that come one bucket more is used, and one is split for it (linear hashing, Litwin, VLDB 1980).
//!
//! **Lazy expiry.** An entry says when its last packet came. Whoever finds it says whether that is too long ago; so does whoever needs
//! room, and [`Flows::sweep`], which goes over the table bit by bit.

use std::fmt;
use std::hint::select_unpredictable;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::memory::{Memory, prefetch};
use super::{Seconds, fold, key};

/// Entries of a bucket.
const WAYS: usize = 4;

/// How many entries there are for eight that shall fit: near a full load they would have to move too often.
const NINTHS: usize = 9;

/// How full the buckets in use may be, in eighths, before one more is used: as long as they are fewer than [`WIDE`], and from there on.
/// (Those that are not split yet are chosen twice as often as the others. Of three eighths one flow in twelve comes to stand in its second
/// bucket, of five three in ten, which costs more than lying closer saves; of two one in thirty, but what is too wide for the caches, and for
/// the pages that a CPU knows, had better lie closer. The test of flows that stand close together counts them.)
const DENSE: [usize; 2] = [2, 3];

/// From so many buckets on, 8 MB of an lcore's, they are fuller.
const WIDE: usize = 1 << 17;

/// Buckets that are always used where there are so many, at least; and fewer than twice as many.
const FIRST: usize = 128;

/// What a hash is multiplied by once more, and what for its second bucket (Steele and Vigna, "Computationally easy, spectrally good multipliers
/// for congruential pseudorandom number generators", 2021; and the golden ratio).
const MIXING: u64 = 0xd134_2543_de82_ef95;
const SECOND: u64 = 0x9e37_79b9_7f4a_7c15;

/// A second, and the serial number of a snapshot: what ends flows are time and definitions.
pub type Moment = (Seconds, u32);

/// Entries that move for a new one, at most.
const MOVES: u8 = 3;

/// The remembered flows of one lcore, which alone changes them.
pub struct Flows {
    buckets: Arc<Memory>,
    used: Used,
    /// With more entries than this it uses one bucket more.
    enough: usize,
    /// Entries that may be taken; and those that are, be it by flows that are over.
    capacity: usize,
    taken: usize,
    /// The next bucket to be swept.
    swept: usize,
    /// When [`Flows::make_room`] swept last, and the buckets that it has left of that moment.
    moment: Moment,
    unswept: usize,
    key: [u64; 2],
}

/// The flows that an lcore remembers, as any other thread sees them: each for itself, while they change.
#[derive(Debug, Clone)]
pub struct Remembered {
    buckets: Arc<Memory>,
    key: [u64; 2],
}

/// The buckets in use, and which of them an entry's are.
///
/// At first `start` buckets are, and in the end `start` * 2^n of them. A hash falls into one of the first `start` by its lower 32 bits, and
/// each doubling adds one of the bits above. Those that are not in use yet have been split from another, and are still in there.
#[derive(Debug, Clone, Copy)]
struct Used {
    buckets: u32,
    start: u64,
    /// The bits of a hash that tell among as many buckets as the doubling under way will make: 32, and one more than there were doublings.
    bits: u64,
    /// The buckets there were when it began.
    half: u32,
}

impl Used {
    /// So many of `all` buckets.
    fn of(buckets: usize, all: usize) -> Self {
        let start = start(all);
        let doublings = (buckets / start.max(1)).checked_ilog2().unwrap_or(0);
        let bits = (2 << doublings << 32) - 1;
        Self { buckets: buckets as u32, start: start as u64, bits, half: (start << doublings) as u32 }
    }

    #[inline(always)]
    fn bucket(&self, hash: u64) -> u32 {
        let bucket = ((hash & self.bits).wrapping_mul(self.start) >> 32) as u32;
        select_unpredictable(bucket < self.buckets, bucket, bucket.wrapping_sub(self.half))
    }

    #[inline(always)]
    fn first(&self, spot: Spot) -> u32 {
        self.bucket(spot.0)
    }

    #[inline(always)]
    fn second(&self, spot: Spot) -> u32 {
        self.bucket(fold(spot.0, SECOND))
    }

    #[inline(always)]
    fn homes(&self, spot: Spot) -> [u32; 2] {
        [self.first(spot), self.second(spot)]
    }

    /// More entries than this take one bucket more, of `all`.
    fn enough(&self, all: usize) -> usize {
        let used = self.buckets as usize;
        let dense = DENSE[usize::from(used >= WIDE)];
        if used < all { used * WAYS * dense / 8 } else { usize::MAX }
    }

    /// The other bucket of an entry that stands in `bucket`.
    fn other(&self, spot: Spot, bucket: u32) -> u32 {
        let [first, second] = self.homes(spot);
        if bucket == first { second } else { first }
    }
}

/// Buckets in use at first, of so many: these by a power of two.
const fn start(all: usize) -> usize {
    match (all / FIRST).checked_ilog2() {
        Some(doublings) => all >> doublings,
        None => all,
    }
}

/// Tells where a flow is looked for.
pub trait Spots {
    /// By what tells it from others.
    fn spot(&self, words: [u64; 2]) -> Spot;
    /// The same of as many words as it takes.
    fn spot_of_all(&self, words: &[u64]) -> Spot;
}

/// Plain words to its lcore, which is their only writer: a relaxed load or store is an ordinary one.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Bucket([Entry; WAYS]);

/// 62 bits of the hash and two of state; destination, slot and seconds. All zeros: free.
#[derive(Debug, Default)]
pub struct Entry {
    head: AtomicU64,
    rest: AtomicU64,
}

/// A flow's hash, as it is looked for; its lowest two bits, where an entry has its stage, are 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spot(u64);

impl Spot {
    /// That of no flow.
    pub const NONE: Self = Self(0);

    const STAGE: u64 = 3;

    /// A hash of ports that follow each other is a lattice, which this breaks up: else buckets would be left out.
    #[inline(always)]
    fn of(hash: u64) -> Self {
        Self(fold(hash, MIXING) & !Self::STAGE)
    }

    #[inline(always)]
    fn from_head(head: u64) -> Self {
        Self(head & !Self::STAGE)
    }
}

/// Flows of a burst, by a bit each that hardly any two share.
#[derive(Debug, Clone, Copy)]
pub struct Marks([u64; 16]);

impl Marks {
    pub const NONE: Self = Self([0; 16]);

    #[inline(always)]
    fn place(spot: Spot) -> (usize, u64) {
        ((spot.0 >> 60) as usize, (spot.0 >> 54) % 64)
    }

    #[inline(always)]
    pub fn add(&mut self, spot: Spot) {
        let (word, bit) = Self::place(spot);
        self.0[word] |= 1 << bit;
    }

    /// Whether it was added; of some that were not, too.
    #[inline(always)]
    pub fn has(&self, spot: Spot) -> bool {
        let (word, bit) = Self::place(spot);
        self.0[word] >> bit & 1 != 0
    }
}

/// A bucket's place in the table, in which a flow most likely is until the next insertion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Home(u32);

impl Home {
    /// The first one.
    pub const NONE: Self = Self(0);
}

/// An entry's place in the table, until the next insertion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    bucket: u32,
    way: u8,
}

/// How far a flow has come, by what its client sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Stage {
    /// Never past its SYN; of UDP, seen once.
    Opening = 1,
    Established = 2,
    /// FIN or RST seen.
    Closing = 3,
}

/// What is remembered of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// A service and backend, below [`Flow::DESTINATIONS`].
    pub destination: u32,
    /// The flow's slot of the service's table, below [`Flow::SLOTS`].
    pub slot: u32,
    pub stage: Stage,
    /// When its last packet came, below [`Flow::SECONDS`]: the rest of the clock's seconds by that.
    pub seen: u32,
}

impl Flow {
    pub const DESTINATIONS: u32 = 1 << 20;
    pub const SLOTS: u32 = 1 << 24;
    pub const SECONDS: u32 = 1 << 20;

    /// Seconds by which a packet may have come after `now`: a process's clock runs by the CPU's counter, and the next one's begins by the
    /// machine's.
    pub const AHEAD: u32 = 3 * 3600;

    /// Seconds since its last packet.
    #[inline]
    pub fn age(&self, now: Seconds) -> u32 {
        let age = now.0.wrapping_sub(self.seen) % Self::SECONDS;
        if age > Self::SECONDS - Self::AHEAD { 0 } else { age }
    }
}

/// What an entry is worth to whoever needs its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Worth {
    /// Its flow is over.
    Nothing,
    /// Its flow was never past its SYN.
    Little,
    /// Its flow would go there without it, too.
    Substitutable,
    Everything,
}

/// Seconds that follow each other, as entries have them.
#[derive(Debug, Clone, Copy)]
pub struct Young {
    first: u32,
    count: u32,
}

impl Young {
    pub const ALL: Self = Self { first: 0, count: Flow::SECONDS };
    pub const NONE: Self = Self { first: 0, count: 0 };

    /// Those of a [`Flow::age`] less than so many seconds, at most [`IdleTimeout::MOST`](crate::service::IdleTimeout::MOST).
    #[inline(always)]
    pub fn than(seconds: u32, now: Seconds) -> Self {
        if seconds == 0 {
            Self::NONE
        } else {
            Self { first: now.0.wrapping_sub(seconds - 1), count: seconds + Flow::AHEAD - 1 }
        }
    }

    #[inline(always)]
    fn has(self, seen: u32) -> bool {
        self.place(seen) < self.count
    }

    /// Seconds after the first.
    #[inline(always)]
    fn place(self, seen: u32) -> u32 {
        seen.wrapping_sub(self.first) % Flow::SECONDS
    }
}

/// What is known of flows, to whoever needs the place of one.
pub trait Judge {
    /// Those seconds at which the last packet came of flows that are not over, whatever they are.
    fn young(&self) -> Young;
    fn is_over(&self, flow: &Flow) -> bool;
    fn is_substitutable(&self, flow: &Flow) -> bool;
}

/// Knows nobody: nothing is over, and nothing substitutable.
impl Judge for () {
    fn young(&self) -> Young {
        Young::ALL
    }

    fn is_over(&self, _: &Flow) -> bool {
        false
    }

    fn is_substitutable(&self, _: &Flow) -> bool {
        false
    }
}

/// What became of an insertion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inserted {
    /// There was room.
    Room,
    /// In place of an entry of this worth, which was live.
    For(Worth, Flow),
    /// All that could make room is worth everything.
    None,
}

impl Bucket {
    /// Has its page come, and leaves it as it is.
    pub fn touch(&self) {
        self.word().fetch_or(0, Relaxed);
    }

    /// Its first word.
    pub fn word(&self) -> &AtomicU64 {
        &self.0[0].head
    }

    /// What it has of a flow that is established.
    #[inline(always)]
    pub fn seen(&self, spot: Spot, now: Seconds) -> Seen {
        let (head, second) = (spot.0 | Stage::Established as u64, now.0 % Flow::SECONDS);
        // In which of the four it is nothing foretells: no branch depends on it.
        let rest = self.0.iter().fold(Seen::nowhere(second), |found, entry| {
            let rest = entry.rest.load(Relaxed);
            select_unpredictable(entry.head() == head, rest, found)
        });
        Seen { rest, second }
    }

    /// The entry of a flow that is established, whenever it was seen.
    #[inline(always)]
    pub fn established(&self, spot: Spot) -> Option<&Entry> {
        let head = spot.0 | Stage::Established as u64;
        let way = (0..WAYS).fold(WAYS, |way, at| select_unpredictable(self.0[at].head() == head, at, way));
        self.0.get(way)
    }

    /// In which place a flow is.
    #[inline(always)]
    fn way(&self, spot: Spot) -> Option<u8> {
        self.0.iter().position(|entry| entry.is_of(spot)).map(|way| way as u8)
    }

    /// Whether a flow is remembered here.
    #[inline(always)]
    pub fn has(&self, spot: Spot) -> bool {
        // As many do as not, where flows begin: no branch depends on it.
        self.0.iter().fold(false, |has, entry| has | entry.is_of(spot))
    }
}

/// What a bucket has of an established flow, if it was looked for in this second.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    /// As an entry has it.
    rest: u64,
    second: u32,
}

impl Seen {
    /// In place of a flow's that is not there. (One of another second may be the same.)
    #[inline(always)]
    fn nowhere(second: u32) -> u64 {
        u64::from(!second)
    }

    /// Whether it has none, or hardly ever one that is to be noted.
    #[inline(always)]
    pub fn is_nowhere(self) -> bool {
        self.rest == Self::nowhere(self.second)
    }

    /// The destination of a flow that was seen in this second: a packet that says no more of it than the last has nothing to note.
    #[inline(always)]
    pub fn settled(self) -> Option<u32> {
        (self.rest as u32 % Flow::SECONDS == self.second).then_some((self.rest >> 44) as u32)
    }
}

impl Entry {
    #[inline]
    fn head(&self) -> u64 {
        self.head.load(Relaxed)
    }

    /// Whether it is of this flow.
    #[inline(always)]
    fn is_of(&self, spot: Spot) -> bool {
        // The spot of what is free is one that a flow may have.
        (self.head() ^ spot.0).wrapping_sub(1) < Spot::STAGE
    }

    #[inline]
    fn is_free(&self) -> bool {
        self.stage_bits() == 0
    }

    /// As [`Stage`] has them; 0: it is free.
    #[inline(always)]
    fn stage_bits(&self) -> u32 {
        self.head() as u32 % 4
    }

    #[inline]
    pub fn spot(&self) -> Spot {
        Spot::from_head(self.head())
    }

    #[inline(always)]
    pub fn flow(&self) -> Flow {
        let (head, rest) = (self.head(), self.rest.load(Relaxed));
        let stage = match head % 4 {
            1 => Stage::Opening,
            2 => Stage::Established,
            _ => Stage::Closing,
        };
        Flow {
            destination: (rest >> 44) as u32,
            slot: (rest >> 20) as u32 % Flow::SLOTS,
            stage,
            seen: rest as u32 % Flow::SECONDS,
        }
    }

    /// Its flow's destination, and for how many seconds it was silent: if its last packet is to come yet, more than any flow is remembered.
    #[inline(always)]
    pub fn destination_and_silence(&self, now: Seconds) -> (u32, u32) {
        let rest = self.rest.load(Relaxed);
        ((rest >> 44) as u32, now.0.wrapping_sub(rest as u32) % Flow::SECONDS)
    }

    /// Notes that a packet came which says nothing new.
    #[inline(always)]
    pub fn note(&self, now: Seconds) {
        let rest = self.rest.load(Relaxed) & !u64::from(Flow::SECONDS - 1);
        self.rest.store(rest | u64::from(now.0 % Flow::SECONDS), Relaxed);
    }

    /// Whoever reads the head of a new flow also sees its rest, be it after a crash.
    #[inline]
    pub fn put(&self, spot: Spot, flow: &Flow) {
        let rest = u64::from(flow.destination % Flow::DESTINATIONS) << 44
            | u64::from(flow.slot % Flow::SLOTS) << 20
            | u64::from(flow.seen % Flow::SECONDS);
        self.rest.store(rest, Relaxed);
        self.head.store(spot.0 | flow.stage as u64, Release);
    }

    pub fn clear(&self) {
        self.head.store(0, Release);
    }
}

impl Remembered {
    /// Entries there are, taken or not.
    pub fn places(&self) -> usize {
        self.buckets.len() * WAYS
    }

    /// The greatest destination that any flow has.
    pub fn last_destination(&self) -> Option<u32> {
        self.flows(0..self.places()).map(|flow| flow.destination).max()
    }

    /// The flows at `places`.
    pub fn flows(&self, places: Range<usize>) -> impl Iterator<Item = Flow> {
        let buckets = self.buckets.get(places.start / WAYS..places.end.div_ceil(WAYS).min(self.buckets.len()));
        buckets
            .unwrap_or_default()
            .iter()
            .flat_map(|bucket| &bucket.0)
            // Who sees that one has gone sees it where it went.
            .filter(|entry| entry.head.load(Acquire) % 4 != 0)
            .map(Entry::flow)
    }

    /// The flow that is remembered there. (While it moves from one bucket to another it may be missed.)
    pub fn find(&self, spot: Spot) -> Option<Flow> {
        self.buckets.used().homes(spot).into_iter().find_map(|home| {
            let bucket = self.buckets.get(home as usize)?;
            bucket.way(spot).map(|way| bucket.0[usize::from(way) % WAYS].flow())
        })
    }
}

impl Memory {
    /// The buckets in use, as it says itself. A table that is new, or another's, says nothing of use: then as few as there can be.
    fn used(&self) -> Used {
        let (noted, all) = ((self.word().load(Acquire) >> 2) as usize, self.len());
        Used::of(noted.clamp(start(all), all), all)
    }

    /// What is noted is as no entry that is taken.
    fn note(&self, used: &Used) {
        self.word().store(u64::from(used.buckets) << 2, Release);
    }
}

impl Spots for Remembered {
    fn spot(&self, words: [u64; 2]) -> Spot {
        Spot::of(hash_of(words, self.key))
    }

    fn spot_of_all(&self, words: &[u64]) -> Spot {
        Spot::of(hash_of_all(words, self.key))
    }
}

#[inline(always)]
fn hash_of(words: [u64; 2], key: [u64; 2]) -> u64 {
    fold(words[0] ^ key[0], words[1] ^ key[1])
}

fn hash_of_all(words: &[u64], key: [u64; 2]) -> u64 {
    words.iter().fold(key[1], |mixed, word| fold(mixed ^ word, key[0]))
}

impl Spots for Flows {
    #[inline]
    fn spot(&self, words: [u64; 2]) -> Spot {
        Spot::of(hash_of(words, self.key))
    }

    fn spot_of_all(&self, words: &[u64]) -> Spot {
        Spot::of(hash_of_all(words, self.key))
    }
}

impl Flows {
    /// Another with each change of how buckets and entries are laid out, or where they are looked for.
    pub const LAYOUT: u32 = 3;

    /// With room for `capacity` flows. `seed`: a secret of the process.
    pub fn new(capacity: usize, seed: [u64; 2]) -> Self {
        let memory = Memory::private(Self::buckets(capacity)).expect("there is memory for the flows");
        Self::on(memory, capacity, seed)
    }

    /// In memory of [`Flows::buckets`] that may remember flows already, under the same seed.
    pub fn on(memory: Memory, capacity: usize, seed: [u64; 2]) -> Self {
        let used = memory.used();
        memory.note(&used);
        let mut flows = Self {
            enough: used.enough(memory.len()),
            buckets: Arc::new(memory),
            used,
            capacity,
            taken: 0,
            swept: 0,
            moment: (Seconds(0), 0),
            unswept: 0,
            key: key(seed),
        };
        flows.taken = flows.take_over();
        flows
    }

    /// Counts the entries, and clears those that stand where they are not looked for, or twice: who filled the memory may have ended
    /// while one moved.
    fn take_over(&self) -> usize {
        let mut taken = 0;
        for (bucket, at) in self.buckets.iter().zip(0..) {
            for (entry, way) in bucket.0.iter().zip(0..).filter(|(entry, _)| !entry.is_free()) {
                let [first, second] = self.used.homes(entry.spot());
                let is_found = bucket.way(entry.spot()) == Some(way)
                    && (at == first || at == second && self.buckets[first as usize].way(entry.spot()).is_none());
                if is_found {
                    taken += 1;
                } else {
                    entry.clear();
                }
            }
        }
        taken
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.buckets.iter().flat_map(|bucket| &bucket.0).for_each(Entry::clear);
        self.taken = 0;
        self.begin_anew();
    }

    /// Uses as few buckets as there can be. Nothing is remembered.
    #[cold]
    fn begin_anew(&mut self) {
        let all = self.buckets.len();
        let used = Used::of(start(all), all);
        self.buckets.note(&used);
        (self.swept, self.unswept) = (0, 0);
        (self.used, self.enough) = (used, used.enough(all));
    }

    /// Buckets of a table of this capacity: whole doublings, and fewer by one at least than would be, so that the memory's word costs nobody a page.
    pub const fn buckets(capacity: usize) -> usize {
        let buckets = (capacity * NINTHS).div_ceil(NINTHS - 1).div_ceil(WAYS);
        match (buckets / FIRST).checked_ilog2() {
            Some(doublings) if doublings > 0 => (buckets - 1) >> doublings << doublings,
            // With fewer than a few buckets there is nowhere to move.
            _ if capacity > 0 && buckets < Self::NEAR => Self::NEAR,
            _ => buckets,
        }
    }

    /// What other threads see of it.
    pub fn remembered(&self) -> Remembered {
        Remembered { buckets: self.buckets.clone(), key: self.key }
    }

    /// Bytes that a table of this capacity takes.
    pub const fn bytes(capacity: usize) -> usize {
        Memory::bytes(Self::buckets(capacity))
    }

    /// Whether it remembers nothing.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.taken == 0
    }

    /// Entries that may be taken.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Entries that are taken, be it by flows that are over.
    pub fn taken(&self) -> usize {
        self.taken
    }

    /// Where a flow most likely is.
    #[inline(always)]
    pub fn home(&self, spot: Spot) -> Home {
        Home(self.used.first(spot))
    }

    #[inline(always)]
    pub fn bucket(&self, home: Home) -> &Bucket {
        self.buckets.any(home.0)
    }

    /// Hints that this one will be read soon.
    #[inline(always)]
    pub fn prefetch(&self, home: Home) {
        self.buckets.prefetch(home.0);
    }

    /// The other one that it may be in.
    #[inline(always)]
    pub fn other_bucket(&self, spot: Spot) -> &Bucket {
        self.buckets.any(self.used.second(spot))
    }

    /// The place of a flow's entry.
    #[inline]
    pub fn find(&self, spot: Spot) -> Option<Place> {
        if self.is_empty() {
            return None;
        }
        self.find_in(self.used.first(spot), spot).or_else(|| self.find_in(self.used.second(spot), spot))
    }

    #[inline]
    fn find_in(&self, bucket: u32, spot: Spot) -> Option<Place> {
        let way = self.buckets.get(bucket as usize)?.way(spot)?;
        Some(Place { bucket, way })
    }

    #[inline]
    pub fn get(&self, place: Place) -> Flow {
        self.entry(place).flow()
    }

    /// Puts what is now known in place of what was.
    #[inline]
    pub fn set(&mut self, place: Place, flow: &Flow) {
        let entry = self.entry(place);
        entry.put(entry.spot(), flow);
    }

    /// Forgets a flow.
    pub fn remove(&mut self, place: Place) {
        self.entry(place).clear();
        self.taken -= 1;
    }

    #[inline]
    pub fn entry(&self, place: Place) -> &Entry {
        &self.buckets[place.bucket as usize].0[usize::from(place.way) % WAYS]
    }

    /// Remembers a flow that [`Flows::find`] does not find.
    #[inline(always)]
    pub fn insert(&mut self, spot: Spot, flow: &Flow, judge: &impl Judge) -> Inserted {
        if self.buckets.is_empty() {
            return Inserted::None;
        }
        if self.taken < self.capacity
            && let Some(place) = self.room(spot, flow.stage)
        {
            self.entry(place).put(spot, flow);
            self.taken += 1;
            if self.taken > self.enough {
                self.widen();
            }
            return Inserted::Room;
        }
        // It is full, or as good as full for this flow: the least of the eight goes.
        let homes = self.used.homes(spot);
        let (worth, place, free) = match self.least_of(&homes, judge) {
            Some((worth, place)) => (worth, place, place),
            None => match self.least_elsewhere(homes, judge) {
                Some(found) => found,
                None => return Inserted::None,
            },
        };
        let other = self.get(place);
        self.entry(place).clear();
        self.entry(free).put(spot, flow);
        if worth == Worth::Nothing { Inserted::Room } else { Inserted::For(worth, other) }
    }

    /// Where it is full, looks for flows that are over in the next few buckets, which are in the way now: at all of it once a moment,
    /// within which nothing ends that was not over by then.
    #[inline]
    pub fn make_room(&mut self, now: Moment, judge: &impl Judge) {
        const FEW: usize = 2;
        if self.taken < self.capacity {
            return;
        }
        if self.moment != now {
            (self.moment, self.unswept) = (now, self.used.buckets as usize);
        }
        if self.unswept > 0 {
            self.unswept = self.unswept.saturating_sub(FEW);
            self.sweep(FEW, judge);
            // The next time they are there.
            (self.swept..self.swept + FEW).for_each(|bucket| prefetch(self.buckets.any(bucket as u32)));
        }
    }

    /// A place for a flow: a free one, or one whose entry can move.
    #[inline(always)]
    fn room(&mut self, spot: Spot, stage: Stage) -> Option<Place> {
        loop {
            let room = self.room_in(self.used.homes(spot), stage);
            // Close together they may be in each other's way before all buckets are in use: then all of the dozens of places that could be made
            // free are taken, which hardly ever happens, and so widens by a few at most.
            if room.is_some() || !self.widen() {
                return room;
            }
        }
    }

    /// Uses one bucket more, and moves entries there from the one that was chosen for them so far; `false`: all are used.
    #[inline(never)]
    fn widen(&mut self) -> bool {
        let all = self.buckets.len();
        let (old, new) = (self.used, Used::of(self.used.buckets as usize + 1, all));
        if new.buckets as usize > all {
            return false;
        }
        let (from, to) = (&self.buckets[(old.buckets - old.half) as usize], old.buckets);
        let goes = |entry: &Entry| {
            let of = usize::from(old.first(entry.spot()) != old.buckets - old.half);
            !entry.is_free() && new.homes(entry.spot())[of] == to
        };
        for (entry, free) in from.0.iter().zip(&self.buckets[to as usize].0).filter(|(entry, _)| goes(entry)) {
            free.put(entry.spot(), &entry.flow());
        }
        // Whoever comes after finds them in one of both, and who looks through all buckets in their order in one of both, or twice.
        self.buckets.note(&new);
        from.0.iter().filter(|entry| goes(entry)).for_each(Entry::clear);
        (self.used, self.enough) = (new, new.enough(all));
        true
    }

    /// A place for a flow with these buckets: a free one, or one whose entry can move.
    fn room_in(&mut self, homes: [u32; 2], stage: Stage) -> Option<Place> {
        let free = self.place_at_home(homes[0], stage).or_else(|| self.free_in(homes[1]));
        free.or_else(|| homes.into_iter().find_map(|home| self.vacate(home, MOVES)))
    }

    /// A place in the first bucket of a flow of this stage: a free one, or, where it is past its SYN, that of one which is not, and can move.
    fn place_at_home(&mut self, home: u32, stage: Stage) -> Option<Place> {
        let free = self.free_in(home);
        if free.is_some() || stage == Stage::Opening {
            return free;
        }
        let (place, free) = self.movable(home, |entry| entry.stage_bits() == Stage::Opening as u32)?;
        Some(self.relocate(place, free))
    }

    /// The first of these entries of a bucket that can move to its other bucket, and where.
    fn movable(&self, bucket: u32, is_it: impl Fn(&Entry) -> bool) -> Option<(Place, Place)> {
        let places = (0..WAYS as u8).map(|way| Place { bucket, way });
        places.filter(|&place| is_it(self.entry(place))).find_map(|place| {
            let elsewhere = self.used.other(self.entry(place).spot(), bucket);
            Some((place, self.free_in(elsewhere)?))
        })
    }

    /// Where a flow with these buckets has a place, but the capacity is taken by others: the least of some of these, and the place.
    #[cold]
    fn least_elsewhere(&self, homes: [u32; 2], judge: &impl Judge) -> Option<(Worth, Place, Place)> {
        let free = homes.into_iter().find_map(|home| self.free_in(home))?;
        let buckets = self.used.buckets as usize;
        let near: [u32; Self::NEAR] = std::array::from_fn(|step| ((self.swept + step) % buckets) as u32);
        self.least_of(&near, judge).map(|(worth, place)| (worth, place, free))
    }

    /// Buckets that [`Flows::least_elsewhere`] looks at: all of the smallest table.
    const NEAR: usize = 8;

    /// The first of the entries that are worth least, if that is less than everything.
    #[inline(always)]
    fn least_of(&self, buckets: &[u32], judge: &impl Judge) -> Option<(Worth, Place)> {
        // Which of them it is nothing foretells: no branch depends on it.
        let (young, mut least, mut farthest) = (judge.young(), u32::MAX, 0);
        for (&bucket, at) in buckets.iter().zip((0..).step_by(WAYS)) {
            for (entry, way) in self.buckets[bucket as usize].0.iter().zip(0..) {
                let (stage, place) = (entry.stage_bits(), young.place(entry.rest.load(Relaxed) as u32));
                // Opening comes first, what is free last.
                least = least.min((stage.wrapping_sub(Stage::Opening as u32) % 4) << 8 | at | way);
                farthest = farthest.max(select_unpredictable(stage == 0, 0, place));
            }
        }
        let places = buckets.iter().flat_map(|&bucket| (0..WAYS as u8).map(move |way| Place { bucket, way }));
        let first = |is_it: &dyn Fn(&Flow) -> bool| {
            let mut places = places.clone().filter(|&place| !self.entry(place).is_free());
            places.find(|&place| is_it(&self.get(place)))
        };
        if farthest >= young.count
            && let Some(place) = first(&|flow| judge.is_over(flow))
        {
            return Some((Worth::Nothing, place));
        }
        if least < 1 << 8 {
            let place = Place { bucket: buckets[least as usize / WAYS], way: (least as usize % WAYS) as u8 };
            return Some((Worth::Little, place));
        }
        Some((Worth::Substitutable, first(&|flow| judge.is_substitutable(flow))?))
    }

    fn free_in(&self, bucket: u32) -> Option<Place> {
        let way = self.buckets[bucket as usize].0.iter().position(Entry::is_free)?;
        Some(Place { bucket, way: way as u8 })
    }

    /// Frees a place of `bucket`: an entry moves to its other bucket, where another may have to move first, and so on, `moves` at most.
    fn vacate(&mut self, bucket: u32, moves: u8) -> Option<Place> {
        // Who opens goes first, and is looked for last.
        let opens = |entry: &Entry| entry.stage_bits() == Stage::Opening as u32;
        if let Some((place, free)) = self.movable(bucket, opens).or_else(|| self.movable(bucket, |_| true)) {
            return Some(self.relocate(place, free));
        }
        for place in (0..WAYS as u8).map(|way| Place { bucket, way }).filter(|_| moves > 1) {
            let elsewhere = self.used.other(self.entry(place).spot(), bucket);
            let Some(free) = self.vacate(elsewhere, moves - 1) else { continue };
            // What stood here may have been among those that moved, and another have come.
            if self.entry(place).is_free() {
                return Some(place);
            }
            if self.used.other(self.entry(place).spot(), bucket) == free.bucket {
                return Some(self.relocate(place, free));
            }
        }
        None
    }

    /// Moves an entry; gives the place that is free now.
    fn relocate(&mut self, from: Place, to: Place) -> Place {
        self.entry(to).put(self.entry(from).spot(), &self.entry(from).flow());
        self.entry(from).clear();
        from
    }

    /// As [`Flows::sweep`], of `part` in `whole` of the buckets in use, at most all of them; and brings home what stands in its second bucket.
    pub fn sweep_part(&mut self, part: u64, whole: u64, judge: &impl Judge) {
        let buckets = u64::from(self.used.buckets).saturating_mul(part).div_ceil(whole.max(1));
        let (buckets, first) = (usize::try_from(buckets).unwrap_or(usize::MAX), self.swept);
        self.sweep(buckets, judge);
        self.bring_home(first, buckets);
    }

    /// Moves the entries of so many buckets from `first` on that stand in their second bucket to their first, where that has room by now:
    /// when they came it had none, but since then it was split, others have gone, or they were established and who opens gives way.
    fn bring_home(&mut self, first: usize, buckets: usize) {
        let used = self.used.buckets as usize;
        for bucket in (first..first + buckets.min(used)).map(|bucket| (bucket % used) as u32) {
            for place in (0..WAYS as u8).map(|way| Place { bucket, way }) {
                let entry = self.entry(place);
                let home = self.used.first(entry.spot());
                if !entry.is_free()
                    && home != bucket
                    && let Some(free) = self.place_at_home(home, entry.flow().stage)
                {
                    self.relocate(place, free);
                }
            }
        }
    }

    /// Looks at the next `buckets` of those in use, round and round, and frees the entries whose flow is over.
    #[inline(always)]
    pub fn sweep(&mut self, buckets: usize, judge: &impl Judge) {
        let (used, young) = (self.used.buckets as usize, judge.young());
        for _ in 0..buckets.min(used) {
            for entry in &self.buckets[self.swept].0 {
                // Which are free nothing foretells, but hardly any is old.
                let flow = entry.flow();
                if !entry.is_free() & !young.has(flow.seen) && judge.is_over(&flow) {
                    entry.clear();
                    self.taken -= 1;
                }
            }
            let next = self.swept + 1;
            self.swept = if next < used { next } else { 0 };
        }
        if self.is_empty() && used > start(self.buckets.len()) {
            self.begin_anew();
        }
    }
}

impl fmt::Debug for Flows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { buckets, capacity, taken, .. } = self;
        f.debug_struct("Flows")
            .field("buckets", &buckets.len())
            .field("capacity", capacity)
            .field("taken", taken)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::IdleTimeout;
    use proptest::prelude::*;
    use std::collections::HashMap;

    const _: () = assert!(size_of::<Entry>() == 16 && size_of::<Bucket>() == 64);

    fn flow(number: u32) -> Flow {
        Flow { destination: number % 1000, slot: number, stage: Stage::Established, seen: number % Flow::SECONDS }
    }

    /// By slot: who is over, and who is substitutable.
    struct BySlot(Range<u32>, Range<u32>);

    impl Judge for BySlot {
        fn young(&self) -> Young {
            Young::NONE
        }

        fn is_over(&self, flow: &Flow) -> bool {
            self.0.contains(&flow.slot)
        }

        fn is_substitutable(&self, flow: &Flow) -> bool {
            self.1.contains(&flow.slot)
        }
    }

    #[test]
    fn so_many_fit_as_are_promised() {
        for (capacity, seed) in [(1000, 1), (10_000, 2), (100_000, 3), (1 << 20, 4)] {
            let mut flows = Flows::new(capacity, [seed, 0]);
            let refused = (0..capacity as u64)
                .filter(|&k| {
                    let spot = flows.spot([k, 7]);
                    flows.insert(spot, &flow(k as u32 % Flow::SLOTS), &()) == Inserted::None
                })
                .count();
            assert!(refused * 10_000 < capacity, "{refused} of {capacity}");
            assert_eq!(flows.taken(), capacity - refused);
            let found = (0..capacity as u64).filter(|&k| {
                let place = flows.find(flows.spot([k, 7]));
                place.is_some_and(|place| flows.get(place) == flow(k as u32 % Flow::SLOTS))
            });
            assert_eq!(found.count(), capacity - refused);
            assert!(Flows::bytes(capacity) <= capacity * 18 + Memory::BUCKET, "{capacity}");
        }
    }

    #[test]
    fn few_flows_stand_close_together() {
        let mut flows = Flows::new(1 << 16, [7, 0]);
        let used = |flows: &Flows| flows.used.buckets as usize;
        let remembered = flows.remembered();
        assert_eq!(used(&flows), start(flows.buckets.len()));
        for k in 0..1 << 14 {
            let spot = flows.spot([k, 7]);
            assert_eq!(flows.insert(spot, &flow(k as u32), &()), Inserted::Room);
            let enough = (k as usize + 1) * 8 / DENSE[0] / WAYS;
            assert!(
                (enough..enough + 2).contains(&used(&flows)) || used(&flows) < 2 * FIRST,
                "{} of {k}",
                used(&flows)
            );
            if k.is_power_of_two() {
                let is_there = |k| remembered.find(remembered.spot([k, 7])) == Some(flow(k as u32));
                assert!((0..=k).all(is_there), "another thread sees them where the lcore does");
            }
        }
        let abroad = |flows: &Flows| {
            let spots = (0..1 << 14).map(|k| flows.spot([k, 7]));
            spots.filter(|&spot| !flows.bucket(flows.home(spot)).has(spot)).count()
        };
        assert!(abroad(&flows) * 30 < 1 << 14, "few need a second look: {}", abroad(&flows));
        flows.sweep_part(3, 5, &());
        flows.sweep_part(3, 5, &());
        assert!(abroad(&flows) * 100 < 1 << 14, "and fewer, once they were brought home: {}", abroad(&flows));
        flows.sweep(usize::MAX, &BySlot(0..1 << 14, 0..0));
        assert_eq!((flows.taken(), used(&flows)), (0, start(flows.buckets.len())), "it begins anew");
    }

    #[test]
    fn of_many_more_stand_in_a_bucket() {
        let mut flows = Flows::new(1 << 20, [7, 0]);
        let mut come = |last: usize| {
            for k in flows.taken()..last {
                let spot = flows.spot([k as u64, 7]);
                assert_eq!(flows.insert(spot, &flow(k as u32), &()), Inserted::Room);
            }
            flows.used.buckets as usize
        };
        for (flows, buckets) in
            [(WIDE - 100, WIDE - 100), (WIDE + 100, WIDE), (WIDE * 3 / 2, WIDE), (WIDE * 9 / 5, WIDE * 6 / 5)]
        {
            let used = come(flows);
            assert!((buckets..buckets + 3).contains(&used), "{flows} flows in {used}");
        }
    }

    #[test]
    fn who_goes_on_stands_at_home_however_many_open() {
        const CAPACITY: u64 = 1 << 14;
        // Known from their SYN on, or in midstream.
        for stage in [Stage::Opening, Stage::Established] {
            let mut flows = Flows::new(CAPACITY as usize, [9, 0]);
            let spot = |flows: &Flows, k| flows.spot([k, 7]);
            let going: Vec<u64> = (0..CAPACITY).step_by(3).collect();
            // Whoever opens once it is full takes the place of another.
            for k in 0..CAPACITY {
                let stage = if k % 3 == 0 { stage } else { Stage::Opening };
                flows.insert(spot(&flows, k), &Flow { stage, ..flow(k as u32) }, &());
            }
            for &k in &going {
                let place = flows.find(spot(&flows, k)).unwrap();
                flows.set(place, &flow(k as u32));
            }
            for k in CAPACITY..2 * CAPACITY {
                flows.insert(spot(&flows, k), &Flow { stage: Stage::Opening, ..flow(k as u32) }, &());
            }
            let abroad = |flows: &Flows| {
                let spots = going.iter().map(|&k| spot(flows, k));
                spots.filter(|&spot| !flows.bucket(flows.home(spot)).has(spot)).count() * 100 / going.len()
            };
            let came = abroad(&flows);
            (0..3).for_each(|_| flows.sweep_part(1, 1, &()));
            let (came_at_most, at_most) = if stage == Stage::Opening { (30, 15) } else { (16, 11) };
            assert!(came < came_at_most && abroad(&flows) < at_most, "{stage:?}: {came}, {} of 100", abroad(&flows));
        }
    }

    #[test]
    fn whoever_comes_after_finds_what_was_there_and_each_once() {
        const CAPACITY: usize = 5000;
        let file = tempfile::tempfile().unwrap();
        file.set_len(Flows::bytes(CAPACITY) as u64).unwrap();
        let open = || Flows::on(Memory::of_file(&file, Flows::buckets(CAPACITY)).unwrap(), CAPACITY, [3, 4]);
        let mut flows = open();
        for k in 0..2000 {
            let spot = flows.spot([k, 1]);
            flows.insert(spot, &flow(k as u32), &());
        }
        // It ended while some moved, and left others where nobody looks for them.
        let (spots, used) = ((0..2000).map(|k| flows.spot([k, 1])), flows.used);
        let copied = spots.filter(|&spot| {
            let homes @ [first, second] = used.homes(spot);
            let other = if flows.buckets[first as usize].way(spot).is_some() { second } else { first };
            let astray = (0..used.buckets).find(|bucket| !homes.contains(bucket) && flows.free_in(*bucket).is_some());
            let free: Vec<_> =
                [Some(other), astray].into_iter().flatten().filter_map(|bucket| flows.free_in(bucket)).collect();
            free.iter().for_each(|&place| flows.entry(place).put(spot, &flow(1)));
            free.len() == 2
        });
        assert!(copied.count() > 100);
        let next = open();
        assert_eq!((next.taken(), next.used.buckets), (2000, flows.used.buckets));
        assert!((0..2000).all(|k| next.find(next.spot([k, 1])).is_some()));
        assert_eq!(next.remembered().flows(0..next.remembered().places()).count(), 2000);
    }

    #[test]
    fn the_least_worthy_goes_first() {
        let mut flows = Flows::new(8, [5, 5]);
        let of_stage = |stage, slot| Flow { stage, ..flow(slot) };
        let judge = BySlot(0..0, 1..2);
        for k in 0..8 {
            let spot = flows.spot([k, 0]);
            let (stage, slot) = if k % 2 == 0 { (Stage::Closing, 1) } else { (Stage::Opening, 2) };
            assert_eq!(flows.insert(spot, &of_stage(stage, slot), &judge), Inserted::Room);
        }
        let mut went = Vec::new();
        for k in 8..200 {
            let spot = flows.spot([k, 0]);
            went.push(flows.insert(spot, &of_stage(Stage::Established, 3), &judge));
        }
        let count = |what| {
            went.iter().filter(|&inserted| matches!(inserted, Inserted::For(worth, _) if *worth == what)).count()
        };
        assert_eq!((count(Worth::Little), count(Worth::Substitutable)), (4, 4));
        assert_eq!(flows.taken(), 8);
    }

    #[test]
    fn who_is_over_goes_before_all_others() {
        let mut flows = Flows::new(1000, [6, 6]);
        for k in 0..2000 {
            let (spot, is_over) = (flows.spot([k, 0]), k % 4 == 0);
            let (stage, slot) = if is_over { (Stage::Established, 1) } else { (Stage::Opening, 2) };
            if flows.taken() < 1000 && flows.find(spot).is_none() {
                flows.insert(spot, &Flow { stage, ..flow(slot) }, &());
            }
        }
        let mut first = 0;
        for k in 10_000..10_200 {
            let spot = flows.spot([k, 0]);
            let mut stand = flows
                .used
                .homes(spot)
                .into_iter()
                .flat_map(|bucket| &flows.buckets[bucket as usize].0)
                .filter(|entry| !entry.is_free());
            let is_any_over = stand.any(|entry| entry.flow().slot == 1);
            let inserted = flows.insert(spot, &flow(3), &BySlot(1..2, 0..0));
            assert_eq!(inserted == Inserted::Room, is_any_over, "{k}");
            first += u32::from(is_any_over);
        }
        assert!((50..200).contains(&first), "{first}");
    }

    #[test]
    fn in_the_smallest_of_tables_nobody_is_refused_as_long_as_another_is_worth_less() {
        for capacity in 1..20 {
            let mut flows = Flows::new(capacity, [5, 5]);
            for k in 0..200 {
                let spot = flows.spot([k, 0]);
                let inserted = flows.insert(spot, &flow(1), &BySlot(0..0, 1..2));
                assert_ne!(inserted, Inserted::None, "{k} with room for {capacity}");
                assert_eq!(flows.taken(), capacity.min(k as usize + 1));
            }
        }
    }

    #[test]
    fn without_capacity_nothing_is_remembered() {
        let mut flows = Flows::new(0, [1, 1]);
        let spot = flows.spot([1, 2]);
        assert_eq!(flows.insert(spot, &flow(1), &()), Inserted::None);
        assert_eq!((flows.find(spot), flows.is_empty()), (None, true));
        flows.sweep(10, &BySlot(0..9, 0..0));
        flows.make_room((Seconds(1), 1), &BySlot(0..9, 0..0));
    }

    #[test]
    fn a_full_table_is_looked_through_for_room_once_a_moment() {
        let mut flows = Flows::new(100, [2, 2]);
        for k in 0..100 {
            let spot = flows.spot([k, 0]);
            assert_eq!(flows.insert(spot, &flow(k as u32), &()), Inserted::Room);
        }
        let buckets = flows.buckets.len();
        let (none, all) = (BySlot(0..0, 0..0), BySlot(0..100, 0..0));
        for moment in [(Seconds(5), 1), (Seconds(6), 1), (Seconds(6), 2)] {
            (0..buckets).for_each(|_| flows.make_room(moment, &none));
            (0..buckets).for_each(|_| flows.make_room(moment, &all));
            assert_eq!(flows.taken(), 100, "in this moment all were looked at");
        }
        flows.make_room((Seconds(6), 3), &all);
        assert!(flows.taken() < 100);
    }

    #[test]
    fn what_is_over_is_swept() {
        let mut flows = Flows::new(100, [2, 2]);
        for k in 0..100 {
            let spot = flows.spot([k, 0]);
            flows.insert(spot, &flow(k as u32), &());
        }
        let buckets = flows.buckets.len();
        for _ in 0..buckets {
            flows.sweep(1, &BySlot(50..100, 0..0));
        }
        let mut live: Vec<_> = flows.remembered().flows(0..flows.remembered().places()).map(|flow| flow.slot).collect();
        live.sort_unstable();
        assert_eq!(live, (0..50).collect::<Vec<_>>());
        assert_eq!(flows.taken(), 50);
        assert_eq!(flows.find(flows.spot([50, 0])), None);
    }

    #[test]
    fn who_is_young_is_so_by_age() {
        const { assert!(IdleTimeout::MOST + Flow::AHEAD <= Flow::SECONDS) }
        for now in [0, 5, Flow::SECONDS - 1, 3 * Flow::SECONDS + 7] {
            for seconds in [0, 1, 2, 60, IdleTimeout::MOST] {
                let edges = [seconds, Flow::SECONDS - Flow::AHEAD, Flow::SECONDS].map(|edge| edge + Flow::SECONDS);
                for ago in edges.into_iter().flat_map(|edge| edge - 2..=edge + 2) {
                    let seen = (now + 3 * Flow::SECONDS - ago) % Flow::SECONDS;
                    let is_young = Flow { seen, ..flow(1) }.age(Seconds(now)) < seconds;
                    assert_eq!(
                        Young::than(seconds, Seconds(now)).has(seen),
                        is_young,
                        "{seconds} at {now}, seen {seen}"
                    );
                }
            }
        }
    }

    #[test]
    fn ages_go_round_the_clock() {
        let flow = Flow { seen: Flow::SECONDS - 5, ..flow(1) };
        assert_eq!(flow.age(Seconds(3 * Flow::SECONDS - 5)), 0);
        assert_eq!(flow.age(Seconds(3 * Flow::SECONDS + 5)), 10);
        // Seen by a clock that was ahead.
        assert_eq!([1, 5, Flow::AHEAD - 1].map(|ahead| flow.age(Seconds(flow.seen - ahead))), [0; 3]);
        const { assert!(IdleTimeout::MOST < Flow::SECONDS - Flow::AHEAD) }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Insert(u16, u32),
        Set(u16, u32),
        Remove(u16),
        Sweep(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        let key = 0u16..600;
        prop_oneof![
            6 => (key.clone(), 0u32..1000).prop_map(|(k, v)| Step::Insert(k, v)),
            2 => (key.clone(), 0u32..1000).prop_map(|(k, v)| Step::Set(k, v)),
            2 => key.prop_map(Step::Remove),
            1 => (0usize..9).prop_map(Step::Sweep),
        ]
    }

    proptest! {
        /// Of a value below 100 nothing is lost; below 300 little.
        #[test]
        fn it_is_a_map_that_forgets_the_least(
            steps in proptest::collection::vec(step(), 1..1500),
            capacity in prop_oneof![1usize..40, 910usize..2000], seed: [u64; 2],
        ) {
            let judge = BySlot(0..100, 300..400);
            // What is worth little says so itself.
            let flow = |slot| Flow { stage: if (100..300).contains(&slot) { Stage::Opening } else { Stage::Closing }, ..flow(slot) };
            let mut flows = Flows::new(capacity, seed);
            let mut map: HashMap<u16, u32> = HashMap::new();
            let count = steps.len();
            for (step, at) in steps.into_iter().zip(1..) {
                match step {
                    Step::Insert(k, v) => {
                        let spot = flows.spot([u64::from(k), 1]);
                        if flows.find(spot).is_some() {
                            continue;
                        }
                        match flows.insert(spot, &flow(v), &judge) {
                            Inserted::None => prop_assert!(map.len() >= 8.min(capacity), "{} of {capacity}", map.len()),
                            _ => _ = map.insert(k, v),
                        }
                    }
                    Step::Set(k, v) => {
                        if let Some(place) = flows.find(flows.spot([u64::from(k), 1])) {
                            flows.set(place, &flow(v));
                            map.insert(k, v);
                        }
                    }
                    Step::Remove(k) => {
                        if let Some(place) = flows.find(flows.spot([u64::from(k), 1])) {
                            flows.remove(place);
                            map.remove(&k);
                        }
                    }
                    Step::Sweep(part) if part % 2 == 0 => flows.sweep_part(part as u64, 8, &judge),
                    Step::Sweep(buckets) => flows.sweep(buckets, &judge),
                }
                if at % 16 != 0 && at != count {
                    continue;
                }
                // What is there is right; what is not there was worth less than everything.
                map.retain(|&k, &mut v| {
                    let found = flows.find(flows.spot([u64::from(k), 1])).map(|place| flows.get(place));
                    assert!(found == Some(flow(v)) || found.is_none() && v < 400, "{k}: {found:?}");
                    found.is_some()
                });
                prop_assert_eq!(flows.taken(), map.len());
                prop_assert!(flows.taken() <= capacity);
                let unused = flows.used.buckets as usize..flows.buckets.len();
                prop_assert!(flows.buckets[unused].iter().flat_map(|bucket| &bucket.0).all(Entry::is_free));
                prop_assert_eq!(flows.remembered().flows(0..flows.remembered().places()).count(), map.len());
                prop_assert_eq!(flows.take_over(), map.len(), "each stands where it is looked for, and once");
            }
        }
    }
}
