//! The last good definitions on disk, so that a restart forwards before the feed answers.
//!
//! The file is the feed's own text under one line that tells whether all of it is there. It is written aside, synced
//! and renamed: after a crash the old one or the new one stands there, whole. A thread of its own writes, since a sync
//! may take longer than anything else that the control side does.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;

const NAME: &str = "definitions.last-good";
const TITLE: &str = "penstock last good definitions, fnv1a";

/// Why no definitions were found on disk.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{path}: {reason}", path = .0.display(), reason = .1)]
    Io(PathBuf, io::Error),
    #[error("{path} is damaged ({what}) and is not used", path = .path.display())]
    Damaged { path: PathBuf, what: &'static str },
}

/// The text that was kept last; `None` where none ever was.
pub fn load(state_dir: &Path) -> Result<Option<String>, Error> {
    let path = path(state_dir);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::Io(path, error)),
    };
    let damaged = |what| Error::Damaged { path: path.clone(), what };
    let text = String::from_utf8(bytes).map_err(|_| damaged("not UTF-8"))?;
    let (first, text) = text.split_once('\n').ok_or_else(|| damaged("no first line"))?;
    if first == title(text) { Ok(Some(text.to_owned())) } else { Err(damaged("the text does not match its checksum")) }
}

/// Where the file lies.
pub fn path(state_dir: &Path) -> PathBuf {
    state_dir.join(NAME)
}

/// Writes texts one after another; of several that wait, only the newest.
pub struct Keeper {
    texts: Option<mpsc::Sender<String>>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    pub fn start(state_dir: PathBuf) -> io::Result<Self> {
        let (sender, receiver) = mpsc::channel::<String>();
        let work = move || {
            while let Ok(text) = receiver.recv() {
                let text = receiver.try_iter().last().unwrap_or(text);
                if let Err(error) = save(&state_dir, &text) {
                    tracing::error!("the last good definitions cannot be kept: {error}");
                }
            }
        };
        let thread = std::thread::Builder::new().name("keeper".to_owned()).spawn(work)?;
        Ok(Self { texts: Some(sender), thread: Some(thread) })
    }

    /// Returns at once.
    pub fn keep(&self, text: String) {
        if let Some(texts) = &self.texts {
            let _ = texts.send(text);
        }
    }
}

/// Waits until what was given is on disk.
impl Drop for Keeper {
    fn drop(&mut self) {
        self.texts = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn save(state_dir: &Path, text: &str) -> Result<(), Error> {
    let (path, aside) = (path(state_dir), state_dir.join(format!("{NAME}.new")));
    let write = || {
        let mut file = File::create(&aside)?;
        writeln!(file, "{}", title(text))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&aside, &path)?;
        // The rename itself is safe once the directory is.
        File::open(state_dir)?.sync_all()
    };
    write().map_err(|error| Error::Io(path.clone(), error))
}

fn title(text: &str) -> String {
    format!("{TITLE} {:016x}", fnv1a(text.as_bytes()))
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
        assert!(load(directory.path()).unwrap().is_none());
        let keeper = Keeper::start(directory.path().to_owned()).unwrap();
        for k in 0..100 {
            keeper.keep(format!("{{\n\"k\": {k}\n}}\n"));
        }
        drop(keeper);
        assert_eq!(load(directory.path()).unwrap().as_deref(), Some("{\n\"k\": 99\n}\n"));
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        save(directory.path(), "{\"services\": []}").unwrap();
        let whole = fs::read(path(directory.path())).unwrap();
        for cut in 0..whole.len() {
            fs::write(path(directory.path()), &whole[..cut]).unwrap();
            assert!(load(directory.path()).is_err(), "cut to {cut} bytes");
        }
        for bit in 0..whole.len() * 8 {
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            fs::write(path(directory.path()), &damaged).unwrap();
            assert!(load(directory.path()).is_err(), "bit {bit} flipped");
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
