//! Every frame ends in exactly one verdict.

use std::time::Duration;

use anyhow::Result;

use super::Scene;
use crate::lab::Lab;
use crate::say::Story;
use crate::wait::{until, with};

pub const SCENE: Scene = Scene { title: "the counters: received = forwarded + answered + punted + dropped", play };

fn play(lab: &mut Lab, story: &mut Story) -> Result<()> {
    story.claim("every frame that was received is in exactly one verdict", || {
        let mut last = String::new();
        until("received equals the sum of verdicts", Duration::from_secs(3), || {
            let metrics = lab.node.metrics()?;
            let total = |verdict: &str| metrics.sum(&format!("penstock_{verdict}_packets_total"));
            let verdicts = ["forwarded", "answered", "punted", "dropped"].map(|verdict| (verdict, total(verdict)));
            let (received, sum) = (total("received"), verdicts.iter().map(|(_, count)| count).sum::<u64>());
            let mut rows = vec![("received".to_string(), received)];
            rows.extend(verdicts.iter().map(|(verdict, count)| (format!("  {verdict}"), *count)));
            let dropped = metrics.of("penstock_dropped_packets_total").filter(|sample| sample.value > 0.0);
            rows.extend(dropped.map(|sample| {
                (format!("    {}", sample.labels.get("reason").map_or("", String::as_str)), sample.value as u64)
            }));
            for service in ["web", "shop"] {
                let packets = metrics.sum_where("penstock_service_packets_total", "service", |name| name == service);
                rows.push((format!("service {service}"), packets));
                for backend in &lab.backends {
                    let packets = metrics.backend_packets(service, &backend.address);
                    rows.push((format!("  {} {}", backend.name, backend.address), packets));
                }
            }
            last = rows.iter().map(|(name, count)| format!("{name:<28}{count:>10}")).collect::<Vec<_>>().join("\n");
            Ok((received == sum && received > 0).then_some(()))
        })
        .map_err(with(|| last.clone()))?;
        Ok(last)
    })
}
