//! A backend joins while requests go on.

use std::time::Duration;

use anyhow::Result;

use super::{Scene, require};
use crate::lab::{Lab, VIP, services, two_backends};
use crate::say::Story;
use crate::wait::until;

pub const SCENE: Scene = Scene { title: "a backend is added under load", play };

/// Requests at once, and the pause of each worker between two.
const WORKERS: usize = 4;
const PAUSE: Duration = Duration::from_millis(10);

fn play(lab: &mut Lab, story: &mut Story) -> Result<()> {
    lab.node.publish(&two_backends("two"))?;
    let joining = &lab.backends[2];
    let (asked, met) = (joining.served(), || lab.backends[..2].iter().map(|backend| backend.served()).sum::<usize>());
    let before = met();
    let load = lab.client.load(&format!("{VIP}:80"), WORKERS, PAUSE)?;

    story.claim("backend3 gets its share as soon as the file names it", || {
        until("200 requests before the change", Duration::from_secs(30), || Ok((met() > before + 200).then_some(())))?;
        lab.node.publish(&services("three", &[(1, 100), (2, 100), (3, 100)]))?;
        until("100 requests at backend3", Duration::from_secs(30), || {
            Ok((joining.served() >= asked + 100).then_some(()))
        })?;
        Ok(format!("{} requests at backend3 so far, none before", joining.served() - asked))
    })?;
    story.claim("no request failed", || {
        let report = load.stop()?;
        require(report.failed == 0 && report.requests > 300, || report.to_string())?;
        // Adding a third backend moves a third of the slots. A connection under way on one of those breaks until flows
        // are remembered; there are at most as many as workers.
        require(report.repeated <= WORKERS as u64, || report.to_string())?;
        let remark = match report.repeated {
            0 => String::new(),
            some => format!("\n{some} met the change half-way and were sent again; flow memory will carry those over"),
        };
        Ok(report.to_string() + &remark)
    })
}
