//! Frames on their way to another lcore, which may know their flow: one bounded ring an lcore.

use std::sync::Arc;

use crossbeam_queue::ArrayQueue;
use dpdk::{Batch, Mbuf};

use crate::pipeline::Verdict;
use crate::snapshot::PortIndex;

/// Frames that may wait for an lcore.
const ROOM: usize = 1024;

/// A frame that another lcore passed on.
#[derive(Debug)]
pub struct Handed {
    pub frame: Mbuf,
    /// The port that received it.
    pub port: PortIndex,
    /// How many lcores have looked at it.
    pub lcores: u8,
}

/// An lcore's end of all the rings.
#[derive(Debug)]
pub struct Handoff {
    lcore: usize,
    rings: Arc<[ArrayQueue<Handed>]>,
}

impl Handoff {
    /// Those of all lcores, in order.
    pub fn of(lcores: usize) -> Vec<Self> {
        let rings: Arc<[_]> = (0..lcores).map(|_| ArrayQueue::new(ROOM)).collect();
        (0..lcores).map(|lcore| Self { lcore, rings: rings.clone() }).collect()
    }

    /// Passes frames of `port` on to the lcores that `verdicts` name in their order ([`Verdict::HandOver`]), after `lcores` have looked
    /// at them. What there is no room for stays in `frames`; gives which these were, in their order, a bit each.
    pub fn push_all(&self, port: PortIndex, lcores: u8, frames: &mut Batch, verdicts: &[Verdict]) -> u32 {
        let mut targets = verdicts.iter().filter_map(|verdict| match verdict {
            Verdict::HandOver(lcore) => Some(*lcore),
            _ => None,
        });
        // Out they come from the end.
        frames.reverse();
        let (mut refused, mut places) = (Batch::new(), 0);
        for place in 0..frames.len() {
            let Some(frame) = frames.pop() else { break };
            let to = targets.next().unwrap_or(u16::MAX);
            if let Err(frame) = self.push(to, Handed { frame, port, lcores }) {
                let _ = refused.push(frame); // it has room for all
                places |= 1 << place;
            }
        }
        *frames = refused;
        places
    }

    /// Passes a frame on; gives it back where the ring is full, or there is no such lcore.
    fn push(&self, to: u16, handed: Handed) -> Result<(), Mbuf> {
        match self.rings.get(usize::from(to)) {
            Some(ring) => ring.push(handed).map_err(|handed| handed.frame),
            None => Err(handed.frame),
        }
    }

    /// Takes the frame that has waited longest for this lcore.
    pub fn pop(&self) -> Option<Handed> {
        self.rings[self.lcore].pop()
    }

    /// Whether nothing waits for this lcore.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.rings[self.lcore].is_empty()
    }
}
