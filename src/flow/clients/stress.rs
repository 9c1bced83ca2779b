//! Real threads at one table, by sheer number. The models try the interleavings one by one.

use std::net::Ipv4Addr;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::*;

const THREADS: usize = 3;

fn address(number: u32) -> IpAddr {
    Ipv4Addr::from_bits(number).into()
}

/// All threads enter the same clients, in the same order and at the same moment as near as may be, each with a destination of its own.
/// Gives what counted, for each thread and client.
fn race(clients: &Clients, numbers: u32, is_over: impl Fn(usize, &Client) -> bool + Sync) -> Vec<Vec<u32>> {
    let (start, arrived) = (Barrier::new(THREADS), AtomicUsize::new(0));
    let run = |thread: usize| {
        start.wait();
        let enter = |k: u32| {
            arrived.fetch_add(1, Ordering::Relaxed);
            while arrived.load(Ordering::Relaxed) < THREADS * (k as usize + 1) {
                thread::yield_now();
            }
            let destination = 1000 + k * THREADS as u32 + thread as u32;
            clients.note(clients.spot(1, address(k)), destination, Seconds(500), |client| is_over(thread, client))
        };
        (0..numbers).map(enter).collect()
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(move || run(thread))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn agree(clients: &Clients, answers: &[Vec<u32>]) {
    for (k, &first) in (0..).zip(&answers[0]) {
        assert!((1000 + k * THREADS as u32..1000 + (k + 1) * THREADS as u32).contains(&first));
        let all: Vec<u32> = answers.iter().map(|answers| answers[k as usize]).collect();
        assert_eq!(all, [first; THREADS], "client {k}");
        assert_eq!(clients.find(clients.spot(1, address(k))), Some(Client { destination: first, seen: 500 }));
    }
}

#[test]
fn threads_that_enter_the_same_clients_agree() {
    let clients = Clients::new(30_000, [1, 1]);
    let answers = race(&clients, 20_000, |_, _| false);
    agree(&clients, &answers);
    assert_eq!(clients.count(), 20_000);
}

/// The table is full of old clients, and each thread would give up others.
#[test]
fn threads_that_displace_different_ones_agree() {
    let clients = Clients::new(80_000, [2, 2]);
    for k in 0..400_000 {
        clients.note(clients.spot(2, address(k)), k % 1000, Seconds(100), |_| false);
    }
    let full = clients.count();
    assert!(full > 99_900);
    let answers = race(&clients, 20_000, |thread, client| {
        // Time for the others, between a look and what comes of it.
        (0..20).for_each(|_| std::hint::spin_loop());
        client.seen == 100 && client.destination as usize % THREADS == thread
    });
    agree(&clients, &answers);
    let mut young = 0;
    clients.sweep(|client| client.seen == 100, |_| young += 1);
    assert_eq!(young, 20_000, "each once");
}

/// Few entries, many clients, all threads at all of them while seconds pass: no answer was never asked for.
#[test]
fn nothing_is_mixed_up_in_a_crowd() {
    let clients = Clients::new(8, [3, 3]);
    let run = |thread: u32| {
        let mut state = u64::from(thread) + 1;
        for step in 0..200_000_u32 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let k = (state >> 33) as u32 % 24;
            let spot = clients.spot(1, address(k));
            let now = Seconds(100 + step / 100);
            // A client's destinations are those which have its number as rest.
            let counts = clients.note(spot, (step % 1000) * 24 + k, now, |client| client.age(now) > 3);
            assert_eq!(counts % 24, k);
            if let Some(client) = clients.find(spot) {
                assert_eq!(client.destination % 24, k);
            }
        }
    };
    thread::scope(|scope| (0..THREADS as u32).for_each(|thread| _ = scope.spawn(move || run(thread))));
    assert!(clients.count() <= 16);
    let found = (0..24).filter(|&k| clients.find(clients.spot(1, address(k))).is_some()).count();
    assert_eq!(found, clients.count(), "each once, and no claim is left");
}
