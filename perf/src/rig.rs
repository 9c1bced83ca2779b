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
    /// What frames come from and go to.
    pub device: String,
    /// What EAL is told but for CPUs and the device.
    pub eal: Vec<String>,
    /// Size of the mempool: a device that plays a capture keeps one mbuf for each frame of it.
    pub mbufs: usize,
    /// Where a contestant may put its files.
    pub directory: PathBuf,
}

impl Rig {
    /// Of each queue; what penstock asks for. (net_pcap has none, but mbufs could be held by others.)
    pub const DESCRIPTORS: usize = 1024;
    /// Mbufs in an lcore's mempool cache; what penstock asks for.
    pub const MEMPOOL_CACHE: usize = 256;
    /// Memory is hugepages that go with the process.
    pub const EAL: [&str; 2] = ["--no-pci", "--in-memory"];
    /// An mbuf with 2176 bytes of room, its header and its place in the ring.
    const MBUF_BYTES: usize = 2400;

    /// A rig whose device plays packets of this kind round and round; its files are in `directory`, captures in `captures`.
    pub fn new(lcore: u16, main: u16, kind: Kind, captures: &Path, directory: PathBuf) -> anyhow::Result<Self> {
        let device = format!("net_pcap0,rx_pcap={},infinite_rx=1", capture(kind, captures)?.display());
        std::fs::create_dir_all(&directory)?;
        let eal = Self::EAL.map(str::to_owned).to_vec();
        Ok(Self { lcore, main, realtime: false, device, eal, mbufs: Self::mbufs_for(kind.frames()), directory })
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

/// The capture of packets of this kind, made once.
pub fn capture(kind: Kind, captures: &Path) -> anyhow::Result<PathBuf> {
    let capture = captures.join(format!("{kind}.pcap"));
    if !capture.exists() {
        traffic::write_frames(&capture, &traffic::frames_of(kind, VIP)?)?;
    }
    Ok(capture)
}

/// One end (`server`, `client`) of memory that two programs share, with rings of 2^`ring` slots.
pub fn memif(role: &str, socket: &Path, ring: u32) -> String {
    format!("net_memif0,role={role},socket={},socket-abstract=no,rsize={ring}", socket.display())
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
