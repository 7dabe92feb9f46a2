/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * What the programs share with user space: maps, their keys and values, counters. And what they
 * call.
 */
#pragma once
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/types.h>
#include <linux/udp.h>
#include <stddef.h>

#define SECTION(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))
#define RARE(condition) __builtin_expect(!!(condition), 0)
#define WIRE16(number) __builtin_bswap16(number)

/* Names that the headers of older kernels lack. */
#define NEXT -1
#define DROP 2
#define F_IPV6 (1ULL << 7)
#define HOST 0

/* The sign of packets that `ingress` has translated, in a word that outlives the redirection. */
#define REDIRECTED 0x6b62652d

/* The maps' values, and how long they are: src/layout.rs has the same. A map's key is the digest of a
 * packet's ends (frame.bpf.h).
 */

/* Both ends of a packet. Of the addresses, source before destination as in the IP header, IPv4 has
 * two words and IPv6 eight; the structure is as long as these, so that one serves both families.
 */
struct ends {
	__be16 ports[2];
	__u32 protocol;
	__be32 addresses[8];
} __attribute__((aligned(8)));

/* What becomes of packets with these ends. The kernel may give an entry's memory to another flow
 * while a program reads it: `seal` says whether what has been read from `expires` on belongs
 * together. What stands before it is written in place.
 */
struct flow {
	__u64 packets, bytes;
	__u64 slow_at; /* nanoseconds, as `expires` */
	__be32 sequence, acknowledged; /* by the latest packet of TCP */
	__u64 expires; /* CLOSED or RESET at the end of a connection */
	__u32 generation;
	__u32 device;
	__u32 arrival; /* the device by which these packets come */
	__u32 longest; /* of the packets that have left by the kernel's way since the lease began */
	__u16 address_delta, port_delta; /* of checksums, RFC 1624 */
	__u32 link[3];                   /* both Ethernet addresses */
	__u32 is_peer;
	__u32 seal;
	struct ends leaving;
	struct ends room; /* the ends of arriving packets follow `leaving` at once */
};

/* In the place of a time, which is later. In RESET's case `slow_at` says when that was. */
#define CLOSED 0
#define RESET 1

/* What user space is told of a direction of a flow: src/layout.rs has the same. */
struct notice {
	struct ends arriving, leaving;
	__u32 family;
	__u32 topic;
};

enum topic {
	WAS_RESET,   /* a RST has come */
	MUCH_PASSED, /* the cache has carried another VOLUME */
};

/* Bytes, by their logarithm: a quarter of what sequence numbers tell apart as earlier and later. */
#define VOLUME 29

/* Bytes between the sequence numbers of a FIN or RST and what is known of its connection: what Linux
 * lets a connection have on its way, unless it is set otherwise (tcp_wmem).
 */
#define NEAR (4 << 20)

/* How packets with such ends leave. Its memory, too, may become another flow's. */
struct proposal {
	__u64 seal;
	struct ends leaving;
	struct ends room; /* as above */
};

/* Where a translated packet leaves. */
struct way {
	__u32 device, is_peer;
};

/* Written by user space; times are nanoseconds of the coarse monotonic clock. */
struct control {
	__u64 alive_until;
	__u64 retry, lease, expiry;
	__u64 secret;  /* of seals, another one at each start */
	__u64 keys[5]; /* of digests, as secret */
	__u32 generation;
};

enum family { V4, V6 };

INLINE int addresses_length(enum family family)
{
	return family == V4 ? 8 : 32;
}

INLINE int ends_length(enum family family)
{
	return offsetof(struct ends, addresses) + addresses_length(family);
}

_Static_assert(offsetof(struct ends, addresses) == 8, "layout.rs: ENDS");
_Static_assert(offsetof(struct flow, leaving) == 80, "layout.rs: FLOW");
_Static_assert(offsetof(struct proposal, leaving) == 8, "layout.rs: PROPOSAL");
_Static_assert(sizeof(struct notice) == 88, "layout.rs: NOTICE");

/* The loader puts a map's descriptor in the place of each of these names. */
extern const struct map flows4, flows6, proposals4, proposals6, peers, voids, counters, notices;
extern const volatile struct control control;

static void *(*const lookup)(const void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static long (*const update)(const void *map, const void *key, const void *value,
			    __u64 flags) = (void *)BPF_FUNC_map_update_elem;
static long (*const remove)(const void *map, const void *key) = (void *)BPF_FUNC_map_delete_elem;
static long (*const push)(const void *queue, const void *value,
			  __u64 flags) = (void *)BPF_FUNC_map_push_elem;
static __u64 (*const now_coarse)(void) = (void *)BPF_FUNC_ktime_get_coarse_ns;
static long (*const pull)(struct __sk_buff *packet, __u32 length) = (void *)BPF_FUNC_skb_pull_data;
static long (*const change_tail)(struct __sk_buff *packet, __u32 length,
				 __u64 flags) = (void *)BPF_FUNC_skb_change_tail;
static long (*const l4_checksum)(struct __sk_buff *packet, __u32 offset, __u64 from, __u64 to,
				 __u64 flags) = (void *)BPF_FUNC_l4_csum_replace;
static __s64 (*const difference)(const __be32 *from, __u32 from_size, const __be32 *to,
				 __u32 to_size, __u32 seed) = (void *)BPF_FUNC_csum_diff;
static __s64 (*const add_checksum)(struct __sk_buff *packet,
				   __u32 sum) = (void *)BPF_FUNC_csum_update;
static long (*const redirect)(__u32 device, __u64 flags) = (void *)BPF_FUNC_redirect;
static long (*const redirect_peer)(__u32 device, __u64 flags) = (void *)BPF_FUNC_redirect_peer;

/* How many devices are told apart when entries are made void: src/layout.rs has the same. */
#define DEVICES 4096

/* What has been counted, per processor: src/counters.rs has the same order. */
enum count {
	HIT,
	MISS,
	OTHER, /* another protocol */
	FOREIGN,
	OPTIONS,
	FRAGMENT,
	LENGTH,
	TORN,
	OTHER_DEVICE,
	CLOSING,
	NO_HEARTBEAT,
	VOID,
	EXPIRED,
	TIME_TO_LIVE,
	LONGER,
	RENEWAL,
	CHECKSUM,
	ENTERED,
	RENEWED,
	ENDED,
	REOPENED,
	OUT_OF_WINDOW,
	UNTOLD,
	COUNTS,
};

INLINE void count(enum count what)
{
	__u32 first = 0;
	__u64 *numbers = lookup(&counters, &first);
	if (numbers)
		numbers[what]++;
}
