"""Pods by their labels."""

from typing import Any

from kbe_nat.sources.manifests.labels import LabelledPods
from kbe_nat.sources.objects import Metadata, PodObject


class Counted(dict[str, str]):
    """Labels that count how often anybody looks at them."""

    looks = 0

    def items(self) -> Any:
        Counted.looks += 1
        return super().items()


def pod(name: str, **labels: str) -> PodObject:
    return PodObject(Metadata(name, labels=Counted(labels)))


def test_all_labels_are_wanted_in_one_namespace() -> None:
    other = PodObject(Metadata("c", "other", labels={"app": "web", "env": "prod"}))
    pods = LabelledPods([pod("a", app="web", env="prod"), pod("b", app="web", env="test"), other])
    assert [own.metadata.name for own in pods.carrying("default", {"app": "web"})] == ["a", "b"]
    assert [
        own.metadata.name for own in pods.carrying("default", {"app": "web", "env": "prod"})
    ] == ["a"]
    assert pods.carrying("default", {"app": "web", "env": "prod", "zone": "x"}) == []
    assert [own.metadata.name for own in pods.carrying("other", {"env": "prod"})] == ["c"]


def test_a_selector_looks_only_at_pods_that_have_its_rarest_label() -> None:
    pods = LabelledPods(pod(f"p{number}", env="prod", app=f"a{number}") for number in range(1_000))
    Counted.looks = 0
    for number in range(1_000):
        assert len(pods.carrying("default", {"env": "prod", "app": f"a{number}"})) == 1
    assert Counted.looks == 1_000
