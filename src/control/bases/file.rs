//! The file of bases: all of them in one line, and behind it what changed since, a line each time.
//!
//! To write the bases and numbers of ten thousand services anew for each change of one would take a tenth of a second. So the file is
//! appended to and synced; it is written anew, aside, when it begins and when it has grown long.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::Saved;
use crate::control::disk::{Error, put_in_place, write_aside};
use crate::control::lines;
use crate::snapshot::{Key, Millis};

const NAME: &str = "bases";
const TITLE: &str = "penstock bases of slots, a line a change\n";

/// It may grow to so many bytes, or to so many times what it was when it was written anew.
const LONG: u64 = 16 << 20;
const TIMES: u64 = 4;

pub fn path(state_dir: &Path) -> PathBuf {
    state_dir.join(NAME)
}

/// What a process before wrote, to one that asks for it at the moment `now` ([`Saved::of_texts`]); `None` where none ever did.
pub fn load(state_dir: &Path, now: Millis, knows_flows: bool) -> Result<Option<Saved>, Error> {
    let path = path(state_dir);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::Io(path, error)),
    };
    let damaged = |what| Error::Damaged { path: path.clone(), what };
    let changes = bytes.strip_prefix(TITLE.as_bytes()).ok_or_else(|| damaged("its first line is another"))?;
    let mut texts: Vec<Option<&str>> = lines::whole(changes).map(lines::text).collect();
    // Each is synced before the next is written: of the last a machine that stopped may have its end and not its middle.
    if texts.len() > 1 && texts.last() == Some(&None) {
        texts.pop();
    }
    let texts: Option<Vec<&str>> = texts.into_iter().collect();
    let texts = texts.ok_or_else(|| damaged("a line does not match its checksum"))?;
    Saved::of_texts(&texts, now, knows_flows).map(Some).ok_or_else(|| damaged("a line says what none does"))
}

/// The file as it is written.
pub struct File {
    state_dir: PathBuf,
    /// `None`: it has to be written anew.
    open: Option<fs::File>,
    /// How long it is, and how long it may become.
    bytes: u64,
    most: u64,
    /// All that it says, or should.
    newest: Saved,
    is_behind: bool,
}

impl File {
    /// One that is written anew, whatever is there.
    pub fn new(state_dir: PathBuf) -> Self {
        Self { state_dir, open: None, bytes: 0, most: 0, newest: Saved::default(), is_behind: false }
    }

    /// Writes what is different. Where it fails, all is written the next time.
    pub fn write(&mut self, newest: Saved) -> Result<(), Error> {
        let line = lines::line(&newest.to_text());
        let gone: Vec<Key> =
            newest.services.iter().filter(|(_, trace)| trace.is_empty()).map(|(key, _)| *key).collect();
        self.newest.follow(newest);
        gone.iter().for_each(|key| drop(self.newest.services.remove(key)));
        let is_there = |open: &fs::File| open.metadata().is_ok_and(|file| file.nlink() > 0);
        let open = self.open.take().filter(|open| self.bytes < self.most && is_there(open));
        self.is_behind = true;
        let written = match open {
            Some(mut open) => {
                self.bytes += line.len() as u64;
                open.write_all(line.as_bytes()).and_then(|()| open.sync_data()).map(|()| open)
            }
            None => self.write_anew(),
        };
        self.done(written)
    }

    /// Writes what could not be written before.
    pub fn catch_up(&mut self) -> Result<(), Error> {
        if !self.is_behind {
            return Ok(());
        }
        let written = self.write_anew();
        self.done(written)
    }

    fn done(&mut self, written: io::Result<fs::File>) -> Result<(), Error> {
        self.open = Some(written.map_err(|error| Error::Io(path(&self.state_dir), error))?);
        self.is_behind = false;
        Ok(())
    }

    fn write_anew(&mut self) -> io::Result<fs::File> {
        let (path, line) = (path(&self.state_dir), lines::line(&self.newest.to_text()));
        let written = write_aside(&path, &[TITLE, &line])?;
        put_in_place(&path)?;
        self.bytes = (TITLE.len() + line.len()) as u64;
        self.most = LONG.max(TIMES * self.bytes);
        Ok(written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::bases::tests::{key, saved};
    use crate::snapshot::Trace;

    fn load(directory: &Path) -> Result<Option<Saved>, Error> {
        super::load(directory, Millis(0), true)
    }

    fn numbered(port: u16, number: u32) -> Saved {
        let trace = Trace { numbers: [(([10, 0, 0, 1], 80).into(), number)].into(), ..Trace::default() };
        Saved { services: [(key(port), trace)].into(), ..Saved::default() }
    }

    #[test]
    fn what_changed_last_counts_and_what_is_gone_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        assert!(load(directory.path()).unwrap().is_none());
        let mut file = File::new(directory.path().to_owned());
        for newest in [numbered(1, 1), numbered(2, 2), numbered(1, 3)] {
            file.write(newest).unwrap();
        }
        let numbers =
            |port| load(directory.path()).unwrap().unwrap().services.get(&key(port)).map(|it| it.numbers[0].1);
        assert_eq!((numbers(1), numbers(2)), (Some(3), Some(2)));
        let gone = Saved { services: [(key(1), Trace::default())].into(), ..Saved::default() };
        file.write(gone).unwrap();
        assert_eq!((numbers(1), numbers(2)), (None, Some(2)));
        let lines = || fs::read_to_string(path(directory.path())).unwrap().lines().count();
        assert_eq!(lines(), 5, "a title, all, and three changes");
        // Another process begins anew.
        File::new(directory.path().to_owned()).write(numbered(7, 7)).unwrap();
        assert_eq!((lines(), numbers(2), numbers(7)), (2, None, Some(7)));
    }

    #[test]
    fn a_long_file_is_written_anew_and_says_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let mut file = File::new(directory.path().to_owned());
        file.write(saved()).unwrap();
        file.most = 100_000;
        let (mut longest, mut last) = (0, 0);
        for number in 0..10_000 {
            file.write(numbered(9, number)).unwrap();
            let bytes = fs::metadata(path(directory.path())).unwrap().len();
            assert_eq!(bytes, file.bytes);
            (longest, last) = (longest.max(bytes), bytes);
            if bytes < longest {
                break;
            }
        }
        assert!((100_000..110_000).contains(&longest) && last < 2000, "{longest}, then {last}");
        let read = load(directory.path()).unwrap().unwrap();
        assert_eq!(read.services.len(), saved().services.len() + 1);
    }

    #[test]
    fn what_was_torn_is_as_if_it_had_not_been_and_all_other_damage_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let mut file = File::new(directory.path().to_owned());
        file.write(numbered(1, 1)).unwrap();
        let first = fs::read(path(directory.path())).unwrap();
        file.write(numbered(1, 2)).unwrap();
        let whole = fs::read(path(directory.path())).unwrap();
        let number = || load(directory.path()).map(|read| read.unwrap().services[&key(1)].numbers[0].1);
        for cut in first.len()..whole.len() {
            fs::write(path(directory.path()), &whole[..cut]).unwrap();
            assert_eq!(number().unwrap(), 1, "cut to {cut} bytes");
        }
        for byte in first.len()..whole.len() - 1 {
            let mut damaged = whole.clone();
            damaged[byte] = 0;
            fs::write(path(directory.path()), &damaged).unwrap();
            assert_eq!(number().unwrap(), 1, "byte {byte} of the last line was not written");
        }
        for bit in 0..first.len() * 8 {
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            fs::write(path(directory.path()), &damaged).unwrap();
            // The letters of a checksum mean the same in capitals.
            let is_case = damaged.eq_ignore_ascii_case(&whole);
            assert!(is_case || load(directory.path()).is_err(), "bit {bit} flipped");
        }
    }

    #[test]
    fn after_a_failure_all_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let mut file = File::new(directory.path().to_owned());
        file.write(numbered(1, 1)).unwrap();
        // It cannot be written to.
        file.open = Some(fs::File::open(path(directory.path())).unwrap());
        file.write(numbered(2, 2)).unwrap_err();
        file.write(numbered(3, 3)).unwrap();
        let count = || load(directory.path()).unwrap().map(|saved| saved.services.len());
        assert_eq!(count(), Some(3));
        file.open = Some(fs::File::open(path(directory.path())).unwrap());
        file.write(numbered(4, 4)).unwrap_err();
        file.catch_up().unwrap();
        assert_eq!(count(), Some(4));
        // Somebody took it away.
        fs::remove_file(path(directory.path())).unwrap();
        file.write(numbered(5, 5)).unwrap();
        assert_eq!(count(), Some(5));
    }
}
