//! A broken definitions file: refused with its reason, and nothing changes.

use std::time::Duration;

use anyhow::Result;

use super::{Scene, require};
use crate::lab::{Lab, VIP, two_backends};
use crate::say::Story;
use crate::wait::until;

pub const SCENE: Scene = Scene { title: "a broken file is refused while traffic goes on", play };

fn play(lab: &mut Lab, story: &mut Story) -> Result<()> {
    lab.node.publish(&two_backends("good"))?;
    let load = lab.client.load(&format!("{VIP}:80"), 4, Duration::from_millis(10))?;
    let met = || lab.backends.iter().map(|backend| backend.served()).sum::<usize>();
    let log_before = lab.node.log().len();

    // The mistake: `ipip` cannot change ports.
    let mut broken = two_backends("broken");
    broken["services"][0]["backends"][1]["port"] = 8080.into();
    let place = "services[0].backends[1].port";

    story.claim("the log says what is wrong with it, and where", || {
        lab.node.write(&broken)?;
        let log = || lab.node.log()[log_before..].to_string();
        let line = until(&format!("{place} in penstock's log"), Duration::from_secs(3), || {
            Ok(log().lines().find(|line| line.contains(place)).map(plain))
        })?;
        Ok(line)
    })?;
    story.claim("`penstock check` says the same and exits 2", || {
        let (code, said) = lab.node.check()?;
        let line = said.lines().find(|line| line.contains(place));
        require(code == 2, || format!("it exited {code}: {said}"))?;
        line.map(plain).ok_or_else(|| anyhow::anyhow!("it said: {said}"))
    })?;
    story.claim("the definitions in force are the good ones, and no request failed", || {
        let so_far = met();
        until("100 requests after the broken file", Duration::from_secs(10), || {
            Ok((met() > so_far + 100).then_some(()))
        })?;
        let version = lab.node.metrics()?.version().unwrap_or_default().to_string();
        require(version == "good", || format!("version \"{version}\" is in force"))?;
        let report = load.stop()?;
        require(report.failed + report.repeated == 0, || report.to_string())?;
        Ok(format!("version \"{version}\" · {report}"))
    })?;
    story.claim("a good file is taken again", || {
        lab.node.publish(&two_backends("mended"))?;
        Ok("version \"mended\" is in force".into())
    })
}

/// A log line without its colours.
fn plain(line: &str) -> String {
    let mut pieces = line.split('\x1b');
    let first = pieces.next().unwrap_or_default().to_string();
    pieces.fold(first, |text, piece| text + piece.split_once('m').map_or(piece, |(_, rest)| rest))
}
