"""Asks a running daemon at its control socket, whose protocol `kbe_nat.daemon.control_socket` has.

Results are decoded into the type that the caller names, a struct of `kbe_nat.daemon.rows` or a
plain one: a peer that answers otherwise is no daemon of ours.
"""

import json
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from kbe_nat.errors import ControlError, NotFoundError

_T = TypeVar("_T")


def ask(path: Path, verb: str, result: type[_T], /, **parameters: object) -> Iterator[_T]:
    """The results of a request, as they come. Raises `ControlError` when no daemon answers, a
    result takes too long (`ANSWER_SECONDS`, for work on everything that is served `WORK_SECONDS`),
    or with the daemon's error; `NotFoundError` for names of nothing, behind what the others have.
    """
    patience = WORK_SECONDS if verb in WORK else ANSWER_SECONDS
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connect(connection, path, ANSWER_SECONDS)
            connection.settimeout(patience)
            # A client that is refused at once may find the socket closed: the answer says why.
            with suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(encode_line({"verb": verb, **parameters}))
            for line in _lines(connection, patience):
                answer = json.loads(line)
                if "kind" in answer:
                    raise NotFoundError(str(answer["kind"]), *map(str, answer["names"]))
                if "error" in answer:
                    raise ControlError(str(answer["error"]))
                if "end" in answer:
                    return
                yield msgspec.convert(answer["result"], result)
            raise ConnectionResetError
        except ConnectionResetError:
            raise ControlError(f"{path}: the daemon ended before it had answered") from None
        except (FileNotFoundError, ConnectionRefusedError):
            raise ControlError(
                f"{path}: no daemon answers here: start kbe-nat proxy, or name the socket of one by"
                " --socket"
            ) from None
        except (TimeoutError, BlockingIOError):
            seconds = f"{patience:.0f} s"
            raise ControlError(
                f"{path}: somebody listens here, but has not answered for {seconds}"
            ) from None
        except PermissionError:
            raise ControlError(f"{path}: only root and the daemon's own user may ask") from None
        except OSError as error:
            raise ControlError(f"{path}: {error.strerror or error}") from None
        except (ValueError, TypeError, KeyError, RecursionError):
            raise ControlError(f"{path}: what answers here is no kbe-nat") from None


def ask_rows(path: Path, verb: str, row: type[_T], /, **parameters: object) -> Iterator[_T]:
    """The rows of a list, one after the other as its pages come. Raises as `ask`."""
    for page in ask(path, verb, list[row], **parameters):  # type: ignore[valid-type]
        yield from page


def connect(connection: socket.socket, path: Path, seconds: float) -> None:
    """Connects. The kernel waits for a place in the backlog: a socket with a time limit of Python's
    would fail at once when there is none. Raises BlockingIOError after so long, OSError.
    """
    patience = struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, patience)
    connection.connect(str(path))
    connection.settimeout(seconds)


def encode_line(message: dict[str, Any]) -> bytes:
    """A message as it travels, in either direction. Names of files and devices may have bytes that
    are no UTF-8: of the two encoders only that of the standard library escapes them.
    """
    return json.dumps(msgspec.to_builtins(message)).encode() + b"\n"


def _lines(connection: socket.socket, patience: float) -> Iterator[bytes]:
    """The received lines. Raises TimeoutError when a line takes longer than `patience`
    seconds, though a byte comes now and then; ValueError when it is too long.
    """
    buffer = bytearray()
    deadline = time.monotonic() + patience
    while content := connection.recv(1 << 18):
        searched = len(buffer)
        buffer += content
        while (end := buffer.find(b"\n", searched)) >= 0:
            line, searched = bytes(buffer[:end]), 0
            del buffer[: end + 1]
            yield line
            deadline = time.monotonic() + patience
        if len(buffer) > MAX_ANSWER:
            raise ValueError
        connection.settimeout(max(0.001, deadline - time.monotonic()))


DEFAULT_SOCKET: Final = Path("/run/kbe-nat/control.sock")
ANSWER_SECONDS: Final = 10.0
WORK_SECONDS: Final = 25.0
"""Seconds that a client waits for each result."""
WORK: Final = ("dump", "rules", "strategy", "drain", "undrain", "delete", "flush")
"""Verbs that take a while on a large cluster."""
MAX_ANSWER: Final = 1 << 28
"""Bytes of a result: the rules of a very large cluster are a tenth of it."""
