//! What is sent: the bench's frames, by the names that its captures have.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use anyhow::Context;
use penstock::wire::Mac;

use crate::rig::VIP;
use crate::traffic;

/// So many flows of a shape, `acks-1000`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    pub shape: Shape,
    pub flows: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// TCP ACKs, 60 bytes.
    Acks,
    /// TCP SYNs, each of another flow, 60 bytes.
    Syns,
    /// Datagrams without payload, 60 bytes.
    Udp,
    /// TCP ACKs over IPv6, 74 bytes.
    V6,
    /// TCP with payload: 60, 590 and 1494 bytes, 7 to 4 to 1.
    Imix,
}

impl FromStr for Kind {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let known = [Shape::Acks, Shape::Syns, Shape::Udp, Shape::V6, Shape::Imix];
        let kind = text.rsplit_once('-').and_then(|(_, flows)| {
            let flows = flows.parse().ok().filter(|&flows| flows > 0)?;
            known.map(|shape| Self { shape, flows }).into_iter().find(|kind| kind.to_string() == text)
        });
        kind.with_context(|| {
            let names = known.map(|shape| Self { shape, flows: 1000 }.to_string()).join(", ");
            format!("{text:?}: expected one of {names}, with another number of flows if you like")
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.of_bench().fmt(f)
    }
}

impl Kind {
    fn of_bench(self) -> traffic::Kind {
        match self.shape {
            Shape::Acks => traffic::Kind::Acks(self.flows),
            Shape::Syns => traffic::Kind::Syns(self.flows),
            Shape::Udp => traffic::Kind::Udp(self.flows),
            Shape::V6 => traffic::Kind::V6(self.flows),
            Shape::Imix => traffic::Kind::Imix(self.flows),
        }
    }

    /// Bytes of a frame on the average, FCS included.
    pub fn bytes(self) -> f64 {
        const FCS: f64 = 4.0;
        match self.shape {
            Shape::Acks | Shape::Syns | Shape::Udp => 60.0 + FCS,
            Shape::V6 => 74.0 + FCS,
            Shape::Imix => (7.0 * 60.0 + 4.0 * 590.0 + 1494.0) / 12.0 + FCS,
        }
    }

    /// Frames a second of which a line of so many bits a second is full: each has a preamble and a gap, 20 bytes.
    pub fn line_rate(self, bits: f64) -> f64 {
        bits / 8.0 / (self.bytes() + 20.0)
    }

    /// Frames of its capture.
    pub fn frames(self) -> usize {
        self.of_bench().frames()
    }

    /// Writes its capture, frames to `mac`.
    pub fn write(self, path: &Path, mac: Mac) -> anyhow::Result<()> {
        let mut frames = traffic::frames_of(self.of_bench(), VIP)?;
        for frame in &mut frames {
            frame[..6].copy_from_slice(&mac.0);
        }
        traffic::write_frames(path, &frames)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_named_as_the_benchs_captures() {
        for name in ["acks-1", "syns-1000000", "udp-10", "v6-1000", "imix-12"] {
            assert_eq!(name.parse::<Kind>().unwrap().to_string(), name);
        }
        for name in ["acks", "acks-0", "nacks-1", "acks-01"] {
            assert!(name.parse::<Kind>().is_err(), "{name}");
        }
    }

    #[test]
    fn the_line_rate_of_the_shortest_frames_is_the_known_one() {
        assert_eq!("acks-1".parse::<Kind>().unwrap().line_rate(10e9).floor(), 14_880_952.0);
    }

    #[test]
    fn frames_are_as_long_as_is_reckoned() {
        for name in ["acks-24", "syns-24", "udp-24", "v6-24", "imix-60"] {
            let kind: Kind = name.parse().unwrap();
            let frames = traffic::frames_of(kind.of_bench(), VIP).unwrap();
            let bytes: usize = frames.iter().map(Vec::len).sum();
            assert_eq!(bytes as f64 / frames.len() as f64 + 4.0, kind.bytes(), "{name}");
        }
    }
}
