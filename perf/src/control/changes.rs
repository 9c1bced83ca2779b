//! Changes by the API: how long one takes, and how many a second it bears.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use anyhow::ensure;
use penstock::proto;
use penstock::proto::definitions_client::DefinitionsClient;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tonic::transport::Channel;

use super::node::Node;
use super::{Options, set};
use crate::interrupt;
use crate::stats::Ranks;

type Client = DefinitionsClient<Channel>;

/// Gives all backends of a service another weight; the version in which they have it.
async fn weigh(client: &mut Client, options: &Options, service: usize, weight: u32) -> anyhow::Result<String> {
    let request = proto::SetBackendsRequest {
        service: set::name(service),
        backends: set::backends(options, service, weight),
        ..proto::SetBackendsRequest::default()
    };
    let answer = client.set_backends(request).await?.into_inner();
    ensure!(answer.changed, "{} had the weight {weight} already", set::name(service));
    Ok(answer.version)
}

/// A backend of a service of its own weight, one change after the other.
pub async fn one_by_one(options: &Options, node: &Node) -> anyhow::Result<String> {
    let mut client = node.definitions();
    let mut times = Vec::new();
    for change in 0..options.changes {
        interrupt::check()?;
        // Not neighbours; services differ in the first of their backends.
        let service = change * 7_919 % options.services;
        let mut backends = set::backends(options, service, 100);
        backends[0].weight = Some(101 + (change / options.services) as u32);
        let request =
            proto::SetBackendsRequest { service: set::name(service), backends, ..proto::SetBackendsRequest::default() };
        let begin = Instant::now();
        let answer = client.set_backends(request).await?.into_inner();
        times.push(begin.elapsed());
        ensure!(answer.changed, "change {change} changed nothing");
    }
    Ok(format!(
        "\n### One change\n\n{} calls of `SetBackends`, one after the other, each for one backend's weight: {} ms from call to answer (median, p99, most), \
         which comes when the change is on disk and every lcore has it. The goal is a p99 of 10.\n",
        times.len(),
        Ranks::of(times.into_iter())
    ))
}

/// What one writer saw.
struct Written {
    /// From the moment at which a change was due to its answer.
    times: Vec<Duration>,
    versions: Vec<String>,
    /// By service, the weight that was acknowledged last.
    last: Vec<(usize, u32)>,
}

/// Many writers at once, each at its own services.
pub async fn many(options: &Options, node: &mut Node) -> anyhow::Result<String> {
    let (count, pause) = (options.rate as u64 * options.seconds, Duration::from_secs(1) / options.rate as u32);
    let each = count.div_ceil(options.writers as u64);
    let begin = Instant::now();
    let mut writers = JoinSet::new();
    for writer in 0..options.writers {
        let (mut client, options) = (node.definitions(), options.clone());
        writers.spawn(async move {
            let mut due = interval(pause * options.writers as u32);
            due.set_missed_tick_behavior(MissedTickBehavior::Burst);
            let services: Vec<_> = (writer..options.services).step_by(options.writers).take(50).collect();
            let mut last: Vec<_> = services.iter().map(|&service| (service, 0)).collect();
            let (mut times, mut versions) = (Vec::new(), Vec::new());
            for change in 0..each {
                let moment = due.tick().await;
                let (place, weight) = (change as usize % services.len(), 200 + change as u32 / services.len() as u32);
                versions.push(weigh(&mut client, &options, services[place], weight).await?);
                last[place].1 = weight;
                times.push(moment.elapsed());
            }
            anyhow::Ok(Written { times, versions, last })
        });
    }
    let mut written = Vec::new();
    while let Some(writer) = writers.join_next().await {
        interrupt::check()?;
        written.push(writer??);
    }
    let elapsed = begin.elapsed().as_secs_f64();

    // Every change is in a version of its own, and the last of each service is in force.
    let acknowledged: usize = written.iter().map(|written| written.versions.len()).sum();
    let versions: HashSet<&String> = written.iter().flat_map(|written| &written.versions).collect();
    let set = node.definitions().get(proto::GetRequest::default()).await?.into_inner().definitions.unwrap_or_default();
    let weight = |service: usize| {
        let found = set.services.iter().find(|found| found.name == set::name(service));
        found.and_then(|found| {
            found.backends.iter().map(|backend| backend.weight).reduce(|a, b| a.filter(|_| a == b))?
        })
    };
    for &(service, last) in written.iter().flat_map(|written| &written.last).filter(|(_, last)| *last > 0) {
        let now = weight(service);
        ensure!(now == Some(last), "{} has the weight {now:?}, but {last} was acknowledged last", set::name(service));
    }
    Ok(format!(
        "\n### Many changes\n\n{} writers, {acknowledged} calls of `SetBackends` in {elapsed:.1} s: **{:.0} a second** (asked for: {}), {} versions; from the moment \
         at which a call was due to its answer {} ms (median, p99, most). Each service has what was acknowledged last. Resident: {:.0} MB after it. The goal \
         is 1,000 a second for a minute.\n",
        options.writers,
        acknowledged as f64 / elapsed,
        options.rate,
        versions.len(),
        Ranks::of(written.iter().flat_map(|written| written.times.iter().copied())),
        node.memory_at_rest().await?.resident
    ))
}
