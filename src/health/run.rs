//! The thread: puts questions when they are due, counts what comes of them, and follows what is wanted.
//!
//! A probe has a task only while it is asked. Sets of services replace one another: those that are the same object in
//! both cost a comparison of pointers, the others are taken in pieces, between which probes go on.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::ask::Asker;
use super::probe::Probe;
use super::schedule::{Schedule, Timing};
use super::state::{Look, Outcome};
use super::{Change, Options, Shared};
use crate::service::Service;

/// Services that are taken at once: less than a millisecond, of 20 backends each.
const PIECE: usize = 100;

/// Descriptors that are left to everything else.
const OTHERS: u64 = 256;

/// A probe that begins so much after its moment is late.
const LATE: Duration = Duration::from_millis(50);

/// Between two times that turned verdicts are told: each time all services are looked through.
const TELL: Duration = Duration::from_millis(5);

/// How often old verdicts are looked for.
const FORGET: Duration = Duration::from_secs(60);

pub struct Thread {
    shared: Arc<Shared>,
    /// Probes that may be asked at once.
    room: usize,
    asker: Arc<Asker>,
    /// Direct, and through services.
    ways: [Way; 2],
    /// By place.
    probes: Vec<Option<Entry>>,
    serial: u64,
    done: mpsc::UnboundedSender<Done>,
    /// The set that was taken last, and what of it is still to do.
    set: Vec<Arc<Service>>,
    set_since: Instant,
    todo: VecDeque<Todo>,
    held: HashMap<Arc<str>, Held>,
    /// Places whose verdict turned and was not told yet, and when some were told last.
    turned: Vec<u32>,
    told_at: Instant,
    /// Reasons of our own that the log has.
    logged: HashSet<i32>,
    forgot: Instant,
}

/// Probes that go one way: those of the other do not wait for what they lack.
struct Way {
    schedule: Schedule,
    /// Of them, so many may be asked at once.
    room: usize,
    running: usize,
}

impl Way {
    fn new(room: usize) -> Self {
        Self { schedule: Schedule::new(Instant::now()), room, running: 0 }
    }

    /// When its next probe is due, if there is room for one more.
    fn next(&self) -> Option<Instant> {
        self.schedule.next().filter(|_| self.running < self.room)
    }
}

struct Entry {
    /// Of `ways`.
    way: usize,
    /// Places are used again; serial numbers never.
    serial: u64,
    timing: Timing,
    running: Option<AbortHandle>,
    turned: bool,
}

struct Done {
    place: u32,
    serial: u64,
    outcome: Outcome,
    latency: Duration,
}

enum Todo {
    Put(Arc<Service>),
    Remove(Arc<str>),
}

struct Held {
    service: Arc<Service>,
    places: Box<[u32]>,
}

/// As many as are asked for, where the process may have so many descriptors; its soft limit, which is low only for the
/// sake of select(2), is raised.
fn room(options: &Options) -> usize {
    let limit = getrlimit(Resource::Nofile);
    let wanted = u64::try_from(options.at_once).unwrap_or(u64::MAX).saturating_add(OTHERS);
    if limit.current.is_some_and(|current| current < wanted) {
        let current = limit.maximum.map_or(wanted, |most| most.min(wanted));
        // Without it there is just less room.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(current), ..limit });
    }
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let fit = usize::try_from(descriptors.saturating_sub(OTHERS)).unwrap_or(usize::MAX);
    options.at_once.min(fit).max(1)
}

/// The most that may be asked through services: as many as there are ports, so that none waits for one while it is asked, and no more than
/// half of all, so that direct ones have room whatever happens there.
fn room_through(options: &Options, room: usize) -> usize {
    let ports = options.through.as_ref().map_or(usize::MAX, |through| through.ports());
    ports.min(room / 2).max(1)
}

impl Thread {
    pub async fn run(shared: Arc<Shared>, options: Options) {
        let (done, mut results) = mpsc::unbounded_channel();
        let room = room(&options);
        let mut this = Self {
            shared,
            room,
            ways: [room, room_through(&options, room)].map(Way::new),
            asker: Arc::new(Asker::new(options.through)),
            probes: Vec::new(),
            serial: 0,
            done,
            set: Vec::new(),
            set_since: Instant::now(),
            todo: VecDeque::new(),
            held: HashMap::new(),
            turned: Vec::new(),
            told_at: Instant::now(),
            logged: HashSet::new(),
            forgot: Instant::now(),
        };
        let mut batch = Vec::new();
        let shared = this.shared.clone();
        while !shared.stop.load(Relaxed) {
            this.take_set();
            this.count(&mut batch);
            this.begin_due();
            shared.counters.running.store(this.running() as u64, Relaxed);
            this.tell();
            let next = this.next();
            tokio::select! {
                _ = results.recv_many(&mut batch, 1024) => {}
                () = shared.woken.notified() => {}
                () = tokio::time::sleep_until(next.unwrap_or(Instant::now())), if next.is_some() => {}
                () = tokio::task::yield_now(), if this.has_set() => {}
            }
        }
    }

    /// Whether there is a set to go on with, or one that nobody may wake us for any more: it came while another was taken.
    fn has_set(&self) -> bool {
        !self.todo.is_empty() || self.shared.inbox().is_some()
    }

    /// Goes on with the set that is wanted; with a newer one when that is done.
    fn take_set(&mut self) {
        if self.todo.is_empty() {
            let Some((services, since)) = self.shared.inbox().take() else { return };
            self.set_since = since;
            self.compare(&services);
            self.set = services;
        }
        for _ in 0..PIECE {
            match self.todo.pop_front() {
                Some(Todo::Put(service)) => self.put(service),
                Some(Todo::Remove(name)) => self.remove(&name),
                None => break,
            }
        }
        if self.forgot.elapsed() > FORGET {
            self.shared.board().forget_old();
            self.forgot = Instant::now();
        }
    }

    /// Finds what differs. Mostly that is one service, so the ends that are the same are cut off first.
    fn compare(&mut self, services: &[Arc<Service>]) {
        let same = |(old, new): &(&Arc<Service>, &Arc<Service>)| Arc::ptr_eq(old, new);
        let head = self.set.iter().zip(services).take_while(same).count();
        let (old, new) = (&self.set[head..], &services[head..]);
        let tail = old.iter().rev().zip(new.iter().rev()).take_while(same).count();
        let (old, new) = (&old[..old.len() - tail], &new[..new.len() - tail]);
        let names: HashSet<&str> = new.iter().map(|service| &*service.name).collect();
        // What is new comes first, so that a probe which only changes services goes on.
        self.todo.extend(new.iter().cloned().map(Todo::Put));
        let gone = old.iter().filter(|service| !names.contains(&*service.name));
        self.todo.extend(gone.map(|service| Todo::Remove(service.name.clone())));
    }

    fn put(&mut self, service: Arc<Service>) {
        if self.held.get(&service.name).is_some_and(|held| Arc::ptr_eq(&held.service, &service)) {
            return;
        }
        let shared = self.shared.clone();
        let mut board = shared.board();
        let mut places = Vec::new();
        for (_, probe) in Probe::all_of(&service) {
            let (interval, way) = (probe.rhythm.interval, usize::from(probe.subject.target.is_through()));
            let (place, is_new) = board.want(probe);
            places.push(place);
            if is_new {
                self.enter(place, way, interval);
            } else if board.turned_since(place, self.set_since) {
                // Since the set came, whoever made it may have seen the verdict before.
                self.turn(place);
            }
        }
        drop(board);
        let held = Held { service: service.clone(), places: places.into() };
        if let Some(before) = self.held.insert(service.name.clone(), held) {
            self.release(&before.places);
        }
    }

    fn remove(&mut self, name: &str) {
        if let Some(held) = self.held.remove(name) {
            self.release(&held.places);
        }
    }

    fn enter(&mut self, place: u32, way: usize, interval: Duration) {
        self.serial += 1;
        let timing = self.ways[way].schedule.enter(place, interval, Instant::now());
        let entry = Some(Entry { way, serial: self.serial, timing, running: None, turned: false });
        let index = place as usize;
        if self.probes.len() <= index {
            self.probes.resize_with(index + 1, || None);
        }
        self.probes[index] = entry;
    }

    fn release(&mut self, places: &[u32]) {
        let shared = self.shared.clone();
        let mut board = shared.board();
        for &place in places {
            if !board.release(place) {
                continue;
            }
            if let Some(entry) = self.probes[place as usize].take() {
                let way = &mut self.ways[entry.way];
                way.schedule.remove(place, &entry.timing);
                if let Some(task) = entry.running {
                    task.abort();
                    way.running -= 1;
                }
            }
        }
    }

    fn begin_due(&mut self) {
        let shared = self.shared.clone();
        let board = shared.board();
        let now = Instant::now();
        // Who waits longest is first, whichever way it goes.
        while let Some((_, way)) = self.first() {
            let way = &mut self.ways[way];
            let Some(place) = way.schedule.take_due(now) else { break };
            let (Some(entry), Some(probe)) = (&mut self.probes[place as usize], board.probe(place)) else { continue };
            let delay = way.schedule.delay(&entry.timing, now);
            shared.counters.late.fetch_add(u64::from(delay > LATE), Relaxed);
            shared.counters.missed.fetch_add(u64::from(delay > probe.rhythm.interval), Relaxed);
            shared.counters.worst_delay.fetch_max(u64::try_from(delay.as_micros()).unwrap_or(u64::MAX), Relaxed);
            let (asker, done, probe, serial) = (self.asker.clone(), self.done.clone(), probe.clone(), entry.serial);
            let task = tokio::spawn(async move {
                let (outcome, latency) = asker.ask(&probe).await;
                // Fails only at the end of the thread.
                let _ = done.send(Done { place, serial, outcome, latency });
            });
            entry.running = Some(task.abort_handle());
            way.running += 1;
        }
    }

    fn running(&self) -> usize {
        self.ways.iter().map(|way| way.running).sum()
    }

    /// When the next probe is due for which there is room, and its way.
    fn first(&self) -> Option<(Instant, usize)> {
        let next = self.ways.iter().enumerate().filter_map(|(index, way)| Some((way.next()?, index)));
        next.min().filter(|_| self.running() < self.room)
    }

    fn count(&mut self, batch: &mut Vec<Done>) {
        if batch.is_empty() {
            return;
        }
        let (now, at) = (Instant::now(), SystemTime::now());
        let shared = self.shared.clone();
        let mut board = shared.board();
        for Done { place, serial, outcome, latency } in batch.drain(..) {
            // One that was given up in the meantime is not counted.
            let entry = self.probes[place as usize].as_mut().filter(|entry| entry.serial == serial);
            let Some(entry) = entry else { continue };
            entry.running = None;
            let way = &mut self.ways[entry.way];
            way.running -= 1;
            way.schedule.enter_again(place, &mut entry.timing, now);
            if let Some(probe) = board.probe(place) {
                shared.counters.note(probe.subject.question.kind, &outcome, latency);
            }
            if let Outcome::NoVerdict(errno) = outcome
                && self.logged.insert(errno)
            {
                let reason = std::io::Error::from_raw_os_error(errno);
                tracing::warn!("health checks cannot be made, for a reason of this machine: {reason}; told once");
            }
            if board.count(place, Look { at, latency, outcome }) {
                shared.counters.turned(board.state_at(place).is_some_and(|state| state.up));
                self.turn(place);
            }
        }
    }

    fn turn(&mut self, place: u32) {
        if let Some(entry) = &mut self.probes[place as usize] {
            entry.turned = true;
            self.turned.push(place);
        }
    }

    /// When the thread has something to do, unless something comes before.
    fn next(&self) -> Option<Instant> {
        let probe = self.first().map(|(due, _)| due);
        let tell = (!self.turned.is_empty()).then(|| self.told_at + TELL);
        [probe, tell].into_iter().flatten().min()
    }

    /// Says whose verdict turned, and which services that concerns.
    fn tell(&mut self) {
        // While a set is taken, services are still to come that one of them may concern.
        if self.turned.is_empty() || !self.todo.is_empty() || self.told_at.elapsed() < TELL {
            return;
        }
        let mut services: HashMap<u32, Vec<Arc<str>>> = HashMap::new();
        for (name, held) in &self.held {
            for &place in &held.places {
                if self.probes[place as usize].as_ref().is_some_and(|entry| entry.turned) {
                    services.entry(place).or_default().push(name.clone());
                }
            }
        }
        let board = self.shared.board();
        let mut news = self.shared.news();
        for place in self.turned.drain(..) {
            let Some(entry) = self.probes[place as usize].as_mut().filter(|entry| entry.turned) else { continue };
            entry.turned = false;
            let (Some(probe), Some(state)) = (board.probe(place), board.state_at(place)) else { continue };
            let mut services = services.remove(&place).unwrap_or_default();
            services.sort_unstable();
            news.insert(probe.clone(), Change { probe: probe.clone(), state: state.clone(), services });
        }
        drop((board, news));
        self.told_at = Instant::now();
        self.shared.changed.notify_one();
    }
}
