//! A spell of bad weather: from the first failure of a source to its next answer.

use std::collections::HashSet;

use super::Update;

/// Different reasons told in one spell; a source that fails in more ways than these is told of enough.
const MOST_REASONS: usize = 8;

/// What was said of the source since it last answered.
#[derive(Debug, Default)]
pub struct Spell {
    reasons: HashSet<String>,
}

impl Spell {
    /// Whether the update says anything that was not said before. The end of a spell is said here.
    pub fn is_news(&mut self, update: &Update) -> bool {
        match update {
            Update::Unreachable(why) => self.reasons.len() < MOST_REASONS && self.reasons.insert(why.clone()),
            Update::Set(_) | Update::Unchanged => {
                if !std::mem::take(&mut self.reasons).is_empty() {
                    tracing::info!("the feed answers again");
                }
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(why: &str) -> Update {
        Update::Unreachable(why.to_owned())
    }

    #[test]
    fn a_reason_is_said_once_until_the_source_answers() {
        let mut spell = Spell::default();
        assert!(spell.is_news(&failed("a")));
        assert!(spell.is_news(&failed("b")));
        assert!(!spell.is_news(&failed("a")));
        assert!(!spell.is_news(&failed("b")));
        assert!(spell.is_news(&Update::Unchanged));
        assert!(spell.is_news(&failed("a")));
    }

    #[test]
    fn a_reason_that_is_another_each_time_is_no_flood() {
        let mut spell = Spell::default();
        let said = (0..1000).filter(|k| spell.is_news(&failed(&format!("failure {k}")))).count();
        assert_eq!(said, MOST_REASONS);
    }
}
