//! An orchestrator in Python changes the definitions hundreds of times while requests go on.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{IDLE, Scene, definitions, require, start_without_feed};
use crate::lab::{Lab, VIP, two_backends};
use crate::node::{API, Options};
use crate::orchestrator::Orchestrator;
use crate::say::Story;
use crate::wait::until;

pub const SCENE: Scene = Scene { title: "an orchestrator in Python changes everything under load", play };

const REPLACEMENTS: u64 = 50;
const CHANGES: u64 = 300;
/// Requests at once, and the pause of each worker between two.
const WORKERS: usize = 4;
const PAUSE: Duration = Duration::from_millis(5);
/// What docs/orchestration.md shows.
const EXAMPLE_SAYS: &str = include_str!("../../../orchestrator/example.out");

fn play(lab: &mut Lab, story: &mut Story) -> Result<()> {
    let python = Orchestrator::of(lab)?;
    lab.node.start_anew(&Options::default(), &two_backends("by a file"))?;
    story.claim("where a file feeds the node, each kind of write is refused", || {
        let said = python.run("refused.py", &[&lab.node.api()])?;
        let refused = |line: &str| line.starts_with("FAILED_PRECONDITION ") && line.contains("\"file\"");
        require(said.lines().count() == 4 && said.lines().all(refused), || said.clone())?;
        let version = lab.node.metrics()?.version().map(str::to_owned);
        require(version.as_deref() == Some("by a file"), || format!("version {version:?}"))?;
        Ok(said)
    })?;

    let base = definitions("base", IDLE);
    start_without_feed(lab, &base)?;
    let file = lab.directory().join("definitions.json").display().to_string();
    let served = || lab.backends.iter().map(|backend| backend.served()).sum::<usize>();
    let before = served();
    let load = lab.client.load(&format!("{VIP}:80"), WORKERS, PAUSE)?;
    until("200 requests before the changes", Duration::from_secs(30), || Ok((served() > before + 200).then_some(())))?;
    let mut report = Value::Null;
    story.claim(
        &format!("{REPLACEMENTS} sets and {CHANGES} changes are acknowledged, each on top of the last"),
        || {
            let (api, sets, changes) = (lab.node.api(), REPLACEMENTS.to_string(), CHANGES.to_string());
            report = serde_json::from_str(&python.run("replace.py", &[&api, &file, &sets, &changes])?)?;
            require(report["acknowledged"] == json!(REPLACEMENTS + CHANGES + 1), || report.to_string())?;
            let took = |which: &str| report["write_ms"][which].as_f64().unwrap_or(f64::NAN);
            Ok(format!("a write took {:.1} ms (median), at most {:.1} ms", took("median"), took("worst")))
        },
    )?;
    story.claim("no request failed, and none had to be sent again", || {
        let after = served();
        until(
            "100 requests after the changes",
            Duration::from_secs(30),
            || Ok((served() > after + 100).then_some(())),
        )?;
        let load = load.stop()?;
        require(load.failed == 0 && load.repeated == 0 && load.backends.len() == 3, || load.to_string())?;
        Ok(load.to_string())
    })?;
    story.claim("a watcher saw each acknowledged version or a later one, and none twice", || {
        let none = report["strangers"] == json!([]) && report["backwards"] == json!(0);
        let (told, late) = (report["told"].as_u64().unwrap_or(0), report["told_after_ms"].as_f64().context("no time")?);
        require(none && told > 0 && late < 1000.0, || report.to_string())?;
        Ok(format!("{told} sets came by the stream, {late:.1} ms after the acknowledgement at the latest"))
    })?;
    story.claim("the last one is in force, for the node's metrics and commands, too", || {
        let last = report["last"].as_str().unwrap_or_default();
        let metrics = lab.node.metrics()?.version().map(str::to_owned);
        let status = lab.node.ask(&["status", "--json"])?.document()?;
        require(metrics.as_deref() == Some(last) && status["version"] == last, || format!("{metrics:?} {status}"))?;
        Ok(format!("version {last}"))
    })?;
    let refused = |what: &str| report["refused"][what].clone();
    story.claim("a write for a version that is over is ABORTED", || {
        let stale = refused("stale");
        require(stale["code"] == "ABORTED", || stale.to_string())?;
        Ok(stale["message"].as_str().unwrap_or_default().to_owned())
    })?;
    story.claim("what is wrong is INVALID_ARGUMENT, with every path and reason", || {
        let paths = |what: &str| -> Vec<String> {
            let violations = refused(what)["violations"].as_array().cloned().unwrap_or_default();
            violations.iter().filter_map(|pair| pair[0].as_str().map(str::to_owned)).collect()
        };
        let (wrong, twice) = (refused("wrong"), refused("twice"));
        require(wrong["code"] == "INVALID_ARGUMENT" && twice["code"] == "INVALID_ARGUMENT", || report.to_string())?;
        let expected = ["service.protocol", "service.backends[1].address", "service.backends[1].weight"];
        let mut got = paths("wrong");
        got.sort_by_key(|path| expected.iter().position(|one| one == path));
        require(got == expected, || wrong.to_string())?;
        require(paths("twice").iter().any(|path| path.starts_with("definitions.services[1].")), || twice.to_string())?;
        require(refused("absent")["code"] == "NOT_FOUND", || refused("absent").to_string())?;
        Ok([wrong, twice].map(|refusal| refusal["message"].as_str().unwrap_or_default().to_owned()).join("\n"))
    })?;
    story.claim("dry_run says what would be, and neither it nor a refusal changes anything", || {
        let dry = &report["dry_run"];
        require(dry["changed"] == true && dry["left_alone"] == true, || report.to_string())?;
        Ok(format!("{} would be in force; {} was", dry["version"], report["before_refusals"]))
    })?;
    story.claim("the example of docs/orchestration.md does what it shows, over TCP, too", || {
        for api in [lab.node.api(), API.to_owned()] {
            let said = python.run("example.py", &[&api])?;
            require(said == EXAMPLE_SAYS, || said.clone())?;
        }
        lab.client.curl(&format!("http://{VIP}/"))?;
        Ok(EXAMPLE_SAYS.to_owned())
    })
}
