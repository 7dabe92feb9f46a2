"""The node's servers over HTTP: health for load balancers and kubelets, pages for operators.

The two have a thread each. Health is asked for from the network, by programs that restart nodes or
take them away, so its answers must come whatever is done on the other pages. Those are for
operators: they may cost more, and their thread begins when the daemon serves already.
"""

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from kbe_nat.errors import SettingError
from kbe_nat.kubeproxy.bind_address import BindAddress
from kbe_nat.model import join_address
from kbe_nat.server.health_page import HealthPages
from kbe_nat.server.listening import Listening, listening_error
from kbe_nat.server.on_demand import ThreadOnDemand
from kbe_nat.server.site import Site

if TYPE_CHECKING:
    # aiohttp takes 17 MB and a quarter of a second, which a daemon without pages does not need, and
    # others not before they serve.
    from kbe_nat.server.pages import PagesThread


class NodeServer:
    """Both servers, at the addresses that are set."""

    def __init__(
        self,
        addresses: tuple[BindAddress | None, BindAddress | None],
        health: HealthPages,
        site: Callable[[], Site],
        thread: ThreadOnDemand,
        *,
        fails_hard: bool,
    ) -> None:
        """`addresses` are those of health and of the pages; None: nowhere. `thread` answers for
        health. `site` is asked for when the pages' thread begins.
        """
        self._site = site
        self._thread: PagesThread | None = None
        self._fails_hard = fails_hard

        def serve_health(listener: socket.socket) -> Callable[[], object]:
            server = thread.get().listen(listener, health.respond)
            return lambda: thread.get().stop(server)

        def serve_pages(listener: socket.socket) -> Callable[[], object]:
            answering = self._pages_thread()
            server = answering.listen(listener)
            return lambda: answering.stop(server)

        health_end, metrics_end = addresses
        self._health = Listening("health", health_end, serve_health)
        self._metrics = Listening("metrics", metrics_end, serve_pages)

    def start_health(self) -> None:
        """Answer for health. Raises `SettingError` when a port is taken, of the pages too, where
        that is hard.
        """
        if self._fails_hard:
            _bind(HEALTH_FLAG, self._health)
            _bind(METRICS_FLAG, self._metrics)
        self._health.retry()

    def start_pages(self) -> None:
        """Answer with the pages."""
        self._metrics.retry()

    def move(self, health: BindAddress | None, metrics: BindAddress | None) -> None:
        """Answer at other addresses, once both servers have started. An address that is taken is
        tried again, and answers go on where they were.
        """
        self._health.move(health)
        self._metrics.move(metrics)

    def retry(self) -> None:
        """Try again where something else had the port."""
        self.start_pages()
        self._health.retry()

    def close(self) -> None:
        """End the pages' thread, and give back what nobody answers at yet."""
        self._health.close()
        self._metrics.close()
        if self._thread is not None:
            self._thread.close()

    def _pages_thread(self) -> "PagesThread":
        from kbe_nat.server.pages import PagesThread

        self._thread = self._thread or PagesThread(self._site())
        return self._thread


def _bind(flag: str, listening: Listening) -> None:
    try:
        listening.bind()
    except OSError as error:
        assert listening.end is not None
        reason = f"{join_address(*listening.end)}: {listening_error(error)}"
        raise SettingError(flag, f"{reason} (--bind-address-hard-fail)") from None


HEALTH_FLAG: Final = "--healthz-bind-address"
METRICS_FLAG: Final = "--metrics-bind-address"
