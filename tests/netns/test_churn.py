"""Endpoints that change faster than a daemon can follow."""

import json
from pathlib import Path
from threading import Event, Thread

from harness.daemons import Daemon, curl
from harness.waiting import eventually

PODS = ("172.17.0.3", "172.17.0.4")
SLICES = 50
WRITES = 2_000


def service(number: int) -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": f"churn-{number}"},
        "spec": {"clusterIP": f"172.30.1.{number}", "ports": [{"port": 80}]},
    }


def endpoints(number: int, addresses: tuple[str, ...]) -> dict[str, object]:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"churn-{number}-a",
            "labels": {"kubernetes.io/service-name": f"churn-{number}"},
        },
        "addressType": "IPv4",
        "ports": [{"port": 9876}],
        "endpoints": [{"addresses": [address]} for address in addresses],
    }


def resident(pid: int) -> int:
    """Kilobytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])


def test_f110_churn_is_followed_to_its_end(daemon: Daemon) -> None:
    services = [service(number) for number in range(SLICES)]
    daemon.write("churn.json", json.dumps({"apiVersion": "v1", "kind": "List", "items": services}))
    for number in range(SLICES):
        daemon.write(f"slice-{number}.json", json.dumps(endpoints(number, PODS)))
    daemon.start()
    pid, is_over, failed = daemon.get("status")["pid"], Event(), []

    def ask() -> None:
        while not is_over.is_set():
            try:
                curl(daemon.cluster)
            except Exception as error:
                failed.append(error)

    def churn(last: str) -> None:
        for write in range(WRITES):
            number = write % SLICES
            daemon.write(
                f"slice-{number}.json", json.dumps(endpoints(number, PODS[write // SLICES % 2 :]))
            )
        for number in range(SLICES):
            daemon.write(f"slice-{number}.json", json.dumps(endpoints(number, (last,))))

    def is_followed(last: str) -> bool:
        listed = daemon.get("endpoints")
        chosen = {
            row["backend"] for row in listed if "churn" in row["service"] and row["state"] != "gone"
        }
        return chosen == {f"{last}:9876"}

    asking = Thread(target=ask)
    asking.start()
    try:
        churn(PODS[0])
        eventually(lambda: is_followed(PODS[0]))
        before = resident(pid)
        churn(PODS[1])
        eventually(lambda: is_followed(PODS[1]))
    finally:
        is_over.set()
        asking.join()
    assert failed == [], "a Service that did not change is served all the time"
    assert curl(daemon.cluster, "172.30.1.7/info")
    assert resident(pid) - before < 10_000, "what has been is let go"
