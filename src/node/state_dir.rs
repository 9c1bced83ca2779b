//! The directory in which a node keeps what it must not forget, for one process at a time.

use std::fs::{self, File, TryLockError};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

const NAME: &str = "lock";

/// The directory is ours as long as this lives; the kernel takes it back however the process ends (flock(2)).
#[derive(Debug)]
pub struct StateDir(#[expect(dead_code, reason = "held for its lock")] File);

/// Why it is not ours.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("node.state_dir: {path} cannot be used: {reason}", path = .0.display(), reason = .1)]
    Io(PathBuf, io::Error),
    #[error("node.state_dir: another penstock{process} runs with {path}; stop it, or give this node a directory of its own", path = .path.display())]
    Taken { path: PathBuf, process: String },
}

impl StateDir {
    /// Makes the directory where it is missing, and takes it.
    pub fn take(path: &Path) -> Result<Self, Error> {
        let failed = |reason| Error::Io(path.to_owned(), reason);
        fs::create_dir_all(path).map_err(failed)?;
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path.join(NAME))
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                let _ = file.read_to_string(&mut pid);
                let process = if pid.trim().is_empty() { String::new() } else { format!(" (process {})", pid.trim()) };
                return Err(Error::Taken { path: path.to_owned(), process });
            }
            Err(TryLockError::Error(reason)) => return Err(failed(reason)),
        }
        // The number is for people; the lock is what counts.
        file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(failed)?;
        Ok(Self(file))
    }
}

/// A number of a directory's own: what lies outside of it, but is this node's, is named by it.
pub fn number(path: &Path) -> u64 {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    BuildHasherDefault::<DefaultHasher>::default().hash_one(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_taken_once_at_a_time_and_the_holder_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lib/penstock");
        let first = StateDir::take(&path).unwrap();
        let error = StateDir::take(&path).unwrap_err().to_string();
        assert!(error.contains(&format!("(process {})", std::process::id())), "{error}");
        drop(first);
        StateDir::take(&path).unwrap();
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, "").unwrap();
        let error = StateDir::take(&path).unwrap_err().to_string();
        assert!(error.starts_with("node.state_dir: ") && error.contains("/file cannot be used"), "{error}");
    }
}
