//! What is asked, of whom, and how often: what makes two services' checks the same.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::service::{Backend, CheckKind, Forwarding, HealthCheck, Service};

/// A probe, known by what it asks: services that check the same thing have equal ones, and share it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Probe {
    pub subject: Subject,
    pub rhythm: Rhythm,
}

/// Who is asked what. A verdict is kept by this: another rhythm does not make a backend unknown.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Subject {
    pub target: Target,
    /// Shared by the backends of a service.
    pub question: Arc<Question>,
}

/// Which way a probe goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Target {
    /// To the backend's own address, by the kernel's routes; port 0 for `ping`.
    Direct { address: SocketAddr },
    /// To a service's VIP, as a client's packet goes: by its forwarding mode, but to this backend. Port 0 where the packet keeps one of
    /// several.
    Through { vip: SocketAddr, backend: SocketAddr, forwarding: Forwarding },
}

impl Target {
    pub fn is_through(&self) -> bool {
        matches!(self, Self::Through { .. })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct { address } => address.fmt(f),
            Self::Through { vip, backend, forwarding } => {
                write!(f, "{} (through {vip} by {})", backend.ip(), forwarding.name())
            }
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Question {
    pub kind: CheckKind,
    pub path: Box<str>,
    pub host: Option<Box<str>>,
    pub expect_status: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rhythm {
    /// Between the beginnings of two probes.
    pub interval: Duration,
    pub timeout: Duration,
    /// Good probes in a row that bring a backend up.
    pub rise: u16,
    /// Failed ones that take it down.
    pub fall: u16,
}

impl Probe {
    /// The probes of a service, each with the index of its backend, in order; none of those that are not checked.
    pub fn all_of(service: &Service) -> impl Iterator<Item = (usize, Self)> {
        let check = service.health.check.as_ref().filter(|check| check.kind != CheckKind::None);
        check.into_iter().flat_map(move |check| {
            let question = Arc::new(Question {
                kind: check.kind,
                path: check.path.as_str().into(),
                host: check.host.as_deref().map(Into::into),
                expect_status: check.expect_status,
            });
            let HealthCheck { interval, timeout, rise, fall, .. } = *check;
            let rhythm = Rhythm { interval, timeout, rise, fall };
            service.backends.iter().enumerate().filter_map(move |(index, backend)| {
                let target = target(service, check, backend)?;
                Some((index, Self { subject: Subject { target, question: question.clone() }, rhythm }))
            })
        })
    }
}

fn target(service: &Service, check: &HealthCheck, backend: &Backend) -> Option<Target> {
    if !check.goes_through_the_service() {
        return Some(Target::Direct { address: address(service, check, backend)? });
    }
    // The rules want a port where the service has several.
    let port = check.port.or(service.ports.single())?;
    let vip = SocketAddr::new(one_of(service.vip), port);
    Some(Target::Through { vip, backend: service.endpoint(backend), forwarding: service.forwarding })
}

/// An address of a VIP that may be a prefix. The first of IPv6 is the routers' own (RFC 4291, section 2.6.1); that of IPv4 is not given.
fn one_of(vip: IpNet) -> IpAddr {
    vip.hosts().nth(usize::from(vip.addr().is_ipv6())).unwrap_or(vip.addr())
}

fn address(service: &Service, check: &HealthCheck, backend: &Backend) -> Option<SocketAddr> {
    let port = match check.kind {
        CheckKind::Ping | CheckKind::None => 0,
        _ => check.port.unwrap_or_else(|| service.endpoint(backend).port()),
    };
    Some(SocketAddr::new(backend.health_address()?, port))
}
