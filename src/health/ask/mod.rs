//! One probe: a question put to a backend, and what came of it.
//!
//! Every step ends at the deadline. A fault is the backend's where the network or the backend itself said no, and ours
//! where we could not even ask ([`Fault::from`]); only the first counts.

mod http;
mod ping;
mod tcp;
mod tls;
mod udp;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rustix::io::Errno;
use tokio::time::{Instant, timeout_at};

use super::probe::{Probe, Question, Subject, Target};
use super::state::{Failure, Outcome};
use crate::service::CheckKind;

/// What all probes share.
pub struct Asker {
    tls: tls::Client,
    pinger: ping::Pinger,
}

/// Why there was no good answer.
#[derive(Debug, PartialEq, Eq)]
enum Fault {
    Backend(Failure),
    /// An errno of our own making.
    Ours(i32),
}

impl Asker {
    pub fn new() -> Self {
        Self { tls: tls::Client::new(), pinger: ping::Pinger::default() }
    }

    pub async fn ask(&self, probe: &Probe) -> (Outcome, Duration) {
        let begun = Instant::now();
        let Subject { target: Target::Direct { address }, question } = &probe.subject;
        let asked = self.put(question, *address, begun + probe.rhythm.timeout).await;
        let outcome = match asked.map_err(|fault| fault.at(*address)) {
            Ok(()) => Outcome::Good,
            Err(Fault::Backend(failure)) => Outcome::Failed(failure),
            Err(Fault::Ours(errno)) => Outcome::NoVerdict(errno),
        };
        (outcome, begun.elapsed())
    }

    async fn put(&self, question: &Question, address: SocketAddr, deadline: Instant) -> Result<(), Fault> {
        match question.kind {
            CheckKind::Tcp => tcp::connect(address, deadline).await.map(drop),
            CheckKind::Http => {
                let stream = tcp::connect(address, deadline).await?;
                http::ask(stream, question, address, deadline).await
            }
            // Its state is large: in a box, it is paid for only by those who use it.
            CheckKind::Https => {
                Box::pin(async {
                    let stream = self.tls.connect(question, address, deadline).await?;
                    http::ask(stream, question, address, deadline).await
                })
                .await
            }
            CheckKind::Udp => udp::ask(address, deadline).await,
            CheckKind::Ping => self.pinger.ask(address.ip(), deadline).await,
            CheckKind::None => Ok(()),
        }
    }
}

/// A step that must be done by the deadline; `late` says what it means when it is not.
async fn by<T>(deadline: Instant, late: Failure, step: impl Future<Output = io::Result<T>>) -> Result<T, Fault> {
    match timeout_at(deadline, step).await {
        Ok(result) => result.map_err(Fault::from),
        Err(_) => Err(Fault::Backend(late)),
    }
}

impl Fault {
    /// What it means at this address. Over IPv6, the kernel says EACCES where somebody on the way answers that it is prohibited to go there
    /// (ICMPv6 type 1, codes 1, 5 and 6; RFC 4443, 3.1); over IPv4, it says EHOSTUNREACH then, and EACCES only of its own accord.
    fn at(self, address: SocketAddr) -> Self {
        match self {
            Self::Ours(errno) if errno == Errno::ACCESS.raw_os_error() && address.is_ipv6() => {
                Self::Backend(Failure::Unreachable)
            }
            fault => fault,
        }
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        if let Some(failure) = tls::failure(&error) {
            return Self::Backend(failure);
        }
        let Some(errno) = Errno::from_io_error(&error) else {
            // Of tokio's and rustls' own making.
            return Self::Backend(match error.kind() {
                io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Failure::Reset,
                _ => Failure::Closed,
            });
        };
        Self::Backend(match errno {
            Errno::CONNREFUSED => Failure::Refused,
            Errno::CONNRESET | Errno::CONNABORTED | Errno::PIPE => Failure::Reset,
            // No route is a matter of our own, too; but no client's packet would get there either.
            Errno::NETUNREACH | Errno::HOSTUNREACH | Errno::HOSTDOWN | Errno::NETDOWN => Failure::Unreachable,
            Errno::TIMEDOUT => Failure::NoConnection,
            // What the other side's ICMP and resets can say besides.
            Errno::PROTO | Errno::NOPROTOOPT | Errno::MSGSIZE => Failure::Os(errno.raw_os_error()),
            // No descriptors (MFILE, NFILE), memory (NOMEM, NOBUFS) or ports left (ADDRNOTAVAIL, AGAIN), forbidden by
            // our own rules (PERM, ACCESS), a family that this machine lacks (AFNOSUPPORT): and what we do not know.
            _ => return Self::Ours(errno.raw_os_error()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_we_lack_ourselves_is_no_fault_of_the_backend() {
        use Errno as E;
        for ours in [E::MFILE, E::NFILE, E::NOBUFS, E::NOMEM, E::ADDRNOTAVAIL, E::AGAIN, E::PERM, E::ACCESS, E::INVAL] {
            assert_eq!(Fault::from(io::Error::from(ours)), Fault::Ours(ours.raw_os_error()), "{ours:?}");
        }
        for (theirs, failure) in [
            (E::CONNREFUSED, Failure::Refused),
            (E::CONNRESET, Failure::Reset),
            (E::NETUNREACH, Failure::Unreachable),
            (E::HOSTUNREACH, Failure::Unreachable),
            (E::TIMEDOUT, Failure::NoConnection),
        ] {
            assert_eq!(Fault::from(io::Error::from(theirs)), Fault::Backend(failure), "{theirs:?}");
        }
        let prohibited = |address: &str| Fault::from(io::Error::from(E::ACCESS)).at(address.parse().unwrap());
        assert_eq!(prohibited("[2001:db8::1]:80"), Fault::Backend(Failure::Unreachable));
        assert_eq!(prohibited("192.0.2.1:80"), Fault::Ours(E::ACCESS.raw_os_error()));
        let end = io::Error::from(io::ErrorKind::UnexpectedEof);
        assert_eq!(Fault::from(end), Fault::Backend(Failure::Closed));
    }
}
