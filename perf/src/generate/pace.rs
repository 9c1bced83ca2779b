//! When the next frames are due.

/// Frames at a constant distance. Who was kept from sending for a while does not make up for it by a burst, which would be loss of the
/// generator's own making: the rate is then lower than was asked for, and said to be.
pub struct Pace {
    start: u64,
    cycles_per_frame: f64,
    sent: u64,
    most_behind: u64,
    left_out: u64,
}

impl Pace {
    /// The first frame is due at `start`; `most_behind` frames may be made up for.
    pub fn new(start: u64, cycles_per_frame: f64, most_behind: u64) -> Self {
        Self { start, cycles_per_frame, sent: 0, most_behind, left_out: 0 }
    }

    /// How many frames are due now.
    pub fn due(&mut self, now: u64) -> u64 {
        let elapsed = now.saturating_sub(self.start) as f64;
        let due = ((elapsed / self.cycles_per_frame) as u64 + 1).saturating_sub(self.sent);
        let late = due.saturating_sub(self.most_behind);
        self.start += (late as f64 * self.cycles_per_frame) as u64;
        self.left_out += late;
        due - late
    }

    /// When the frame is due that this many are to be sent before.
    pub fn time_of(&self, before: u64) -> u64 {
        self.start + ((self.sent + before) as f64 * self.cycles_per_frame) as u64
    }

    /// Frames that were not made up for, so far.
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    pub fn sent(&mut self, frames: u64) {
        self.sent += frames;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_due_one_after_the_other() {
        let mut pace = Pace::new(1000, 10.0, 128);
        assert_eq!((pace.due(1000), pace.due(1009), pace.due(1010)), (1, 1, 2));
        pace.sent(2);
        assert_eq!((pace.due(1019), pace.due(1020)), (0, 1));
        assert_eq!((pace.time_of(0), pace.time_of(3)), (1020, 1050));
    }

    #[test]
    fn the_rate_is_right_over_many_frames() {
        let mut pace = Pace::new(0, 7.3, 128);
        let mut sent = 0;
        for now in (0..1_000_000).step_by(100) {
            let due = pace.due(now);
            pace.sent(due);
            sent += due;
        }
        assert!((136_970..=136_990).contains(&sent), "{sent}");
    }

    #[test]
    fn a_pause_is_not_made_up_for_by_a_burst() {
        let mut pace = Pace::new(0, 10.0, 128);
        assert_eq!(pace.due(1_000_000), 128);
        pace.sent(128);
        assert_eq!((pace.due(1_000_005), pace.due(1_000_110)), (0, 11));
        assert_eq!((pace.left_out(), pace.time_of(0)), (99_873, 1_000_010));
    }
}
