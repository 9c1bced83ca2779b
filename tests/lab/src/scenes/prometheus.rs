//! A real Prometheus scrapes the node.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{Scene, require};
use crate::lab::Lab;
use crate::node::METRICS;
use crate::process::Process;
use crate::say::Story;
use crate::wait::{until, with};

pub const SCENE: Scene = Scene { title: "a real Prometheus scrapes the metrics", play };

const LISTEN: &str = "127.0.0.1:9090";

fn play(lab: &mut Lab, story: &mut Story) -> Result<()> {
    let directory = lab.directory().join("prometheus");
    std::fs::create_dir_all(&directory)?;
    let configuration = directory.join("prometheus.yml");
    let scrape = format!(
        "global: {{scrape_interval: 1s}}\n\
         scrape_configs: [{{job_name: penstock, static_configs: [{{targets: ['{METRICS}']}}]}}]\n"
    );
    std::fs::write(&configuration, scrape)?;
    let mut command = lab.node.namespace.helper("prometheus");
    command.arg(format!("--config.file={}", configuration.display()));
    command.arg(format!("--storage.tsdb.path={}", directory.join("data").display()));
    command.arg(format!("--web.listen-address={LISTEN}"));
    let prometheus = Process::start(&mut command, &directory.join("prometheus.log"))?;

    let query = |expression: &str| -> Result<Option<f64>> {
        let line = format!("curl --silent --fail --max-time 2 http://{LISTEN}/api/v1/query?query={expression}");
        let said: Value = serde_json::from_str(&lab.node.namespace.run(&line)?).context("Prometheus' answer")?;
        Ok(said["data"]["result"][0]["value"][1].as_str().map(str::parse).transpose()?)
    };
    story.claim("PromQL gives what /metrics shows", || {
        let up = until("Prometheus has scraped the node", Duration::from_secs(20), || {
            Ok(query("up")?.filter(|&up| up == 1.0))
        })
        .map_err(with(|| prometheus.tail()))?;
        let expression = "sum(penstock_received_packets_total)";
        let received = until("received packets in Prometheus", Duration::from_secs(10), || query(expression))?;
        let shown = lab.node.metrics()?.sum("penstock_received_packets_total");
        // Scraped up to a second ago.
        require(received > 0.0 && received <= shown as f64, || {
            format!("Prometheus says {received}, the node {shown}")
        })?;
        Ok(format!("up = {up}\n{expression} = {received}"))
    })?;
    story.claim("promtool finds nothing to complain of", || {
        let mut promtool = std::process::Command::new("promtool");
        let mut child = promtool
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let text = lab.node.metrics_text()?;
        std::io::Write::write_all(&mut child.stdin.take().context("promtool's stdin")?, text.as_bytes())?;
        let done = child.wait_with_output()?;
        let said = String::from_utf8_lossy(&done.stderr).into_owned() + &String::from_utf8_lossy(&done.stdout);
        if !done.status.success() || !said.trim().is_empty() {
            bail!("promtool: {said}");
        }
        Ok(format!("{} samples checked", text.lines().filter(|line| !line.starts_with('#')).count()))
    })
}
