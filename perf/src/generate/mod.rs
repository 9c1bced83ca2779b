//! A generator of our own, where there is neither pktgen nor TRex: plays a capture, round and round, on any DPDK device at a given
//! rate, and counts what comes back. `throughput` drives it; by hand it does as well:
//!
//! ```text
//! perf/generate --device 0000:03:00.0 --lcore 2
//! load acks.pcap                                   -> loaded frames=1000 bytes=60000
//! trial 1000000 10 2                               -> trial sent=10000000 returned=10000000 foreign=0 refused=0 seconds=10.000
//! ```
//!
//! `trial RATE SECONDS WAIT` sends `RATE × SECONDS` frames, evenly, and then goes on receiving for `WAIT` seconds. `latency RATE WARM-UP
//! SECONDS WAIT` does the same with frames of TCP, and says for how many nanoseconds they were under way; those of the first `WARM-UP`
//! seconds do not count.

mod histogram;
mod pace;
pub mod reflect;
mod stamp;
pub mod stopwatch;

use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use dpdk::{BURST, Batch, Eal, Mempool, Port, Queue, cycles};
use pcap_file::pcap::PcapReader;

use pace::Pace;
use stopwatch::{Stopwatch, Timed};

#[derive(clap::Args)]
pub struct Options {
    #[command(flatten)]
    rig: Rig,
    /// Frames that are made up for at once after others had the core; less than the forwarder's queue holds.
    #[arg(long, default_value_t = 256)]
    behind: u64,
}

/// What both the generator and the reflector are told of the machine.
#[derive(clap::Args)]
pub struct Rig {
    /// A PCI address, or a virtual device: "net_memif0,role=client,socket=/run/lab.sock". Of two, the first sends and the second receives.
    #[arg(long, required = true)]
    device: Vec<String>,
    /// The CPU that polls.
    #[arg(long, default_value_t = 1)]
    lcore: u16,
    /// Packet buffers.
    #[arg(long, default_value_t = 65_535)]
    mbufs: u32,
    /// Slots of a receive and a transmit queue; the driver rounds.
    #[arg(long, default_value_t = 1024)]
    descriptors: u16,
    /// Arguments of DPDK's EAL, as they are; default: --in-memory, and of PCI devices only those named.
    #[arg(long, allow_hyphen_values = true, value_delimiter = ' ')]
    eal: Vec<String>,
}

impl Rig {
    fn eal_arguments(&self) -> Vec<String> {
        if !self.eal.is_empty() {
            return self.eal.clone();
        }
        let pci =
            |device: &&String| device.split(',').next().is_some_and(|name| name.contains(':') && name.contains('.'));
        let allowed: Vec<String> = self.device.iter().filter(pci).map(|device| format!("--allow={device}")).collect();
        let pci = if allowed.is_empty() { vec!["--no-pci".to_owned()] } else { allowed };
        [vec!["--in-memory".to_owned(), "--no-telemetry".to_owned()], pci].concat()
    }

    /// Starts DPDK, and the devices with a queue each.
    fn start(&self) -> anyhow::Result<Running> {
        ensure!(
            self.device.len() <= 2,
            "--device: one that sends and receives, or one that sends and one that receives"
        );
        let eal = Eal::init(&[self.lcore], self.eal_arguments())?;
        let pool = Mempool::new(eal, "generate", self.mbufs, 2176)?;
        let mut ports = Vec::new();
        let mut queues = Vec::new();
        for device in &self.device {
            let mut port = Port::open(eal, device, 1)?;
            let config = dpdk::port::Config {
                promiscuous: true,
                descriptors: self.descriptors,
                ..dpdk::port::Config::default()
            };
            queues.extend(port.start(&config, pool)?);
            ports.push(port);
        }
        let mut queues = queues.into_iter();
        let send = queues.next().context("no device")?;
        Ok(Running { eal, pool, send, receive: queues.next(), is_memory: is_memory(&self.device[0]), ports })
    }
}

/// Whether a device is memory that two programs share. It has no wire on which a frame could be lost: the ring is full when who should
/// take the frames does not, so what finds no room there is lost by him. A NIC's ring is full when the line is.
fn is_memory(device: &str) -> bool {
    ["net_memif", "net_vhost", "net_virtio_user", "net_ring"].iter().any(|driver| device.starts_with(driver))
}

/// The number after `key=` in a line of results; `None` where it is not there.
pub fn number(line: &str, key: &str) -> anyhow::Result<Option<f64>> {
    let value = line.split_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
    Ok(value.map(str::parse).transpose()?)
}

/// What polls, and what it works with.
struct Running {
    eal: Eal,
    pool: Mempool,
    send: Queue,
    /// `None`: the sending device receives, too.
    receive: Option<Queue>,
    is_memory: bool,
    /// They run as long as these are there.
    ports: Vec<Port>,
}

/// The frames of a capture, one behind the other.
pub struct Capture {
    bytes: Vec<u8>,
    /// Where each ends.
    ends: Vec<usize>,
}

impl Capture {
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let file = File::open(path).with_context(|| path.display().to_string())?;
        let mut reader = PcapReader::new(BufReader::with_capacity(1 << 20, file))?;
        let mut capture = Self { bytes: Vec::new(), ends: Vec::new() };
        while let Some(packet) = reader.next_packet() {
            capture.bytes.extend_from_slice(&packet?.data);
            capture.ends.push(capture.bytes.len());
        }
        ensure!(!capture.ends.is_empty(), "{}: no frame in it", path.display());
        Ok(capture)
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    fn frame(&self, index: usize) -> &[u8] {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.bytes[start..self.ends[index]]
    }
}

/// What one trial is.
#[derive(Debug, Clone, Copy)]
struct Asked {
    rate: f64,
    seconds: f64,
    wait: f64,
    behind: u64,
}

/// What one trial saw.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
struct Counts {
    sent: u64,
    returned: u64,
    /// Broadcasts and multicasts: not what was sent.
    foreign: u64,
    /// The device had no room; such a frame never left, unless the device is memory (then it is among `sent`).
    refused: u64,
    /// Came back, and its own ports had no room for them.
    missed: u64,
    seconds: f64,
    /// The last moment at which frames were sent.
    end: u64,
}

pub fn run(options: &Options) -> anyhow::Result<()> {
    let mut running = options.rig.start()?;
    println!("ready");
    let mut capture: Option<Arc<Capture>> = None;
    for line in std::io::stdin().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [] => {}
            ["quit"] => break,
            ["load", path] => {
                let read = Capture::read(Path::new(path))?;
                println!("loaded frames={} bytes={}", read.len(), read.bytes.len());
                capture = Some(Arc::new(read));
            }
            ["up"] => println!("up {}", running.ports.iter().all(|port| port.link().is_ok_and(|link| link.up))),
            ["trial", rate, seconds, wait] => {
                let capture = capture.clone().context("trial: load a capture first")?;
                let [rate, seconds, wait] = [rate, seconds, wait].map(|number| number.parse::<f64>());
                let (rate, seconds, wait) = (rate?, seconds?, wait?);
                ensure!(rate > 0.0 && seconds > 0.0 && wait >= 0.0, "{line:?}: a rate and a time above 0");
                let counts;
                (running, counts) = trial(running, capture, Asked { rate, seconds, wait, behind: options.behind })?;
                let Counts { sent, returned, foreign, refused, missed, seconds, .. } = counts;
                println!(
                    "trial sent={sent} returned={returned} foreign={foreign} refused={refused} missed={missed} seconds={seconds:.6}"
                );
            }
            ["latency", rate, warm_up, seconds, wait] => {
                let capture = capture.clone().context("latency: load a capture first")?;
                let numbers = [rate, warm_up, seconds, wait].map(|number| number.parse::<f64>());
                let [rate, warm_up, seconds, wait] = numbers;
                let (rate, warm_up, seconds, wait) = (rate?, warm_up?, seconds?, wait?);
                ensure!(
                    rate > 0.0 && warm_up >= 0.0 && seconds > 0.0 && wait >= 0.0,
                    "{line:?}: a rate and a time above 0"
                );
                let asked = Asked { rate, seconds: warm_up + seconds, wait, behind: options.behind };
                let timed;
                (running, timed) = latency(running, capture, asked, warm_up)?;
                println!("latency {timed}");
            }
            _ => bail!(
                "{line:?}: expected load FILE, up, trial RATE SECONDS WAIT, latency RATE WARM-UP SECONDS WAIT, or quit"
            ),
        }
    }
    Ok(())
}

/// What is done with the frames of a trial, but to count them.
trait Watch {
    /// One is about to be sent, which was due at a time.
    fn sends(&mut self, frame: &mut [u8], due: u64, now: u64);
    /// So many are not sent: others had the core when they were due.
    fn leaves_out(&mut self, frames: u64);
    /// One came, that was sent here or by others on the line.
    fn received(&mut self, frame: &[u8], now: u64);
}

struct Unwatched;

impl Watch for Unwatched {
    fn sends(&mut self, _: &mut [u8], _: u64, _: u64) {}
    fn leaves_out(&mut self, _: u64) {}
    fn received(&mut self, _: &[u8], _: u64) {}
}

/// Runs a trial on the polling core.
fn trial(running: Running, capture: Arc<Capture>, asked: Asked) -> anyhow::Result<(Running, Counts)> {
    let (running, counts, _) = watched(running, capture, asked, Unwatched)?;
    Ok((running, counts))
}

/// The same with a stopwatch.
fn latency(running: Running, capture: Arc<Capture>, asked: Asked, warm_up: f64) -> anyhow::Result<(Running, Timed)> {
    let hz = cycles::tsc_hz(running.eal) as f64;
    let stopwatch = Stopwatch::new(hz, (asked.rate * warm_up).round() as u64);
    let (running, counts, stopwatch) = watched(running, capture, asked, stopwatch)?;
    let timed = stopwatch.timed(counts.end);
    ensure!(timed.sent > 0, "nothing was sent after the warm-up");
    ensure!(timed.stray < timed.sent, "frames without a place for a time: load a capture of TCP");
    Ok((running, timed))
}

fn watched<W: Watch + Send + 'static>(
    mut running: Running,
    capture: Arc<Capture>,
    asked: Asked,
    mut watch: W,
) -> anyhow::Result<(Running, Counts, W)> {
    let lcore = *running.eal.lcores().first().context("EAL has no lcore to poll with")?;
    let work = move || {
        let counts = running.poll(&capture, asked, &mut watch);
        (running, counts, watch)
    };
    lcore.launch(work)?.join().map_err(|_| anyhow::anyhow!("the polling thread has ended"))
}

impl Running {
    fn poll(&mut self, capture: &Capture, asked: Asked, watch: &mut impl Watch) -> Counts {
        let Asked { rate, seconds, wait, behind } = asked;
        let hz = cycles::tsc_hz(self.eal) as f64;
        let total = (rate * seconds).round().max(1.0) as u64;
        let mut counts = Counts::default();
        let mut batch = Batch::new();
        self.drain(hz, &mut batch);
        let missed = self.missed();
        let start = cycles::tsc();
        // Whoever cannot keep the rate ends late, but ends.
        let (most, mut next) = ((seconds * 1.5 * hz) as u64, 0);
        let mut pace = Pace::new(start, hz / rate, behind);
        let mut done = 0;
        let mut end = start;
        while done < total && end - start < most {
            self.count_returned(&mut batch, &mut counts, watch);
            end = cycles::tsc();
            let left_out = pace.left_out();
            let due = pace.due(end).min(total - done).min(BURST as u64);
            watch.leaves_out(pace.left_out() - left_out);
            for number in 0..due {
                let Some(mut mbuf) = self.pool.alloc() else { break };
                let frame = capture.frame(next);
                let Some(room) = mbuf.append(frame.len()) else { break };
                room.copy_from_slice(frame);
                watch.sends(room, pace.time_of(number), end);
                next = if next + 1 == capture.len() { 0 } else { next + 1 };
                let _ = batch.push(mbuf);
            }
            let filled = batch.len() as u64;
            if filled > 0 {
                let refused = self.send.send(&mut batch) as u64;
                counts.refused += refused;
                counts.sent += if self.is_memory { filled } else { filled - refused };
                done += filled;
                pace.sent(filled);
            }
        }
        (counts.end, counts.seconds) = (end, (end - start) as f64 / hz);
        let last = end + (wait * hz) as u64;
        while cycles::tsc() < last {
            self.count_returned(&mut batch, &mut counts, watch);
        }
        counts.missed = self.missed().saturating_sub(missed);
        counts
    }

    /// Frames so far that came back and that its own ports had no room for.
    fn missed(&self) -> u64 {
        let stats = self.ports.iter().filter_map(|port| port.stats().ok());
        stats.map(|stats| stats.missed + stats.no_mbuf).sum()
    }

    /// Waits until nothing of the last trial is under way any more.
    fn drain(&mut self, hz: f64, batch: &mut Batch) {
        let [silence, most] = [0.05, 5.0].map(|seconds| (seconds * hz) as u64);
        let begun = cycles::tsc();
        let mut last = begun;
        while cycles::tsc() - last < silence && last - begun < most {
            if self.receive_into(batch) > 0 {
                last = cycles::tsc();
                batch.clear();
            }
        }
    }

    fn receive_into(&mut self, batch: &mut Batch) -> usize {
        self.receive.as_mut().unwrap_or(&mut self.send).receive(batch)
    }

    fn count_returned(&mut self, batch: &mut Batch, counts: &mut Counts, watch: &mut impl Watch) {
        if self.receive_into(batch) == 0 {
            return;
        }
        let now = cycles::tsc();
        for mbuf in batch.iter() {
            watch.received(mbuf.bytes(), now);
            let is_group = mbuf.bytes().first().is_some_and(|byte| byte & 1 == 1);
            *if is_group { &mut counts.foreign } else { &mut counts.returned } += 1;
        }
        batch.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rig::VIP;
    use crate::traffic::{self, Kind};

    #[test]
    fn frames_of_a_capture_are_found_again() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let frames = traffic::frames_of(Kind::V6(40), VIP).unwrap();
        traffic::write_frames(file.path(), &frames).unwrap();
        let capture = Capture::read(file.path()).unwrap();
        assert_eq!((0..40).map(|index| capture.frame(index)).collect::<Vec<_>>(), frames);
    }

    #[test]
    fn only_shared_memory_has_a_reader_to_blame_for_a_full_ring() {
        assert!(is_memory("net_memif0,role=client,socket=/run/x") && is_memory("net_ring_x"));
        assert!(!is_memory("0000:03:00.0") && !is_memory("net_af_packet0,iface=veth0"));
    }

    #[test]
    fn of_pci_devices_only_the_named_are_taken() {
        let of = |devices: &[&str]| {
            let device = devices.iter().map(|&device| device.to_owned()).collect();
            Rig { device, lcore: 1, mbufs: 1023, descriptors: 64, eal: Vec::new() }.eal_arguments()[2..].to_vec()
        };
        assert_eq!(of(&["net_memif0,role=client"]), ["--no-pci"]);
        assert_eq!(of(&["0000:03:00.0", "0000:03:00.1"]), ["--allow=0000:03:00.0", "--allow=0000:03:00.1"]);
    }
}
