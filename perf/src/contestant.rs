//! Who is measured, and who against whom.

use std::path::Path;

use penstock::service::Forwarding;

use crate::forwarder::Forwarder;
use crate::node::{Family, Memory, Node, Task};
use crate::rig::Rig;
use crate::testpmd::Testpmd;
use crate::traffic::Kind;

/// With how many SYNs and floods are measured.
pub const MOST_FLOWS: usize = 1_000_000;
/// Flows of the frames that modes, and kinds of packets, are compared by.
pub const FEW_FLOWS: usize = 1_000;
/// Flows of the frames by which growth is measured, and those that are established in a flood.
pub const MANY_FLOWS: usize = 100_000;
/// Flows that there is room for in a flood.
const ROOM: usize = 131_072;

/// A forwarder with its packets.
#[derive(Debug, Clone)]
pub struct Contestant {
    pub name: String,
    pub engine: Engine,
    pub traffic: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// DPDK's testpmd in this mode of its own: `io` takes and sends, the limit of the rig; `5tswap` swaps MACs, addresses and ports,
    /// so that it touches the headers and decides nothing; `csum` checks and makes checksums, too.
    Testpmd(&'static str),
    Penstock(Task),
    /// The binary of `--other`.
    Other(Task),
}

/// What a comparison is about: a table of the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, clap::ValueEnum)]
pub enum Table {
    /// Numbers of flows, and what is remembered of them.
    Flows,
    /// What a flood of SYNs leaves to those who are established.
    Flood,
    /// Forwarding modes.
    Modes,
    /// Kinds of packets.
    Packets,
    /// Numbers of services and backends.
    Growth,
}

/// Those who take turns on one core. The first is the yardstick of the others.
#[derive(Debug, Clone)]
pub struct Heat {
    pub table: Table,
    pub flows: usize,
    pub contestants: Vec<Contestant>,
}

impl Contestant {
    fn new(name: &str, engine: Engine, traffic: Kind) -> Self {
        Self { name: name.to_owned(), engine, traffic }
    }

    fn remembering(name: &str, memory: Memory, traffic: Kind) -> Self {
        Self::new(name, Engine::Penstock(Task::ipip(memory)), traffic)
    }

    pub fn is_penstock(&self) -> bool {
        !matches!(self.engine, Engine::Testpmd(_))
    }

    /// Starts it on a rig of its own traffic; `penstock` and `other` are the binaries.
    pub fn start(&self, rig: &Rig, penstock: &Path, other: Option<&Path>) -> anyhow::Result<Box<dyn Forwarder>> {
        Ok(match self.engine {
            Engine::Testpmd(mode) => Box::new(Testpmd::start(rig, mode)?),
            Engine::Penstock(task) => Box::new(Node::start(rig, penstock, task)?),
            Engine::Other(task) => Box::new(Node::start(rig, other.unwrap_or(penstock), task)?),
        })
    }
}

impl Heat {
    /// What is compared for a table; `flows`: the numbers of them in the table that is about these.
    pub fn of(table: Table, flows: &[usize]) -> Vec<Self> {
        match table {
            Table::Flows => flows.iter().map(|&flows| Self::flows(flows)).collect(),
            Table::Flood => vec![Self::flood()],
            Table::Modes => vec![Self::modes()],
            Table::Packets => Self::packets(),
            Table::Growth => vec![Self::growth()],
        }
    }

    fn flows(flows: usize) -> Self {
        let traffic = Kind::Acks(flows);
        let testpmd = |mode| Contestant::new(mode, Engine::Testpmd(mode), traffic);
        let mut contestants = vec![testpmd("5tswap"), testpmd("io"), testpmd("csum")];
        contestants.extend([
            Contestant::remembering("penstock", Memory::None, traffic),
            Contestant::remembering("penstock, at rest", Memory::Rest, traffic),
            Contestant::remembering("penstock, tracked", Memory::of_going(flows), traffic),
        ]);
        if flows == MOST_FLOWS {
            let memory = Memory::Beginning(MOST_FLOWS / 4);
            contestants.push(Contestant::remembering("penstock, SYN only", memory, Kind::Syns(MOST_FLOWS)));
        }
        Self { table: Table::Flows, flows, contestants }
    }

    fn flood() -> Self {
        let of = |name, is_flooded| {
            let traffic = Kind::Established { flows: MANY_FLOWS, frames: MOST_FLOWS, is_flooded };
            Contestant::remembering(name, Memory::Going(ROOM), traffic)
        };
        let contestants = vec![of("penstock, 100 k tracked", false), of("penstock, 100 k tracked, flooded", true)];
        Self { table: Table::Flood, flows: MANY_FLOWS, contestants }
    }

    fn modes() -> Self {
        let of = |name: &&str| {
            let task = Task { forwarding: Forwarding::named(name)?, ..Task::ipip(Memory::None) };
            Some(Contestant::new(name, Engine::Penstock(task), Kind::Acks(FEW_FLOWS)))
        };
        let mut contestants: Vec<_> = Forwarding::NAMES.iter().filter_map(of).collect();
        contestants.sort_by_key(|contestant| contestant.name != Forwarding::Ipip.name());
        Self { table: Table::Modes, flows: FEW_FLOWS, contestants }
    }

    fn packets() -> Vec<Self> {
        let usual = Task::ipip(Memory::None);
        let of = |name: &str, task, traffic: fn(usize) -> Kind| {
            Contestant::new(name, Engine::Penstock(task), traffic(FEW_FLOWS))
        };
        let kinds = vec![
            of("TCP over IPv4", usual, Kind::Acks),
            of("UDP", Task { family: Family::Udp, ..usual }, Kind::Udp),
            of("IPv6, 74 bytes", Task { family: Family::Tcp6, ..usual }, Kind::V6),
            of("malformed", Task { drops_all: true, ..usual }, Kind::Malformed),
        ];
        let imix = vec![
            Contestant::new("5tswap, IMIX", Engine::Testpmd("5tswap"), Kind::Imix(FEW_FLOWS)),
            of("IMIX", usual, Kind::Imix),
        ];
        [kinds, imix].map(|contestants| Self { table: Table::Packets, flows: FEW_FLOWS, contestants }).into()
    }

    fn growth() -> Self {
        let of = |services, backends, asked| {
            let task = Task { services, backends, ..Task::ipip(Memory::None) };
            let traffic = Kind::Services { flows: MANY_FLOWS, services: asked };
            let name = format!("{services} × {backends}");
            let name = if asked == services { name } else { format!("{name}, packets for {asked}") };
            Contestant { name, engine: Engine::Penstock(task), traffic }
        };
        let all = |services, backends| of(services, backends, services);
        let one = |services, backends| of(services, backends, 1);
        let contestants = vec![
            all(1, 10),
            all(1_000, 10),
            all(100_000, 10),
            one(1_000, 10),
            one(100_000, 10),
            all(1, 100),
            all(1, 10_000),
        ];
        Self { table: Table::Growth, flows: MANY_FLOWS, contestants }
    }

    /// The same with those alone whose names hold one of these words; all, where there are no words. The yardstick stays.
    pub fn only(mut self, words: &[String]) -> Self {
        let mut at = 0;
        self.contestants.retain(|contestant| {
            at += 1;
            at == 1 || words.is_empty() || words.iter().any(|word| contestant.name.contains(word.as_str()))
        });
        self
    }

    /// The same, and each penstock a second time, of the other binary.
    pub fn with_other(mut self) -> Self {
        self.contestants = self
            .contestants
            .into_iter()
            .flat_map(|contestant| {
                let other = match contestant.engine {
                    Engine::Penstock(task) => Some(Contestant {
                        name: format!("{}, other", contestant.name),
                        engine: Engine::Other(task),
                        ..contestant
                    }),
                    Engine::Testpmd(_) | Engine::Other(_) => None,
                };
                [Some(contestant), other].into_iter().flatten()
            })
            .collect();
        self
    }

    /// Megabytes of hugepages that it takes.
    pub fn megabytes(&self) -> u64 {
        self.contestants.iter().map(megabytes).sum()
    }

    /// Heats that take no more than so many megabytes each, all with the yardstick; of two at least, whatever they take.
    pub fn within(self, room: u64) -> Vec<Self> {
        let mut rest = self.contestants.into_iter();
        let Some(yardstick) = rest.next() else { return Vec::new() };
        let heat = |contestants| Self { table: self.table, flows: self.flows, contestants };
        let mut heats = vec![heat(vec![yardstick.clone()])];
        for contestant in rest {
            let last = heats.len() - 1;
            let is_full = heats[last].megabytes() + megabytes(&contestant) > room;
            if is_full && heats[last].contestants.len() > 1 {
                heats.push(heat(vec![yardstick.clone(), contestant]));
            } else {
                heats[last].contestants.push(contestant);
            }
        }
        heats
    }
}

fn megabytes(contestant: &Contestant) -> u64 {
    Rig::megabytes_for(Rig::mbufs_for(contestant.traffic.frames()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mode_is_measured_against_ipip() {
        let heat = Heat::modes();
        assert_eq!((heat.contestants.len(), heat.contestants[0].name.as_str()), (Forwarding::NAMES.len(), "ipip"));
    }

    #[test]
    fn what_does_not_fit_has_a_heat_of_its_own_with_the_yardstick() {
        let heat = Heat::flows(MOST_FLOWS);
        let (all, one) = (heat.contestants.len(), megabytes(&heat.contestants[0]));
        for (room, sizes) in [(u64::MAX, vec![all]), (4 * one, vec![4, 4]), (1, vec![2; all - 1])] {
            let heats = heat.clone().within(room);
            assert_eq!(heats.iter().map(|heat| heat.contestants.len()).collect::<Vec<_>>(), sizes);
            assert!(heats.iter().all(|heat| heat.contestants[0].name == "5tswap"));
        }
    }

    #[test]
    fn names_choose_and_the_other_binary_doubles() {
        let heat = Heat::flows(1).only(&["tracked".into()]).with_other();
        let names: Vec<_> = heat.contestants.iter().map(|contestant| contestant.name.as_str()).collect();
        assert_eq!(names, ["5tswap", "penstock, tracked", "penstock, tracked, other"]);
    }
}
