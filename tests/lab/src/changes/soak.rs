//! Hours, or as long as one has: random changes under a lighter load, and whether memory and packet buffers stay what they were.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::BACKENDS;
use super::dice::Dice;
use super::fleet::{Fleet, LEAST, State};
use super::memory::Trend;
use super::trial::{Trial, tell};
use crate::crowd::{Size, Trouble};
use crate::lab::{Lab, backend_name};
use crate::node::Options;
use crate::say::Story;
use crate::wait::{PATIENCE, until};

const SIZE: Size = Size { seats: 500, pause: Duration::from_secs(1), rate: 50 };

/// MiB an hour that memory may grow by, beyond what chance may make of the measurements.
///
/// There are some 2,000 changes an hour and 150,000 short connections: 600 bytes lost by a change, or 8 by a connection, are more.
const GROWTH: f64 = 1.0;

/// MiB that the later half of the looks may have more than the one before, in the mean.
const RISE: f64 = 8.0;

/// Standard errors that are chance's.
const ERRORS: f64 = 3.0;

/// Between what the reader is told.
const NEWS: Duration = Duration::from_secs(60);

/// Far longer than any connection is silent here.
const IDLE: Duration = Duration::from_secs(10);

/// Looks at memory: as many, or one a minute.
const LOOKS: f64 = 24.0;

/// What is added up over all changes.
#[derive(Default)]
struct Sum {
    changes: usize,
    answers: u64,
    short: u64,
    broken: Vec<Trouble>,
    moved: Vec<Trouble>,
    failed: Vec<Trouble>,
    excused: Vec<Trouble>,
    /// Hours since the start, and MiB, when all is as at any other look.
    resident: Vec<(f64, f64)>,
    /// The most at any time, MiB.
    most: f64,
}

pub fn play(lab: &mut Lab, story: &mut Story, minutes: f64, dice: Dice) {
    let seed = dice.0;
    story.scene(&format!("{} connections for {minutes} minutes, seed {seed}", SIZE.seats), |story| {
        // A flow table so small that all of it has been touched, and is resident, after a few minutes.
        let options = Options { stop_grace: "200ms", flows: 1 << 14, ..Options::default() };
        let mut trial = Trial::start(lab, story, Fleet::of(1..=BACKENDS), options, &SIZE, IDLE)?;
        let sum = go_on(&mut trial, minutes, dice)?;
        judge(&sum, trial.story);
        trial.end()
    });
}

fn go_on(trial: &mut Trial<'_>, minutes: f64, mut dice: Dice) -> Result<Sum> {
    trial.crowd.count()?;
    trial.crowd.until_settled(1, 1)?;
    let total = Duration::from_secs_f64(minutes * 60.0);
    let between = total.div_f64(LOOKS).min(Duration::from_secs(60));
    let (start, mut looked, mut told) = (Instant::now(), Instant::now(), Instant::now());
    let mut sum = Sum::default();
    while start.elapsed() < total {
        let before = trial.fleet.down();
        step(trial, &mut dice)?;
        settle(trial, &before, &mut sum)?;
        if looked.elapsed() > between {
            let before = trial.fleet.down();
            let resident = look(trial)?;
            settle(trial, &before, &mut sum)?;
            sum.resident.push((start.elapsed().as_secs_f64() / 3600.0, resident));
            looked = Instant::now();
        }
        sum.most = sum.most.max(resident(trial)?);
        if told.elapsed() > NEWS {
            told = Instant::now();
            trial.story.note(format!("{:>4.0} min: {sum}", start.elapsed().as_secs_f64() / 60.0));
        }
    }
    Ok(sum)
}

/// Waits until the crowd has noticed what there is to notice of a change. `before`: who was down before it.
fn settle(trial: &mut Trial<'_>, before: &[usize], sum: &mut Sum) -> Result<()> {
    trial.crowd.count()?;
    trial.crowd.until_settled(1, 50)?;
    let window = trial.crowd.window()?;
    let down = [before, &trial.fleet.down()].concat();
    let excused = trial.excused(&window, &down)?;
    sum.changes += 1;
    sum.answers += window.answers;
    sum.short += window.short;
    sum.moved.extend(window.moved);
    for (troubles, blamed) in [(window.broken, &mut sum.broken), (window.failed, &mut sum.failed)] {
        let (are_excused, others): (Vec<_>, Vec<_>) = troubles.into_iter().partition(|trouble| excused.holds(trouble));
        sum.excused.extend(are_excused);
        blamed.extend(others);
    }
    Ok(())
}

/// MiB resident when every backend is there and alike, and no base is held of what was before: then all should be as at the last look.
fn look(trial: &mut Trial<'_>) -> Result<f64> {
    trial.fleet = Fleet::of(1..=BACKENDS);
    trial.publish()?;
    let begun = Instant::now();
    until("bases are let go", 2 * IDLE, || Ok((begun.elapsed() > IDLE + IDLE / 5).then_some(())))?;
    resident(trial)
}

fn resident(trial: &mut Trial<'_>) -> Result<f64> {
    Ok(trial.lab.node.resident_bytes()? as f64 / (1 << 20) as f64)
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { changes, answers, short, broken, moved, failed, excused, resident, most } = self;
        let [broken, moved, failed, excused] = [broken, moved, failed, excused].map(Vec::len);
        write!(
            f,
            "{changes} changes, {answers} + {short} answers, {broken} broken, {moved} moved, {failed} failed, {excused} on those down; "
        )?;
        if let Some((_, last)) = resident.last() {
            write!(f, "{last:.2} MiB resident, ")?;
        }
        write!(f, "at most {most:.2} MiB")
    }
}

/// A random change: one that breaks nobody, or a backend goes down or returns, or one that drains is left by its clients and removed.
fn step(trial: &mut Trial<'_>, dice: &mut Dice) -> Result<()> {
    let (down, draining) = (trial.fleet.down(), trial.fleet.numbers(|member| member.state == State::Draining));
    match (dice.roll(8), dice.pick(&down), dice.pick(&draining)) {
        (0..=3, Some(number), _) => trial.fleet.turn(number, State::Active),
        (0, None, _) => {
            let mut next = trial.fleet.clone();
            if let Some(number) = dice.pick(&next.numbers(|member| member.state == State::Active)) {
                next.turn(number, State::Down);
            }
            if next.shares().len() >= LEAST {
                trial.fleet = next;
            }
        }
        (4 | 5, _, Some(number)) => {
            let name = backend_name(number);
            trial.crowd.leave(&name)?;
            until(&format!("nobody is connected to {name}"), PATIENCE, || {
                Ok((!trial.crowd.progress()?.open.contains_key(&name)).then_some(()))
            })?;
            trial.fleet.remove(number);
        }
        _ => drop(trial.fleet.change(dice, BACKENDS)),
    }
    trial.publish()
}

fn judge(sum: &Sum, story: &mut Story) {
    let Sum { changes, answers, short, broken, moved, failed, excused, resident, most } = sum;
    let _ = story.claim(&format!("{changes} changes: no connection broke or moved but on who was down"), || {
        if broken.len() + moved.len() > 0 {
            let (first, other) = (tell(broken.iter()), tell(moved.iter()));
            bail!("{} broke, {} moved to another backend\n{first}{other}", broken.len(), moved.len());
        }
        let on_down = tell(excused.iter());
        Ok(format!("{answers} answers on {} connections; broken on a backend that was down:\n{on_down}", SIZE.seats))
    });
    let _ = story.claim("no short connection failed but on who was down", || {
        if !failed.is_empty() {
            bail!("{} of {short} failed\n{}", failed.len(), tell(failed.iter()));
        }
        Ok(format!("{short} were answered"))
    });
    // What the line can tell depends on how far the looks are off it; that halves differ by so much is seen in any case.
    let _ = story.claim(&format!("no growth of resident memory is seen, and none of {RISE} MiB is there"), || {
        let later = &resident[resident.len() / 4..];
        let Trend { slope, error } = Trend::of(later).context("too short to tell")?;
        let (first, last) = (later[0].1, later[later.len() - 1].1);
        let mean = |looks: &[(f64, f64)]| looks.iter().map(|look| look.1).sum::<f64>() / looks.len() as f64;
        let (before, after) = later.split_at(later.len() / 2);
        let rise = mean(after) - mean(before);
        let told = format!(
            "{slope:+.2} MiB an hour, standard error {error:.2}, over the last three quarters: {} looks, {first:.2} to {last:.2} MiB; at most {most:.2}\n\
             growth of {:.1} MiB an hour would have been seen; the later half has {rise:+.2} MiB more than the one before",
            later.len(),
            GROWTH + 2.0 * ERRORS * error
        );
        if slope - ERRORS * error < GROWTH && rise < RISE { Ok(told) } else { bail!(told) }
    });
}
