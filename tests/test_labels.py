"""Pods by their labels."""

from typing import Any

from kbe_nat.sources.manifests.labels import LabelledPods
from kbe_nat.sources.objects import Metadata, Origin, ParsedObject, Place, PodObject


class Counted(dict[str, str]):
    """Labels that count how often anybody looks at them."""

    looks = 0

    def items(self) -> Any:
        Counted.looks += 1
        return super().items()


def pod(name: str, space: str = "default", **labels: str) -> ParsedObject:
    return ParsedObject("", "Pod", PodObject(Metadata(name, space, labels=Counted(labels))))


def labelled(*pods: ParsedObject) -> LabelledPods:
    index = LabelledPods()
    for position, parsed in enumerate(pods):
        index.put(Place(Origin(0, ""), position), parsed)
    return index


def test_all_labels_are_wanted_in_one_namespace() -> None:
    first, second = pod("b", app="web", env="prod"), pod("a", app="web", env="test")
    pods = labelled(first, second, pod("c", "other", app="web", env="prod"))

    def names(space: str, **labels: str) -> list[str]:
        return [pod.metadata.name for pod in pods.matching(space, labels)]

    assert names("default", app="web") == ["b", "a"], "in the order of their places"
    assert names("default", app="web", env="prod") == ["b"]
    assert names("default", app="web", env="prod", zone="x") == []
    assert names("other", env="prod") == ["c"]
    pods.remove(first)
    assert names("default", app="web") == ["a"]
    pods.remove(second)
    assert names("default", app="web") == []


def test_a_selector_looks_only_at_pods_that_have_its_rarest_label() -> None:
    pods = labelled(*(pod(f"p{number}", env="prod", app=f"a{number}") for number in range(1_000)))
    Counted.looks = 0
    for number in range(1_000):
        assert len(pods.matching("default", {"env": "prod", "app": f"a{number}"})) == 1
    assert Counted.looks == 1_000
