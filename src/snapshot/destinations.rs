//! Numbers of destinations, as flows are remembered by: a backend of a service each, the same from one snapshot to the next.
//!
//! A number whose backend left names nobody, so that no flow goes there any more; it is given out again only once no lcore's memory
//! has it.

use std::collections::HashSet;
use std::sync::Arc;

use super::ServiceIndex;
use crate::flow::Flow;

const CHUNK: usize = 256;
type Chunk = [Destination; CHUNK];

/// A backend of a service, as flows are remembered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Destination {
    pub service: ServiceIndex,
    /// The same, or where it is down none.
    keeper: ServiceIndex,
    /// Its place in the service's table.
    pub member: u16,
    /// It is not down.
    pub keeps: bool,
    /// It is active and has weight, too.
    pub takes_new: bool,
}

impl Destination {
    /// That of a backend which is gone.
    const GONE: Self = Self::new(ServiceIndex::NONE, 0, false, false);

    pub const fn new(service: ServiceIndex, member: u16, keeps: bool, takes_new: bool) -> Self {
        let keeper = if keeps { service } else { ServiceIndex::NONE };
        Self { service, keeper, member, keeps, takes_new }
    }
}

/// By number, as lcores read them.
#[derive(Debug, Clone, Default)]
pub struct Destinations(Box<[Arc<Chunk>]>);

impl Destinations {
    /// The place of a backend of `service` that is not down.
    #[inline(always)]
    pub fn member(&self, number: u32, service: ServiceIndex) -> Option<u16> {
        let destination = self.0.get(number as usize / CHUNK)?.get(number as usize % CHUNK)?;
        (destination.keeper == service).then_some(destination.member)
    }

    /// `None`: it is gone.
    #[inline]
    pub fn get(&self, number: u32) -> Option<&Destination> {
        let destination = self.0.get(number as usize / CHUNK)?.get(number as usize % CHUNK)?;
        (destination.service != ServiceIndex::NONE).then_some(destination)
    }
}

/// Gives out the numbers. On the control side only; what it changes, snapshots made before do not see.
#[derive(Debug, Default)]
pub struct Register {
    chunks: Vec<Arc<Chunk>>,
    /// Numbers given out so far.
    count: u32,
    free: Vec<u32>,
    /// Whose backend left, and that may still be remembered; with the snapshot that was the first without it.
    left: Vec<(u32, u32)>,
}

impl Register {
    /// Numbers behind the last that is known from before, which may have been given out without being noted.
    const UNNOTED: u32 = 4096;

    /// One that has given these numbers out; others up to there, and up to the `last` that is remembered, may be remembered from before.
    pub fn after(given: &HashSet<u32>, last: Option<u32>) -> Self {
        let last = given.iter().copied().chain(last).max().unwrap_or(0);
        let count = last.saturating_add(1 + Self::UNNOTED).min(Flow::DESTINATIONS);
        let chunks = (0..(count as usize).div_ceil(CHUNK)).map(|_| Arc::new([Destination::GONE; CHUNK])).collect();
        let left = (0..count).filter(|number| !given.contains(number)).map(|number| (number, 0)).collect();
        Self { chunks, count, free: Vec::new(), left }
    }

    /// A number that nobody has; `None`: there are no more.
    pub fn take(&mut self) -> Option<u32> {
        self.free.pop().or_else(|| {
            let number = self.count;
            if number == Flow::DESTINATIONS {
                return None;
            }
            if number as usize / CHUNK == self.chunks.len() {
                self.chunks.push(Arc::new([Destination::GONE; CHUNK]));
            }
            self.count += 1;
            Some(number)
        })
    }

    /// Says what a number is of.
    pub fn set(&mut self, number: u32, destination: Destination) {
        let (chunk, place) = (&mut self.chunks[number as usize / CHUNK], number as usize % CHUNK);
        if chunk[place] != destination {
            Arc::make_mut(chunk)[place] = destination;
        }
    }

    /// Its backend left; `serial`: of the first snapshot without it.
    pub fn leave(&mut self, number: u32, serial: u32) {
        self.set(number, Destination::GONE);
        self.left.push((number, serial));
    }

    /// Whether the backend of any left that may still be remembered.
    pub fn has_left(&self) -> bool {
        !self.left.is_empty()
    }

    /// Gives those out again that had left in the snapshot `serial`, but for those that `is_remembered`.
    pub fn free(&mut self, serial: u32, is_remembered: impl Fn(u32) -> bool) {
        let is_kept = |&&(number, left): &&(u32, u32)| left > serial || is_remembered(number);
        let (left, free): (Vec<_>, Vec<_>) = self.left.iter().partition(is_kept);
        self.left = left;
        self.free.extend(free.into_iter().map(|(number, _)| number));
    }

    /// Whose a number is now.
    pub fn get(&self, number: u32) -> Option<&Destination> {
        let destination = self.chunks.get(number as usize / CHUNK)?.get(number as usize % CHUNK)?;
        (destination.service != ServiceIndex::NONE).then_some(destination)
    }

    pub fn snapshot(&self) -> Destinations {
        Destinations(self.chunks.clone().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(service: u32) -> Destination {
        Destination::new(ServiceIndex(service), 3, true, false)
    }

    #[test]
    fn a_number_is_given_out_again_once_nobody_remembers_it() {
        let mut register = Register::default();
        let numbers: Vec<u32> = (0..600).map(|_| register.take().unwrap()).collect();
        assert_eq!(numbers, (0..600).collect::<Vec<_>>());
        register.set(5, of(1));
        register.set(599, of(2));
        let before = register.snapshot();
        register.leave(5, 2);
        register.leave(6, 2);
        register.leave(8, 3);
        assert_eq!((before.get(5), register.snapshot().get(5)), (Some(&of(1)), None));
        assert_eq!(register.snapshot().get(599), Some(&of(2)));
        assert_eq!((before.get(7), before.get(70_000)), (None, None));
        register.free(2, |number| number == 5);
        assert_eq!(register.left, [(5, 2), (8, 3)]);
        assert_eq!((register.take(), register.take()), (Some(6), Some(600)));
    }

    #[test]
    fn what_was_given_before_is_not_given_again_nor_what_lies_between() {
        let mut register = Register::after(&HashSet::from([3, 1]), Some(2));
        register.set(3, of(1));
        let unnoted = 4..4 + Register::UNNOTED;
        let left = [0, 2].into_iter().chain(unnoted.clone()).map(|number| (number, 0));
        assert_eq!((register.take(), &register.left), (Some(unnoted.end), &left.collect()));
        register.free(1, |number| number == 0 || unnoted.contains(&number));
        assert_eq!((register.take(), register.take()), (Some(2), Some(unnoted.end + 1)));
    }

    #[test]
    fn there_are_so_many_and_no_more() {
        let mut register = Register { count: Flow::DESTINATIONS - 1, ..Register::default() };
        let chunk = || Arc::new([Destination::GONE; CHUNK]);
        register.chunks = (0..Flow::DESTINATIONS as usize / CHUNK).map(|_| chunk()).collect();
        assert_eq!((register.take(), register.take()), (Some(Flow::DESTINATIONS - 1), None));
    }
}
