"""Programs that tests run in processes and namespaces beside them. Each is called by its path."""

from pathlib import Path
from typing import Final

_FOLDER: Final = Path(__file__).parent
CONFINED: Final = _FOLDER / "confined.py"
CONNECTION_FLOOD: Final = _FOLDER / "connection_flood.py"
DATAGRAM_FLOOD: Final = _FOLDER / "datagram_flood.py"
FAILING_QUEUE: Final = _FOLDER / "failing_queue.py"
FULL_CONTROL_SOCKET: Final = _FOLDER / "full_control_socket.py"
HANGING_QUEUE: Final = _FOLDER / "hanging_queue.py"
KEPT_FLOWS: Final = _FOLDER / "kept_flows.py"
LOGGER: Final = _FOLDER / "logger.py"
MUTE_SERVER: Final = _FOLDER / "mute_server.py"
NAMED_POD: Final = _FOLDER / "named_pod.py"
NEW_FLOWS: Final = _FOLDER / "new_flows.py"
NODE_CACHE: Final = _FOLDER / "node_cache.py"
PEER_TELLER: Final = _FOLDER / "peer_teller.py"
QUEUE_COUNTERS: Final = _FOLDER / "queue_counters.py"
SHA256_SINK: Final = _FOLDER / "sha256_sink.py"
SHORT_CLIENT: Final = _FOLDER / "short_client.py"
SHORT_LOAD: Final = _FOLDER / "short_load.py"
SHORT_SERVER: Final = _FOLDER / "short_server.py"
SQUATTER: Final = _FOLDER / "squatter.py"
STATUS_CLIENT: Final = _FOLDER / "status_client.py"
STEADY_LOAD: Final = _FOLDER / "steady_load.py"
TCP_ECHO: Final = _FOLDER / "tcp_echo.py"
UDP_ECHO: Final = _FOLDER / "udp_echo.py"
