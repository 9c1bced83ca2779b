//! A running node: assembled from the configuration, up to its end (what `penstock run` is).
//!
//! In order: what fails by a person's mistake comes first, each with one sentence that names the key, the file or the
//! device; then DPDK, ports, twins, the control thread with its first snapshot, and last the lcores. Life ends the other
//! way round: health says no, traffic goes on for `stop_grace`, lcores stop, then everything that they used.

mod eal;
mod flow_memory;
mod ports;
mod probes;
mod signals;
mod state_dir;

use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use dpdk::{Eal, Mempool, Running, cycles};

#[cfg(feature = "api")]
use crate::api::{self, Api, Listeners};
use crate::capture::{Captures, Moment};
use crate::config::{self, Config};
use crate::control::{self, Control, Setup};
use crate::counters::LcoreBlock;
use crate::flow::{Clients, Dealing, Nat, Remembered};
use crate::kernel::Twin;
use crate::lcore::{self, Bell, Bells, Clock, Forwarding, Handoff, Lane, Plan};
use crate::pipeline::Pipeline;
use crate::punt::{self, Bridge, Counts, Punt, Tap};
use crate::snapshot::PortIndex;
#[cfg(feature = "api")]
use crate::telemetry::Wanted;
use crate::telemetry::{self, Device, Health, Lcores, Recorded, Server, Sources, TwinCounts};
use crate::wire::Mac;
use flow_memory::FlowMemory;
use ports::{Opened, Ports};
use signals::{Said, Signals};
use state_dir::StateDir;

/// Why a node could not start, or ended otherwise than it should.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    StateDir(#[from] state_dir::Error),
    #[error(transparent)]
    Check(#[from] eal::Error),
    #[error("dpdk: {0}")]
    Eal(#[from] dpdk::eal::EalError),
    #[error("dpdk.mempool_mbufs: {0}")]
    Mempool(#[from] dpdk::MempoolError),
    #[error(transparent)]
    Port(#[from] ports::Error),
    #[error(transparent)]
    Twin(#[from] punt::Error),
    #[error(transparent)]
    Control(#[from] control::Error),
    #[error(transparent)]
    Telemetry(#[from] telemetry::Error),
    #[cfg(feature = "api")]
    #[error(transparent)]
    Api(#[from] api::Error),
    #[error("dpdk: {0}")]
    Ring(#[from] dpdk::ring::RingError),
    #[error("lcore on CPU {cpu} cannot start: {reason}")]
    Launch { cpu: u16, reason: dpdk::Errno },
    #[error("lcore on CPU {cpu} ended by itself; this is a fault in penstock, please report it")]
    LcoreDied { cpu: u16 },
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

/// Runs a node until it is told to stop.
pub fn run(config: &Config) -> Result<(), Error> {
    control::share_heap();
    eal::check(&config.dpdk)?;
    let _state_dir = StateDir::take(&config.node.state_dir)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Before anything slow: a port that somebody else has is the commonest mistake.
    let server = match config.metrics.listen {
        Some(address) => Some(runtime.block_on(Server::bind(address))?),
        None => None,
    };
    #[cfg(feature = "api")]
    let listeners = listeners(&runtime, &config.api)?;
    let recorded = Recorded::install();
    // From here on none may end the process between two steps.
    let signals = runtime.block_on(async { Signals::new() })?;
    let node = Node::start(config, recorded)?;
    let result = runtime.block_on(async {
        #[cfg(feature = "api")]
        let _serving = listeners.serve(node.api(config));
        node.live(config, server, signals).await
    });
    // Ends what still answers calls, and so holds what the node is made of. Who finds flows for a caller, by a thread of its own, hears
    // thereby that nobody listens: to wait for it first would be to wait for a caller.
    runtime.shutdown_background();
    node.stop()?;
    result
}

#[cfg(feature = "api")]
/// The API's sockets. Where they are not what the operator asked for, but where it usually is, the node goes on without.
fn listeners(runtime: &tokio::runtime::Runtime, config: &config::Api) -> Result<Listeners, Error> {
    match runtime.block_on(Listeners::bind(config)) {
        Err(error) if !config.is_asked_for => {
            tracing::warn!("{error}; the API is off: set [api] listen for a socket of its own, or [] for none");
            Ok(Listeners::default())
        }
        bound => Ok(bound?),
    }
}

/// Random bits that only this process knows.
fn secret() -> [u64; 2] {
    let state = RandomState::new();
    [0, 1].map(|word: u8| state.hash_one(word))
}

/// How many frames may wait between an lcore and the punt thread, each way.
const RING: u32 = 1024;

/// Everything that runs.
struct Node {
    health: Arc<Health>,
    sources: Arc<Sources>,
    /// Closed after the lcores, which have their queues.
    ports: Ports,
    /// What each lcore remembers, with its CPU.
    #[cfg(feature = "api")]
    remembered: Vec<(u16, Remembered)>,
    stop: Arc<AtomicBool>,
    lcores: Vec<(u16, Running<()>)>,
    /// Ends after the lcores, which push into its rings.
    punt: Option<Punt>,
    /// Ends after the lcores, whose snapshots it frees.
    control: Control,
    #[cfg(feature = "api")]
    captures: Arc<Captures>,
}

impl Node {
    fn start(config: &Config, recorded: Recorded) -> Result<Self, Error> {
        let cpus = &config.dpdk.lcores;
        let devices: Vec<&str> = config.ports.iter().map(|port| port.device.as_str()).collect();
        let eal = Eal::init(cpus, eal::arguments(&config.dpdk, &devices, &config.node.state_dir))?;
        let clock = Clock::start(eal, Clock::uptime());
        let pool = Mempool::new(eal, "frames", config.dpdk.mempool_mbufs, config.dpdk.mbuf_data_room)?;

        let mut opened = Vec::new();
        let mut taps = Vec::new();
        for port in &config.ports {
            opened.push(Opened::open(eal, pool, port, cpus.len())?);
            taps.push(port.twin.as_deref().map(Tap::open).transpose()?);
        }
        for port in &opened {
            tracing::info!("{port}");
        }

        let clients = Arc::new(Clients::new(config.environment().flows, secret()));
        let (pipelines, knows_flows, memory) = pipelines(eal, config, ports::dealing(&opened), &clients)?;
        let remembered: Vec<Remembered> = pipelines.iter().map(Pipeline::remembered).collect();
        let through = probes::way(config);
        let (control, readers) = Control::start(Setup {
            config: config.clone(),
            fixed: config.fabric_on(|index| Mac(opened[index].info.mac)),
            twins: twins(&opened, &taps),
            clock: Box::new(move || clock.now()),
            remembered: remembered.clone(),
            clients,
            knows_flows,
            memory,
            through: through.clone(),
        })?;

        let bells: Vec<Bell> = cpus.iter().map(|_| Bell::default()).collect();
        let Wiring { lanes, bridges, counts } = wire(eal, &mut opened, taps, &bells)?;
        let (probes, mut to_lcore) = match through {
            Some(through) => {
                let (probes, consumer) = probes::wire(eal, through)?;
                (Some(probes), Some(consumer))
            }
            None => (None, None),
        };
        let probe_counts = probes.as_ref().map(|probes| probes.counts.clone());
        let bell = Bell::default();
        let punt = if bridges.is_empty() { None } else { Some(Punt::start(eal, pool, bridges, probes, bell.clone())?) };

        let rate = cycles::tsc_hz(eal);
        let moment = move || Moment { time: SystemTime::now(), ticks: cycles::tsc(), rate };
        let (captures, takers) = Captures::new(cpus.len(), moment);
        #[cfg(not(feature = "api"))]
        drop(captures);
        let stop = Arc::new(AtomicBool::new(false));
        let mut lcores = Vec::new();
        let mut blocks = Vec::new();
        let ends = Handoff::of(cpus.len()).into_iter().zip(takers);
        let parts = lanes.into_iter().zip(bells).zip(readers).zip(ends).zip(pipelines);
        for ((lcore, &cpu), ((((ports, lcore_bell), reader), (handoff, taker)), pipeline)) in
            eal.lcores().into_iter().zip(cpus).zip(parts)
        {
            let counters = Arc::new(LcoreBlock::new(ports.len()));
            blocks.push((cpu, counters.clone()));
            let plan = Plan {
                ports,
                probes: to_lcore.take(),
                work: Forwarding::new(pipeline, reader, handoff, taker),
                counters,
                clock,
                idle: idle(config.dpdk.idle),
                bells: Bells { lcore: lcore_bell, punt: bell.clone() },
                stop: stop.clone(),
            };
            let running = lcore.launch(move || lcore::run(plan)).map_err(|reason| Error::Launch { cpu, reason })?;
            lcores.push((cpu, running));
        }
        tracing::info!("{} lcores, on CPUs {cpus:?}, idle: {:?}", lcores.len(), config.dpdk.idle);

        let names = opened.iter().map(|port| port.name.clone()).collect();
        let mbufs = config.dpdk.mempool_mbufs.into();
        let ports = Ports::new(opened);
        let asked = ports.clone();
        let device = move || Device {
            ports: asked.counts(),
            mbufs_in_use: pool.in_use().into(),
            mbufs,
            twins: counts.iter().map(twin_counts).collect(),
            probe_answers: probe_counts.as_ref().map_or(0, |counts| counts.answers.get()),
            probes_lost: probe_counts.as_ref().map_or(0, |counts| counts.lost.get()),
        };
        let health = Arc::new(Health::default());
        let sources = Sources {
            node: config.node.name.clone(),
            feed: config.feed.kind().name(),
            ports: names,
            lcores: Lcores::new(blocks),
            flow_capacity: config.environment().flows,
            certificates: config.certificates().map(Path::to_owned).collect(),
            health: health.clone(),
            control: control.client(),
            device: Box::new(device),
            recorded,
            writing: Arc::default(),
        };
        Ok(Self {
            health,
            sources: Arc::new(sources),
            ports,
            #[cfg(feature = "api")]
            remembered: cpus.iter().copied().zip(remembered).collect(),
            stop,
            lcores,
            punt,
            control,
            #[cfg(feature = "api")]
            captures,
        })
    }

    /// What the API answers from.
    #[cfg(feature = "api")]
    fn api(&self, config: &Config) -> Arc<Api> {
        let (health, sources, scraped) = (self.health.clone(), self.sources.clone(), self.sources.clone());
        let most = config.metrics.most_backends as usize;
        Arc::new(Api {
            control: self.control.client(),
            config: Arc::new(config.clone()),
            started: SystemTime::now(),
            facts: Box::new(move || sources.facts(health.phase())),
            metrics: Box::new(move |prefix| {
                // Who asks for backends gets all of them.
                let most_backends = if prefix.starts_with("penstock_backend_") { usize::MAX } else { most };
                let (sources, wanted) = (scraped.clone(), Wanted { most_backends, ..Wanted::named(prefix) });
                Box::pin(async move { sources.render(wanted).await })
            }),
            remembered: self.remembered.clone(),
            lists: Arc::new(tokio::sync::Semaphore::new(api::LISTS)),
            watches: Arc::new(tokio::sync::Semaphore::new(api::WATCHES)),
            captures: self.captures.clone(),
        })
    }

    /// Until told to stop, and `stop_grace` beyond.
    async fn live(&self, config: &Config, server: Option<Server>, mut signals: Signals) -> Result<(), Error> {
        let (stop_grace, most_backends) = (config.node.stop_grace, config.metrics.most_backends as usize);
        self.health.forwarding();
        if let Some(server) = server {
            tracing::info!("metrics on http://{}/metrics", server.address()?);
            let sources = self.sources.clone();
            tokio::spawn(async move {
                if let Err(error) = server.run(sources, most_backends).await {
                    tracing::error!("metrics: {error}");
                }
            });
        }
        let measured = self.sources.clone();
        tokio::spawn(async move { measured.measure().await });
        let control = self.control.client();
        tracing::info!("forwarding");

        let mut check = tokio::time::interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                said = signals.next() => match said {
                    Said::Reread => control.reread(),
                    Said::Stop => break,
                },
                _ = check.tick() => {
                    if let Some((cpu, _)) = self.lcores.iter().find(|(_, running)| running.is_finished()) {
                        return Err(Error::LcoreDied { cpu: *cpu });
                    }
                }
            }
        }

        self.health.stopping();
        tracing::info!("stopping in {stop_grace:?}; a second signal stops at once");
        let deadline = tokio::time::sleep(stop_grace);
        tokio::pin!(deadline);
        loop {
            tokio::select! {
                () = &mut deadline => return Ok(()),
                said = signals.next() => if said == Said::Stop {
                    return Ok(());
                },
            }
        }
    }

    /// Ends everything, users before what they use.
    fn stop(self) -> Result<(), Error> {
        let Self { ports, stop, lcores, punt, control, .. } = self;
        stop.store(true, Ordering::Relaxed);
        let mut died = None;
        for (cpu, running) in lcores {
            if running.join().is_err() {
                died = Some(Error::LcoreDied { cpu });
            }
        }
        drop(punt);
        drop(control);
        // Not with the last who holds them: a scrape may be written down at this moment, and nobody waits for it.
        ports.close();
        tracing::info!("stopped");
        died.map_or(Ok(()), Err)
    }
}

/// Those of all lcores, whether they remember the flows of a process before, and which memory they have.
fn pipelines(
    eal: Eal,
    config: &Config,
    dealing: Option<Dealing>,
    clients: &Arc<Clients>,
) -> Result<(Vec<Pipeline>, bool, u64), Error> {
    let (environment, cpus) = (config.environment(), &config.dpdk.lcores);
    let capacity = environment.flows;
    let memory = FlowMemory::find(&config.node.state_dir, cpus.len(), capacity, secret)?;
    let mut knows_flows = memory.knows_flows;
    if let Some(why) = memory.lost {
        tracing::warn!("what flows were remembered is forgotten: {why}");
    }
    // One for all, so that a client has the same source address by each.
    let nat_seed = secret();
    let mut pipelines = Vec::new();
    for (index, ((lcore, &cpu), part)) in eal.lcores().into_iter().zip(cpus).zip(memory.parts).enumerate() {
        let file = part.file().to_owned();
        let opening = lcore.launch(move || part.open(capacity)).map_err(|reason| Error::Launch { cpu, reason })?;
        let (flows, error) = opening.join().map_err(|_| Error::LcoreDied { cpu })?;
        if let Some(error) = error {
            knows_flows = false;
            tracing::warn!("{}: {error}; lcore on CPU {cpu} forgets its flows when the process ends", file.display());
        }
        let nat = Nat::new(&environment.sources, index, nat_seed);
        let pipeline = Pipeline::with(nat).remembering_in(flows, secret()).sharing(clients.clone());
        pipelines.push(match dealing {
            Some(dealing) => pipeline.dealt_by(dealing),
            None => pipeline,
        });
    }
    // What is remembered by numbers that nobody knows any more is nobody's.
    if !knows_flows || !control::knows_numbers(&config.node.state_dir, memory.id) {
        knows_flows = false;
        pipelines.iter_mut().for_each(Pipeline::forget_flows);
    }
    let remembered: usize = pipelines.iter().map(Pipeline::flows).sum();
    if remembered > 0 {
        tracing::info!("{remembered} flows are remembered from before");
    }
    Ok((pipelines, knows_flows, memory.id))
}

/// The twins that there are, for netlink.
fn twins(opened: &[Opened], taps: &[Option<Tap>]) -> Vec<Twin> {
    let twin = |(index, (port, tap)): (usize, (&Opened, &Option<Tap>))| {
        let name = tap.as_ref()?.name().to_owned();
        Some(Twin { name, port: port_index(index), mac: port.mac, mtu: port.mtu })
    };
    opened.iter().zip(taps).enumerate().filter_map(twin).collect()
}

fn port_index(index: usize) -> PortIndex {
    PortIndex(u8::try_from(index).expect("the configuration has few ports"))
}

/// What goes from lcores to twins and back.
struct Wiring {
    /// By lcore, then by port.
    lanes: Vec<Vec<Lane>>,
    bridges: Vec<Bridge>,
    /// By twin.
    counts: Vec<(String, Arc<Counts>)>,
}

/// Gives each lcore (as many as `bells`, which wake them) its queue of each port, and each port with a twin its rings.
fn wire(eal: Eal, opened: &mut [Opened], taps: Vec<Option<Tap>>, bells: &[Bell]) -> Result<Wiring, Error> {
    let mut wiring =
        Wiring { lanes: bells.iter().map(|_| Vec::new()).collect(), bridges: Vec::new(), counts: Vec::new() };
    for (port, tap) in opened.iter_mut().zip(taps) {
        let mut lanes: Vec<_> = port.queues.drain(..).map(|queue| Lane { queue, punt: None, inject: None }).collect();
        if let Some(tap) = tap {
            let mut from_lcores = Vec::new();
            for lane in &mut lanes {
                let (producer, consumer) = dpdk::ring::single(eal, RING)?;
                lane.punt = Some(producer);
                from_lcores.push(consumer);
            }
            let (to_lcore, inject) = dpdk::ring::single(eal, RING)?;
            lanes[0].inject = Some(inject);
            let counts = Arc::new(Counts::default());
            wiring.counts.push((tap.name().to_owned(), counts.clone()));
            wiring.bridges.push(Bridge { tap, from_lcores, to_lcore, bell: bells[0].clone(), counts });
        }
        for (of_lcore, lane) in wiring.lanes.iter_mut().zip(lanes) {
            of_lcore.push(lane);
        }
    }
    Ok(wiring)
}

fn idle(idle: config::Idle) -> lcore::Idle {
    match idle {
        config::Idle::Poll => lcore::Idle::Poll,
        config::Idle::Pause => lcore::Idle::Pause,
        config::Idle::Sleep => lcore::Idle::Sleep,
    }
}

fn twin_counts((twin, counts): &(String, Arc<Counts>)) -> TwinCounts {
    TwinCounts {
        twin: twin.clone(),
        punted: counts.punted.get(),
        refused: counts.refused.get(),
        inject_full: counts.inject_full.get(),
    }
}
