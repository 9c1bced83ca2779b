//! 2 MiB hugepages for the time of a run.

use std::fs;
use std::process::Command;

use anyhow::{Context, ensure};

const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";

/// More hugepages than there were; the old number is set again when this goes.
pub struct Hugepages {
    before: u64,
    has_mounted: bool,
}

/// Where files of them are, for the flows that a node remembers.
const MOUNT: &str = "/dev/hugepages";

impl Hugepages {
    /// Makes at least `megabytes` of hugepages free.
    pub fn reserve(megabytes: u64) -> anyhow::Result<Self> {
        Self::reserve_about(megabytes, megabytes)
    }

    /// Makes `megabytes` of hugepages free, or as many as the kernel gives, of which `least` are enough.
    pub fn reserve_about(megabytes: u64, least: u64) -> anyhow::Result<Self> {
        let (before, free) = (read("nr_hugepages")?, read("free_hugepages")?);
        let (wanted, needed) = (megabytes.div_ceil(2), least.div_ceil(2));
        let guard = Self { before, has_mounted: mount()? };
        if free < wanted {
            set(before + wanted - free)?;
            let free = read("free_hugepages")?;
            ensure!(
                free >= needed,
                "the kernel gave {free} of {needed} hugepages of 2 MiB: free some memory, or run with fewer --flows"
            );
        }
        Ok(guard)
    }

    /// Megabytes that nobody uses.
    pub fn free_megabytes(&self) -> anyhow::Result<u64> {
        Ok(read("free_hugepages")? * 2)
    }
}

impl Drop for Hugepages {
    fn drop(&mut self) {
        if self.has_mounted {
            let _ = Command::new("umount").arg(MOUNT).status();
        }
        if let Err(error) = set(self.before) {
            eprintln!("hugepages are not restored to {}: {error:#}", self.before);
        }
    }
}

/// Mounts a hugetlbfs where there is none; whether it did.
fn mount() -> anyhow::Result<bool> {
    if fs::read_to_string("/proc/mounts")?.contains(" hugetlbfs ") {
        return Ok(false);
    }
    fs::create_dir_all(MOUNT)?;
    let status = Command::new("mount").args(["-t", "hugetlbfs", "none", MOUNT]).status()?;
    ensure!(status.success(), "{MOUNT}: a hugetlbfs cannot be mounted: run as root");
    Ok(true)
}

fn read(name: &str) -> anyhow::Result<u64> {
    let path = format!("{POOL}/{name}");
    let text = fs::read_to_string(&path).with_context(|| format!("{path}: this kernel has no 2 MiB hugepages"))?;
    text.trim().parse().with_context(|| format!("{path}: {text:?}"))
}

fn set(count: u64) -> anyhow::Result<()> {
    let path = format!("{POOL}/nr_hugepages");
    fs::write(&path, count.to_string()).with_context(|| format!("{path} cannot be set: run as root"))
}
