//! A bounded ring by which many threads pass values to one, without a lock: on it lcores hand frames to each other.
//!
//! Each slot has a turn, which says for which push it is free, or for which pop it is full (Vyukov, "Bounded MPMC queue", 1024cores; with one
//! who takes, that one needs no exchange). A thread that stops between its claim of a slot and its filling keeps what came behind it waiting,
//! and nobody from pushing as long as there is room.
//!
//! `models.rs` tries every interleaving of a few threads (loom), on the very code that is shipped. That is why it is our own: loom cannot look
//! into crossbeam's, nor into DPDK's, by which frames go to the kernel twins and which holds mbufs alone.

#![allow(unsafe_code, reason = "a slot's value is written by one thread and taken by another, and its turn says when")]

#[cfg(penstock_loom)]
use loom::{
    cell::UnsafeCell,
    sync::Arc,
    sync::atomic::{AtomicUsize, Ordering},
};
#[cfg(not(penstock_loom))]
use std::{
    sync::Arc,
    sync::atomic::{AtomicUsize, Ordering},
};

#[cfg(not(penstock_loom))]
use cell::UnsafeCell;

#[cfg(all(test, penstock_loom))]
mod models;
#[cfg(all(test, not(penstock_loom)))]
mod tests;

/// The standard library's cell, as loom has it.
#[cfg(not(penstock_loom))]
mod cell {
    #[derive(Debug)]
    pub struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

    impl<T> UnsafeCell<T> {
        pub const fn new(value: T) -> Self {
            Self(std::cell::UnsafeCell::new(value))
        }

        #[inline(always)]
        pub fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
            f(self.0.get())
        }
    }
}

#[derive(Debug)]
struct Slot<T> {
    /// The number of the push that may fill it, while it is free; one more, while it is full.
    turn: AtomicUsize,
    value: UnsafeCell<Option<T>>,
}

/// In a cache line of its own, since whoever pushes writes it.
#[derive(Debug)]
#[repr(align(64))]
struct Tail(AtomicUsize);

#[derive(Debug)]
struct Ring<T> {
    /// As many as a power of two.
    slots: Box<[Slot<T>]>,
    /// The number of the next push.
    tail: Tail,
}

// SAFETY: a value is moved in by one thread and out by another, which `T: Send` allows; nobody has a reference to one in the ring. A slot's
// cell is touched by two kinds of threads: by the one whose exchange of `tail` gave it the number that the slot's turn says, until it stores
// the next turn; and by the only receiver, from the time that it has loaded that turn until it stores the next. Both store with Release what
// the other loads with Acquire, so these times follow each other.
unsafe impl<T: Send> Sync for Ring<T> {}

impl<T> Ring<T> {
    #[inline(always)]
    fn slot(&self, number: usize) -> &Slot<T> {
        &self.slots[number & (self.slots.len() - 1)]
    }
}

/// An end that pushes; there may be any number of them.
#[derive(Debug)]
pub struct Sender<T>(Arc<Ring<T>>);

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// The end that takes.
#[derive(Debug)]
pub struct Receiver<T> {
    ring: Arc<Ring<T>>,
    /// The number of the next pop.
    head: usize,
}

/// A ring with room for so many values: at least two, and to the next power of two.
pub fn bounded<T>(room: usize) -> (Sender<T>, Receiver<T>) {
    let slot = |number| Slot { turn: AtomicUsize::new(number), value: UnsafeCell::new(None) };
    let slots = (0..room.max(2).next_power_of_two()).map(slot).collect();
    let ring = Arc::new(Ring { slots, tail: Tail(AtomicUsize::new(0)) });
    (Sender(ring.clone()), Receiver { ring, head: 0 })
}

impl<T> Sender<T> {
    /// Adds a value at the end; gives it back where the ring is full.
    pub fn push(&self, value: T) -> Result<(), T> {
        let (ring, tail) = (&*self.0, &self.0.tail.0);
        let mut number = tail.load(Ordering::Relaxed);
        loop {
            let slot = ring.slot(number);
            let next = match slot.turn.load(Ordering::Acquire).wrapping_sub(number).cast_signed() {
                0 => {
                    match tail.compare_exchange(number, number.wrapping_add(1), Ordering::Relaxed, Ordering::Relaxed) {
                        Ok(_) => {
                            // SAFETY: the slot was free for the push of this number, which only this thread has: see `Sync`.
                            slot.value.with_mut(|place| unsafe { *place = Some(value) });
                            slot.turn.store(number.wrapping_add(1), Ordering::Release);
                            return Ok(());
                        }
                        Err(next) => next,
                    }
                }
                // Its value of the last round was not taken yet, if no other push has gone on since.
                ..0 => match tail.load(Ordering::Relaxed) {
                    next if next == number => return Err(value),
                    next => next,
                },
                _ => tail.load(Ordering::Relaxed),
            };
            number = next;
        }
    }
}

impl<T> Receiver<T> {
    /// Whether nothing can be taken now.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.ring.slot(self.head).turn.load(Ordering::Acquire) != self.head.wrapping_add(1)
    }

    /// Takes the value that was pushed first of those that are there.
    pub fn pop(&mut self) -> Option<T> {
        if self.is_empty() {
            return None;
        }
        let slot = self.ring.slot(self.head);
        // SAFETY: its turn says that it is full for the pop of this number, and this is the only receiver: see `Sync`.
        let value = slot.value.with_mut(|place| unsafe { (*place).take() });
        slot.turn.store(self.head.wrapping_add(self.ring.slots.len()), Ordering::Release);
        self.head = self.head.wrapping_add(1);
        value
    }
}
