//! What crosses a wire, by tcpdump: the evidence for where packets went, and when.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::namespace::Namespace;
use crate::process::Process;
use crate::wait::{PATIENCE, until};

/// A capture that goes on until it is dropped; its file stays.
pub struct Capture {
    process: Process,
    file: PathBuf,
}

/// One captured packet.
pub struct Seen {
    /// Seconds since the epoch, to the nanosecond.
    pub at: f64,
    /// As tcpdump prints it, without the time.
    pub text: String,
}

impl Seen {
    /// Bytes of the frame, as tcpdump counts them.
    pub fn length(&self) -> Option<usize> {
        self.text.split_once(", length ")?.1.split(':').next()?.parse().ok()
    }
}

impl Capture {
    /// Captures on an interface what the filter lets through; returns once packets are being caught.
    pub fn start(namespace: &Namespace, interface: &str, filter: &str, file: PathBuf) -> Result<Self> {
        Self::catch(namespace, interface, filter, file, "192")
    }

    /// The same, of whole packets.
    pub fn whole(namespace: &Namespace, interface: &str, filter: &str, file: PathBuf) -> Result<Self> {
        Self::catch(namespace, interface, filter, file, "0")
    }

    fn catch(namespace: &Namespace, interface: &str, filter: &str, file: PathBuf, bytes: &str) -> Result<Self> {
        let mut command = namespace.helper("tcpdump");
        // -Z root: else it gives up root and with it the right to write into the lab's directory.
        command.args(["-Z", "root", "-n", "--immediate-mode", "-U", "-s", bytes, "-B", "16384"]);
        command.args(["--time-stamp-precision=nano", "-i", interface, "-w"]).arg(&file).arg(filter);
        let log = file.with_extension("log");
        // What an earlier one of that name said is no sign of this one.
        let _ = std::fs::remove_file(&log);
        let mut process = Process::start(&mut command, &log)?;
        process.until_it_says("listening on", PATIENCE)?;
        Ok(Self { process, file })
    }

    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The packets so far that a filter lets through, with their Ethernet headers.
    pub fn packets(&self, filter: &str) -> Result<Vec<Seen>> {
        let mut command = Command::new("tcpdump");
        command.args(["-nn", "-e", "-tt", "--time-stamp-precision=nano", "-r"]).arg(&self.file).arg(filter);
        let read = command.stdin(Stdio::null()).output().context("cannot run tcpdump")?;
        let complaint = String::from_utf8_lossy(&read.stderr);
        // The capture goes on while it is read: its last packet may be half there.
        if !read.status.success() && !complaint.contains("truncated") {
            bail!("tcpdump -r {} \"{filter}\": {complaint}", self.file.display());
        }
        let mut packets = Vec::new();
        for line in String::from_utf8_lossy(&read.stdout).lines() {
            // A packet's continuation lines are indented, with the inner packet of a tunnel.
            match line.split_once(' ') {
                Some((at, text)) if !line.starts_with(char::is_whitespace) => packets
                    .push(Seen { at: at.parse().with_context(|| format!("tcpdump's {line}"))?, text: text.into() }),
                _ => {}
            }
        }
        Ok(packets)
    }

    pub fn count(&self, filter: &str) -> Result<usize> {
        Ok(self.packets(filter)?.len())
    }

    /// Waits until at least so many packets of a filter have been caught.
    pub fn until_it_has(&self, at_least: usize, filter: &str) -> Result<()> {
        until(&format!("{at_least} packets of \"{filter}\" in {}", self.file.display()), PATIENCE, || {
            Ok((self.count(filter)? >= at_least).then_some(()))
        })
    }

    /// Ends the capture without loss; its packets can still be read.
    pub fn stop(&mut self) -> Result<()> {
        self.process.signal("INT")?;
        self.process.until_it_ends(PATIENCE).map(drop)
    }
}
