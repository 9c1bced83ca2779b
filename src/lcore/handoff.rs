//! Frames on their way to another lcore, which may know their flow: one bounded ring an lcore.

use std::sync::Arc;

use dpdk::{Batch, Mbuf};

use crate::pipeline::Verdict;
use crate::ring::{self, Receiver, Sender};
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
    /// To all lcores, in order; its own too.
    senders: Arc<[Sender<Handed>]>,
    receiver: Receiver<Handed>,
}

impl Handoff {
    /// Those of all lcores, in order.
    pub fn of(lcores: usize) -> Vec<Self> {
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..lcores).map(|_| ring::bounded(ROOM)).unzip();
        let senders: Arc<[_]> = senders.into();
        receivers.into_iter().map(|receiver| Self { senders: senders.clone(), receiver }).collect()
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
        match self.senders.get(usize::from(to)) {
            Some(sender) => sender.push(handed).map_err(|handed| handed.frame),
            None => Err(handed.frame),
        }
    }

    /// Takes the frame that has waited longest for this lcore.
    pub fn pop(&mut self) -> Option<Handed> {
        self.receiver.pop()
    }

    /// Whether nothing waits for this lcore.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.receiver.is_empty()
    }
}
