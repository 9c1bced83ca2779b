//! Follows one resource: lists it, and watches it from there.
//!
//! A watch ends every few minutes, as it was asked to, and with every API server that is replaced. It is gone on with from
//! the last version that was heard of, without a word, as long as that works. Objects are listed anew where the server does
//! not remember that version any more (410), where it refuses the watch or breaks it off with an error, and where a watch was
//! so silent that nobody knows whether it would have told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::access::{ANSWER, Refusal, Server};
use super::lines::{Fault, Lines};
use super::objects::{Change, Listing, Object, number};
use super::{News, Resource};
use crate::config;
use crate::feed::pace::{Backoff, LASTING, spread};

/// Objects that are asked for at once, as by kubectl.
const PAGE: usize = if cfg!(test) { 3 } else { 500 };

/// How long the server is asked to let a watch last; it ends all at different times.
const LIFE: Duration = Duration::from_secs(300);

/// The longest that a watch says nothing: bookmarks come every minute, and before it ends (KEP-956).
const SILENCE: Duration = if cfg!(test) { Duration::from_secs(3) } else { Duration::from_secs(150) };

/// A watch that stands for so long is taken for one that works.
const SETTLED: Duration = Duration::from_millis(100);

/// Between two watches, at least.
const GAP: Duration = if cfg!(test) { Duration::from_millis(200) } else { Duration::from_secs(1) };

pub struct Watcher {
    resource: Resource,
    config: Arc<config::Kubernetes>,
    news: mpsc::Sender<(Resource, News)>,
    /// From which version on the next watch is; `None`: to be listed before.
    version: Option<String>,
}

/// How it went on until it ended.
struct Ended {
    why: End,
    /// Whether it told something before.
    was_followed: bool,
    /// Whether a list was asked for.
    has_listed: bool,
}

enum End {
    /// The watch ended, or broke, and can be gone on with.
    Over(String),
    /// The version is not remembered any more.
    Forgotten(String),
    /// There is nothing to go on with.
    Failed { why: String, retry_after: Option<Duration> },
    /// Nobody wants to know any more.
    Unheard,
}

#[derive(Clone, Copy)]
enum Verb {
    List,
    Watch,
}

/// What of a list is of interest.
#[derive(Deserialize)]
struct Page<'a> {
    metadata: PageMetadata,
    /// `null`: none.
    #[serde(borrow)]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PageMetadata {
    resource_version: String,
    #[serde(default)]
    r#continue: String,
}

#[derive(Deserialize)]
struct Event<'a> {
    r#type: Kind,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum Kind {
    Added,
    Modified,
    Deleted,
    Bookmark,
    Error,
}

/// A v1 Status.
#[derive(Deserialize)]
struct Status {
    #[serde(default)]
    code: u16,
    #[serde(default)]
    message: String,
}

impl Watcher {
    pub fn new(resource: Resource, config: Arc<config::Kubernetes>, news: mpsc::Sender<(Resource, News)>) -> Self {
        Self { resource, config, news, version: None }
    }

    /// Follows the resource for as long as somebody receives.
    pub async fn follow(mut self) {
        let mut backoff = Backoff::default();
        loop {
            let began = Instant::now();
            let Ended { why, was_followed, has_listed } = self.follow_once().await;
            if was_followed && began.elapsed() >= LASTING {
                backoff.reset();
            }
            let (why, retry_after) = match why {
                End::Over(_) if was_followed => (None, None),
                // Else the server has forgotten what it has just told.
                End::Forgotten(_) if was_followed || !has_listed => (None, None),
                End::Over(why) | End::Forgotten(why) => (Some(why), None),
                End::Failed { why, retry_after } => (Some(why), retry_after),
                End::Unheard => return,
            };
            let Some(why) = why else {
                if self.version.is_none() && self.tell(News::Stale).await.is_none() {
                    return;
                }
                tokio::time::sleep_until(began + GAP).await;
                continue;
            };
            if self.tell(News::Lost(why)).await.is_none() {
                return;
            }
            tokio::time::sleep(backoff.pause(retry_after)).await;
        }
    }

    async fn tell(&self, news: News) -> Option<()> {
        self.news.send((self.resource, news)).await.ok()
    }

    /// Lists, where that is necessary, and watches until that ends.
    async fn follow_once(&mut self) -> Ended {
        let (mut was_followed, has_listed) = (false, self.version.is_none());
        let why = match self.begin().await {
            Ok((server, lines, listing)) => self.watch(&server, lines, listing, &mut was_followed).await,
            Err(end) => end,
        };
        // A list that was not told of is nothing to go on from.
        if matches!(why, End::Forgotten(_) | End::Failed { .. }) || (has_listed && !was_followed) {
            self.version = None;
        }
        Ended { why, was_followed, has_listed }
    }

    /// The watch, and the list before it, where one was necessary.
    async fn begin(&mut self) -> Result<(Server, Lines, Option<Listing>), End> {
        let failed = |why| End::Failed { why, retry_after: None };
        // A program that is run for a token may never end.
        let server = timeout(ANSWER, Server::find(&self.config)).await;
        let server = server.map_err(|_| failed(format!("no credentials within {ANSWER:?}")))?.map_err(failed)?;
        let (listing, version) = match self.version.clone() {
            Some(version) => (None, version),
            None => {
                let (listing, version) = self.list(&server).await?;
                (Some(listing), version)
            }
        };
        let life = spread(LIFE).as_secs();
        let query = format!(
            "watch=true&allowWatchBookmarks=true&timeoutSeconds={life}&resourceVersion={}{}",
            encoded(&version),
            self.selector()
        );
        let lines = self.ask(&server, Verb::Watch, &query).await?;
        self.version = Some(version);
        Ok((server, lines, listing))
    }

    /// All that there is, and at which version.
    async fn list(&self, server: &Server) -> Result<(Listing, String), End> {
        match self.list_by(server, Some(PAGE)).await {
            // The rest of a list is forgotten where its pages were fetched too slowly; in one piece it cannot be.
            Err(End::Forgotten(_)) => self.list_by(server, None).await,
            listed => listed,
        }
    }

    async fn list_by(&self, server: &Server, limit: Option<usize>) -> Result<(Listing, String), End> {
        let mut listing = Listing { version: 0, objects: BTreeMap::new() };
        let (mut bytes, mut next) = (0, String::new());
        loop {
            let mut query: Vec<_> = limit.iter().map(|limit| format!("limit={limit}")).collect();
            if !next.is_empty() {
                query.push(format!("continue={}", encoded(&next)));
            }
            let query = query.join("&") + &self.selector();
            let lines = self.ask(server, Verb::List, query.trim_start_matches('&')).await?;
            let page = match timeout(ANSWER, lines.rest()).await {
                Ok(page) => page.map_err(|fault| self.failed(server, Verb::List, fault.why()))?,
                Err(_) => return Err(self.failed(server, Verb::List, format!("no whole list within {ANSWER:?}"))),
            };
            let page: Page<'_> =
                serde_json::from_str(&page).map_err(|error| self.failed(server, Verb::List, not_understood(&error)))?;
            for item in page.items.iter().flatten() {
                let object = Object::read(self.resource, item.get())
                    .map_err(|error| self.failed(server, Verb::List, not_understood(&error)))?;
                bytes += object.text.len();
                listing.objects.insert(object.name.clone(), object);
            }
            let most = self.config.max_bytes as usize;
            if bytes > most {
                let why = format!("they have more than {most} bytes; `max_bytes` sets how many are taken");
                return Err(self.failed(server, Verb::List, why));
            }
            if page.metadata.r#continue.is_empty() {
                listing.version = number(&page.metadata.resource_version);
                return Ok((listing, page.metadata.resource_version));
            }
            next = page.metadata.r#continue;
        }
    }

    /// Tells of what comes until the end. `listing`: what the watch follows on, told of when the watch is known to work.
    async fn watch(
        &mut self,
        server: &Server,
        mut lines: Lines,
        mut listing: Option<Listing>,
        was_followed: &mut bool,
    ) -> End {
        loop {
            let patience = if *was_followed { SILENCE } else { SETTLED };
            let news = match timeout(patience, lines.next()).await {
                Err(_) if *was_followed => {
                    self.version = None;
                    return End::Over(self.sentence(server, Verb::Watch, "it says nothing"));
                }
                Err(_) => None,
                Ok(Ok(Some(line))) => match self.read(server, &line) {
                    Ok(news) => Some(news),
                    Err(end) => return end,
                },
                Ok(Ok(None)) => return End::Over(self.sentence(server, Verb::Watch, "it ends the watch")),
                Ok(Err(Fault::Broken(why))) => return End::Over(self.sentence(server, Verb::Watch, &why)),
                Ok(Err(Fault::Unfit(why))) => return self.failed(server, Verb::Watch, why),
            };
            let is_first = !std::mem::replace(was_followed, true);
            let beginning = match (is_first, listing.take()) {
                (true, Some(listing)) => Some(News::Listed(listing)),
                (true, None) => Some(News::Alive),
                (false, _) => None,
            };
            for news in beginning.into_iter().chain(news) {
                if self.tell(news).await.is_none() {
                    return End::Unheard;
                }
            }
        }
    }

    /// What a line of a watch says.
    fn read(&mut self, server: &Server, line: &str) -> Result<News, End> {
        let not_understood = |error| self.failed(server, Verb::Watch, not_understood(&error));
        let Event { r#type: kind, object } = serde_json::from_str(line).map_err(not_understood)?;
        if let Kind::Error = kind {
            let Status { code, message } = serde_json::from_str(object.get()).map_err(not_understood)?;
            let status = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            return Err(self.refused(server, Verb::Watch, status, &message, None));
        }
        if let Kind::Bookmark = kind {
            let version = marked(object).map_err(not_understood)?;
            self.version = Some(version);
            return Ok(News::Alive);
        }
        let object = Object::read(self.resource, object.get()).map_err(not_understood)?;
        self.version = Some(object.version.clone());
        let (name, version) = (object.name.clone(), number(&object.version));
        let object = if let Kind::Deleted = kind { None } else { Some(object) };
        Ok(News::Changed(Change { version, name, object }))
    }

    async fn ask(&self, server: &Server, verb: Verb, query: &str) -> Result<Lines, End> {
        let path = format!("{}?{query}", self.path());
        server.get(&path, self.config.max_bytes as usize).await.map_err(|refusal| match refusal {
            Refusal::Said { status, message, retry_after } => self.refused(server, verb, status, &message, retry_after),
            // The same sentence, whatever was asked for. Nothing was said of the version.
            Refusal::Silent(why) => match verb {
                Verb::List => End::Failed { why: format!("{}: {why}", server.url), retry_after: None },
                Verb::Watch => End::Over(format!("{}: {why}", server.url)),
            },
        })
    }

    fn path(&self) -> String {
        let group = match self.resource {
            Resource::Services | Resource::Nodes => "/api/v1",
            Resource::Slices => "/apis/discovery.k8s.io/v1",
        };
        // Nodes are in no namespace.
        let namespace = self.config.namespace.as_ref().filter(|_| self.resource != Resource::Nodes);
        let namespace = namespace.map(|namespace| format!("/namespaces/{namespace}")).unwrap_or_default();
        let plural = self.resource.name().split('.').next().unwrap_or_default();
        format!("{group}{namespace}/{plural}")
    }

    /// Of services: slices need not have the labels of theirs.
    fn selector(&self) -> String {
        let selector = self.config.label_selector.as_ref().filter(|_| self.resource == Resource::Services);
        selector.map(|selector| format!("&labelSelector={}", encoded(selector))).unwrap_or_default()
    }

    fn refused(
        &self,
        server: &Server,
        verb: Verb,
        status: StatusCode,
        message: &str,
        retry_after: Option<Duration>,
    ) -> End {
        let mut why = format!("it answers {status}");
        if !message.is_empty() && status.canonical_reason() != Some(message) {
            why = format!("{why}: {message}");
        }
        match status {
            StatusCode::GONE => End::Forgotten(self.sentence(server, verb, &why)),
            StatusCode::UNAUTHORIZED => self.failed(server, verb, format!("{why} (the credentials are not valid)")),
            StatusCode::FORBIDDEN => {
                self.failed(server, verb, format!("{why} (conf/kubernetes/rbac.yaml gives the rights)"))
            }
            _ => End::Failed { why: self.sentence(server, verb, &why), retry_after },
        }
    }

    fn failed(&self, server: &Server, verb: Verb, why: impl AsRef<str>) -> End {
        End::Failed { why: self.sentence(server, verb, why.as_ref()), retry_after: None }
    }

    fn sentence(&self, server: &Server, verb: Verb, why: &str) -> String {
        let verb = match verb {
            Verb::List => "list",
            Verb::Watch => "watch",
        };
        let place = match &self.config.namespace {
            Some(namespace) if self.resource != Resource::Nodes => format!(" in namespace {namespace}"),
            _ => String::new(),
        };
        format!("{}: cannot {verb} {}{place}: {why}", server.url, self.resource.name())
    }
}

fn not_understood(error: &serde_json::Error) -> String {
    format!("what it says is not understood: {error}")
}

/// The version that a bookmark marks.
fn marked(object: &RawValue) -> Result<String, serde_json::Error> {
    #[derive(Deserialize)]
    struct Bookmark {
        metadata: PageMetadata,
    }
    serde_json::from_str(object.get()).map(|Bookmark { metadata }| metadata.resource_version)
}

/// As it can stand in a query (RFC 3986 §2.3).
fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}
