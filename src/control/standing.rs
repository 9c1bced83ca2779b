//! How the feed stands: whether it answers, and whether what it said last is in force.

use std::time::SystemTime;

/// An outage ends with any answer; what was refused stays refused until the feed says something else.
#[derive(Debug, Default)]
pub struct Standing {
    last_success: Option<SystemTime>,
    refused: Option<String>,
    unreachable: Option<String>,
}

impl Standing {
    /// When the feed last gave a valid set, new or the same.
    pub fn last_success(&self) -> Option<SystemTime> {
        self.last_success
    }

    /// Why the feed's newest word is not in force.
    pub fn error(&self) -> Option<&str> {
        self.unreachable.as_deref().or(self.refused.as_deref())
    }

    /// It does not answer.
    pub fn unreachable(&mut self, why: String) {
        self.unreachable = Some(why);
    }

    /// It answers, with the same as before. What was refused does not become good by being read again.
    pub fn unchanged(&mut self) {
        self.unreachable = None;
        if self.refused.is_none() {
            self.last_success = Some(SystemTime::now());
        }
    }

    /// It answers with a set, which holds.
    pub fn taken(&mut self) {
        (self.unreachable, self.refused) = (None, None);
        self.last_success = Some(SystemTime::now());
    }

    /// It answers with a set, which does not hold; whether that is news: one bad part of a set is bad in each that follows.
    pub fn refused(&mut self, why: String) -> bool {
        let is_news = self.refused.as_ref() != Some(&why);
        (self.unreachable, self.refused) = (None, Some(why));
        is_news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_ends_with_the_same_as_before() {
        let mut standing = Standing::default();
        standing.taken();
        let first = standing.last_success();
        standing.unreachable("gone".to_owned());
        assert_eq!((standing.error(), standing.last_success()), (Some("gone"), first));
        standing.unchanged();
        assert_eq!(standing.error(), None);
        assert!(standing.last_success() > first);
    }

    #[test]
    fn what_was_refused_does_not_become_good_by_an_outage() {
        let mut standing = Standing::default();
        standing.refused("bad".to_owned());
        standing.unreachable("gone".to_owned());
        assert_eq!(standing.error(), Some("gone"));
        standing.unchanged();
        assert_eq!((standing.error(), standing.last_success()), (Some("bad"), None));
        standing.taken();
        assert_eq!(standing.error(), None);
    }
}
