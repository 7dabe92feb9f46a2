"""`kbe-nat doctor`: whether the node proxy can run on this machine, and what it lacks."""

from click.exceptions import Exit

from kbe_nat.cli.flags.listing import DOCUMENT_FLAGS, DocumentSettings
from kbe_nat.cli.flags.options import Socket
from kbe_nat.cli.output import show, show_rows, table
from kbe_nat.cli.verb import verb
from kbe_nat.client import DEFAULT_SOCKET
from kbe_nat.doctor import State, diagnose


@verb(document=DOCUMENT_FLAGS)
def doctor(document: DocumentSettings, socket: Socket = DEFAULT_SOCKET) -> None:
    """Say whether this kernel, its settings and our privileges allow serving, and suggest fixes.

    Ends with 1 when the proxy cannot run here. Nothing stays changed.

    Examples:
      kbe-nat doctor
      kbe-nat doctor -o json
    """
    checks = list(diagnose(socket))
    if document.output.is_document:
        show_rows(checks, "Check", document.output)
    else:
        rows = table("", "check", "state", "found, and what to do", is_wrapped=True)
        for check in checks:
            texts = filter(None, (check.finding, check.remedy))
            rows.add_row(check.name, check.state, "; ".join(texts))
        show(rows)
    if any(check.state is State.FAILED for check in checks):
        raise Exit(1)
