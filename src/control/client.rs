//! What others ask of the control thread, from any other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{mpsc, oneshot, watch};

use super::drained::Whom;
use super::report::Report;
use crate::flow::Clients;
use crate::health;
use crate::service::tree::quote;
use crate::service::{Definitions, Errors, Service};
use crate::snapshot::{Fabric, Millis, Snapshot};

/// Talks to a control thread from any other.
#[derive(Clone)]
pub struct Client {
    pub(super) requests: mpsc::UnboundedSender<Request>,
    pub(super) has_definitions: Arc<AtomicBool>,
    pub(super) in_force: watch::Receiver<Arc<Definitions>>,
    pub(super) health: health::View,
}

pub(super) enum Request {
    Report(Scope, oneshot::Sender<Report>),
    Seen(oneshot::Sender<Seen>),
    Change(Change),
    Reread,
    Stop,
}

/// Of what a report tells more than the outline.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Scope {
    Outline,
    /// Each backend of this service.
    Of(String),
    All,
}

/// What is on disk before it is answered.
pub(super) enum Change {
    Write(Write, Answer<Written>),
    Drain(Whom, Answer<Vec<Arc<str>>>),
    Undrain(Whom, Answer<Vec<Arc<str>>>),
}

impl Change {
    /// Whether nobody waits for what becomes of it.
    pub(super) fn is_given_up(&self) -> bool {
        match self {
            Self::Write(_, answer) => answer.is_closed(),
            Self::Drain(_, answer) | Self::Undrain(_, answer) => answer.is_closed(),
        }
    }
}

pub(super) type Answer<T> = oneshot::Sender<Result<T, Refused>>;

/// What the lcores go by at one moment, or will in the next.
#[derive(Debug, Clone)]
pub struct Seen {
    pub snapshot: Arc<Snapshot>,
    pub fabric: Fabric,
    /// What time it is to them.
    pub now: Millis,
    /// Where clients went.
    pub clients: Arc<Clients>,
}

/// A change of the definitions, which were validated by themselves.
#[derive(Debug)]
pub struct Write {
    pub edit: Edit,
    /// Only if this version is in force; the empty one: only if none is.
    pub expected_version: Option<String>,
    /// Only says what would become of it.
    pub is_dry_run: bool,
}

#[derive(Debug)]
pub enum Edit {
    Replace(Definitions),
    Upsert(Arc<Service>),
    Delete(String),
    /// A service in place of one that is in force, and still the very same.
    Exchange {
        before: Arc<Service>,
        after: Arc<Service>,
    },
}

/// What became of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// In force from now on.
    pub version: String,
    pub has_changed: bool,
}

/// Why a change was not made; nothing is changed.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error("definitions come from the feed (kind = {0:?}); to write them here, set [feed] kind = \"none\"")]
    FeedRules(&'static str),
    #[error("version {} was expected, and {} is in force", quote(.expected), quote(.in_force))]
    Version { expected: String, in_force: String },
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    Invalid(Errors),
    /// What the change was made for is not in force any more: make it anew.
    #[error("the definitions changed meanwhile")]
    Outdated,
    #[error("it cannot be kept on disk: {0}")]
    NotKept(String),
    #[error("the node is stopping")]
    Stopping,
}

impl Refused {
    pub(super) fn no_service(name: &str) -> Self {
        Self::NotFound(format!("there is no service {}", quote(name)))
    }
}

impl Client {
    /// `None` once the thread has ended.
    pub async fn report(&self) -> Option<Report> {
        self.ask_for_report(Scope::All).await
    }

    /// With what there is to tell of the backends of one service only. `None` once the thread has ended.
    pub async fn report_of(&self, service: &str) -> Option<Report> {
        self.ask_for_report(Scope::Of(service.to_owned())).await
    }

    /// Without what there is to tell of each backend and each service, of which there may be very many. `None` once the thread has ended.
    pub async fn outline(&self) -> Option<Report> {
        self.ask_for_report(Scope::Outline).await
    }

    async fn ask_for_report(&self, scope: Scope) -> Option<Report> {
        let (sender, receiver) = oneshot::channel();
        self.requests.send(Request::Report(scope, sender)).ok()?;
        receiver.await.ok()
    }

    /// What the lcores go by. `None` once the thread has ended.
    pub async fn seen(&self) -> Option<Seen> {
        let (sender, receiver) = oneshot::channel();
        self.requests.send(Request::Seen(sender)).ok()?;
        receiver.await.ok()
    }

    /// Has the feed read again at once.
    pub fn reread(&self) {
        let _ = self.requests.send(Request::Reread);
    }

    /// What is known of the backends' checks.
    pub fn health(&self) -> &health::View {
        &self.health
    }

    /// Whether any definitions are in force.
    pub fn has_definitions(&self) -> bool {
        self.has_definitions.load(Ordering::Relaxed)
    }

    /// The definitions in force, as they were given.
    pub fn in_force(&self) -> Arc<Definitions> {
        self.in_force.borrow().clone()
    }

    /// The definitions in force, as they were given, and those that follow; who looks late sees the newest only.
    pub fn definitions(&self) -> watch::Receiver<Arc<Definitions>> {
        self.in_force.clone()
    }

    /// Changes the definitions. Once this returns, the change is on disk, and every lcore goes by it.
    pub async fn write(&self, write: Write) -> Result<Written, Refused> {
        self.ask(|answer| Change::Write(write, answer)).await
    }

    /// Has a backend drained until that is undone; gives the services that have it.
    pub async fn drain(&self, whom: Whom) -> Result<Vec<Arc<str>>, Refused> {
        self.ask(|answer| Change::Drain(whom, answer)).await
    }

    /// Undoes a drain; gives the services that have the backend.
    pub async fn undrain(&self, whom: Whom) -> Result<Vec<Arc<str>>, Refused> {
        self.ask(|answer| Change::Undrain(whom, answer)).await
    }

    async fn ask<T>(&self, change: impl FnOnce(Answer<T>) -> Change) -> Result<T, Refused> {
        let (sender, receiver) = oneshot::channel();
        self.requests.send(Request::Change(change(sender))).map_err(|_| Refused::Stopping)?;
        receiver.await.map_err(|_| Refused::Stopping)?
    }
}
