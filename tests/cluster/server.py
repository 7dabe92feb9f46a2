"""The test API server over TLS, in a thread: it starts, is killed, and comes back at its port."""

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import trustme
import yaml
from aiohttp import web

from cluster.answers import ApiServer, Cut, Request

_T = TypeVar("_T")


@dataclass
class Certificates:
    """A CA, and what it has issued."""

    authority: trustme.CA = field(default_factory=trustme.CA)

    def server_context(
        self, name: str = "127.0.0.1", *, is_expired: bool = False, asks_client: bool = True
    ) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        now = datetime.now(UTC)
        age = timedelta(days=2)
        end = now - timedelta(days=1) if is_expired else now + timedelta(days=1)
        issued = self.authority.issue_cert(name, not_before=now - age, not_after=end)
        issued.configure_cert(context)
        if asks_client:
            # As the API server: any certificate passes TLS, a wrong one ends as 401.
            self.authority.configure_trust(context)
            context.verify_mode = ssl.CERT_OPTIONAL
        return context

    @property
    def pem(self) -> bytes:
        return self.authority.cert_pem.bytes()


class LiveServer:
    """An `ApiServer` that listens."""

    def __init__(
        self,
        api: ApiServer | None = None,
        certificates: Certificates | None = None,
        run_in: Callable[[Callable[[], _T]], _T] | None = None,
        address: str = "127.0.0.1",
    ) -> None:
        """`run_in` makes the sockets, in a network namespace perhaps."""
        self.api = api or ApiServer()
        self.certificates = certificates or Certificates()
        self.context = self.certificates.server_context(address)
        self.port = 0
        self.first_good = 0.0
        """When the first 200 since the start went out, in seconds since 1970; 0: none has."""
        self.starting_seconds = 0.0
        """For so long after a start everyone is refused."""
        self.ahead = timedelta()
        """How far its clock is ahead where it looks at clients' certificates."""
        self._address = address
        self._make: Any = run_in or (lambda make: make())
        self._loop = asyncio.new_event_loop()
        self._runner: web.AppRunner | None = None
        self._transports: set[asyncio.BaseTransport] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        host = f"[{self._address}]" if ":" in self._address else self._address
        return f"https://{host}:{self.port}"

    def start(self) -> None:
        self._call(self._start())

    def kill(self) -> None:
        """Every connection breaks without a word, and nothing listens."""
        self._call(self._kill())

    def close(self) -> None:
        with suppress(Exception):
            self.kill()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    def __enter__(self) -> "LiveServer":
        self.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def kubeconfig(self, path: Path, user: Mapping[str, Any] | None = None, **cluster: Any) -> Path:
        """Writes one, with these fields of the user and the cluster."""
        authority = path.with_suffix(".ca")
        authority.write_bytes(self.certificates.pem)
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [
                {
                    "name": "c",
                    "cluster": {
                        "server": self.url,
                        "certificate-authority": authority.name,
                        **cluster,
                    },
                }
            ],
            "users": [{"name": "u", "user": dict(user or {"token": "sound"})}],
        }
        path.write_text(yaml.safe_dump(document))
        return path

    def _call(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    async def _start(self) -> None:
        self.first_good = 0.0
        app = web.Application()
        app.router.add_get("/{path:.*}", self._handle)
        app.router.add_post("/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
        await self._runner.setup()
        listener = self._make(partial(_listen, self._address, self.port))
        self.port = listener.getsockname()[1]
        await web.SockSite(self._runner, listener, ssl_context=self.context).start()
        if self.starting_seconds:
            before = self.api.forbidden
            self.api.forbidden = before | {
                (verb, resource)
                for verb in ("list", "watch")
                for resource in self.api.objects.stored
            }
            self._loop.call_later(self.starting_seconds, setattr, self.api, "forbidden", before)

    async def _kill(self) -> None:
        runner, self._runner = self._runner, None
        if runner is None:
            return
        for site in list(runner.sites):
            await site.stop()
        for transport in list(self._transports):
            transport.abort()  # type: ignore[attr-defined]
        await asyncio.wait_for(runner.cleanup(), 5)
        self.api.objects.restart()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        transport = request.transport
        assert transport is not None
        self._transports.add(transport)
        headers = dict(request.headers)
        if _common_name(transport, datetime.now(UTC) + self.ahead) == "system:kube-proxy":
            headers.setdefault("Authorization", "Bearer sound")
        answer = await self.api.answer(
            Request(
                f"/{request.match_info['path']}",
                dict(request.query),
                headers,
                request.method,
                await request.read(),
            )
        )
        response = web.StreamResponse(status=answer.status, headers=answer.headers)
        body = answer.body
        assert body is not None
        if "gzip" in request.headers.get("Accept-Encoding", "") and "watch" not in request.query:
            response.enable_compression(web.ContentCoding.gzip)
        else:
            response.enable_chunked_encoding()
        try:
            await response.prepare(request)
            if answer.status == 200:
                self.first_good = self.first_good or time.time()
            async for chunk in body:
                if chunk:
                    await response.write(chunk)
            await response.write_eof()
        except Cut:
            transport.abort()
        except ConnectionError:
            pass
        finally:
            self._transports.discard(transport)
        return response


def _listen(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((address, port))
    listener.listen(128)
    return listener


def _common_name(transport: asyncio.BaseTransport, now: datetime) -> str:
    """Of a client's certificate that has not ended. One that has is no certificate: as at a real
    server the end of that is 401, not a failure of TLS.
    """
    certificate = transport.get_extra_info("peercert") or {}
    if not certificate or ssl.cert_time_to_seconds(certificate["notAfter"]) < now.timestamp():
        return ""
    names = [value for part in certificate.get("subject", ()) for _, value in part]
    return names[-1] if names else ""
