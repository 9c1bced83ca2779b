//! What is asked, of whom, and how often: what makes two services' checks the same.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::service::{Backend, CheckKind, CheckTarget, HealthCheck, Service};

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
        let check = service.health.check.as_ref().filter(|check| is_run(check));
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
                let target = Target::Direct { address: address(service, check, backend)? };
                Some((index, Self { subject: Subject { target, question: question.clone() }, rhythm }))
            })
        })
    }
}

fn is_run(check: &HealthCheck) -> bool {
    check.kind != CheckKind::None && check.target == CheckTarget::Backend
}

fn address(service: &Service, check: &HealthCheck, backend: &Backend) -> Option<SocketAddr> {
    let port = match check.kind {
        CheckKind::Ping | CheckKind::None => 0,
        _ => check.port.unwrap_or_else(|| service.endpoint(backend).port()),
    };
    Some(SocketAddr::new(backend.health_address()?, port))
}
