//! Active health checks: which backends answer.
//!
//! A [`Prober`] is given whole sets of services and asks their backends, by a thread of its own, what each service's
//! `health_check` says. It knows probes, not backends: services that check the same thing share one ([`Probe`]). A probe
//! is up until it has failed `fall` times in a row, and down until it was good `rise` times in a row; it begins with the
//! verdict that was remembered of it, so a restart changes nothing. Turned verdicts come as [`Changes`], and everything
//! that is known can be read at any time through a [`View`].
//!
//! A probe asks a backend at its own address, by the kernel's routes, or a service's VIP by way of the service's own forwarding mode
//! ([`Through`]).
//!
//! Nobody waits for the thread: sets and changes are handed over by a lock that is held for moments, and the newest of
//! each takes the place of older ones.

mod ask;
mod board;
mod counts;
mod probe;
mod run;
mod schedule;
mod state;
mod through;

use std::collections::HashMap;
use std::io;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::SystemTime;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::service::Service;
use board::Board;
use counts::Counters;
pub use counts::{Counts, OfKind};
pub use probe::{Probe, Question, Rhythm, Subject, Target};
pub use state::{Failed, Failure, LastState, Look, Outcome, State};
pub use through::Through;

#[derive(Clone)]
pub struct Options {
    /// Probes that are asked at the same time, at most. Beyond it they wait, and are counted as late.
    pub at_once: usize,
    /// The way through services; `None`: there is none, and what is to go there gives no verdict.
    pub through: Option<Arc<Through>>,
}

impl Default for Options {
    fn default() -> Self {
        Self { at_once: 16_384, through: None }
    }
}

/// The thread that asks; ends when this is dropped.
pub struct Prober {
    view: View,
    thread: Option<JoinHandle<()>>,
}

/// Whose verdict turned.
#[derive(Debug, Clone)]
pub struct Change {
    pub probe: Arc<Probe>,
    pub state: State,
    /// Names of the services that want the probe, in order.
    pub services: Vec<Arc<str>>,
}

impl Change {
    /// As [`State::why`].
    pub fn why(&self) -> String {
        self.state.why(&self.probe.rhythm, SystemTime::now())
    }
}

/// Changes, as they come: of each probe only the last that was not taken yet.
pub struct Changes(Arc<Shared>);

/// What is known of all probes; clones see the same.
#[derive(Clone)]
pub struct View(Arc<Shared>);

#[derive(Default)]
struct Shared {
    board: Mutex<Board>,
    /// The newest set, and when the first came that was not taken.
    inbox: Mutex<Option<(Vec<Arc<Service>>, Instant)>>,
    news: Mutex<HashMap<Arc<Probe>, Change>>,
    woken: Notify,
    changed: Notify,
    stop: AtomicBool,
    counters: Counters,
}

impl Prober {
    /// Starts the thread, with the verdicts of before the restart.
    pub fn start(options: Options, last: impl IntoIterator<Item = LastState>) -> io::Result<(Self, Changes)> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let shared = Arc::new(Shared { board: Mutex::new(Board::new(last)), ..Shared::default() });
        let work = {
            let shared = shared.clone();
            move || runtime.block_on(run::Thread::run(shared, options))
        };
        let thread = std::thread::Builder::new().name("health".to_owned()).spawn(work)?;
        Ok((Self { view: View(shared.clone()), thread: Some(thread) }, Changes(shared)))
    }

    /// Replaces the set of services whose backends are checked. Services that are the same object as before cost next to
    /// nothing. Call this before reading the view for the set: what turns after it is told.
    pub fn want(&self, services: Vec<Arc<Service>>) {
        let shared = &self.view.0;
        let mut inbox = shared.inbox();
        let since = inbox.take().map_or_else(Instant::now, |(_, since)| since);
        *inbox = Some((services, since));
        drop(inbox);
        shared.woken.notify_one();
    }

    pub fn view(&self) -> View {
        self.view.clone()
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        let shared = &self.view.0;
        shared.stop.store(true, Relaxed);
        shared.woken.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Changes {
    /// Waits until there are some. Nothing is lost when this is given up.
    pub async fn next(&mut self) -> Vec<Change> {
        loop {
            let news = std::mem::take(&mut *self.0.news());
            if !news.is_empty() {
                return news.into_values().collect();
            }
            self.0.changed.notified().await;
        }
    }
}

impl View {
    /// The indices of the backends that failed their check; a service which is not wanted yet gets what is remembered.
    pub fn down(&self, service: &Service) -> Vec<usize> {
        let board = self.0.board();
        let down = Probe::all_of(service).filter(|(_, probe)| !board.is_up(probe));
        down.map(|(backend, _)| backend).collect()
    }

    /// The index of each backend that is checked, its probe and its state; `None` as long as that is not known to the
    /// thread.
    pub fn states(&self, service: &Service) -> Vec<(usize, Probe, Option<State>)> {
        let board = self.0.board();
        let with_state = |(index, probe): (usize, Probe)| {
            let state = board.state(&probe).cloned();
            (index, probe, state)
        };
        Probe::all_of(service).map(with_state).collect()
    }

    /// The verdicts that a restart must know, to be given to [`Prober::start`].
    pub fn last_states(&self) -> Vec<LastState> {
        self.0.board().last_states()
    }

    pub fn counts(&self) -> Counts {
        let probes = self.0.board().len();
        self.0.counters.read(probes)
    }
}

/// Nothing panics while it holds one of these; should it, the others go on.
impl Shared {
    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn inbox(&self) -> MutexGuard<'_, Option<(Vec<Arc<Service>>, Instant)>> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn news(&self) -> MutexGuard<'_, HashMap<Arc<Probe>, Change>> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
