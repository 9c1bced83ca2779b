//! One thing that happens while the crowd goes on, and what the crowd must not notice of it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Result, bail};

use super::fleet::Fleet;
use super::shares::Fit;
use super::table::Row;
use crate::crowd::{Crowd, LATE, Size, Trouble, Window};
use crate::lab::{Lab, backend_address, backend_name};
use crate::node::{Node, Options};
use crate::say::Story;
use crate::wait::{PATIENCE, until, with};

/// Requests without an answer that `penstock explain` is asked about: after a change that is right there is hardly one.
const EXPLAINED: usize = 100;

/// What is waited for after an event: answers on every long-lived connection, which takes more than two seconds, and new flows.
const ROUNDS: u32 = 2;
const FLOWS: u64 = 600;

pub struct Trial<'a> {
    pub lab: &'a mut Lab,
    pub story: &'a mut Story,
    pub crowd: Crowd,
    pub fleet: Fleet,
    pub options: Options,
    idle: Duration,
    pub rows: Vec<Row>,
    /// Packet buffers in use before the first packet of a client.
    idle_mbufs: u64,
    /// When the node ended that may have known connections which the next does not: see [`Excused`].
    pub lost: Option<SystemTime>,
    /// Definitions published so far.
    versions: usize,
    /// The definitions before those in force, for `penstock explain`.
    before: PathBuf,
}

impl<'a> Trial<'a> {
    /// Starts the node as a new one, and the crowd.
    pub fn start(
        lab: &'a mut Lab,
        story: &'a mut Story,
        fleet: Fleet,
        options: Options,
        size: &Size,
        idle: Duration,
    ) -> Result<Trial<'a>> {
        lab.node.start_anew(&options, &fleet.services("changes 0", idle))?;
        let before = lab.directory().join("services-before.json");
        std::fs::copy(lab.node.services(), &before)?;
        let idle_mbufs = mbufs(&lab.node)?;
        let crowd = Crowd::start(&lab.client, &Fleet::addresses(), size)?;
        Ok(Self {
            lab,
            story,
            crowd,
            fleet,
            options,
            idle,
            rows: Vec::new(),
            idle_mbufs,
            lost: None,
            versions: 0,
            before,
        })
    }

    /// Puts the fleet in force as it is now.
    pub fn publish(&mut self) -> Result<()> {
        self.versions += 1;
        std::fs::copy(self.lab.node.services(), &self.before)?;
        self.lab.node.publish(&self.fleet.services(&format!("changes {}", self.versions), self.idle)).map(drop)
    }

    /// Lets something happen, waits until the crowd has gone on for a while after, and judges all of it. `down`: the backends whose connections
    /// may break by it.
    ///
    /// Claims that do not hold are told and counted; an error is that something could not be done.
    pub fn event(&mut self, title: &str, down: &[usize], happen: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        self.story.line("");
        self.lost = None;
        happen(self)?;
        self.crowd.count()?;
        let progress = self.crowd.until_settled(ROUNDS, FLOWS)?;
        let window = self.crowd.window()?;
        let excused = self.excused(&window, down)?;
        let fit = Fit::of(&progress.flows, &self.fleet.shares());
        let row = Row::of(title, &window, &excused, fit);
        let blamed = |troubles: &[Trouble]| tell(troubles.iter().filter(|trouble| !excused.holds(trouble)));
        let _ = self.story.claim(&format!("{title}: no connection broke or moved{}", excused.but_down()), || {
            let Row { open, closed, broken, moved, .. } = row;
            if broken + moved > 0 {
                let (first, other) = (blamed(&window.broken), tell(window.moved.iter()));
                bail!("of {open} {broken} broke, {moved} moved to another backend\n{first}{other}");
            }
            let closed = if closed > 0 { format!("; {closed} were closed as told") } else { String::new() };
            let apart = if row.excused > 0 { format!("; {} excused", row.excused) } else { String::new() };
            Ok(format!(
                "{} answers on {open}, each from the backend that gave the first{closed}{apart}",
                window.answers
            ))
        });
        let _ = self.story.claim(&format!("{title}: no short connection failed{}", excused.but()), || {
            let Row { short, failed, late, slowest, .. } = row;
            if failed > 0 {
                bail!("{failed} of {short} failed\n{}", blamed(&window.failed));
            }
            Ok(format!("{short} were answered, {late} after more than {LATE:?}; the longest wait was {slowest:.0?}"))
        });
        let _ = self.story.claim(&format!("{title}: new connections go by the weights"), || {
            let seen = format!("{}\n{}", row.fit, shares(&progress.flows, &self.fleet));
            if row.fit.is_good() { Ok(seen) } else { bail!(seen) }
        });
        self.rows.push(row);
        Ok(())
    }

    /// Ends the crowd; what it has used must be given back.
    pub fn end(self) -> Result<()> {
        self.crowd.stop()?;
        let idle = self.idle_mbufs;
        let _ = self.story.claim("without traffic no more packet buffers are in use than before it", || {
            let mut last = 0;
            until(&format!("{idle} are in use"), PATIENCE, || {
                last = mbufs(&self.lab.node)?;
                Ok((last <= idle).then_some(()))
            })
            .map_err(with(|| format!("{last} are")))?;
            Ok(format!("{last}, and {idle} before"))
        });
        Ok(())
    }

    /// Which troubles are due to a backend that is down.
    pub fn excused(&self, window: &Window, down: &[usize]) -> Result<Excused> {
        let names = names(down);
        let addresses: Vec<IpAddr> =
            down.iter().map(|&number| backend_address(number).parse()).collect::<Result<_, _>>()?;
        let mut flows = Vec::new();
        if !down.is_empty() {
            for Trouble { client, server, .. } in window.failed.iter().take(EXPLAINED) {
                let by = |services: &Path| self.lab.node.explain(services, *client, *server);
                let owners = [by(&self.before)?, by(&self.lab.node.services())?];
                if owners.into_iter().flatten().any(|owner| addresses.contains(&owner)) {
                    flows.push((*client, *server));
                }
            }
        }
        Ok(Excused { names, flows, lost: self.lost })
    }
}

/// Whom a break is not held against.
pub struct Excused {
    /// Backends that are down: who met them.
    names: Vec<String>,
    /// Of connections that nobody has answered: those that the tables give to such a backend.
    flows: Vec<(SocketAddr, SocketAddr)>,
    /// Where a node ended amid a change, whoever had begun before and was not answered yet. A flow that opens amid a change is kept by
    /// the flow table alone, which ends with the process; here these are short ones, under way for a millisecond.
    lost: Option<SystemTime>,
}

impl Excused {
    pub fn holds(&self, trouble: &Trouble) -> bool {
        match &trouble.backend {
            Some(backend) => self.names.contains(backend),
            None => {
                self.flows.contains(&(trouble.client, trouble.server))
                    || self.lost.is_some_and(|lost| trouble.begun < lost)
            }
        }
    }

    /// As a claim on long-lived connections says it.
    fn but_down(&self) -> String {
        if self.names.is_empty() { String::new() } else { format!(" but on {}", self.names.join(", ")) }
    }

    /// As a claim on short ones says it.
    fn but(&self) -> String {
        self.but_down() + if self.lost.is_some() { " but under way when it ended" } else { "" }
    }
}

/// Packet buffers in use: the least of some looks, since the kernel twin's traffic takes one for a moment.
fn mbufs(node: &Node) -> Result<u64> {
    let looks = (0..10).map(|_| Ok(node.metrics()?.sum("penstock_mempool_mbufs_in_use")));
    Ok(looks.collect::<Result<Vec<u64>>>()?.into_iter().min().unwrap_or(0))
}

fn names(numbers: &[usize]) -> Vec<String> {
    numbers.iter().map(|&number| backend_name(number)).collect()
}

/// How many of each kind, and one of them.
pub fn tell<'t>(troubles: impl Iterator<Item = &'t Trouble>) -> String {
    let mut kinds = BTreeMap::<&str, (usize, &Trouble)>::new();
    troubles.for_each(|trouble| kinds.entry(&trouble.what).or_insert((0, trouble)).0 += 1);
    kinds.values().map(|(count, trouble)| format!("{count} like {trouble}\n")).collect()
}

/// What each has got, and what was expected.
fn shares(flows: &BTreeMap<String, u64>, fleet: &Fleet) -> String {
    let (weights, all) = (fleet.shares(), flows.values().sum::<u64>() as f64);
    let sum: f64 = weights.values().sum();
    let mut told: Vec<String> = Vec::new();
    for &number in fleet.0.keys() {
        let name = backend_name(number);
        let expected = weights.get(&name).map_or(0.0, |weight| all * weight / sum);
        told.push(format!("{name} {} ({expected:.0})", flows.get(&name).copied().unwrap_or(0)));
    }
    told.join(" · ")
}
