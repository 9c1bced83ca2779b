//! `tcp`: can one connect?
//!
//! The connection ends with a reset (SO_LINGER of zero), not with FINs: the side that closes first would keep its port for
//! a minute (TIME_WAIT), and at some 470 checks a second to one address the ephemeral ports would be used up. The backend
//! sees a connection that came and was reset.

use std::io;

use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;

use super::{Failure, Fault, To, by};

pub async fn connect(to: &To<'_>, deadline: Instant) -> Result<TcpStream, Fault> {
    let address = to.address;
    let socket = match &to.through {
        Some(passing) => passing.tcp(),
        None if address.is_ipv4() => TcpSocket::new_v4(),
        None => TcpSocket::new_v6(),
    }?;
    socket.set_zero_linger()?;
    let stream = by(deadline, Failure::NoConnection, socket.connect(address)).await?;
    // To a local port where nobody listens, the kernel may connect a socket with itself (RFC 9293, 3.5).
    if address.ip().is_loopback() && stream.local_addr()? == address {
        return Err(io::Error::from(rustix::io::Errno::CONNREFUSED).into());
    }
    Ok(stream)
}
