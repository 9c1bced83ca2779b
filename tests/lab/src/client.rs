//! Those who ask: curl, ping, and steady traffic of our own from the client's namespace.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::datagram::Order;
use crate::namespace::Namespace;
use crate::process::{Process, output};

pub struct Client {
    pub namespace: Rc<Namespace>,
    pub directory: PathBuf,
}

/// What a backend said of the request, beside what curl knows of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Answer {
    /// Who answered.
    pub backend: String,
    /// Address and port of the client, as the backend saw them.
    pub client_seen: String,
    /// Address and port that the backend was addressed by.
    pub server_seen: String,
    /// Address and port of the client, as curl had them.
    pub client: String,
    /// Whom curl talked to.
    pub server: String,
}

/// What curl appends: its own ends of the connection.
const WRITE_OUT: &str = "%{local_ip}:%{local_port} %{remote_ip}:%{remote_port}\n";

impl Client {
    /// One request by curl.
    pub fn curl(&self, url: &str) -> Result<Answer> {
        Ok(self.curl_many(url, 1)?.remove(0))
    }

    /// One request from that port.
    pub fn curl_from(&self, url: &str, port: u16) -> Result<Answer> {
        let mut curl = self.namespace.command("curl");
        curl.args(["--silent", "--show-error", "--fail", "--max-time", "5", "--local-port", &port.to_string()]);
        let said = output(curl.args(["--header", "Connection: close", "--write-out", WRITE_OUT, url]))?;
        answer(&said.split_whitespace().collect::<Vec<_>>())
    }

    /// A connection that has had one answer, and is held until the process is dropped.
    pub fn hold(&self, address: &str) -> Result<(Process, Answer)> {
        let mut command = self.namespace.helper(std::env::current_exe()?);
        command.args(["hold", address]).stdin(Stdio::piped());
        let mut process = Process::start(&mut command, &fresh(&self.directory.join("hold.log")))?;
        process.until_it_says("held\n", Duration::from_secs(10))?;
        let said = process.said();
        let words: Vec<&str> = said.split_whitespace().collect();
        let answer = answer(&words[..words.len() - 1])?;
        Ok((process, answer))
    }

    /// So many requests by one curl, each on a connection of its own; every one must succeed.
    pub fn curl_many(&self, url: &str, requests: usize) -> Result<Vec<Answer>> {
        let mut curl = self.namespace.command("curl");
        curl.args(["--silent", "--show-error", "--fail", "--fail-early", "--max-time", "5"]);
        curl.args(["--header", "Connection: close", "--write-out", WRITE_OUT]);
        let said = output(curl.arg(format!("{url}?[1-{requests}]")))?;
        let words: Vec<&str> = said.split_whitespace().collect();
        let answers: Vec<Answer> = words.chunks(5).map(answer).collect::<Result<_>>()?;
        if answers.len() != requests {
            bail!("{} answers to {requests} requests", answers.len());
        }
        Ok(answers)
    }

    /// Uploads so many bytes by one POST; gives how many curl sent before it had its answer.
    pub fn upload(&self, url: &str, bytes: usize) -> Result<usize> {
        self.upload_within(url, bytes, Duration::from_secs(20))
    }

    pub fn upload_within(&self, url: &str, bytes: usize, deadline: Duration) -> Result<usize> {
        let file = self.directory.join("upload");
        std::fs::write(&file, vec![b'x'; bytes])?;
        let mut curl = self.namespace.command("curl");
        curl.args(["--silent", "--show-error", "--fail", "--header", "Expect:"]);
        curl.args(["--max-time", &deadline.as_secs_f64().to_string()]);
        curl.args(["--write-out", "%{size_upload}", "--output", "/dev/null", "--data-binary"]);
        let said = output(curl.arg(format!("@{}", file.display())).arg(url))?;
        said.trim().parse().with_context(|| format!("curl's {said}"))
    }

    /// Gets what is there, whole.
    pub fn get(&self, url: &str) -> Result<Vec<u8>> {
        let file = fresh(&self.directory.join("download"));
        let mut curl = self.namespace.command("curl");
        curl.args(["--silent", "--show-error", "--fail", "--max-time", "20", "--output"]);
        output(curl.arg(&file).arg(url))?;
        Ok(std::fs::read(file)?)
    }

    /// Puts a file there.
    pub fn put(&self, url: &str, content: &[u8]) -> Result<()> {
        let file = self.directory.join("upload");
        std::fs::write(&file, content)?;
        let mut curl = self.namespace.command("curl");
        curl.args(["--silent", "--show-error", "--fail", "--max-time", "20", "--header", "Expect:", "--upload-file"]);
        output(curl.arg(file).arg(url)).map(drop)
    }

    /// Sends one UDP query of so many bytes to an echo server; whether all of them came back in time.
    pub fn ask(
        &self,
        server: SocketAddr,
        client: &str,
        bytes: usize,
        order: Order,
        patience: Duration,
    ) -> Result<bool> {
        let order = match order {
            Order::Forward => "forward",
            Order::Reverse => "reverse",
        };
        let mut command = self.namespace.command(std::env::current_exe()?);
        command.args([
            "ask",
            &server.to_string(),
            client,
            &bytes.to_string(),
            order,
            &patience.as_micros().to_string(),
        ]);
        Ok(output(&mut command)?.starts_with("answered"))
    }

    /// Asks on and on, until told to stop.
    pub fn load(&self, address: &str, workers: usize, pause: Duration) -> Result<Load> {
        let mut command = self.namespace.helper(std::env::current_exe()?);
        command.args(["load", address, &workers.to_string(), &pause.as_micros().to_string()]).stdin(Stdio::piped());
        let log = fresh(&self.directory.join("load.log"));
        Ok(Load(Process::start(&mut command, &log)?))
    }

    /// Makes so many connections, each with one request, and none a second time.
    pub fn churn(&self, address: &str, connections: u64, workers: usize) -> Result<Report> {
        let mut command = self.namespace.command(std::env::current_exe()?);
        Report::parse(&output(command.args(["churn", address, &connections.to_string(), &workers.to_string()]))?)
    }

    /// Sends one small datagram after the other from one port, until dropped.
    pub fn beat(&self, address: &str, pause: Duration) -> Result<Process> {
        let mut command = self.namespace.helper(std::env::current_exe()?);
        command.args(["beat", address, &pause.as_micros().to_string()]).stdin(Stdio::piped());
        Process::start(&mut command, &fresh(&self.directory.join("beat.log")))
    }
}

/// Requests that go on in the background.
pub struct Load(Process);

/// How they fared.
#[derive(Debug, Default)]
pub struct Report {
    pub requests: u64,
    /// Requests whose connection broke before any answer and that succeeded when sent again, as HTTP clients do with a GET.
    pub repeated: u64,
    pub failed: u64,
    pub backends: BTreeMap<String, u64>,
    pub failures: Vec<String>,
}

impl Load {
    /// Ends the load after the requests under way.
    pub fn stop(mut self) -> Result<Report> {
        self.0.close_stdin();
        self.0.until_it_ends(Duration::from_secs(15))?;
        Report::parse(&self.0.said())
    }
}

impl Report {
    fn parse(said: &str) -> Result<Self> {
        let mut report = Self::default();
        for line in said.lines() {
            let words: Vec<&str> = line.splitn(3, ' ').collect();
            match words[..] {
                ["requests", count] => report.requests = count.parse()?,
                ["repeated", count] => report.repeated = count.parse()?,
                ["failed", count] => report.failed = count.parse()?,
                ["served", backend, count] => drop(report.backends.insert(backend.to_string(), count.parse()?)),
                ["failure", ..] => report.failures.push(line.to_string()),
                _ => bail!("the load said: {line}"),
            }
        }
        Ok(report)
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} requests, {} failed, {} repeated", self.requests, self.failed, self.repeated)?;
        for (backend, count) in &self.backends {
            write!(f, " · {backend} {count}")?;
        }
        self.failures.iter().try_for_each(|failure| write!(f, "\n{failure}"))
    }
}

/// The times of a ping, in milliseconds.
pub fn ping(from: &Namespace, address: &str, count: usize) -> Result<Vec<f64>> {
    let said = from.run(&format!("ping -n -c {count} -i 0.02 -w 5 {address}"))?;
    let times = said.lines().filter_map(|line| line.split_once("time=")?.1.strip_suffix(" ms"));
    let times: Vec<f64> = times.map(str::parse).collect::<Result<_, _>>().context("ping's times")?;
    if said.contains("DUP!") {
        bail!("answered twice:\n{said}");
    }
    if times.len() != count {
        bail!("{} of {count} answered", times.len());
    }
    Ok(times)
}

pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The path, with nothing there from before.
fn fresh(path: &Path) -> PathBuf {
    let _ = std::fs::remove_file(path);
    path.to_path_buf()
}

/// Three words of the backend (see `backend.rs`), then curl's two.
fn answer(words: &[&str]) -> Result<Answer> {
    let &[backend, client_seen, server_seen, client, server] = words else {
        bail!("an answer of another form: {}", words.join(" "));
    };
    let [backend, client_seen, server_seen, client, server] =
        [backend, client_seen, server_seen, client, server].map(String::from);
    Ok(Answer { backend, client_seen, server_seen, client, server })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn an_answer_is_five_words() {
        let words = ["backend1", "198.51.100.10:4000", "192.0.2.1:80", "198.51.100.10:4000", "192.0.2.1:80"];
        let read = answer(&words).unwrap();
        assert_eq!((read.backend.as_str(), read.server.as_str()), ("backend1", "192.0.2.1:80"));
        assert!(answer(&["<html>"]).is_err());
    }
}
