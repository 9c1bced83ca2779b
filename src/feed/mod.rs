//! Where definitions come from. A feed yields whole sets, never a delta; who asked for them reads and judges them.

mod file;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{Notify, mpsc};

use crate::config;

/// What a feed says.
#[derive(Debug)]
pub enum Update {
    /// A whole set, not read yet.
    Set(Text),
    /// The source does not answer; one sentence.
    Unreachable(String),
    /// The source answers, with the same as before.
    Unchanged,
}

/// A set of definitions as it came.
#[derive(Debug, Clone)]
pub struct Text {
    /// Stands in front of each error.
    pub name: String,
    pub text: String,
}

/// A running feed.
pub struct Feed {
    source: Source,
    reread: Arc<Notify>,
}

enum Source {
    File { path: PathBuf, readings: mpsc::Receiver<file::Reading> },
    None,
}

impl Feed {
    /// Starts a task on the current runtime, which ends with the feed.
    pub fn start(config: &config::Feed) -> io::Result<Self> {
        let reread = Arc::new(Notify::new());
        let source = match config {
            config::Feed::File { path } => {
                Source::File { path: path.clone(), readings: file::follow(path.clone(), reread.clone())? }
            }
            config::Feed::Http(_) | config::Feed::Etcd(_) => return Err(io::Error::other("not read yet")),
            config::Feed::None => Source::None,
        };
        Ok(Self { source, reread })
    }

    /// The next word of the feed, and when the change behind it was noticed. Cancel-safe.
    pub async fn next(&mut self) -> (Instant, Update) {
        match &mut self.source {
            Source::File { path, readings } => match readings.recv().await {
                Some(reading) => {
                    let name = path.display().to_string();
                    let update = match reading.seen {
                        file::Seen::Text(text) => Update::Set(Text { name, text }),
                        file::Seen::Unchanged => Update::Unchanged,
                        file::Seen::Unreadable(error) => Update::Unreachable(format!("{name}: {error}")),
                    };
                    (reading.at, update)
                }
                None => std::future::pending().await,
            },
            Source::None => std::future::pending().await,
        }
    }

    /// Has the source asked again at once; an answer comes even if nothing changed.
    pub fn reread(&self) {
        self.reread.notify_one();
    }
}
