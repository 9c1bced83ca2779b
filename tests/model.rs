//! Each packet goes where the rule of DESIGN §6 says: random histories of services, lcores and packets, through the real thing and
//! through the rule written down as plainly as it can be.
//!
//! `PENSTOCK_MODEL_CASES` says how many histories there are (of each kind).

mod support;

#[path = "model/found.rs"]
mod found;
#[path = "model/frames.rs"]
mod frames;
#[path = "model/history.rs"]
mod history;
#[path = "model/promise.rs"]
mod promise;
#[path = "model/rule.rs"]
mod rule;
#[path = "model/world.rs"]
mod world;

use history::{History, history};
use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestError, TestRunner};
use std::cell::Cell;
use world::{Room, World};

/// Goes through as many histories as are wanted.
fn tell(what: &str, cases: u32, room: Room, histories: impl Strategy<Value = History>) {
    let wanted = std::env::var("PENSTOCK_MODEL_CASES").ok().map(|cases| cases.parse().unwrap());
    let config = ProptestConfig {
        cases: wanted.unwrap_or(cases),
        failure_persistence: None,
        max_shrink_iters: 50_000,
        ..Default::default()
    };
    let (packets, compared, told) = (Cell::new(0), Cell::new(0), Cell::new(0));
    let result = TestRunner::new(config).run(&histories, |history| {
        let mut world = World::new(&history, room);
        let result = world.live(&history.steps);
        packets.set(packets.get() + world.packets);
        compared.set(compared.get() + world.compared);
        told.set(told.get() + 1);
        result.map_err(TestCaseError::fail)
    });
    println!("{what}: {} packets in {} histories, {} compared", packets.get(), told.get(), compared.get());
    match result {
        Ok(()) => {}
        Err(TestError::Fail(why, history)) => panic!("{why}\n{history:?}"),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn every_packet_goes_where_the_rule_says() {
    tell("where the rule says", 200, Room::Plenty, history(Just(4096)));
}

#[test]
fn no_established_connection_moves_for_want_of_room() {
    tell(
        "with little room",
        250,
        Room::Scarce,
        history(prop_oneof![Just(4usize), Just(8), Just(16), Just(32), Just(64)]),
    );
}
