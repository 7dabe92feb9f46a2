/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Frames as the programs read them: ends, lengths, checksums.
 */
#pragma once
#include "maps.bpf.h"

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

/* Ends and what is sealed are read by eight bytes, whatever stands in them. */
typedef __u64 __attribute__((may_alias)) word;

/* NH of UMAC (RFC 4418, section 5.2): two packets' ends have the same digest by a chance of two to
 * the power of -32, whoever has chosen them without knowing the keys. Whose entry it is, the entry
 * says. Shorter than the ends themselves, since the kernel's hash of a key costs 2 ns a word.
 */
INLINE __u64 digest_of(const struct ends *ends, enum family family)
{
	const word *words = (const word *)ends;
	__u64 digest = 0;
#pragma unroll
	for (int i = 0; i < ends_length(family) / 8; i++) {
		const __u64 key = control.keys[i];
		digest += (__u64)((__u32)words[i] + (__u32)key) *
			  (__u32)((words[i] >> 32) + (key >> 32));
	}
	return digest;
}

/* The ends that follow these. */
INLINE void *second(const struct ends *ends, enum family family)
{
	return (void *)ends + ends_length(family);
}

INLINE void put(void *to, const void *from, enum family family)
{
#pragma unroll
	for (int i = 0; i < ends_length(family) / 8; i++)
		((word *)to)[i] = ((const word *)from)[i];
}

INLINE int is_equal(const void *a, const void *b, enum family family)
{
	__u64 difference = 0;
#pragma unroll
	for (int i = 0; i < ends_length(family) / 8; i++)
		difference |= ((const word *)a)[i] ^ ((const word *)b)[i];
	return !difference;
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

/* Flags of TCP, and those with which a connection ends or begins. */
#define FIN 1
#define SYN 2
#define RST 4
#define ACK 16
#define CLOSING_FLAGS (FIN | SYN | RST)

/* A frame whose ends can be told: TCP or UDP in one piece, without options of IP. */
struct view {
	void *frame;
	__u32 length;    /* of the IP packet, as its header says; at most this is behind Ethernet's */
	__u32 size;      /* of the longest IP packet that comes of it: it may be many segments */
	__u8 flags;      /* of TCP, and 0 of UDP; so with the numbers */
	__be32 sequence, acknowledged;
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
		view->flags = tcp[13];
		view->sequence = ((__be32 *)tcp)[1];
		view->acknowledged = ((__be32 *)tcp)[2];
		headers = head - ETH_HLEN + (tcp[12] >> 4) * 4;
	} else if (ends->protocol == IPPROTO_UDP) {
		view->flags = 0;
		view->sequence = 0;
		view->acknowledged = 0;
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
