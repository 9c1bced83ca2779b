//! A lab that stays: `make lab` and `make lab-down`; and what a killed lab left.

use std::path::Path;

use anyhow::Result;

use crate::lab::{BACKENDS, FIRST_USER, LOADED_MODULE, Lab, TO_NODE, VIP, path_of};
use crate::namespace::{self, Life};
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
    let lab = Lab::build(NAME, Life::Standing, BACKENDS)?;
    let (services, configuration, log) = (lab.node.services(), lab.node.configuration(), lab.node.log_file());
    story.line(format!("\nThe lab stands.\n{}", lab::DRAWING));
    story.line(format!("The backends decapsulate by {}. To try:\n", lab.decapsulator.says()));
    let [client, router, balancer] = ["client", "router", "lb"].map(|host| format!("ip netns exec {NAME}-{host}"));
    for (what, command) in [
        ("By ipip; the answer names the backend, and whom it saw:", format!("{client} curl http://{VIP}/")),
        ("By dnat, to another port:", format!("{client} curl http://{VIP}:8080/")),
        ("The load balancer answers for the VIP:", format!("{client} ping -c 3 {VIP}")),
        (
            "What crosses the load balancer's port, both ways, as the router sees it:",
            format!("{router} tcpdump -ni {TO_NODE}"),
        ),
        ("Its counters:", format!("{balancer} curl -s http://{METRICS}/metrics")),
        (
            "What they mean, and rules and a dashboard for them:",
            "docs/metrics.md, conf/prometheus, conf/grafana".into(),
        ),
        ("The services; saved, a change is in force; broken, it is refused:", services.display().to_string()),
        ("Why it was refused:", format!("tail {}", log.display())),
        ("The node's configuration:", configuration.display().to_string()),
        ("When you have seen enough:", "make lab-down".into()),
    ] {
        story.line(format!("  {what}\n      {command}"));
    }
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
