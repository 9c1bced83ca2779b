//! A feed by HTTP, and servers of every temper.

use std::collections::VecDeque;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig, crypto};

use super::*;
use crate::feed::Feed;
use crate::feed::heard::{expect_failure, next, wait_for};
use crate::tls::authority::Authority;

/// What the server does with one request.
#[derive(Clone)]
struct Reply {
    /// How long it thinks before.
    after: Duration,
    says: String,
    then: Then,
}

#[derive(Clone, Copy)]
enum Then {
    Close,
    /// A byte now and then, for ever.
    Trickle,
    /// As much as is taken, for ever.
    Pour,
}

fn reply(says: impl Into<String>) -> Reply {
    Reply { after: Duration::ZERO, says: says.into(), then: Then::Close }
}

/// A good answer with more header lines.
fn document(headers: &str, text: &str) -> Reply {
    let length = text.len();
    reply(format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nContent-Type: application/json\r\n{headers}\r\n{text}"
    ))
}

/// Answers requests in turn, the last reply again and again, and keeps what it was asked.
#[derive(Clone, Default)]
struct Server {
    port: u16,
    replies: Arc<Mutex<VecDeque<Reply>>>,
    requests: Arc<Mutex<Vec<String>>>,
    /// `None`: plain.
    tls: Arc<Mutex<Option<Arc<ServerConfig>>>>,
}

impl Server {
    async fn start(replies: impl IntoIterator<Item = Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = Self { port, replies: Arc::new(Mutex::new(replies.into_iter().collect())), ..Self::default() };
        let this = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let this = this.clone();
                tokio::spawn(async move {
                    let tls = this.tls.lock().unwrap().clone();
                    match tls {
                        None => this.serve(stream).await,
                        Some(config) => {
                            if let Ok(stream) = TlsAcceptor::from(config).accept(stream).await {
                                this.serve(stream).await;
                            }
                        }
                    }
                });
            }
        });
        server
    }

    async fn serve(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => request.push(byte),
                Err(_) => return,
            }
        }
        self.requests.lock().unwrap().push(String::from_utf8(request).unwrap().to_lowercase());
        let reply = {
            let mut replies = self.replies.lock().unwrap();
            if replies.len() > 1 { replies.pop_front().unwrap() } else { replies[0].clone() }
        };
        tokio::time::sleep(reply.after).await;
        let _ = stream.write_all(reply.says.as_bytes()).await;
        let (piece, pause) = match reply.then {
            Then::Close => {
                let _ = stream.shutdown().await;
                return;
            }
            Then::Trickle => ("x".to_owned(), Duration::from_millis(20)),
            Then::Pour => (format!("400\r\n{}\r\n", "x".repeat(1024)), Duration::ZERO),
        };
        while stream.write_all(piece.as_bytes()).await.is_ok() {
            tokio::time::sleep(pause).await;
        }
    }

    fn config(&self) -> config::Http {
        let scheme = if self.tls.lock().unwrap().is_some() { "https" } else { "http" };
        config::Http {
            url: format!("{scheme}://127.0.0.1:{}/services.json", self.port).parse().unwrap(),
            poll_interval: Duration::from_millis(20),
            wait: None,
            timeout: Duration::from_secs(5),
            max_bytes: 10_000,
            token_file: None,
            tls: config::Tls::default(),
        }
    }

    fn feed(&self) -> Feed {
        start(self.config())
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

fn start(config: config::Http) -> Feed {
    Feed::start(&config::Feed::Http(config), "edge-1", None).unwrap()
}

async fn expect(feed: &mut Feed, text: &str) {
    let set = |update| match update {
        Update::Set(set) => Some(set.text),
        Update::Unchanged => None,
        Update::Unreachable(why) => panic!("{why}, instead of {text}"),
    };
    assert_eq!(wait_for(feed, set).await, text);
}

#[tokio::test]
async fn what_is_known_is_asked_for_only_if_it_changed() {
    let first = document("ETag: \"a\"\r\nLast-Modified: Mon, 23 Nov 2026 10:00:00 GMT\r\n", "one");
    let same = reply("HTTP/1.1 304 Not Modified\r\n\r\n");
    let server = Server::start([first, same, document("ETag: W/\"b\"\r\n", "two")]).await;
    let mut feed = server.feed();
    expect(&mut feed, "one").await;
    assert!(matches!(next(&mut feed).await, Update::Unchanged));
    expect(&mut feed, "two").await;
    next(&mut feed).await;
    let requests = server.requests();
    assert!(!requests[0].contains("\r\nif-"), "{}", requests[0]);
    assert!(requests[1].contains("\r\nif-none-match: \"a\"\r\n"), "{}", requests[1]);
    assert!(requests[1].contains("\r\nif-modified-since: mon, 23 nov 2026 10:00:00 gmt\r\n"), "{}", requests[1]);
    assert!(requests[3].contains("\r\nif-none-match: w/\"b\"\r\n"), "{}", requests[3]);
}

#[tokio::test]
async fn the_same_text_again_is_no_change() {
    let server = Server::start([document("", "one"), document("", "one"), document("", "two")]).await;
    let mut feed = server.feed();
    expect(&mut feed, "one").await;
    assert!(matches!(next(&mut feed).await, Update::Unchanged));
    expect(&mut feed, "two").await;
}

#[tokio::test]
async fn a_reread_asks_at_once_and_for_the_whole_document() {
    let server = Server::start([document("ETag: \"a\"\r\n", "one")]).await;
    let mut feed = start(config::Http { poll_interval: Duration::from_secs(3600), ..server.config() });
    expect(&mut feed, "one").await;
    feed.reread();
    expect(&mut feed, "one").await;
    assert!(!server.requests()[1].contains("if-none-match"), "{:?}", server.requests());
}

#[tokio::test]
async fn a_server_that_waits_for_changes_is_asked_again_at_once() {
    let held = |tag, text| document(&format!("ETag: \"{tag}\"\r\nPreference-Applied: wait=30\r\n"), text);
    let later = Reply { after: Duration::from_millis(100), ..held("b", "two") };
    let server = Server::start([held("a", "one"), later, held("c", "three")]).await;
    let config = config::Http {
        poll_interval: Duration::from_secs(3600),
        wait: Some(Duration::from_secs(30)),
        timeout: Duration::from_millis(50),
        ..server.config()
    };
    let mut feed = start(config);
    for text in ["one", "two", "three"] {
        expect(&mut feed, text).await;
    }
    assert!(server.requests()[0].contains("\r\nprefer: wait=30\r\n"), "{}", server.requests()[0]);
}

#[tokio::test]
async fn a_server_that_only_says_that_it_waits_is_not_asked_in_a_circle() {
    let same = reply("HTTP/1.1 304 Not Modified\r\nPreference-Applied: wait=30\r\n\r\n");
    let server = Server::start([document("ETag: \"a\"\r\nPreference-Applied: wait=30\r\n", "one"), same]).await;
    let poll_interval = Duration::from_secs(3600);
    let mut feed = start(config::Http { poll_interval, wait: Some(Duration::from_secs(30)), ..server.config() });
    expect(&mut feed, "one").await;
    assert!(matches!(next(&mut feed).await, Update::Unchanged));
    assert!(tokio::time::timeout(GAP * 6, feed.next()).await.is_err());
    assert_eq!(server.requests().len(), 2);
}

#[tokio::test]
async fn a_server_that_was_not_asked_to_wait_is_asked_at_the_interval_whatever_it_says() {
    let says = |text| document("Preference-Applied: wait=30\r\n", text);
    let server = Server::start([says("one"), says("two")]).await;
    let mut feed = start(config::Http { poll_interval: Duration::from_secs(3600), ..server.config() });
    expect(&mut feed, "one").await;
    let again = tokio::time::timeout(GAP * 6, feed.next()).await;
    assert!(again.is_err(), "{again:?}");
}

#[tokio::test]
async fn the_token_is_the_one_in_the_file_at_that_moment() {
    let directory = tempfile::tempdir().unwrap();
    let token_file = directory.path().join("token");
    fs::write(&token_file, "first\n").unwrap();
    let server = Server::start([document("", "one"), document("", "two")]).await;
    let poll_interval = Duration::from_secs(3600);
    let mut feed = start(config::Http { poll_interval, token_file: Some(token_file.clone()), ..server.config() });
    expect(&mut feed, "one").await;
    fs::write(&token_file, "second\n").unwrap();
    feed.reread();
    expect(&mut feed, "two").await;
    fs::write(&token_file, "third\r\nX-Evil: 1\n").unwrap();
    feed.reread();
    expect_failure(&mut feed, "token: not one line of printable ASCII characters").await;
    let requests = server.requests();
    assert!(requests[0].contains("\r\nauthorization: bearer first\r\n"), "{}", requests[0]);
    assert!(requests[1].contains("\r\nauthorization: bearer second\r\n"), "{}", requests[1]);
    assert_eq!(requests.len(), 2);
}

#[tokio::test]
async fn redirects_are_followed_on_the_same_server_only() {
    let other = Server::start([document("", "stolen")]).await;
    let to = |location: &str| reply(format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"));
    let away = to(&format!("http://127.0.0.1:{}/", other.port));
    let server = Server::start([to("/elsewhere?x"), document("", "one"), away]).await;
    let mut feed = server.feed();
    expect(&mut feed, "one").await;
    assert!(server.requests()[1].starts_with("get /elsewhere?x http/1.1\r\n"), "{:?}", server.requests());
    expect_failure(&mut feed, "redirects to another server, http://127.0.0.1").await;
    assert!(other.requests().is_empty());
    let mut circle = Server::start([to("/")]).await.feed();
    expect_failure(&mut circle, "more than 5 redirects in a row").await;
}

#[test]
fn where_a_redirect_may_lead() {
    let may = |from: &str, to: &str| {
        let headers = HeaderMap::from_iter([(header::LOCATION, HeaderValue::from_str(to).unwrap())]);
        redirect(&from.parse().unwrap(), &headers)
    };
    assert!(may("http://feed/", "https://feed/x").is_ok());
    assert!(may("https://feed:8443/", "https://feed:8443/x").is_ok());
    for (from, to) in [
        ("https://feed/", "http://feed/"),
        ("https://feed/", "https://feed.evil/"),
        ("https://feed/", "https://feed:8443/"),
        ("http://feed/", "//other/"),
        ("http://feed/", "ftp://feed/"),
    ] {
        assert!(may(from, to).is_err(), "{from} -> {to}");
    }
}

#[tokio::test]
async fn whatever_breaks_is_said_and_the_next_good_document_is_taken() {
    let with = |says: &str, then| Reply { then, ..reply(says) };
    let cases = [
        (document("", "half").says.replacen(": 4", ": 400", 1), Then::Close, "half a document came"),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n".into(),
            Then::Close,
            "half a document came",
        ),
        ("HTTP/1.1 200 OK\r\n\r\nwhole?".into(), Then::Close, "nobody knows whether it is whole"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 10001\r\n\r\n".into(), Then::Close, "more than 10000 bytes; `max_bytes`"),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".into(),
            Then::Pour,
            "more than 10000 bytes; `max_bytes`",
        ),
        ("HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n".into(), Then::Trickle, "no whole answer within 300ms"),
        ("HTTP/1.1 200 OK\r\nX-Endless: ".into(), Then::Trickle, "no whole answer within 300ms"),
        ("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".into(), Then::Close, "it answers 404 Not Found"),
        ("HTTP/1.1 304 Not Modified\r\n\r\n".into(), Then::Close, "it answers 304 Not Modified"),
        ("HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n".into(), Then::Close, "does not say where to"),
        (
            document("", "{}").says.replace("application/json", "text/html; charset=utf-8"),
            Then::Close,
            "its document is \"text/html\", neither JSON nor YAML",
        ),
        (document("Content-Encoding: gzip\r\n", "{}").says, Then::Close, "encoded by \"gzip\""),
        ("SSH-2.0-OpenSSH_9.2\r\n".into(), Then::Close, "invalid HTTP version"),
        (String::new(), Then::Close, "connection closed before message completed"),
    ];
    for (says, then, expected) in cases {
        let server = Server::start([with(&says, then), document("", "good")]).await;
        let timeout = if matches!(then, Then::Trickle) { Duration::from_millis(300) } else { Duration::from_secs(5) };
        let mut feed = start(config::Http { timeout, ..server.config() });
        expect_failure(&mut feed, expected).await;
        feed.reread();
        expect(&mut feed, "good").await;
    }
}

#[tokio::test]
async fn a_server_that_is_gone_is_said_once_and_taken_when_it_returns() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let mut feed = start(config::Http { ..Server { port, ..Server::default() }.config() });
    expect_failure(&mut feed, "Connection refused").await;
    for _ in 0..3 {
        feed.reread();
        assert!(tokio::time::timeout(Duration::from_millis(50), feed.next()).await.is_err(), "it is said again");
    }
}

#[test]
fn a_server_says_when_to_come_back_in_seconds_or_by_a_date() {
    let after = |value: &str| {
        let headers = HeaderMap::from_iter([(header::RETRY_AFTER, HeaderValue::from_str(value).unwrap())]);
        retry_after(&headers)
    };
    assert_eq!(after("17"), Some(Duration::from_secs(17)));
    let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(100));
    assert!(after(&date).is_some_and(|pause| (98..=100).contains(&pause.as_secs())));
    assert_eq!(after("Mon, 23 Nov 2020 10:00:00 GMT"), None);
    assert_eq!(after("-5"), None);
}

/// How the server proves itself, and whose clients it wants.
fn server_config((cert, key): (String, String), clients: Option<&Authority>) -> Option<Arc<ServerConfig>> {
    let provider = Arc::new(crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).unwrap()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
            builder.with_client_cert_verifier(verifier)
        }
    };
    let chain = CertificateDer::pem_slice_iter(cert.as_bytes()).map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    Some(Arc::new(builder.with_single_cert(chain, key).unwrap()))
}

/// A server with TLS, and a feed of it that trusts the authority.
async fn encrypted(authority: &Authority, directory: &Path, server: Option<Arc<ServerConfig>>) -> (Server, Feed) {
    let ca = directory.join("ca");
    fs::write(&ca, &authority.pem).unwrap();
    let this = Server::start([document("", "one")]).await;
    *this.tls.lock().unwrap() = server;
    let identity = directory
        .join("cert")
        .exists()
        .then(|| config::Identity { cert: directory.join("cert"), key: directory.join("key") });
    let tls = config::Tls { ca: Some(ca), identity };
    let feed = start(config::Http { tls, ..this.config() });
    (this, feed)
}

/// A certificate that was good until 2020.
fn expired(authority: &Authority, name: &str) -> (String, String) {
    let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
    (params.not_before, params.not_after) = (rcgen::date_time_ymd(2019, 1, 1), rcgen::date_time_ymd(2020, 1, 1));
    authority.sign(params)
}

#[tokio::test]
async fn a_server_must_prove_its_name_by_the_authority() {
    let (authority, other) = (Authority::new(), Authority::new());
    let cases = [
        (authority.issue("127.0.0.1"), None),
        (
            other.issue("127.0.0.1"),
            Some("TLS: the server's certificate is not signed by an authority that is trusted here"),
        ),
        (authority.issue("feed.example"), Some("TLS: the server's certificate is for another name")),
        (expired(&authority, "127.0.0.1"), Some("TLS: the server's certificate has expired")),
    ];
    for (certificate, expected) in cases {
        let directory = tempfile::tempdir().unwrap();
        let (_, mut feed) = encrypted(&authority, directory.path(), server_config(certificate, None)).await;
        match expected {
            None => expect(&mut feed, "one").await,
            Some(why) => expect_failure(&mut feed, why).await,
        }
    }
}

#[tokio::test]
async fn a_server_that_wants_a_client_certificate_gets_it() {
    let authority = Authority::new();
    let directory = tempfile::tempdir().unwrap();
    let wants = server_config(authority.issue("127.0.0.1"), Some(&authority));
    let (_, mut without) = encrypted(&authority, directory.path(), wants.clone()).await;
    expect_failure(&mut without, "CertificateRequired").await;
    let (cert, key) = authority.issue("node.example");
    fs::write(directory.path().join("cert"), cert).unwrap();
    fs::write(directory.path().join("key"), key).unwrap();
    let (_, mut with) = encrypted(&authority, directory.path(), wants).await;
    expect(&mut with, "one").await;
}

#[tokio::test]
async fn certificates_may_be_replaced_while_the_feed_runs() {
    let (old, new) = (Authority::new(), Authority::new());
    let directory = tempfile::tempdir().unwrap();
    let (server, mut feed) = encrypted(&old, directory.path(), server_config(old.issue("127.0.0.1"), None)).await;
    expect(&mut feed, "one").await;
    *server.tls.lock().unwrap() = server_config(new.issue("127.0.0.1"), None);
    expect_failure(&mut feed, "not signed by an authority that is trusted here").await;
    fs::write(directory.path().join("ca"), &new.pem).unwrap();
    feed.reread();
    expect(&mut feed, "one").await;
}
