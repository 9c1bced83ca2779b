//! Definitions from an orchestrator that implements `penstock.v1.Feed`: whole sets on one stream.
//!
//! The node says which version it received last, so a stream that begins anew goes on where the last one ended. Sets that come faster than
//! they are taken are replaced by the newest. The kernel ends a connection whose other side is gone.

use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval_at};
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::Endpoint;
use tonic::{Request, Streaming};

use super::network::{chain, connect, said, secret};
use super::pace::{Backoff, LASTING};
use super::{Line, Text, Update};
use crate::config::Grpc;
use crate::proto::feed_client::FeedClient;
use crate::proto::{FeedWatchRequest, FeedWatchResponse, ServiceSet, channel_over, tree_of_set};
use crate::tls;

/// For the answer to the call itself, not for the first set.
const ANSWER: Duration = Duration::from_secs(10);

/// How often it is said that the source answers, while nothing changes: a stream that is open is one.
const SIGN: Duration = if cfg!(test) { Duration::from_millis(500) } else { Duration::from_secs(10) };

/// Who follows, and what it received last.
pub struct Node {
    pub name: String,
    pub version: Option<String>,
}

/// Follows the orchestrator for as long as somebody receives.
pub async fn follow(config: Grpc, node: Node, line: Line) {
    let tls = tls::Client::new(config.tls.clone(), "h2");
    let mut source = Source { tls, has_set: node.version.is_some(), config, node, newest: None };
    let mut backoff = Backoff::default();
    loop {
        let (lasted, why) = tokio::select! {
            ended = source.follow_stream(&line) => ended,
            () = line.reread.notified() => {
                source.forget();
                continue;
            }
            () = line.updates.closed() => return,
        };
        if lasted >= LASTING {
            backoff.reset();
        }
        let why = format!("{}: {why}", source.config.url);
        if line.updates.send((Instant::now(), Update::Unreachable(why))).await.is_err() {
            return;
        }
        let pause = tokio::time::sleep(backoff.pause(None));
        tokio::pin!(pause);
        loop {
            tokio::select! {
                () = &mut pause => break,
                () = line.wanted.notified(), if source.newest.is_some() => source.tell(&line).await,
                () = line.reread.notified() => {
                    source.forget();
                    break;
                }
                () = line.updates.closed() => return,
            }
        }
    }
}

struct Source {
    config: Grpc,
    tls: tls::Client,
    node: Node,
    /// Whether there is a set that silence means the same as.
    has_set: bool,
    /// What nobody was told of, and since when.
    newest: Option<(Instant, ServiceSet)>,
}

impl Source {
    /// Somebody wants an answer whatever it is.
    fn forget(&mut self) {
        (self.node.version, self.has_set) = (None, false);
    }

    /// Follows one stream until it ends; how long it was open, and why it ended.
    async fn follow_stream(&mut self, line: &Line) -> (Duration, String) {
        let mut stream = match self.open().await {
            Ok(stream) => stream,
            Err(why) => return (Duration::ZERO, why),
        };
        let opened = tokio::time::Instant::now();
        // One that ends at once is no answer.
        let mut sign = interval_at(opened + SIGN, SIGN);
        sign.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let is_same = self.has_set && self.newest.is_none();
            tokio::select! {
                biased;
                message = stream.message() => match message {
                    Ok(Some(FeedWatchResponse { definitions: Some(set) })) => {
                        self.node.version.clone_from(&set.version);
                        self.has_set = true;
                        let since = self.newest.take().map_or_else(Instant::now, |(since, _)| since);
                        self.newest = Some((since, set));
                    }
                    Ok(Some(FeedWatchResponse { definitions: None })) if is_same => {
                        let _ = line.updates.try_send((Instant::now(), Update::Unchanged));
                    }
                    Ok(Some(FeedWatchResponse { definitions: None })) => {}
                    Ok(None) => return (opened.elapsed(), "it ended the stream".to_owned()),
                    Err(status) => return (opened.elapsed(), said(&status)),
                },
                () = line.wanted.notified(), if self.newest.is_some() => self.tell(line).await,
                _ = sign.tick(), if is_same => {
                    let _ = line.updates.try_send((Instant::now(), Update::Unchanged));
                }
            }
        }
    }

    async fn open(&mut self) -> Result<Streaming<FeedWatchResponse>, String> {
        let url = &self.config.url;
        let stream = connect(url, &mut self.tls).await?;
        let ending = stream.ending();
        let endpoint = Endpoint::from_shared(format!("http://{}", url.authority())).map_err(|error| chain(&error))?;
        let channel = channel_over(stream, endpoint, ending).await.map_err(|error| chain(&error))?;
        let mut client = FeedClient::new(channel).max_decoding_message_size(self.config.max_bytes as usize);
        let mut request =
            Request::new(FeedWatchRequest { node: self.node.name.clone(), version: self.node.version.clone() });
        if let Some(path) = &self.config.token_file {
            let bearer: AsciiMetadataValue = format!("Bearer {}", secret(path)?)
                .parse()
                .map_err(|_| "the token cannot stand in a header".to_owned())?;
            request.metadata_mut().insert("authorization", bearer);
        }
        let answer = tokio::time::timeout(ANSWER, client.watch(request)).await;
        let answer = answer.map_err(|_| format!("no answer within {ANSWER:?}"))?;
        answer.map(tonic::Response::into_inner).map_err(|status| said(&status))
    }

    /// Says what is newest.
    async fn tell(&mut self, line: &Line) {
        let Some((since, set)) = self.newest.take() else { return };
        let version = set.version.as_deref().unwrap_or("(none)");
        let name = format!("{} version {version}", self.config.url);
        let text = serde_json::to_string(&tree_of_set(&set)).expect("plain data has a JSON form");
        // Fails only when nobody receives any more, which ends all this.
        let _ = line.updates.send((since, Update::Set(Text { name, text }))).await;
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::pin::Pin;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};

    use futures_util::{Stream, StreamExt};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::{mpsc, oneshot};
    use tokio_stream::wrappers::TcpListenerStream;
    use tonic::{Response, Status, transport};

    use super::*;
    use crate::config;
    use crate::feed::Feed;
    use crate::feed::heard::{expect_failure, next, wait_for};
    use crate::proto::Service;
    use crate::proto::feed_server::{Feed as Serves, FeedServer};

    /// What a stream sends next: a set, a sign of life, or its end.
    type Next = Result<FeedWatchResponse, Status>;

    /// What was asked, the token that came with it, and the other end of the stream.
    type Call = (FeedWatchRequest, Option<String>, mpsc::UnboundedSender<Next>);

    /// An orchestrator that a test plays: it hears of each call, and gets its stream's other end.
    struct Orchestrator {
        calls: Mutex<mpsc::UnboundedSender<Call>>,
    }

    #[tonic::async_trait]
    impl Serves for Orchestrator {
        type WatchStream = Pin<Box<dyn Stream<Item = Next> + Send>>;

        async fn watch(&self, request: Request<FeedWatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
            let token = request.metadata().get("authorization").map(|value| value.to_str().unwrap().to_owned());
            let (sender, mut receiver) = mpsc::unbounded_channel();
            self.calls.lock().unwrap().send((request.into_inner(), token, sender)).unwrap();
            Ok(Response::new(futures_util::stream::poll_fn(move |cx| receiver.poll_recv(cx)).boxed()))
        }
    }

    struct Scene {
        address: SocketAddr,
        calls: mpsc::UnboundedReceiver<Call>,
        stop: Option<oneshot::Sender<()>>,
    }

    impl Scene {
        async fn start() -> Self {
            Self::at("127.0.0.1:0".parse().unwrap()).await
        }

        async fn at(address: SocketAddr) -> Self {
            let listener = TcpListener::bind(address).await.unwrap();
            let address = listener.local_addr().unwrap();
            let (sender, calls) = mpsc::unbounded_channel();
            let (stop, stopped) = oneshot::channel::<()>();
            let service = FeedServer::new(Orchestrator { calls: Mutex::new(sender) });
            let serving = transport::Server::builder().add_service(service);
            tokio::spawn(async move {
                tokio::select! {
                    result = serving.serve_with_incoming(TcpListenerStream::new(listener)) => result.unwrap(),
                    _ = stopped => {}
                }
            });
            Self { address, calls, stop: Some(stop) }
        }

        fn feed(&self, version: Option<&str>, token_file: Option<std::path::PathBuf>) -> Feed {
            let config = config::Feed::Grpc(Grpc {
                url: format!("http://{}", self.address).parse().unwrap(),
                max_bytes: 1 << 20,
                token_file,
                tls: config::Tls::default(),
            });
            Feed::start(&config, "edge-1", version).unwrap()
        }

        async fn call(&mut self) -> Call {
            tokio::time::timeout(Duration::from_secs(10), self.calls.recv()).await.expect("a call").unwrap()
        }
    }

    fn set(version: &str, services: usize) -> Next {
        let service = |number: usize| Service { name: format!("s{number}"), ..Service::default() };
        let set = ServiceSet { version: Some(version.to_owned()), services: (0..services).map(service).collect() };
        Ok(FeedWatchResponse { definitions: Some(set) })
    }

    async fn next_text(feed: &mut Feed) -> String {
        let text = |update| match update {
            Update::Set(Text { text, .. }) => Some(text),
            Update::Unchanged => None,
            Update::Unreachable(why) => panic!("{why}"),
        };
        wait_for(feed, text).await
    }

    #[tokio::test]
    async fn sets_come_as_they_are_sent_and_a_new_stream_goes_on_from_the_last() {
        let mut scene = Scene::start().await;
        let mut feed = scene.feed(Some("41"), None);
        let (request, token, stream) = scene.call().await;
        assert_eq!((request.node.as_str(), request.version.as_deref(), token), ("edge-1", Some("41"), None));
        stream.send(set("42", 1)).unwrap();
        assert_eq!(next_text(&mut feed).await, r#"{"version":"42","services":[{"name":"s0","backends":[]}]}"#);
        stream.send(Err(Status::unavailable("going home"))).unwrap();
        expect_failure(&mut feed, ": Unavailable: going home").await;
        let (request, _, stream) = scene.call().await;
        assert_eq!(request.version.as_deref(), Some("42"));
        stream.send(set("43", 0)).unwrap();
        assert_eq!(next_text(&mut feed).await, r#"{"version":"43","services":[]}"#);
    }

    #[tokio::test]
    async fn of_sets_that_nobody_takes_only_the_newest_is_kept() {
        let mut scene = Scene::start().await;
        let mut feed = scene.feed(None, None);
        let (.., stream) = scene.call().await;
        for version in 0..1000 {
            stream.send(set(&version.to_string(), 0)).unwrap();
        }
        let (mut sets, mut last) = (0, String::new());
        while !last.contains("\"999\"") {
            // Whoever takes them is slow.
            tokio::time::sleep(Duration::from_millis(20)).await;
            last = next_text(&mut feed).await;
            sets += 1;
        }
        assert!(sets < 100, "{sets} sets");
    }

    #[tokio::test]
    async fn an_orchestrator_that_is_gone_is_found_again() {
        let mut scene = Scene::start().await;
        let mut feed = scene.feed(None, None);
        let (.., stream) = scene.call().await;
        stream.send(set("1", 0)).unwrap();
        next_text(&mut feed).await;
        let address = scene.address;
        scene.stop.take();
        drop((scene, stream));
        expect_failure(&mut feed, &format!("http://{address}")).await;
        let mut scene = Scene::at(address).await;
        let (request, _, stream) = loop {
            tokio::select! {
                call = scene.call() => break call,
                _ = feed.next() => {}
            }
        };
        assert_eq!(request.version.as_deref(), Some("1"));
        stream.send(set("2", 0)).unwrap();
        loop {
            if let Update::Set(text) = next(&mut feed).await {
                assert!(text.text.contains("\"2\""));
                break;
            }
        }
    }

    #[tokio::test]
    async fn a_token_is_shown_and_a_set_that_is_too_large_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let token = directory.path().join("token");
        std::fs::write(&token, "s3cret\n").unwrap();
        let mut scene = Scene::start().await;
        let mut feed = scene.feed(None, Some(token));
        let (_, shown, stream) = scene.call().await;
        assert_eq!(shown.as_deref(), Some("Bearer s3cret"));
        stream.send(set(&"x".repeat(2 << 20), 0)).unwrap();
        expect_failure(&mut feed, "too large").await;
    }

    #[tokio::test]
    async fn a_stream_that_ends_at_once_is_no_answer_however_often_it_comes() {
        let mut scene = Scene::start().await;
        let mut feed = scene.feed(Some("41"), None);
        for call in 0..3 {
            let (.., stream) = scene.call().await;
            stream.send(Err(Status::unavailable("not today"))).unwrap();
            if call == 0 {
                let Update::Unreachable(why) = next(&mut feed).await else { panic!("it answered") };
                assert!(why.ends_with(": Unavailable: not today"), "{why}");
            }
        }
        // All that was said since would be here by now.
        let said = tokio::time::timeout(Duration::from_millis(100), feed.next()).await;
        assert!(said.is_err(), "{said:?}");
    }

    #[tokio::test]
    async fn an_open_stream_is_a_sign_of_life_also_after_sets_without_versions() {
        let mut scene = Scene::start().await;
        let mut feed = scene.feed(None, None);
        let (.., stream) = scene.call().await;
        // Silence means the same as before, and before there was nothing.
        stream.send(Ok(FeedWatchResponse { definitions: None })).unwrap();
        assert!(tokio::time::timeout(SIGN * 2, feed.next()).await.is_err());
        let unnamed = ServiceSet { version: None, services: vec![] };
        stream.send(Ok(FeedWatchResponse { definitions: Some(unnamed) })).unwrap();
        assert_eq!(next_text(&mut feed).await, r#"{"services":[]}"#);
        assert!(matches!(next(&mut feed).await, Update::Unchanged));
    }

    /// A way to a server that counts the pings which go there.
    async fn counted(server: SocketAddr) -> (SocketAddr, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let pings = Arc::new(AtomicUsize::new(0));
        let count = pings.clone();
        tokio::spawn(async move {
            let (mut from_client, mut to_client) = listener.accept().await.unwrap().0.into_split();
            let (mut from_server, mut to_server) = TcpStream::connect(server).await.unwrap().into_split();
            tokio::spawn(async move { copy(&mut from_server, &mut to_client).await });
            // The connection preface, then frames (RFC 9113, 3.4 and 4.1).
            let mut preface = [0; 24];
            from_client.read_exact(&mut preface).await.unwrap();
            to_server.write_all(&preface).await.unwrap();
            let mut header = [0; 9];
            while from_client.read_exact(&mut header).await.is_ok() {
                let [high, middle, low, kind, flags, ..] = header;
                let (is_ping, is_answer) = (kind == 6, flags & 1 == 1);
                count.fetch_add(usize::from(is_ping && !is_answer), Ordering::Relaxed);
                let mut payload = vec![0; u32::from_be_bytes([0, high, middle, low]) as usize];
                from_client.read_exact(&mut payload).await.unwrap();
                to_server.write_all(&[&header[..], &payload].concat()).await.unwrap();
            }
        });
        (address, pings)
    }

    #[tokio::test]
    async fn no_pings_are_sent_for_which_a_server_would_hang_up() {
        let mut scene = Scene::start().await;
        let (address, pings) = counted(scene.address).await;
        scene.address = address;
        let mut feed = scene.feed(None, None);
        let (.., stream) = scene.call().await;
        stream.send(set("1", 0)).unwrap();
        next_text(&mut feed).await;
        for _ in 0..4 {
            assert!(matches!(next(&mut feed).await, Update::Unchanged));
        }
        assert_eq!(pings.load(Ordering::Relaxed), 0);
    }
}
