//! How long it takes until a whole set is in force.

use std::fmt::Write as _;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::bail;
use penstock::proto;

use super::etcd::{Etcd, PREFIX};
use super::node::{Memory, Node};
use super::{Options, set};
use crate::rig::Rig;

pub const SOURCES: [&str; 3] = ["file", "api", "etcd"];

const NONE: &str = "[feed]\nkind = \"none\"\n";

/// What was seen of one source.
struct Loads {
    /// From the program's start to the set in force, or from a call to its answer: the first set.
    first: Duration,
    /// All of it replaced by another one.
    replaced: Option<Duration>,
    memory: Memory,
}

/// A table.
pub async fn measure(options: &Options, rig: &Rig) -> anyhow::Result<String> {
    let mut text =
        "\n### A whole set\n\n| from | first set in force | another one in its place | resident | at most |\n|---|--:|--:|--:|--:|\n"
            .to_owned();
    for source in &options.sources {
        let loads = match source.as_str() {
            "file" => by_file(options, rig).await?,
            "api" => by_api(options, rig).await?,
            "etcd" => by_etcd(options, rig).await?,
            _ => bail!("--sources: there is no source {source:?}"),
        };
        let replaced = loads.replaced.map_or("—".to_owned(), |time| format!("{:.2} s", time.as_secs_f64()));
        let first = loads.first.as_secs_f64();
        let _ = writeln!(
            text,
            "| {source} | {first:.2} s | {replaced} | {:.0} MB | {:.0} MB |",
            loads.memory.resident, loads.memory.most
        );
    }
    text += "\nFrom the start of the program, DPDK's included, for `file` and `etcd`; from a call of `Replace` to its answer for `api`. Resident: two \
             seconds later; what is there at most is while two sets are there. The goal is 3 s, and 300 MB.\n";
    Ok(text)
}

async fn by_file(options: &Options, rig: &Rig) -> anyhow::Result<Loads> {
    let path = rig.directory.join("services.json");
    let sets = [("1", 100), ("2", 50)].map(|(version, weight)| set::document(&set::message(options, version, weight)));
    fs::write(&path, &sets[0])?;
    let begin = Instant::now();
    let mut node = Node::start(&options.penstock, rig, "[feed]\nkind = \"file\"\npath = \"services.json\"\n", false)?;
    node.has_version("1").await?;
    let first = begin.elapsed();
    let new = path.with_extension("new");
    fs::write(&new, &sets[1])?;
    let begin = Instant::now();
    fs::rename(&new, &path)?;
    node.has_version("2").await?;
    let loads = Loads { first, replaced: Some(begin.elapsed()), memory: node.memory_at_rest().await? };
    node.end()?;
    Ok(loads)
}

async fn by_api(options: &Options, rig: &Rig) -> anyhow::Result<Loads> {
    let mut node = Node::start(&options.penstock, rig, NONE, false)?;
    let first = replace(options, &mut node, 100).await?;
    let replaced = Some(replace(options, &mut node, 50).await?);
    let loads = Loads { first, replaced, memory: node.memory_at_rest().await? };
    node.end()?;
    Ok(loads)
}

async fn by_etcd(options: &Options, rig: &Rig) -> anyhow::Result<Loads> {
    let etcd = Etcd::start(&rig.directory)?;
    etcd.fill(&set::message(options, "", 100))?;
    let feed = format!("[feed]\nkind = \"etcd\"\nurl = \"http://{}\"\nprefix = \"{PREFIX}\"\n", etcd.address);
    let begin = Instant::now();
    let mut node = Node::start(&options.penstock, rig, &feed, false)?;
    node.has_version("").await?;
    let loads = Loads { first: begin.elapsed(), replaced: None, memory: node.memory_at_rest().await? };
    node.end()?;
    Ok(loads)
}

/// A node that has the set by its API.
pub async fn started(options: &Options, rig: &Rig) -> anyhow::Result<Node> {
    let mut node = Node::start(&options.penstock, rig, NONE, false)?;
    replace(options, &mut node, 100).await?;
    Ok(node)
}

async fn replace(options: &Options, node: &mut Node, weight: u32) -> anyhow::Result<Duration> {
    node.answers().await?;
    let definitions = Some(set::message(options, &weight.to_string(), weight));
    let request = proto::ReplaceRequest { definitions, ..proto::ReplaceRequest::default() };
    let begin = Instant::now();
    node.definitions().replace(request).await?;
    Ok(begin.elapsed())
}
