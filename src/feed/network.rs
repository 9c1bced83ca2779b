//! What the feeds on the network share: a connection, secrets in files, and errors in one line.

use std::error::Error;
use std::fmt;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{self, AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::config::Url;
use crate::tls;

/// For one connection, its handshake included.
const CONNECT: Duration = Duration::from_secs(5);

/// A connection over which nothing comes is tried by the kernel (TCP's keepalive, RFC 9293, 3.8.4) after so long, then so often, so many
/// times; after all of that it is over, as it is where what we send is not acknowledged for so long. HTTP/2's own pings would find a server
/// that hangs as well, but gRPC's servers take them for abuse and end the connection where they come more often than every 5 minutes.
const IDLE: Duration = Duration::from_secs(10);
const TRY: Duration = Duration::from_secs(5);
const TRIES: u32 = 2;

/// A connection, encrypted or not.
pub struct Stream {
    transport: Transport,
    ending: Ending,
}

enum Transport {
    Plain(TcpStream),
    Tls(Box<tls::Stream>),
}

/// Why a connection ended, for those who are told by layers above only that it did.
#[derive(Debug, Clone, Default)]
pub struct Ending(Arc<OnceLock<String>>);

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.get().map_or("the connection is over", String::as_str))
    }
}

/// Connects to where a URL points.
pub async fn connect(url: &Url, tls: &mut tls::Client) -> Result<Stream, String> {
    let connecting = async {
        let stream = TcpStream::connect((url.host.as_str(), url.port)).await.map_err(|error| error.to_string())?;
        // Requests are small, and somebody waits for each.
        let _ = stream.set_nodelay(true);
        watch_over(&stream).map_err(|error| error.to_string())?;
        if !url.is_tls {
            return Ok(Transport::Plain(stream));
        }
        let stream = tls.connect(&url.host, stream).await.map_err(|error| error.to_string())?;
        Ok(Transport::Tls(Box::new(stream)))
    };
    let connected = tokio::time::timeout(CONNECT, connecting).await;
    let connected = connected.unwrap_or_else(|_| Err(format!("no connection within {CONNECT:?}")));
    let result = if connected.is_ok() { "made" } else { "failed" };
    metrics::counter!(super::CONNECTIONS, "result" => result).increment(1);
    let transport = connected?;
    Ok(Stream { transport, ending: Ending::default() })
}

/// Has the kernel end the connection when the other side is gone without a word.
fn watch_over(stream: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(IDLE).with_interval(TRY).with_retries(TRIES))?;
    socket.set_tcp_user_timeout(Some(IDLE + TRY * TRIES))
}

/// A secret in a file, without the newline at its end; read each time, so it can be replaced at any time.
pub fn secret(path: &Path) -> Result<String, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let text = text.trim();
    // What goes into a header line must be able to stand there.
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') {
        return Err(format!("{}: not one line of printable ASCII characters", path.display()));
    }
    Ok(text.to_owned())
}

/// An error and what is behind it, in one line, nothing twice.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let said = match error.downcast_ref::<std::io::Error>() {
            Some(error) => tls::reason(error, tls::Peer::Server),
            None => error.to_string(),
        };
        // tonic's word for every cause that it has.
        if said != "transport error" && !text.contains(&said) {
            text = if text.is_empty() { said } else { format!("{text}: {said}") };
        }
        next = error.source();
    }
    text
}

/// What a status says, and what is behind it.
#[cfg(feature = "api")]
pub fn said(status: &tonic::Status) -> String {
    use tonic::Code;
    match (status.code(), status.source()) {
        (Code::Unknown | Code::Unavailable | Code::Internal, Some(behind)) => chain(behind),
        (code, _) if status.message().is_empty() => code.description().to_owned(),
        (code, _) => format!("{code:?}: {}", status.message()),
    }
}

impl Stream {
    #[cfg(feature = "api")]
    pub fn ending(&self) -> Ending {
        self.ending.clone()
    }

    fn noted<T>(&self, done: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(error)) = &done {
            let _ = self.ending.0.set(tls::reason(error, tls::Peer::Server));
        }
        done
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (before, room) = (buffer.filled().len(), buffer.remaining());
        let done = match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Transport::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        };
        if matches!(done, Poll::Ready(Ok(()))) && room > 0 && buffer.filled().len() == before {
            let _ = self.ending.0.set("it closed the connection".to_owned());
        }
        self.noted(done)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let done = match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Transport::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        };
        self.noted(done)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_flush(cx),
        };
        self.noted(done)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_kernel_watches_over_a_connection() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let mut tls = tls::Client::new(crate::config::Tls::default(), "h2");
        let stream = connect(&url, &mut tls).await.unwrap();
        let Transport::Plain(stream) = &stream.transport else { panic!("it is encrypted") };
        let socket = SockRef::from(stream);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), IDLE);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), TRY);
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), TRIES);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(20)));
    }
}
