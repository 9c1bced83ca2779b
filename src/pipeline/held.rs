//! Later fragments that came before their first, and wait for it: `[fragments] hold`.

use std::collections::VecDeque;

use super::fragments::Fragments;
use super::parse::{Datagram, Parsed};
use crate::mode::PortIndex;
use crate::snapshot::Millis;
use crate::wire::Frame;

/// Frames that wait at once; what is more is dropped as if nothing waited.
const ROOM: usize = 256;

/// Frames of one lcore, the oldest first. Whoever runs the pipeline owns the frames, and so this.
#[derive(Debug)]
pub struct Held<F> {
    waiting: VecDeque<Waiting<F>>,
    /// How many first fragments had come when none was found to be waited for.
    looked_at: u64,
}

#[derive(Debug)]
struct Waiting<F> {
    frame: F,
    port: PortIndex,
    datagram: Datagram,
    until: Millis,
}

impl<F> Default for Held<F> {
    fn default() -> Self {
        Self { waiting: VecDeque::with_capacity(ROOM), looked_at: 0 }
    }
}

impl<F: Frame> Held<F> {
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Keeps a frame that was received on `port` until the moment `until`, or gives it back where there is no room.
    pub fn keep(&mut self, frame: F, port: PortIndex, until: Millis) -> Result<(), F> {
        match Parsed::again(frame.bytes()).datagram {
            Some(datagram) if self.waiting.len() < ROOM => {
                self.waiting.push_back(Waiting { frame, port, datagram, until });
                Ok(())
            }
            _ => Err(frame),
        }
    }

    /// Takes out the oldest whose first fragment has come, or whose time is over, and says where it was received.
    pub(super) fn next(&mut self, fragments: &Fragments, now: Millis) -> Option<(F, PortIndex)> {
        // All wait equally long, so the oldest is the first whose time is over.
        if self.waiting.front().is_some_and(|oldest| now > oldest.until) {
            return self.waiting.pop_front().map(|oldest| (oldest.frame, oldest.port));
        }
        if fragments.count() == self.looked_at {
            return None;
        }
        let is_due = |waiting: &Waiting<F>| fragments.ports(&waiting.datagram, now).is_some();
        let Some(place) = self.waiting.iter().position(is_due) else {
            self.looked_at = fragments.count();
            return None;
        };
        self.waiting.remove(place).map(|waiting| (waiting.frame, waiting.port))
    }
}
