//! Looking on: who wants to see frames as they were received is told right before they change.

use std::net::SocketAddr;

use super::burst::Burst;
use super::matching;
use super::parse::{Parsed, Tuple};
use super::{BURST, Verdict};
use crate::counters::Reason;
use crate::mode::Prepared;
use crate::snapshot::{PortIndex, ServiceIndex, Snapshot, Target};

/// What became of a frame, as it is counted ([`VERDICTS`](crate::counters::VERDICTS)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Forwarded,
    Answered,
    Punted,
    Dropped(Reason),
}

impl Outcome {
    /// The verdict's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Forwarded => "forwarded",
            Self::Answered => "answered",
            Self::Punted => "punted",
            Self::Dropped(_) => "dropped",
        }
    }

    pub const fn reason(self) -> Option<Reason> {
        if let Self::Dropped(reason) = self { Some(reason) } else { None }
    }
}

impl Verdict {
    /// As what it is counted; `None`: it is not decided yet.
    pub const fn outcome(self) -> Option<Outcome> {
        match self {
            Self::Forward(_) => Some(Outcome::Forwarded),
            Self::Answer(_) => Some(Outcome::Answered),
            Self::Reject(_) => Some(Outcome::Dropped(Reason::NoBackend)),
            Self::Punt => Some(Outcome::Punted),
            Self::Drop(reason) => Some(Outcome::Dropped(reason)),
            Self::Hold | Self::HandOver(_) => None,
        }
    }

    /// The port that it leaves by.
    pub const fn port(self) -> Option<PortIndex> {
        match self {
            Self::Forward(port) | Self::Answer(port) | Self::Reject(port) => Some(port),
            Self::Hold | Self::HandOver(_) | Self::Punt | Self::Drop(_) => None,
        }
    }
}

/// Whose packet a frame carries, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Whose {
    pub service: Option<ServiceIndex>,
    /// Whom it goes to or, a reply, comes from.
    pub backend: Option<SocketAddr>,
}

impl Whose {
    /// As far as the bytes of a frame tell that `port` received; tags may be missing.
    pub fn of(frame: &[u8], snapshot: &Snapshot, port: PortIndex) -> Self {
        let parsed = Parsed::of(frame, snapshot.port(port));
        Self { service: matching::find_service(&parsed, snapshot), backend: None }
    }

    /// That of a reply for a service at `vip`.
    pub(super) fn of_reply(flow: &Tuple, vip: SocketAddr, snapshot: &Snapshot) -> Self {
        let service = snapshot.service(vip.ip(), vip.port(), flow.protocol).map(|found| found.service);
        Self { service, backend: Some(SocketAddr::new(flow.source, flow.source_port)) }
    }

    /// That of a reply of an endpoint.
    pub(super) fn of_endpoint(flow: &Tuple, snapshot: &Snapshot) -> Self {
        match snapshot.endpoint(flow.source, flow.source_port, flow.protocol) {
            Some((vip, _)) => Self::of_reply(flow, vip.into(), snapshot),
            None => Self::default(),
        }
    }
}

/// What a burst goes through, one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Parse,
    Match,
    /// By what is remembered, or by table.
    Choose,
    Apply,
    Count,
}

impl Stage {
    pub const ALL: [Self; 5] = [Self::Parse, Self::Match, Self::Choose, Self::Apply, Self::Count];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Parse => "parse",
            Self::Match => "match",
            Self::Choose => "choose",
            Self::Apply => "apply",
            Self::Count => "count",
        }
    }
}

/// Looks on while a burst is decided on. A frame whose verdict is [`Verdict::Punt`] or [`Verdict::Drop`] is in the end as it was received,
/// but for tags and where [`Witness::rewriting`] says otherwise.
pub trait Witness<F> {
    /// The burst is through this stage.
    #[inline(always)]
    fn passed(&mut self, _stage: Stage) {}

    /// Frame `at` is as it was received, and may be about to lose its tags.
    fn unread(&mut self, _at: usize, _frame: &F) {}

    /// The packets of services are untagged by now, and about to be sent to these targets, unless these refuse them.
    fn chosen(&mut self, _frames: &[F], _trains: &Trains) {}

    /// Frame `at`, untagged by now, is about to become something else. Where `outcome` is that it is forwarded, it may still be refused,
    /// unchanged.
    fn rewriting(&mut self, _at: usize, _frame: &F, _outcome: Outcome, _whose: impl FnOnce() -> Whose) {}

    /// All is decided. `only`: all are forwarded, by one port.
    fn decided(&mut self, _frames: &[F], _verdicts: &[Verdict; BURST], _trains: &Trains, _only: Option<PortIndex>) {}
}

/// Nobody looks on.
pub(super) struct Nobody;

impl<F> Witness<F> for Nobody {}

/// The packets of services in a burst, and their targets.
#[derive(Debug)]
pub struct Trains<'a> {
    burst: &'a Burst,
    targets: &'a [&'a Target; BURST],
    snapshot: &'a Snapshot,
}

impl<'a> Trains<'a> {
    pub(super) fn new(burst: &'a Burst, targets: &'a [&'a Target; BURST], snapshot: &'a Snapshot) -> Self {
        Self { burst, targets, snapshot }
    }

    /// The service of the packet in frame `at`, if it is one's.
    #[inline]
    pub fn service(&self, at: usize) -> Option<ServiceIndex> {
        self.burst.train(at).map(|(_, service)| service)
    }

    /// Whether that packet can be sent to its target, as far as is known before it is tried.
    #[inline]
    pub fn can_go(&self, at: usize) -> bool {
        self.burst.train(at).is_some_and(|(train, _)| !matches!(self.targets[train].mode, Prepared::Refuses(_)))
    }

    /// Its service and backend.
    pub fn whose(&self, at: usize) -> Option<Whose> {
        let (train, service) = self.burst.train(at)?;
        Some(Whose { service: Some(service), backend: self.snapshot.backend_of(service, self.targets[train]) })
    }

    /// Every train's service, and how many packets it has.
    pub fn services(&self) -> impl Iterator<Item = (ServiceIndex, u32)> {
        self.burst.services()
    }
}

/// Frames of a burst, a bit each, one after the other.
pub fn places(mut bits: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let at = bits.trailing_zeros() as usize;
        bits &= bits.checked_sub(1)?;
        Some(at)
    })
}
