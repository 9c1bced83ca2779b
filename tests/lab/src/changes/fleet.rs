//! The backends of both services, as an operator defines them, and how they change.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::dice::Dice;
use crate::backend::DNAT_PORT;
use crate::lab::{VIP, backend_address, backend_name};

/// The services: name, port, what is remembered of their flows; `None`: the default.
const SERVICES: [(&str, u16, Option<&str>); 2] = [("web", 80, None), ("web-full", DNAT_PORT, Some("full"))];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Active,
    Draining,
    Down,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    pub weight: u16,
    pub state: State,
}

/// By the backend's number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fleet(pub BTreeMap<usize, Member>);

/// As many go on taking new flows, whatever chance does.
pub const LEAST: usize = 3;

const NEW: Member = Member { weight: 100, state: State::Active };

impl Member {
    fn takes_new(&self) -> bool {
        self.state == State::Active && self.weight > 0
    }
}

impl Fleet {
    pub fn of(numbers: impl IntoIterator<Item = usize>) -> Self {
        Self(numbers.into_iter().map(|number| (number, NEW)).collect())
    }

    pub fn add(&mut self, number: usize) {
        self.0.insert(number, NEW);
    }

    pub fn remove(&mut self, number: usize) {
        self.0.remove(&number);
    }

    pub fn weigh(&mut self, number: usize, weight: u16) {
        self.0.entry(number).and_modify(|member| member.weight = weight);
    }

    pub fn turn(&mut self, number: usize, state: State) {
        self.0.entry(number).and_modify(|member| member.state = state);
    }

    /// Where the services are.
    pub fn addresses() -> Vec<String> {
        SERVICES.iter().map(|(_, port, _)| format!("{VIP}:{port}")).collect()
    }

    /// `idle`: how long a flow may be silent, and so how long the base of a slot is held that has changed hands.
    pub fn services(&self, version: &str, idle: Duration) -> Value {
        let backends: Vec<Value> = self.0.iter().map(|(&number, member)| backend(number, *member)).collect();
        let services = SERVICES.map(|(name, port, tracking)| {
            let mut service = json!({"name": name, "vip": VIP, "port": port, "protocol": "tcp", "forwarding": "ipip",
                "idle_timeout": {"tcp": format!("{}s", idle.as_secs())}, "backends": backends});
            if let Some(tracking) = tracking {
                service["tracking"] = tracking.into();
            }
            service
        });
        json!({"version": version, "services": services})
    }

    /// The weights of those that take new flows.
    pub fn shares(&self) -> BTreeMap<String, f64> {
        let taking = self.0.iter().filter(|(_, member)| member.takes_new());
        taking.map(|(&number, member)| (backend_name(number), f64::from(member.weight))).collect()
    }

    /// Those that are down.
    pub fn down(&self) -> Vec<usize> {
        self.numbers(|member| member.state == State::Down)
    }

    pub fn numbers(&self, are: impl Fn(&Member) -> bool) -> Vec<usize> {
        self.0.iter().filter(|(_, member)| are(member)).map(|(&number, _)| number).collect()
    }

    /// A change that breaks nobody: adds one of 1 to `most`, gives a weight, drains one, or lets it take flows again. [`LEAST`] go on taking
    /// new flows. Says what it was.
    pub fn change(&mut self, dice: &mut Dice, most: usize) -> String {
        loop {
            let mut next = self.clone();
            let absent: Vec<usize> = (1..=most).filter(|number| !next.0.contains_key(number)).collect();
            let any = dice.pick(&next.numbers(|_| true)).unwrap_or(1);
            let name = backend_name(any);
            let said = match dice.roll(4) {
                0 => match dice.pick(&absent) {
                    Some(new) => {
                        next.add(new);
                        format!("{} added", backend_name(new))
                    }
                    None => continue,
                },
                1 | 2 => {
                    let weight = [0, 25, 50, 100, 100, 200, 300][dice.roll(7)];
                    next.weigh(any, weight);
                    format!("{name} has weight {weight}")
                }
                _ => {
                    let (state, said) = match next.0[&any].state {
                        State::Active => (State::Draining, "drained"),
                        _ => (State::Active, "active again"),
                    };
                    next.turn(any, state);
                    format!("{name} {said}")
                }
            };
            if next != *self && next.shares().len() >= LEAST {
                *self = next;
                return said;
            }
        }
    }
}

fn backend(number: usize, Member { weight, state }: Member) -> Value {
    let mut backend = json!({"address": backend_address(number), "weight": weight});
    match state {
        State::Active => {}
        State::Draining => backend["state"] = "draining".into(),
        State::Down => backend["state"] = "down".into(),
    }
    backend
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_random_change_is_one_and_leaves_some_that_take_flows() {
        let (mut fleet, mut dice) = (Fleet::of(1..=5), Dice(1));
        for _ in 0..1000 {
            let before = fleet.clone();
            fleet.change(&mut dice, 8);
            assert!(fleet != before && fleet.shares().len() >= LEAST);
            assert!(before.0.keys().all(|number| fleet.0.contains_key(number)));
        }
        assert_eq!(fleet.0.len(), 8);
    }

    #[test]
    fn who_drains_is_down_or_weighs_nothing_takes_no_new_flow() {
        let mut fleet = Fleet::of(1..=4);
        fleet.turn(1, State::Draining);
        fleet.turn(2, State::Down);
        fleet.weigh(3, 0);
        assert_eq!(fleet.shares(), BTreeMap::from([("backend4".to_owned(), 100.0)]));
        let services = fleet.services("1", Duration::from_secs(9));
        assert_eq!(services["services"][1]["backends"][0]["state"], "draining");
    }
}
