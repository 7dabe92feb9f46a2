"""`kbe-nat version`: of this command, and of the daemon that runs here."""

from kbe_nat import __version__
from kbe_nat.cli.flags.listing import DOCUMENT_FLAGS, DocumentSettings
from kbe_nat.cli.flags.options import Socket
from kbe_nat.cli.output import show_document
from kbe_nat.cli.verb import verb
from kbe_nat.client import DEFAULT_SOCKET, ask
from kbe_nat.daemon.rows import StatusRow, VersionRow
from kbe_nat.errors import ControlError


@verb(document=DOCUMENT_FLAGS)
def version(
    *,
    document: DocumentSettings,
    socket: Socket = DEFAULT_SOCKET,
) -> None:
    """Print the version of this command, and that of the running daemon if there is one.

    Examples:
      kbe-nat version
      kbe-nat version -o json
    """
    try:
        (status,) = ask(socket, "status", StatusRow)
        row = VersionRow(__version__, status.version)
    except ControlError:
        row = VersionRow(__version__, None)
    if document.output.is_document:
        show_document(row, document.output)
        return
    print(f"kbe-nat {row.client}")
    print(f"daemon  {row.daemon or 'none answers'}")
