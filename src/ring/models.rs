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

#[test]
fn what_two_push_arrives_once_and_in_order_or_comes_back() {
    loom::model(|| {
        let (sender, mut receiver) = bounded(2);
        let threads = [push(&sender, 10..12), push(&sender, 20..22)];
        let mut taken = take_all(&mut receiver);
        let refused: Vec<u32> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        taken.extend(take_all(&mut receiver));
        assert!(receiver.is_empty());
        let of = |first: u32| taken.iter().copied().filter(|value| value / 10 == first / 10).collect::<Vec<_>>();
        assert!(of(10).is_sorted() && of(20).is_sorted(), "{taken:?}");
        let mut all = [taken, refused].concat();
        all.sort_unstable();
        assert_eq!(all, [10, 11, 20, 21]);
    });
}

#[test]
fn as_long_as_there_is_room_nothing_comes_back() {
    loom::model(|| {
        let (sender, mut receiver) = bounded(4);
        let threads = [push(&sender, 10..12), push(&sender, 20..22)];
        let taken = take_all(&mut receiver);
        for thread in threads {
            assert!(thread.join().unwrap().is_empty());
        }
        assert_eq!(taken.len() + take_all(&mut receiver).len(), 4);
    });
}

#[test]
fn slots_are_used_again_while_one_pushes_and_one_takes() {
    loom::model(|| {
        let (sender, mut receiver) = bounded(2);
        assert_eq!(sender.push(0), Ok(()));
        let thread = push(&sender, 1..4);
        let mut taken = take_all(&mut receiver);
        let refused = thread.join().unwrap();
        taken.extend(take_all(&mut receiver));
        assert!(taken.is_sorted(), "{taken:?}");
        let mut all = [taken, refused].concat();
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2, 3]);
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
