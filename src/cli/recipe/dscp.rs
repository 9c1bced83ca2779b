//! `dscp`: the code point says which VIP was meant, and one stateless rule puts it back.

use super::{Asked, Part, Step};

pub fn parts(asked: &Asked) -> Vec<Part> {
    let code = asked.dscp();
    let why = format!(
        "Packets of code point {code} to the server's own address become ones to the VIP, before anything else looks at them.\n\
         Nobody else may send it any: let the network clear DSCP at its edge."
    );
    let restore = |vip: &ipnet::IpNet| Step::Restore { code, own: asked.own(vip.addr().is_ipv4()), vip: vip.addr() };
    vec![Part::new(why, asked.vips.iter().map(restore))]
}
