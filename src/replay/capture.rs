//! Capture files: classic pcap and pcapng in, classic pcap out. Ethernet only.
//!
//! Our own few lines, since the crates at hand read pcapng time stamps without the interface's resolution and refuse
//! records that were cut to the snap length. Formats: draft-ietf-opsawg-pcap and draft-ietf-opsawg-pcapng.

use std::io::{self, Read, Write};

/// Nanoseconds since 1970.
pub type Nanos = u64;

const ETHERNET: u32 = 1;
/// Longer records are taken for damage, not for frames.
const LONGEST: usize = 16 << 20;

/// Why a file is not a capture that can be replayed.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    #[error("cannot read it: {0}")]
    Io(io::Error),
    #[error("neither pcap nor pcapng: it begins with {0:02x?}")]
    Magic([u8; 4]),
    #[error("ends in the middle of record {record}")]
    Cut { record: u64 },
    #[error("record {record} claims {length} bytes: the file is damaged")]
    Length { record: u64, length: usize },
    #[error("link type {0}, but only Ethernet (1) can be replayed")]
    LinkType(u32),
    #[error("record {record} belongs to interface {interface}, which the file does not describe")]
    Interface { record: u64, interface: u32 },
    #[error("record {record} is a simple packet block, which has no time stamp")]
    NoTime { record: u64 },
}

/// The resolution of a file's time stamps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    Micro,
    Nano,
}

/// A capture, read record by record.
pub struct Reader<R> {
    input: R,
    record: u64,
    format: Format,
}

enum Format {
    Classic {
        big: bool,
        resolution: Resolution,
    },
    /// Interfaces of the section under way.
    Next {
        big: bool,
        interfaces: Vec<Interface>,
    },
}

#[derive(Clone, Copy)]
struct Interface {
    link_type: u32,
    /// Ticks a second.
    rate: u128,
    /// Seconds to add.
    offset: i64,
}

impl<R: Read> Reader<R> {
    pub fn new(mut input: R) -> Result<Self, CaptureError> {
        let mut magic = [0; 4];
        if fill(&mut input, &mut magic, 0)? == 0 {
            return Err(CaptureError::Cut { record: 0 });
        }
        let classic = |big, resolution| Format::Classic { big, resolution };
        let format = match magic {
            [0xd4, 0xc3, 0xb2, 0xa1] => classic(false, Resolution::Micro),
            [0xa1, 0xb2, 0xc3, 0xd4] => classic(true, Resolution::Micro),
            [0x4d, 0x3c, 0xb2, 0xa1] => classic(false, Resolution::Nano),
            [0xa1, 0xb2, 0x3c, 0x4d] => classic(true, Resolution::Nano),
            [0x0a, 0x0d, 0x0d, 0x0a] => Format::Next { big: false, interfaces: Vec::new() },
            other => return Err(CaptureError::Magic(other)),
        };
        let mut reader = Self { input, record: 0, format };
        match &reader.format {
            Format::Classic { big, .. } => {
                let mut header = [0; 20];
                let big = *big;
                reader.whole(&mut header)?;
                // The upper bits hold the length of a frame check sequence; replayed frames have none.
                let link_type = number(big, &header[16..20]) & 0xffff;
                if link_type != ETHERNET {
                    return Err(CaptureError::LinkType(link_type));
                }
            }
            Format::Next { .. } => reader.section()?,
        }
        Ok(reader)
    }

    /// The resolution of the records read so far, or of the next one.
    pub fn resolution(&self) -> Resolution {
        match &self.format {
            Format::Classic { resolution, .. } => *resolution,
            Format::Next { interfaces, .. } if interfaces.iter().any(|interface| interface.rate > 1_000_000) => {
                Resolution::Nano
            }
            Format::Next { .. } => Resolution::Micro,
        }
    }

    /// Reads the next frame into `frame`; its time stamp, or `None` at the end.
    pub fn next(&mut self, frame: &mut Vec<u8>) -> Result<Option<Nanos>, CaptureError> {
        self.record += 1;
        match self.format {
            Format::Classic { big, resolution } => self.next_classic(big, resolution, frame),
            Format::Next { .. } => self.next_block(frame),
        }
    }

    fn next_classic(
        &mut self,
        big: bool,
        resolution: Resolution,
        frame: &mut Vec<u8>,
    ) -> Result<Option<Nanos>, CaptureError> {
        let mut header = [0; 16];
        if fill(&mut self.input, &mut header, self.record)? == 0 {
            return Ok(None);
        }
        let unit = if resolution == Resolution::Nano { 1 } else { 1000 };
        let word = |at| u64::from(number(big, &header[at..at + 4]));
        let stamp = word(0) * 1_000_000_000 + word(4) * unit;
        self.body(word(8) as usize, frame)?;
        Ok(Some(stamp))
    }

    fn next_block(&mut self, frame: &mut Vec<u8>) -> Result<Option<Nanos>, CaptureError> {
        loop {
            let mut kind = [0; 4];
            if fill(&mut self.input, &mut kind, self.record)? == 0 {
                return Ok(None);
            }
            // A section header reads the same in both byte orders.
            if kind == [0x0a, 0x0d, 0x0d, 0x0a] {
                self.section()?;
                continue;
            }
            let Format::Next { big, .. } = self.format else { unreachable!("only called for pcapng") };
            let kind = number(big, &kind);
            let mut length = [0; 4];
            self.whole(&mut length)?;
            let length = number(big, &length) as usize;
            if length < 12 || !length.is_multiple_of(4) {
                return Err(CaptureError::Length { record: self.record, length });
            }
            self.body(length - 12, frame)?;
            self.whole(&mut [0; 4])?;
            match kind {
                1 => self.interface(big, frame)?,
                2 | 6 => return self.packet(kind, big, frame).map(Some),
                3 => return Err(CaptureError::NoTime { record: self.record }),
                _ => {}
            }
        }
    }

    /// Reads a section header behind its type, and begins anew with its byte order.
    fn section(&mut self) -> Result<(), CaptureError> {
        let mut head = [0; 8];
        self.whole(&mut head)?;
        let big = match head[4..] {
            [0x1a, 0x2b, 0x3c, 0x4d] => true,
            [0x4d, 0x3c, 0x2b, 0x1a] => false,
            _ => return Err(CaptureError::Magic([head[4], head[5], head[6], head[7]])),
        };
        let length = number(big, &head[..4]) as usize;
        if length < 28 || !length.is_multiple_of(4) {
            return Err(CaptureError::Length { record: self.record, length });
        }
        self.body(length - 12, &mut Vec::new())?;
        self.format = Format::Next { big, interfaces: Vec::new() };
        Ok(())
    }

    fn interface(&mut self, big: bool, body: &[u8]) -> Result<(), CaptureError> {
        let short = |at: usize| body.get(at..at + 2).map_or(0, |bytes| half(big, bytes));
        let mut interface = Interface { link_type: u32::from(short(0)), rate: 1_000_000, offset: 0 };
        let mut options = body.get(8..).unwrap_or_default();
        while let [a, b, c, d, rest @ ..] = options {
            let (code, length) = (half(big, &[*a, *b]), usize::from(half(big, &[*c, *d])));
            let Some(value) = rest.get(..length) else { break };
            match (code, value) {
                (0, _) => break,
                (9, [resolution]) if resolution & 0x80 != 0 => interface.rate = 1 << (resolution & 0x3f),
                (9, [resolution]) if *resolution <= 18 => interface.rate = 10u128.pow(u32::from(*resolution)),
                (14, bytes) if length == 8 => {
                    let (first, second) = (number(big, &bytes[..4]), number(big, &bytes[4..]));
                    let (high, low) = if big { (first, second) } else { (second, first) };
                    interface.offset = (u64::from(high) << 32 | u64::from(low)) as i64;
                }
                _ => {}
            }
            options = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        if let Format::Next { interfaces, .. } = &mut self.format {
            interfaces.push(interface);
        }
        Ok(())
    }

    /// Cuts the body of an enhanced (6) or the older (2) packet block down to its frame.
    fn packet(&self, kind: u32, big: bool, body: &mut Vec<u8>) -> Result<Nanos, CaptureError> {
        let damaged = CaptureError::Length { record: self.record, length: body.len() };
        if body.len() < 20 {
            return Err(damaged);
        }
        let word = |at: usize| number(big, &body[at..at + 4]);
        let id = if kind == 6 { word(0) } else { u32::from(half(big, &body[..2])) };
        let Format::Next { interfaces, .. } = &self.format else { unreachable!("only called for pcapng") };
        let interface =
            interfaces.get(id as usize).ok_or(CaptureError::Interface { record: self.record, interface: id })?;
        if interface.link_type != ETHERNET {
            return Err(CaptureError::LinkType(interface.link_type));
        }
        let ticks = u128::from(u64::from(word(4)) << 32 | u64::from(word(8)));
        let stamp = (ticks * 1_000_000_000 / interface.rate) as i128 + i128::from(interface.offset) * 1_000_000_000;
        let length = word(12) as usize;
        if length > body.len() - 20 {
            return Err(damaged);
        }
        body.drain(..20);
        body.truncate(length);
        Ok(Nanos::try_from(stamp).unwrap_or(0))
    }

    fn body(&mut self, length: usize, into: &mut Vec<u8>) -> Result<(), CaptureError> {
        if length > LONGEST {
            return Err(CaptureError::Length { record: self.record, length });
        }
        into.resize(length, 0);
        self.whole(into)
    }

    fn whole(&mut self, into: &mut [u8]) -> Result<(), CaptureError> {
        if fill(&mut self.input, into, self.record)? < into.len() {
            return Err(CaptureError::Cut { record: self.record });
        }
        Ok(())
    }
}

/// Fills `into`, or gives 0 where the input ends before its first byte.
fn fill(input: &mut impl Read, into: &mut [u8], record: u64) -> Result<usize, CaptureError> {
    let mut got = 0;
    while got < into.len() {
        match input.read(&mut into[got..]) {
            Ok(0) if got == 0 => return Ok(0),
            Ok(0) => return Err(CaptureError::Cut { record }),
            Ok(count) => got += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(CaptureError::Io(error)),
        }
    }
    Ok(got)
}

fn number(big: bool, bytes: &[u8]) -> u32 {
    let bytes = [bytes[0], bytes[1], bytes[2], bytes[3]];
    if big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
}

fn half(big: bool, bytes: &[u8]) -> u16 {
    let bytes = [bytes[0], bytes[1]];
    if big { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) }
}

/// A classic pcap under way.
pub struct Writer<W> {
    output: W,
    unit: u64,
}

impl<W: Write> Writer<W> {
    pub fn new(mut output: W, resolution: Resolution) -> io::Result<Self> {
        let (magic, unit) = match resolution {
            Resolution::Micro => (0xa1b2_c3d4u32, 1000),
            Resolution::Nano => (0xa1b2_3c4d, 1),
        };
        output.write_all(&magic.to_le_bytes())?;
        output.write_all(&[2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0])?;
        output.write_all(&262_144u32.to_le_bytes())?;
        output.write_all(&ETHERNET.to_le_bytes())?;
        Ok(Self { output, unit })
    }

    pub fn write(&mut self, stamp: Nanos, frame: &[u8]) -> io::Result<()> {
        let length = (frame.len() as u32).to_le_bytes();
        let mut header = [0; 16];
        header[..4].copy_from_slice(&((stamp / 1_000_000_000) as u32).to_le_bytes());
        header[4..8].copy_from_slice(&((stamp % 1_000_000_000 / self.unit) as u32).to_le_bytes());
        header[8..12].copy_from_slice(&length);
        header[12..].copy_from_slice(&length);
        self.output.write_all(&header)?;
        self.output.write_all(frame)
    }

    pub fn finish(mut self) -> io::Result<()> {
        self.output.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Frames = Vec<(Nanos, Vec<u8>)>;

    fn read_all(bytes: &[u8]) -> Result<(Frames, Resolution), CaptureError> {
        let mut reader = Reader::new(bytes)?;
        let (mut frames, mut frame) = (Vec::new(), Vec::new());
        while let Some(stamp) = reader.next(&mut frame)? {
            frames.push((stamp, frame.clone()));
        }
        Ok((frames, reader.resolution()))
    }

    fn written(resolution: Resolution) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes, resolution).unwrap();
        writer.write(1_700_000_000_123_456_789, b"first frame").unwrap();
        writer.write(1_700_000_001_000_000_000, b"").unwrap();
        writer.finish().unwrap();
        bytes
    }

    /// A pcapng block with its type and both lengths.
    fn block(kind: u32, body: &[u8]) -> Vec<u8> {
        let padded = body.len().next_multiple_of(4);
        let length = (padded as u32 + 12).to_le_bytes();
        [&kind.to_le_bytes()[..], &length, body, &vec![0; padded - body.len()], &length].concat()
    }

    fn section() -> Vec<u8> {
        block(0x0a0d_0d0a, &[0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255])
    }

    fn interface(options: &[u8]) -> Vec<u8> {
        block(1, &[&[1, 0, 0, 0, 0, 0, 4, 0][..], options].concat())
    }

    fn enhanced(interface: u32, ticks: u64, frame: &[u8]) -> Vec<u8> {
        let words = [interface, (ticks >> 32) as u32, ticks as u32, frame.len() as u32, 2000];
        block(6, &[&words.map(u32::to_le_bytes).concat(), frame].concat())
    }

    #[test]
    fn what_is_written_reads_back_in_its_resolution() {
        for (resolution, nanos) in [(Resolution::Micro, 123_456_000), (Resolution::Nano, 123_456_789)] {
            let (frames, read) = read_all(&written(resolution)).unwrap();
            assert_eq!(read, resolution);
            assert_eq!(frames[0], (1_700_000_000_000_000_000 + nanos, b"first frame".to_vec()));
            assert_eq!(frames[1], (1_700_000_001_000_000_000, vec![]));
        }
    }

    #[test]
    fn pcapng_stamps_are_in_the_interfaces_own_resolution() {
        let millis_later_by_an_hour = [9, 0, 1, 0, 3, 0, 0, 0, 14, 0, 8, 0, 0x10, 0x0e, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let halves = [9, 0, 1, 0, 0x81, 0, 0, 0];
        let file = [
            section(),
            interface(&[]),
            interface(&millis_later_by_an_hour),
            interface(&halves),
            block(0x0bad, b"unknown"),
            enhanced(0, 5, b"micro"),
            enhanced(1, 5, b"milli"),
            enhanced(2, 5, b"half"),
        ]
        .concat();
        let (frames, resolution) = read_all(&file).unwrap();
        let stamps: Vec<Nanos> = frames.iter().map(|frame| frame.0).collect();
        assert_eq!(stamps, [5_000, 3_600_005_000_000, 2_500_000_000]);
        assert_eq!((frames[1].1.as_slice(), resolution), (&b"milli"[..], Resolution::Micro));
    }

    #[test]
    fn what_is_refused_and_why() {
        let text = |bytes: &[u8]| read_all(bytes).err().map(|error| error.to_string());
        let mut wifi = written(Resolution::Micro);
        wifi[20] = 105;
        let mut huge = written(Resolution::Micro);
        huge[35] = 0x7f;
        assert_eq!(text(b"not a capture").unwrap(), "neither pcap nor pcapng: it begins with [6e, 6f, 74, 20]");
        assert_eq!(text(b"").unwrap(), "ends in the middle of record 0");
        assert_eq!(text(&wifi).unwrap(), "link type 105, but only Ethernet (1) can be replayed");
        assert_eq!(text(&huge).unwrap(), "record 1 claims 2130706443 bytes: the file is damaged");
        let stray = [section(), enhanced(0, 5, b"x")].concat();
        assert_eq!(text(&stray).unwrap(), "record 1 belongs to interface 0, which the file does not describe");
    }

    #[test]
    fn a_file_cut_anywhere_is_an_error_or_shorter_never_a_panic() {
        let next = [section(), interface(&[9, 0, 1, 0, 9, 0, 0, 0]), enhanced(0, 5, b"frame")].concat();
        for file in [written(Resolution::Nano), next] {
            for length in 0..file.len() {
                if let Ok((frames, _)) = read_all(&file[..length]) {
                    assert!(frames.len() < 2);
                }
            }
        }
    }
}
