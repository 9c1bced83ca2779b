//! Logs: lines on stderr, for people and for journald.

use std::io::IsTerminal;

use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Starts logging at `level` (`error`, `warn`, `info`, `debug`, `trace`) unless `RUST_LOG` says otherwise: a level, or
/// `module=level` with commas between.
pub fn start(level: &str) {
    let filter = filter(std::env::var("RUST_LOG").ok().as_deref(), level);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    // Fails only where a logger is set already, in tests.
    let _ = tracing_subscriber::registry().with(lines).with(filter).try_init();
}

/// What `asked` says, if that can be read, else everything from `level` on.
fn filter(asked: Option<&str>, level: &str) -> Targets {
    let read = |text: &str| text.parse().ok().filter(|_| !text.is_empty());
    asked.and_then(read).or_else(|| read(level)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::Level;

    #[test]
    fn rust_log_wins_where_it_can_be_read() {
        let shows = |asked, module: &str, level| filter(asked, "info").would_enable(module, &level);
        assert!(shows(None, "penstock::feed", Level::INFO) && !shows(None, "penstock::feed", Level::DEBUG));
        assert!(shows(Some("debug"), "penstock::feed", Level::DEBUG));
        assert!(shows(Some("warn,penstock::feed=trace"), "penstock::feed", Level::TRACE));
        assert!(!shows(Some("warn,penstock::feed=trace"), "penstock::node", Level::INFO));
        for unreadable in ["", "penstock=loudly"] {
            assert!(shows(Some(unreadable), "penstock::feed", Level::INFO), "{unreadable}");
        }
    }
}
