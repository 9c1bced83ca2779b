//! The feed against a stand-in for an API server.

mod server;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ServerConfig, crypto};

use super::*;
use crate::feed::Feed;
use crate::service;
use crate::tls::authority::Authority;
use server::{Api, Manners};

/// A directory with a kubeconfig, and the files that it names.
struct Home(tempfile::TempDir);

impl Home {
    fn new(api: &Api) -> Self {
        let home = Self(tempfile::tempdir().unwrap());
        home.kubeconfig(json!({"server": format!("http://127.0.0.1:{}", api.port)}), json!({}));
        home
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path().join(name), text).unwrap();
    }

    fn kubeconfig(&self, cluster: Value, user: Value) {
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "edge",
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": user}],
            "contexts": [{"name": "edge", "context": {"cluster": "c", "user": "u"}}],
        });
        self.write("kubeconfig", &kubeconfig.to_string());
    }

    fn config(&self) -> config::Kubernetes {
        config::Kubernetes {
            kubeconfig: Some(self.path().join("kubeconfig")),
            context: None,
            namespace: None,
            label_selector: None,
            max_bytes: 1 << 20,
            nodes: false,
        }
    }

    fn feed(&self) -> Feed {
        start(self.config())
    }
}

fn start(config: config::Kubernetes) -> Feed {
    Feed::start(&config::Feed::Kubernetes(config), "edge-1", None).unwrap()
}

fn service(vip: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"labels": {"tier": "edge"}},
        "spec": {"type": "LoadBalancer", "ports": [{"port": 80, "protocol": "TCP"}], "externalTrafficPolicy": "Local",
                 "healthCheckNodePort": 30000},
        "status": {"loadBalancer": {"ingress": [{"ip": vip}]}},
    })
}

fn slice(service: &str, addresses: &[&str]) -> Value {
    let endpoint = |address: &&str| json!({"addresses": [address], "nodeName": "n1", "conditions": {"ready": true}});
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"labels": {"kubernetes.io/service-name": service}},
        "ports": [{"port": 80, "protocol": "TCP"}],
        "endpoints": addresses.iter().map(endpoint).collect::<Vec<_>>(),
    })
}

fn node(address: &str, heartbeat: u32) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node", "spec": {"podCIDR": "10.9.0.0/24"},
        "status": {"addresses": [{"type": "InternalIP", "address": address}],
                   "conditions": [{"type": "Ready", "lastHeartbeatTime": heartbeat}]},
    })
}

/// A server with one service of one endpoint.
async fn shop() -> Api {
    let api = Api::start().await;
    api.put("services", "shop", "web", service("192.0.2.1"));
    api.put("endpointslices", "shop", "web-1", slice("web", &["10.1.0.1"]));
    api
}

/// The next word of the feed that is of interest; a feed that says anything but that fails the test, too.
async fn wait_for<T>(feed: &mut Feed, of_interest: impl Fn(Update) -> Option<T>) -> T {
    let waiting = async {
        loop {
            if let Some(found) = of_interest(feed.next().await.1) {
                return found;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("the feed does not say it")
}

async fn next_text(feed: &mut Feed) -> Text {
    let set = |update| match update {
        Update::Set(set) => Some(set),
        Update::Unchanged => None,
        Update::Unreachable(why) => panic!("{why}, instead of a set"),
    };
    wait_for(feed, set).await
}

async fn next_set(feed: &mut Feed) -> Vec<String> {
    services(&next_text(feed).await)
}

/// Each service with its backends.
fn services(set: &Text) -> Vec<String> {
    let reading = service::read(&set.text, &set.name, None, &service::kubernetes::Options::default()).unwrap();
    let backends = |service: &service::Service| {
        service.backends.iter().map(|backend| backend.address.to_string()).collect::<Vec<_>>().join(" ")
    };
    let services = reading.definitions.services.iter();
    services.map(|service| format!("{} -> {}", service.name, backends(service))).collect()
}

async fn expect_failure(feed: &mut Feed, expected: &str) {
    let failure = |update| match update {
        Update::Set(set) => panic!("{}, instead of: {expected}", set.text),
        Update::Unchanged => None,
        Update::Unreachable(why) => Some(why),
    };
    let why = wait_for(feed, failure).await;
    assert!(why.contains(expected), "{why}\nhas no {expected:?}");
}

/// Nothing but signs of life comes.
async fn expect_no_set(feed: &mut Feed, within: Duration) {
    let saying = async {
        loop {
            match feed.next().await.1 {
                Update::Unchanged => {}
                Update::Set(set) => return set.text,
                Update::Unreachable(why) => return why,
            }
        }
    };
    if let Ok(said) = tokio::time::timeout(within, saying).await {
        panic!("{said}");
    }
}

/// Waits until the server has seen something.
async fn until(what: impl Fn() -> bool) {
    for _ in 0..1000 {
        if what() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it does not happen");
}

const WEB: &str = "shop/web:80/tcp@192.0.2.1 -> ";

#[tokio::test]
async fn objects_that_come_change_and_go_become_sets() {
    let api = shop().await;
    let home = Home::new(&api);
    let mut feed = home.feed();
    assert_eq!(next_set(&mut feed).await, [format!("{WEB}10.1.0.1")]);
    api.put("endpointslices", "shop", "web-1", slice("web", &["10.1.0.1", "10.1.0.2"]));
    assert_eq!(next_set(&mut feed).await, [format!("{WEB}10.1.0.1 10.1.0.2")]);
    api.put("services", "shop", "api", service("192.0.2.2"));
    api.put("endpointslices", "shop", "api-1", slice("api", &["10.1.0.3"]));
    let expected = ["shop/api:80/tcp@192.0.2.2 -> 10.1.0.3".to_owned(), format!("{WEB}10.1.0.1 10.1.0.2")];
    assert_eq!(next_set(&mut feed).await, expected, "what happens together is one set");
    api.delete("services", "shop", "web");
    assert_eq!(next_set(&mut feed).await, expected[..1]);
    assert_eq!((api.lists("services"), api.watches("services")), (1, 1));
}

#[tokio::test]
async fn an_empty_cluster_is_a_set() {
    let api = Api::start().await;
    let set = next_text(&mut Home::new(&api).feed()).await;
    let reading = service::read(&set.text, &set.name, None, &service::kubernetes::Options::default()).unwrap();
    assert!(reading.is_kubernetes && reading.definitions.services.is_empty());
    assert_eq!(set.name, "kubernetes");
}

#[tokio::test]
async fn the_version_is_that_of_the_newest_change_that_counts() {
    let api = shop().await;
    let home = Home::new(&api);
    let mut feed = home.feed();
    let version = |set: Text| {
        let options = service::kubernetes::Options::default();
        service::read(&set.text, &set.name, None, &options).unwrap().definitions.version.unwrap()
    };
    assert_eq!(version(next_text(&mut feed).await), "102");
    api.put("endpointslices", "other", "x", slice("x", &[]));
    api.put("endpointslices", "shop", "web-1", slice("web", &["10.1.0.2"]));
    assert_eq!(version(next_text(&mut feed).await), "104");
}

#[tokio::test]
async fn long_lists_come_in_pages() {
    let api = Api::start().await;
    for k in 0..8 {
        api.put("services", "shop", &format!("s{k}"), service(&format!("192.0.2.{k}")));
    }
    let home = Home::new(&api);
    assert_eq!(next_set(&mut home.feed()).await.len(), 8);
    let pages: Vec<_> =
        api.requests().into_iter().filter(|it| it.path == "/api/v1/services" && !it.is_watch()).collect();
    assert!(pages.len() == 3 && pages.iter().all(|page| page.query["limit"] == "3"));
    assert_eq!(pages[1].query["continue"], "100+8/services=".replace("100", "108"));
}

#[tokio::test]
async fn pages_that_are_forgotten_are_fetched_in_one_piece() {
    let api = Api::start_with(Manners { forgets_pages: true, ..Manners::default() }).await;
    for k in 0..8 {
        api.put("services", "shop", &format!("s{k}"), service(&format!("192.0.2.{k}")));
    }
    let home = Home::new(&api);
    assert_eq!(next_set(&mut home.feed()).await.len(), 8);
}

#[tokio::test]
async fn nothing_is_told_before_all_is_known() {
    let api = shop().await;
    let home = Home::new(&api);
    api.manners(|manners| manners.forbidden = vec![("list", "endpointslices")]);
    let mut feed = home.feed();
    expect_failure(
        &mut feed,
        "cannot list endpointslices.discovery.k8s.io: it answers 403 Forbidden: endpointslices is forbidden",
    )
    .await;
    expect_no_set(&mut feed, Duration::from_millis(500)).await;
    api.manners(|manners| manners.forbidden = vec![]);
    assert_eq!(next_set(&mut feed).await, [format!("{WEB}10.1.0.1")]);
}

#[tokio::test]
async fn who_may_list_and_not_watch_gets_nothing() {
    let api = shop().await;
    let home = Home::new(&api);
    api.manners(|manners| manners.forbidden = vec![("watch", "services")]);
    let mut feed = home.feed();
    expect_failure(&mut feed, "cannot watch services: it answers 403 Forbidden: services is forbidden: User").await;
    // Once, however often it is tried.
    until(|| api.watches("services") > 1).await;
    expect_no_set(&mut feed, Duration::from_millis(200)).await;
    api.manners(|manners| manners.forbidden = vec![]);
    assert_eq!(next_set(&mut feed).await, [format!("{WEB}10.1.0.1")]);
}

#[tokio::test]
async fn while_one_cannot_be_followed_what_is_in_force_stays() {
    let api = shop().await;
    let home = Home::new(&api);
    let mut feed = home.feed();
    next_set(&mut feed).await;
    api.manners(|manners| manners.forbidden = vec![("list", "services"), ("watch", "services")]);
    api.end_watches();
    expect_failure(&mut feed, "cannot watch services: it answers 403").await;
    api.put("endpointslices", "shop", "web-1", slice("web", &["10.1.0.2"]));
    expect_failure(&mut feed, "cannot list services: it answers 403").await;
    expect_no_set(&mut feed, Duration::from_millis(300)).await;
    api.manners(|manners| manners.forbidden = vec![]);
    assert_eq!(next_set(&mut feed).await, [format!("{WEB}10.1.0.2")]);
}

#[tokio::test]
async fn a_watch_that_breaks_amid_a_line_is_gone_on_with() {
    for is_cut in [true, false] {
        let api = shop().await;
        let home = Home::new(&api);
        let mut feed = home.feed();
        next_set(&mut feed).await;
        for k in 2..5 {
            until(|| api.stood("services") == k - 1 && api.stood("endpointslices") == k - 1).await;
            api.bookmark();
            if is_cut {
                api.cut_watches()
            } else {
                api.end_watches()
            }
            api.put("endpointslices", "shop", "web-1", slice("web", &[&format!("10.1.0.{k}")]));
            assert_eq!(next_set(&mut feed).await, [format!("{WEB}10.1.0.{k}")]);
        }
        assert_eq!((api.lists("endpointslices"), api.lists("services")), (1, 1));
    }
}

#[tokio::test]
async fn a_bookmark_is_a_sign_of_life_and_where_to_go_on_from() {
    let api = shop().await;
    let home = Home::new(&api);
    let mut feed = home.feed();
    next_set(&mut feed).await;
    api.put("endpointslices", "other", "x", slice("x", &[]));
    api.bookmark();
    assert!(matches!(feed.next().await.1, Update::Unchanged));
    api.end_watches();
    until(|| api.watches("services") == 2).await;
    let again = api.requests().into_iter().rfind(|it| it.path == "/api/v1/services").unwrap();
    assert_eq!(again.query["resourceVersion"], "103");
    assert_eq!(again.query["allowWatchBookmarks"], "true");
}

#[tokio::test]
async fn what_is_forgotten_is_listed_anew() {
    for refuses_by_status in [true, false] {
        let api = shop().await;
        api.put("services", "shop", "old", service("192.0.2.9"));
        api.manners(|manners| manners.refuses_by_status = refuses_by_status);
        let home = Home::new(&api);
        let mut feed = home.feed();
        assert_eq!(next_set(&mut feed).await.len(), 2);
        api.end_watches();
        api.delete("services", "shop", "old");
        api.forget();
        assert_eq!(next_set(&mut feed).await, [format!("{WEB}10.1.0.1")]);
        assert_eq!(api.lists("services"), 2);
    }
}

#[tokio::test]
async fn no_set_is_half_of_what_is_listed_anew_and_half_of_what_was_before() {
    let api = shop().await;
    let home = Home::new(&api);
    let mut feed = home.feed();
    next_set(&mut feed).await;
    api.manners(|manners| manners.lists_slowly = Some("services"));
    api.end_watches();
    api.put("services", "shop", "web", service("192.0.2.77"));
    api.put("endpointslices", "shop", "web-1", slice("web", &["10.1.0.2"]));
    api.forget();
    assert_eq!(next_set(&mut feed).await, ["shop/web:80/tcp@192.0.2.77 -> 10.1.0.2"]);
}

#[tokio::test]
async fn a_version_that_is_forgotten_amid_a_watch_is_listed_anew() {
    let api = shop().await;
    let home = Home::new(&api);
    let mut feed = home.feed();
    next_set(&mut feed).await;
    api.fail_watches(410, "too old resource version");
    until(|| api.lists("services") == 2 && api.lists("endpointslices") == 2).await;
    api.put("endpointslices", "shop", "web-1", slice("web", &["10.1.0.2"]));
    assert_eq!(next_set(&mut feed).await, [format!("{WEB}10.1.0.2")]);
}

#[tokio::test]
async fn a_watch_that_fails_or_is_not_understood_is_told_and_listed_anew() {
    for (line, expected) in [
        (
            r#"{"type": "ERROR", "object": {"kind": "Status", "code": 500, "message": "etcd is ill"}}"#,
            "it answers 500 Internal Server Error: etcd is ill",
        ),
        ("rubbish", "what it says is not understood: expected value at line 1 column 1"),
        (r#"{"type": "ADDED", "object": {"metadata": {}}}"#, "not understood: missing field `name`"),
        (r#"{"type": "ODD", "object": {}}"#, "not understood: unknown variant `ODD`"),
        ("\u{fffd}", "not understood"),
    ] {
        let api = shop().await;
        let home = Home::new(&api);
        let mut feed = home.feed();
        next_set(&mut feed).await;
        api.say(line);
        expect_failure(&mut feed, expected).await;
        assert!(matches!(
            wait_for(&mut feed, |it| (!matches!(it, Update::Unreachable(_))).then_some(it)).await,
            Update::Unchanged
        ));
        until(|| api.lists("services") == 2 && api.lists("endpointslices") == 2).await;
    }
}

#[tokio::test]
async fn a_silent_watch_proves_nothing_and_is_listed_anew() {
    let api = shop().await;
    let home = Home::new(&api);
    let mut feed = home.feed();
    next_set(&mut feed).await;
    until(|| api.lists("services") == 2).await;
    expect_no_set(&mut feed, Duration::from_millis(300)).await;
}

#[tokio::test]
async fn a_server_that_hangs_is_told() {
    let api = shop().await;
    let home = Home::new(&api);
    api.manners(|manners| manners.hangs = true);
    let mut feed = home.feed();
    expect_failure(&mut feed, "no answer within 2s").await;
    api.manners(|manners| manners.hangs = false);
    // The other list may hang, too.
    wait_for(&mut feed, |update| matches!(update, Update::Set(_)).then_some(())).await;
}

#[tokio::test]
async fn a_server_that_ends_each_watch_at_once_is_no_source() {
    let api = shop().await;
    let home = Home::new(&api);
    api.manners(|manners| manners.ends_watches = true);
    let mut feed = home.feed();
    expect_failure(&mut feed, "cannot watch").await;
    let before = api.requests().len();
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert!(api.requests().len() < before + 8, "it is asked in a circle");
    // A list that no watch followed on is not gone on from.
    api.manners(|manners| manners.ends_watches = false);
    let set = |update| if let Update::Set(set) = update { Some(set) } else { None };
    assert_eq!(services(&wait_for(&mut feed, set).await), [format!("{WEB}10.1.0.1")]);
}

#[tokio::test]
async fn what_comes_in_small_pieces_comes() {
    let api = Api::start_with(Manners { has_small_chunks: true, ..Manners::default() }).await;
    let home = Home::new(&api);
    let mut feed = home.feed();
    assert!(next_set(&mut feed).await.is_empty());
    api.put("services", "shop", "web", service("192.0.2.1"));
    api.put("endpointslices", "shop", "web-1", slice("web", &["10.1.0.1"]));
    let is_whole = |update| match update {
        Update::Set(set) => (services(&set) == [format!("{WEB}10.1.0.1")]).then_some(()),
        _ => None,
    };
    wait_for(&mut feed, is_whole).await;
}

#[tokio::test]
async fn a_rolling_update_is_few_sets() {
    const SLICES: usize = 1000;
    let api = Api::start().await;
    api.put("services", "shop", "web", service("192.0.2.1"));
    let home = Home::new(&api);
    let mut feed = home.feed();
    next_set(&mut feed).await;
    let writer = async {
        for k in 0..SLICES {
            let address = format!("10.2.{}.{}", k / 250, k % 250 + 1);
            api.put("endpointslices", "shop", &format!("web-{k}"), slice("web", &[&address]));
            // About as fast as a controller writes.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let reader = async {
        let mut sets = 0;
        loop {
            let set = next_set(&mut feed).await;
            sets += 1;
            if set[0].split(' ').count() == SLICES + 2 {
                return sets;
            }
        }
    };
    let began = Instant::now();
    let (sets, ()) = tokio::join!(reader, writer);
    let most = 2 + (began.elapsed().as_millis() / LONGEST.as_millis()) as usize;
    assert!(sets <= most, "{sets} sets, {most} at most");
}

#[tokio::test]
async fn a_change_among_many_waits_no_longer_than_it_must() {
    let api = shop().await;
    let home = Home::new(&api);
    let mut feed = home.feed();
    next_set(&mut feed).await;
    let began = Instant::now();
    let pouring = async {
        for k in 0.. {
            api.put("endpointslices", "shop", "web-1", slice("web", &[&format!("10.1.0.{}", k % 200 + 1)]));
            tokio::time::sleep(QUIET / 4).await;
        }
    };
    tokio::select! {
        _ = next_set(&mut feed) => {}
        () = pouring => {}
    }
    assert!(began.elapsed() < LONGEST * 3, "{:?}", began.elapsed());
}

#[tokio::test]
async fn only_what_is_asked_for_is_listed() {
    let api = shop().await;
    let mut hidden = service("192.0.2.3");
    hidden["metadata"]["labels"]["tier"] = "inner".into();
    api.put("services", "shop", "hidden", hidden);
    api.put("services", "other", "web", service("192.0.2.4"));
    let home = Home::new(&api);
    let config = config::Kubernetes {
        namespace: Some("shop".to_owned()),
        label_selector: Some("tier=edge".to_owned()),
        nodes: true,
        ..home.config()
    };
    let mut feed = start(config);
    let set = next_text(&mut feed).await;
    assert_eq!(services(&set), [format!("{WEB}10.1.0.1")]);
    assert_eq!(set.name, "kubernetes, namespace shop");
    until(|| api.watches("nodes") == 1).await;
    let requests = api.requests();
    let mut paths: Vec<_> = requests.iter().map(|request| request.path.as_str()).collect();
    paths.sort();
    paths.dedup();
    let expected = [
        "/api/v1/namespaces/shop/services",
        "/api/v1/nodes",
        "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices",
    ];
    assert_eq!(paths, expected);
    // Slices have labels of their own.
    for request in &requests {
        let selector = request.query.get("labelSelector").map(String::as_str);
        assert_eq!(selector, request.path.ends_with("services").then_some("tier=edge"));
    }
}

#[tokio::test]
async fn what_no_service_reads_makes_no_set() {
    let api = shop().await;
    api.put("nodes", "", "n1", node("10.0.9.1", 1));
    let home = Home::new(&api);
    let mut feed = start(config::Kubernetes { nodes: true, ..home.config() });
    let set = next_text(&mut feed).await;
    let options = service::kubernetes::Options { health_check_node_ports: true, ..Default::default() };
    let reading = service::read(&set.text, &set.name, None, &options).unwrap();
    let asked = reading.definitions.services[0].backends[0].health_address().unwrap().to_string();
    assert_eq!(asked, "10.0.9.1");
    api.put("nodes", "", "n1", node("10.0.9.1", 2));
    api.put("endpointslices", "shop", "other-1", slice("other", &["10.1.0.7"]));
    api.put("services", "shop", "web", service("192.0.2.1"));
    expect_no_set(&mut feed, LONGEST * 2).await;
    api.put("nodes", "", "n1", node("10.0.9.2", 3));
    assert!(next_text(&mut feed).await.text.contains("10.0.9.2"));
    // What was not read is there when it is.
    api.put("services", "shop", "other", service("192.0.2.5"));
    assert_eq!(next_set(&mut feed).await[0], "shop/other:80/tcp@192.0.2.5 -> 10.1.0.7");
}

#[tokio::test]
async fn nodes_are_not_asked_for_where_nobody_reads_them() {
    let api = shop().await;
    let home = Home::new(&api);
    next_set(&mut home.feed()).await;
    assert!(api.requests().iter().all(|request| !request.path.ends_with("nodes")));
}

#[tokio::test]
async fn a_reread_lists_and_tells_at_once_even_the_same() {
    let api = shop().await;
    let home = Home::new(&api);
    let mut feed = home.feed();
    let first = next_text(&mut feed).await.text;
    feed.reread();
    assert_eq!(next_text(&mut feed).await.text, first);
    assert_eq!(api.lists("services"), 2);
    // In a pause, too.
    api.manners(|manners| manners.answers = Some(("503 Service Unavailable\r\nRetry-After: 60", "")));
    api.end_watches();
    expect_failure(&mut feed, "it answers 503 Service Unavailable").await;
    until(|| api.requests().iter().filter(|request| request.is_watch()).count() >= 6).await;
    api.manners(|manners| manners.answers = None);
    feed.reread();
    wait_for(&mut feed, |update| matches!(update, Update::Set(_)).then_some(())).await;
}

#[tokio::test]
async fn pages_of_a_proxy_are_no_reason() {
    let api = shop().await;
    let home = Home::new(&api);
    api.manners(|manners| manners.answers = Some(("502 Bad Gateway", "<html>oh no</html>")));
    let mut feed = home.feed();
    let failure = |update| if let Update::Unreachable(why) = update { Some(why) } else { None };
    let why = wait_for(&mut feed, failure).await;
    let why = why.replace("endpointslices.discovery.k8s.io", "services");
    assert_eq!(why, format!("http://127.0.0.1:{}: cannot list services: it answers 502 Bad Gateway", api.port));
    api.manners(|manners| manners.answers = Some(("200 OK", "<html>log in</html>")));
    // The other resource may have asked before.
    let failure = |update| match update {
        Update::Unreachable(why) if !why.contains("502") => Some(why),
        _ => None,
    };
    let why = wait_for(&mut feed, failure).await;
    assert!(why.contains("what it says is not understood: expected value"), "{why}");
}

#[tokio::test]
async fn more_than_is_wanted_is_refused() {
    let api = shop().await;
    let home = Home::new(&api);
    let most = 4 << 10;
    let mut feed = start(config::Kubernetes { max_bytes: most, ..home.config() });
    next_set(&mut feed).await;
    for k in 0..8 {
        api.put("services", "shop", &format!("s{k}"), service(&format!("192.0.2.{}", k + 10)));
        api.put("endpointslices", "shop", &format!("s{k}"), slice(&format!("s{k}"), &["10.1.0.9"]));
    }
    let too_big = |update| match update {
        Update::Unreachable(why) => Some(why),
        _ => None,
    };
    let why = wait_for(&mut feed, too_big).await;
    assert_eq!(why, "kubernetes: all objects together have more than 4096 bytes; `max_bytes` sets how many are taken");
    api.bookmark();
    expect_no_set(&mut feed, LONGEST * 2).await;
    for k in 0..8 {
        api.delete("services", "shop", &format!("s{k}"));
        api.delete("endpointslices", "shop", &format!("s{k}"));
    }
    wait_for(&mut feed, |update| match update {
        Update::Set(set) => (services(&set) == [format!("{WEB}10.1.0.1")]).then_some(()),
        _ => None,
    })
    .await;
}

#[tokio::test]
async fn one_line_that_is_too_long_is_refused() {
    let api = shop().await;
    let home = Home::new(&api);
    let mut feed = start(config::Kubernetes { max_bytes: 4096, ..home.config() });
    next_set(&mut feed).await;
    api.say(&"x".repeat(10_000));
    expect_failure(&mut feed, "more than 4096 bytes in one piece; `max_bytes` sets how many are taken").await;
    wait_for(&mut feed, |update| matches!(update, Update::Unchanged).then_some(())).await;
}

#[tokio::test]
async fn the_token_is_the_one_in_the_file_at_that_moment() {
    let api = Api::start_with(Manners { token: Some("first".to_owned()), ..Manners::default() }).await;
    api.put("services", "shop", "web", service("192.0.2.1"));
    let home = Home::new(&api);
    let cluster = json!({"server": format!("http://127.0.0.1:{}", api.port)});
    home.kubeconfig(cluster, json!({"tokenFile": "token"}));
    let mut feed = home.feed();
    expect_failure(&mut feed, "token: No such file or directory").await;
    home.write("token", "first\n");
    next_set(&mut feed).await;
    // It is replaced at both ends; what stands, stands.
    api.manners(|manners| manners.token = Some("second".to_owned()));
    api.put("services", "shop", "web", service("192.0.2.2"));
    next_set(&mut feed).await;
    api.end_watches();
    expect_failure(&mut feed, "it answers 401 Unauthorized (the credentials are not valid)").await;
    home.write("token", "second");
    wait_for(&mut feed, |update| matches!(update, Update::Unchanged).then_some(())).await;
    api.put("services", "shop", "web", service("192.0.2.3"));
    assert!(next_text(&mut feed).await.text.contains("192.0.2.3"));
}

fn certified(authority: &Authority, name: &str) -> Option<Arc<ServerConfig>> {
    let (cert, key) = authority.issue(name);
    let cert = vec![CertificateDer::from_pem_slice(cert.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(cert, key)
        .unwrap();
    Some(Arc::new(config))
}

#[tokio::test]
async fn the_server_must_be_the_one_that_is_trusted() {
    let (authority, other) = (Authority::new(), Authority::new());
    let api = shop().await;
    api.manners(|manners| manners.tls = certified(&authority, "127.0.0.1"));
    let home = Home::new(&api);
    home.write("ca.pem", &other.pem);
    let cluster = json!({"server": format!("https://127.0.0.1:{}", api.port), "certificate-authority": "ca.pem"});
    home.kubeconfig(cluster, json!({}));
    let mut feed = home.feed();
    expect_failure(&mut feed, "TLS: the server's certificate is not signed by an authority that is trusted here").await;
    home.write("ca.pem", &authority.pem);
    next_set(&mut feed).await;
    api.manners(|manners| manners.tls = certified(&authority, "127.0.0.2"));
    api.end_watches();
    expect_failure(&mut feed, "TLS: the server's certificate is for another name").await;
}

#[tokio::test]
async fn a_kubeconfig_that_leads_nowhere_is_told_until_it_does() {
    let api = shop().await;
    let home = Home::new(&api);
    let whole = fs::read_to_string(home.path().join("kubeconfig")).unwrap();
    fs::remove_file(home.path().join("kubeconfig")).unwrap();
    let mut feed = start(config::Kubernetes { context: Some("edge".to_owned()), ..home.config() });
    expect_failure(&mut feed, "kubeconfig: failed to read kubeconfig").await;
    home.write("kubeconfig", &whole.replace("edge", "core"));
    expect_failure(&mut feed, "kubeconfig: failed to load current context: edge").await;
    home.kubeconfig(json!({"server": "http://127.0.0.1:1"}), json!({}));
    expect_failure(&mut feed, "Connection refused").await;
    home.kubeconfig(json!({"server": "https://k", "proxy-url": "http://proxy:3128"}), json!({}));
    expect_failure(&mut feed, "no proxy is supported, and it names http://proxy:3128").await;
    home.write("kubeconfig", &whole);
    assert_eq!(next_set(&mut feed).await, [format!("{WEB}10.1.0.1")]);
}

#[tokio::test]
async fn a_program_that_a_kubeconfig_names_is_run_for_a_token() {
    let api = shop().await;
    api.manners(|manners| manners.token = Some("from-a-program".to_owned()));
    let home = Home::new(&api);
    let said = json!({
        "apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential",
        "status": {"token": "from-a-program"},
    });
    let exec = json!({
        "apiVersion": "client.authentication.k8s.io/v1", "command": "echo", "args": [said.to_string()],
        "interactiveMode": "Never",
    });
    home.kubeconfig(json!({"server": format!("http://127.0.0.1:{}", api.port)}), json!({"exec": exec}));
    assert_eq!(next_set(&mut home.feed()).await, [format!("{WEB}10.1.0.1")]);
}

/// Set where the test below runs once more, as in a pod: the credentials have a fixed place there.
const IN_POD: &str = "PENSTOCK_TEST_IN_POD";

#[tokio::test]
async fn without_a_kubeconfig_the_pods_service_account_asks() {
    let config = config::Kubernetes {
        kubeconfig: None,
        context: None,
        namespace: None,
        label_selector: None,
        max_bytes: 1 << 20,
        nodes: false,
    };
    if std::env::var_os(IN_POD).is_some() {
        assert_eq!(next_set(&mut start(config)).await, [format!("{WEB}10.1.0.1")]);
        return;
    }
    let mut feed = start(config);
    expect_failure(&mut feed, "no service account of a pod to ask as (outside of one, set `kubeconfig`)").await;

    let authority = Authority::new();
    let api = shop().await;
    api.manners(|manners| {
        (manners.token, manners.tls) = (Some("of-the-pod".to_owned()), certified(&authority, "127.0.0.1"));
    });
    let home = Home::new(&api);
    for (name, text) in [("token", "of-the-pod"), ("ca.crt", &authority.pem), ("namespace", "edge")] {
        home.write(name, text);
    }
    let script = "mount -t tmpfs none /var && mkdir -p /var/run/secrets/kubernetes.io && \
                  cp -r \"$HOME_OF_POD\" /var/run/secrets/kubernetes.io/serviceaccount && exec \"$@\"";
    let mut pod = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        pod.args(["--user", "--map-root-user"]);
    }
    pod.args(["--mount", "sh", "-c", script, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "feed::kubernetes::tests::without_a_kubeconfig_the_pods_service_account_asks"])
        .env(IN_POD, "1")
        .env("HOME_OF_POD", home.path())
        .env("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        .env("KUBERNETES_SERVICE_PORT", api.port.to_string());
    let output = tokio::task::spawn_blocking(move || pod.output()).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}
