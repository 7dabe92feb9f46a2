"""The daemon as operators run it: a process in the node's namespace, asked by the command line."""

import json
import os
import re
import signal
import socket
import subprocess
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from harness.daemons import BALANCED, COMMAND, NOBODY, SEED, VIP, Daemon, curl, kernel_rules
from harness.programs import SHORT_SERVER, TCP_ECHO, UDP_ECHO
from harness.stage import FAMILIES, FOREIGN, PODS, add_ipv6, served
from harness.waiting import eventually
from kbe_nat.drivers.native import queues_for_processors
from kbe_nat.errors import PlaygroundError
from kbe_nat.family import Family
from kbe_nat.playground.namespaces import inside
from kbe_nat.rules.commands import Commands
from kbe_nat.rules.rule import DatapathKind

QUEUE_FILE = "/proc/net/netfilter/nfnetlink_queue"
QUEUED = re.compile(r"(?m)^ *1\d\d +\d+ +(\d+)")
QUEUES_OF_PROCESSORS = (
    f"queue flags bypass,fanout to 100-{99 + queues_for_processors()}"
    if queues_for_processors() > 1
    else "queue flags bypass to 100"
)
QUEUEING = {
    DatapathKind.EVERY_PACKET: "-j NFQUEUE --queue-num 100",
    DatapathKind.FIRST_PACKET: QUEUES_OF_PROCESSORS,
    DatapathKind.CACHED: QUEUES_OF_PROCESSORS,
}


def test_f11_it_serves_follows_changes_and_ends(daemon: Daemon) -> None:
    cluster = daemon.cluster
    cluster.node.call("iptables", "-A", "FORWARD", "-s", "192.0.2.1", "-j", "DROP")
    Commands(cluster.node.prefix).run(("nft", "-f", "-"), FOREIGN)
    before = kernel_rules(cluster)
    assert "192.0.2.7" in before
    daemon.start()
    assert '"from": "10.0.2.100"' in curl(cluster)
    daemon.write("nobody.yaml", NOBODY)
    eventually(lambda: len(daemon.get("services")) == 2)
    with pytest.raises(PlaygroundError, match=r"Couldn't connect to server"):
        curl(cluster, "172.30.0.9:81")
    (daemon.folder / "objects/nobody.yaml").unlink()
    eventually(lambda: len(daemon.get("services")) == 1)
    assert daemon.end() < 5
    assert daemon.process is not None and daemon.process.returncode == 0
    assert kernel_rules(cluster) == before
    assert (daemon.folder / "state").stat().st_mode & 0o777 == 0o600
    assert not daemon.socket.exists()


def test_f16_what_is_wrong_leaves_the_last_good_state(daemon: Daemon) -> None:
    daemon.start("--log-format", "json")
    for name, text, complaint in (
        ("bad.yaml", "kind: [", "bad.yaml, line 2, column 1: not YAML"),
        ("bad.yaml", NOBODY.replace("81", "99999"), "Service nobody: spec.ports[0].port"),
    ):
        daemon.write(name, text)
        eventually(lambda: complaint in daemon.log)  # noqa: B023
        assert [row["service"] for row in daemon.get("services")] == ["default/simpleservice"]
        assert "172.30.228.255" in curl(daemon.cluster)
    assert any(complaint in line for line in daemon.get("status")["refused"])
    daemon.write("bad.yaml", NOBODY)
    eventually(lambda: len(daemon.get("services")) == 2)
    messages = [json.loads(line) for line in daemon.log.splitlines()]
    assert {row["level"] for row in messages} == {"info", "error"}


def test_f130_files_without_an_end_take_nothing_with_them(daemon: Daemon) -> None:
    levels = [f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 9)}]" for n in range(1, 10)]
    daemon.write("bomb.yaml", "\n".join(["x0: &x0 [a]", *levels]))
    daemon.write("self.yaml", "&a\nkind: List\napiVersion: v1\nitems: [*a]")
    daemon.write("number.yaml", NOBODY.replace("81", ":".join(["1"] * 400_000)))
    os.mkfifo(daemon.folder / "objects/fifo.yaml")
    (daemon.folder / "objects/zero.yaml").symlink_to("/dev/zero")
    daemon.start()
    complaints = (
        "bomb.yaml, line 5, column 10: not YAML: aliases make it many times as large",
        "self.yaml, document 1, items[0]: List: kind: a List in a List is not read",
        "number.yaml",
        "fifo.yaml: it is a FIFO, not a file",
        "zero.yaml: it is a device, not a file",
    )
    refused = daemon.get("status")["refused"]
    assert all(any(complaint in line for line in refused) for complaint in complaints), refused
    assert "172.30.228.255" in curl(daemon.cluster)
    # Those beside them are followed.
    daemon.write("number.yaml", NOBODY)
    eventually(lambda: len(daemon.get("services")) == 2)
    assert len(daemon.get("status")["refused"]) == len(complaints) - 1


def test_f09_connections_outlive_a_daemon_that_was_killed(daemon: Daemon) -> None:
    cluster = daemon.cluster
    daemon.write("echo.yaml", SERVICE_ECHO)
    pod = cluster.pods[0]
    echo = served(pod, TCP_ECHO)
    daemon.start("--strategy", "rr")
    own = inside(
        cluster.client.path, lambda: socket.create_connection(("172.30.0.7", 7), timeout=10)
    )
    with own as connection:
        connection.sendall(b"before")
        assert connection.recv(100) == b"before"
        daemon.wait_for_checkpoint()
        daemon.end(signal.SIGKILL)
        connection.sendall(b"after")
        if daemon.datapath.offloads:
            assert connection.recv(100) == b"after", "the kernel carries it"
        daemon.start("--strategy", "rr")
        if daemon.datapath is DatapathKind.EVERY_PACKET:
            # The packet has waited for the daemon, it did not go anywhere else.
            assert connection.recv(100) == b"after"
        connection.sendall(b"again")
        assert connection.recv(100) == b"again"
        [flow] = daemon.get("flows")
        assert (flow["service"], flow["reply_source"]) == ("default/echo", "172.17.0.3:9999")
    echo.terminate()


def test_f07_packets_that_a_killed_daemon_held_come_again(daemon: Daemon) -> None:
    cluster = daemon.cluster
    daemon.start()
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGSTOP)
    asking = cluster.client.start(("curl", "-sS", "--max-time", "20", f"{VIP}/info"))
    eventually(lambda: any(map(int, QUEUED.findall(cluster.node.call("cat", QUEUE_FILE)))))
    daemon.end(signal.SIGKILL)
    # What was held is dropped with the queue, and nothing passes untranslated until somebody
    # listens again.
    daemon.start()
    answer, _ = asking.communicate(timeout=30)
    assert '"host": "172.30.228.255"' in answer


def test_node_ports_health_checks_and_the_other_mode(daemon: Daemon) -> None:
    cluster = daemon.cluster
    daemon.write("balanced.yaml", BALANCED)
    daemon.start("--mode", "nftables", "--node", "here")
    status = ("curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "http://10.0.2.15:30200/")
    assert cluster.client.call(*status) == "503", "the seed's pods say no node"
    # No endpoint of this node: silence. The other port of a cluster IP: refused at once.
    with pytest.raises(PlaygroundError, match="timed out"):
        curl(cluster, "10.0.2.15:30080/info")
    with pytest.raises(PlaygroundError, match="Couldn't connect"):
        curl(cluster, f"{VIP}:81")
    assert "172.17.0.1" in cluster.node.call(
        "curl", "-sS", "--max-time", "2", "10.0.2.15:30080/info"
    )
    daemon.write(
        "cluster.yaml", SEED.replace("spec:\n  containers", "spec:\n  nodeName: here\n  containers")
    )
    eventually(lambda: cluster.client.call(*status) == "200")
    assert "10.0.2.100" in curl(cluster, "10.0.2.15:30080/info"), "the client's address is kept"
    # Its own rules would have been these.
    dump = daemon.ask("dump", "--live", "--format", "nft")
    assert "tcp . 30080 : goto external-" in dump


def test_one_capability_is_enough(daemon: Daemon) -> None:
    daemon.start()
    pid = daemon.get("status")["pid"]
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    assert int(status["CapEff"], 16) == 1 << 12
    # CAP_NET_RAW is for iptables' set match alone, so for the commands of one datapath.
    lent = 1 << 13 if daemon.datapath is DatapathKind.EVERY_PACKET else 0
    for name in ("CapPrm", "CapInh", "CapBnd"):
        assert int(status[name], 16) == 1 << 12 | lent, name
    assert int(status["CapAmb"], 16) == 1 << 12
    assert status["NoNewPrivs"] == "1"
    for task in Path(f"/proc/{pid}/task").iterdir():
        assert f"CapEff:\t{1 << 12:016x}" in (task / "status").read_text(), "every thread"


def test_f08_a_second_daemon_is_told(daemon: Daemon, tmp_path: Path) -> None:
    daemon.start()
    for arguments in (
        (),
        ("--queue", "101"),
        ("--cleanup",),
        ("--queue", "101", "--socket", f"{tmp_path}/other"),
    ):
        second = daemon.run(*arguments)
        assert second.returncode == 2
        assert "another kbe-nat proxy runs in this network namespace" in second.stderr
    assert "172.30.228.255" in curl(daemon.cluster), "the first one is undisturbed"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--mark-refused", "0x1000"), "two of these are the same bit"),
        (("--mark-flow", "0x3000"), "'0x3000' is not one bit of 32"),
        (("--cache-exclude-device", ""), "'' is no name of a device"),
        (("--cache-exclude-device", "eth0/1"), "'eth0/1' is no name of a device"),
        (("--cache-exclude-device", "a" * 16), "is no name of a device: up to 15 bytes"),
        (("--mark-backend", "0x50000000"), "'0x50000000' is no bits side by side"),
        (("--mark-backend", "0x1fff000"), "the other marks' bits are among these"),
        (("--queue", "65534", "--queues", "2"), "the last queue would be 65535; 65534 is the last"),
        (("--max-flows", "99999999999"), "--max-flows"),
        (("--queue-length", "99999999999"), "--queue-length"),
        (("--cpus", "999"), "'999' is not the number of a processor that we may use"),
        (("--dry-run", "--cleanup"), "not what is taken out"),
    ],
)
def test_flags_that_cannot_be_meant_change_nothing(
    daemon: Daemon, arguments: tuple[str, ...], complaint: str
) -> None:
    before = kernel_rules(daemon.cluster)
    done = daemon.run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert complaint in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert kernel_rules(daemon.cluster) == before


def test_f12_a_dry_run_changes_nothing_and_cleanup_removes_what_a_killed_one_left(
    daemon: Daemon,
) -> None:
    before = kernel_rules(daemon.cluster)
    timeout = "net.netfilter.nf_conntrack_udp_timeout"
    seconds = daemon.cluster.node.call("sysctl", "-n", timeout).strip()
    done = daemon.run("--dry-run", "--conntrack-udp-timeout", "77s")
    assert done.returncode == 0, done.stderr
    assert VIP in done.stdout
    assert QUEUEING[daemon.datapath] in done.stdout
    # With every-packet the engine tracks connections.
    is_kernels = daemon.datapath.offloads
    assert (f"{timeout} = 77  # was {seconds}\n" in done.stdout) == is_kernels
    assert daemon.cluster.node.call("sysctl", "-n", timeout).strip() == seconds
    assert kernel_rules(daemon.cluster) == before
    assert diagnosed(daemon) == ("no kbe-nat proxy runs here", "ok", "none are in the kernel")
    daemon.start()
    runs, state, found = diagnosed(daemon)
    assert (runs, state) == ("a kbe-nat proxy runs here", "ok")
    daemon.end(signal.SIGKILL)
    assert kernel_rules(daemon.cluster) != before
    assert diagnosed(daemon) == (
        "no kbe-nat proxy runs here",
        "note",
        f"{found}, and no daemon listens",
    )
    done = daemon.run("--cleanup")
    assert done.returncode == 0
    left = "table ip kbe-nat-translation-" if is_kernels else "every-packet's rules of "
    assert f"removed: {left}" in done.stdout
    assert kernel_rules(daemon.cluster) == before
    assert daemon.run("--cleanup").stdout == "no rules of kbe-nat were here\n"


def diagnosed(daemon: Daemon) -> tuple[str, str, str]:
    """What doctor says of the daemon, and of rules that are in force."""
    checks = json.loads(daemon.cluster.node.call(*COMMAND, "doctor", "-o", "json"))["items"]
    rows = {check["name"]: check for check in checks}
    return rows["daemon"]["found"], rows["our-rules"]["state"], rows["our-rules"]["found"]


def repairs(daemon: Daemon) -> int:
    """How often the daemon has put rules back: between a damage and a look at the kernel it may do
    so.
    """
    return daemon.log.count("somebody has removed rules or changed them")


def is_put_right(daemon: Daemon, whole: str, before: int) -> bool:
    """Whether there was another repair, and all rules are there."""
    return repairs(daemon) > before and kernel_rules(daemon.cluster) == whole


def test_f13_rules_that_somebody_removes_come_back(daemon: Daemon) -> None:
    daemon.start()
    node = daemon.cluster.node
    whole = kernel_rules(daemon.cluster)
    if daemon.datapath is DatapathKind.EVERY_PACKET:
        for damage in (
            ("iptables", "-t", "filter", "-F", "KBE-NAT-FORWARD"),
            ("iptables", "-t", "mangle", "-F"),
            ("ipset", "flush", "kbe-nat-frontends-4"),
        ):
            node.call(*damage)
            eventually(lambda: kernel_rules(daemon.cluster) == whole)
    else:
        for broken in (
            ("flush", "chain", "queue-bypass"),
            ("flush", "map", "backends"),
            ("delete", "table"),
        ):
            listed = node.call("nft", "list", "tables")
            [name] = re.findall(r"kbe-nat-translation-\d", listed)
            before = repairs(daemon)
            node.call("nft", *broken[:2], "ip", name, *broken[2:])
            eventually(partial(is_put_right, daemon, whole, before))
            assert "172.30.228.255" in curl(daemon.cluster)
    assert "somebody has removed rules" in daemon.log
    assert "172.30.228.255" in curl(daemon.cluster)


def test_f133_what_somebody_changes_is_put_right(daemon: Daemon) -> None:
    daemon.start()
    node = daemon.cluster.node
    whole = kernel_rules(daemon.cluster)
    if daemon.datapath is DatapathKind.EVERY_PACKET:
        damages: list[str] = [
            f"ipset del kbe-nat-addresses-4 {VIP} && ipset add kbe-nat-addresses-4 172.30.228.254",
            "iptables -t raw -R KBE-NAT-PREROUTING 2 -j ACCEPT",
            "iptables -t filter -I KBE-NAT-FORWARD -j ACCEPT",
        ]
    else:
        [name] = re.findall(r"kbe-nat-translation-\d", node.call("nft", "list", "tables"))
        listed = node.call("nft", "list", "map", "ip", name, "backends")
        [(number, port)] = re.findall(r"(0x\w+) : 172\.17\.0\.3 \. (\d+)", listed)
        damages = [
            f"nft delete element ip @ backends {{ {number} }};"
            f" add element ip @ backends {{ {number} : 172.17.0.99 . {port} }}",
            "nft insert rule ip @ new accept",
            "nft chain ip @ prerouting { policy drop; }",
        ]
    for damage in damages:
        listed = node.call("nft", "list", "tables")
        [name] = re.findall(r"kbe-nat-translation-\d", listed) or [""]
        before = repairs(daemon)
        for command in damage.replace("@", name).split(" && "):
            program, _, rest = command.partition(" ")
            node.call(program, *([rest] if program == "nft" else rest.split()))
        eventually(partial(is_put_right, daemon, whole, before))
        assert VIP in curl(daemon.cluster)


def test_f14_rules_that_the_kernel_refuses_are_said_and_tried_again(
    daemon: Daemon, tmp_path: Path
) -> None:
    broken = tmp_path / "bin/ipset"
    broken.parent.mkdir()
    broken.write_text(
        f'#!/bin/sh\ntest -e {tmp_path}/broken && exit 3\nexec /usr/sbin/ipset "$@"\n'
    )
    broken.chmod(0o755)
    daemon.start(environment={"PATH": f"{broken.parent}:{os.environ['PATH']}"})
    if daemon.datapath.offloads:
        daemon.cluster.node.call("nft", "delete", "table", "ip", "kbe-nat-translation-0")
        daemon.write("nobody.yaml", NOBODY)
        refusal = re.compile("rules are not up to date: nf_tables: .*No such file or directory")
        eventually(lambda: refusal.search(daemon.log))
    else:
        (tmp_path / "broken").touch()
        daemon.write("nobody.yaml", NOBODY)
        eventually(lambda: "rules are not up to date: ipset restore: exit code 3" in daemon.log)
        assert "172.30.228.255" in curl(daemon.cluster), "what was there is still served"
        (tmp_path / "broken").unlink()
    eventually(lambda: "172.30.0.9" in kernel_rules(daemon.cluster))
    assert "172.30.228.255" in curl(daemon.cluster)


def test_f19_connections_that_cannot_be_kept_are_no_reason_to_stop(daemon: Daemon) -> None:
    daemon.start("--state", "/proc/nowhere/state")
    eventually(lambda: "connections cannot be kept" in daemon.log)
    assert "172.30.228.255" in curl(daemon.cluster)
    assert daemon.end() < 5


def test_the_other_driver_serves_too(daemon: Daemon) -> None:
    daemon.start("--driver", "netfilterqueue", "--strategy", "rr")
    for _ in range(4):
        assert "172.30.228.255" in curl(daemon.cluster)
    assert [row["flows"] for row in daemon.get("endpoints")] == [2, 2]
    assert daemon.get("status")["driver"] == "netfilterqueue"


def test_strategies_and_drains_while_it_runs(daemon: Daemon) -> None:
    daemon.start("--strategy", "random")
    assert "rr (1 service port)" in daemon.ask("strategy", "set", "default/simpleservice", "rr")
    for _ in range(4):
        curl(daemon.cluster)
    assert [row["flows"] for row in daemon.get("endpoints")] == [2, 2]
    assert "as its annotation or" in daemon.ask("strategy", "unset", "default/simpleservice")
    assert [row["strategy"] for row in daemon.get("services")] == ["random"]
    daemon.ask("strategy", "set", "default/simpleservice", "rr")
    # The two that it had are over, though connection tracking still knows them.
    assert ": 0 connections left" in daemon.ask("drain", "172.17.0.3", "--no-wait")
    assert [row["state"] for row in daemon.get("endpoints")] == ["draining", ""]
    for _ in range(3):
        curl(daemon.cluster)
    assert [row["flows"] for row in daemon.get("endpoints")] == [2, 5]
    followed = daemon.ask("drain", "172.17.0.3:9876", "--deadline", "0.5")
    assert followed.splitlines()[-1].startswith("172.17.0.3:9876: 0 connections left")
    daemon.ask("drain", "172.17.0.3:9876", "--undo")
    daemon.ask("drain", "172.17.0.3", "--undo")
    for _ in range(2):
        curl(daemon.cluster)
    assert [row["flows"] for row in daemon.get("endpoints")] == [3, 6]


def test_events_are_told_as_they_happen(daemon: Daemon, tmp_path: Path) -> None:
    daemon.start()
    events = tmp_path / "events"
    with (
        events.open("w") as out,
        subprocess.Popen(
            [*COMMAND, "conntrack", "-E", "--socket", str(daemon.socket)], stdout=out
        ) as watching,
    ):
        # Nothing says from when on it listens, which may be in the middle of a connection: others
        # begin until the beginning of one is told.
        eventually(lambda: curl(daemon.cluster) and "[NEW]" in events.read_text())
        watching.terminate()
    # Where the kernel carries flows, its entry is as it has it when it is asked.
    state = (
        r"1(1\d|20) SYN_SENT" if daemon.datapath is DatapathKind.EVERY_PACKET else r"\d+ [A-Z_]+"
    )
    first = rf"^    \[NEW\] tcp      6 {state} src=10\.0\.2\.100 dst=172\.30\.228\.255 "
    assert re.search(first, events.read_text(), re.MULTILINE)


def test_what_it_tells(daemon: Daemon) -> None:
    daemon.start()
    curl(daemon.cluster)
    listed = daemon.ask("conntrack", "-L", "-p", "tcp", "--dport", "80")
    assert listed.startswith("tcp      6 ") and "src=172.17.0." in listed and "[ASSURED]" in listed
    # Where the kernel carries flows it must be told to count.
    is_counted = daemon.datapath is DatapathKind.EVERY_PACKET
    assert ("packets=" in listed) == is_counted
    assert (daemon.get("endpoints")[0]["bytes"] is not None) == is_counted
    for verb in (("top", "--iterations", "1", "-d", "0.1"), ("ipvs", "--stats")):
        has_hint = "sysctl -w net.netfilter.nf_conntrack_acct=1" in daemon.ask_all(*verb).stderr
        assert has_hint != is_counted
    assert ("Bytes:" in daemon.ask("describe", "service", "simpleservice")) and daemon.ask(
        "get", "flows", "-o", "wide"
    )
    daemon.cluster.node.write("/proc/sys/net/netfilter/nf_conntrack_acct", "1")
    curl(daemon.cluster)
    assert daemon.ask_all("ipvs", "--stats").stderr == ""
    assert "packets=" in daemon.ask("conntrack", "-L", "-p", "tcp", "--dport", "80")
    assert daemon.ask("conntrack", "-L", "--dport", "81") == ""
    assert daemon.ask("conntrack", "-L", "-s", "10.0.2.0/24") != ""
    assert daemon.ask("conntrack", "-C") == "2\n"
    assert daemon.ask("conntrack", "-D", "-s", "10.0.2.100").count("src=10.0.2.100") == 2
    assert "Endpoints:" in daemon.ask("describe", "service", "simpleservice")
    assert "connections" in daemon.ask("top", "--delay", "0.1", "--iterations", "1")
    assert QUEUEING[daemon.datapath] in daemon.ask("get", "rules")
    assert [own["number"] for own in daemon.get("stats")["queues"]] == list(daemon.queues)
    told = json.loads(
        daemon.ask("explain", "--live", "--from", "10.0.2.100", "--to", f"{VIP}:80", "-o", "json")
    )
    assert told["service"] == "default/simpleservice"


def test_f03_the_watchdog_hears_nothing_of_a_daemon_that_hangs(
    daemon: Daemon, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(5)
        daemon.start(
            environment={"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "600000"}
        )
        said = b""
        while b"WATCHDOG=1" not in said or b"READY=1" not in said:
            said += listener.recv(1000) + b"\n"
        pid = daemon.get("status")["pid"]
        os.kill(pid, signal.SIGSTOP)
        try:
            eventually(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] == "T")
            listener.setblocking(False)
            with suppress(BlockingIOError):
                while True:
                    listener.recv(1000)
            listener.settimeout(1)
            with pytest.raises(TimeoutError):
                while True:
                    listener.recv(1000)
        finally:
            os.kill(pid, signal.SIGCONT)


SERVICE_ECHO = """apiVersion: v1
kind: Service
metadata: {name: echo}
spec: {clusterIP: 172.30.0.7, ports: [{port: 7, targetPort: 9999}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: echo-1, labels: {kubernetes.io/service-name: echo}}
addressType: IPv4
ports: [{port: 9999}]
endpoints: [{addresses: [172.17.0.3]}]
"""


@FAMILIES
def test_node_ports_on_an_address_that_comes_are_served_at_once(
    daemon: Daemon, family: Family
) -> None:
    """As keepalived moves one: told by the kernel, on a device whose name is no UTF-8."""
    cluster, node = daemon.cluster, daemon.cluster.node
    add_ipv6(cluster)
    for pod in cluster.pods:
        served(pod, SHORT_SERVER)
        served(pod, UDP_ECHO, str(family))
    own = {"vip": "172.30.0.21", "type": "IPv4", "pod": PODS[Family.IPV4][0], "moved": "10.0.2.77"}
    if family == Family.IPV6:
        own = {
            "vip": "fd00:30::21",
            "type": "IPv6",
            "pod": PODS[Family.IPV6][0],
            "moved": "fd00:2::77",
        }
    daemon.write("node-ports.yaml", NODE_PORTS.format(**own))
    daemon.start()
    node.call("ip", "link", "add", "x\udcff\udcfe", "type", "bridge")
    node.call("ip", "link", "set", "x\udcff\udcfe", "up")
    length, nodad = ("128", ["nodad"]) if family == Family.IPV6 else ("32", [])
    cluster.client.call("ip", "route", "add", f"{own['moved']}/{length}", "via", NODES[family])

    def asked(kind: socket.SocketKind, port: int) -> bool:
        def ask() -> bytes:
            with socket.socket(
                socket.AF_INET6 if family == Family.IPV6 else socket.AF_INET, kind
            ) as client:
                client.settimeout(0.5)
                client.connect((own["moved"], port))
                client.send(b"hello")
                return client.recv(100)

        with suppress(OSError):
            return inside(cluster.client.path, ask) == b"hello"
        return False

    assert not asked(socket.SOCK_STREAM, 30081)
    node.call("ip", "address", "add", f"{own['moved']}/{length}", "dev", "x\udcff\udcfe", *nodad)
    start = time.monotonic()
    eventually(lambda: asked(socket.SOCK_STREAM, 30081))
    print(f"{time.monotonic() - start:.3f} s")
    eventually(lambda: asked(socket.SOCK_DGRAM, 30007))
    node.call("ip", "address", "del", f"{own['moved']}/{length}", "dev", "x\udcff\udcfe")
    eventually(lambda: f"{own['moved']}" not in kernel_rules(cluster))


NODES = {Family.IPV4: "10.0.2.15", Family.IPV6: "fd00:2::15"}
NODE_PORTS = """apiVersion: v1
kind: Service
metadata: {{name: moved}}
spec:
  type: NodePort
  clusterIP: {vip}
  clusterIPs: ["{vip}"]
  ipFamilies: [{type}]
  ports:
  - {{name: short, port: 5002, nodePort: 30081}}
  - {{name: echo, port: 7, nodePort: 30007, protocol: UDP}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: moved-1, labels: {{kubernetes.io/service-name: moved}}}}
addressType: {type}
ports: [{{name: short, port: 5002}}, {{name: echo, port: 7, protocol: UDP}}]
endpoints: [{{addresses: ["{pod}"]}}]
"""
