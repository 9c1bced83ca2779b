//! The backends as they are: what the definitions and the health checks say, and whose connections are alive.

use std::net::IpAddr;

use penstock::maglev::{self, Member, SelectionHash};

use super::scenario::{Change, Number, Scenario, WEIGHT};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Not in the definitions.
    Absent,
    Active,
    Draining,
    Down,
}

#[derive(Debug, Clone, Copy)]
pub struct Backend {
    pub state: State,
    pub weight: u16,
    /// How often it was removed: what is defined under its address after that is another backend.
    pub incarnation: u16,
    /// How often its connections have died, by a crash or its removal.
    pub life: u16,
}

#[derive(Debug, Clone)]
pub struct World {
    pub backends: Vec<Backend>,
}

/// Slots of every table; Maglev's paper has 65537 as the smaller one (section 5.3).
pub const SLOTS: u32 = if cfg!(test) { 2_039 } else { 65_537 };

/// The fleet's.
pub const HASH: SelectionHash = SelectionHash::new([6; 16]);

impl Backend {
    pub fn takes_new(&self) -> bool {
        self.state == State::Active
    }

    /// Whether flows may stay.
    pub fn keeps(&self) -> bool {
        matches!(self.state, State::Active | State::Draining)
    }
}

impl World {
    pub fn new(scenario: &Scenario) -> Self {
        let backend = |number| Backend {
            state: if number < scenario.backends { State::Active } else { State::Absent },
            weight: WEIGHT,
            incarnation: 0,
            life: 0,
        };
        Self { backends: (0..scenario.backends + scenario.spare).map(backend).collect() }
    }

    pub fn get(&self, number: Number) -> &Backend {
        &self.backends[usize::from(number)]
    }

    /// Backends by what is true of them.
    pub fn which(&self, is: impl Fn(&Backend) -> bool) -> Vec<Number> {
        (0..).zip(&self.backends).filter(|(_, backend)| is(backend)).map(|(number, _)| number).collect()
    }

    /// Whether anything is other than before: a change may come too late (to a backend that is not there, say), and does nothing then.
    pub fn apply(&mut self, change: &Change) -> bool {
        let mut each = |numbers: &[Number], apply: &dyn Fn(&mut Backend) -> bool| {
            numbers.iter().filter(|&&number| apply(&mut self.backends[usize::from(number)])).count() > 0
        };
        let from = |is: State, to: State| {
            move |backend: &mut Backend| {
                let applies = backend.state == is;
                backend.state = if applies { to } else { backend.state };
                applies
            }
        };
        match change {
            Change::Add(numbers) => each(numbers, &from(State::Absent, State::Active)),
            Change::Drain(numbers) => each(numbers, &from(State::Active, State::Draining)),
            Change::Remove(numbers) => each(numbers, &|backend| {
                let applies = backend.state != State::Absent;
                if applies {
                    let (incarnation, life) = (backend.incarnation + 1, backend.life + 1);
                    *backend = Backend { state: State::Absent, incarnation, life, ..*backend };
                }
                applies
            }),
            &Change::Down { backend, crashed } => each(&[backend], &|backend| {
                let applies = backend.state == State::Active;
                if applies {
                    backend.state = State::Down;
                    backend.life += u16::from(crashed);
                }
                applies
            }),
            &Change::Up(backend) => each(&[backend], &from(State::Down, State::Active)),
            &Change::Weigh(backend, weight) => {
                each(&[backend], &|backend| std::mem::replace(&mut backend.weight, weight) != weight)
            }
            Change::NodeLost(_) | Change::NodeBack(_) => false,
        }
    }

    /// The Maglev table of some backends, by their numbers.
    pub fn maglev(&self, numbers: &[Number]) -> Vec<Number> {
        let members: Vec<Member> = numbers
            .iter()
            .map(|&number| Member { address: address(number), port: None, weight: self.get(number).weight })
            .collect();
        maglev::table(&members, SLOTS, &HASH).into_iter().map(|member| numbers[usize::from(member)]).collect()
    }
}

/// Ascending by number: members of a table are sorted.
pub fn address(number: Number) -> IpAddr {
    [10, 0, (number >> 8) as u8, number as u8].into()
}
