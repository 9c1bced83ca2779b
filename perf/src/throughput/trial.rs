//! One trial: what the generator sent and got back, what the node says it did with it, and where the rest was lost.

use std::collections::BTreeMap;

use anyhow::ensure;

/// What the generator counted.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Generated {
    pub sent: u64,
    /// Frames that came back, by whatever port.
    pub returned: u64,
    /// How long it sent.
    pub seconds: f64,
    /// Lost at the generator itself after they came back (its NIC had no room): they prove nothing about the forwarder.
    pub missed: u64,
}

/// What a node counted meanwhile.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Counted {
    pub received: u64,
    pub forwarded: u64,
    pub answered: u64,
    pub punted: u64,
    /// By its NIC, before it saw them.
    pub missed: u64,
    pub dropped: BTreeMap<String, u64>,
}

impl Counted {
    pub fn dropped(&self) -> u64 {
        self.dropped.values().sum()
    }

    /// Since an earlier reading.
    pub fn since(&self, earlier: &Self) -> Self {
        let dropped = self.dropped.iter().filter_map(|(reason, &count)| {
            let more = count.saturating_sub(earlier.dropped.get(reason).copied().unwrap_or(0));
            (more > 0).then(|| (reason.clone(), more))
        });
        Self {
            received: self.received.saturating_sub(earlier.received),
            forwarded: self.forwarded.saturating_sub(earlier.forwarded),
            answered: self.answered.saturating_sub(earlier.answered),
            punted: self.punted.saturating_sub(earlier.punted),
            missed: self.missed.saturating_sub(earlier.missed),
            dropped: dropped.collect(),
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Trial {
    /// The rate that was asked for, frames a second.
    pub wanted: f64,
    pub generated: Generated,
    /// `None`: nobody asks the forwarder.
    pub node: Option<Counted>,
}

/// Where a frame was lost.
#[derive(Debug, Clone, PartialEq)]
pub struct Losses {
    /// Between the generator and the node's NIC; in a ring of shared memory, the node's own tardiness.
    pub on_the_way: i64,
    /// By the node's NIC: no lcore took them in time.
    pub missed: i64,
    /// By the node, for a reason.
    pub dropped: i64,
    /// The kernel's now, or answered: a mistake of the rig.
    pub kept: i64,
    /// Between the node and the generator's counters.
    pub on_the_way_back: i64,
}

impl Trial {
    /// The rate at which frames were sent in fact.
    pub fn offered(&self) -> f64 {
        self.generated.sent as f64 / self.generated.seconds
    }

    /// What was sent and did not come back, or, where that is more, was not sent on: others' frames may have come back in their place.
    fn lost(&self) -> u64 {
        let Generated { sent, returned, .. } = self.generated;
        let sent_on = self.node.as_ref().map_or(u64::MAX, |node| node.forwarded + node.answered);
        sent.saturating_sub(returned.min(sent_on))
    }

    /// The share of it.
    pub fn loss(&self) -> f64 {
        self.lost() as f64 / self.generated.sent.max(1) as f64
    }

    /// Fails where the two sides contradict each other, so that neither proves anything.
    pub fn check(&self) -> anyhow::Result<()> {
        let Generated { sent, returned, missed, .. } = self.generated;
        ensure!(sent > 0, "the generator sent nothing");
        ensure!(
            missed == 0 || (returned + missed) * 1000 < sent * 999,
            "the generator itself lost {missed} of {returned} frames that came back: give it more cores or descriptors"
        );
        // A few frames of others (LLDP, ARP) pass on any line.
        let few = 1000 + sent / 1000;
        ensure!(
            returned <= sent + few,
            "{returned} frames came back of {sent} that were sent: others send on this line, too"
        );
        let Some(node) = &self.node else { return Ok(()) };
        ensure!(
            node.received <= sent + few,
            "the node received {} frames, {sent} were sent: others send to it, too",
            node.received
        );
        ensure!(
            returned <= node.forwarded + node.answered + few,
            "{returned} frames came back, the node forwarded {}: they take another way, or its counters are another node's",
            node.forwarded
        );
        Ok(())
    }

    /// Where the frames are that did not come back; `None` where nobody asks the forwarder.
    pub fn losses(&self) -> Option<Losses> {
        let node = self.node.as_ref()?;
        let signed = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        Some(Losses {
            on_the_way: signed(self.generated.sent) - signed(node.received) - signed(node.missed),
            missed: signed(node.missed),
            dropped: signed(node.dropped()),
            kept: signed(node.answered) + signed(node.punted),
            on_the_way_back: signed(node.forwarded) - signed(self.generated.returned),
        })
    }

    /// In words, the largest first.
    pub fn lost_where(&self) -> String {
        let lost = self.lost();
        if lost == 0 {
            return "nothing lost".to_owned();
        }
        let Some(losses) = self.losses() else { return format!("{lost} frames") };
        let mut places = vec![
            (losses.on_the_way, "on the way to the node".to_owned()),
            (losses.missed, "missed by its NIC".to_owned()),
            (losses.kept, "answered, or given to the kernel".to_owned()),
            (losses.on_the_way_back, "on the way back".to_owned()),
        ];
        let reasons = self.node.iter().flat_map(|node| &node.dropped);
        places
            .extend(reasons.map(|(reason, &count)| (i64::try_from(count).unwrap_or(i64::MAX), format!("`{reason}`"))));
        places.retain(|&(count, _)| count > 0);
        places.sort_by_key(|&(count, _)| std::cmp::Reverse(count));
        let share = |count: i64| 100.0 * count as f64 / lost as f64;
        let words: Vec<_> = places.iter().map(|(count, place)| format!("{place} {:.0} %", share(*count))).collect();
        words.join(", ")
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A trial of 10 s: sent, what the node received, missed, forwarded and dropped as `tx_full`, returned.
    pub fn trial(sent: u64, received: u64, missed: u64, forwarded: u64, full: u64, returned: u64) -> Trial {
        let dropped = [("tx_full".to_owned(), full)].into_iter().filter(|&(_, count)| count > 0).collect();
        Trial {
            wanted: sent as f64 / 10.0,
            generated: Generated { sent, returned, seconds: 10.0, missed: 0 },
            node: Some(Counted { received, forwarded, missed, dropped, ..Counted::default() }),
        }
    }

    #[test]
    fn every_lost_frame_has_a_place() {
        let trial = trial(1000, 900, 80, 890, 10, 885);
        let losses = trial.losses().unwrap();
        assert_eq!((losses.on_the_way, losses.missed, losses.dropped, losses.on_the_way_back), (20, 80, 10, 5));
        assert_eq!(trial.loss(), 0.115);
        let words = "missed by its NIC 70 %, on the way to the node 17 %, `tx_full` 9 %, on the way back 4 %";
        assert_eq!(trial.lost_where(), words);
    }

    #[test]
    fn sides_that_contradict_each_other_prove_nothing() {
        let fails = |trial: Trial| trial.check().unwrap_err().to_string();
        assert!(trial(1_000_000, 1_000_000, 0, 1_000_000, 0, 1_000_000).check().is_ok());
        assert!(trial(1_000_000, 500_000, 0, 500_000, 0, 500_000).check().is_ok());
        assert!(fails(trial(1_000_000, 1_000_000, 0, 500_000, 0, 900_000)).contains("another way"));
        assert!(fails(trial(1_000_000, 2_000_000, 0, 1_000_000, 0, 900_000)).contains("others send to it"));
        assert!(fails(trial(1_000_000, 1_000_000, 0, 1_000_000, 0, 1_200_000)).contains("on this line"));
        assert!(fails(trial(0, 0, 0, 0, 0, 0)).contains("sent nothing"));
        let mut missed = trial(1_000_000, 1_000_000, 0, 1_000_000, 0, 900_000);
        missed.generated.missed = 50_000;
        assert!(missed.check().is_ok(), "the forwarder lost, too");
        missed.generated.missed = 100_000;
        assert!(fails(missed).contains("generator itself"));
        let mut few = trial(10_001, 10_001, 0, 10_001, 0, 9_900);
        few.generated.missed = 101;
        assert!(fails(few).contains("generator itself"));
    }

    #[test]
    fn frames_of_others_replace_none_that_was_lost() {
        let trial = trial(100_000, 100_000, 0, 99_500, 500, 100_000);
        assert!(trial.check().is_ok());
        assert_eq!((trial.loss(), trial.lost_where().as_str()), (0.005, "`tx_full` 100 %"));
    }

    #[test]
    fn counters_are_differences() {
        let (before, after) = (trial(0, 5, 1, 4, 1, 0), trial(0, 25, 3, 22, 3, 0));
        let (before, after) = (before.node.unwrap(), after.node.unwrap());
        let since = after.since(&before);
        assert_eq!((since.received, since.missed, since.forwarded, since.dropped()), (20, 2, 18, 2));
    }
}
