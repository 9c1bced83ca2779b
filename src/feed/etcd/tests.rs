//! The feed against a real etcd, on loopback, in a directory of its own.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::*;
use crate::feed::Feed;
use crate::feed::heard::{expect_failure, next, wait_for};
use crate::tls::authority::Authority;

const PREFIX: &str = "/penstock/services/";

struct Etcd {
    directory: tempfile::TempDir,
    scheme: &'static str,
    ports: [u16; 2],
    arguments: Vec<String>,
    process: Option<Child>,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Etcd {
    async fn start() -> Self {
        Self::start_with("http", |_| vec![]).await
    }

    /// `prepare` puts files into the directory and gives more arguments.
    async fn start_with(scheme: &'static str, prepare: impl FnOnce(&std::path::Path) -> Vec<String>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let arguments = prepare(directory.path());
        // Two that are free now; nobody else here asks for them by number.
        let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let ports = listeners.map(|listener| listener.local_addr().unwrap().port());
        let mut etcd = Self { directory, scheme, ports, arguments, process: None };
        etcd.run().await;
        etcd
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn url(&self) -> String {
        format!("{}://127.0.0.1:{}", self.scheme, self.ports[0])
    }

    async fn run(&mut self) {
        let (url, peer) = (self.url(), format!("http://127.0.0.1:{}", self.ports[1]));
        let log = fs::File::create(self.path("log")).unwrap();
        let process = Command::new("etcd")
            .args(["--name", "t", "--logger", "zap", "--data-dir"])
            .arg(self.path("data"))
            .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("t={peer}")])
            .args(&self.arguments)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("etcd runs; `scripts/setup test` installs it");
        self.process = Some(process);
        for _ in 0..200 {
            if self.ctl(&["endpoint", "health"]).0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("etcd does not become healthy:\n{}", fs::read_to_string(self.path("log")).unwrap());
    }

    fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Runs etcdctl; whether that went well, and what it printed.
    fn ctl(&self, arguments: &[&str]) -> (bool, String) {
        self.ctl_with(arguments, "")
    }

    fn ctl_with(&self, arguments: &[&str], input: &str) -> (bool, String) {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").args(["--endpoints", &self.url(), "--command-timeout", "3s"]);
        if self.scheme == "https" {
            for (flag, name) in [("--cacert", "ca"), ("--cert", "cert"), ("--key", "key")] {
                command.arg(flag).arg(self.path(name));
            }
        }
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("etcdctl runs; `scripts/setup test` installs it");
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap() + &String::from_utf8_lossy(&output.stderr);
        (output.status.success(), text)
    }

    fn must(&self, arguments: &[&str]) -> String {
        let (is_good, text) = self.ctl(arguments);
        assert!(is_good, "etcdctl {arguments:?}: {text}");
        text
    }

    fn put(&self, name: &str, value: &str) {
        self.must(&["put", &format!("{PREFIX}{name}"), value]);
    }

    fn config(&self) -> config::Etcd {
        config::Etcd {
            endpoints: vec![self.url().parse().unwrap()],
            prefix: PREFIX.to_owned(),
            max_bytes: 1 << 20,
            login: None,
            token_file: None,
            tls: config::Tls::default(),
        }
    }
}

fn start(config: config::Etcd) -> Feed {
    Feed::start(&config::Feed::Etcd(config), "edge-1", None).unwrap()
}

/// The names of the next set, with the marks that tests put into values.
async fn next_set(feed: &mut Feed) -> Vec<String> {
    let set = |update| if let Update::Set(set) = update { Some(names(&set.text)) } else { None };
    wait_for(feed, set).await
}

fn names(document: &str) -> Vec<String> {
    let document: serde_json::Value = serde_json::from_str(document).unwrap();
    let services = document["services"].as_array().unwrap();
    services.iter().map(|service| format!("{}{}", service["name"].as_str().unwrap(), service["x"])).collect()
}

#[tokio::test]
async fn keys_that_come_change_and_go_become_sets() {
    let etcd = Etcd::start().await;
    etcd.must(&["put", "/penstock/other", "1"]);
    etcd.put("a", r#"{"x": 1}"#);
    let mut feed = start(etcd.config());
    assert_eq!(next_set(&mut feed).await, ["a1"]);
    etcd.put("b", r#"{"x": 2}"#);
    assert_eq!(next_set(&mut feed).await, ["a1", "b2"]);
    etcd.put("a", r#"{"name": "a", "x": 3}"#);
    assert_eq!(next_set(&mut feed).await, ["a3", "b2"]);
    etcd.must(&["del", &format!("{PREFIX}a")]);
    let Update::Set(set) = next(&mut feed).await else { panic!("no set") };
    assert_eq!(names(&set.text), ["b2"]);
    // The first key has revision 2.
    assert!(set.text.starts_with(r#"{"version": "6", "#), "{}", set.text);
}

#[tokio::test]
async fn one_transaction_is_one_set_and_a_burst_is_few() {
    let etcd = Etcd::start().await;
    etcd.put("a", r#"{"x": 1}"#);
    let mut feed = start(etcd.config());
    assert_eq!(next_set(&mut feed).await, ["a1"]);
    let transaction = format!("\nput {PREFIX}b {{\"x\":2}}\nput {PREFIX}c {{\"x\":3}}\ndel {PREFIX}a\n\n\n");
    let (is_good, text) = etcd.ctl_with(&["txn"], &transaction);
    assert!(is_good, "{text}");
    assert_eq!(next_set(&mut feed).await, ["b2", "c3"]);
    // Nobody asks meanwhile.
    for k in 0..10 {
        etcd.put("b", &format!(r#"{{"x": {k}}}"#));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut sets = 1;
    while next_set(&mut feed).await != ["b9", "c3"] {
        sets += 1;
    }
    assert!(sets <= 3, "{sets} sets of 10 changes that nobody waited for");
}

#[tokio::test]
async fn more_keys_than_are_listed_at_once() {
    let etcd = Etcd::start().await;
    for hundred in 0..11 {
        let puts: String = (0..100).map(|k| format!("put {PREFIX}{:04} {{\"x\":1}}\n", hundred * 100 + k)).collect();
        let (is_good, text) = etcd.ctl_with(&["txn"], &format!("\n{puts}\n\n"));
        assert!(is_good, "{text}");
    }
    let mut feed = start(etcd.config());
    let set = next_set(&mut feed).await;
    assert_eq!((set.len(), set[1099].as_str()), (1100, "10991"));
    let mut small = start(config::Etcd { max_bytes: 4000, ..etcd.config() });
    expect_failure(&mut small, "more than 4000 bytes").await;
}

#[tokio::test]
async fn ten_thousand_services_of_twenty_backends_come_within_three_seconds() {
    let etcd = Etcd::start().await;
    let backends: Vec<_> = (1..=20).map(|k| format!(r#"{{"address":"10.1.0.{k}","weight":100}}"#)).collect();
    let service = format!(r#"{{"x":1,"backends":[{}]}}"#, backends.join(","));
    for hundred in 0..100 {
        let puts: String = (0..100).map(|k| format!("put {PREFIX}{:04} {service}\n", hundred * 100 + k)).collect();
        let (is_good, text) = etcd.ctl_with(&["txn"], &format!("\n{puts}\n\n"));
        assert!(is_good, "{text}");
    }
    let begun = Instant::now();
    let mut feed = start(config::Etcd { max_bytes: 64 << 20, ..etcd.config() });
    let Update::Set(set) = next(&mut feed).await else { panic!("no set") };
    let took = begun.elapsed();
    assert_eq!(names(&set.text).len(), 10_000);
    assert!(took < Duration::from_secs(3), "{took:?}");
    println!("{} bytes after {took:?}", set.text.len());
}

#[tokio::test]
async fn a_stop_is_said_once_and_what_changed_until_the_start_is_taken_compacted_or_not() {
    let mut etcd = Etcd::start().await;
    etcd.put("a", r#"{"x": 1}"#);
    let mut feed = start(etcd.config());
    assert_eq!(next_set(&mut feed).await, ["a1"]);
    etcd.stop();
    expect_failure(&mut feed, &etcd.url()).await;
    etcd.run().await;
    etcd.put("a", r#"{"x": 2}"#);
    etcd.put("b", r#"{"x": 3}"#);
    etcd.must(&["compaction", "4"]);
    feed.reread();
    let mut set = next_set(&mut feed).await;
    while set != ["a2", "b3"] {
        set = next_set(&mut feed).await;
    }
}

#[tokio::test]
async fn a_watch_from_a_compacted_revision_ends_with_the_reason() {
    let etcd = Etcd::start().await;
    for k in 0..4 {
        etcd.put("a", &format!(r#"{{"x": {k}}}"#));
    }
    etcd.must(&["compaction", "4"]);
    let config = etcd.config();
    let mut tls = crate::tls::Client::new(config.tls.clone(), "h2");
    let mut session = Session::open(&config.endpoints[0], &mut tls, &config).await.unwrap();
    let ended = async {
        session.watch(PREFIX, 2).await?;
        loop {
            session.next().await?;
        }
    };
    let ended: Result<(), String> = tokio::time::timeout(Duration::from_secs(5), ended).await.expect("it goes on");
    assert!(ended.unwrap_err().contains("compacted already"));
}

#[tokio::test]
async fn a_member_that_is_gone_is_passed_over() {
    let etcd = Etcd::start().await;
    etcd.put("a", r#"{"x": 1}"#);
    let mut config = etcd.config();
    for port in 1..6 {
        config.endpoints.insert(0, format!("http://127.0.0.1:{port}").parse().unwrap());
    }
    let mut feed = start(config);
    assert_eq!(next_set(&mut feed).await, ["a1"]);
}

/// A way to a server on which no connection lives for long; and how often it was taken.
async fn short_lived(server: u16) -> (u16, Arc<AtomicUsize>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let taken = Arc::new(AtomicUsize::new(0));
    let count = taken.clone();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(async move {
                let mut server = tokio::net::TcpStream::connect(("127.0.0.1", server)).await?;
                let copying = tokio::io::copy_bidirectional(&mut client, &mut server);
                let _ = tokio::time::timeout(Duration::from_millis(100), copying).await;
                Ok::<_, std::io::Error>(())
            });
        }
    });
    (port, taken)
}

#[tokio::test]
async fn members_that_list_and_end_the_watch_at_once_are_not_asked_in_a_circle() {
    let etcd = Etcd::start().await;
    etcd.put("a", r#"{"x": 1}"#);
    let (port, taken) = short_lived(etcd.ports[0]).await;
    let endpoints = vec![format!("http://127.0.0.1:{port}").parse().unwrap(); 2];
    let mut feed = start(config::Etcd { endpoints, ..etcd.config() });
    assert_eq!(next_set(&mut feed).await, ["a1"]);
    let end = tokio::time::Instant::now() + Duration::from_secs(3);
    while let Ok((_, update)) = tokio::time::timeout_at(end, feed.next()).await {
        assert!(matches!(update, Update::Unreachable(_)), "it is said to answer: {update:?}");
    }
    // Two at once, after a pause of at least half a second two more, and after one of a second.
    let taken = taken.load(Ordering::Relaxed);
    assert!((2..=6).contains(&taken), "{taken} times");
}

#[tokio::test]
async fn a_quiet_member_says_that_it_lives_and_one_that_hangs_is_noticed() {
    let etcd = Etcd::start().await;
    etcd.put("a", r#"{"x": 1}"#);
    let mut feed = start(etcd.config());
    assert_eq!(next_set(&mut feed).await, ["a1"]);
    for _ in 0..2 {
        assert!(matches!(next(&mut feed).await, Update::Unchanged));
    }
    let process = etcd.process.as_ref().unwrap().id().to_string();
    assert!(Command::new("kill").args(["-STOP", &process]).status().unwrap().success());
    expect_failure(&mut feed, "no sign of life").await;
}

#[tokio::test]
async fn a_user_logs_in_by_the_password_in_the_file() {
    let etcd = Etcd::start().await;
    etcd.put("a", r#"{"x": 1}"#);
    etcd.must(&["user", "add", "root:secret"]);
    etcd.must(&["user", "grant-role", "root", "root"]);
    etcd.must(&["auth", "enable"]);
    let mut nobody = start(etcd.config());
    expect_failure(&mut nobody, "user name is empty").await;
    let password_file = etcd.path("password");
    fs::write(&password_file, "wrong\n").unwrap();
    let login = Some(config::Login { user: "root".to_owned(), password_file: password_file.clone() });
    let mut feed = start(config::Etcd { login, ..etcd.config() });
    expect_failure(&mut feed, "authentication failed").await;
    fs::write(&password_file, "secret\n").unwrap();
    feed.reread();
    assert_eq!(next_set(&mut feed).await, ["a1"]);
}

#[tokio::test]
async fn a_cluster_with_client_certificates() {
    let authority = Authority::new();
    let etcd = Etcd::start_with("https", |directory| {
        let (cert, key) = authority.issue("127.0.0.1");
        for (name, text) in [("ca", &authority.pem), ("cert", &cert), ("key", &key)] {
            fs::write(directory.join(name), text).unwrap();
        }
        let path = |name: &str| directory.join(name).display().to_string();
        let [ca, cert, key] = ["ca", "cert", "key"].map(path);
        ["--client-cert-auth", "--trusted-ca-file", &ca, "--cert-file", &cert, "--key-file", &key]
            .map(str::to_owned)
            .to_vec()
    })
    .await;
    etcd.put("a", r#"{"x": 1}"#);
    let ca = Some(etcd.path("ca"));
    let mut nobody = start(config::Etcd { tls: config::Tls { ca: ca.clone(), identity: None }, ..etcd.config() });
    // By an alert or a closed connection, whichever is seen first.
    expect_failure(&mut nobody, &etcd.url()).await;
    let identity = Some(config::Identity { cert: etcd.path("cert"), key: etcd.path("key") });
    let mut feed = start(config::Etcd { tls: config::Tls { ca, identity }, ..etcd.config() });
    assert_eq!(next_set(&mut feed).await, ["a1"]);
}
