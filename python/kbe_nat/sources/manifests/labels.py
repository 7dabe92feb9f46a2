"""Pods by what selectors ask for."""

from collections.abc import Iterable, Mapping

from kbe_nat.sources.objects import PodObject, namespace


class LabelledPods:
    """Pods, found by their labels. Thousands of selectors may ask, each for a few of thousands of
    Pods.
    """

    def __init__(self, pods: Iterable[PodObject] = ()) -> None:
        self._by_label: dict[tuple[str, str, str], list[PodObject]] = {}
        """In the order in which they were added, by namespace, and name and value of a label."""
        for pod in pods:
            self.add(pod)

    def add(self, pod: PodObject) -> None:
        """One more."""
        for name, value in pod.metadata.labels.items():
            self._by_label.setdefault((namespace(pod), name, value), []).append(pod)

    def carrying(self, space: str, labels: Mapping[str, str]) -> list[PodObject]:
        """Those of a namespace that have all of these labels, of which there is one at least. Cost:
        linear in the Pods that have the rarest.
        """
        by_label = (self._by_label.get((space, name, value), []) for name, value in labels.items())
        wanted = labels.items()
        return [pod for pod in min(by_label, key=len) if wanted <= pod.metadata.labels.items()]
