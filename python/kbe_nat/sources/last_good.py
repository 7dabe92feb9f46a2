"""A refused object does not take down what it served before: its last good form goes on."""

from dataclasses import replace

import msgspec

from kbe_nat.errors import ObjectError
from kbe_nat.model import EndpointSlice, ServiceKey, Snapshot
from kbe_nat.sources.source import SourceUpdate


def retain(update: SourceUpdate, before: Snapshot) -> SourceUpdate:
    """The update, with the objects that it refuses as they were in an earlier snapshot; those that
    were not there stay away. Cost: linear in what is refused, and a copy of the lists that it is
    in.
    """
    refused = {_key(error) for error in update.errors if isinstance(error, ObjectError)}
    now = update.snapshot
    present = {service.key for service in now.services}
    services = [
        own
        for own in before.services
        if ("Service", "/".join(own.key)) in refused and own.key not in present
    ]
    nodes = {
        name: node
        for name, node in before.nodes.items()
        if ("Node", name) in refused and name not in now.nodes
    }
    slices: dict[ServiceKey, tuple[EndpointSlice, ...]] = {}
    if any(kind == "EndpointSlice" for kind, _ in refused):
        for key, parts in before.slices.items():
            names = {part.name for part in now.slices.get(key, ())}
            kept = [
                part
                for part in parts
                if ("EndpointSlice", f"{key[0]}/{part.name}") in refused and part.name not in names
            ]
            if kept:
                both = (*now.slices.get(key, ()), *kept)
                slices[key] = tuple(sorted(both, key=lambda part: part.name))
    if not (services or nodes or slices):
        return update
    snapshot = msgspec.structs.replace(
        now,
        services=(*now.services, *services),
        nodes={**now.nodes, **nodes},
        slices={**now.slices, **slices},
    )
    return replace(update, snapshot=snapshot)


def _key(error: ObjectError) -> tuple[str, str]:
    """Kind and name of the object; a namespace that it leaves out is the default one."""
    kind, _, name = error.subject.partition(" ")
    return kind, name if kind == "Node" or "/" in name else f"default/{name}"
