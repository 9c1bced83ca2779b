//! HTTP/2 over a connection that was made already.

use std::fmt::Display;
use std::io;

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::transport::{Channel, Endpoint, Error, Uri};

/// A channel over this one connection, encrypted or not; whom the endpoint names is never looked up. When the connection is over, so is
/// the channel, and `ending` says why: tonic would make the next one by itself, without a word.
pub async fn channel_over<S>(
    stream: S,
    endpoint: Endpoint,
    ending: impl Display + Send + 'static,
) -> Result<Channel, Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut stream = Some(TokioIo::new(stream));
    let once = tower::service_fn(move |_: Uri| {
        std::future::ready(stream.take().ok_or_else(|| io::Error::other(ending.to_string())))
    });
    endpoint.connect_with_connector(once).await
}
