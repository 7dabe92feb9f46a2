"""The chart, as the real helm renders it: the objects of kustomize, every value, wrong values."""

import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.deployment import (
    CHART,
    DATAPATHS,
    DEPLOY,
    Objects,
    container,
    kustomize,
    output,
    run,
    template,
    with_component,
)
from kbe_nat.kubeproxy.config import read_configuration

LABEL = "app.kubernetes.io/name"
DIGEST = "sha256:" + "0123456789abcdef" * 4


def daemon_set(objects: Objects) -> dict[str, Any]:
    [value] = [value for (kind, _), value in objects.items() if kind == "DaemonSet"]
    return value


def pod(objects: Objects) -> dict[str, Any]:
    value: dict[str, Any] = daemon_set(objects)["spec"]["template"]["spec"]
    return value


def metadata(objects: Objects) -> dict[str, Any]:
    value: dict[str, Any] = daemon_set(objects)["spec"]["template"]["metadata"]
    return value


def configuration_text(objects: Objects) -> str:
    [text] = [
        value["data"]["config.yaml"]
        for (kind, _), value in objects.items()
        if kind == "ConfigMap" and "config.yaml" in value["data"]
    ]
    return str(text)


def configuration(objects: Objects) -> dict[str, Any]:
    value: dict[str, Any] = yaml.safe_load(configuration_text(objects))
    return value


def probes(objects: Objects) -> list[dict[str, Any]]:
    own = container(objects)
    return [own[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")]


def images(objects: Objects) -> set[str]:
    return {
        each["image"] for part in ("containers", "initContainers") for each in pod(objects)[part]
    }


def test_helm_finds_no_fault(helm: Path) -> None:
    assert "0 chart(s) failed" in output(helm, "lint", "--strict", CHART)


@pytest.mark.parametrize(
    ("folder", "options"),
    [
        ("base", ()),
        ("overlays/replace-kube-proxy", ("--set", "kubeProxy=replace")),
        ("overlays/beside-kube-proxy", ("--set", "kubeProxy=beside")),
    ],
)
def test_its_objects_are_those_of_kustomize(
    helm: Path, kubectl: Path, folder: str, options: tuple[str, ...]
) -> None:
    assert template(helm, *options) == kustomize(kubectl, DEPLOY / folder)


@pytest.mark.parametrize("datapath", DATAPATHS)
def test_another_datapath_is_the_component_of_kustomize(
    helm: Path, kubectl: Path, tmp_path: Path, datapath: str
) -> None:
    """But for the place of the datapath's name: the file here, a flag that goes before it there."""
    objects = with_component(kubectl, tmp_path, datapath)
    parts = [*pod(objects)["initContainers"], *pod(objects)["containers"]]
    for each in parts:
        each["args"].remove(f"--datapath={datapath}")
    config = objects["ConfigMap", "kbe-nat"]["data"]
    config["config.yaml"] = config["config.yaml"].replace("first-packet", datapath)
    assert len(parts) == 2
    assert template(helm, "--set", f"config.kbeNat.datapath={datapath}") == objects


VALUES: list[tuple[str, str, Any]] = [
    ("image.repository", "a.example/nat", lambda own: images(own) == {"a.example/nat:latest"}),
    ("image.tag", "1.2", lambda own: images(own) == {"kbe-nat:1.2"}),
    ("image.digest", DIGEST, lambda own: images(own) == {f"kbe-nat@{DIGEST}"}),
    ("image.pullPolicy", "Always", lambda own: container(own)["imagePullPolicy"] == "Always"),
    (
        "imagePullSecrets",
        '[{"name": "key"}]',
        lambda own: pod(own)["imagePullSecrets"] == [{"name": "key"}],
    ),
    (
        "nameOverride",
        "nat",
        lambda own: (
            {name for _, name in own} == {"nat"} and metadata(own)["labels"] == {LABEL: "nat"}
        ),
    ),
    (
        "fullnameOverride",
        "nat",
        lambda own: (
            {name for _, name in own} == {"nat"} and metadata(own)["labels"] == {LABEL: "kbe-nat"}
        ),
    ),
    ("kubeProxy", "replace", lambda own: configuration(own)["kbeNat"]["takeOver"]),
    (
        "config.kbeNat.datapath",
        "auto",
        lambda own: (
            container(own)["securityContext"]["capabilities"]["add"]
            == ["NET_ADMIN", "NET_RAW", "BPF", "PERFMON"]
        ),
    ),
    (
        "config",
        '{"healthzBindAddress": "[2001:db8::1]:10300"}',
        lambda own: (
            {(each["host"], each["port"]) for each in probes(own)} == {("2001:db8::1", 10300)}
        ),
    ),
    (
        "apiServer.host",
        "192.0.2.10",
        lambda own: (
            own["ConfigMap", "kbe-nat-api-server"]["data"]
            == {"KUBERNETES_SERVICE_HOST": "192.0.2.10", "KUBERNETES_SERVICE_PORT": "6443"}
        ),
    ),
    (
        "apiServer",
        '{"host": "a.example", "port": 443}',
        lambda own: (
            own["ConfigMap", "kbe-nat-api-server"]["data"]["KUBERNETES_SERVICE_PORT"] == "443"
        ),
    ),
    ("extraArgs", '["-v"]', lambda own: container(own)["args"][-1] == "-v"),
    ("keepRules", "false", lambda own: "lifecycle" not in container(own)),
    (
        "resources.requests.cpu",
        "2",
        lambda own: container(own)["resources"]["requests"]["cpu"] == 2,
    ),
    (
        "resources.requests.memory",
        "1Gi",
        lambda own: container(own)["resources"]["requests"]["memory"] == "1Gi",
    ),
    (
        "resources.limits.memory",
        "4Gi",
        lambda own: container(own)["resources"]["limits"]["memory"] == "4Gi",
    ),
    (
        "maxUnavailable",
        "10%",
        lambda own: (
            daemon_set(own)["spec"]["updateStrategy"]["rollingUpdate"] == {"maxUnavailable": "10%"}
        ),
    ),
    ("priorityClassName", "own", lambda own: pod(own)["priorityClassName"] == "own"),
    (
        "nodeSelector",
        '{"pool": "a"}',
        lambda own: pod(own)["nodeSelector"] == {"kubernetes.io/os": "linux", "pool": "a"},
    ),
    ("tolerations", "[]", lambda own: "tolerations" not in pod(own)),
    (
        "affinity",
        '{"nodeAffinity": {}}',
        lambda own: pod(own)["affinity"] == {"nodeAffinity": {}},
    ),
    (
        "podLabels",
        '{"team": "a", "app.kubernetes.io/name": "other"}',
        lambda own: metadata(own)["labels"] == {"app.kubernetes.io/name": "kbe-nat", "team": "a"},
    ),
    (
        "podAnnotations",
        '{"note": "5"}',
        lambda own: metadata(own)["annotations"] == {"note": "5"},
    ),
]
"""Values with what each must do. JSON where it is no word."""


def setting(name: str, value: str) -> tuple[str, str]:
    is_json = value[0] in "[{" or value == "false"
    return ("--set-json" if is_json else "--set", f"{name}={value}")


@pytest.mark.parametrize(("name", "value", "holds"), VALUES, ids=[row[0] for row in VALUES])
def test_every_value_does_what_it_says(
    helm: Path, tmp_path: Path, name: str, value: str, holds: Any
) -> None:
    validator = pytest.importorskip("kubernetes_validate")
    objects = template(helm, *setting(name, value))
    assert holds(objects)
    assert objects != template(helm)
    for each in objects.values():
        validator.validate(each, "1.36", strict=True)
    path = tmp_path / "config.yaml"
    path.write_text(configuration_text(objects))
    assert read_configuration(path)[1] == ()


def test_no_value_is_without_a_test() -> None:
    def leaves(values: dict[str, Any], prefix: str = "") -> set[str]:
        names = set()
        for key, value in values.items():
            if isinstance(value, dict) and value and key != "nodeSelector":
                names |= leaves(value, f"{prefix}{key}.")
            else:
                names.add(prefix + key)
        return names

    values = yaml.safe_load((CHART / "values.yaml").read_text())
    tested = {name for name, *_ in VALUES} | {"apiServer.port"}
    assert leaves(values) <= tested
    schema = yaml.safe_load((CHART / "values.schema.json").read_text())
    assert values.keys() == schema["properties"].keys() - {"global"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("image.pullPolicy", "Sometimes"),
        ("image.digest", "sha256:12"),
        ("image.tag", "a/b"),
        ("images", "a"),
        ("kubeProxy", "gone"),
        ("config.kbeNat.datapath", "third-packet"),
        ("config.kbeNat.dataPath", "first-packet"),
        ("config.kbeNat.maxFlows", "-1"),
        ("config.healthzBindAddress", "0.0.0.0"),
        ("config.conntrack.maxPerCores", "5"),
        ("config.mode", '{"a": 1}'),
        ("apiServer.port", "65536"),
        ("keepRules", "yes"),
        ("extraArgs", '["v"]'),
        ("maxUnavailable", "0"),
        ("tolerations", '[{"operators": "Exists"}]'),
        ("podLabels", '{"a": 5}'),
        ("imagePullSecrets", '["key"]'),
        ("nameOverride", "Nat"),
        ("fullnameOverride", "a.b"),
        ("fullnameOverride", "a" * 53),
    ],
)
def test_a_wrong_value_is_refused_by_its_name(helm: Path, name: str, value: str) -> None:
    done = run(helm, "template", "any", CHART, *setting(name, value))
    assert done.returncode != 0 and done.stdout == ""
    schema_words = "specifications of the schema"
    assert schema_words in done.stderr, done.stderr
    assert name.rpartition(".")[2] in done.stderr.partition(schema_words)[2]


@pytest.mark.parametrize("value", ["nameOverride", "fullnameOverride"])
@pytest.mark.parametrize("name", ["nat-east", "true", "1e3"])
def test_another_name_is_that_of_every_object_and_reference(
    helm: Path, value: str, name: str
) -> None:
    """Names that YAML would read as something else are names, too."""
    options = ("--set", "apiServer.host=192.0.2.10")
    objects = template(helm, *options, "--set-json", f'{value}="{name}"')
    usual = template(helm, *options)
    assert {(kind, each) for kind, each in objects} == {
        (kind, each.replace("kbe-nat", name)) for kind, each in usual
    }
    accounts, roles, maps = (
        {each for kind, each in objects if kind == wanted}
        for wanted in ("ServiceAccount", "ClusterRole", "ConfigMap")
    )
    [binding] = [value for (kind, _), value in objects.items() if kind == "ClusterRoleBinding"]
    assert {binding["roleRef"]["name"]} == roles
    assert {each["name"] for each in binding["subjects"]} == accounts
    assert {pod(objects)["serviceAccountName"]} == accounts
    volumes = [each for each in pod(objects)["volumes"] if "configMap" in each]
    sources = [*container(objects)["envFrom"], *volumes]
    named = {(each.get("configMap") or each["configMapRef"])["name"] for each in sources}
    assert named == maps
    label = name if value == "nameOverride" else "kbe-nat"
    labels = [each["metadata"]["labels"] for each in objects.values()]
    labels += [metadata(objects)["labels"], daemon_set(objects)["spec"]["selector"]["matchLabels"]]
    assert all(each == {LABEL: label} for each in labels)


def test_its_notes_name_what_was_installed(helm: Path) -> None:
    options = ("--set", "fullnameOverride=nat", "--dry-run=client", "-n", "proxies")
    notes = output(helm, "install", "any", CHART, *options).partition("NOTES:")[2]
    assert "kubectl -n proxies rollout status daemonset nat\n" in notes


def test_it_is_installed_into_the_namespace_of_the_release(helm: Path) -> None:
    objects = template(helm, namespace="proxies")
    spaces = {
        kind: each["metadata"].get("namespace")
        for (kind, _), each in objects.items()
        if not kind.startswith("Cluster")
    }
    assert {*spaces.values()} == {"proxies"}
    [subject] = objects["ClusterRoleBinding", "kbe-nat"]["subjects"]
    assert subject["namespace"] == "proxies"


def test_its_version_is_that_of_the_project() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    cargo = tomllib.loads((DEPLOY.parent / "Cargo.toml").read_text())
    version = cargo["workspace"]["package"]["version"]
    assert (chart["version"], chart["appVersion"]) == (version, version)


def test_it_is_packed_with_its_schema(helm: Path, tmp_path: Path) -> None:
    output(helm, "package", CHART, "--destination", tmp_path)
    [archive] = tmp_path.glob("*.tgz")
    shutil.unpack_archive(archive, tmp_path)
    folder = tmp_path / "kbe-nat"
    assert {path.relative_to(folder) for path in folder.rglob("[!.]*")} == {
        path.relative_to(CHART) for path in CHART.rglob("[!.]*")
    }
