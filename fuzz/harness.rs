//! What the fuzz targets do with their input, and what must hold whatever it is. `tests/corpus.rs` does the same with the inputs
//! that are kept.
#![allow(dead_code, reason = "each target uses its part")]

use std::cell::RefCell;
use std::sync::Arc;

use penstock::config::Config;
use penstock::pipeline::{BURST, Pipeline, Verdict};
use penstock::replay::Buffer;
use penstock::service;
use penstock::snapshot::{Compiler, Millis, PortIndex, Snapshot};
use penstock::wire::{Frame, checksum};

const CONFIG: &str = include_str!("penstock.toml");
const SERVICES: &str = include_str!("services.json");

/// A node with every mode, both families, prefixes, ranges, tags and all hashes.
struct Node {
    compiler: Compiler,
    snapshot: Arc<Snapshot>,
    pipeline: Pipeline,
}

impl Node {
    fn new() -> Self {
        let (config, _) = Config::read(CONFIG, "penstock.toml").unwrap_or_else(|errors| panic!("{errors}"));
        let (definitions, _) =
            service::read(SERVICES, "services.json", None).unwrap_or_else(|errors| panic!("{errors}"));
        let mut compiler = Compiler::new(config.environment());
        let snapshot = compiler.compile(&definitions, &config.fabric(), Millis(0));
        Self { compiler, snapshot, pipeline: Pipeline::new(0) }
    }
}

thread_local! {
    static NODE: RefCell<Node> = RefCell::new(Node::new());
}

/// Input: frames, each behind its length in two bytes (network order). They go through the pipeline as one burst.
pub fn pipeline(input: &[u8]) {
    let mut frames = Vec::new();
    let mut rest = input;
    while let Some((length, more)) = rest.split_first_chunk::<2>()
        && frames.len() < BURST
    {
        let (frame, more) = more.split_at(usize::from(u16::from_be_bytes(*length)).min(more.len()));
        frames.push(Buffer::new(frame));
        rest = more;
    }
    let before: Vec<Vec<u8>> = frames.iter().map(|frame| frame.bytes().to_vec()).collect();
    let mut verdicts = [Verdict::Punt; BURST];
    NODE.with_borrow_mut(|node| {
        let Node { snapshot, pipeline, .. } = node;
        let only = pipeline.process(snapshot, Millis(0), PortIndex(0), &mut frames, &mut verdicts);
        let all = verdicts[..frames.len()].iter().all(|&verdict| Some(verdict) == only.map(Verdict::Forward));
        assert!(only.is_none() || all, "{only:?} for {verdicts:?}");
        node.compiler.learn(Millis(0));
    });
    for ((frame, before), verdict) in frames.iter().zip(&before).zip(verdicts) {
        match verdict {
            Verdict::Forward(_) | Verdict::Answer(_) | Verdict::Reject(_) => sound(frame.bytes()),
            Verdict::Punt | Verdict::Hold | Verdict::HandOver(_) => assert_eq!(frame.bytes(), before, "{verdict:?}"),
            Verdict::Drop(_) => {}
        }
    }
}

/// A frame that is sent: lengths that are true, an IPv4 header checksum that verifies, and nothing behind but padding.
fn sound(frame: &[u8]) {
    let (at, ether_type) = match frame[12..14] {
        [0x81, 0] => (18, [frame[16], frame[17]]),
        _ => (14, [frame[12], frame[13]]),
    };
    let packet = &frame[at..];
    let total = match ether_type {
        [8, 0] => {
            let header = usize::from(packet[0] & 0xf) * 4;
            assert_eq!((packet[0] >> 4, checksum::sum(&packet[..header])), (4, 0xffff), "{frame:02x?}");
            usize::from(u16::from_be_bytes([packet[2], packet[3]]))
        }
        [0x86, 0xdd] => {
            assert_eq!(packet[0] >> 4, 6, "{frame:02x?}");
            40 + usize::from(u16::from_be_bytes([packet[4], packet[5]]))
        }
        other => panic!("sent with EtherType {other:02x?}"),
    };
    assert!(
        total <= packet.len() && (frame.len() <= 64 || total == packet.len()),
        "{total} of {}: {frame:02x?}",
        packet.len()
    );
}

/// Input: a document. What is taken is written, and reads back equal.
pub fn definitions(input: &[u8]) {
    if let Ok((definitions, _)) = service::read(input, "fuzz", None) {
        let (back, _) = service::read(definitions.to_json(), "back", None).expect("what was written is good");
        assert_eq!(back, definitions);
    }
}
