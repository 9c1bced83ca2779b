//! Which lcore keeps a flow that began with a fragment.
//!
//! Receive-side scaling deals fragments by their addresses alone, and so to another lcore than the flow's whole packets. Each lcore
//! that such a fragment passes on its way round notes where it came from: if nobody knows the flow it is opened there, and whole
//! packets are to follow it.

use super::Seconds;

/// Flows that are noted at once; a newer one may take an older one's place.
const ROOM: usize = 4096;

/// The notes of one lcore.
#[derive(Debug)]
pub struct Origins {
    /// By the lower bits of the hash.
    notes: Box<[Note]>,
    has_any: bool,
}

#[derive(Debug, Clone, Copy)]
struct Note {
    hash: u64,
    until: Seconds,
    lcore: u16,
}

impl Origins {
    /// `lcores`: how many there are; one alone has nothing to note.
    pub fn new(lcores: usize) -> Self {
        let room = if lcores > 1 { ROOM } else { 0 };
        let blank = Note { hash: 0, until: Seconds(0), lcore: 0 };
        Self { notes: vec![blank; room].into(), has_any: false }
    }

    /// Whether nothing was ever noted.
    #[inline]
    pub fn is_empty(&self) -> bool {
        !self.has_any
    }

    /// Notes until a moment that the flow of this hash came by way of `lcore`.
    pub fn note(&mut self, hash: u64, lcore: usize, until: Seconds) {
        if let Some(note) = self.notes.get_mut(hash as usize % ROOM) {
            *note = Note { hash, until, lcore: lcore as u16 };
            self.has_any = true;
        }
    }

    /// By way of which lcore a flow came. Of two flows with one hash, which are hard to come by, that of the newer.
    pub fn find(&self, hash: u64, now: Seconds) -> Option<usize> {
        let note = self.notes.get(hash as usize % ROOM)?;
        (note.hash == hash && note.until > now).then_some(usize::from(note.lcore))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_stays_for_its_time_or_until_its_place_is_taken() {
        let mut origins = Origins::new(2);
        assert!(origins.is_empty() && origins.find(0, Seconds(0)).is_none());
        origins.note(5, 1, Seconds(10));
        assert!(!origins.is_empty());
        assert_eq!((origins.find(5, Seconds(9)), origins.find(5, Seconds(10))), (Some(1), None));
        assert_eq!(origins.find(5 + ROOM as u64, Seconds(9)), None);
        origins.note(5 + ROOM as u64, 0, Seconds(10));
        assert_eq!((origins.find(5, Seconds(9)), origins.find(5 + ROOM as u64, Seconds(9))), (None, Some(0)));
    }

    #[test]
    fn one_lcore_notes_nothing() {
        let mut origins = Origins::new(1);
        origins.note(5, 0, Seconds(10));
        assert!(origins.is_empty() && origins.find(5, Seconds(0)).is_none());
    }
}
