//! The packets of a burst that belong to services, stage by stage: arrays that each stage reads and writes as a whole, so that
//! it keeps what it needs in registers, and the cache misses of different packets overlap.

use super::matching;
use super::parse::{Flow, Parsed};
use super::{BURST, Verdict};
use crate::counters::Traffic;
use crate::maglev::Client;
use crate::mode::{Identification, Packet};
use crate::snapshot::{PortIndex, ServiceIndex, Snapshot, Target};
use crate::wire::{Frame, Mac};

/// The packets of a burst that belong to services, on their way through the stages.
///
/// Packets of a flow come in trains, one behind the other: what is found for the first of a train holds for all of it.
#[derive(Debug)]
pub struct Burst {
    /// How many frames there are.
    frames: usize,
    /// By the frame's place: its train, or [`NO_TRAIN`].
    trains: [u8; BURST],
    /// By the frame's place, where it has a train.
    lengths: [u16; BURST],
    /// How many trains there are. What follows is by train.
    count: usize,
    flows: [Flow; BURST],
    packets: [Packet; BURST],
    services: [ServiceIndex; BURST],
    clients: [Client; BURST],
    hashes: [u64; BURST],
    /// What goes on to the target: all that came, less what is refused on the way.
    sent: [Sum; BURST],
}

const NO_TRAIN: u8 = u8::MAX;

/// Packets, and their bytes of IP.
#[derive(Debug, Clone, Copy)]
struct Sum {
    packets: u32,
    bytes: u32,
}

/// The ports by which the frames of a burst are forwarded.
struct Ports {
    /// The bits that any of them has, and those that all have.
    any: u8,
    all: u8,
    /// Some are not forwarded.
    others: bool,
}

impl Ports {
    const NONE: Self = Self { any: 0, all: u8::MAX, others: false };

    #[inline(always)]
    pub fn add(&mut self, port: PortIndex) {
        self.any |= port.0;
        self.all &= port.0;
    }

    /// The one port, if it is one and all are forwarded.
    #[inline(always)]
    fn only(&self) -> Option<PortIndex> {
        (self.any == self.all && !self.others).then_some(PortIndex(self.any))
    }
}

impl Burst {
    pub const EMPTY: Self = Self {
        frames: 0,
        trains: [NO_TRAIN; BURST],
        lengths: [0; BURST],
        count: 0,
        flows: [Flow::NONE; BURST],
        packets: [Parsed::NOTHING.packet; BURST],
        services: [ServiceIndex::NONE; BURST],
        clients: [Client::NONE; BURST],
        hashes: [0; BURST],
        sent: [Sum { packets: 0, bytes: 0 }; BURST],
    };

    /// Reads what is plain, and gives the places of what is not, a bit each.
    #[inline(always)]
    pub fn parse<F: Frame>(&mut self, frames: &[F], station: Mac) -> u32 {
        let station = station.bits();
        for frame in frames {
            frame.prefetch();
        }
        let mut others = 0_u32;
        let mut last = Flow::NONE;
        let mut count = 0;
        for (at, frame) in frames.iter().enumerate() {
            let at = at % BURST;
            let Some((total, flow)) = Parsed::plain(frame.bytes(), station) else {
                self.trains[at] = NO_TRAIN;
                others |= 1 << at;
                continue;
            };
            if flow != last {
                self.flows[count % BURST] = flow;
                self.sent[count % BURST] = Sum { packets: 0, bytes: 0 };
                count += 1;
                last = flow;
            }
            let current = (count - 1) % BURST;
            self.trains[at] = current as u8;
            self.lengths[at] = total;
            self.sent[current].packets += 1;
            self.sent[current].bytes += u32::from(total);
        }
        (self.frames, self.count) = (frames.len().min(BURST), count.min(BURST));
        others
    }

    /// Matches the trains. Those that are not plainly a service's are broken up; gives the places of their frames.
    #[inline(always)]
    pub fn find(&mut self, snapshot: &Snapshot) -> u32 {
        let mut others = 0;
        for train in 0..self.count {
            let flow = self.flows[train];
            match matching::find_plain(flow, snapshot) {
                Some(service) => {
                    self.packets[train] = flow.packet();
                    self.services[train] = service;
                    self.clients[train] = Client::v4(flow.source(), flow.source_port());
                }
                None => others |= self.break_up(train),
            }
        }
        others
    }

    /// Takes the packets out of a train; gives their places.
    #[cold]
    fn break_up(&mut self, train: usize) -> u32 {
        self.services[train] = ServiceIndex::NONE;
        self.sent[train] = Sum { packets: 0, bytes: 0 };
        let mut places = 0;
        for (at, of) in self.trains[..self.frames].iter_mut().enumerate() {
            if usize::from(*of) == train {
                *of = NO_TRAIN;
                places |= 1 << at;
            }
        }
        places
    }

    /// Adds a packet, a train of its own.
    pub fn add(&mut self, at: usize, parsed: &Parsed, service: ServiceIndex) {
        debug_assert!(self.count < BURST, "no more trains than frames: of those broken up nothing comes back");
        let train = self.count % BURST;
        self.count = train + 1;
        self.trains[at] = train as u8;
        self.lengths[at] = parsed.packet.total;
        self.packets[train] = parsed.packet;
        self.services[train] = service;
        self.clients[train] = Client::v4(parsed.source, parsed.source_port);
        self.sent[train] = Sum { packets: 1, bytes: u32::from(parsed.packet.total) };
    }

    /// Finds every train's target: first all hashes, then all slots, whose cache misses overlap.
    #[inline(always)]
    pub fn select<'a>(&mut self, snapshot: &'a Snapshot, targets: &mut [&'a Target; BURST]) {
        snapshot.hash().clients(&self.clients, &mut self.hashes, self.count);
        for (train, target) in targets[..self.count].iter_mut().enumerate() {
            *target = snapshot.target(snapshot.select(self.services[train], self.hashes[train]));
        }
    }

    /// Sends each packet to its train's target. Gives the port by which all frames go, where it is one.
    #[inline(always)]
    pub fn apply<F: Frame>(
        &mut self,
        frames: &mut [F],
        targets: &[&Target; BURST],
        id: &mut Identification,
        verdicts: &mut [Verdict; BURST],
    ) -> Option<PortIndex> {
        let mut ports = Ports::NONE;
        let places = self.trains.iter().zip(&self.lengths).zip(verdicts);
        for (frame, ((&train, &total), verdict)) in frames.iter_mut().zip(places) {
            let train = usize::from(train);
            if train >= BURST {
                ports.others = true;
                continue;
            }
            let packet = Packet { total, ..self.packets[train] };
            let mode = targets[train].mode.as_ref();
            *verdict = match mode.map_err(|&reason| reason).and_then(|mode| mode.apply(frame, packet, id)) {
                Ok(port) => {
                    ports.add(port);
                    Verdict::Forward(port)
                }
                Err(reason) => {
                    ports.others = true;
                    self.sent[train].packets -= 1;
                    self.sent[train].bytes -= u32::from(total);
                    Verdict::Drop(reason)
                }
            };
        }
        ports.only()
    }

    /// Counts what went to the targets.
    #[inline(always)]
    pub fn count(&self, targets: &[&Target; BURST], traffic: &Traffic) {
        let count = self.count.min(BURST);
        for (target, sent) in targets[..count].iter().zip(&self.sent[..count]) {
            let cell = traffic.cell(target.traffic);
            cell.packets.add(u64::from(sent.packets));
            cell.bytes.add(u64::from(sent.bytes));
        }
    }
}
