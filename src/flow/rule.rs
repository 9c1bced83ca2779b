//! Where a packet goes whose flow may be remembered: the rule that keeps connections.
//!
//! A flow that is remembered goes where it went, as long as its backend is there and not down. Of the others, what opens a flow goes to the
//! owner of its slot *now*, and what goes on with one to the slot's *base*, where flows are that nobody remembers. While the two differ
//! every flow of the slot is entered; at rest only what `full` wants remembered.

use super::table::{Entry, Judge, Young};
use super::{Flow, Flows, Inserted, Place, Seconds, Spot, Stage, Worth};
use crate::service::Tracking;
use crate::wire::tcp::{ACK, FIN, RST, SYN};

/// What a packet says of its flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Says {
    /// A SYN without ACK.
    Opens,
    /// FIN or RST.
    Ends,
    /// Any other segment of TCP.
    GoesOn,
    /// UDP does not say.
    Datagram,
    /// It is not the client's, or a part without a beginning: it goes where its flow goes, and is no sign of it.
    Nothing,
}

impl Says {
    /// By the flags of a TCP segment.
    #[inline(always)]
    pub const fn of_tcp(flags: u8) -> Self {
        match () {
            () if flags & (FIN | RST) != 0 => Self::Ends,
            () if flags & (SYN | ACK) == SYN => Self::Opens,
            () => Self::GoesOn,
        }
    }
}

/// What a snapshot says of a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fate {
    /// It is defined, be it down: then it may return, and so may those who were silent meanwhile.
    pub is_there: bool,
    /// It is there, and not down.
    pub keeps: bool,
    /// It is active and has weight, too.
    pub takes_new: bool,
    /// Seconds that a silent flow is remembered: by stage.
    pub idle: [u32; 3],
}

impl Fate {
    /// Of a destination that is gone.
    pub const GONE: Self = Self { is_there: false, keeps: false, takes_new: false, idle: [0; 3] };

    #[inline(always)]
    fn idle(&self, stage: Stage) -> u32 {
        self.idle[stage as usize - 1]
    }
}

/// The owners of a flow's slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    pub slot: u32,
    /// Who takes new flows; `None`: nobody.
    pub now: Option<u32>,
    /// Who takes those of this client, where its earlier ones went elsewhere. Only who is remembered can go there.
    pub settled: Option<u32>,
    /// Where flows are that nobody remembers, where that is another.
    pub base: Option<u32>,
    pub tracking: Tracking,
}

/// What is known of destinations and slots: a snapshot's part.
pub trait Known {
    fn fate(&self, destination: u32) -> Fate;
    /// Seconds that a silent flow of this stage is remembered; `None`: the destination is gone.
    fn idle(&self, destination: u32, stage: Stage) -> Option<u32> {
        let fate = self.fate(destination);
        fate.is_there.then(|| fate.idle(stage))
    }
    /// A flow that was silent for less than so many seconds is not over, whatever its destination.
    fn least_idle(&self) -> u32 {
        0
    }
    /// Whether the destination is of the service that the packet is for: its address and port may be another's by now.
    fn is_asked_for(&self, _destination: u32) -> bool {
        true
    }
    /// The base of a slot of the service that a destination is of; the owner now where nothing is held. `None`: not known.
    fn base(&self, destination: u32, slot: u32) -> Option<u32>;
    /// Notes that there was no room for a flow of this slot, of the service that the destination is of.
    fn note_no_room(&self, destination: u32, slot: u32);
}

/// Where a packet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goes {
    To(u32),
    /// Nobody may take it.
    Nowhere,
    /// There is no room to remember it, and its slot's base takes no new flow.
    Refused,
}

impl Flows {
    /// Where a flow goes that is remembered at `place`, if its backend keeps it. Notes what its packet says. `look`: what is known of a
    /// destination to which the packet may go.
    #[inline(always)]
    pub fn follow<T>(
        &mut self,
        place: Place,
        says: Says,
        now: Seconds,
        look: impl FnOnce(u32) -> Option<(Fate, T)>,
    ) -> Option<T> {
        let found = follow(self.entry(place), says, now, look);
        if found.is_none() && says == Says::Opens {
            // What comes next is of the new connection, be it in the same burst.
            self.remove(place);
        }
        found
    }

    /// Decides on a packet, and remembers what is to be remembered. `place`: where its flow is remembered. `choose` is asked where it is not,
    /// or its backend does not keep it.
    pub fn decide(
        &mut self,
        spot: Spot,
        place: Option<Place>,
        says: Says,
        now: Seconds,
        known: &impl Known,
        choose: impl FnOnce() -> Choice,
    ) -> Goes {
        let look = |destination| known.is_asked_for(destination).then(|| (known.fate(destination), destination));
        if let Some(destination) = place.and_then(|place| follow(self.entry(place), says, now, look)) {
            return Goes::To(destination);
        }
        let Choice { slot, now: owner, settled, base, tracking } = choose();
        let opens = matches!(says, Says::Opens | Says::Datagram);
        let chosen = if opens { settled.or(owner) } else { base.or(owner) };
        let enters = match tracking {
            _ if says == Says::Nothing => false,
            Tracking::None => false,
            Tracking::Transition => base.is_some(),
            // What is unknown at rest and opens nothing needs no memory: its base is the owner.
            Tracking::Full => base.is_some() || opens,
        };
        let (Some(destination), true) = (chosen, enters) else {
            if let Some(place) = place.filter(|_| says != Says::Nothing) {
                self.remove(place);
            }
            return chosen.map_or(Goes::Nowhere, Goes::To);
        };
        let stage = match says {
            Says::Opens | Says::Datagram => Stage::Opening,
            Says::GoesOn | Says::Nothing => Stage::Established,
            Says::Ends => Stage::Closing,
        };
        let flow = Flow { destination, slot, stage, seen: now.0 % Flow::SECONDS };
        if let Some(place) = place {
            self.set(place, &flow);
            return Goes::To(destination);
        }
        match self.insert(spot, &flow, &Judging { known, now }) {
            Inserted::Room => Goes::To(destination),
            Inserted::For(worth, other) => {
                if worth == Worth::Substitutable {
                    known.note_no_room(other.destination, other.slot);
                }
                Goes::To(destination)
            }
            Inserted::None => {
                known.note_no_room(destination, slot);
                match base.or(owner) {
                    Some(base) if says != Says::Opens || known.fate(base).takes_new => Goes::To(base),
                    _ => Goes::Refused,
                }
            }
        }
    }
}

/// As [`Flows::follow`], of an entry.
#[inline(always)]
fn follow<T>(entry: &Entry, says: Says, now: Seconds, look: impl FnOnce(u32) -> Option<(Fate, T)>) -> Option<T> {
    let flow = entry.flow();
    let (fate, found) = look(flow.destination)?;
    if !fate.keeps || flow.age(now) > fate.idle(flow.stage) {
        return None;
    }
    is_noted(entry, &flow, says, now, fate.takes_new).then_some(found)
}

/// Notes what a packet says of its flow, if it is of that flow.
#[inline(never)]
fn is_noted(entry: &Entry, flow: &Flow, says: Says, now: Seconds, takes_new: bool) -> bool {
    // Who opens a connection anew need not go where nothing came of the last, or where it is ending.
    let is_anew = says == Says::Opens && flow.stage != Stage::Established;
    if is_anew && !takes_new {
        return false;
    }
    let stage = if is_anew { Stage::Opening } else { after(flow.stage, says) };
    let seen = now.0 % Flow::SECONDS;
    // What says nothing new leaves the cache line as it is.
    if (stage, seen) != (flow.stage, flow.seen) && says != Says::Nothing {
        entry.put(entry.spot(), &Flow { stage, seen, ..*flow });
    }
    true
}

/// The stage after a packet of the client's.
fn after(stage: Stage, says: Says) -> Stage {
    match (stage, says) {
        (_, Says::Ends) | (Stage::Closing, _) => Stage::Closing,
        // A SYN on an established flow may be anybody's (RFC 5961).
        (_, Says::Opens | Says::Nothing) => stage,
        (_, Says::GoesOn | Says::Datagram) => Stage::Established,
    }
}

/// What is known of destinations, at this second.
pub struct Judging<'a, K> {
    pub known: &'a K,
    pub now: Seconds,
}

impl<K: Known> Judge for Judging<'_, K> {
    #[inline(always)]
    fn young(&self) -> Young {
        Young::than(self.known.least_idle(), self.now)
    }

    /// Silent for too long, or its destination is gone.
    #[inline(always)]
    fn is_over(&self, flow: &Flow) -> bool {
        self.known.idle(flow.destination, flow.stage).is_none_or(|idle| flow.age(self.now) > idle)
    }

    fn is_substitutable(&self, flow: &Flow) -> bool {
        self.known.base(flow.destination, flow.slot) == Some(flow.destination)
    }
}
