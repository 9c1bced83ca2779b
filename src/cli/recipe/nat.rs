//! `dnat`, `snat`: nothing on the server itself.

use super::Part;

pub fn dnat() -> Vec<Part> {
    let why = "The server needs no VIP and no tunnel. It listens on its own address, on the port that the definitions have for it.\n\
               Its way to the clients must lead back through the load balancer, which gives the replies the VIP's address and port: by its\n\
               default route (ip route replace default via LOAD-BALANCER), or by a rule of the router for what comes from its address and port.";
    vec![Part::new(why, [])]
}

pub fn snat() -> Vec<Part> {
    let why = "The server needs nothing: no VIP, no tunnel, no route of its own. It listens on its own address, on the port that the definitions\n\
               have for it, and sees the load balancer's [snat] addresses instead of its clients'; its way to those must lead to the load balancer.";
    vec![Part::new(why, [])]
}
