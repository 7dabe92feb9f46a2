"""Credential plugins of a kubeconfig: programs that print an ExecCredential.

A plugin runs when there is no credential yet, its time is over, or the server refused it; one run
serves all requests that wait, and goes on when one of them is given up. What it says is not
trusted: its output has a limit, a run has a time, and what it leaves behind when that is over is
ended with it.
"""

import asyncio
import json
import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import msgspec
from msgspec import Struct, field

from kbe_nat.sources.kubernetes.access import Access, Exec, is_token
from kbe_nat.sources.kubernetes.connection import CredentialFailure


@dataclass(frozen=True, slots=True)
class Issued:
    """Credentials from a plugin."""

    token: str = ""
    certificate: bytes = b""
    key: bytes = b""
    expires: float | None = None
    """Seconds since 1970; None: never."""

    @property
    def is_over(self) -> bool:
        """Whether it is time for another one."""
        return self.expires is not None and time.time() >= self.expires - EARLY_SECONDS


class Plugin:
    """One plugin of one access. For one event loop."""

    def __init__(self, plugin: Exec, access: Access) -> None:
        self._plugin = plugin
        self._access = access
        self._running: asyncio.Task[Issued] | None = None
        self.issued: Issued | None = None
        """The last credential; None when the next request needs another one."""

    def drop(self) -> None:
        """The server refused the credential."""
        self.issued = None

    async def token(self) -> str:
        """The token of a credential that holds, which may have none but a certificate. Raises
        `CredentialFailure`.
        """
        if self.issued is None or self.issued.is_over:
            if self._running is None:
                self._running = asyncio.create_task(_credential(self._plugin, self._access))
                self._running.add_done_callback(self._take)
            self.issued = await asyncio.shield(self._running)
        return self.issued.token

    def _take(self, run: "asyncio.Task[Issued]") -> None:
        self._running = None
        # Taken also when no request waits for it any more.
        if not run.cancelled() and run.exception() is None:
            self.issued = run.result()


async def _credential(plugin: Exec, access: Access) -> Issued:
    """Run a plugin. Raises `CredentialFailure`."""
    info: dict[str, object] = {"interactive": False}
    if plugin.has_cluster_info:
        info["cluster"] = _cluster_info(access)
    request = {"apiVersion": plugin.version, "kind": "ExecCredential", "spec": info}
    environment = {
        **os.environ,
        **dict(plugin.environment),
        "KUBERNETES_EXEC_INFO": json.dumps(request),
    }
    return _parse(await _output(plugin, environment), plugin)


async def _output(plugin: Exec, environment: dict[str, str]) -> bytes:
    """What it prints. Raises `CredentialFailure`."""
    pipe = asyncio.subprocess.PIPE
    try:
        process = await asyncio.create_subprocess_exec(
            plugin.command,
            *plugin.arguments,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=pipe,
            stderr=pipe,
            # With a group of its own what it starts can be ended with it.
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        # A ValueError is a NUL in a word, or a variable whose name has "=".
        hint = f"; {' '.join(plugin.hint.split())}" if plugin.hint else ""
        reason = getattr(error, "strerror", None) or error
        raise CredentialFailure(f"{plugin.command}: {reason}{hint}") from None
    assert process.stdout is not None and process.stderr is not None
    is_over = False
    try:
        async with asyncio.timeout(PLUGIN_SECONDS):
            output, complaint = await asyncio.gather(
                _first(process.stdout, MAX_OUTPUT, plugin), _last(process.stderr)
            )
            status = await process.wait()
        is_over = True
    except TimeoutError:
        raise CredentialFailure(f"{plugin.command}: no answer in {PLUGIN_SECONDS:.0f} s") from None
    finally:
        if not is_over:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    if status:
        text = " ".join(complaint.decode(errors="replace").split())
        # The end tells most; it begins with a whole word.
        words = text if len(text) <= 200 else text[-200:].partition(" ")[2] or text[-200:]
        reason = f": {words}" if words else ", and said nothing"
        raise CredentialFailure(f"{plugin.command}: it ended with {status}{reason}")
    return output


async def _first(stream: asyncio.StreamReader, limit: int, plugin: Exec) -> bytes:
    """All that is printed. Raises `CredentialFailure` for more than the limit."""
    output = bytearray()
    while chunk := await stream.read(READ_BYTES):
        output += chunk
        if len(output) > limit:
            raise CredentialFailure(f"{plugin.command}: it prints more than {limit} bytes")
    return bytes(output)


async def _last(stream: asyncio.StreamReader) -> bytes:
    """The end of what is printed; the rest is read and forgotten."""
    output = b""
    while chunk := await stream.read(READ_BYTES):
        output = (output + chunk)[-COMPLAINT_BYTES:]
    return output


def _cluster_info(access: Access) -> dict[str, object]:
    """Raises `CredentialFailure`."""
    info: dict[str, object] = {"server": access.server}
    if access.is_insecure:
        info["insecure-skip-tls-verify"] = True
    if access.server_name:
        info["tls-server-name"] = access.server_name
    if access.proxy:
        info["proxy-url"] = access.proxy
    authority = access.authority
    try:
        data = authority.path.read_bytes() if authority.path else authority.data
    except OSError as error:
        raise CredentialFailure(f"{authority.path}: {error.strerror}") from None
    if data:
        info["certificate-authority-data"] = msgspec.to_builtins(data)
    return info


def _parse(output: bytes, plugin: Exec) -> Issued:
    try:
        credential = CREDENTIAL.decode(output)
        if credential.version != plugin.version:
            raise ValueError(f"apiVersion: {credential.version!r} is not {plugin.version}")
        status = credential.status
        expires = None
        if status.expires:
            expires = datetime.fromisoformat(status.expires).timestamp()
    except (msgspec.MsgspecError, ValueError, ArithmeticError, RecursionError) as error:
        raise CredentialFailure(f"{plugin.command}: it gave no ExecCredential: {error}") from None
    if not status.token and not status.certificate:
        raise CredentialFailure(f"{plugin.command}: it gave neither a token nor a certificate")
    if not is_token(status.token):
        raise CredentialFailure(f"{plugin.command}: its token has characters that no token has")
    return Issued(status.token, status.certificate.encode(), status.key.encode(), expires)


class _Status(Struct):
    """`status` of an ExecCredential."""

    token: str = ""
    certificate: str = field(name="clientCertificateData", default="")
    key: str = field(name="clientKeyData", default="")
    expires: str = field(name="expirationTimestamp", default="")


class _Credential(Struct):
    """An ExecCredential."""

    status: _Status
    version: str = field(name="apiVersion", default="")


CREDENTIAL: Final = msgspec.json.Decoder(_Credential)
PLUGIN_SECONDS: Final = 60.0
EARLY_SECONDS: Final = 10.0
"""So long before its end a credential is renewed."""
MAX_OUTPUT: Final = 1 << 20
COMPLAINT_BYTES: Final = 4096
READ_BYTES: Final = 1 << 16
