//! The forwarder's side: the counters that a node serves to Prometheus.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::trial::Counted;
use crate::{interrupt, node};

/// All ports and lcores together.
pub fn read(metrics: SocketAddr) -> anyhow::Result<Counted> {
    let text =
        node::get(metrics, "/metrics").with_context(|| format!("the node's metrics, http://{metrics}/metrics"))?;
    parse(&text).with_context(|| format!("http://{metrics}/metrics is no node's"))
}

/// The same, once they stand still: what a late node had still in its queues is counted by then. One that never rests is read as it is.
pub fn at_rest(metrics: SocketAddr) -> anyhow::Result<Counted> {
    const PAUSE: Duration = Duration::from_millis(100);
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut counted = read(metrics)?;
    loop {
        interrupt::sleep(PAUSE)?;
        let again = read(metrics)?;
        if again == counted || Instant::now() > deadline {
            return Ok(again);
        }
        counted = again;
    }
}

fn parse(text: &str) -> Option<Counted> {
    let sum = |name: &str| {
        let values: Vec<f64> = node::series(text, name).map(|(_, value)| value).collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() as u64)
    };
    let mut counted = Counted {
        received: sum("penstock_received_packets_total")?,
        forwarded: sum("penstock_forwarded_packets_total")?,
        answered: sum("penstock_answered_packets_total")?,
        punted: sum("penstock_punted_packets_total")?,
        missed: sum("penstock_port_missed_packets_total").unwrap_or(0),
        ..Counted::default()
    };
    for (labels, value) in node::series(text, "penstock_dropped_packets_total") {
        let reason = labels.split_once("reason=\"")?.1.split('"').next()?;
        *counted.dropped.entry(reason.to_owned()).or_insert(0) += value as u64;
    }
    Some(counted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_lcores_are_added_up() {
        let text = "\
penstock_received_packets_total{port=\"wan0\",lcore=\"1\"} 10
penstock_received_packets_total{port=\"wan0\",lcore=\"2\"} 5
penstock_forwarded_packets_total{port=\"wan0\",lcore=\"1\"} 12
penstock_answered_packets_total{port=\"wan0\",lcore=\"1\"} 0
penstock_punted_packets_total{port=\"wan0\",lcore=\"1\"} 1
penstock_dropped_packets_total{port=\"wan0\",lcore=\"1\",reason=\"tx_full\"} 1
penstock_dropped_packets_total{port=\"wan0\",lcore=\"2\",reason=\"tx_full\"} 1
penstock_port_missed_packets_total{port=\"wan0\"} 7
";
        let counted = parse(text).unwrap();
        assert_eq!((counted.received, counted.forwarded, counted.punted, counted.missed), (15, 12, 1, 7));
        assert_eq!(counted.dropped["tx_full"], 2);
        assert_eq!(parse("node_cpu_seconds_total 1"), None);
    }
}
