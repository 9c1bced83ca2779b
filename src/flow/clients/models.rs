//! Every interleaving of two lcores at a table of four entries, by loom:
//! `RUSTFLAGS="--cfg penstock_loom" cargo test --no-default-features --lib flow::clients`.
//!
//! Every client has the same two buckets, so whoever needs room meets whoever else does.

use std::net::Ipv4Addr;

use loom::sync::Arc;
use loom::thread;

use super::*;

/// When the clients were seen that a model starts with, and when it takes place.
const BEFORE: Seconds = Seconds(100);
const NOW: Seconds = Seconds(200);

fn nobody(_: &Client) -> bool {
    false
}

/// A table in which the clients of these numbers went to the destinations of theirs, the first ones longest ago.
fn table(numbers: std::ops::Range<u32>) -> Arc<Clients> {
    let clients = Arc::new(Clients::new(1, [1, 1]));
    for (number, second) in numbers.zip(BEFORE.0..) {
        clients.note(spot(&clients, number), number, Seconds(second), nobody);
    }
    clients
}

fn spot(clients: &Clients, number: u32) -> ClientSpot {
    clients.spot(1, Ipv4Addr::from_bits(number).into())
}

fn find(clients: &Clients, number: u32) -> Option<u32> {
    clients.find(spot(clients, number)).map(|client| client.destination)
}

/// An lcore that is asked to enter a client, in place of those that went to `over` if it needs room.
fn lcore(clients: &Arc<Clients>, number: u32, destination: u32, over: Option<u32>) -> thread::JoinHandle<u32> {
    let clients = clients.clone();
    thread::spawn(move || enter(&clients, number, destination, over))
}

fn enter(clients: &Clients, number: u32, destination: u32, over: Option<u32>) -> u32 {
    clients.note(spot(clients, number), destination, NOW, |client| Some(client.destination) == over)
}

/// Two lcores enter client 9, and each would give up the clients of another destination.
fn two_enter_the_same(full: u32, over: [Option<u32>; 2]) {
    loom::model(move || {
        let clients = table(0..full);
        let other = lcore(&clients, 9, 90, over[1]);
        let mine = enter(&clients, 9, 91, over[0]);
        // What counts for one that was told so, it finds from then on.
        assert_eq!(find(&clients, 9), Some(mine));
        assert_eq!(other.join().unwrap(), mine);
        assert_eq!(find(&clients, 9), Some(mine));
        let mut entries = Vec::new();
        clients.sweep(nobody, |client| entries.push(client.destination));
        assert_eq!(entries.iter().filter(|&&destination| destination >= 90).count(), 1, "{entries:?}");
        // Each lcore displaces one at most, and only in a full table.
        let found = (0..full).filter(|&number| find(&clients, number) == Some(number)).count() as u32;
        assert_eq!(found + 1, entries.len() as u32);
        assert!(found >= if full < 4 { full } else { 2 }, "{entries:?}");
    });
}

#[test]
fn two_that_enter_the_same_client_agree() {
    two_enter_the_same(0, [None, None]);
    two_enter_the_same(3, [None, None]);
}

#[test]
fn two_that_enter_the_same_client_for_the_oldest_agree() {
    two_enter_the_same(4, [None, None]);
}

#[test]
fn two_that_displace_different_clients_for_the_same_agree() {
    two_enter_the_same(4, [Some(1), Some(2)]);
    two_enter_the_same(4, [Some(2), Some(1)]);
}

/// A client that is over for both, and goes to another destination by each.
#[test]
fn two_that_enter_a_client_anew_agree() {
    loom::model(|| {
        let clients = table(0..2);
        let other = lcore(&clients, 1, 90, Some(1));
        let mine = enter(&clients, 1, 91, Some(1));
        assert_eq!(other.join().unwrap(), mine);
        assert_eq!((find(&clients, 0), find(&clients, 1), clients.count()), (Some(0), Some(mine), 2));
    });
}

/// Client 0 is refreshed and is the one to go: either it goes, or it is young and the next goes. It never comes back, and is never
/// found with another's destination.
#[test]
fn a_refresh_does_not_bring_back_what_was_displaced() {
    loom::model(|| {
        let clients = table(0..4);
        let other = lcore(&clients, 9, 90, None);
        // Entered anew if it is gone; then it goes where it is told.
        let refreshed = enter(&clients, 0, 50, None);
        assert!([0, 50].contains(&refreshed));
        // It is young now, and so not the one to go.
        assert_eq!(find(&clients, 0), Some(refreshed));
        assert_eq!(other.join().unwrap(), 90);
        assert_eq!((find(&clients, 0), find(&clients, 9), clients.count()), (Some(refreshed), Some(90), 4));
        let kept: Vec<_> =
            (1..4).map(|number| find(&clients, number).inspect(|&found| assert_eq!(found, number))).collect();
        assert_eq!(kept.iter().flatten().count(), 2);
        if refreshed == 0 {
            assert_eq!(kept, [None, Some(2), Some(3)], "the oldest went");
        }
    });
}

#[test]
fn a_lookup_finds_what_is_there_while_others_come_and_go() {
    loom::model(|| {
        let clients = table(0..4);
        let other = lcore(&clients, 9, 90, Some(2));
        assert_eq!([0, 1, 3].map(|number| find(&clients, number)), [Some(0), Some(1), Some(3)]);
        assert!([None, Some(2)].contains(&find(&clients, 2)));
        assert!([None, Some(90)].contains(&find(&clients, 9)));
        other.join().unwrap();
    });
}

#[test]
fn two_that_enter_different_clients_lose_neither() {
    for full in [2, 3, 4] {
        loom::model(move || {
            let clients = table(0..full);
            let other = lcore(&clients, 8, 80, None);
            assert_eq!(enter(&clients, 9, 90, None), 90);
            assert_eq!(other.join().unwrap(), 80);
            assert_eq!((find(&clients, 8), find(&clients, 9)), (Some(80), Some(90)));
            // Where there was room for one, at most one went for the other; else the two oldest.
            let kept: Vec<u32> = (0..full).filter(|&number| find(&clients, number) == Some(number)).collect();
            assert_eq!(kept, Vec::from_iter(full.saturating_sub(2)..full), "of {full}");
            assert_eq!(clients.count(), kept.len() + 2);
        });
    }
}

#[test]
fn a_sweep_frees_what_is_over_and_nothing_else() {
    loom::model(|| {
        let clients = table(0..3);
        let other = lcore(&clients, 1, 90, Some(1));
        let again = lcore(&clients, 0, 50, None);
        let mut live = Vec::new();
        clients.sweep(|client| client.destination == 1, |client| live.push(client.destination));
        assert_eq!((other.join().unwrap(), again.join().unwrap()), (90, 0));
        assert_eq!([0, 1, 2].map(|number| find(&clients, number)), [Some(0), Some(90), Some(2)]);
        // What came in place of one that was over is not passed off as that one.
        assert!(live.contains(&0) && live.contains(&2) && !live.contains(&1), "{live:?}");
    });
}

/// Three lcores: at most three switches that were not forced.
#[test]
fn three_that_displace_different_clients_for_the_same_agree() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let clients = table(0..4);
        let others = [lcore(&clients, 9, 90, Some(1)), lcore(&clients, 9, 92, Some(2))];
        let mine = enter(&clients, 9, 91, Some(3));
        assert_eq!(others.map(|other| other.join().unwrap()), [mine; 2]);
        assert_eq!(find(&clients, 9), Some(mine));
        let mut entries = Vec::new();
        clients.sweep(nobody, |client| entries.push(client.destination));
        assert_eq!(entries.iter().filter(|&&destination| destination >= 90).count(), 1, "{entries:?}");
    });
}
