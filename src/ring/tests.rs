//! With the threads of this machine; `models.rs` has every interleaving of a few.

use std::thread;

use super::*;

#[test]
fn it_has_room_for_so_many_round_after_round() {
    let (sender, mut receiver) = bounded(3);
    for round in 0..5 {
        assert!(receiver.is_empty());
        let pushed: Vec<_> = (0..6).map(|value| sender.push(10 * round + value)).collect();
        assert_eq!(pushed[..4], [Ok(()); 4]);
        assert_eq!(pushed[4..], [Err(10 * round + 4), Err(10 * round + 5)]);
        assert!(!receiver.is_empty());
        let taken: Vec<_> = std::iter::from_fn(|| receiver.pop()).collect();
        assert_eq!(taken, [0, 1, 2, 3].map(|value| 10 * round + value));
    }
}

#[test]
fn its_numbers_go_round() {
    let (sender, mut receiver) = bounded(2);
    let last = usize::MAX - 1;
    sender.0.tail.0.store(last, Ordering::Relaxed);
    receiver.head = last;
    for number in [last, usize::MAX] {
        sender.0.slot(number).turn.store(number, Ordering::Relaxed);
    }
    for value in 0..10 {
        assert_eq!((sender.push(value), sender.push(value + 100), sender.push(7)), (Ok(()), Ok(()), Err(7)));
        assert_eq!((receiver.pop(), receiver.pop(), receiver.pop()), (Some(value), Some(value + 100), None));
    }
}

#[test]
fn many_push_and_one_takes() {
    const EACH: u32 = 50_000;
    let (sender, mut receiver) = bounded(64);
    let threads = [0, 1, 2].map(|thread| {
        let sender = sender.clone();
        thread::spawn(move || {
            for number in 0..EACH {
                let mut value = (thread, number);
                while let Err(back) = sender.push(value) {
                    value = back;
                    thread::yield_now();
                }
            }
        })
    });
    let mut next = [0; 3];
    while next != [EACH; 3] {
        match receiver.pop() {
            Some((thread, number)) => {
                assert_eq!(number, next[thread]);
                next[thread] += 1;
            }
            None => thread::yield_now(),
        }
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert!(receiver.is_empty());
}
