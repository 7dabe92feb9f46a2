"""kube-proxy's flags and its configuration file, as `kbe-nat proxy` takes them together."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from harness.verbs import Ran
from kbe_nat.cli.flags.own_options import json_schema, own_options
from kbe_nat.kubeproxy.flags import BESIDE_FILE, FLAGS
from kbe_nat.kubeproxy.inapplicable import reason_against
from kbe_nat.sources.manifests.yaml_documents import yaml_documents

ROOT = Path(__file__).parents[2]
RECORDINGS = ROOT / "tests/cluster/recordings/kube-proxy"
RECORDED_FLAGS = list(
    csv.DictReader((RECORDINGS / "flags.tsv").read_text().splitlines(), delimiter="\t")
)
DEFAULTS: dict[str, Any] = yaml_documents((RECORDINGS / "default-config.yaml").read_bytes())[0]


TCP_TIMEOUT = "conntrack.tcpEstablishedTimeout"


class Written:
    """What `--write-config-to -` prints, and what is said beside it."""

    def __init__(self, kbe: Ran, *arguments: object) -> None:
        code, out, self.err = kbe("proxy", *arguments, "--write-config-to", "-")
        assert code == 0, self.err
        [self.values] = yaml_documents(out.encode())
        self.text = out

    def __getitem__(self, path: str) -> Any:
        value: Any = self.values
        for name in path.split("."):
            value = value[name]
        return value


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {path: value}
    return {
        key: leaf
        for name, inner in value.items()
        for key, leaf in leaves(inner, f"{path}.{name}".strip(".")).items()
    }


def test_the_defaults_are_kube_proxy_s_but_for_the_least_period(kbe: Ran) -> None:
    ours = leaves({k: v for k, v in Written(kbe).values.items() if k != "kbeNat"})
    theirs = leaves(DEFAULTS)
    assert ours.keys() == theirs.keys()
    assert {path for path in ours if ours[path] != theirs[path]} == {"iptables.minSyncPeriod"}


@pytest.mark.parametrize("row", RECORDED_FLAGS, ids=lambda row: str(row["flag"]))
@pytest.mark.parametrize("spelling", ["dashes", "underscores"])
def test_every_flag_of_kube_proxy_is_taken(
    kbe: Ran, row: dict[str, str], spelling: str, tmp_path: Path
) -> None:
    name = row["flag"]
    samples = {
        "ip": "10.0.0.1",
        "ipport": "10.0.0.1:99",
        "bool": "true",
        "int32": "7",
        "float32": "1.5",
        "duration": "1m30s",
        "mapStringBool": "A=true",
        "LocalMode": "NodeCIDR",
        "ProxyMode": "nftables",
        "Level": "2",
        "pattern=N,...": "a=1",
        "quantity": "64k",
    }
    text = samples.get(row["type"], "x")
    text = {
        "cluster-cidr": "10.0.0.0/8",
        "logging-format": "json",
        "show-hidden-metrics-for-version": "1.35",
        "nodeport-addresses": "10.0.0.0/8",
        "iptables-min-sync-period": "1s",
        "config": str(tmp_path / "config.yaml"),
        "write-config-to": "-",
    }.get(name, text)
    (tmp_path / "config.yaml").write_text("mode: nftables")
    flag = f"--{name.replace('-', '_') if spelling == 'underscores' else name}"
    code, _, err = kbe("proxy", f"{flag}={text}", "--write-config-to=-")
    assert (code, "Traceback" in err) == (0, False), err
    # Each that does not apply is one warning, also with the default's value.
    reason = reason_against(FLAGS[name])
    assert err.count("WARNING") == bool(reason)
    assert reason in err


def test_no_flag_of_kube_proxy_is_missing() -> None:
    assert {row["flag"] for row in RECORDED_FLAGS} == FLAGS.keys()
    assert FLAGS.keys() > BESIDE_FILE


@pytest.mark.parametrize(
    ("arguments", "path", "value"),
    [
        (("--masquerade-all",), "iptables.masqueradeAll", True),
        (("--masquerade-all",), "nftables.masqueradeAll", True),
        (("--masquerade-all=false",), "iptables.masqueradeAll", False),
        (("--masquerade-all=T",), "iptables.masqueradeAll", True),
        (("--iptables-localhost-nodeports=false",), "iptables.localhostNodePorts", False),
        (("--no-localhost-nodeports",), "iptables.localhostNodePorts", False),
        (("--cluster_cidr", "10.0.0.0/8"), "clusterCIDR", "10.0.0.0/8"),
        (("--iptables-masquerade-bit=0x1f",), "iptables.masqueradeBit", 31),
        (("--conntrack-min=010",), "conntrack.min", 8),
        (("--conntrack-min=0_7",), "conntrack.min", 7),
        (("--conntrack-min=+0b1_01",), "conntrack.min", 5),
        (("--oom-score-adj", "-0x10"), "oomScoreAdj", -16),
        (("-v=010",), "logging.verbosity", 10),
        (("--kube-api-qps=.5e1",), "clientConnection.qps", 5),
        (("--log-text-info-buffer-size=1.5Mi",), "logging.options.text.infoBufferSize", "1.5Mi"),
        (
            ('--nodeport-addresses="10.0.0.0/8",10.1.0.0/16', "--nodeport-addresses", "::1/128"),
            "nodePortAddresses",
            ["10.0.0.0/8", "10.1.0.0/16", "::1/128"],
        ),
        (("--conntrack-tcp-timeout-established=1h2m3.5s",), TCP_TIMEOUT, "1h2m3.5s"),
        (("--conntrack-tcp-timeout-established=+1.h.5m",), TCP_TIMEOUT, "1h0m30s"),
        (("--config=", "--conntrack-min=6"), "conntrack.min", 6),
        (("--iptables-sync-period=90s",), "iptables.syncPeriod", "1m30s"),
        (
            ("--proxy-mode=nftables", "--iptables-sync-period=1h"),
            "nftables.syncPeriod",
            "1h0m0s",
        ),
        (("--conntrack-udp-timeout", "1500ms"), "conntrack.udpTimeout", "1.5s"),
        (("--conntrack-tcp-timeout-established=0",), "conntrack.tcpEstablishedTimeout", "0s"),
        (("--conntrack-max-per-core", "0"), "conntrack.maxPerCore", 0),
        (
            ("--nodeport-addresses=10.0.0.0/8,fd00::/64", "--nodeport-addresses", "10.1.0.0/16"),
            "nodePortAddresses",
            ["10.0.0.0/8", "fd00::/64", "10.1.0.0/16"],
        ),
        (("--feature-gates=A=true,B=false", "--feature-gates=B=1"), "featureGates.B", True),
        (("-v=4",), "logging.verbosity", 4),
        (("-v4",), "logging.verbosity", 4),
        (("-v", "4"), "logging.verbosity", 4),
        (("--v=4",), "logging.verbosity", 4),
        (("--v", "4"), "logging.verbosity", 4),
        (("-v",), "logging.verbosity", 1),
        (("-vv",), "logging.verbosity", 2),
        (("--log-format", "json"), "logging.format", "json"),
        (
            ("--vmodule=a=1,b=2",),
            "logging.vmodule",
            [{"filePattern": "a", "verbosity": 1}, {"filePattern": "b", "verbosity": 2}],
        ),
        (("--proxy-mode", "nftables"), "nodePortAddresses", ["primary"]),
        (("--mode", "nftables"), "mode", "nftables"),
        (("--proxy-mode", "ipvs"), "mode", "iptables"),
        (("--node", "N1"), "hostnameOverride", "N1"),
        (("--metrics-bind-address=10.0.0.1",), "metricsBindAddress", "10.0.0.1:10249"),
        (("--healthz-bind-address=::1",), "healthzBindAddress", "[::1]:10256"),
        (("--bind-address=fd00::1",), "metricsBindAddress", "[::1]:10249"),
        (("--strict=false",), "kbeNat.strict", False),
        (("--strict=true",), "kbeNat.strict", True),
        (("--gso=false",), "kbeNat.gso", False),
        (("--max_flows=1000",), "kbeNat.maxFlows", 1000),
        (("--mark-flow=0x40",), "kbeNat.markFlow", 64),
        (("--datapath", "every-packet"), "kbeNat.datapath", "every-packet"),
    ],
)
def test_go_s_syntax(kbe: Ran, arguments: tuple[str, ...], path: str, value: Any) -> None:
    assert Written(kbe, *arguments)[path] == value


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("--clustr-cidr=10.0.0.0/8",),
            "--clustr-cidr: there is no such flag; did you mean --clus",
        ),
        (("--conntrack-max",), "did you mean --conntrack-m"),
        (("--max-flow", "5"), "did you mean --max-flows"),
        (("--masquerade-all=perhaps",), "--masquerade-all: 'perhaps' is neither true nor false"),
        (("--conntrack-min=many",), "--conntrack-min: 'many' is not an integer"),
        *(
            ((f"--conntrack-min={text}",), f"--conntrack-min: '{text}' is not an integer")
            for text in ("08", " 5", "5 ", "1__0", "_1", "\u0665", "", "0x", "5.0", "1e3")
        ),
        *(
            ((f"-v={text}",), f"--v: '{text}' is not a whole number")
            for text in ("0x2", "+2", "", " 3", "1_0", "\u0665", "high")
        ),
        (("--v=2147483648",), "--v: '2147483648' does not fit into 31 bits"),
        *(
            ((f"--kube-api-qps={text}",), f"--kube-api-qps: '{text}' is not a number")
            for text in ("nan", "inf", "1e400", " 1", "1_0", "")
        ),
        (("--vmodule=a=1=2",), "--vmodule: 'a=1=2' is not PATTERN=LEVEL"),
        (("--vmodule=a=",), "--vmodule: 'a=' is not PATTERN=LEVEL"),
        (("--logging-format=json", "--vmodule=a=1"), "--vmodule: only supported for text"),
        (("--log-text-info-buffer-size=x",), "buffer-size: 'x' is no quantity such as 64Ki"),
        (('--nodeport-addresses="10.0.0.0/8',), "has a quotation mark out of place"),
        (('--nodeport-addresses=10.0.0.0/8,10"1',), "has a quotation mark out of place"),
        (("--nodeport-addresses=10.0.0.0/8, ::/0",), "' ::/0': must be a valid CIDR"),
        (("--socket=",), "--socket: it names no file"),
        (("--state=",), "--state: it names no file"),
        (("--conntrack-min=4294967296",), "--conntrack-min: '4294967296' does not fit"),
        (("--conntrack-min=-1",), "--conntrack-min: -1: must be greater than or equal to 0"),
        (("--conntrack-udp-timeout=5",), "--conntrack-udp-timeout: '5' is no duration"),
        (("--ipvs-sync-period=x",), "--ipvs-sync-period: 'x' is no duration"),
        (("--kube-api-qps=fast",), "--kube-api-qps: 'fast' is not a number"),
        (("--feature-gates=A",), "--feature-gates: 'A' has no value"),
        (("--vmodule=a",), "--vmodule: 'a' is not PATTERN=LEVEL"),
        (("--proxy-mode=userspace",), "--proxy-mode: 'userspace': must be iptables"),
        (("--iptables-masquerade-bit=32",), "--iptables-masquerade-bit: 32: must be within"),
        (("--oom-score-adj=-1001",), "--oom-score-adj: -1001: must be within"),
        (("--bind-address=node",), "--bind-address: 'node': not a valid textual"),
        (("--metrics-bind-address=:80",), "--metrics-bind-address: '': must be a valid IP"),
        (("--nodeport-addresses=primary,10.0.0.0/8",), "--nodeport-addresses: 'primary': can't"),
        (("--cluster-cidr", "10.0.0.0"), "--cluster-cidr: '10.0.0.0': must be a valid CIDR block"),
        (("--logging-format=xml",), "--logging-format: 'xml': unsupported log format"),
        (("--hostname-override= ",), "--hostname-override: an empty name is invalid"),
        (("--v=-1",), "--v: '-1' is not a whole number"),
        (("--proxy-mode",), "--proxy-mode: it needs a value"),
        (("--strict=perhaps",), "--strict: 'perhaps' is neither true nor false"),
        (("--config=absent.yaml",), "absent.yaml: No such file"),
    ],
)
def test_wrong_flags_are_one_line(kbe: Ran, arguments: tuple[str, ...], said: str) -> None:
    code, out, err = kbe("proxy", "--write-config-to=-", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err


FILE = """
mode: nftables
clusterCIDR: 10.0.0.0/8
hostnameOverride: from-file
logging: {verbosity: 3}
conntrack: {min: 5}
kbeNat: {strategy: rr, maxFlows: 500, manifests: [a, b], externalIpRanges: [10.9.0.0/16]}
"""


def test_beside_a_file_kube_proxy_s_flags_count_as_there(kbe: Ran, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(FILE)
    done = Written(
        kbe,
        *("--config", path, "--proxy-mode=iptables", "--cluster-cidr=10.1.0.0/16"),
        *("--conntrack-min=7", "--hostname-override=From-Flag", "-v=5", "--max-flows=600"),
    )
    assert (done["mode"], done["clusterCIDR"]) == ("nftables", "10.0.0.0/8")
    assert (done["hostnameOverride"], done["logging.verbosity"]) == ("From-Flag", 5)
    assert done["conntrack.min"] == 5
    # Our own flags go before the file.
    options = done["kbeNat"]
    assert (options["maxFlows"], options["strategy"], options["manifests"]) == (
        600,
        "rr",
        ["a", "b"],
    )
    [warning] = [line for line in done.err.splitlines() if "WARNING" in line]
    assert warning.endswith(
        "not followed beside --config, which says it: --proxy-mode, --cluster-cidr, --conntrack-min"
    )


def test_a_flag_that_does_not_apply_is_named_with_any_value(kbe: Ran) -> None:
    """A field of a file is named for another value than its default alone: kubeadm writes all."""
    err = Written(kbe, "--kube-api-qps=5", "--kube-api-burst", "10", "--profiling=false").err
    assert err.count("WARNING") == 3
    for flag in ("--kube-api-qps", "--kube-api-burst", "--profiling"):
        assert f"{flag} is not applied: " in err


def test_what_does_not_apply_is_said_once_with_its_reason(kbe: Ran, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    # Defaults say nothing, as kubeadm writes them.
    path.write_text(f"{(RECORDINGS / 'default-config.yaml').read_text()}")
    assert "WARNING" not in Written(kbe, "--config", path).err
    path.write_text("ipvs: {scheduler: rr}\nenableProfiling: true\nwinkernel: {enableDSR: true}")
    lines = [line for line in Written(kbe, "--config", path).err.splitlines() if "WARNING" in line]
    assert [line.partition(f"{path}: ")[2].partition(" is not applied: ")[0] for line in lines] == [
        "ipvs.scheduler",
        "winkernel",
        "enableProfiling",
    ]


def test_an_empty_address_switches_a_server_off(kbe: Ran, tmp_path: Path) -> None:
    done = Written(kbe, "--metrics-bind-address=", "--healthz-bind-address=10.0.0.1:80")
    assert done["kbeNat"]["metricsBindAddress"] == ""
    assert "healthzBindAddress" not in done["kbeNat"]
    path = tmp_path / "config.yaml"
    path.write_text(done.text)
    assert Written(kbe, "--config", path).text == done.text
    # In a file of kube-proxy's an empty address is the default.
    path.write_text('metricsBindAddress: ""')
    assert Written(kbe, "--config", path)["metricsBindAddress"] == "127.0.0.1:10249"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{maxFlow: 5}", "kbeNat.maxFlow: there is no such option; did you mean maxFlows"),
        ("{max-flows: 5}", "kbeNat.max-flows: there is no such option; did you mean maxFlows"),
        ("{maxFlows: many}", "kbeNat.maxFlows: expected int | null, got str"),
        ("{maxFlows: 0}", "kbeNat.maxFlows: 0 is less than 1"),
        ("{queues: 65}", "kbeNat.queues: 65 is more than 64"),
        ("{seed: -1}", "kbeNat.seed: -1 is less than 0"),
        ("{strategy: best}", "kbeNat.strategy: invalid enum value 'best'"),
        ("{datapath: no}", "kbeNat.datapath: expected str | null, got bool"),
        ("{markFlow: 3}", "kbeNat.markFlow: '3' is not one bit of 32"),
        ("{cacheExcludeDevice: [eth0, a b]}", "kbeNat.cacheExcludeDevice: 'a b' is no name of a"),
        ("{markFlow: 0x2000}", "kbeNat: --mark-flow, --mark-refused, --mark-masquerade: two of"),
        ("{externalIpRanges: [x]}", "kbeNat.externalIpRanges: 'x'"),
        ("{socket: ''}", "kbeNat: --socket: it names no file"),
        ("{manifests: objects}", "kbeNat.manifests: expected array | null, got str"),
        ("[]", "kbeNat: expected object, got array"),
    ],
)
def test_wrong_options_are_named(kbe: Ran, tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"kbeNat: {text}")
    code, out, err = kbe("proxy", "--config", path, "--write-config-to=-")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"{path}: {said}" in err


def test_the_configuration_in_force_is_written_whole(kbe: Ran, tmp_path: Path) -> None:
    source, target = tmp_path / "config.yaml", tmp_path / "effective.yaml"
    source.write_text(FILE)
    target.write_text("old")
    assert kbe("proxy", "--config", source, "--write-config-to", target)[:2] == (0, "")
    assert [each.name for each in sorted(tmp_path.iterdir())] == ["config.yaml", "effective.yaml"]
    assert Written(kbe, "--config", target).text == target.read_text()
    assert kbe("proxy", "--write-config-to", tmp_path / "no/where")[0] == 2


def test_a_link_to_the_configuration_stays_one(kbe: Ran, tmp_path: Path) -> None:
    target, link = tmp_path / "target.yaml", tmp_path / "link.yaml"
    link.symlink_to("target.yaml")
    assert kbe("proxy", "--write-config-to", link)[0] == 0
    assert link.is_symlink() and target.read_text().startswith("apiVersion: ")
    target.write_text("old")
    target.chmod(0o600)
    assert kbe("proxy", "--write-config-to", link)[0] == 0
    assert link.is_symlink() and target.read_text().startswith("apiVersion: ")
    assert target.stat().st_mode & 0o777 == 0o600
    assert {each.name for each in tmp_path.iterdir()} == {"target.yaml", "link.yaml"}


@pytest.mark.parametrize("place", ["no/where", "loop", ".", "file/below"])
def test_a_configuration_that_cannot_be_written_is_one_line(
    kbe: Ran, tmp_path: Path, place: str
) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").write_text("kept")
    code, out, err = kbe("proxy", "--write-config-to", tmp_path / place)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert {each.name for each in tmp_path.iterdir()} == {"loop", "file"}
    assert (tmp_path / "file").read_text() == "kept"


def test_the_schema_of_our_options_is_published() -> None:
    """`python tools/config_schema.py` writes it."""
    published = json.loads((ROOT / "docs/kbe-nat-options.schema.json").read_text())
    assert published == json_schema()
    [definition] = [published["$defs"]["KbeNat"]]
    assert definition["additionalProperties"] is False
    assert definition["properties"].keys() == {option.key for option in own_options()}


def test_verbs_that_read_objects_follow_the_file_s_options_about_nodes(
    kbe: Ran, tmp_path: Path
) -> None:
    path, objects = tmp_path / "config.yaml", tmp_path / "objects.yaml"
    objects.write_text(
        "apiVersion: v1\nkind: Service\nmetadata: {name: a}\n"
        "spec: {clusterIP: 172.30.0.1, externalIPs: [10.9.0.1], ports: [{port: 80}]}"
    )
    asked = ("dump", "-f", objects, "--format", "nft", "--config", path)
    for text, flags, is_served in (
        ("kbeNat: {externalIpRanges: [10.9.0.0/16], maxFlows: 1}", (), True),
        ("kbeNat: {externalIpRanges: [10.8.0.0/16]}", (), False),
        # Flags go before the file.
        (
            "kbeNat: {externalIpRanges: [10.8.0.0/16]}\nmode: nftables",
            ("--external-ip-ranges", "10.9.0.0/16"),
            True,
        ),
    ):
        path = path.with_name(f"{len(text)}{len(flags)}.yaml")
        path.write_text(text)
        code, out, err = kbe(*asked[:-1], path, *flags)
        assert (code, "10.9.0.1" in out) == (0, is_served), err
    path = path.with_name("wrong.yaml")
    path.write_text("kbeNat: {externalIpRanges: 5}")
    code, out, err = kbe(*asked[:-1], path)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"{path}: kbeNat.externalIpRanges: expected array | null, got int" in err


def test_an_encoding_without_an_api_server_has_no_effect(kbe: Ran) -> None:
    objects = ROOT / "examples/simpleservice/cluster.yaml"
    code, _, err = kbe("proxy", "--manifests", objects, "--api-encoding", "json", "--dry-run")
    assert code == 2
    assert "--api-encoding: it has no effect: no API server is asked" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("objects",), "objects stands behind no flag that takes it; objects come by --manifests"),
        (("--masquerade-all", "true"), "The value of --masquerade-all stands behind a sign:"),
        (("--masquerade-all", "--dry-run", "x"), "x stands behind no flag that takes it"),
    ],
)
def test_a_word_behind_no_flag_is_refused_with_the_way_on(
    kbe: Ran, words: tuple[str, ...], said: str
) -> None:
    code, out, err = kbe("proxy", *words)
    assert (code, out, err.startswith(f"kbe-nat: {said}")) == (2, "", True)
