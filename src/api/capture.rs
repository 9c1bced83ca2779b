//! `Node.Capture`: frames from the lcores to whoever asks, as fast as they take them.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{Api, refusal};
use crate::capture::{Capture, Captures, Counts, Filter, MOST_BYTES, MOST_RATE, Taken, Unknown, Wanted};
use crate::config::Config;
use crate::proto::{CaptureCounts, CaptureRequest, CaptureResponse, CapturedFrame};

pub type Stream = Pin<Box<dyn futures_util::Stream<Item = Result<CaptureResponse, Status>> + Send>>;

/// Where nobody says.
const USUAL_BYTES: u16 = 2048;
const USUAL_RATE: u32 = 1000;

/// How often the lcores' rings are emptied, and how often it is said how many there were, if there is nothing else to say.
const PERIOD: Duration = Duration::from_millis(10);
const NEWS: Duration = Duration::from_millis(500);

/// Frames of one message, and messages that may wait for who asked: all that a slow one takes of the node's memory, but for the rings.
const PART: usize = 64;
const WAITING: usize = 2;

/// A capture that is over still has so long to tell of what it has taken.
const REST: Duration = Duration::from_secs(1);
/// Who takes nothing for so long has gone, whatever its connection says: others may want to capture.
const PATIENCE: Duration = Duration::from_secs(30);

pub fn capture(api: &Api, request: CaptureRequest) -> Result<Stream, Status> {
    let (count, duration) = (request.count, request.duration);
    let limits = Limits {
        count: if count == 0 { u64::MAX } else { count },
        duration: duration
            .map(|duration| {
                Duration::try_from(duration).map_err(|_| refusal::field("duration", "is less than nothing"))
            })
            .transpose()?,
    };
    let capture = api.captures.begin(wanted(request)?).map_err(|busy| Status::failed_precondition(busy.to_string()))?;
    let (sender, receiver) = mpsc::channel(WAITING);
    tokio::spawn(run(capture, limits, sender, api.captures.clone(), api.config.clone()));
    Ok(Box::pin(ReceiverStream::new(receiver)))
}

fn wanted(request: CaptureRequest) -> Result<Wanted, Status> {
    let CaptureRequest { verdicts, reasons, service, snap_length, rate, sent, .. } = request;
    let filter = Filter::new(&verdicts, &reasons, service.as_deref()).map_err(|unknown| {
        let field = match unknown {
            Unknown::Verdict(_) => "verdicts",
            Unknown::Reason(_) => "reasons",
        };
        refusal::field(field, unknown.to_string())
    })?;
    let bytes = match u16::try_from(snap_length) {
        Ok(0) => USUAL_BYTES,
        Ok(bytes @ 1..=MOST_BYTES) => bytes,
        _ => return Err(refusal::field("snap_length", format!("{snap_length} is more than {MOST_BYTES} bytes"))),
    };
    let rate = match rate {
        0 => USUAL_RATE,
        rate @ 1..=MOST_RATE => rate,
        _ => return Err(refusal::field("rate", format!("{rate} is more than {MOST_RATE} frames a second"))),
    };
    Ok(Wanted { filter, bytes, rate, sent })
}

/// When it ends, if nobody ends it before.
struct Limits {
    count: u64,
    duration: Option<Duration>,
}

type Sender = mpsc::Sender<Result<CaptureResponse, Status>>;

/// Sends what is captured until a limit is reached or nobody listens any more, and then has the lcores' slots freed.
async fn run(mut capture: Capture, limits: Limits, sender: Sender, captures: Arc<Captures>, config: Arc<Config>) {
    // Either way it is over.
    let _ = tokio::select! {
        () = sender.closed() => None,
        sent = send_all(&mut capture, &limits, &sender, &config) => sent,
    };
    drop((capture, sender));
    // An lcore hears of it within a round. One that stands still keeps its own until the next capture.
    for _ in 0..100 {
        if captures.reclaim() {
            break;
        }
        sleep(PERIOD).await;
    }
}

/// Ends with nothing where nobody listens any more.
async fn send_all(capture: &mut Capture, limits: &Limits, sender: &Sender, config: &Config) -> Option<()> {
    let ports = config.ports.iter().map(|port| port.name.clone()).collect();
    let first = CaptureResponse { counts: Some(counts(Counts::default())), ports, ..CaptureResponse::default() };
    sender.send(Ok(first)).await.ok()?;
    let end = limits.duration.and_then(|duration| Instant::now().checked_add(duration));
    let (mut left, mut said) = (limits.count, Instant::now());
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        loop {
            // First a place, then the frames for it: while who asked is slow, they wait in the rings, or are lost there.
            let place = timeout(PATIENCE, sender.reserve()).await.ok()?.ok()?;
            let past = end.and_then(|end| Instant::now().checked_duration_since(end));
            let frames = take(capture, &mut left, config);
            let is_last = left == 0 || past.is_some_and(|past| frames.len() < PART || past >= REST);
            if frames.is_empty() && !is_last && said.elapsed() < NEWS {
                break;
            }
            let is_part = frames.len() < PART;
            said = Instant::now();
            place.send(Ok(CaptureResponse { frames, counts: Some(counts(capture.counts())), ports: Vec::new() }));
            match (is_last, is_part) {
                (true, _) => return Some(()),
                (_, true) => break,
                _ => {}
            }
        }
    }
}

/// Some of the frames that wait; no more of those as received than are `left`, and these with themselves as they left.
fn take(capture: &mut Capture, left: &mut u64, config: &Config) -> Vec<CapturedFrame> {
    let mut frames = Vec::new();
    capture.take(PART, |lcore, time, taken| {
        // The last one's, as it left, comes right behind it.
        if *left > 0 || taken.is_sent && frames.last().is_some_and(|last: &CapturedFrame| !last.sent) {
            *left -= u64::from(!taken.is_sent);
            frames.push(frame(lcore, time, taken, config));
        }
    });
    frames
}

fn frame(lcore: usize, time: std::time::SystemTime, taken: &Taken, config: &Config) -> CapturedFrame {
    CapturedFrame {
        time: Some(time.into()),
        lcore: config.dpdk.lcores.get(lcore).copied().unwrap_or_default().into(),
        port: config.ports.get(usize::from(taken.port.0)).map(|port| port.name.clone()).unwrap_or_default(),
        sent: taken.is_sent,
        verdict: taken.outcome.name().to_owned(),
        reason: taken.outcome.reason().map(|reason| reason.name().to_owned()).unwrap_or_default(),
        service: taken.service.as_deref().unwrap_or_default().to_owned(),
        backend: taken.backend.map(|backend| backend.to_string()).unwrap_or_default(),
        length: taken.length as u32,
        data: taken.bytes.clone(),
    }
}

fn counts(counts: Counts) -> CaptureCounts {
    let Counts { taken, lost, over } = counts;
    CaptureCounts { taken, lost, over_rate: over }
}
