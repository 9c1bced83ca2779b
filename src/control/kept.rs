//! Files that must outlive the process whole: the last good definitions, the bases of slots, what was drained by hand, who
//! failed the last checks.
//!
//! A file is a text under one line that tells whether all of it is there. It is written aside, synced and renamed: after a crash the old
//! one or the new one stands there, whole. A thread of its own writes, since a sync may take longer than anything else that the control
//! side does.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use tokio::sync::oneshot;

use super::bases::Saved;
use super::drained::Drained;
use super::journal::{self, Journal, Position};
use crate::health::LastState;
use crate::service::Definitions;

/// What is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// The feed's own text, so that a restart forwards before the feed answers.
    Definitions,
    /// Where flows are that nobody remembers.
    Bases,
    /// The definitions that a whole set took the place of, as long as it may not have been put in force.
    Before,
    /// Backends that were drained by hand.
    Drained,
    /// Backends that failed their checks.
    Health,
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
            Self::Before => "definitions.before",
            Self::Drained => "drained",
            Self::Health => "health",
        }
    }

    const fn title(self) -> &'static str {
        match self {
            Self::Definitions => "penstock last good definitions, fnv1a",
            Self::Bases => "penstock bases of slots, fnv1a",
            // A link to what that file was.
            Self::Before => Self::Definitions.title(),
            Self::Drained => "penstock drained backends, fnv1a",
            Self::Health => "penstock backends that failed their checks, fnv1a",
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

/// Definitions as they are kept: a feed's own text; or, where they are written one change after another, a whole set in native JSON behind a
/// line that names the first segment of the changes since.
const CHANGES: &str = "changes ";

/// The number of the first segment of changes, where there are any, and the document.
pub fn split_changes(text: &str) -> (Option<u64>, &str) {
    let split = || {
        let (number, document) = text.strip_prefix(CHANGES)?.split_once('\n')?;
        Some((number.parse().ok()?, document))
    };
    split().map_or((None, text), |(number, document)| (Some(number), document))
}

/// Writes what it is given; of several of a kind that wait, and that nobody waits for, only the newest.
pub struct Keeper {
    given: Option<mpsc::Sender<Given>>,
    thread: Option<JoinHandle<()>>,
}

enum Given {
    Definitions(String),
    Bases(Saved),
    Health(Vec<LastState>),
    Commit(Commit),
}

/// What somebody waits for to be on disk.
pub struct Commit {
    pub drained: Option<Drained>,
    pub definitions: Option<Arc<Definitions>>,
    /// What was changed, where that is little; `None`: all of the definitions are written.
    pub lines: Option<String>,
    /// Hears when all of it is there, and of which change the definitions are now, or why not.
    pub done: oneshot::Sender<Result<Option<Position>, String>>,
}

impl Keeper {
    /// `last_segment`: the one that changes are appended to, where the definitions on disk have segments.
    pub fn start(state_dir: PathBuf, last_segment: Option<u64>) -> io::Result<Self> {
        let journal = last_segment.map(|number| Journal::open(&state_dir, number)).transpose()?;
        let (sender, receiver) = mpsc::channel::<Given>();
        let mut writer = Writer { state_dir, journal, base_bytes: 0, rewriting: None };
        let work = move || {
            while let Ok(first) = receiver.recv() {
                let (mut definitions, mut bases, mut health, mut commits) = (None, None, None, Vec::new());
                for given in [first].into_iter().chain(receiver.try_iter()) {
                    match given {
                        Given::Definitions(text) => definitions = Some(text),
                        Given::Bases(saved) => bases = Some(saved),
                        Given::Health(states) => health = Some(states),
                        Given::Commit(commit) => commits.push(commit),
                    }
                }
                // Bases of definitions that are not there yet hold nothing; definitions without their bases would move flows.
                if let Some(bases) = bases {
                    writer.save(Kept::Bases, &bases.to_text());
                }
                if let Some(text) = definitions {
                    writer.save(Kept::Definitions, &text);
                    writer.forget_changes();
                }
                for commit in commits {
                    writer.commit(commit);
                }
                if let Some(states) = health {
                    let line = |state: &LastState| serde_json::to_string(state).expect("plain data") + "\n";
                    writer.save(Kept::Health, &states.iter().map(line).collect::<String>());
                }
            }
            writer.finish_rewriting();
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

    /// Returns at once.
    pub fn keep_health(&self, states: Vec<LastState>) {
        self.give(Given::Health(states));
    }

    /// Returns at once, and says later what became of it.
    pub fn commit(&self, commit: Commit) {
        self.give(Given::Commit(commit));
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

/// Segments may grow to so many bytes before the set is written anew, or as long as the set.
const SEGMENT: u64 = 4 << 20;

/// The keeper's own state.
struct Writer {
    state_dir: PathBuf,
    /// `None`: the definitions on disk have no changes behind them.
    journal: Option<Journal>,
    /// Length of the set that was written last.
    base_bytes: u64,
    /// Writes the set anew while changes go on; gives its length.
    rewriting: Option<JoinHandle<io::Result<u64>>>,
}

impl Writer {
    fn save(&self, kept: Kept, text: &str) {
        if let Err(error) = kept.save(&self.state_dir, text) {
            tracing::error!("what a restart needs cannot be kept: {error}");
        }
    }

    /// A feed's text has no changes behind it.
    fn forget_changes(&mut self) {
        if self.journal.take().is_some()
            && let Err(error) = journal::forget_before(&self.state_dir, u64::MAX)
        {
            tracing::warn!("old changes cannot be removed: {error}");
        }
    }

    fn commit(&mut self, Commit { drained, definitions, lines, done }: Commit) {
        let write = || {
            if let Some(drained) = drained {
                Kept::Drained.save(&self.state_dir, &drained.to_text()).map_err(|error| error.to_string())?;
            }
            let Some(definitions) = definitions else { return Ok(None) };
            match (&mut self.journal, lines) {
                (Some(journal), Some(lines)) => {
                    journal.append(&lines).map_err(|error| error.to_string())?;
                    let position = journal.position();
                    self.rewrite_where_long(definitions);
                    Ok(Some(position))
                }
                _ => self.write_whole(&definitions).map(Some),
            }
        };
        let _ = done.send(write());
    }

    /// What stood there before stays, too, until the next time: this one may never come into force.
    fn write_whole(&mut self, definitions: &Definitions) -> Result<Position, String> {
        // It would end later, with an older set.
        self.finish_rewriting();
        let first_before = self.keep_before().map_err(|error| error.to_string())?;
        let number = journal::next(&self.state_dir).map_err(|error| error.to_string())?;
        let journal = Journal::begin(&self.state_dir, number).map_err(|error| error.to_string())?;
        let text = format!("{CHANGES}{number}\n{}", definitions.to_json());
        Kept::Definitions.save(&self.state_dir, &text).map_err(|error| error.to_string())?;
        let position = journal.position();
        (self.journal, self.base_bytes) = (Some(journal), text.len() as u64);
        if let Err(error) = journal::forget_before(&self.state_dir, first_before.unwrap_or(number)) {
            tracing::warn!("old changes cannot be removed: {error}");
        }
        Ok(position)
    }

    /// Gives the definitions that are there a second name; and the first segment of their changes, where they have any.
    fn keep_before(&self) -> io::Result<Option<u64>> {
        let (now, before) = (Kept::Definitions.path(&self.state_dir), Kept::Before.path(&self.state_dir));
        match fs::remove_file(&before) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        match fs::hard_link(&now, &before) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            linked => linked?,
        }
        let text = Kept::Before.load(&self.state_dir).ok().flatten();
        Ok(text.and_then(|text| split_changes(&text).0))
    }

    /// Where the changes have grown as long as the set, begins another segment, and has the set written anew behind the scenes.
    fn rewrite_where_long(&mut self, definitions: Arc<Definitions>) {
        let is_long = self.journal.as_ref().is_some_and(|journal| journal.bytes() > SEGMENT.max(self.base_bytes));
        if !is_long || self.rewriting.as_ref().is_some_and(|thread| !thread.is_finished()) {
            return;
        }
        self.finish_rewriting();
        let begin = || {
            let number = journal::next(&self.state_dir)?;
            let journal = Journal::begin(&self.state_dir, number)?;
            let state_dir = self.state_dir.clone();
            let work = move || {
                let text = format!("{CHANGES}{number}\n{}", definitions.to_json());
                Kept::Definitions.save(&state_dir, &text).map_err(|error| io::Error::other(error.to_string()))?;
                // This one is the same as what it takes the place of.
                match fs::remove_file(Kept::Before.path(&state_dir)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => journal::forget_before(&state_dir, number)?,
                }
                Ok(text.len() as u64)
            };
            Ok::<_, io::Error>((journal, std::thread::Builder::new().name("keeper".to_owned()).spawn(work)?))
        };
        match begin() {
            Ok((journal, thread)) => (self.journal, self.rewriting) = (Some(journal), Some(thread)),
            Err(error) => tracing::warn!("definitions cannot be written anew, their changes grow on: {error}"),
        }
    }

    fn finish_rewriting(&mut self) {
        let Some(thread) = self.rewriting.take() else { return };
        match thread.join() {
            Ok(Ok(bytes)) => self.base_bytes = bytes,
            Ok(Err(error)) => tracing::warn!("definitions cannot be written anew, their changes grow on: {error}"),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

/// FNV-1a, 64 bits: against damage, not against anybody.
pub fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_last_is_found() {
        let directory = tempfile::tempdir().unwrap();
        assert!(Kept::Definitions.load(directory.path()).unwrap().is_none());
        let keeper = Keeper::start(directory.path().to_owned(), None).unwrap();
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
