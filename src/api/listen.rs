//! Where the API listens: Unix sockets, which the file system guards, and TCP, on loopback or with TLS.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream as Probe;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};

use super::caller::Connection;
use super::{Api, router};
use crate::config::{self, ApiTls, Listen};
use crate::tls;

/// Why nobody can call.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("api.listen: cannot listen on {at}: {reason}")]
    Bind { at: Listen, reason: io::Error },
    #[error("api.listen: {} is in use by another process", .0.display())]
    InUse(PathBuf),
    #[error("api.listen: {} is there, and no socket: it is left alone", .0.display())]
    NotASocket(PathBuf),
    #[error("api: {0}")]
    Tls(#[from] tls::Error),
    #[error("api.listen: there is no group {name:?} for {}", .path.display())]
    NoGroup { name: String, path: PathBuf },
}

/// Sockets that are bound; [`Listeners::serve`] answers on them.
#[derive(Debug, Default)]
pub struct Listeners {
    tcp: Vec<TcpListener>,
    unix: Vec<UnixListener>,
    /// Removed at the end.
    paths: Vec<PathBuf>,
    /// Of the TCP listeners.
    tls: Option<Arc<tls::Server>>,
}

/// Callers that may shake hands at the same time; more wait in the kernel.
const HANDSHAKES: usize = 256;

/// Of them, from one address: who is silent there keeps nobody else waiting.
const OF_ONE: usize = 16;

/// For one handshake.
const PATIENCE: Duration = Duration::from_secs(3);

/// Between two tries where no caller can be accepted.
const PAUSE: Duration = Duration::from_millis(100);

impl Listeners {
    pub async fn bind(config: &config::Api) -> Result<Self, Error> {
        let tls = config.tls.clone().map(tls::Server::new).transpose()?.map(Arc::new);
        let (mut this, group) = (Self { tls, ..Self::default() }, config.group.as_deref());
        for at in &config.listen {
            let failed = |reason| Error::Bind { at: at.clone(), reason };
            match at {
                Listen::Tcp(address) => this.tcp.push(TcpListener::bind(address).await.map_err(failed)?),
                Listen::Unix(path) => {
                    free(path)?;
                    if let Some(directory) = path.parent() {
                        std::fs::create_dir_all(directory).map_err(failed)?;
                    }
                    let none = |name: &str| Error::NoGroup { name: name.to_owned(), path: path.clone() };
                    let id = group.map(|name| group_id(name).ok_or_else(|| none(name))).transpose()?;
                    this.unix.push(bind_guarded(path, id).map_err(failed)?);
                    this.paths.push(path.clone());
                }
            }
        }
        Ok(this)
    }

    /// Where it listens on TCP; the port that the kernel chose where port 0 was asked for.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.tcp.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// Answers until the runtime ends, by tasks of it.
    pub fn serve(self, api: Arc<Api>) -> Serving {
        let say = |result: Result<(), tonic::transport::Error>| {
            if let Err(error) = result {
                tracing::error!("api: {error}");
            }
        };
        for listener in self.tcp {
            let callers = match (&self.tls, &api.config.api.tls) {
                (Some(server), Some(config)) => secured(listener, server.clone(), config.clone()),
                _ => accepted(TcpListenerStream::new(listener)).map(|stream| Ok(Connection::tcp(stream))).boxed(),
            };
            let serving = router(api.clone()).serve_with_incoming(callers);
            tokio::spawn(async move { say(serving.await) });
        }
        for listener in self.unix {
            let callers =
                accepted(UnixListenerStream::new(listener)).map(|stream| io::Result::Ok(Connection::unix(stream)));
            let serving = router(api.clone()).serve_with_incoming(callers);
            tokio::spawn(async move { say(serving.await) });
        }
        Serving { paths: self.paths }
    }
}

/// Callers as they come. Where the node lacks something to accept one (descriptors, memory), the kernel keeps the caller and would say the
/// same at once, again and again: so it is tried after a pause, and told once until it works.
fn accepted<S: Send + 'static>(
    callers: impl Stream<Item = io::Result<S>> + Unpin + Send + 'static,
) -> impl Stream<Item = S> + Send {
    stream::unfold((callers, false), |(mut callers, mut has_failed)| async move {
        loop {
            match callers.next().await? {
                Ok(caller) => {
                    if has_failed {
                        tracing::info!("api: callers can be accepted again");
                    }
                    return Some((caller, (callers, false)));
                }
                // That caller is gone; the next may be there.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    if !has_failed {
                        tracing::warn!(
                            "api: no caller can be accepted: {error}; tried again every {PAUSE:?}, told once"
                        );
                    }
                    has_failed = true;
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    })
}

/// Callers who proved who they are. One that is slow about it keeps nobody else waiting, nor do many of one address.
fn secured(
    listener: TcpListener,
    server: Arc<tls::Server>,
    config: ApiTls,
) -> BoxStream<'static, io::Result<Connection>> {
    let places = Places::default();
    let shake = move |stream: TcpStream| {
        let (server, config) = (server.clone(), config.clone());
        // Taken when the caller comes, not when its turn does.
        let place = stream.peer_addr().ok().and_then(|address| places.take(address.ip()));
        async move {
            let _place = place.ok_or_else(|| io::Error::other("too many of one address"))?;
            let _ = stream.set_nodelay(true);
            let from = stream.peer_addr()?;
            match tokio::time::timeout(PATIENCE, server.accept(stream)).await {
                Ok(Ok((stream, names))) => Ok(Connection::tls(stream, names, &config)),
                Ok(Err(error)) => {
                    tracing::debug!("api: {from}: {error}");
                    Err(io::Error::other(error))
                }
                Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut)),
            }
        }
    };
    let callers = accepted(TcpListenerStream::new(listener)).map(shake).buffer_unordered(HANDSHAKES);
    // A caller that fails is no end of the others.
    callers.filter_map(async |caller| caller.ok().map(Ok)).boxed()
}

/// Who shakes hands: how many of each address.
#[derive(Debug, Clone, Default)]
struct Places(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// Given back when it is dropped.
#[derive(Debug)]
struct Place(Places, IpAddr);

impl Places {
    /// `None`: too many of that address have one.
    fn take(&self, address: IpAddr) -> Option<Place> {
        // Whoever has an IPv6 address has the whole network of it.
        let address = match address {
            IpAddr::V4(_) => address,
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        };
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_one = places.entry(address).or_default();
        *of_one += 1;
        if *of_one <= OF_ONE {
            return Some(Place(self.clone(), address));
        }
        *of_one -= 1;
        None
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Self(Places(places), address) = self;
        let mut places = places.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(of_one) = places.get_mut(address) {
            *of_one -= 1;
            if *of_one == 0 {
                places.remove(address);
            }
        }
    }
}

/// Removes its sockets when it ends.
#[derive(Debug)]
pub struct Serving {
    paths: Vec<PathBuf>,
}

impl Drop for Serving {
    fn drop(&mut self) {
        for path in &self.paths {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// A socket for its owner and one group. It is made where nobody else can reach it, and moved once it is theirs alone.
fn bind_guarded(path: &Path, group: Option<u32>) -> io::Result<UnixListener> {
    let aside = path.with_file_name(format!(".{}", std::process::id()));
    let new = aside.join("s");
    match std::fs::remove_dir_all(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => std::fs::DirBuilder::new().mode(0o700).create(&aside)?,
    }
    let bind = || {
        let listener = UnixListener::bind(&new)?;
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o660))?;
        std::os::unix::fs::chown(&new, None, group)?;
        std::fs::rename(&new, path)?;
        Ok(listener)
    };
    let bound = bind();
    let _ = std::fs::remove_dir_all(&aside);
    bound
}

/// Removes a socket that a process before left behind.
fn free(path: &Path) -> Result<(), Error> {
    match std::fs::symlink_metadata(path) {
        Err(_) => Ok(()),
        Ok(found) if !found.file_type().is_socket() => Err(Error::NotASocket(path.to_owned())),
        Ok(_) if Probe::connect(path).is_ok() => Err(Error::InUse(path.to_owned())),
        Ok(_) => std::fs::remove_file(path).map_err(|reason| Error::Bind { at: Listen::Unix(path.to_owned()), reason }),
    }
}

/// By /etc/group; a number is itself.
fn group_id(name: &str) -> Option<u32> {
    if let Ok(id) = name.parse() {
        return Some(id);
    }
    let groups = std::fs::read_to_string("/etc/group").ok()?;
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use rustix::io::Errno;

    use super::*;

    #[tokio::test]
    async fn where_no_caller_can_be_accepted_it_is_tried_again_after_a_pause() {
        let lacks = || Err(Errno::MFILE.into());
        let gone = || Err(Errno::CONNABORTED.into());
        let begun = Instant::now();
        let callers = accepted(stream::iter([Ok(1), gone(), Ok(2), lacks(), lacks(), Ok(3)]));
        let mut callers = std::pin::pin!(callers);
        assert_eq!((callers.next().await, callers.next().await), (Some(1), Some(2)));
        let before = begun.elapsed();
        assert!(before < PAUSE, "{before:?}");
        assert_eq!((callers.next().await, callers.next().await), (Some(3), None));
        let paused = begun.elapsed() - before;
        assert!(paused >= 2 * PAUSE, "{paused:?}");
    }
}
