//! Services, EndpointSlices and Nodes of a Kubernetes cluster, from its API server.
//!
//! A `watcher` each lists them and follows their changes, as the credentials of `access` allow. Here they are kept as JSON
//! (`objects`), and become a document like those in files: what they mean, the one reader of such documents knows.
//!
//! A document is made only while all of them are followed. Where one cannot be, what is in force stays, rather than services
//! without the endpoints that belong to them. Changes that pour in become few documents: each waits for a moment without
//! another, a bounded one, and for somebody who is ready to take a document.

mod access;
mod lines;
mod objects;
#[cfg(test)]
mod tests;
mod watcher;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;

use super::{Line, Text, Update};
use crate::config;
use objects::{Change, Listing, Objects};
use watcher::Watcher;

/// How long after a change another one belongs to it: of one thing that happens, several objects tell.
const QUIET: Duration = Duration::from_millis(20);

/// How long a change waits for others, at most.
const LONGEST: Duration = Duration::from_millis(200);

/// News of watchers that wait to be taken.
const WAITING: usize = 256;

/// What is listed and watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    Services,
    Slices,
    Nodes,
}

impl Resource {
    /// As a rule of RBAC names it, with its group.
    fn name(self) -> &'static str {
        match self {
            Self::Services => "services",
            Self::Slices => "endpointslices.discovery.k8s.io",
            Self::Nodes => "nodes",
        }
    }
}

/// What a watcher says.
enum News {
    /// All that there is.
    Listed(Listing),
    Changed(Change),
    /// They are followed, and nothing has changed.
    Alive,
    /// They are listed anew, and until then they are not what they are beside others.
    Stale,
    /// They cannot be followed; one sentence.
    Lost(String),
}

/// Follows the objects for as long as somebody receives.
pub async fn follow(config: config::Kubernetes, line: Line) {
    let config = Arc::new(config);
    let mut source = Source::new(&config);
    loop {
        // The watchers end with this.
        let mut watchers = JoinSet::new();
        let (sender, mut news) = mpsc::channel(WAITING);
        for &resource in source.objects.resources() {
            watchers.spawn(Watcher::new(resource, config.clone(), sender.clone()).follow());
        }
        loop {
            tokio::select! {
                Some((resource, news)) = news.recv() => {
                    if source.take(resource, news, &line).await.is_none() {
                        return;
                    }
                }
                () = source.is_due(&line.wanted) => source.tell(&line).await,
                () = line.reread.notified() => {
                    source.is_asked = true;
                    source.objects.lose_all();
                    break;
                }
                () = line.updates.closed() => return,
            }
        }
    }
}

/// What has changed, and nobody was told of.
struct Changed {
    since: Instant,
    /// Of the newest.
    last: Instant,
}

struct Source {
    name: String,
    objects: Objects,
    changed: Option<Changed>,
    /// Whether the next set is to be told of, whatever it is.
    is_asked: bool,
}

impl Source {
    fn new(config: &config::Kubernetes) -> Self {
        let name = match &config.namespace {
            Some(namespace) => format!("kubernetes, namespace {namespace}"),
            None => "kubernetes".to_owned(),
        };
        let resources: &[_] = match config.nodes {
            true => &[Resource::Services, Resource::Slices, Resource::Nodes],
            false => &[Resource::Services, Resource::Slices],
        };
        let objects = Objects::new(resources, config.max_bytes as usize);
        Self { name, objects, changed: None, is_asked: true }
    }

    /// Takes news; `None`: nobody receives any more.
    async fn take(&mut self, resource: Resource, news: News, line: &Line) -> Option<()> {
        let was_whole = self.objects.are_whole();
        let is_change = match news {
            News::Listed(listing) => self.objects.replace(resource, listing),
            News::Changed(change) => self.objects.apply(resource, change),
            News::Alive => {
                self.objects.follow(resource);
                false
            }
            News::Stale => {
                self.objects.lose(resource);
                false
            }
            News::Lost(why) => {
                self.objects.lose(resource);
                return self.say(line, Update::Unreachable(why)).await;
            }
        };
        let is_whole = self.objects.are_whole();
        let is_asked = is_whole && std::mem::take(&mut self.is_asked);
        if is_change || is_asked {
            let now = Instant::now();
            self.changed.get_or_insert(Changed { since: now, last: now }).last = now;
        }
        match self.objects.too_big() {
            Some(why) if was_whole || is_change => {
                return self.say(line, Update::Unreachable(format!("{}: {why}", self.name))).await;
            }
            None if is_whole && self.changed.is_none() && !was_whole => {
                return self.say(line, Update::Unchanged).await;
            }
            // Where the last word was not heard yet, this one is not missed.
            None if is_whole && self.changed.is_none() && !is_change => {
                let _ = line.updates.try_send((Instant::now(), Update::Unchanged));
            }
            _ => {}
        }
        Some(())
    }

    async fn say(&self, line: &Line, update: Update) -> Option<()> {
        line.updates.send((Instant::now(), update)).await.ok()
    }

    /// Returns when there is something to tell and somebody to tell it to.
    async fn is_due(&self, wanted: &Notify) {
        match &self.changed {
            Some(Changed { since, last }) if self.objects.are_whole() => {
                let due = (*last + QUIET).min(*since + LONGEST);
                tokio::time::sleep_until(due.into()).await;
                wanted.notified().await;
            }
            _ => std::future::pending().await,
        }
    }

    async fn tell(&mut self, line: &Line) {
        let Some(Changed { since, .. }) = self.changed.take() else { return };
        let text = Text { name: self.name.clone(), text: self.objects.document() };
        // Fails only when nobody receives any more, which ends all this.
        let _ = line.updates.send((since, Update::Set(text))).await;
    }
}
