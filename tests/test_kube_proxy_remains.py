"""The commands that take out what kube-proxy has left, from listings."""

from collections.abc import Sequence

import pytest

from kbe_nat.errors import RulesError
from kbe_nat.rules.kube_proxy_remains import kube_proxy_removals, render_removals

IPVS = """*nat
:PREROUTING ACCEPT [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-LOAD-BALANCER - [0:0]
:KUBE-MARK-MASQ - [0:0]
:CNI - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A PREROUTING -j CNI
-A KUBE-SERVICES -m set --match-set KUBE-CLUSTER-IP dst,dst -j KUBE-MARK-MASQ
-A KUBE-LOAD-BALANCER -j KUBE-MARK-MASQ
-A CNI -m set --match-set KUBE-LOOP-BACK dst,dst,src -j ACCEPT
COMMIT
*filter
:INPUT ACCEPT [0:0]
:KUBE-FIREWALL - [0:0]
:KUBE-ROUTER-INPUT - [0:0]
:KUBE-POD-FW-ABCDEFGHIJKLMNOP - [0:0]
-A INPUT -j KUBE-FIREWALL
COMMIT
"""
ODD = """*nat
:PREROUTING ACCEPT [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-SVC-ABCDEFGHIJKLMNOP - [0:0]
:KUBE-SEP-ABCDEFGHIJKLMNOP - [0:0]
:KUBE-SEP-QRSTUVWXYZ234567 - [0:0]
-A PREROUTING -s 192.0.2.7/32 -m comment --comment "an operator's" -j KUBE-SVC-ABCDEFGHIJKLMNOP
-A KUBE-SERVICES -j KUBE-SEP-QRSTUVWXYZ234567
-A KUBE-SVC-ABCDEFGHIJKLMNOP -j KUBE-SEP-ABCDEFGHIJKLMNOP
COMMIT
"""


class Listings:
    """A `Runner` that lists, and does nothing."""

    def __init__(self, **listings: str) -> None:
        self._listings = listings

    def run(self, command: Sequence[str], text: str = "") -> str:
        assert not text, "nothing is to be changed"
        name = command[0].replace("-", "_")
        if name not in self._listings:
            raise RulesError(f"{command[0]} is not installed")
        return self._listings[name]


def rendered(**listings: str) -> list[str]:
    return render_removals(kube_proxy_removals(Listings(**listings))).splitlines()


def test_a_node_without_commands_and_one_without_kube_proxy_have_nothing_to_remove() -> None:
    assert rendered() == []
    empty = "*nat\n:PREROUTING ACCEPT [0:0]\nCOMMIT\n"
    assert rendered(nft="table ip kube-proxy-2\n", iptables_save=empty, ipset="kbe\n") == []


def test_what_ipvs_mode_has_left_goes_but_for_what_a_stranger_uses() -> None:
    sets = "KUBE-CLUSTER-IP\nKUBE-LOOP-BACK\nKUBE-6-NODE-PORT-LOCAL-UDP\nKUBE-SRC-ABCDEFG\n"
    assert rendered(iptables_save=IPVS, ipset=sets) == [
        "# iptables-restore --noflush -w",
        "*nat",
        '-D PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES',
        "-F KUBE-SERVICES",
        "-F KUBE-LOAD-BALANCER",
        "-F KUBE-MARK-MASQ",
        "-X KUBE-SERVICES",
        "-X KUBE-LOAD-BALANCER",
        "-X KUBE-MARK-MASQ",
        "COMMIT",
        "# ipset restore",
        "destroy KUBE-CLUSTER-IP",
        "destroy KUBE-6-NODE-PORT-LOCAL-UDP",
    ]


def test_chains_that_an_operators_rule_uses_stay_with_all_behind_them() -> None:
    lines = rendered(iptables_save=ODD)
    assert [line for line in lines if line.startswith("-X")] == [
        "-X KUBE-SERVICES",
        "-X KUBE-SEP-QRSTUVWXYZ234567",
    ]
    assert not any(line.startswith("-D") for line in lines)


def test_a_command_that_fails_is_said() -> None:
    class Failing:
        def run(self, command: Sequence[str], text: str = "") -> str:
            raise RulesError("iptables-save: Permission denied")

    with pytest.raises(RulesError, match="Permission denied"):
        kube_proxy_removals(Failing())
