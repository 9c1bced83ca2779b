//! The documents that subcommands are given: the node's configuration and service definitions.

use std::path::Path;

use super::{Failure, say};
use crate::config::{self, Config, Feed};
use crate::service::{self, Definitions, Errors, LeftOut, Problem, Reading, Warning, kubernetes};

/// Both documents, valid and fitting each other.
#[derive(Debug)]
pub struct Inputs {
    pub config: Config,
    pub definitions: Definitions,
}

/// Everything that was found in both documents.
pub(super) struct Findings {
    pub config: Option<Config>,
    /// With the name of their file.
    pub definitions: Option<(Definitions, String)>,
    pub errors: Vec<Problem>,
    pub warnings: Vec<Warning>,
}

/// What becomes of a document with a bad annotation of a Kubernetes service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BadAnnotations {
    /// An error.
    Refuse,
    /// The service is left out, as a running node does.
    Leave,
}

/// Reads both documents and prints their warnings; all errors of both at once.
pub fn inputs(config: &Path, services: &Path) -> Result<Inputs, Failure> {
    let findings = find(config, Some(services), BadAnnotations::Leave);
    warn(&findings.warnings);
    match findings {
        Findings { config: Some(config), definitions: Some((definitions, _)), errors, .. } if errors.is_empty() => {
            Ok(Inputs { config, definitions })
        }
        findings => Err(Errors(findings.errors).into()),
    }
}

/// Reads definitions and holds them against the configuration. What is unchanged is shared with `previous`.
pub fn services(
    path: &Path,
    config: &Config,
    previous: Option<&Definitions>,
) -> Result<(Definitions, Vec<Warning>), Errors> {
    let file = path.display().to_string();
    let mut reading = read(path, previous, &config.kubernetes)?;
    config::admit(config, &mut reading, &file)?;
    let warnings = reading.warnings.into_iter().chain(left_out(&reading.left_out, &file));
    Ok((reading.definitions, warnings.collect()))
}

/// What was left out, as warnings: the place is the service's name.
fn left_out(left_out: &[LeftOut], file: &str) -> impl Iterator<Item = Warning> {
    let warning =
        |left: &LeftOut| Problem { file: file.into(), path: left.service.clone(), reason: left.reason.clone() };
    left_out.iter().map(warning)
}

/// Prints warnings to stderr.
pub fn warn(warnings: &[Warning]) {
    for warning in warnings {
        say(format_args!("warning: {warning}"));
    }
}

/// Reads the configuration and the definitions: those named, else those of the feed, where it is a file.
pub(super) fn find(config: &Path, services: Option<&Path>, annotations: BadAnnotations) -> Findings {
    let mut findings = Findings { config: None, definitions: None, errors: Vec::new(), warnings: Vec::new() };
    match Config::load(config) {
        Ok((config, warnings)) => {
            findings.config = Some(config);
            findings.warnings.extend(warnings);
        }
        Err(Errors(errors)) => findings.errors.extend(errors),
    }
    let of_feed = match &findings.config {
        Some(Config { feed: Feed::File { path }, .. }) => Some(path.clone()),
        _ => None,
    };
    let Some(path) = services.map(Path::to_owned).or(of_feed) else { return findings };
    let file = path.display().to_string();
    let usual = kubernetes::Options::default();
    let options = findings.config.as_ref().map_or(&usual, |config| &config.kubernetes);
    match read(&path, None, options) {
        Ok(mut reading) => {
            if let Some(config) = &findings.config
                && let Err(Errors(errors)) = config::admit(config, &mut reading, &file)
            {
                findings.errors.extend(errors);
            }
            let (bad, cut): (Vec<_>, Vec<_>) = reading
                .left_out
                .into_iter()
                .partition(|left| left.bad_annotation.is_some() && annotations == BadAnnotations::Refuse);
            findings.errors.extend(bad.into_iter().filter_map(|left| left.bad_annotation));
            findings.warnings.extend(reading.warnings);
            findings.warnings.extend(left_out(&cut, &file));
            findings.definitions = Some((reading.definitions, file));
        }
        Err(Errors(errors)) => findings.errors.extend(errors),
    }
    findings
}

/// Reads definitions by themselves; `-` is standard input.
#[cfg(feature = "api")]
pub fn definitions(path: &Path) -> Result<(Definitions, Vec<Warning>), Errors> {
    let (name, document) = if path == Path::new("-") {
        let name = "standard input".to_owned();
        let document = whole(&name, std::io::read_to_string(std::io::stdin()).map(String::into_bytes))?;
        (name, document)
    } else {
        let name = path.display().to_string();
        let document = whole(&name, std::fs::read(path))?;
        (name, document)
    };
    service::native(document, &name, None)
}

fn read(path: &Path, previous: Option<&Definitions>, options: &kubernetes::Options) -> Result<Reading, Errors> {
    let file = path.display().to_string();
    service::read(whole(&file, std::fs::read(path))?, &file, previous, options)
}

/// The document, or that there is none.
fn whole(file: &str, read: std::io::Result<Vec<u8>>) -> Result<Vec<u8>, Errors> {
    read.map_err(|error| Errors::whole(file, format!("cannot be read: {error}")))
}
