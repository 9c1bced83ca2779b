//! Every interleaving of two who push and one who takes, by loom:
//! `RUSTFLAGS="--cfg penstock_loom" cargo test --no-default-features --lib ring`.
//!
//! Loom also reports a slot that two touch at once.

use loom::thread::{self, JoinHandle};

use super::*;

/// Pushes these, and gives back what there was no room for.
fn push(sender: &Sender<u32>, values: std::ops::Range<u32>) -> JoinHandle<Vec<u32>> {
    let sender = sender.clone();
    thread::spawn(move || values.filter_map(|value| sender.push(value).err()).collect())
}

fn take_all(receiver: &mut Receiver<u32>) -> Vec<u32> {
    std::iter::from_fn(|| receiver.pop()).collect()
}

/// Takes what is there while these push, and the rest when they have; gives what was taken, and what came back.
fn take_beside<const N: usize>(receiver: &mut Receiver<u32>, pushing: [JoinHandle<Vec<u32>>; N]) -> [Vec<u32>; 2] {
    let mut taken = take_all(receiver);
    let refused = pushing.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    taken.extend(take_all(receiver));
    assert!(receiver.is_empty());
    [taken, refused]
}

/// Each once, wherever it went.
fn sorted(parts: [Vec<u32>; 2]) -> Vec<u32> {
    let mut all = parts.concat();
    all.sort_unstable();
    all
}

#[test]
fn what_two_push_arrives_once_and_in_order_or_comes_back() {
    loom::model(|| {
        let (sender, mut receiver) = bounded(2);
        let pushing = [push(&sender, 10..12), push(&sender, 20..22)];
        let [taken, refused] = take_beside(&mut receiver, pushing);
        let is_in_order = |tens| taken.iter().filter(|&value| value / 10 == tens).is_sorted();
        assert!(is_in_order(1) && is_in_order(2), "{taken:?}");
        assert_eq!(sorted([taken, refused]), [10, 11, 20, 21]);
    });
}

#[test]
fn as_long_as_there_is_room_nothing_comes_back() {
    loom::model(|| {
        let (sender, mut receiver) = bounded(4);
        let pushing = [push(&sender, 10..12), push(&sender, 20..22)];
        let [taken, refused] = take_beside(&mut receiver, pushing);
        assert_eq!((taken.len(), refused.len()), (4, 0));
    });
}

#[test]
fn slots_are_used_again_while_one_pushes_and_one_takes() {
    loom::model(|| {
        let (sender, mut receiver) = bounded(2);
        assert_eq!(sender.push(0), Ok(()));
        let pushing = [push(&sender, 1..4)];
        let [taken, refused] = take_beside(&mut receiver, pushing);
        assert!(taken.is_sorted(), "{taken:?}");
        assert_eq!(sorted([taken, refused]), [0, 1, 2, 3]);
    });
}

/// What is in the ring when its ends go, goes with them, and once.
#[test]
fn nothing_is_kept_of_a_ring_that_is_gone() {
    loom::model(|| {
        let value = std::sync::Arc::new(());
        let (sender, mut receiver) = bounded(2);
        let thread = thread::spawn({
            let (sender, value) = (sender.clone(), value.clone());
            move || drop(sender.push(value))
        });
        drop(receiver.pop());
        drop((sender, receiver));
        thread.join().unwrap();
        assert_eq!(std::sync::Arc::strong_count(&value), 1);
    });
}
