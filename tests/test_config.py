"""kube-proxy's configuration file: what is read, and what is refused with which words."""

import os
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from kbe_nat.__main__ import main
from kbe_nat.cli.flows import read_flows
from kbe_nat.errors import FileError, SettingError
from kbe_nat.family import Family
from kbe_nat.kubeproxy import iptables_save
from kbe_nat.kubeproxy.config import read_configuration
from kbe_nat.kubeproxy.dump import Form, plan_for
from kbe_nat.kubeproxy.settings import NodeSettings
from kbe_nat.model import Node, Service, ServicePort, Snapshot
from kbe_nat.policy.options import Mode, Options
from kbe_nat.policy.planner import plan

SEED = str(Path(__file__).parent.parent / "examples/simpleservice/cluster.yaml")
FULL = """
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clusterCIDR: 10.0.0.0/8,fd00::/64
hostnameOverride: " Node-7 "
nodePortAddresses: [primary]
bindAddress: 0.0.0.0
configSyncPeriod: 15m
portRange: ""
iptables: {masqueradeBit: 20, localhostNodePorts: false, syncPeriod: 30s}
nftables: {masqueradeBit: 21, masqueradeAll: true}
conntrack: null
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "file.yaml"
    path.write_text(text)
    return path


def options_of(path: Path, snapshot: Snapshot | None = None, **settings: Any) -> Options:
    """What a file and flags say."""
    file, _ = read_configuration(path)
    return NodeSettings(**settings).options(snapshot or Snapshot(), file)


def test_what_is_said_for_the_mode_counts(tmp_path: Path) -> None:
    path = written(tmp_path, FULL)
    file, notes = read_configuration(path)
    assert notes == ()
    options = options_of(path)
    assert (options.node, options.mode, options.masquerade_bit) == ("node-7", Mode.NFTABLES, 21)
    assert options.masquerade_all and options.cluster_ranges == ("10.0.0.0/8", "fd00::/64")
    assert file.of_mode("iptables").localhost_node_ports is False
    # Flags go before the file.
    options = options_of(path, mode=Mode.IPTABLES, masquerade_all=True, node_port_addresses=())
    assert (options.masquerade_bit, options.localhost_node_ports) == (20, False)
    assert options.masquerade_all and options.node_port_addresses == ()


def test_what_is_said_for_one_mode_goes_before_what_is_said_for_both(tmp_path: Path) -> None:
    text = """
        masqueradeBit: 5
        masqueradeAll: false
        localhostNodePorts: true
        iptables: {masqueradeBit: 6, masqueradeAll: true, localhostNodePorts: false}
    """
    file, _ = read_configuration(written(tmp_path, text))
    for mode, said in (("iptables", (6, True, False)), ("nftables", (5, False, True))):
        own = file.of_mode(mode)
        assert (own.masquerade_bit, own.masquerade_all, own.localhost_node_ports) == said


@pytest.mark.parametrize("mode", ["", "mode: iptables", "mode: nftables"])
def test_rules_of_either_mode_have_what_is_said_for_it(tmp_path: Path, mode: str) -> None:
    sections = (
        "iptables: {masqueradeBit: 16, localhostNodePorts: false}\n"
        "nftables: {masqueradeBit: 20, masqueradeAll: true}\n"
    )
    options = options_of(written(tmp_path, f"{sections}{mode}"))
    told = {form: plan_for(Snapshot(), options, form).options for form in Form}
    assert {form: (own.masquerade_bit, own.masquerade_all) for form, own in told.items()} == {
        Form.IPTABLES_SAVE: (16, False),
        Form.NFT: (20, True),
    }
    assert not told[Form.IPTABLES_SAVE].localhost_node_ports
    assert told[Form.NFT].in_mode(Mode.IPTABLES) == told[Form.IPTABLES_SAVE], "there and back"


@pytest.mark.parametrize(
    ("text", "primary", "serving"),
    [
        ("bindAddress: 192.168.1.2", "192.168.1.2", "192.168.1.2 2001:db8::2"),
        ("bindAddress: '2001:db8:0::3'", "2001:db8::3", "192.168.0.2 2001:db8::3"),
        ("bindAddress: 0.0.0.0", "", "192.168.0.2 2001:db8::2"),
        ("bindAddress: '::'", "", "192.168.0.2 2001:db8::2"),
        # No address to go by: all serve.
        ("bindAddress: 127.0.0.1", "127.0.0.1", "192.168.0.2 192.168.1.2 2001:db8::2"),
    ],
)
def test_the_address_that_kube_proxy_is_bound_to(
    tmp_path: Path, text: str, primary: str, serving: str
) -> None:
    node = Node("here", ("192.168.0.2", "192.168.1.2", "2001:db8::2", "2001:db8::3"))
    service = Service("a", "b", ("172.30.0.1",), (ServicePort("", "tcp", 80),))
    ranged = structs.replace(service, source_ranges=("192.168.1.0/24",))
    snapshot = Snapshot(services=(ranged,), nodes={"here": node})
    options = options_of(written(tmp_path, f"mode: nftables\n{text}"), snapshot)
    assert options.primary_address == primary
    made = plan(snapshot, options)
    assert " ".join(made.node_ports.addresses) == serving
    assert made.ports[0].allows_load_balancer_source == (primary == "192.168.1.2")


def test_ipvs_mode_is_known_but_not_followed(tmp_path: Path) -> None:
    path = written(tmp_path, "mode: ipvs\niptables: {masqueradeAll: true}")
    _, [note] = read_configuration(path)
    assert note.startswith(f"{path}: mode: ipvs is not followed")
    options = options_of(path)
    assert (options.mode, options.masquerade_all) == (Mode.IPTABLES, True)


@pytest.mark.parametrize("liberal", ["true", "false", "null"])
def test_a_liberal_conntrack_needs_no_rule_for_what_it_calls_invalid(
    tmp_path: Path, liberal: str
) -> None:
    path = written(tmp_path, f"conntrack: {{tcpBeLiberal: {liberal}, maxPerCore: null}}")
    options = options_of(path)
    text = iptables_save.dump(plan(Snapshot(), options), Snapshot(), Family.IPV4)
    assert ("--ctstate INVALID" in text) == (liberal != "true")


def test_devices_of_pods(tmp_path: Path) -> None:
    bridge = "detectLocalMode: BridgeInterface\ndetectLocal: {bridgeInterface: cbr0}"
    assert options_of(written(tmp_path, bridge)).pod_interface == "cbr0"
    (tmp_path / "other").mkdir()
    prefix = written(tmp_path / "other", "detectLocalMode: InterfaceNamePrefix")
    assert options_of(prefix, pod_device_prefix="veth").pod_interface == "veth+"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind: Service", "kind: 'Service' is not KubeProxyConfiguration"),
        (
            "apiVersion: kubeproxy.config.k8s.io/v1beta1",
            "apiVersion: 'kubeproxy.config.k8s.io/v1beta1' is not",
        ),
        ("&a {iptables: {x: *a}}", "contains itself"),
        ("nodePortAddresses: 10.0.0.0/8", "nodePortAddresses: expected array, got str"),
        ("enableProfiling: 'yes'", "enableProfiling: expected bool, got str"),
        ("clientConnection: {qps: fast}", "clientConnection.qps: expected float, got str"),
        ("configSyncPeriod: 30", "configSyncPeriod: expected str | null, got int"),
        ("oomScoreAdj: 2147483648", "oomScoreAdj: expected int"),
        ("clusterCIDR: [10.0.0.0/8]", "clusterCIDR: expected str, got array"),
        ("iptables: {masqueradeBit: many}", "iptables.masqueradeBit: expected int | null, got str"),
        ("- a", "expected object, got array"),
        ("a: 1\n---\nb: 2", "one document is expected, not 2"),
        ("a: [", "line 2, column 1: not YAML"),
        ("[" * 5000, "nested too deeply"),
    ],
)
def test_what_is_wrong_in_a_configuration(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(FileError) as raised:
        read_configuration(written(tmp_path, text))
    assert message in str(raised.value)


CIDR = "must be a valid CIDR"
BLOCK = "must be a valid CIDR block (e.g. 10.100.0.0/16 or fde4:8dba:82e1::/48)"
PAIR = "a single CIDR or dual-stack pair of CIDRs"
MIXED = "can't use both 'primary' and CIDRs"


@pytest.mark.parametrize(
    ("text", "field", "reason"),
    [
        ("mode: userspace", "mode: 'userspace'", "must be iptables, ipvs, nftables or blank"),
        ("mode: Iptables", "mode: 'Iptables'", "must be iptables, ipvs, nftables or blank"),
        (
            "iptables: {masqueradeBit: 32}",
            "iptables.masqueradeBit: 32",
            "must be within the range [0, 31]",
        ),
        (
            "iptables: {masqueradeBit: -1}",
            "iptables.masqueradeBit: -1",
            "must be within the range [0, 31]",
        ),
        (
            "{mode: nftables, nftables: {masqueradeBit: 99}}",
            "nftables.masqueradeBit: 99",
            "must be within the range [0, 31]",
        ),
        ("oomScoreAdj: -1001", "oomScoreAdj: -1001", "must be within the range [-1000, 1000]"),
        (
            "clientConnection: {burst: -1}",
            "clientConnection.burst: -1",
            "must be greater than or equal to 0",
        ),
        ("configSyncPeriod: -1m", "configSyncPeriod: '-1m'", "must be greater than 0"),
        ("iptables: {syncPeriod: -1s}", "iptables.syncPeriod: '-1s'", "must be greater than 0"),
        (
            "iptables: {minSyncPeriod: -1s}",
            "iptables.minSyncPeriod: '-1s'",
            "greater than or equal to 0",
        ),
        (
            "iptables: {syncPeriod: 10s, minSyncPeriod: 20s}",
            "iptables.syncPeriod: 10s",
            "minSyncPeriod, 20s",
        ),
        # The minimum of a second is the default.
        (
            "iptables: {syncPeriod: 500ms}",
            "iptables.syncPeriod: 0.5s",
            "greater than or equal to minSyncPeriod",
        ),
        (
            "{mode: nftables, nftables: {syncPeriod: 10ms}}",
            "nftables.syncPeriod",
            "equal to minSyncPeriod",
        ),
        (
            "{mode: ipvs, ipvs: {syncPeriod: -1s}}",
            "ipvs.syncPeriod: '-1s'",
            "must be greater than 0",
        ),
        (
            "{mode: ipvs, ipvs: {tcpTimeout: -1s}}",
            "ipvs.tcpTimeout: '-1s'",
            "greater than or equal to 0",
        ),
        ("{mode: ipvs, ipvs: {excludeCIDRs: [10.0.0.0/8, x]}}", "ipvs.excludeCIDRs[1]: 'x'", CIDR),
        (
            "conntrack: {maxPerCore: -1}",
            "conntrack.maxPerCore: -1",
            "must be greater than or equal to 0",
        ),
        ("conntrack: {min: -1}", "conntrack.min: -1", "must be greater than or equal to 0"),
        (
            "conntrack: {tcpCloseWaitTimeout: -1h}",
            "conntrack.tcpCloseWaitTimeout: '-1h'",
            "equal to 0",
        ),
        ("conntrack: {udpStreamTimeout: -1ns}", "conntrack.udpStreamTimeout: '-1ns'", "equal to 0"),
        ("iptables: {syncPeriod: 30}", "iptables.syncPeriod", "expected str | null, got int"),
        ("iptables: {syncPeriod: 30 s}", "iptables.syncPeriod", "'30 s' is no duration"),
        ("nftables: {syncPeriod: 1d}", "nftables.syncPeriod", "'1d' is no duration"),
        (
            "bindAddress: node-1",
            "bindAddress: 'node-1'",
            "not a valid textual representation of an IP address",
        ),
        (
            "bindAddress: fe80::1%eth0",
            "bindAddress: 'fe80::1%eth0'",
            "not a valid textual representation",
        ),
        ("healthzBindAddress: node-1", "healthzBindAddress: 'node-1'", "must be IP:port"),
        (
            "healthzBindAddress: 'node-1:10256'",
            "healthzBindAddress: 'node-1'",
            "must be a valid IP",
        ),
        ("healthzBindAddress: '0.0.0.0:0'", "healthzBindAddress: '0'", "must be a valid port"),
        (
            "metricsBindAddress: '[::1]:65536'",
            "metricsBindAddress: '65536'",
            "must be a valid port",
        ),
        ("metricsBindAddress: ':10249'", "metricsBindAddress: ''", "must be a valid IP"),
        ("nodePortAddresses: [primary, 10.0.0.0/8]", "nodePortAddresses[0]: 'primary'", MIXED),
        ("nodePortAddresses: [10.0.0.0/8, primary]", "nodePortAddresses[1]: 'primary'", MIXED),
        ("nodePortAddresses: [primary, primary]", "nodePortAddresses[0]: 'primary'", MIXED),
        ("nodePortAddresses: [10.0.0.0/8, 10.0.0.1]", "nodePortAddresses[1]: '10.0.0.1'", CIDR),
        ("nodePortAddresses: [null]", "nodePortAddresses[0]: ''", CIDR),
        ("nodePortAddresses: ['']", "nodePortAddresses[0]: ''", CIDR),
        (
            "showHiddenMetricsForVersion: '1.20'",
            "showHiddenMetricsForVersion",
            "have the value '1.35'",
        ),
        (
            "detectLocalMode: Bridge",
            "detectLocalMode: 'Bridge'",
            'supported values: "BridgeInterface"',
        ),
        (
            "clusterCIDR: 10.244.0.0/16,10.245.0.0/16",
            "clusterCIDR: '10.244.0.0/16,10.245.0.0/16'",
            PAIR,
        ),
        (
            "clusterCIDR: 10.0.0.0/8,fd00::/64,fd01::/64",
            "clusterCIDR: '10.0.0.0/8,fd00::/64,fd01::/64'",
            PAIR,
        ),
        ("clusterCIDR: 10.0.0.0", "clusterCIDR: '10.0.0.0'", BLOCK),
        ("clusterCIDR: 10.0.0.0/8, fd00::/64", "clusterCIDR: ' fd00::/64'", BLOCK),
        ("clusterCIDR: '10.0.0.0/8,'", "clusterCIDR: ''", BLOCK),
        ("logging: {format: xml}", "logging.format: 'xml'", "unsupported log format"),
        # Go's decoder reads durations wherever they stand.
        ("iptables: {syncPeriod: ''}", "iptables.syncPeriod: ''", "is no duration"),
        ("nftables: {minSyncPeriod: ''}", "nftables.minSyncPeriod: ''", "is no duration"),
        ("ipvs: {tcpTimeout: soon}", "ipvs.tcpTimeout: 'soon'", "is no duration"),
        (
            "logging: {flushFrequency: 5}\nipvs: {udpTimeout: 1d}",
            "ipvs.udpTimeout: '1d'",
            "is no duration",
        ),
        ("logging: {flushFrequency: 5 s}", "logging.flushFrequency: '5 s'", "is no duration"),
        ("configSyncPeriod: 9999999999h", "configSyncPeriod: '9999999999h'", "longer than"),
        (
            "{apiVersion: v1, kind: ConfigMap, data: {config.conf: ''}}",
            "kind: 'ConfigMap'",
            "config\\.conf",
        ),
    ],
)
def test_what_kube_proxy_refuses_is_refused_with_its_reason(
    tmp_path: Path, text: str, field: str, reason: str
) -> None:
    path = written(tmp_path, text)
    with pytest.raises(FileError) as raised:
        read_configuration(path)
    assert str(raised.value).startswith(f"{path}: {field}")
    assert reason in str(raised.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "{}",
        (
            "kind: null\nmode: null\nclusterCIDR: null\nconntrack: null\n"
            "nodePortAddresses: null\niptables: null"
        ),
        'mode: ""\nclusterCIDR: ""\nbindAddress: ""\nhealthzBindAddress: ""\ndetectLocalMode: ""',
        (
            "nodePortAddresses: []\niptables: {}\n"
            "detectLocal: {bridgeInterface: null}\nfeatureGates: {}"
        ),
        (
            "iptables: {syncPeriod: 0s, minSyncPeriod: 0s}\n"
            "nftables: {syncPeriod: '0', minSyncPeriod: 0s}"
        ),
        "iptables: {syncPeriod: 1m30.5s, minSyncPeriod: 1500ms}\nconfigSyncPeriod: 15m0s",
        "conntrack: {tcpEstablishedTimeout: 24h0m0s, udpTimeout: 10us, min: 0, maxPerCore: 0}",
        "healthzBindAddress: 0.0.0.0\nmetricsBindAddress: '[::]:10249'",
        "healthzBindAddress: '::'\nmetricsBindAddress: 127.0.0.1:10249",
        # What is said for other modes is not looked at, nor is a range that another detector does
        # not use.
        "nftables: {masqueradeBit: 99}\nipvs: {tcpTimeout: -1s, excludeCIDRs: [x]}",
        "{mode: nftables, iptables: {syncPeriod: -1s}, ipvs: {minSyncPeriod: 1h}}",
        "detectLocalMode: NodeCIDR\nclusterCIDR: nonsense",
        "nodePortAddresses: [10.00.0.0/8, '::ffff:192.0.2.0/120', 'fd00::1/64']",
        "iptables: {masqueradeBit: 0x1e}\noomScoreAdj: -999",
        "{mode: ipvs, ipvs: {scheduler: best, strictARP: true}}",
        (
            "clientConnection: {qps: 5, burst: 10, kubeconfig: /x}\n"
            "logging: {verbosity: 4, flushFrequency: 5s}"
        ),
        (
            "logging: {format: json, flushFrequency: 5000000000, "
            "options: {json: {infoBufferSize: '0'}}}"
        ),
        "portRange: anything\nwindowsRunAsService: false\nwinkernel: {enableDSR: true}",
        "showHiddenMetricsForVersion: '1.35'",
    ],
)
def test_what_kube_proxy_accepts_is_accepted(tmp_path: Path, text: str) -> None:
    assert options_of(written(tmp_path, text))


def test_a_file_without_any_field_is_another_program_s(tmp_path: Path) -> None:
    path = written(tmp_path, "kube-proxy-arg: [proxy-mode=ipvs]\ncluster-cidr: 10.42.0.0/16")
    with pytest.raises(
        FileError, match=r"it is no KubeProxyConfiguration: .*kube-proxy-arg, cluster-cidr"
    ):
        read_configuration(path)


@pytest.mark.parametrize(
    ("flags", "host", "node"),
    [
        ({}, "B.example.com", "b.example.com"),
        ({}, "a", "a"),
        ({"node": "a"}, "b.example.com", "a"),
        ({"node_addresses": ("192.0.2.7", "10.0.0.2")}, "elsewhere", "b.example.com"),
        ({"node_addresses": ("10.0.0.1", "10.0.0.2")}, "elsewhere", ""),
        ({}, "elsewhere", ""),
    ],
)
def test_the_node_is_the_one_of_this_host_s_name_or_addresses(
    monkeypatch: pytest.MonkeyPatch, flags: dict[str, Any], host: str, node: str
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: host)
    nodes = {"a": Node("a", ("10.0.0.1",)), "b.example.com": Node("b.example.com", ("10.0.0.2",))}
    snapshot = Snapshot(nodes=nodes)
    options = NodeSettings(**flags).options(snapshot)
    assert options.node == node
    is_known = not any("which node this is" in note for note in plan(snapshot, options).notes)
    assert is_known is bool(node)


@pytest.mark.parametrize("flags", [{}, {"node": "a"}])
def test_a_node_whose_node_is_deleted_stays_that_node(
    monkeypatch: pytest.MonkeyPatch, flags: dict[str, Any]
) -> None:
    """Its Services go on, and it becomes no other node."""
    monkeypatch.setattr("socket.gethostname", lambda: "a")
    others = Snapshot(nodes={"b": Node("b", ("10.0.0.2",))})
    assert NodeSettings(**flags).options(others, former_node="a").node == "a"
    with pytest.raises(SettingError, match="--node: a is none of the objects' nodes"):
        NodeSettings(node="a").options(others)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Mode: nftables\nipvs: {}", "Mode: there is no such field; did you mean mode"),
        (
            "mode: nftables\niptables: {masqueradeall: true}",
            "iptables.masqueradeall: there is no such field; did you mean masqueradeAll",
        ),
        ("mode: ''\nclusterCidr: 10.0.0.0/8", "did you mean clusterCIDR"),
        ("logging: {options: {text: {split: true}}}", "logging.options.text.split: "),
        ("logging: {vmodule: [{pattern: a, verbosity: 1}]}", "logging.vmodule[0].pattern: "),
        ("conntrack: {max: 5}", "conntrack.max: there is no such field; did you mean maxPerCore"),
        ("mode: ''\nzzz: 1", "zzz: there is no such field"),
    ],
)
def test_a_field_that_there_is_not_is_an_error_with_the_nearest(
    tmp_path: Path, text: str, said: str
) -> None:
    path = written(tmp_path, text)
    with pytest.raises(FileError) as raised:
        read_configuration(path)
    assert str(raised.value).startswith(f"{path}: ") and said in str(raised.value)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--cluster-cidr", "10.0.0.0/8,10.1.0.0/16"), PAIR),
        (("--cluster-cidr", "10.0.0.0"), BLOCK),
        (("--nodeport-addresses", "primary,10.0.0.0/8"), MIXED),
        (("--nodeport-addresses", "10.0.0.1"), CIDR),
        (
            ("--detect-local-mode", "BridgeInterface"),
            "detectLocal.bridgeInterface must not be empty",
        ),
    ],
)
def test_flags_are_held_to_the_same(
    flags: tuple[str, str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["dump", "-f", SEED, *flags]) == 2
    assert message in capsys.readouterr().err


LEVELS = [f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 9)}]" for n in range(1, 10)]
BOMB = "\n".join(["x0: &x0 [a]", *LEVELS])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "it is a FIFO, not a file"),
        (BOMB, "many times as large"),
        ("&a\nflows: *a\niptables: *a", "contains itself"),
        ("- &a {from: 10.0.0.1, to: *a}", ""),
    ],
    ids=["fifo", "bomb", "self", "inner"],
)
def test_f130_files_of_flags_have_an_end(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "file.yaml"
    if text is None:
        os.mkfifo(path)
    else:
        path.write_text(text)
    for read in (read_configuration, read_flows):
        with pytest.raises(FileError) as raised:
            read(path)
        assert str(raised.value).startswith(str(path)) and (
            message in str(raised.value) or read is read_flows
        )
