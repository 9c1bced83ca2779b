//! Files that must outlive the process whole: the last good definitions, and the bases of slots.
//!
//! A file is a text under one line that tells whether all of it is there. It is written aside, synced and renamed: after a crash the old
//! one or the new one stands there, whole. A thread of its own writes, since a sync may take longer than anything else that the control
//! side does.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;

use super::bases::Saved;

/// What is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// The feed's own text, so that a restart forwards before the feed answers.
    Definitions,
    /// Where flows are that nobody remembers.
    Bases,
}

/// Why nothing was found on disk.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{path}: {reason}", path = .0.display(), reason = .1)]
    Io(PathBuf, io::Error),
    #[error("{path} is damaged ({what}) and is not used", path = .path.display())]
    Damaged { path: PathBuf, what: &'static str },
}

impl Kept {
    const fn name(self) -> &'static str {
        match self {
            Self::Definitions => "definitions.last-good",
            Self::Bases => "bases",
        }
    }

    const fn title(self) -> &'static str {
        match self {
            Self::Definitions => "penstock last good definitions, fnv1a",
            Self::Bases => "penstock bases of slots, fnv1a",
        }
    }

    /// Where the file lies.
    pub fn path(self, state_dir: &Path) -> PathBuf {
        state_dir.join(self.name())
    }

    /// The text that was kept last; `None` where none ever was.
    pub fn load(self, state_dir: &Path) -> Result<Option<String>, Error> {
        let path = self.path(state_dir);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::Io(path, error)),
        };
        let damaged = |what| Error::Damaged { path: path.clone(), what };
        let text = String::from_utf8(bytes).map_err(|_| damaged("not UTF-8"))?;
        let (first, text) = text.split_once('\n').ok_or_else(|| damaged("no first line"))?;
        let is_whole = first == self.first_line(text);
        if is_whole { Ok(Some(text.to_owned())) } else { Err(damaged("the text does not match its checksum")) }
    }

    fn save(self, state_dir: &Path, text: &str) -> Result<(), Error> {
        let path = self.path(state_dir);
        let aside = path.with_extension("new");
        let write = || {
            let mut file = File::create(&aside)?;
            writeln!(file, "{}", self.first_line(text))?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&aside, &path)?;
            // The rename itself is safe once the directory is.
            File::open(state_dir)?.sync_all()
        };
        write().map_err(|error| Error::Io(path.clone(), error))
    }

    fn first_line(self, text: &str) -> String {
        format!("{} {:016x}", self.title(), fnv1a(text.as_bytes()))
    }
}

/// Writes what it is given; of several of a kind that wait, only the newest.
pub struct Keeper {
    given: Option<mpsc::Sender<Given>>,
    thread: Option<JoinHandle<()>>,
}

enum Given {
    Definitions(String),
    Bases(Saved),
}

impl Keeper {
    pub fn start(state_dir: PathBuf) -> io::Result<Self> {
        let (sender, receiver) = mpsc::channel::<Given>();
        let save = move |kept: Kept, text: &str| {
            if let Err(error) = kept.save(&state_dir, text) {
                tracing::error!("what a restart needs cannot be kept: {error}");
            }
        };
        let work = move || {
            while let Ok(first) = receiver.recv() {
                let (mut definitions, mut bases) = (None, None);
                for given in [first].into_iter().chain(receiver.try_iter()) {
                    match given {
                        Given::Definitions(text) => definitions = Some(text),
                        Given::Bases(saved) => bases = Some(saved),
                    }
                }
                // Bases of definitions that are not there yet hold nothing; definitions without their bases would move flows.
                if let Some(bases) = bases {
                    save(Kept::Bases, &bases.to_text());
                }
                if let Some(text) = definitions {
                    save(Kept::Definitions, &text);
                }
            }
        };
        let thread = std::thread::Builder::new().name("keeper".to_owned()).spawn(work)?;
        Ok(Self { given: Some(sender), thread: Some(thread) })
    }

    /// Returns at once.
    pub fn keep_definitions(&self, text: String) {
        self.give(Given::Definitions(text));
    }

    /// Returns at once. Definitions that are given later are written later.
    pub fn keep_bases(&self, saved: Saved) {
        self.give(Given::Bases(saved));
    }

    fn give(&self, given: Given) {
        if let Some(sender) = &self.given {
            let _ = sender.send(given);
        }
    }
}

/// Waits until what was given is on disk.
impl Drop for Keeper {
    fn drop(&mut self) {
        self.given = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// FNV-1a, 64 bits: against damage, not against anybody.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_last_is_found() {
        let directory = tempfile::tempdir().unwrap();
        assert!(Kept::Definitions.load(directory.path()).unwrap().is_none());
        let keeper = Keeper::start(directory.path().to_owned()).unwrap();
        for k in 0..100 {
            keeper.keep_definitions(format!("{{\n\"k\": {k}\n}}\n"));
        }
        drop(keeper);
        assert_eq!(Kept::Definitions.load(directory.path()).unwrap().as_deref(), Some("{\n\"k\": 99\n}\n"));
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        Kept::Definitions.save(directory.path(), "{\"services\": []}").unwrap();
        let whole = fs::read(Kept::Definitions.path(directory.path())).unwrap();
        for cut in 0..whole.len() {
            fs::write(Kept::Definitions.path(directory.path()), &whole[..cut]).unwrap();
            assert!(Kept::Definitions.load(directory.path()).is_err(), "cut to {cut} bytes");
        }
        for bit in 0..whole.len() * 8 {
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            fs::write(Kept::Definitions.path(directory.path()), &damaged).unwrap();
            assert!(Kept::Definitions.load(directory.path()).is_err(), "bit {bit} flipped");
        }
    }

    #[test]
    fn known_answers_of_fnv1a() {
        assert_eq!(
            (fnv1a(b""), fnv1a(b"a"), fnv1a(b"foobar")),
            (0xcbf29ce484222325, 0xaf63dc4c8601ec8c, 0x85944171f73967e8)
        );
    }
}
