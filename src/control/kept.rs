//! Files that must outlive the process whole: the last good definitions, what was drained by hand, who failed the last checks.
//!
//! A file is a text under one line that tells whether all of it is there. It is written aside, synced and renamed: after a crash the old
//! one or the new one stands there, whole. A thread of its own writes, since a sync may take longer than anything else that the control
//! side does. (The bases of slots are another's.)

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::sync::oneshot;

use super::bases::{self, Saved};
use super::disk::{Error, link, put_in_place, remove, sync_directory, write_aside};
use super::drained::Drained;
use super::journal::{self, Journal, Position};
use super::lines::fnv1a;
use super::{COMMIT_DURATION, JOURNAL_BYTES, STATE_ERRORS};
use crate::health::LastState;
use crate::service::Definitions;

/// What is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// The feed's own text, so that a restart forwards before the feed answers.
    Definitions,
    /// The definitions that a whole set took the place of, as long as it may not have been put in force.
    Before,
    /// Backends that were drained by hand.
    Drained,
    /// Backends that failed their checks.
    Health,
}

impl Kept {
    const fn name(self) -> &'static str {
        match self {
            Self::Definitions => "definitions.last-good",
            Self::Before => "definitions.before",
            Self::Drained => "drained",
            Self::Health => "health",
        }
    }

    const fn title(self) -> &'static str {
        match self {
            Self::Definitions => "penstock last good definitions, fnv1a",
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

    /// If that fails the old text stays, where somebody is told so.
    fn save(self, state_dir: &Path, text: &str) -> Result<(), Error> {
        let path = self.path(state_dir);
        let old = path.with_extension("old");
        let write = || {
            write_aside(&path, &[&self.first_line(text), "\n", text])?;
            let is_answered = matches!(self, Self::Definitions | Self::Drained);
            let has_old = is_answered && link(&path, &old)?;
            let written = put_in_place(&path);
            if written.is_err() && is_answered {
                // It may stand there all the same, but nobody was told so.
                let _ = if has_old { fs::rename(&old, &path) } else { fs::remove_file(&path) };
            }
            if has_old {
                let _ = remove(&old);
            }
            written
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
    bases: bases::Keeper,
}

enum Given {
    Definitions(String),
    Health(Vec<LastState>),
    Commit(Commit),
}

/// What somebody waits for to be on disk.
pub struct Commit {
    pub what: What,
    /// Hears when it is there, and of which change the definitions are now where they changed, or why not: then nothing of it is there.
    pub done: oneshot::Sender<Result<Option<Position>, String>>,
}

/// One thing, since of two the first would be there already where the second cannot be kept.
pub enum What {
    Drained(Drained),
    Definitions {
        all: Arc<Definitions>,
        /// What was changed, where that is little; `None`: all of them are written.
        lines: Option<String>,
    },
}

impl Keeper {
    /// `last_segment`: the one that changes are appended to, where the definitions on disk have segments.
    pub fn start(state_dir: PathBuf, last_segment: Option<u64>) -> io::Result<Self> {
        let journal = last_segment.map(|number| Journal::open(&state_dir, number)).transpose()?;
        let (sender, receiver) = mpsc::channel::<Given>();
        let bases = bases::Keeper::start(state_dir.clone())?;
        let mut writer = Writer { bases: Some(bases.desk()), ..Writer::new(state_dir, journal) };
        let work = move || {
            while let Ok(first) = receiver.recv() {
                let (mut definitions, mut health, mut commits) = (None, None, Vec::new());
                for given in [first].into_iter().chain(receiver.try_iter()) {
                    match given {
                        Given::Definitions(text) => definitions = Some(text),
                        Given::Health(states) => health = Some(states),
                        Given::Commit(commit) => commits.push(commit),
                    }
                }
                if let Some(text) = definitions {
                    writer.keep_text(&text);
                }
                for commit in commits {
                    writer.commit(commit);
                }
                if let Some(states) = health {
                    // Who is up again by the file would otherwise have the flows that began elsewhere meanwhile.
                    writer.settle_bases();
                    let line = |state: &LastState| serde_json::to_string(state).expect("plain data") + "\n";
                    save(&writer.state_dir, Kept::Health, &states.iter().map(line).collect::<String>());
                }
            }
            writer.finish_rewriting();
        };
        let thread = std::thread::Builder::new().name("keeper".to_owned()).spawn(work)?;
        Ok(Self { given: Some(sender), thread: Some(thread), bases })
    }

    /// Returns at once.
    pub fn keep_definitions(&self, text: String) {
        self.give(Given::Definitions(text));
    }

    /// Returns at once. Whole definitions that are given later are written later.
    pub fn keep_bases(&self, saved: Saved) {
        self.bases.keep(saved);
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
const SEGMENT: u64 = if cfg!(test) { 4 << 10 } else { 4 << 20 };

/// The keeper's own state.
struct Writer {
    state_dir: PathBuf,
    /// `None`: the definitions on disk have no changes behind them.
    journal: Option<Journal>,
    /// Length of the set that was written last.
    base_bytes: u64,
    /// Writes the set anew while changes go on; gives its length.
    rewriting: Option<JoinHandle<io::Result<u64>>>,
    /// What was kept last, and is in force since.
    newest: Option<Arc<Definitions>>,
    /// Whether there may be changes, or a set before the set, that nobody needs behind a feed's text.
    has_changes: bool,
    /// To who writes bases.
    bases: Option<Arc<bases::Desk>>,
}

impl Writer {
    fn new(state_dir: PathBuf, journal: Option<Journal>) -> Self {
        Self { state_dir, journal, base_bytes: 0, rewriting: None, newest: None, has_changes: true, bases: None }
    }

    /// Waits until all bases are on disk that were given before now. Changes may be there before the bases of others: they say which they are
    /// of. But a whole set in the place of another would leave nobody who knows what bases before it were of.
    fn settle_bases(&self) {
        if let Some(bases) = &self.bases {
            bases.settle();
        }
    }

    /// Keeps a feed's text, which has no changes behind it.
    fn keep_text(&mut self, text: &str) {
        self.settle_bases();
        if let Err(error) = Kept::Definitions.save(&self.state_dir, text) {
            metrics::counter!(STATE_ERRORS).increment(1);
            return tracing::error!("what a restart needs cannot be kept: {error}");
        }
        let forget = || {
            remove(&Kept::Before.path(&self.state_dir))?;
            journal::forget_before(&self.state_dir, u64::MAX)
        };
        if std::mem::take(&mut self.has_changes)
            && let Err(error) = forget()
        {
            tracing::warn!("old changes cannot be removed: {error}");
        }
    }

    fn commit(&mut self, Commit { what, done }: Commit) {
        let begun = Instant::now();
        let kept = match what {
            What::Drained(drained) => Kept::Drained.save(&self.state_dir, &drained.to_text()).map(|()| None),
            What::Definitions { all, lines } => self.keep_definitions(&all, lines).map(Some).inspect(|_| {
                self.newest = Some(all);
            }),
        };
        metrics::histogram!(COMMIT_DURATION).record(begun.elapsed().as_secs_f64());
        metrics::gauge!(JOURNAL_BYTES).set(self.journal.as_ref().map_or(0, Journal::bytes) as f64);
        if kept.is_err() {
            metrics::counter!(STATE_ERRORS).increment(1);
        }
        let _ = done.send(kept.map_err(|error| error.to_string()));
    }

    fn keep_definitions(&mut self, all: &Definitions, lines: Option<String>) -> Result<Position, Error> {
        if lines.is_some() {
            // The definitions before, which are in force by now; those of this change are not.
            self.rewrite_where_long();
        }
        match (&mut self.journal, lines) {
            (Some(journal), Some(lines)) => {
                journal.append(&lines).map_err(|error| Error::Io(self.state_dir.clone(), error))?;
                Ok(journal.position())
            }
            _ => self.write_whole(all),
        }
    }

    /// What stood there before stays, too, until the next time: this one may never come into force.
    fn write_whole(&mut self, definitions: &Definitions) -> Result<Position, Error> {
        // It would end later, with an older set.
        self.finish_rewriting();
        self.settle_bases();
        let failed = |error| Error::Io(self.state_dir.clone(), error);
        let first_before = self.keep_before().map_err(failed)?;
        let number = journal::next(&self.state_dir).map_err(failed)?;
        let journal = Journal::begin(&self.state_dir, number).map_err(failed)?;
        let text = format!("{CHANGES}{number}\n{}", definitions.to_json());
        // Where this fails, nobody knows for sure which set stands there: what comes next is written whole, too.
        self.journal = None;
        Kept::Definitions.save(&self.state_dir, &text)?;
        let position = journal.position();
        (self.journal, self.base_bytes) = (Some(journal), text.len() as u64);
        if let Err(error) = journal::forget_before(&self.state_dir, first_before.unwrap_or(number)) {
            tracing::warn!("old changes cannot be removed: {error}");
        }
        Ok(position)
    }

    /// Gives the definitions that are there a second name; and the first segment of their changes, where they have any.
    fn keep_before(&self) -> io::Result<Option<u64>> {
        let before = Kept::Before.path(&self.state_dir);
        if !link(&Kept::Definitions.path(&self.state_dir), &before)? {
            return Ok(None);
        }
        let text = Kept::Before.load(&self.state_dir).ok().flatten();
        Ok(text.and_then(|text| split_changes(&text).0))
    }

    /// Where the changes have grown as long as the set, begins another segment, and has the set written anew behind the scenes.
    fn rewrite_where_long(&mut self) {
        let is_long = self.journal.as_ref().is_some_and(|journal| journal.bytes() > SEGMENT.max(self.base_bytes));
        if !is_long || self.rewriting.as_ref().is_some_and(|thread| !thread.is_finished()) {
            return;
        }
        self.finish_rewriting();
        let Some(definitions) = self.newest.clone() else { return };
        self.settle_bases();
        let begin = || {
            let number = journal::next(&self.state_dir)?;
            let journal = Journal::begin(&self.state_dir, number)?;
            let state_dir = self.state_dir.clone();
            let work = move || write_anew(&state_dir, number, &definitions);
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

fn save(state_dir: &Path, kept: Kept, text: &str) {
    if let Err(error) = kept.save(state_dir, text) {
        metrics::counter!(STATE_ERRORS).increment(1);
        tracing::error!("what a restart needs cannot be kept: {error}");
    }
}

/// Writes anew what set and changes are together, before the segment `number`; gives its length.
fn write_anew(state_dir: &Path, number: u64, definitions: &Definitions) -> io::Result<u64> {
    let text = format!("{CHANGES}{number}\n{}", definitions.to_json());
    // What was before the old set is not what was before this one.
    remove(&Kept::Before.path(state_dir))?;
    Kept::Definitions.save(state_dir, &text).map_err(|error| io::Error::other(error.to_string()))?;
    journal::forget_before(state_dir, number)?;
    Ok(text.len() as u64)
}

/// Lays what is there of a set that cannot be read, and of its changes, into a directory of its own, for people; gives that. It lies there
/// once, however often that set is found.
pub fn lay_aside(state_dir: &Path) -> io::Result<PathBuf> {
    let set = Kept::Definitions.path(state_dir);
    let mut sum = fs::read(&set)?;
    let segments = journal::segments(state_dir)?;
    for segment in &segments {
        sum.extend(fs::read(segment)?);
    }
    let directory = state_dir.join(format!("damaged-{:016x}", fnv1a(&sum)));
    fs::create_dir_all(&directory)?;
    for file in segments.iter().chain([&set]) {
        link(file, &directory.join(file.file_name().unwrap_or_default()))?;
    }
    sync_directory(&directory)?;
    sync_directory(state_dir)?;
    Ok(directory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::disk::fault::UNTIL_A_FAULT;
    use crate::service;

    fn writer(directory: &Path) -> Writer {
        Writer::new(directory.to_owned(), None)
    }

    /// Services, each of one backend.
    fn set(version: &str, names: &[&str]) -> Arc<Definitions> {
        let service = |(index, name): (usize, &&str)| {
            format!(
                r#"{{"name": "{name}", "vip": "192.0.2.{index}", "port": 80, "protocol": "tcp", "forwarding": "ipip",
                    "backends": [{{"address": "10.1.0.1"}}]}}"#
            )
        };
        let services: Vec<String> = names.iter().enumerate().map(service).collect();
        let text = format!(r#"{{"version": "{version}", "services": [{}]}}"#, services.join(", "));
        Arc::new(service::native(&text, "s", None).unwrap().0)
    }

    /// The change to a version; that it says no more of is enough for who only reads lines.
    fn line(version: &str) -> String {
        journal::Change { version: version.to_owned(), upsert: None, delete: None }.line()
    }

    impl Writer {
        fn commit_definitions(&mut self, definitions: &Arc<Definitions>, lines: Option<&str>) -> Result<(), String> {
            let (done, mut receiver) = oneshot::channel();
            let what = What::Definitions { all: definitions.clone(), lines: lines.map(str::to_owned) };
            self.commit(Commit { what, done });
            receiver.try_recv().unwrap().map(drop)
        }
    }

    /// The version of the set that is on disk whole, and those of the changes behind it.
    fn on_disk(directory: &Path) -> (Option<String>, Vec<String>) {
        let Some(text) = Kept::Definitions.load(directory).unwrap() else { return (None, Vec::new()) };
        let (first, document) = split_changes(&text);
        let (changes, _, problem) = journal::read(directory, first.unwrap());
        assert_eq!(problem, None);
        let version = service::native(document, "s", None).unwrap().0.version;
        (version, changes.into_iter().map(|(_, change)| change.version).collect())
    }

    #[test]
    fn what_a_failing_disk_refused_is_not_there_and_what_comes_after_it_is() {
        // The first sync is of the new segment, the second of the set.
        for fault in [0, 1] {
            let directory = tempfile::tempdir().unwrap();
            let mut writer = writer(directory.path());
            writer.commit_definitions(&set("a", &["web"]), None).unwrap();
            writer.commit_definitions(&set("a#1", &["web"]), Some(&line("a#1"))).unwrap();
            UNTIL_A_FAULT.set(Some(fault));
            writer.commit_definitions(&set("b", &["web", "dns"]), None).unwrap_err();
            assert_eq!(UNTIL_A_FAULT.get(), None);
            assert_eq!(on_disk(directory.path()), (Some("a".to_owned()), vec!["a#1".to_owned()]));
            writer.commit_definitions(&set("a#2", &["web"]), Some(&line("a#2"))).unwrap();
            let (whole, changes) = on_disk(directory.path());
            assert_eq!(changes.last().or(whole.as_ref()).map(String::as_str), Some("a#2"), "fault {fault}");
        }
    }

    #[test]
    fn of_the_first_set_that_a_failing_disk_refused_nothing_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = writer(directory.path());
        UNTIL_A_FAULT.set(Some(1));
        writer.commit_definitions(&set("a", &["web"]), None).unwrap_err();
        assert_eq!(on_disk(directory.path()).0, None);
    }

    #[test]
    fn long_changes_are_written_into_the_set_that_was_in_force_before_them() {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = writer(directory.path());
        writer.commit_definitions(&set("#0", &["web"]), None).unwrap();
        let mut rewritten = 0;
        for number in 1..=1000 {
            let version = format!("#{number}");
            writer.commit_definitions(&set(&version, &["web"]), Some(&line(&version))).unwrap();
            // Here the disk is never slower than the changes.
            rewritten += u32::from(writer.rewriting.is_some());
            writer.finish_rewriting();
            let (whole, changes) = on_disk(directory.path());
            let whole: u32 = whole.unwrap()[1..].parse().unwrap();
            let expected: Vec<_> = (whole + 1..=number).map(|number| format!("#{number}")).collect();
            assert_eq!(changes, expected);
            assert!(whole < number, "the last may not be in force yet");
        }
        assert!(rewritten > 3, "{rewritten} times");
        let bytes = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len());
        assert!(bytes.sum::<u64>() < 3 * SEGMENT, "what is not needed any more is removed");
    }

    #[test]
    fn a_set_that_is_written_anew_has_none_before_it_at_any_moment() {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = writer(directory.path());
        writer.commit_definitions(&set("a", &["web"]), None).unwrap();
        writer.commit_definitions(&set("b", &["web"]), None).unwrap();
        let before = Kept::Before.path(directory.path());
        assert!(before.exists());
        UNTIL_A_FAULT.set(Some(0));
        write_anew(directory.path(), 3, &set("b", &["web"])).unwrap_err();
        assert!(!before.exists());
        assert_eq!(on_disk(directory.path()), (Some("b".to_owned()), vec![]));
    }

    #[test]
    fn a_change_waits_for_no_bases_and_a_whole_set_does() {
        use crate::snapshot::{Key, Trace};

        let directory = tempfile::tempdir().unwrap();
        let keeper = Keeper::start(directory.path().to_owned(), None).unwrap();
        let commit = |version: &str, lines: Option<String>| {
            let (done, receiver) = oneshot::channel();
            let what = What::Definitions { all: set(version, &["web"]), lines };
            keeper.commit(Commit { what, done });
            receiver.blocking_recv().unwrap().unwrap();
        };
        commit("a", None);
        // Of very many services.
        let services = &set("", &["web"]).services;
        let key = Key::of(&services[0]);
        let endpoint = |number: u32| (std::net::SocketAddr::from((number.to_be_bytes(), 80)), number);
        let trace = Trace { numbers: (0..300_000).map(endpoint).collect(), ..Trace::default() };
        keeper.keep_bases(Saved { services: [(key, trace)].into(), ..Saved::default() });
        commit("a#1", Some(line("a#1")));
        let has_bases = || directory.path().join("bases").exists();
        assert!(!has_bases(), "they are still being written");
        commit("b", None);
        assert!(has_bases());
    }

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
}
