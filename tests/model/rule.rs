//! The connection rule (DESIGN §6) as a small state machine that sees everything: one entry a flow wherever its packets come, as
//! many as there are flows, and for each client where its slot is.
//!
//! A slot is seen through the clients whose hash falls into it, so that a table of another size is nothing special.
//!
//! Where the rule leaves words open, this is how they are read here:
//! * Time counts in whole seconds of the clock: of a packet only the second is known in which it came. Since a flow must be kept that is
//!   silent for less than its timeout, it is over when more seconds than that lie between those of two packets.
//! * `tcp_closing` is the timeout of a flow that never got past its SYN, and of one that is closing; `udp` of all of UDP.
//! * Any packet of a flow counts as a sign of life. The first one after the SYN that is none itself establishes the flow; FIN and RST
//!   close it for good, until a SYN on it that follows its entry begins it anew.
//! * Whoever is chosen anew does not have the old entry any more, also where there is no new one.
//! * `full` does not enter a flow that it meets in mid-stream while its slot is at rest: it would go there without an entry, too.
//! * An ICMP error goes where the flow's next packet would (not a SYN), and leaves no trace; so does a later fragment.
//! * A slot that nobody owned has no base to keep: that of its next owner is its owner.

use std::collections::HashMap;
use std::hash::Hash;
use std::rc::Rc;

use penstock::service::Tracking;

/// A backend of a service from the moment it is added until it is removed. The same address added anew is another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Backend {
    pub number: u8,
    pub life: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Active,
    /// Or of weight 0.
    KeepsOnly,
    Down,
}

/// Seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Idle {
    pub tcp: u64,
    pub closing: u64,
    pub udp: u64,
}

/// What the rule asks of a service's definition.
#[derive(Debug, Clone, PartialEq)]
pub struct Definition {
    pub tracking: Tracking,
    pub is_tcp: bool,
    pub idle: Idle,
    pub backends: HashMap<Backend, Standing>,
}

impl Definition {
    pub fn keeps(&self, backend: Backend) -> bool {
        self.backends.get(&backend).is_some_and(|&standing| standing != Standing::Down)
    }

    pub fn takes_new(&self, backend: Backend) -> bool {
        self.backends.get(&backend) == Some(&Standing::Active)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    pub now: Option<Backend>,
    pub base: Option<Backend>,
}

/// A service as published: what an lcore that has adopted it knows of it.
#[derive(Debug, Clone)]
pub struct View {
    pub definition: Definition,
    /// By client.
    pub slots: Vec<Slot>,
}

/// By service; `None`: there is no such service.
pub type Views = Rc<Vec<Option<View>>>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deadline {
    None,
    /// For all lcores to adopt the change.
    Awaited,
    /// Milliseconds.
    At(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Opening,
    Established,
    Closing,
}

#[derive(Debug, Clone, Copy)]
pub struct Entry {
    pub backend: Backend,
    pub stage: Stage,
    /// The second of its last packet.
    pub last: u64,
}

/// What a packet says of its flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Says {
    Syn,
    GoesOn,
    Ends,
    Datagram,
    /// An ICMP error or a later fragment.
    Nothing,
}

/// Service and client.
pub type Flow = (usize, usize);

#[derive(Debug, Default)]
pub struct Rule {
    pub newest: Views,
    pub deadlines: HashMap<Flow, Deadline>,
    pub entries: HashMap<Flow, Entry>,
}

impl Rule {
    /// New definitions, and who owns each client's slot by them.
    pub fn publish(&mut self, definitions: Vec<Option<(Definition, Vec<Option<Backend>>)>>) -> Views {
        let mut views = Vec::new();
        for (service, definition) in definitions.into_iter().enumerate() {
            let before = self.newest.get(service).cloned().flatten();
            let Some((definition, owners)) = definition else {
                self.forget(service);
                views.push(None);
                continue;
            };
            if definition.tracking == Tracking::None {
                self.forget(service);
            }
            let mut slots = Vec::new();
            for (client, &now) in owners.iter().enumerate() {
                let deadline = self.deadlines.entry((service, client)).or_insert(Deadline::None);
                let held = before.as_ref().and_then(|before| before.slots[client].base);
                let mut base = held.filter(|&base| definition.keeps(base));
                if base.is_none() || definition.tracking == Tracking::None {
                    base = now;
                }
                match *deadline {
                    _ if base == now => *deadline = Deadline::None,
                    Deadline::None => *deadline = Deadline::Awaited,
                    _ => {}
                }
                slots.push(Slot { now, base });
            }
            views.push(Some(View { definition, slots }));
        }
        self.newest = Rc::new(views);
        self.newest.clone()
    }

    fn forget(&mut self, service: usize) {
        self.deadlines.retain(|&(of, _), _| of != service);
        self.entries.retain(|&(of, _), _| of != service);
    }

    /// All lcores have adopted what is newest, at this moment.
    pub fn adopted(&mut self, at: u64) {
        for (&(service, _), deadline) in &mut self.deadlines {
            if let (Deadline::Awaited, Some(view)) = (*deadline, &self.newest[service]) {
                *deadline = Deadline::At(at + view.definition.idle.tcp * 1000);
            }
        }
    }

    /// The moment of the next deadline.
    pub fn next_move(&self) -> Option<u64> {
        self.deadlines
            .values()
            .filter_map(|&deadline| if let Deadline::At(at) = deadline { Some(at) } else { None })
            .min()
    }

    /// At the deadline base := now.
    pub fn move_bases(&mut self, at: u64) -> Views {
        let mut views = (*self.newest).clone();
        for (&(service, client), deadline) in &mut self.deadlines {
            if let (Deadline::At(due), Some(view)) = (*deadline, &mut views[service])
                && due <= at
            {
                view.slots[client].base = view.slots[client].now;
                *deadline = Deadline::None;
            }
        }
        self.newest = Rc::new(views);
        self.newest.clone()
    }

    /// Forgets what is over.
    pub fn sweep(&mut self, at: u64) {
        let newest = self.newest.clone();
        self.entries.retain(|&(service, _), entry| {
            newest[service].as_ref().is_some_and(|view| !Self::is_over(&view.definition, entry, at))
        });
    }

    fn is_over(definition: &Definition, entry: &Entry, at: u64) -> bool {
        let timeout = match entry.stage {
            _ if !definition.is_tcp => definition.idle.udp,
            Stage::Established => definition.idle.tcp,
            Stage::Opening | Stage::Closing => definition.idle.closing,
        };
        at / 1000 - entry.last > timeout
    }

    /// The entry of a flow, if it is to be followed.
    pub fn live(&self, view: &View, flow: Flow, at: u64) -> Option<Entry> {
        let definition = &view.definition;
        let entry = *self.entries.get(&flow)?;
        let is_live = !Self::is_over(definition, &entry, at) && definition.keeps(entry.backend);
        (definition.tracking != Tracking::None && is_live).then_some(entry)
    }

    /// Where a packet goes at a moment, to an lcore that knows `view`.
    pub fn packet(&mut self, view: &View, flow: Flow, says: Says, at: u64) -> Option<Backend> {
        let definition = &view.definition;
        let Slot { now, base } = view.slots[flow.1];
        let live = self.live(view, flow, at);
        if says == Says::Nothing {
            return live.map(|entry| entry.backend).or(if definition.is_tcp { base } else { now });
        }
        let is_chosen_anew = |entry: Entry| {
            says == Says::Syn && entry.stage != Stage::Established && !definition.takes_new(entry.backend)
        };
        if let Some(entry) = live.filter(|&entry| !is_chosen_anew(entry)) {
            let stage = match (says, entry.stage) {
                (Says::Ends, _) => Stage::Closing,
                (Says::Syn, Stage::Closing) => Stage::Opening,
                (Says::GoesOn | Says::Datagram, Stage::Opening) => Stage::Established,
                (_, stage) => stage,
            };
            self.entries.insert(flow, Entry { stage, last: at / 1000, ..entry });
            return Some(entry.backend);
        }
        self.entries.remove(&flow);
        let is_new = matches!(says, Says::Syn | Says::Datagram);
        let chosen = if is_new { now } else { base };
        let is_entered = match definition.tracking {
            Tracking::Full => is_new || base != now,
            Tracking::Transition => base != now,
            Tracking::None => false,
        };
        if let (Some(backend), true) = (chosen, is_entered) {
            let stage = match says {
                Says::GoesOn => Stage::Established,
                Says::Ends => Stage::Closing,
                _ => Stage::Opening,
            };
            self.entries.insert(flow, Entry { backend, stage, last: at / 1000 });
        }
        chosen
    }
}
