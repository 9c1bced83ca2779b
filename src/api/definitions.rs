//! `Definitions`: what the node was given, and writing it.

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{Stream, StreamExt};
use tokio::sync::OwnedSemaphorePermit;
use tonic::{Request, Response, Status};

use super::{Api, WATCHES, refusal};
use crate::config;
use crate::control::{Edit, Refused, Write};
use crate::proto;
use crate::proto::definitions_server::Definitions;
use crate::proto::{
    DeleteServiceRequest, GetRequest, GetResponse, ReplaceRequest, SetBackendsRequest, UpsertServiceRequest,
    WatchRequest, WatchResponse, WriteResponse,
};
use crate::service::tree::Value;
use crate::service::{self, Errors, Service, Warning};

/// Errors and warnings of a request name no file.
const REQUEST: &str = "request";

/// For so long a change of one service is made anew, when another came between.
const PATIENCE: Duration = Duration::from_secs(10);

/// After so long it is made anew though nothing new is in force.
const AGAIN: Duration = Duration::from_millis(100);

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Definitions for Api {
    type WatchStream = Messages<WatchResponse>;

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        let names = request.into_inner().services;
        let mut definitions = self.control.in_force();
        if !names.is_empty() {
            // Of thousands, only those asked for are copied into messages.
            let mut wanted: HashSet<&str> = names.iter().map(String::as_str).collect();
            let is_wanted = |service: &&Arc<Service>| wanted.remove(&*service.name);
            let services = definitions.services.iter().filter(is_wanted).cloned().collect();
            if let Some(missing) = names.iter().find(|name| wanted.contains(name.as_str())) {
                return Err(refusal::no_service(missing));
            }
            definitions = Arc::new(service::Definitions { version: definitions.version.clone(), services });
        }
        Ok(Response::new(GetResponse { definitions: Some(message(definitions).await?) }))
    }

    async fn watch(&self, _: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let place = self.watches.clone().try_acquire_owned().map_err(|_| {
            let reason = "callers watch the definitions already: end a watch that nobody reads, or share one; Definitions.Get answers as before";
            Status::resource_exhausted(format!("{WATCHES} {reason}"))
        })?;
        let mut definitions = self.control.definitions();
        definitions.mark_changed();
        // The next is made when the last was taken: who is slow holds one.
        let sets =
            futures_util::stream::unfold((definitions, Watcher::new(place)), |(mut definitions, watcher)| async move {
                definitions.changed().await.ok()?;
                // Whoever looks at them keeps the control thread from changing them: so no longer than that.
                let newest = definitions.borrow_and_update().clone();
                let set = message(newest).await.map(|set| WatchResponse { definitions: Some(set) });
                Some((set, (definitions, watcher)))
            });
        Ok(Response::new(sets.boxed()))
    }

    async fn replace(&self, request: Request<ReplaceRequest>) -> Result<Response<WriteResponse>, Status> {
        const PREFIX: &str = "definitions.";
        self.refuse_where_a_feed_rules()?;
        let ReplaceRequest { definitions, expected_version, dry_run } = request.into_inner();
        let Some(set) = definitions else { return Err(refusal::field("definitions", "required, but absent")) };
        let (config, in_force) = (self.config.clone(), self.control.in_force());
        let judge = move || {
            let (definitions, warnings) = service::read_tree(&proto::tree_of_set(&set), REQUEST, Some(&in_force))?;
            config::fit(&config, &definitions, REQUEST)?;
            Ok((definitions, warnings))
        };
        let judged = tokio::task::spawn_blocking(judge).await.map_err(|error| Status::internal(error.to_string()))?;
        let (definitions, warnings) = judged.map_err(|errors: Errors| refusal::invalid(&errors, PREFIX))?;
        self.write(Edit::Replace(definitions), expected_version, dry_run, &warnings, PREFIX).await
    }

    async fn upsert_service(&self, request: Request<UpsertServiceRequest>) -> Result<Response<WriteResponse>, Status> {
        const PREFIX: &str = "service.";
        self.refuse_where_a_feed_rules()?;
        let UpsertServiceRequest { service, expected_version, dry_run } = request.into_inner();
        let Some(service) = service else { return Err(refusal::field("service", "required, but absent")) };
        let judged = self.judge(&proto::tree_of(&service));
        let (service, warnings) = judged.map_err(|errors| refusal::invalid(&errors, PREFIX))?;
        self.write(Edit::Upsert(service), expected_version, dry_run, &warnings, PREFIX).await
    }

    async fn delete_service(&self, request: Request<DeleteServiceRequest>) -> Result<Response<WriteResponse>, Status> {
        self.refuse_where_a_feed_rules()?;
        let DeleteServiceRequest { name, expected_version, dry_run } = request.into_inner();
        if name.is_empty() {
            return Err(refusal::field("name", "required, but absent"));
        }
        self.write(Edit::Delete(name), expected_version, dry_run, &[], "").await
    }

    async fn set_backends(&self, request: Request<SetBackendsRequest>) -> Result<Response<WriteResponse>, Status> {
        self.refuse_where_a_feed_rules()?;
        let SetBackendsRequest { service: name, backends, expected_version, dry_run } = request.into_inner();
        if name.is_empty() {
            return Err(refusal::field("service", "required, but absent"));
        }
        let mut watched = self.control.definitions();
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let in_force = watched.borrow_and_update().clone();
            let before = find(&in_force, &name).ok_or_else(|| refusal::no_service(&name))?.clone();
            let message = proto::Service { backends: backends.clone(), ..proto::message_of(&before) };
            let (after, warnings) =
                self.judge(&proto::tree_of(&message)).map_err(|errors| refusal::invalid(&errors, ""))?;
            let edit = Edit::Exchange { before, after };
            let write = Write { edit, expected_version: expected_version.clone(), is_dry_run: dry_run };
            match self.control.write(write).await {
                // Another change of the same service is on its way: it is in force when the disk has it, or it never will be.
                Err(Refused::Outdated) => _ = tokio::time::timeout(AGAIN, watched.changed()).await,
                written => return answer(written, &warnings, ""),
            }
        }
        Err(Status::aborted("the service changes all the time"))
    }
}

/// A set's message, made where it keeps no other call waiting: there may be thousands of services.
async fn message(definitions: Arc<service::Definitions>) -> Result<proto::ServiceSet, Status> {
    let made = tokio::task::spawn_blocking(move || proto::message_of_set(&definitions)).await;
    made.map_err(|error| Status::internal(error.to_string()))
}

/// A service by its name. Those that callers write stand in the order of their names.
fn find<'a>(definitions: &'a service::Definitions, name: &str) -> Option<&'a Arc<Service>> {
    let services = &definitions.services;
    match services.binary_search_by(|service| (*service.name).cmp(name)) {
        Ok(index) => services.get(index),
        Err(_) => services.iter().find(|service| *service.name == *name),
    }
}

/// A stream of [`Definitions::watch`], as long as it is open.
struct Watcher {
    gauge: metrics::Gauge,
    _place: OwnedSemaphorePermit,
}

impl Watcher {
    fn new(place: OwnedSemaphorePermit) -> Self {
        let gauge = metrics::gauge!(super::WATCHERS);
        gauge.increment(1);
        Self { gauge, _place: place }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.gauge.decrement(1);
    }
}

impl Api {
    /// Before anything is looked at: whoever may not write need not hear what is wrong with it.
    fn refuse_where_a_feed_rules(&self) -> Result<(), Status> {
        match self.config.feed.kind() {
            config::FeedKind::None => Ok(()),
            kind => Err(refusal::refused(Refused::FeedRules(kind.name()), "")),
        }
    }

    /// A service by itself, and on this node.
    fn judge(&self, tree: &Value<'_>) -> Result<(Arc<Service>, Vec<Warning>), Errors> {
        let (service, warnings) = service::read_service(tree, REQUEST)?;
        config::fit_service(&self.config, &service, REQUEST)?;
        Ok((service, warnings))
    }

    async fn write(
        &self,
        edit: Edit,
        expected_version: Option<String>,
        is_dry_run: bool,
        warnings: &[Warning],
        prefix: &str,
    ) -> Result<Response<WriteResponse>, Status> {
        answer(self.control.write(Write { edit, expected_version, is_dry_run }).await, warnings, prefix)
    }
}

fn answer(
    written: Result<crate::control::Written, Refused>,
    warnings: &[Warning],
    prefix: &str,
) -> Result<Response<WriteResponse>, Status> {
    let written = written.map_err(|refused| refusal::refused(refused, prefix))?;
    let warning = |warning: &Warning| match warning.path.as_str() {
        "" => warning.reason.clone(),
        path => format!("{prefix}{path}: {}", warning.reason),
    };
    Ok(Response::new(WriteResponse {
        version: written.version,
        warnings: warnings.iter().map(warning).collect(),
        changed: written.has_changed,
    }))
}
