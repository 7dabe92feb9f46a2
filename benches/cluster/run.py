"""The daemon at a large cluster: cold start, one change, and many changes a second.

A test API server with its objects made beforehand, on the node's loopback; the daemon in the node's
namespace, with first-packet; a client that connects to one Service again and again. Writes
benches/results/cluster.json, a part of benches/RESULTS.md. Needs root.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import trustme

from benches.cluster.server import PODS, PORT, VIP
from benches.harness.processes import ROOT
from benches.harness.report import machine, part, table
from kbe_nat.playground.cluster import Cluster
from kbe_nat.playground.namespaces import inside
from kbe_nat.policy.plan import Backend

RESULTS: Final = ROOT / "benches/results/cluster.json"
ADDRESSES: Final = tuple(PODS.values())
KUBECONFIG: Final = """apiVersion: v1
kind: Config
current-context: bench
contexts: [{{name: bench, context: {{cluster: bench}}}}]
clusters: [{{name: bench, cluster: {{server: "https://127.0.0.1:{port}",
  certificate-authority: ca.pem}}}}]
"""
Row = dict[str, Any]


def main() -> None:
    """Measure, store, show."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--services", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--json", action="store_true", help="instead of protobuf")
    parser.add_argument("--changes", type=int, default=100, help="single changes")
    parser.add_argument("--churn", type=float, default=60.0, help="seconds of many changes")
    arguments = parser.parse_args()
    encoding = "json" if arguments.json else "protobuf"
    rows = [
        measure(count, encoding, arguments.changes, arguments.churn) for count in arguments.services
    ]
    RESULTS.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")
    text = page(rows)
    part("cluster", "make bench-cluster", f"{machine()}\n\n{text}")
    print(text)


def measure(services: int, encoding: str, changes: int, seconds: float) -> Row:
    """One size of a cluster."""
    row: Row = {"services": services, "endpoints": services * 15, "encoding": encoding}
    with (
        tempfile.TemporaryDirectory() as name,
        Cluster(tuple(Backend(pod, PORT + 1) for pod in ADDRESSES)) as cluster,
        naming_pods(cluster),
        api_server(cluster, services, encoding, Path(name)) as server,
        daemon(cluster, Path(name)) as process,
    ):
        await_answer(cluster, ADDRESSES[0])
        row["cold_s"] = round(time.monotonic() - float(ask(server, "first")), 2)
        row["cold_cpu_s"] = round(cpu_seconds(process.pid), 2)
        row["peak_mb"] = round(memory(process.pid, "VmHWM") / 1024)
        time.sleep(3)
        row["resident_mb"] = round(memory(process.pid, "VmRSS") / 1024)
        # The first one may meet a daemon that still settles its memory.
        one_change(cluster, server, 1)
        delays = [one_change(cluster, server, number) for number in range(changes)]
        quantiles = statistics.quantiles(delays, n=100)
        row["change_p50_ms"], row["change_p99_ms"] = (
            round(quantiles[49] * 1000, 1),
            round(quantiles[98] * 1000, 1),
        )
        ask(server, f"churn 1000 {seconds}")
        used, started = cpu_seconds(process.pid), time.monotonic()
        behind = 0.0
        number = 0
        while time.monotonic() - started < seconds:
            behind = max(behind, one_change(cluster, server, number))
            number += 1
            time.sleep(0.2)
        spent = cpu_seconds(process.pid) - used
        row["churn_behind_s"] = round(behind, 3)
        row["churn_cpu"] = round(spent / (time.monotonic() - started), 2)
        row["churned_mb"] = round(memory(process.pid, "VmRSS") / 1024)
    print(row, file=sys.stderr)
    return row


def one_change(cluster: Cluster, server: "subprocess.Popen[str]", number: int) -> float:
    """Seconds from the event to the first connection that goes to the other pod."""
    pod = ADDRESSES[(number + 1) % 2]
    written = float(ask(server, f"point {pod}"))
    return await_answer(cluster, pod) - written


def await_answer(cluster: Cluster, pod: str) -> float:
    """When the first connection to the Service reached this pod."""

    def wait() -> float:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            with suppress(OSError), socket.socket() as client:
                client.settimeout(0.2)
                client.connect((VIP, 80))
                if client.recv(100) == pod.encode():
                    return time.monotonic()
        raise TimeoutError(f"{pod} never answered")

    return inside(cluster.client.path, wait)


@contextmanager
def naming_pods(cluster: Cluster) -> Iterator[None]:
    """A server in each pod that says its address."""
    program = str(ROOT / "benches/datapath/naming_pod.py")
    for pod, address in zip(cluster.pods, ADDRESSES, strict=True):
        process = pod.start((sys.executable, program, address, str(PORT)))
        assert process.stdout is not None
        process.stdout.readline()
    yield


@contextmanager
def api_server(
    cluster: Cluster, services: int, encoding: str, folder: Path
) -> "Iterator[subprocess.Popen[str]]":
    """The server's process in the node's namespace, and the kubeconfig in the folder."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    issued.private_key_pem.write_to_path(folder / "key.pem")
    issued.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    names = [str(folder / name) for name in ("cert.pem", "key.pem")]
    command = [sys.executable, "-m", "benches.cluster.server"]
    process = subprocess.Popen(
        [*cluster.node.prefix, *command, str(services), str(services * 15), encoding, *names],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    try:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        (folder / "kubeconfig").write_text(KUBECONFIG.format(port=port))
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def daemon(cluster: Cluster, folder: Path) -> "Iterator[subprocess.Popen[str]]":
    """The daemon in the node's namespace."""
    flags = ("--kubeconfig", "kubeconfig", "--socket", "control.sock", "--state", "state")
    command = [sys.executable, "-m", "kbe_nat", "proxy", *flags, "--node", "node-1"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [*cluster.node.prefix, *command, "--datapath", "first-packet"],
            cwd=folder,
            stderr=log,
            text=True,
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def ask(server: "subprocess.Popen[str]", line: str) -> str:
    """The server's answer."""
    assert server.stdin is not None and server.stdout is not None
    server.stdin.write(f"{line}\n")
    server.stdin.flush()
    return server.stdout.readline().strip()


def memory(pid: int, field: str) -> int:
    """In KiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def cpu_seconds(pid: int) -> float:
    """User and system time of all threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def page(rows: list[Row]) -> str:
    """The table."""
    heads = {
        "services": "Services",
        "endpoints": "endpoints",
        "encoding": "encoding",
        "cold_s": "first byte to first answer, s",
        "cold_cpu_s": "CPU for it, s",
        "peak_mb": "peak, MB",
        "resident_mb": "at rest, MB",
        "change_p50_ms": "a change, ms",
        "change_p99_ms": "p99",
        "churn_behind_s": "behind at 1,000/s, s",
        "churn_cpu": "CPU then, cores",
        "churned_mb": "after it, MB",
    }
    return table(list(heads.values()), [[str(row[name]) for name in heads] for row in rows])


if __name__ == "__main__":
    main()
