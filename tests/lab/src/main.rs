//! The lab: client, router, load balancer and real servers in network namespaces of this machine, with real traffic.
//!
//! ```text
//! penstock-lab demo            the demo: builds the lab, plays its scenes, takes it down
//! penstock-lab test [WORD]     the demo's scenes and the longer ones (those whose title has WORD)
//! penstock-lab modes [WORD]    every forwarding mode in front of real receivers
//! penstock-lab changes [SEED]  thousands of connections while backends come and go and the node starts again
//! penstock-lab soak [MINUTES]  hundreds of connections and random changes for so long, an eye on memory
//! penstock-lab control [WORD]  orchestrators and the command line on a live node, and what a control side that fails leaves
//! penstock-lab up | down       the lab, left standing, and its end
//! ```

mod backend;
mod capture;
mod changes;
mod client;
mod crowd;
mod datagram;
mod decapsulator;
mod frames;
mod guest;
mod lab;
mod metrics;
mod modules;
mod namespace;
mod node;
mod orchestrator;
mod pods;
mod process;
mod receiver;
mod say;
mod scenes;
mod segment;
mod site;
mod sixth;
mod standing;
mod traffic;
mod wait;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use lab::Lab;
use namespace::Life;
use say::Story;
use scenes::Scene;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&words) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("penstock-lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all went well.
fn run(words: &[&str]) -> Result<bool> {
    match *words {
        ["demo"] => play("Penstock: real HTTP through a DPDK data path", scenes::demo()),
        ["test"] => play("Penstock: the lab's scenes", scenes::all()),
        ["test", word] => play("Penstock: chosen scenes", chosen(scenes::all(), word)?),
        ["modes"] => play("Penstock: every mode and its receivers", scenes::modes()),
        ["modes", word] => play("Penstock: chosen modes", chosen(scenes::modes(), word)?),
        ["control"] => play("Penstock: orchestration of a live node", scenes::control()),
        ["control", word] => play("Penstock: chosen scenes of orchestration", chosen(scenes::control(), word)?),
        ["changes"] => changes::changes(changes::Dice::of_now()),
        ["changes", seed] => changes::changes(changes::Dice(seed.parse()?)),
        ["soak"] => changes::soak(30.0),
        ["soak", minutes] => changes::soak(minutes.parse()?),
        ["up"] => standing::up().map(|()| true),
        ["down"] => standing::down().map(|()| true),
        // What the lab runs inside its namespaces.
        ["load", address, workers, pause] => {
            traffic::load(address.parse()?, workers.parse()?, micros(pause)?).map(|()| true)
        }
        ["echo", address] => datagram::echo(address.parse()?).map(|()| true),
        ["ask", server, client, bytes, order, patience] => {
            let order = match order {
                "forward" => datagram::Order::Forward,
                "reverse" => datagram::Order::Reverse,
                _ => bail!("{order}: forward or reverse?"),
            };
            let patience = micros(patience)?;
            datagram::ask(server.parse()?, client.parse()?, bytes.parse()?, order, patience).map(|()| true)
        }
        ["receive", device, order, endpoints, pods] => receiver::serve(device, order, endpoints, pods).map(|()| true),
        ["churn", address, connections, workers] => {
            traffic::churn(address.parse()?, connections.parse()?, workers.parse()?).map(|()| true)
        }
        ["crowd", seats, pause, rate, clients, services] => {
            let clients = clients.split(',').map(str::parse).collect::<Result<_, _>>()?;
            let services = services.split(',').map(str::parse).collect::<Result<_, _>>()?;
            crowd::connections::run(clients, services, seats.parse()?, micros(pause)?, rate.parse()?).map(|()| true)
        }
        ["hold", address] => traffic::hold(address.parse()?).map(|()| true),
        ["beat", address, pause] => traffic::beat(address.parse()?, micros(pause)?).map(|()| true),
        _ => bail!("demo, test [WORD], modes [WORD], control [WORD], changes [SEED], soak [MINUTES], up or down?"),
    }
}

/// The scenes whose title has `word`.
fn chosen(mut scenes: Vec<Scene>, word: &str) -> Result<Vec<Scene>> {
    scenes.retain(|scene| scene.title.to_lowercase().contains(&word.to_lowercase()));
    if scenes.is_empty() {
        bail!("no scene's title has \"{word}\"");
    }
    Ok(scenes)
}

/// Builds a lab, plays the scenes in order, and takes it down.
fn play(title: &str, scenes: Vec<Scene>) -> Result<bool> {
    in_lab(&format!("{title}\n{}", lab::DRAWING), lab::BACKENDS, |lab, story| {
        for scene in scenes {
            if wait::interrupted() {
                break;
            }
            story.scene(scene.title, |story| {
                lab.node.ensure_running()?;
                (scene.play)(lab, story)
            });
        }
    })
}

/// Builds a lab, plays in it, and takes it down; whether all that was claimed holds.
fn in_lab(opening: &str, backends: usize, play: impl FnOnce(&mut Lab, &mut Story)) -> Result<bool> {
    wait::heed_signals()?;
    standing::sweep();
    let mut story = Story::new();
    story.line(format!("\n{opening}"));
    let mut lab = Lab::build(&format!("penstock-{}", std::process::id()), Life::WithLab, backends)
        .context("the lab could not be built")?;
    story.note(format!(
        "Namespaces, veth pairs and {backends} nginx stand after {:.1} s.\nThe backends decapsulate by {}.",
        story.elapsed().as_secs_f64(),
        lab.decapsulator.says()
    ));
    play(&mut lab, &mut story);
    if wait::interrupted() {
        drop(lab);
        bail!("interrupted; everything is taken down");
    }
    if !story.good() {
        story.line(format!("\nLogs, captures and counters are kept in {}", lab.keep_evidence()?.display()));
    }
    drop(lab);
    story.end();
    Ok(story.good())
}

fn micros(text: &str) -> Result<Duration> {
    Ok(Duration::from_micros(text.parse()?))
}
