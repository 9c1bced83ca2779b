//! Annotations: what Kubernetes has no field for.

use super::objects;
use crate::service::shape::nearest;
use crate::service::tree::quote;
use crate::service::{Forwarding, Hash, Tracking};

const PREFIX: &str = "penstock.io/";
const FORWARDING: &str = "penstock.io/forwarding";
const HASH: &str = "penstock.io/hash";
const TRACKING: &str = "penstock.io/tracking";
const DSCP: &str = "penstock.io/dscp";
/// Cilium's: whether `loadBalancerSourceRanges` are those that may, or those that may not.
const RANGES_POLICY: &str = "service.cilium.io/src-ranges-policy";

const OURS: [&str; 4] = [FORWARDING, HASH, TRACKING, DSCP];

/// What the annotations of a service ask for.
#[derive(Debug, PartialEq)]
pub struct Wishes {
    pub forwarding: Forwarding,
    pub hash: Option<Hash>,
    pub tracking: Option<Tracking>,
    pub dscp: Option<u8>,
    /// The source ranges are those that are refused.
    pub denies: bool,
}

/// A bad annotation: nobody knows what was meant, so its service is not served.
#[derive(Debug, PartialEq)]
pub struct Fault {
    /// Where it stands in the document.
    pub path: String,
    /// The annotation's name.
    pub annotation: &'static str,
    pub reason: String,
}

/// Reads the annotations of a service; `usual` is the mode of one that names none.
pub fn read(service: &objects::Service, usual: Forwarding) -> Result<Wishes, Vec<Fault>> {
    let mut faults = Vec::new();
    let mut refuse = |annotation, reason| {
        let path = format!("{}.metadata.annotations.{annotation}", service.path);
        faults.push(Fault { path, annotation, reason });
    };
    let written = |annotation: &str| {
        service.annotations.iter().find(|(name, _)| name == annotation).map(|(_, text)| text.as_str())
    };
    // `Some(None)`: something else is written.
    let mut chosen = |annotation, names: &[&'static str]| -> Option<Option<&'static str>> {
        let text = written(annotation)?;
        let name = names.iter().copied().find(|name| *name == text);
        if name.is_none() {
            let near = nearest(text, names.iter().copied()).unwrap_or_default();
            refuse(annotation, format!("{} is not one of {}; did you mean {near:?}?", quote(text), names.join(", ")));
        }
        Some(name)
    };
    let forwarding = chosen(FORWARDING, Forwarding::NAMES).flatten().and_then(Forwarding::named);
    let hash = chosen(HASH, Hash::NAMES).flatten().and_then(Hash::named);
    let tracking = chosen(TRACKING, Tracking::NAMES).flatten().and_then(Tracking::named);
    let policy = chosen(RANGES_POLICY, &["allow", "deny"]).flatten();

    if hash == Some(Hash::QuicCid) {
        let reason = "\"quic-cid\" needs an ID for each backend, and a slice has no place for it; use \"five-tuple\" or \"source-ip\"";
        refuse(HASH, reason.to_owned());
    }
    let code_point = |text: &str| text.parse().ok().filter(|dscp| (1..=63).contains(dscp));
    let dscp = written(DSCP).map(|text| (text, code_point(text)));
    let mode = forwarding.unwrap_or(usual);
    match dscp {
        Some((text, None)) => refuse(DSCP, format!("{} is not a number from 1 to 63", quote(text))),
        Some(_) if mode != Forwarding::Dscp => {
            let reason = format!("belongs to \"dscp\", and this service is {:?}; leave it out", mode.name());
            refuse(DSCP, reason);
        }
        None if mode == Forwarding::Dscp => {
            refuse(
                DSCP,
                "required by \"dscp\", but absent: the code point, 1 to 63, that names the VIP to the backends"
                    .to_owned(),
            );
        }
        _ => {}
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    Ok(Wishes {
        forwarding: mode,
        hash,
        tracking,
        dscp: dscp.and_then(|(_, dscp)| dscp),
        denies: policy == Some("deny"),
    })
}

/// Annotations of ours that this release does not know: a slip, or a later release's.
pub fn unknown(service: &objects::Service) -> impl Iterator<Item = String> {
    let names = service.annotations.iter().map(|(name, _)| name.as_str());
    names.filter(|name| name.starts_with(PREFIX) && !OURS.contains(name)).map(|name| {
        let near = nearest(name, OURS.into_iter()).unwrap_or_default();
        format!("the annotation {} is not known and not obeyed; did you mean {near:?}?", quote(name))
    })
}

/// The weight that a slice's annotation gives all its endpoints; 0: maintenance.
pub fn weight(slice: &objects::Slice) -> Result<u16, Fault> {
    const USUAL: u16 = 100;
    let Some((text, path)) = &slice.weight else { return Ok(USUAL) };
    text.parse().map_err(|_| {
        let reason = format!("{} is not a number from 0 to 65535", quote(text));
        Fault { path: path.clone(), annotation: objects::WEIGHT, reason }
    })
}
