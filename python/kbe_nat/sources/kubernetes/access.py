"""Where the API server is and who asks: from a kubeconfig, from a Pod's service account, or from a
bare address.

A kubeconfig is read as client-go reads it: the current context, paths relative to the file. Fields
that decide nothing here are passed over. Errors name the file and the field.
"""

import base64
import binascii
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import urlsplit

from msgspec import Struct, field

from kbe_nat.errors import FileError, SettingError
from kbe_nat.sources.manifests.documents import document

_T = TypeVar("_T", bound="_Named")


@dataclass(frozen=True, slots=True)
class Exec:
    """A credential plugin."""

    version: str
    command: str
    arguments: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    hint: str = ""
    """How the plugin is installed, for people."""
    has_cluster_info: bool = False
    """Whether the plugin wants to know the cluster."""


@dataclass(frozen=True, slots=True)
class Pem:
    """A certificate or a key: its bytes, or the file that has them now."""

    data: bytes = b""
    path: Path | None = None

    def __bool__(self) -> bool:
        return bool(self.data or self.path)


@dataclass(frozen=True, slots=True)
class Access:
    """Where and as whom to ask."""

    server: str
    """The URL; a path of it is kept."""
    authority: Pem = Pem()
    """CAs of the server's certificate; without any those of the system."""
    is_insecure: bool = False
    server_name: str = ""
    """In the server's certificate, where that is not the name in the URL."""
    proxy: str = ""
    """URL of an HTTP proxy; without one the environment says it."""
    certificate: Pem = Pem()
    key: Pem = Pem()
    token: str = ""
    token_file: Path | None = None
    plugin: Exec | None = None
    is_uncompressed: bool = False
    """Whether answers are asked for without gzip."""


def read_kubeconfig(path: Path, server: str = "") -> Access:
    """The access that the current context of a kubeconfig gives; `server` takes the place of its
    server. Raises `FileError`.
    """
    config = document(path, _Config)
    if not config.current:
        raise FileError(f"{path}: current-context: it is not set")
    context = _find(path, "contexts", config.contexts or (), config.current).context
    cluster = _find(path, "clusters", config.clusters or (), context.cluster).cluster
    user = _User()
    if context.user:
        user = _find(path, "users", config.users or (), context.user).user
    if user.provider is not None:
        raise FileError(f"{path}: users: auth-provider is not supported; use exec")
    if user.username or user.password:
        raise FileError(f"{path}: users: API servers take no passwords any more; use a token")
    if user.impersonates:
        raise FileError(
            f"{path}: users: kbe-nat asks as itself; as, as-uid, as-groups and"
            " as-user-extra are not supported"
        )
    if not is_token(user.token):
        raise FileError(f"{path}: users: token: it has characters that no token has")
    access = Access(
        server=_checked_server(f"{path}: clusters: server", server or cluster.server),
        authority=_pem(path, cluster.authority, cluster.authority_data),
        is_insecure=cluster.is_insecure,
        server_name=cluster.server_name,
        proxy=_checked_proxy(path, cluster.proxy),
        certificate=_pem(path, user.certificate, user.certificate_data),
        key=_pem(path, user.key, user.key_data),
        token=user.token,
        token_file=_relative(path, user.token_file) if user.token_file else None,
        plugin=_plugin(path, user.plugin) if user.plugin else None,
        is_uncompressed=cluster.is_uncompressed,
    )
    if bool(access.certificate) != bool(access.key):
        raise FileError(f"{path}: users: client-certificate and client-key go together")
    return access


def read_service_account(server: str = "", directory: Path | None = None) -> Access:
    """The access of this Pod. Raises `FileError` outside of a cluster."""
    directory = directory or SERVICE_ACCOUNT
    host = os.environ.get("KUBERNETES_SERVICE_HOST", "")
    port = os.environ.get("KUBERNETES_SERVICE_PORT", "")
    if not server:
        if not host or not port:
            raise FileError("KUBERNETES_SERVICE_HOST: it is not set: this is no Pod")
        server = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
    for name in ("token", "ca.crt"):
        if not (directory / name).exists():
            raise FileError(f"{directory / name}: there is no such file")
    return Access(
        server=_checked_server("KUBERNETES_SERVICE_HOST", server),
        authority=Pem(path=directory / "ca.crt"),
        token_file=directory / "token",
    )


def is_token(text: str) -> bool:
    """Whether a header can carry it; the empty text is one."""
    return text.isascii() and text.isprintable()


def is_in_cluster() -> bool:
    """Whether this process is in a Pod with a service account."""
    return bool(os.environ.get("KUBERNETES_SERVICE_HOST")) and (SERVICE_ACCOUNT / "token").exists()


def find_access(kubeconfig: Path | None, server: str) -> Access:
    """The access by the flags --kubeconfig and --master; without both, that of this Pod. Raises
    `FileError`, `SettingError`.
    """
    if kubeconfig is not None:
        return read_kubeconfig(kubeconfig, server)
    if not server:
        return read_service_account()
    try:
        checked = _checked_server("--master", server)
    except FileError as error:
        raise SettingError("--master", str(error).removeprefix("--master: ")) from None
    # In a Pod the address is another one, the credentials are the Pod's.
    return read_service_account(checked) if is_in_cluster() else Access(checked)


class _Named(Struct):
    name: str


class _Context(Struct):
    cluster: str
    user: str = ""


class _NamedContext(_Named):
    context: _Context


class _Cluster(Struct):
    server: str = ""
    authority: str = field(name="certificate-authority", default="")
    authority_data: str = field(name="certificate-authority-data", default="")
    is_insecure: bool = field(name="insecure-skip-tls-verify", default=False)
    server_name: str = field(name="tls-server-name", default="")
    proxy: str = field(name="proxy-url", default="")
    is_uncompressed: bool = field(name="disable-compression", default=False)


class _NamedCluster(_Named):
    cluster: _Cluster


class _Variable(Struct):
    name: str
    value: str = ""


class _Exec(Struct):
    command: str
    version: str = field(name="apiVersion", default="")
    arguments: tuple[str, ...] | None = field(name="args", default=None)
    environment: tuple[_Variable, ...] | None = field(name="env", default=None)
    hint: str = field(name="installHint", default="")
    has_cluster_info: bool = field(name="provideClusterInfo", default=False)


class _User(Struct):
    certificate: str = field(name="client-certificate", default="")
    certificate_data: str = field(name="client-certificate-data", default="")
    key: str = field(name="client-key", default="")
    key_data: str = field(name="client-key-data", default="")
    token: str = ""
    token_file: str = field(name="tokenFile", default="")
    username: str = ""
    password: str = ""
    plugin: _Exec | None = field(name="exec", default=None)
    provider: dict[str, object] | None = field(name="auth-provider", default=None)
    other_name: str = field(name="as", default="")
    other_id: str = field(name="as-uid", default="")
    other_groups: tuple[str, ...] | None = field(name="as-groups", default=None)
    other_extra: dict[str, object] | None = field(name="as-user-extra", default=None)

    @property
    def impersonates(self) -> bool:
        """Whether requests are to be made as somebody else."""
        return any((self.other_name, self.other_id, self.other_groups, self.other_extra))


class _NamedUser(_Named):
    user: _User = field(default_factory=_User)


class _Config(Struct):
    """A kubeconfig."""

    current: str = field(name="current-context", default="")
    clusters: tuple[_NamedCluster, ...] | None = None
    contexts: tuple[_NamedContext, ...] | None = None
    users: tuple[_NamedUser, ...] | None = None


def _find(path: Path, place: str, entries: tuple[_T, ...], name: str) -> _T:
    matches = [entry for entry in entries if entry.name == name]
    if len(matches) != 1:
        count = "there are several" if matches else "there is none"
        raise FileError(f"{path}: {place}: {count} named {name!r}")
    return matches[0]


def _pem(path: Path, file: str, data: str) -> Pem:
    """The data go before the file, as in client-go."""
    if data:
        try:
            return Pem(base64.b64decode(data, validate=True))
        except (binascii.Error, ValueError):
            raise FileError(f"{path}: certificate or key data are no base64") from None
    return Pem(path=_relative(path, file)) if file else Pem()


def _relative(path: Path, file: str) -> Path:
    return path.parent.absolute() / file


def _plugin(path: Path, plugin: _Exec) -> Exec:
    if plugin.version not in EXEC_VERSIONS:
        raise FileError(
            f"{path}: users: exec.apiVersion: {plugin.version!r} is none of"
            f" {', '.join(EXEC_VERSIONS)}"
        )
    command = plugin.command
    if "/" in command:
        command = str(_relative(path, command))
    variables = tuple((each.name, each.value) for each in plugin.environment or ())
    return Exec(
        plugin.version,
        command,
        plugin.arguments or (),
        variables,
        plugin.hint,
        plugin.has_cluster_info,
    )


def _checked_server(place: str, server: str) -> str:
    """A URL, as client-go completes it. Raises `FileError`."""
    if not server:
        raise FileError(f"{place}: it is not set")
    url = server if "://" in server else f"https://{server}"
    if not _is_url(url):
        raise FileError(f"{place}: {server[:200]!r} is no URL of a server")
    parts = urlsplit(url)
    if "@" in parts.netloc:
        # Not shown: what stands before the @ is a secret.
        raise FileError(f"{place}: a URL with a user is not supported; use a token")
    if parts.query or parts.fragment:
        raise FileError(f"{place}: {server[:200]!r} has more than an address and a path")
    return url.rstrip("/")


def _checked_proxy(path: Path, proxy: str) -> str:
    """The URL of an HTTP proxy, or nothing. Raises `FileError`, without what may be a password."""
    if proxy and not _is_url(proxy):
        scheme = proxy.partition("://")[0] if "://" in proxy else ""
        reason = (
            f"{scheme[:20]!r} is no scheme of a proxy; use http or https"
            if scheme not in ("", "http", "https")
            else "it is no URL of an HTTP proxy"
        )
        raise FileError(f"{path}: clusters: proxy-url: {reason}")
    return proxy


def _is_url(url: str) -> bool:
    """Whether it names a host to be asked by HTTP."""
    try:
        parts = urlsplit(url)
        is_sound = parts.scheme in ("https", "http") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return is_sound and url.isascii() and url.isprintable() and " " not in url


SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
EXEC_VERSIONS: Final = (
    "client.authentication.k8s.io/v1",
    "client.authentication.k8s.io/v1beta1",
)
