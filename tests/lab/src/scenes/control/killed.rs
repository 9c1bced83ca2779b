//! kill -9 in the midst of writes by the API, again and again.
//!
//! What is promised, and measured: every write that was acknowledged is in force after the next start, and the one that was under way is there
//! whole or not at all; nothing else. A connection that a server has answered before lives on, on the same server: what was sent during the
//! outage is sent again by TCP. A new connection waits for the next start; one whose handshake was under way at the kill may fail.
//!
//! Both services are changed all the time, be they tracked in full or not: a kill may come between the moment when a change is on disk and the
//! moment when it is in force.

use std::time::{Duration, Instant, SystemTime};

use anyhow::Result;

use super::{IDLE, Scene, definitions, require, start_without_feed};
use crate::changes::Dice;
use crate::crowd::{Crowd, Size, Trouble, Window};
use crate::lab::{Lab, VIP};
use crate::node::{NO_FEED, Options};
use crate::orchestrator::Orchestrator;
use crate::say::Story;
use crate::wait::until;

pub const SCENE: Scene = Scene { title: "kill -9 in the midst of writes", play };

const KILLS: usize = 6;
const SIZE: Size = Size { seats: 60, pause: Duration::from_millis(200), rate: 50 };

fn play(lab: &mut Lab, story: &mut Story) -> Result<()> {
    let python = Orchestrator::of(lab)?;
    start_without_feed(lab, &definitions("before the kills", IDLE))?;
    let mut crowd = Crowd::start(&lab.client, &[format!("{VIP}:80"), format!("{VIP}:8080")], &SIZE)?;
    crowd.count()?;
    crowd.until_settled(2, 100)?;
    crowd.window()?;
    let mut hammer = python.start("hammer.py", &[&lab.node.api(), "web", "shop"])?;
    let mut dice = Dice::of_now();
    for kill in 1..=KILLS {
        let version = || lab.node.metrics().map(|metrics| metrics.version().map(str::to_owned));
        let first = version()?;
        until("writes go on", Duration::from_secs(20), || Ok((version()? != first).then_some(())))?;
        // Anywhere between two writes, or in one: this is chance, not a wait.
        std::thread::sleep(Duration::from_micros(100_000 + dice.roll(50_000) as u64));
        let killed = SystemTime::now();
        lab.node.kill()?;
        let begun = Instant::now();
        lab.node.start(&Options { feed: NO_FEED.to_owned(), ..Options::default() })?;
        let outage = begun.elapsed().as_secs_f64();
        story.claim(&format!("kill {kill}: nothing acknowledged is lost, nothing is there that nobody wrote"), || {
            let found = hammer.ask("look")?;
            require(found["state"] == "acknowledged" || found["state"] == "in flight", || format!("{found:#}"))?;
            let fate = if found["state"] == "in flight" { "is there, too" } else { "is not there" };
            Ok(format!(
                "{} writes before it; version {} with {} services; the {} under way {fate}; ready after {outage:.1} s",
                found["written"], found["in_force"], found["services"], found["in_flight"].as_str().unwrap_or("?")
            ))
        })?;
        crowd.count()?;
        crowd.until_settled(2, 100)?;
        let window = crowd.window()?;
        let _ = story.claim(&format!("kill {kill}: connections live on, new ones wait for the next start"), || {
            judge(&window, killed)
        });
    }
    hammer.process.close_stdin();
    crowd.stop().map(drop)
}

fn judge(window: &Window, killed: SystemTime) -> Result<String> {
    // Its handshake, or its only request, was under way.
    let is_excused = |trouble: &&Trouble| trouble.backend.is_none() && trouble.begun < killed;
    let excused = window.failed.iter().filter(is_excused).count();
    let good = window.broken.is_empty() && window.moved.is_empty() && excused == window.failed.len();
    require(good, || {
        let troubles = window.broken.iter().chain(&window.moved).chain(&window.failed).filter(|one| !is_excused(one));
        troubles.take(10).map(|trouble| format!("{trouble}\n")).collect()
    })?;
    let (open, answers, short, late) = (window.connections(), window.answers, window.short, window.late);
    let slowest = window.slowest.as_secs_f64();
    Ok(format!(
        "{answers} answers on {open} connections, none moved; {short} short ones, {late} late, {excused} under way at \
         the kill failed; the longest wait was {slowest:.1} s"
    ))
}
