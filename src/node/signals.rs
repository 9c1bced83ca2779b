//! What a person, or an init system, says to a running node.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Something that was said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// SIGTERM or SIGINT.
    Stop,
    /// SIGHUP.
    Reread,
}

pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    /// From now on none of them ends the process by itself. On a runtime.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// The next one. Cancel-safe.
    pub async fn next(&mut self) -> Said {
        tokio::select! {
            _ = self.terminate.recv() => Said::Stop,
            _ = self.interrupt.recv() => Said::Stop,
            _ = self.hang_up.recv() => Said::Reread,
        }
    }
}
