"""A Service and its slice in YAML, and what a file of such objects gives."""

from pathlib import Path

from kbe_nat.errors import ObjectError
from kbe_nat.sources.manifests.manifests import read_manifests
from kbe_nat.sources.source import SourceUpdate

SEED = Path(__file__).parent.parent / "seed"


SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 172.30.0.1, ports: [{port: 80}]}
"""


SLICE = """
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
addressType: IPv4
metadata: {name: web-a, namespace: shop, labels: {kubernetes.io/service-name: web}}
ports: [{port: 8080}]
endpoints: [{addresses: [10.0.0.1]}]
"""


def read(tmp_path: Path, *documents: str) -> SourceUpdate:
    path = tmp_path / "objects.yaml"
    path.write_text("\n---\n".join(documents))
    return read_manifests([path])


def refusals(update: SourceUpdate) -> list[ObjectError]:
    return [error for error in update.errors if isinstance(error, ObjectError)]


def endpoints(update: SourceUpdate, namespace: str, name: str) -> list[tuple[str, int]]:
    slices = update.snapshot.slices.get((namespace, name), ())
    return [
        (e.address, port.port) for part in slices for port in part.ports for e in part.endpoints
    ]
