// Traffic between namespaces, and what it costs its sender: thread CPU time, so softirq work that runs in it is counted.
// Usage: traffic flood ADDRESS BURSTS PAUSE_US | echo | ping ADDRESS COUNT | sink | bulk ADDRESS MEGABYTES | accept | connect ADDRESS SECONDS
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { FLOWS = 64, BATCH = 64, BURST = 512, PAYLOAD = 18, PING = 32, UDP_PORT = 7777, BULK_PORT = 5001, SHORT_PORT = 5002 };

static double seconds(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static struct sockaddr_in address(const char *text, int port) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
    a.sin_addr.s_addr = text ? inet_addr(text) : INADDR_ANY;
    return a;
}

static int opened(int kind, const char *to, int port) {
    int s = socket(AF_INET, kind, 0), one = 1, size = 8 << 20;
    struct sockaddr_in a = address(to, port);
    setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    setsockopt(s, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size);
    if (kind == SOCK_DGRAM) setsockopt(s, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size);
    if ((to ? connect : bind)(s, (void *)&a, sizeof a)) { perror(to ? "connect" : "bind"); exit(1); }
    if (!to && kind == SOCK_STREAM) listen(s, 1024);
    return s;
}

// Bursts over many established flows with a pause behind each, in which whoever forwards them can catch up.
static void flood(const char *to, int bursts, int pause) {
    static int s[FLOWS];
    static char payload[PAYLOAD], ping_payload[PING];
    struct iovec part = {payload, PAYLOAD};
    struct mmsghdr messages[BATCH];
    memset(messages, 0, sizeof messages);
    for (int i = 0; i < BATCH; i++) messages[i].msg_hdr.msg_iov = &part, messages[i].msg_hdr.msg_iovlen = 1;
    for (int i = 0; i < FLOWS; i++) s[i] = opened(SOCK_DGRAM, to, UDP_PORT);
    // What a flow's first packet costs is measured by connections; here they are established before it begins.
    for (int i = 0; i < FLOWS; i++) if (send(s[i], ping_payload, sizeof ping_payload, 0) < 0) perror("send");
    usleep(50000);
    long sent = 0;
    double cpu = 0;
    for (int burst = 0; burst < bursts; burst++) {
        double before = seconds(CLOCK_THREAD_CPUTIME_ID);
        for (int k = 0; k < BURST / BATCH; k++) {
            int n = sendmmsg(s[(burst * (BURST / BATCH) + k) % FLOWS], messages, BATCH, 0);
            if (n > 0) sent += n;
        }
        cpu += seconds(CLOCK_THREAD_CPUTIME_ID) - before;
        if (pause) usleep(pause);
    }
    printf("%ld %.1f\n", sent, cpu * 1e9 / sent);
}

static void echo(void) {
    int s = opened(SOCK_DGRAM, NULL, UDP_PORT);
    char content[2048];
    struct sockaddr_in peer;
    printf("ready\n");
    fflush(stdout);
    for (;;) {
        socklen_t length = sizeof peer;
        int n = recvfrom(s, content, sizeof content, 0, (void *)&peer, &length);
        // Only pings have this length: a flood is taken and not answered.
        if (n == PING) sendto(s, content, n, 0, (void *)&peer, length);
    }
}

static int ascending(const void *a, const void *b) { return *(double *)a < *(double *)b ? -1 : 1; }

static void ping(const char *to, int count) {
    int s = opened(SOCK_DGRAM, to, UDP_PORT);
    struct timeval patience = {1, 0};
    setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    double *times = malloc(sizeof(double) * count);
    char content[PING] = {0};
    int got = 0;
    for (int i = 0; i < count; i++) {
        double before = seconds(CLOCK_MONOTONIC);
        if (send(s, content, sizeof content, 0) < 0 || recv(s, content, sizeof content, 0) < 0) continue;
        times[got++] = (seconds(CLOCK_MONOTONIC) - before) * 1e6;
    }
    qsort(times, got, sizeof *times, ascending);
    if (got) printf("%.2f %.2f\n", times[got / 2], times[got * 99 / 100]);
}

static void *swallow(void *connection) {
    static __thread char content[1 << 20];
    long n, total = 0;
    int s = (int)(long)connection;
    while ((n = read(s, content, sizeof content)) > 0) total += n;
    if (write(s, &total, sizeof total) < 0) perror("write");
    close(s);
    return NULL;
}

static void sink(int port, int is_bulk) {
    int s = opened(SOCK_STREAM, NULL, port);
    printf("ready\n");
    fflush(stdout);
    for (;;) {
        int connection = accept(s, NULL, NULL);
        pthread_t thread;
        if (connection < 0) continue;
        if (is_bulk && !pthread_create(&thread, NULL, swallow, (void *)(long)connection)) pthread_detach(thread);
        else close(connection);
    }
}

static void bulk(const char *to, long megabytes) {
    static char content[1 << 20];
    int s = opened(SOCK_STREAM, to, BULK_PORT);
    long total = 0, sent = 0;
    double before = seconds(CLOCK_MONOTONIC);
    while (sent < megabytes << 20) {
        long n = write(s, content, sizeof content);
        if (n < 0) { perror("write"); exit(1); }
        sent += n;
    }
    shutdown(s, SHUT_WR);
    if (read(s, &total, sizeof total) != sizeof total || total != sent) { fprintf(stderr, "cut off\n"); exit(1); }
    printf("%.3f\n", sent * 8 / (seconds(CLOCK_MONOTONIC) - before) / 1e9);
}

// Connections in a second, and how long their opening takes: median and 99th percentile, in microseconds.
static void connects(const char *to, double span) {
    enum { MOST = 1 << 20 };
    struct sockaddr_in a = address(to, SHORT_PORT);
    struct linger abort_it = {1, 0};
    double *times = malloc(sizeof(double) * MOST), start = seconds(CLOCK_MONOTONIC), now = start;
    int made = 0;
    char byte;
    while (now - start < span && made < MOST) {
        int s = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(s, (void *)&a, sizeof a)) { perror("connect"); exit(1); }
        times[made] = (seconds(CLOCK_MONOTONIC) - now) * 1e6;
        // The other side closes first; ours leaves no TIME_WAIT, or ports would run out.
        if (read(s, &byte, 1) == 0) made++;
        setsockopt(s, SOL_SOCKET, SO_LINGER, &abort_it, sizeof abort_it);
        close(s);
        now = seconds(CLOCK_MONOTONIC);
    }
    qsort(times, made, sizeof *times, ascending);
    if (made) printf("%.0f %.2f %.2f\n", made / (now - start), times[made / 2], times[(long)made * 99 / 100]);
}

int main(int count, char **v) {
    if (count < 2) return 2;
    if (!strcmp(v[1], "flood") && count == 5) flood(v[2], atoi(v[3]), atoi(v[4]));
    else if (!strcmp(v[1], "echo")) echo();
    else if (!strcmp(v[1], "ping") && count == 4) ping(v[2], atoi(v[3]));
    else if (!strcmp(v[1], "sink")) sink(BULK_PORT, 1);
    else if (!strcmp(v[1], "accept")) sink(SHORT_PORT, 0);
    else if (!strcmp(v[1], "bulk") && count == 4) bulk(v[2], atol(v[3]));
    else if (!strcmp(v[1], "connect") && count == 4) connects(v[2], atof(v[3]));
    else return 2;
}
