//! The control thread: what the feed says and what the kernel knows become a snapshot, which is published.
//!
//! Everything that changes what an lcore does goes through here, one change after another. Tables are built here, old
//! snapshots are dropped here, and nothing in this room waits for a packet or makes one wait.

mod bases;
mod clients;
mod fabric;
mod kept;
mod memory;
mod report;
mod traffic;

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
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

use bases::Saved;
use kept::Kept;
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

/// Talks to a control thread from any other.
#[derive(Clone)]
pub struct Client {
    requests: mpsc::UnboundedSender<Request>,
    has_definitions: Arc<AtomicBool>,
}

enum Request {
    Report(oneshot::Sender<Report>),
    Reread,
    Stop,
}

impl Control {
    /// Starts the thread and gives the readers of its snapshots, one an lcore. The first snapshot is of the last good
    /// definitions where there are any, and of everything that the kernel knows by now.
    pub fn start(setup: Setup) -> Result<(Self, Vec<Reader<Snapshot>>), Error> {
        let (requests, receiver) = mpsc::unbounded_channel();
        let client = Client { requests, has_definitions: Arc::default() };
        let has_definitions = client.has_definitions.clone();
        let (report_start, started) = std::sync::mpsc::channel();
        let work = move || {
            let begin = || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                let (this, readers) = runtime.block_on(Thread::begin(setup, has_definitions))?;
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

impl Client {
    /// `None` once the thread has ended.
    pub async fn report(&self) -> Option<Report> {
        let (sender, receiver) = oneshot::channel();
        self.requests.send(Request::Report(sender)).ok()?;
        receiver.await.ok()
    }

    /// Has the feed read again at once.
    pub fn reread(&self) {
        let _ = self.requests.send(Request::Reread);
    }

    /// Whether any definitions are in force.
    pub fn has_definitions(&self) -> bool {
        self.has_definitions.load(Ordering::Relaxed)
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
    definitions: Option<Arc<Definitions>>,
    has_definitions: Arc<AtomicBool>,
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
    /// Whether the feed's newest set was refused.
    is_refused: bool,
}

/// How long the thread itself watches the lcores adopt a snapshot, looking every [`LOOK`]; they take microseconds
/// unless they sleep.
const PATIENCE: Duration = Duration::from_millis(1);
const LOOK: Duration = Duration::from_micros(10);

/// How often it looks after that, between other work.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

impl Thread {
    async fn begin(setup: Setup, has_definitions: Arc<AtomicBool>) -> Result<(Self, Vec<Reader<Snapshot>>), Error> {
        let Setup { config, fixed, twins, clock, remembered, clients, knows_flows, memory } = setup;
        let state_dir = config.node.state_dir.clone();
        let kernel = if twins.is_empty() { None } else { Some(Kernel::start(&twins).await?) };
        let facts = match &kernel {
            Some(kernel) => kernel.facts(),
            None => watch::channel(Facts::default()).1,
        };
        let definitions = load(&config);
        has_definitions.store(definitions.is_some(), Ordering::Relaxed);
        let fabric = fabric::merge(&fixed, &facts.borrow());
        let mut compiler = Compiler::new(config.environment());
        if let Some(saved) = load_bases(&config, clock(), knows_flows) {
            let last = remembered.iter().filter_map(Remembered::last_destination).max();
            compiler.restore(saved.bases, saved.numbers, knows_flows.then_some(last));
        }
        let nothing = Arc::default();
        let first = compiler.compile(definitions.as_ref().unwrap_or(&nothing), &fabric, clock());
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
            keeper: kept::Keeper::start(state_dir)?,
            definitions,
            has_definitions,
            fabric,
            unresolved,
            asked_for: clients::Clients::default(),
            clients,
            memory,
            look: memory::Look::new(remembered),
            pending: None,
            sums: traffic::Sums::default(),
            feed_last_success: None,
            is_refused: false,
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
                    Some(Request::Report(answer)) => drop(answer.send(self.report())),
                    Some(Request::Reread) => self.feed.reread(),
                    Some(Request::Stop) | None => return,
                },
                () = tokio::time::sleep(LOOK_AGAIN), if self.pending.is_some() => self.settle(),
                () = sleep_until(&self.clock, self.compiler.next_move()) => self.publish(Instant::now()),
                _ = tick.tick() => self.look(),
            }
        }
    }

    /// Takes what the feed says.
    fn take(&mut self, noticed: Instant, update: Update) {
        match update {
            Update::Set(text) => self.judge(noticed, text),
            Update::Unchanged => {
                // What was refused does not become good by being read again.
                if !self.is_refused {
                    self.feed_last_success = Some(SystemTime::now());
                }
            }
            Update::Unreachable(why) => {
                metrics::counter!(FEED_ERRORS).increment(1);
                tracing::error!("{why}; what was in force stays");
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
        self.is_refused = read.is_err();
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
        // To drop the old ones would take as long as to publish the new.
        let old = self.definitions.replace(definitions.clone());
        self.publish(noticed);
        drop(old);
        self.has_definitions.store(true, Ordering::Relaxed);
        let took = noticed.elapsed();
        let services = definitions.services.len();
        let backends: usize = definitions.services.iter().map(|service| service.backends.len()).sum();
        tracing::info!(
            "definitions, version {version}: {services} services, {backends} backends, in force after {took:.1?}"
        );
        self.keeper.keep_definitions(text);
    }

    /// Compiles what is known now and has the lcores use it. `noticed`: when the change was.
    fn publish(&mut self, noticed: Instant) {
        let nothing = Arc::default();
        let definitions = self.definitions.as_ref().unwrap_or(&nothing);
        let snapshot = self.compiler.compile(definitions, &self.fabric, (self.clock)());
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
        Report {
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
    let mut reading = service::read(text, name, previous, &config.kubernetes)?;
    config::admit(config, &mut reading, name)?;
    for left_out in &reading.left_out {
        tracing::warn!("{name}: {left_out}");
    }
    Ok((reading.definitions, reading.warnings))
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

/// The last good definitions, where there are any that still hold.
fn load(config: &Config) -> Option<Arc<Definitions>> {
    let text = Kept::Definitions.load(&config.node.state_dir).unwrap_or_else(|error| {
        tracing::error!("{error}");
        None
    })?;
    let path = Kept::Definitions.path(&config.node.state_dir).display().to_string();
    match read(config, &path, &text, None) {
        Ok((definitions, _)) => {
            let version = definitions.version.as_deref().unwrap_or("(none)");
            tracing::info!("starting with the last good definitions, version {version}");
            Some(Arc::new(definitions))
        }
        Err(errors) => {
            tracing::error!("the last good definitions do not hold any more and are not used:\n{errors}");
            None
        }
    }
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
