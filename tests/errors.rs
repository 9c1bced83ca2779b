//! ICMP errors about packets of services, in each mode, held against errors that are built from scratch.

mod support;

use std::net::IpAddr;

use penstock::pipeline::Verdict;
use penstock::snapshot::{Millis, PortIndex};
use proptest::prelude::*;
use support::expected::*;
use support::packets::*;

const FORWARD: Verdict = Verdict::Forward(PortIndex(0));

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The error goes to the backend that its flow goes to, in the flow's own mode; what it quotes is the backend's business.
    #[test]
    fn errors_go_through_tunnels_untouched(v4 in client(0), v6 in client(1), more in 0usize..400, tos: u8) {
        for (&tunnel, (vip, backend)) in Tunnel::ALL.iter().flat_map(|tunnel| pairs().map(move |pair| (tunnel, pair))) {
            let packet = if vip == 0 { &v4 } else { &v6 };
            let error = |to: IpAddr| error(ROUTER[vip], to, 60, tos, &answer_to(packet), kept(vip, packet, more));
            let mut node = node(&[&tunnel.service(vip, backend)], "");
            let (verdict, got) = node.receive(&frame(&error(packet.to.0), &[], 0));
            prop_assert_eq!(verdict, FORWARD);
            let flow = Packet { tos, df: true, ..packet.clone() };
            let wanted = tunnel.around(&error(tunnel.inner(packet.to).0), &flow, backend);
            prop_assert_eq!(&got, &sent(&wanted), "{:?}", tunnel);
        }
    }

    #[test]
    fn errors_by_l2dsr_stay_as_they_are(v4 in client(0), v6 in client(1), more in 0usize..400, tos: u8) {
        for (family, packet) in [v4, v6].iter().enumerate() {
            let error = error(ROUTER[family], packet.to.0, 1, tos, &answer_to(packet), kept(family, packet, more));
            let got = to("l2dsr", family, family, "").receive(&frame(&error, &[], 0));
            prop_assert_eq!(got, (FORWARD, sent(&error)));
        }
    }

    /// As by `dnat`, without the option: whatever opened the flow has told the node.
    #[test]
    fn errors_by_dnat_dsr_are_translated(
        v4 in client(0), v6 in client(1), more in 0usize..400, own_port: bool, host: bool, prefix: bool,
    ) {
        for (family, packet) in [v4, v6].iter().enumerate() {
            let vip = if prefix { ["192.0.2.0/24", "2001:db8:1::/64"][family] } else { VIP[family] };
            let (order, port) = (
                if host { r#""byte_order": "host","# } else { "" },
                if own_port { ", \"port\": 8080" } else { "" },
            );
            let service = format!(
                r#""vip": "{vip}", "forwarding": "dnat-dsr", {order} "backends": [{{"address": "{}"{port}}}]"#,
                BACKEND[family]
            );
            let backend = (ip(BACKEND[family]), if own_port { 8080 } else { packet.to.1 });
            let (answer, length) = (answer_to(packet), kept(family, packet, more));
            let received = error(ROUTER[family], packet.to.0, 60, 0, &answer, length);
            let (verdict, got) = node(&[&service], "").receive(&frame(&received, &[], 0));
            prop_assert_eq!(verdict, FORWARD);
            let wanted = error(ROUTER[family], backend.0, 59, 0, &Packet { from: backend, ..answer }, length);
            prop_assert_eq!(&got, &sent(&wanted));
        }
    }

    #[test]
    fn errors_by_dnat_are_translated_inside_and_outside(v4 in client(0), v6 in client(1), more in 0usize..400, own_port: bool) {
        for (family, packet) in [v4, v6].iter().enumerate() {
            let port = if own_port { ", \"port\": 8080" } else { "" };
            let service = format!(
                r#""vip": "{}", "forwarding": "dnat", "backends": [{{"address": "{}"{port}}}]"#, VIP[family], BACKEND[family]
            );
            let mut node = node(&[&service], "");
            let backend = (ip(BACKEND[family]), if own_port { 8080 } else { packet.to.1 });
            let length = kept(family, packet, more);
            let mut about = |from: &str, to: IpAddr, quoted: &Packet| {
                node.receive(&frame(&error(from, to, 60, 0, quoted, length), &[], 0))
            };
            // From the client's side, about an answer of the VIP's: it becomes one about an answer of the backend's.
            let answer = answer_to(packet);
            let (verdict, got) = about(ROUTER[family], packet.to.0, &answer);
            prop_assert_eq!(verdict, FORWARD);
            let wanted = error(ROUTER[family], backend.0, 59, 0, &Packet { from: backend, ..answer.clone() }, length);
            prop_assert_eq!(&got, &sent(&wanted));

            // From the backend's side, about a request: it becomes one about a request to the VIP. A backend's own address
            // becomes the VIP, a router's stays.
            let request = Packet { to: backend, ..packet.clone() };
            for (from, seen) in [(ROUTER[family], ROUTER[family]), (BACKEND[family], VIP[family])] {
                let (verdict, got) = about(from, packet.from.0, &request);
                prop_assert_eq!(verdict, FORWARD);
                let wanted = error(seen, packet.from.0, 59, 0, packet, length);
                prop_assert_eq!(&got[14..], &wanted);
            }
        }
    }

    #[test]
    fn errors_by_dscp_carry_the_code_and_keep_their_quote(
        v4 in client(0), v6 in client(1), more in 0usize..400, tos: u8, prefix: bool,
    ) {
        for (family, packet) in [v4, v6].iter().enumerate() {
            let error = |to: IpAddr, ttl, tos| {
                error(ROUTER[family], to, ttl, tos, &answer_to(packet), kept(family, packet, more))
            };
            let received = frame(&error(packet.to.0, 60, tos), &[], 0);
            let vip = if prefix { ["192.0.2.0/24", "2001:db8:1::/64"][family] } else { VIP[family] };
            let backend = BACKEND[family];
            let service =
                format!(r#""vip": "{vip}", "forwarding": "dscp", "dscp": 5, "backends": [{{"address": "{backend}"}}]"#);
            let (verdict, got) = node(&[&service], "").receive(&received);
            prop_assert_eq!(verdict, FORWARD);
            let wanted = error(ip(BACKEND[family]), 59, 5 << 2 | tos & 3);
            prop_assert_eq!(&got, &sent(&wanted));
        }
    }
}

/// RFC 1122, section 3.2.2: of an ICMP error nobody is told by another, and of a later fragment neither.
#[test]
fn what_the_fabric_says_of_an_error_or_a_later_fragment_is_learnt_and_not_relayed() {
    for (&tunnel, (vip, backend)) in Tunnel::ALL.iter().flat_map(|tunnel| pairs().map(move |pair| (tunnel, pair))) {
        let packet = plain(vip, true, 1400);
        let error = error(ROUTER[vip], packet.to.0, 60, 0, &answer_to(&packet), 400);
        let [first, later] = fragments(&packet, 600, 7);
        let mut node = node(&[&tunnel.service(vip, backend)], "");
        let mut sent = |packet: &[u8]| {
            let (verdict, sent) = node.receive(&frame(packet, &[], 0));
            assert_eq!(verdict, FORWARD);
            sent
        };
        let (about_first, about_error, about_later) = (sent(&first), sent(&error), sent(&later));
        for (about, mtu) in [(about_error, 1320), (about_later, 1310)] {
            let what = format!("{tunnel:?} {vip} {backend}");
            assert_eq!(node.verdict(&complaint(&about, mtu, 500)), Verdict::Punt, "{what}");
            assert!(node.compiler.learn(Millis(0)), "{what}: the way is narrower all the same");
        }
        let told = node.verdict(&complaint(&about_first, 1300, 500));
        assert_eq!(told, Verdict::Answer(PortIndex(0)));
    }
}
