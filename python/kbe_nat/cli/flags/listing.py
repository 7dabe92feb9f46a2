"""The flags of listings, as kubectl has them: what is listed, and how it is written."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from kbe_nat.cli.flags.flag import Flag
from kbe_nat.cli.flags.parameters import Flags, TextFlag
from kbe_nat.cli.jsonpath import Path, Template, parse_path
from kbe_nat.spelling import none_of


@dataclass(frozen=True)
class Output:
    """How a result is written."""

    form: str = "text"
    """text, wide, yaml, json, name or jsonpath."""
    template: Template | None = None
    """Of jsonpath."""

    @property
    def is_table(self) -> bool:
        """Whether it is for people."""
        return self.form in ("text", "wide")

    @property
    def is_document(self) -> bool:
        """Whether it is the JSON of a result, in one of its forms."""
        return self.form in ("json", "yaml", "jsonpath")

    @property
    def is_object(self) -> bool:
        """Whether a thing that is alone is the document, and no list of one."""
        is_list = self.template is not None and self.template.is_of_list
        return self.is_document and not is_list


TEXT: Final = Output()


def parse_output(text: str, forms: Sequence[str]) -> Output:
    """The value of -o, one of the forms or a template. Raises ValueError."""
    form, _, template = text.partition("=")
    if form == "jsonpath":
        if not template:
            raise ValueError("jsonpath needs a template, such as jsonpath='{.items[*].name}'")
        return Output(form, Template(template))
    if text not in forms:
        raise ValueError(none_of(text, (*forms, "jsonpath=TEMPLATE")))
    return Output(form)


@dataclass(frozen=True)
class ListingSettings:
    """How a list is written."""

    output: Output = TEXT
    no_headers: bool = False
    sort_by: Path | None = None
    is_watched: bool = False
    shows_events: bool = False
    """Each change has its word: ADDED, MODIFIED or DELETED."""
    shows_labels: bool = False
    ignores_missing: bool = False
    """A name of nothing is no error."""


@dataclass(frozen=True)
class SelectionSettings:
    """Services that are meant."""

    namespace: str = ""
    is_everywhere: bool = False
    selector: str = ""


@dataclass(frozen=True)
class DocumentSettings:
    """How a result is written that is no list of objects."""

    output: Output = TEXT


FORMS: Final = ("text", "wide", "yaml", "json", "name")


def output_flag(*forms: str) -> TextFlag:
    """The flag of a verb whose result is written in these forms, or by a template."""
    flag = Flag(
        "--output",
        "-o",
        metavar="FORM",
        help=f"How the result is written: {', '.join(forms)} or jsonpath=TEMPLATE. Default: text.",
        words=(*forms, "jsonpath="),
    )
    return TextFlag(flag, partial(parse_output, forms=forms))


DOCUMENT_FLAGS: Final[Flags] = {"output": output_flag("text", "yaml", "json")}
WATCH_FLAG: Final = Flag("--watch", "-w", help="Then show what changes, row by row, until Ctrl-C.")
LISTING_FLAGS: Final[Flags] = {
    "output": output_flag(*FORMS),
    "no_headers": Flag("--no-headers", help="Print no names of columns."),
    "sort_by": TextFlag(
        Flag(
            "--sort-by",
            metavar="FIELD",
            help="Field of the JSON that rows are sorted by, such as .active or {.backend}.",
        ),
        parse_path,
    ),
    "is_watched": WATCH_FLAG,
    "shows_events": Flag(
        "--output-watch-events", help="With -w: say whether a row is ADDED, MODIFIED or DELETED."
    ),
    "shows_labels": Flag("--show-labels", help="Labels of Services, as the last column."),
    "ignores_missing": Flag("--ignore-not-found", help="A name of nothing is no error."),
}
NAMESPACE_FLAG: Final = Flag(
    "--namespace",
    "-n",
    help="Namespace of what is meant. Default: all; default for a NAME.",
    names_of="namespaces",
)
SELECTION_FLAGS: Final[Flags] = {
    "namespace": NAMESPACE_FLAG,
    "is_everywhere": Flag("--all-namespaces", "-A", help="Of all namespaces."),
    "selector": Flag(
        "--selector", "-l", help="Labels of the Services, such as app=web,tier!=test."
    ),
}
