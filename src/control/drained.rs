//! Backends that were drained by hand: an overlay over whatever the feed says, until somebody undoes it.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::service::tree::quote;

/// A backend as people name it: an address, perhaps with a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Named {
    pub address: IpAddr,
    /// `None`: whatever its port.
    pub port: Option<u16>,
}

impl Named {
    /// Whether an endpoint (port 0: the packet keeps one of several) is meant.
    pub fn is(self, endpoint: SocketAddr) -> bool {
        self.address == endpoint.ip() && self.port.is_none_or(|port| port == endpoint.port())
    }
}

/// Why a text names no backend.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{} is not a backend's address, perhaps with a port: write \"10.1.0.11\", \"10.1.0.11:8080\" or \"[fd00::11]:80\"",
    quote(.0)
)]
pub struct NotNamed(String);

impl FromStr for Named {
    type Err = NotNamed;

    fn from_str(text: &str) -> Result<Self, NotNamed> {
        if let Ok(address) = text.parse() {
            return Ok(Self { address, port: None });
        }
        let endpoint: SocketAddr = text.parse().map_err(|_| NotNamed(text.to_owned()))?;
        Ok(Self { address: endpoint.ip(), port: Some(endpoint.port()) })
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.address, port).fmt(f),
            None => self.address.fmt(f),
        }
    }
}

/// A backend, in one service or in all.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Whom {
    pub backend: Named,
    /// A service's name; `None`: in every one that has the backend, now or later.
    pub service: Option<Arc<str>>,
}

impl Whom {
    /// Whether the backend of a service is meant.
    pub fn is(&self, service: &str, endpoint: SocketAddr) -> bool {
        self.backend.is(endpoint) && self.service.as_deref().is_none_or(|name| name == service)
    }
}

/// Everyone who is drained.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Drained(BTreeSet<Whom>);

/// As it is kept on disk.
#[derive(Serialize, Deserialize)]
struct Line {
    backend: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    service: Option<String>,
}

impl Drained {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Whom> {
        self.0.iter()
    }

    pub fn is(&self, service: &str, endpoint: SocketAddr) -> bool {
        self.0.iter().any(|whom| whom.is(service, endpoint))
    }

    /// Whether it is new.
    pub fn add(&mut self, whom: Whom) -> bool {
        self.0.insert(whom)
    }

    /// Takes out what was added by these very words; without a service, what was added for single services, too. Whether there was any.
    pub fn remove(&mut self, whom: &Whom) -> bool {
        let before = self.0.len();
        self.0.retain(|other| {
            let is_same = other.backend == whom.backend && (whom.service.is_none() || other.service == whom.service);
            !is_same
        });
        self.0.len() != before
    }

    pub fn to_text(&self) -> String {
        let line = |whom: &Whom| {
            let line = Line { backend: whom.backend.to_string(), service: whom.service.as_deref().map(str::to_owned) };
            serde_json::to_string(&line).expect("plain data has a JSON form") + "\n"
        };
        self.0.iter().map(line).collect()
    }

    /// `Err`: the line that is not understood.
    pub fn of_text(text: &str) -> Result<Self, String> {
        let read = |line: &str| {
            let Line { backend, service } = serde_json::from_str(line).ok()?;
            Some(Whom { backend: backend.parse().ok()?, service: service.map(Arc::from) })
        };
        text.lines().map(|line| read(line).ok_or_else(|| line.to_owned())).collect::<Result<_, _>>().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whom(backend: &str, service: Option<&str>) -> Whom {
        Whom { backend: backend.parse().unwrap(), service: service.map(Arc::from) }
    }

    #[test]
    fn a_backend_is_named_by_address_or_endpoint() {
        let endpoint: SocketAddr = "10.1.0.11:80".parse().unwrap();
        for (text, is_meant) in
            [("10.1.0.11", true), ("10.1.0.11:80", true), ("10.1.0.11:81", false), ("10.1.0.1", false)]
        {
            assert_eq!(text.parse::<Named>().unwrap().is(endpoint), is_meant, "{text}");
            assert_eq!(text.parse::<Named>().unwrap().to_string(), text);
        }
        assert_eq!("[fd00::11]:80".parse::<Named>().unwrap().to_string(), "[fd00::11]:80");
        let error = "web-1".parse::<Named>().unwrap_err().to_string();
        assert!(error.starts_with("\"web-1\" is not a backend's address"), "{error}");
    }

    #[test]
    fn an_overlay_reads_back_equal_and_is_undone_by_name() {
        let mut drained = Drained::default();
        let all = [whom("10.1.0.11", None), whom("10.1.0.11", Some("web")), whom("[fd00::1]:80", Some("a \"b\""))];
        for whom in &all {
            assert!(drained.add(whom.clone()));
            assert!(!drained.add(whom.clone()));
        }
        assert_eq!(Drained::of_text(&drained.to_text()), Ok(drained.clone()));
        assert!(Drained::of_text("{").is_err());
        assert!(!drained.remove(&whom("10.1.0.11", Some("dns"))));
        assert!(drained.is("dns", "10.1.0.11:53".parse().unwrap()));
        assert!(drained.remove(&whom("10.1.0.11", None)), "for all services, and for each");
        assert_eq!(drained.iter().cloned().collect::<Vec<_>>(), [all[2].clone()]);
    }
}
