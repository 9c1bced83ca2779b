//! A real Prometheus scrapes the node by the example configuration of `conf/prometheus`; every rule there, and every expression of
//! the dashboard in `conf/grafana`, is put to it after real traffic, and must give data.

mod expressions;
mod server;

use std::collections::BTreeSet;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::{Scene, require};
use crate::lab::{Lab, NODE, VIP, backend_address, services};
use crate::node::Options;
use crate::process::output;
use crate::say::Story;
use crate::wait::{PATIENCE, until, with};
use expressions::{Dashboard, without_threshold};
use server::{Prometheus, Rule};

pub const SCENE: Scene = Scene { title: "a real Prometheus, with the rules and the dashboard's expressions", play };

fn play(lab: &mut Lab, story: &mut Story) -> Result<()> {
    // With a certificate, whose expiry is a metric; and from zero.
    let identity = certificate(lab)?;
    lab.node.start_anew(&Options { api: identity, ..Options::default() }, &checked("one", 100))?;
    let prometheus = Prometheus::start(lab)?;
    let load = lab.client.load(&format!("{VIP}:80"), 2, Duration::from_millis(20))?;

    story.claim("it takes the example configuration, and PromQL gives what /metrics shows", || {
        until("Prometheus has scraped the node", PATIENCE, || Ok((prometheus.one("up")? == Some(1.0)).then_some(())))
            .map_err(with(|| prometheus.tail()))?;
        let expression = "sum(penstock_received_packets_total)";
        let received = until("received packets in Prometheus", PATIENCE, || prometheus.one(expression))?;
        let shown = lab.node.metrics()?.sum("penstock_received_packets_total");
        // Scraped up to a second ago.
        require(received > 0.0 && received <= shown as f64, || {
            format!("Prometheus says {received}, the node {shown}")
        })?;
        Ok(format!("{expression} = {received}"))
    })?;
    let (rules, dashboard) = (prometheus.rules()?, Dashboard::read()?);
    let mut asked: Vec<(String, String)> = dashboard.expressions();
    // A healthy node meets no threshold, and an alert that asked for nothing there is would meet none either. So alerts are asked for
    // without their thresholds: 0 or 1 for each series that they look at.
    asked.extend(rules.iter().map(|rule| match rule.is_alert {
        true => (rule.name.clone(), without_threshold(&rule.query)),
        false => (rule.name.clone(), rule.query.clone()),
    }));
    // What is recorded has to arrive under its name, too.
    asked.extend(rules.iter().filter(|rule| !rule.is_alert).map(|rule| (rule.name.clone(), rule.name.clone())));
    let mut round = 0;
    story.claim("after traffic every expression of rules and dashboard returns data", || {
        require(rules.len() > 30 && asked.len() > 100, || {
            format!("only {} rules, {} expressions", rules.len(), asked.len())
        })?;
        until("every expression returns data", Duration::from_secs(90), || {
            round += 1;
            stir(lab, round)?;
            let mut empty = Vec::new();
            for (of, expression) in &asked {
                if prometheus.query(expression)?.is_empty() {
                    empty.push(format!("{of}: {expression}"));
                }
            }
            if empty.is_empty() { Ok(Some(())) } else { bail!("{} give nothing:\n{}", empty.len(), empty.join("\n")) }
        })
        .map_err(with(|| prometheus.tail()))?;
        let alerts = rules.iter().filter(|rule| rule.is_alert).count();
        Ok(format!(
            "{} expressions: {} of the dashboard, {} rules, {alerts} alerts",
            asked.len(),
            dashboard.expressions().len(),
            rules.len() - alerts
        ))
    })?;
    story.claim("every metric that is listed is shown, and no other", || {
        let schema: Value = serde_json::from_str(&lab.node.schema("counters")?)?;
        let listed = schema["metrics"].as_array().into_iter().flatten().filter_map(|metric| metric["name"].as_str());
        let listed: BTreeSet<&str> = listed.collect();
        // Slots are told of while they move, which they do after a change of weights.
        lab.node.publish(&checked("moving", 25))?;
        let text = lab.node.metrics_text()?;
        let shown = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
        let shown: BTreeSet<&str> = shown.collect();
        let differ: Vec<_> = shown.symmetric_difference(&listed).collect();
        require(differ.is_empty() && !listed.is_empty(), || format!("not in both: {differ:?}"))?;
        let samples = text.lines().filter(|line| !line.starts_with('#')).count();
        Ok(format!("{} metrics, {samples} samples, {} bytes", shown.len(), text.len()))
    })?;
    story.claim("it has every rule that is written, and asks each again and again without a fault", || {
        let (mut written, before) = (server::written_rules()?, prometheus.rules()?);
        let mut loaded: Vec<&str> = before.iter().map(|rule| rule.name.as_str()).collect();
        // Groups come in the order of their names.
        written.sort();
        loaded.sort();
        require(!written.is_empty() && loaded == written, || format!("written: {written:?}\nloaded: {loaded:?}"))?;
        until("every rule is asked once more, and gives no error", PATIENCE, || {
            let now = prometheus.rules()?;
            let is_asked = |(before, now): (&Rule, &Rule)| {
                before.last_evaluation != now.last_evaluation && !now.last_evaluation.is_empty() && now.health == "ok"
            };
            let waiting: Vec<_> = before.iter().zip(&now).filter(|pair| !is_asked(*pair)).collect();
            if waiting.is_empty() && now.len() == before.len() { Ok(Some(())) } else { bail!("{waiting:?}") }
        })
        .map_err(with(|| prometheus.tail()))?;
        Ok(format!("{} rules", written.len()))
    })?;
    story.claim("of this node no alert has fired, and no rule has failed", || {
        let rules = prometheus.rules()?;
        require(rules.iter().any(|rule| rule.is_alert), || "no alert is loaded".to_owned())?;
        let wrong = |rule: &&Rule| rule.state == "firing" || rule.health != "ok";
        let wrong: Vec<_> = rules.iter().filter(wrong).map(|rule| format!("{rule:?}")).collect();
        require(wrong.is_empty(), || wrong.join("\n"))?;
        Ok(format!("{} rules", rules.len()))
    })?;
    story.claim("and where a service has lost its backends, an alert is on its way", || {
        let alert = "PenstockServiceWithoutBackends";
        let state = || -> Result<Option<String>> {
            Ok(prometheus.rules()?.into_iter().find(|rule| rule.name == alert).map(|rule| rule.state))
        };
        require(state()?.as_deref() == Some("inactive"), || format!("{alert} was {:?} before", state()))?;
        let mut set = checked("lost", 100);
        set["services"].as_array_mut().context("services")?.push(json!({
            "name": "lost", "vip": VIP, "port": 81, "protocol": "tcp", "forwarding": "ipip",
            "backends": [{"address": backend_address(1), "state": "down"}],
        }));
        lab.node.publish(&set)?;
        until("the alert is pending", PATIENCE, || Ok(state()?.filter(|state| state == "pending" || state == "firing")))
            .map(|state| format!("{alert}: {state}"))
    })?;
    let report = load.stop()?;
    require(report.failed == 0, || format!("{report:?}"))?;
    story.claim("promtool finds nothing to complain of: metrics, rules, and the rules' own tests", || {
        let text = lab.node.metrics_text()?;
        metrics_are_good(&text)?;
        let tests = server::CONFIGURATION.to_owned() + "/tests.yml";
        let said = output(std::process::Command::new("promtool").args(["test", "rules", &tests]))?;
        require(said.contains("SUCCESS"), || said.clone())?;
        Ok(format!("{} samples checked", text.lines().filter(|line| !line.starts_with('#')).count()))
    })?;
    lab.node.stop()
}

/// The lab's services, with health checks.
fn checked(version: &str, weight: u16) -> Value {
    let mut set = services(version, &[(1, 100), (2, weight)]);
    let checks = [json!({"kind": "http", "path": "/"}), json!({"kind": "tcp"})];
    for (service, mut check) in checks.into_iter().enumerate() {
        check["interval"] = json!("500ms");
        check["timeout"] = json!("400ms");
        set["services"][service]["health_check"] = check;
    }
    set
}

/// What gives every metric something to tell: changes, a set that is refused, calls of the API, a drain, packets of each verdict.
fn stir(lab: &Lab, round: usize) -> Result<()> {
    let backend = backend_address(2);
    lab.node.publish(&checked(&format!("round {round}"), 50 + (round % 2) as u16 * 50))?;
    for words in [&["status"][..], &["backends"], &["drain", &backend], &["undrain", &backend]] {
        lab.node.ask(words)?.good()?;
    }
    lab.client.curl(&format!("http://{VIP}:8080/"))?;
    for address in [VIP, NODE] {
        lab.client.namespace.run(&format!("ping -n -c 1 -W 2 {address}"))?;
    }
    // A port without a service: no answer comes.
    let _ = lab.client.namespace.run(&format!("curl --silent --max-time 0.1 http://{VIP}:9/"));
    Ok(())
}

/// A certificate for the API; gives the lines of its configuration.
fn certificate(lab: &Lab) -> Result<String> {
    let [cert, key] = ["cert.pem", "key.pem"].map(|name| lab.directory().join(name).display().to_string());
    let line = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 365 -subj /CN=lab -addext subjectAltName=DNS:lab";
    let mut openssl = std::process::Command::new("openssl");
    output(openssl.args(line.split(' ')).args(["-keyout", &key, "-out", &cert]))?;
    Ok(format!("cert = \"{cert}\"\nkey = \"{key}\"\nca = \"{cert}\""))
}

/// What promtool says of a page of metrics: nothing, if it is good.
fn metrics_are_good(text: &str) -> Result<()> {
    let mut promtool = std::process::Command::new("promtool");
    let promtool = promtool.args(["check", "metrics"]);
    let mut child = promtool.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    std::io::Write::write_all(&mut child.stdin.take().context("promtool's stdin")?, text.as_bytes())?;
    let done = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&done.stderr).into_owned() + &String::from_utf8_lossy(&done.stdout);
    if !done.status.success() || !said.trim().is_empty() {
        bail!("promtool: {said}");
    }
    Ok(())
}
