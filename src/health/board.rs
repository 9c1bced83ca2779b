//! The states of all probes that are wanted, and the verdicts to remember; shared with whoever asks for them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::probe::{Probe, Subject};
use super::state::{Failed, LastState, Look, State};

/// How long a verdict is remembered that no wanted probe confirms: more than the longest interval and timeout.
const REMEMBERED: Duration = Duration::from_secs(3 * 3600);

/// Verdicts that are remembered at most: those of all probes that a node is made for, twice.
const MOST_REMEMBERED: usize = 400_000;

#[derive(Default)]
pub struct Board {
    index: HashMap<Arc<Probe>, u32>,
    slots: Vec<Option<Slot>>,
    free: Vec<u32>,
    /// Who was found down, wanted or not.
    down: HashMap<Subject, Down>,
}

struct Slot {
    probe: Arc<Probe>,
    state: State,
    /// Services that want it.
    users: u32,
    turned: Option<Instant>,
}

struct Down {
    since: SystemTime,
    failed: Failed,
    confirmed: Instant,
}

impl Board {
    /// With what was known before a restart.
    pub fn new(last: impl IntoIterator<Item = LastState>) -> Self {
        let confirmed = Instant::now();
        let read = |last: LastState| {
            let (subject, since, failed) = last.read()?;
            Some((subject, Down { since, failed, confirmed }))
        };
        Self { down: last.into_iter().filter_map(read).take(MOST_REMEMBERED).collect(), ..Self::default() }
    }

    /// One more service wants this. Gives its place, and whether it is new.
    pub fn want(&mut self, probe: Probe) -> (u32, bool) {
        if let Some(&place) = self.index.get(&probe) {
            if let Some(slot) = &mut self.slots[place as usize] {
                slot.users += 1;
            }
            return (place, false);
        }
        let state = match self.down.get(&probe.subject) {
            Some(down) => State::down(down.since, down.failed.clone()),
            None => State::unknown(SystemTime::now()),
        };
        let probe = Arc::new(probe);
        let slot = Some(Slot { probe: probe.clone(), state, users: 1, turned: None });
        let place = match self.free.pop() {
            Some(place) => {
                self.slots[place as usize] = slot;
                place
            }
            None => {
                self.slots.push(slot);
                u32::try_from(self.slots.len() - 1).expect("fewer than 2^32 probes")
            }
        };
        self.index.insert(probe, place);
        (place, true)
    }

    /// One service less wants it; says whether it was the last.
    pub fn release(&mut self, place: u32) -> bool {
        let entry = &mut self.slots[place as usize];
        let Some(slot) = entry else { return false };
        slot.users -= 1;
        if slot.users > 0 {
            return false;
        }
        self.index.remove(&slot.probe);
        *entry = None;
        self.free.push(place);
        true
    }

    /// Counts how a probe ended; says whether that turned its verdict.
    pub fn count(&mut self, place: u32, look: Look) -> bool {
        let Some(slot) = &mut self.slots[place as usize] else { return false };
        let turned = slot.state.count(look, &slot.probe.rhythm);
        if turned {
            slot.turned = Some(Instant::now());
        }
        let subject = &slot.probe.subject;
        match (slot.state.up, &slot.state.failed) {
            (false, Some(failed)) => {
                let down = Down { since: slot.state.since, failed: failed.clone(), confirmed: Instant::now() };
                if self.down.len() < MOST_REMEMBERED || self.down.contains_key(subject) {
                    self.down.insert(subject.clone(), down);
                }
            }
            _ if turned => drop(self.down.remove(subject)),
            _ => {}
        }
        turned
    }

    /// Forgets who was found down long ago and is wanted no more.
    pub fn forget_old(&mut self) {
        self.down.retain(|_, down| down.confirmed.elapsed() < REMEMBERED);
    }

    pub fn probe(&self, place: u32) -> Option<&Arc<Probe>> {
        self.slots[place as usize].as_ref().map(|slot| &slot.probe)
    }

    pub fn state_at(&self, place: u32) -> Option<&State> {
        self.slots[place as usize].as_ref().map(|slot| &slot.state)
    }

    /// Whether its verdict turned at that moment or after.
    pub fn turned_since(&self, place: u32, moment: Instant) -> bool {
        self.slots[place as usize].as_ref().is_some_and(|slot| slot.turned >= Some(moment))
    }

    pub fn state(&self, probe: &Probe) -> Option<&State> {
        self.state_at(*self.index.get(probe)?)
    }

    /// Of a probe that is not wanted yet, too: then what is remembered.
    pub fn is_up(&self, probe: &Probe) -> bool {
        // Mostly nobody is, and a change of definitions asks for many.
        self.down.is_empty()
            || self.state(probe).map_or_else(|| !self.down.contains_key(&probe.subject), |state| state.up)
    }

    pub fn last_states(&self) -> Vec<LastState> {
        self.down.iter().map(|(subject, down)| LastState::new(subject, down.since, &down.failed)).collect()
    }

    /// Room for probes, free or not.
    #[cfg(test)]
    pub fn places(&self) -> usize {
        self.slots.len()
    }

    pub fn len(&self) -> usize {
        self.index.len()
    }
}
