//! A file as a feed: whoever writes it, however they write it.
//!
//! Every directory that the path leads through is watched, symlinks followed as the kernel does, so that all of these
//! are seen at once: a write in place, an atomic rename, a directory put in the file's place or taken away, and the
//! swapped symlink of a Kubernetes ConfigMap (`services.json -> ..data/services.json`, `..data -> ..2026_11_23…`).
//! What an event does is only to have the file read again: the text itself is compared, by a hash of it, never a time stamp.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{FutureExt, StreamExt};
use inotify::{EventMask, EventOwned, EventStream, Inotify, WatchDescriptor, WatchMask};
use tokio::sync::{Notify, mpsc};

/// How often the file is read without any event: for file systems that tell nothing (a network's, a single file
/// mounted into a container).
const SAFETY_POLL: Duration = Duration::from_secs(10);

/// Symlinks followed before a path counts as a loop, as in the kernel (path_resolution(7)).
const MAX_SYMLINKS: usize = 40;

/// Room for events read at once; one is at most 272 bytes.
const EVENT_BYTES: usize = 4096;

/// What a look at the file gave, and when the change was noticed.
#[derive(Debug)]
pub struct Reading {
    pub at: Instant,
    pub seen: Seen,
}

#[derive(Debug)]
pub enum Seen {
    /// A text other than the last one, or any text after a re-read was asked for.
    Text(String),
    /// The same text as before, still there.
    Unchanged,
    /// The file cannot be read; said once until it can.
    Unreadable(io::Error),
}

/// Follows the file for as long as somebody receives. `reread`: reads and tells at once, even if nothing changed.
pub fn follow(path: PathBuf, reread: Arc<Notify>) -> io::Result<mpsc::Receiver<Reading>> {
    let mut watcher = Watcher::new(std::path::absolute(path)?)?;
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let (mut last, hasher) = (Last::Nothing, RandomState::new());
        let mut at = Instant::now();
        loop {
            // Watch first, read after: a change in between causes one more event, never one less.
            watcher.rewatch();
            if let Some(seen) = last.look(&watcher.path, &hasher)
                && sender.send(Reading { at, seen }).await.is_err()
            {
                return;
            }
            tokio::select! {
                () = watcher.changed() => {}
                () = reread.notified() => last = Last::Nothing,
                () = tokio::time::sleep(SAFETY_POLL) => {}
                () = sender.closed() => return,
            }
            at = Instant::now();
        }
    });
    Ok(receiver)
}

/// What the last look gave.
enum Last {
    Nothing,
    /// The hash of a text, which may be long.
    Text(u64),
    Unreadable,
}

impl Last {
    /// Reads the file; `None` where there is nothing to tell.
    fn look(&mut self, path: &Path, hasher: &RandomState) -> Option<Seen> {
        match std::fs::read(path) {
            Ok(bytes) => {
                // Bytes that are no UTF-8 are for the reader to refuse, with their place.
                let text =
                    String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned());
                let hash = hasher.hash_one(&text);
                if matches!(self, Self::Text(last) if *last == hash) {
                    return Some(Seen::Unchanged);
                }
                *self = Self::Text(hash);
                Some(Seen::Text(text))
            }
            Err(_) if matches!(self, Self::Unreadable) => None,
            Err(error) => {
                *self = Self::Unreadable;
                Some(Seen::Unreadable(error))
            }
        }
    }
}

/// The names that matter in one watched directory; `true`: the file itself, not something on the way to it.
type Names = HashMap<OsString, bool>;

struct Watcher {
    path: PathBuf,
    events: EventStream<Box<[u8]>>,
    /// By watch descriptor: the directory as it was reached, and the names looked up in it.
    watched: HashMap<WatchDescriptor, (PathBuf, Names)>,
}

impl Watcher {
    fn new(path: PathBuf) -> io::Result<Self> {
        let events = Inotify::init()?.into_event_stream(vec![0; EVENT_BYTES].into_boxed_slice())?;
        Ok(Self { path, events, watched: HashMap::new() })
    }

    /// Watches every directory on the way to the file as the way is now, and no other.
    fn rewatch(&mut self) {
        let mut watches = self.events.watches();
        let mut now: HashMap<WatchDescriptor, (PathBuf, Names)> = HashMap::new();
        for Step { directory, name, is_last } in steps(&self.path) {
            let mask = WatchMask::CREATE
                | WatchMask::DELETE
                | WatchMask::MOVE
                | WatchMask::CLOSE_WRITE
                | WatchMask::DELETE_SELF
                | WatchMask::MOVE_SELF
                | WatchMask::ONLYDIR;
            // A directory that cannot be watched (gone just now, no permission) is left to the watch on its parent
            // and to the safety poll.
            if let Ok(descriptor) = watches.add(&directory, mask) {
                let (_, names) = now.entry(descriptor).or_insert_with(|| (directory, Names::new()));
                *names.entry(name).or_default() |= is_last;
            }
        }
        for descriptor in self.watched.keys().filter(|old| !now.contains_key(old)) {
            // Fails where the directory is gone, and the watch with it.
            let _ = watches.remove(descriptor.clone());
        }
        self.watched = now;
    }

    /// Returns once something happened that may have changed what the path leads to, with all that came along.
    async fn changed(&mut self) {
        loop {
            let Some(Ok(event)) = self.events.next().await else {
                return std::future::pending().await; // no events any more: the safety poll remains
            };
            let mut is_relevant = self.is_relevant(&event);
            while let Some(Some(Ok(event))) = self.events.next().now_or_never() {
                is_relevant |= self.is_relevant(&event);
            }
            if is_relevant {
                return;
            }
        }
    }

    fn is_relevant(&self, event: &EventOwned) -> bool {
        match (self.watched.get(&event.wd), &event.name) {
            (Some((directory, names)), Some(name)) => is_relevant(directory, names, name, event.mask),
            (Some(_), None) => true, // the directory itself
            (None, _) => event.mask.contains(EventMask::Q_OVERFLOW),
        }
    }
}

/// Whether an event on `name` may have put another whole text behind the path.
fn is_relevant(directory: &Path, names: &Names, name: &OsStr, mask: EventMask) -> bool {
    let Some(&is_last) = names.get(name) else { return false };
    if mask.contains(EventMask::CLOSE_WRITE) {
        return is_last;
    }
    if is_last && mask.contains(EventMask::CREATE) {
        // A file just made is about to be written, and its closing will tell; a symlink, or a second name of a file
        // that was there before, is whole at once.
        return std::fs::symlink_metadata(directory.join(name)).is_ok_and(|file| !file.is_file() || file.nlink() > 1);
    }
    true
}

/// One name looked up in one directory.
#[derive(Debug, PartialEq, Eq)]
struct Step {
    directory: PathBuf,
    name: OsString,
    /// Whether what the name stands for is the end of the way.
    is_last: bool,
}

/// The way to `path` (absolute), name by name, through every symlink, as far as it exists.
fn steps(path: &Path) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut todo: Vec<OsString> = names_reversed(path);
    let mut here = PathBuf::from("/");
    let mut symlinks = 0;
    while let Some(name) = todo.pop() {
        if name == ".." {
            here.pop();
            continue;
        }
        let next = here.join(&name);
        let target = std::fs::read_link(&next).ok();
        steps.push(Step { directory: here.clone(), name, is_last: todo.is_empty() && target.is_none() });
        match target {
            Some(target) => {
                symlinks += 1;
                if symlinks > MAX_SYMLINKS {
                    break;
                }
                if target.is_absolute() {
                    here = PathBuf::from("/");
                }
                todo.extend(names_reversed(&target));
            }
            None if next.is_dir() => here = next,
            None => break,
        }
    }
    steps
}

fn names_reversed(path: &Path) -> Vec<OsString> {
    path.components()
        .rev()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some(OsString::from("..")),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// A directory with a followed file in it.
    struct Scene {
        directory: tempfile::TempDir,
        readings: mpsc::Receiver<Reading>,
        reread: Arc<Notify>,
    }

    impl Scene {
        /// `prepare` sets the directory up; the file followed is `name` in it.
        fn new(name: &str, prepare: impl FnOnce(&Path)) -> Self {
            let directory = tempfile::tempdir().unwrap();
            prepare(directory.path());
            let reread = Arc::new(Notify::new());
            let readings = follow(directory.path().join(name), reread.clone()).unwrap();
            Self { directory, readings, reread }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.directory.path().join(name)
        }

        async fn next(&mut self) -> Seen {
            loop {
                let deadline = Duration::from_secs(2);
                let reading = tokio::time::timeout(deadline, self.readings.recv()).await.expect("nothing was noticed");
                match reading.unwrap().seen {
                    Seen::Unchanged => {}
                    seen => return seen,
                }
            }
        }

        async fn expect(&mut self, text: &str) {
            match self.next().await {
                Seen::Text(got) => assert_eq!(got, text),
                other => panic!("{other:?} instead of {text:?}"),
            }
        }

        async fn expect_gone(&mut self) {
            match self.next().await {
                Seen::Unreadable(error) => {
                    assert!(matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory), "{error}")
                }
                other => panic!("{other:?} instead of a file that is gone"),
            }
        }

        async fn expect_silence(&mut self) {
            if let Ok(reading) = tokio::time::timeout(Duration::from_millis(100), self.readings.recv()).await {
                panic!("{reading:?} instead of silence");
            }
        }
    }

    #[tokio::test]
    async fn a_file_renamed_over_the_old_one() {
        let mut scene = Scene::new("services.json", |at| fs::write(at.join("services.json"), "one").unwrap());
        scene.expect("one").await;
        for text in ["two", "three"] {
            fs::write(scene.path("new"), text).unwrap();
            fs::rename(scene.path("new"), scene.path("services.json")).unwrap();
            scene.expect(text).await;
        }
    }

    #[tokio::test]
    async fn a_file_written_in_place_is_read_when_it_is_closed() {
        use io::Write;
        let mut scene = Scene::new("services.json", |at| fs::write(at.join("services.json"), "one").unwrap());
        scene.expect("one").await;
        let mut file = fs::File::create(scene.path("services.json")).unwrap();
        file.write_all(b"tw").unwrap();
        scene.expect_silence().await;
        file.write_all(b"o").unwrap();
        drop(file);
        scene.expect("two").await;
    }

    #[tokio::test]
    async fn a_new_file_is_not_read_before_it_is_closed() {
        use io::Write;
        let mut scene = Scene::new("services.json", |_| {});
        scene.expect_gone().await;
        let mut file = fs::File::create(scene.path("services.json")).unwrap();
        file.write_all(b"on").unwrap();
        scene.expect_silence().await;
        file.write_all(b"e").unwrap();
        drop(file);
        scene.expect("one").await;
    }

    #[tokio::test]
    async fn a_file_that_goes_is_said_to_be_gone_once_and_read_when_it_returns() {
        let mut scene = Scene::new("services.json", |at| fs::write(at.join("services.json"), "one").unwrap());
        scene.expect("one").await;
        fs::remove_file(scene.path("services.json")).unwrap();
        scene.expect_gone().await;
        fs::write(scene.path("other"), "two").unwrap();
        scene.expect_silence().await;
        fs::hard_link(scene.path("other"), scene.path("services.json")).unwrap();
        scene.expect("two").await;
    }

    #[tokio::test]
    async fn the_symlinks_of_a_config_map() {
        let mut scene = Scene::new("services.json", |at| {
            fs::create_dir(at.join("..2026_1")).unwrap();
            fs::write(at.join("..2026_1/services.json"), "one").unwrap();
            symlink("..2026_1", at.join("..data")).unwrap();
            symlink("..data/services.json", at.join("services.json")).unwrap();
        });
        scene.expect("one").await;
        for (k, text) in [(2, "two"), (3, "three")] {
            let (old, new) = (format!("..2026_{}", k - 1), format!("..2026_{k}"));
            fs::create_dir(scene.path(&new)).unwrap();
            fs::write(scene.path(&new).join("services.json"), text).unwrap();
            symlink(&new, scene.path("..data_tmp")).unwrap();
            fs::rename(scene.path("..data_tmp"), scene.path("..data")).unwrap();
            fs::remove_dir_all(scene.path(&old)).unwrap();
            scene.expect(text).await;
        }
        // The directory that the link now leads to is watched, too.
        fs::write(scene.path("..2026_3/services.json"), "four").unwrap();
        scene.expect("four").await;
    }

    #[tokio::test]
    async fn a_directory_that_is_moved_away_and_replaced() {
        let mut scene = Scene::new("etc/penstock/services.json", |at| {
            for (directory, text) in [("etc/penstock", "one"), ("new", "two")] {
                fs::create_dir_all(at.join(directory)).unwrap();
                fs::write(at.join(directory).join("services.json"), text).unwrap();
            }
        });
        scene.expect("one").await;
        fs::rename(scene.path("etc/penstock"), scene.path("old")).unwrap();
        scene.expect_gone().await;
        fs::rename(scene.path("new"), scene.path("etc/penstock")).unwrap();
        scene.expect("two").await;
    }

    #[tokio::test]
    async fn directories_that_come_after_the_start() {
        let mut scene = Scene::new("a/b/services.json", |_| {});
        scene.expect_gone().await;
        fs::create_dir_all(scene.path("a/b")).unwrap();
        fs::write(scene.path("a/b/services.json"), "one").unwrap();
        scene.expect("one").await;
    }

    #[tokio::test]
    async fn other_files_in_the_directory_are_nobodys_business() {
        let mut scene = Scene::new("services.json", |at| fs::write(at.join("services.json"), "one").unwrap());
        scene.expect("one").await;
        fs::write(scene.path("other"), "x").unwrap();
        fs::rename(scene.path("other"), scene.path("another")).unwrap();
        scene.expect_silence().await;
    }

    #[tokio::test]
    async fn the_same_text_again_is_no_change_but_is_told_when_asked_for() {
        let mut scene = Scene::new("services.json", |at| fs::write(at.join("services.json"), "one").unwrap());
        scene.expect("one").await;
        fs::write(scene.path("services.json"), "one").unwrap();
        assert!(matches!(scene.readings.recv().await.unwrap().seen, Seen::Unchanged));
        scene.reread.notify_one();
        scene.expect("one").await;
    }

    #[tokio::test]
    async fn a_loop_of_symlinks_ends() {
        let mut scene = Scene::new("services.json", |at| symlink("services.json", at.join("services.json")).unwrap());
        assert!(matches!(scene.next().await, Seen::Unreadable(_)));
        assert!(steps(&scene.path("services.json")).len() <= MAX_SYMLINKS + 16);
    }

    #[tokio::test]
    async fn a_rename_is_noticed_within_two_milliseconds() {
        let mut scene = Scene::new("services.json", |at| fs::write(at.join("services.json"), "0").unwrap());
        scene.expect("0").await;
        let mut delays = Vec::new();
        for k in 1..=20 {
            fs::write(scene.path("new"), k.to_string()).unwrap();
            fs::rename(scene.path("new"), scene.path("services.json")).unwrap();
            // The call itself takes milliseconds where others write to the same file system.
            let renamed = Instant::now();
            scene.expect(&k.to_string()).await;
            delays.push(renamed.elapsed());
        }
        delays.sort();
        assert!(delays[10] < Duration::from_millis(2), "median {:?}, worst {:?}", delays[10], delays[19]);
    }
}
