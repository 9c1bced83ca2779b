//! Thousands of clients: long-lived connections that ask again and again and must meet the backend that they have met first, and
//! beside them a stream of short ones.
//!
//! They live in one process in the client's namespace ([`connections`]), which takes commands on its stdin and answers each by a line.
//! What happens is counted in windows, one after the other without a gap.

pub mod connections;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::client::Client;
use crate::lab::CLIENT;
use crate::process::Process;
use crate::wait::{PATIENCE, until, with};

/// How long an answer may take. An outage of a few seconds is outlived by TCP's retransmissions, whose pauses double.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// Where its connections come from.
const CLIENTS: [&str; 4] = [CLIENT, "198.51.100.11", "198.51.100.12", "198.51.100.13"];

/// What takes longer was sent again: Linux repeats a SYN after a second.
pub const LATE: Duration = Duration::from_millis(900);

/// How many, and how often.
pub struct Size {
    /// Long-lived connections, shared out evenly among the services.
    pub seats: usize,
    /// Between an answer on such a connection and the next request.
    pub pause: Duration,
    /// Short connections a second, by turns to each service; fewer where the machine does not bear it.
    pub rate: u32,
}

/// A running crowd.
pub struct Crowd {
    process: Process,
    said: BufReader<File>,
    pub seats: usize,
}

/// What happened in a window.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Window {
    /// Long-lived connections at its end, by backend.
    pub open: BTreeMap<String, usize>,
    /// Answers on them.
    pub answers: u64,
    /// Those that the client has closed because it was told to.
    pub closed: u64,
    /// Those that have ended otherwise.
    pub broken: Vec<Trouble>,
    /// Those on which another backend has answered.
    pub moved: Vec<Trouble>,
    /// Short connections that have ended, well or not.
    pub short: u64,
    /// Those that have ended without an answer, and long-lived ones without a first.
    pub failed: Vec<Trouble>,
    /// Short ones that took longer than [`LATE`].
    pub late: u64,
    /// The longest time of a good answer, on either kind.
    pub slowest: Duration,
}

/// What went wrong on a connection.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Trouble {
    pub client: SocketAddr,
    pub server: SocketAddr,
    /// When the connection was begun.
    pub begun: SystemTime,
    /// Who answered first; `None`: nobody has.
    pub backend: Option<String>,
    pub what: String,
}

/// What has happened since the last [`Crowd::count`].
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Progress {
    /// Requests that began since and were answered: on the long-lived connection that has fewest.
    pub rounds: u32,
    /// Long-lived connections, now.
    pub open: BTreeMap<String, usize>,
    /// Connections that began since and were answered, by backend.
    pub flows: BTreeMap<String, u64>,
}

impl Window {
    pub fn connections(&self) -> usize {
        self.open.values().sum()
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let backend = self.backend.as_deref().unwrap_or("nobody yet");
        write!(f, "{} -> {} ({backend}): {}", self.client, self.server, self.what)
    }
}

impl Crowd {
    /// From the client's address and some more, which it gets.
    pub fn start(client: &Client, services: &[String], size: &Size) -> Result<Self> {
        for more in &CLIENTS[1..] {
            client.namespace.ip(&format!("address replace {more}/24 dev eth0"))?;
        }
        let mut command = client.namespace.helper(std::env::current_exe()?);
        command.args(["crowd", &size.seats.to_string(), &size.pause.as_micros().to_string(), &size.rate.to_string()]);
        let log = client.directory.join("crowd.log");
        // Of a crowd before.
        let _ = std::fs::remove_file(&log);
        let process =
            Process::start(command.args([CLIENTS.join(","), services.join(",")]).stdin(Stdio::piped()), &log)?;
        let said = BufReader::new(File::open(&log).with_context(|| log.display().to_string())?);
        Ok(Self { process, said, seats: size.seats })
    }

    /// Ends the window and begins the next.
    pub fn window(&mut self) -> Result<Window> {
        self.ask("window")
    }

    /// Counts rounds and new flows from now on.
    pub fn count(&mut self) -> Result<()> {
        self.ask("count")
    }

    pub fn progress(&mut self) -> Result<Progress> {
        self.ask("progress")
    }

    /// Has those on a backend close their connections, each after the answer that it waits for, and make others.
    pub fn leave(&mut self, backend: &str) -> Result<()> {
        self.ask(&format!("leave {backend}"))
    }

    /// Waits until each long-lived connection has had so many answers to requests of later than [`Crowd::count`], and so many new flows
    /// were answered.
    pub fn until_settled(&mut self, rounds: u32, flows: u64) -> Result<Progress> {
        let seats = self.seats;
        let mut last = Progress::default();
        until(&format!("{rounds} answers on each of {seats} connections, {flows} new ones"), 3 * PATIENCE, || {
            last = self.progress()?;
            std::thread::sleep(Duration::from_millis(50));
            let settled = last.rounds >= rounds && last.flows.values().sum::<u64>() >= flows;
            Ok((settled && last.open.values().sum::<usize>() == seats).then_some(()))
        })
        .map_err(with(|| format!("last: {last:?}")))?;
        Ok(last)
    }

    /// Ends all connections; what has happened since the last window.
    pub fn stop(mut self) -> Result<Window> {
        let window = self.window()?;
        self.process.close_stdin();
        self.process.until_it_ends(PATIENCE)?;
        Ok(window)
    }

    fn ask<T: DeserializeOwned>(&mut self, command: &str) -> Result<T> {
        self.process.tell(command)?;
        let mut line = String::new();
        until(&format!("the crowd answers to \"{command}\""), PATIENCE, || {
            let is_over = !self.process.running();
            self.said.read_line(&mut line)?;
            Ok((line.ends_with('\n') || is_over).then_some(()))
        })?;
        match serde_json::from_str(&line) {
            Ok(answer) => Ok(answer),
            Err(_) => bail!("the crowd said: {line}{}", self.process.tail()),
        }
    }
}
