//! pcapng (draft-ietf-opsawg-pcapng): one section, an interface for each port, and an enhanced packet block for each frame, with what became of
//! it in its comment.

use std::borrow::Cow;
use std::io::{self, Write};
use std::time::Duration;

use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{InterfaceDescriptionBlock, InterfaceDescriptionOption};
use pcap_file::pcapng::blocks::section_header::{SectionHeaderBlock, SectionHeaderOption};
use pcap_file::{DataLink, PcapError};

use crate::proto::CapturedFrame;

/// Of the flags of a packet: which way it went.
const INBOUND: u32 = 1;
const OUTBOUND: u32 = 2;

/// A file under way.
pub struct Writer<W: Write> {
    file: PcapNgWriter<W>,
    ports: Vec<String>,
}

impl<W: Write> Writer<W> {
    /// Begins a file of frames of these ports, of which at most so many bytes are kept.
    pub fn new(out: W, ports: Vec<String>, snaplen: u32) -> io::Result<Self> {
        let application = SectionHeaderOption::UserApplication(concat!("penstock ", env!("CARGO_PKG_VERSION")).into());
        let section = SectionHeaderBlock { options: vec![application], ..SectionHeaderBlock::default() };
        let mut file = PcapNgWriter::with_section_header(out, section).map_err(error)?;
        for port in &ports {
            let name = InterfaceDescriptionOption::IfName(Cow::Borrowed(port));
            // Time stamps are nanoseconds.
            let options = vec![name, InterfaceDescriptionOption::IfTsResol(9)];
            let interface = InterfaceDescriptionBlock { linktype: DataLink::ETHERNET, snaplen, options };
            file.write_pcapng_block(interface).map_err(error)?;
        }
        let mut this = Self { file, ports };
        this.flush()?;
        Ok(this)
    }

    pub fn write(&mut self, frame: &CapturedFrame) -> io::Result<()> {
        let time = frame.time.unwrap_or_default();
        let flags = if frame.sent { OUTBOUND } else { INBOUND };
        let packet = EnhancedPacketBlock {
            interface_id: self.ports.iter().position(|port| *port == frame.port).unwrap_or(0) as u32,
            timestamp: Duration::new(time.seconds as u64, time.nanos as u32),
            original_len: frame.length,
            data: Cow::Borrowed(&frame.data),
            options: vec![EnhancedPacketOption::Comment(comment(frame).into()), EnhancedPacketOption::Flags(flags)],
        };
        self.file.write_pcapng_block(packet).map(drop).map_err(error)
    }

    pub fn flush(&mut self) -> io::Result<()> {
        self.file.get_mut().flush()
    }
}

fn error(error: PcapError) -> io::Error {
    match error {
        PcapError::IoError(error) => error,
        other => io::Error::other(other),
    }
}

/// What became of a frame: "verdict=dropped reason=no_service lcore=1".
fn comment(frame: &CapturedFrame) -> String {
    let lcore = frame.lcore.to_string();
    let known = [
        ("verdict", &frame.verdict),
        ("reason", &frame.reason),
        ("service", &frame.service),
        ("backend", &frame.backend),
        ("lcore", &lcore),
    ];
    let known = known.iter().filter(|(_, value)| !value.is_empty());
    let words: Vec<String> = known.map(|(key, value)| format!("{key}={value}")).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As another's reader sees it.
    #[test]
    fn a_file_is_read_by_others_with_its_comments() {
        use pcap_file::pcapng::{Block, PcapNgReader};

        let stamp = |nanos| Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos });
        let frames = [
            CapturedFrame {
                time: stamp(123_456_789),
                lcore: 3,
                port: "lan0".to_owned(),
                verdict: "dropped".to_owned(),
                reason: "no_service".to_owned(),
                length: 1514,
                data: b"13 bytes of it".to_vec(),
                ..CapturedFrame::default()
            },
            CapturedFrame {
                time: stamp(999_999_999),
                port: "wan0".to_owned(),
                sent: true,
                verdict: "forwarded".to_owned(),
                service: "web".to_owned(),
                backend: "10.1.0.11:80".to_owned(),
                length: 5,
                data: b"whole".to_vec(),
                ..CapturedFrame::default()
            },
        ];
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes, vec!["wan0".to_owned(), "lan0".to_owned()], 256).unwrap();
        frames.iter().for_each(|frame| writer.write(frame).unwrap());

        let mut reader = PcapNgReader::new(&bytes[..]).unwrap();
        let (mut ports, mut seen) = (Vec::new(), Vec::new());
        while let Some(block) = reader.next_block() {
            match block.unwrap() {
                Block::InterfaceDescription(interface) => {
                    let named = |option: &InterfaceDescriptionOption| match option {
                        InterfaceDescriptionOption::IfName(name) => Some(name.to_string()),
                        _ => None,
                    };
                    assert_eq!(interface.snaplen, 256);
                    ports.push(interface.options.iter().find_map(named).unwrap());
                }
                Block::EnhancedPacket(packet) => {
                    let mut flags = 0;
                    let mut said = String::new();
                    for option in &packet.options {
                        match option {
                            EnhancedPacketOption::Comment(comment) => said = comment.to_string(),
                            EnhancedPacketOption::Flags(found) => flags = *found,
                            _ => {}
                        }
                    }
                    let length = packet.original_len;
                    seen.push((packet.interface_id, packet.data.to_vec(), length, flags, said, packet.timestamp));
                }
                _ => {}
            }
        }
        assert_eq!(ports, ["wan0", "lan0"]);
        let told = |frame: usize| (seen[frame].0, seen[frame].2, seen[frame].3, seen[frame].4.as_str());
        assert_eq!(told(0), (1, 1514, INBOUND, "verdict=dropped reason=no_service lcore=3"));
        assert_eq!(told(1), (0, 5, OUTBOUND, "verdict=forwarded service=web backend=10.1.0.11:80 lcore=0"));
        assert_eq!((seen[0].1.as_slice(), seen[1].1.as_slice()), (&b"13 bytes of it"[..], &b"whole"[..]));
        // (pcap-file takes the ticks of a second for nanoseconds, whatever the interface says: here they are.)
        assert_eq!(seen[0].5.as_nanos(), 1_700_000_000_123_456_789);
    }
}
