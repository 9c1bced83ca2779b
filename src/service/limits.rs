//! What the contract knows and this release does not do yet: accepted, and warned of. Each warning goes away with the release that
//! learns it.

use super::problem::Report;
use super::reader::Draft;
use super::{CheckKind, CheckTarget};

/// Warns, once each, of what is accepted and does not act yet.
pub fn warn(drafts: &[Draft], report: &mut Report) {
    let through_vip = |draft: &Draft| {
        let check = draft.health.as_ref().and_then(|health| health.check.as_ref());
        check.is_some_and(|check| check.kind != CheckKind::None && check.target == CheckTarget::Vip)
    };
    let text = "checks through the VIP are not run by this release: the backends count as up";
    once(drafts, "health_check.target", text, through_vip, report);
}

/// One warning at the first service that it is about, with the number of the others.
fn once(drafts: &[Draft], key: &str, text: &str, about: impl Fn(&Draft) -> bool, report: &mut Report) {
    let mut services = drafts.iter().enumerate().filter(|(_, draft)| about(draft)).map(|(index, _)| index);
    if let Some(index) = services.next() {
        let more = match services.count() {
            0 => String::new(),
            1 => " (and of one more service)".to_owned(),
            count => format!(" (and of {count} more services)"),
        };
        report.warn(format_args!("services[{index}].{key}"), format!("{text}{more}"));
    }
}
