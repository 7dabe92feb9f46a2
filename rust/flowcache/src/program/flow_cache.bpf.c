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
 * seeing the packet. Two kinds are dropped, by which connection tracking would take a connection for
 * another one, or for over: REOPENED and OUT_OF_WINDOW.
 */
#include "frame.bpf.h"

/* The number of voids that an entry with these devices has seen: each one makes it larger. */
INLINE __u32 generation_of(__u32 device, __u32 arrival)
{
	__u32 places[2] = {device % DEVICES, arrival % DEVICES};
	const __u32 *out = lookup(&voids, &places[0]), *in = lookup(&voids, &places[1]);
	return control.generation + (out ? *out : 0) + (in ? *in : 0);
}

/* Each word of a seal is multiplied by an odd number of its own, and all are summed up: one word
 * that differs makes another seal, and no multiplication waits for another one.
 */
#define FACTOR(i) (0x9e3779b1U * (2 * (i) + 1) & 0x7fffffff)

/* A number that says that this is one flow's, and the flow's with these ends. */
INLINE __u32 seal_of(const struct flow *flow, const struct ends *arriving, enum family family)
{
	const int words = (offsetof(struct flow, is_peer) - offsetof(struct flow, expires)) / 8;
	const int ends = ends_length(family) / 8;
	const word *sealed = (const word *)&flow->expires, *leaving = (const word *)&flow->leaving;
	const word *key = (const word *)arriving;
	const __u64 secret = control.secret;
	__u64 seal = flow->is_peer;
#pragma unroll
	for (int i = 0; i < words; i++)
		seal += (sealed[i] ^ secret) * FACTOR(i);
#pragma unroll
	for (int i = 0; i < ends; i++)
		seal += (leaving[i] ^ secret) * FACTOR(words + i) +
			(key[i] ^ secret) * FACTOR(words + ends + i);
	return seal ^ seal >> 32;
}

/* Reads words once, into memory of our own. */
INLINE void read_words(void *to, const void *from, int length)
{
	const volatile word *source = from;
#pragma unroll
	for (int i = 0; i < length / 8; i++)
		((word *)to)[i] = source[i];
}

/* Reads what is sealed of an entry; whether the seal is whole. */
INLINE int read_flow(struct flow *to, const struct flow *from, const struct ends *arriving,
		     enum family family)
{
	const int start = offsetof(struct flow, expires);
	read_words(&to->expires, &from->expires,
		   offsetof(struct flow, leaving) - start + ends_length(family));
	return to->seal == seal_of(to, arriving, family);
}

INLINE __u64 seal_of_proposal(const struct proposal *proposal, enum family family)
{
	const word *sealed = (const word *)&proposal->leaving;
	const __u64 secret = control.secret;
	__u64 seal = 0;
#pragma unroll
	for (int i = 0; i < 2 * ends_length(family) / 8; i++)
		seal += (sealed[i] ^ secret) * FACTOR(i);
	return seal;
}

/* The ends with which packets come that leave with these ends; whether such are proposed. */
INLINE int read_proposal(struct ends *arriving, const struct ends *leaving, enum family family)
{
	const __u64 digest = digest_of(leaving, family);
	const struct proposal *found = lookup(proposals_of(family), &digest);
	struct proposal seen;
	if (!found)
		return 0;
	read_words(&seen, found, offsetof(struct proposal, leaving) + 2 * ends_length(family));
	put(arriving, second(&seen.leaving, family), family);
	return seen.seal == seal_of_proposal(&seen, family) &&
	       is_equal(&seen.leaving, leaving, family);
}

INLINE void take_back(const struct ends *leaving, enum family family)
{
	const __u64 digest = digest_of(leaving, family);
	remove(proposals_of(family), &digest);
}

INLINE void tell(enum topic topic, const struct ends *arriving, const struct ends *leaving,
		 enum family family)
{
	struct notice notice = {.family = family, .topic = topic};
	put(&notice.arriving, arriving, family);
	put(&notice.leaving, leaving, family);
	if (push(&notices, &notice, 0))
		count(UNTOLD);
}

INLINE void expire(const struct ends *arriving, enum family family, int is_reset)
{
	const __u64 digest = digest_of(arriving, family);
	struct flow *flow = lookup(flows_of(family), &digest);
	if (!flow)
		return;
	flow->expires = is_reset ? RESET : CLOSED;
	if (is_reset)
		flow->slow_at = now_coarse();
}

/* A connection ends, or begins anew: connection tracking must see all of it. Proposals go first, or
 * the next slow packet would enter the flow again. Entries stay as they are but for their end, since
 * user space has not read their counters.
 */
INLINE void end(const struct ends *arriving, const struct ends *leaving, enum family family,
		__u8 flags)
{
	struct ends other;
	const int is_reset = flags & RST;
	take_back(leaving, family);
	reverse(&other, arriving, family);
	take_back(&other, family);
	expire(arriving, family, is_reset);
	reverse(&other, leaving, family);
	expire(&other, family, is_reset);
	if (is_reset)
		tell(WAS_RESET, arriving, leaving, family);
	count(ENDED);
}

INLINE int is_near(__be32 a, __be32 b)
{
	return __builtin_bswap32(a) - __builtin_bswap32(b) + NEAR <= 2 * NEAR;
}

/* Whether a FIN or RST is none of this connection's ends: it neither follows what its sender has
 * sent last nor what the other end has acknowledged. Connection tracking drops such a packet as
 * invalid where it sees all others. Here it does not, and would end a connection that is idle.
 */
INLINE int is_out_of_window(const struct view *view, const struct flow *flow,
			    const struct ends *leaving, enum family family)
{
	struct ends answers;
	if (view->flags & SYN || is_near(view->sequence, flow->sequence))
		return 0;
	reverse(&answers, leaving, family);
	const __u64 digest = digest_of(&answers, family);
	const struct flow *other = lookup(flows_of(family), &digest);
	if (!other || !is_equal(second(&other->leaving, family), &answers, family))
		return 0;
	const __be32 acknowledged = *(const volatile __be32 *)&other->acknowledged;
	/* Without a seal they may be a former connection's, or another flow's. */
	return other->seal == seal_of(other, &answers, family) &&
	       !is_near(view->sequence, acknowledged);
}

/* What becomes of a packet whose entry has no seal. Connection tracking, which has missed packets,
 * may take a connection for established still that a RST has ended. A new one with the same ends
 * would go where that one went: its first packet waits until user space has seen to that.
 */
INLINE enum count after_end(struct flow *flow, const struct flow *seen,
			    const struct ends *arriving, enum family family, __u8 flags)
{
	if (seen->expires != RESET)
		return seen->expires == CLOSED ? EXPIRED : TORN;
	const __u64 now = now_coarse(), since = now - flow->slow_at;
	if (flags & RST && since >= control.retry) {
		flow->slow_at = now;
		tell(WAS_RESET, arriving, &seen->leaving, family);
	}
	const int is_first = (flags & (SYN | ACK)) == SYN;
	return is_first && since < control.lease && now <= control.alive_until ? REOPENED : EXPIRED;
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
	const __u64 digest = digest_of(&arriving, family);
	struct flow *flow = lookup(flows_of(family), &digest);
	if (!flow)
		return MISS;
	struct flow seen;
	/* Another flow's, whose ends have the same digest. */
	if (RARE(!is_equal(second(&flow->leaving, family), &arriving, family)))
		return MISS;
	if (RARE(!read_flow(&seen, flow, &arriving, family)))
		return after_end(flow, &seen, &arriving, family, view.flags);
	/* Whoever sends with another's address is not seen to by the cache. */
	if (RARE(packet->ifindex != seen.arrival))
		return OTHER_DEVICE;
	/* Before the lease: what comes when it is over must end the entry, too. */
	if (RARE(view.flags & CLOSING_FLAGS)) {
		if (is_out_of_window(&view, flow, &seen.leaving, family))
			return OUT_OF_WINDOW;
		end(&arriving, &seen.leaving, family, view.flags);
		return CLOSING;
	}
	/* Whoever forges a RST can forge a segment ahead of it: no number is far from the last one. */
	if (is_near(view.sequence, flow->sequence))
		flow->sequence = view.sequence;
	flow->acknowledged = view.acknowledged;
	__u64 now = now_coarse();
	if (RARE(now > control.alive_until))
		return NO_HEARTBEAT;
	if (RARE(seen.generation != generation_of(seen.device, seen.arrival)))
		return VOID;
	if (RARE(now >= seen.expires))
		return EXPIRED;
	__u8 *hops = view.frame + ETH_HLEN +
		     (family == V4 ? offsetof(struct iphdr, ttl) : offsetof(struct ipv6hdr, hop_limit));
	if (RARE(*hops <= 1))
		return TIME_TO_LIVE;
	/* Only the kernel knows which MTU holds: the device's, a route's, or one that ICMP has told. */
	if (RARE(view.size > seen.longest))
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
	if (RARE(l4_checksum(packet, sum, 0, seen.address_delta, zero | pseudo)))
		return CHECKSUM;
	if (seen.port_delta)
		l4_checksum(packet, sum, 0, seen.port_delta, zero);
	if (family == V6)
		/* IPv4's header has a sum of its own, which evens out; a hop less does not here. */
		add_checksum(packet, WIRE16(0xfffe));
	void *frame = frame_of(packet, header_length(family) + sizeof(struct udphdr));
	if (RARE(!frame))
		return LENGTH;
	if (family == V4) {
		struct iphdr *ip = frame + ETH_HLEN;
		ip->ttl--;
		ip->check = ~folded((__u16)~ip->check + (__u32)seen.address_delta + WIRE16(0xfeff));
	} else {
		((struct ipv6hdr *)(frame + ETH_HLEN))->hop_limit--;
	}
	copy(addresses_of(frame, family), seen.leaving.addresses, family);
	__be16 *ports = frame + header_length(family);
	ports[0] = seen.leaving.ports[0];
	ports[1] = seen.leaving.ports[1];
	__u32 *link = frame;
	link[0] = seen.link[0];
	link[1] = seen.link[1];
	link[2] = seen.link[2];
	/* Several processors may lose a count here, and an entry that another flow takes over in this
	 * very moment counts wrongly. That costs nothing; exact ones cost 11 ns.
	 */
	flow->packets += packet->gso_segs ?: 1;
	const __u64 bytes = flow->bytes, more = bytes + packet->len - ETH_HLEN;
	flow->bytes = more;
	if (RARE(is_tcp && (bytes ^ more) >> VOLUME))
		tell(MUCH_PASSED, &arriving, &seen.leaving, family);
	way->device = seen.device;
	way->is_peer = seen.is_peer;
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
	if (why == REOPENED || why == OUT_OF_WINDOW)
		return DROP;
	if (why != HIT)
		return NEXT;
	packet->cb[4] = REDIRECTED;
	return way.is_peer ? redirect_peer(way.device, 0) : redirect(way.device, 0);
}

INLINE int is_same(const struct flow *a, const struct flow *b, enum family family)
{
	if (a->device != b->device || a->arrival != b->arrival || a->is_peer != b->is_peer)
		return 0;
	if (a->link[0] != b->link[0] || a->link[1] != b->link[1] || a->link[2] != b->link[2])
		return 0;
	return is_equal(&a->leaving, &b->leaving, family);
}

INLINE void confirm(struct __sk_buff *packet, enum family family)
{
	struct view view;
	struct flow fresh;
	struct ends arriving;
	if (view_of(packet, family, &view, &fresh.leaving) != HIT)
		return;
	if (!read_proposal(&arriving, &fresh.leaving, family))
		return;
	/* Read before the rest: what is voided meanwhile stays void. */
	fresh.device = packet->ifindex;
	fresh.arrival = packet->ingress_ifindex;
	fresh.generation = generation_of(fresh.device, fresh.arrival);
	if (view.flags & CLOSING_FLAGS) {
		end(&arriving, &fresh.leaving, family, view.flags);
		return;
	}
	const __u32 *link = view.frame;
	/* A group's address has no neighbour behind it, and what the node itself sends has not come. */
	if (link[0] & 1 || !fresh.arrival)
		return;
	fresh.link[0] = link[0];
	fresh.link[1] = link[1];
	fresh.link[2] = link[2];
	/* Every link of IPv6 takes 1,280 bytes. */
	fresh.longest = family == V6 && view.size < 1280 ? 1280 : view.size;
	fresh.sequence = view.sequence;
	fresh.acknowledged = view.acknowledged;
	fresh.is_peer = lookup(&peers, &fresh.device) != 0;
	__u64 now = now_coarse();
	fresh.slow_at = now + control.lease;
	fresh.expires = now + control.expiry;
	put(second(&fresh.leaving, family), &arriving, family);
	const int length = addresses_length(family);
	fresh.address_delta = folded(difference(arriving.addresses, length,
						fresh.leaving.addresses, length, 0));
	fresh.port_delta = 0;
	if (arriving.ports[0] != fresh.leaving.ports[0] ||
	    arriving.ports[1] != fresh.leaving.ports[1])
		fresh.port_delta = folded(difference((void *)arriving.ports, 4,
						     (void *)fresh.leaving.ports, 4, 0));
	/* Read where it stands. If another flow gets its memory meanwhile, then what is written there
	 * has no seal of that flow, which goes the kernel's way until it is renewed.
	 */
	const __u64 digest = digest_of(&arriving, family);
	struct flow *flow = lookup(flows_of(family), &digest);
	const int is_own = flow && is_equal(second(&flow->leaving, family), &arriving, family);
	const int is_whole = is_own && flow->seal == seal_of(flow, &arriving, family);
	const int is_current = is_whole && now < flow->expires &&
			       flow->generation == generation_of(flow->device, flow->arrival);
	/* The flow has one way in, for as long as its packets come by it. Those by another device, with
	 * the same addresses, renew nothing.
	 */
	if (is_current && flow->arrival != fresh.arrival)
		return;
	if (is_whole && is_same(flow, &fresh, family)) {
		if (is_current && flow->slow_at > now + control.retry) {
			/* A packet that was too long for an entry in the middle of its lease? */
			if (flow->longest >= fresh.longest)
				return;
			fresh.slow_at = flow->slow_at;
			fresh.expires = flow->expires;
		} else {
			count(RENEWED);
		}
		/* In between the seal is broken: then other packets go the kernel's way. */
		flow->slow_at = fresh.slow_at;
		flow->expires = fresh.expires;
		flow->generation = fresh.generation;
		flow->longest = fresh.longest;
		flow->seal = seal_of(&fresh, &arriving, family);
		return;
	}
	/* Another way, or another neighbour: the whole is replaced. */
	fresh.packets = is_own ? flow->packets : 0;
	fresh.bytes = is_own ? flow->bytes : 0;
	fresh.seal = seal_of(&fresh, &arriving, family);
	update(flows_of(family), &digest, &fresh, BPF_ANY);
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
