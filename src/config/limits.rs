//! Keys that are known and that this release does not obey yet, where ignoring them would forward wrongly.
//!
//! (What merely has nothing to act on yet, as `[api]`, is checked and accepted.)

use super::FeedKind;
use crate::service::problem::Report;
use crate::service::shape::Object;

pub fn check(root: &Object<'_>, report: &mut Report) {
    let feed = root.object("feed");
    if let Some(kind) = feed.get::<FeedKind>("kind").filter(|&kind| kind == FeedKind::Grpc) {
        let reason = format!("{:?} is known, but this release does not read such a feed yet", kind.name());
        report.error(feed.path.key("kind"), reason);
    }
}
