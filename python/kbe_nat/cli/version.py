"""`kbe-nat version`: of this command, and of the daemon that runs here."""

from kbe_nat import __version__
from kbe_nat.cli.flags.options import Format, OutputFormat, Socket
from kbe_nat.cli.output import show_document
from kbe_nat.cli.verb import verb
from kbe_nat.client import DEFAULT_SOCKET, ask
from kbe_nat.daemon.rows import StatusRow, VersionRow
from kbe_nat.errors import ControlError


@verb()
def version(
    *,
    output: OutputFormat = Format.TEXT,
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
    if output is Format.JSON:
        show_document(row)
        return
    print(f"kbe-nat {row.client}")
    print(f"daemon  {row.daemon or 'none answers'}")
