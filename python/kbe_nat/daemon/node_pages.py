"""The daemon's pages for operators: kube-proxy's paths, and its forms where programs read them."""

import platform
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import msgspec

from kbe_nat import __version__
from kbe_nat.control.controller import Controller
from kbe_nat.daemon.live_settings import LiveSettings
from kbe_nat.daemon.rows import StatusRow
from kbe_nat.kubeproxy.bind_address import BindAddress
from kbe_nat.kubeproxy.effective import complete
from kbe_nat.model import join_address
from kbe_nat.server.answer import JSON_HEADERS, TEXT_HEADERS, Answer
from kbe_nat.server.site import Page, Site

if TYPE_CHECKING:
    from kbe_nat.daemon.node_metrics import NodeMetrics


class NodePages:
    """One method per page, for any thread."""

    def __init__(
        self,
        live: LiveSettings,
        flags: Mapping[str, str],
        controller: Controller,
        status: Callable[[], StatusRow],
        new_metrics: "Callable[[], NodeMetrics]",
    ) -> None:
        """`flags` are those of the command line with their values; `new_metrics` is called when
        they are wanted.
        """
        self._live = live
        self._flags = flags
        self._controller = controller
        self._status = status
        self._new_metrics = new_metrics
        self._node_metrics: NodeMetrics | None = None
        self._started = time.time()

    def site(self) -> Site:
        """All that is answered at the metrics address."""
        from kbe_nat.daemon.live.page import LivePage

        page = LivePage(self._controller, self._status)
        return Site(
            pages=self._pages(),
            documents={"/": page.document},
            forms={"/explain": page.explain},
            feeds={"/live": page.stream},
            names=self._names,
        )

    def _names(self) -> frozenset[str]:
        """The names of this machine, without a resolver: it may take half a minute to say nothing.
        The Node's may come later than the pages.
        """
        host = socket.gethostname()
        names = {host, host.partition(".")[0], self._controller.plan.options.node}
        return frozenset(name.lower() for name in names if name)

    def _pages(self) -> Mapping[str, Page]:
        return {
            "/configz": self.configz,
            "/flagz": self.flagz,
            "/healthz": self.healthz,
            "/metrics": self.metrics,
            "/proxyMode": self.proxy_mode,
            "/statusz": self.statusz,
        }

    def healthz(self) -> Answer:
        """The process answers; :10256 says whether it serves."""
        return _text("ok")

    def proxy_mode(self) -> Answer:
        """kube-proxy's mode that is followed."""
        return _text(str(self._controller.plan.options.mode))

    def metrics(self) -> Answer:
        """See docs/metrics.md."""
        self._node_metrics = self._node_metrics or self._new_metrics()
        media_type, content = self._node_metrics.exposition()
        started = {"Process-Start-Time-Unix": str(int(self._started))}
        return 200, {"Content-Type": media_type, **started}, content

    def configz(self) -> Answer:
        """The configuration in force."""
        options, settings = self._controller.plan.options, self._live.settings
        file = settings.configuration
        effective = msgspec.structs.replace(
            complete(file),
            kbe_nat={},
            mode=str(options.mode),
            cluster_cidr=",".join(options.cluster_ranges),
            node_port_addresses=options.node_port_addresses,
            hostname_override=options.node,
            healthz_bind_address=_end_text(settings.servers.health_address(file)),
            metrics_bind_address=_end_text(settings.servers.metrics_address(file)),
            bind_address_hard_fail=settings.servers.fails_hard(file),
        )
        parts = msgspec.to_builtins(asdict(settings), enc_hook=str)
        del parts["configuration"]
        content = {"kubeproxy.config.k8s.io": effective, "kbeNat": parts}
        return 200, JSON_HEADERS, msgspec.json.encode(content)

    def flagz(self) -> Answer:
        """Every flag with its value; of those that the file and defaults decide too, the effect."""
        file, servers = self._live.settings.configuration, self._live.settings.servers
        flags = {
            **self._flags,
            "healthz-bind-address": _end_text(servers.health_address(file)),
            "metrics-bind-address": _end_text(servers.metrics_address(file)),
            "bind-address-hard-fail": flag_text(servers.fails_hard(file)),
        }
        return _debug("flagz", [f"{name}={text}" for name, text in sorted(flags.items())])

    def statusz(self) -> Answer:
        """Since when this process runs, and which version it is."""
        up = int(time.time() - self._started)
        others = sorted(path for path in ("/", *self._pages()) if path != "/statusz")
        started = time.strftime("%a %b %d %H:%M:%S UTC %Y", time.gmtime(self._started))
        lines = {
            "Started": started,
            "Up": f"{up // 3600} hr {up // 60 % 60:02} min {up % 60:02} sec",
            "Python version": platform.python_version(),
            "Binary version": __version__,
            "Paths": " ".join(others),
        }
        return _debug("statusz", ["", *(f"{name}  {text}" for name, text in lines.items())])


def _text(content: str) -> Answer:
    return 200, TEXT_HEADERS, content.encode()


def _debug(page: str, lines: list[str]) -> Answer:
    """A page for people, whose head is as those of Kubernetes' components."""
    return _text("\n".join(("", f"kbe-nat {page}", WARNING, *lines, "")))


def _end_text(end: BindAddress | None) -> str:
    return join_address(*end) if end else ""


def flag_text(value: Any) -> str:  # noqa: ANN401
    """The value of a flag as one word."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return ",".join(map(flag_text, value))
    return "" if value is None else str(value)


WARNING: Final = "Warning: this page is for people, and its form may change with each version."
