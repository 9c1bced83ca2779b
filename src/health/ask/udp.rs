//! `udp`: does anybody listen?
//!
//! One zero byte is sent. A closed port answers with ICMP "port unreachable", and for a machine that is gone a router, or the
//! kernel itself, says "host unreachable": that is a failure. (Of the second a connected socket hears only where it asks for all
//! errors, ip(7), IP_RECVERR.) An answer is good, and so is silence: most protocols say nothing to what they do not understand.
//! (Not an empty datagram: to many a simple server a read of 0 bytes is the end.)

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

use super::{Fault, To};

pub async fn ask(to: &To<'_>, deadline: Instant) -> Result<(), Fault> {
    let own: SocketAddr =
        if to.address.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let exchange = async {
        let socket = match &to.through {
            Some(passing) => passing.udp()?,
            None => UdpSocket::bind(own).await?,
        };
        match to.address.is_ipv4() {
            true => setsockopt(&socket, sockopt::Ipv4RecvErr, &true),
            false => setsockopt(&socket, sockopt::Ipv6RecvErr, &true),
        }?;
        socket.connect(to.address).await?;
        socket.send(&[0]).await?;
        socket.recv(&mut [0]).await
    };
    match timeout_at(deadline, exchange).await {
        Ok(Err(error)) => Err(error.into()),
        Ok(Ok(_)) | Err(_) => Ok(()),
    }
}
