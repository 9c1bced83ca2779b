//! Services in etcd (v3), one key a service under a common prefix.
//!
//! All keys are listed at one revision, and from the next one on their changes are watched. Whatever ends the watch (a
//! member that is gone, a compaction that was faster, a login that ran out) is answered in one way: with the next member,
//! list and watch anew. So there is no state to resume, and nothing to get wrong in resuming it.
//!
//! Changes are applied to what is kept here; a document is made of it only when somebody is ready to take one, so a
//! thousand changes a second cost a thousand small edits and a few documents. All changes of one transaction come in one
//! message, and so are in one document.

mod messages;
mod services;
mod session;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use super::pace::{Backoff, LASTING, any_index};
use super::{Line, Text, Update};
use crate::config;
use services::Services;
use session::Session;

/// Follows the keys for as long as somebody receives.
pub async fn follow(config: config::Etcd, line: Line) {
    let mut source = Source::new(config);
    let mut backoff = Backoff::default();
    // A fleet spreads over the members.
    let mut member = any_index(source.config.endpoints.len());
    let mut failed = 0;
    loop {
        let (lasted, why) = tokio::select! {
            ended = source.follow_member(member, &line) => ended,
            () = line.reread.notified() => {
                source.is_asked = true;
                continue;
            }
            () = line.updates.closed() => return,
        };
        if lasted >= LASTING {
            (failed, backoff) = (0, Backoff::default());
        }
        let why = format!("{}: {why}", source.config.endpoints[member]);
        if line.updates.send((Instant::now(), Update::Unreachable(why))).await.is_err() {
            return;
        }
        // The next member is asked at once, the first again only after a pause.
        member = (member + 1) % source.config.endpoints.len();
        failed += 1;
        if failed % source.config.endpoints.len() != 0 {
            continue;
        }
        let pause = tokio::time::sleep(backoff.pause(None));
        tokio::pin!(pause);
        loop {
            tokio::select! {
                () = &mut pause => break,
                () = line.wanted.notified(), if source.changed.is_some() => source.tell(&line).await,
                () = line.reread.notified() => {
                    source.is_asked = true;
                    break;
                }
                () = line.updates.closed() => return,
            }
        }
    }
}

struct Source {
    config: config::Etcd,
    tls: crate::tls::Client,
    services: Services,
    /// Since when there is something that nobody was told of.
    changed: Option<Instant>,
    /// Whether somebody asked for the next list, whatever it is.
    is_asked: bool,
}

impl Source {
    fn new(config: config::Etcd) -> Self {
        let tls = crate::tls::Client::new(config.tls.clone(), "h2");
        let services = Services::new(&config.prefix, config.max_bytes as usize);
        Self { config, tls, services, changed: None, is_asked: false }
    }

    /// Follows one member until that ends; how long it watched, and why it ended.
    async fn follow_member(&mut self, member: usize, line: &Line) -> (Duration, String) {
        let mut session = match self.begin(member).await {
            Ok(session) => session,
            Err(why) => return (Duration::ZERO, why),
        };
        let began = Instant::now();
        loop {
            tokio::select! {
                // What has come already belongs into the next document.
                biased;
                news = session.next() => {
                    let applied = match news {
                        Ok(Some(response)) => self.services.apply(response),
                        // That a watch has begun says nothing yet.
                        Ok(None) if self.changed.is_none() && began.elapsed() > LASTING / 2 => {
                            // Where the last word was not heard yet, this one is not missed.
                            let _ = line.updates.try_send((Instant::now(), Update::Unchanged));
                            Ok(false)
                        }
                        Ok(None) => Ok(false),
                        Err(why) => return (began.elapsed(), why),
                    };
                    match applied {
                        Ok(true) => _ = self.changed.get_or_insert_with(Instant::now),
                        Ok(false) => {}
                        Err(why) => return (began.elapsed(), why),
                    }
                }
                () = line.wanted.notified(), if self.changed.is_some() => self.tell(line).await,
            }
        }
    }

    /// Logs in at a member, lists, and watches from there.
    async fn begin(&mut self, member: usize) -> Result<Session, String> {
        let url = &self.config.endpoints[member];
        let mut session = Session::open(url, &mut self.tls, &self.config).await?;
        let listing = session.list(&self.config.prefix, self.services.most_bytes()).await?;
        let revision = listing.revision;
        let is_new = self.services.replace(listing, self.is_asked)?;
        if is_new || self.is_asked {
            self.changed.get_or_insert_with(Instant::now);
        }
        self.is_asked = false;
        session.watch(&self.config.prefix, revision + 1).await?;
        Ok(session)
    }

    /// Says what has changed.
    async fn tell(&mut self, line: &Line) {
        let Some(since) = self.changed.take() else { return };
        let text = Text { name: self.services.name(), text: self.services.document() };
        // Fails only when nobody receives any more, which ends all this.
        let _ = line.updates.send((since, Update::Set(text))).await;
    }
}
