//! Changes by the API: made one after another, kept on disk together, then put in force together, and answered when every lcore has them.
//!
//! While the disk works the thread goes on with everything else; what is asked for meanwhile is the next lot. So a writer waits for a sync
//! or two, and a thousand writers do, too.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::oneshot;

use super::Thread;
use super::authored::{Authored, Record};
use super::client::{Change, Refused};
use super::drained::{Drained, Whom};
use super::journal::Position;
use super::kept::{Commit, What};
use crate::service::tree::quote;
use crate::service::{Definitions, Service};

/// Changes by the API, and what became of them.
#[derive(Default)]
pub(super) struct Writes {
    /// The definitions with all changes; `None` where a feed rules.
    pub(super) authored: Option<Authored>,
    /// Those that are on disk, also where they do not fit the node.
    pub(super) all: Arc<Definitions>,
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
    /// Those that are to be in force, and all that are kept; `None`: who is drained changed.
    definitions: Option<(Arc<Definitions>, Arc<Definitions>)>,
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
        // A writer that gave up before anything was done need not wonder whether it was.
        self.writes.waiting.retain(|change| !change.is_given_up());
        // What is kept in one file goes together.
        let is_write = |change: &Change| matches!(change, Change::Write(..));
        let Some(kind) = self.writes.waiting.first().map(is_write) else { return };
        let alike = self.writes.waiting.iter().take(BATCH).take_while(|change| is_write(change) == kind).count();
        let rest = self.writes.waiting.split_off(alike);
        let batch = std::mem::replace(&mut self.writes.waiting, rest);
        if kind { self.begin_writes(batch) } else { self.begin_drains(batch) }
    }

    fn begin_writes(&mut self, batch: Vec<Change>) {
        let (mut answers, mut lines, mut is_whole): (Vec<Told>, _, _) = (Vec::new(), String::new(), false);
        for change in batch {
            let Change::Write(write, answer) = change else { continue };
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
        let authored = self.writes.authored.as_ref().filter(|_| is_whole || !lines.is_empty());
        let Some(authored) = authored else { return answers.into_iter().for_each(|answer| answer(Ok(()))) };
        let definitions = Arc::new(authored.definitions());
        let all = if authored.left_out().is_empty() { definitions.clone() } else { Arc::new(authored.all()) };
        let what = What::Definitions { all: all.clone(), lines: (!is_whole).then_some(lines) };
        self.commit(what, Some((definitions, all)), answers);
    }

    fn begin_drains(&mut self, batch: Vec<Change>) {
        let mut answers: Vec<Told> = Vec::new();
        let before = self.writes.drained.clone();
        for change in batch {
            match change {
                Change::Write(..) => {}
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
                        let of =
                            whom.service.as_ref().map_or(String::new(), |name| format!(" in service {}", quote(name)));
                        let reason = format!("{} was not drained by hand{of}", whom.backend);
                        drop(answer.send(Err(Refused::NotFound(reason))));
                    }
                }
            }
        }
        if self.writes.drained == before {
            return answers.into_iter().for_each(|answer| answer(Ok(())));
        }
        self.commit(What::Drained(self.writes.drained.clone()), None, answers);
    }

    fn commit(&mut self, what: What, definitions: Option<(Arc<Definitions>, Arc<Definitions>)>, answers: Vec<Told>) {
        let (done, receiver) = oneshot::channel();
        self.keeper.commit(Commit { what, done });
        self.writes.committing = Some(Committing { since: Instant::now(), definitions, done: receiver, answers });
    }

    /// What was kept is put in force; what could not be kept never was.
    pub(super) fn finish_commit(&mut self, result: Result<Option<Position>, String>) {
        let Some(Committing { since, definitions, answers, .. }) = self.writes.committing.take() else {
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
        match definitions {
            Some((definitions, all)) => {
                self.standing.taken();
                self.writes.all = all;
                if let Some(authored) = &self.writes.authored {
                    self.left_out.retain(|left_out| authored.left_out().contains(&*left_out.service));
                }
                self.put_in_force(definitions, since);
            }
            None => {
                self.masks.set_drained(self.writes.drained.clone());
                self.publish(since);
            }
        }
        self.answer();
    }

    /// What could not be kept never was.
    fn take_back(&mut self, why: &str, answers: Vec<Told>) {
        tracing::error!("changes are refused, since they cannot be kept on disk: {why}");
        if let Some(authored) = &mut self.writes.authored {
            let in_force = self.definitions.iter().flat_map(|definitions| &definitions.services);
            let in_force: HashSet<&str> = in_force.map(|service| &*service.name).collect();
            let names = self.writes.all.services.iter().map(|service| service.name.clone());
            *authored = Authored::new(&self.writes.all);
            authored.leave_out(names.filter(|name| !in_force.contains(&**name)));
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
        let (authored, given) = (self.writes.authored.iter(), self.definitions.iter());
        let given = given.filter(|_| self.writes.authored.is_none()).flat_map(|given| &given.services);
        let services: Vec<&Arc<Service>> = authored.flat_map(Authored::services).chain(given).collect();
        let has = |service: &&Arc<Service>| {
            service.backends.iter().any(|backend| whom.is(&service.name, service.endpoint(backend)))
        };
        let names: Vec<_> = services.iter().copied().filter(has).map(|service| service.name.clone()).collect();
        if !names.is_empty() {
            return Ok(names);
        }
        Err(match &whom.service {
            Some(name) if !services.iter().any(|service| service.name == *name) => Refused::no_service(name),
            Some(name) => Refused::NotFound(format!("service {} has no backend {}", quote(name), whom.backend)),
            None => Refused::NotFound(format!("no service has a backend {}", whom.backend)),
        })
    }
}

/// What became of what the keeper was given; for ever where that is nothing.
pub(super) async fn committed(committing: &mut Option<Committing>) -> Option<Result<Option<Position>, String>> {
    match committing {
        Some(committing) => Some((&mut committing.done).await.unwrap_or_else(|_| Err("nobody writes".to_owned()))),
        None => std::future::pending().await,
    }
}
