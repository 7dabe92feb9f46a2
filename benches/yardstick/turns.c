// What an established packet costs by several ways through a router, in thread CPU time. A veth pair
// runs the whole way to the far end's socket, or to the rule that drops the packet, in the thread
// that sends: one thread holds both ends of all ways, and takes turns of a few milliseconds.
//
// turns FAMILY ROUNDS NAME@CLIENT@SERVER@ADDRESS@PORT ...   CLIENT and SERVER are files of network
// namespaces. Opens flows, says "ready", uses them once more, says "assured", twice more, says "warm",
// and each time waits for a line. Then it prints for each way and kind a line "NAME KIND NANOSECONDS
// ...", a number for each round: udp by packet, rr by round trip of a byte on TCP, bulk by KiB of TCP.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { WAYS = 16, FLOWS = 64, BATCH = 64, BATCHES = 32, TRIPS = 100, BULK = 4 << 20 };
enum { UDP_PORT = 20000, TCP_PORT = 41000, SERVER_PORT = 7780, PAYLOAD = 18 };
enum { UDP, RR, STREAM, KINDS };
static const char *const names[KINDS] = {"udp", "rr", "bulk"};

typedef struct {
    char *name, *client, *server, *address;
    int port, udp[FLOWS], udp_server, tcp, tcp_server;
    double *taken[KINDS];
} way;

static char buffer[1 << 20];
static struct mmsghdr messages[BATCH];
static int family;

static void check(int failed, const char *what) {
    if (failed) {
        perror(what);
        exit(1);
    }
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return time.tv_sec * 1e9 + time.tv_nsec;
}

static void enter(const char *namespace) {
    int file = open(namespace, O_RDONLY);
    check(file < 0 || setns(file, CLONE_NEWNET), namespace);
    close(file);
}

static socklen_t end_of(const char *address, int port, struct sockaddr_storage *end) {
    memset(end, 0, sizeof *end);
    if (family == AF_INET) {
        struct sockaddr_in *v4 = (void *)end;
        v4->sin_family = AF_INET, v4->sin_port = htons(port);
        check(address && inet_pton(AF_INET, address, &v4->sin_addr) != 1, address);
        return sizeof *v4;
    }
    struct sockaddr_in6 *v6 = (void *)end;
    v6->sin6_family = AF_INET6, v6->sin6_port = htons(port);
    check(address && inet_pton(AF_INET6, address, &v6->sin6_addr) != 1, address);
    return sizeof *v6;
}

static int bound(int kind, int port) {
    struct sockaddr_storage end;
    struct timeval patience = {3, 0};
    int one = 1, room = 8 << 20, made = socket(family, kind, 0);
    socklen_t length = end_of(NULL, port, &end);
    setsockopt(made, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    setsockopt(made, SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof room);
    setsockopt(made, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    setsockopt(made, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    check(bind(made, (void *)&end, length), "bind");
    return made;
}

// There and back: connection tracking has seen both directions.
static void ask(way *w, int flow) {
    struct sockaddr_storage peer;
    socklen_t length = sizeof peer;
    check(send(w->udp[flow], buffer, PAYLOAD, 0) != PAYLOAD, "send");
    check(recvfrom(w->udp_server, buffer, 64, 0, (void *)&peer, &length) != PAYLOAD, w->name);
    sendto(w->udp_server, buffer, PAYLOAD, 0, (void *)&peer, length);
    check(recv(w->udp[flow], buffer, 64, 0) != PAYLOAD, w->name);
}

static void trip(way *w) {
    int failed = write(w->tcp, "x", 1) != 1 || read(w->tcp_server, buffer, 1) != 1 ||
                 write(w->tcp_server, "x", 1) != 1 || read(w->tcp, buffer, 1) != 1;
    check(failed, w->name);
}

static void open_flows(way *w) {
    struct sockaddr_storage end;
    int one = 1;
    enter(w->server);
    w->udp_server = bound(SOCK_DGRAM, SERVER_PORT);
    int listener = bound(SOCK_STREAM, SERVER_PORT);
    check(listen(listener, 5), "listen");
    enter(w->client);
    socklen_t length = end_of(w->address, w->port, &end);
    for (int i = 0; i < FLOWS; i++) {
        w->udp[i] = bound(SOCK_DGRAM, UDP_PORT + i);
        check(connect(w->udp[i], (void *)&end, length), "connect");
        ask(w, i);
    }
    w->tcp = bound(SOCK_STREAM, TCP_PORT);
    check(connect(w->tcp, (void *)&end, length), w->name);
    w->tcp_server = accept(listener, 0, 0);
    struct timeval patience = {3, 0};
    setsockopt(w->tcp_server, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(w->tcp, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(w->tcp_server, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    close(listener);
    trip(w);
}

static double datagrams(way *w, int round) {
    long sent = 0;
    // What the last turn has left in the processor's caches costs this one nothing.
    for (int i = 0; i < 4; i++)
        sendmmsg(w->udp[i], messages, BATCH, 0);
    double start = now();
    for (int i = 0; i < BATCHES; i++) {
        int count = sendmmsg(w->udp[(i + round) % FLOWS], messages, BATCH, 0);
        sent += count > 0 ? count : 0;
    }
    return (now() - start) / sent;
}

static double trips(way *w) {
    double start = now();
    for (int i = 0; i < TRIPS; i++)
        trip(w);
    return (now() - start) / TRIPS;
}

static double stream(way *w) {
    long sent = 0, received = 0;
    double start = now();
    while (received < BULK) {
        int count = sent < BULK ? send(w->tcp, buffer, 1 << 17, MSG_DONTWAIT) : 0;
        sent += count > 0 ? count : 0;
        long before = received;
        while ((count = recv(w->tcp_server, buffer, sizeof buffer, MSG_DONTWAIT)) > 0)
            received += count;
        struct pollfd there = {w->tcp_server, POLLIN, 0};
        if (received == before)
            check(received < sent && poll(&there, 1, 3000) <= 0, w->name);
    }
    double taken = now() - start;
    while (received < sent) {
        int count = recv(w->tcp_server, buffer, sizeof buffer, 0);
        check(count <= 0, w->name);
        received += count;
    }
    return taken / (received / 1024.0);
}

static void use(way *ways, int count) {
    for (int i = 0; i < count; i++) {
        for (int flow = 0; flow < FLOWS; flow++)
            ask(&ways[i], flow);
        trip(&ways[i]);
    }
}

static void pause_at(const char *step) {
    printf("%s\n", step), fflush(stdout), (void)!getchar();
}

int main(int count, char **words) {
    static way ways[WAYS];
    static struct iovec payload = {buffer, PAYLOAD};
    int ways_count = count - 3, rounds = atoi(words[2]);
    family = atoi(words[1]) == 6 ? AF_INET6 : AF_INET;
    check(ways_count < 1 || ways_count > WAYS, "ways");
    cpu_set_t processors;
    CPU_ZERO(&processors);
    CPU_SET(sysconf(_SC_NPROCESSORS_ONLN) - 1, &processors);
    sched_setaffinity(0, sizeof processors, &processors);
    for (int i = 0; i < BATCH; i++)
        messages[i].msg_hdr.msg_iov = &payload, messages[i].msg_hdr.msg_iovlen = 1;
    for (int i = 0; i < ways_count; i++) {
        way *w = &ways[i];
        w->name = strtok(words[3 + i], "@"), w->client = strtok(NULL, "@");
        w->server = strtok(NULL, "@"), w->address = strtok(NULL, "@");
        w->port = atoi(strtok(NULL, "@"));
        for (int kind = 0; kind < KINDS; kind++)
            w->taken[kind] = calloc(rounds, sizeof(double));
        open_flows(w);
    }
    pause_at("ready");
    // Packets of flows that are old enough: connection tracking calls them assured.
    use(ways, ways_count);
    pause_at("assured");
    // Twice: the first packet of each direction makes the entry of a cache.
    use(ways, ways_count), use(ways, ways_count);
    pause_at("warm");
    for (int round = -1; round < rounds; round++)
        for (int i = 0; i < ways_count; i++) {
            way *w = &ways[round & 1 ? ways_count - 1 - i : i];
            double udp = datagrams(w, round + 1), rr = trips(w), bulk = stream(w);
            if (round >= 0)
                w->taken[UDP][round] = udp, w->taken[RR][round] = rr, w->taken[STREAM][round] = bulk;
        }
    for (int i = 0; i < ways_count; i++)
        for (int kind = 0; kind < KINDS; kind++) {
            printf("%s %s", ways[i].name, names[kind]);
            for (int round = 0; round < rounds; round++)
                printf(" %.1f", ways[i].taken[kind][round]);
            printf("\n");
        }
}
