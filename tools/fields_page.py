"""Write docs/configuration-fields.md: what becomes of each field of the configuration file when it
changes while the daemon runs.

`--check` writes nothing, and ends with 1 if the page is not up to date.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
from written import write

from kbe_nat.cli.flags.own_options import own_options
from kbe_nat.daemon.live_fields import LIVE, RESTART, WITH_API_SERVER, is_within
from kbe_nat.kubeproxy.config import Configuration
from kbe_nat.kubeproxy.inapplicable import INAPPLICABLE

PAGE: Final = Path(__file__).parents[1] / "docs/configuration-fields.md"
HEAD: Final = """# Fields of the configuration file

What becomes of a field that changes while the daemon runs ([configuration.md](configuration.md)).
`tools/fields_page.py` writes this page.

- **live**: the change is in force without a restart, when the third column says.
- **restart**: the log names the field with the reason in the third column.
- **none**: the field has no effect here, for that reason.
"""


def page() -> str:
    """The page."""
    fields = msgspec.structs.fields(Configuration)
    names = [path for field in fields for path in paths(field.encode_name, field.type)]
    options = [f"kbeNat.{option.key}" for option in own_options()]
    lines = [HEAD, "## Fields of kube-proxy", "", *TABLE, *map(row, names)]
    lines += ["", "## Options of kbe-nat", "", *TABLE, *map(row, options)]
    return "\n".join(lines) + "\n"


def paths(name: str, kind: object) -> Iterator[str]:
    """The fields of a section, or the field itself; a section of one decision stands for all."""
    if name == "kbeNat":
        return
    is_decided = is_within(name, (*LIVE, *RESTART, *INAPPLICABLE))
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and not is_decided:
        for field in msgspec.structs.fields(kind):
            yield from paths(f"{name}.{field.encode_name}", field.type)
    else:
        yield name


def row(path: str) -> str:
    """One line of a table."""
    for what, table in (("live", LIVE), ("restart", RESTART), ("none", INAPPLICABLE)):
        for place, text in table.items():
            if is_within(path, (place,)):
                reason = WITH_API_SERVER.get(path)
                beside = f"; with an API server a restart: {reason}" if reason else ""
                return f"| `{path}` | {what} | {text}{beside} |"
    raise SystemExit(f"{path}: nothing says what its change does")


TABLE: Final = ("| field | change | when, or why not |", "|---|---|---|")


if __name__ == "__main__":
    sys.exit(write(PAGE, page(), __doc__))
