//! The control thread: what the feed says and what the kernel knows become a snapshot, which is published.
//!
//! Everything that changes what an lcore does goes through here, one change after another. Tables are built here, old
//! snapshots are dropped here, and nothing in this room waits for a packet or makes one wait.

mod authored;
mod bases;
mod client;
mod clients;
mod drained;
mod fabric;
mod journal;
mod kept;
mod masks;
mod memory;
mod report;
mod traffic;

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{mpsc, oneshot, watch};

use crate::config::{self, Config};
use crate::feed::{Feed, Text, Update};
use crate::flow::{Clients, Remembered};
use crate::kernel::{self, Facts, Kernel, Twin};
use crate::quiescent::{self, Publisher, Reader};
use crate::service::{self, Definitions, Errors, Warning};
use crate::snapshot::{Compiler, Fabric, Millis, Snapshot};

use authored::{Authored, Record};
use bases::Saved;
use client::{Change, Request};
pub use client::{Client, Edit, Refused, Seen, Write, Written};
use drained::Drained;
pub use drained::{Named, NotNamed, Whom};
use kept::Kept;
use masks::Masks;
pub use report::{Count, Report};

/// Metrics that are recorded here when they happen.
pub const PUBLISH_DURATION: &str = "penstock_publish_duration_seconds";
pub const FEED_ERRORS: &str = "penstock_feed_errors_total";

/// What the control thread works with.
pub struct Setup {
    pub config: Config,
    /// What the configuration fixes of the fabric, with the MAC addresses of the devices.
    pub fixed: Fabric,
    pub twins: Vec<Twin>,
    /// The clock that the lcores go by, too.
    pub clock: Clock,
    /// What each lcore remembers.
    pub remembered: Vec<Remembered>,
    /// Where clients went: what all lcores remember.
    pub clients: Arc<Clients>,
    /// Whether lcores remember what the process before did, and which memory that is.
    pub knows_flows: bool,
    pub memory: u64,
}

/// Tells the time.
pub type Clock = Box<dyn Fn() -> Millis + Send>;

/// Why the control thread could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Kernel(#[from] kernel::Error),
    #[error("the feed: {0}")]
    Feed(std::io::Error),
    #[error("the control thread: {0}")]
    Thread(#[from] std::io::Error),
    #[error("the control thread ended before it began")]
    Died,
}

/// A running control thread; it ends when this is dropped.
pub struct Control {
    client: Client,
    thread: Option<JoinHandle<()>>,
}

impl Control {
    /// Starts the thread and gives the readers of its snapshots, one an lcore. The first snapshot is of the last good
    /// definitions where there are any, and of everything that the kernel knows by now.
    pub fn start(setup: Setup) -> Result<(Self, Vec<Reader<Snapshot>>), Error> {
        let (requests, receiver) = mpsc::unbounded_channel();
        let (in_force, watched) = watch::channel(Arc::default());
        let client = Client { requests, has_definitions: Arc::default(), in_force: watched };
        let has_definitions = client.has_definitions.clone();
        let (report_start, started) = std::sync::mpsc::channel();
        let work = move || {
            let begin = || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                let (this, readers) = runtime.block_on(Thread::begin(setup, has_definitions, in_force))?;
                Ok::<_, Error>((runtime, this, readers))
            };
            match begin() {
                Ok((runtime, this, readers)) => {
                    let _ = report_start.send(Ok(readers));
                    runtime.block_on(this.run(receiver));
                }
                Err(error) => drop(report_start.send(Err(error))),
            }
        };
        let thread = std::thread::Builder::new().name("control".to_owned()).spawn(work)?;
        let readers = started.recv().map_err(|_| Error::Died)??;
        Ok((Self { client, thread: Some(thread) }, readers))
    }

    pub fn client(&self) -> Client {
        self.client.clone()
    }
}

/// Waits until the last good definitions are on disk.
impl Drop for Control {
    fn drop(&mut self) {
        let _ = self.client.requests.send(Request::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The thread's own state.
struct Thread {
    config: Config,
    fixed: Fabric,
    clock: Clock,
    compiler: Compiler,
    publisher: Publisher<Snapshot>,
    feed: Feed,
    /// `None`: no port has a twin.
    kernel: Option<Kernel>,
    facts: watch::Receiver<Facts>,
    keeper: kept::Keeper,
    /// As they were given.
    definitions: Option<Arc<Definitions>>,
    has_definitions: Arc<AtomicBool>,
    in_force: watch::Sender<Arc<Definitions>>,
    /// What is laid over them.
    masks: Masks,
    /// What writers wait for.
    writes: Writes,
    fabric: Fabric,
    /// Next hops of backends and routes whose MAC addresses are not known.
    unresolved: Vec<IpAddr>,
    asked_for: clients::Clients,
    /// Where clients went: what all lcores remember.
    clients: Arc<Clients>,
    /// Which memory of flows the lcores have.
    memory: u64,
    look: memory::Look,
    /// When the change was noticed that not every lcore has adopted yet.
    pending: Option<Instant>,
    sums: traffic::Sums,
    feed_last_success: Option<SystemTime>,
    /// Why the feed's newest word is not in force.
    feed_error: Option<String>,
}

/// Changes by the API, and what became of them.
#[derive(Default)]
struct Writes {
    /// The definitions with all changes; `None` where a feed rules.
    authored: Option<Authored>,
    /// Who was drained, with all changes.
    drained: Drained,
    /// In the order that they came, not begun yet.
    waiting: Vec<Change>,
    /// What the keeper writes at this moment.
    committing: Option<Committing>,
    /// On disk, and published, but not adopted by every lcore yet.
    unanswered: Vec<Box<dyn FnOnce() + Send>>,
}

struct Committing {
    since: Instant,
    definitions: Option<Arc<Definitions>>,
    has_drained: bool,
    done: oneshot::Receiver<Result<(), String>>,
    /// Called with what became of it.
    answers: Vec<Box<dyn FnOnce(Result<(), Refused>) + Send>>,
}

/// Changes that are kept and published together, at most.
const BATCH: usize = 1024;

/// How long the thread itself watches the lcores adopt a snapshot, looking every [`LOOK`]; they take microseconds
/// unless they sleep.
const PATIENCE: Duration = Duration::from_millis(1);
const LOOK: Duration = Duration::from_micros(10);

/// How often it looks after that, between other work.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

impl Thread {
    async fn begin(
        setup: Setup,
        has_definitions: Arc<AtomicBool>,
        in_force: watch::Sender<Arc<Definitions>>,
    ) -> Result<(Self, Vec<Reader<Snapshot>>), Error> {
        let Setup { config, fixed, twins, clock, remembered, clients, knows_flows, memory } = setup;
        let state_dir = config.node.state_dir.clone();
        let kernel = if twins.is_empty() { None } else { Some(Kernel::start(&twins).await?) };
        let facts = match &kernel {
            Some(kernel) => kernel.facts(),
            None => watch::channel(Facts::default()).1,
        };
        let (definitions, last_segment) = load(&config);
        has_definitions.store(definitions.is_some(), Ordering::Relaxed);
        let nothing = Arc::default();
        let given = definitions.as_ref().unwrap_or(&nothing);
        in_force.send_replace(given.clone());
        let drained = load_drained(&state_dir);
        let is_authored = matches!(config.feed, config::Feed::None);
        let writes = Writes {
            authored: is_authored.then(|| Authored::new(given)),
            drained: drained.clone(),
            ..Writes::default()
        };
        let mut masks = Masks::new(drained);
        let fabric = fabric::merge(&fixed, &facts.borrow());
        let mut compiler = Compiler::new(config.environment());
        if let Some(saved) = load_bases(&config, clock(), knows_flows) {
            let last = remembered.iter().filter_map(Remembered::last_destination).max();
            compiler.restore(saved.bases, saved.numbers, knows_flows.then_some(last));
        }
        let first = compiler.compile(&masks.over(given), &fabric, clock());
        // The lcores begin with it.
        compiler.adopted(clock());
        let unresolved = first.unresolved().to_vec();
        if let Some(kernel) = &kernel {
            kernel.want(unresolved.clone());
        }
        let (publisher, readers) = quiescent::channel(config.dpdk.lcores.len(), first);
        let feed = Feed::start(&config.feed).map_err(Error::Feed)?;
        let mut this = Self {
            config,
            fixed,
            clock,
            compiler,
            publisher,
            feed,
            kernel,
            facts,
            keeper: kept::Keeper::start(state_dir, last_segment.filter(|_| is_authored))?,
            definitions,
            has_definitions,
            in_force,
            masks,
            writes,
            fabric,
            unresolved,
            asked_for: clients::Clients::default(),
            clients,
            memory,
            look: memory::Look::new(remembered),
            pending: None,
            sums: traffic::Sums::default(),
            feed_last_success: None,
            feed_error: None,
        };
        // What the lcores remember from now on is by these numbers, be the ones on disk others.
        this.keep_bases();
        Ok((this, readers))
    }

    async fn run(mut self, mut requests: mpsc::UnboundedReceiver<Request>) {
        let mut tick = tokio::time::interval(clients::PERIOD);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                (noticed, update) = self.feed.next() => self.take(noticed, update),
                // Fails only without a kernel to follow, and then nothing ever changes.
                Ok(()) = self.facts.changed() => {
                    let fabric = fabric::merge(&self.fixed, &self.facts.borrow_and_update());
                    if fabric != self.fabric {
                        self.fabric = fabric;
                        self.publish(Instant::now());
                    }
                }
                request = requests.recv() => match request {
                    Some(request) => if self.hear(request).is_break() {
                        return;
                    },
                    None => return,
                },
                Some(result) = committed(&mut self.writes.committing) => self.finish_commit(result),
                () = tokio::time::sleep(LOOK_AGAIN), if self.pending.is_some() => self.settle(),
                () = sleep_until(&self.clock, self.compiler.next_move()) => self.publish(Instant::now()),
                _ = tick.tick() => self.look(),
            }
            if self.writes.committing.is_none() && !self.writes.waiting.is_empty() {
                // What came at the same time goes together.
                while let Ok(request) = requests.try_recv() {
                    if self.hear(request).is_break() {
                        return;
                    }
                }
                self.begin_commit();
            }
        }
    }

    /// Does what somebody asks, or notes it; `Break`: this is the end.
    fn hear(&mut self, request: Request) -> ControlFlow<()> {
        match request {
            Request::Report(answer) => drop(answer.send(self.report())),
            Request::Seen(answer) => {
                let (snapshot, fabric) = (self.publisher.newest().clone(), self.fabric.clone());
                drop(answer.send(Seen { snapshot, fabric, now: (self.clock)() }));
            }
            Request::Change(change) => self.writes.waiting.push(change),
            Request::Reread => self.feed.reread(),
            Request::Stop => return ControlFlow::Break(()),
        }
        ControlFlow::Continue(())
    }

    /// Takes what the feed says.
    fn take(&mut self, noticed: Instant, update: Update) {
        match update {
            Update::Set(text) => self.judge(noticed, text),
            Update::Unchanged => {
                // What was refused does not become good by being read again.
                if self.feed_error.is_none() {
                    self.feed_last_success = Some(SystemTime::now());
                }
            }
            Update::Unreachable(why) => {
                metrics::counter!(FEED_ERRORS).increment(1);
                tracing::error!("{why}; what was in force stays");
                self.feed_error = Some(why);
            }
        }
    }

    /// Reads a set, and puts it in force if it holds; else nothing changes.
    fn judge(&mut self, noticed: Instant, Text { name, text }: Text) {
        // By a thread of its own, and so from a heap of its own: the thousands of small pieces that it frees would be in the way of all that
        // is made here next.
        let read = std::thread::scope(|scope| {
            let reading = scope.spawn(|| read(&self.config, &name, &text, self.definitions.as_deref()));
            reading.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        self.feed_error = read.as_ref().err().map(Errors::to_string);
        let (definitions, warnings) = match read {
            Ok(valid) => valid,
            Err(errors) => {
                metrics::counter!(FEED_ERRORS).increment(1);
                tracing::error!("the new definitions are refused, what was in force stays:\n{errors}");
                return;
            }
        };
        self.feed_last_success = Some(SystemTime::now());
        for warning in &warnings {
            tracing::warn!("{warning}");
        }
        let version = definitions.version.as_deref().unwrap_or("(none)").to_owned();
        if self.definitions.as_deref() == Some(&definitions) {
            tracing::info!("definitions, version {version}: unchanged");
            return;
        }
        let definitions = Arc::new(definitions);
        self.put_in_force(definitions.clone(), noticed);
        let took = noticed.elapsed();
        let services = definitions.services.len();
        let backends: usize = definitions.services.iter().map(|service| service.backends.len()).sum();
        tracing::info!(
            "definitions, version {version}: {services} services, {backends} backends, in force after {took:.1?}"
        );
        self.keeper.keep_definitions(text);
    }

    fn put_in_force(&mut self, definitions: Arc<Definitions>, noticed: Instant) {
        // To drop the old ones would take as long as to publish the new.
        let old = self.definitions.replace(definitions.clone());
        let watched = self.in_force.send_replace(definitions);
        self.publish(noticed);
        drop((old, watched));
        self.has_definitions.store(true, Ordering::Relaxed);
    }

    /// Makes the changes that wait, and has them kept on disk; they are in force once they are there.
    fn begin_commit(&mut self) {
        let waiting = std::mem::take(&mut self.writes.waiting);
        let (mut answers, mut lines, mut is_whole, mut has_changed): (Vec<Box<dyn FnOnce(_) + Send>>, _, _, _) =
            (Vec::new(), String::new(), false, false);
        let drained_before = self.writes.drained.clone();
        let mut waiting = waiting.into_iter();
        for request in waiting.by_ref().take(BATCH) {
            match request {
                Change::Write(write, answer) => {
                    let written = match &mut self.writes.authored {
                        Some(authored) => authored.write(write),
                        None => Err(Refused::FeedRules(self.config.feed.kind().name())),
                    };
                    match written {
                        Ok((written, record)) => {
                            match record {
                                Record::Line(line) => lines += &line,
                                Record::Whole => is_whole = true,
                                Record::Nothing => {}
                            }
                            has_changed = is_whole || !lines.is_empty();
                            answers.push(Box::new(move |kept: Result<(), Refused>| {
                                drop(answer.send(kept.map(|()| written)))
                            }));
                        }
                        Err(refused) => drop(answer.send(Err(refused))),
                    }
                }
                Change::Drain(whom, answer) => match self.who_has(&whom) {
                    Ok(services) => {
                        self.writes.drained.add(whom);
                        answers.push(Box::new(move |kept: Result<(), Refused>| {
                            drop(answer.send(kept.map(|()| services)))
                        }));
                    }
                    Err(refused) => drop(answer.send(Err(refused))),
                },
                Change::Undrain(whom, answer) => {
                    if self.writes.drained.remove(&whom) {
                        let services = self.who_has(&whom).unwrap_or_default();
                        answers.push(Box::new(move |kept: Result<(), Refused>| {
                            drop(answer.send(kept.map(|()| services)))
                        }));
                    } else {
                        let of = whom.service.as_ref().map_or(String::new(), |name| format!(" in service {name:?}"));
                        let reason = format!("{} was not drained by hand{of}", whom.backend);
                        drop(answer.send(Err(Refused::NotFound(reason))));
                    }
                }
            }
        }
        self.writes.waiting = waiting.collect();
        let has_drained = self.writes.drained != drained_before;
        if !has_changed && !has_drained {
            answers.into_iter().for_each(|answer| answer(Ok(())));
            return;
        }
        let authored = self.writes.authored.as_ref().filter(|_| has_changed);
        let definitions = authored.map(|authored| Arc::new(authored.definitions()));
        let (done, receiver) = oneshot::channel();
        self.keeper.commit(kept::Commit {
            drained: has_drained.then(|| self.writes.drained.clone()),
            definitions: definitions.clone(),
            lines: (!is_whole).then_some(lines),
            done,
        });
        let since = Instant::now();
        self.writes.committing = Some(Committing { since, definitions, has_drained, done: receiver, answers });
    }

    /// What was kept is put in force; what could not be kept never was.
    fn finish_commit(&mut self, result: Result<(), String>) {
        let Some(Committing { since, definitions, has_drained, answers, .. }) = self.writes.committing.take() else {
            return;
        };
        if let Err(why) = result {
            tracing::error!("changes are refused, since they cannot be kept on disk: {why}");
            let nothing = Arc::default();
            let in_force = self.definitions.as_ref().unwrap_or(&nothing);
            if let Some(authored) = &mut self.writes.authored {
                *authored = Authored::new(in_force);
            }
            self.writes.drained = self.masks.drained().clone();
            answers.into_iter().for_each(|answer| answer(Err(Refused::NotKept(why.clone()))));
            return;
        }
        let answers = answers.into_iter().map(|answer| -> Box<dyn FnOnce() + Send> { Box::new(|| answer(Ok(()))) });
        self.writes.unanswered.extend(answers);
        if has_drained {
            self.masks.set_drained(self.writes.drained.clone());
        }
        match definitions {
            Some(definitions) => {
                self.feed_last_success = Some(SystemTime::now());
                self.put_in_force(definitions, since);
            }
            None => self.publish(since),
        }
        self.answer();
    }

    /// Tells writers whose changes every lcore has adopted.
    fn answer(&mut self) {
        if self.pending.is_none() {
            self.writes.unanswered.drain(..).for_each(|answer| answer());
        }
    }

    /// The services that have a backend.
    fn who_has(&self, whom: &Whom) -> Result<Vec<Arc<str>>, Refused> {
        let authored = self.writes.authored.as_ref().map(Authored::definitions);
        let nothing = Definitions::default();
        let definitions = authored.as_ref().or(self.definitions.as_deref()).unwrap_or(&nothing);
        let has = |service: &&Arc<service::Service>| {
            service.backends.iter().any(|backend| whom.is(&service.name, service.endpoint(backend)))
        };
        let names: Vec<_> = definitions.services.iter().filter(has).map(|service| service.name.clone()).collect();
        if !names.is_empty() {
            return Ok(names);
        }
        Err(Refused::NotFound(match &whom.service {
            Some(name) if !definitions.services.iter().any(|service| service.name == *name) => {
                format!("there is no service {name:?}")
            }
            Some(name) => format!("service {name:?} has no backend {}", whom.backend),
            None => format!("no service has a backend {}", whom.backend),
        }))
    }

    /// Compiles what is known now and has the lcores use it. `noticed`: when the change was.
    fn publish(&mut self, noticed: Instant) {
        let nothing = Arc::default();
        let definitions = self.masks.over(self.definitions.as_ref().unwrap_or(&nothing));
        let snapshot = self.compiler.compile(&definitions, &self.fabric, (self.clock)());
        self.publisher.publish(snapshot);
        self.unresolved = self.publisher.newest().unresolved().to_vec();
        self.want();
        // A change before the last was adopted: the older one counts, the lcores still wait for both.
        self.pending.get_or_insert(noticed);
        let start = Instant::now();
        while self.pending.is_some() && start.elapsed() < PATIENCE {
            std::thread::sleep(LOOK);
            self.settle();
        }
        self.keep_bases();
    }

    /// Has the bases kept, where they changed.
    fn keep_bases(&mut self) {
        if self.compiler.has_moved() {
            let (bases, numbers) = (self.compiler.bases(), self.compiler.numbers());
            self.keeper.keep_bases(Saved { bases, numbers, memory: self.memory });
        }
    }

    /// Looks at what the lcores say: which clients packets wait for, and what the fabric told them.
    fn look(&mut self) {
        let mut has_learned = self.compiler.learn((self.clock)());
        let adopted = self.pending.is_none().then(|| self.compiler.serial());
        if let Some(serial) = self.look.step(adopted) {
            let (now, mut destinations) = ((self.clock)(), HashSet::new());
            self.clients.sweep(
                |client| self.compiler.is_client_over(client, now),
                |client| _ = destinations.insert(client.destination),
            );
            let is_remembered = |number| self.look.is_remembered(number) || destinations.contains(&number);
            has_learned |= self.compiler.learn_remembered(serial, is_remembered);
        }
        if has_learned {
            self.publish(Instant::now());
        }
        if self.asked_for.update(self.compiler.asked().take(), Instant::now()) {
            self.want();
        }
    }

    fn want(&self) {
        if let Some(kernel) = &self.kernel {
            kernel.want(self.unresolved.iter().copied().chain(self.asked_for.wanted()).collect());
        }
    }

    /// Drops what no lcore reads any more, and notes when all have adopted the newest.
    fn settle(&mut self) {
        if self.publisher.reclaim()
            && let Some(noticed) = self.pending.take()
        {
            metrics::histogram!(PUBLISH_DURATION).record(noticed.elapsed().as_secs_f64());
            self.compiler.adopted((self.clock)());
            self.keep_bases();
            // No lcore counts for a backend any more that is in no snapshot.
            for (pair, packets, bytes) in self.compiler.forget_counters() {
                self.sums.add(pair, packets, bytes);
            }
            self.answer();
        }
    }

    fn report(&mut self) -> Report {
        let registry = self.compiler.registry();
        let names = self.definitions.iter().flat_map(|set| &set.services).map(|service| &service.name);
        let mut backends: Vec<_> =
            registry.totals().map(|(pair, packets, bytes)| Count { of: pair.clone(), packets, bytes }).collect();
        backends.sort_by(|a, b| a.of.cmp(&b.of));
        let of_backend = |(number, service, endpoint): (u32, &Arc<str>, SocketAddr)| {
            ((service.clone(), endpoint), self.look.seen(number).flows)
        };
        let mut flows: Vec<_> = self.compiler.destinations().map(of_backend).collect();
        flows.sort();
        let mut moving: Vec<_> = self.compiler.moving().map(|(name, slots)| (name.clone(), slots)).collect();
        moving.sort();
        let mut refused: Vec<_> = registry.all_refused().map(|(name, packets)| (name.clone(), packets)).collect();
        refused.sort();
        let uncounted = self.compiler.rests_since().filter(|&(_, serial)| !self.look.has_counted(serial));
        Report {
            masked: self.masks.over(self.definitions.as_ref().unwrap_or(&Arc::default())),
            drained: self.masks.drained().iter().cloned().collect(),
            feed_error: self.feed_error.clone(),
            unsettled: self.compiler.unsettled(),
            uncounted: uncounted.map(|(name, _)| name.clone()).collect(),
            next_move: self.compiler.next_move().map(|next| next.0.saturating_sub((self.clock)().0)),
            flows,
            moving,
            refused,
            definitions: self.definitions.clone(),
            feed_last_success: self.feed_last_success,
            backends,
            services: self.sums.of(registry.totals(), names),
            unresolved: self.unresolved.len(),
        }
    }
}

/// What became of what the keeper was given; for ever where that is nothing.
async fn committed(committing: &mut Option<Committing>) -> Option<Result<(), String>> {
    match committing {
        Some(committing) => Some((&mut committing.done).await.unwrap_or_else(|_| Err("nobody writes".to_owned()))),
        None => std::future::pending().await,
    }
}

/// Waits until the clock shows `moment`; for ever where there is none.
async fn sleep_until(clock: &Clock, moment: Option<Millis>) {
    match moment {
        Some(moment) => tokio::time::sleep(Duration::from_millis(moment.0.saturating_sub(clock().0))).await,
        None => std::future::pending().await,
    }
}

/// Definitions that hold, by themselves and on this node.
fn read(
    config: &Config,
    name: &str,
    text: &str,
    previous: Option<&Definitions>,
) -> Result<(Definitions, Vec<Warning>), Errors> {
    let (definitions, warnings) = service::read(text, name, previous)?;
    config::fit(config, &definitions, name)?;
    Ok((definitions, warnings))
}

/// The bases that were kept, where there are any.
fn load_bases(config: &Config, now: Millis, knows_flows: bool) -> Option<Saved> {
    let state_dir = &config.node.state_dir;
    let text = Kept::Bases.load(state_dir).unwrap_or_else(|error| {
        tracing::error!("{error}: flows of slots that were changing owners may move");
        None
    })?;
    let saved = Saved::of_text(&text, now, knows_flows);
    saved.map_err(|error| tracing::error!("{}: {error}; it is not used", Kept::Bases.path(state_dir).display())).ok()
}

/// Whether it is known by which numbers a process before remembered flows in this memory.
pub fn knows_numbers(state_dir: &Path, memory: u64) -> bool {
    let text = Kept::Bases.load(state_dir).ok().flatten();
    let saved = text.and_then(|text| Saved::of_text(&text, Millis(0), true).ok());
    saved.is_some_and(|saved| saved.memory == memory)
}

/// The last good definitions, where there are any that still hold; and the last segment of their changes, where they have any.
fn load(config: &Config) -> (Option<Arc<Definitions>>, Option<u64>) {
    let state_dir = &config.node.state_dir;
    let text = Kept::Definitions.load(state_dir).unwrap_or_else(|error| {
        tracing::error!("{error}");
        None
    });
    let Some(text) = text else { return (None, None) };
    let (first_segment, document) = kept::split_changes(&text);
    let path = Kept::Definitions.path(state_dir).display().to_string();
    let (definitions, _) = match read(config, &path, document, None) {
        Ok(valid) => valid,
        Err(errors) => {
            tracing::error!("the last good definitions do not hold any more and are not used:\n{errors}");
            return (None, None);
        }
    };
    let (definitions, last_segment) = match first_segment {
        Some(first) => load_changes(state_dir, first, definitions),
        None => (definitions, None),
    };
    let version = definitions.version.as_deref().unwrap_or("(none)");
    tracing::info!("starting with the last good definitions, version {version}");
    (Some(Arc::new(definitions)), last_segment)
}

/// The definitions with the changes since they were written.
fn load_changes(state_dir: &Path, first_segment: u64, definitions: Definitions) -> (Definitions, Option<u64>) {
    let (changes, last_segment, problem) = journal::read(state_dir, first_segment);
    if let Some(problem) = &problem {
        tracing::error!("{problem}");
    }
    let mut authored = Authored::new(&definitions);
    for change in changes {
        let redone = match &change.upsert {
            Some(json) => service::tree::json(json.get().as_bytes(), "change")
                .and_then(|tree| service::read_service(&tree, "change"))
                .map(|(service, _)| Some(service)),
            None => Ok(None),
        };
        let redone = redone
            .map_err(Refused::Invalid)
            .and_then(|service| authored.redo(change.version.clone(), service, change.delete.as_deref()));
        if let Err(error) = redone {
            tracing::error!(
                "the change to version {} does not hold any more, and is left out: {error}",
                change.version
            );
        }
    }
    // What is appended behind damage would not be found again: then all is written anew.
    (authored.definitions(), problem.is_none().then_some(last_segment))
}

/// What was drained by hand.
fn load_drained(state_dir: &Path) -> Drained {
    let text = Kept::Drained.load(state_dir).unwrap_or_else(|error| {
        tracing::error!("{error}: backends that were drained by hand are not any more");
        None
    });
    Drained::of_text(&text.unwrap_or_default()).unwrap_or_else(|line| {
        let path = Kept::Drained.path(state_dir);
        tracing::error!("{}: {line:?} is not understood; nothing of the file is used", path.display());
        Drained::default()
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;

    use super::*;
    use crate::snapshot::PortIndex;
    use crate::wire::Mac;

    /// A control thread with a file to read and one lcore, which this test plays.
    struct Scene {
        directory: tempfile::TempDir,
        control: Control,
        lcore: Reader<Snapshot>,
    }

    /// Definitions of one service with these backends.
    fn set(version: &str, backends: &[u8]) -> String {
        let backends: Vec<_> = backends.iter().map(|last| format!(r#"{{"address": "10.1.0.{last}"}}"#)).collect();
        format!(
            r#"{{"version": "{version}", "services": [{{"name": "web", "vip": "192.0.2.1", "port": 80, "protocol": "tcp",
                "forwarding": "ipip", "backends": [{}]}}]}}"#,
            backends.join(", ")
        )
    }

    impl Scene {
        fn new() -> Self {
            Self::in_directory(tempfile::tempdir().unwrap())
        }

        fn in_directory(directory: tempfile::TempDir) -> Self {
            Self::with_twins(directory, vec![])
        }

        fn with_twins(directory: tempfile::TempDir, twins: Vec<Twin>) -> Self {
            let document = format!(
                r#"
                [node]
                state_dir = "{}"
                [dpdk]
                lcores = [0]
                [[port]]
                name = "wan0"
                device = "net_null0"
                [encap]
                ipv4_source = "10.0.0.1"
                [hash]
                seed = "AAECAwQFBgcICQoLDA0ODw=="
                [feed]
                kind = "file"
                path = "services.json"
                "#,
                directory.path().display()
            );
            let name = directory.path().join("penstock.toml").display().to_string();
            let (config, _) = Config::read(document, &name).unwrap();
            let clock: Clock = Box::new(|| Millis(0));
            let setup = Setup {
                fixed: config.fabric(),
                config,
                twins,
                clock,
                remembered: Vec::new(),
                clients: Arc::new(Clients::new(8, [0; 2])),
                knows_flows: false,
                memory: 0,
            };
            let (control, mut lcores) = Control::start(setup).unwrap();
            Self { directory, control, lcore: lcores.remove(0) }
        }

        fn path(&self) -> &Path {
            self.directory.path()
        }

        fn write(&self, text: &str) {
            fs::write(self.path().join("new"), text).unwrap();
            fs::rename(self.path().join("new"), self.path().join("services.json")).unwrap();
        }

        /// Polls as an lcore does until the version is this one; how long that took.
        fn until(&mut self, version: &str) -> Duration {
            let start = Instant::now();
            while self.lcore.quiescent().version() != Some(version) {
                assert!(start.elapsed() < Duration::from_secs(3), "version {version} never came");
                std::hint::spin_loop();
            }
            start.elapsed()
        }

        fn report(&self) -> Report {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(self.control.client().report()).unwrap()
        }
    }

    #[test]
    fn a_renamed_file_reaches_the_lcores_within_milliseconds() {
        let mut scene = Scene::new();
        assert!(!scene.control.client().has_definitions());
        scene.write(&set("0", &[1, 2, 3]));
        scene.until("0");
        let hundred: Vec<u8> = (1..=100).collect();
        let mut delays = Vec::new();
        for version in 1..=10u8 {
            scene.write(&set(&version.to_string(), &hundred[usize::from(version)..]));
            delays.push(scene.until(&version.to_string()));
        }
        delays.sort();
        // Unoptimised, a table of 65537 slots takes tens of milliseconds by itself.
        let limit = Duration::from_millis(if cfg!(debug_assertions) { 200 } else { 5 });
        assert!(delays[5] < limit, "{delays:?}");
        assert!(scene.control.client().has_definitions());
    }

    #[test]
    fn a_bad_file_changes_nothing_and_a_good_one_after_it_does() {
        let mut scene = Scene::new();
        scene.write(&set("1", &[1]));
        scene.until("1");
        scene.write(r#"{"version": "2", "services": [{}]}"#);
        scene.write("{");
        scene.control.client().reread();
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(scene.lcore.quiescent().version(), Some("1"));
        scene.write(&set("3", &[1]));
        scene.until("3");
    }

    #[test]
    fn a_restart_begins_with_the_last_good_definitions() {
        let mut scene = Scene::new();
        scene.write(&set("1", &[1]));
        scene.until("1");
        let Scene { directory, control, .. } = scene;
        drop(control);
        fs::remove_file(directory.path().join("services.json")).unwrap();
        let mut scene = Scene::in_directory(directory);
        assert_eq!(scene.lcore.quiescent().version(), Some("1"));
        assert!(scene.control.client().has_definitions());
        assert_eq!(scene.report().feed_last_success, None, "the feed has not answered");

        let Scene { directory, control, .. } = scene;
        drop(control);
        fs::write(Kept::Definitions.path(directory.path()), "damaged").unwrap();
        let mut scene = Scene::in_directory(directory);
        assert_eq!(scene.lcore.quiescent().version(), None);
        scene.write(&set("2", &[1]));
        scene.until("2");
    }

    #[test]
    fn the_numbers_on_disk_are_those_that_flows_are_remembered_by_from_the_start() {
        let mut scene = Scene::new();
        for (version, backends) in [("1", &[3][..]), ("2", &[1, 2, 3])] {
            scene.write(&set(version, backends));
            scene.until(version);
        }
        let number_of_first = |directory: &Path| {
            let text = Kept::Bases.load(directory).unwrap().unwrap();
            let saved = Saved::of_text(&text, Millis(0), true).unwrap();
            let (_, _, mut numbers) = saved.numbers.iter().next().unwrap();
            numbers.find(|(endpoint, _)| endpoint.ip() == IpAddr::from([10, 1, 0, 1])).unwrap().1
        };
        let Scene { directory, control, .. } = scene;
        drop(control);
        assert_eq!(number_of_first(directory.path()), 1);
        // Its flows are lost, so the next process numbers anew. Nothing changes while it runs.
        let Scene { directory, control, .. } = Scene::in_directory(directory);
        drop(control);
        assert_eq!(number_of_first(directory.path()), 0);
    }

    #[test]
    fn old_snapshots_are_dropped_here_and_counters_of_backends_that_left_forgotten() {
        let mut scene = Scene::new();
        scene.write(&set("1", &[1, 2]));
        scene.until("1");
        assert_eq!(scene.report().backends.len(), 2);
        scene.write(&set("2", &[1]));
        // Until the lcore has adopted the new one, it may count for both.
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(scene.report().backends.len(), 2);
        scene.until("2");
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(scene.report().backends.len(), 1);
    }

    /// Runs the test named `test` again, in a network namespace of its own; `true` in there.
    fn in_a_namespace(test: &str) -> bool {
        if std::env::var_os("PENSTOCK_IN_A_NAMESPACE").is_some() {
            return true;
        }
        let test = format!("control::tests::{test}");
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--net"]).arg(std::env::current_exe().unwrap());
        command.args(["--exact", &test, "--nocapture"]).env("PENSTOCK_IN_A_NAMESPACE", "1");
        assert!(command.status().unwrap().success(), "see above");
        false
    }

    fn ip(arguments: &str) {
        assert!(Command::new("ip").args(arguments.split_whitespace()).status().unwrap().success(), "ip {arguments}");
    }

    fn shown(arguments: &str) -> String {
        let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn a_changed_mac_reaches_the_lcores_within_a_tenth_of_a_second() {
        if !in_a_namespace("a_changed_mac_reaches_the_lcores_within_a_tenth_of_a_second") {
            return;
        }
        ip("link add wan0 type veth peer name far");
        ip("link set far up");
        ip("address add 10.1.0.1/24 dev wan0");
        let twin = Twin { name: "wan0".to_owned(), port: PortIndex(0), mac: Mac([2, 0, 0, 0, 0, 1]), mtu: 1500 };
        let mut scene = Scene::with_twins(tempfile::tempdir().unwrap(), vec![twin]);
        scene.write(&set("1", &[11]));
        scene.until("1");
        // The backend is wanted, so the kernel has been asked for it.
        let backend = "10.1.0.11".parse().unwrap();
        assert_eq!(scene.report().unresolved, 1);
        assert!(scene.lcore.quiescent().next_hop(backend).is_none());

        for last in 1..=5 {
            ip(&format!("neighbor replace 10.1.0.11 lladdr 02:00:00:00:aa:{last:02x} nud reachable dev wan0"));
            let changed = Instant::now();
            let mac = Mac([2, 0, 0, 0, 0xaa, last]);
            while scene.lcore.quiescent().next_hop(backend).map(|hop| hop.destination) != Some(mac) {
                assert!(changed.elapsed() < Duration::from_millis(100), "the new MAC has not come");
            }
        }
        assert_eq!(scene.report().unresolved, 0);
        // A client that a packet should have gone to is asked for too.
        scene.lcore.quiescent().next_hop("10.1.0.99".parse().unwrap());
        let asked = Instant::now();
        while !shown("neighbor show dev wan0").contains("10.1.0.99") {
            assert!(asked.elapsed() < Duration::from_millis(500), "the kernel was never asked for the client");
        }

        ip("neighbor replace 10.1.0.11 nud failed dev wan0");
        let changed = Instant::now();
        while scene.lcore.quiescent().next_hop(backend).is_some() {
            assert!(changed.elapsed() < Duration::from_secs(1), "a neighbour that failed is still used");
        }
    }
}
