//! Memory for remembered flows that outlives the process, however it ends: files of a file system that is nothing but memory.
//!
//! A process that comes after another with the same configuration, on the same boot, goes on with what that remembered. The files lie in
//! a hugetlbfs where one is mounted and has room, else in /dev/shm, whose pages are small and the rate less; a record in the state
//! directory says where, and what is in them. Where neither can be had, flows are remembered in private memory, and a restart forgets them.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::state_dir;
use crate::flow::{Flows, Memory};

const RECORD: &str = "flows";

/// What is in the files, and which.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    /// How a table is laid out.
    layout: u32,
    /// Which boot of the machine.
    boot: String,
    capacity: usize,
    /// Drawn at random: what else is kept says which memory it is of.
    id: u64,
    lcores: Vec<Part>,
}

impl Record {
    /// Whoever reads it knows the keys of the hashes, and could choose flows that meet in one bucket: nobody but us.
    fn keep(&self, path: &Path) -> io::Result<()> {
        let aside = path.with_extension("new");
        let _ = fs::remove_file(&aside);
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&aside)?;
        file.write_all(&serde_json::to_vec(self).expect("plain data has a JSON form"))?;
        fs::rename(&aside, path)
    }
}

/// One lcore's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    file: PathBuf,
    /// The key of its hash.
    seed: [u64; 2],
    /// Whether it remembers what a process before did.
    #[serde(skip)]
    is_known: bool,
}

/// All of it.
#[derive(Debug)]
pub struct FlowMemory {
    pub parts: Vec<Part>,
    /// Whether all lcores remember what a process before did.
    pub knows_flows: bool,
    pub id: u64,
    /// Why they do not, where one had left something.
    pub lost: Option<&'static str>,
}

impl FlowMemory {
    /// Finds what a process before left, or prepares the record of new files. `secret`: makes the keys of new ones.
    pub fn find(state_dir: &Path, lcores: usize, capacity: usize, secret: impl Fn() -> [u64; 2]) -> io::Result<Self> {
        let path = state_dir.join(RECORD);
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let there: Option<Record> = fs::read(&path).ok().and_then(|text| serde_json::from_slice(&text).ok());
        let differs = |record: &Record| match () {
            () if record.layout != Flows::LAYOUT => Some("it is another release's"),
            () if record.boot != boot => Some("the machine was started anew"),
            () if record.capacity != capacity => Some("flows.capacity is another"),
            () if record.lcores.len() != lcores => Some("there is another number of lcores"),
            () if !record.lcores.iter().all(|part| has_length(&part.file, capacity)) => Some("a file of it is gone"),
            () => None,
        };
        let lost = there.as_ref().map_or_else(|| path.exists().then_some("its record is damaged"), differs);
        match there {
            Some(mut record) if lost.is_none() => {
                record.lcores.iter_mut().for_each(|part| part.is_known = true);
                Ok(Self { parts: record.lcores, knows_flows: true, id: record.id, lost })
            }
            other => {
                for part in other.into_iter().flat_map(|record| record.lcores) {
                    let _ = fs::remove_file(part.file);
                }
                let directory = directory(lcores, capacity);
                let name = |lcore| format!("penstock-{:016x}-{lcore}", state_dir::number(state_dir));
                let part = |lcore| Part { file: directory.join(name(lcore)), seed: secret(), is_known: false };
                let parts: Vec<Part> = (0..lcores).map(part).collect();
                let id = secret()[0];
                let record = Record { layout: Flows::LAYOUT, boot, capacity, id, lcores: parts.clone() };
                // Where it cannot be kept the next process begins anew, which is no reason not to run.
                if let Err(error) = record.keep(&path) {
                    tracing::error!("{}: {error}; a restart forgets all flows", path.display());
                }
                Ok(Self { parts, knows_flows: false, id, lost })
            }
        }
    }
}

impl Part {
    /// The table. Called on its lcore, so that its pages come from there.
    pub fn open(&self, capacity: usize) -> (Flows, Option<io::Error>) {
        match self.map(capacity) {
            Ok(memory) => (Flows::on(memory, capacity, self.seed), None),
            Err(error) => (Flows::new(capacity, self.seed), Some(error)),
        }
    }

    pub fn file(&self) -> &Path {
        &self.file
    }

    fn map(&self, capacity: usize) -> io::Result<Memory> {
        let mut options = File::options();
        options.read(true).write(true).mode(0o600);
        if self.is_known {
            return Memory::of_file(&options.open(&self.file)?, Flows::buckets(capacity));
        }
        let _ = fs::remove_file(&self.file);
        let file = options.create_new(true).open(&self.file)?;
        let memory = self.fill(&file, length(capacity)).and_then(|()| Memory::of_file(&file, Flows::buckets(capacity)));
        if memory.is_err() {
            // What there was room for is others' again.
            let _ = fs::remove_file(&self.file);
        }
        memory
    }

    /// Gives a new file its length.
    fn fill(&self, mut file: &File, length: u64) -> io::Result<()> {
        if is_huge(&self.file) {
            return file.set_len(length);
        }
        // Now there is room for all of it, or an error; later there would be a signal.
        io::copy(&mut io::repeat(0).take(length), &mut file).map(drop)
    }
}

/// Bytes of a file: whole huge pages.
fn length(capacity: usize) -> u64 {
    Flows::bytes(capacity).next_multiple_of(HUGE).max(HUGE) as u64
}

const HUGE: usize = 2 << 20;

fn has_length(file: &Path, capacity: usize) -> bool {
    fs::symlink_metadata(file).is_ok_and(|metadata| metadata.is_file() && metadata.len() == length(capacity))
}

/// Where files of memory can be.
fn directory(lcores: usize, capacity: usize) -> PathBuf {
    let wanted = lcores as u64 * length(capacity) / HUGE as u64;
    let free = fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages").unwrap_or_default();
    let has_room = free.trim().parse::<u64>().is_ok_and(|free| free >= wanted);
    let huge = mounts().into_iter().find(|mount| mount.is_huge).filter(|_| has_room);
    huge.map_or_else(|| PathBuf::from("/dev/shm"), |mount| mount.path)
}

struct Mount {
    path: PathBuf,
    /// A hugetlbfs with pages of 2 MiB.
    is_huge: bool,
}

fn mounts() -> Vec<Mount> {
    let text = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let mount = |line: &str| {
        let mut words = line.split(' ').skip(1);
        let (path, kind, options) = (words.next()?, words.next()?, words.next()?);
        let size = options.split(',').find_map(|option| option.strip_prefix("pagesize="));
        let is_huge = kind == "hugetlbfs" && size.is_none_or(|size| size == "2M");
        Some(Mount { path: path.into(), is_huge })
    };
    text.lines().filter_map(mount).collect()
}

fn is_huge(file: &Path) -> bool {
    mounts().iter().any(|mount| mount.is_huge && file.starts_with(&mount.path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{Flow, Spots, Stage};

    fn remove(memory: &FlowMemory) {
        memory.parts.iter().for_each(|part| drop(fs::remove_file(&part.file)));
    }

    #[test]
    fn flows_outlive_their_process() {
        let directory = tempfile::tempdir().unwrap();
        let find = |lcores, capacity| FlowMemory::find(directory.path(), lcores, capacity, || [7, 8]).unwrap();
        let first = find(2, 1000);
        assert!(!first.knows_flows);
        let (mut flows, error) = first.parts[1].open(1000);
        assert!(error.is_none(), "{error:?}");
        let flow = Flow { destination: 5, slot: 6, stage: Stage::Established, seen: 7 };
        let spot = flows.spot([1, 2]);
        flows.insert(spot, &flow, &());
        let _ = first.parts[0].open(1000);
        drop(flows);

        let second = find(2, 1000);
        assert!(second.knows_flows);
        let (flows, _) = second.parts[1].open(1000);
        assert_eq!(flows.find(flows.spot([1, 2])).map(|place| flows.get(place)), Some(flow));
        assert_eq!((flows.taken(), second.parts[0].open(1000).0.taken()), (1, 0));
        drop(flows);

        // Another capacity, another number of lcores, a file that is gone: a new beginning.
        let third = find(2, 2000);
        assert!(!third.knows_flows && third.parts[1].open(2000).0.is_empty() && third.parts[0].open(2000).0.is_empty());
        assert!(find(2, 2000).knows_flows);
        let fourth = find(1, 2000);
        assert!(!fourth.knows_flows && !third.parts[1].file.exists());
        let _ = fourth.parts[0].open(2000);
        fs::remove_file(&fourth.parts[0].file).unwrap();
        assert!(!find(1, 2000).knows_flows);
        remove(&fourth);
    }

    #[test]
    fn the_record_which_has_the_keys_is_for_nobody_else_and_a_node_runs_without() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let find = || FlowMemory::find(directory.path(), 1, 10, || [7, 8]).unwrap();
        find();
        let path = directory.path().join(RECORD);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(!find().knows_flows);
    }

    #[test]
    fn where_there_is_no_such_memory_flows_are_remembered_all_the_same() {
        let part = Part { file: "/nowhere/flows".into(), seed: [1, 2], is_known: false };
        let (flows, error) = part.open(10);
        assert!(error.is_some() && flows.is_empty());
    }
}
