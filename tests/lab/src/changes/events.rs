//! What happens, in order. The node starts again while it is at rest, and again amid a change, when some slots have a base that is not
//! their owner. The last changes come after the bases of all before were let go, when the flow table alone knows who is where.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Result, bail};

use super::BACKENDS;
use super::dice::Dice;
use super::fleet::{Fleet, State};
use super::table::table;
use super::trial::Trial;
use crate::crowd::Size;
use crate::lab::{Lab, backend_name};
use crate::node::Options;
use crate::say::Story;
use crate::wait::{PATIENCE, until};

const SIZE: Size = Size { seats: 2000, pause: Duration::from_secs(1), rate: 200 };
/// Far longer than any connection is silent here, and than it takes to start the node twice.
const IDLE: Duration = Duration::from_secs(40);
/// At the beginning.
const FIRST: usize = 5;
/// The one that is drained and removed, and the one that goes down again and again.
const DRAINED: usize = 3;
const FLAPPING: usize = 2;
const FLAPS: usize = 4;
const REPLACED: usize = 50;

pub fn play(lab: &mut Lab, story: &mut Story, dice: Dice) {
    let seed = dice.0;
    story.scene(&format!("{} connections, seed {seed}", SIZE.seats), |story| {
        let options = Options { stop_grace: "200ms", ..Options::default() };
        let mut trial = Trial::start(lab, story, Fleet::of(1..=FIRST), options, &SIZE, IDLE)?;
        let played = all(&mut trial, dice);
        trial.story.line(format!("\n{}\n", table(&trial.rows)));
        played?;
        trial.end()
    });
}

fn all(trial: &mut Trial<'_>, mut dice: Dice) -> Result<()> {
    trial.event("all connected", &[], |_| Ok(()))?;
    trial.event("stopped and started again, at rest", &[], |trial| restart(trial).map(drop))?;
    trial.event("killed and started again, at rest", &[], |trial| crash(trial).map(drop))?;
    trial.event("a backend added", &[], |trial| {
        trial.fleet.add(FIRST + 1);
        trial.publish()
    })?;
    trial.event("stopped and started again, amid it", &[], |trial| {
        trial.lost = Some(restart(trial)?);
        Ok(())
    })?;
    trial.event("killed and started again, amid it", &[], |trial| {
        trial.lost = Some(crash(trial)?);
        Ok(())
    })?;
    trial.event("two backends added at once", &[], |trial| {
        (FIRST + 2..=BACKENDS).for_each(|number| trial.fleet.add(number));
        trial.publish()
    })?;
    trial.event("weights changed", &[], |trial| {
        for (number, weight) in [(1, 300), (FLAPPING, 200), (4, 25), (5, 0)] {
            trial.fleet.weigh(number, weight);
        }
        trial.publish()
    })?;
    drain(trial)?;
    trial.event(&format!("{} flaps, {FLAPS} times", backend_name(FLAPPING)), &[FLAPPING], flap)?;
    trial.event(&format!("{REPLACED} definitions in a row"), &[], |trial| replace(trial, &mut dice))?;
    trial.event("a second process tries to start", &[], second)?;
    // By now the bases of all slots are their owners: whoever is not there is remembered by the flow table alone.
    let title = format!("nothing, for {} s", IDLE.as_secs());
    trial.event(&title, &[], |_| {
        let begun = Instant::now();
        until("flows may be silent no longer", 2 * IDLE, || Ok((begun.elapsed() > IDLE).then_some(())))
    })?;
    trial.event(&format!("all {BACKENDS} backends, alike"), &[], |trial| {
        trial.fleet = Fleet::of(1..=BACKENDS);
        trial.publish()
    })
}

/// Gives when it had ended.
fn restart(trial: &mut Trial<'_>) -> Result<SystemTime> {
    trial.lab.node.stop()?;
    start_again(trial)
}

fn crash(trial: &mut Trial<'_>) -> Result<SystemTime> {
    trial.lab.node.kill()?;
    start_again(trial)
}

fn start_again(trial: &mut Trial<'_>) -> Result<SystemTime> {
    let ended = SystemTime::now();
    trial.lab.node.start(&trial.options)?;
    Ok(ended)
}

/// A backend is drained; its clients close in their own time; then it is removed.
fn drain(trial: &mut Trial<'_>) -> Result<()> {
    let name = backend_name(DRAINED);
    trial.event(&format!("{name} drained"), &[], |trial| {
        trial.fleet.turn(DRAINED, State::Draining);
        trial.publish()
    })?;
    trial.event(&format!("{name} left by its clients, removed"), &[], |trial| {
        trial.crowd.leave(&name)?;
        until(&format!("nobody is connected to {name}"), PATIENCE, || {
            Ok((!trial.crowd.progress()?.open.contains_key(&name)).then_some(()))
        })?;
        trial.fleet.remove(DRAINED);
        trial.publish()
    })
}

fn flap(trial: &mut Trial<'_>) -> Result<()> {
    for _ in 0..FLAPS {
        for state in [State::Down, State::Active] {
            trial.fleet.turn(FLAPPING, state);
            trial.publish()?;
            trial.crowd.count()?;
            trial.crowd.until_settled(1, 50)?;
        }
    }
    Ok(())
}

/// Some short connections are made under each.
fn replace(trial: &mut Trial<'_>, dice: &mut Dice) -> Result<()> {
    for _ in 0..REPLACED {
        trial.fleet.change(dice, BACKENDS);
        trial.publish()?;
        trial.crowd.count()?;
        trial.crowd.until_settled(0, 10)?;
    }
    Ok(())
}

/// The node that runs is named, and does not notice.
fn second(trial: &mut Trial<'_>) -> Result<()> {
    let runs = trial.lab.node.process()?.pid();
    let log = trial.lab.directory().join("second.log");
    let node = &trial.lab.node;
    let _ = trial.story.claim("a second penstock on the same configuration refuses, exit code 1", || {
        let mut second = node.run(&log)?;
        let status = second.until_it_ends(PATIENCE)?;
        let said = second.said();
        if status.code() != Some(1) || !said.contains(&format!("another penstock (process {runs}) runs with")) {
            bail!("{status}\n{said}");
        }
        Ok(said.trim().to_owned())
    });
    Ok(())
}
