"""Every exception that kbe-nat raises on purpose; the Rust engine raises the same ones."""


class KbeNatError(Exception):
    """A mistake of the caller, a file or an object. The message is one line, made for people."""


class ArgumentError(KbeNatError, ValueError):
    """An argument of the Python API is out of its range or malformed."""


class SettingError(ArgumentError):
    """A setting of an operator is wrong, has no effect, or contradicts another one."""

    def __init__(self, flag: str, reason: str) -> None:
        super().__init__(flag, reason)
        self.flag = flag
        """As it is given on the command line, such as "--queues"."""
        self.reason = reason

    def __str__(self) -> str:
        return f"Invalid value for {self.flag}: {self.reason}"


class MissingSettingError(SettingError):
    """A setting that is needed was not given."""

    def __str__(self) -> str:
        return f"Missing option {self.flag}: {self.reason}"


class PacketError(ArgumentError):
    """A packet cannot be read, or built of these fields."""


class ServiceError(ArgumentError):
    """A service port contradicts itself, or two of them claim the same frontend."""


class ObjectWarning(UserWarning):
    """Something that Kubernetes objects say has no effect here, or was filled in for them: `load`
    warns of it, and goes on.
    """


class CheckpointError(KbeNatError, ValueError):
    """Bytes given to `Engine.restore` are no checkpoint, or a damaged one. Nothing was restored."""


class CaptureError(KbeNatError, ValueError):
    """A capture file cannot be read: unknown format, damaged, or a link type without IP packets."""


class EncodingError(KbeNatError, ValueError):
    """Bytes of an API server are no answer in the encoding that it says, or a damaged one."""


class QueueError(KbeNatError):
    """A packet queue of the kernel cannot be opened or has failed."""


class RulesError(KbeNatError):
    """The diversion rules could not be installed or removed."""


class ControlError(KbeNatError):
    """The daemon cannot be asked, or it refuses what it was asked for."""


class NotFoundError(ControlError):
    """Nothing has some names that were asked for. The message is kubectl's, a line for each."""

    def __init__(self, kind: str, *names: str) -> None:
        super().__init__(kind, *names)
        self.kind = kind
        """In the plural, such as "services"."""
        self.names = names

    def __str__(self) -> str:
        return "\n".join(
            f'Error from server (NotFound): {self.kind} "{name}" not found' for name in self.names
        )


class StateError(KbeNatError):
    """The file that keeps connections cannot be used."""


class ConntrackError(KbeNatError):
    """The kernel's connection tracking cannot be read."""


class FlowCacheError(KbeNatError):
    """The kernel's cache of translated flows cannot be had here, or refuses something."""


class PrivilegeError(KbeNatError):
    """The caller may not do this."""


class ExtraError(KbeNatError):
    """A package of an extra of kbe-nat is not installed."""


class PlaygroundError(KbeNatError):
    """A namespace, device or server of the playground could not be made."""


class ScenarioError(KbeNatError, ValueError):
    """A scenario of the lab contradicts itself, or is none: its first mistake, and all others."""

    def __init__(self, origin: str, path: str, reason: str, *others: tuple[str, str]) -> None:
        super().__init__(origin, path, reason, *others)
        self.origin = origin
        """Its file or name."""
        self.path = path
        """The field, such as "services[0].backends"; empty when the whole is meant."""
        self.reason = reason
        self.mistakes = ((path, reason), *others)
        """Path and reason of each one."""

    def __str__(self) -> str:
        words = "; ".join(": ".join(filter(None, mistake)) for mistake in self.mistakes)
        return ": ".join(filter(None, (self.origin, words)))


class LabError(KbeNatError):
    """A run of the lab cannot be made, resumed, read or compared."""


class FileError(KbeNatError):
    """A file cannot be read at all, or not as what it should be."""


class UnreadableError(FileError):
    """The system does not let us have a file. Later it may."""


class ObjectError(KbeNatError):
    """One Kubernetes object is refused; the others of its source still apply."""

    def __init__(self, origin: str, subject: str, reason: str, path: str = "") -> None:
        super().__init__(origin, subject, reason, path)
        self.origin = origin
        """File and document, such as "cluster.yaml, document 3"."""
        self.subject = subject
        """Kind and name, such as "Service default/simpleservice"."""
        self.reason = reason
        self.path = path
        """The field, such as "spec.ports[0].port"; empty when the object as a whole is meant."""

    def __str__(self) -> str:
        field = f"{self.path}: " if self.path else ""
        return f"{self.origin}: {self.subject}: {field}{self.reason}"
