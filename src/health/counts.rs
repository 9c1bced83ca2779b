//! What is counted of checks, for metrics: by kind, by reason, and how long they took. Written by the thread alone.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::state::{Failure, Outcome};
use crate::service::CheckKind;

/// What was counted since the start, and what is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    pub good: u64,
    pub failed: u64,
    /// Could not be asked, for a reason of this machine.
    pub no_verdict: u64,
    /// By [`Counts::KINDS`].
    pub by_kind: [OfKind; Counts::KINDS.len()],
    /// Those that failed, by [`Failure::NAMES`].
    pub by_reason: [u64; Failure::NAMES.len()],
    /// Verdicts that turned: to up, and to down.
    pub turned: [u64; 2],
    /// Begun 50 ms after their moment or later.
    pub late: u64,
    /// Begun more than an interval after it.
    pub missed: u64,
    pub worst_delay: Duration,
    /// Asked at this moment.
    pub running: usize,
    /// Probes that are wanted, each once.
    pub probes: usize,
}

/// Checks of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OfKind {
    pub good: u64,
    pub failed: u64,
    pub no_verdict: u64,
    /// Those that had a verdict, by how long it took: at most the bound of that place, beyond the last in one more.
    pub took: [u64; Counts::BOUNDS.len() + 1],
    /// Of all of these.
    pub total: Duration,
}

impl Counts {
    pub const KINDS: [CheckKind; 5] =
        [CheckKind::Tcp, CheckKind::Http, CheckKind::Https, CheckKind::Udp, CheckKind::Ping];

    /// Seconds.
    pub const BOUNDS: [f64; 9] = [0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0];
}

/// The same as it is counted.
#[derive(Default)]
pub struct Counters {
    by_kind: [KindCounters; Counts::KINDS.len()],
    by_reason: [AtomicU64; Failure::NAMES.len()],
    turned: [AtomicU64; 2],
    pub late: AtomicU64,
    pub missed: AtomicU64,
    /// Microseconds.
    pub worst_delay: AtomicU64,
    pub running: AtomicU64,
}

#[derive(Default)]
struct KindCounters {
    good: AtomicU64,
    failed: AtomicU64,
    no_verdict: AtomicU64,
    took: [AtomicU64; Counts::BOUNDS.len() + 1],
    /// Microseconds.
    total: AtomicU64,
}

impl Counters {
    /// Counts a check that has ended.
    pub fn note(&self, kind: CheckKind, outcome: &Outcome, latency: Duration) {
        let Some(place) = Counts::KINDS.iter().position(|&known| known == kind) else { return };
        let counters = &self.by_kind[place];
        match outcome {
            Outcome::Good => counters.good.fetch_add(1, Relaxed),
            Outcome::Failed(why) => {
                self.by_reason[why.index()].fetch_add(1, Relaxed);
                counters.failed.fetch_add(1, Relaxed)
            }
            Outcome::NoVerdict(_) => {
                counters.no_verdict.fetch_add(1, Relaxed);
                return;
            }
        };
        let seconds = latency.as_secs_f64();
        counters.took[Counts::BOUNDS.partition_point(|&bound| bound < seconds)].fetch_add(1, Relaxed);
        counters.total.fetch_add(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX), Relaxed);
    }

    /// Counts a verdict that turned.
    pub fn turned(&self, is_up: bool) {
        self.turned[usize::from(!is_up)].fetch_add(1, Relaxed);
    }

    /// What stands there now. `probes`: those that are wanted.
    pub fn read(&self, probes: usize) -> Counts {
        let by_kind = self.by_kind.each_ref().map(|kind| OfKind {
            good: kind.good.load(Relaxed),
            failed: kind.failed.load(Relaxed),
            no_verdict: kind.no_verdict.load(Relaxed),
            took: kind.took.each_ref().map(|count| count.load(Relaxed)),
            total: Duration::from_micros(kind.total.load(Relaxed)),
        });
        let sum = |of: fn(&OfKind) -> u64| by_kind.iter().map(of).sum();
        Counts {
            good: sum(|kind| kind.good),
            failed: sum(|kind| kind.failed),
            no_verdict: sum(|kind| kind.no_verdict),
            by_kind,
            by_reason: self.by_reason.each_ref().map(|count| count.load(Relaxed)),
            turned: self.turned.each_ref().map(|count| count.load(Relaxed)),
            late: self.late.load(Relaxed),
            missed: self.missed.load(Relaxed),
            worst_delay: Duration::from_micros(self.worst_delay.load(Relaxed)),
            running: usize::try_from(self.running.load(Relaxed)).unwrap_or(usize::MAX),
            probes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_is_counted_by_kind_reason_and_the_time_it_took() {
        let counters = Counters::default();
        counters.note(CheckKind::Http, &Outcome::Good, Duration::from_millis(1));
        counters.note(CheckKind::Http, &Outcome::Failed(Failure::Status(503)), Duration::from_millis(7));
        counters.note(CheckKind::Tcp, &Outcome::Failed(Failure::NoConnection), Duration::from_secs(9));
        counters.note(CheckKind::Ping, &Outcome::NoVerdict(1), Duration::from_secs(1));
        counters.turned(false);
        let counts = counters.read(3);
        assert_eq!((counts.good, counts.failed, counts.no_verdict, counts.probes), (1, 2, 1, 3));
        let [tcp, http, .., ping] = counts.by_kind;
        assert_eq!((http.good, http.failed, http.total), (1, 1, Duration::from_millis(8)));
        assert_eq!((http.took[0], http.took[3], tcp.took[9]), (1, 1, 1));
        assert_eq!((ping.no_verdict, ping.took.iter().sum::<u64>()), (1, 0));
        let reasons: Vec<_> = Failure::NAMES.iter().zip(counts.by_reason).filter(|(_, count)| *count > 0).collect();
        assert_eq!(reasons, [(&"no_connection", 1), (&"status", 1)]);
        assert_eq!(counts.turned, [0, 1]);
    }
}
