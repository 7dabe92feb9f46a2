"""The flags that say which objects are read, by verbs that read them once."""

from dataclasses import dataclass
from typing import Final

from kbe_nat.cli.flags.flag import Flag
from kbe_nat.cli.flags.options import POD_RANGE_FLAG, warn
from kbe_nat.cli.flags.parameters import TextFlag, parameter_names
from kbe_nat.errors import FileError, MissingSettingError
from kbe_nat.model import Snapshot
from kbe_nat.sources.address import parse_range
from kbe_nat.sources.manifests.defaults import POD_RANGE
from kbe_nat.sources.manifests.manifests import read_manifests


@dataclass(frozen=True)
class ObjectSettings:
    """Objects of files."""

    files: tuple[str, ...] = ()
    pod_range: str = POD_RANGE
    """Address range of Pods that a controller implies but no object lists."""
    is_strict: bool = True
    """A wrong object or an unreadable file is an error, and not left out."""


STRICT_FLAG: Final[Flag] = Flag(
    "--strict/--lenient",
    help="Whether a wrong object or an unreadable file of a directory is an error, or left out.",
)
OBJECT_FLAGS: Final[dict[str, Flag | TextFlag]] = {
    "files": TextFlag(
        Flag(
            "--filename",
            "--manifests",
            "-f",
            metavar="FILE",
            help="File or directory of Kubernetes objects, or - for standard input; repeatable.",
        ),
        tuple,
        list[str],
    ),
    "pod_range": TextFlag(POD_RANGE_FLAG, parse_range),
    "is_strict": STRICT_FLAG,
}
OBJECT_PARAMETERS: Final = tuple(parameter_names(OBJECT_FLAGS))


def read_objects(objects: ObjectSettings, *, needs_service: bool = False) -> Snapshot:
    """The snapshot of these files. Notes go to standard error, one line each, and so does what is
    left out. A cluster may be without Services, unless the caller `needs_service`.

    Raises `SettingError` without a file; the last of the errors when anything is wrong and they are
    strict, or a Service is needed and only refused objects are there; `FileError` when nothing is,
    and as `read_manifests` does.
    """
    if not objects.files:
        raise MissingSettingError("-f", "say where the objects are")
    update = read_manifests(objects.files, pod_range=objects.pod_range)
    snapshot = update.snapshot
    lacks_service = not snapshot.services
    errors = update.errors
    if errors and (objects.is_strict or (lacks_service and needs_service)):
        warn(*map(str, errors[:-1]))
        raise errors[-1]
    complaint = f"{', '.join(objects.files)}: there is no Service in it"
    if lacks_service and needs_service:
        raise FileError(complaint)
    warn(*map(str, errors), *update.notes, *([complaint] if lacks_service else ()))
    return snapshot
