//! Where the API listens: Unix sockets, which the file system guards, and TCP on loopback.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream as Probe;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::{TcpListener, UnixListener};
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};

use super::{Api, router};
use crate::config::Listen;

/// Why nobody can call.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("api.listen: cannot listen on {at}: {reason}")]
    Bind { at: Listen, reason: io::Error },
    #[error("api.listen: {} is in use by another process", .0.display())]
    InUse(PathBuf),
    #[error("api.listen: {} is there, and no socket: it is left alone", .0.display())]
    NotASocket(PathBuf),
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
}

impl Listeners {
    pub async fn bind(listen: &[Listen], group: Option<&str>) -> Result<Self, Error> {
        let mut this = Self::default();
        for at in listen {
            let failed = |reason| Error::Bind { at: at.clone(), reason };
            match at {
                Listen::Tcp(address) => this.tcp.push(TcpListener::bind(address).await.map_err(failed)?),
                Listen::Unix(path) => {
                    free(path)?;
                    if let Some(directory) = path.parent() {
                        std::fs::create_dir_all(directory).map_err(failed)?;
                    }
                    this.unix.push(UnixListener::bind(path).map_err(failed)?);
                    this.paths.push(path.clone());
                    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(failed)?;
                    if let Some(name) = group {
                        let none = || Error::NoGroup { name: name.to_owned(), path: path.clone() };
                        let id = group_id(name).ok_or_else(none)?;
                        std::os::unix::fs::chown(path, None, Some(id)).map_err(failed)?;
                    }
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
            let serving = router(api.clone()).serve_with_incoming(TcpListenerStream::new(listener));
            tokio::spawn(async move { say(serving.await) });
        }
        for listener in self.unix {
            let serving = router(api.clone()).serve_with_incoming(UnixListenerStream::new(listener));
            tokio::spawn(async move { say(serving.await) });
        }
        Serving { paths: self.paths }
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
