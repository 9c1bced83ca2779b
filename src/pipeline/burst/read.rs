//! The first stage over IPv4: what is plain of a burst, train by train.

use multiversion::target::match_target;

use super::{APART, BURST, Burst, NO_TRAIN, Sum};
use crate::flow::{Flows, Spots};
use crate::pipeline::parse::{Flow, Parsed};
use crate::snapshot::Snapshot;
use crate::wire::ipv4::protocol;
use crate::wire::{Frame, Mac};

/// What is known of frames once they are read.
#[derive(Clone, Copy)]
struct Read {
    /// The places of what is not plain, a bit each.
    others: u32,
    /// Whether any frame may be of the same flow as the one before it. If not, none is.
    may_be_alike: bool,
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
        let (trains, others) = match std::mem::take(&mut self.was_v6) {
            true => self.parse_none(frames.len()),
            false => self.parse_v4(frames, station, flows),
        };
        (self.is_apart, self.is_one) = (trains == frames.len(), trains == 1 && others == 0);
        (self.frames, self.count) = (frames.len().min(BURST), trains.min(BURST));
        self.plain = self.all();
        (self.plain_v6, self.free, self.special, self.translated, self.is_mixed) = (0, 0, 0, 0, false);
        (self.asked, self.telling, self.absent) = (0, 0, 0);
        others
    }

    /// Notes where the flow of a plain train is looked for, and has it fetched from there.
    #[inline(always)]
    pub fn ask(&mut self, train: usize, flow: Flow, flows: &Flows) {
        let spot = flows.spot(flow.key().words());
        let home = flows.home(spot);
        flows.prefetch(home);
        (self.spots[train], self.homes[train]) = (spot, home);
    }

    /// Leaves all to others. Gives the number of trains, and the places of what is not plain, as what follows does.
    #[inline(never)]
    fn parse_none(&mut self, count: usize) -> (usize, u32) {
        self.trains.fill(NO_TRAIN);
        (0, ((1_u64 << count.min(BURST)) - 1) as u32)
    }

    /// Reads each frame by itself, and then tells which trains they are.
    #[inline(always)]
    fn parse_v4<F: Frame>(&mut self, frames: &[F], station: Mac, flows: &Flows) -> (usize, u32) {
        let count = frames.len();
        if self.is_one && read_one(self, frames, station) {
            return self.end_one(count, flows);
        }
        // Each is asked for at once where each was a train of its own.
        let are_asked = self.is_ahead && self.is_apart;
        match read_each(self, frames, station, are_asked.then_some(flows)) {
            Read { others: 0, may_be_alike: false } => self.end_apart(count, are_asked, flows),
            Read { others: 0, .. } if self.flows.are_one(count) => self.end_one(count, flows),
            Read { others, .. } => self.end_mixed(count, others, are_asked, flows),
        }
    }

    /// So many are each a train of its own.
    #[inline(always)]
    fn end_apart(&mut self, count: usize, are_asked: bool, flows: &Flows) -> (usize, u32) {
        self.trains = APART;
        for (sent, &total) in self.sent[..count].iter_mut().zip(&self.lengths[..count]) {
            *sent = Sum::new(1, total.into());
        }
        if self.is_ahead && !are_asked {
            self.ask_each(((1_u64 << count) - 1) as u32, flows);
        }
        (count, 0)
    }

    /// So many are one train.
    #[inline(always)]
    fn end_one(&mut self, count: usize, flows: &Flows) -> (usize, u32) {
        self.trains.fill(0);
        let bytes = self.lengths[..count].iter().map(|&total| u32::from(total)).sum();
        self.sent[0] = Sum::new(count as u32, bytes);
        if self.is_ahead {
            self.ask(0, self.flows.get(0), flows);
        }
        (1, 0)
    }

    /// So many are whatever they are.
    #[inline(always)]
    fn end_mixed(&mut self, count: usize, others: u32, are_asked: bool, flows: &Flows) -> (usize, u32) {
        let (mut trains, mut last) = (0_usize, Flow::NONE);
        for at in 0..count.min(BURST) {
            if others >> at & 1 != 0 {
                self.trains[at] = NO_TRAIN;
                // It may be of the same flow, and change what is known of it.
                last = Flow::NONE;
                continue;
            }
            let (flow, sum) = (self.flows.get(at), Sum::new(1, self.lengths[at].into()));
            if flow == last {
                let current = trains.wrapping_sub(1) % BURST;
                self.trains[at] = current as u8;
                self.sent[current].add(sum);
                continue;
            }
            let new = trains % BURST;
            (self.trains[at], self.sent[new]) = (new as u8, sum);
            self.flows.set(new, flow);
            if are_asked {
                (self.spots[new], self.homes[new]) = (self.spots[at], self.homes[at]);
            } else if self.is_ahead {
                self.ask(new, flow, flows);
            }
            (trains, last) = (trains + 1, flow);
        }
        (trains, others)
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

/// Reads frames as if each were a train of its own, and asks `flows` for each that is plain. With the instructions that this CPU has: four at a time,
/// up to the first that is not plain.
#[multiversion::multiversion(targets("x86_64+avx2+bmi1+bmi2+lzcnt+movbe+popcnt"))]
#[inline(never)]
fn read_each<F: Frame>(burst: &mut Burst, frames: &[F], station: Mac, flows: Option<&Flows>) -> Read {
    let (station, frames) = (station.bits(), &frames[..frames.len().min(BURST)]);
    let (mut at, mut may_be_alike) = match_target! {
        "x86_64+avx2" => fours::read(burst, frames, station, flows),
        _ => (0, false)
    };
    let mut others = 0;
    while at < frames.len() {
        match Parsed::plain(frames[at].bytes(), station) {
            Some((total, flow)) => {
                may_be_alike |= at > 0 && burst.flows.get(at - 1) == flow;
                burst.lengths[at] = total;
                burst.flows.set(at, flow);
                if let Some(flows) = flows {
                    burst.ask(at, flow, flows);
                }
            }
            None => others |= 1 << at,
        }
        at += 1;
    }
    Read { others, may_be_alike }
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

    /// As [`read_each`](super::read_each), of so many as are plain four at a time; gives how many, and whether any may be alike.
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
                prop_assert_eq!(burst.is_one, burst.count == 1 && others == 0);
            }
        }
    }
}
