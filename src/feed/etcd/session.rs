//! One connection to one member of the cluster: log in, list, watch.

use std::collections::VecDeque;
use std::time::Duration;

use hyper::http::uri::PathAndQuery;
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use tonic::client::Grpc;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Streaming};
use tonic_prost::ProstCodec;

use super::messages::{
    AUTHENTICATE, AuthenticateRequest, AuthenticateResponse, Event, RANGE, RangeRequest, RangeResponse, ResponseHeader,
    WATCH, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchRequestUnion, WatchResponse,
};
use super::services::Listing;
use crate::config::{self, Url};
use crate::feed::network::{chain, connect, said, secret};
use crate::proto::channel_over;
use crate::tls;

/// For one answer.
const ANSWER: Duration = Duration::from_secs(10);

/// How often the member is asked whether it still watches.
const PROGRESS: Duration = if cfg!(test) { Duration::from_secs(2) } else { Duration::from_secs(10) };

/// How often the connection itself is tried; etcd refuses it more often than every 5 s.
const PING: Duration = Duration::from_secs(10);

/// Keys listed at once.
const PAGE: i64 = 1000;

/// What a message has beside values: keys, lengths.
const OVERHEAD: usize = 1 << 20;

pub struct Session {
    grpc: Grpc<Channel>,
    token: Option<AsciiMetadataValue>,
    watch: Option<Watch>,
}

struct Watch {
    requests: mpsc::Sender<WatchRequest>,
    responses: Streaming<WatchResponse>,
    progress: Interval,
    /// Whether the last request for a sign of life was answered.
    is_alive: bool,
    /// Of a revision that has not come whole.
    fragments: Vec<Event>,
    /// Whole ones, in order.
    news: VecDeque<Option<Vec<Event>>>,
}

impl Session {
    pub async fn open(url: &Url, tls: &mut tls::Client, config: &config::Etcd) -> Result<Self, String> {
        let stream = connect(url, tls).await?;
        let ending = stream.ending();
        let endpoint = Endpoint::from_shared(format!("http://{}", url.authority()))
            .map_err(|error| chain(&error))?
            .http2_keep_alive_interval(PING)
            .keep_alive_timeout(ANSWER);
        let channel = channel_over(stream, endpoint, ending).await.map_err(|error| chain(&error))?;
        let grpc = Grpc::new(channel).max_decoding_message_size(config.max_bytes as usize + OVERHEAD);
        let mut session = Self { grpc, token: None, watch: None };
        session.token = session.log_in(config).await?;
        Ok(session)
    }

    async fn log_in(&mut self, config: &config::Etcd) -> Result<Option<AsciiMetadataValue>, String> {
        let token = match (&config.token_file, &config.login) {
            (Some(path), _) => secret(path)?,
            (None, Some(login)) => {
                let request = AuthenticateRequest { name: login.user.clone(), password: secret(&login.password_file)? };
                self.call::<_, AuthenticateResponse>(AUTHENTICATE, request).await?.token
            }
            (None, None) => return Ok(None),
        };
        token.parse().map(Some).map_err(|_| "the token cannot stand in a header".to_owned())
    }

    /// All keys with this prefix, as they are at one revision.
    pub async fn list(&mut self, prefix: &str, most_bytes: usize) -> Result<Listing, String> {
        let end = end_of(prefix.as_bytes());
        let mut listing = Listing::default();
        let (mut from, mut bytes) = (prefix.as_bytes().to_vec(), 0);
        loop {
            let (key, range_end) = (from, end.clone());
            let request = RangeRequest { key, range_end, limit: PAGE, revision: listing.revision };
            let page: RangeResponse = self.call(RANGE, request).await?;
            let ResponseHeader { cluster_id, revision } = page.header.unwrap_or_default();
            if listing.revision == 0 {
                (listing.cluster, listing.revision) = (cluster_id, revision);
            }
            bytes += page.kvs.iter().map(|entry| entry.value.len()).sum::<usize>();
            if bytes > most_bytes {
                return Err(format!(
                    "its values have more than {most_bytes} bytes; `max_bytes` sets how many are taken"
                ));
            }
            listing.entries.extend(page.kvs);
            match listing.entries.last() {
                // The next key after one is the same with a zero byte behind it.
                Some(last) if page.more => from = [last.key.as_slice(), &[0]].concat(),
                _ => return Ok(listing),
            }
        }
    }

    /// Has every change from this revision on told by [`Self::next`].
    pub async fn watch(&mut self, prefix: &str, start_revision: i64) -> Result<(), String> {
        let create = WatchCreateRequest {
            key: prefix.into(),
            range_end: end_of(prefix.as_bytes()),
            start_revision,
            fragment: true,
        };
        let (requests, mut receiver) = mpsc::channel(2);
        let create = WatchRequest { request: Some(WatchRequestUnion::Create(create)) };
        requests.try_send(create).map_err(|error| error.to_string())?;
        let stream = futures_util::stream::poll_fn(move |cx| receiver.poll_recv(cx));
        let mut request = self.request(stream);
        // A member that is cut off from the others ends the watch, rather than say nothing for ever.
        request.metadata_mut().insert("hasleader", AsciiMetadataValue::from_static("true"));
        let answer = async {
            self.grpc.ready().await.map_err(|error| chain(&error))?;
            let codec = ProstCodec::default();
            self.grpc.streaming(request, PathAndQuery::from_static(WATCH), codec).await.map_err(|status| said(&status))
        };
        let responses = in_time(answer).await?.into_inner();
        let mut progress = interval_at(Instant::now() + PROGRESS, PROGRESS);
        progress.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (fragments, news) = (Vec::new(), VecDeque::new());
        self.watch = Some(Watch { requests, responses, progress, is_alive: true, fragments, news });
        Ok(())
    }

    /// The changes of one or more whole revisions; `None`: it is alive, and nothing has changed. Cancel-safe.
    pub async fn next(&mut self) -> Result<Option<Vec<Event>>, String> {
        let Some(watch) = &mut self.watch else { return std::future::pending().await };
        loop {
            if let Some(news) = watch.news.pop_front() {
                return Ok(news);
            }
            tokio::select! {
                response = watch.responses.message() => {
                    watch.is_alive = true;
                    match response {
                        Ok(Some(response)) => watch.take(response)?,
                        Ok(None) => return Err("it ended the watch".to_owned()),
                        Err(status) => return Err(said(&status)),
                    }
                }
                _ = watch.progress.tick() => {
                    if !std::mem::take(&mut watch.is_alive) {
                        return Err(format!("no sign of life within {PROGRESS:?}"));
                    }
                    let request = Some(WatchRequestUnion::Progress(WatchProgressRequest {}));
                    // Where the last one has not left yet, another helps nobody.
                    let _ = watch.requests.try_send(WatchRequest { request });
                }
            }
        }
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            request.metadata_mut().insert("token", token.clone());
        }
        request
    }

    async fn call<Q, A>(&mut self, path: &'static str, message: Q) -> Result<A, String>
    where
        Q: prost::Message + 'static,
        A: prost::Message + Default + 'static,
    {
        let request = self.request(message);
        let answer = async {
            self.grpc.ready().await.map_err(|error| chain(&error))?;
            let codec = ProstCodec::default();
            self.grpc.unary(request, PathAndQuery::from_static(path), codec).await.map_err(|status| said(&status))
        };
        Ok(in_time(answer).await?.into_inner())
    }
}

impl Watch {
    fn take(&mut self, response: WatchResponse) -> Result<(), String> {
        if response.compact_revision != 0 {
            return Err("what was to be watched is compacted already; it is listed anew".to_owned());
        }
        if response.canceled {
            return Err(format!("it ended the watch: {}", response.cancel_reason));
        }
        self.fragments.extend(response.events);
        if !response.fragment {
            let events = std::mem::take(&mut self.fragments);
            self.news.push_back((!events.is_empty()).then_some(events));
        }
        Ok(())
    }
}

async fn in_time<T>(answer: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    tokio::time::timeout(ANSWER, answer).await.unwrap_or_else(|_| Err(format!("no answer within {ANSWER:?}")))
}

/// The first key after all that begin with the prefix; a zero byte: there is none.
fn end_of(prefix: &[u8]) -> Vec<u8> {
    let last = prefix.iter().rposition(|&byte| byte < 0xff);
    last.map_or(vec![0], |last| [&prefix[..last], &[prefix[last] + 1]].concat())
}
