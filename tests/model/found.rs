//! Histories that once went wrong, shrunk; and one that chance hardly finds.

use penstock::service::{State, Tracking};

use super::frames::Kind;
use super::history::{Arrival, Change, History, Lcores, Setup, Step, Timeout, To};
use super::rule::Idle;
use super::world::{Room, World};

fn setup(tracking: Tracking, size: u32, backends: &[u8]) -> Setup {
    let idle = Idle { tcp: 30, closing: 5, udp: 8 };
    Setup { is_tcp: true, is_v6: false, is_by_source: false, tracking, size, idle, backends: backends.to_vec() }
}

fn history(services: Vec<Setup>, capacity: usize, seed: [u64; 2], steps: Vec<Step>) -> History {
    let lcores = Lcores { count: 1, is_dealing_known: true, salt: 0 };
    History { services, lcores, capacity, seed, steps }
}

/// A burst of packets, each of a service's client.
fn burst(packets: &[(u8, u8, Kind)]) -> Step {
    let arrival = |&(service, client, kind)| Arrival { service, client, kind, lcore: 0 };
    Step::Burst(packets.iter().map(arrival).collect())
}

fn change(service: u8, to: To) -> Step {
    Step::Change { changes: vec![Change { service, to }], lags: false }
}

fn goes_as_it_ought(room: Room, history: &History) {
    World::new(history, room).live(&history.steps).unwrap_or_else(|what| panic!("{what}"));
}

/// What followed the SYN found the entry of the connection before, since entries were looked for in the whole burst first.
#[test]
fn a_syn_and_what_follows_in_its_burst_go_together() {
    let steps = vec![
        change(0, To::Backend(0, State::Draining, 100)),
        change(0, To::Backend(1, State::Active, 100)),
        burst(&[(0, 16, Kind::Fin)]),
        burst(&[(0, 16, Kind::Syn), (0, 16, Kind::Data)]),
    ];
    goes_as_it_ought(Room::Plenty, &history(vec![setup(Tracking::Full, 7, &[0])], 4096, [0; 2], steps));
}

/// It was chosen anew without an entry, at rest; but the old entry stayed, and came to life with its backend.
#[test]
fn a_backend_that_returns_does_not_take_back_who_went_on_elsewhere() {
    let steps = vec![
        change(0, To::Backend(1, State::Active, 100)),
        burst(&[(0, 19, Kind::Data)]),
        change(0, To::Backend(4, State::Down, 100)),
        burst(&[(0, 19, Kind::Syn)]),
        burst(&[(0, 19, Kind::Data)]),
        change(0, To::Backend(4, State::Active, 100)),
        burst(&[(0, 19, Kind::Data)]),
    ];
    goes_as_it_ought(Room::Plenty, &history(vec![setup(Tracking::Transition, 31, &[4])], 4096, [0; 2], steps));
}

/// The table of a service whose backends have no weight is empty, and had no slot to note it of.
#[test]
fn a_slot_without_room_is_held_on_where_nobody_has_weight() {
    let steps = vec![
        change(1, To::Backend(0, State::Active, 0)),
        Step::Wait(1),
        burst(&[(0, 0, Kind::Syn)]),
        burst(&[(0, 1, Kind::Syn), (1, 1, Kind::Data), (0, 2, Kind::Syn), (1, 0, Kind::Data)]),
        Step::WaitFor { service: 0, timeout: Timeout::Tcp, more: -1 },
        burst(&[(1, 0, Kind::Data)]),
    ];
    let services = vec![setup(Tracking::Full, 7, &[1, 0]), setup(Tracking::Full, 7, &[0])];
    goes_as_it_ought(Room::Scarce, &history(services, 4, [0; 2], steps));
}

/// What was noted of the slots of a table was forgotten with it.
#[test]
fn a_slot_without_room_is_held_on_after_its_table_has_another_size() {
    let steps = vec![
        change(2, To::Backend(2, State::Active, 0)),
        Step::Wait(59),
        burst(&[(2, 0, Kind::Data), (0, 1, Kind::Syn), (0, 2, Kind::Syn), (2, 1, Kind::Data), (2, 14, Kind::Data)]),
        Step::Wait(1114),
        change(2, To::Backend(3, State::Active, 100)),
        Step::WaitFor { service: 0, timeout: Timeout::Tcp, more: -1115 },
        burst(&[(2, 14, Kind::Data)]),
    ];
    let services = [0, 5, 2].map(|backend| setup(Tracking::Full, 7, &[backend])).to_vec();
    let seed = [2095913765182966035, 3566976480483569145];
    goes_as_it_ought(Room::Scarce, &history(services, 4, seed, steps));
}

/// One note counts for the slots of all tables, whenever their time is over; it was gone with the first that asked.
#[test]
fn a_slot_without_room_is_held_on_whoever_asks_first() {
    let (wait, syn) = (Step::Wait, |client| (0, client, Kind::Syn));
    let data = |client| (0, client, Kind::Data);
    let steps = vec![
        change(0, To::Size(13)),
        wait(7000),
        burst(&[syn(7), data(1), data(2), syn(3)]),
        wait(16108),
        burst(&[syn(1), syn(3), data(3), syn(3), syn(8), syn(0), syn(0)]),
        change(0, To::Backend(2, State::Active, 100)),
        wait(29000),
        burst(&[syn(9), data(2), data(13)]),
        wait(7892),
        burst(&[data(13)]),
    ];
    let service = Setup { is_by_source: true, ..setup(Tracking::Full, 7, &[3, 1]) };
    goes_as_it_ought(Room::Scarce, &history(vec![service], 4, [0; 2], steps));
}

/// An lcore that still had the table before noted it where nobody asked any more.
#[test]
fn a_slot_without_room_is_held_on_whoever_knows_the_old_size_only() {
    let first = [To::Size(31), To::Backend(4, State::Active, 50)].map(|to| Change { service: 0, to }).to_vec();
    let syn = |client| (0, client, Kind::Syn);
    let steps = vec![
        Step::Change { changes: first, lags: false },
        Step::Change { changes: vec![Change { service: 0, to: To::Size(7) }], lags: true },
        Step::Wait(15371),
        burst(&[syn(8), syn(0), syn(1), syn(5), (0, 10, Kind::Data)]),
        Step::Wait(14629),
        burst(&[(0, 10, Kind::Data)]),
    ];
    let seed = [8488880323170147294, 8921668765612692357];
    goes_as_it_ought(Room::Scarce, &history(vec![setup(Tracking::Full, 13, &[2])], 4, seed, steps));
}

/// Two of one flow were decided on together, though something else came in between.
#[test]
fn a_fragment_between_two_segments_counts_for_the_second() {
    let steps = vec![
        change(0, To::Backend(0, State::Draining, 100)),
        burst(&[(0, 14, Kind::Syn), (0, 14, Kind::First(0)), (0, 14, Kind::Syn)]),
    ];
    goes_as_it_ought(Room::Plenty, &history(vec![setup(Tracking::Full, 7, &[0])], 4096, [0; 2], steps));
}

#[test]
fn what_never_got_past_its_syn_gives_way() {
    let services = [0; 3].map(|backend| setup(Tracking::Transition, 7, &[backend])).to_vec();
    let mut steps = Vec::new();
    for service in 0..3 {
        steps.push(change(service, To::Backend(1, State::Active, 100)));
        steps.push(change(service, To::Backend(0, State::Draining, 100)));
    }
    steps.extend((0..60).map(|number| burst(&[(number / 20, number % 20, Kind::Syn)])));
    goes_as_it_ought(Room::Scarce, &history(services, 32, [0; 2], steps));
}

/// The last was settled before the two that make it another connection.
#[test]
fn what_follows_a_fin_and_a_syn_in_their_burst_is_of_the_new_connection() {
    let of = |kind| (0, 13, kind);
    let steps = vec![
        change(0, To::Backend(1, State::Active, 100)),
        change(0, To::Backend(0, State::Draining, 100)),
        burst(&[of(Kind::Data)]),
        burst(&[of(Kind::Fin), of(Kind::Syn), of(Kind::Data)]),
    ];
    goes_as_it_ought(Room::Plenty, &history(vec![setup(Tracking::Full, 7, &[0])], 4096, [0; 2], steps));
}

/// The source of a packet that is not plain was another packet's, and so was its base by that.
#[test]
fn an_error_of_a_flow_finds_its_base_by_the_hash_of_before() {
    let steps = vec![
        change(0, To::Backend(3, State::Active, 100)),
        Step::WaitFor { service: 0, timeout: Timeout::Tcp, more: 0 },
        burst(&[(0, 16, Kind::Data)]),
        change(0, To::BySource(false)),
        burst(&[(0, 16, Kind::Error), (0, 0, Kind::Syn)]),
    ];
    let service = Setup { is_by_source: true, ..setup(Tracking::Full, 7, &[0]) };
    goes_as_it_ought(Room::Plenty, &history(vec![service], 4096, [0; 2], steps));
}
