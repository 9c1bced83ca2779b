//! A thread of its own that writes bases, so that a change waits for those of no other.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Saved;
use super::file::File;
use crate::control::STATE_ERRORS;

/// After it has written, the thread rests for so many times as long, unless somebody waits for it: what comes meanwhile is written together,
/// and the CPU is the control thread's, too.
const RESTS: u32 = 3;

/// By so much it gives way to all others.
const NICE: i32 = 10;

/// Writes bases. When it is dropped, all that was given is on disk.
pub struct Keeper {
    desk: Arc<Desk>,
    thread: Option<JoinHandle<()>>,
}

/// What is to be written: of several that wait, together what is newest.
#[derive(Default)]
pub struct Desk {
    papers: Mutex<Papers>,
    changed: Condvar,
}

#[derive(Default)]
struct Papers {
    newest: Option<Saved>,
    /// Who waits until all that was given before is on disk.
    waiting: Vec<mpsc::Sender<()>>,
    is_over: bool,
}

impl Desk {
    fn change(&self, change: impl FnOnce(&mut Papers)) {
        change(&mut self.papers.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_one();
    }

    /// Waits until all that was given before now is on disk.
    pub fn settle(&self) {
        let (done, settled) = mpsc::channel();
        self.change(|papers| papers.waiting.push(done));
        let _ = settled.recv();
    }

    /// Waits for something to do: bases when the rest is over, or as soon as somebody waits. `None`: this is the end.
    fn next(&self, rested: Instant) -> Option<(Option<Saved>, Vec<mpsc::Sender<()>>)> {
        let mut papers = self.papers.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let left = rested.saturating_duration_since(Instant::now());
            let is_due = !papers.waiting.is_empty() || (papers.newest.is_some() && (papers.is_over || left.is_zero()));
            if is_due {
                return Some((papers.newest.take(), std::mem::take(&mut papers.waiting)));
            }
            if papers.is_over {
                return None;
            }
            let left = if papers.newest.is_some() { left } else { Duration::MAX };
            papers = self.changed.wait_timeout(papers, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Keeper {
    pub fn start(state_dir: PathBuf) -> io::Result<Self> {
        let desk = Arc::<Desk>::default();
        let of_thread = desk.clone();
        let work = move || {
            // Of this thread alone; whoever may not is as nice as before.
            let _ = rustix::process::nice(NICE);
            let (mut file, mut rested) = (File::new(state_dir), Instant::now());
            while let Some((newest, waiting)) = of_thread.next(rested) {
                let begun = Instant::now();
                let written = match newest {
                    Some(newest) => file.write(newest),
                    None => file.catch_up(),
                };
                if let Err(error) = written {
                    metrics::counter!(STATE_ERRORS).increment(1);
                    tracing::error!("what a restart needs cannot be kept: {error}");
                }
                rested = Instant::now() + RESTS * begun.elapsed();
                for done in waiting {
                    let _ = done.send(());
                }
            }
        };
        let thread = std::thread::Builder::new().name("bases".to_owned()).spawn(work)?;
        Ok(Self { desk, thread: Some(thread) })
    }

    pub fn desk(&self) -> Arc<Desk> {
        self.desk.clone()
    }

    /// Returns at once.
    pub fn keep(&self, newest: Saved) {
        self.desk.change(|papers| match &mut papers.newest {
            Some(waiting) => waiting.follow(newest),
            none => *none = Some(newest),
        });
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.desk.change(|papers| papers.is_over = true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
