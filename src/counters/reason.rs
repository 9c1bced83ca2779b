//! Why a frame was dropped. Names are stable: dashboards and scripts rely on them.

use std::fmt;

macro_rules! reasons {
    ($($variant:ident $name:literal $help:literal)*) => {
        /// Why a frame was dropped, in the order in which refusals are tested.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Reason {
            $(#[doc = $help] $variant,)*
        }

        impl Reason {
            pub const ALL: &[Self] = &[$(Self::$variant),*];
            pub const COUNT: usize = Self::ALL.len();

            /// The stable snake_case name.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// One sentence for `penstock schema counters`, metrics and the README.
            pub const fn help(self) -> &'static str {
                match self { $(Self::$variant => $help,)* }
            }
        }
    };
}

// A reason stands here once something counts it; a test goes through the list.
reasons! {
    NotForUs "not_for_us" "An IP packet to a VIP in a broadcast or multicast frame, or in one for another station."
    Malformed "malformed" "A length field that cannot be true, or a frame shorter than its headers say."
    BadChecksum "bad_checksum" "The IPv4 header checksum is wrong."
    SourceRouted "source_routed" "An IPv4 source-route option (LSRR, SSRR), or an IPv6 routing header with stations left."
    BadSource "bad_source" "A source that no client can have: 0/8, 127/8, ::, ::1, multicast, broadcast, or a VIP."
    UnknownProtocol "unknown_protocol" "An IP protocol to a VIP that is neither TCP, UDP nor ICMP."
    NoService "no_service" "A known VIP, but no service on that port and protocol."
    SourceRefused "source_refused" "The service's source_ranges or deny_ranges refuse the client."
    FragmentUnknown "fragment_unknown" "A later IP fragment whose first fragment is not remembered."
    NoBackend "no_backend" "No backend of the service may take the packet."
    NoNextHop "no_next_hop" "The MAC address of the next hop is not known (yet), or the mode needs the backend on a connected network."
    TtlExceeded "ttl_exceeded" "TTL or hop limit 1 or less in a mode that routes (rewrites) the packet, and its sender could not be told."
    TooBig "too_big" "The packet as it would be sent exceeds the MTU of the port it leaves by, and its sender could not be told."
    NoRoomForOption "no_room_for_option" "The IPv4 header has no room for the option of dnat-dsr."
    IcmpIgnored "icmp_ignored" "ICMP to a VIP that is neither an echo request nor an error about a service's packet."
    IcmpLimited "icmp_limited" "An error of the fabric about a tunnelled packet that the client would be told of, over the limit."
    FlowTableFull "flow_table_full" "A new flow that must be remembered, no room for it, and where it could go unremembered takes no new flows."
    SnatExhausted "snat_exhausted" "A new flow of \"snat\", and every source address and port of the lcore is taken."
    HandoffFull "handoff_full" "The ring to the lcore that knows the packet's flow is full."
    PuntFull "punt_full" "The ring to the kernel twin is full."
    TxFull "tx_full" "The device's transmit queue is full."
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_snake_case_and_unique() {
        let mut seen = std::collections::HashSet::new();
        for reason in Reason::ALL {
            let name = reason.name();
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
            assert!(seen.insert(name), "{name} stands twice");
            assert_eq!(Reason::ALL[*reason as usize], *reason);
        }
    }
}
