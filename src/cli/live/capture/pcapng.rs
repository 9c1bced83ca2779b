//! pcapng (draft-ietf-opsawg-pcapng): one section, an interface for each port, and an enhanced packet block for each frame, with what became of
//! it in its comment.

use std::io::{self, Write};

use crate::proto::CapturedFrame;

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const PACKET: u32 = 6;

/// Options of any block, and of each kind.
const COMMENT: u16 = 1;
const APPLICATION: u16 = 4;
const NAME: u16 = 2;
const RESOLUTION: u16 = 9;
const FLAGS: u16 = 2;

const ETHERNET: u16 = 1;

/// Of the flags of a packet: which way it went.
const INBOUND: u32 = 1;
const OUTBOUND: u32 = 2;

/// A file under way.
pub struct Writer<W> {
    out: W,
    ports: Vec<String>,
    block: Vec<u8>,
}

impl<W: Write> Writer<W> {
    /// Begins a file of frames of these ports, of which at most so many bytes are kept.
    pub fn new(out: W, ports: Vec<String>, snaplen: u32) -> io::Result<Self> {
        let mut this = Self { out, ports, block: Vec::new() };
        this.block.extend_from_slice(&0x1a2b_3c4d_u32.to_le_bytes());
        this.block.extend_from_slice(&[1, 0, 0, 0]);
        // How long the section will be is not known.
        this.block.extend_from_slice(&u64::MAX.to_le_bytes());
        this.option(APPLICATION, concat!("penstock ", env!("CARGO_PKG_VERSION")).as_bytes());
        this.end_block(SECTION)?;
        for port in this.ports.clone() {
            this.block.extend_from_slice(&ETHERNET.to_le_bytes());
            this.block.extend_from_slice(&[0, 0]);
            this.block.extend_from_slice(&snaplen.to_le_bytes());
            this.option(NAME, port.as_bytes());
            // Time stamps are nanoseconds.
            this.option(RESOLUTION, &[9]);
            this.end_block(INTERFACE)?;
        }
        this.flush()?;
        Ok(this)
    }

    pub fn write(&mut self, frame: &CapturedFrame) -> io::Result<()> {
        let time = frame.time.unwrap_or_default();
        let nanos = time.seconds as u64 * 1_000_000_000 + time.nanos as u64;
        let port = self.ports.iter().position(|port| *port == frame.port).unwrap_or(0) as u32;
        let words = [port, (nanos >> 32) as u32, nanos as u32, frame.data.len() as u32, frame.length];
        words.iter().for_each(|word| self.block.extend_from_slice(&word.to_le_bytes()));
        self.block.extend_from_slice(&frame.data);
        self.pad();
        self.option(COMMENT, comment(frame).as_bytes());
        self.option(FLAGS, &if frame.sent { OUTBOUND } else { INBOUND }.to_le_bytes());
        self.end_block(PACKET)
    }

    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    fn pad(&mut self) {
        self.block.resize(self.block.len().next_multiple_of(4), 0);
    }

    fn option(&mut self, code: u16, value: &[u8]) {
        let length = value.len().min(u16::MAX.into());
        self.block.extend_from_slice(&code.to_le_bytes());
        self.block.extend_from_slice(&(length as u16).to_le_bytes());
        self.block.extend_from_slice(&value[..length]);
        self.pad();
    }

    /// Writes what the block has by now, which ends in options.
    fn end_block(&mut self, kind: u32) -> io::Result<()> {
        self.option(0, &[]);
        let length = (self.block.len() as u32 + 12).to_le_bytes();
        self.out.write_all(&kind.to_le_bytes())?;
        self.out.write_all(&length)?;
        self.out.write_all(&self.block)?;
        self.out.write_all(&length)?;
        self.block.clear();
        Ok(())
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
        use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketOption;
        use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionOption;
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
