//! `[feed]`: which kind it is decides which of its keys mean anything.

use std::path::{Path as FilePath, PathBuf};
use std::time::Duration;

use super::{Feed, FeedKind, Url, keys};
use crate::service::problem::Report;
use crate::service::shape::Object;

/// A document on an HTTP server.
#[derive(Debug, Clone)]
pub struct Http {
    pub url: Url,
    pub poll_interval: Duration,
    /// How long the server may hold an answer back until there is something new.
    pub wait: Option<Duration>,
    /// For one answer in all, `wait` not counted.
    pub timeout: Duration,
    pub max_bytes: u32,
    pub token_file: Option<PathBuf>,
    pub tls: Tls,
}

/// An orchestrator that implements `penstock.v1.Feed`.
#[derive(Debug, Clone)]
pub struct Grpc {
    pub url: Url,
    pub max_bytes: u32,
    pub token_file: Option<PathBuf>,
    pub tls: Tls,
}

/// Services under a prefix of keys in etcd.
#[derive(Debug, Clone)]
pub struct Etcd {
    /// Members of one cluster, at least one.
    pub endpoints: Vec<Url>,
    pub prefix: String,
    pub max_bytes: u32,
    pub login: Option<Login>,
    pub token_file: Option<PathBuf>,
    pub tls: Tls,
}

/// The objects of a Kubernetes cluster, from its API server.
#[derive(Debug, Clone)]
pub struct Kubernetes {
    /// How it is asked; `None`: as the service account of the pod that this runs in.
    pub kubeconfig: Option<PathBuf>,
    /// Of the kubeconfig; `None`: its current one.
    pub context: Option<String>,
    /// `None`: all of them.
    pub namespace: Option<String>,
    /// Only services with such labels.
    pub label_selector: Option<String>,
    pub max_bytes: u32,
    /// Whether Nodes are of interest: only their addresses are, for checks.
    pub nodes: bool,
}

#[derive(Debug, Clone)]
pub struct Login {
    pub user: String,
    pub password_file: PathBuf,
}

/// How a client trusts and is trusted, by PEM files.
#[derive(Debug, Clone, Default)]
pub struct Tls {
    /// Certificates that the server's is checked by; `None`: the system's.
    pub ca: Option<PathBuf>,
    pub identity: Option<Identity>,
}

#[derive(Debug, Clone)]
pub struct Identity {
    /// The certificate, and those between it and its authority.
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// Reads the feed; `None` where something is absent or wrong that was reported. `file`: the configuration's, whose
/// directory is where relative paths begin.
pub fn read(feed: &Object<'_>, file: &FilePath, report: &mut Report) -> Option<Feed> {
    let kind: FeedKind = feed.get("kind")?;
    refuse_others(feed, kind, report);
    let path = |key: &str| Some(file.parent().unwrap_or(FilePath::new("")).join(feed.get::<String>(key)?));
    match kind {
        FeedKind::File => Some(Feed::File { path: path("path")? }),
        FeedKind::Http => {
            let urls = read_urls(feed, kind, report);
            let tls = read_tls(feed, urls.as_deref(), path, report);
            if urls.as_ref().is_some_and(|urls| urls.len() > 1) {
                report.error(feed.path.key("url"), "an http feed has one URL, without commas");
            }
            Some(Feed::Http(Http {
                url: urls?.swap_remove(0),
                poll_interval: feed.get("poll_interval")?,
                wait: feed.get("wait"),
                timeout: feed.get("timeout")?,
                max_bytes: feed.get("max_bytes")?,
                token_file: path("token_file"),
                tls: tls?,
            }))
        }
        FeedKind::Etcd => {
            let endpoints = read_urls(feed, kind, report);
            for url in endpoints.iter().flatten().filter(|url| url.path != "/") {
                let reason = format!("{url} has a path, and etcd has none; `prefix` is what keys begin with");
                report.error(feed.path.key("url"), reason);
            }
            let tls = read_tls(feed, endpoints.as_deref(), path, report);
            let login = read_pair(feed, "user", "password_file", report);
            if login.is_some() && feed.has("token_file") {
                report.error(feed.path.key("token_file"), "either this, or `user` and `password_file`");
            }
            Some(Feed::Etcd(Etcd {
                endpoints: endpoints?,
                prefix: feed.get("prefix")?,
                max_bytes: feed.get("max_bytes")?,
                login: login.and_then(|(user, _)| Some(Login { user, password_file: path("password_file")? })),
                token_file: path("token_file"),
                tls: tls?,
            }))
        }
        FeedKind::Grpc => {
            let urls = read_urls(feed, kind, report);
            let tls = read_tls(feed, urls.as_deref(), path, report);
            if urls.as_ref().is_some_and(|urls| urls.len() > 1) {
                report.error(feed.path.key("url"), "a grpc feed has one URL, without commas");
            }
            for url in urls.iter().flatten().filter(|url| url.path != "/") {
                report.error(feed.path.key("url"), format!("{url} has a path, and a gRPC server has none"));
            }
            Some(Feed::Grpc(Grpc {
                url: urls?.swap_remove(0),
                max_bytes: feed.get("max_bytes")?,
                token_file: path("token_file"),
                tls: tls?,
            }))
        }
        FeedKind::Kubernetes => {
            if feed.has("context") && !feed.has("kubeconfig") {
                report.error(feed.path.key("kubeconfig"), "absent, and `context` is one of those in it");
            }
            Some(Feed::Kubernetes(Kubernetes {
                kubeconfig: path("kubeconfig"),
                context: feed.get("context"),
                namespace: feed.get("namespace"),
                label_selector: feed.get("label_selector"),
                max_bytes: feed.get("max_bytes")?,
                nodes: feed.get("health_check_node_ports")?,
            }))
        }
        FeedKind::None => Some(Feed::None),
    }
}

/// Reports keys that mean nothing to this kind of feed.
fn refuse_others(feed: &Object<'_>, kind: FeedKind, report: &mut Report) {
    for (key, kinds) in keys::OF_FEEDS.iter().filter(|(key, kinds)| feed.has(key) && !kinds.contains(&kind)) {
        let names: Vec<_> = kinds.iter().map(|kind| kind.name()).collect();
        let whose = names.join(" or ");
        let reason = format!("belongs to a feed of kind {whose}, and this one's is {:?}; leave it out", kind.name());
        report.error(feed.path.key(key), reason);
    }
}

fn read_urls(feed: &Object<'_>, kind: FeedKind, report: &mut Report) -> Option<Vec<Url>> {
    if !feed.has("url") {
        let reason = format!("required for a feed of kind {:?}, but absent", kind.name());
        report.error(feed.path.key("url"), reason);
    }
    let urls: Vec<Url> = feed.get::<String>("url")?.split(',').filter_map(|url| url.parse().ok()).collect();
    let secret = ["token_file", "password_file"].into_iter().find(|key| feed.has(key));
    if let (Some(secret), Some(url)) = (secret, urls.iter().find(|url| !url.is_tls && !url.is_loopback())) {
        let reason = format!("{url} is not encrypted, so anybody on the way can read what `{secret}` holds; use https");
        report.warn(feed.path.key("url"), reason);
    }
    Some(urls)
}

fn read_tls(
    feed: &Object<'_>,
    urls: Option<&[Url]>,
    path: impl Fn(&str) -> Option<PathBuf>,
    report: &mut Report,
) -> Option<Tls> {
    if let Some(url) = urls.into_iter().flatten().find(|url| !url.is_tls) {
        for key in ["ca", "cert", "key"].into_iter().filter(|key| feed.has(key)) {
            report.error(feed.path.key(key), format!("means something only with https, and the feed is {url}"));
        }
    }
    let has_identity = read_pair(feed, "cert", "key", report).is_some();
    let identity = if has_identity { Some(Identity { cert: path("cert")?, key: path("key")? }) } else { None };
    Some(Tls { ca: path("ca"), identity })
}

/// Two keys that go together: both, or `None`.
fn read_pair(feed: &Object<'_>, one: &str, other: &str, report: &mut Report) -> Option<(String, String)> {
    for (here, absent) in [(one, other), (other, one)] {
        if feed.has(here) && !feed.has(absent) {
            report.error(feed.path.key(absent), format!("absent, and goes together with `{here}`"));
        }
    }
    feed.get(one).zip(feed.get(other))
}
