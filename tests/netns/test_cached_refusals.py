"""A flow that is to leave the cache leaves it, even where the kernel refuses that at first."""

import ctypes
import platform
import socket
import struct
import threading

import pytest

from harness.cached_router import skip_without_cache
from harness.programs import UDP_ECHO
from harness.stage import VIPS, Stage, served, stage
from harness.waiting import eventually
from kbe_nat._native import CacheSync
from kbe_nat.datapath.cached import Cached
from kbe_nat.errors import ConntrackError
from kbe_nat.family import Family
from kbe_nat.playground.cluster import Cluster
from kbe_nat.rules.rule import DatapathKind

LIBC = ctypes.CDLL(None, use_errno=True)
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, FILTER = 38, 22, 2
BPF = {"x86_64": 321, "aarch64": 280}
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, REFUSE = 0x7FFF0000, 0x00050000 | 12
"""REFUSE is ENOMEM."""


def without_bpf() -> None:
    """From now on this thread's bpf(2) fails."""
    number = BPF[platform.machine()]
    steps = [(LOAD, 0, 0, 0), (JUMP_IF_EQUAL, 0, 1, number), (RETURN, 0, 0, REFUSE)]
    program = b"".join(struct.pack("HBBI", *step) for step in (*steps, (RETURN, 0, 0, ALLOW)))
    buffer = ctypes.create_string_buffer(program, len(program))
    head = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
    assert LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    assert LIBC.prctl(PR_SET_SECCOMP, FILTER, ctypes.c_char_p(head), 0, 0) == 0


def refused(sync: CacheSync, frontends: list[tuple[str, str, int]]) -> None:
    """These frontends are excluded by a thread that cannot write the cache's maps."""
    errors = list[ConntrackError]()

    def exclude() -> None:
        without_bpf()
        try:
            sync.exclude_frontends(frontends)
        except ConntrackError as error:
            errors.append(error)

    thread = threading.Thread(target=exclude)
    thread.start()
    thread.join()
    assert errors


def carried(own: Stage, cache: Cached) -> int:
    return cache.counters()["cache-hits"]


@pytest.mark.skipif(platform.machine() not in BPF, reason="its number of bpf(2) is not known here")
def test_what_could_not_be_taken_out_is_taken_out_later(cluster: Cluster) -> None:
    skip_without_cache()
    served(cluster.pods[0], UDP_ECHO, "4")
    served(cluster.pods[1], UDP_ECHO, "4")
    vip = VIPS[Family.IPV4]
    with (
        stage(cluster, DatapathKind.CACHED) as own,
        own.client(socket.SOCK_DGRAM, Family.IPV4, (vip, 7)) as client,
    ):
        cache = own.serving.datapath
        assert isinstance(cache, Cached)

        def is_cached() -> bool:
            before = carried(own, cache)
            for _ in range(20):
                client.send(b"hello")
                client.recv(100)
            return carried(own, cache) - before >= 20

        eventually(is_cached)
        assert cache._sync is not None
        refused(cache._sync, [("udp", vip, 7)])
        eventually(lambda: not is_cached())
        before = carried(own, cache)
        for _ in range(50):
            client.send(b"hello")
            client.recv(100)
        assert carried(own, cache) == before
        cache._sync.exclude_frontends([])
        own.serving.datapath.refresh()
        eventually(is_cached)
