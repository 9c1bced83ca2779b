//! The bench's frames on a line: how long they are, how many fill it, and their captures for whoever sends them.

use std::path::Path;

use penstock::wire::Mac;

use crate::rig::VIP;
use crate::traffic::{self, Kind};

/// Bytes of a frame of this kind on the average, FCS included.
pub fn bytes(kind: Kind) -> f64 {
    const FCS: f64 = 4.0;
    let bytes = match kind {
        Kind::V6(_) => 74.0,
        Kind::Imix(_) => (7.0 * 60.0 + 4.0 * 590.0 + 1494.0) / 12.0,
        Kind::Acks(_)
        | Kind::Syns(_)
        | Kind::Udp(_)
        | Kind::Malformed(_)
        | Kind::Established { .. }
        | Kind::Services { .. } => traffic::FRAME as f64,
    };
    bytes + FCS
}

/// Frames a second of which a line of so many bits a second is full: each has a preamble and a gap, 20 bytes.
pub fn line_rate(kind: Kind, bits: f64) -> f64 {
    bits / 8.0 / (bytes(kind) + 20.0)
}

/// Writes the capture, frames to `mac`.
pub fn write(kind: Kind, path: &Path, mac: Mac) -> anyhow::Result<()> {
    let mut frames = traffic::frames_of(kind, VIP)?;
    for frame in &mut frames {
        frame[..6].copy_from_slice(&mac.0);
    }
    traffic::write_frames(path, &frames)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_rate_of_the_shortest_frames_is_the_known_one() {
        assert_eq!(line_rate(Kind::Acks(1), 10e9).floor(), 14_880_952.0);
    }

    #[test]
    fn frames_are_as_long_as_is_reckoned() {
        for kind in [Kind::Acks(24), Kind::Syns(24), Kind::Udp(24), Kind::V6(24), Kind::Imix(60), Kind::Malformed(24)] {
            let frames = traffic::frames_of(kind, VIP).unwrap();
            let all: usize = frames.iter().map(Vec::len).sum();
            assert_eq!(all as f64 / frames.len() as f64 + 4.0, bytes(kind), "{kind}");
        }
    }
}
