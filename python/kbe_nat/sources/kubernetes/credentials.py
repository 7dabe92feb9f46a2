"""The credentials of requests: bearer tokens, client certificates and the TLS context.

Files may change at any time: kubelet rotates tokens, cert-manager certificates. So each request
looks at the signatures of the files, and reads those that have changed. A plugin of its own
(`plugins`) may give token and certificate in their place.
"""

import ssl
import tempfile
from contextlib import ExitStack
from pathlib import Path

from kbe_nat.sources.kubernetes.access import Access, Pem, is_token
from kbe_nat.sources.kubernetes.connection import CredentialFailure
from kbe_nat.sources.kubernetes.plugins import Plugin


class Credentials:
    """The credentials of one access. For one event loop."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._token_signature: tuple[int, ...] = ()
        self._token = access.token
        self._context: ssl.SSLContext | None = None
        self._context_signature: object = None
        self._plugin = Plugin(access.plugin, access) if access.plugin else None

    def renew(self) -> None:
        """The server refused them: all are read, and the plugin runs, at the next request."""
        if self._plugin is not None:
            self._plugin.drop()
        self._token_signature = ()
        self._context_signature = None

    async def headers(self) -> dict[str, str]:
        """The header that says who asks, or none. Raises `CredentialFailure`."""
        token = await self._plugin.token() if self._plugin is not None else ""
        token = token or self._read_token()
        return {"Authorization": f"Bearer {token}"} if token else {}

    def context(self) -> ssl.SSLContext | bool:
        """How TLS is spoken, after `headers`. Raises `CredentialFailure`."""
        access = self._access
        plugin_credentials = self._plugin.issued if self._plugin is not None else None
        certificate, key = access.certificate, access.key
        if plugin_credentials is not None and plugin_credentials.certificate:
            certificate, key = Pem(plugin_credentials.certificate), Pem(plugin_credentials.key)
        files = (access.authority.path, certificate.path, key.path)
        signature = (
            *map(_file_signature, files),
            plugin_credentials and plugin_credentials.certificate,
        )
        if self._context is None or signature != self._context_signature:
            try:
                self._context = _context(access, certificate, key)
            except (OSError, ValueError) as error:
                # ssl's errors are OSErrors, and do not say the file.
                names = ", ".join(str(file) for file in files if file) or "its data"
                reason = getattr(error, "reason", None) or getattr(error, "strerror", None)
                raise CredentialFailure(
                    f"certificates cannot be used: {names}: {reason or error}"
                ) from None
            self._context_signature = signature
        return self._context

    def _read_token(self) -> str:
        path = self._access.token_file
        if path is None:
            return self._access.token
        signature = _file_signature(path)
        if signature != self._token_signature or not signature:
            try:
                token = path.read_text().strip()
            except (OSError, UnicodeError) as error:
                reason = getattr(error, "strerror", None) or "it is no text"
                raise CredentialFailure(f"{path}: {reason}") from None
            if not token or not is_token(token):
                raise CredentialFailure(f"{path}: it has no token")
            self._token, self._token_signature = token, signature
        return self._token


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
            certificate_path, key_path = _pem_path(stack, certificate), _pem_path(stack, key)
            # Without a terminal a key with a password would wait for one for ever.
            context.load_cert_chain(certificate_path, key_path, password=_no_password)
    return context


def _pem_path(stack: ExitStack, pem: Pem) -> str:
    if pem.path is not None:
        return str(pem.path)
    file = stack.enter_context(tempfile.NamedTemporaryFile())  # noqa: SIM115
    file.write(pem.data)
    file.flush()
    return file.name


def _no_password() -> str:
    raise ValueError("the key has a password")


def _file_signature(path: Path | None) -> tuple[int, ...]:
    """Tells a file's content apart from its earlier one; empty where there is none."""
    if path is None:
        return ()
    try:
        status = path.stat()
    except OSError:
        return ()
    return status.st_ino, status.st_mtime_ns, status.st_size
