"""kube-proxy's configuration file, and lists of packets: what is read, and what is refused with which words."""

from pathlib import Path

import pytest
from msgspec import structs

from kbe_nat.cli.flows import FlowQuestion, read_flows
from kbe_nat.cli.node import NodeFlags
from kbe_nat.errors import FileError
from kbe_nat.kubeproxy import iptables_save
from kbe_nat.kubeproxy.config import read_configuration
from kbe_nat.kubeproxy.dump import Form, planned
from kbe_nat.model import IPV4, Node, Service, ServicePort, Snapshot
from kbe_nat.planning import plan
from kbe_nat.policy import Mode

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


def test_what_is_said_for_the_mode_counts(tmp_path: Path) -> None:
    path = written(tmp_path, FULL)
    file, notes = read_configuration(path)
    assert notes == (f"{path}: not read: configSyncPeriod, portRange",)
    options = NodeFlags(config=path).options(Snapshot())
    assert (options.node, options.mode, options.masquerade_bit) == ("node-7", Mode.NFTABLES, 21)
    assert options.masquerade_all and options.cluster_ranges == ("10.0.0.0/8", "fd00::/64")
    assert file.of_mode("iptables").localhost_node_ports is False
    # Flags go before the file.
    flags = NodeFlags(config=path, mode=Mode.IPTABLES, masquerade_all=True, nodeport_addresses="")
    options = flags.options(Snapshot())
    assert (options.masquerade_bit, options.localhost_node_ports) == (20, False)
    assert options.masquerade_all and options.node_port_addresses == ()


@pytest.mark.parametrize("mode", ["", "mode: iptables", "mode: nftables"])
def test_rules_of_either_mode_have_what_is_said_for_it(tmp_path: Path, mode: str) -> None:
    sections = (
        "iptables: {masqueradeBit: 16, localhostNodePorts: false}\n"
        "nftables: {masqueradeBit: 20, masqueradeAll: true}\n"
    )
    options = NodeFlags(config=written(tmp_path, f"{sections}{mode}")).options(Snapshot())
    told = {form: planned(Snapshot(), options, form).options for form in Form}
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
    options = NodeFlags(config=written(tmp_path, f"mode: nftables\n{text}")).options(snapshot)
    assert options.primary_address == primary
    made = plan(snapshot, options)
    assert " ".join(made.node_port_addresses) == serving
    assert made.ports[0].admits_own_addresses == (primary == "192.168.1.2")


def test_ipvs_mode_is_known_but_not_followed(tmp_path: Path) -> None:
    path = written(tmp_path, "mode: ipvs\niptables: {masqueradeAll: true}")
    _, [note] = read_configuration(path)
    assert note.startswith(f"{path}: mode: ipvs is not followed")
    options = NodeFlags(config=path).options(Snapshot())
    assert (options.mode, options.masquerade_all) == (Mode.IPTABLES, True)


@pytest.mark.parametrize("liberal", ["true", "false", "null"])
def test_a_liberal_conntrack_needs_no_rule_for_what_it_calls_invalid(tmp_path: Path, liberal: str) -> None:
    path = written(tmp_path, f"conntrack: {{tcpBeLiberal: {liberal}, maxPerCore: null}}")
    options = NodeFlags(config=path).options(Snapshot())
    text = iptables_save.dump(plan(Snapshot(), options), Snapshot(), IPV4)
    assert ("--ctstate INVALID" in text) == (liberal != "true")


def test_devices_of_pods(tmp_path: Path) -> None:
    bridge = "detectLocalMode: BridgeInterface\ndetectLocal: {bridgeInterface: cbr0}"
    assert NodeFlags(config=written(tmp_path, bridge)).options(Snapshot()).pod_interface == "cbr0"
    (tmp_path / "other").mkdir()
    prefix = written(tmp_path / "other", "detectLocalMode: InterfaceNamePrefix")
    flags = NodeFlags(config=prefix, pod_interface_name_prefix="veth")
    assert flags.options(Snapshot()).pod_interface == "veth+"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mode: userspace", "mode: invalid enum value 'userspace'"),
        ("kind: Service", "kind: 'Service' is not KubeProxyConfiguration"),
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


def test_lists_of_packets(tmp_path: Path) -> None:
    listed = (
        "- {from: 10.0.0.1, to: '10.0.0.2:80'}\n- {from: 10.0.0.1, to: '10.0.0.2:53', proto: udp, iif: eth1}\n"
        "- {from: 10.0.0.1, to: '10.0.0.2:80', iif: null}"
    )
    wanted = [
        FlowQuestion("10.0.0.1", "10.0.0.2:80"),
        FlowQuestion("10.0.0.1", "10.0.0.2:53", "udp", "eth1"),
        FlowQuestion("10.0.0.1", "10.0.0.2:80"),
    ]
    assert read_flows(written(tmp_path, listed)) == wanted
    inner = "\n".join(f"  {line}" for line in listed.splitlines())
    assert read_flows(written(tmp_path, f"title: a case\nflows:\n{inner}")) == wanted


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- {from: 10.0.0.1}", "[0]: object missing required field to"),
        ("- {from: 10.0.0.1, to: x, proto: gre}", "[0].proto: invalid enum value 'gre'"),
        ("title: x", "object missing required field flows"),
        ("hello", "expected"),
    ],
)
def test_what_is_wrong_in_a_list_of_packets(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(FileError) as raised:
        read_flows(written(tmp_path, text))
    assert message in str(raised.value)
