use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;

const _: () = assert!(size_of::<Bucket>() == 64 && align_of::<Bucket>() == 64);

thread_local!(static WRITES: Cell<usize> = const { Cell::new(0) });

/// Each exchange takes the cache line away from the other lcores, also one that changes nothing.
pub(super) fn count_a_write() {
    WRITES.set(WRITES.get() + 1);
}

fn address(number: u32) -> IpAddr {
    Ipv4Addr::from_bits(number).into()
}

/// A table with room for `capacity`, which is asked for clients of one service by number.
struct Numbered(Clients);

impl Numbered {
    fn new(capacity: usize, seed: u64) -> Self {
        Self(Clients::new(capacity, [seed, 0]))
    }

    fn spot(&self, number: u32) -> ClientSpot {
        self.0.spot(7, address(number))
    }

    fn find(&self, number: u32) -> Option<(u32, u32)> {
        self.0.find(self.spot(number)).map(|client| (client.destination, client.seen))
    }

    fn note(&self, number: u32, destination: u32, now: u32) -> u32 {
        self.0.note(self.spot(number), destination, Seconds(now), |_| false)
    }
}

#[test]
fn so_many_fit_as_are_promised() {
    for (capacity, tables) in [(1000, 50), (100_000, 1), (1_000_000, 1)] {
        let mut displaced = 0;
        for seed in 0..tables as u64 {
            let clients = Numbered::new(capacity, seed);
            (0..capacity as u32).for_each(|k| _ = clients.note(k.wrapping_mul(0x9e37_79b1), k, 1));
            let found =
                (0..capacity as u32).filter(|&k| clients.find(k.wrapping_mul(0x9e37_79b1)) == Some((k, 1))).count();
            displaced += capacity - found;
            // But for the few that were taken for others.
            assert!((found..found + 10).contains(&clients.0.count()));
        }
        assert!(displaced * 1000 < capacity * tables, "{displaced} of {tables} x {capacity}");
    }
    assert!(Clients::bytes(1_000_000) <= 10_000_064);
    assert_eq!([Clients::bytes(0), Clients::bytes(1), Clients::bytes(16)], [0, 128, 192]);
}

#[test]
fn a_client_is_remembered_for_each_service_apart() {
    let clients = Clients::new(100, [1, 2]);
    let v6 = IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));
    let other_net = IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 1));
    let spots = [(1, address(1)), (2, address(1)), (1, address(2)), (1, v6), (2, v6), (1, other_net)]
        .map(|(service, address)| clients.spot(service, address));
    for (destination, &spot) in (10..).zip(&spots) {
        assert_eq!(clients.find(spot), None);
        assert_eq!(clients.note(spot, destination, Seconds(5), |_| false), destination);
    }
    for (destination, &spot) in (10..).zip(&spots) {
        assert_eq!(clients.find(spot), Some(Client { destination, seen: 5 }));
    }
    assert_eq!(clients.count(), spots.len());
}

#[test]
fn what_is_remembered_counts_until_it_is_over() {
    let clients = Numbered::new(10, 1);
    let old = |client: &Client| client.age(Seconds(100)) > 50;
    assert_eq!(clients.note(1, 10, 49), 10);
    // Over by then, but nobody says so.
    assert_eq!((clients.note(1, 20, 100), clients.find(1)), (10, Some((10, 100))));
    assert_eq!(clients.note(2, 10, 49), 10);
    assert_eq!((clients.0.note(clients.spot(2), 20, Seconds(100), old), clients.find(2)), (20, Some((20, 100))));
    assert_eq!(clients.0.count(), 2);
}

#[test]
fn within_a_second_nothing_is_written() {
    let clients = Numbered::new(10, 1);
    clients.note(1, 10, 100);
    let writes = |destination, now| {
        let before = WRITES.get();
        assert_eq!(clients.note(1, destination, now), 10);
        WRITES.get() - before
    };
    assert_eq!([writes(10, 100), writes(20, 100), writes(10, 99)], [0, 0, 0]);
    assert_eq!([writes(10, 101), writes(10, 101)], [1, 0]);
    assert_eq!(clients.find(1), Some((10, 101)));
}

#[test]
fn a_clock_that_is_behind_takes_nobody_for_old() {
    let age = |seen, now| Client { destination: 1, seen }.age(Seconds(now));
    let whole = Client::SECONDS;
    assert_eq!([age(100, 99), age(100, 41), age(100, 100), age(100, 103)], [0, 0, 0, 3]);
    assert_eq!([age(whole - 5, 3 * whole + 5), age(5, 4 * whole - 5)], [10, 0]);
    // Beyond that it is old indeed.
    assert_eq!(age(100, 100 + whole - Client::AHEAD), whole - Client::AHEAD);
}

#[test]
fn what_is_over_goes_first_and_then_the_oldest() {
    let clients = Numbered::new(8, 1);
    (0..16).for_each(|k| _ = clients.note(k, k, 100 + (k * 7) % 16));
    assert_eq!(clients.0.count(), 16);
    let newer = |k: u32, is_over: &dyn Fn(&Client) -> bool| {
        let before: HashSet<u32> = (0..100).filter(|&k| clients.find(k).is_some()).collect();
        assert_eq!(clients.0.note(clients.spot(k), k, Seconds(200), is_over), k);
        let gone: Vec<u32> = before.into_iter().filter(|&k| clients.find(k).is_none()).collect();
        assert_eq!(clients.find(k), Some((k, 200)));
        gone
    };
    assert_eq!(newer(20, &|client| client.destination == 13), [13]);
    // Seen in the seconds 100, 101, 102.
    assert_eq!([newer(21, &|_| false), newer(22, &|_| false), newer(23, &|_| false)], [[0], [7], [14]]);
    assert_eq!(clients.0.count(), 16);
}

#[test]
fn without_capacity_nothing_is_remembered() {
    let clients = Numbered::new(0, 1);
    assert_eq!((clients.note(1, 10, 1), clients.find(1), clients.0.count()), (10, None, 0));
}

#[test]
fn what_is_over_is_swept() {
    let clients = Numbered::new(100, 1);
    (0..50).for_each(|k| _ = clients.note(k, k, 100 + k));
    let mut live = Vec::new();
    clients.0.sweep(|client| client.age(Seconds(150)) > 10, |client| live.push(client.destination));
    live.sort_unstable();
    assert_eq!(live, (40..50).collect::<Vec<_>>());
    assert_eq!((clients.0.count(), clients.find(39), clients.find(40)), (10, None, Some((40, 140))));
}

/// As an lcore leaves it that gave up: who comes next makes it firm, or frees it if it is over.
#[test]
fn a_claim_that_was_left_does_not_stay_one() {
    for (is_over, then) in [(false, 30), (true, 10)] {
        let clients = Numbered::new(10, 1);
        let spot = clients.spot(1);
        let left = Entry::new(spot.head, &Client { destination: 30, seen: 99 }).as_claim();
        assert!(clients.0.exchange(spot, 11, Entry::FREE, left));
        assert_eq!(clients.find(1), None);
        let over = |client: &Client| is_over && client.destination == 30;
        assert_eq!(clients.0.note(spot, 10, Seconds(100), over), then);
        assert_eq!((clients.find(1).map(|(destination, _)| destination), clients.0.count()), (Some(then), 1));
    }
}

#[test]
fn of_two_firm_ones_the_first_counts_and_the_other_goes() {
    let clients = Numbered::new(10, 1);
    let spot = clients.spot(1);
    for (way, destination) in [(3, 30), (9, 90)] {
        let entry = Entry::new(spot.head, &Client { destination, seen: 99 });
        assert!(clients.0.exchange(spot, way, Entry::FREE, entry));
    }
    let new = Entry::new(spot.head, &Client { destination: 10, seen: 100 });
    assert_eq!(clients.find(1), Some((30, 99)));
    assert_eq!(clients.0.enter(spot, new, Seconds(100), |_| false), 30);
    assert_eq!((clients.find(1), clients.0.count()), (Some((30, 100)), 1));
}

/// The sum of the squared differences from an even spread, by what is expected of chance: about 1.
fn unevenness(buckets: usize, places: impl Iterator<Item = usize>) -> f64 {
    let mut counts = vec![0_u32; buckets];
    places.for_each(|place| counts[place] += 1);
    let mean = f64::from(counts.iter().sum::<u32>()) / buckets as f64;
    counts.iter().map(|&count| (f64::from(count) - mean).powi(2) / mean).sum::<f64>() / (buckets - 1) as f64
}

/// Whoever has a whole network, and does not know the key, fills no bucket more than the others.
#[test]
fn addresses_in_a_row_are_spread_evenly() {
    const ROW: u32 = 1 << 16;
    type Client = fn(u32) -> (u64, IpAddr);
    let rows: [(&str, Client); 5] = [
        ("IPv4", |k| (1, Ipv4Addr::from_bits(0x0a00_0000 + k).into())),
        ("IPv4, by 256", |k| (1, Ipv4Addr::from_bits(k << 8).into())),
        ("IPv6 hosts", |k| (1, Ipv6Addr::from_bits((0x2001_0db8 << 96) + u128::from(k)).into())),
        ("IPv6 networks", |k| (1, Ipv6Addr::from_bits((0x2001_0db8 << 96) + (u128::from(k) << 64)).into())),
        ("services", |k| (u64::from(k), address(1))),
    ];
    for (seed, (row, client)) in (0..4).flat_map(|seed| rows.map(|row| (seed, row))) {
        let clients = Clients::new(1000, [seed, 9]);
        let other = Clients::new(1000, [seed + 100, 9]);
        let buckets = clients.buckets.len();
        let spots = || (0..ROW).map(client).map(|(service, address)| clients.spot(service, address));
        let first = unevenness(buckets, spots().map(|spot| spot.buckets[0] as usize));
        let second = unevenness(buckets, spots().map(|spot| spot.buckets[1] as usize));
        // No bucket goes with another, nor with a head: else whoever fills one, fills its partners.
        let apart = unevenness(
            buckets - 1,
            spots().map(|spot| (spot.buckets[1] as usize + buckets - spot.buckets[0] as usize) % buckets - 1),
        );
        let head = unevenness(64, spots().map(|spot| (spot.head as usize / 2 + spot.buckets[0] as usize) % 64));
        for (what, unevenness) in [("first", first), ("second", second), ("apart", apart), ("head", head)] {
            assert!((0.4..1.8).contains(&unevenness), "{row}, seed {seed}: {what} {unevenness}");
        }
        // Another key, other buckets.
        let same = (0..ROW).map(client).filter(|&(service, address)| {
            clients.spot(service, address).buckets[0] == other.spot(service, address).buckets[0]
        });
        assert!(same.count() < 2 * ROW as usize / buckets, "{row}, seed {seed}");
    }
}

#[derive(Debug, Clone)]
enum Step {
    /// A client goes to a destination.
    Note(u32, u32),
    /// Seconds pass.
    Pass(u32),
    Sweep,
}

fn steps(clients: u32) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        12 => (0..clients, 0u32..1000).prop_map(|(client, destination)| Step::Note(client, destination)),
        2 => (0u32..20).prop_map(Step::Pass),
        1 => Just(Step::Sweep),
    ];
    proptest::collection::vec(step, 1..400)
}

/// What a map remembers: all of it, and by the plain rule. A client is over after 50 s, or if its destination is below 50.
#[derive(Default)]
struct Model {
    map: HashMap<u32, (u32, u32)>,
    now: u32,
}

impl Model {
    fn is_over(&self, destination: u32, seen: u32) -> bool {
        destination < 50 || self.now - seen > 50
    }

    fn note(&mut self, client: u32, destination: u32) -> u32 {
        let known = self.map.get(&client).filter(|&&(destination, seen)| !self.is_over(destination, seen));
        let counts = known.map_or(destination, |&(destination, _)| destination);
        self.map.insert(client, (counts, self.now));
        counts
    }
}

/// Takes `steps` in a table and in the model, which forgets whatever `displaced` finds displaced before each step.
fn follow(steps: Vec<Step>, clients: &Numbered, displaced: impl Fn(&mut Model)) -> Model {
    let mut model = Model::default();
    for step in steps {
        displaced(&mut model);
        let now = model.now;
        let over = |client: &Client| client.destination < 50 || client.age(Seconds(now)) > 50;
        match step {
            Step::Note(client, destination) => {
                let counts = clients.0.note(clients.spot(client), destination, Seconds(now), over);
                assert_eq!(counts, model.note(client, destination));
                assert_eq!(clients.find(client), Some((counts, now)));
            }
            Step::Pass(seconds) => model.now += seconds,
            Step::Sweep => {
                let mut live = 0;
                clients.0.sweep(over, |_| live += 1);
                displaced(&mut model);
                let before = std::mem::take(&mut model.map);
                model.map = before.into_iter().filter(|&(_, (d, seen))| !model.is_over(d, seen)).collect();
                assert_eq!(live, model.map.len());
            }
        }
    }
    displaced(&mut model);
    model
}

proptest! {
    /// Few seeds, so that it is always the same clients: of these no two are taken for each other.
    #[test]
    fn with_room_enough_it_is_a_map(steps in steps(120), seed in 0u64..4) {
        let clients = Numbered::new(1000, seed);
        let model = follow(steps, &clients, |_| ());
        for client in 0..120 {
            prop_assert_eq!(clients.find(client), model.map.get(&client).copied());
        }
        prop_assert_eq!(clients.0.count(), model.map.len());
    }

    #[test]
    fn what_is_found_was_noted_last(steps in steps(60), seed in 0u64..4, capacity in 1usize..30) {
        let clients = Numbered::new(capacity, seed);
        let model = follow(steps, &clients, |model| {
            model.map.retain(|&client, &mut known| match clients.find(client) {
                None => false,
                found => { assert_eq!(found, Some(known)); true }
            });
        });
        prop_assert_eq!(clients.0.count(), model.map.len());
    }
}
