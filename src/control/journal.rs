//! Changes of the definitions that came one service at a time: a line each, behind the whole set that they change.
//!
//! To write ten thousand services anew for each change of one would take a tenth of a second. So a change is a line of a *segment*, a file
//! that is only appended to and synced. The whole set says with which segment its changes begin; those of later segments follow. When
//! segments have grown as long as the set, the set is written anew, and only once it stands there whole do the old segments go: at every
//! instant, set and segments together are what was acknowledged.
//!
//! A line that is torn nobody was told of; damage is reported.

use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::disk::sync_directory;
use super::lines;

/// One change, as it is written.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// Of the definitions after it.
    pub version: String,
    /// A service in native JSON, in place of the one of that name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upsert: Option<Box<RawValue>>,
    /// The name of a service that is no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delete: Option<String>,
}

impl Change {
    /// A line of a segment.
    pub fn line(&self) -> String {
        lines::line(&serde_json::to_string(self).expect("plain data has a JSON form"))
    }
}

/// A change among all: so many lines of a segment, and all of the segments before it. The default: none yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    pub segment: u64,
    pub line: u64,
}

/// The segment that is appended to.
#[derive(Debug)]
pub struct Journal {
    number: u64,
    file: File,
    /// Bytes, and lines, that are known to be whole.
    bytes: u64,
    lines: u64,
    /// Whether what stands behind those must be cut off first.
    is_torn: bool,
}

impl Journal {
    /// Begins a segment; one of that number is overwritten.
    pub fn begin(directory: &Path, number: u64) -> io::Result<Self> {
        let file = File::create(path(directory, number))?;
        file.sync_all()?;
        sync_directory(directory)?;
        Ok(Self { number, file, bytes: 0, lines: 0, is_torn: false })
    }

    /// Goes on with a segment where there is one.
    pub fn open(directory: &Path, number: u64) -> io::Result<Self> {
        let path = path(directory, number);
        if !path.exists() {
            return Self::begin(directory, number);
        }
        let bytes = fs::read(&path)?;
        let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |newline| newline + 1);
        let lines = bytes.iter().filter(|&&byte| byte == b'\n').count() as u64;
        let file = File::options().write(true).open(&path)?;
        Ok(Self { number, file, bytes: whole as u64, lines, is_torn: true })
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Of the last change.
    pub fn position(&self) -> Position {
        Position { segment: self.number, line: self.lines }
    }

    /// Appends lines and syncs them. If that fails none of them counts, and none stays.
    pub fn append(&mut self, lines: &str) -> io::Result<()> {
        if self.is_torn {
            self.cut()?;
        }
        self.is_torn = true;
        if let Err(error) = self.file.write_all(lines.as_bytes()).and_then(|()| self.file.sync_data()) {
            // Whole lines would be read again by who starts next, though their writers were told that they are not kept.
            let _ = self.cut();
            return Err(error);
        }
        self.bytes += lines.len() as u64;
        self.lines += lines.bytes().filter(|&byte| byte == b'\n').count() as u64;
        self.is_torn = false;
        Ok(())
    }

    /// Cuts off what is not known to be whole.
    fn cut(&mut self) -> io::Result<()> {
        self.file.set_len(self.bytes)?;
        self.file.seek(SeekFrom::Start(self.bytes))?;
        self.file.sync_data()?;
        self.is_torn = false;
        Ok(())
    }
}

/// The changes since a set was written whose first segment is `from`, in order, and the number of the last segment. What is damaged is
/// reported by the last of the three, and nothing after it is used.
pub fn read(directory: &Path, from: u64) -> (Vec<(Position, Change)>, u64, Option<String>) {
    let (mut changes, mut number) = (Vec::new(), from);
    loop {
        let path = path(directory, number);
        // What is torn may end within a letter.
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return (changes, last(from, number), None),
            Err(error) => return (changes, last(from, number), Some(format!("{}: {error}", path.display()))),
        };
        for (index, line) in lines::whole(&bytes).enumerate() {
            let Some(change) = lines::text(line).and_then(|json| serde_json::from_str(json).ok()) else {
                let problem = format!(
                    "{}: line {} is damaged; it and the changes after it are not used",
                    path.display(),
                    index + 1
                );
                return (changes, number, Some(problem));
            };
            changes.push((Position { segment: number, line: index as u64 + 1 }, change));
        }
        number += 1;
    }
}

fn last(from: u64, missing: u64) -> u64 {
    missing.saturating_sub(1).max(from)
}

/// The number of a segment after all that there are.
pub fn next(directory: &Path) -> io::Result<u64> {
    Ok(segments(directory)?.iter().filter_map(|path| number(path)).max().map_or(1, |last| last + 1))
}

fn number(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_prefix(NAME)?.parse().ok()
}

/// Removes the segments before `first`, which a set that is written whole needs no more.
pub fn forget_before(directory: &Path, first: u64) -> io::Result<()> {
    for path in segments(directory)?.into_iter().filter(|path| number(path).is_some_and(|number| number < first)) {
        fs::remove_file(path)?;
    }
    Ok(())
}

/// The files of all segments.
pub fn segments(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        found.extend(Some(entry?.path()).filter(|path| number(path).is_some()));
    }
    Ok(found)
}

const NAME: &str = "changes.";

fn path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{NAME}{number}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(version: u64) -> Change {
        let service = format!(r#"{{"name": "müller", "weight": {version}}}"#);
        Change {
            version: version.to_string(),
            upsert: Some(RawValue::from_string(service).unwrap()),
            delete: version.is_multiple_of(3).then(|| format!("s{version}")),
        }
    }

    fn versions(directory: &Path, from: u64) -> Vec<u64> {
        read(directory, from).0.iter().map(|(_, change)| change.version.parse().unwrap()).collect()
    }

    #[test]
    fn lines_of_all_segments_are_found_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let mut journal = Journal::begin(directory.path(), 7).unwrap();
        journal.append(&(change(1).line() + &change(2).line())).unwrap();
        let mut journal = Journal::begin(directory.path(), 8).unwrap();
        journal.append(&change(3).line()).unwrap();
        drop(journal);
        let mut journal = Journal::open(directory.path(), 8).unwrap();
        journal.append(&change(4).line()).unwrap();
        assert_eq!(versions(directory.path(), 7), [1, 2, 3, 4]);
        assert_eq!(versions(directory.path(), 8), [3, 4]);
        assert_eq!(read(directory.path(), 9).1, 9);
        assert_eq!(read(directory.path(), 7).0[2].1.line(), change(3).line());
        let positions: Vec<_> = read(directory.path(), 7).0.iter().map(|(at, _)| (at.segment, at.line)).collect();
        assert_eq!(positions, [(7, 1), (7, 2), (8, 1), (8, 2)]);
        assert_eq!(journal.position(), Position { segment: 8, line: 2 });
        forget_before(directory.path(), 8).unwrap();
        assert_eq!((versions(directory.path(), 7), versions(directory.path(), 8)), (vec![], vec![3, 4]));
    }

    #[test]
    fn wherever_writing_stopped_what_was_acknowledged_is_there_and_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        let mut journal = Journal::begin(directory.path(), 1).unwrap();
        journal.append(&change(1).line()).unwrap();
        drop(journal);
        let whole = fs::read(path(directory.path(), 1)).unwrap();
        let torn = change(2).line();
        for cut in 0..torn.len() {
            fs::write(path(directory.path(), 1), [&whole, &torn.as_bytes()[..cut]].concat()).unwrap();
            let (changes, _, problem) = read(directory.path(), 1);
            assert_eq!((changes.len(), problem), (1, None), "cut after {cut} bytes");
            let mut journal = Journal::open(directory.path(), 1).unwrap();
            journal.append(&change(3).line()).unwrap();
            assert_eq!(versions(directory.path(), 1), [1, 3]);
        }
    }

    #[test]
    fn every_flipped_bit_of_a_line_that_was_whole_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let whole = change(1).line() + &change(2).line();
        for bit in 0..change(1).line().len() * 8 {
            let mut damaged = whole.clone().into_bytes();
            damaged[bit / 8] ^= 1 << (bit % 8);
            fs::write(path(directory.path(), 1), &damaged).unwrap();
            let (changes, _, problem) = read(directory.path(), 1);
            // The letters of a checksum mean the same in capitals.
            let is_case = changes.len() == 2 && problem.is_none() && damaged.eq_ignore_ascii_case(whole.as_bytes());
            assert!(is_case || (changes.is_empty() && problem.is_some()), "bit {bit} flipped");
        }
    }
}
