//! How long each frame of a trial was under way: from the moment at which it was due, whenever the generator got round to it, until it was
//! received. So a forwarder that lets frames wait is charged for each of them, and for those behind them.

use std::fmt;

use anyhow::Context;

use super::histogram::Histogram;
use super::{Watch, number, stamp};

/// Seconds after which a frame is sent late. A round of the polling loop takes some microseconds.
const LATE: f64 = 20e-6;

pub struct Stopwatch {
    hz: f64,
    late_cycles: u64,
    /// Frames that are still to be sent before it counts.
    warm_up: u64,
    /// When the first was due that counts.
    from: u64,
    sent: u64,
    late: u64,
    latest: u64,
    stray: u64,
    histogram: Histogram,
}

impl Stopwatch {
    /// Of a TSC with so many cycles a second; the first `warm_up` frames do not count.
    pub fn new(hz: f64, warm_up: u64) -> Self {
        let (late_cycles, histogram) = ((LATE * hz) as u64, Histogram::new());
        Self { hz, late_cycles, warm_up, from: u64::MAX, sent: 0, late: 0, latest: 0, stray: 0, histogram }
    }

    /// What was seen until `end`, the last moment at which frames were sent.
    pub fn timed(&self, end: u64) -> Timed {
        let nanoseconds = |cycles: u64| cycles as f64 / self.hz * 1e9;
        let rank = |per_mille| self.histogram.rank(per_mille, self.sent).map_or(f64::INFINITY, nanoseconds);
        Timed {
            sent: self.sent,
            returned: self.histogram.recorded(),
            stray: self.stray,
            late: self.late,
            latest: nanoseconds(self.latest),
            seconds: nanoseconds(end.saturating_sub(self.from)) / 1e9,
            median: rank(500),
            p99: rank(990),
            p999: rank(999),
            most: self.histogram.most().map_or(f64::INFINITY, nanoseconds),
        }
    }
}

impl Watch for Stopwatch {
    #[inline]
    fn sends(&mut self, frame: &mut [u8], due: u64, now: u64) {
        stamp::write(frame, due);
        if self.warm_up > 0 {
            self.warm_up -= 1;
            return;
        }
        self.from = self.from.min(due);
        self.sent += 1;
        let late = now.saturating_sub(due);
        self.late += u64::from(late > self.late_cycles);
        self.latest = self.latest.max(late);
    }

    fn leaves_out(&mut self, frames: u64) {
        if self.sent > 0 {
            self.late += frames;
        }
    }

    #[inline]
    fn received(&mut self, frame: &[u8], now: u64) {
        match stamp::age(frame, now) {
            // Older than all that counts: of the warm-up.
            Some(age) if now - self.from.min(now) >= age => self.histogram.record(age),
            Some(_) => {}
            None => self.stray += 1,
        }
    }
}

/// What a stopwatch saw; times in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Timed {
    pub sent: u64,
    pub returned: u64,
    /// Frames without a time came, which somebody else sent.
    pub stray: u64,
    /// Frames that the generator sent late, or left out: others had its CPU.
    pub late: u64,
    /// By how much, at most.
    pub latest: f64,
    pub seconds: f64,
    /// Ranks among all that were sent. Infinite, where the frame of this rank was lost.
    pub median: f64,
    pub p99: f64,
    pub p999: f64,
    /// Of those that came back; infinite where none did.
    pub most: f64,
}

impl fmt::Display for Timed {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { sent, returned, stray, late, latest, seconds, median, p99, p999, most } = self;
        write!(
            f,
            "sent={sent} returned={returned} stray={stray} late={late} latest={latest:.0} seconds={seconds:.6} \
             p50={median:.0} p99={p99:.0} p99.9={p999:.0} max={most:.0}"
        )
    }
}

impl Timed {
    /// Reads what it says of itself.
    pub fn read(line: &str) -> anyhow::Result<Self> {
        let number = |key: &str| number(line, key)?.with_context(|| format!("{line:?}: no {key}="));
        let count = |key: &str| number(key).map(|number| number as u64);
        Ok(Self {
            sent: count("sent")?,
            returned: count("returned")?,
            stray: count("stray")?,
            late: count("late")?,
            latest: number("latest")?,
            seconds: number("seconds")?,
            median: number("p50")?,
            p99: number("p99")?,
            p999: number("p99.9")?,
            most: number("max")?,
        })
    }

    pub fn lost(&self) -> u64 {
        self.sent.saturating_sub(self.returned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rig::VIP;
    use crate::traffic::{Kind, frames_of};

    /// A TSC of nanoseconds.
    const HZ: f64 = 1e9;

    fn frame() -> Vec<u8> {
        frames_of(Kind::Acks(1), VIP).unwrap().remove(0)
    }

    /// Sends one that is due at a time, so much later; it comes back at another time.
    fn pass(watch: &mut Stopwatch, due: u64, late: u64, back: u64) {
        let mut frame = frame();
        watch.sends(&mut frame, due, due + late);
        watch.received(&frame, back);
    }

    #[test]
    fn a_frame_is_under_way_since_it_was_due_and_not_since_it_was_sent() {
        let mut watch = Stopwatch::new(HZ, 0);
        pass(&mut watch, 1_000_000, 150_000, 1_150_200);
        let timed = watch.timed(1_200_000);
        assert_eq!((timed.sent, timed.returned, timed.late, timed.latest), (1, 1, 1, 150_000.0));
        assert_eq!((timed.median, timed.most, timed.seconds), (150_200.0, 150_200.0, 200e-6));
    }

    #[test]
    fn the_warm_up_does_not_count_though_it_comes_back_later() {
        let mut watch = Stopwatch::new(HZ, 1);
        let (mut early, mut counted) = (frame(), frame());
        watch.sends(&mut early, 1_000, 900_000);
        watch.leaves_out(7);
        watch.sends(&mut counted, 2_000, 2_001);
        watch.leaves_out(3);
        watch.received(&counted, 2_100);
        watch.received(&early, 2_200);
        let timed = watch.timed(3_000);
        assert_eq!((timed.sent, timed.returned, timed.late, timed.median), (1, 1, 3, 100.0));
    }

    #[test]
    fn what_is_lost_is_no_quick_frame() {
        let mut watch = Stopwatch::new(HZ, 0);
        (0..995).for_each(|number| pass(&mut watch, 1_000 * number, 0, 1_000 * number + 200));
        (995..1000).for_each(|number| watch.sends(&mut frame(), 1_000 * number, 1_000 * number));
        watch.received(&frames_of(Kind::Udp(1), VIP).unwrap()[0], 1_000_000);
        let timed = watch.timed(1_000_000);
        assert_eq!((timed.lost(), timed.stray, timed.p99, timed.p999), (5, 1, 200.0, f64::INFINITY));
        assert_eq!(Timed::read(&timed.to_string()).unwrap(), timed);
    }

    #[test]
    fn a_line_without_a_figure_is_refused() {
        assert!(Timed::read("sent=1 returned=1").unwrap_err().to_string().contains("no stray="));
    }
}
