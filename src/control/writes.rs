//! Changes by the API: made one after another, kept on disk together, then put in force together, and answered when every lcore has them.
//!
//! While the disk works the thread goes on with everything else; what is asked for meanwhile is the next lot. So a writer waits for a sync
//! or two, and a thousand writers do, too.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::oneshot;

use super::Thread;
use super::authored::{Authored, Record};
use super::client::{Change, Refused};
use super::drained::{Drained, Whom};
use super::journal::Position;
use super::kept::Commit;
use crate::service::{Definitions, Service};

/// Changes by the API, and what became of them.
#[derive(Default)]
pub(super) struct Writes {
    /// The definitions with all changes; `None` where a feed rules.
    pub(super) authored: Option<Authored>,
    /// Who was drained, with all changes.
    pub(super) drained: Drained,
    /// In the order that they came, not begun yet.
    pub(super) waiting: Vec<Change>,
    /// What the keeper writes at this moment.
    pub(super) committing: Option<Committing>,
    /// On disk, and published, but not adopted by every lcore yet.
    pub(super) unanswered: Vec<Adopted>,
}

pub(super) struct Committing {
    since: Instant,
    definitions: Option<Arc<Definitions>>,
    has_drained: bool,
    done: oneshot::Receiver<Result<Option<Position>, String>>,
    /// Called with what became of it.
    answers: Vec<Told>,
}

/// Changes that are kept and published together, at most.
const BATCH: usize = 1024;

/// Tells a writer that its change is in force.
type Adopted = Box<dyn FnOnce() + Send>;

/// Tells a writer that its change is kept, or why not.
type Told = Box<dyn FnOnce(Result<(), Refused>) + Send>;

impl Thread {
    /// Makes the changes that wait, and has them kept on disk; they are in force once they are there.
    pub(super) fn begin_commit(&mut self) {
        let waiting = std::mem::take(&mut self.writes.waiting);
        let (mut answers, mut lines, mut is_whole): (Vec<Told>, _, _) = (Vec::new(), String::new(), false);
        let drained_before = self.writes.drained.clone();
        let mut waiting = waiting.into_iter();
        for request in waiting.by_ref().take(BATCH) {
            match request {
                Change::Write(write, answer) => {
                    let written = match &mut self.writes.authored {
                        Some(authored) => authored.write(write),
                        None => Err(Refused::FeedRules(self.config.feed.kind().name())),
                    };
                    match written {
                        Ok((written, record)) => {
                            match record {
                                Record::Line(line) => lines += &line,
                                Record::Whole => is_whole = true,
                                Record::Nothing => {}
                            }
                            answers.push(Box::new(move |kept| drop(answer.send(kept.map(|()| written)))));
                        }
                        Err(refused) => drop(answer.send(Err(refused))),
                    }
                }
                Change::Drain(whom, answer) => match self.who_has(&whom) {
                    Ok(services) => {
                        self.writes.drained.add(whom);
                        answers.push(Box::new(move |kept| drop(answer.send(kept.map(|()| services)))));
                    }
                    Err(refused) => drop(answer.send(Err(refused))),
                },
                Change::Undrain(whom, answer) => {
                    if self.writes.drained.remove(&whom) {
                        let services = self.who_has(&whom).unwrap_or_default();
                        answers.push(Box::new(move |kept| drop(answer.send(kept.map(|()| services)))));
                    } else {
                        let of = whom.service.as_ref().map_or(String::new(), |name| format!(" in service {name:?}"));
                        let reason = format!("{} was not drained by hand{of}", whom.backend);
                        drop(answer.send(Err(Refused::NotFound(reason))));
                    }
                }
            }
        }
        self.writes.waiting = waiting.collect();
        let has_changed = is_whole || !lines.is_empty();
        let has_drained = self.writes.drained != drained_before;
        if !has_changed && !has_drained {
            answers.into_iter().for_each(|answer| answer(Ok(())));
            return;
        }
        let authored = self.writes.authored.as_ref().filter(|_| has_changed);
        let definitions = authored.map(|authored| Arc::new(authored.definitions()));
        let (done, receiver) = oneshot::channel();
        self.keeper.commit(Commit {
            drained: has_drained.then(|| self.writes.drained.clone()),
            definitions: definitions.clone(),
            lines: (!is_whole).then_some(lines),
            done,
        });
        let since = Instant::now();
        self.writes.committing = Some(Committing { since, definitions, has_drained, done: receiver, answers });
    }

    /// What was kept is put in force; what could not be kept never was.
    pub(super) fn finish_commit(&mut self, result: Result<Option<Position>, String>) {
        let Some(Committing { since, definitions, has_drained, answers, .. }) = self.writes.committing.take() else {
            return;
        };
        let position = match result {
            Ok(position) => position,
            Err(why) => return self.take_back(&why, answers),
        };
        if position.is_some() {
            self.position = position;
        }
        let answers = answers.into_iter().map(|answer| -> Adopted { Box::new(|| answer(Ok(()))) });
        self.writes.unanswered.extend(answers);
        if has_drained {
            self.masks.set_drained(self.writes.drained.clone());
        }
        match definitions {
            Some(definitions) => {
                self.standing.taken();
                self.put_in_force(definitions, since);
            }
            None => self.publish(since),
        }
        self.answer();
    }

    /// What could not be kept never was.
    fn take_back(&mut self, why: &str, answers: Vec<Told>) {
        tracing::error!("changes are refused, since they cannot be kept on disk: {why}");
        let nothing = Arc::default();
        let in_force = self.definitions.as_ref().unwrap_or(&nothing);
        if let Some(authored) = &mut self.writes.authored {
            *authored = Authored::new(in_force);
        }
        self.writes.drained = self.masks.drained().clone();
        answers.into_iter().for_each(|answer| answer(Err(Refused::NotKept(why.to_owned()))));
    }

    /// Tells writers whose changes every lcore has adopted.
    pub(super) fn answer(&mut self) {
        if self.pending.is_none() {
            self.writes.unanswered.drain(..).for_each(|answer| answer());
        }
    }

    /// The services that have a backend.
    fn who_has(&self, whom: &Whom) -> Result<Vec<Arc<str>>, Refused> {
        let authored = self.writes.authored.as_ref().map(Authored::definitions);
        let nothing = Definitions::default();
        let definitions = authored.as_ref().or(self.definitions.as_deref()).unwrap_or(&nothing);
        let has = |service: &&Arc<Service>| {
            service.backends.iter().any(|backend| whom.is(&service.name, service.endpoint(backend)))
        };
        let names: Vec<_> = definitions.services.iter().filter(has).map(|service| service.name.clone()).collect();
        if !names.is_empty() {
            return Ok(names);
        }
        Err(Refused::NotFound(match &whom.service {
            Some(name) if !definitions.services.iter().any(|service| service.name == *name) => {
                format!("there is no service {name:?}")
            }
            Some(name) => format!("service {name:?} has no backend {}", whom.backend),
            None => format!("no service has a backend {}", whom.backend),
        }))
    }
}

/// What became of what the keeper was given; for ever where that is nothing.
pub(super) async fn committed(committing: &mut Option<Committing>) -> Option<Result<Option<Position>, String>> {
    match committing {
        Some(committing) => Some((&mut committing.done).await.unwrap_or_else(|_| Err("nobody writes".to_owned()))),
        None => std::future::pending().await,
    }
}
