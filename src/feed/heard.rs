//! What tests of feeds share: waiting for a word.

use std::time::Duration;

use super::{Feed, Update};

/// The next word of the feed that is of interest.
pub async fn wait_for<T>(feed: &mut Feed, of_interest: impl Fn(Update) -> Option<T>) -> T {
    let waiting = async {
        loop {
            if let Some(found) = of_interest(feed.next().await.1) {
                return found;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("the feed does not say it")
}

pub async fn next(feed: &mut Feed) -> Update {
    wait_for(feed, Some).await
}

/// Waits for a reason that contains this; a set fails the test.
pub async fn expect_failure(feed: &mut Feed, expected: &str) {
    let failure = |update| match update {
        Update::Set(set) => panic!("{}, instead of: {expected}", set.text),
        Update::Unchanged => None,
        Update::Unreachable(why) => Some(why),
    };
    let why = wait_for(feed, failure).await;
    assert!(why.contains(expected), "{why}\nhas no {expected:?}");
}
