//! `penstock capture`: frames of a running node, with what became of them.

mod line;
mod pcapng;

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;

use super::{Failure, Live, ask};
use crate::capture::{MOST_BYTES, MOST_RATE};
use crate::cli::say;
use crate::counters::{Reason, VERDICTS};
use crate::proto::{CaptureCounts, CaptureRequest, CapturedFrame};
use pcapng::Writer;

/// What the node has taken by a Ctrl-C takes at most so long to come.
const UNDER_WAY: Duration = Duration::from_millis(100);

/// Show frames of a running node with what became of them, as they come
///
/// Each is shown as it was received, with its verdict, the service and the backend. What is captured is sampled, so that no lcore is slowed:
/// --rate says how many frames a second each copies at most. Ends at --count or --duration, or by Ctrl-C; then says on stderr how many frames
/// were taken, lost and over the rate.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  penstock capture --verdict dropped                        what is dropped, and why
  penstock capture --reason no_service,source_refused       only for these reasons
  penstock capture --service web --sent -c 100 -w web.pcapng
  penstock capture --verdict punted -w - | tcpdump -nr -
  penstock capture -w - | wireshark -k -i -")]
pub struct Args {
    /// Only what is forwarded, answered, punted or dropped; may be repeated
    #[arg(long, value_name = "VERDICT", value_delimiter = ',', value_parser = PossibleValuesParser::new(VERDICTS.map(|(name, _)| name)))]
    verdict: Vec<String>,
    /// Only what is dropped for this reason; may be repeated
    #[arg(long, value_name = "REASON", value_delimiter = ',', hide_possible_values = true,
        value_parser = PossibleValuesParser::new(Reason::ALL.iter().map(|reason| reason.name())))]
    reason: Vec<String>,
    /// Only packets of this service, its replies included
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// End after so many frames
    #[arg(long, short, value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End after so many seconds
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    duration: Option<u32>,
    /// Write pcapng, the verdict in each packet's comment; "-": to stdout
    #[arg(long, short, value_name = "FILE", conflicts_with = "json")]
    write: Option<PathBuf>,
    /// Keep so many bytes of each frame
    #[arg(long, short, value_name = "BYTES", default_value_t = 2048, value_parser = clap::value_parser!(u32).range(14..=i64::from(MOST_BYTES)))]
    snaplen: u32,
    /// Frames a second that each lcore copies at most
    #[arg(long, value_name = "FRAMES", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST_RATE)))]
    rate: u32,
    /// Show each frame that is sent on as it leaves, too
    #[arg(long)]
    sent: bool,
    #[command(flatten)]
    live: Live,
}

pub fn run(args: &Args) -> Result<(), Failure> {
    if args.write.as_deref().is_some_and(is_stdout) && io::stdout().is_terminal() {
        return Err(Failure::BadInput(
            "-w -: stdout is a terminal; name a file, or pipe it to tcpdump -r -".to_owned(),
        ));
    }
    let request = CaptureRequest {
        verdicts: args.verdict.clone(),
        reasons: args.reason.clone(),
        service: args.service.clone(),
        snap_length: args.snaplen,
        rate: args.rate,
        count: args.count.unwrap_or(0),
        duration: args.duration.map(|seconds| prost_types::Duration { seconds: seconds.into(), nanos: 0 }),
        sent: args.sent,
    };
    ask(&args.live, async |node| {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let stopped = async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            sleep(UNDER_WAY).await;
        };
        let mut stopped = pin!(stopped);
        let mut parts = node.call(node.node().capture(request)).await?;
        let failed = |status| node.failure(&status);
        let first = parts.message().await.map_err(failed)?.unwrap_or_default();
        say(format_args!("capturing on {}; Ctrl-C ends it", first.ports.join(", ")));
        let mut shown = Shown::begin(args, first.ports)?;
        let mut counts = first.counts.unwrap_or_default();
        let ended = loop {
            let part = tokio::select! {
                part = parts.message() => part,
                () = &mut stopped => break Ok(()),
            };
            match part {
                Ok(None) => break Ok(()),
                Ok(Some(part)) => {
                    counts = part.counts.unwrap_or(counts);
                    if let Err(error) = shown.show(&part.frames) {
                        break Err(error.into());
                    }
                }
                Err(status) => break Err(failed(status)),
            }
        };
        // What was taken is whole, whatever ended it.
        let ended = ended.and(shown.end(&counts).map_err(Failure::from));
        if !matches!(&ended, Err(Failure::Output(_))) {
            say(summary(&counts));
        }
        ended
    })
}

fn is_stdout(path: &Path) -> bool {
    path == Path::new("-")
}

fn summary(counts: &CaptureCounts) -> String {
    let CaptureCounts { taken, lost, over_rate } = counts;
    let frames = if *taken == 1 { "frame" } else { "frames" };
    let advice = match (*lost, *over_rate) {
        (0, 0) => "",
        (0, _) => " (--rate takes more)",
        _ => " (what reads them is too slow)",
    };
    format!("{taken} {frames} taken, {lost} lost, {over_rate} over the rate{advice}")
}

/// How frames are shown.
enum Shown {
    Lines(BufWriter<io::Stdout>),
    /// One document, a frame a line.
    Json {
        out: BufWriter<io::Stdout>,
        is_first: bool,
    },
    Pcapng(Writer<BufWriter<Box<dyn Write>>>),
}

impl Shown {
    fn begin(args: &Args, ports: Vec<String>) -> Result<Self, Failure> {
        let stdout = || BufWriter::new(io::stdout());
        let Some(path) = &args.write else {
            return Ok(match args.live.json {
                false => Self::Lines(stdout()),
                true => {
                    let mut out = stdout();
                    write!(out, "{{\"frames\": [")?;
                    Self::Json { out, is_first: true }
                }
            });
        };
        let out: Box<dyn Write> = match is_stdout(path) {
            true => Box::new(io::stdout()),
            false => {
                Box::new(File::create(path).map_err(|error| Failure::Failed(format!("{}: {error}", path.display())))?)
            }
        };
        Ok(Self::Pcapng(Writer::new(BufWriter::new(out), ports, args.snaplen)?))
    }

    fn show(&mut self, frames: &[CapturedFrame]) -> io::Result<()> {
        match self {
            Self::Lines(out) => {
                for frame in frames {
                    writeln!(out, "{}", line::of(frame))?;
                }
                out.flush()
            }
            Self::Json { out, is_first } => {
                for frame in frames {
                    let separator = if std::mem::take(is_first) { "\n" } else { ",\n" };
                    write!(out, "{separator}{}", document(frame))?;
                }
                out.flush()
            }
            Self::Pcapng(writer) => {
                for frame in frames {
                    writer.write(frame)?;
                }
                writer.flush()
            }
        }
    }

    fn end(self, counts: &CaptureCounts) -> io::Result<()> {
        let CaptureCounts { taken, lost, over_rate } = counts;
        match self {
            Self::Lines(mut out) => out.flush(),
            Self::Json { mut out, .. } => {
                writeln!(out, "],\n\"taken\": {taken}, \"lost\": {lost}, \"over_rate\": {over_rate}}}")?;
                out.flush()
            }
            Self::Pcapng(mut writer) => writer.flush(),
        }
    }
}

fn document(frame: &CapturedFrame) -> serde_json::Value {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let hex: String = frame.data.iter().map(|byte| format!("{byte:02x}")).collect();
    json!({
        "time": line::time(frame), "lcore": frame.lcore, "port": frame.port, "sent": frame.sent,
        "verdict": frame.verdict, "reason": some(&frame.reason), "service": some(&frame.service),
        "backend": some(&frame.backend), "packet": line::packet(&frame.data), "length": frame.length, "bytes": hex,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_says_what_to_do() {
        let said = |taken, lost, over_rate| summary(&CaptureCounts { taken, lost, over_rate });
        assert_eq!(said(1, 0, 0), "1 frame taken, 0 lost, 0 over the rate");
        assert_eq!(said(20, 0, 3), "20 frames taken, 0 lost, 3 over the rate (--rate takes more)");
        assert_eq!(said(20, 4, 3), "20 frames taken, 4 lost, 3 over the rate (what reads them is too slow)");
    }
}
