//! A restart while the feed does not answer: the last good definitions are used.

use anyhow::Result;

use super::{Scene, require};
use crate::lab::{Lab, VIP, two_backends};
use crate::node::Options;
use crate::say::Story;

pub const SCENE: Scene = Scene { title: "a restart before the feed answers", play };

fn play(lab: &mut Lab, story: &mut Story) -> Result<()> {
    lab.node.publish(&two_backends("last good"))?;
    let (file, away) = (lab.node.services(), lab.node.services().with_extension("away"));
    story.claim("the last good definitions forward, with the services file gone", || {
        lab.node.stop()?;
        std::fs::rename(&file, &away)?;
        let started = lab.node.start(&Options::default());
        started?;
        let version = lab.node.metrics()?.version().unwrap_or_default().to_string();
        require(version == "last good", || format!("version \"{version}\" is in force"))?;
        let answers = lab.client.curl_many(&format!("http://{VIP}/"), 20)?;
        Ok(format!("version \"{version}\", {} of 20 requests answered", answers.len()))
    })?;
    story.claim("the feed is followed again once the file is back", || {
        std::fs::remove_file(&away)?;
        lab.node.publish(&two_backends("file is back"))?;
        Ok("version \"file is back\" is in force".into())
    })
}
