//! A node on the rig that is asked over its API.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use penstock::proto::definitions_client::DefinitionsClient;
use penstock::proto::node_client::NodeClient;
use penstock::proto::{self, LARGEST_MESSAGE};
use penstock::service::Forwarding;
use tonic::transport::{Channel, Endpoint};

use crate::forwarder::Rate;
use crate::machine::pin;
use crate::process::Process;
use crate::rig::Rig;
use crate::{interrupt, node};

/// So long may a start, or a load, take.
const PATIENCE: Duration = Duration::from_secs(120);

pub struct Node {
    process: Process,
    channel: Channel,
    pub api: SocketAddr,
    pub metrics: SocketAddr,
}

/// Megabytes of a process, its program and libraries among them: now, and at most so far.
pub struct Memory {
    pub resident: f64,
    pub most: f64,
}

impl Node {
    /// Starts one with this block `[feed]`, what the last one knew being forgotten unless `keep`.
    pub fn start(penstock: &Path, rig: &Rig, feed: &str, keep: bool) -> anyhow::Result<Self> {
        if !keep {
            let _ = fs::remove_dir_all(rig.directory.join("state"));
        }
        let (api, metrics) = (node::free_address()?, node::free_address()?);
        let config = format!(
            "{}\n{feed}\n[api]\nlisten = [\"{api}\"]\n\n[metrics]\nlisten = \"{metrics}\"\n",
            node::forwarder(rig, Forwarding::Ipip, 1 << 20)
        );
        let path = rig.directory.join("penstock.toml");
        fs::write(&path, config)?;
        let arguments = ["run".to_owned(), "--config".to_owned(), path.display().to_string()];
        pin(&[rig.main, rig.lcore])?;
        let process = Process::start(&penstock.display().to_string(), &arguments, false);
        pin(&[rig.main])?;
        let process = process?;
        let channel = Endpoint::from_shared(format!("http://{api}"))?.connect_lazy();
        Ok(Self { process, channel, api, metrics })
    }

    pub fn definitions(&self) -> DefinitionsClient<Channel> {
        DefinitionsClient::new(self.channel.clone())
            .max_decoding_message_size(LARGEST_MESSAGE)
            .max_encoding_message_size(LARGEST_MESSAGE)
    }

    /// Until a set of this version (any, for an empty one) is in force, and packets are under way.
    pub async fn has_version(&mut self, version: &str) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.process.check_alive()?;
            if let Ok(status) = self.status().await
                && status.version.as_deref().is_some_and(|now| version.is_empty() || now == version)
                && status.ports.iter().any(|port| port.received > 0)
            {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "version {version:?} is not in force within {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Until it answers calls.
    pub async fn answers(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = self.status().await {
            self.process.check_alive()?;
            ensure!(Instant::now() < deadline, "no answer within {PATIENCE:?}: {error}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    pub async fn status(&self) -> anyhow::Result<proto::StatusResponse> {
        let mut client = NodeClient::new(self.channel.clone()).max_decoding_message_size(LARGEST_MESSAGE);
        Ok(client.status(proto::StatusRequest {}).await?.into_inner())
    }

    /// The rate of packets over some time.
    pub async fn rate(&mut self, time: Duration) -> anyhow::Result<Rate> {
        let (begin, before, core) = (Instant::now(), self.forwarded().await?, self.process.core_times()?);
        let begin = begin + begin.elapsed() / 2;
        tokio::time::sleep(time).await;
        interrupt::check()?;
        let asked = Instant::now();
        let (after, core) = (self.forwarded().await?, self.process.core_times()?.off_core_since(&core)?);
        let elapsed = (asked + asked.elapsed() / 2).duration_since(begin).as_secs_f64();
        Ok(Rate::new((after - before) as f64 / elapsed, core))
    }

    async fn forwarded(&self) -> anyhow::Result<u64> {
        Ok(self.status().await?.ports.iter().map(|port| port.forwarded).sum())
    }

    /// When what a set left is swept up.
    pub async fn memory_at_rest(&self) -> anyhow::Result<Memory> {
        tokio::time::sleep(Duration::from_secs(2)).await;
        self.memory()
    }

    /// Packet buffers are not in it: those are hugepages.
    pub fn memory(&self) -> anyhow::Result<Memory> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let megabytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).with_context(|| name.to_owned())?;
            Ok::<_, anyhow::Error>(line.trim_end_matches("kB").trim().parse::<f64>()? * 1024.0 / 1e6)
        };
        Ok(Memory { resident: megabytes("VmRSS:")?, most: megabytes("VmHWM:")? })
    }

    pub fn end(mut self) -> anyhow::Result<()> {
        self.process.check_alive()?;
        self.process.stop(Duration::from_secs(10));
        Ok(())
    }
}
