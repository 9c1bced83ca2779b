//! The control thread: what the feed says and what the kernel knows become a snapshot, which is published.
//!
//! Everything that changes what an lcore does goes through here, one change after another. Tables are built here, old
//! snapshots are dropped here, and nothing in this room waits for a packet or makes one wait.

mod authored;
mod bases;
mod client;
mod clients;
mod disk;
mod drained;
mod fabric;
mod heap;
mod journal;
mod kept;
mod lines;
mod loading;
mod masks;
mod memory;
mod report;
mod standing;
mod traffic;
mod writes;

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::ops::ControlFlow;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use crate::config::{self, Config};
use crate::feed::{Feed, Text, Update};
use crate::flow::{Clients, Remembered};
use crate::health::{self, Changes, Prober};
use crate::kernel::{self, Facts, Kernel, Twin};
use crate::quiescent::{self, Publisher, Reader};
use crate::service::{self, Definitions, Errors, LeftOut, Reading};
use crate::snapshot::{Compiler, Fabric, Millis, Snapshot};

use bases::{Of, Saved};
pub use client::{Client, Edit, Refused, Seen, Write, Written};
use client::{Request, Scope};
use drained::Drained;
pub use drained::{Named, NotNamed, Whom};
pub use heap::share as share_heap;
use journal::Position;
pub use loading::knows_numbers;
use loading::{Loaded, load, load_bases, load_drained, load_health};
use masks::Masks;
pub use report::{Count, Report};
use standing::Standing;
use writes::{Writes, committed};

/// Metrics that are recorded here when they happen.
pub const PUBLISH_DURATION: &str = "penstock_publish_duration_seconds";
pub const PUBLISH_PHASE_DURATION: &str = "penstock_publish_phase_duration_seconds";
pub const COMMIT_DURATION: &str = "penstock_commit_duration_seconds";
pub const JOURNAL_BYTES: &str = "penstock_journal_bytes";
pub const STATE_ERRORS: &str = "penstock_state_errors_total";
pub const AFFINITY_CLIENTS: &str = "penstock_affinity_clients";
pub const FEED_ERRORS: &str = "penstock_feed_errors_total";
pub const FEED_ERROR_REASONS: &[&str] = &["refused", "unreachable"];

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
    /// The way of health checks through services; `None`: there is none.
    pub through: Option<Arc<health::Through>>,
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
        let (prober, changes) = {
            let options = health::Options { through: setup.through.clone(), ..health::Options::default() };
            Prober::start(options, load_health(&setup.config.node.state_dir))?
        };
        let client = Client { requests, has_definitions: Arc::default(), in_force: watched, health: prober.view() };
        let has_definitions = client.has_definitions.clone();
        let (report_start, started) = std::sync::mpsc::channel();
        let work = move || {
            let begin = || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                let (this, readers) =
                    runtime.block_on(Thread::begin(setup, has_definitions, in_force, (prober, changes)))?;
                Ok::<_, Error>((runtime, this, readers))
            };
            match begin() {
                Ok((runtime, this, readers)) => {
                    let _ = report_start.send(Ok(readers));
                    runtime.block_on(this.run(receiver));
                    // What a feed waits for in a thread of its own may never come.
                    runtime.shutdown_background();
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
    /// What the bases that were kept last were of; `None`: none have been by this process.
    kept_of: Option<Of>,
    /// As they were given.
    definitions: Option<Arc<Definitions>>,
    has_definitions: Arc<AtomicBool>,
    in_force: watch::Sender<Arc<Definitions>>,
    /// What is laid over them.
    masks: Masks,
    /// Of which change the definitions are, where they are written one after another.
    position: Option<Position>,
    prober: Prober,
    checks: Changes,
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
    /// When the newest snapshot was.
    published: Instant,
    sums: traffic::Sums,
    standing: Standing,
    /// Services that were made anew since the heap was swept.
    remade: usize,
    /// What of the newest set is left out, or cut to what can be.
    left_out: Vec<LeftOut>,
    /// What was warned of in the newest set, and need not be said of the next.
    warnings: Vec<String>,
}

/// How long the thread itself watches the lcores adopt a snapshot, looking every [`LOOK`]; they take microseconds
/// unless they sleep.
const PATIENCE: Duration = Duration::from_millis(1);
const LOOK: Duration = Duration::from_micros(10);

/// When so many services have been made anew, and no change has come for so long, the heap is swept: nobody can allocate meanwhile, some tens
/// of milliseconds.
const MANY: usize = 1000;
const SWEPT_AFTER: Duration = Duration::from_millis(500);

/// Backends that are named in the log when many turn at once.
const LOGGED: usize = 10;

/// How often it looks after that, between other work.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

impl Thread {
    async fn begin(
        setup: Setup,
        has_definitions: Arc<AtomicBool>,
        in_force: watch::Sender<Arc<Definitions>>,
        (prober, changes): (Prober, Changes),
    ) -> Result<(Self, Vec<Reader<Snapshot>>), Error> {
        let Setup { config, fixed, twins, clock, remembered, clients, knows_flows, memory, .. } = setup;
        let state_dir = config.node.state_dir.clone();
        let kernel = if twins.is_empty() { None } else { Some(Kernel::start(&twins).await?) };
        let facts = match &kernel {
            Some(kernel) => kernel.facts(),
            None => watch::channel(Facts::default()).1,
        };
        let saved = load_bases(&config, clock(), knows_flows);
        let of = saved.as_ref().map(|saved| saved.of.clone());
        let Loaded { definitions, authored, last_segment, position, before, left_out } = load(&config, of.as_ref());
        has_definitions.store(definitions.is_some(), Ordering::Relaxed);
        let nothing = Arc::default();
        let given = definitions.as_ref().unwrap_or(&nothing);
        in_force.send_replace(given.clone());
        let drained = load_drained(&state_dir);
        let is_authored = matches!(config.feed, config::Feed::None);
        let writes = Writes {
            all: authored.as_ref().map_or_else(|| given.clone(), |authored| Arc::new(authored.all())),
            authored: is_authored.then(|| authored.unwrap_or_default()),
            drained: drained.clone(),
            ..Writes::default()
        };
        prober.want(given.services.clone());
        let view = prober.view();
        let drained_before = of.and_then(|of| Drained::of_text(&of.drained?).ok());
        let drained_before = drained_before.filter(|before| *before != drained);
        let mut masks = Masks::new(drained.clone(), Box::new(move |service| view.down(service)));
        let fabric = fabric::merge(&fixed, &facts.borrow());
        let mut compiler = Compiler::new(config.environment());
        if let Some(saved) = saved {
            let last = remembered.iter().filter_map(Remembered::last_destination).max();
            compiler.restore(saved.services, knows_flows.then_some(last));
        }
        if before.is_some() || drained_before.is_some() {
            // The process before ended between keeping a change and putting it in force: so its flows are where they were before that.
            masks.set_drained(drained_before.unwrap_or_else(|| drained.clone()));
            compiler.compile(&masks.over(before.as_ref().unwrap_or(given)), &fabric, clock());
            compiler.adopted(clock());
            masks.set_drained(drained);
        }
        let first = compiler.compile(&masks.over(given), &fabric, clock());
        // The lcores begin with it.
        compiler.adopted(clock());
        let unresolved = first.unresolved().to_vec();
        if let Some(kernel) = &kernel {
            kernel.want(unresolved.clone());
        }
        let (publisher, readers) = quiescent::channel(config.dpdk.lcores.len(), first);
        let version = definitions.as_ref().and_then(|definitions| definitions.version.as_deref());
        let feed = Feed::start(&config.feed, &config.node.name, version).map_err(Error::Feed)?;
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
            kept_of: None,
            definitions,
            has_definitions,
            in_force,
            masks,
            position,
            prober,
            checks: changes,
            writes,
            fabric,
            unresolved,
            asked_for: clients::Clients::default(),
            clients,
            memory,
            look: memory::Look::new(remembered),
            pending: None,
            published: Instant::now(),
            sums: traffic::Sums::default(),
            standing: Standing::default(),
            remade: MANY,
            left_out,
            warnings: Vec::new(),
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
                changes = self.checks.next() => self.turn(&changes),
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
            while self.writes.committing.is_none() && !self.writes.waiting.is_empty() {
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
            // Who gave up, or went, need not be told: it would keep those waiting who change something.
            Request::Report(_, answer) if answer.is_closed() => {}
            Request::Report(scope, answer) => drop(answer.send(self.report(&scope))),
            Request::Seen(answer) => {
                let (snapshot, fabric) = (self.publisher.newest().clone(), self.fabric.clone());
                drop(answer.send(Seen { snapshot, fabric, now: (self.clock)(), clients: self.clients.clone() }));
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
            Update::Unchanged => self.standing.unchanged(),
            Update::Unreachable(why) => {
                metrics::counter!(FEED_ERRORS, "reason" => "unreachable").increment(1);
                tracing::error!("{why}; what was in force stays");
                self.standing.unreachable(why);
            }
        }
    }

    /// Reads a set, and puts it in force if it holds; else nothing changes.
    fn judge(&mut self, noticed: Instant, Text { name, text }: Text) {
        let begun = Instant::now();
        let read = read(&self.config, &name, &text, self.definitions.as_deref());
        record("read", begun);
        let Reading { definitions, warnings, left_out, .. } = match read {
            Ok(valid) => valid,
            Err(errors) => {
                metrics::counter!(FEED_ERRORS, "reason" => "refused").increment(1);
                if self.standing.refused(errors.to_string()) {
                    tracing::error!("the new definitions are refused, what was in force stays:\n{errors}");
                }
                return;
            }
        };
        self.standing.taken();
        let warnings: Vec<_> = warnings.iter().map(ToString::to_string).collect();
        for warning in warnings.iter().filter(|warning| !self.warnings.contains(warning)) {
            tracing::warn!("{warning}");
        }
        self.warnings = warnings;
        for left_out in left_out.iter().filter(|left_out| !self.left_out.contains(left_out)) {
            tracing::warn!("{name}: {left_out}");
        }
        self.left_out = left_out;
        let version = definitions.version.as_deref().unwrap_or("(none)").to_owned();
        if self.definitions.as_deref() == Some(&definitions) {
            tracing::info!("definitions, version {version}: unchanged");
            return;
        }
        let definitions = Arc::new(definitions);
        // It is of no change: what comes of those that were written before means nothing to it.
        self.position = None;
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
        // What turns from here on is told; what turned before is seen.
        self.prober.want(definitions.services.clone());
        let watched = self.in_force.send_replace(definitions);
        self.publish(noticed);
        drop((old, watched));
        self.has_definitions.store(true, Ordering::Relaxed);
    }

    /// Takes backends out that failed their checks, and back in.
    fn turn(&mut self, changes: &[health::Change]) {
        for change in changes.iter().take(LOGGED) {
            let target = change.probe.subject.target;
            let services = match change.services.as_slice() {
                [one] => format!("service {one:?}"),
                several => format!("{} services", several.len()),
            };
            match change.state.up {
                true => tracing::info!("health: {target} is up again, in {services}"),
                false => tracing::warn!("health: {target} is down, in {services}: {}", change.why()),
            }
        }
        if changes.len() > LOGGED {
            tracing::warn!("health: {} more turned at the same time", changes.len() - LOGGED);
        }
        self.masks.note(changes.iter().flat_map(|change| change.services.iter().cloned()));
        self.publish(Instant::now());
        self.keeper.keep_health(self.prober.view().last_states());
    }

    /// Compiles what is known now and has the lcores use it. `noticed`: when the change was.
    fn publish(&mut self, noticed: Instant) {
        let begun = Instant::now();
        let nothing = Arc::default();
        let definitions = self.masks.over(self.definitions.as_ref().unwrap_or(&nothing));
        let snapshot = self.compiler.compile(&definitions, &self.fabric, (self.clock)());
        self.remade += self.compiler.made();
        self.publisher.publish(snapshot);
        record("compile", begun);
        self.published = Instant::now();
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

    /// Has the bases kept, where they changed, or what they are of.
    fn keep_bases(&mut self) {
        let moved = self.compiler.take_moved();
        let of = Of { position: self.position, drained: Some(self.masks.drained().to_text()) };
        // What a change left where it was is of that change from now on: the next process must not think that it was never in force.
        if !moved.is_empty() || self.kept_of.as_ref().is_some_and(|kept| *kept != of) {
            self.kept_of = Some(of.clone());
            self.keeper.keep_bases(Saved { services: moved.into_iter().collect(), memory: self.memory, of });
        }
    }

    /// Looks at what the lcores say: which clients packets wait for, and what the fabric told them.
    fn look(&mut self) {
        let mut has_learned = self.compiler.learn((self.clock)());
        let adopted = self.pending.is_none().then(|| self.compiler.serial());
        if let Some(serial) = self.look.step(adopted) {
            let (now, mut destinations, mut clients) = ((self.clock)(), HashSet::new(), 0_u32);
            self.clients.sweep(
                |client| self.compiler.is_client_over(client, now),
                |client| {
                    destinations.insert(client.destination);
                    clients += 1;
                },
            );
            metrics::gauge!(AFFINITY_CLIENTS).set(clients);
            let is_remembered = |number| self.look.is_remembered(number) || destinations.contains(&number);
            has_learned |= self.compiler.learn_remembered(serial, is_remembered);
        }
        if has_learned {
            self.publish(Instant::now());
        }
        let is_idle = self.pending.is_none() && self.writes.committing.is_none();
        if self.remade >= MANY && is_idle && self.published.elapsed() > SWEPT_AFTER {
            self.remade = 0;
            let begun = Instant::now();
            heap::trim();
            tracing::debug!("swept the heap in {:.1?}", begun.elapsed());
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
            record("adopt", self.published);
            self.compiler.adopted((self.clock)());
            self.keep_bases();
            // No lcore counts for a backend any more that is in no snapshot.
            for (pair, packets, bytes) in self.compiler.forget_counters() {
                self.sums.add(pair, packets, bytes);
            }
            let services = self.definitions.as_ref().map_or(&[][..], |set| &set.services);
            self.sums.forget_left(services.iter().map(|service| &service.name));
            self.answer();
        }
    }

    /// Its lists are in no order: two hundred thousand backends take long enough.
    fn report(&mut self, scope: &Scope) -> Report {
        let is_told_of = |service: &Arc<str>| match scope {
            Scope::Of(name) => **service == **name,
            Scope::All | Scope::Outline => true,
        };
        if *scope == Scope::Outline {
            return self.outline();
        }
        let totals = self.compiler.totals().filter(|(name, ..)| is_told_of(name));
        let backends =
            totals.map(|(name, endpoint, packets, bytes)| Count { of: (name.clone(), endpoint), packets, bytes });
        let destinations = self.compiler.destinations().filter(|(_, service, _)| is_told_of(service));
        let of_backend = |(number, service, endpoint): (u32, &Arc<str>, SocketAddr)| {
            ((service.clone(), endpoint), self.look.seen(number).flows)
        };
        let uncounted = self.compiler.rests_since().filter(|&(_, serial)| !self.look.has_counted(serial));
        let names = self.definitions.iter().flat_map(|set| &set.services).map(|service| &service.name);
        Report {
            unsettled: self.compiler.unsettled(),
            uncounted: uncounted.filter(|(name, _)| is_told_of(name)).map(|(name, _)| name.clone()).collect(),
            flows: destinations.map(of_backend).collect(),
            refused: self.compiler.refused().map(|(name, packets)| (name.clone(), packets)).collect(),
            backends: backends.collect(),
            // Those that it is not asked for it forgets.
            services: if *scope == Scope::All { self.sums.of(self.compiler.totals(), names) } else { Vec::new() },
            ..self.outline()
        }
    }

    fn outline(&mut self) -> Report {
        let mut moving: Vec<_> = self.compiler.moving().map(|(name, slots)| (name.clone(), slots)).collect();
        moving.sort();
        Report {
            masked: self.masks.over(self.definitions.as_ref().unwrap_or(&Arc::default())),
            drained: self.masks.drained().iter().cloned().collect(),
            feed_error: self.standing.error().map(str::to_owned),
            left_out: self.left_out.clone(),
            next_move: self.compiler.next_move().map(|next| next.0.saturating_sub((self.clock)().0)),
            moving,
            definitions: self.definitions.clone(),
            feed_last_success: self.standing.last_success(),
            unresolved: self.unresolved.len(),
            ..Report::default()
        }
    }
}

/// Records how long a part of a publish took, until now.
fn record(phase: &'static str, begun: Instant) {
    metrics::histogram!(PUBLISH_PHASE_DURATION, "phase" => phase).record(begun.elapsed().as_secs_f64());
}

/// Waits until the clock shows `moment`; for ever where there is none.
async fn sleep_until(clock: &Clock, moment: Option<Millis>) {
    match moment {
        Some(moment) => tokio::time::sleep(Duration::from_millis(moment.0.saturating_sub(clock().0))).await,
        None => std::future::pending().await,
    }
}

/// Definitions that hold, by themselves and on this node.
fn read(config: &Config, name: &str, text: &str, previous: Option<&Definitions>) -> Result<Reading, Errors> {
    let mut reading = service::read(text, name, previous, &config.kubernetes)?;
    config::admit(config, &mut reading, name)?;
    Ok(reading)
}

#[cfg(test)]
mod tests;
