//! The bases of slots as text, for a process that is to go on where another ended.
//!
//! Times are those of the node's clock, which is the machine's: another process of the same boot understands them. To one of another boot
//! they mean nothing, but that one remembers no flows either, and begins all deadlines again.

mod file;
mod keeper;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::journal::Position;
use crate::service::{Ports, Protocol};
use crate::snapshot::{Bases, By, Held, Key, Millis, Space, Trace, Until};

pub use file::load;
pub use keeper::{Desk, Keeper};

/// How long bases are held after a start at least: what was sent to a process that had ended comes again, and shows whose it is.
const AGAIN: Millis = Millis(120_000);

/// What a process leaves of its services at one moment; or of those of which that has changed, where nothing may be left of some.
#[derive(Debug, Clone, Default)]
pub struct Saved {
    pub services: HashMap<Key, Trace>,
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
    memory: u64,
    /// Whom slots are of.
    endpoints: Vec<SocketAddr>,
    /// Of services with the same history one.
    bases: Vec<Vec<Layer>>,
    services: Vec<Service>,
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

/// What is left of a service; where that is neither bases nor destinations, nothing.
#[derive(Debug, Serialize, Deserialize)]
struct Service {
    vip: IpNet,
    ports: (u16, u16),
    protocol: u8,
    /// Which of the bases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bases: Option<usize>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    had_other_slots: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    destinations: Vec<(SocketAddr, u32)>,
}

impl Saved {
    /// Takes what has changed since.
    pub fn follow(&mut self, Self { services, memory, of }: Self) {
        self.services.extend(services);
        (self.memory, self.of) = (memory, of);
    }

    pub fn to_text(&self) -> String {
        let (mut document, mut places, mut numbers) = (Document::new(self), HashMap::new(), HashMap::new());
        for (key, trace) in &self.services {
            let place = (!trace.bases.is_at_rest()).then(|| {
                *places.entry(Arc::as_ptr(&trace.bases)).or_insert_with(|| {
                    let layers = trace.bases.layers().map(|(space, held)| {
                        let row = |held: &Held| {
                            let number = *numbers.entry(held.base).or_insert_with(|| {
                                document.endpoints.push(held.base);
                                document.endpoints.len() as u32 - 1
                            });
                            let until = if let Until::At(at) = held.until { Some(at.0) } else { None };
                            (held.slot, number, until)
                        };
                        let held = held.iter().map(row).collect();
                        Layer { size: space.size, by_source: space.by == By::Source, held }
                    });
                    document.bases.push(layers.collect());
                    document.bases.len() - 1
                })
            });
            document.services.push(Service {
                vip: key.vip,
                ports: (key.ports.first, key.ports.last),
                protocol: key.protocol.number(),
                bases: place,
                had_other_slots: trace.had_other_slots,
                destinations: trace.numbers.to_vec(),
            });
        }
        serde_json::to_string(&document).expect("plain data has a JSON form")
    }

    /// What [`Saved::to_text`] wrote, time after time, in another process at the moment `now`; `None` where it did not. `knows_flows`: whether
    /// that remembers what the other did; else everybody has to show himself anew, and deadlines begin again.
    pub fn of_texts(texts: &[&str], now: Millis, knows_flows: bool) -> Option<Self> {
        let mut saved = Self::default();
        for text in texts {
            saved.follow(serde_json::from_str::<Document>(text).ok()?.saved(now, knows_flows));
        }
        saved.services.retain(|_, trace| !trace.is_empty());
        Some(saved)
    }
}

impl Document {
    fn new(saved: &Saved) -> Self {
        let (of, memory) = (saved.of.clone(), saved.memory);
        Self { of, memory, endpoints: Vec::new(), bases: Vec::new(), services: Vec::new() }
    }

    fn saved(self, now: Millis, knows_flows: bool) -> Saved {
        let until = |until: Option<u64>| match until.filter(|_| knows_flows) {
            None => Until::Adopted,
            Some(until) => Until::At(Millis(until.max(now.0 + AGAIN.0))),
        };
        let held = |&(slot, number, moment): &(u32, u32, Option<u64>)| {
            let base = *self.endpoints.get(number as usize)?;
            Some(Held { slot, base, until: until(moment) })
        };
        let layer = |layer: &Layer| {
            let by = if layer.by_source { By::Source } else { By::Client };
            (Space { size: layer.size, by }, layer.held.iter().filter_map(held).collect())
        };
        let bases = self.bases.iter().map(|layers| Arc::new(Bases::from_layers(layers.iter().map(layer))));
        let bases: Vec<Arc<Bases>> = bases.collect();
        let service = |service: Service| {
            let (vip, (first, last)) = (service.vip, service.ports);
            let key = Key { vip, ports: Ports { first, last }, protocol: Protocol::numbered(service.protocol)? };
            let bases = service.bases.and_then(|place| bases.get(place).cloned()).unwrap_or_default();
            let numbers = if knows_flows { service.destinations.into() } else { Arc::default() };
            Some((key, Trace { bases, numbers, had_other_slots: service.had_other_slots && knows_flows }))
        };
        Saved { services: self.services.into_iter().filter_map(service).collect(), memory: self.memory, of: self.of }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(slot: u32, last: u8, until: Until) -> Held {
        Held { slot, base: SocketAddr::from(([10, 0, 0, last], 0)), until }
    }

    pub fn key(port: u16) -> Key {
        Key { vip: "192.0.2.1/32".parse().unwrap(), ports: Ports::one(port), protocol: Protocol::Tcp }
    }

    pub fn saved() -> Saved {
        let bases = Arc::new(Bases::from_layers([
            (Space { size: 7, by: By::Source }, vec![held(1, 1, Until::At(Millis(5_000))), held(6, 2, Until::Adopted)]),
            (Space { size: 13, by: By::Client }, vec![held(0, 1, Until::At(Millis(500_000)))]),
        ]));
        let endpoint = |last, number| (SocketAddr::from(([10, 0, 0, last], 80)), number);
        let moves = Trace { bases, ..Trace::default() };
        let rests =
            Trace { numbers: [endpoint(1, 7), endpoint(2, 9)].into(), had_other_slots: true, ..Trace::default() };
        let of = Of { position: Some(Position { segment: 3, line: 4 }), drained: Some(String::new()) };
        let services = [(key(80), moves.clone()), (key(81), moves), (key(82), rests)].into();
        Saved { services, memory: 77, of }
    }

    fn untils(saved: &Saved) -> Vec<Until> {
        saved.services[&key(80)].bases.held().map(|(_, held)| held.until).collect()
    }

    fn read(text: &str, now: u64, knows_flows: bool) -> Saved {
        Saved::of_texts(&[text], Millis(now), knows_flows).unwrap()
    }

    #[test]
    fn what_is_read_again_is_what_was_written() {
        let before = saved();
        let after = read(&before.to_text(), 1_000, true);
        assert_eq!((after.memory, &after.of), (77, &before.of));
        for (key, trace) in &before.services {
            let slots =
                |bases: &Bases| bases.held().map(|(space, held)| (space, held.slot, held.base)).collect::<Vec<_>>();
            let other = &after.services[key];
            assert_eq!(slots(&other.bases), slots(&trace.bases));
            assert_eq!((&other.numbers, other.had_other_slots), (&trace.numbers, trace.had_other_slots));
        }
        let bases = |port| &after.services[&key(port)].bases;
        assert!(Arc::ptr_eq(bases(80), bases(81)), "one for both");
        assert_eq!(after.services.len(), 3);
    }

    #[test]
    fn a_deadline_stays_but_is_not_so_near_that_nobody_could_show_himself() {
        let after = read(&saved().to_text(), 21_000, true);
        assert_eq!(untils(&after), [Until::At(Millis(141_000)), Until::Adopted, Until::At(Millis(500_000))]);
    }

    #[test]
    fn without_its_flows_all_deadlines_begin_again() {
        let after = read(&saved().to_text(), 21_000, false);
        assert_eq!((untils(&after), after.services.get(&key(82))), (vec![Until::Adopted; 3], None));
    }

    #[test]
    fn what_makes_no_sense_holds_nothing() {
        let text = r#"{"endpoints": ["10.0.0.1:0"], "bases": [[{"size": 3, "held": [[2, 0, null], [1, 0, null]]}, {"size": 5, "held": [[5, 0, null]]},
            {"size": 7, "held": [[1, 9, null]]}]], "services": [{"vip": "192.0.2.1/32", "ports": [80, 80], "protocol": 6, "bases": 0},
            {"vip": "192.0.2.1/32", "ports": [80, 80], "protocol": 6, "bases": 1}], "memory": 1}"#;
        assert!(read(text, 0, true).services.is_empty());
        assert!(Saved::of_texts(&["{}"], Millis(0), true).is_none());
    }
}
