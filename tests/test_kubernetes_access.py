"""How the API server is reached, and as whom: proxies, addresses, kubeconfigs, plugins and files
that change under us.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml

from cluster.connect_proxy import ConnectProxy
from cluster.follower import Follower, following
from cluster.objects import endpoint_slice, node, service
from cluster.server import Certificates, LiveServer
from harness.waiting import eventually
from kbe_nat.errors import FileError
from kbe_nat.sources.kubernetes import plugins, requests
from kbe_nat.sources.kubernetes.access import read_kubeconfig
from kbe_nat.sources.kubernetes.proxies import environment_proxy


@pytest.fixture
def server() -> Iterator[LiveServer]:
    with LiveServer() as live:
        filled(live)
        yield live


def filled(server: LiveServer) -> None:
    server.api.objects.put(node("node-1"), service("a"), endpoint_slice("a", ["10.1.0.1"]))


def reason(follower: Follower) -> str:
    """Why the watches fail, once all of them have."""
    assert follower.source.read() is None
    eventually(lambda: all(each.reason for each in follower.source.watches()))
    return " ".join({each.reason for each in follower.source.watches()})


@pytest.mark.parametrize("user", ["", "name:pass%21"], ids=["open", "password"])
@pytest.mark.parametrize("is_tls", [False, True], ids=["http", "https"])
def test_a_proxy_opens_tunnels(server: LiveServer, tmp_path: Path, user: str, is_tls: bool) -> None:
    context = server.certificates.server_context(asks_client=False) if is_tls else None
    with ConnectProxy(user.replace("%21", "!"), context) as proxy:
        who = f"{user}@" if user else ""
        url = f"http{'s' if is_tls else ''}://{who}127.0.0.1:{proxy.port}"
        kubeconfig = proxied(server, tmp_path, url)
        with following(kubeconfig) as follower:
            follower.until("a")
            server.api.objects.put(service("b", "172.30.0.11"))
            follower.until("a", "b")
        assert set(proxy.tunnels) == {f"127.0.0.1:{server.port}"}
        assert len(proxy.tunnels) >= 3


def test_a_proxy_that_refuses_is_named_without_the_password(
    server: LiveServer, tmp_path: Path
) -> None:
    with ConnectProxy("name:other") as proxy:
        url = f"http://name:secret@127.0.0.1:{proxy.port}"
        kubeconfig = proxied(server, tmp_path, url)
        with following(kubeconfig) as follower:
            words = reason(follower)
        assert proxy.refusals
    assert "the proxy answers 407" in words and "secret" not in words


def test_f104_a_proxy_that_is_silent_does_not_hold_a_list_for_ever(
    server: LiveServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "LIST_SECONDS", 0.2)
    monkeypatch.setattr("kbe_nat.sources.kubernetes.reflector.FIRST_OBJECT_SECONDS", 0.2)
    with ConnectProxy(is_silent=True) as proxy:
        url = f"http://127.0.0.1:{proxy.port}"
        kubeconfig = proxied(server, tmp_path, url)
        with following(kubeconfig) as follower:
            assert reason(follower) == "the server does not answer"
            # A WatchList that was not answered, then a LIST that was not.
            source = follower.source
            eventually(lambda: all(state.failures > 1 for state in source.watches()))


def proxied(server: LiveServer, tmp_path: Path, url: str) -> Path:
    """A kubeconfig that names a proxy."""
    cluster: dict[str, Any] = {"proxy-url": url}
    return server.kubeconfig(tmp_path / "config", **cluster)


PROXY = "http://proxy:3128"


@pytest.mark.parametrize(
    ("server_url", "exceptions", "is_direct"),
    [
        ("https://k8s.corp:6443", "", False),
        ("https://k8s.corp:6443", "*", True),
        ("https://k8s.corp:6443", "corp", True),
        ("https://k8s.corp:6443", ".corp", True),
        ("https://k8s.corp:6443", "*.corp", True),
        ("https://corp:6443", ".corp", False),
        ("https://K8S.Corp:6443", " other , CORP ", True),
        ("https://k8s.corp.:6443", "k8s.corp", True),
        ("https://k8s.corp:6443", "8s.corp", False),
        ("https://k8s.corp:6443", "k8s.corp:6443", True),
        ("https://k8s.corp:6443", "k8s.corp:443", False),
        ("https://k8s.corp", "k8s.corp:443", True),
        ("https://10.1.2.3:6443", "10.0.0.0/8,.svc", True),
        ("https://10.1.2.3:6443", "11.0.0.0/8", False),
        ("https://10.1.2.3:6443", "10.1.2.3", True),
        ("https://10.1.2.3:6443", "10.1.2.3:6443", True),
        ("https://10.1.2.3:6443", "10.1.2.3:1", False),
        ("https://[fd00::1]:6443", "fd00::/8", True),
        ("https://[fd00::1]:6443", "fd00::1", True),
        ("https://[fd00::1]:6443", "[fd00::1]:6443", True),
        ("https://[fd00::1]:6443", "[fd00::1]:1", False),
        ("https://[fd00::1]:6443", "10.0.0.0/8,nonsense/99,,", False),
        ("https://127.0.0.2:6443", "", True),
        ("https://[::1]:6443", "", True),
        ("https://localhost:6443", "", True),
    ],
)
def test_the_environment_says_what_no_proxy_is_asked_for(
    server_url: str, exceptions: str, is_direct: bool
) -> None:
    expected = "" if is_direct else PROXY
    for proxy, none in (("HTTPS_PROXY", "NO_PROXY"), ("https_proxy", "no_proxy")):
        environment = {proxy: PROXY, none: exceptions}
        assert environment_proxy(server_url, environment) == expected
    assert not environment_proxy(server_url, {})


def test_a_proxy_of_the_environment_may_have_no_scheme() -> None:
    environment = {"HTTPS_PROXY": "proxy:3128", "https_proxy": "http://small:1"}
    assert environment_proxy("https://k8s.corp", environment) == "http://proxy:3128"
    assert environment_proxy("http://k8s.corp", environment) == ""


def test_a_server_with_an_ipv6_address(tmp_path: Path) -> None:
    certificates = Certificates()
    with LiveServer(certificates=certificates, address="::1") as server:
        filled(server)
        kubeconfig = server.kubeconfig(tmp_path / "config")
        assert f"https://[::1]:{server.port}" in kubeconfig.read_text()
        with following(kubeconfig) as follower:
            follower.until("a")


class Addresses:
    """What a name stands for, in the place of the system's resolver."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
        self.addresses = [*addresses]
        self.asked = 0
        self._real = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self._answer)

    def _answer(self, host: str, port: int, *more: Any, **named: Any) -> list[Any]:
        if host != "k8s.test":
            return self._real(host, port, *more, **named)
        self.asked += 1
        return [
            (family, socket.SOCK_STREAM, 6, "", (address, port, *rest))
            for address in self.addresses
            for family, rest in [
                (socket.AF_INET6, (0, 0)) if ":" in address else (socket.AF_INET, ())
            ]
        ]


def named(server: LiveServer, path: Path) -> Path:
    """A kubeconfig that names the server k8s.test."""
    return server.kubeconfig(path, server=f"https://k8s.test:{server.port}")


def test_every_address_of_the_name_is_tried_at_each_connect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificates = Certificates()
    # Nothing listens at the others: one refuses, one leads nowhere.
    addresses = Addresses(monkeypatch, "127.0.0.9", "::1", "240.0.0.1", "127.0.0.1")
    with LiveServer(certificates=certificates) as server:
        server.context = certificates.server_context("k8s.test")
        server.kill()
        server.start()
        filled(server)
        with following(named(server, tmp_path / "config")) as follower:
            follower.until("a")
            before = addresses.asked
            addresses.addresses = ["127.0.0.9"]
            server.kill()
            source = follower.source
            eventually(lambda: any(each.failures > 1 for each in source.watches()))
            addresses.addresses = ["127.0.0.1"]
            server.api.objects.put(service("b", "172.30.0.11"))
            server.start()
            follower.until("a", "b")
            assert addresses.asked > before


SLOW_NAMES = """
import socket, sys, time
from pathlib import Path
from cluster.follower import following
socket.getaddrinfo = lambda *_, **__: time.sleep(600)
with following(Path(sys.argv[1])) as follower:
    follower.source.read()
    while not any("does not answer" in each.reason for each in follower.source.watches()):
        time.sleep(0.05)
"""


def test_a_name_that_is_never_answered_holds_up_no_exit(tmp_path: Path) -> None:
    with LiveServer() as server:
        kubeconfig = server.kubeconfig(tmp_path / "config", server="https://k8s.test:6443")
    # The tests, and the package as this process has it.
    places = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", SLOW_NAMES, kubeconfig],
        env={**os.environ, "PYTHONPATH": places},
        timeout=120,
        check=False,
        capture_output=True,
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_an_address_that_hangs_is_not_the_first_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Less than by default, and enough for the other address on a busy machine.
    monkeypatch.setattr(requests, "LIST_SECONDS", 2.0)
    monkeypatch.setattr("kbe_nat.sources.kubernetes.reflector.FIRST_OBJECT_SECONDS", 2.0)
    certificates = Certificates()
    # Each connect draws one. Each time the pause after a failure grows, so most are good ones.
    Addresses(monkeypatch, "127.0.0.2", *["127.0.0.1"] * 7)
    with LiveServer(certificates=certificates) as server:
        server.context = certificates.server_context("k8s.test")
        server.kill()
        server.start()
        filled(server)
        # It speaks TLS, and then nothing.
        place = "127.0.0.2", server.port
        with (
            ConnectProxy(context=server.context, is_silent=True, address=place),
            following(named(server, tmp_path / "config")) as follower,
        ):
            follower.until("a")


@pytest.mark.parametrize(
    ("cluster", "user", "complaint"),
    [
        ({"proxy-url": "socks5://p:1"}, {}, "proxy-url: 'socks5' is no scheme of a proxy"),
        ({"proxy-url": "proxy:3128"}, {}, "proxy-url: it is no URL of an HTTP proxy"),
        ({"proxy-url": "http://u:secret@:1"}, {}, "proxy-url: it is no URL of an HTTP proxy"),
        ({"server": "https://u:secret@h"}, {}, "server: a URL with a user is not supported"),
        ({"server": "https://h/?x=y"}, {}, "has more than an address and a path"),
        ({"server": "https://a b"}, {}, "is no URL of a server"),
        ({"server": "https://[::1"}, {}, "is no URL of a server"),
        ({"server": "https://h:99999"}, {}, "is no URL of a server"),
        ({"server": "ftp://h"}, {}, "is no URL of a server"),
        ({}, {"token": "a\nb"}, "users: token: it has characters that no token has"),
        ({}, {"token": "ü"}, "users: token: it has characters that no token has"),
        ({}, {"as": "root"}, "users: kbe-nat asks as itself"),
        ({}, {"as-groups": ["system:masters"]}, "users: kbe-nat asks as itself"),
    ],
)
def test_a_kubeconfig_that_cannot_be_followed_is_refused(
    server: LiveServer,
    tmp_path: Path,
    cluster: dict[str, Any],
    user: dict[str, Any],
    complaint: str,
) -> None:
    path = server.kubeconfig(tmp_path / "config", {"token": "sound", **user}, **cluster)
    with pytest.raises(FileError) as raised:
        read_kubeconfig(path)
    assert complaint in str(raised.value)
    assert "\n" not in str(raised.value) and "secret" not in str(raised.value)


def test_a_name_that_is_there_twice_is_refused(server: LiveServer, tmp_path: Path) -> None:
    path = server.kubeconfig(tmp_path / "config")
    document = yaml.safe_load(path.read_text())
    document["users"] *= 2
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(FileError, match="users: there are several named 'u'"):
        read_kubeconfig(path)


def test_answers_are_not_compressed_where_the_kubeconfig_says_so(
    server: LiveServer, tmp_path: Path
) -> None:
    server.api.has_watch_list = False
    cluster: dict[str, Any] = {"disable-compression": True}
    kubeconfig = server.kubeconfig(tmp_path / "config", **cluster)
    with following(kubeconfig) as follower:
        follower.until("a")
    encodings = {each.headers.get("Accept-Encoding") for each in server.api.requests}
    assert encodings == {"identity"}


def plugged(server: LiveServer, tmp_path: Path, script: str, **more: Any) -> Path:
    """A kubeconfig whose plugin is a shell script."""
    plugin = tmp_path / "plugin"
    plugin.write_text(f"#!/bin/sh\n{script}\n")
    plugin.chmod(0o755)
    version = "client.authentication.k8s.io/v1"
    user = {"exec": {"apiVersion": version, "command": "./plugin", **more}}
    return server.kubeconfig(tmp_path / "config", user)


def credential(**status: str) -> str:
    """A script that prints an ExecCredential."""
    fields = ",".join(f'"{name}":"{text}"' for name, text in status.items())
    version = "client.authentication.k8s.io/v1"
    return f"""printf '%s' '{{"apiVersion":"{version}","status":{{{fields}}}}}'"""


NESTED = "[" * 5000
ENDLESS = "while :; do printf '%01000d' 1; done"


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        (ENDLESS, "it prints more than 1048576 bytes"),
        (f"({ENDLESS}) >&2", "no answer in 1 s"),
        ("sleep 600", "no answer in 1 s"),
        # The child holds the pipe, and the plugin itself is gone.
        (f"sleep 600 & {credential(token='sound')}", "no answer in 1 s"),
        ("trap '' TERM INT HUP; while :; do sleep 1; done", "no answer in 1 s"),
        ("exit 3", "it ended with 3, and said nothing"),
        ("echo sorry >&2; kill -9 $$", "it ended with -9: sorry"),
        (f"echo {'abc ' * 90} >&2; exit 1", f"it ended with 1: {' '.join(['abc'] * 49)}"),
        ("echo no", "it gave no ExecCredential"),
        (f"printf '%s' '{NESTED}'", "it gave no ExecCredential"),
        (credential(), "it gave neither a token nor a certificate"),
        (credential(token="a\\nb"), "its token has characters that no token has"),
        (credential(token="t", expirationTimestamp="soon"), "it gave no ExecCredential"),
        (
            credential(clientCertificateData="x", clientKeyData="y"),
            "certificates cannot be used",
        ),
    ],
)
def test_a_plugin_that_misbehaves_is_one_line(
    server: LiveServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    script: str,
    complaint: str,
) -> None:
    # Those that answer have time to start on a busy machine.
    monkeypatch.setattr(plugins, "PLUGIN_SECONDS", 1.0 if "no answer" in complaint else 30.0)
    with following(plugged(server, tmp_path, f"echo $$ >> {tmp_path}/pids\n{script}")) as follower:
        words = reason(follower)
        assert complaint in words and "\n" not in words
        first, *_ = (tmp_path / "pids").read_text().split()
        # Nothing of it is left, its children neither.
        eventually(lambda: not is_alive(int(first)))


def is_alive(group: int) -> bool:
    """Whether a process of a group runs."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            _, _, rest = path.read_text().rpartition(")")
        except OSError:
            continue
        state, _, its_group, *_ = rest.split()
        if int(its_group) == group and state != "Z":
            return True
    return False


@pytest.mark.parametrize(
    ("plugin", "complaint"),
    [
        ({"command": "./none"}, "none: No such file or directory; get it from us"),
        ({"command": "a\0b"}, "embedded null byte"),
        ({"args": ["\0"]}, "embedded null byte"),
        ({"env": [{"name": "a=b", "value": "c"}]}, "illegal environment variable name"),
        ({"env": [{"name": "x", "value": "y" * 200_000}]}, "Argument list too long"),
    ],
)
def test_a_plugin_that_cannot_run_is_one_line(
    server: LiveServer, tmp_path: Path, plugin: dict[str, Any], complaint: str
) -> None:
    kubeconfig = plugged(server, tmp_path, "", installHint="get it\nfrom us", **plugin)
    with following(kubeconfig) as follower:
        assert complaint in reason(follower)


def test_a_plugin_wants_the_cluster_whose_authority_is_gone(
    server: LiveServer, tmp_path: Path
) -> None:
    kubeconfig = plugged(server, tmp_path, credential(token="sound"), provideClusterInfo=True)
    authority = (tmp_path / "config.ca").rename(tmp_path / "away")
    with following(kubeconfig) as follower:
        assert "config.ca: No such file or directory" in reason(follower)
        authority.rename(tmp_path / "config.ca")
        follower.until("a")


def test_one_run_of_a_plugin_serves_all_watches(server: LiveServer, tmp_path: Path) -> None:
    script = f"echo x >> {tmp_path}/runs; sleep 0.5; {credential(token='sound')}"
    with following(plugged(server, tmp_path, script)) as follower:
        follower.until("a")
        assert (tmp_path / "runs").read_text() == "x\n"


def test_a_slow_plugin_outlives_the_request_that_waits_for_it(
    server: LiveServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kbe_nat.sources.kubernetes.reflector.FIRST_OBJECT_SECONDS", 0.3)
    script = f"echo x >> {tmp_path}/runs; sleep 1; {credential(token='sound')}"
    with following(plugged(server, tmp_path, script)) as follower:
        follower.until("a")
        assert any(state.failures for state in follower.source.watches())
        assert (tmp_path / "runs").read_text() == "x\n"


def issued(authority: trustme.CA, ends: timedelta) -> tuple[bytes, bytes]:
    """A client's certificate that ends then, and its key."""
    certificate = authority.issue_cert(
        "proxy@cluster",
        common_name="system:kube-proxy",
        not_before=datetime.now(UTC) - timedelta(days=2),
        not_after=datetime.now(UTC) + ends,
    )
    chain = b"".join(pem.bytes() for pem in certificate.cert_chain_pems)
    return chain, certificate.private_key_pem.bytes()


def test_a_clients_certificate_that_ends_is_read_again(server: LiveServer, tmp_path: Path) -> None:
    certificate, key = tmp_path / "crt", tmp_path / "key"
    authority = server.certificates.authority

    def write(ends: timedelta) -> None:
        for path, content in zip((certificate, key), issued(authority, ends), strict=True):
            path.write_bytes(content)

    write(timedelta(days=1))
    user = {"client-certificate": "crt", "client-key": "key"}
    with following(server.kubeconfig(tmp_path / "config", user)) as follower:
        follower.until("a")
        server.ahead = timedelta(days=2)
        server.kill()
        server.api.objects.put(service("b", "172.30.0.11"))
        server.start()
        eventually(
            lambda: (
                all("401" in each.reason for each in follower.source.watches())
                and follower.names() == ["a"]
            )
        )
        write(timedelta(days=3))
        follower.until("a", "b")
        eventually(follower.is_in_step)


def test_a_rotated_authority_is_read_again(server: LiveServer, tmp_path: Path) -> None:
    with following(server.kubeconfig(tmp_path / "config")) as follower:
        follower.until("a")
        server.kill()
        old, new = server.certificates, Certificates()
        server.context = new.server_context()
        server.api.objects.put(service("b", "172.30.0.11"))
        server.start()
        eventually(lambda: all("certificate" in each.reason for each in follower.source.watches()))
        assert follower.names() == ["a"]
        # While it is rotated the file is gone, then cut, then a bundle of both.
        bundle = tmp_path / "config.ca"
        bundle.unlink()
        eventually(lambda: any("config.ca" in each.reason for each in follower.source.watches()))
        bundle.write_bytes(new.pem[:100])
        eventually(
            lambda: any("cannot be used" in each.reason for each in follower.source.watches())
        )
        bundle.write_bytes(old.pem + new.pem)
        follower.until("a", "b")
