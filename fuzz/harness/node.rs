//! The node that frames are fuzzed on, and what must hold of each burst.

use penstock::config::{self, Config};
use penstock::flow::Nat;
use penstock::pipeline::{BURST, Held, Pipeline, Verdict};
use penstock::replay::Buffer;
use penstock::service::{self, Definitions};
use penstock::snapshot::{Compiler, Fabric, Millis, PortIndex, Snapshot};
use penstock::wire::{Frame, checksum};

use crate::oracle::Oracle;

use std::sync::Arc;

const CONFIG: &str = include_str!("../penstock.toml");
const SERVICES: &str = include_str!("../services.json");

/// As `penstock.toml` has them.
pub const LCORES: usize = 2;
pub const PORTS: u8 = 2;

/// What no frame gets: it stands for "no verdict yet".
const NONE: Verdict = Verdict::Forward(PortIndex(u8::MAX));

/// After so long nothing is remembered: no fragment, flow, lesson or limit. So each input begins anew, and a find can be repeated.
const FORGOTTEN: u64 = 3 * 60 * 60 * 1000;

/// A node with every mode, both families, prefixes, ranges, tags, all hashes, fragments that wait, two ports and two lcores.
pub struct Node {
    compiler: Compiler,
    definitions: Definitions,
    fabric: Fabric,
    snapshot: Arc<Snapshot>,
    /// The snapshot of a node that has learned nothing.
    untaught: Arc<Snapshot>,
    lcores: [Lcore; LCORES],
    now: u64,
    received: u64,
    verdicts: u64,
}

struct Lcore {
    pipeline: Pipeline,
    held: Held<Buffer>,
}

/// What came of a frame.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub verdict: Verdict,
    pub bytes: Vec<u8>,
}

impl Outcome {
    pub fn is_sent(&self) -> bool {
        matches!(self.verdict, Verdict::Forward(_) | Verdict::Answer(_) | Verdict::Reject(_))
    }
}

impl Node {
    pub fn new() -> Self {
        let (config, _) = Config::read(CONFIG, "penstock.toml").unwrap_or_else(|errors| panic!("{errors}"));
        let (definitions, _) =
            service::native(SERVICES, "services.json", None).unwrap_or_else(|errors| panic!("{errors}"));
        config::fit(&config, &definitions, "services.json").unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(config.environment().lcores, LCORES);
        let (mut compiler, fabric) = (Compiler::new(config.environment()), config.fabric());
        let snapshot = compiler.compile(&definitions, &fabric, Millis(0));
        let lcores = std::array::from_fn(|index| Lcore {
            pipeline: Pipeline::with(Nat::new(snapshot.sources(), index, [0; 2])).remembering(64, [0; 2]),
            held: Held::default(),
        });
        Self {
            compiler,
            definitions,
            fabric,
            untaught: snapshot.clone(),
            snapshot,
            lcores,
            now: 0,
            received: 0,
            verdicts: 0,
        }
    }

    /// Ends an input: nothing waits any more, every frame has had its verdict.
    pub fn end(&mut self) {
        self.now += FORGOTTEN;
        if self.compiler.learn(Millis(self.now)) {
            self.snapshot = self.untaught.clone();
        }
        for lcore in 0..LCORES {
            self.release(lcore, &mut |_| ());
        }
        assert_eq!(self.received, self.verdicts, "received is the sum of the verdicts");
        // The limit of ICMP errors counts nanoseconds: well before it would have no more.
        if self.now > 1_000_000_000_000 {
            *self = Self::new();
        }
    }

    /// Services with backends that were sent nothing so far.
    pub fn unserved(&self) -> Vec<String> {
        let is_served =
            |name: &str| self.compiler.totals().any(|(service, _, packets, _)| &**service == name && packets > 0);
        let with_backends = self.definitions.services.iter().filter(|service| !service.backends.is_empty());
        with_backends.map(|service| service.name.to_string()).filter(|name| !is_served(name)).collect()
    }

    pub fn advance(&mut self, milliseconds: u64) {
        self.now += milliseconds;
        if self.compiler.learn(Millis(self.now)) {
            self.snapshot = self.compiler.compile(&self.definitions, &self.fabric, Millis(self.now));
        }
    }

    /// One burst on one lcore and port. Gives what came of each frame, in their order; then of those that had waited.
    pub fn burst(&mut self, lcore: usize, port: u8, frames: &[Vec<u8>]) -> Vec<Outcome> {
        let (now, port) = (Millis(self.now), PortIndex(port));
        let mut buffers: Vec<_> = frames.iter().map(|frame| Buffer::new(frame)).collect();
        let mut verdicts = [NONE; BURST];
        let only = self.lcores[lcore].pipeline.process(&self.snapshot, now, port, &mut buffers, &mut verdicts);
        let (verdicts, beyond) = verdicts.split_at(frames.len());
        let all = |port| verdicts.iter().all(|&verdict| verdict == Verdict::Forward(port));
        assert!(only.is_none_or(all), "{only:?} for {verdicts:?}");
        assert!(beyond.iter().all(|&verdict| verdict == NONE), "a verdict for no frame");

        self.received += frames.len() as u64;
        let until = Millis(self.now + self.snapshot.hold().as_millis() as u64);
        let mut outcomes = Vec::new();
        for ((mut buffer, &verdict), before) in buffers.into_iter().zip(verdicts).zip(frames) {
            let verdict = self.hand_over(verdict, &mut buffer, port, before);
            check(verdict, buffer.bytes(), before, &self.snapshot);
            outcomes.push(Outcome { verdict, bytes: buffer.bytes().to_vec() });
            // What finds no room to wait is dropped.
            let held = &mut self.lcores[lcore].held;
            self.verdicts += u64::from(verdict != Verdict::Hold || held.keep(buffer, port, until).is_err());
        }
        self.release(lcore, &mut |outcome| outcomes.push(outcome));
        outcomes
    }

    /// Settles the frames that need wait no longer.
    fn release(&mut self, lcore: usize, settle: &mut impl FnMut(Outcome)) {
        let now = Millis(self.now);
        loop {
            let Lcore { pipeline, held } = &mut self.lcores[lcore];
            let Some((mut frame, port)) = pipeline.release(held, now) else { break };
            let (before, mut verdicts) = (frame.bytes().to_vec(), [NONE; BURST]);
            pipeline.process_released(&self.snapshot, now, port, std::slice::from_mut(&mut frame), &mut verdicts);
            let verdict = self.hand_over(verdicts[0], &mut frame, port, &before);
            assert_ne!(verdict, Verdict::Hold, "it has waited");
            check(verdict, frame.bytes(), &before, &self.snapshot);
            self.verdicts += 1;
            settle(Outcome { verdict, bytes: frame.bytes().to_vec() });
        }
    }

    /// What the lcores say of a frame that one of them hands over: each has it once at most, and the first perhaps again.
    fn hand_over(&mut self, mut verdict: Verdict, frame: &mut Buffer, port: PortIndex, before: &[u8]) -> Verdict {
        let mut lcores = 0;
        while let Verdict::HandOver(to) = verdict {
            lcores += 1;
            assert!(lcores as usize <= LCORES && usize::from(to) < LCORES, "to lcore {to} after {lcores}");
            assert_eq!(frame.bytes(), before, "it goes as it came");
            let (lcore, mut verdicts) = (&mut self.lcores[usize::from(to)], [NONE; BURST]);
            let (now, one) = (Millis(self.now), std::slice::from_mut(frame));
            lcore.pipeline.process_handed(&self.snapshot, now, port, lcores, one, &mut verdicts);
            verdict = verdicts[0];
        }
        verdict
    }
}

fn check(verdict: Verdict, after: &[u8], before: &[u8], snapshot: &Snapshot) {
    assert_ne!(verdict, NONE, "no verdict");
    match verdict {
        Verdict::Forward(port) | Verdict::Answer(port) | Verdict::Reject(port) => {
            let total = sound(after);
            let port = snapshot.port(port);
            assert!(total <= usize::from(port.mtu), "{total} bytes by a port of {}", port.mtu);
            assert_eq!(after[6..12], port.mac.0, "sent from another station's address");
            assert!(after.len() <= before.len() + <Buffer as Frame>::HEADROOM, "grown beyond the headroom");
        }
        Verdict::Punt | Verdict::Hold => assert_eq!(after, before, "{verdict:?}"),
        Verdict::HandOver(to) => panic!("still for lcore {to}"),
        Verdict::Drop(_) => {}
    }
}

/// A frame that is sent: lengths that are true, an IPv4 header checksum that verifies, and nothing behind but padding. Gives the
/// packet's length.
fn sound(frame: &[u8]) -> usize {
    let (at, ether_type) = match frame[12..14] {
        [0x81, 0] => (18, [frame[16], frame[17]]),
        _ => (14, [frame[12], frame[13]]),
    };
    let packet = &frame[at..];
    let total = match ether_type {
        [8, 0] => {
            let header = usize::from(packet[0] & 0xf) * 4;
            assert_eq!((packet[0] >> 4, checksum::sum(&packet[..header])), (4, 0xffff), "{frame:02x?}");
            usize::from(u16::from_be_bytes([packet[2], packet[3]]))
        }
        [0x86, 0xdd] => {
            assert_eq!(packet[0] >> 4, 6, "{frame:02x?}");
            40 + usize::from(u16::from_be_bytes([packet[4], packet[5]]))
        }
        other => panic!("sent with EtherType {other:02x?}"),
    };
    assert!(
        total <= packet.len() && (frame.len() <= 64 || total == packet.len()),
        "{total} of {}: {frame:02x?}",
        packet.len()
    );
    total
}

/// What came in with every length and checksum right goes out so, through tunnels and quotes.
pub fn stays_right(outcome: &Outcome, before: &[u8]) {
    if outcome.is_sent()
        && let Err(error) = Oracle::default().frame(&outcome.bytes)
    {
        panic!("{error}: {:?}\n{:02x?}\nof\n{before:02x?}", outcome.verdict, outcome.bytes);
    }
}
