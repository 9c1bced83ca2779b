//! A forwarder and its generator.

use std::time::Duration;

use penstock::wire::Mac;

use crate::contestant::Engine;
use crate::forwarder::Forwarder;
use crate::generate::stopwatch::Timed;
use crate::interrupt;
use crate::machine::pin;
use crate::node::Node;
use crate::rig::Rig;
use crate::testpmd::Testpmd;
use crate::throughput::generator::Generator;
use crate::throughput::search::Search;
use crate::throughput::software::{Place, Software};
use crate::throughput::trial::Trial;
use crate::traffic::NET_PCAP_MAC;

use super::{Options, kind, memif};

/// Frames that the generator makes up for at once: fewer than any ring holds.
const BEHIND: u64 = 256;
/// The share of frames that others' work may cost in the search for the highest rate, and how well that is to be known.
pub const LOSS: f64 = 1e-3;
const RESOLUTION: f64 = 0.02;
/// A rate is too high where this many trials fail: others' work makes one fail, and never pass.
const TRIES: usize = 3;
/// Seconds of one trial in it.
const TRIAL: f64 = 0.1;
/// Frames a second while a node is made ready, as often as each flow has some.
const SLOW: f64 = 20_000.0;

pub struct Pair {
    pub name: &'static str,
    forwarder: Box<dyn Forwarder>,
    generator: Software,
    pub turns: Vec<Turn>,
}

/// Lets others have the CPUs.
fn pause(options: &Options) -> anyhow::Result<()> {
    interrupt::sleep(Duration::from_secs_f64(options.pause))
}

/// What one turn was like.
#[derive(Debug, Clone, Copy)]
pub struct Turn {
    pub timed: Timed,
    /// The share of it in which others had the forwarder's core.
    pub off_core: f64,
}

impl Pair {
    /// Starts both, and holds the forwarder; of a node that is to remember flows, definitions have changed by then.
    pub fn start(name: &'static str, engine: Engine, rig: Rig, options: &Options) -> anyhow::Result<Self> {
        // The forwarder takes both CPUs, one for its control side. The generator has one for all its threads, and none on the other.
        let generator = || {
            pin(&[rig.main])?;
            let place = Place {
                devices: vec![memif("client", options, &rig.directory)],
                lcore: rig.main,
                behind: BEHIND,
                mbufs: Some(rig.mbufs),
                eal: rig.eal.clone(),
                realtime: true,
            };
            let mut generator = Software::start(&place, Mac(NET_PCAP_MAC), rig.directory.clone())?;
            generator.load(kind(options))?;
            generator.wait_until_up()?;
            anyhow::Ok(generator)
        };
        pin(&[rig.main, rig.lcore])?;
        let (mut forwarder, generator): (Box<dyn Forwarder>, _) = match engine {
            Engine::Testpmd(mode) => {
                let testpmd = Testpmd::start(&rig, mode)?;
                (Box::new(testpmd), generator()?)
            }
            Engine::Penstock(task) | Engine::Other(task) => {
                let mut node = Node::begin(&rig, &options.penstock, task)?;
                let mut generator = generator()?;
                generator.trial(SLOW, 2.0 * kind(options).frames() as f64 / SLOW, options.wait)?;
                node.go_through_sets()?;
                (Box::new(node), generator)
            }
        };
        forwarder.process().hold()?;
        Ok(Self { name, forwarder, generator, turns: Vec::new() })
    }

    /// About how many frames a second it forwards, of which [`LOSS`] may be lost.
    pub fn limit(&mut self, options: &Options) -> anyhow::Result<f64> {
        let search = Search { most: options.most, resolution: RESOLUTION, loss: LOSS };
        let found = search.run(|wanted, _| {
            let mut trial = self.trial(wanted, options)?;
            for _ in 1..TRIES {
                if search.passes(&trial) {
                    break;
                }
                trial = self.trial(wanted, options)?;
            }
            Ok(trial)
        })?;
        let limit = found.best.map_or(0.0, |best| best.offered());
        anyhow::ensure!(limit > 0.0, "frames were lost at every rate that was tried");
        Ok(limit)
    }

    fn trial(&mut self, wanted: f64, options: &Options) -> anyhow::Result<Trial> {
        pause(options)?;
        self.forwarder.process().go_on()?;
        let generated = self.generator.trial(wanted, TRIAL, options.wait)?;
        self.forwarder.process().hold()?;
        Ok(Trial { wanted, generated, node: None })
    }

    /// Notes what it has done so far; by its end it must have done as it should from then on.
    pub fn note(&mut self) -> anyhow::Result<()> {
        self.forwarder.process().go_on()?;
        self.forwarder.note()?;
        self.forwarder.process().hold()
    }

    /// Lets it forward for a turn.
    pub fn turn(&mut self, rate: f64, options: &Options) -> anyhow::Result<()> {
        pause(options)?;
        self.forwarder.process().go_on()?;
        let before = self.forwarder.process().core_times()?;
        let timed = self.generator.latency(rate, options.warm_up, options.seconds, options.wait)?;
        let off_core = self.forwarder.process().core_times()?.off_core_since(&before)?;
        self.forwarder.process().hold()?;
        self.turns.push(Turn { timed, off_core });
        Ok(())
    }

    /// Ends both. Fails where the forwarder did not do with every frame what it should.
    pub fn end(mut self) -> anyhow::Result<()> {
        self.forwarder.process().go_on()?;
        self.forwarder.note()?;
        self.forwarder.end()
    }
}
