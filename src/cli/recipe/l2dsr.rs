//! `l2dsr`: the server has the VIP, on the load balancer's own network; that is all.

use super::Part;

pub fn parts() -> Vec<Part> {
    let why = "The server must be on a network that the load balancer is connected to: only the Ethernet addresses change on the way.";
    vec![Part::new(why, [])]
}
