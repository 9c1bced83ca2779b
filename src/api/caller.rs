//! Who calls, and what they may do.

use std::future::Ready;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::future::Either;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::transport::server::Connected;
use tower::Layer;

use crate::config::{ApiTls, Role};
use crate::tls;

/// A caller's connection.
pub struct Connection {
    stream: Stream,
    caller: Caller,
}

enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
    Tls(Box<tls::Accepted>),
}

/// Whoever is at the other end.
#[derive(Debug, Clone)]
pub struct Caller {
    role: Role,
    /// The DNS names of their certificate; empty: it has none, or they are on this machine.
    names: Vec<String>,
}

impl Connection {
    /// The file system lets only those connect who may do everything.
    pub fn unix(stream: UnixStream) -> Self {
        Self { stream: Stream::Unix(stream), caller: Caller { role: Role::Write, names: Vec::new() } }
    }

    /// From this machine.
    pub fn tcp(stream: TcpStream) -> Self {
        // Answers are small, and somebody waits for each.
        let _ = stream.set_nodelay(true);
        Self { stream: Stream::Tcp(stream), caller: Caller { role: Role::Write, names: Vec::new() } }
    }

    pub fn tls(stream: tls::Accepted, names: Vec<String>, config: &ApiTls) -> Self {
        let role = role(config, &names);
        Self { stream: Stream::Tls(Box::new(stream)), caller: Caller { role, names } }
    }
}

/// The most that any of a caller's names may do.
fn role(config: &ApiTls, names: &[String]) -> Role {
    let named = names.iter().filter_map(|name| config.roles.get(name)).max();
    named.or_else(|| config.roles.get("*")).copied().unwrap_or(Role::Read)
}

/// What a call needs, by its path. Whatever is not known to read needs the most.
fn needed(path: &str) -> Role {
    match path.strip_prefix("/penstock.v1.") {
        None
        | Some(
            "Definitions/Get" | "Definitions/Watch" | "Backends/List" | "Node/Status" | "Node/Counters" | "Flows/List"
            | "Flows/Explain",
        ) => Role::Read,
        Some("Backends/Drain" | "Backends/Undrain") => Role::Drain,
        Some(_) => Role::Write,
    }
}

/// Refuses what the caller may not do, before any of it is read.
fn permit(path: &str, caller: Option<&Caller>) -> Result<(), Status> {
    let needed = needed(path);
    let Some(caller) = caller else { return Err(Status::internal("a call without a caller")) };
    if caller.role >= needed {
        return Ok(());
    }
    let who = if caller.names.is_empty() { "(no DNS name)".to_owned() } else { caller.names.join(", ") };
    Err(Status::permission_denied(format!(
        "this needs the role {:?}, and the certificate of {who} has {:?}: see [api] roles",
        needed.name(),
        caller.role.name()
    )))
}

/// Puts a [`Guard`] before all services.
#[derive(Debug, Clone, Copy)]
pub struct Guarded;

impl<S> Layer<S> for Guarded {
    type Service = Guard<S>;

    fn layer(&self, inner: S) -> Guard<S> {
        Guard { inner }
    }
}

/// Lets the calls through that their caller may make.
#[derive(Debug, Clone)]
pub struct Guard<S> {
    inner: S,
}

impl<S, B: Default> Service<http::Request<Body>> for Guard<S>
where
    S: Service<http::Request<Body>, Response = http::Response<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<S::Response, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        match permit(request.uri().path(), request.extensions().get::<Caller>()) {
            Ok(()) => Either::Left(self.inner.call(request)),
            Err(refused) => Either::Right(std::future::ready(Ok(refused.into_http()))),
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::config::Identity;

    #[test]
    fn every_call_of_the_contract_needs_what_its_name_says() {
        let descriptors = prost_types::FileDescriptorSet::decode(crate::proto::DESCRIPTORS).unwrap();
        let mut of = std::collections::BTreeMap::new();
        for file in descriptors.file.iter().filter(|file| file.package() == "penstock.v1") {
            for service in file.service.iter().filter(|service| service.name() != "Feed") {
                for call in &service.method {
                    let path = format!("{}/{}", service.name(), call.name());
                    of.insert(path.clone(), needed(&format!("/penstock.v1.{path}")));
                }
            }
        }
        let with = |role| of.iter().filter(move |(_, needed)| **needed == role).map(|(path, _)| path.as_str());
        let writing =
            ["DeleteService", "Replace", "SetBackends", "UpsertService"].map(|call| format!("Definitions/{call}"));
        let [rest @ .., capture] = &*with(Role::Write).collect::<Vec<_>>() else { panic!("nothing is written") };
        // It shows what clients send.
        assert_eq!((rest, *capture), (&writing.each_ref().map(String::as_str)[..], "Node/Capture"));
        assert_eq!(with(Role::Drain).collect::<Vec<_>>(), ["Backends/Drain", "Backends/Undrain"]);
        assert_eq!(with(Role::Read).count(), 7);
        assert_eq!(needed("/penstock.v1.Definitions/Anything"), Role::Write);
        assert_eq!(needed("/grpc.health.v1.Health/Check"), Role::Read);
    }

    #[test]
    fn a_caller_has_the_best_role_of_its_names_else_that_of_everyone_else() {
        let config = |roles: &[(&str, Role)]| ApiTls {
            identity: Identity { cert: "c".into(), key: "k".into() },
            ca: "a".into(),
            roles: roles.iter().map(|(name, role)| ((*name).to_owned(), *role)).collect(),
        };
        let of = |roles: &[(&str, Role)], names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            role(&config(roles), &names)
        };
        let roles = [("ops", Role::Drain), ("orchestrator", Role::Write)];
        assert_eq!(of(&roles, &["ops"]), Role::Drain);
        assert_eq!(of(&roles, &["ops", "orchestrator"]), Role::Write);
        assert_eq!(of(&roles, &["nobody"]), Role::Read);
        assert_eq!(of(&roles, &[]), Role::Read);
        assert_eq!(of(&[("*", Role::Drain)], &["nobody"]), Role::Drain);
    }
}
