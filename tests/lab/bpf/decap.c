// The receiving half of `ipip` where the kernel has no tunnel device of its own: takes the outer IPv4 header off
// a packet of protocol 4 (RFC 2003) and lets the stack go on with the inner one, on the same interface.
//
//   before  | Ethernet | outer IPv4, protocol 4 | inner IPv4 | TCP or UDP ...
//   after   | Ethernet |                          inner IPv4 | TCP or UDP ...
//
// Two programs that do the same: one for tc's ingress hook, one for XDP, as kernels are built with either. A real
// server that has `ipip` needs neither.

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

// penstock sends no options in the outer header, so its length is fixed.
#define OUTER sizeof(struct iphdr)

// Whether the frame carries IPv4 in IPv4.
static __always_inline int is_ipip(void *data, void *end)
{
	struct ethhdr *ethernet = data;
	struct iphdr *outer = data + sizeof(*ethernet);
	struct iphdr *inner = (void *)outer + OUTER;

	if ((void *)(inner + 1) > end)
		return 0;
	return ethernet->h_proto == bpf_htons(ETH_P_IP) && outer->ihl == 5 && outer->protocol == IPPROTO_IPIP &&
	       inner->version == 4;
}

SEC("tc")
int decapsulate_tc(struct __sk_buff *skb)
{
	if (bpf_skb_pull_data(skb, sizeof(struct ethhdr) + 2 * OUTER) ||
	    !is_ipip((void *)(long)skb->data, (void *)(long)skb->data_end))
		return TC_ACT_OK;
	// The bytes between the Ethernet header and the inner one go; a failure leaves no packet worth keeping.
	return bpf_skb_adjust_room(skb, -(int)OUTER, BPF_ADJ_ROOM_MAC, 0) ? TC_ACT_SHOT : TC_ACT_OK;
}

SEC("xdp")
int decapsulate_xdp(struct xdp_md *frame)
{
	void *data = (void *)(long)frame->data;
	void *end = (void *)(long)frame->data_end;
	struct ethhdr ethernet;

	if (!is_ipip(data, end))
		return XDP_PASS;
	__builtin_memcpy(&ethernet, data, sizeof(ethernet));
	if (bpf_xdp_adjust_head(frame, OUTER))
		return XDP_DROP;
	data = (void *)(long)frame->data;
	end = (void *)(long)frame->data_end;
	if (data + sizeof(ethernet) > end)
		return XDP_DROP;
	__builtin_memcpy(data, &ethernet, sizeof(ethernet));
	return XDP_PASS;
}

char license_text[] SEC("license") = "Dual MIT/GPL";
