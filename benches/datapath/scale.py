"""The cost of many Services to the kernel and us: to program, to change, and for a new connection.

The same objects as our tables (`first-packet`), as the rules that kube-proxy would write for them
(`kube-proxy-nft-rules`, loaded with `nft -f`), and as one nft rule with a map (`nft-dnat`), each in
a network of its own and measured in turn. Writes benches/results/scale.json, a part of
benches/RESULTS.md, and what programming took into benches/results/datapath.json. Needs root.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from benches.datapath.run import CONNECTS, FIELDS, HERE
from benches.datapath.run import RESULTS as DATAPATHS
from benches.harness.processes import ROOT, compile_program, run, running
from benches.harness.report import figure, machine, part, table
from kbe_nat.family import Family
from kbe_nat.kubeproxy.dump import Form, dump, plan_for
from kbe_nat.model import (
    Endpoint,
    EndpointSlice,
    Service,
    ServiceKey,
    ServicePort,
    SlicePort,
    Snapshot,
)
from kbe_nat.playground.cluster import Cluster
from kbe_nat.policy.options import Options
from kbe_nat.policy.plan import Backend

RESULTS: Final = ROOT / "benches/results/scale.json"
ENDPOINTS: Final = 15
VIP: Final = "172.30.228.255"
PODS: Final = ("172.17.0.3", "172.17.0.4")
PORT: Final = 5002
Row = dict[str, Any]


def main() -> None:
    """Measure, store, show."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--services", type=int, nargs="+", default=[1, 10_000], help="numbers of Services"
    )
    parser.add_argument("--rounds", type=int, default=5, help="times that connections are measured")
    parser.add_argument("--changes", type=int, default=100, help="times that an endpoint changes")
    arguments = parser.parse_args()
    traffic = compile_program(HERE / "traffic.c", "traffic", "-lpthread")
    if traffic is None:
        sys.exit("a C compiler (cc) is needed for the traffic")
    rows = [
        row
        for services in arguments.services
        for row in measured(traffic, services, arguments.rounds)
    ]
    say(f"{max(arguments.services)} Services in files, of which one endpoint changes")
    rows[-1] |= changed_files(max(arguments.services), arguments.changes)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(rows, indent=2) + "\n")
    add_programming(rows)
    text = f"{machine()} Rounds: {arguments.rounds}; medians.\n\n{table(*view(rows))}"
    part("scale", "make bench-datapath", text)
    print(text)


def add_programming(rows: list[Row]) -> None:
    """The cost of programming the most Services goes to the datapaths' rows too."""
    paths = json.loads(DATAPATHS.read_text()) if DATAPATHS.exists() else []
    most = max(row["services"] for row in rows)
    for row in rows:
        if row["services"] != most or row["path"] == "nft-dnat":
            continue
        datapath = next((each for each in paths if each["path"] == row["path"]), None)
        if datapath is None:
            datapath = (
                {"path": row["path"]}
                | dict.fromkeys(FIELDS)
                | {field: row[field] for field in CONNECTS}
            )
            paths.append(datapath)
        fields = ("services", "endpoints", "seconds", "peak_mb", "change_ms", "change_drained_ms")
        datapath["programming"] = {field: row.get(field) for field in fields}
    DATAPATHS.write_text(json.dumps(paths, indent=2) + "\n")


def measured(traffic: Path, services: int, rounds: int) -> list[Row]:
    """A row for each path with so many Services, first-packet last."""
    snapshot = objects(services)
    rows = []
    with ExitStack() as stack:
        clients = {}
        for path, program in PATHS.items():
            say(f"{services} Services: {path}")
            cluster = stack.enter_context(Cluster(tuple(Backend(pod, 9876) for pod in PODS)))
            stack.enter_context(running((*cluster.pods[0].prefix, str(traffic), "accept")))
            clients[path] = (*cluster.client.prefix, str(traffic))
            started, row = stack.enter_context(program(cluster, snapshot))
            run(*clients[path], "connect", VIP, "0.000001")
            row["seconds"] = time.monotonic() - started
            rows.append(
                {"path": path, "services": services, "endpoints": services * ENDPOINTS} | row
            )
        for number in range(rounds):
            order = list(PATHS)[number % len(PATHS) :] + list(PATHS)[: number % len(PATHS)]
            for path in order:
                said = run(*clients[path], "connect", VIP, "1").split()
                row = next(row for row in rows if row["path"] == path)
                for field, value in zip(CONNECTS, map(float, said), strict=True):
                    row.setdefault(field, []).append(value)
    for row in rows:
        row |= {field: round(statistics.median(row[field]), 2) for field in CONNECTS}
        row["seconds"] = round(row["seconds"], 3)
    return rows


def objects(count: int) -> Snapshot:
    """Services as a source yields them; the last one is served by a real pod."""
    services = [
        Service(
            "default", f"service-{number}", (address(172, number),), (ServicePort("", "tcp", 80),)
        )
        for number in range(count - 1)
    ]
    slices: dict[ServiceKey, tuple[EndpointSlice, ...]] = {
        service.key: (
            EndpointSlice(
                f"{service.name}-a",
                Family.IPV4,
                (SlicePort("", "tcp", 8080),),
                tuple(Endpoint(address(10, number * ENDPOINTS + n)) for n in range(ENDPOINTS)),
            ),
        )
        for number, service in enumerate(services)
    }
    real = Service("default", "real", (VIP,), (ServicePort("", "tcp", PORT),))
    slices[real.key] = (
        EndpointSlice("real-a", Family.IPV4, (SlicePort("", "tcp", PORT),), (Endpoint(PODS[0]),)),
    )
    return Snapshot(1, (*services, real), slices)


def address(first: int, number: int) -> str:
    """The address of this number in a range of its own."""
    return f"{first}.{64 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"


@contextmanager
def nft_dnat(cluster: Cluster, snapshot: Snapshot) -> Iterator[tuple[float, Row]]:
    """One rule, and a map from every frontend to its first endpoint."""
    elements = []
    for service in snapshot.services:
        [part] = snapshot.slices[service.key]
        backend = f"{part.endpoints[0].address} . {part.ports[0].port}"
        elements.append(f"{service.cluster_ips[0]} . tcp . {service.ports[0].port} : {backend}")
    text = f"""table ip bench {{
  map m {{ type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service
    elements = {{ {", ".join(elements)} }}
  }}
  chain pre {{ type nat hook prerouting priority dstnat
    meta l4proto tcp dnat ip to ip daddr . meta l4proto . th dport map @m
  }}
}}
"""
    started = time.monotonic()
    yield started, {"peak_mb": loaded(cluster, text)}


@contextmanager
def kube_proxy_rules(cluster: Cluster, snapshot: Snapshot) -> Iterator[tuple[float, Row]]:
    """kube-proxy's rules for the same; changing one endpoint as it does is measured too."""
    options = Options(node_addresses=("10.0.2.15",))
    text = dump(plan_for(snapshot, options, Form.NFT), snapshot, Form.NFT)
    started = time.monotonic()
    row: Row = {"peak_mb": loaded(cluster, text)}
    lines = text.splitlines()
    place = next(
        n
        for n, line in enumerate(lines)
        if line.lstrip().startswith("chain service-") and "/real/" in line
    )
    chain = lines[place].split()[1]
    rules = [line.strip() for line in lines[place + 1 : lines.index("\t}", place)]]
    change = f"flush chain ip kube-proxy {chain}\n" + "".join(
        f"add rule ip kube-proxy {chain} {rule}\n" for rule in rules
    )
    times = []
    for _ in range(3):
        before = time.monotonic()
        loaded(cluster, change)
        times.append((time.monotonic() - before) * 1e3)
    row["change_ms"] = round(statistics.median(times), 1)
    # Its own time does not count as the rules'.
    yield started + sum(times) / 1e3, row


def loaded(cluster: Cluster, text: str) -> float:
    """Loads rules; how much memory nft takes, in MB."""
    process = subprocess.Popen(
        [*cluster.node.prefix, "nft", "-f", "-"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None and process.stderr is not None
    process.stdin.write(text)
    process.stdin.close()
    complaint = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"nft: {complaint}")
    return round(usage.ru_maxrss / 1024, 1)


@contextmanager
def first_packet(cluster: Cluster, snapshot: Snapshot) -> Iterator[tuple[float, Row]]:
    """Ours, in a process of its own: from the objects to serving."""
    command = (*cluster.node.prefix, sys.executable, "-m", "benches.datapath.served")
    process = subprocess.Popen(
        [*command, str(len(snapshot.services))],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        words = process.stdout.readline().split()
        if not words:
            sys.exit("ours does not start")
        yield float(words[0]), {"peak_mb": float(words[1])}
    finally:
        process.stdin.close()
        process.wait(20)


PATHS: Final[dict[str, Callable[[Cluster, Snapshot], Any]]] = {
    "nft-dnat": nft_dnat,
    "kube-proxy-nft-rules": kube_proxy_rules,
    "first-packet": first_packet,
}


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


def view(rows: list[Row]) -> tuple[tuple[str, ...], list[list[str]]]:
    """The table."""

    def against(row: Row, field: str) -> str:
        peer = next(
            each
            for each in rows
            if each["path"] == "nft-dnat" and each["services"] == row["services"]
        )
        return f"{figure(row[field])}, {row[field] / peer[field]:.2f}x"

    columns = (
        "path",
        "Services",
        "endpoints",
        "connections/s, x nft-dnat",
        "connect p50 µs, x nft-dnat",
        "connect p99 µs, x nft-dnat",
        "objects to first answer, s",
        "memory, MB",
        "one endpoint changed, ms",
        "with a drain in force, ms",
    )
    lines = [
        [
            row["path"],
            f"{row['services']:,}",
            f"{row['endpoints']:,}",
            *(against(row, field) for field in CONNECTS),
            figure(row["seconds"]),
            figure(row["peak_mb"]),
            *(
                figure(row[field]) if field in row else "-"
                for field in ("change_ms", "change_drained_ms")
            ),
        ]
        for row in rows
    ]
    return columns, lines


def say(text: str) -> None:
    """Progress, for the person who waits."""
    print(text, file=sys.stderr)


if __name__ == "__main__":
    main()
