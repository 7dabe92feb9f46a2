// The limit of a netfilter queue on this machine: recvmmsg of 64, a new destination address for each packet, 64 verdicts with payload in
// one sendmsg, and a mark; no look-up, no policy. Arguments: queue number, new address, mark. Prints "ready"; runs until it is ended.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_queue.h>
#include <linux/netlink.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { BATCH = 64, MESSAGE = 66000, HEADER = 20 };
static char in[BATCH][MESSAGE], out[BATCH * (MESSAGE + 100)];
static struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
static uint16_t queue;
static uint32_t target;

static char *open_message(char *p, int kind, int flags) {
    struct nlmsghdr *h = (void *)p;
    struct nfgenmsg *g = (void *)(p + 16);
    memset(p, 0, HEADER);
    h->nlmsg_type = NFNL_SUBSYS_QUEUE << 8 | kind;
    h->nlmsg_flags = NLM_F_REQUEST | flags;
    g->res_id = htons(queue);
    return p + HEADER;
}

static char *put(char *p, int kind, const void *value, int length) {
    struct nlattr *a = (void *)p;
    a->nla_type = kind;
    a->nla_len = length + 4;
    memcpy(p + 4, value, length);
    return p + NLA_ALIGN(length + 4);
}

static void configure(int s, int kind, const void *value, int length) {
    char bytes[64], answer[4096], *end = put(open_message(bytes, NFQNL_MSG_CONFIG, NLM_F_ACK), kind, value, length);
    ((struct nlmsghdr *)bytes)->nlmsg_len = end - bytes;
    sendto(s, bytes, end - bytes, 0, (void *)&kernel, sizeof kernel);
    int n = recv(s, answer, sizeof answer, 0);
    if (n < 0 || ((struct nlmsgerr *)(answer + 16))->error) { perror("queue"); exit(1); }
}

static uint16_t changed(uint16_t sum, uint32_t from, uint32_t to) {
    uint32_t s = (uint16_t)~sum;
    s += (uint16_t)~from + (uint16_t)~(from >> 16) + (to & 0xffff) + (to >> 16);
    s = (s & 0xffff) + (s >> 16);
    return ~(uint16_t)(s + (s >> 16));
}

static void translate(uint8_t *p) {
    uint32_t *destination = (void *)(p + 16), before = *destination;
    uint16_t *ip = (void *)(p + 10), *udp = (void *)(p + 26);
    *destination = target;
    *ip = changed(*ip, before, target);
    if (*udp) *udp = changed(*udp, before, target);
}

int main(int count, char **v) {
    if (count != 4) return 2;
    queue = atoi(v[1]);
    target = inet_addr(v[2]);
    uint32_t mark = htonl(strtoul(v[3], NULL, 0));
    int s = socket(AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER), size = 64 << 20, one = 1;
    bind(s, (void *)&kernel, sizeof kernel);
    setsockopt(s, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size);
    setsockopt(s, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size);
    setsockopt(s, SOL_NETLINK, NETLINK_NO_ENOBUFS, &one, sizeof one);
    struct nfqnl_msg_config_cmd bind_it = {.command = NFQNL_CFG_CMD_BIND};
    configure(s, NFQA_CFG_CMD, &bind_it, sizeof bind_it);
    struct nfqnl_msg_config_params whole = {.copy_range = htonl(0xffff - 4), .copy_mode = NFQNL_COPY_PACKET};
    configure(s, NFQA_CFG_PARAMS, &whole, 5);
    uint32_t length = htonl(65535);
    configure(s, NFQA_CFG_QUEUE_MAXLEN, &length, 4);
    struct iovec parts[BATCH];
    struct mmsghdr messages[BATCH];
    memset(messages, 0, sizeof messages);
    for (int i = 0; i < BATCH; i++) {
        parts[i] = (struct iovec){in[i], MESSAGE};
        messages[i].msg_hdr.msg_iov = &parts[i];
        messages[i].msg_hdr.msg_iovlen = 1;
    }
    printf("ready\n");
    fflush(stdout);
    struct pollfd readable = {s, POLLIN, 0};
    for (;;) {
        int n = recvmmsg(s, messages, BATCH, MSG_DONTWAIT, NULL);
        if (n <= 0) { poll(&readable, 1, -1); continue; }
        char *end = out;
        for (int i = 0; i < n; i++) {
            uint32_t id = 0;
            uint8_t *payload = NULL;
            int bytes = 0;
            for (char *p = in[i] + HEADER, *stop = in[i] + messages[i].msg_len; p + 4 <= stop;) {
                struct nlattr *a = (void *)p;
                if (a->nla_len < 4) break;
                if ((a->nla_type & NLA_TYPE_MASK) == NFQA_PACKET_HDR) id = *(uint32_t *)(p + 4);
                if ((a->nla_type & NLA_TYPE_MASK) == NFQA_PAYLOAD) payload = (void *)(p + 4), bytes = a->nla_len - 4;
                p += NLA_ALIGN(a->nla_len);
            }
            if (!payload) continue;
            translate(payload);
            char *start = end;
            struct nfqnl_msg_verdict_hdr accept = {htonl(NF_ACCEPT), id};
            end = put(open_message(start, NFQNL_MSG_VERDICT, 0), NFQA_VERDICT_HDR, &accept, 8);
            end = put(put(end, NFQA_MARK, &mark, 4), NFQA_PAYLOAD, payload, bytes);
            ((struct nlmsghdr *)start)->nlmsg_len = end - start;
        }
        sendto(s, out, end - out, 0, (void *)&kernel, sizeof kernel);
    }
}
