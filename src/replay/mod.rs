//! A capture through the same pipeline that the lcores run: N lcores' worth of state in one thread. No device, no clock:
//! time is the capture's.

mod buffer;
mod capture;
mod deal;

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::sync::Arc;

use crate::counters::{Reason, Totals};
use crate::flow::{Clients, Dealing, Nat};
use crate::pipeline::{BURST, Held, Pipeline, Verdict};
use crate::service::{Definitions, Tracking};
use crate::snapshot::{Compiler, Environment, Fabric, Millis, PortIndex, Snapshot};
use crate::wire::Frame;
use deal::Dealt;

pub use buffer::Buffer;
pub use capture::{CaptureError, Nanos, Reader, Resolution, Writer};

/// What to replay under.
pub struct Plan {
    pub compiler: Compiler,
    pub fabric: Fabric,
    /// Where the frames are received.
    pub port: PortIndex,
    /// As many as the compiler was made for.
    pub lcores: usize,
    pub definitions: Definitions,
    /// Further definitions, and when they come: nanoseconds from the first frame, ascending.
    pub changes: Vec<(Nanos, Definitions)>,
}

/// What came of a replay.
#[derive(Debug, PartialEq, Eq)]
pub struct Report {
    pub totals: Totals,
    /// Frames sent to each backend of each service, by address.
    pub backends: BTreeMap<Arc<str>, BTreeMap<IpAddr, u64>>,
}

/// Why a replay ended early.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    #[error("{0}")]
    Capture(#[from] CaptureError),
    #[error("cannot write: {0}")]
    Write(#[from] io::Error),
}

/// Where frames go. `None` throws them away.
pub struct Outputs<W> {
    pub sent: Option<Writer<W>>,
    pub punted: Option<Writer<W>>,
}

/// Puts all of `input` through the pipeline.
pub fn run<R: Read, W: Write>(
    mut plan: Plan,
    mut input: Reader<R>,
    outputs: impl FnOnce(Resolution) -> io::Result<Outputs<W>>,
) -> Result<Report, ReplayError> {
    let mut frame = Vec::new();
    let mut stamp = input.next(&mut frame)?;
    let mut outputs = outputs(input.resolution())?;
    let start = stamp.unwrap_or(0);

    let mut definitions = plan.definitions;
    let mut snapshot = compile(&mut plan.compiler, &definitions, &plan.fabric, Millis(0));
    let mut changes = std::mem::take(&mut plan.changes).into_iter().peekable();
    let dealing = Dealing::evenly(deal::ENTRIES, plan.lcores);
    let clients = Arc::new(Clients::new(plan.compiler.environment().flows, SEED));
    let of_index = |index| Lcore::new(plan.compiler.environment(), index, dealing, clients.clone());
    let mut lcores: Vec<Lcore> = (0..plan.lcores).map(of_index).collect();
    let mut batch = Batch::default();
    let mut totals = Totals::default();
    // A fragment that waited goes out right behind its first, with that one's time stamp. A frame that is handed to another lcore goes
    // before those that came after it, and what a segment tells of its flow counts for the next.
    let hands = |definitions: &Definitions| {
        definitions.services.iter().any(|service| {
            let mode = service.forwarding.nature();
            mode.keeps_flows || mode.knows_beginnings || plan.lcores > 1 && service.tracking != Tracking::None
        })
    };
    let is_handing = hands(&definitions) || changes.clone().any(|(_, definitions)| hands(&definitions));
    let most = if snapshot.hold().is_zero() && !is_handing { BURST } else { 1 };
    // A capture's stamps may step back; its clock does not.
    let mut clock = 0;
    let mut swept = Millis(0);
    while let Some(at) = stamp {
        clock = clock.max(at.saturating_sub(start));
        let dealt = Dealt::of(&frame);
        let lcore = dealt.as_ref().map_or(0, |dealt| dealt.lcore(&dealing));
        // What lcores share (the limit of ICMP errors) goes by the order of the frames: one lcore's turn ends where another's begins.
        let is_others = batch.lcore != lcore;
        if batch.is_full(most)
            || is_others
            || batch.now != millis(clock)
            || changes.peek().is_some_and(|change| change.0 <= clock)
            || plan.compiler.next_move().is_some_and(|next| next <= millis(clock))
        {
            batch.flush(&snapshot, plan.port, &mut lcores, &mut totals, &mut outputs)?;
            // What the frames told counts from their own time on.
            let has_learned = plan.compiler.learn(batch.now);
            while let Some((at, newer)) = changes.next_if(|change| change.0 <= clock) {
                settle(&mut plan.compiler, &definitions, &plan.fabric, millis(at));
                definitions = newer;
                snapshot = compile(&mut plan.compiler, &definitions, &plan.fabric, millis(at));
                clients.sweep(|client| plan.compiler.is_client_over(client, millis(at)), |_| ());
            }
            let has_moved = settle(&mut plan.compiler, &definitions, &plan.fabric, millis(clock));
            if plan.compiler.learn(millis(clock)) || has_learned || has_moved {
                snapshot = compile(&mut plan.compiler, &definitions, &plan.fabric, millis(clock));
            }
            if let passed @ 1.. = (millis(clock).0 - swept.0) / 1000 {
                let sweep = |lcore: &mut Lcore| {
                    lcore.pipeline.sweep(&snapshot, millis(clock), Millis(passed * 1000), ROUND);
                };
                lcores.iter_mut().for_each(sweep);
                swept = millis(clock);
            }
            (batch.now, batch.lcore) = (millis(clock), lcore);
        }
        lcores[lcore].take(&frame);
        batch.stamps.push(at);
        // It may tell what holds for the next frame.
        batch.is_closed = dealt.is_some_and(|dealt| dealt.is_icmp());
        stamp = input.next(&mut frame)?;
    }
    batch.flush(&snapshot, plan.port, &mut lcores, &mut totals, &mut outputs)?;
    // Nothing comes any more.
    for lcore in &mut lcores {
        lcore.release(&snapshot, Millis(u64::MAX), |_, verdict| {
            count(verdict, &mut totals);
            Ok(())
        })?;
    }
    for writer in [outputs.sent, outputs.punted].into_iter().flatten() {
        writer.finish()?;
    }

    let mut backends: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
    for (service, backend, packets, _) in plan.compiler.totals() {
        *backends.entry(service.clone()).or_default().entry(backend.ip()).or_default() += packets;
    }
    Ok(Report { totals, backends })
}

/// Of the keys of memories: the same in every run.
const SEED: [u64; 2] = [0; 2];

/// How long it takes to look at all remembered flows for those that are over.
const ROUND: Millis = Millis(3_600_000);

/// A snapshot that every lcore adopts at once.
fn compile(compiler: &mut Compiler, definitions: &Definitions, fabric: &Fabric, now: Millis) -> Arc<Snapshot> {
    let snapshot = compiler.compile(definitions, fabric, now);
    compiler.adopted(now);
    snapshot
}

/// Moves the bases whose time is over by `now`, each at its time; whether there were any.
fn settle(compiler: &mut Compiler, definitions: &Definitions, fabric: &Fabric, now: Millis) -> bool {
    let mut has_moved = false;
    while let Some(next) = compiler.next_move().filter(|&next| next <= now) {
        compile(compiler, definitions, fabric, next);
        has_moved = true;
    }
    has_moved
}

fn millis(nanos: Nanos) -> Millis {
    Millis(nanos / 1_000_000)
}

/// One lcore's state, and its part of the batch.
struct Lcore {
    pipeline: Pipeline,
    held: Held<Buffer>,
    frames: Vec<Buffer>,
    count: usize,
    verdicts: [Verdict; BURST],
}

impl Lcore {
    fn new(environment: &Environment, index: usize, dealing: Dealing, clients: Arc<Clients>) -> Self {
        let nat = Nat::new(&environment.sources, index, SEED);
        let pipeline = Pipeline::with(nat).remembering(environment.flows, SEED).sharing(clients);
        Self {
            pipeline: pipeline.dealt_by(dealing),
            held: Held::default(),
            frames: vec![Buffer::default(); BURST],
            count: 0,
            verdicts: [Verdict::Punt; BURST],
        }
    }

    /// Settles the frames that need wait no longer.
    fn release(
        &mut self,
        snapshot: &Snapshot,
        now: Millis,
        mut settle: impl FnMut(&Buffer, Verdict) -> io::Result<()>,
    ) -> io::Result<()> {
        while let Some((mut frame, port)) = self.pipeline.release(&mut self.held, now) {
            let one = std::slice::from_mut(&mut frame);
            self.pipeline.process_released(snapshot, now, port, one, &mut self.verdicts);
            settle(&frame, self.verdicts[0])?;
        }
        Ok(())
    }

    fn take(&mut self, frame: &[u8]) {
        self.frames[self.count].fill(frame);
        self.count += 1;
    }
}

/// Frames of one moment for one lcore, at most a burst.
#[derive(Default)]
struct Batch {
    now: Millis,
    lcore: usize,
    stamps: Vec<Nanos>,
    /// That of the last frame.
    last: Nanos,
    /// Nothing more goes in.
    is_closed: bool,
}

impl Batch {
    fn is_full(&self, most: usize) -> bool {
        self.stamps.len() >= most || self.is_closed
    }

    fn flush<W: Write>(
        &mut self,
        snapshot: &Snapshot,
        port: PortIndex,
        lcores: &mut [Lcore],
        totals: &mut Totals,
        outputs: &mut Outputs<W>,
    ) -> io::Result<()> {
        let mut settled = Settled { totals, outputs, handed: VecDeque::new() };
        let lcore = &mut lcores[self.lcore];
        // First those whose time was over before these frames came.
        lcore.release(snapshot, self.now, |frame, verdict| settled.take(0, frame, verdict, 0))?;
        let frames = &mut lcore.frames[..lcore.count];
        lcore.pipeline.process(snapshot, self.now, port, frames, &mut lcore.verdicts);
        lcore.count = 0;
        let until = Millis(self.now.0 + snapshot.hold().as_millis() as u64);
        for (stamp, (frame, &verdict)) in self.stamps.drain(..).zip(lcore.frames.iter_mut().zip(&lcore.verdicts)) {
            if verdict != Verdict::Hold {
                settled.take(stamp, frame, verdict, 0)?;
            } else if let Err(frame) = lcore.held.keep(std::mem::take(frame), port, until) {
                settled.take(stamp, &frame, Verdict::Drop(Reason::FragmentUnknown), 0)?;
            }
            self.last = stamp;
        }
        // Then those whose first fragment was among them: it was the only frame where any may be held.
        let last = self.last;
        lcore.release(snapshot, self.now, |frame, verdict| settled.take(last, frame, verdict, 0))?;
        while let Some(Handed { to, lcores: looked, stamp, mut frame }) = settled.handed.pop_front() {
            let (lcore, frames) = (&mut lcores[to], std::slice::from_mut(&mut frame));
            lcore.pipeline.process_handed(snapshot, self.now, port, looked, frames, &mut lcore.verdicts);
            let verdict = lcore.verdicts[0];
            settled.take(stamp, &frame, verdict, looked)?;
        }
        Ok(())
    }
}

/// Where frames go once they have their verdict.
struct Settled<'a, W> {
    totals: &'a mut Totals,
    outputs: &'a mut Outputs<W>,
    handed: VecDeque<Handed>,
}

/// A frame for another lcore.
struct Handed {
    to: usize,
    /// How many have looked at it.
    lcores: u8,
    stamp: Nanos,
    frame: Buffer,
}

impl<W: Write> Settled<'_, W> {
    /// `lcores`: how many had the frame before the one that decided.
    fn take(&mut self, stamp: Nanos, frame: &Buffer, verdict: Verdict, lcores: u8) -> io::Result<()> {
        let writer = match verdict {
            Verdict::Forward(_) | Verdict::Answer(_) | Verdict::Reject(_) => &mut self.outputs.sent,
            Verdict::Punt => &mut self.outputs.punted,
            Verdict::Drop(_) | Verdict::Hold => &mut None,
            Verdict::HandOver(to) => {
                let lcores = lcores.saturating_add(1);
                self.handed.push_back(Handed { to: to.into(), lcores, stamp, frame: frame.clone() });
                &mut None
            }
        };
        if let Some(writer) = writer {
            writer.write(stamp, frame.bytes())?;
        }
        count(verdict, self.totals);
        Ok(())
    }
}

fn count(verdict: Verdict, totals: &mut Totals) {
    totals.received += 1;
    match verdict {
        Verdict::Forward(_) => totals.forwarded += 1,
        Verdict::Answer(_) => totals.answered += 1,
        Verdict::Punt => totals.punted += 1,
        Verdict::Reject(_) => totals.dropped[Reason::NoBackend as usize] += 1,
        Verdict::Drop(reason) => totals.dropped[reason as usize] += 1,
        Verdict::Hold | Verdict::HandOver(_) => totals.received -= 1, // it comes again
    }
}

impl Report {
    /// Reasons that dropped something, with how many frames.
    pub fn dropped(&self) -> impl Iterator<Item = (Reason, u64)> + '_ {
        Reason::ALL.iter().map(|&reason| (reason, self.totals.dropped[reason as usize])).filter(|&(_, count)| count > 0)
    }
}
