//! The scenes, each in a file: what a person would do, and what that must show.

mod added_under_load;
mod broken_file;
mod churn;
mod cilium;
mod control;
mod counters;
mod cpu;
mod crash;
mod dnat;
mod dscp;
mod dsr;
mod ipvs;
mod l2dsr;
mod fragments;
mod last_good;
mod modes;
mod new_mac;
mod path_mtu;
mod ping;
mod prometheus;
mod publish;
mod receive;
mod quic;
mod stop;
mod swap;
mod tunnels;
mod two_lcores;
mod weights;

use anyhow::Result;

pub use control::scenes as control;

use crate::lab::Lab;
use crate::say::Story;

pub struct Scene {
    pub title: &'static str,
    pub play: fn(&mut Lab, &mut Story) -> Result<()>,
}

/// The demo, in the order in which it is told.
pub fn demo() -> Vec<Scene> {
    vec![
        dsr::SCENE,
        dnat::SCENE,
        weights::SCENE,
        added_under_load::SCENE,
        broken_file::SCENE,
        ping::SCENE,
        counters::SCENE,
    ]
}

/// Everything: the demo, then what would make it long.
pub fn all() -> Vec<Scene> {
    let mut scenes = demo();
    scenes.extend([
        modes::SCENE,
        publish::SCENE,
        new_mac::SCENE,
        swap::SCENE,
        // Again, over all that since: what follows starts the node anew, and its counters with it.
        counters::SCENE,
        stop::SCENE,
        last_good::SCENE,
        crash::SCENE,
        two_lcores::SCENE,
        cpu::SCENE,
        prometheus::SCENE,
    ]);
    scenes
}

/// Every mode in front of a real receiver of its packets: `make lab-modes`.
pub fn modes() -> Vec<Scene> {
    vec![
        tunnels::IPIP,
        tunnels::GRE,
        tunnels::GUE,
        tunnels::GUE_1,
        dscp::SCENE,
        l2dsr::SCENE,
        ipvs::SCENE,
        cilium::GENEVE,
        cilium::DNAT_DSR,
        path_mtu::SCENE,
        fragments::SCENE,
        quic::SCENE,
        churn::DNAT,
        churn::SNAT,
    ]
}

/// An error where `holds` is false.
fn require(holds: bool, otherwise: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(anyhow::anyhow!(otherwise())) }
}
