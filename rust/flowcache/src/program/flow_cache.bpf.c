/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * A cache of translated flows, on a device's way in (`ingress`) and on its way out (`egress`).
 *
 * One rule keeps it right: only a packet that has gone the kernel's whole way, and left, may make or
 * renew an entry. User space proposes how a flow is translated. `egress` sees the first packet of
 * that flow that has passed every rule, route and neighbour, and enters the flow with the device
 * and link header that the kernel has used. From then on `ingress` translates the flow's packets
 * by itself and sends them out there. Once a lease it lets a packet go the kernel's way: with it
 * connection tracking, the neighbour and the entry are renewed, or, if a rule drops it meanwhile,
 * they are not.
 *
 * A packet that `ingress` does not understand, or about which it has a doubt, goes the kernel's way
 * untouched. The answer for that is TCX_NEXT: TCX_PASS would keep programs behind this one from
 * seeing the packet.
 */
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
#define F_IPV6 (1ULL << 7)
#define HOST 0

/* The sign of packets that `ingress` has translated, in a word that outlives the redirection. */
#define REDIRECTED 0x6b62652d

/* The maps' values and keys, and how long they are: src/layout.rs has the same. */

/* Both ends of a packet. Of the addresses, source before destination as in the IP header, IPv4 has
 * two words and IPv6 eight; keys end with them, so that one structure serves both families.
 */
struct ends {
	__be16 ports[2];
	__u32 protocol;
	__be32 addresses[8];
};

/* What becomes of packets with these ends. Only `egress` writes what stands behind `expires`, and
 * then it replaces the whole: `ingress` never sees a half of it.
 */
struct flow {
	__u64 packets, bytes;
	__u64 slow_at, expires; /* nanoseconds; 0 as the end of what has been closed */
	__u32 generation;
	__u32 device;
	__u32 longest; /* of the packets that have left by the kernel's way since the lease began */
	__u16 address_delta, port_delta; /* of checksums, RFC 1624 */
	__u32 link[3];                   /* both Ethernet addresses */
	__u32 is_peer;
	struct ends leaving;
};

/* Where a translated packet leaves. */
struct way {
	__u32 device, is_peer;
};

/* Written by user space; times are nanoseconds of the coarse monotonic clock. */
struct control {
	__u64 alive_until;
	__u64 retry, lease, expiry;
	__u32 generation;
};

enum family { V4, V6 };

INLINE int addresses_length(enum family family)
{
	return family == V4 ? 8 : 32;
}

_Static_assert(offsetof(struct ends, addresses) == 8, "layout.rs: ENDS");
_Static_assert(offsetof(struct flow, leaving) == 64, "layout.rs: FLOW");

/* The loader puts a map's descriptor in the place of each of these names. */
extern const struct map flows4, flows6, proposals4, proposals6, peers, counters;
extern const volatile struct control control;

static void *(*const lookup)(const void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static long (*const update)(const void *map, const void *key, const void *value,
			    __u64 flags) = (void *)BPF_FUNC_map_update_elem;
static long (*const remove)(const void *map, const void *key) = (void *)BPF_FUNC_map_delete_elem;
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

/* What has been counted, per processor: src/counters.rs has the same order. */
enum count {
	HIT,
	MISS,
	OTHER, /* another protocol */
	FOREIGN,
	OPTIONS,
	FRAGMENT,
	LENGTH,
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
	COUNTS,
};

INLINE void count(enum count what)
{
	__u32 first = 0;
	__u64 *numbers = lookup(&counters, &first);
	if (numbers)
		numbers[what]++;
}

/* Read anew each time: the verifier loses the type of what the compiler keeps. */
INLINE void *start_of(const volatile struct __sk_buff *packet)
{
	return (void *)(long)packet->data;
}

INLINE void *end_of(const volatile struct __sk_buff *packet)
{
	return (void *)(long)packet->data_end;
}

/* The frame, if its first bytes are in one piece or can be brought together; otherwise null. Calls
 * that may move the packet end what this has returned.
 */
INLINE void *frame_of(struct __sk_buff *packet, __u32 length)
{
	void *frame = start_of(packet);
	if (frame + length <= end_of(packet))
		return frame;
	if (packet->len < length || pull(packet, length))
		return 0;
	frame = start_of(packet);
	return frame + length <= end_of(packet) ? frame : 0;
}

INLINE __u16 folded(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

INLINE int header_length(enum family family)
{
	return ETH_HLEN + (family == V4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr));
}

INLINE __be32 *addresses_of(void *frame, enum family family)
{
	return frame + ETH_HLEN +
	       (family == V4 ? offsetof(struct iphdr, saddr) : offsetof(struct ipv6hdr, saddr));
}

INLINE void copy(__be32 *to, const __be32 *from, enum family family)
{
	__builtin_memcpy(to, from, addresses_length(family));
}

/* The ends of the answers. */
INLINE void reverse(struct ends *to, const struct ends *from, enum family family)
{
	const int half = addresses_length(family) / 8;
	to->ports[0] = from->ports[1];
	to->ports[1] = from->ports[0];
	to->protocol = from->protocol;
	__builtin_memcpy(to->addresses, from->addresses + half, half * 4);
	__builtin_memcpy(to->addresses + half, from->addresses, half * 4);
}

INLINE const void *flows_of(enum family family)
{
	return family == V4 ? &flows4 : &flows6;
}

INLINE const void *proposals_of(enum family family)
{
	return family == V4 ? &proposals4 : &proposals6;
}

/* A frame whose ends can be told: TCP or UDP in one piece, without options of IP. */
struct view {
	void *frame;
	__u32 length;    /* of the IP packet, as its header says; at most this is behind Ethernet's */
	__u32 size;      /* of the longest IP packet that comes of it: it may be many segments */
	__u8 is_closing; /* FIN, SYN or RST */
};

/* HIT if such a frame is here, otherwise why not. */
INLINE enum count view_of(struct __sk_buff *packet, enum family family, struct view *view,
			  struct ends *ends)
{
	const int head = header_length(family);
	__u32 headers;
	void *frame = frame_of(packet, head + sizeof(struct udphdr));
	if (RARE(!frame))
		return LENGTH;
	if (family == V4) {
		struct iphdr *ip = frame + ETH_HLEN;
		if (RARE(*(__u8 *)ip != 0x45))
			return OPTIONS;
		/* The bit for more fragments, and an offset; "do not fragment" may be set. */
		if (RARE(ip->frag_off & WIRE16(0x3fff)))
			return FRAGMENT;
		ends->protocol = ip->protocol;
		view->length = WIRE16(ip->tot_len);
	} else {
		struct ipv6hdr *ip = frame + ETH_HLEN;
		if (RARE(ip->version != 6))
			return OPTIONS;
		/* Fragments and options have headers of their own, which are other protocols. */
		ends->protocol = ip->nexthdr;
		view->length = sizeof(*ip) + WIRE16(ip->payload_len);
	}
	if (ends->protocol == IPPROTO_TCP) {
		frame = frame_of(packet, head + sizeof(struct tcphdr));
		if (RARE(!frame))
			return LENGTH;
		__u8 *tcp = frame + head;
		view->is_closing = tcp[13] & 7;
		headers = head - ETH_HLEN + (tcp[12] >> 4) * 4;
	} else if (ends->protocol == IPPROTO_UDP) {
		view->is_closing = 0;
		headers = head - ETH_HLEN + sizeof(struct udphdr);
	} else {
		return OTHER;
	}
	view->frame = frame;
	view->size = packet->gso_size ? packet->gso_size + headers : view->length;
	copy(ends->addresses, addresses_of(frame, family), family);
	const __be16 *ports = frame + head;
	ends->ports[0] = ports[0];
	ends->ports[1] = ports[1];
	return HIT;
}

/* A connection ends, or begins anew: connection tracking must see all of it. Proposals go first, or
 * the next slow packet would enter the flow again. Entries stay as they are but for their end, since
 * user space has not read their counters.
 */
INLINE void end(const struct ends *arriving, const struct ends *leaving, enum family family)
{
	struct ends other;
	remove(proposals_of(family), leaving);
	reverse(&other, arriving, family);
	remove(proposals_of(family), &other);
	struct flow *flow = lookup(flows_of(family), arriving);
	if (flow)
		flow->expires = 0;
	reverse(&other, leaving, family);
	flow = lookup(flows_of(family), &other);
	if (flow)
		flow->expires = 0;
	count(ENDED);
}

/* Cuts what follows the IP packet: Ethernet fills short frames up, and the kernel's way does not
 * send that on. Whether the packet is whole. Of many segments, the header may not say the length.
 */
INLINE int is_whole(struct __sk_buff *packet, const struct view *view)
{
	const __u32 length = ETH_HLEN + view->length;
	if (length == packet->len || packet->gso_size)
		return 1;
	return length < packet->len && !change_tail(packet, length, 0);
}

/* HIT: the packet is as it leaves, by the way that is put there. Any other answer is the reason why
 * the packet is untouched.
 */
INLINE enum count translate(struct __sk_buff *packet, enum family family, struct way *way)
{
	struct view view;
	struct ends arriving;
	enum count why = view_of(packet, family, &view, &arriving);
	if (why != HIT)
		return why;
	struct flow *flow = lookup(flows_of(family), &arriving);
	if (!flow)
		return MISS;
	/* Before all else: one that comes when the lease is over must end the entry, too. */
	if (RARE(view.is_closing)) {
		struct ends leaving;
		leaving.ports[0] = flow->leaving.ports[0];
		leaving.ports[1] = flow->leaving.ports[1];
		leaving.protocol = flow->leaving.protocol;
		copy(leaving.addresses, flow->leaving.addresses, family);
		end(&arriving, &leaving, family);
		return CLOSING;
	}
	__u64 now = now_coarse();
	if (RARE(now > control.alive_until))
		return NO_HEARTBEAT;
	if (RARE(flow->generation != control.generation))
		return VOID;
	if (RARE(now >= flow->expires))
		return EXPIRED;
	__u8 *hops = view.frame + ETH_HLEN +
		     (family == V4 ? offsetof(struct iphdr, ttl) : offsetof(struct ipv6hdr, hop_limit));
	if (RARE(*hops <= 1))
		return TIME_TO_LIVE;
	/* Only the kernel knows which MTU holds: the device's, a route's, or one that ICMP has told. */
	if (RARE(view.size > flow->longest))
		return LONGER;
	if (RARE(now >= flow->slow_at)) {
		/* The next one soon, in case this packet is lost on its way. */
		flow->slow_at = now + control.retry;
		return RENEWAL;
	}
	if (RARE(!is_whole(packet, &view)))
		return LENGTH;
	/* The checksum first: where this fails, the packet is as it was. Deltas leave wrong checksums
	 * wrong, no checksum of UDP stays none, and what a device has summed up (CHECKSUM_COMPLETE)
	 * stays right.
	 */
	const int is_tcp = arriving.protocol == IPPROTO_TCP;
	const int sum = header_length(family) +
			(is_tcp ? offsetof(struct tcphdr, check) : offsetof(struct udphdr, check));
	const __u64 zero = is_tcp ? 0 : BPF_F_MARK_MANGLED_0;
	const __u64 pseudo = BPF_F_PSEUDO_HDR | (family == V6 ? F_IPV6 : 0);
	if (RARE(l4_checksum(packet, sum, 0, flow->address_delta, zero | pseudo)))
		return CHECKSUM;
	if (flow->port_delta)
		l4_checksum(packet, sum, 0, flow->port_delta, zero);
	if (family == V6)
		/* IPv4's header has a sum of its own, which evens out; a hop less does not here. */
		add_checksum(packet, WIRE16(0xfffe));
	void *frame = frame_of(packet, header_length(family) + sizeof(struct udphdr));
	if (RARE(!frame))
		return LENGTH;
	if (family == V4) {
		struct iphdr *ip = frame + ETH_HLEN;
		ip->ttl--;
		ip->check = ~folded((__u16)~ip->check + (__u32)flow->address_delta + WIRE16(0xfeff));
	} else {
		((struct ipv6hdr *)(frame + ETH_HLEN))->hop_limit--;
	}
	copy(addresses_of(frame, family), flow->leaving.addresses, family);
	__be16 *ports = frame + header_length(family);
	ports[0] = flow->leaving.ports[0];
	ports[1] = flow->leaving.ports[1];
	__u32 *link = frame;
	link[0] = flow->link[0];
	link[1] = flow->link[1];
	link[2] = flow->link[2];
	/* Several processors may lose a count here. That costs nothing; exact ones cost 11 ns. */
	flow->packets += packet->gso_segs ?: 1;
	flow->bytes += packet->len - ETH_HLEN;
	way->device = flow->device;
	way->is_peer = flow->is_peer;
	return HIT;
}

SECTION("classifier/ingress") int ingress(struct __sk_buff *packet)
{
	struct way way = {};
	enum count why = OTHER;
	/* A packet that another namespace's cache has sent here still has its sign. */
	packet->cb[4] = 0;
	/* Tagged frames pass their parent device first, and belong to the device of the VLAN. Bridged
	 * and overheard frames are for other machines.
	 */
	if (RARE(packet->vlan_present || packet->pkt_type != HOST))
		why = FOREIGN;
	else if (packet->protocol == WIRE16(ETH_P_IP))
		why = translate(packet, V4, &way);
	else if (packet->protocol == WIRE16(ETH_P_IPV6))
		why = translate(packet, V6, &way);
	count(why);
	if (why != HIT)
		return NEXT;
	packet->cb[4] = REDIRECTED;
	return way.is_peer ? redirect_peer(way.device, 0) : redirect(way.device, 0);
}

INLINE int is_same(const struct flow *a, const struct flow *b, enum family family)
{
	const int words = addresses_length(family) / 4;
	if (a->device != b->device || a->is_peer != b->is_peer)
		return 0;
	if (a->link[0] != b->link[0] || a->link[1] != b->link[1] || a->link[2] != b->link[2])
		return 0;
	if (a->leaving.ports[0] != b->leaving.ports[0] || a->leaving.ports[1] != b->leaving.ports[1])
		return 0;
#pragma unroll
	for (int i = 0; i < words; i++)
		if (a->leaving.addresses[i] != b->leaving.addresses[i])
			return 0;
	return 1;
}

INLINE void confirm(struct __sk_buff *packet, enum family family)
{
	struct view view;
	struct flow fresh;
	struct ends arriving;
	/* Read before the rest: what is voided meanwhile stays void. */
	fresh.generation = control.generation;
	if (view_of(packet, family, &view, &fresh.leaving) != HIT)
		return;
	const struct ends *proposal = lookup(proposals_of(family), &fresh.leaving);
	if (!proposal)
		return;
	arriving.ports[0] = proposal->ports[0];
	arriving.ports[1] = proposal->ports[1];
	arriving.protocol = proposal->protocol;
	copy(arriving.addresses, proposal->addresses, family);
	if (view.is_closing) {
		end(&arriving, &fresh.leaving, family);
		return;
	}
	const __u32 *link = view.frame;
	if (link[0] & 1) /* a group's address: no neighbour is behind it */
		return;
	fresh.link[0] = link[0];
	fresh.link[1] = link[1];
	fresh.link[2] = link[2];
	fresh.device = packet->ifindex;
	/* Every link of IPv6 takes 1,280 bytes. */
	fresh.longest = family == V6 && view.size < 1280 ? 1280 : view.size;
	fresh.is_peer = lookup(&peers, &fresh.device) != 0;
	__u64 now = now_coarse();
	fresh.slow_at = now + control.lease;
	fresh.expires = now + control.expiry;
	struct flow *flow = lookup(flows_of(family), &arriving);
	if (flow && is_same(flow, &fresh, family)) {
		/* A packet that was too long for an entry in the middle of its lease. */
		if (flow->generation == fresh.generation && flow->slow_at > now + control.retry &&
		    now < flow->expires) {
			if (flow->longest < fresh.longest)
				flow->longest = fresh.longest;
			return;
		}
		flow->longest = fresh.longest;
		flow->slow_at = fresh.slow_at;
		flow->expires = fresh.expires;
		flow->generation = fresh.generation;
		count(RENEWED);
		return;
	}
	/* Another way, or another neighbour: the whole is replaced, and nobody meets a half of it. */
	fresh.packets = flow ? flow->packets : 0;
	fresh.bytes = flow ? flow->bytes : 0;
	const int length = addresses_length(family);
	fresh.address_delta = folded(difference(arriving.addresses, length,
						fresh.leaving.addresses, length, 0));
	fresh.port_delta = 0;
	if (arriving.ports[0] != fresh.leaving.ports[0] ||
	    arriving.ports[1] != fresh.leaving.ports[1])
		fresh.port_delta = folded(difference((void *)arriving.ports, 4,
						     (void *)fresh.leaving.ports, 4, 0));
	update(flows_of(family), &arriving, &fresh, BPF_ANY);
	count(ENTERED);
}

SECTION("classifier/egress") int egress(struct __sk_buff *packet)
{
	/* Redirected packets pass here, too. They prove nothing, or the cache would renew itself. */
	if (packet->cb[4] == REDIRECTED || packet->vlan_present)
		return NEXT;
	if (packet->protocol == WIRE16(ETH_P_IP))
		confirm(packet, V4);
	else if (packet->protocol == WIRE16(ETH_P_IPV6))
		confirm(packet, V6);
	return NEXT;
}

/* Whether the kernel keeps sums of whole IPv6 packets right (F_IPV6): 0, or its error. */
SECTION("classifier/probe") int probe(struct __sk_buff *packet)
{
	const int sum = header_length(V6) + offsetof(struct udphdr, check);
	return l4_checksum(packet, sum, 0, 0, BPF_F_PSEUDO_HDR | BPF_F_MARK_MANGLED_0 | F_IPV6);
}
