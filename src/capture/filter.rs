//! Which frames are wanted, by what became of them.

use std::sync::Arc;

use crate::counters::Reason;
use crate::pipeline::{Outcome, Verdict};

/// Which verdicts are wanted, and of which service.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    forwarded: bool,
    answered: bool,
    punted: bool,
    /// Reasons, a bit each.
    dropped: u32,
    /// Those of them that were named.
    named: u32,
    service: Option<Arc<str>>,
}

const _: () = assert!(Reason::COUNT < 32);

const ALL_REASONS: u32 = (1 << Reason::COUNT) - 1;

/// No such verdict.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    #[error("{0:?} is not one of forwarded, answered, punted, dropped")]
    Verdict(String),
    #[error("{0:?} is no reason for a drop; `penstock schema counters` lists them")]
    Reason(String),
}

impl Filter {
    /// Of these verdicts and reasons, by name; without any, everything. Reasons narrow "dropped" down, and imply it.
    pub fn new<S: AsRef<str>>(verdicts: &[S], reasons: &[S], service: Option<&str>) -> Result<Self, Unknown> {
        let mut filter = Self { service: service.map(Into::into), ..Self::default() };
        for reason in reasons {
            let name = reason.as_ref();
            let found = Reason::ALL.iter().find(|reason| reason.name() == name);
            filter.named |= bit(*found.ok_or_else(|| Unknown::Reason(name.to_owned()))?);
        }
        filter.dropped = filter.named;
        let all_drops = if reasons.is_empty() { ALL_REASONS } else { filter.named };
        if verdicts.is_empty() && reasons.is_empty() {
            (filter.forwarded, filter.answered, filter.punted, filter.dropped) = (true, true, true, all_drops);
        }
        for verdict in verdicts {
            match verdict.as_ref() {
                "forwarded" => filter.forwarded = true,
                "answered" => filter.answered = true,
                "punted" => filter.punted = true,
                "dropped" => filter.dropped = all_drops,
                name => return Err(Unknown::Verdict(name.to_owned())),
            }
        }
        Ok(filter)
    }

    /// The service whose packets alone are wanted.
    pub(super) fn service(&self) -> Option<&Arc<str>> {
        self.service.as_ref()
    }

    /// Whether what became of a frame is wanted.
    pub(super) fn wants(&self, outcome: Outcome) -> bool {
        match outcome {
            Outcome::Forwarded => self.forwarded,
            Outcome::Answered => self.answered,
            Outcome::Punted => self.punted,
            Outcome::Dropped(reason) => self.dropped & bit(reason) != 0,
        }
    }

    /// Whether a frame may be wanted in the end that has this outcome so far: what there is no room for is dropped after all. Nearly nothing
    /// is, so that is reckoned with only where it was asked for by name.
    pub(super) fn may_want(&self, outcome: Outcome) -> bool {
        let refused = match outcome {
            Outcome::Forwarded | Outcome::Answered => Reason::TxFull,
            Outcome::Punted => Reason::PuntFull,
            Outcome::Dropped(_) => return self.wants(outcome),
        };
        self.wants(outcome) || self.named & bit(refused) != 0
    }

    /// As [`Filter::may_want`], of a frame that is left as it is.
    pub(super) fn may_want_unchanged(&self, verdict: Verdict) -> bool {
        match (verdict, verdict.outcome()) {
            (Verdict::Hold, _) => self.named & bit(Reason::FragmentUnknown) != 0,
            (Verdict::HandOver(_), _) => self.named & bit(Reason::HandoffFull) != 0,
            (Verdict::Punt | Verdict::Drop(_), Some(outcome)) => self.may_want(outcome),
            _ => false,
        }
    }
}

fn bit(reason: Reason) -> u32 {
    1 << reason as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(verdicts: &[&str], reasons: &[&str]) -> Filter {
        Filter::new(verdicts, reasons, None).unwrap()
    }

    fn wanted(filter: &Filter) -> Vec<&'static str> {
        let drops = Reason::ALL.iter().map(|&reason| (Outcome::Dropped(reason), reason.name()));
        let others = [Outcome::Forwarded, Outcome::Answered, Outcome::Punted].map(|outcome| (outcome, outcome.name()));
        let all = others.into_iter().chain(drops);
        all.filter(|(outcome, _)| filter.wants(*outcome)).map(|(_, name)| name).collect()
    }

    #[test]
    fn verdicts_and_reasons_say_what_is_wanted() {
        assert_eq!(wanted(&filter(&[], &[])).len(), 3 + Reason::COUNT);
        assert_eq!(wanted(&filter(&["dropped"], &[])).len(), Reason::COUNT);
        assert_eq!(wanted(&filter(&["answered", "punted"], &[])), ["answered", "punted"]);
        assert_eq!(wanted(&filter(&[], &["no_service"])), ["no_service"]);
        assert_eq!(wanted(&filter(&["dropped"], &["no_service", "too_big"])), ["no_service", "too_big"]);
        assert_eq!(wanted(&filter(&["forwarded"], &["too_big"])), ["forwarded", "too_big"]);
    }

    #[test]
    fn what_is_refused_later_is_reckoned_with_where_it_was_named() {
        let (drops, full) = (filter(&["dropped"], &[]), filter(&[], &["tx_full", "punt_full", "handoff_full"]));
        assert!(!drops.may_want(Outcome::Forwarded) && full.may_want(Outcome::Forwarded));
        assert!(!drops.may_want_unchanged(Verdict::Punt) && full.may_want_unchanged(Verdict::Punt));
        assert!(!drops.may_want_unchanged(Verdict::HandOver(1)) && full.may_want_unchanged(Verdict::HandOver(1)));
        assert!(!full.may_want_unchanged(Verdict::Hold) && !full.may_want_unchanged(Verdict::Drop(Reason::TooBig)));
    }

    #[test]
    fn names_that_nobody_knows_are_refused() {
        let error = |verdicts: &[&str], reasons: &[&str]| Filter::new(verdicts, reasons, None).unwrap_err().to_string();
        assert_eq!(error(&["drop"], &[]), r#""drop" is not one of forwarded, answered, punted, dropped"#);
        assert!(error(&[], &["no_servce"]).contains("`penstock schema counters`"));
    }
}
