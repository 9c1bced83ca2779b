//! The command line on a live node: what it prints is compared with what the lab knows by other means.

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{IDLE, Scene, definitions, require, start_without_feed};
use crate::backend::DNAT_PORT;
use crate::lab::{CLIENT, Lab, VIP, backend_address, two_backends};
use crate::node::{API, Options};
use crate::say::Story;

pub const SCENE: Scene = Scene { title: "the command line on a live node says what is true", play };

const WEIGHTS: [u64; 3] = [100, 50, 0];
const REQUESTS: usize = 60;
const TABLE_SIZE: u64 = 65537;

fn play(lab: &mut Lab, story: &mut Story) -> Result<()> {
    let mut set = definitions("live", IDLE);
    for service in 0..2 {
        for (backend, weight) in WEIGHTS.into_iter().enumerate() {
            set["services"][service]["backends"][backend]["weight"] = json!(weight);
        }
    }
    start_without_feed(lab, &set)?;
    let served = |lab: &Lab| -> Vec<usize> { lab.backends.iter().map(|backend| backend.served()).collect() };
    let before = served(lab);
    lab.client.curl_many(&format!("http://{VIP}/"), REQUESTS)?;
    let met: Vec<usize> = served(lab).iter().zip(before).map(|(now, before)| now - before).collect();

    story.claim("`status`: the node, its definitions, feed, lcores and ports", || {
        let status = lab.node.ask(&["status", "--json"])?.document()?;
        let lcore = Options::default().lcores[0];
        let port = &status["ports"][0];
        let all_is_said = status["phase"] == "forwarding"
            && status["name"] == "lab"
            && status["version"] == "live"
            && status["services"] == 2
            && status["backends"] == 6
            && status["feed"]["kind"] == "none"
            && status["lcores"][0]["cpu"] == lcore
            && port["name"] == "wan0"
            && status["drained"] == json!([]);
        // A request is five packets of the client's at least.
        let forwarded = port["forwarded"].as_u64().unwrap_or(0);
        require(all_is_said && forwarded >= 5 * REQUESTS as u64, || format!("{status:#}"))?;
        lab.node.ask(&["status"])?.good()
    })?;
    story.claim("`services --json` is a document that `apply` takes, and that changes nothing", || {
        let document = lab.node.ask(&["services", "--json"])?.good()?;
        let file = file(lab, "same.json", &document)?;
        let said = lab.node.ask(&["apply", &file])?.good()?;
        require(said == "nothing changes\n", || said.clone())?;
        let table = lab.node.ask(&["services"])?.good()?;
        let names: Vec<_> = table.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
        require(names == ["shop", "web"] || names == ["web", "shop"], || table.clone())?;
        Ok(table)
    })?;
    story.claim("`backends`: slots by the weights, and packets of whom the requests met", || {
        let listed = lab.node.ask(&["backends", "--service", "web", "--json"])?.document()?;
        let backends = listed["backends"].as_array().context("no backends")?;
        let sum: u64 = WEIGHTS.iter().sum();
        require(backends.len() == 3, || listed.to_string())?;
        for (number, backend) in (1..).zip(backends) {
            let (weight, requests) = (WEIGHTS[number - 1], met[number - 1] as u64);
            let (slots, packets) = (backend["slots"].as_u64().unwrap_or(0), backend["packets"].as_u64().unwrap_or(0));
            let is_it = backend["address"] == backend_address(number).as_str() && backend["weight"] == weight;
            let has_its_share = slots.abs_diff(TABLE_SIZE * weight / sum) <= 1;
            let has_its_packets = (5 * requests..=20 * requests).contains(&packets);
            require(is_it && has_its_share && has_its_packets, || format!("{requests} requests, {backend}"))?;
        }
        let table = lab.node.ask(&["backends", "--service", "web"])?.good()?;
        require(table.lines().count() == 4 && !table.contains('\x1b'), || table.clone())?;
        Ok(format!("requests met {met:?}\n{table}"))
    })?;
    story.claim(
        "`flows --client` finds a connection, `explain` says where it goes and why, as its server does",
        || {
            let mut told = String::new();
            for service in [80, 8080] {
                let server = format!("{VIP}:{service}");
                let (held, answer) = lab.client.hold(&server)?;
                let client = answer.client_seen.clone();
                let address = address_of(lab, &answer.backend)?;
                let explained = lab.node.ask(&["explain", "--json", &client, &server, "tcp"])?.document()?;
                let port = if service == 8080 { DNAT_PORT } else { 80 };
                let backend = format!("{address}:{port}");
                require(explained["verdict"] == "forwarded" && explained["backend"] == backend.as_str(), || {
                    format!("{answer:?}\n{explained:#}")
                })?;
                // `shop` remembers nothing while it is at rest.
                let is_remembered = service == 80;
                // A request before may have had the same port, to the other service.
                let name = if is_remembered { "web" } else { "shop" };
                let flows = lab.node.ask(&["flows", "--client", &client, "--service", name, "--json"])?.document()?;
                let flows = flows["flows"].as_array().context("no flows")?;
                let is_found = flows.len() == 1
                    && flows[0]["backend"] == backend.as_str()
                    && flows[0]["stage"] == "established"
                    && flows[0]["client"] == client.as_str();
                require(is_found == is_remembered && explained["remembered"] == is_remembered, || {
                    format!("{flows:?}")
                })?;
                require(is_remembered || flows.is_empty(), || format!("{flows:?}"))?;
                told +=
                    &format!("{client} -> {server}: {} said {backend}, remembered: {is_remembered}\n", answer.backend);
                drop(held);
            }
            Ok(told)
        },
    )?;
    story.claim("`explain` foretells whom new connections meet", || {
        let (mut told, server) = (String::new(), format!("{VIP}:80"));
        for port in (7000..8000).step_by(97) {
            let client = format!("{CLIENT}:{port}");
            let explained = lab.node.ask(&["explain", "--json", &client, &server, "tcp"])?.document()?;
            let answer = lab.client.curl_from(&format!("http://{server}/"), port)?;
            let address = address_of(lab, &answer.backend)?;
            let is_so = explained["backend"] == format!("{address}:80") && explained["remembered"] == false;
            require(answer.client_seen == client && is_so, || format!("{answer:?}\n{explained:#}"))?;
            told += &format!("{port} {} ", answer.backend);
        }
        require(told.contains("backend1") && told.contains("backend2"), || told.clone())?;
        Ok(told)
    })?;
    story.claim("`apply --dry-run` says what would change, and changes nothing; `apply` does it", || {
        let mut next = set.clone();
        next["version"] = json!("live 2");
        next["services"][0]["backends"][2]["weight"] = json!(70);
        next["services"].as_array_mut().context("services")?.remove(1);
        let file = file(lab, "next.json", &next.to_string())?;
        let version = || -> Result<Value> { Ok(lab.node.ask(&["status", "--json"])?.document()?["version"].clone()) };
        let dry = lab.node.ask(&["apply", &file, "--dry-run"])?.good()?;
        let lines =
            ["- service \"shop\"", "~ service \"web\"", "backend 10.1.3.2 weight: 0 -> 70", "would be in force"];
        require(lines.iter().all(|line| dry.contains(line)) && version()? == "live", || dry.clone())?;
        let done = lab.node.ask(&["apply", &file])?.good()?;
        require(done.contains("version live 2 is in force") && version()? == "live 2", || done.clone())?;
        Ok(dry + &done)
    })?;
    story.claim("what does not hold is refused with its path, exit code 2", || {
        let mut wrong = set.clone();
        wrong["services"][1]["backends"][0]["weight"] = json!(-1);
        let said = lab.node.ask(&["apply", &file(lab, "wrong.json", &wrong.to_string())?])?.refused(2)?;
        require(said.contains("services[1].backends[0].weight"), || said.clone())?;
        let nobody = lab.node.ask(&["services", "nobody's"])?.refused(2)?;
        Ok(said + &nobody)
    })?;
    story.claim("the API answers on loopback as it does on its socket, whose mode is 0660", || {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(lab.node.socket())?.permissions().mode() & 0o7777;
        require(mode == 0o660, || format!("{mode:o}"))?;
        let said = lab.node.ask_inside(API, &["services", "--json"])?.good()?;
        require(said == lab.node.ask(&["services", "--json"])?.good()?, || said.clone())?;
        Ok(format!("{} and {API}", lab.node.api()))
    })?;
    story.claim("where nobody answers it says what to do, exit code 1", || {
        let absent = lab.node.ask_at("unix:/nowhere/api.sock", &["status"])?.refused(1)?;
        require(absent.contains("is `penstock run` running here?") && absent.contains("--api"), || absent.clone())?;
        lab.node.kill()?;
        let dead = lab.node.ask(&["status"])?.refused(1)?;
        require(dead.contains("the process that made the socket has ended"), || dead.clone())?;
        let closed = lab.node.ask_inside(API, &["status"])?.refused(1)?;
        require(closed.contains("does its [api] listen name this address?"), || closed.clone())?;
        Ok([absent, dead, closed].concat())
    })?;
    story.claim("where a file feeds the node, `apply` fails with exit code 1 and says so; `drain` does not", || {
        let set = two_backends("by a file again");
        lab.node.start_anew(&Options::default(), &set)?;
        let said =
            lab.node.ask(&["apply", &file(lab, "other.json", &two_backends("other").to_string())?])?.refused(1)?;
        require(said.contains("\"file\""), || said.clone())?;
        let drained = lab.node.ask(&["drain", &backend_address(1)])?.good()?;
        let undrained = lab.node.ask(&["undrain", &backend_address(1)])?.good()?;
        Ok([said, drained, undrained].concat())
    })
}

/// A document in the lab's directory.
fn file(lab: &Lab, name: &str, text: &str) -> Result<String> {
    let path: PathBuf = lab.directory().join(name);
    std::fs::write(&path, text)?;
    Ok(path.display().to_string())
}

/// Where a backend is that has said its name.
fn address_of<'l>(lab: &'l Lab, name: &str) -> Result<&'l str> {
    let backend = lab.backends.iter().find(|backend| backend.name == name);
    Ok(&backend.with_context(|| format!("nobody is named {name}"))?.address)
}
