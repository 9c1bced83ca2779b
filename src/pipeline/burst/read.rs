//! The first stage over IPv4: what is plain of a burst, train by train.

use multiversion::target::match_target;

use super::{APART, BURST, Burst, NO_TRAIN, Sum};
use crate::flow::{Flows, Spots};
use crate::pipeline::parse::{Flow, Parsed};
use crate::snapshot::Snapshot;
use crate::wire::ipv4::protocol;
use crate::wire::{Frame, Mac};

/// Of a burst that is being read.
struct SoFar {
    /// As [`Mac::bits`].
    station: u64,
    /// The flow of the frame before.
    last: Flow,
    trains: usize,
    /// The places of what is not plain, a bit each.
    others: u32,
}

impl SoFar {
    #[inline(always)]
    fn begin(station: Mac) -> Self {
        Self { station: station.bits(), last: Flow::NONE, trains: 0, others: 0 }
    }
}

impl Burst {
    /// Reads what is plain, and gives the places of what is not, a bit each.
    #[inline(always)]
    pub fn parse<F: Frame>(&mut self, frames: &[F], station: Mac, snapshot: &Snapshot, flows: &Flows) -> u32 {
        for frame in frames {
            frame.prefetch();
        }
        self.parse_with(frames, station, snapshot.recalls() && self.was_recalled, flows)
    }

    /// The same; `is_ahead`: asks for the flows.
    #[inline(always)]
    fn parse_with<F: Frame>(&mut self, frames: &[F], station: Mac, is_ahead: bool, flows: &Flows) -> u32 {
        self.is_ahead = is_ahead;
        // As the last burst came, this one will.
        let so_far = match std::mem::take(&mut self.was_v6) {
            true => self.parse_none(frames.len(), station),
            false => self.parse_v4(frames, station, flows),
        };
        (self.is_apart, self.is_one) = (so_far.trains == frames.len(), so_far.trains == 1);
        (self.frames, self.count) = (frames.len().min(BURST), so_far.trains.min(BURST));
        self.plain = self.all();
        (self.plain_v6, self.free, self.special, self.translated, self.is_mixed) = (0, 0, 0, 0, false);
        (self.asked, self.telling, self.absent) = (0, 0, 0);
        so_far.others
    }

    /// Notes where the flow of a plain train is looked for, and has it fetched from there.
    #[inline(always)]
    pub fn ask(&mut self, train: usize, flow: Flow, flows: &Flows) {
        let spot = flows.spot(flow.key().words());
        let home = flows.home(spot);
        flows.prefetch(home);
        (self.spots[train], self.homes[train]) = (spot, home);
    }

    /// Leaves all to others.
    #[inline(never)]
    fn parse_none(&mut self, count: usize, station: Mac) -> SoFar {
        self.trains.fill(NO_TRAIN);
        SoFar { others: ((1_u64 << count.min(BURST)) - 1) as u32, ..SoFar::begin(station) }
    }

    /// Reads all as if each were a train of its own, and then tells which trains they are.
    #[inline(always)]
    fn parse_v4<F: Frame>(&mut self, frames: &[F], station: Mac, flows: &Flows) -> SoFar {
        if self.is_one && frames.len() <= BURST && read_one(self, frames, station) {
            return self.end_one(frames.len(), station, flows);
        }
        // Each is asked for at once where each was a train of its own.
        let are_asked = self.is_ahead && self.is_apart;
        let (at, may_be_alike) = read_plain(self, frames, station, are_asked.then_some(flows));
        match () {
            () if at == frames.len() && !may_be_alike => self.end_apart(at, are_asked, station, flows),
            () if at == frames.len() && self.flows.are_one(at) => self.end_one(at, station, flows),
            () => self.parse_on(frames, at, are_asked, station, flows),
        }
    }

    /// So many, which are read, are each a train of its own.
    #[inline(always)]
    fn end_apart(&mut self, count: usize, are_asked: bool, station: Mac, flows: &Flows) -> SoFar {
        self.trains = APART;
        for (sent, &total) in self.sent[..count].iter_mut().zip(&self.lengths[..count]) {
            *sent = Sum::new(1, total.into());
        }
        if self.is_ahead && !are_asked {
            self.ask_each(((1_u64 << count) - 1) as u32, flows);
        }
        SoFar { trains: count, ..SoFar::begin(station) }
    }

    /// So many, which are read, are one train.
    #[inline(always)]
    fn end_one(&mut self, count: usize, station: Mac, flows: &Flows) -> SoFar {
        self.trains.fill(0);
        let bytes = self.lengths[..count].iter().map(|&total| u32::from(total)).sum();
        self.sent[0] = Sum::new(count as u32, bytes);
        if self.is_ahead {
            self.ask(0, self.flows.get(0), flows);
        }
        SoFar { trains: 1, ..SoFar::begin(station) }
    }

    /// Makes trains of the frames before `next`, which are read (and asked for, if they `are_asked`), and reads the others.
    #[inline(always)]
    fn parse_on<F: Frame>(&mut self, frames: &[F], next: usize, are_asked: bool, station: Mac, flows: &Flows) -> SoFar {
        let mut so_far = SoFar::begin(station);
        for at in 0..next {
            let (flow, spot, home) = (self.flows.get(at), self.spots[at], self.homes[at]);
            match self.note(&mut so_far, at, self.lengths[at], flow) {
                Some(new) if are_asked => (self.spots[new], self.homes[new]) = (spot, home),
                Some(new) if self.is_ahead => self.ask(new, flow, flows),
                _ => {}
            }
        }
        let flows = self.is_ahead.then_some(flows);
        for (at, frame) in frames.iter().enumerate().skip(next) {
            self.read(&mut so_far, at, frame, flows);
        }
        so_far
    }

    /// Reads the frame at `at`; asks `flows` for its flow where that is new.
    #[inline(always)]
    fn read<F: Frame>(&mut self, so_far: &mut SoFar, at: usize, frame: &F, flows: Option<&Flows>) {
        let at = at % BURST;
        let Some((total, flow)) = Parsed::plain(frame.bytes(), so_far.station) else {
            self.trains[at] = NO_TRAIN;
            so_far.others |= 1 << at;
            // It may be of the same flow, and change what is known of it.
            so_far.last = Flow::NONE;
            return;
        };
        if let (Some(new), Some(flows)) = (self.note(so_far, at, total, flow), flows) {
            self.ask(new, flow, flows);
        }
    }

    /// Notes that the frame at `at` is of this flow, and so long; gives the train that it begins, if it does.
    #[inline(always)]
    fn note(&mut self, so_far: &mut SoFar, at: usize, total: u16, flow: Flow) -> Option<usize> {
        self.lengths[at] = total;
        if flow == so_far.last {
            let current = so_far.trains.wrapping_sub(1) % BURST;
            self.trains[at] = current as u8;
            self.sent[current].add(Sum::new(1, total.into()));
            return None;
        }
        let new = so_far.trains % BURST;
        self.flows.set(new, flow);
        self.sent[new] = Sum::new(1, total.into());
        (so_far.last, so_far.trains) = (flow, so_far.trains + 1);
        self.trains[at] = new as u8;
        Some(new)
    }
}

/// Whether all frames are TCP segments of one flow, which then is read. With the instructions that this CPU has.
#[multiversion::multiversion(targets("x86_64+avx2+bmi1+bmi2+lzcnt+movbe+popcnt"))]
#[inline(never)]
fn read_one<F: Frame>(burst: &mut Burst, frames: &[F], station: Mac) -> bool {
    match_target! {
        "x86_64+avx2" => fours::read_one(burst, frames, station.bits()).is_some(),
        _ => {
            // It takes as long to compare frames one by one as to read them.
            let _ = (burst, frames, station);
            false
        }
    }
}

/// Reads frames up to the first that is not plain, as if each were a train of its own, and asks `flows` for each. Gives how many, and whether any
/// may be of the same flow as the one before it (if not, none is). With the instructions that this CPU has.
#[multiversion::multiversion(targets("x86_64+avx2+bmi1+bmi2+lzcnt+movbe+popcnt"))]
#[inline(never)]
fn read_plain<F: Frame>(burst: &mut Burst, frames: &[F], station: Mac, flows: Option<&Flows>) -> (usize, bool) {
    let (station, frames) = (station.bits(), &frames[..frames.len().min(BURST)]);
    let (mut at, mut may_be_alike) = match_target! {
        "x86_64+avx2" => fours::read(burst, frames, station, flows),
        _ => (0, false)
    };
    while at < frames.len() {
        let Some((total, flow)) = Parsed::plain(frames[at].bytes(), station) else { break };
        may_be_alike |= at > 0 && burst.flows.get(at - 1) == flow;
        burst.lengths[at] = total;
        burst.flows.set(at, flow);
        if let Some(flows) = flows {
            burst.ask(at, flow, flows);
        }
        at += 1;
    }
    (at, may_be_alike)
}

/// What is read four frames at a time.
#[cfg(target_arch = "x86_64")]
mod fours {
    use super::{Burst, Flows, Frame, Parsed, protocol};
    use crate::pipeline::heads::{Beside, FOUR, Segment, plain};

    /// As [`read_one`](super::read_one).
    #[inline]
    #[target_feature(enable = "avx2")]
    pub fn read_one<F: Frame>(burst: &mut Burst, frames: &[F], station: u64) -> Option<()> {
        let (fours, rest) = frames.as_chunks();
        let first = frames.first().filter(|_| rest.is_empty())?.bytes();
        let (_, flow) = Parsed::plain(first, station).filter(|(_, flow)| flow.protocol() == protocol::TCP)?;
        let first = Segment::of(first)?;
        for (four, lengths) in fours.iter().zip(burst.lengths.as_chunks_mut().0) {
            *lengths = first.totals(four)?;
        }
        burst.flows.set(0, flow);
        Some(())
    }

    /// As [`read_plain`](super::read_plain), of so many as are plain four at a time.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub fn read<F: Frame>(burst: &mut Burst, frames: &[F], station: u64, flows: Option<&Flows>) -> (usize, bool) {
        let (mut at, mut beside) = (0, Beside::nothing());
        for four in frames.as_chunks().0 {
            let Some(read) = plain(four, station, &mut beside) else { break };
            burst.flows.set_four(at, &read);
            burst.lengths[at..][..FOUR].copy_from_slice(&read.totals);
            if let Some(flows) = flows {
                for at in at..at + FOUR {
                    burst.ask(at, burst.flows.get(at), flows);
                }
            }
            at += FOUR;
        }
        (at, beside.may_be_alike())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{Home, Spot};
    use crate::pipeline::parse::tests::{Bytes, STATION, seal, sound};
    use proptest::prelude::*;

    /// Of the client of this number, one in four over UDP; 0: not plain.
    fn frame(client: u8, more: u8) -> Bytes {
        let is_udp = client % 4 == 3;
        let mut frame = sound(if is_udp { protocol::UDP } else { protocol::TCP }, more.into());
        frame[29] = client;
        seal(&mut frame);
        match (client, more) {
            (0, _) => frame[14] = 0x46,
            // A datagram that is longer than its packet.
            (_, 3) if is_udp => frame[39] += 1,
            _ => {}
        }
        Bytes(frame)
    }

    /// Of a burst: the places of what is not plain, the train and the length of each frame that is, and of each train its flow, what is sent of it,
    /// and where it is asked for.
    #[derive(Debug, Default, PartialEq)]
    struct Found {
        others: u32,
        frames: Vec<Option<(u8, u16)>>,
        trains: Vec<Train>,
    }

    type Train = (Flow, u64, Option<(Spot, Home)>);

    fn found(burst: &Burst, others: u32, is_ahead: bool) -> Found {
        let frame = |at: usize| (burst.trains[at] != NO_TRAIN).then(|| (burst.trains[at], burst.lengths[at]));
        let asked = |train: usize| is_ahead.then(|| (burst.spots[train], burst.homes[train]));
        let train = |train: usize| (burst.flows.get(train), burst.sent[train].0, asked(train));
        let (frames, trains) = ((0..burst.frames).map(frame).collect(), (0..burst.count).map(train).collect());
        Found { others, frames, trains }
    }

    /// What is to be found, frame by frame.
    fn expected(frames: &[Bytes], is_ahead: bool, flows: &Flows) -> Found {
        let (mut expected, mut last) = (Found::default(), None);
        for (at, frame) in frames.iter().enumerate() {
            let read = Parsed::plain(&frame.0, STATION.mac.bits());
            match read {
                None => expected.others |= 1 << at,
                Some((_, flow)) if last != Some(flow) => {
                    let spot = flows.spot(flow.key().words());
                    expected.trains.push((flow, 0, is_ahead.then(|| (spot, flows.home(spot)))));
                }
                Some(_) => {}
            }
            let train = expected.trains.len().wrapping_sub(1) as u8;
            if let (Some((total, _)), Some((_, sent, _))) = (read, expected.trains.last_mut()) {
                *sent += Sum::new(1, total.into()).0;
            }
            expected.frames.push(read.map(|(total, _)| (train, total)));
            last = read.map(|(_, flow)| flow);
        }
        expected
    }

    /// From which one on, and how many: mostly one, so that many bursts are of it alone, or few, or so many that hardly two frames are of the same.
    fn clients() -> impl Strategy<Value = (u8, u8)> {
        (1_u8..5, prop_oneof![2 => Just(1_u8), 1 => 2_u8..12, 1 => Just(250)])
    }

    proptest! {
        /// However the burst before came, and however this one does.
        #[test]
        fn a_burst_is_read_as_its_frames_are(
            bursts in prop::collection::vec((clients(), prop::collection::vec((any::<u8>(), 0_u8..8), 1..=BURST)), 1..8),
            is_ahead: bool,
        ) {
            let flows = Flows::new(100, [1, 2]);
            let mut burst = Burst::EMPTY;
            for (clients, frames) in bursts {
                let client = |k: u8| if k == u8::MAX { 0 } else { clients.0 + k % clients.1 };
                let frames: Vec<Bytes> = frames.into_iter().map(|(k, more)| frame(client(k), more)).collect();
                let others = burst.parse_with(&frames, STATION.mac, is_ahead, &flows);
                prop_assert_eq!(found(&burst, others, is_ahead), expected(&frames, is_ahead, &flows));
                prop_assert_eq!(burst.is_apart, burst.count == burst.frames);
                prop_assert_eq!(burst.is_one, burst.count == 1);
            }
        }
    }
}
