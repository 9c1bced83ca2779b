//! A real etcd, filled.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use base64::prelude::{BASE64_STANDARD, Engine};
use penstock::proto;

use super::set;
use crate::node::free_address;
use crate::process::Process;

pub const PREFIX: &str = "/penstock/services/";

pub struct Etcd {
    _process: Process,
    pub address: SocketAddr,
}

impl Etcd {
    pub fn start(directory: &Path) -> anyhow::Result<Self> {
        let (address, peers) = (free_address()?, free_address()?);
        let arguments = [
            format!("--data-dir={}", directory.join("etcd").display()),
            format!("--listen-client-urls=http://{address}"),
            format!("--advertise-client-urls=http://{address}"),
            format!("--listen-peer-urls=http://{peers}"),
            format!("--initial-advertise-peer-urls=http://{peers}"),
            format!("--initial-cluster=default=http://{peers}"),
            "--log-level=error".to_owned(),
        ];
        let mut process = Process::start("etcd", &arguments, false)?;
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(address).is_err() {
            process.check_alive()?;
            ensure!(Instant::now() < deadline, "etcd does not listen");
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(Self { _process: process, address })
    }

    /// One key a service, by the JSON gateway, over one connection.
    pub fn fill(&self, set: &proto::ServiceSet) -> anyhow::Result<()> {
        let mut stream = BufReader::new(TcpStream::connect(self.address)?);
        stream.get_ref().set_nodelay(true)?;
        stream.get_ref().set_read_timeout(Some(Duration::from_secs(20)))?;
        for service in &set.services {
            let encode = |text: String| BASE64_STANDARD.encode(text);
            let body = serde_json::json!({
                "key": encode(format!("{PREFIX}{}", service.name)),
                "value": encode(set::json(service).to_string()),
            });
            let body = body.to_string();
            let head = format!("POST /v3/kv/put HTTP/1.1\r\nHost: etcd\r\nContent-Length: {}\r\n\r\n", body.len());
            stream.get_mut().write_all((head + &body).as_bytes())?;
            let mut line = String::new();
            stream.read_line(&mut line)?;
            ensure!(line.contains(" 200 "), "etcd: {line}");
            let mut length = 0;
            while line != "\r\n" {
                line.clear();
                stream.read_line(&mut line)?;
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().context("content-length")?;
                }
            }
            stream.read_exact(&mut vec![0; length])?;
        }
        Ok(())
    }
}
