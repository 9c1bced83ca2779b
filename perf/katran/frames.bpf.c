// Gives a program of XDP that puts an outer IPv4 header in front of a packet a frame that it has not seen yet, again and again.
//
// BPF_PROG_TEST_RUN repeats a program on what the program made of the packet the time before: the second time it would see its own outer header.
// So `feed` runs first: it takes that header off, writes the next frame of a capture in the packet's place, and jumps to the program, which is unchanged
// and runs as it does behind Katran's xdp_root. `alone` does what `feed` does and jumps to a program that does nothing: what is to be subtracted.

#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#define FRAME 60
#define OUTER 20

// A frame, which begins at the third byte: its IP header is aligned as the words are. So what parses the packet never loads across two of the stores
// below, which would have to wait for both.
struct frame {
	__u64 words[8];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct frame);
	__uint(max_entries, 1); // The loader says how many.
} frames SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, 2);
} next SEC(".maps");

const volatile __u32 count = 1;
__u32 at;

// Moves the packet's start, and writes the next frame there.
static __always_inline int put(struct xdp_md *packet, int shift)
{
	struct frame *frame;
	void *data, *end;
	__u32 index = at;

	at = index + 1 < count ? index + 1 : 0;
	frame = bpf_map_lookup_elem(&frames, &index);
	if (!frame || (shift && bpf_xdp_adjust_head(packet, shift)))
		return 0;
	data = (void *)(long)packet->data;
	end = (void *)(long)packet->data_end;
	if (data + FRAME > end)
		return 0;
	*(__u16 *)data = frame->words[0] >> 16;
	*(__u32 *)(data + 2) = frame->words[0] >> 32;
#pragma unroll
	for (int word = 1; word < 7; word++)
		*(__u64 *)(data + 8 * word - 2) = frame->words[word];
	*(__u32 *)(data + 54) = frame->words[7];
	*(__u16 *)(data + 58) = frame->words[7] >> 32;
	return 1;
}

static __always_inline int length(struct xdp_md *packet)
{
	return packet->data_end - packet->data;
}

SEC("xdp")
int feed(struct xdp_md *packet)
{
	if (put(packet, length(packet) - FRAME))
		bpf_tail_call(packet, &next, 0);
	return XDP_ABORTED;
}

// Nobody puts a header in front here. So that the start is moved once each time, as in `feed`, it goes forth and back.
SEC("xdp")
int alone(struct xdp_md *packet)
{
	if (put(packet, length(packet) > FRAME ? OUTER : -OUTER))
		bpf_tail_call(packet, &next, 1);
	return XDP_ABORTED;
}

SEC("xdp")
int nothing(struct xdp_md *packet)
{
	return XDP_TX;
}

char license_text[] SEC("license") = "Dual MIT/GPL";
