//! What those who watch a node cost its lcore.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, ensure};

use super::Options;
use super::node::Node;
use crate::node;
use crate::process::Process;
use crate::stats::Summary;

/// How long a rate is measured.
const WINDOW: Duration = Duration::from_secs(3);

/// Who watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Watcher {
    Nobody,
    /// A scrape of all metrics every second.
    Prometheus,
    /// `penstock top`, on a terminal.
    Top,
    /// `penstock capture`, of all packets, so many a second as it takes without being asked for more.
    Capture,
}

impl Watcher {
    const ALL: [Self; 4] = [Self::Nobody, Self::Prometheus, Self::Top, Self::Capture];
}

/// Scrapes every second until it goes.
struct Scraper {
    is_over: Arc<AtomicBool>,
    /// Bytes of the largest answer, and how many there were.
    seen: Arc<[AtomicUsize; 2]>,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

impl Scraper {
    fn start(address: std::net::SocketAddr) -> Self {
        let (is_over, seen) = (Arc::new(AtomicBool::new(false)), Arc::new([const { AtomicUsize::new(0) }; 2]));
        let (stop, counts) = (is_over.clone(), seen.clone());
        let work = move || {
            while !stop.load(Ordering::Relaxed) {
                let text = node::get(address, "/metrics")?;
                counts[0].fetch_max(text.len(), Ordering::Relaxed);
                counts[1].fetch_add(1, Ordering::Relaxed);
                thread::park_timeout(Duration::from_secs(1));
            }
            Ok(())
        };
        Self { is_over, seen, thread: Some(thread::spawn(work)) }
    }

    /// Bytes of the largest answer.
    fn end(mut self) -> anyhow::Result<usize> {
        self.is_over.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("ended once")?;
        thread.thread().unpark();
        thread.join().map_err(|_| anyhow::anyhow!("the scraper panicked"))??;
        ensure!(self.seen[1].load(Ordering::Relaxed) > 1, "only one scrape in {WINDOW:?}");
        Ok(self.seen[0].load(Ordering::Relaxed))
    }
}

pub async fn measure(options: &Options, node: &mut Node) -> anyhow::Result<String> {
    let mut rates: [Vec<f64>; 4] = [const { Vec::new() }; 4];
    let (mut bytes, mut ratios): (usize, [Vec<f64>; 4]) = (0, [const { Vec::new() }; 4]);
    for round in 0..options.rounds {
        let mut order = Watcher::ALL;
        order.rotate_left(round % 4);
        for watcher in order {
            let rate = match watcher {
                Watcher::Nobody => node.rate(WINDOW).await?,
                Watcher::Prometheus => {
                    let scraper = Scraper::start(node.metrics);
                    let rate = node.rate(WINDOW).await;
                    bytes = bytes.max(scraper.end()?);
                    rate?
                }
                Watcher::Top => {
                    let top = format!("TERM=xterm {} top --api {}", options.penstock.display(), node.api);
                    let arguments = ["-qfec", &top, "/dev/null"].map(str::to_owned);
                    let mut terminal = Process::start("script", &arguments, false)?;
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    let rate = node.rate(WINDOW).await?;
                    terminal.check_alive()?;
                    rate
                }
                Watcher::Capture => {
                    let api = node.api.to_string();
                    let words = ["capture", "--verdict", "forwarded", "--write", "/dev/null", "--api", &api];
                    let words = words.map(str::to_owned);
                    let mut capture = Process::start(&options.penstock.display().to_string(), &words, false)?;
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    let rate = node.rate(WINDOW).await?;
                    capture.check_alive()?;
                    rate
                }
            };
            rates[watcher as usize].push(rate.pps);
        }
        for watcher in Watcher::ALL {
            ratios[watcher as usize].push(rates[watcher as usize][round] / rates[Watcher::Nobody as usize][round]);
        }
    }
    let mut text = format!(
        "\n### Watched\n\nPackets of {} flows to one of the services; {} rounds of {} s each.\n\n| who watches | Mpps | × unwatched |\n|---|--:|--:|\n",
        super::FLOWS,
        options.rounds,
        WINDOW.as_secs()
    );
    for watcher in Watcher::ALL {
        let of = |samples: &[Vec<f64>; 4]| Summary::of(samples[watcher as usize].iter().copied()).context("--rounds 0");
        let (rate, ratio) = (of(&rates)?, of(&ratios)?);
        let name = match watcher {
            Watcher::Nobody => "nobody".to_owned(),
            Watcher::Prometheus => format!("a scrape every second, of {:.1} MB", bytes as f64 / 1e6),
            Watcher::Top => "`penstock top`".to_owned(),
            Watcher::Capture => "`penstock capture`, of all that is forwarded".to_owned(),
        };
        let _ = writeln!(
            text,
            "| {name} | {:.2} | {:.3} ({:.3} – {:.3}) |",
            rate.median / 1e6,
            ratio.median,
            ratio.min,
            ratio.max
        );
    }
    text += "\nThe goal is 0.99.\n";
    Ok(text)
}
