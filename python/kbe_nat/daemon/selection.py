"""Which service ports a request means: by names, by their namespace, by labels of their Services.

This is the one place where names of Services become service ports. A name is `NAMESPACE/NAME` for
all ports of a Service, or `NAMESPACE/NAME:PORT` for one of them, where PORT is its name or the
number at which clients reach it; without a namespace that of the request counts, or "default".
"""

from collections.abc import Iterable

from kbe_nat.control.controller import Controller
from kbe_nat.errors import ControlError, NotFoundError
from kbe_nat.model import port_names, qualified
from kbe_nat.policy.plan import PlannedPort
from kbe_nat.policy.selector import Selector, label_map, parse_selector


class Selection:
    """The ports that are meant; falsy when all are."""

    def __init__(
        self,
        controller: Controller,
        names: Iterable[str] = (),
        namespace: str | None = None,
        selector: str | None = None,
    ) -> None:
        """Raises `ControlError` for a selector that is none."""
        self._controller = controller
        self._names = [qualified(name, namespace or "") for name in names]
        self._namespace = namespace
        self._selector: Selector | None = None
        if selector:
            try:
                self._selector = parse_selector(selector)
            except ValueError as error:
                raise ControlError(f"selector: {error}") from None

    def __bool__(self) -> bool:
        return bool(self._names or self._namespace or self._selector)

    def ports(self) -> list[PlannedPort]:
        """The ports, in the order of the plan; names that are of none count for nothing (`check`).
        Cost: one look at all service ports.
        """
        labels = None
        if self._selector is not None:
            selector = self._selector
            services = self._controller.snapshot.services
            labels = {
                service.key for service in services if selector.selects(label_map(service.labels))
            }
        wanted = frozenset(self._names)
        wanted_services = {name.partition(":")[0] for name in wanted}
        return [
            port
            for port in self._controller.plan.ports
            # The name of the Service first, which most ports fail by.
            if not wanted
            or (
                f"{port.namespace}/{port.service}" in wanted_services
                and not wanted.isdisjoint(names_of(port))
            )
            if not self._namespace or wanted or port.namespace == self._namespace
            if labels is None or port.service_key in labels
        ]

    def port_names(self) -> list[str]:
        """The names of the ports. Those that are of no port count as they are: flows outlive their
        Services.
        """
        ports = self.ports()
        return sorted({*(port.name for port in ports), *self._missing(ports)})

    def service_names(self) -> list[str]:
        """The names of Services and of ports that were asked for; where a number, a namespace or
        labels were, those of the ports.
        """
        if not self._names:
            return self.port_names()
        ports = self.ports()
        texts = {name for port in ports for name in port_names(port.name, ())}
        words = [name for name in self._names if name in texts]
        numbers = [name for name in self._names if name not in texts]
        numbered = [port.name for port in ports if not names_of(port).isdisjoint(numbers)]
        return [*dict.fromkeys([*words, *numbered, *self._missing(ports)])]

    def check(self, kind: str = "services", others: Iterable[str] = ()) -> None:
        """Raises `NotFoundError` when names are of no port and not of `others`, with the kind
        of what was asked for; `ControlError` when they are of Services that are not served here.
        """
        elsewhere = frozenset(others)
        missing = [name for name in self._missing(self.ports()) if name not in elsewhere]
        if not missing:
            return
        services = {"/".join(service.key) for service in self._controller.snapshot.services}
        if nowhere := [name for name in missing if name not in services]:
            raise NotFoundError(kind, *nowhere)
        raise ControlError(f"service {missing[0]} has no port that is served here")

    def is_named(self, name: str) -> bool:
        """Whether this name was asked for."""
        return name in self._names

    def _missing(self, ports: Iterable[PlannedPort]) -> list[str]:
        """The names that are of none of these ports."""
        if not self._names:
            return []
        present = {name for port in ports for name in names_of(port)}
        return [name for name in self._names if name not in present]


def names_of(port: PlannedPort) -> set[str]:
    """The names that mean a port, see `port_names`."""
    return port_names(port.name, (each.port for each in port.frontends if each.address))
