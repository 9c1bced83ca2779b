//! What a process before left in `state_dir`.

use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;

use super::authored::Authored;
use super::bases::{self, Of, Saved};
use super::client::Refused;
use super::drained::Drained;
use super::journal;
use super::journal::Position;
use super::kept::{self, Kept};
use crate::config::{self, Config};
use crate::health::LastState;
use crate::service::{self, Definitions, LeftOut, Reading};
use crate::snapshot::Millis;

/// The bases that were kept, where there are any.
pub fn load_bases(config: &Config, now: Millis, knows_flows: bool) -> Option<Saved> {
    bases::load(&config.node.state_dir, now, knows_flows).unwrap_or_else(|error| {
        tracing::error!("{error}: flows of slots that were changing owners may move");
        None
    })
}

/// Whether it is known by which numbers a process before remembered flows in this memory.
pub fn knows_numbers(state_dir: &Path, memory: u64) -> bool {
    let saved = bases::load(state_dir, Millis(0), true).ok().flatten();
    saved.is_some_and(|saved| saved.memory == memory)
}

/// The last good definitions.
#[derive(Default)]
pub struct Loaded {
    /// `None`: there are none.
    pub definitions: Option<Arc<Definitions>>,
    /// The same with what does not fit the node and is left out, where they are written one change after another.
    pub authored: Option<Authored>,
    /// The last segment of their changes, where they have any.
    pub last_segment: Option<u64>,
    /// Of which change they are.
    pub position: Option<Position>,
    /// What they were when `of` was kept, where that was something else: what came after was never in force.
    pub before: Option<Arc<Definitions>>,
    pub left_out: Vec<LeftOut>,
}

/// Reads them. `of`: what slots had their owners by. Services that do not fit the node any more are left out: those that do are worth
/// more than none.
pub fn load(config: &Config, of: Option<&Of>) -> Loaded {
    let state_dir = &config.node.state_dir;
    let unusable = |why: &dyn Display| {
        tracing::error!("{why}");
        lay_aside(config);
        Loaded::default()
    };
    let text = match Kept::Definitions.load(state_dir) {
        Ok(Some(text)) => text,
        Ok(None) => return Loaded::default(),
        Err(error) => return unusable(&error),
    };
    let (first_segment, document) = kept::split_changes(&text);
    let path = Kept::Definitions.path(state_dir).display().to_string();
    let Reading { mut definitions, mut left_out, .. } = match service::read(document, &path, None, &config.kubernetes) {
        Ok(reading) => reading,
        Err(errors) => {
            return unusable(&format_args!(
                "the last good definitions do not hold any more and are not used:\n{errors}"
            ));
        }
    };
    let mut loaded = Loaded::default();
    if let Some(first) = first_segment {
        // Where bases were never kept for a change, none was made that they had to be kept for.
        let asked = of.map(|of| of.position.unwrap_or_default());
        let begin = Position { segment: first, line: 0 };
        let changed = load_changes(state_dir, first, None, definitions, asked.map(|asked| asked.max(begin)));
        if changed.is_damaged {
            lay_aside(config);
        }
        // What is appended behind damage would not be found again: then all is written anew.
        loaded.last_segment = (!changed.is_damaged).then_some(changed.last_segment);
        loaded.position = Some(changed.position);
        loaded.before = match asked {
            // Else the set was only written anew.
            Some(asked) if asked < begin && Kept::Before.path(state_dir).exists() => load_before(config, first, asked),
            _ => changed.at,
        };
        definitions = changed.definitions;
    }
    let mut authored = matches!(config.feed, config::Feed::None).then(|| Authored::new(&definitions));
    let misfits = config::leave_out(config, &mut definitions);
    for left_out in &misfits {
        tracing::error!("{path}: {left_out}");
    }
    if let Some(authored) = &mut authored {
        authored.leave_out(misfits.iter().map(|left_out| left_out.service.as_str().into()));
    }
    left_out.extend(misfits);
    let version = definitions.version.as_deref().unwrap_or("(none)");
    tracing::info!("starting with the last good definitions, version {version}");
    let before = loaded.before.map(|before| {
        let mut before = Arc::unwrap_or_clone(before);
        config::leave_out(config, &mut before);
        before
    });
    loaded.before = before.filter(|before| *before != definitions).map(Arc::new);
    Loaded { definitions: Some(Arc::new(definitions)), authored, left_out, ..loaded }
}

/// What writers were told is kept, and is not used, lies where no change overwrites it. (A feed says all of it again.)
fn lay_aside(config: &Config) {
    if !matches!(config.feed, config::Feed::None) {
        return;
    }
    match kept::lay_aside(&config.node.state_dir) {
        Ok(directory) => tracing::error!("what is there of them and of their changes lies in {}", directory.display()),
        Err(error) => tracing::error!("what is there of them cannot be laid aside: {error}"),
    }
}

/// The definitions that the whole set from the segment `until` on took the place of, as they were at `position`.
fn load_before(config: &Config, until: u64, position: Position) -> Option<Arc<Definitions>> {
    let state_dir = &config.node.state_dir;
    let text = Kept::Before.load(state_dir).ok().flatten()?;
    let (first, document) = kept::split_changes(&text);
    let path = Kept::Before.path(state_dir).display().to_string();
    let definitions = service::read(document, &path, None, &config.kubernetes).ok()?.definitions;
    let Some(first) = first else { return Some(Arc::new(definitions)) };
    // Bases of a set before that one are as good as its own: it moved nothing.
    let position = position.max(Position { segment: first, line: 0 });
    load_changes(state_dir, first, Some(until), definitions, Some(position)).at
}

/// Definitions with the changes since they were written.
struct Changed {
    definitions: Definitions,
    last_segment: u64,
    position: Position,
    /// As they were at the position that was asked for.
    at: Option<Arc<Definitions>>,
    is_damaged: bool,
}

/// Makes the changes from one segment on (until another), of which one may be asked for.
fn load_changes(
    state_dir: &Path,
    first: u64,
    until: Option<u64>,
    definitions: Definitions,
    asked: Option<Position>,
) -> Changed {
    let (changes, last_segment, problem) = journal::read(state_dir, first);
    if let Some(problem) = &problem {
        tracing::error!("{problem}");
    }
    let mut authored = Authored::new(&definitions);
    let mut position = Position { segment: first, line: 0 };
    let mut at = (asked == Some(position)).then(|| Arc::new(authored.definitions()));
    for (place, change) in changes {
        if until.is_some_and(|until| place.segment >= until) {
            break;
        }
        let redone = match &change.upsert {
            Some(json) => service::tree::json(json.get().as_bytes(), "change")
                .and_then(|tree| service::read_service(&tree, "change"))
                .map(|(service, _)| Some(service)),
            None => Ok(None),
        };
        let redone = redone
            .map_err(Refused::Invalid)
            .and_then(|service| authored.redo(change.version.clone(), service, change.delete.as_deref()));
        if let Err(error) = redone {
            tracing::error!(
                "the change to version {} does not hold any more, and is left out: {error}",
                change.version
            );
        }
        position = place;
        if asked == Some(position) {
            at = Some(Arc::new(authored.definitions()));
        }
    }
    Changed { definitions: authored.definitions(), last_segment, position, at, is_damaged: problem.is_some() }
}

/// What was drained by hand.
pub fn load_drained(state_dir: &Path) -> Drained {
    let text = Kept::Drained.load(state_dir).unwrap_or_else(|error| {
        tracing::error!("{error}: backends that were drained by hand are not any more");
        None
    });
    Drained::of_text(&text.unwrap_or_default()).unwrap_or_else(|line| {
        let path = Kept::Drained.path(state_dir);
        tracing::error!("{}: {line:?} is not understood; nothing of the file is used", path.display());
        Drained::default()
    })
}

/// Which backends were down by their checks.
pub fn load_health(state_dir: &Path) -> Vec<LastState> {
    let text = Kept::Health.load(state_dir).unwrap_or_else(|error| {
        tracing::error!("{error}: backends that were down count as up until they fail again");
        None
    });
    let text = text.unwrap_or_default();
    let states: Result<Vec<LastState>, _> = text.lines().map(serde_json::from_str).collect();
    states.unwrap_or_else(|error| {
        let path = Kept::Health.path(state_dir);
        tracing::error!("{}: {error}; nothing of the file is used", path.display());
        Vec::new()
    })
}
