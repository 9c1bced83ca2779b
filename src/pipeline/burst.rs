//! The packets of a burst that belong to services, stage by stage: arrays that each stage reads and writes as a whole, so that
//! it keeps what it needs in registers, and the cache misses of different packets overlap.

mod read;
mod translated;
mod v6;

use std::net::{IpAddr, Ipv4Addr};

use super::matching::{self, Last, Together};
use super::parse::{Parsed, Tuple};
use super::recall::{self, Train, View};
use super::refusal::Refused;
use super::translation::Outward;
use super::words::{Words, WordsV6};
use super::{BURST, Verdict};
use crate::counters::{Reason, Traffic};
use crate::flow::{Bucket, Flows, Home, Judging, Marks, Says, Spot, prefetch};
use crate::maglev::Client;
use crate::mode::{AgainV4, Packet, Prepared, State, StraightV4};
use crate::service::{Hash, Service};
use crate::snapshot::{Owner, PortIndex, ServiceIndex, Snapshot, Target, TargetIndex};
use crate::wire::Frame;
use translated::Way;

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
    /// The trains that were found plain, a bit each, those that were so over IPv6, and those that were broken up or refused, whose places are free.
    plain: u32,
    plain_v6: u32,
    free: u32,
    /// Of the plain ones, and of those that are so over IPv6.
    flows: Words,
    flows_v6: WordsV6,
    /// Of the others, which have one packet.
    packets: [Packet; BURST],
    services: [ServiceIndex; BURST],
    /// The service of all plain ones of one family, where it was found to be one.
    sole: Option<ServiceIndex>,
    clients: [Client; BURST],
    hashes: [u64; BURST],
    /// The trains that are chosen for otherwise, a bit each, and how.
    special: u32,
    choices: [Choice; BURST],
    /// Of these, the plain ones whose flow has a translation, a bit each, and where they go instead.
    translated: u32,
    ways: [Way; BURST],
    /// The trains whose flow may be remembered, a bit each, and where it is looked for.
    asked: u32,
    /// Whether the flows of most plain ones may be remembered. Those of the next burst are then asked for before it is known whose they are: what is
    /// fetched for them is on its way sooner.
    was_recalled: bool,
    is_ahead: bool,
    /// Whether each frame is plain, and a train of its own: train and place are the same then. The next burst is first looked at as if it were so.
    is_apart: bool,
    /// Whether all are one train, which was not broken up. The next burst is first looked at as if it were so.
    is_one: bool,
    /// Whether all were plain over IPv6. The next burst is then first looked at as if it were so.
    was_v6: bool,
    /// Whether some of these, or of the translated, are neither plain nor so over IPv6: then frames are asked for, and translated, in their order,
    /// since one may change what is known of the next. (Of two flows of different families that order tells nothing but who takes the last room.)
    is_mixed: bool,
    spots: [Spot; BURST],
    /// Of those that are asked for, but where the burst is mixed, the bucket that is looked at first.
    homes: [Home; BURST],
    /// Of these, the trains that open or end their flow, where there are any which flows these are, and the trains whose flow was looked for and
    /// not found.
    telling: u32,
    marks: Marks,
    absent: u32,
    /// What those say that are not plain.
    says: [Says; BURST],
    /// What goes on to the target: all that came, less what is refused on the way.
    sent: [Sum; BURST],
}

const NO_TRAIN: u8 = u8::MAX;

/// Each frame a train of its own.
const APART: [u8; BURST] = {
    let (mut trains, mut at) = ([0; BURST], 0);
    while at < BURST {
        trains[at] = at as u8;
        at += 1;
    }
    trains
};

const NOBODY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// How a train is chosen for that is neither plain nor an IPv4 client's to a service which goes by address and port.
#[derive(Debug, Clone, Copy)]
struct Choice {
    /// The hash of the client's address and port.
    client: u64,
    /// The hash that the slot is found by.
    slot: u64,
    /// The target, where the packet itself names it.
    target: Option<TargetIndex>,
    source: IpAddr,
}

/// The lowest bit's number, and the bit off.
#[inline(always)]
fn take_bit(bits: &mut u32) -> usize {
    let at = bits.trailing_zeros() as usize % BURST;
    *bits &= bits.wrapping_sub(1);
    at
}

/// Of trains that were looked for in one bucket each, a bit each.
#[derive(Debug, Clone, Copy)]
struct Settled {
    /// Those whose target is found.
    trains: u32,
    /// Those whose flow is not in that bucket.
    elsewhere: u32,
}

impl Settled {
    const NONE: Self = Self { trains: 0, elsewhere: 0 };
}

/// What is left to ask of a train.
enum Asking {
    /// It is a service's.
    Nothing,
    /// Each of its packets may name a server, change what is known of the flow, be a reply, or be refused.
    EachPacket,
    /// It is for a VIP, and no service's.
    NoService,
}

/// Whether each packet of a service must be looked at by itself.
fn needs_each(service: &Service) -> bool {
    service.hash == Hash::QuicCid || service.forwarding.nature().keeps_flows
}

/// Packets of a burst, and their bytes of IP, in one word.
#[derive(Debug, Clone, Copy)]
struct Sum(u64);

impl Sum {
    const NOTHING: Self = Self::new(0, 0);

    #[inline(always)]
    const fn new(packets: u32, bytes: u32) -> Self {
        Self((packets as u64) << 32 | bytes as u64)
    }

    /// More of them; a burst has fewer bytes than 2^32.
    #[inline(always)]
    fn add(&mut self, more: Self) {
        self.0 += more.0;
    }

    /// Some less.
    fn take(&mut self, less: Self) {
        self.0 -= less.0;
    }

    #[inline(always)]
    const fn packets(self) -> u32 {
        (self.0 >> 32) as u32
    }

    #[inline(always)]
    const fn bytes(self) -> u32 {
        self.0 as u32
    }
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

/// Sends the packets of one train that stand behind each other from `first` on; gives the place of the first that is not of it, and those that
/// cannot go straight, a bit each. With the instructions that this CPU has.
#[multiversion::multiversion(targets("x86_64+avx2+bmi1+bmi2+lzcnt+movbe+popcnt"))]
#[inline(never)]
fn send_train<F: Frame>(
    burst: &Burst,
    outer: &StraightV4,
    frames: &mut [F],
    first: usize,
    state: &mut State,
) -> (usize, u32) {
    let count = frames.len().min(BURST);
    let train = burst.trains[first % BURST];
    let behind = &burst.trains[first % BURST..count];
    let end = if burst.is_one { count } else { first + behind.iter().take_while(|&&other| other == train).count() };
    let (mut refused, mut at) = (0, first);
    while at < end {
        let (frame, total) = (&mut frames[at], burst.lengths[at]);
        let is_sent = outer.wrap_v4(frame, total, state).is_ok();
        refused |= u32::from(!is_sent) << at;
        at += 1;
        // Most of a train are alike.
        let (sent, rest) = frames[..end].split_at_mut(at);
        if is_sent
            && !rest.is_empty()
            && let Some(again) = AgainV4::of(&sent[at - 1], total)
        {
            at += send_alike(rest, &again);
        }
    }
    (at, refused)
}

/// Sends the first of these packets as one before them, up to one that is not alike; gives how many. With the instructions that this CPU has.
#[multiversion::multiversion(targets("x86_64+avx2+bmi1+bmi2+lzcnt+movbe+popcnt"))]
#[inline(never)]
fn send_alike<F: Frame>(frames: &mut [F], again: &AgainV4) -> usize {
    again.wrap_all(frames)
}

/// Sends each packet to its own target; gives those that cannot go straight, a bit each. With the instructions that this CPU has.
#[multiversion::multiversion(targets("x86_64+avx2+bmi1+bmi2+lzcnt+movbe+popcnt"))]
#[inline(never)]
fn send_each<F: Frame>(frames: &mut [F], targets: &[&Target; BURST], lengths: &[u16; BURST], state: &mut State) -> u32 {
    let mut others = 0;
    for (at, ((frame, target), &total)) in frames.iter_mut().zip(targets).zip(lengths).enumerate() {
        if target.mode.straight().is_none_or(|outer| outer.wrap_v4(frame, total, state).is_err()) {
            others |= 1 << at;
        }
    }
    others
}

/// As [`Burst::select_or_recall`], with the instructions that this CPU has.
#[multiversion::multiversion(targets("x86_64+avx2+bmi1+bmi2+lzcnt+movbe+popcnt"))]
fn select_or_recall<'a>(
    burst: &mut Burst,
    snapshot: &'a Snapshot,
    state: &mut State,
    targets: &mut [&'a Target; BURST],
) {
    burst.select_or_recall(snapshot, state, targets);
}

impl Burst {
    pub const EMPTY: Self = Self {
        frames: 0,
        trains: [NO_TRAIN; BURST],
        lengths: [0; BURST],
        count: 0,
        plain: 0,
        plain_v6: 0,
        free: 0,
        flows: Words::NONE,
        flows_v6: WordsV6::NONE,
        packets: [Parsed::NOTHING.packet; BURST],
        services: [ServiceIndex::NONE; BURST],
        sole: None,
        clients: [Client::NONE; BURST],
        hashes: [0; BURST],
        special: 0,
        choices: [Choice { client: 0, slot: 0, target: None, source: NOBODY }; BURST],
        translated: 0,
        ways: [Way::NONE; BURST],
        asked: 0,
        was_recalled: false,
        is_ahead: false,
        is_apart: false,
        is_one: false,
        was_v6: false,
        is_mixed: false,
        spots: [Spot::NONE; BURST],
        homes: [Home::NONE; BURST],
        telling: 0,
        marks: Marks::NONE,
        absent: 0,
        says: [Says::Nothing; BURST],
        sent: [Sum::NOTHING; BURST],
    };

    /// All trains, a bit each.
    #[inline(always)]
    fn all(&self) -> u32 {
        ((1_u64 << self.count) - 1) as u32
    }

    /// Matches the trains. Those that are not plainly a service's are broken up; gives the places of their frames, but for those that are refused.
    #[inline(always)]
    pub fn find(&mut self, snapshot: &Snapshot, state: &State, verdicts: &mut [Verdict; BURST]) -> u32 {
        self.sole = None;
        match matching::find_together(&self.flows, self.count, snapshot) {
            Together::Of(service, recalls) => {
                // All places: their number is known, and takes a few stores.
                self.services.fill(service);
                self.sole = Some(service);
                (self.asked, self.was_recalled) = (self.all() & recalls, recalls != 0);
                0
            }
            Together::OfNone => {
                (self.asked, self.was_recalled) = (0, false);
                self.find_rest(self.all(), snapshot, state, verdicts)
            }
            Together::Apart => self.find_each(snapshot, state, verdicts),
        }
    }

    /// The same, one by one.
    #[inline(never)]
    fn find_each(&mut self, snapshot: &Snapshot, state: &State, verdicts: &mut [Verdict; BURST]) -> u32 {
        let (mut asked, mut rest, mut last) = (0, 0, Last::NONE);
        let mut bit = 1_u32;
        for (train, service) in self.services[..self.count].iter_mut().enumerate() {
            match last.find_plain(self.flows.get(train), snapshot) {
                Some((found, recalls)) => {
                    *service = found;
                    asked |= bit & recalls;
                }
                None => rest |= bit,
            }
            bit <<= 1;
        }
        (self.asked, self.was_recalled) = (asked, asked.count_ones() as usize * 2 > self.count);
        if rest == 0 { 0 } else { self.find_rest(rest, snapshot, state, verdicts) }
    }

    /// Matches the trains of `rest`, a bit each.
    #[inline(never)]
    fn find_rest(&mut self, mut rest: u32, snapshot: &Snapshot, state: &State, verdicts: &mut [Verdict; BURST]) -> u32 {
        if !state.nat.v4.is_empty() {
            rest = self.find_translated(rest, snapshot, state);
        }
        let (mut broken, mut refused) = (0, 0);
        while rest != 0 {
            let train = take_bit(&mut rest);
            match self.find_other(train, snapshot) {
                Asking::Nothing => {}
                Asking::EachPacket => broken |= 1 << train,
                Asking::NoService => refused |= 1 << train,
            }
        }
        if broken | refused == 0 {
            return 0;
        }
        let (broken, mut refused) = (self.break_up(broken), self.break_up(refused));
        while refused != 0 {
            verdicts[take_bit(&mut refused)] = Verdict::Drop(Reason::NoService);
        }
        broken
    }

    /// Frees the places of these trains, a bit each; gives their frames.
    fn break_up(&mut self, trains: u32) -> u32 {
        if trains == 0 {
            return 0;
        }
        (self.plain, self.plain_v6) = (self.plain & !trains, self.plain_v6 & !trains);
        self.free |= trains;
        (self.is_apart, self.is_one) = (false, false);
        let mut bits = trains;
        while bits != 0 {
            let train = take_bit(&mut bits);
            (self.services[train], self.sent[train]) = (ServiceIndex::NONE, Sum::NOTHING);
        }
        let mut frames = 0;
        for (at, train) in self.trains.iter_mut().enumerate().take(self.frames) {
            // Of no train: no bit.
            if 1_u32.checked_shl((*train).into()).unwrap_or(0) & trains != 0 {
                *train = NO_TRAIN;
                frames |= 1 << at;
            }
        }
        frames
    }

    /// Matches a train of a service that asks for more than its table.
    fn find_other(&mut self, train: usize, snapshot: &Snapshot) -> Asking {
        let plain = self.flows.get(train);
        let flow = plain.tuple();
        let may_be_reply = || snapshot.sources().owner(flow.destination, flow.destination_port).is_some();
        let found = snapshot.service(flow.destination, flow.destination_port, flow.protocol);
        let Some(service) = found.map(|found| found.service) else {
            // As `matching::find` says.
            let is_nobodys = snapshot.is_vip_v4(plain.destination()) && !snapshot.is_vip_v4(plain.source());
            return if is_nobodys && !may_be_reply() { Asking::NoService } else { Asking::EachPacket };
        };
        let is_refused = !snapshot.accepts(service, flow.source) || snapshot.owner(flow.source) == Owner::Vip;
        if is_refused || needs_each(snapshot.definition(service)) || may_be_reply() {
            return Asking::EachPacket;
        }
        self.services[train] = service;
        self.choose(train, &flow, None, snapshot);
        self.asked |= u32::from(snapshot.recalls_of(service)) << train;
        Asking::Nothing
    }

    /// What the packets of a train say of their flow.
    fn says(&self, train: usize) -> Says {
        if self.plain & 1 << train != 0 { self.flows.get(train).says() } else { self.says[train] }
    }

    /// Adds a packet that is translated, a train of its own: the translation takes the place of the hash.
    pub fn add_translated(&mut self, at: usize, parsed: &Parsed, service: ServiceIndex, way: Outward) {
        let train = self.begin_special(at, parsed.packet, service);
        let slot = way.slot.map_or(0, |slot| u64::from(slot.0));
        self.choices[train] = Choice { client: slot, slot, target: Some(way.target), source: NOBODY };
        self.special |= 1 << train;
        self.is_mixed = true;
    }

    /// Notes how the train's target will be chosen.
    fn choose(&mut self, train: usize, flow: &Tuple, target: Option<TargetIndex>, snapshot: &Snapshot) {
        let (hash, service) = (snapshot.hash(), snapshot.definition(self.services[train]));
        let by_client = service.hash != Hash::SourceIp;
        match flow.source {
            IpAddr::V4(source) if by_client && target.is_none() => {
                self.clients[train] = Client::v4(source, flow.source_port)
            }
            source => {
                let client = hash.end(source, flow.source_port);
                let slot = if by_client { client } else { hash.source(source) };
                self.choices[train] = Choice { client, slot, target, source };
                self.special |= 1 << train;
            }
        }
    }

    /// Adds a packet, a train of its own; `target`: whom it names itself; `asked`: where its flow may be remembered, and what it says of it.
    pub fn add(
        &mut self,
        at: usize,
        parsed: &Parsed,
        service: ServiceIndex,
        target: Option<TargetIndex>,
        asked: Option<(Spot, Says)>,
        snapshot: &Snapshot,
    ) {
        let train = self.begin_special(at, parsed.packet, service);
        if let Some((spot, says)) = asked {
            self.ask_for(train, spot, says);
            self.is_mixed = true;
        }
        self.choose(train, &parsed.flow, target, snapshot);
    }

    /// Notes where the flow of a train that is not plain may be remembered, and what it says of it.
    #[inline(always)]
    fn ask_for(&mut self, train: usize, spot: Spot, says: Says) {
        self.says[train] = says;
        self.spots[train] = spot;
        self.asked |= 1 << train;
        self.telling |= u32::from(matches!(says, Says::Opens | Says::Ends)) << train;
    }

    /// Begins a train that is not plain, with one packet.
    fn begin_special(&mut self, at: usize, packet: Packet, service: ServiceIndex) -> usize {
        let train = self.begin(at, packet.total, service);
        self.packets[train] = packet;
        train
    }

    /// Begins a train, with one packet.
    #[inline(always)]
    fn begin(&mut self, at: usize, total: u16, service: ServiceIndex) -> usize {
        let train = self.place();
        (self.trains[at], self.lengths[at]) = (train as u8, total);
        (self.services[train], self.sent[train]) = (service, Sum::new(1, total.into()));
        train
    }

    /// A place for a train: behind the others, or where one was broken up. There is one, since there are no more trains than frames.
    fn place(&mut self) -> usize {
        if self.count < BURST {
            self.count += 1;
            return self.count - 1;
        }
        debug_assert_ne!(self.free, 0, "more trains than frames");
        let train = self.free.trailing_zeros() as usize % BURST;
        self.free &= self.free.wrapping_sub(1);
        train
    }

    /// Finds every train's target: first all hashes, then all slots, whose cache misses overlap.
    #[inline(always)]
    pub fn select<'a>(&mut self, snapshot: &'a Snapshot, state: &mut State, targets: &mut [&'a Target; BURST]) {
        if snapshot.recalls() {
            return select_or_recall(self, snapshot, state, targets);
        }
        // Those that are chosen for otherwise have theirs.
        if self.special != self.all() {
            self.hash(u32::MAX, snapshot);
            let targets = targets[..self.count].iter_mut().zip(&self.hashes);
            if let Some(service) = self.sole.filter(|_| self.plain == self.all() || self.plain_v6 == self.all()) {
                let takers = snapshot.takers_of(service);
                for (target, &hash) in targets {
                    *target = takers.at(hash);
                    prefetch(*target);
                }
            } else {
                for ((target, &hash), &service) in targets.zip(&self.services) {
                    *target = snapshot.select(service, hash);
                    prefetch(*target);
                }
            }
        }
        if self.special != 0 {
            self.select_special(self.special, snapshot, targets);
        }
    }

    #[inline(never)]
    fn select_special<'a>(&mut self, mut special: u32, snapshot: &'a Snapshot, targets: &mut [&'a Target; BURST]) {
        self.select_translated(special & self.translated, snapshot, targets);
        special &= !self.translated;
        while special != 0 {
            let train = take_bit(&mut special);
            let Choice { client, slot, target, .. } = self.choices[train];
            self.hashes[train] = client;
            targets[train] = match target {
                Some(target) => snapshot.target(target),
                None => snapshot.select(self.services[train], slot),
            };
            prefetch(targets[train]);
        }
    }

    /// The same where flows may be remembered: whose is goes where it went, and needs no hash.
    #[inline(always)]
    fn select_or_recall<'a>(&mut self, snapshot: &'a Snapshot, state: &mut State, targets: &mut [&'a Target; BURST]) {
        let asked = self.asked;
        let Settled { trains: settled, elsewhere } = self.settle(snapshot, state, targets);
        if settled == self.all() && self.special == 0 && !snapshot.sends_hashes() {
            return;
        }
        let recalled = match () {
            () if state.flows.is_empty() => {
                self.absent = asked;
                0
            }
            () if !self.is_mixed => {
                let telling = asked & self.telling;
                // What opens or ends a flow, and others of it, are left to `enter`, which goes by their order.
                let settled = if telling == 0 { settled } else { self.look_for(telling, settled, &state.flows) };
                let others = asked & !settled & !telling;
                let is_marked = telling != 0;
                settled
                    | if others == 0 { 0 } else { self.recall(others, elsewhere, is_marked, snapshot, state, targets) }
            }
            () => self.recall_in_order(asked, snapshot, state, targets),
        };
        let foretold = asked & self.telling & !self.special;
        let (missed, unasked) = (asked & !recalled, self.all() & !asked);
        let sends = snapshot.sends_hashes() && self.sends_hash(recalled & !self.special, snapshot);
        let hashed = if sends { asked | unasked } else { missed & !foretold | unasked } & !self.special;
        self.hash(hashed, snapshot);
        let mut plain = unasked & !self.special;
        while plain != 0 {
            let train = take_bit(&mut plain);
            targets[train] = snapshot.select(self.services[train], self.hashes[train]);
        }
        let mut recalled = recalled & self.special;
        while recalled != 0 {
            let train = take_bit(&mut recalled);
            self.hashes[train] = self.choices[train].client;
        }
        if self.special & unasked != 0 {
            self.select_special(self.special & unasked, snapshot, targets);
        }
        if missed != 0 {
            self.enter(missed, snapshot, state, targets);
        }
    }

    /// Has fetched what will be asked of trains, a bit each, that open or end their flow, which hardly ever is known: both buckets, and the
    /// owners of its slot. Marks which flows they are.
    #[inline(never)]
    fn foretell(&mut self, mut telling: u32, snapshot: &Snapshot, flows: &Flows) {
        self.hash(telling & !self.special, snapshot);
        self.marks = Marks::NONE;
        while telling != 0 {
            let train = take_bit(&mut telling);
            let spot = self.spots[train];
            self.marks.add(spot);
            prefetch(flows.other_bucket(spot));
            if self.special & 1 << train == 0 {
                snapshot.compiled_service(self.services[train]).prefetch_slot(self.hashes[train]);
            }
        }
    }

    /// Notes whose flow is not remembered of trains, a bit each, that open or end theirs. Gives those of `settled` whose flow is not one of the
    /// others: what came before in the burst may have changed it.
    #[inline(never)]
    fn look_for(&mut self, mut telling: u32, settled: u32, flows: &Flows) -> u32 {
        let (mut known, mut absent) = (Marks::NONE, 0);
        let all = telling;
        while telling != 0 {
            let train = take_bit(&mut telling);
            let spot = self.spots[train];
            if flows.bucket(self.homes[train]).has(spot) | flows.other_bucket(spot).has(spot) {
                known.add(spot);
            } else {
                absent |= 1 << train;
            }
        }
        self.absent |= absent;
        if absent == all { settled } else { self.unmarked(settled, &known) }
    }

    /// Those of these trains, a bit each, whose flow is none of `marks`.
    fn unmarked(&self, trains: u32, marks: &Marks) -> u32 {
        let (mut bits, mut unmarked) = (trains, 0);
        while bits != 0 {
            let train = take_bit(&mut bits);
            unmarked |= u32::from(!marks.has(self.spots[train])) << train;
        }
        unmarked
    }

    /// Hashes the clients of at least these trains, a bit each.
    #[inline(always)]
    fn hash(&mut self, mut trains: u32, snapshot: &Snapshot) {
        if self.plain_v6 != 0 {
            return self.hash_both(trains & self.all() & !self.special, snapshot.hash());
        }
        if trains.count_ones() >= Self::MANY {
            self.gather_clients();
            return snapshot.hash().clients(&self.clients, &mut self.hashes, self.count);
        }
        while trains != 0 {
            let train = take_bit(&mut trains);
            self.hashes[train] = snapshot.hash().client(self.hashed(train));
        }
    }

    /// So many at once take less than each by itself.
    const MANY: u32 = 6;

    /// Puts those of the plain trains beside the others.
    #[inline(always)]
    fn gather_clients(&mut self) {
        if self.plain == self.all() {
            self.flows.clients(self.count, &mut self.clients);
        } else {
            (0..self.count.min(BURST)).for_each(|train| self.clients[train] = self.hashed(train));
        }
    }

    /// The client of a train over IPv4, as it is hashed.
    #[inline(always)]
    fn hashed(&self, train: usize) -> Client {
        if self.plain & 1 << train != 0 { self.flows.get(train).client() } else { self.clients[train] }
    }

    /// Asks for the trains whose flow may be remembered: first has all fetched that will be looked at, then finds the targets of those of which
    /// there is nothing to note, unless the order of their packets counts. Gives what [`Burst::settled`] does.
    #[inline(always)]
    fn settle<'a>(&mut self, snapshot: &'a Snapshot, state: &State, targets: &mut [&'a Target; BURST]) -> Settled {
        let flows = &state.flows;
        if !self.is_ahead {
            self.ask_each(self.asked & self.plain, flows);
        }
        if self.plain != 0 {
            self.telling |= self.flows.telling(self.count) & self.asked & self.plain;
        }
        let telling = self.asked & self.telling;
        if telling != 0 {
            self.foretell(telling, snapshot, flows);
        }
        if self.is_mixed || flows.is_empty() {
            return Settled::NONE;
        }
        let trains = self.asked & !telling;
        let bucket = |train: usize, _| flows.bucket(self.homes[train]);
        self.settled(trains, snapshot, state, targets, bucket)
    }

    /// Asks for these plain trains, a bit each.
    #[inline(never)]
    fn ask_each(&mut self, mut plain: u32, flows: &Flows) {
        while plain != 0 {
            let train = take_bit(&mut plain);
            self.ask(train, self.flows.get(train), flows);
        }
    }

    /// Finds the targets of those of these trains of whose flow there is nothing to note but that it goes on, by their `bucket`, and which they are.
    /// Has the other bucket fetched where that is not the one.
    #[inline(always)]
    fn settled<'a, 'b>(
        &self,
        mut trains: u32,
        snapshot: &'a Snapshot,
        state: &State,
        targets: &mut [&'a Target; BURST],
        bucket: impl Fn(usize, Spot) -> &'b Bucket,
    ) -> Settled {
        let (mut settled, mut others, mut kept) = (Settled::NONE, 0, snapshot.kept_by(ServiceIndex::NONE));
        while trains != 0 {
            let train = take_bit(&mut trains);
            let spot = self.spots[train];
            let bucket = bucket(train, spot);
            let seen = bucket.seen(spot, state.now);
            let Some(destination) = seen.settled() else {
                // Left to loops of their own, so that this one calls nothing.
                if seen.is_nowhere() && !bucket.has(spot) {
                    prefetch(state.flows.other_bucket(spot));
                    settled.elsewhere |= 1 << train;
                } else {
                    others |= 1 << train;
                }
                continue;
            };
            if self.services[train] != kept.service() {
                kept = snapshot.kept_by(self.services[train]);
            }
            let Some(target) = kept.at(destination) else { continue };
            prefetch(target);
            targets[train] = target;
            settled.trains |= 1 << train;
        }
        match others {
            0 => settled,
            _ => self.go_on(settled, others, snapshot, state, targets, bucket),
        }
    }

    /// The same of `others`, of whose flow there is that to note; `settled` are those that were found before.
    #[inline(never)]
    fn go_on<'a, 'b>(
        &self,
        mut settled: Settled,
        mut others: u32,
        snapshot: &'a Snapshot,
        state: &State,
        targets: &mut [&'a Target; BURST],
        bucket: impl Fn(usize, Spot) -> &'b Bucket,
    ) -> Settled {
        let mut kept = snapshot.kept_by(ServiceIndex::NONE);
        while others != 0 {
            let train = take_bit(&mut others);
            let spot = self.spots[train];
            let Some(entry) = bucket(train, spot).established(spot) else { continue };
            if self.services[train] != kept.service() {
                kept = snapshot.kept_by(self.services[train]);
            }
            let (destination, silence) = entry.destination_and_silence(state.now);
            if kept.only_goes_on(silence)
                && let Some(target) = kept.at(destination)
            {
                entry.note(state.now);
                prefetch(target);
                targets[train] = target;
                settled.trains |= 1 << train;
            }
        }
        settled
    }

    /// Finds the targets of those of these trains whose flow is remembered, and which they are; notes what they say. Not of those whose flow is
    /// marked, where `is_marked` says that any is. `elsewhere`: those of them whose flow is not in its first bucket.
    #[inline(never)]
    fn recall<'a>(
        &mut self,
        trains: u32,
        elsewhere: u32,
        is_marked: bool,
        snapshot: &'a Snapshot,
        state: &mut State,
        targets: &mut [&'a Target; BURST],
    ) -> u32 {
        let other = |_, spot| state.flows.other_bucket(spot);
        let [trains, elsewhere] = match is_marked {
            false => [trains, elsewhere],
            true => [trains, elsewhere].map(|trains| self.unmarked(trains, &self.marks)),
        };
        let Settled { trains: mut recalled, elsewhere: absent } =
            self.settled(elsewhere, snapshot, state, targets, other);
        self.absent |= absent;
        let mut bits = trains & !recalled & !absent;
        while bits != 0 {
            let train = take_bit(&mut bits);
            let spot = self.spots[train];
            let Some(place) = state.flows.find(spot) else {
                self.absent |= 1 << train;
                continue;
            };
            let service = self.services[train];
            let look = |destination| {
                snapshot.recalled(service, destination).map(|(fate, target)| (fate, (destination, target)))
            };
            let says = self.says(train);
            let Some((destination, target)) = state.flows.follow(place, says, state.now, look) else {
                continue;
            };
            targets[train] = target;
            recalled |= 1 << train;
            if says != Says::Nothing && snapshot.affinity(service).is_some() {
                recall::renew_client(&View { snapshot, service }, destination, self.client(train), state);
            }
        }
        recalled
    }

    /// The same, in the order of the frames: those that are not plain stand behind the others, and what one says may count for the next.
    #[inline(never)]
    fn recall_in_order<'a>(
        &mut self,
        mut asked: u32,
        snapshot: &'a Snapshot,
        state: &mut State,
        targets: &mut [&'a Target; BURST],
    ) -> u32 {
        let mut recalled = 0;
        for at in 0..self.frames {
            let train = usize::from(self.trains[at]) % BURST;
            if self.trains[at] != NO_TRAIN && asked & 1 << train != 0 {
                asked &= !(1 << train);
                let home = |_, spot| state.flows.bucket(state.flows.home(spot));
                let is_silent = self.telling & 1 << train == 0 && self.says(train) != Says::Nothing;
                let goes_on = u32::from(is_silent) << train;
                let Settled { trains, elsewhere } = self.settled(goes_on, snapshot, state, targets, home);
                recalled |= match trains {
                    0 => self.recall(1 << train, elsewhere, false, snapshot, state, targets),
                    _ => trains,
                };
            }
        }
        recalled
    }

    /// The client of a train.
    fn client(&self, train: usize) -> IpAddr {
        let bit = 1 << train;
        match () {
            () if self.special & bit != 0 => self.choices[train].source,
            () if self.plain_v6 & bit != 0 => self.flows_v6.get(train).source().into(),
            () => self.hashed(train).address().into(),
        }
    }

    /// Whether any of these trains has its hash sent with it.
    #[inline(never)]
    fn sends_hash(&self, mut trains: u32, snapshot: &Snapshot) -> bool {
        while trains != 0 {
            if snapshot.compiled_service(self.services[take_bit(&mut trains)]).sends_hash() {
                return true;
            }
        }
        false
    }

    /// Finds the targets of trains whose flow is not known, in their order, and has it remembered where it is to be.
    #[inline(never)]
    fn enter<'a>(
        &mut self,
        mut missed: u32,
        snapshot: &'a Snapshot,
        state: &mut State,
        targets: &mut [&'a Target; BURST],
    ) {
        state.flows.make_room((state.now, snapshot.serial()), &Judging { known: snapshot, now: state.now });
        let (mut entered, mut frames) = (Marks::NONE, self.frames());
        while missed != 0 {
            // Those that are not plain stand behind the others.
            let train = if self.is_mixed {
                let train = self.trains[take_bit(&mut frames)];
                if train == NO_TRAIN || missed & 1 << train == 0 {
                    continue;
                }
                missed &= !(1 << train);
                usize::from(train) % BURST
            } else {
                take_bit(&mut missed)
            };
            let slot = if self.special & 1 << train != 0 {
                let Choice { client, slot, .. } = self.choices[train];
                self.hashes[train] = client;
                slot
            } else {
                self.hashes[train]
            };
            let view = View { snapshot, service: self.services[train] };
            let (spot, says) = (self.spots[train], self.says(train));
            // One that was entered since may be the same.
            let is_absent = self.absent & 1 << train != 0 && !entered.has(spot);
            entered.add(spot);
            if is_absent
                && says == Says::Opens
                && self.special & 1 << train == 0
                && let Some(target) = recall::open(&view, spot, slot, state)
            {
                targets[train] = target;
                continue;
            }
            let of = Train { spot, is_absent, says, packets: self.sent[train].packets() };
            targets[train] = recall::enter(&view, of, slot, self.hashes[train], || self.client(train), state);
        }
    }

    /// Sends each packet to its train's target; `refuse` says what becomes of those, by their places, that cannot go there. `sole`: the
    /// port, where there is no other. Gives the port by which all frames go, where it is one.
    #[inline(always)]
    pub fn apply<F: Frame>(
        &mut self,
        frames: &mut [F],
        targets: &[&Target; BURST],
        state: &mut State,
        verdicts: &mut [Verdict; BURST],
        sole: Option<PortIndex>,
        refuse: impl FnMut(usize, &mut F, Refused) -> Verdict,
    ) -> Option<PortIndex> {
        // What does not go straight, a bit each, is left to loops of its own.
        let others = match self.plain_v6 | self.translated {
            0 if targets[0].mode.straight().is_some() => self.apply_v4(frames, targets, state),
            _ => self.apply_each_kind(frames, targets, state),
        };
        if others != 0 {
            return self.apply_others(others, frames, targets, state, verdicts, refuse).only();
        }
        let only = sole.or_else(|| {
            let mut ports = Ports::NONE;
            let straight = targets[..self.count].iter().filter_map(|target| target.mode.straight_port());
            straight.for_each(|port| ports.add(port));
            ports.only()
        });
        match only {
            Some(port) => verdicts[..frames.len()].fill(Verdict::Forward(port)),
            None => _ = self.forward(self.frames(), targets, verdicts),
        }
        only
    }

    /// The same for those that go straight, or by a translation; gives the others, a bit each.
    #[inline(never)]
    fn apply_each_kind<F: Frame>(&self, frames: &mut [F], targets: &[&Target; BURST], state: &mut State) -> u32 {
        let goes_straight = |target: &&Target| target.mode.straight().is_some();
        let has_v4 = self.plain_v6 | self.translated != self.all();
        let mut others = if has_v4 && targets[..self.count].iter().any(goes_straight) {
            self.apply_v4(frames, targets, state)
        } else {
            self.frames()
        };
        if others != 0 && self.plain_v6 != 0 {
            others = self.apply_v6(others, frames, targets);
        }
        if others != 0 && self.translated != 0 && !self.is_mixed {
            others = self.apply_translated(others, frames, targets, state);
        }
        others
    }

    /// The same for those that go straight over IPv4.
    #[inline(always)]
    fn apply_v4<F: Frame>(&self, frames: &mut [F], targets: &[&Target; BURST], state: &mut State) -> u32 {
        if self.is_apart {
            return send_each(frames, targets, &self.lengths, state);
        }
        if self.comes_in_trains() {
            return self.apply_trains(frames, targets, state);
        }
        let mut others = 0_u32;
        for (at, (frame, (&train, &total))) in frames.iter_mut().zip(self.trains.iter().zip(&self.lengths)).enumerate()
        {
            let straight = targets.get(usize::from(train)).and_then(|target| target.mode.straight());
            if straight.is_none_or(|outer| outer.wrap_v4(frame, total, state).is_err()) {
                others |= 1 << (at % BURST);
            }
        }
        others
    }

    /// The same, asking each train's target once.
    #[inline(always)]
    fn apply_trains<F: Frame>(&self, frames: &mut [F], targets: &[&Target; BURST], state: &mut State) -> u32 {
        let count = frames.len().min(BURST);
        let (mut others, mut at) = (0_u32, 0);
        while at < count {
            let train = self.trains[at];
            let Some(outer) = targets.get(usize::from(train)).and_then(|target| target.mode.straight()) else {
                others |= 1 << at;
                at += 1;
                continue;
            };
            let refused;
            (at, refused) = send_train(self, outer, frames, at, state);
            others |= refused;
        }
        others
    }

    /// Whether there are two packets a train or more.
    #[inline(always)]
    fn comes_in_trains(&self) -> bool {
        self.count * 2 <= self.frames
    }

    /// All frames, a bit each.
    fn frames(&self) -> u32 {
        ((1_u64 << self.frames) - 1) as u32
    }

    /// Gives these frames, a bit each, the verdict that they go straight to their train's target.
    fn forward(&self, mut frames: u32, targets: &[&Target; BURST], verdicts: &mut [Verdict; BURST]) -> Ports {
        let mut ports = Ports::NONE;
        while frames != 0 {
            let at = take_bit(&mut frames);
            let target = targets.get(usize::from(self.trains[at]));
            if let Some(port) = target.and_then(|target| target.mode.straight_port()) {
                ports.add(port);
                verdicts[at] = Verdict::Forward(port);
            }
        }
        ports
    }

    /// The same of those frames of a burst that do not go straight, a bit each; gives the ports of all.
    #[inline(never)]
    fn apply_others<F: Frame>(
        &mut self,
        mut others: u32,
        frames: &mut [F],
        targets: &[&Target; BURST],
        state: &mut State,
        verdicts: &mut [Verdict; BURST],
        mut refuse: impl FnMut(usize, &mut F, Refused) -> Verdict,
    ) -> Ports {
        if self.is_apart && self.plain == self.all() && others == self.all() {
            return self.apply_apart(frames, targets, state, verdicts, refuse);
        }
        let mut ports = self.forward(self.frames() & !others, targets, verdicts);
        while others != 0 {
            let at = take_bit(&mut others);
            let (frame, train) = (&mut frames[at], usize::from(self.trains[at]));
            let Some(target) = targets.get(train) else {
                ports.others = true;
                continue;
            };
            // Each in memory of its own: what is put together of both in a register is waited for.
            let (plain, other);
            let packet = match self.plain >> train & 1 {
                0 => {
                    other = self.packet(train, self.lengths[at]);
                    &other
                }
                _ => {
                    plain = self.plain_packet(train, self.lengths[at]);
                    &plain
                }
            };
            match target.mode.apply(frame, packet, self.hashes[train], state) {
                Ok(port) => {
                    ports.add(port);
                    verdicts[at] = Verdict::Forward(port);
                }
                Err(reason) => {
                    ports.others = true;
                    verdicts[at] = refuse(at, frame, self.refused(train, reason, *packet, target));
                }
            }
        }
        ports
    }

    /// The same of all frames, each of which is plain and a train of its own.
    #[inline(always)]
    fn apply_apart<F: Frame>(
        &mut self,
        frames: &mut [F],
        targets: &[&Target; BURST],
        state: &mut State,
        verdicts: &mut [Verdict; BURST],
        mut refuse: impl FnMut(usize, &mut F, Refused) -> Verdict,
    ) -> Ports {
        let (mut ports, mut refused, mut reasons) = (Ports::NONE, 0_u32, [Reason::Malformed; BURST]);
        let mut next = 0;
        while next < frames.len() {
            let of = |at: usize| {
                let at = (next + at) % BURST;
                (&targets[at].mode, self.plain_packet(at, self.lengths[at]), self.hashes[at])
            };
            next += Prepared::apply_run(&mut frames[next..], of, state, |at, applied| {
                let at = (next + at) % BURST;
                match applied {
                    Ok(port) => {
                        ports.add(port);
                        verdicts[at] = Verdict::Forward(port);
                    }
                    Err(reason) => {
                        refused |= 1 << at;
                        reasons[at] = reason;
                    }
                }
            });
        }
        ports.others = refused != 0;
        while refused != 0 {
            let at = take_bit(&mut refused);
            let packet = self.plain_packet(at, self.lengths[at]);
            verdicts[at] = refuse(at, &mut frames[at], self.refused(at, reasons[at], packet, targets[at]));
        }
        ports
    }

    /// A packet of a train that its target refuses; it is not among those that were sent.
    #[inline(never)]
    fn refused(&mut self, train: usize, reason: Reason, packet: Packet, target: &Target) -> Refused {
        self.sent[train].take(Sum::new(1, packet.total.into()));
        Refused { reason, packet, service: self.services[train], room: target.room, vip: None }
    }

    /// What was found of a packet, of so many bytes, of a plain train.
    #[inline(always)]
    fn plain_packet(&self, train: usize, total: u16) -> Packet {
        Packet { total, ..self.flows.get(train).packet() }
    }

    /// What was found of a packet, of so many bytes, of a train that is not plain.
    #[inline(never)]
    fn packet(&self, train: usize, total: u16) -> Packet {
        let is_v6 = self.plain_v6 & 1 << train != 0;
        Packet { total, ..if is_v6 { self.flows_v6.get(train).packet() } else { self.packets[train] } }
    }

    /// The train of the packet in frame `at`, if it is a service's, and which.
    #[inline]
    pub fn train(&self, at: usize) -> Option<(usize, ServiceIndex)> {
        let train = self.trains[at];
        (train != NO_TRAIN).then(|| (usize::from(train) % BURST, self.services[usize::from(train) % BURST]))
    }

    /// Every train's service, and how many packets it has.
    pub fn services(&self) -> impl Iterator<Item = (ServiceIndex, u32)> {
        self.services[..self.count].iter().copied().zip(self.sent.iter().map(|sent| sent.packets()))
    }

    /// Counts what went to the targets.
    #[inline(always)]
    pub fn count(&self, targets: &[&Target; BURST], traffic: &Traffic) {
        let (count, cells) = (self.count.min(BURST), traffic.cells());
        for (target, sent) in targets[..count].iter().zip(&self.sent[..count]) {
            let cell = cells.at(target.traffic);
            cell.packets.add(u64::from(sent.packets()));
            cell.bytes.add(u64::from(sent.bytes()));
        }
    }
}
