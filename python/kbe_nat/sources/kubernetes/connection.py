"""Requests to the API server, as a reflector makes them."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from kbe_nat.errors import KbeNatError


class ConnectionFailure(KbeNatError):
    """The server cannot be reached, or the connection broke; `is_refused` when nothing listens."""

    def __init__(self, reason: str, *, is_refused: bool = False) -> None:
        super().__init__(reason)
        self.is_refused = is_refused


class CredentialFailure(KbeNatError):
    """A token file, a certificate or an exec plugin cannot be used now."""


class Response(Protocol):
    """An answer whose head has come."""

    status: int
    headers: Mapping[str, str]
    """Without regard to case."""

    def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes, decompressed. Raises `ConnectionFailure` when it is cut."""
        ...


class Connection(Protocol):
    """The API server of a cluster. For one event loop."""

    def get(
        self, path: str, parameters: Mapping[str, str], accept: str
    ) -> AbstractAsyncContextManager[Response]:
        """A GET request. Raises `ConnectionFailure`, `CredentialFailure`."""
        ...

    def post(self, path: str, body: bytes) -> AbstractAsyncContextManager[Response]:
        """A POST request with JSON, which asks for JSON. Raises as `get`."""
        ...

    def renew_credentials(self) -> None:
        """The server did not accept the credentials: read them again at the next request."""
        ...

    async def close(self) -> None:
        """End all connections."""
        ...
