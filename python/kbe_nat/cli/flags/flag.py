"""A verb's description of one parameter of its command line; type and default stand beside it."""

from dataclasses import dataclass
from typing import Any


class Flag:
    """A flag, as in `Annotated[int, Flag("--limit", "-n", min=1, help="Rows, at most.")]`.

    Without names it has that of the parameter. `--strict/--lenient` are two spellings of one truth
    value.
    """

    __slots__ = (
        "envvar",
        "help",
        "is_counted",
        "is_duration",
        "max",
        "metavar",
        "min",
        "names",
        "names_of",
        "words",
    )

    def __init__(
        self,
        *names: str,
        help: str = "",
        metavar: str = "",
        min: float | None = None,
        max: float | None = None,
        envvar: str | None = None,
        is_counted: bool = False,
        is_duration: bool = False,
        words: tuple[str, ...] = (),
        names_of: str = "",
    ) -> None:
        self.names = names
        self.help = help
        self.metavar = metavar
        """What stands for its value in the help; empty: by its type, or the last word of its
        name.
        """
        self.min = min
        self.max = max
        self.envvar = envvar
        self.is_counted = is_counted
        """It may be written several times, and its value is how often."""
        self.is_duration = is_duration
        """Its value is written as a duration, and is seconds."""
        self.words = words
        """That a shell offers for its value; others may stand there, too."""
        self.names_of = names_of
        """The kind of names that a shell offers, see `kbe_nat.cli_names`."""


@dataclass(frozen=True, slots=True)
class Argument:
    """A word of the command line that stands without a flag."""

    help: str = ""
    metavar: str = ""
    """What stands for it in the help; empty: the parameter's name."""
    type: Any = None
    """click's type that reads it; None: by the parameter's annotation."""
