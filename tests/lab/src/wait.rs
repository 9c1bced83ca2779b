//! Waiting for a condition, never for a time; and what ends the wait early.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// For what takes no time by itself, but may wait its turn on a machine that does other things, too.
pub const PATIENCE: Duration = Duration::from_secs(30);

static INTERRUPTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// Lets SIGINT, SIGTERM and SIGHUP end the waiting, so that everything is torn down by the ordinary way out.
pub fn heed_signals() -> Result<()> {
    let flag = INTERRUPTED.get_or_init(Arc::default);
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        signal_hook::flag::register(signal, flag.clone()).context("cannot listen for signals")?;
    }
    Ok(())
}

pub fn interrupted() -> bool {
    INTERRUPTED.get().is_some_and(|flag| flag.load(Ordering::Relaxed))
}

/// Looks at `probe` until it gives something; after `deadline` an error that says what did not happen.
///
/// An error of the probe counts as "not yet"; the last one is told with the deadline's.
pub fn until<T>(what: &str, deadline: Duration, mut probe: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    loop {
        let seen = probe();
        if let Ok(Some(found)) = seen {
            return Ok(found);
        }
        if interrupted() {
            bail!("interrupted while waiting until {what}");
        }
        if start.elapsed() > deadline {
            let last = seen.err().map_or(String::new(), |last| format!("\nlast look: {last:#}"));
            bail!("did not happen within {deadline:?}: {what}{last}");
        }
        std::thread::sleep(LOOK);
    }
}

/// For `map_err`: adds to an error what explains it, such as the end of a log.
pub fn with(note: impl FnOnce() -> String) -> impl FnOnce(anyhow::Error) -> anyhow::Error {
    move |error| anyhow::anyhow!("{error:#}\n{}", note())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_ends_the_wait_and_a_deadline_says_what_did_not_happen() {
        let mut looks = 0;
        let third = until("three looks", Duration::from_secs(5), || {
            looks += 1;
            Ok((looks == 3).then_some(looks))
        });
        assert_eq!(third.unwrap(), 3);

        let never: Result<()> = until("pigs fly", Duration::from_millis(20), || bail!("no wings"));
        let error = format!("{:#}", never.unwrap_err());
        assert!(error.contains("pigs fly") && error.contains("no wings"), "{error}");
    }
}
