// The yardstick's table, packets and measured functions of one family: engine.c includes this twice.
//
// IS_IPV6 says which family. NAME appends 4 or 6 to a name.

#if IS_IPV6
#define NAME(name) name##6
#define WORDS 5 // addresses, ports and protocol
#define HEADER 40
#else
#define NAME(name) name##4
#define WORDS 2
#define HEADER 20
#endif

typedef struct {
    uint64_t key[WORDS];
#if IS_IPV6
    uint8_t destination[16];
#else
    uint32_t destination;
#endif
    uint16_t port, network_delta, transport_delta;
    uint8_t is_used, state;
    uint32_t last;
    uint64_t packets, bytes;
    uint32_t peer;
} __attribute__((aligned(64))) NAME(entry);

static NAME(entry) *NAME(table);

// The packet of flow `number` from its client: UDP of 64 bytes, or a pure ACK without options.
static inline void NAME(make)(uint8_t *packet, uint64_t number, uint8_t protocol) {
    uint64_t mixed = mix(number);
    memset(packet, 0, 64);
#if IS_IPV6
    packet[0] = 0x60;
    packet[6] = protocol;
    packet[8] = 0xfd;
    memcpy(packet + 16, &mixed, 8);
    packet[24] = 0xfd;
    packet[39] = 1;
#else
    packet[0] = 0x45;
    packet[9] = protocol;
    memcpy(packet + 10, (uint8_t *)&mixed + 2, 2);
    memcpy(packet + 12, &mixed, 4);
    memcpy(packet + 16, (uint8_t[]){10, 96, 0, 1}, 4);
#endif
    uint8_t *transport = packet + HEADER;
    memcpy(transport, (uint8_t *)&mixed + 4, 2);
    transport[3] = 80;
    uint16_t sum = (mixed >> 40) | 1;
    if (protocol == TCP) {
        transport[12] = 5 << 4;
        transport[13] = 0x10;
        transport[14] = 2;
        memcpy(transport + 16, &sum, 2);
    } else
        memcpy(transport + 6, &sum, 2);
}

// Whether it is TCP or UDP without options, extension headers and fragments; then its key.
static inline int NAME(parse)(const uint8_t *packet, uint64_t *key) {
#if IS_IPV6
    if (packet[0] >> 4 != 6) return 0;
    uint8_t protocol = packet[6];
    if (protocol != UDP && protocol != TCP) return 0;
    memcpy(key, packet + 8, 32);
#else
    if (packet[0] != 0x45) return 0;
    uint8_t protocol = packet[9];
    if (protocol != UDP && protocol != TCP) return 0;
    if (*(uint16_t *)(packet + 6) & 0xff3f) return 0;
    memcpy(key, packet + 12, 8);
#endif
    key[WORDS - 1] = *(uint32_t *)(packet + HEADER) | ((uint64_t)protocol << 32);
    return 1;
}

static inline uint64_t NAME(hash)(const uint64_t *key) {
    uint64_t hash = 0x12345678;
    for (int word = 0; word < WORDS; word++) hash = _mm_crc32_u64(hash, key[word]);
    return (hash * 0x9E3779B97F4A7C15ull) >> 20;
}

static inline NAME(entry) *NAME(find)(const uint64_t *key, uint64_t hash) {
    for (uint64_t at = hash & mask; NAME(table)[at].is_used; at = (at + 1) & mask) {
        NAME(entry) *entry = &NAME(table)[at];
        int word = 0;
        while (word < WORDS && entry->key[word] == key[word]) word++;
        if (word == WORDS) return entry;
    }
    return 0;
}

static inline void NAME(insert)(const uint64_t *key, uint64_t hash) {
    uint64_t at = hash & mask;
    while (NAME(table)[at].is_used) at = (at + 1) & mask;
    NAME(entry) *entry = &NAME(table)[at];
    memcpy(entry->key, key, sizeof entry->key);
    entry->is_used = 1;
    memset(&entry->destination, 0x0a, sizeof entry->destination);
    entry->port = 0x901f;
    entry->network_delta = 0x1234;
    entry->transport_delta = 0x4321;
}

// The rewrite of one direction, with its counters and its time. TCP's state and windows are not
// looked at.
static inline void NAME(rewrite)(uint8_t *packet, NAME(entry) *entry, uint32_t now) {
    uint8_t *transport = packet + HEADER;
#if IS_IPV6
    uint8_t protocol = packet[6];
    memcpy(packet + 24, entry->destination, 16);
#else
    uint8_t protocol = packet[9];
    memcpy(packet + 16, &entry->destination, 4);
    uint16_t *network_sum = (uint16_t *)(packet + 10);
    *network_sum = adjust(*network_sum, entry->network_delta);
#endif
    *(uint16_t *)(transport + 2) = entry->port;
    if (protocol == TCP) {
        uint16_t *sum = (uint16_t *)(transport + 16);
        *sum = adjust(*sum, entry->transport_delta);
    } else {
        uint16_t *sum = (uint16_t *)(transport + 6);
        if (*sum) *sum = adjust(*sum, entry->transport_delta);
    }
    entry->last = now;
    entry->packets++;
    entry->bytes += 64;
}

static __attribute__((noinline)) int NAME(measured_one)(uint32_t now) {
    int hits = 0;
    for (int j = 0; j < BATCH; j++) {
        uint64_t key[WORDS];
        if (!NAME(parse)(packets[j], key)) continue;
        NAME(entry) *entry = NAME(find)(key, NAME(hash)(key));
        if (!entry) continue;
        NAME(rewrite)(packets[j], entry, now);
        hits++;
    }
    return hits;
}

static __attribute__((noinline)) int NAME(measured_batch)(uint32_t now) {
    int hits = 0;
    uint64_t keys[BATCH][WORDS], hashes[BATCH];
    for (int j = 0; j < BATCH; j++) {
        NAME(parse)(packets[j], keys[j]);
        hashes[j] = NAME(hash)(keys[j]);
        __builtin_prefetch(&NAME(table)[hashes[j] & mask], 1);
    }
    for (int j = 0; j < BATCH; j++) {
        NAME(entry) *entry = NAME(find)(keys[j], hashes[j]);
        if (!entry) continue;
        NAME(rewrite)(packets[j], entry, now);
        hits++;
    }
    return hits;
}

// Insertions, one after the other.
static __attribute__((noinline)) int NAME(measured_new_one)(uint32_t count) {
    for (uint32_t j = 0; j < count; j++) {
        uint64_t key[WORDS];
        if (NAME(parse)(packets[j], key)) NAME(insert)(key, NAME(hash)(key));
    }
    return BATCH;
}

// Insertions of a batch, whose memory is fetched first.
static __attribute__((noinline)) int NAME(measured_new_batch)(uint32_t count) {
    uint64_t keys[BATCH][WORDS], hashes[BATCH];
    for (uint32_t j = 0; j < count; j++) {
        NAME(parse)(packets[j], keys[j]);
        hashes[j] = NAME(hash)(keys[j]);
        __builtin_prefetch(&NAME(table)[hashes[j] & mask], 1);
    }
    for (uint32_t j = 0; j < count; j++) NAME(insert)(keys[j], hashes[j]);
    return BATCH;
}

static void NAME(allocate)(size_t capacity) {
    // 2 MB pages, so that the translation of addresses costs little.
    size_t size = capacity * sizeof(NAME(entry)), page = 2 << 20;
    uint8_t *raw = mmap(0, size + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (raw == MAP_FAILED) exit(1);
    NAME(table) = (NAME(entry) *)(((uintptr_t)raw + page - 1) & ~(uintptr_t)(page - 1));
    madvise(NAME(table), size, MADV_HUGEPAGE);
    memset(NAME(table), 0, size);
}

static const struct family NAME(family) = {
    NAME(make),           NAME(allocate),
    {NAME(measured_one), NAME(measured_batch)},
    {NAME(measured_new_one), NAME(measured_new_batch)},
};

#undef NAME
#undef WORDS
#undef HEADER
#undef IS_IPV6
