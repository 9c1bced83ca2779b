//! `geneve`, `dnat-dsr`: the receiver is a Cilium node, which must be set to the same dispatch.

use super::{Asked, Part};

pub fn geneve(asked: &Asked) -> Vec<Part> {
    vec![settings(asked, "geneve", "tunnelProtocol: geneve")]
}

pub fn option(asked: &Asked) -> Vec<Part> {
    vec![settings(asked, "opt", "routingMode: native")]
}

fn settings(asked: &Asked, dispatch: &str, further: &str) -> Part {
    let grow = asked.families().map(|is_v4| asked.overhead(is_v4)).max().unwrap_or(0);
    Part::new(
        format!(
            "The server's node runs Cilium, which takes the VIP from what the packet says and puts it into the replies. The node itself needs\n\
             nothing more; Cilium's Helm values:\n\
             \x20   kubeProxyReplacement: true\n\
             \x20   loadBalancer:\n\
             \x20     mode: dsr\n\
             \x20     dsrDispatch: {dispatch}\n\
             \x20   {further}\n\
             Packets grow by {grow} bytes: the network between load balancer and node must carry that much more than clients send."
        ),
        [],
    )
}
