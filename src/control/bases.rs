//! The bases of slots as text, for a process that is to go on where another ended.
//!
//! Times are those of the node's clock, which is the machine's: another process of the same boot understands them. To one of another boot
//! they mean nothing, but that one remembers no flows either, and begins all deadlines again.

use std::net::SocketAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::journal::Position;
use crate::service::{Ports, Protocol};
use crate::snapshot::{Bases, By, Held, Key, Millis, Numbers, Space, Until};

/// How long bases are held after a start at least: what was sent to a process that had ended comes again, and shows whose it is.
const AGAIN: Millis = Millis(120_000);

/// The bases of all services that are not at rest, and the numbers that flows are remembered by, at one moment.
#[derive(Debug, Clone)]
pub struct Saved {
    pub bases: Vec<(Key, Arc<Bases>)>,
    pub numbers: Numbers,
    /// Which memory of flows the numbers are of.
    pub memory: u64,
    pub of: Of,
}

/// What slots had their owners by. Changes that are on disk since then were never put in force: what they move still has to be held.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Of {
    /// The last change of the definitions, where they are written one after another.
    pub position: Option<Position>,
    /// Who was drained by hand, as [`super::drained::Drained::to_text`].
    pub drained: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Document {
    #[serde(default)]
    of: Of,
    /// Whom slots are of.
    endpoints: Vec<SocketAddr>,
    /// Of services with the same history one.
    bases: Vec<Vec<Layer>>,
    services: Vec<Named>,
    numbers: Vec<Numbered>,
    memory: u64,
}

/// The destinations of a service.
#[derive(Debug, Serialize, Deserialize)]
struct Numbered {
    #[serde(default)]
    had_other_slots: bool,
    vip: IpNet,
    ports: (u16, u16),
    protocol: u8,
    destinations: Vec<(SocketAddr, u32)>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Layer {
    size: u32,
    /// Whether clients fall into its slots by their address alone.
    #[serde(default)]
    by_source: bool,
    /// Slot, which of the endpoints, and milliseconds of the clock; none: not every lcore had adopted it.
    held: Vec<(u32, u32, Option<u64>)>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Named {
    vip: IpNet,
    ports: (u16, u16),
    protocol: u8,
    /// Which of the bases.
    bases: usize,
}

impl Saved {
    pub fn to_text(&self) -> String {
        let numbers = self.numbers.iter().map(|(key, had_other_slots, destinations)| Numbered {
            had_other_slots,
            vip: key.vip,
            ports: (key.ports.first, key.ports.last),
            protocol: key.protocol.number(),
            destinations: destinations.collect(),
        });
        let numbers = numbers.collect();
        let mut document = Document {
            endpoints: Vec::new(),
            bases: Vec::new(),
            services: Vec::new(),
            numbers,
            memory: self.memory,
            of: self.of.clone(),
        };
        let mut known: Vec<&Arc<Bases>> = Vec::new();
        let mut numbers = std::collections::HashMap::new();
        for (key, bases) in &self.bases {
            let place = known.iter().position(|other| Arc::ptr_eq(other, bases)).unwrap_or_else(|| {
                known.push(bases);
                let layers = bases.layers().map(|(space, held)| {
                    let row = |held: &Held| {
                        let number = *numbers.entry(held.base).or_insert_with(|| {
                            document.endpoints.push(held.base);
                            document.endpoints.len() as u32 - 1
                        });
                        let until = if let Until::At(at) = held.until { Some(at.0) } else { None };
                        (held.slot, number, until)
                    };
                    Layer { size: space.size, by_source: space.by == By::Source, held: held.iter().map(row).collect() }
                });
                document.bases.push(layers.collect());
                known.len() - 1
            });
            let (ports, protocol) = ((key.ports.first, key.ports.last), key.protocol.number());
            document.services.push(Named { vip: key.vip, ports, protocol, bases: place });
        }
        serde_json::to_string(&document).expect("plain data has a JSON form")
    }

    /// What [`Saved::to_text`] wrote, in another process at the moment `now`. `knows_flows`: whether that remembers what the other did; else
    /// everybody has to show himself anew, and deadlines begin again.
    pub fn of_text(text: &str, now: Millis, knows_flows: bool) -> Result<Self, serde_json::Error> {
        let document: Document = serde_json::from_str(text)?;
        let until = |until: Option<u64>| match until.filter(|_| knows_flows) {
            None => Until::Adopted,
            Some(until) => Until::At(Millis(until.max(now.0 + AGAIN.0))),
        };
        let held = |&(slot, number, moment): &(u32, u32, Option<u64>)| {
            let base = *document.endpoints.get(number as usize)?;
            Some(Held { slot, base, until: until(moment) })
        };
        let layer = |layer: &Layer| {
            let by = if layer.by_source { By::Source } else { By::Client };
            (Space { size: layer.size, by }, layer.held.iter().filter_map(held).collect())
        };
        let bases = document.bases.iter().map(|layers| Arc::new(Bases::from_layers(layers.iter().map(layer))));
        let bases: Vec<Arc<Bases>> = bases.collect();
        let key = |vip, (first, last), protocol| {
            Some(Key { vip, ports: Ports { first, last }, protocol: Protocol::numbered(protocol)? })
        };
        let service =
            |named: &Named| Some((key(named.vip, named.ports, named.protocol)?, bases.get(named.bases)?.clone()));
        let bases = document.services.iter().filter_map(service).collect();
        let destinations =
            |of: Numbered| Some((key(of.vip, of.ports, of.protocol)?, of.had_other_slots, of.destinations));
        let numbers = document.numbers.into_iter().filter_map(destinations);
        let (memory, of) = (document.memory, document.of);
        Ok(Self { bases, numbers: if knows_flows { numbers.collect() } else { Numbers::default() }, memory, of })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(slot: u32, last: u8, until: Until) -> Held {
        Held { slot, base: SocketAddr::from(([10, 0, 0, last], 0)), until }
    }

    fn saved() -> Saved {
        let bases = Arc::new(Bases::from_layers([
            (Space { size: 7, by: By::Source }, vec![held(1, 1, Until::At(Millis(5_000))), held(6, 2, Until::Adopted)]),
            (Space { size: 13, by: By::Client }, vec![held(0, 1, Until::At(Millis(500_000)))]),
        ]));
        let key = |port| Key { vip: "192.0.2.1/32".parse().unwrap(), ports: Ports::one(port), protocol: Protocol::Tcp };
        let numbers = [(
            key(82),
            true,
            vec![(SocketAddr::from(([10, 0, 0, 1], 80)), 7), (SocketAddr::from(([10, 0, 0, 2], 80)), 9)],
        )];
        let (bases, numbers) = (vec![(key(80), bases.clone()), (key(81), bases)], numbers.into_iter().collect());
        let of = Of { position: Some(Position { segment: 3, line: 4 }), drained: Some(String::new()) };
        Saved { bases, numbers, memory: 77, of }
    }

    fn untils(saved: &Saved) -> Vec<Until> {
        saved.bases[0].1.held().map(|(_, held)| held.until).collect()
    }

    #[test]
    fn what_is_read_again_is_what_was_written() {
        let (before, text) = (saved(), saved().to_text());
        let after = Saved::of_text(&text, Millis(1_000), true).unwrap();
        assert_eq!(after.memory, 77);
        let kept = |saved: &Saved| {
            let slots =
                |bases: &Bases| bases.held().map(|(space, held)| (space, held.slot, held.base)).collect::<Vec<_>>();
            saved.bases.iter().map(|(key, bases)| (*key, slots(bases))).collect::<Vec<_>>()
        };
        assert_eq!(kept(&after), kept(&before));
        let numbers = |saved: &Saved| {
            saved.numbers.iter().map(|(key, other, of)| (*key, other, of.collect::<Vec<_>>())).collect::<Vec<_>>()
        };
        assert_eq!((numbers(&after), numbers(&after)[0].2.len()), (numbers(&before), 2));
        assert!(Arc::ptr_eq(&after.bases[0].1, &after.bases[1].1), "one for both");
    }

    #[test]
    fn a_deadline_stays_but_is_not_so_near_that_nobody_could_show_himself() {
        let after = Saved::of_text(&saved().to_text(), Millis(21_000), true).unwrap();
        assert_eq!(untils(&after), [Until::At(Millis(141_000)), Until::Adopted, Until::At(Millis(500_000))]);
    }

    #[test]
    fn without_its_flows_all_deadlines_begin_again() {
        let after = Saved::of_text(&saved().to_text(), Millis(21_000), false).unwrap();
        assert_eq!((untils(&after), after.numbers.iter().count()), (vec![Until::Adopted; 3], 0));
    }

    #[test]
    fn what_makes_no_sense_holds_nothing() {
        let text = r#"{"endpoints": ["10.0.0.1:0"], "bases": [[{"size": 3, "held": [[2, 0, null], [1, 0, null]]}, {"size": 5, "held": [[5, 0, null]]},
            {"size": 7, "held": [[1, 9, null]]}]], "services": [{"vip": "192.0.2.1/32", "ports": [80, 80], "protocol": 6, "bases": 0},
            {"vip": "192.0.2.1/32", "ports": [80, 80], "protocol": 6, "bases": 1}], "numbers": [], "memory": 1}"#;
        let saved = Saved::of_text(text, Millis(0), true).unwrap();
        assert_eq!(saved.bases.iter().map(|(_, bases)| bases.is_at_rest()).collect::<Vec<_>>(), [true]);
        assert!(Saved::of_text("{}", Millis(0), true).is_err());
    }
}
