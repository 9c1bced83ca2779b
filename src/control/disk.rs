//! What a disk is asked for beside reading and writing, and why it may refuse.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Why nothing was found on disk.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{path}: {reason}", path = .0.display(), reason = .1)]
    Io(PathBuf, io::Error),
    #[error("{path} is damaged ({what}) and is not used", path = .path.display())]
    Damaged { path: PathBuf, what: &'static str },
}

/// Writes parts of a text beside a file, synced, to be put in its place. Where that fails nothing of it stays.
pub fn write_aside(path: &Path, parts: &[&str]) -> io::Result<File> {
    let aside = path.with_extension(ASIDE);
    let write = || -> io::Result<File> {
        let mut file = File::create(&aside)?;
        parts.iter().try_for_each(|part| file.write_all(part.as_bytes()))?;
        file.sync_all()?;
        Ok(file)
    };
    write().inspect_err(|_| drop(remove(&aside)))
}

/// Puts what was written aside in the file's place, for good. Where that fails the old one may stand there, or the new one.
pub fn put_in_place(path: &Path) -> io::Result<()> {
    let aside = path.with_extension(ASIDE);
    fs::rename(&aside, path).inspect_err(|_| drop(remove(&aside)))?;
    path.parent().map_or(Ok(()), sync_directory)
}

const ASIDE: &str = "new";

/// Gives a file a second name, in place of whatever has it. Whether the file is there.
pub fn link(file: &Path, second: &Path) -> io::Result<bool> {
    remove(second)?;
    match fs::hard_link(file, second) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        linked => linked.map(|()| true),
    }
}

/// Removes a file, if it is there.
pub fn remove(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// A file's name is safe once the directory is.
pub fn sync_directory(directory: &Path) -> io::Result<()> {
    #[cfg(test)]
    fault::fail_where_due()?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
pub mod fault {
    use std::cell::Cell;
    use std::io;

    thread_local! {
        /// Directories that this thread syncs until one fails.
        pub static UNTIL_A_FAULT: Cell<Option<u32>> = const { Cell::new(None) };
    }

    pub fn fail_where_due() -> io::Result<()> {
        let due = UNTIL_A_FAULT.get();
        UNTIL_A_FAULT.set(due.and_then(|left| left.checked_sub(1)));
        if due == Some(0) { Err(io::Error::other("a disk that fails")) } else { Ok(()) }
    }
}
