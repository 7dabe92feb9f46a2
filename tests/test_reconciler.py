"""What the daemon's status and log say of a source that fails and comes back."""

from pathlib import Path

import pytest

from harness.full_engine import controller_with
from kbe_nat.daemon.reconciler import Reconciler
from kbe_nat.server.health_check_ports import HealthCheckPorts
from kbe_nat.sources.manifests.manifests import Manifests

SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: 10.96.0.9, ports: [{port: PORT}]}
"""


@pytest.mark.parametrize("port", ["80", "99999"])
def test_a_folder_that_comes_back_as_it_was_leaves_no_error_behind(
    tmp_path: Path, port: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder, aside = tmp_path / "objects", tmp_path / "aside"
    folder.mkdir()
    (folder / "a.yaml").write_text(SERVICE.replace("PORT", port))
    reconciler = Reconciler(Manifests([folder]), controller_with(1), HealthCheckPorts())
    reconciler.read_first()
    errors = reconciler.errors
    assert ("spec.ports[0].port" in str(errors)) == (port == "99999")
    folder.rename(aside)
    reconciler.follow()
    assert reconciler.errors == (f"{folder}: No such file or directory",)
    aside.rename(folder)
    with caplog.at_level("INFO"):
        reconciler.follow()
    assert reconciler.errors == errors
    assert ("all objects are valid again" in caplog.text) == (not errors)
