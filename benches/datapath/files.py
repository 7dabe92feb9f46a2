"""The time from a changed file to the first connection that reaches the other pod, among many
Services in files: the daemon itself, from its source to the kernel.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from benches.datapath.rows import Row
from benches.harness.processes import ROOT, running
from kbe_nat.playground.cluster import Cluster
from kbe_nat.policy.plan import Backend

ENDPOINTS: Final = 15
VIP: Final = "172.30.228.255"
PODS: Final = ("172.17.0.3", "172.17.0.4")
PORT: Final = 5002


def changed_files(count: int, changes: int) -> Row:
    """The daemon follows a directory with a file for each Service; how long an endpoint's change
    takes, from the moment that its file is in place to the first connection that reaches the other
    pod.
    """
    with (
        Cluster(tuple(Backend(pod, 9876) for pod in PODS)) as cluster,
        tempfile.TemporaryDirectory() as scratch,
        ExitStack() as stack,
    ):
        folder = Path(scratch)
        (folder / "objects").mkdir()
        for number in range(count - 1):
            endpoints = [address(10, number * ENDPOINTS + n) for n in range(ENDPOINTS)]
            text = written(f"service-{number}", address(172, number), 80, 8080, endpoints)
            (folder / f"objects/{number:05}.yaml").write_text(text)
        changing = folder / "objects/real.yaml"
        changing.write_text(written("real", VIP, PORT, PORT, PODS[:1]))
        for pod, namespace in zip(PODS, cluster.pods, strict=True):
            program = (sys.executable, "-m", "benches.datapath.naming_pod", pod, str(PORT))
            stack.enter_context(running((*namespace.prefix, *program)))
        started = time.monotonic()
        process = stack.enter_context(serving_daemon(cluster, folder))
        row: Row = {"files_seconds": round(time.monotonic() - started, 1)}
        status = Path(f"/proc/{process.pid}/status").read_text()
        row["daemon_mb"] = round(int(status.split("VmRSS:")[1].split()[0]) / 1024, 1)
        asking = subprocess.Popen(
            [
                *cluster.client.prefix,
                sys.executable,
                "-m",
                "benches.datapath.change_watch",
                VIP,
                str(PORT),
            ],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert asking.stdin is not None and asking.stdout is not None
        stack.callback(asking.wait)
        stack.callback(asking.kill)
        times = change_times(asking, folder, changing, changes)
        row["change_ms"] = round(statistics.median(times), 1)
        row["change_ms_most"] = round(max(times), 1)
        drain = (sys.executable, "-m", "kbe_nat", "drain", address(10, 7), "--no-wait")
        subprocess.run((*drain, "--socket", f"{folder}/socket"), check=True, capture_output=True)
        times = change_times(asking, folder, changing, changes)
        row["change_drained_ms"] = round(statistics.median(times), 1)
        row["change_drained_ms_most"] = round(max(times), 1)
        return row


@contextmanager
def serving_daemon(cluster: Cluster, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A daemon that follows the folder's `objects`, once it serves; its socket is there too."""
    options = {
        "manifests": f"{folder}/objects",
        "datapath": "first-packet",
        "socket": f"{folder}/socket",
        "state": f"{folder}/state",
    }
    flags = [word for name, value in options.items() for word in (f"--{name}", value)]
    command = (*cluster.node.prefix, sys.executable, "-m", "kbe_nat", "proxy", *flags)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if " serving " in line:
                break
        yield process
    finally:
        process.terminate()
        process.wait(20)


def change_times(
    asking: subprocess.Popen[str], folder: Path, changing: Path, changes: int
) -> list[float]:
    """Milliseconds from each change of the file to the first connection that the other pod has."""
    assert asking.stdin is not None and asking.stdout is not None
    times = []
    for number in range(changes):
        pod = PODS[(number + 1) % 2]
        beside = folder / "real.yaml"
        beside.write_text(written("real", VIP, PORT, PORT, [pod]))
        asking.stdin.write(f"{pod}\n")
        asking.stdin.flush()
        time.sleep(0.3)
        before = time.monotonic()
        beside.replace(changing)
        times.append((float(asking.stdout.readline()) - before) * 1e3)
    return times


def written(name: str, address: str, port: int, target: int, endpoints: Any) -> str:
    """A Service and its slice in YAML."""
    listed = ", ".join(f"{{addresses: [{endpoint}]}}" for endpoint in endpoints)
    return (
        f"apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n"
        f"spec: {{clusterIP: {address}, ports: [{{port: {port}}}]}}\n---\n"
        f"apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n"
        f"metadata: {{name: {name}-a, labels: {{kubernetes.io/service-name: {name}}}}}\n"
        f"addressType: IPv4\nports: [{{port: {target}}}]\nendpoints: [{listed}]\n"
    )


def address(first: int, number: int) -> str:
    """The address of this number in a range of its own."""
    return f"{first}.{64 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"
