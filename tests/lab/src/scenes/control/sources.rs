//! Where definitions come from breaks, and is mended: etcd stops, an HTTP server tells rubbish. Traffic goes on under the last good set.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{Scene, require};
use crate::lab::{Lab, VIP, backend_address, services};
use crate::node::Options;
use crate::orchestrator::Orchestrator;
use crate::process::{Process, output};
use crate::say::Story;
use crate::wait::{PATIENCE, until};

pub const ETCD: Scene = Scene { title: "etcd stops, and comes back", play: etcd };
pub const RUBBISH: Scene = Scene { title: "the feed's server tells rubbish for a minute", play: rubbish };

const WORKERS: usize = 2;
const PAUSE: Duration = Duration::from_millis(10);

const CLIENTS: &str = "http://127.0.0.1:2379";

/// On the node's host.
fn start_etcd(lab: &Lab) -> Result<Process> {
    let mut command = lab.node.namespace.helper("etcd");
    command.arg("--data-dir").arg(lab.directory().join("etcd")).args(["--log-level", "error"]);
    command.args(["--listen-client-urls", CLIENTS, "--advertise-client-urls", CLIENTS]);
    let etcd = Process::start(&mut command, &lab.directory().join("etcd.log"))?;
    until("etcd answers", Duration::from_secs(20), || Ok(etcdctl(lab, &["endpoint", "health"]).ok()))?;
    Ok(etcd)
}

fn etcdctl(lab: &Lab, words: &[&str]) -> Result<String> {
    let mut command = lab.node.namespace.command("etcdctl");
    command.env("ETCDCTL_API", "3").args(["--endpoints", CLIENTS, "--command-timeout", "3s"]);
    output(command.args(words))
}

/// Puts `web` over these backends there.
fn put(lab: &Lab, backends: &[usize]) -> Result<()> {
    let over: Vec<_> = backends.iter().map(|&number| json!({"address": backend_address(number)})).collect();
    let service = json!({"vip": VIP, "port": 80, "protocol": "tcp", "forwarding": "ipip", "backends": over});
    etcdctl(lab, &["put", "/penstock/services/web", &service.to_string()]).map(drop)
}

/// Waits until `web` has so many backends.
fn until_backends(lab: &Lab, count: usize) -> Result<Duration> {
    let start = Instant::now();
    until(&format!("web has {count} backends"), Duration::from_secs(30), || {
        let listed = lab.node.ask(&["backends", "--json"])?.document()?;
        Ok((listed["backends"].as_array().map(Vec::len) == Some(count)).then_some(()))
    })?;
    Ok(start.elapsed())
}

fn etcd(lab: &mut Lab, story: &mut Story) -> Result<()> {
    let server = start_etcd(lab)?;
    put(lab, &[1, 2])?;
    lab.node.forget()?;
    let options = Options { feed: format!("kind = \"etcd\"\nurl = \"{CLIENTS}\""), ..Options::default() };
    lab.node.start(&options)?;
    lab.node.until_resolved()?;
    let load = lab.client.load(&format!("{VIP}:80"), WORKERS, PAUSE)?;

    story.claim("a key is changed, and what it says is in force", || {
        put(lab, &[1, 2, 3])?;
        Ok(format!("after {:.0?}", until_backends(lab, 3)?))
    })?;
    story.claim("etcd is killed: `status` says so, the log each reason once", || {
        server.signal("KILL")?;
        drop(server);
        let status = until_status(lab, "127.0.0.1:2379")?;
        // Longer than several attempts.
        std::thread::sleep(Duration::from_secs(5));
        let lines = warnings(lab);
        // The connection that breaks, and the port that is closed; without their times.
        let reasons: BTreeSet<_> = lines.iter().filter_map(|line| line.split_once(' ')).map(|(_, why)| why).collect();
        require((1..=2).contains(&lines.len()) && reasons.len() == lines.len(), || format!("{lines:#?}"))?;
        Ok(format!("{status}\n{}", lines.concat()))
    })?;
    story.claim("it comes back, and its changes with it", || {
        let server = start_etcd(lab)?;
        put(lab, &[2, 3])?;
        let took = until_backends(lab, 2)?;
        server.signal("KILL")?;
        Ok(format!("after {took:.1?}"))
    })?;
    story.claim("through all of it no request failed", || {
        let report = load.stop()?;
        require(report.failed + report.repeated == 0 && report.requests > 100, || report.to_string())?;
        Ok(report.to_string())
    })?;
    story.claim("a node that starts while etcd is away forwards by the last good set", || {
        lab.node.start(&options)?;
        until_backends(lab, 2)?;
        Ok(format!("{} requests", lab.client.curl_many(&format!("http://{VIP}/"), 20)?.len()))
    })
}

/// The line of `penstock status` about the feed, once it names this.
fn until_status(lab: &Lab, named: &str) -> Result<String> {
    until(&format!("status says what is wrong with {named}"), PATIENCE, || {
        let status = lab.node.ask(&["status", "--json"])?.document()?;
        let error = status["feed"]["error"].as_str().unwrap_or_default();
        Ok(error.contains(named).then(|| error.to_owned()))
    })
}

/// What the node has warned of since its last start.
fn warnings(lab: &Lab) -> Vec<String> {
    let log = lab.node.log();
    let since = log.rsplit("forwarding\n").next().unwrap_or_default();
    since
        .lines()
        .filter(|line| line.contains("WARN") || line.contains("ERROR"))
        .map(|line| format!("{line}\n"))
        .collect()
}

/// What the HTTP server answers is in a file: the status, then the body.
struct Server {
    _process: Process,
    answer: PathBuf,
}

const PAGE: &str = "http://127.0.0.1:8000/services.json";

impl Server {
    fn start(lab: &Lab, first: &Value) -> Result<Self> {
        let answer = lab.directory().join("answer");
        say(&answer, 200, &first.to_string())?;
        let python = Orchestrator::of(lab)?;
        let mut started = python.start("serve.py", &["8000", &answer.display().to_string()])?;
        started.process.until_it_says("serves", Duration::from_secs(5))?;
        Ok(Self { _process: started.process, answer })
    }

    fn say(&self, status: u16, body: &str) -> Result<()> {
        say(&self.answer, status, body)
    }
}

/// Written aside and renamed, so that it is never half there.
fn say(answer: &Path, status: u16, body: &str) -> Result<()> {
    let new = answer.with_extension("new");
    std::fs::write(&new, format!("{status}\n{body}"))?;
    std::fs::rename(&new, answer).context("the answer")
}

fn rubbish(lab: &mut Lab, story: &mut Story) -> Result<()> {
    let server = Server::start(lab, &services("before", &[(1, 100), (2, 100)]))?;
    lab.node.forget()?;
    let feed = format!("kind = \"http\"\nurl = \"{PAGE}\"\npoll_interval = \"500ms\"");
    lab.node.start(&Options { feed, ..Options::default() })?;
    lab.node.until_version("before")?;
    lab.node.until_resolved()?;
    let good = services("after", &[(1, 100), (2, 100), (3, 100)]).to_string();
    let load = lab.client.load(&format!("{VIP}:80"), WORKERS, PAUSE)?;

    let wrong = good.replace("\"ipip\"", "\"ipop\"");
    let kinds = [
        (200, "<html><body>Please log in</body></html>", "not JSON: expected value"),
        (200, &good[..good.len() / 2], "not JSON: EOF"),
        (500, "oops", "500"),
        (200, wrong.as_str(), "services[0].forwarding: "),
        (404, "", "404"),
        (200, "{\"services\": 5}", "services: 5 is not a list"),
    ];
    let each = Duration::from_secs(60) / kinds.len() as u32;
    story.claim("a page, half a document, wrong values, errors: each is refused with its reason, once", || {
        let mut told = Vec::new();
        for (status, body, reason) in kinds {
            let before = warnings(lab).len();
            server.say(status, body)?;
            // It is asked at its interval, but after failures in a row with a pause of up to ten seconds.
            let error = until_status(lab, reason)?;
            std::thread::sleep(each);
            let lines = warnings(lab);
            let new = &lines[before.min(lines.len())..];
            require(new.len() == 1, || format!("of {status} {body:.40}: {new:#?}"))?;
            told.push(format!("{error}\n"));
            let version = lab.node.metrics()?.version().unwrap_or_default().to_owned();
            require(version == "before", || format!("version {version:?} is in force"))?;
        }
        Ok(told.concat())
    })?;
    story.claim("a good set is taken at once, and no request has failed", || {
        server.say(200, &good)?;
        lab.node.until_version("after")?;
        let report = load.stop()?;
        require(report.failed + report.repeated == 0 && report.requests > 1000, || report.to_string())?;
        Ok(report.to_string())
    })
}
