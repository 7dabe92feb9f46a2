"""Uses of the Python API for the type checker. It passes `right`, and finds an error in each line
of `wrong`: with `--strict` an `ignore` without one is an error itself.
"""

from array import array
from ipaddress import ip_address, ip_network

import numpy as np

import kbe_nat
from kbe_nat import words


def right(engine: kbe_nat.Engine) -> None:
    """What programs do."""
    backend = kbe_nat.Backend(ip_address("10.0.0.1"), 80)
    port = kbe_nat.ServicePort(
        "a/b",
        [kbe_nat.Frontend("10.96.0.1", 80, "external-ip")],
        [backend],
        strategy=kbe_nat.Strategy.MAGLEV,
        source_ranges=[ip_network("10.0.0.0/8"), "192.0.2.0/24"],
    )
    engine.replace_services([port], kbe_nat.NodeView(mode="nftables", unknown_port="reject"))
    for strategy in ("rr", "peak-ewma"):
        kbe_nat.ServicePort("a/b", [], [], strategy=strategy)
    packets = np.zeros(40, np.uint8)
    engine.process_batch(packets, 0, offsets=np.array([0, 40], np.uint64))
    engine.process_batch([bytearray(40), memoryview(bytearray(40))], 0)
    engine.process_batch(bytearray(40), 0, offsets=array("Q", [0, 40]))
    verdict = engine.process(packets, 0)
    action: words.Action = verdict.action
    cause: words.Cause = verdict.cause
    assert verdict.action == "translate" or (action, cause) == ("drop", "malformed")
    assert verdict.direction in ("original", "reply", None)
    engine.decisions(verdict="drop", client=ip_address("10.0.0.9"))
    kbe_nat.reject(memoryview(b""), "tcp-reset")
    kbe_nat.Engine(midstream="reject", invalid="drop", offloaded="pass")
    kbe_nat.Snat([ip_address("192.0.2.1")], allocation="blocks", mapping="endpoint-dependent")


def wrong(engine: kbe_nat.Engine) -> None:
    """What programs get wrong."""
    kbe_nat.Backend("10.0.0.1", "80")  # type: ignore[arg-type]
    kbe_nat.Backend(5, 80)  # type: ignore[arg-type]
    kbe_nat.Frontend("10.96.0.1", 80, "nodeport")  # type: ignore[arg-type]
    kbe_nat.ServicePort("a/b", [], [], strategy="round-robin")  # type: ignore[arg-type]
    kbe_nat.ServicePort("a/b", [], [], protocol="icmp")  # type: ignore[arg-type]
    kbe_nat.ServicePort("a/b", [], [], source_ranges=[5])  # type: ignore[list-item]
    kbe_nat.NodeView(mode="ipvs")  # type: ignore[arg-type]
    kbe_nat.NodeView(unknown_port="refuse")  # type: ignore[arg-type]
    kbe_nat.Engine(midstream="pass")  # type: ignore[arg-type]
    kbe_nat.Snat([], allocation="round")  # type: ignore[arg-type]
    kbe_nat.reject(b"", "rst")  # type: ignore[arg-type]
    engine.decisions(verdict="pass")  # type: ignore[arg-type]
    engine.process("packet", 0)  # type: ignore[arg-type]
    engine.process_batch([1, 2], 0)  # type: ignore[list-item]
    assert engine.process(b"", 0).action == "translated"  # type: ignore[comparison-overlap]
    assert engine.process(b"", 0).cause == "no-backend"  # type: ignore[comparison-overlap]
    assert next(engine.flows()).state == "NONE"  # type: ignore[comparison-overlap]
