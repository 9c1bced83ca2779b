//! A document on an HTTP server, asked for again and again.
//!
//! Each request has a connection of its own: a name is looked up, certificates and the token are read as they are at that
//! moment, and nothing can go stale in between. What was got before makes the request a conditional one (RFC 9110 §13.1),
//! so that a server has little to send while nothing changes; one that knows `Prefer: wait` (RFC 7240 §4.3) and says so by
//! `Preference-Applied` may hold its answer back until something does, and is then asked again at once.
//!
//! An answer is taken whole or not at all: of a body that ends with the connection nobody knows whether it is half of
//! one, so it must have a length, or come in chunks.

use std::convert::Infallible;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant, SystemTime};

use http_body_util::{BodyExt, Empty};
use hyper::body::{Body, Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;

use super::network::{Stream, chain, connect, secret};
use super::pace::{Backoff, spread};
use super::{Line, Text, Update};
use crate::config::{self, Url};
use crate::tls;

/// Between an answer that was held back and the next request: a server that holds nothing back is not asked in a circle.
const GAP: Duration = Duration::from_millis(50);

/// Redirects followed in a row.
const MOST_REDIRECTS: usize = 5;

const PREFER: HeaderName = HeaderName::from_static("prefer");
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// Follows the document for as long as somebody receives.
pub async fn follow(config: config::Http, line: Line) {
    let mut source = Source::new(config);
    let mut backoff = Backoff::default();
    loop {
        let asked = Instant::now();
        let answer = tokio::select! {
            answer = source.ask() => answer,
            () = line.reread.notified() => {
                source.forget();
                continue;
            }
            () = line.updates.closed() => return,
        };
        let (noticed, update, pause) = match answer {
            Ok(Answer { noticed, text, was_held }) => {
                backoff.reset();
                let is_new = text.is_some();
                let update = text.map_or(Update::Unchanged, |text| Update::Set(Text { name: source.name(), text }));
                // An answer that nobody asked to be held was not; nor, for news, one without any that was held for a moment only.
                let is_held = was_held && source.config.wait.is_some_and(|wait| is_new || asked.elapsed() > wait / 2);
                (noticed, update, if is_held { GAP } else { spread(source.config.poll_interval) })
            }
            Err(Failure { why, retry_after }) => {
                let update = Update::Unreachable(format!("{}: {why}", source.name()));
                (Instant::now(), update, backoff.pause(retry_after))
            }
        };
        if line.updates.send((noticed, update)).await.is_err() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = line.reread.notified() => source.forget(),
            () = line.updates.closed() => return,
        }
    }
}

/// What the server said.
struct Answer {
    /// When it began to say it.
    noticed: Instant,
    /// `None`: the same as before.
    text: Option<String>,
    /// Whether it waits for changes with its answers.
    was_held: bool,
}

/// Why there is no document.
struct Failure {
    why: String,
    retry_after: Option<Duration>,
}

impl<T: Into<String>> From<T> for Failure {
    fn from(why: T) -> Self {
        Self { why: why.into(), retry_after: None }
    }
}

struct Source {
    config: config::Http,
    tls: tls::Client,
    known: Known,
    hasher: RandomState,
}

/// What is known of the last document.
#[derive(Default)]
struct Known {
    etag: Option<HeaderValue>,
    last_modified: Option<HeaderValue>,
    hash: Option<u64>,
}

/// One answer, or where it would be.
enum Hop {
    Answer(Answer),
    Redirect(Url),
}

impl Source {
    fn new(config: config::Http) -> Self {
        let tls = tls::Client::new(config.tls.clone(), "http/1.1");
        Self { config, tls, known: Known::default(), hasher: RandomState::new() }
    }

    fn name(&self) -> String {
        self.config.url.to_string()
    }

    fn wait(&self) -> Duration {
        self.config.wait.unwrap_or_default()
    }

    /// Has the next answer come even if nothing changed.
    fn forget(&mut self) {
        self.known = Known::default();
    }

    async fn ask(&mut self) -> Result<Answer, Failure> {
        let limit = self.config.timeout + self.wait();
        let why = format!("no whole answer within {limit:?}");
        tokio::time::timeout(limit, self.hops()).await.unwrap_or_else(|_| Err(why.into()))
    }

    async fn hops(&mut self) -> Result<Answer, Failure> {
        let mut url = self.config.url.clone();
        for _ in 0..=MOST_REDIRECTS {
            match self.hop(&url).await? {
                Hop::Answer(answer) => return Ok(answer),
                Hop::Redirect(to) => url = to,
            }
        }
        Err(format!("more than {MOST_REDIRECTS} redirects in a row").into())
    }

    async fn hop(&mut self, url: &Url) -> Result<Hop, Failure> {
        let request = self.request(url)?;
        let stream: Stream = connect(url, &mut self.tls).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| chain(&error))?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(|error| chain(&error))?;
            self.take(url, response).await
        };
        // What breaks a connection, the exchange is told.
        let connection = async {
            let _ = connection.await;
            std::future::pending::<Infallible>().await
        };
        tokio::select! {
            hop = exchange => hop,
            never = connection => match never {},
        }
    }

    fn request(&self, url: &Url) -> Result<Request<Empty<Bytes>>, Failure> {
        let mut request = Request::get(&url.path)
            .header(header::HOST, url.authority())
            .header(header::USER_AGENT, concat!("penstock/", env!("CARGO_PKG_VERSION")))
            .header(header::ACCEPT, "application/json, application/yaml, */*;q=0.1")
            .header(header::CONNECTION, "close");
        if let Some(path) = &self.config.token_file {
            let bearer = format!("Bearer {}", secret(path)?);
            let mut value = HeaderValue::try_from(bearer).map_err(|error| error.to_string())?;
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        if let Some(etag) = &self.known.etag {
            request = request.header(header::IF_NONE_MATCH, etag);
        }
        if let Some(time) = &self.known.last_modified {
            request = request.header(header::IF_MODIFIED_SINCE, time);
        }
        if let Some(wait) = self.config.wait {
            request = request.header(PREFER, format!("wait={}", wait.as_secs()));
        }
        request.body(Empty::new()).map_err(|error| error.to_string().into())
    }

    async fn take(&mut self, url: &Url, response: Response<Incoming>) -> Result<Hop, Failure> {
        let noticed = Instant::now();
        let (head, body) = response.into_parts();
        let was_held = header(&head.headers, &PREFERENCE_APPLIED).is_some_and(|value| value.contains("wait"));
        match head.status {
            StatusCode::OK => {}
            StatusCode::NOT_MODIFIED if self.known.hash.is_some() => {
                return Ok(Hop::Answer(Answer { noticed, text: None, was_held }));
            }
            StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::SEE_OTHER
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT => return Ok(Hop::Redirect(redirect(url, &head.headers)?)),
            status => {
                return Err(Failure { why: format!("it answers {status}"), retry_after: retry_after(&head.headers) });
            }
        }
        check_kind(&head.headers)?;
        let text = read(body, &head.headers, self.config.max_bytes as usize).await?;
        let hash = self.hasher.hash_one(&text);
        let is_same = self.known.hash == Some(hash);
        self.known = Known {
            etag: head.headers.get(header::ETAG).cloned(),
            last_modified: head.headers.get(header::LAST_MODIFIED).cloned(),
            hash: Some(hash),
        };
        Ok(Hop::Answer(Answer { noticed, text: (!is_same).then_some(text), was_held }))
    }
}

/// The text of a header; `None` where there is none, or no text.
fn header<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

/// Where an answer sends to, if that is nobody else: a token belongs to one server.
fn redirect(from: &Url, headers: &HeaderMap) -> Result<Url, String> {
    let location = header(headers, &header::LOCATION).ok_or("it redirects, and does not say where to")?;
    let to = from.join(location).map_err(|error| format!("it redirects to {location:?}, which is {error}"))?;
    if to.host != from.host || (to.is_tls == from.is_tls && to.port != from.port) {
        Err(format!("it redirects to another server, {to}; only redirects on the same one are followed"))
    } else if from.is_tls && !to.is_tls {
        Err(format!("it redirects from https to {to}, which is not followed"))
    } else {
        Ok(to)
    }
}

/// How long the server wants to be left alone (RFC 9110 §10.2.3).
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = header(headers, &header::RETRY_AFTER)?;
    match value.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => httpdate::parse_http_date(value).ok()?.duration_since(SystemTime::now()).ok(),
    }
}

/// Refuses what can be no document: a page of a portal, a picture, something compressed.
fn check_kind(headers: &HeaderMap) -> Result<(), String> {
    if let Some(coding) = header(headers, &header::CONTENT_ENCODING).filter(|coding| *coding != "identity") {
        return Err(format!("its document is encoded by {coding:?}, which was not asked for"));
    }
    let Some(kind) = header(headers, &header::CONTENT_TYPE) else { return Ok(()) };
    let essence = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let is_document = essence.ends_with("json")
        || essence.ends_with("yaml")
        || matches!(essence.as_str(), "text/plain" | "application/octet-stream" | "");
    if is_document { Ok(()) } else { Err(format!("its document is {essence:?}, neither JSON nor YAML")) }
}

/// The whole body.
async fn read(mut body: Incoming, headers: &HeaderMap, most: usize) -> Result<String, String> {
    let too_big = || format!("its document has more than {most} bytes; `max_bytes` sets how many are taken");
    if !headers.contains_key(header::CONTENT_LENGTH) && !headers.contains_key(header::TRANSFER_ENCODING) {
        return Err("its document has no length and comes in no chunks, so nobody knows whether it is whole".to_owned());
    }
    let length = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if length > most {
        return Err(too_big());
    }
    let mut bytes = Vec::with_capacity(length);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| format!("half a document came: {}", chain(&error)))?;
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > most {
            return Err(too_big());
        }
        bytes.extend_from_slice(&data);
    }
    // Bytes that are no UTF-8 are for the reader to refuse, with their place.
    Ok(String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
}

#[cfg(test)]
mod tests;
