// Loads Katran's balancer, fills its maps with the bench's service, sees that every frame comes out as it should, and measures. Called by `run`:
//
//   measure balancer.bpf.o frames.bpf.o acks-1000.pcap CPU ROUNDS
//
// For each round and case a line: flows, case, and of a packet the nanoseconds, the nanoseconds without what feeds it, and those as TSC cycles. It pins
// nothing and attaches to no interface: when it ends, all is gone.

#define _GNU_SOURCE
#include <endian.h>
#include <err.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <x86intrin.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>

// Katran's own, for the layout of its maps.
#include "katran/lib/bpf/balancer_consts.h"
#include "katran/lib/bpf/balancer_structs.h"

#define FRAME 60
#define BACKENDS 100
// A round is short, so that some fall between what others take of the machine.
#define PACKETS 100000
// What Katran gives to each of eight forwarding CPUs, unless told otherwise (kDefaultLruSize).
#define LRU_ENTRIES 1000000

#define CHECK(call) do { if (call) err(1, "%s", #call); } while (0)

static const __u8 router[ETH_ALEN] = { 0x02, 0, 0, 0, 0, 0xfe };

static struct bpf_object *balancer, *frames_object;
static __u8 (*frames)[FRAME];
static __u32 count, flows;

static void *must(const char *what, void *pointer)
{
	if (!pointer)
		err(1, "%s", what);
	return pointer;
}

static int map(struct bpf_object *object, const char *name)
{
	return bpf_map__fd(must(name, bpf_object__find_map_by_name(object, name)));
}

static int program(struct bpf_object *object, const char *name)
{
	return bpf_program__fd(must(name, bpf_object__find_program_by_name(object, name)));
}

static void set(int fd, __u32 key, const void *value)
{
	CHECK(bpf_map_update_elem(fd, &key, value, BPF_ANY));
}

static void read_capture(const char *path)
{
	FILE *file = must(path, fopen(path, "r"));
	struct { __u32 seconds, fraction, kept, length; } record;

	CHECK(fseek(file, 24, SEEK_SET));
	while (fread(&record, sizeof record, 1, file) == 1) {
		if (record.kept != FRAME)
			errx(1, "%s: a frame of %u bytes, not %d", path, record.kept, FRAME);
		frames = must("realloc", realloc(frames, (count + 1) * sizeof *frames));
		if (fread(frames[count++], FRAME, 1, file) != 1)
			errx(1, "%s: ends within a frame", path);
	}
	fclose(file);
	if (!count)
		errx(1, "%s: no frames", path);
	// A capture of fewer flows than a burst repeats them.
	for (flows = 1; flows < count && memcmp(frames[flows], frames[0], FRAME); flows++)
		;
}

// The VIP of the frames, with these flags.
static void set_vip(__u32 flags)
{
	struct vip_definition vip = { .proto = frames[0][23] };
	struct vip_meta meta = { .flags = flags };

	memcpy(&vip.vip, &frames[0][30], sizeof vip.vip);
	memcpy(&vip.port, &frames[0][36], sizeof vip.port);
	CHECK(bpf_map_update_elem(map(balancer, "vip_map"), &vip, &meta, BPF_ANY));
}

static void load_balancer(const char *path, int cpu)
{
	struct ctl_value mac = {};
	int lru;

	balancer = must(path, bpf_object__open_file(path, NULL));
	CHECK(bpf_object__load(balancer));
	memcpy(mac.mac, router, sizeof router);
	set(map(balancer, "ctl_array"), 0, &mac);
	set_vip(0);
	// Backend 0 is none of Katran's.
	for (__u32 backend = 1; backend <= BACKENDS; backend++)
		set(map(balancer, "reals"), backend, &(struct real_definition){ .dst = htobe32(0x0a010000 + backend) });
	for (__u32 slot = 0; slot < RING_SIZE; slot++)
		set(map(balancer, "ch_rings"), slot, &(__u32){ slot % BACKENDS + 1 });
	lru = bpf_map_create(BPF_MAP_TYPE_LRU_HASH, "lru", sizeof(struct flow_key), sizeof(struct real_pos_lru), LRU_ENTRIES, NULL);
	CHECK(lru < 0);
	set(map(balancer, "lru_mapping"), cpu, &lru);
}

static void load_frames(const char *path)
{
	size_t size;
	struct bpf_map *data;
	int fds[2];

	frames_object = must(path, bpf_object__open_file(path, NULL));
	CHECK(bpf_map__set_max_entries(must("frames", bpf_object__find_map_by_name(frames_object, "frames")), count));
	data = must(".rodata", bpf_object__find_map_by_name(frames_object, ".rodata"));
	*(__u32 *)bpf_map__initial_value(data, &size) = count;
	CHECK(bpf_object__load(frames_object));
	for (__u32 frame = 0; frame < count; frame++) {
		__u8 aligned[64] = {};

		memcpy(aligned + 2, frames[frame], FRAME);
		set(map(frames_object, "frames"), frame, aligned);
	}
	fds[0] = program(balancer, "balancer_ingress");
	fds[1] = program(frames_object, "nothing");
	for (int place = 0; place < 2; place++)
		set(map(frames_object, "next"), place, &fds[place]);
}

// One of Katran's counters, of all CPUs.
static __u64 counter(const char *name, __u32 key, int second)
{
	int cpus = libbpf_num_possible_cpus();
	struct lb_stats *stats = must("calloc", calloc(cpus, sizeof *stats));
	__u64 sum = 0;

	CHECK(bpf_map_lookup_elem(map(balancer, name), &key, stats));
	for (int cpu = 0; cpu < cpus; cpu++)
		sum += second ? stats[cpu].v2 : stats[cpu].v1;
	free(stats);
	return sum;
}

// Nanoseconds a packet, of the loop alone, as the kernel tells them: whole ones. The call itself takes milliseconds more, for the grace periods of RCU.
static __u32 run(int fd, __u32 repeat, __u8 *out, __u32 *length)
{
	LIBBPF_OPTS(bpf_test_run_opts, options, .data_in = frames[0], .data_size_in = FRAME, .data_out = out, .data_size_out = *length, .repeat = repeat);

	CHECK(bpf_prog_test_run_opts(fd, &options));
	if (options.retval != 3 /* XDP_TX */)
		errx(1, "the program answers %u, not XDP_TX", options.retval);
	*length = options.data_size_out;
	return options.duration;
}

// Every frame once: encapsulated as it should be, to one of the backends; and once more, to the same.
static void verify(void)
{
	int fd = program(frames_object, "feed"), used = 0;
	__u32 *backend_of = must("calloc", calloc(count, sizeof *backend_of));
	__u64 to[BACKENDS] = {};

	for (__u32 turn = 0; turn < 2 * count; turn++) {
		__u8 out[256], *frame = frames[turn % count];
		struct iphdr outer;
		__u32 length = sizeof out, sum = 0, backend;

		run(fd, 1, out, &length);
		memcpy(&outer, out + ETH_HLEN, sizeof outer);
		for (int at = 0; at < 20; at += 2)
			sum += out[ETH_HLEN + at] << 8 | out[ETH_HLEN + at + 1];
		backend = be32toh(outer.daddr) - 0x0a010001;
		if (length != FRAME + sizeof outer || memcmp(out, router, ETH_ALEN) || outer.version != 4 || outer.ihl != 5 ||
		    outer.protocol != IPPROTO_IPIP || be16toh(outer.tot_len) != 60 || (sum & 0xffff) + (sum >> 16) != 0xffff || backend >= BACKENDS ||
		    memcmp(out + ETH_HLEN + sizeof outer, frame + ETH_HLEN, FRAME - ETH_HLEN) || (turn >= count && backend_of[turn % count] != backend))
			errx(1, "frame %u comes out wrong: %u bytes, protocol %u to %08x", turn % count, length, outer.protocol, be32toh(outer.daddr));
		backend_of[turn % count] = backend;
		used += !to[backend]++;
	}
	if (used < (flows < BACKENDS ? 1 : BACKENDS / 2))
		errx(1, "%u flows reach %d backends", flows, used);
	fprintf(stderr, "%u flows: each frame comes out of Katran with an outer header, to %d backends\n", flows, used);
	free(backend_of);
}

// Nanoseconds a packet; of Katran's every packet must have been sent, and looked for in the table of flows or not, as told.
static __u32 turn(const char *name, int misses)
{
	__u8 out[256];
	__u32 length = sizeof out;
	__u64 sent = counter("stats", MAX_VIPS + XDP_TX_CNTR, 0), missed = counter("stats", MAX_VIPS + LRU_CNTRS, 1);
	__u64 expected = misses < 0 ? 0 : PACKETS;
	__u32 taken = run(program(frames_object, name), PACKETS, out, &length);

	sent = counter("stats", MAX_VIPS + XDP_TX_CNTR, 0) - sent;
	missed = counter("stats", MAX_VIPS + LRU_CNTRS, 1) - missed;
	if (sent != expected || missed != (misses > 0 ? expected : 0))
		errx(1, "%s: Katran sent %llu of %llu packets, and chose anew for %llu", name, sent, expected, missed);
	return taken;
}

static double nanoseconds(void)
{
	struct timespec now;

	CHECK(clock_gettime(CLOCK_MONOTONIC_RAW, &now));
	return now.tv_sec * 1e9 + now.tv_nsec;
}

static void tell(const char *what, int with, int without, double rate)
{
	printf("%u\t%s\t%d\t%d\t%.1f\n", flows, what, with, without, without * rate);
}

int main(int argc, char **argv)
{
	cpu_set_t cpus;
	int cpu, rounds;
	double start;
	__u64 tsc;

	if (argc != 6)
		errx(2, "see %s", __FILE__);
	cpu = atoi(argv[4]);
	rounds = atoi(argv[5]);
	CPU_ZERO(&cpus);
	CPU_SET(cpu, &cpus);
	CHECK(sched_setaffinity(0, sizeof cpus, &cpus));
	read_capture(argv[3]);
	load_balancer(argv[1], cpu);
	load_frames(argv[2]);
	verify();

	start = nanoseconds();
	tsc = __rdtsc();
	// The first round warms up.
	for (int round = 0; round <= rounds; round++) {
		__u32 alone, lru, bypass;
		double rate;

		alone = turn("alone", -1);
		lru = turn("feed", 0);
		set_vip(F_LRU_BYPASS);
		bypass = turn("feed", 1);
		set_vip(0);
		rate = (__rdtsc() - tsc) / (nanoseconds() - start);
		if (round) {
			tell("what feeds it", alone, alone, rate);
			tell("Katran, flow in its LRU", lru, lru - alone, rate);
			tell("Katran, LRU bypassed", bypass, bypass - alone, rate);
		}
	}
	return 0;
}
