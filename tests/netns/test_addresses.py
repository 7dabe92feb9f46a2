"""The node's addresses, told by the kernel."""

import os
from collections.abc import Iterator

import pytest

from harness.waiting import eventually
from kbe_nat._native import NodeAddresses
from kbe_nat.playground.namespaces import Namespace, inside

NAME = "x\udcff\udcfe"
"""Of a device, and no UTF-8."""


@pytest.fixture
def node() -> Iterator[Namespace]:
    with Namespace(f"kbe-addresses-{os.getpid()}") as made:
        yield made


def test_addresses_and_devices_are_heard_of(node: Namespace) -> None:
    own = inside(node.path, NodeAddresses)
    own.has_changed()
    assert own.globals() == []
    for command in (
        f"link add {NAME} type bridge",
        f"link set {NAME} up",
        f"address add 192.0.2.1/24 dev {NAME} label {NAME}",
        f"address add 192.0.2.9 peer 192.0.2.10 dev {NAME}",
        f"address add fd00::1/64 dev {NAME} nodad",
        f"address del 192.0.2.1/24 dev {NAME}",
    ):
        assert not own.has_changed()
        node.call("ip", *command.split())
        # The kernel adds addresses of IPv6 a moment later.
        eventually(own.has_changed)
    assert sorted(own.globals()) == ["192.0.2.9", "fd00::1"]


def test_what_was_lost_counts_as_a_change(node: Namespace) -> None:
    own = inside(node.path, NodeAddresses)
    program = (
        "for n in range(4000): print('address', 'del' if n % 2 else 'add', '192.0.2.1/32 dev lo')"
    )
    node.call("sh", "-c", f'python3 -c "{program}" | ip -batch -')
    node.call("ip", "address", "add", "192.0.2.2/32", "dev", "lo")
    assert own.has_changed(), "more than there is room for"
    assert own.globals() == ["192.0.2.2"]
    assert not own.has_changed()
