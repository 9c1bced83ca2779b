//! Who calls, and what they may do.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tonic::transport::server::Connected;
use tonic::{Request, Status};

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
    /// The names of their certificate; empty: they are on this machine.
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

/// Refuses what the caller may not do.
pub fn permit<T>(request: &Request<T>, needed: Role) -> Result<(), Status> {
    let Some(caller) = request.extensions().get::<Caller>() else {
        return Err(Status::internal("a call without a caller"));
    };
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
    use super::*;
    use crate::config::Identity;

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
