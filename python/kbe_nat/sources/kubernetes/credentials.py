"""The credentials of requests: bearer tokens, client certificates and the TLS context.

Files may change at any time: kubelet rotates tokens, cert-manager certificates. So each request
looks at the stamps of the files, and reads those that are others. A plugin is run when there is no
credential yet, its time is over, or the server refused it.
"""

import asyncio
import json
import os
import ssl
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct, field

from kbe_nat.sources.kubernetes.access import Access, Exec, Pem
from kbe_nat.sources.kubernetes.connection import CredentialFailure


@dataclass(frozen=True, slots=True)
class _Issued:
    """Credentials from a plugin."""

    token: str = ""
    certificate: bytes = b""
    key: bytes = b""
    expires: float | None = None
    """Seconds since 1970; None: never."""


class Credentials:
    """The credentials of one access. For one event loop."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._token_stamp: tuple[int, ...] = ()
        self._token = access.token
        self._context: ssl.SSLContext | None = None
        self._context_stamp: object = None
        self._issued: _Issued | None = None

    def renew(self) -> None:
        """The server refused them: all are read, and the plugin runs, at the next request."""
        self._issued = None
        self._token_stamp = ()
        self._context_stamp = None

    async def headers(self) -> dict[str, str]:
        """The header that says who asks, or none. Raises `CredentialFailure`."""
        if self._access.plugin is not None:
            await self._run_plugin(self._access.plugin)
        token = self._issued.token if self._issued and self._issued.token else self._read_token()
        return {"Authorization": f"Bearer {token}"} if token else {}

    def context(self) -> ssl.SSLContext | bool:
        """How TLS is spoken, after `headers`. Raises `CredentialFailure`."""
        access, issued = self._access, self._issued
        certificate, key = access.certificate, access.key
        if issued is not None and issued.certificate:
            certificate, key = Pem(issued.certificate), Pem(issued.key)
        files = (access.authority.path, certificate.path, key.path)
        stamp = (*map(_stamp, files), issued and issued.certificate)
        if self._context is None or stamp != self._context_stamp:
            try:
                self._context = _context(access, certificate, key)
            except (OSError, ValueError) as error:
                # ssl's errors are OSErrors.
                raise CredentialFailure(f"certificates cannot be used: {error}") from None
            self._context_stamp = stamp
        return self._context

    def _read_token(self) -> str:
        path = self._access.token_file
        if path is None:
            return self._access.token
        stamp = _stamp(path)
        if stamp != self._token_stamp or not stamp:
            try:
                token = path.read_text().strip()
            except (OSError, UnicodeError) as error:
                reason = getattr(error, "strerror", None) or "it is no text"
                raise CredentialFailure(f"{path}: {reason}") from None
            if not token or not token.isascii() or not token.isprintable():
                raise CredentialFailure(f"{path}: it has no token")
            self._token, self._token_stamp = token, stamp
        return self._token

    async def _run_plugin(self, plugin: Exec) -> None:
        issued = self._issued
        if issued and (issued.expires is None or time.time() < issued.expires - EARLY_SECONDS):
            return
        self._issued = await _credential(plugin, self._access)


async def _credential(plugin: Exec, access: Access) -> _Issued:
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
    pipe = asyncio.subprocess.PIPE
    try:
        process = await asyncio.create_subprocess_exec(
            plugin.command,
            *plugin.arguments,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=pipe,
            stderr=pipe,
        )
    except OSError as error:
        hint = f"; {' '.join(plugin.hint.split())}" if plugin.hint else ""
        raise CredentialFailure(f"{plugin.command}: {error.strerror}{hint}") from None
    try:
        async with asyncio.timeout(PLUGIN_SECONDS):
            output, complaint = await process.communicate()
    except TimeoutError:
        raise CredentialFailure(f"{plugin.command}: no answer in {PLUGIN_SECONDS:.0f} s") from None
    finally:
        if process.returncode is None:
            process.kill()
    if process.returncode:
        words = " ".join(complaint.decode(errors="replace").split())[-200:]
        raise CredentialFailure(f"{plugin.command}: it ended with {process.returncode}: {words}")
    return _parse(output, plugin)


def _cluster_info(access: Access) -> dict[str, object]:
    info: dict[str, object] = {"server": access.server}
    if access.is_insecure:
        info["insecure-skip-tls-verify"] = True
    if access.server_name:
        info["tls-server-name"] = access.server_name
    authority = access.authority
    data = authority.path.read_bytes() if authority.path else authority.data
    if data:
        info["certificate-authority-data"] = msgspec.to_builtins(data)
    return info


def _parse(output: bytes, plugin: Exec) -> _Issued:
    try:
        credential = CREDENTIAL.decode(output)
        if credential.version != plugin.version:
            raise ValueError(f"apiVersion: {credential.version!r} is not {plugin.version}")
        status = credential.status
        expires = None
        if status.expires:
            expires = datetime.fromisoformat(status.expires).timestamp()
    except (msgspec.MsgspecError, ValueError) as error:
        raise CredentialFailure(f"{plugin.command}: it gave no ExecCredential: {error}") from None
    if not status.token and not status.certificate:
        raise CredentialFailure(f"{plugin.command}: it gave neither a token nor a certificate")
    return _Issued(status.token, status.certificate.encode(), status.key.encode(), expires)


def _context(access: Access, certificate: Pem, key: Pem) -> ssl.SSLContext:
    """Raises OSError, ValueError."""
    authority = access.authority
    context = ssl.create_default_context(
        cafile=str(authority.path) if authority.path else None,
        cadata=authority.data.decode() if authority.data else None,
    )
    if access.is_insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if certificate:
        with ExitStack() as stack:
            # OpenSSL's loader takes files only. They are readable to us alone, and gone at once.
            chain, secret = _file(stack, certificate), _file(stack, key)
            # Without a terminal a key with a password would wait for one for ever.
            context.load_cert_chain(chain, secret, password=_no_password)
    return context


def _file(stack: ExitStack, pem: Pem) -> str:
    if pem.path is not None:
        return str(pem.path)
    file = stack.enter_context(tempfile.NamedTemporaryFile())  # noqa: SIM115
    file.write(pem.data)
    file.flush()
    return file.name


def _no_password() -> str:
    raise ValueError("the key has a password")


def _stamp(path: Path | None) -> tuple[int, ...]:
    """Tells a file's content apart from its earlier one; empty where there is none."""
    if path is None:
        return ()
    try:
        status = path.stat()
    except OSError:
        return ()
    return status.st_ino, status.st_mtime_ns, status.st_size


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
