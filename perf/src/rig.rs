//! What is the same for all who are compared: CPUs, the device, the mempool.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};

use crate::traffic::{self, Kind};

pub const VIP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 80);
/// Backends of a service that has no other number of them.
pub const BACKENDS: usize = 100;

#[derive(Clone)]
pub struct Rig {
    pub lcore: u16,
    pub main: u16,
    /// Contestants run ahead of all ordinary work.
    pub realtime: bool,
    /// The capture that the device plays round and round.
    pub capture: PathBuf,
    /// Size of the mempool: the device keeps one mbuf for each frame of the capture.
    pub mbufs: usize,
    /// Where a contestant may put its files.
    pub directory: PathBuf,
}

impl Rig {
    /// Of each queue; what penstock asks for. (net_pcap has none, but mbufs could be held by others.)
    pub const DESCRIPTORS: usize = 1024;
    /// Mbufs in an lcore's mempool cache; what penstock asks for.
    pub const MEMPOOL_CACHE: usize = 256;
    /// An mbuf with 2176 bytes of room, its header and its place in the ring.
    const MBUF_BYTES: usize = 2400;

    /// A rig for packets of this kind, whose files are in `directory`; captures are made once, in `captures`.
    pub fn new(lcore: u16, main: u16, kind: Kind, captures: &Path, directory: PathBuf) -> anyhow::Result<Self> {
        let capture = captures.join(format!("{kind}.pcap"));
        if !capture.exists() {
            traffic::write_frames(&capture, &traffic::frames_of(kind, VIP)?)?;
        }
        std::fs::create_dir_all(&directory)?;
        Ok(Self { lcore, main, realtime: false, capture, mbufs: Self::mbufs_for(kind.frames()), directory })
    }

    pub fn device(&self) -> String {
        format!("net_pcap0,rx_pcap={},infinite_rx=1", self.capture.display())
    }

    /// A mempool for a capture of `frames`: 2^k - 1, as DPDK likes it, and room for what is under way.
    pub fn mbufs_for(frames: usize) -> usize {
        ((frames + 16_384).next_power_of_two() - 1).max(65_535)
    }

    /// Megabytes of hugepages that a process with this mempool takes.
    pub fn megabytes_for(mbufs: usize) -> u64 {
        (mbufs * Self::MBUF_BYTES / 1_000_000 + 128) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mempool_holds_the_capture_and_more() {
        assert_eq!(Rig::mbufs_for(1), 65_535);
        assert_eq!(Rig::mbufs_for(100_000), 131_071);
        assert_eq!(Rig::mbufs_for(131_000), 262_143);
    }
}
