//! Where definitions come from. A feed yields whole sets, never a delta; who asked for them reads and judges them.
//!
//! Whatever breaks, the feed says so in one sentence, once, and goes on trying: what was in force stays in force for as
//! long as it takes.

#[cfg(feature = "etcd")]
mod etcd;
mod file;
#[cfg(feature = "api")]
mod grpc;
#[cfg(test)]
mod heard;
mod http;
#[cfg(feature = "kubernetes")]
mod kubernetes;
mod network;
mod pace;
mod spell;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{Notify, mpsc};

use crate::config;
use spell::Spell;

/// A metric that is recorded here when it happens, and the values of its label.
pub const CONNECTIONS: &str = "penstock_feed_connections_total";
pub const CONNECTION_RESULTS: &[&str] = &["made", "failed"];

/// What a feed says.
#[derive(Debug)]
pub enum Update {
    /// A whole set, not read yet.
    Set(Text),
    /// The source does not answer; one sentence, said once until it does.
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
    spell: Spell,
}

enum Source {
    File { path: PathBuf, readings: mpsc::Receiver<file::Reading> },
    Network { updates: mpsc::Receiver<(Instant, Update)>, wanted: Arc<Notify> },
    None,
}

/// What a task that follows a source on the network works with.
struct Line {
    /// Each update, and when the change behind it was noticed.
    updates: mpsc::Sender<(Instant, Update)>,
    #[cfg_attr(
        not(any(feature = "api", feature = "kubernetes")),
        expect(dead_code, reason = "an HTTP server's documents come whole")
    )]
    /// Somebody waits for the next update: the time to make one of all that has changed.
    wanted: Arc<Notify>,
    reread: Arc<Notify>,
}

impl Feed {
    /// Starts a task on the current runtime, which ends with the feed. `node`: its name; `version`: that of the definitions it has.
    pub fn start(config: &config::Feed, node: &str, version: Option<&str>) -> io::Result<Self> {
        let reread = Arc::new(Notify::new());
        let source = match config {
            config::Feed::File { path } => {
                Source::File { path: path.clone(), readings: file::follow(path.clone(), reread.clone())? }
            }
            config::Feed::Http(config) => {
                let (source, line) = Source::network(&reread);
                tokio::spawn(http::follow(config.clone(), line));
                source
            }
            #[cfg(feature = "api")]
            config::Feed::Grpc(config) => {
                let (source, line) = Source::network(&reread);
                let node = grpc::Node { name: node.to_owned(), version: version.map(str::to_owned) };
                tokio::spawn(grpc::follow(config.clone(), node, line));
                source
            }
            #[cfg(feature = "etcd")]
            config::Feed::Etcd(config) => {
                let (source, line) = Source::network(&reread);
                tokio::spawn(etcd::follow(config.clone(), line));
                source
            }
            #[cfg(feature = "kubernetes")]
            config::Feed::Kubernetes(config) => {
                let (source, line) = Source::network(&reread);
                tokio::spawn(kubernetes::follow(config.clone(), line));
                source
            }
            #[cfg(not(feature = "api"))]
            config::Feed::Grpc(_) => {
                let _ = (node, version);
                return Err(io::Error::other("this penstock was built without the feature \"api\""));
            }
            #[cfg(not(feature = "etcd"))]
            config::Feed::Etcd(_) => {
                return Err(io::Error::other("this penstock was built without the feature \"etcd\""));
            }
            #[cfg(not(feature = "kubernetes"))]
            config::Feed::Kubernetes(_) => {
                return Err(io::Error::other("this penstock was built without the feature \"kubernetes\""));
            }
            config::Feed::None => Source::None,
        };
        Ok(Self { source, reread, spell: Spell::default() })
    }

    /// The next word of the feed, and when the change behind it was noticed. Cancel-safe.
    pub async fn next(&mut self) -> (Instant, Update) {
        loop {
            let Some((noticed, update)) = self.source.next().await else { return std::future::pending().await };
            if self.spell.is_news(&update) {
                return (noticed, update);
            }
        }
    }

    /// Has the source asked again at once; an answer comes even if nothing changed.
    pub fn reread(&self) {
        self.reread.notify_one();
    }
}

impl Source {
    fn network(reread: &Arc<Notify>) -> (Self, Line) {
        let (sender, updates) = mpsc::channel(1);
        let wanted = Arc::new(Notify::new());
        let line = Line { updates: sender, wanted: wanted.clone(), reread: reread.clone() };
        (Self::Network { updates, wanted }, line)
    }

    /// `None`: there will never be anything.
    async fn next(&mut self) -> Option<(Instant, Update)> {
        match self {
            Self::File { path, readings } => {
                let reading = readings.recv().await?;
                let name = path.display().to_string();
                let update = match reading.seen {
                    file::Seen::Text(text) => Update::Set(Text { name, text }),
                    file::Seen::Unchanged => Update::Unchanged,
                    file::Seen::Unreadable(error) => Update::Unreachable(format!("{name}: {error}")),
                };
                Some((reading.at, update))
            }
            Self::Network { updates, wanted } => {
                wanted.notify_one();
                updates.recv().await
            }
            Self::None => None,
        }
    }
}
