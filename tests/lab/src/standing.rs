//! A lab that stays: `make lab` and `make lab-down`; and what a killed lab left.

use std::path::Path;

use anyhow::Result;

use crate::lab::{FIRST_USER, LOADED_MODULE, Lab, VIP, path_of};
use crate::namespace;
use crate::node::METRICS;
use crate::say::Story;
use crate::{decapsulator, lab, wait};

/// The one lab that stands has fixed names, so that it can be found again.
const NAME: &str = "penstock-lab";

pub fn up() -> Result<()> {
    wait::heed_signals()?;
    sweep();
    take_down(NAME);
    let story = Story::new();
    let lab = Lab::build(NAME)?;
    let (services, configuration) = (lab.node.services(), lab.node.configuration());
    let (services, configuration) = (services.display(), configuration.display());
    let log = lab.node.log_file();
    story.line(format!("\nThe lab stands.\n{}", lab::DRAWING));
    story.line(format!(
        "The backends decapsulate by {}. To try:

  ip netns exec {NAME}-client curl http://{VIP}/                   ipip; the answer names the backend
  ip netns exec {NAME}-client curl http://{VIP}:8080/              dnat, to port 8081 of a backend
  ip netns exec {NAME}-client ping {VIP}                           the load balancer answers for the VIP
  ip netns exec {NAME}-lb tcpdump -ni nic0                         what crosses the load balancer's port
  ip netns exec {NAME}-lb curl -s http://{METRICS}/metrics     its counters

  $EDITOR {services}
                                                                      saved, it is in force; broken, it is refused
  tail -f {}
                                                                      says why
  {configuration}
                                                                      the node's configuration

`make lab-down` removes it all.",
        lab.decapsulator.says(),
        log.display(),
    ));
    lab.leave_standing();
    Ok(())
}

pub fn down() -> Result<()> {
    sweep();
    println!("{}", if take_down(NAME) { "The lab is gone." } else { "No lab stands." });
    Ok(())
}

/// Takes down what labs left that were killed before they could tidy up.
pub fn sweep() {
    let owner = |name: &str| name.strip_prefix("penstock-")?.split('-').next()?.parse::<u32>().ok();
    let mut dead: Vec<u32> = namespace::named("penstock-").iter().filter_map(|name| owner(name)).collect();
    dead.dedup();
    dead.retain(|pid| !Path::new(&format!("/proc/{pid}")).exists());
    for pid in dead {
        take_down(&format!("penstock-{pid}"));
    }
}

/// Ends a lab by its name; whether there was one.
fn take_down(run: &str) -> bool {
    let names = namespace::named(&format!("{run}-"));
    names.iter().for_each(|name| namespace::remove(name));
    let directory = path_of(run);
    if names.is_empty() && !directory.exists() {
        return false;
    }
    let (first, module) = (directory.join(FIRST_USER).exists(), directory.join(LOADED_MODULE).exists());
    let _ = std::fs::remove_dir_all(&directory);
    if module {
        decapsulator::unload();
    }
    if first {
        namespace::forget_names();
    }
    true
}
