"""Rules as kube-proxy of the page's time wrote them, against the page itself."""

from pathlib import Path

import pytest

from kbe_nat.kubeproxy import legacy
from kbe_nat.model import IPV4, IPV6
from kbe_nat.policy import Listener, Plan, PortPolicy, Target, plan
from kbe_nat.sources.manifests import read_manifests

SEED = Path(__file__).parents[1] / "examples/seed"
ONE = """\
-A KUBE-SEP-4SQFZS32ZVMTQEZV -s 172.17.0.3/32 -m comment --comment "default/simpleservice:" -j KUBE-MARK-MASQ
-A KUBE-SEP-4SQFZS32ZVMTQEZV -p tcp -m comment --comment "default/simpleservice:" -m tcp -j DNAT \
--to-destination 172.17.0.3:9876
-A KUBE-SERVICES -d 172.30.228.255/32 -p tcp -m comment --comment "default/simpleservice: cluster IP" -m tcp \
--dport 80 -j KUBE-SVC-EZC6WLOVQADP4IAW
-A KUBE-SVC-EZC6WLOVQADP4IAW -m comment --comment "default/simpleservice:" -j KUBE-SEP-4SQFZS32ZVMTQEZV
"""
TWO = """\
-A KUBE-SEP-4SQFZS32ZVMTQEZV -s 172.17.0.3/32 -m comment --comment "default/simpleservice:" -j KUBE-MARK-MASQ
-A KUBE-SEP-4SQFZS32ZVMTQEZV -p tcp -m comment --comment "default/simpleservice:" -m tcp -j DNAT \
--to-destination 172.17.0.3:9876
-A KUBE-SEP-PXYYII6AHMUWKLYX -s 172.17.0.4/32 -m comment --comment "default/simpleservice:" -j KUBE-MARK-MASQ
-A KUBE-SEP-PXYYII6AHMUWKLYX -p tcp -m comment --comment "default/simpleservice:" -m tcp -j DNAT \
--to-destination 172.17.0.4:9876
-A KUBE-SERVICES -d 172.30.228.255/32 -p tcp -m comment --comment "default/simpleservice: cluster IP" -m tcp \
--dport 80 -j KUBE-SVC-EZC6WLOVQADP4IAW
-A KUBE-SVC-EZC6WLOVQADP4IAW -m comment --comment "default/simpleservice:" -m statistic --mode random \
--probability 0.50000000000 -j KUBE-SEP-4SQFZS32ZVMTQEZV
-A KUBE-SVC-EZC6WLOVQADP4IAW -m comment --comment "default/simpleservice:" -j KUBE-SEP-PXYYII6AHMUWKLYX
"""


@pytest.mark.parametrize(
    ("files", "page"), [(["rc.yaml", "svc.yaml"], ONE), (["cluster.yaml"], TWO)], ids=["one pod", "two pods"]
)
def test_the_page_line_by_line(files: list[str], page: str) -> None:
    made = plan(read_manifests([SEED / name for name in files]).snapshot)
    assert legacy.rules(made, "default/simpleservice") == page.splitlines()


def test_the_others_of_a_plan() -> None:
    targets = tuple(Target(f"fd00::{n}", 53) for n in range(3))
    listeners = (Listener("cluster-ip", "fd00::a", 53), Listener("node-port", "", 30053))
    dns = PortPolicy("kube-system", "dns", "udp", "udp", IPV6, listeners, targets, ())
    nobody = PortPolicy(
        "default", "nobody", "", "tcp", IPV4, (Listener("cluster-ip", "10.0.0.1", 80),), (), ()
    )
    made = Plan((dns, nobody), (), (), ())
    assert legacy.rules(made, "default/nobody") == []
    lines = legacy.rules(made, "kube-system/dns")
    chances = [line.split("--probability ")[1].split()[0] for line in lines if "--probability" in line]
    # 0.33333 in units of 2^-31, as iptables-save prints it.
    assert chances == ["0.33332999982", "0.50000000000"]
    assert any(
        '-d fd00::a/128 -p udp -m comment --comment "kube-system/dns:udp cluster IP"' in line
        for line in lines
    )
    assert any(line.endswith("--to-destination [fd00::2]:53") for line in lines)
