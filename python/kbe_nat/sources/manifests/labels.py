"""Pods by what selectors ask for."""

from collections.abc import Iterable, Mapping
from typing import TypeAlias

from kbe_nat.sources.objects import ObjectKey, ParsedObject, Place, PodObject

Label: TypeAlias = tuple[str, str, str]
"""Namespace, and name and value of a label."""


class LabelledPods:
    """Pods, found by their labels. Thousands of selectors may ask, each for a few of thousands of
    Pods.
    """

    def __init__(self) -> None:
        self._by_label: dict[Label, dict[ObjectKey, tuple[Place, PodObject]]] = {}

    def put(self, place: Place, parsed: ParsedObject) -> None:
        """A Pod that is not there. Cost: linear in its labels."""
        for label in labels_of(parsed):
            self._by_label.setdefault(label, {})[parsed.key] = (place, _pod(parsed))

    def remove(self, parsed: ParsedObject) -> None:
        """A Pod as it was put. Cost: linear in its labels."""
        for label in labels_of(parsed):
            pods = self._by_label[label]
            del pods[parsed.key]
            if not pods:
                del self._by_label[label]

    def matching(self, space: str, labels: Mapping[str, str]) -> list[PodObject]:
        """The Pods of a namespace that have all of these labels, of which there is one at least, in
        the order of their places. Cost: linear in the Pods that have the rarest.
        """
        by_label = (self._by_label.get((space, name, value), {}) for name, value in labels.items())
        wanted = labels.items()
        placed = [
            (place, key, pod)
            for key, (place, pod) in min(by_label, key=len).items()
            if wanted <= pod.metadata.labels.items()
        ]
        return [pod for _, _, pod in sorted(placed, key=lambda entry: entry[:2])]


def labels_of(parsed: ParsedObject) -> Iterable[Label]:
    """The labels of a Pod."""
    _, space, _ = parsed.key
    return [(space, name, value) for name, value in _pod(parsed).metadata.labels.items()]


def _pod(parsed: ParsedObject) -> PodObject:
    assert isinstance(parsed.value, PodObject)
    return parsed.value
