//! What happens: services, lcores, and a series of packets, changes and waits, drawn at random and shrunk where it goes wrong.

use penstock::service::{State, Tracking};
use proptest::collection::vec;
use proptest::prelude::*;

use super::frames::Kind;
use super::rule::Idle;

/// Backends that a service may have, and clients.
pub const BACKENDS: u8 = 6;
pub const CLIENTS: u8 = 20;
/// Primes, none below the number of backends.
pub const SIZES: [u32; 5] = [7, 13, 31, 61, 251];

const IDLES: [Idle; 3] = [
    Idle { tcp: 30, closing: 5, udp: 8 },
    Idle { tcp: 60, closing: 60, udp: 20 },
    Idle { tcp: 7440, closing: 120, udp: 60 },
];

#[derive(Debug, Clone)]
pub struct History {
    pub services: Vec<Setup>,
    pub lcores: Lcores,
    /// Flows that an lcore remembers.
    pub capacity: usize,
    /// Of the flow tables.
    pub seed: [u64; 2],
    pub steps: Vec<Step>,
}

#[derive(Debug, Clone)]
pub struct Setup {
    pub is_tcp: bool,
    pub is_v6: bool,
    pub is_by_source: bool,
    pub tracking: Tracking,
    pub size: u32,
    pub idle: Idle,
    /// Backends that are there at the start.
    pub backends: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
pub struct Lcores {
    pub count: usize,
    /// Whether penstock knows how packets are dealt to them.
    pub is_dealing_known: bool,
    pub salt: u8,
}

#[derive(Debug, Clone)]
pub enum Step {
    Burst(Vec<Arrival>),
    Change {
        changes: Vec<Change>,
        /// Whether the lcores adopt it one by one, by [`Step::Adopt`].
        lags: bool,
    },
    Adopt(u8),
    /// Milliseconds.
    Wait(u64),
    /// About as long as a timeout of a service: `more` milliseconds.
    WaitFor {
        service: u8,
        timeout: Timeout,
        more: i64,
    },
    /// The control side looks at what is remembered.
    Look,
    /// The lcores look for entries that are over, in so many quarters of their memory.
    Sweep(u8),
}

#[derive(Debug, Clone, Copy)]
pub enum Timeout {
    Tcp,
    Closing,
    Udp,
}

/// A frame comes.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    pub service: u8,
    pub client: u8,
    pub kind: Kind,
    /// To whom an ICMP error comes.
    pub lcore: u8,
}

#[derive(Debug, Clone, Copy)]
pub struct Change {
    pub service: u8,
    pub to: To,
}

#[derive(Debug, Clone, Copy)]
pub enum To {
    /// A backend is added, or changes.
    Backend(u8, State, u16),
    Removed(u8),
    Size(u32),
    /// Clients fall into slots by their address alone, or no longer.
    BySource(bool),
    Tracking(Tracking),
    Idle(Idle),
    /// The service goes, or comes back.
    Toggled,
}

fn setup() -> impl Strategy<Value = Setup> {
    let tracking = prop_oneof![4 => Just(Tracking::Full), 4 => Just(Tracking::Transition), 1 => Just(Tracking::None)];
    (
        prop_oneof![2 => Just(true), 1 => Just(false)],
        prop_oneof![3 => Just(false), 1 => Just(true)],
        prop_oneof![3 => Just(false), 1 => Just(true)],
        tracking,
        proptest::sample::select(&SIZES[..]),
        proptest::sample::select(&IDLES[..]),
        vec(0..BACKENDS, 1..5),
    )
        .prop_map(|(is_tcp, is_v6, is_by_source, tracking, size, idle, backends)| Setup {
            is_tcp,
            is_v6,
            is_by_source,
            tracking,
            size,
            idle,
            backends,
        })
}

fn arrival() -> impl Strategy<Value = Arrival> {
    let kind = prop_oneof![
        4 => Just(Kind::Syn),
        10 => Just(Kind::Data),
        1 => Just(Kind::Fin),
        1 => Just(Kind::Rst),
        2 => Just(Kind::Error),
        1 => (0u8..2).prop_map(Kind::First),
        1 => (0u8..2).prop_map(Kind::Later),
    ];
    (0u8..3, 0..CLIENTS, kind, 0u8..4).prop_map(|(service, client, kind, lcore)| Arrival {
        service,
        client,
        kind,
        lcore,
    })
}

fn change(resizes: bool) -> impl Strategy<Value = Change> {
    let backend = 0..BACKENDS;
    let of_service = prop_oneof![
        3 => Just(To::Tracking(Tracking::Full)),
        3 => Just(To::Tracking(Tracking::Transition)),
        1 => Just(To::Tracking(Tracking::None)),
        6 => proptest::sample::select(&IDLES[..]).prop_map(To::Idle),
        6 => Just(To::Toggled),
    ];
    let to = prop_oneof![
        12 => (backend.clone(), Just(State::Active), Just(100)).prop_map(|(b, s, w)| To::Backend(b, s, w)),
        6 => (backend.clone(), Just(State::Draining), Just(100)).prop_map(|(b, s, w)| To::Backend(b, s, w)),
        6 => (backend.clone(), Just(State::Down), Just(100)).prop_map(|(b, s, w)| To::Backend(b, s, w)),
        4 => (backend.clone(), Just(State::Active), Just(0)).prop_map(|(b, s, w)| To::Backend(b, s, w)),
        3 => (backend.clone(), Just(State::Active), prop_oneof![Just(1), Just(50), Just(300)]).prop_map(|(b, s, w)| To::Backend(b, s, w)),
        1 => (backend.clone(), prop_oneof![Just(State::Draining), Just(State::Down)], Just(0)).prop_map(|(b, s, w)| To::Backend(b, s, w)),
        6 => backend.prop_map(To::Removed),
        if resizes { 3 } else { 0 } => proptest::sample::select(&SIZES[..]).prop_map(To::Size),
        if resizes { 2 } else { 0 } => any::<bool>().prop_map(To::BySource),
        3 => of_service,
    ];
    (0u8..3, to).prop_map(|(service, to)| Change { service, to })
}

fn step(resizes: bool) -> impl Strategy<Value = Step> {
    let timeout = prop_oneof![3 => Just(Timeout::Tcp), 2 => Just(Timeout::Closing), 1 => Just(Timeout::Udp)];
    let more = prop_oneof![Just(-1000), Just(-1), Just(0), Just(1), Just(1000), -1500i64..1500];
    prop_oneof![
        24 => vec(arrival(), 1..33).prop_map(Step::Burst),
        8 => vec(arrival(), 1..5).prop_map(Step::Burst),
        10 => (vec(change(resizes), 0..5), prop_oneof![4 => Just(false), 1 => Just(true)])
            .prop_map(|(changes, lags)| Step::Change { changes, lags }),
        4 => (0u8..4).prop_map(Step::Adopt),
        6 => (0u64..6000).prop_map(Step::Wait),
        8 => (0u8..3, timeout, more).prop_map(|(service, timeout, more)| Step::WaitFor { service, timeout, more }),
        3 => Just(Step::Look),
        2 => (1u8..5).prop_map(Step::Sweep),
    ]
}

pub fn history(capacities: impl Strategy<Value = usize>) -> impl Strategy<Value = History> {
    let lcores = (1usize..5, prop_oneof![3 => Just(true), 1 => Just(false)], any::<u8>())
        .prop_map(|(count, is_dealing_known, salt)| Lcores { count, is_dealing_known, salt });
    let steps = prop_oneof![3 => Just(false), 1 => Just(true)].prop_flat_map(|resizes| vec(step(resizes), 1..120));
    (vec(setup(), 1..4), lcores, capacities, any::<[u64; 2]>(), steps)
        .prop_map(|(services, lcores, capacity, seed, steps)| History { services, lcores, capacity, seed, steps })
}
