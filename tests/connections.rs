//! No established connection leaves a backend that is there and not down: random histories through the flow table, the rule and the bases
//! of slots, against a global view that knows where each connection really is.

use std::cell::RefCell;
use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr};

use penstock::flow::{Address, Choice, Dealing, Fate, Flow, Flows, Goes, Inserted, Known, Says, Seconds, Spots, Stage};
use penstock::maglev::{self, NOBODY, SelectionHash};
use penstock::service::{Protocol, Tracking};
use penstock::snapshot::{Bases, By, Millis, Owners};
use proptest::prelude::*;

const SLOTS: usize = 13;
const BACKENDS: u16 = 6;
/// Seconds: opening and closing, established.
const IDLE: [u32; 3] = [20, 100, 20];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Active,
    /// Or of weight 0.
    Draining,
    Down,
    Removed,
}

fn endpoint(backend: u32) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, backend as u8], 80))
}

/// One service under its definitions, and one lcore's memory.
struct Node {
    states: [State; BACKENDS as usize],
    owners: Vec<u16>,
    bases: Bases,
    /// Slots without room since their deadline was set.
    full: RefCell<HashSet<u32>>,
    flows: Flows,
    tracking: Tracking,
    now: u32,
}

impl Known for Node {
    fn fate(&self, destination: u32) -> Fate {
        let state = self.states[destination as usize];
        let keeps = matches!(state, State::Active | State::Draining);
        Fate { is_there: state != State::Removed, keeps, takes_new: state == State::Active, idle: IDLE }
    }

    fn base(&self, _: u32, slot: u32) -> Option<u32> {
        self.held(slot).or_else(|| self.owner(slot))
    }

    fn note_no_room(&self, _: u32, slot: u32) {
        self.full.borrow_mut().insert(slot);
    }
}

impl Node {
    fn owner(&self, slot: u32) -> Option<u32> {
        let owner = self.owners[slot as usize];
        (owner != NOBODY).then_some(u32::from(owner))
    }

    fn held(&self, slot: u32) -> Option<u32> {
        let held = self.bases.held().find(|(_, held)| held.slot == slot)?;
        (0..u32::from(BACKENDS)).find(|&backend| endpoint(backend) == held.1.base)
    }

    fn change(&mut self, states: [State; BACKENDS as usize], drawn: &[u16]) {
        let active: Vec<u16> = (0..BACKENDS).filter(|&k| states[usize::from(k)] == State::Active).collect();
        let draw = |&number: &u16| active.get(usize::from(number) % active.len().max(1)).copied().unwrap_or(NOBODY);
        let owners: Vec<u16> = drawn.iter().map(draw).collect();
        let endpoints: Vec<_> = (0..u32::from(BACKENDS)).map(endpoint).collect();
        let of = |slots| Owners { slots, endpoints: &endpoints, by: By::Client };
        let keeps = |address: SocketAddr| {
            let backend = endpoints.iter().position(|&other| other == address).unwrap();
            matches!(states[backend], State::Active | State::Draining)
        };
        let before: HashSet<u32> = self.bases.held().map(|(_, held)| held.slot).collect();
        self.bases = self.bases.after(of(&self.owners), of(&owners), keeps);
        self.bases = self.bases.clone().adopted(self.millis(), Millis(u64::from(IDLE[1]) * 1000));
        // A deadline that is new has seen nothing.
        let held: HashSet<u32> = self.bases.held().map(|(_, held)| held.slot).collect();
        self.full.borrow_mut().retain(|slot| before.contains(slot) && held.contains(slot));
        (self.states, self.owners) = (states, owners);
    }

    fn millis(&self) -> Millis {
        Millis(u64::from(self.now) * 1000)
    }

    fn wait(&mut self, seconds: u32) {
        for _ in 0..seconds {
            self.now += 1;
            let (now, full) = (self.millis(), self.full.borrow().clone());
            let due: Vec<u32> = self
                .bases
                .held()
                .filter(|(_, held)| held.until == penstock::snapshot::Until::At(now))
                .map(|(_, held)| held.slot)
                .collect();
            self.bases = std::mem::take(&mut self.bases)
                .at(now, Millis(u64::from(IDLE[1]) * 1000), |_, slot| full.contains(&slot));
            self.full.borrow_mut().retain(|slot| !due.contains(slot));
        }
    }

    fn remembers(&self, client: u64) -> bool {
        self.flows.find(self.flows.spot([client, 0])).is_some()
    }

    fn packet(&mut self, client: u64, says: Says) -> Goes {
        let hash = client.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let slot = maglev::slot(hash, SLOTS as u32) as u32;
        let choice =
            Choice { slot, now: self.owner(slot), settled: None, base: self.held(slot), tracking: self.tracking };
        let mut flows = std::mem::replace(&mut self.flows, Flows::new(0, [0; 2]));
        let spot = flows.spot([client, 0]);
        let goes = flows.decide(spot, flows.find(spot), says, Seconds(self.now), self, || choice);
        self.flows = flows;
        goes
    }
}

/// Where a connection really is.
#[derive(Debug, Clone, Copy)]
struct Connection {
    backend: u32,
    is_established: bool,
    last: u32,
}

#[derive(Debug, Clone)]
enum Step {
    /// The client's next packet: it opens, goes on, or ends.
    Packet {
        client: u64,
        ends: bool,
    },
    /// A SYN that somebody else sends in its name.
    Forge(u64),
    Change(Vec<State>, Vec<u16>),
    Wait(u32),
}

fn step() -> impl Strategy<Value = Step> {
    let state = prop_oneof![5 => Just(State::Active), 2 => Just(State::Draining), 1 => Just(State::Down), 1 => Just(State::Removed)];
    let change =
        (proptest::collection::vec(state, usize::from(BACKENDS)), proptest::collection::vec(0..BACKENDS, SLOTS));
    prop_oneof![
        30 => (0u64..60, prop_oneof![9 => Just(false), 1 => Just(true)]).prop_map(|(client, ends)| Step::Packet { client, ends }),
        3 => (0u64..60).prop_map(Step::Forge),
        2 => change.prop_map(|(states, drawn)| Step::Change(states, drawn)),
        6 => (1u32..40).prop_map(Step::Wait),
    ]
}

/// What the hashes of others make of a client's address and port, of which anybody can choose many that are alike: CRC-32 (reflected, as
/// in many tables of flows), and the Toeplitz hash by which NICs deal.
fn crc(client: (Ipv4Addr, u16)) -> u32 {
    let bytes = client.0.octets().into_iter().chain(client.1.to_be_bytes());
    !bytes.fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 })
    })
}

fn dealt(client: (Ipv4Addr, u16)) -> usize {
    Dealing::evenly(512, 256).lcore(client.0.into(), VIP.into(), Some((client.1, 80)))
}

const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// Tuples that meet in one of 256 places by either hash spread over the table as any others do: as many fit as are promised, none goes
/// unremembered. (Under a hash without a key each of these attacks would fill a few buckets, and have nearly all refused.)
#[test]
fn tuples_that_were_chosen_against_known_hashes_are_like_any_others() {
    const MANY: usize = 10_000;
    let clients =
        || (0u32..).map(|number| (Ipv4Addr::from_bits(0xc612_0000 | number >> 12), 1024 + (number & 0xfff) as u16));
    let attacks: [(&str, Vec<(Ipv4Addr, u16)>); 2] = [
        ("crc", clients().filter(|&client| crc(client) & 0xff == 0x2a).take(MANY).collect()),
        ("toeplitz", clients().filter(|&client| dealt(client) == 42).take(MANY).collect()),
    ];
    for (name, clients) in attacks {
        let mut flows = Flows::new(MANY, [0x5eed, 0xfeed]);
        let flow = Flow { destination: 1, slot: 1, stage: Stage::Opening, seen: 0 };
        for &(address, port) in &clients {
            let key = <[u8; 4]>::key((address.octets(), port), (VIP.octets(), 80), Protocol::Tcp);
            let spot = flows.spot(key.words());
            assert_eq!(flows.find(spot), None);
            assert_eq!(flows.insert(spot, &flow, &()), Inserted::Room, "{name}");
        }
        assert_eq!(flows.taken(), MANY, "{name}");
        // Nor do their slots: nobody aims at a backend.
        let hash = SelectionHash::new(*b"0123456789abcdef");
        let mut slots = [0; 101];
        clients.iter().for_each(|&(address, port)| slots[maglev::slot(hash.end(address.into(), port), 101)] += 1);
        let expected = MANY as f64 / 101.0;
        let chi_square: f64 = slots.iter().map(|&count| (f64::from(count) - expected).powi(2) / expected).sum();
        // Of 100 degrees: exceeded less than once in a million.
        assert!(chi_square < 180.0, "{name}: {chi_square}");
    }
}

/// In a full table, too: what waits for its backend to return is worth as much as what goes on.
#[test]
fn a_connection_that_is_silent_outlives_its_backends_outage_where_it_is_remembered() {
    let mut node = Node {
        states: [State::Active; BACKENDS as usize],
        owners: (0..SLOTS as u16).map(|slot| slot % BACKENDS).collect(),
        bases: Bases::default(),
        full: RefCell::default(),
        flows: Flows::new(1, [7, 7]),
        tracking: Tracking::Full,
        now: 1000,
    };
    let Goes::To(backend) = node.packet(1, Says::Opens) else { panic!("nobody takes it") };
    node.packet(1, Says::GoesOn);
    let drawn: Vec<u16> = (0..SLOTS as u16).map(|slot| slot % BACKENDS).collect();
    let mut states = node.states;
    states[backend as usize] = State::Down;
    node.change(states, &drawn);
    for client in 2..40 {
        node.packet(client, Says::Opens);
    }
    assert!(node.remembers(1));
    node.change([State::Active; BACKENDS as usize], &drawn.iter().map(|k| k + 1).collect::<Vec<_>>());
    assert_eq!(node.packet(1, Says::GoesOn), Goes::To(backend));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_established_connection_leaves_a_backend_that_keeps_it(
        steps in proptest::collection::vec(step(), 50..400),
        capacity in prop_oneof![Just(4usize), Just(8), Just(16), Just(1000)],
        is_full: bool,
        seed: [u64; 2],
    ) {
        let tracking = if is_full { Tracking::Full } else { Tracking::Transition };
        let mut node = Node {
            states: [State::Active; BACKENDS as usize],
            owners: (0..SLOTS as u16).map(|slot| slot % BACKENDS).collect(),
            bases: Bases::default(),
            full: RefCell::default(),
            flows: Flows::new(capacity, seed),
            tracking,
            now: 1000,
        };
        let mut connections: [Option<Connection>; 60] = [None; 60];
        for step in steps {
            match step {
                Step::Wait(seconds) => node.wait(seconds),
                Step::Change(states, drawn) => {
                    node.change(states.clone().try_into().unwrap(), &drawn);
                    // What was on a backend that goes is lost.
                    for connection in &mut connections {
                        if connection.is_some_and(|of| matches!(states[of.backend as usize], State::Down | State::Removed)) {
                            *connection = None;
                        }
                    }
                }
                // On a flow that is not remembered it may count as the flow's: a documented exception.
                Step::Forge(client) => {
                    if connections[client as usize].is_some_and(|of| of.is_established) && node.remembers(client) {
                        node.packet(client, Says::Opens);
                    }
                }
                Step::Packet { client, ends } => {
                    let connection = &mut connections[client as usize];
                    let idle = |of: &Connection| IDLE[usize::from(of.is_established)];
                    match connection.filter(|of| node.now - of.last < idle(of)) {
                        None => {
                            *connection = match node.packet(client, Says::Opens) {
                                Goes::To(backend) => Some(Connection { backend, is_established: false, last: node.now }),
                                _ => None,
                            };
                        }
                        Some(of) => {
                            let goes = node.packet(client, if ends { Says::Ends } else { Says::GoesOn });
                            // A handshake may come to nothing: what never got past its SYN gives way in a full table.
                            let stays = goes == Goes::To(of.backend);
                            prop_assert!(stays || !of.is_established, "client {client} at {}: {of:?}, but {goes:?}", node.now);
                            *connection =
                                (stays && !ends).then_some(Connection { is_established: true, last: node.now, ..of });
                        }
                    }
                }
            }
        }
    }
}
