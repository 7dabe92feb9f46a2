"""The flow cache and the devices of a flow: the one by which its packets come, and the one by which
they leave.
"""

from harness import traffic
from harness.cached_router import (
    FAMILIES,
    FLOWS,
    MACS,
    Datagrams,
    Router,
    Row,
    connection,
    counted,
    datagrams,
)
from harness.waiting import eventually
from kbe_nat.family import Family

ETHERTYPES = {Family.IPV4: b"\x08\x00", Family.IPV6: b"\x86\xdd"}
RST = 0x04


def await_count(stage: Router, before: int) -> None:
    """Until one more packet has come by another device than its flow's."""
    eventually(lambda: stage.counter("other_device") > before)


def forged(family: Family, segment: bytes, rows: list[Row]) -> bytes:
    """A frame with the client's addresses, as a machine behind another device sends it."""
    (source, _), (destination, _) = rows[0][1]
    kind = traffic.UDP if rows[0][0] == "udp" else traffic.TCP
    link = bytes.fromhex((MACS["r2"] + MACS["s1"]).replace(":", ""))
    return link + ETHERTYPES[family] + traffic.ip(source, destination, kind, segment)


@FLOWS
def test_a_datagram_by_another_device_goes_the_kernels_way_and_renews_nothing(
    flow: Datagrams,
) -> None:
    stage = flow.router
    (_, sport), (_, dport) = flow.rows[0][1]
    before = stage.entry(flow.rows[0])
    with stage.link(stage.servers[1], "s1") as link, counted(stage, "hits", 0):
        with counted(stage, "other_device"), counted(stage, "entered", 0):
            link.send(forged(flow.family, traffic.udp(sport, dport, b"forged"), flow.rows))
            # The kernel alone decides about it: no rp_filter is set here.
            assert flow.server.recv(100) == b"forged"
        assert stage.entry(flow.rows[0]) == before
    with counted(stage, "hits", 2):
        flow.turn()


def test_what_the_reverse_path_filter_drops_is_not_carried(stage: Router) -> None:
    with (
        datagrams(stage, Family.IPV4) as flow,
        stage.link(stage.servers[1], "s1") as link,
    ):
        (_, sport), (_, dport) = flow.rows[0][1]
        before = stage.counter("other_device")
        stage.node.write("/proc/sys/net/ipv4/conf/r2/rp_filter", "1")
        try:
            with counted(stage, "other_device"):
                link.send(forged(flow.family, traffic.udp(sport, dport, b"forged"), flow.rows))
                await_count(stage, before)
            # Nothing else has arrived before it.
            assert flow.go(b"question") == b"question"
        finally:
            stage.node.write("/proc/sys/net/ipv4/conf/r2/rp_filter", "0")


@FAMILIES
def test_a_reset_by_another_device_that_the_kernel_drops_ends_no_connection(
    stage: Router, family: Family
) -> None:
    rule = "add table inet others; add chain inet others pre { type filter hook prerouting "
    rule += "priority raw; }; add rule inet others pre iifname r2 drop"
    stage.node.call("nft", rule)
    try:
        with (
            connection(stage, family) as flow,
            stage.link(stage.servers[1], "s1") as link,
            counted(stage, "ended", 0),
            counted(stage, "other_device"),
        ):
            (_, sport), (_, dport) = flow.rows[0][1]
            before = stage.counter("other_device")
            link.send(forged(family, traffic.tcp(sport, dport, RST, 1, 0), flow.rows))
            await_count(stage, before)
            flow.turn()
            assert all(flow.is_current())
    finally:
        stage.node.call("nft", "delete table inet others")


@FLOWS
def test_a_void_of_a_device_leaves_other_devices_flows_alone(flow: Datagrams) -> None:
    stage = flow.router
    stage.cache.void_device(stage.devices["r2"])
    with counted(stage, "hits", 2), counted(stage, "void", 0):
        flow.turn()
    # r0 is where the client's packets come, and where answers leave.
    for device in ("r0", "r1"):
        stage.cache.void_device(stage.devices[device])
        assert not any(stage.entry(row).is_current for row in flow.rows)
        with counted(stage, "void", 2):
            flow.turn()
        with counted(stage, "hits", 2):
            flow.turn()
