"""The configuration in force, written and read back."""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
from hypothesis import assume, given, reject, settings
from hypothesis import strategies as st

from kbe_nat.cli.flags.command_line import CommandLine, effective_text
from kbe_nat.cli.flags.own_options import own_options, with_own_options
from kbe_nat.daemon.settings import Settings
from kbe_nat.errors import FileError, SettingError
from kbe_nat.kubeproxy.bind_address import NOWHERE
from kbe_nat.kubeproxy.config import Configuration
from kbe_nat.kubeproxy.duration import duration, go_duration, nanoseconds
from kbe_nat.kubeproxy.effective import complete
from kbe_nat.kubeproxy.settings import NodeSettings
from kbe_nat.kubeproxy.validation import violations
from kbe_nat.kubeproxy.yaml_text import yaml_text
from kbe_nat.policy.options import Mode
from kbe_nat.sources.manifests.yaml_documents import yaml_documents

texts = st.text(st.characters(codec="utf-8"))
spans = st.integers(0, 10**16).map(go_duration) | st.sampled_from(["0", "5m", "1.5h", "90s", ".5s"])
ranges = st.sampled_from(["10.0.0.0/8", "fd00::/64", "0.0.0.0/0", "10.00.0.0/8"])
addresses = st.sampled_from(["", "10.0.0.1", "::1", "10.0.0.1:80", "[fd00::1]:1", "0.0.0.0:10256"])
bits = st.integers(0, 31)
counts = st.integers(0, 2**31 - 1)


def section(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=fields)


mode_sections = section(
    masqueradeBit=bits,
    masqueradeAll=st.booleans(),
    syncPeriod=st.sampled_from(["0s", "30s", "1m", "1h30m"]),
    minSyncPeriod=st.sampled_from(["0s", "1s", "500ms"]),
)
configurations = section(
    mode=st.sampled_from(["", *Mode]),
    clusterCIDR=ranges,
    detectLocalMode=st.sampled_from(["", "ClusterCIDR", "NodeCIDR", "BridgeInterface"]),
    detectLocal=section(bridgeInterface=texts, interfaceNamePrefix=texts),
    nodePortAddresses=st.lists(ranges, max_size=3) | st.just(["primary"]),
    hostnameOverride=texts.filter(str.strip) | st.just(""),
    bindAddress=st.sampled_from(["", "0.0.0.0", "::", "fd00::1", "10.0.0.1"]),
    bindAddressHardFail=st.booleans(),
    healthzBindAddress=addresses,
    metricsBindAddress=addresses,
    iptables=mode_sections,
    nftables=mode_sections,
    masqueradeAll=st.booleans(),
    conntrack=section(
        maxPerCore=counts,
        min=counts,
        tcpEstablishedTimeout=spans,
        tcpCloseWaitTimeout=spans,
        tcpBeLiberal=st.booleans(),
        udpTimeout=spans,
        udpStreamTimeout=spans,
    ),
    clientConnection=section(
        kubeconfig=texts, qps=st.floats(0, 1e6), burst=counts, contentType=texts
    ),
    logging=section(
        format=st.sampled_from(["", "text", "json"]),
        verbosity=st.integers(0, 9),
        flushFrequency=spans | st.integers(0, 10**12),
        vmodule=st.lists(section(filePattern=texts, verbosity=st.integers(0, 9)), max_size=2),
    ),
    featureGates=st.dictionaries(texts, st.booleans(), max_size=3),
    oomScoreAdj=st.integers(-1000, 1000),
    configSyncPeriod=spans,
    portRange=texts,
    ipvs=section(scheduler=texts, strictARP=st.booleans(), tcpTimeout=spans),
)


def values_of_type(option: Any) -> st.SearchStrategy[Any]:
    """Values of a setting that its flag could have, or None where nothing was chosen."""
    samples: dict[str, st.SearchStrategy[Any]] = {
        "manifests": st.lists(texts.filter(bool), max_size=2).map(tuple),
        "node-address": st.just(("10.0.0.1", "fd00::1")),
        "external-ip-ranges": st.just(("10.9.0.0/16",)),
        "pod-range": st.just("10.8.0.0/16"),
        "cpus": st.just((0,)),
        "mark-flow": st.just(0x40000),
        "mark-backend": st.just(0xF000),
        "max-flows": st.integers(1, 1 << 26),
        "seed": st.integers(0, 2**64 - 1),
        "drain-removed": st.floats(0, 1e9),
        "metrics-bind-address": st.just(NOWHERE) | st.just(("::1", 5)),
        "state": texts.filter(bool).map(Path),
        "socket": texts.filter(bool).map(Path),
        "master": texts,
    }
    return samples.get(option.flag, st.just(option.default))


own_values = st.fixed_dictionaries(
    {}, optional={option.flag: values_of_type(option) for option in own_options()}
)


def read(path: Path) -> Settings:
    line = CommandLine(Settings(node=NodeSettings(config=path)), frozenset(), {})
    return line.settings()[0]


@settings(max_examples=200)
@given(configurations, own_values)
def test_what_is_written_reads_back_the_same(
    values: dict[str, Any], options: dict[str, Any]
) -> None:
    configuration = msgspec.convert(values, Configuration)
    assume(not any(violations(configuration)))
    try:
        before = with_own_options(Settings(configuration=configuration), options)
    except SettingError:
        reject()
    text = effective_text(before)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        path.write_text(text)
        after = read(path)
    assert effective_text(after) == text
    assert complete(after.configuration) == complete(
        msgspec.structs.replace(complete(configuration), kbe_nat=after.configuration.kbe_nat)
    )
    alike = replace(
        after, configuration=configuration, logs=before.logs, node=replace(after.node, config=None)
    )
    assert alike == before


@given(st.integers(-(2**63) + 1, 2**63 - 1))
def test_durations_are_go_s(count: int) -> None:
    assert nanoseconds(go_duration(count)) == count


def test_durations_as_go_writes_them() -> None:
    written = {
        "0": "0s",
        "90s": "1m30s",
        "24h": "24h0m0s",
        "1.5s": "1.5s",
        "1500us": "1.5ms",
        "1500ns": "1.5µs",
        "3ns": "3ns",
        "-2m": "-2m0s",
        "1h0.5s": "1h0m0.5s",
    }
    assert {text: go_duration(nanoseconds(text)) for text in written} == written
    assert duration("1m30.5s") == 90.5


@given(
    st.recursive(
        texts | st.booleans() | st.integers(-(10**12), 10**12) | st.none(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
        max_leaves=10,
    )
)
def test_texts_stay_texts_in_yaml(value: Any) -> None:
    text = yaml_text({"value": value})
    assert yaml_documents(text.encode()) == [{"value": value}]


def test_words_that_other_readers_take_for_something_else() -> None:
    words = ["on", "Yes", "null", "~", "0o17", "017", "1e3", "22:30", ".5", "0x1f", "=", "<<", ""]
    assert yaml_documents(yaml_text(words).encode()) == [words]
    for word in words:
        assert f'- "{word}"' in yaml_text(words)


def test_a_mistake_is_no_configuration(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("kbeNat: {queues: 64, queue: 65500}")
    try:
        read(path)
    except FileError as error:
        assert str(error).startswith(f"{path}: kbeNat: --queues: the last queue would be 65563")
    else:
        raise AssertionError
