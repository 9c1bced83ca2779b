//! The control thread stands still. The lcores do not notice.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::{IDLE, Scene, definitions, require, start_without_feed};
use crate::client::Report;
use crate::lab::{Lab, VIP};
use crate::orchestrator::Orchestrator;
use crate::say::Story;
use crate::wait::until;

pub const SCENE: Scene = Scene { title: "the control thread stands still", play };

/// Of the thread, in /proc.
const NAME: &str = "control";
/// How long it is watched, without and with a control thread. This is a measurement, not a wait.
const WATCHED: Duration = Duration::from_secs(5);
/// Requests at once, and the pause of each worker between two: the pauses set the rate.
const WORKERS: usize = 4;
const PAUSE: Duration = Duration::from_millis(10);
/// Other work on this machine changes the rate, too.
const NOISE: f64 = 0.2;

fn play(lab: &mut Lab, story: &mut Story) -> Result<()> {
    let python = Orchestrator::of(lab)?;
    start_without_feed(lab, &definitions("before it stands still", IDLE))?;
    let thread = thread(lab)?;
    let usual = watch(lab)?;

    let mut frozen = python.start("freeze.py", &[&thread])?;
    story.claim("it is stopped, alone, and the node answers no command", || {
        frozen.process.until_it_says("stopped", Duration::from_secs(5))?;
        let mut states = Vec::new();
        until("the thread has stopped", Duration::from_secs(5), || {
            states = self::states(lab)?;
            Ok(states.iter().any(|(tid, _, state)| *tid == thread && state.starts_with('t')).then_some(()))
        })?;
        let stopped: Vec<_> = states.iter().filter(|(_, _, state)| state.to_lowercase().starts_with('t')).collect();
        require(stopped.len() == 1, || format!("{stopped:?}"))?;
        let mut status = lab.node.ask_on(&["status"], &lab.directory().join("stuck-status.log"))?;
        std::thread::sleep(Duration::from_secs(1));
        require(status.running(), || format!("it answered: {}", status.said()))?;
        Ok(format!("1 of {} threads; `penstock status` waits", states.len()))
    })?;
    story.claim("forwarding is unharmed: no request fails, at the usual rate", || {
        let meanwhile = watch(lab)?;
        require(usual.failed + usual.repeated == 0, || format!("without: {usual}"))?;
        require(meanwhile.failed + meanwhile.repeated == 0, || format!("with: {meanwhile}"))?;
        let share = meanwhile.requests as f64 / usual.requests as f64;
        require(share > 1.0 - NOISE, || format!("before: {usual}\nthen: {meanwhile}"))?;
        // Replies of dnat, and answers of the lcore itself.
        lab.client.curl_many(&format!("http://{VIP}:8080/"), 20)?;
        crate::client::ping(&lab.client.namespace, VIP, 10)?;
        let seconds = WATCHED.as_secs();
        Ok(format!(
            "in {seconds} s {} requests, {} before ({:.0} %)",
            meanwhile.requests,
            usual.requests,
            share * 100.0
        ))
    })?;
    story.claim("a command that came meanwhile is done once the thread goes on, and the API answers again", || {
        let mut drain = lab.node.ask_on(&["drain", "10.1.3.2"], &lab.directory().join("stuck-drain.log"))?;
        std::thread::sleep(Duration::from_millis(500));
        require(drain.running(), || format!("it was answered: {}", drain.said()))?;
        let states = states(lab)?;
        require(states.iter().any(|(tid, _, state)| *tid == thread && state.starts_with('t')), || {
            format!("{states:?}")
        })?;
        let begun = Instant::now();
        frozen.process.close_stdin();
        let done = drain.until_it_ends(Duration::from_secs(10))?;
        let after = begun.elapsed().as_secs_f64();
        require(done.success(), || drain.said())?;
        let status = lab.node.ask(&["status", "--json"])?.document()?;
        require(status["drained"].as_array().map(Vec::len) == Some(1), || status.to_string())?;
        lab.node.ask(&["undrain", "10.1.3.2"])?.good()?;
        Ok(format!("{after:.2} s after it went on: {}", drain.said()))
    })?;
    story.claim("and new definitions come into force", || {
        let file = lab.directory().join("definitions.json");
        std::fs::write(&file, definitions("after it stood still", IDLE).to_string())?;
        let said = lab.node.ask(&["apply", &file.display().to_string()])?.good()?;
        require(said.starts_with("only the version changes\n"), || said.clone())?;
        lab.client.curl_many(&format!("http://{VIP}/"), 20)?;
        Ok(said)
    })
}

/// Requests for a while.
fn watch(lab: &Lab) -> Result<Report> {
    let load = lab.client.load(&format!("{VIP}:80"), WORKERS, PAUSE)?;
    std::thread::sleep(WATCHED);
    load.stop()
}

/// The id of the control thread.
fn thread(lab: &mut Lab) -> Result<String> {
    let threads = states(lab)?;
    let control = threads.into_iter().find(|(_, name, _)| name == NAME);
    Ok(control.with_context(|| format!("no thread is named {NAME:?}"))?.0)
}

/// Id, name and state of each thread of the node.
fn states(lab: &mut Lab) -> Result<Vec<(String, String, String)>> {
    let mut threads = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{}/task", lab.node.process()?.pid()))? {
        let status = std::fs::read_to_string(entry?.path().join("status"))?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.map(|value| value.trim().to_owned()).with_context(|| format!("no {name} in\n{status}"))
        };
        threads.push((field("Pid:")?, field("Name:")?, field("State:")?));
    }
    Ok(threads)
}
