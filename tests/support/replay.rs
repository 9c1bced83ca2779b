//! Captures through the replay, several lcores' worth of state in one thread.

use penstock::config::Config;
use penstock::replay::{Nanos, Outputs, Plan, Reader, Report, Resolution, Writer, run};
use penstock::service;
use penstock::snapshot::{Compiler, PortIndex};

/// A frame and when it came.
pub type Stamped = (Nanos, Vec<u8>);

/// What comes of frames, in order.
#[derive(Debug, PartialEq, Eq)]
pub struct Replayed {
    pub sent: Vec<Stamped>,
    pub punted: Vec<Stamped>,
    pub report: Report,
}

/// Frames through so many lcores, one every 40 µs.
pub fn replayed(lcores: usize, config: &str, services: &str, frames: &[Vec<u8>]) -> Replayed {
    let frames: Vec<_> = (0..).zip(frames).map(|(number, frame)| (number * 40_000, frame.clone())).collect();
    replayed_at(lcores, config, services, &frames)
}

/// As [`replayed`], with the time of each frame. Each must be counted once, and be where it is counted.
pub fn replayed_at(lcores: usize, config: &str, services: &str, frames: &[Stamped]) -> Replayed {
    let mut capture = Vec::new();
    let mut writer = Writer::new(&mut capture, Resolution::Nano).unwrap();
    for (at, frame) in frames {
        writer.write(*at, frame).unwrap();
    }
    writer.finish().unwrap();
    let (config, _) = Config::read(config, "penstock.toml").unwrap_or_else(|errors| panic!("{errors}"));
    let (definitions, _) = service::native(services, "services.json", None).unwrap_or_else(|errors| panic!("{errors}"));
    let compiler = Compiler::new(config.environment_of(lcores));
    let plan = Plan { compiler, fabric: config.fabric(), port: PortIndex(0), lcores, definitions, changes: vec![] };
    let (mut sent, mut punted) = (Vec::new(), Vec::new());
    let (to_sent, to_punted) = (&mut sent, &mut punted);
    let outputs = move |resolution| {
        Ok(Outputs { sent: Some(Writer::new(to_sent, resolution)?), punted: Some(Writer::new(to_punted, resolution)?) })
    };
    let report = run(plan, Reader::new(&capture[..]).unwrap(), outputs).unwrap();
    let (sent, punted) = (read(&sent), read(&punted));

    let totals = &report.totals;
    assert_eq!((totals.received, totals.verdicts()), (frames.len() as u64, frames.len() as u64), "one verdict each");
    // A refusal is sent besides, and counted as dropped.
    let of_our_own = sent.len() as u64 - totals.forwarded - totals.answered;
    let refused: u64 = report.dropped().map(|(_, count)| count).sum();
    assert!(of_our_own <= refused, "{} sent: {totals:?}", sent.len());
    assert_eq!(punted.len() as u64, totals.punted);
    Replayed { sent, punted, report }
}

/// Two and four lcores send, punt and count what one does, but for the identifications of outer IPv4 headers, which each lcore
/// counts for itself.
pub fn several_lcores_do_what_one_does(config: &str, services: &str, frames: &[Vec<u8>]) {
    let of = |lcores: usize| {
        let mut replayed = replayed(lcores, config, services, frames);
        for (_, frame) in &mut replayed.sent {
            let at = if frame[12..14] == [0x81, 0] { 18 } else { 14 };
            // From the node's own address: an outer header.
            if frame[at] >> 4 == 4 && frame[at + 12..at + 16] == [10, 0, 0, 1] {
                frame[at + 4..at + 6].fill(0);
                frame[at + 10..at + 12].fill(0);
            }
        }
        replayed
    };
    let one = of(1);
    for lcores in [2, 4] {
        let several = of(lcores);
        assert_eq!(several.report, one.report, "{lcores} lcores");
        let differ = several.sent.iter().zip(&one.sent).position(|(several, one)| several != one);
        if let Some(at) = differ {
            panic!("{lcores} lcores: frame {at}\n{:02x?}\ninstead of\n{:02x?}", several.sent[at], one.sent[at]);
        }
        assert!(several == one, "{lcores} lcores: {} sent instead of {}", several.sent.len(), one.sent.len());
    }
}

fn read(capture: &[u8]) -> Vec<Stamped> {
    let mut reader = Reader::new(capture).unwrap();
    let (mut frame, mut frames) = (Vec::new(), Vec::new());
    while let Some(at) = reader.next(&mut frame).unwrap() {
        frames.push((at, frame.clone()));
    }
    frames
}
