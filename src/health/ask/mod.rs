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
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use tokio::time::{Instant, timeout_at};

use super::probe::{Probe, Question, Subject, Target};
use super::state::{Failure, Outcome};
use super::through::{Passing, Through};
use crate::pipeline::probe::Passage;
use crate::service::CheckKind;

/// What all probes share.
pub struct Asker {
    tls: tls::Client,
    pinger: ping::Pinger,
    through: Option<Arc<Through>>,
}

/// Where a question goes, and by which way.
struct To<'a> {
    address: SocketAddr,
    /// `None`: as the kernel routes.
    through: Option<Passing<'a>>,
}

/// What an error of ours counts as that no system call gave.
const EIO: i32 = Errno::IO.raw_os_error();

/// Why there was no good answer.
#[derive(Debug, PartialEq, Eq)]
enum Fault {
    Backend(Failure),
    /// An errno of our own making.
    Ours(i32),
}

impl Asker {
    pub fn new(through: Option<Arc<Through>>) -> Self {
        Self { tls: tls::Client::new(), pinger: ping::Pinger::default(), through }
    }

    pub async fn ask(&self, probe: &Probe) -> (Outcome, Duration) {
        let Subject { target, question } = &probe.subject;
        // It may wait for the port of one that is being given up, which is no fault of the backend's.
        let to = match self.way(*target).await {
            Ok(to) => to,
            Err(error) => return (Outcome::NoVerdict(error.raw_os_error().unwrap_or(EIO)), Duration::ZERO),
        };
        let begun = Instant::now();
        let asked = self.put(question, &to, begun + probe.rhythm.timeout).await;
        let outcome = match asked.map_err(|fault| fault.at(to.address)) {
            Ok(()) => Outcome::Good,
            Err(Fault::Backend(failure)) => Outcome::Failed(failure),
            Err(Fault::Ours(errno)) => Outcome::NoVerdict(errno),
        };
        (outcome, begun.elapsed())
    }

    async fn way(&self, target: Target) -> io::Result<To<'_>> {
        match (target, &self.through) {
            (Target::Direct { address }, _) => Ok(To { address, through: None }),
            (Target::Through { vip, backend, .. }, Some(through)) => {
                Ok(To { address: vip, through: Some(through.enter(Passage { vip, backend }).await?) })
            }
            (Target::Through { .. }, None) => Err(Errno::NODEV.into()),
        }
    }

    async fn put(&self, question: &Question, to: &To<'_>, deadline: Instant) -> Result<(), Fault> {
        match question.kind {
            CheckKind::Tcp => tcp::connect(to, deadline).await.map(drop),
            CheckKind::Http => {
                let stream = tcp::connect(to, deadline).await?;
                http::ask(stream, question, to.address, deadline).await
            }
            // Its state is large: in a box, it is paid for only by those who use it.
            CheckKind::Https => {
                Box::pin(async {
                    let stream = self.tls.connect(question, to, deadline).await?;
                    http::ask(stream, question, to.address, deadline).await
                })
                .await
            }
            CheckKind::Udp => udp::ask(to, deadline).await,
            CheckKind::Ping => self.pinger.ask(to.address.ip(), deadline).await,
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
