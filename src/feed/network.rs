//! What the feeds on the network share: a connection, secrets in files, and errors in one line.

use std::error::Error;
use std::fmt;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{self, AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::config::Url;
use crate::tls;

/// For one connection, its handshake included.
const CONNECT: Duration = Duration::from_secs(5);

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
        if !url.is_tls {
            return Ok(Transport::Plain(stream));
        }
        let stream = tls.connect(&url.host, stream).await.map_err(|error| error.to_string())?;
        Ok(Transport::Tls(Box::new(stream)))
    };
    let connected = tokio::time::timeout(CONNECT, connecting).await;
    let transport = connected.unwrap_or_else(|_| Err(format!("no connection within {CONNECT:?}")))?;
    Ok(Stream { transport, ending: Ending::default() })
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
            Some(error) => tls::reason(error),
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
            let _ = self.ending.0.set(tls::reason(error));
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
